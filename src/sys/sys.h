/* sys.h - every call that pier makes to the operating system, on every system.
 *
 * Nothing above src/sys includes a system header, reads errno or GetLastError, or asks for the
 * time. A call returns a value
 * >= 0 or a negative PIER_E*; the native code behind the last failure of the thread is
 * pier__sys_code(). Interrupted calls are restarted here, except waits, which report an
 * interruption as "nothing happened". Calls that only one kernel has are declared in linux.h, bsd.h
 * and windows.h, for that kernel's backends.
 *
 * With PIER_FAULTS each call goes through pier__fault(), so that tests can make the Nth one fail.
 */

#ifndef PIER_SYS_SYS_H
#define PIER_SYS_SYS_H

#include "pier/pier.h"

#include "base/check.h"

/* Handles of Windows are multiples of four, descriptors elsewhere are small numbers without gaps.
 */
#ifdef _WIN32
#define PIER__SPARSE_DESCRIPTORS 1
#endif

/* X(call, plausible errors...): the calls that can be made to fail, with the PIER_E* that each is
 * made to fail with. */
#define PIER__SYS_CALLS(X) \
    X(SOCKET, PIER_EMFILE, PIER_ENFILE, PIER_ENOBUFS, PIER_EAFNOSUPPORT) \
    X(BIND, PIER_EADDRINUSE, PIER_EADDRNOTAVAIL, PIER_EACCES) \
    X(LISTEN, PIER_EADDRINUSE, PIER_ENOTSUP) \
    X(ACCEPT, PIER_ECONNABORTED, PIER_EMFILE, PIER_ENFILE, PIER_ENOBUFS, PIER_ENOMEM, PIER_EAGAIN) \
    X(CONNECT, PIER_ECONNREFUSED, PIER_ENETUNREACH, PIER_EADDRNOTAVAIL, PIER_EACCES) \
    X(RECEIVE, PIER_ECONNRESET, PIER_ENOMEM, PIER_EAGAIN) \
    X(SEND, PIER_EPIPE, PIER_ECONNRESET, PIER_ENOBUFS, PIER_ENOMEM, PIER_EAGAIN) \
    X(READ, PIER_EIO, PIER_EAGAIN) \
    X(WRITE, PIER_EPIPE, PIER_EIO, PIER_ENOSPC, PIER_EAGAIN) \
    X(SHUTDOWN, PIER_ENOTCONN) \
    X(CLOSE, PIER_EIO) \
    X(OPTION, PIER_EINVAL, PIER_ENOBUFS) \
    X(NAME, PIER_ENOBUFS, PIER_ENOTCONN) \
    X(PIPE, PIER_EMFILE, PIER_ENFILE) \
    X(PAIR, PIER_EMFILE, PIER_ENFILE) \
    X(DESCRIBE, PIER_EBADF) \
    X(POLL, PIER_ENOMEM, PIER_EINVAL) \
    X(SELECT, PIER_ENOMEM, PIER_EBADF) \
    X(EPOLL_CREATE, PIER_EMFILE, PIER_ENOMEM) \
    X(EPOLL_CONTROL, PIER_ENOMEM, PIER_ENOSPC) \
    X(EPOLL_WAIT, PIER_EINTR) \
    X(KQUEUE, PIER_EMFILE, PIER_ENFILE, PIER_ENOMEM) \
    X(KEVENT, PIER_ENOMEM) \
    X(KEVENT_CHANGE, PIER_ENOMEM) \
    X(EVENTFD, PIER_EMFILE, PIER_ENOMEM) \
    X(CANCEL, PIER_ENOENT) \
    X(URING_SETUP, PIER_EPERM, PIER_ENOMEM, PIER_ENOTSUP, PIER_EINVAL) \
    X(URING_ENTER, PIER_EINTR, PIER_EAGAIN, PIER_EBUSY) \
    X(URING_REGISTER, PIER_ENOMEM, PIER_EINVAL) \
    X(ALLOCATE, PIER_ENOMEM)

enum pier__sys_call {
#define PIER__SYS_CALL_ENUM(name, ...) PIER__CALL_##name,
    PIER__SYS_CALLS(PIER__SYS_CALL_ENUM)
#undef PIER__SYS_CALL_ENUM
        PIER__CALL_COUNT
};

#ifdef PIER_FAULTS
/* Asked before each call; returns 0 or the PIER_E* to fail with. Set up by the tests with
 * pier__fault_set(). */
PIER_API int pier__fault(enum pier__sys_call call);
/* The Nth (from 1) call of this kind from now on fails with `error`, and all after it too if
 * `for_good`. n 0: none. */
PIER_API void pier__fault_set(enum pier__sys_call call, uint64_t n, int error, bool for_good);
/* Calls of this kind since the last pier__fault_reset(). */
PIER_API uint64_t pier__fault_count(enum pier__sys_call call);
PIER_API void pier__fault_reset(void);
#else
static PIER__EXPRESSION int pier__fault(enum pier__sys_call call)
{
    (void)call;
    return 0;
}
#endif

/* What an adopted descriptor turned out to be. */
enum pier__sys_kind {
    PIER__KIND_NONE,
    PIER__KIND_STREAM,   /* a stream socket */
    PIER__KIND_LISTENER, /* a listening stream socket */
    PIER__KIND_PIPE,
    PIER__KIND_TERMINAL, /* and other character devices that can be waited for */
    PIER__KIND_FILE,     /* always ready */
    /* Streams over named pipes, which stand for Unix-domain sockets where pier__sys_uses_pipe(). */
    PIER__KIND_PIPE_STREAM,
    PIER__KIND_PIPE_LISTENER
};

struct pier__sys_description {
    enum pier__sys_kind kind;
    uint8_t family; /* of a socket: PIER_ADDRESS_* */
    bool nonblocking, read_only, write_only;
    bool delays; /* a listener of TCP, what comes from which hasn't TCP_NODELAY */
};

/* The native code of the last failed call of this thread. */
int pier__sys_code(void);
/* Makes `code` the native code of this thread and returns the PIER_E* for it. */
int pier__sys_map(int code);

/* Monotonic nanoseconds. */
uint64_t pier__sys_clock(void);
/* Goes up by one in the child of each fork. */
uint64_t pier__sys_forks(void);
/* Sees to it that pier__sys_forks() works. */
void pier__sys_watch_forks(void);
/* Lets other threads run. */
void pier__sys_yield(void);
/* A variable of the environment, NULL when it isn't set. */
const char *pier__sys_environment(const char *name);
/* malloc, realloc and free behind the default allocator. */
void *pier__sys_allocate(void *context, void *memory, size_t old_size, size_t new_size);

/* Sockets. `nonblocking` is how readiness backends want theirs. */
pier_descriptor pier__sys_socket(uint8_t family, bool nonblocking);
int pier__sys_bind(pier_descriptor socket, const struct pier_address *address);
int pier__sys_listen(pier_descriptor socket, int backlog);
pier_descriptor pier__sys_accept(pier_descriptor listener, bool nonblocking);
/* The same with the peer's address, of family PIER_ADDRESS_NONE when the system didn't say it. Not
 * on Windows. */
pier_descriptor pier__sys_accept_from(pier_descriptor listener, bool nonblocking,
                                      struct pier_address *peer);
/* 0 connected, PIER_EAGAIN: try again later (a Unix listener's backlog is full), PIER__IN_PROGRESS:
 * wait until writable. */
int pier__sys_connect(pier_descriptor socket, const struct pier_address *address);
#define PIER__IN_PROGRESS 1
/* The outcome of a connect once the socket is writable: 0 or the error, also clears it. */
int pier__sys_connect_result(pier_descriptor socket);
int64_t pier__sys_receive(pier_descriptor socket, void *memory, size_t size);
int64_t pier__sys_send(pier_descriptor socket, const void *memory, size_t size);
int64_t pier__sys_send_vectored(pier_descriptor socket, const struct pier_vector *vectors,
                                size_t count);
int pier__sys_shutdown(pier_descriptor socket);
/* Bytes that the system has taken of sends and the peer hasn't of the system; 0 where it can't tell
 * (OpenBSD, Windows). */
uint32_t pier__sys_unsent(pier_descriptor socket);
int pier__sys_close(pier_descriptor descriptor);
int pier__sys_local_address(pier_descriptor socket, struct pier_address *address);
int pier__sys_peer_address(pier_descriptor socket, struct pier_address *address);
int pier__sys_set_no_delay(pier_descriptor socket, bool on);
int pier__sys_set_keep_alive(pier_descriptor socket, unsigned idle_s, unsigned interval_s,
                             unsigned count);
int pier__sys_set_buffer_sizes(pier_descriptor socket, size_t receive, size_t send);
int pier__sys_set_linger(pier_descriptor socket, int seconds);
/* Has a socket that is about to be bound to port 0 get its port when it connects, where the system
 * can: ports that are taken for one destination are free for others then. */
void pier__sys_choose_port_late(pier_descriptor socket);
int pier__sys_set_reuse_address(pier_descriptor socket);
int pier__sys_set_reuse_port(pier_descriptor socket);
int pier__sys_set_dual_stack(pier_descriptor socket, bool on);
/* Removes the socket file at a Unix address if no one listens on it. */
int pier__sys_unlink_stale(const struct pier_address *address);
int pier__sys_socket_pair(pier_descriptor pair[2], bool nonblocking);

/* The system's own form of an address, a struct sockaddr. From it: 0, PIER_EINVAL (too short for
 * its family), PIER_ENAMETOOLONG or PIER_EAFNOSUPPORT; *family is the system's number in any case,
 * and `native` may lie anywhere. To it: its length, of PIER_SOCKADDR_MAX at the most, PIER_EINVAL
 * (no address), PIER_ENAMETOOLONG, or PIER_EAFNOSUPPORT for one that this system hasn't. */
int pier__sys_address_from(struct pier_address *address, const void *native, size_t size,
                           int *family);
int pier__sys_address_to(const struct pier_address *address, void *native);

/* Named pipes in place of Unix-domain sockets, where a system has no such sockets for the address.
 * What listens has the name for itself and accepts nothing; what is to connect is no more than a
 * place for the pipe. pier__sys_pipe_address() tells the address of either end of a connection. */
#ifdef _WIN32
bool pier__sys_uses_pipe(const struct pier_address *address);
pier_descriptor pier__sys_pipe_open(const struct pier_address *address, bool listens);
int pier__sys_pipe_address(pier_descriptor pipe, bool of_peer, struct pier_address *address);
#else
static inline bool pier__sys_uses_pipe(const struct pier_address *address)
{
    (void)address;
    return false;
}

static inline pier_descriptor pier__sys_pipe_open(const struct pier_address *address, bool listens)
{
    (void)address;
    (void)listens;
    return PIER_EAFNOSUPPORT;
}

static inline int pier__sys_pipe_address(pier_descriptor pipe, bool of_peer,
                                         struct pier_address *address)
{
    (void)pipe;
    (void)of_peer;
    (void)address;
    return PIER_EBADF;
}
#endif

/* Pipes, terminals, files. A read or write never blocks: on descriptors without O_NONBLOCK that
 * others may share, readiness is asked first and a write is cut to what can't block (`cautious`).
 */
int pier__sys_pipe(pier_descriptor pair[2], bool nonblocking);
int64_t pier__sys_read(pier_descriptor descriptor, void *memory, size_t size, bool cautious);
int64_t pier__sys_write(pier_descriptor descriptor, const void *memory, size_t size, bool cautious);
int64_t pier__sys_write_vectored(pier_descriptor descriptor, const struct pier_vector *vectors,
                                 size_t count, bool cautious);
int pier__sys_describe(pier_descriptor descriptor, struct pier__sys_description *description);
int pier__sys_set_nonblocking(pier_descriptor descriptor);
/* Whether it can be read this instant without waiting. */
bool pier__sys_can_read(pier_descriptor descriptor);
/* 1: a regular file or the like, always ready; 0: something that can be waited for; PIER_EBADF: not
 * open. */
int pier__sys_is_file(pier_descriptor descriptor);

/* Whether a file is one of the few that tell of changes, as /proc/mounts does. Asks a copy of it
 * that is opened anew, since being asked may be what takes the news. */
bool pier__sys_tells_changes(pier_descriptor file);
/* Whether it has something to tell this instant, which this takes. */
bool pier__sys_has_changed(pier_descriptor file);

/* Waits with poll or select. 0 when interrupted or nothing came; the sets of select are arrays of
 * words of bits. */
struct pollfd;
int pier__sys_poll(struct pollfd *entries, size_t count, uint64_t timeout_ns);
/* What holds of a descriptor this instant, of `events`, hang-up and error: in poll()'s bits. */
unsigned pier__sys_poll_now(pier_descriptor descriptor, unsigned events);
int pier__sys_select(int width, unsigned long *read, unsigned long *write, unsigned long *priority,
                     uint64_t timeout_ns);
/* Wakes the reader of a nonblocking pipe; leaves errno alone. And takes what is in one. */
void pier__sys_signal_pipe(pier_descriptor descriptor);
void pier__sys_drain_pipe(pier_descriptor descriptor);
/* PIER_CAN_ABSTRACT and PIER_CAN_SHARE_PORT where this system has them. */
int pier__sys_socket_capabilities(void);

/* An upper bound on the vectors of one vectored call. */
#define PIER__VECTORS_MAX 64

#endif
