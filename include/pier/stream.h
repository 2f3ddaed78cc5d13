/* stream.h - handles and the operations on them: listening, accepting, connecting, receiving,
 * sending, closing.
 *
 * A handle has two directions. Ops of one direction run in the order submitted, one at a time in
 * the kernel; accept, receive and read are of the receiving direction, connect, send, write and
 * shutdown of the sending one. Functions that return void report through the op; functions that
 * return int report at once, with a line in pier_error_detail(). */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_STREAM_H
#define PIER_STREAM_H

#ifdef __cplusplus
extern "C" {
#endif

/* One piece of a vectored send. */
struct pier_vector {
    const void *data;
    size_t size;
};

/* Set-up of a listener. All zero means the default of each field. It may grow in later versions:
 * pier_listen() passes the size that the program knows. */
struct pier_listen_options {
    int backlog; /* connections waiting to be accepted; default 4096, cut by the system's own limit
                    (somaxconn) */
    bool no_reuse_address; /* POSIX: don't set SO_REUSEADDR. On Windows listeners always are
                              exclusive. */
    bool reuse_port;       /* SO_REUSEPORT: several listeners share the port and the system balances
                              between them */
    bool exclusive; /* the listening socket is shared with other loops or processes: wake one of
                     * them only, where the backend can (PIER_CAN_EXCLUSIVE) */
    bool ipv6_only; /* an IPv6 listener doesn't take IPv4 connections; by default it does (dual
                       stack) */
    bool delay; /* leave Nagle's algorithm on; by default accepted TCP sockets have TCP_NODELAY set
                 */
    bool unlink_path; /* remove a Unix-domain socket file left over at the path before binding, if
                         nobody listens on it; named pipes leave none */
};

/* Opens a listener as pier_listen() does, for a caller compiled with options of that size.
 * PIER_ENOTSUP also when one is set that the library doesn't know. */
PIER_API int pier_listen_for(struct pier_loop *loop, struct pier_handle *handle,
                             const struct pier_address *address,
                             const struct pier_listen_options *options, size_t options_size);

/* Opens a listening stream socket. `options` may be NULL. The IPv6 address for all, as in ":8080",
 * takes IPv4 connections too. Where one socket can't (there is no IPv6, or it's OpenBSD's, which is
 * kept apart) it stands for all IPv4 addresses: pier_local_address() tells which it was. Returns 0
 * or a negative PIER_E*: PIER_EADDRINUSE, PIER_EADDRNOTAVAIL, PIER_EACCES (a port below 1024, or a
 * directory, without the right), PIER_ENOENT (no such directory), PIER_EAFNOSUPPORT, PIER_EMFILE,
 * PIER_ENFILE, PIER_ENOMEM, PIER_EINVAL (an address that wasn't filled, a negative backlog),
 * PIER_ENOTSUP. */
PIER_INLINE int pier_listen(struct pier_loop *loop, struct pier_handle *handle,
                            const struct pier_address *address,
                            const struct pier_listen_options *options)
{
    return pier_listen_for(loop, handle, address, options, sizeof(struct pier_listen_options));
}

/* Opens an unconnected stream socket of the family of `address`, for pier_connect(). TCP sockets
 * have TCP_NODELAY set. Returns 0, PIER_EINVAL (an address that wasn't filled), PIER_EAFNOSUPPORT,
 * PIER_EMFILE, PIER_ENFILE or PIER_ENOMEM. */
PIER_API int pier_open_socket(struct pier_loop *loop, struct pier_handle *handle,
                              const struct pier_address *address);

/* Binds an unconnected socket to a local address, before pier_connect(). With port 0 the system
 * chooses the port: on Linux when the socket connects, so that one port can lead to many
 * destinations at once, and pier_local_address() says 0 until then (IP_BIND_ADDRESS_NO_PORT);
 * elsewhere now. Returns 0, PIER_EADDRINUSE, PIER_EADDRNOTAVAIL, PIER_EACCES, PIER_EAFNOSUPPORT (an
 * address of another family than the socket's), PIER_EINVAL (one that wasn't filled; a socket that
 * is bound already), PIER_ENOTSOCK (a pipe, a file), or PIER_ENOTSUP where a named pipe stands for
 * the socket (Windows). */
PIER_API int pier_bind(struct pier_handle *handle, const struct pier_address *address);

/* Takes over an open descriptor: a stream socket (also a listening one), pipe, FIFO, terminal,
 * character device or regular file; on Linux also an inotify, timer, signal or event descriptor,
 * from which a receive gets what read(2) gives: pier_receive_each() delivers it as it comes. From
 * success on pier closes it with the handle; after an error it is still the caller's. Its
 * O_NONBLOCK flag is left as it is, since others may share it. What an adopted TCP listener accepts
 * has TCP_NODELAY set, as what pier's own accept; if the listener itself hasn't, that takes a call
 * for each. pier_set_no_delay() of the listener, on or off, decides otherwise. Returns 0,
 * PIER_EBADF, PIER_ENOTSUP (a kind pier can't run), PIER_EINVAL (a datagram socket) or PIER_ENOMEM.
 * A number that already is an open handle of this loop is misuse. */
PIER_API int pier_adopt(struct pier_loop *loop, struct pier_handle *handle,
                        pier_descriptor descriptor);

/* Makes two connected stream sockets (Unix-domain; on Windows TCP over loopback), each to be closed
 * by itself. Returns 0, PIER_EMFILE, PIER_ENFILE or PIER_ENOMEM. */
PIER_API int pier_socket_pair(struct pier_loop *loop, struct pier_handle *a, struct pier_handle *b);

/* Makes a pipe: what is written to `write` comes out of `read`. Each is to be closed by itself.
 * Returns 0, PIER_EMFILE, PIER_ENFILE or PIER_ENOMEM. */
PIER_API int pier_pipe(struct pier_loop *loop, struct pier_handle *read, struct pier_handle *write);

/* The system's descriptor of a handle; it stays pier's. -1 when the handle isn't open. Where a
 * named pipe stands for a Unix-domain socket (Windows), connecting gives the handle another one. */
PIER_API pier_descriptor pier_handle_descriptor(const struct pier_handle *handle);

/* The loop of a handle, NULL when it is closed or detached. */
PIER_INLINE struct pier_loop *pier_handle_loop(const struct pier_handle *handle)
{
    return handle->loop_;
}

/* Takes a handle with nothing in flight off its loop. Returns 0, or PIER_EBUSY when an op is in
 * flight (also one whose completion is still to come) or it is closing. It may then move to another
 * thread and must be given to pier_attach() or pier_handle_discard(). In the callback of a lent
 * receive of one shot, keep the buffer before that if the data is still wanted: afterwards it can
 * neither be kept nor sent. */
PIER_API int pier_detach(struct pier_handle *handle);

/* Gives a detached handle to a loop. Returns 0, PIER_ENOMEM, or PIER_ENOTSUP where the system can't
 * move it (Windows before 8.1, Wine); on failure it stays detached. */
PIER_API int pier_attach(struct pier_handle *handle, struct pier_loop *loop);

/* Closes a detached handle at once, from any thread. */
PIER_API void pier_handle_discard(struct pier_handle *handle);

/* Accepts one connection: result 1, and the socket is there for pier_accept_take() or
 * pier_accept_detach() until the callback returns; a socket not taken is closed. Out of descriptors
 * or memory is no error: the op waits (options.retry_ns) and is counted; the same where a sandbox
 * refuses the call (EPERM). */
PIER_API void pier_accept(struct pier_handle *listener, struct pier_op *op, pier_op_fn *fn);

/* Accepts connections until cancelled or closed, each with PIER_MORE and to be taken as with
 * pier_accept(). Connections that were accepted before a cancel are still delivered, behind the
 * call too: on uring the kernel accepts ahead. A close closes them. */
PIER_API void pier_accept_each(struct pier_handle *listener, struct pier_op *op, pier_op_fn *fn);

/* Makes the accepted socket a handle of `loop`, in the callback of an accept. The loop must be the
 * listener's (NULL: the same). Returns 0, PIER_EINVAL when there is no socket to take (none
 * accepted, taken already), or PIER_ENOMEM; then it's closed by pier. */
PIER_API int pier_accept_take(struct pier_op *op, struct pier_loop *loop,
                              struct pier_handle *handle);

/* Makes the accepted socket a detached handle, in the callback of an accept, for pier_attach() on
 * another thread's loop. Returns 0, or PIER_EINVAL when there is no socket to take: so take it
 * before the callback detaches the listener, with which a socket not taken is closed. */
PIER_API int pier_accept_detach(struct pier_op *op, struct pier_handle *handle);

/* The address of the peer of the accepted socket, in the callback of an accept and before the
 * socket is taken; afterwards ask pier_peer_address(). On the readiness backends and iocp it comes
 * with the connection from the first call for a listener on, and costs no system call; uring asks
 * each time, since its multishot accept has no place for addresses. Returns 0, PIER_EINVAL when
 * there is no socket, or PIER_ENOTCONN when the peer is gone again, which some systems say. A peer
 * that is a Unix-domain socket without a name has an address of length 0, "unix:". */
PIER_API int pier_accept_address(struct pier_op *op, struct pier_address *address);

/* Connects a socket opened with pier_open_socket(). result 0, or PIER_ECONNREFUSED, PIER_ETIMEDOUT,
 * PIER_ENETUNREACH... Ops submitted behind it wait for it. After a connect that didn't succeed the
 * handle can only be closed. The address is copied. */
PIER_API void pier_connect(struct pier_handle *handle, struct pier_op *op,
                           const struct pier_address *address, pier_op_fn *fn);

/* Receives what there is, at least one byte and at most `size`, into the caller's memory. result:
 * the bytes; 0 with PIER_EOF at the end of the stream; PIER_ECONNRESET, PIER_ENOTCONN or another
 * PIER_E* when the connection failed. Size 0 waits for no data: it completes with 0 in its turn,
 * behind the receives before it. */
PIER_API void pier_receive(struct pier_handle *handle, struct pier_op *op, void *memory,
                           size_t size, pier_op_fn *fn);

/* Receives into a lent buffer, bound when data arrives: op->data and op->size, until the callback
 * returns (see buffer.h). */
PIER_API void pier_receive_lent(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn);

/* pier_receive_lent() as a multishot op: each piece with PIER_MORE, until the end of the stream, an
 * error, cancel or close. */
PIER_API void pier_receive_each(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn);

/* Sends all of `size` bytes. result: the bytes, or why not all could be sent (PIER_EPIPE,
 * PIER_ECONNRESET...), with op->done the bytes that the system took. The memory must stay until the
 * completion. While it is in flight op->done tells how far it is, see types.h.
 *
 * `fn` may be NULL: then the op completes silently, perhaps before this returns: test with
 * pier_op_pending(), see pier_op_then(). Its result is in the op then. One that ends without all
 * its bytes, whether by an error, its time limit or a cancel, is the end of sending on the handle:
 * the sends and shutdowns that wait behind it and all later ones complete with the same error, so
 * that the stream has no gap that nobody is told of. (Not so one that is refused before there is a
 * connection: it is in no stream.) Receives don't tell of it. With a function that is yours to
 * decide: after a cancel, say, you may send the rest. */
PIER_API void pier_send(struct pier_handle *handle, struct pier_op *op, const void *memory,
                        size_t size, pier_op_fn *fn);

/* Sends all bytes of `count` vectors in order. The vectors and their memory must stay until the
 * completion. */
PIER_API void pier_send_vectored(struct pier_handle *handle, struct pier_op *op,
                                 const struct pier_vector *vectors, size_t count, pier_op_fn *fn);

/* pier_receive() under the name that fits a pipe, a terminal or a file (which is read from its
 * current position on). */
PIER_INLINE void pier_read(struct pier_handle *handle, struct pier_op *op, void *memory,
                           size_t size, pier_op_fn *fn)
{
    pier_receive(handle, op, memory, size, fn);
}

/* pier_send() under the name that fits a pipe, a terminal or a file (which is written at its
 * current position). */
PIER_INLINE void pier_write(struct pier_handle *handle, struct pier_op *op, const void *memory,
                            size_t size, pier_op_fn *fn)
{
    pier_send(handle, op, memory, size, fn);
}

/* Ends the sending direction once all sends before it are done; the peer reads end of stream.
 * result 0. PIER_ENOTSUP on what has no half-close (files, pipes, terminals; on Windows a pipe of
 * bytes that another program serves at a unix:@ address). */
PIER_API void pier_shutdown(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn);

/* Closes a handle. Its ops complete with PIER_ECLOSED (or their real outcome), then the descriptor
 * is closed, then fn (may be NULL) is called: from then on the handle's memory is the caller's.
 * Until then it is pier's, and the loop must run: a handle on the stack must not go out of scope
 * meanwhile. Can't fail. Data handed to completed sends is still delivered by the system.
 *
 * The first function given counts, not the first call: another call gives its fn if none had one,
 * and does nothing else, but after pier_close_gracefully() it closes now. On a handle that is
 * closed already it does nothing, and fn isn't called. On one that was never opened, or is detached
 * (see pier_handle_discard()), it does nothing without fn, and is misuse with one.
 *
 * In a callback with PIER_MORE the event stays whole until the callback returns. After this call no
 * other event comes: what has arrived and wasn't delivered is dropped. */
PIER_API void pier_close(struct pier_handle *handle, pier_handle_fn *fn);

/* Closes politely: lets queued sends finish, shuts down, discards what the peer still sends until
 * its end of stream, then closes; after timeout_ns (0: the default of 10 s) closes anyway. Sends
 * behind a connect that is still on its way are waited for as well. What has no half-close (pipes,
 * terminals, files) closes after its sends; listeners, and sockets that aren't connected and have
 * no sends, close at once. Receives in flight complete with PIER_ECLOSED at once. Of several calls
 * the first function given counts, as with pier_close(); that closes now.
 *
 * When there is no memory for this, the handle closes as soon as its sends are done: the end of the
 * peer isn't waited for, and timeout_ns doesn't count. */
PIER_API void pier_close_gracefully(struct pier_handle *handle, uint64_t timeout_ns,
                                    pier_handle_fn *fn);

/* Whether the handle is open and not closing. */
PIER_API bool pier_handle_is_open(const struct pier_handle *handle);

/* Turns TCP_NODELAY on or off. Returns 0, PIER_ENOTSOCK, or what the system says of sockets other
 * than TCP's (Linux: PIER_ENOTSUP). */
PIER_API int pier_set_no_delay(struct pier_handle *handle, bool on);

/* TCP keep-alive: probes after idle_s seconds of silence, every interval_s, giving up after count.
 * All 0: off. Returns 0, PIER_EINVAL above 32767 s or 127 probes or for an idle time of 0 alone, or
 * as pier_set_no_delay() does. */
PIER_API int pier_set_keep_alive(struct pier_handle *handle, unsigned idle_s, unsigned interval_s,
                                 unsigned count);

/* Kernel buffer sizes in bytes; 0 leaves one as it is. The system may double or cut them. Returns 0
 * or PIER_ENOTSOCK. This and the other options of sockets are PIER_ENOTSUP where a named pipe
 * stands for one (Windows). */
PIER_API int pier_set_buffer_sizes(struct pier_handle *handle, size_t receive, size_t send);

/* What closing does with unsent data: seconds < 0 sends it in the background (the default), 0
 * resets the connection, > 0 isn't offered since it blocks (PIER_EINVAL). */
PIER_API int pier_set_linger(struct pier_handle *handle, int seconds);

/* The address a socket is bound to: after pier_listen() on port 0 it has the real port. Returns 0,
 * or PIER_ENOTSOCK. A Unix-domain socket without a name has one of length 0, "unix:". */
PIER_API int pier_local_address(const struct pier_handle *handle, struct pier_address *address);

/* The address of the peer. Returns 0, PIER_ENOTCONN before a connection, or PIER_ENOTSOCK. */
PIER_API int pier_peer_address(const struct pier_handle *handle, struct pier_address *address);

#ifdef __cplusplus
}
#endif

#endif
