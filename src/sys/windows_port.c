/* windows_port.c - the completion port and the requests that end there.
 *
 * Return values decide whether a packet comes, never the fields of the OVERLAPPED: on a failed call
 * some systems leave them as if the request were going on. Success at once sends a packet too,
 * unless the descriptor skips those; and so does the one failure that is a warning: a message that
 * is longer than the memory for it. */

#include "sys/windows.h"

#include <limits.h>
#include <string.h>

#define MOST (1u << 30) /* bytes of one request: lengths are 32 bits */

pier_descriptor pier__sys_port_open(void)
{
    PIER__FAULT(EPOLL_CREATE);
    int error = pier__sys_start_winsock();
    if (error < 0) {
        return error;
    }
    HANDLE port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    return port != NULL ? (pier_descriptor)port : pier__sys_last_error();
}

int pier__sys_port_attach(pier_descriptor port, pier_descriptor descriptor, enum pier__port_key key)
{
    PIER__FAULT(EPOLL_CONTROL);
    return CreateIoCompletionPort(pier__sys_handle(descriptor), pier__sys_handle(port), key, 0) !=
                   NULL
               ? 0
               : pier__sys_last_error();
}

int pier__sys_port_detach(pier_descriptor descriptor)
{
    typedef LONG NTAPI set_fn(HANDLE, void *status, void *, ULONG, int);
    set_fn *set = (set_fn *)(void *)pier__sys_native("NtSetInformationFile");
    struct {
        HANDLE port;
        void *key;
    } none = {NULL, NULL};
    void *status[2];
    const int replace_completion = 61;
    if (set == NULL ||
        set(pier__sys_handle(descriptor), status, &none, sizeof(none), replace_completion) < 0) {
        return pier__sys_map(ERROR_NOT_SUPPORTED);
    }
    return 0;
}

bool pier__sys_pipe_has_messages(pier_descriptor descriptor)
{
    DWORD state;
    return GetNamedPipeHandleStateW(pier__sys_handle(descriptor), &state, NULL, NULL, NULL, NULL,
                                    0) &&
           (state & PIPE_READMODE_MESSAGE) != 0;
}

bool pier__sys_port_skip(pier_descriptor descriptor, bool is_socket)
{
    if (is_socket) {
        /* Not with providers whose sockets aren't handles of the system: they lose the packet-less
         * success. */
        WSAPROTOCOL_INFOW info;
        int size = sizeof(info);
        if (getsockopt((SOCKET)descriptor, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size) !=
                0 ||
            (info.dwServiceFlags1 & XP1_IFS_HANDLES) == 0) {
            return false;
        }
    } else if (pier__sys_pipe_has_messages(descriptor)) {
        return false; /* a part of a message isn't quite a success: Wine sends no packet for it */
    }
    return SetFileCompletionNotificationModes(pier__sys_handle(descriptor),
                                              FILE_SKIP_COMPLETION_PORT_ON_SUCCESS |
                                                  FILE_SKIP_SET_EVENT_ON_HANDLE);
}

int pier__sys_port_wait(pier_descriptor port, OVERLAPPED_ENTRY *entries, unsigned most,
                        uint64_t timeout_ns)
{
    PIER__FAULT(EPOLL_WAIT);
    ULONG count = 0;
    /* Rounded up: a wait that ends before its time would have to be repeated. */
    uint64_t milliseconds = timeout_ns / PIER_MILLISECOND + (timeout_ns % PIER_MILLISECOND != 0);
    DWORD limit = timeout_ns == PIER_FOREVER  ? INFINITE
                  : milliseconds > 1000000000 ? 1000000000
                                              : (DWORD)milliseconds;
    if (GetQueuedCompletionStatusEx(pier__sys_handle(port), entries, most, &count, limit, FALSE)) {
        return (int)count;
    }
    return GetLastError() == WAIT_TIMEOUT ? 0 : pier__sys_last_error();
}

void pier__sys_port_wake(pier_descriptor port)
{
    DWORD saved = GetLastError();
    PostQueuedCompletionStatus(pier__sys_handle(port), 0, PIER__KEY_WAKE, NULL);
    SetLastError(saved);
}

/* ---- requests */

static int64_t started(bool succeeded, bool is_socket, DWORD bytes, bool skips)
{
    if (succeeded) {
        return skips ? (int64_t)bytes : PIER__PACKET;
    }
    int code = is_socket ? WSAGetLastError() : (int)GetLastError();
    return code == ERROR_IO_PENDING || code == WSAEMSGSIZE || code == ERROR_MORE_DATA
               ? PIER__PACKET
               : pier__sys_map(code);
}

int64_t pier__sys_start_receive(pier_descriptor socket, void *memory, size_t size,
                                OVERLAPPED *request, bool skips)
{
    PIER__FAULT(RECEIVE);
    WSABUF piece = {.len = (ULONG)(size > MOST ? MOST : size), .buf = memory};
    DWORD bytes = 0, flags = 0;
    memset(request, 0, sizeof(*request));
    bool done = WSARecv((SOCKET)socket, &piece, 1, &bytes, &flags, request, NULL) == 0;
    return started(done, true, bytes, skips);
}

int64_t pier__sys_start_send(pier_descriptor socket, const struct pier_vector *vectors,
                             size_t count, OVERLAPPED *request, bool skips)
{
    PIER__FAULT(SEND);
    WSABUF pieces[PIER__VECTORS_MAX];
    DWORD bytes = 0, used = 0;
    size_t left = MOST;
    for (; used < count && left > 0; used++) {
        size_t size = vectors[used].size < left ? vectors[used].size : left;
        pieces[used].buf = (char *)(uintptr_t)vectors[used].data;
        pieces[used].len = (ULONG)size;
        left -= size;
    }
    memset(request, 0, sizeof(*request));
    bool done = WSASend((SOCKET)socket, pieces, used, &bytes, 0, request, NULL) == 0;
    return started(done, true, bytes, skips);
}

static void set_offset(OVERLAPPED *request, uint64_t offset)
{
    memset(request, 0, sizeof(*request));
    request->Offset = (DWORD)offset;
    request->OffsetHigh = (DWORD)(offset >> 32);
}

int64_t pier__sys_start_read(pier_descriptor descriptor, void *memory, size_t size, uint64_t offset,
                             OVERLAPPED *request, bool skips)
{
    PIER__FAULT(READ);
    DWORD bytes = 0;
    char none;
    set_offset(request, offset);
    bool done = ReadFile(pier__sys_handle(descriptor), memory != NULL ? memory : &none,
                         (DWORD)(size > MOST ? MOST : size), &bytes, request);
    return started(done, false, bytes, skips);
}

int64_t pier__sys_start_write(pier_descriptor descriptor, const void *memory, size_t size,
                              uint64_t offset, OVERLAPPED *request, bool skips)
{
    PIER__FAULT(WRITE);
    DWORD bytes = 0;
    set_offset(request, offset);
    bool done = WriteFile(pier__sys_handle(descriptor), memory, (DWORD)(size > MOST ? MOST : size),
                          &bytes, request);
    return started(done, false, bytes, skips);
}

static LPFN_CONNECTEX find_connect(SOCKET socket)
{
    LPFN_CONNECTEX found = NULL;
    GUID id = WSAID_CONNECTEX;
    DWORD bytes;
    if (WSAIoctl(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof(id), &found, sizeof(found),
                 &bytes, NULL, NULL) != 0) {
        return NULL;
    }
    return found;
}

/* Elsewhere the unspecified address leads to this machine; Windows refuses it. */
static struct pier_address without_any(const struct pier_address *address)
{
    static const uint8_t any[16];
    struct pier_address target = *address;
    size_t length = address->family == PIER_ADDRESS_IPV4 ? 4 : 16;
    if (memcmp(target.u.ip, any, length) == 0) {
        target.u.ip[0] = address->family == PIER_ADDRESS_IPV4 ? 127 : 0;
        target.u.ip[length - 1] = 1;
    }
    return target;
}

int64_t pier__sys_start_connect(pier_descriptor socket, const struct pier_address *address,
                                OVERLAPPED *request, bool skips)
{
    PIER__FAULT(CONNECT);
    union pier__native_address native, any;
    struct pier_address nowhere = {.family = address->family};
    int size = pier__sys_native_address(&nowhere, &any);
    if (size == 0 || address->family == PIER_ADDRESS_UNIX) {
        return pier__sys_map(WSAEAFNOSUPPORT);
    }
    LPFN_CONNECTEX connect_ex = find_connect((SOCKET)socket);
    if (connect_ex == NULL) {
        return pier__sys_socket_error();
    }
    /* The socket must be bound. WSAEINVAL: it is, by the program. */
    if (bind((SOCKET)socket, &any.any, size) != 0 && WSAGetLastError() != WSAEINVAL) {
        return pier__sys_socket_error();
    }
    struct pier_address target = without_any(address);
    pier__sys_native_address(&target, &native);
    DWORD bytes = 0;
    memset(request, 0, sizeof(*request));
    bool done = connect_ex((SOCKET)socket, &native.any, size, NULL, 0, &bytes, request);
    return started(done, true, 0, skips);
}

int pier__sys_finish_connect(pier_descriptor socket)
{
    PIER__FAULT(OPTION);
    return setsockopt((SOCKET)socket, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) == 0
               ? 0
               : pier__sys_socket_error();
}

int64_t pier__sys_start_accept(pier_descriptor listener, pier_descriptor socket, void *storage,
                               OVERLAPPED *request, bool skips)
{
    PIER__FAULT(ACCEPT);
    DWORD bytes = 0;
    memset(request, 0, sizeof(*request));
    bool done = AcceptEx((SOCKET)listener, (SOCKET)socket, storage, 0, PIER__ACCEPT_ADDRESS,
                         PIER__ACCEPT_ADDRESS, &bytes, request);
    return started(done, true, 0, skips);
}

int pier__sys_finish_accept(pier_descriptor listener, pier_descriptor socket, bool no_delay)
{
    SOCKET from = (SOCKET)listener;
    if (setsockopt((SOCKET)socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&from,
                   sizeof(from)) != 0) {
        return pier__sys_socket_error();
    }
    return no_delay ? pier__sys_set_no_delay(socket, true) : 0;
}

void pier__sys_accepted_address(void *storage, struct pier_address *peer)
{
    struct sockaddr *local = NULL, *remote = NULL;
    int local_size = 0, remote_size = 0, family;
    peer->family = PIER_ADDRESS_NONE;
    GetAcceptExSockaddrs(storage, 0, PIER__ACCEPT_ADDRESS, PIER__ACCEPT_ADDRESS, &local,
                         &local_size, &remote, &remote_size);
    if (remote != NULL && remote_size > 0) {
        pier__sys_address_from(peer, remote, (size_t)remote_size, &family);
    }
}

bool pier__sys_has_no_delay(pier_descriptor socket)
{
    DWORD on = 0;
    int size = sizeof(on);
    return getsockopt((SOCKET)socket, IPPROTO_TCP, TCP_NODELAY, (char *)&on, &size) == 0 && on != 0;
}

void pier__sys_cancel(pier_descriptor descriptor, OVERLAPPED *request)
{
    CancelIoEx(pier__sys_handle(descriptor),
               request); /* what has ended meanwhile isn't found, which is all right */
}

/* Wine has the thread that made a request of a socket move more bytes each time the socket is ready
 * for them. Between the server's telling the thread so and hearing how far it came the request
 * isn't found (cancel_async() in Wine's server/async.c; seen with 8.0), and if bytes are left it
 * waits for the socket again as if nobody had cancelled. */
int pier__sys_cancel_op(pier_descriptor descriptor, OVERLAPPED *request)
{
    PIER__FAULT(CANCEL);
    return CancelIoEx(pier__sys_handle(descriptor), request) ? 0 : pier__sys_last_error();
}

int pier__sys_outcome(const OVERLAPPED *request, uint64_t *bytes)
{
    *bytes = request->InternalHigh;
    return pier__sys_map(pier__sys_status_code((long)request->Internal));
}

/* ---- calls that wait */

static int64_t wait_for_request(HANDLE handle, OVERLAPPED *request, bool done, DWORD bytes)
{
    if (!done && GetLastError() == ERROR_IO_PENDING) {
        done = GetOverlappedResult(handle, request, &bytes, TRUE);
    }
    if (done) {
        return bytes;
    }
    if (GetLastError() == ERROR_MORE_DATA) {
        return (int64_t)request->InternalHigh; /* a part of a message */
    }
    return GetLastError() == ERROR_HANDLE_EOF || GetLastError() == ERROR_BROKEN_PIPE
               ? 0
               : pier__sys_last_error();
}

/* With the event's lowest bit set no packet is sent. */
static HANDLE without_packet(HANDLE event)
{
    return event != NULL ? (HANDLE)((uintptr_t)event | 1) : NULL;
}

int64_t pier__sys_read_at(pier_descriptor descriptor, void *memory, size_t size, uint64_t offset,
                          HANDLE event)
{
    PIER__FAULT(READ);
    OVERLAPPED request;
    DWORD bytes = 0;
    HANDLE handle = pier__sys_handle(descriptor);
    set_offset(&request, offset);
    request.hEvent = without_packet(event);
    bool done = ReadFile(handle, memory, (DWORD)(size > MOST ? MOST : size), &bytes, &request);
    return wait_for_request(handle, &request, done, bytes);
}

int64_t pier__sys_write_at(pier_descriptor descriptor, const void *memory, size_t size,
                           uint64_t offset, HANDLE event)
{
    PIER__FAULT(WRITE);
    OVERLAPPED request;
    DWORD bytes = 0;
    HANDLE handle = pier__sys_handle(descriptor);
    set_offset(&request, offset);
    request.hEvent = without_packet(event);
    bool done = WriteFile(handle, memory, (DWORD)(size > MOST ? MOST : size), &bytes, &request);
    return wait_for_request(handle, &request, done, bytes);
}

int64_t pier__sys_read_pipe(pier_descriptor descriptor, void *memory, size_t size, HANDLE event)
{
    DWORD available = 0;
    if (!PeekNamedPipe(pier__sys_handle(descriptor), NULL, 0, NULL, &available, NULL)) {
        return GetLastError() == ERROR_BROKEN_PIPE ? 0 : pier__sys_last_error();
    }
    if (available == 0) {
        return pier__sys_map(WSAEWOULDBLOCK);
    }
    return pier__sys_read_at(descriptor, memory, size < available ? size : available, 0, event);
}
