/* windows.h - what the files of src/sys share on Windows, and what the iocp backend asks of the
 * system.
 *
 * A request is started with an OVERLAPPED that stays where it is until its packet has been taken
 * from the port, also after a cancel and a close. The pier__sys_start_*() functions say which of
 * three things happened: it's done and no packet comes (the result, >= 0), it failed and no packet
 * comes (a negative PIER_E*), or PIER__PACKET: a packet comes. That holds for success at once as
 * well unless the descriptor `skips` such packets. */

#ifndef PIER_SYS_WINDOWS_H
#define PIER_SYS_WINDOWS_H

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include "base/check.h"
#include "sys/sys.h"

#define PIER__PACKET INT64_MAX

/* Leaves the calling function when the tests make this call fail. */
#define PIER__FAULT(call) \
    do { \
        int fault_ = pier__fault(PIER__CALL_##call); \
        if (fault_ != 0) { \
            return fault_; \
        } \
    } while (0)

static inline HANDLE pier__sys_handle(pier_descriptor descriptor)
{
    return (HANDLE)descriptor;
}

/* windows.c. The error of the last call of this thread, kept as its native code: after calls of
 * Winsock, and after others. */
PIER__COLD int pier__sys_socket_error(void);
PIER__COLD int pier__sys_last_error(void);
/* The code of Winsock or Win32 that stands for an NTSTATUS. */
int pier__sys_status_code(long status);
/* A function of ntdll.dll, or NULL. */
FARPROC pier__sys_native(const char *name);

/* windows_socket.c */
int pier__sys_start_winsock(void);
/* The sockaddr_un of <afunix.h>, which not every set of headers has. */
struct pier__native_path {
    ADDRESS_FAMILY sun_family;
    char sun_path[PIER_PATH_MAX + 1];
};
union pier__native_address {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct pier__native_path path;
};
/* Length of the native form, 0 when there is none. */
int pier__sys_native_address(const struct pier_address *address,
                             union pier__native_address *native);

/* ---- windows_port.c: the completion port */

enum pier__port_key {
    PIER__KEY_WAKE,
    PIER__KEY_OP,
    PIER__KEY_ACCEPT,
    PIER__KEY_POLL,
    PIER__KEY_PIPE_WAIT /* of pier__sys_start_pipe_wait() */
};

pier_descriptor pier__sys_port_open(void);
/* Sends the packets of a descriptor's requests to the port, for as long as the descriptor is open.
 */
int pier__sys_port_attach(pier_descriptor port, pier_descriptor descriptor,
                          enum pier__port_key key);
/* Undoes that where Windows can (8.1 and later). */
int pier__sys_port_detach(pier_descriptor descriptor);
/* Has requests that succeed at once send no packet, where that is safe. Returns whether it's so
 * now. */
bool pier__sys_port_skip(pier_descriptor descriptor, bool is_socket);
/* Takes up to `most` packets. Returns how many, or a negative PIER_E*. */
int pier__sys_port_wait(pier_descriptor port, OVERLAPPED_ENTRY *entries, unsigned most,
                        uint64_t timeout_ns);
void pier__sys_port_wake(pier_descriptor port);

/* ---- windows_port.c: requests */

/* An empty receive completes when there is data, the end or an error: memory NULL, size 0. */
int64_t pier__sys_start_receive(pier_descriptor socket, void *memory, size_t size,
                                OVERLAPPED *request, bool skips);
int64_t pier__sys_start_send(pier_descriptor socket, const struct pier_vector *vectors,
                             size_t count, OVERLAPPED *request, bool skips);
int64_t pier__sys_start_read(pier_descriptor descriptor, void *memory, size_t size, uint64_t offset,
                             OVERLAPPED *request, bool skips);
int64_t pier__sys_start_write(pier_descriptor descriptor, const void *memory, size_t size,
                              uint64_t offset, OVERLAPPED *request, bool skips);
int64_t pier__sys_start_connect(pier_descriptor socket, const struct pier_address *address,
                                OVERLAPPED *request, bool skips);
/* After the packet: makes the socket a full one. */
int pier__sys_finish_connect(pier_descriptor socket);
#define PIER__ACCEPT_ADDRESS (sizeof(union pier__native_address) + 16)
/* `storage` has room for two of the above. */
int64_t pier__sys_start_accept(pier_descriptor listener, pier_descriptor socket, void *storage,
                               OVERLAPPED *request, bool skips);
/* After the packet: makes the socket a full one, with the listener's TCP_NODELAY, which Windows
 * doesn't promise to pass on. */
int pier__sys_finish_accept(pier_descriptor listener, pier_descriptor socket, bool no_delay);
bool pier__sys_has_no_delay(pier_descriptor socket);
/* The peer's address, which is in `storage` then; of family PIER_ADDRESS_NONE when it isn't. */
void pier__sys_accepted_address(void *storage, struct pier_address *peer);
/* Asks for the end of a request; its packet comes all the same. NULL: of all of the descriptor's.
 */
void pier__sys_cancel(pier_descriptor descriptor, OVERLAPPED *request);
/* The same for the request of an op. PIER_ENOENT: the system finds none, since it's over and its
 * packet on its way; or, under Wine, since it's at work on it just then, and goes on after. */
int pier__sys_cancel_op(pier_descriptor descriptor, OVERLAPPED *request);
/* What became of a request: 0 or the error, and how many bytes moved in either case. */
int pier__sys_outcome(const OVERLAPPED *request, uint64_t *bytes);

/* Reads and writes that wait until they are done; an `event` is needed for descriptors made for
 * requests. */
int64_t pier__sys_read_at(pier_descriptor descriptor, void *memory, size_t size, uint64_t offset,
                          HANDLE event);
int64_t pier__sys_write_at(pier_descriptor descriptor, const void *memory, size_t size,
                           uint64_t offset, HANDLE event);
/* Reads what a pipe has, PIER_EAGAIN when that's nothing. */
int64_t pier__sys_read_pipe(pier_descriptor descriptor, void *memory, size_t size, HANDLE event);

/* windows_file.c. Whether the descriptor was opened without FILE_FLAG_OVERLAPPED: no requests, and
 * calls wait. */
bool pier__sys_is_synchronous(pier_descriptor descriptor);
/* Whether two descriptors lead to the same object. False before Windows 10, which can't tell. */
bool pier__sys_is_same(pier_descriptor a, pier_descriptor b);
/* Where the next read or write of a synchronous file goes. */
uint64_t pier__sys_file_position(pier_descriptor descriptor);

/* ---- windows_pipe.c: named pipes in place of Unix-domain sockets */

/* One more end to accept with, of the name that `listener` has. */
pier_descriptor pier__sys_pipe_instance(pier_descriptor listener);
/* What waits for a client of such an end. */
struct pier__pipe_accept {
    HANDLE event, wait, port;
    OVERLAPPED *request;
};
/* The packet, with PIER__KEY_ACCEPT, comes to `port` though the end isn't attached to it: so the
 * connection can go to any port. */
int64_t pier__sys_start_pipe_accept(pier_descriptor instance, pier_descriptor port,
                                    struct pier__pipe_accept *accept, OVERLAPPED *request);
/* After the packet. */
void pier__sys_finish_pipe_accept(struct pier__pipe_accept *accept);
/* Whether a connected pipe's end ends streams by an empty message. */
bool pier__sys_pipe_has_messages(pier_descriptor pipe);
/* Connects at once: the client's end, or PIER_EBUSY when no end is listening just now. */
pier_descriptor pier__sys_pipe_connect(const struct pier_address *address);
/* Waits, for that long at the most, until connecting is worth another try. */
int64_t pier__sys_start_pipe_wait(pier_descriptor unconnected, const struct pier_address *address,
                                  uint64_t timeout_ns, OVERLAPPED *request);
/* Sends the empty message. */
int64_t pier__sys_start_pipe_shutdown(pier_descriptor pipe, OVERLAPPED *request);
/* Whether there is nothing to read, besides an empty message perhaps. */
bool pier__sys_pipe_is_empty(pier_descriptor pipe);

/* ---- windows_poll.c: readiness of sockets, by the driver below Winsock */

enum {
    PIER__AFD_RECEIVE = 0x001,
    PIER__AFD_URGENT = 0x002,
    PIER__AFD_SEND = 0x004,
    PIER__AFD_DISCONNECT = 0x008,
    PIER__AFD_ABORT = 0x010,
    PIER__AFD_LOCAL_CLOSE = 0x020,
    PIER__AFD_ACCEPT = 0x080,
    PIER__AFD_CONNECT_FAILED = 0x100
};

struct pier__afd_poll {
    LARGE_INTEGER timeout;
    ULONG count, exclusive;
    struct {
        HANDLE handle;
        ULONG events;
        LONG status;
    } handles[1];
};

/* A request of readiness. The OVERLAPPED comes first: its head is the driver's IO_STATUS_BLOCK. */
struct pier__afd_request {
    OVERLAPPED overlapped;
    struct pier__afd_poll in, out;
};

/* Opens the driver; `synchronous` for pier__sys_was_reset(). */
pier_descriptor pier__sys_afd_open(bool synchronous);
/* Asks for a packet once one of the events has come. 0, or a negative PIER_E* and no packet. */
int pier__sys_afd_poll(pier_descriptor afd, pier_descriptor socket, unsigned events,
                       struct pier__afd_request *request);
/* Whether a connection that reads as ended was reset. Wine's recv() says 0 then, if no receive was
 * pending. */
bool pier__sys_was_reset(pier_descriptor afd, pier_descriptor socket);

#endif
