/* platform_windows_raw.c - the raw peer of platform.h on Windows.
 *
 * Raw sockets stay in blocking mode; what must not wait asks select() first, or leaves that mode
 * for the call. Pipes, also those in place of Unix-domain sockets, are in platform_windows_pipes.c.
 */

#include "platform_windows.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <afunix.h>
#include <windows.h>

_Noreturn static void system_failed(const char *what)
{
    FAIL("%s: error %d", what, WSAGetLastError());
}

union socket_address {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct sockaddr_un path;
};

static void start_winsock(void)
{
    static bool started;
    WSADATA data;
    if (!started) {
        CHECK_INT(WSAStartup(MAKEWORD(2, 2), &data), ==, 0);
        started = true;
    }
}

static int system_family(int family)
{
    return family == PIER_ADDRESS_IPV6 ? AF_INET6 : family == PIER_ADDRESS_UNIX ? AF_UNIX : AF_INET;
}

static int to_system(const struct pier_address *address, union socket_address *out)
{
    memset(out, 0, sizeof(*out));
    out->any.sa_family = (ADDRESS_FAMILY)system_family(address->family);
    if (address->family == PIER_ADDRESS_IPV4) {
        out->ipv4.sin_port = htons(address->port);
        memcpy(&out->ipv4.sin_addr, address->u.ip, 4);
        return sizeof(out->ipv4);
    }
    if (address->family == PIER_ADDRESS_UNIX) {
        memcpy(out->path.sun_path, address->u.path, address->path_length);
        return sizeof(out->path);
    }
    out->ipv6.sin6_port = htons(address->port);
    out->ipv6.sin6_scope_id = address->scope;
    memcpy(&out->ipv6.sin6_addr, address->u.ip, 16);
    return sizeof(out->ipv6);
}

static void from_system(const union socket_address *in, struct pier_address *address)
{
    memset(address, 0, sizeof(*address));
    if (in->any.sa_family == AF_INET) {
        address->family = PIER_ADDRESS_IPV4;
        address->port = ntohs(in->ipv4.sin_port);
        memcpy(address->u.ip, &in->ipv4.sin_addr, 4);
    } else if (in->any.sa_family == AF_INET6) {
        address->family = PIER_ADDRESS_IPV6;
        address->port = ntohs(in->ipv6.sin6_port);
        memcpy(address->u.ip, &in->ipv6.sin6_addr, 16);
    }
}

/* Windows can't tell what mode a socket is in: the ones set to non-blocking by a test are noted. */
static pier_descriptor nonblocking[16];

static void set_mode(pier_descriptor descriptor, bool on)
{
    u_long mode = on;
    if (ioctlsocket((SOCKET)descriptor, (long)FIONBIO, &mode) != 0) {
        system_failed("FIONBIO");
    }
}

static bool is_pipe(pier_descriptor descriptor)
{
    int type = 0, size = sizeof(type);
    start_winsock();
    return getsockopt((SOCKET)descriptor, SOL_SOCKET, SO_TYPE, (char *)&type, &size) != 0;
}

static void note_mode(pier_descriptor descriptor, bool on)
{
    for (size_t i = 0; i < COUNT_OF(nonblocking); i++) {
        if (nonblocking[i] == (on ? 0 : descriptor)) {
            nonblocking[i] = on ? descriptor : 0;
            return;
        }
    }
}

/* The one mode of pipes of that kind can't be had together with overlapped calls. */
void raw_set_nonblocking(pier_descriptor descriptor, bool on)
{
    if (!is_pipe(descriptor)) {
        set_mode(descriptor, on);
    }
    note_mode(descriptor, on);
}

bool raw_is_nonblocking(pier_descriptor descriptor)
{
    for (size_t i = 0; i < COUNT_OF(nonblocking); i++) {
        if (nonblocking[i] == descriptor) {
            return true;
        }
    }
    return false;
}

static SOCKET open_socket(int family, int type)
{
    start_winsock();
    return WSASocketW(system_family(family), type, 0, NULL, 0,
                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
}

pier_descriptor raw_socket(int family)
{
    const SOCKET made = open_socket(family, SOCK_STREAM);
    if (made == INVALID_SOCKET) {
        system_failed("socket");
    }
    return (pier_descriptor)made;
}

pier_descriptor raw_datagram_socket(void)
{
    const SOCKET made = open_socket(PIER_ADDRESS_IPV4, SOCK_DGRAM);
    if (made == INVALID_SOCKET) {
        system_failed("socket");
    }
    return (pier_descriptor)made;
}

/* What Windows calls SO_REUSEADDR is something else: binding again it always allows. */
bool raw_has_option(pier_descriptor socket, enum raw_option option)
{
    DWORD value = 0;
    int size = sizeof(value);
    const int level = option == RAW_NO_DELAY ? (int)IPPROTO_TCP : SOL_SOCKET;
    const int name = option == RAW_NO_DELAY     ? TCP_NODELAY
                     : option == RAW_KEEP_ALIVE ? SO_KEEPALIVE
                                                : SO_EXCLUSIVEADDRUSE;
    if (getsockopt((SOCKET)socket, level, name, (char *)&value, &size) != 0) {
        system_failed("getsockopt");
    }
    return value != 0;
}

bool raw_is_inherited(pier_descriptor descriptor)
{
    DWORD flags = HANDLE_FLAG_INHERIT;
    return !GetHandleInformation((HANDLE)descriptor, &flags) || (flags & HANDLE_FLAG_INHERIT) != 0;
}

void raw_local_address(pier_descriptor descriptor, struct pier_address *address)
{
    union socket_address name;
    int length = sizeof(name);
    if (getsockname((SOCKET)descriptor, &name.any, &length) != 0) {
        system_failed("getsockname");
    }
    from_system(&name, address);
}

bool raw_has_family(int family)
{
    struct pier_address address = address_of(family == PIER_ADDRESS_IPV6 ? "[::1]:0"
                                                                         : "127.0.0.1:0");
    union socket_address name;
    const int length = to_system(&address, &name);
    const SOCKET made = open_socket(family, SOCK_STREAM);
    const bool has = made != INVALID_SOCKET && bind(made, &name.any, length) == 0;
    if (made != INVALID_SOCKET) {
        closesocket(made);
    }
    return has;
}

pier_descriptor raw_listen(struct pier_address *address, int backlog)
{
    if (raw_is_pipe_address(address)) {
        return raw_pipe_listen(address, backlog);
    }
    const pier_descriptor descriptor = raw_socket(address->family);
    union socket_address name;
    const int length = to_system(address, &name);
    if (bind((SOCKET)descriptor, &name.any, length) != 0) {
        system_failed("bind");
    }
    if (listen((SOCKET)descriptor, backlog) != 0) {
        system_failed("listen");
    }
    if (address->family != PIER_ADDRESS_UNIX) {
        raw_local_address(descriptor, address);
    }
    return descriptor;
}

pier_descriptor raw_connect(const struct pier_address *address)
{
    if (raw_is_pipe_address(address)) {
        return raw_pipe_connect(address);
    }
    const pier_descriptor descriptor = raw_socket(address->family);
    union socket_address name;
    const int length = to_system(address, &name);
    if (connect((SOCKET)descriptor, &name.any, length) != 0) {
        system_failed("connect");
    }
    return descriptor;
}

/* Returns whether the connection was made or is on its way. */
static bool begin_connect(pier_descriptor descriptor, const struct pier_address *address)
{
    union socket_address name;
    const int length = to_system(address, &name);
    set_mode(descriptor, true);
    const bool begun = connect((SOCKET)descriptor, &name.any, length) == 0 ||
                       WSAGetLastError() == WSAEWOULDBLOCK;
    set_mode(descriptor, raw_is_nonblocking(descriptor));
    return begun;
}

pier_descriptor raw_connect_begin(const struct pier_address *address)
{
    const pier_descriptor descriptor = raw_socket(address->family);
    if (!begin_connect(descriptor, address)) {
        system_failed("connect");
    }
    return descriptor;
}

pier_descriptor raw_accept(pier_descriptor listener)
{
    if (raw_pipe_listens(listener)) {
        return raw_pipe_accept(listener);
    }
    const SOCKET accepted = accept((SOCKET)listener, NULL, NULL);
    if (accepted == INVALID_SOCKET) {
        system_failed("accept");
    }
    return (pier_descriptor)accepted;
}

void raw_pair(pier_descriptor ends[2])
{
    struct pier_address address = address_of("127.0.0.1:0");
    const BOOL on = TRUE;
    const pier_descriptor listener = raw_listen(&address, 1);
    ends[0] = raw_connect(&address);
    ends[1] = raw_accept(listener);
    raw_close(listener);
    /* Of a size that a test can fill, as that of other systems' pairs. */
    const int size = 65536;
    for (int i = 0; i < 2; i++) {
        setsockopt((SOCKET)ends[i], SOL_SOCKET, SO_RCVBUF, (const char *)&size, sizeof(size));
        setsockopt((SOCKET)ends[i], SOL_SOCKET, SO_SNDBUF, (const char *)&size, sizeof(size));
        setsockopt((SOCKET)ends[i], IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof(on));
    }
}

int64_t raw_failure(int code)
{
    switch (code) {
    case WSAEWOULDBLOCK: return RAW_AGAIN;
    case WSAECONNRESET: return RAW_RESET;
    case WSAESHUTDOWN:
    case ERROR_NO_DATA:
    case ERROR_BROKEN_PIPE: return RAW_PIPE;
    default: return RAW_FAILED;
    }
}

int64_t raw_send_now(pier_descriptor descriptor, const void *memory, size_t size)
{
    if (is_pipe(descriptor)) {
        return size == 0 ? 0 : raw_pipe_write(descriptor, memory, size, false);
    }
    set_mode(descriptor, true);
    const int sent = send((SOCKET)descriptor, memory, (int)size, 0);
    const int64_t result = sent >= 0 ? sent : raw_failure(WSAGetLastError());
    set_mode(descriptor, raw_is_nonblocking(descriptor));
    return result;
}

/* Pairs are of TCP: what was on its way when the buffers were full may be acknowledged later, and
 * make room. */
void raw_fill(pier_descriptor descriptor)
{
    static const char nothing[65536];
    WSAPOLLFD asked = {.fd = (SOCKET)descriptor, .events = POLLWRNORM};
    do {
        while (raw_send_now(descriptor, nothing, sizeof(nothing)) > 0) {}
    } while (WSAPoll(&asked, 1, 300) > 0);
}

/* Wine's recv() takes a reset that it met before for the end of the stream; its poll remembers. */
static bool was_reset(pier_descriptor descriptor)
{
    WSAPOLLFD asked = {.fd = (SOCKET)descriptor, .events = POLLRDNORM};
    return WSAPoll(&asked, 1, 0) > 0 && (asked.revents & POLLERR) != 0;
}

int64_t raw_receive_now(pier_descriptor descriptor, void *memory, size_t size)
{
    if (is_pipe(descriptor)) {
        return raw_pipe_read(descriptor, memory, size, false);
    }
    set_mode(descriptor, true);
    const int got = recv((SOCKET)descriptor, memory, (int)size, 0);
    int64_t result = got >= 0 ? got : raw_failure(WSAGetLastError());
    set_mode(descriptor, raw_is_nonblocking(descriptor));
    if (got == 0 && size > 0 && was_reset(descriptor)) {
        result = RAW_RESET;
    }
    return result;
}

static void wait_ready(pier_descriptor descriptor, bool writing)
{
    fd_set set;
    FD_ZERO(&set);
    set.fd_array[set.fd_count++] = (SOCKET)descriptor;
    select(0, writing ? NULL : &set, writing ? &set : NULL, NULL, NULL);
}

void raw_send(pier_descriptor descriptor, const void *memory, size_t size)
{
    const bool pipe = is_pipe(descriptor);
    for (size_t sent = 0; sent < size;) {
        int64_t result;
        if (pipe) {
            result = raw_pipe_write(descriptor, (const char *)memory + sent, size - sent, true);
        } else {
            wait_ready(descriptor, true);
            result = raw_send_now(descriptor, (const char *)memory + sent, size - sent);
        }
        if (result < 0 && result != RAW_AGAIN) {
            system_failed("send");
        }
        sent += result > 0 ? (size_t)result : 0;
    }
}

void raw_send_urgent(pier_descriptor socket, char byte)
{
    CHECK_INT(send((SOCKET)socket, &byte, 1, MSG_OOB), ==, 1);
}

/* One receive that waits. */
static int64_t receive_some(pier_descriptor descriptor, void *memory, size_t size)
{
    if (is_pipe(descriptor)) {
        return raw_pipe_read(descriptor, memory, size, true);
    }
    wait_ready(descriptor, false);
    return raw_receive_now(descriptor, memory, size);
}

void raw_receive(pier_descriptor descriptor, void *memory, size_t size)
{
    for (size_t got = 0; got < size;) {
        const int64_t result = receive_some(descriptor, (char *)memory + got, size - got);
        if (result == 0) {
            FAIL("the stream ended after %d of %d bytes", (int)got, (int)size);
        }
        if (result < 0 && result != RAW_AGAIN) {
            system_failed("receive");
        }
        got += result > 0 ? (size_t)result : 0;
    }
}

void raw_receive_end(pier_descriptor descriptor)
{
    char byte;
    CHECK_INT(receive_some(descriptor, &byte, 1), ==, 0);
}

uint64_t raw_receive_rest(pier_descriptor descriptor)
{
    char dropped[4096];
    uint64_t total = 0;
    for (;;) {
        const int64_t got = receive_some(descriptor, dropped, sizeof(dropped));
        if (got == 0 || got == RAW_RESET) {
            return total;
        }
        total += got > 0 ? (uint64_t)got : 0;
    }
}

size_t raw_available(pier_descriptor descriptor)
{
    u_long available = 0;
    DWORD in_pipe = 0;
    if (is_pipe(descriptor)) {
        PeekNamedPipe((HANDLE)descriptor, NULL, 0, NULL, &in_pipe, NULL);
        return in_pipe;
    }
    if (ioctlsocket((SOCKET)descriptor, (long)FIONREAD, &available) != 0) {
        system_failed("FIONREAD");
    }
    return available;
}

void raw_shutdown(pier_descriptor descriptor)
{
    if (is_pipe(descriptor)) {
        raw_pipe_shutdown(descriptor);
        return;
    }
    if (shutdown((SOCKET)descriptor, SD_SEND) != 0) {
        system_failed("shutdown");
    }
}

void raw_close(pier_descriptor descriptor)
{
    note_mode(descriptor, false);
    raw_pipe_forget(descriptor);
    if (closesocket((SOCKET)descriptor) != 0 && !CloseHandle((HANDLE)descriptor)) {
        system_failed("close");
    }
}

void raw_reset(pier_descriptor descriptor)
{
    if (is_pipe(descriptor)) { /* has none */
        raw_close(descriptor);
        return;
    }
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (setsockopt((SOCKET)descriptor, SOL_SOCKET, SO_LINGER, (const char *)&linger,
                   sizeof(linger)) != 0) {
        system_failed("SO_LINGER");
    }
    raw_close(descriptor);
}

/* DuplicateHandle() makes handles of sockets that Winsock doesn't know. */
static pier_descriptor duplicate_socket(pier_descriptor descriptor)
{
    WSAPROTOCOL_INFOW info;
    if (WSADuplicateSocketW((SOCKET)descriptor, GetCurrentProcessId(), &info) != 0) {
        system_failed("WSADuplicateSocket");
    }
    const SOCKET copy = WSASocketW(FROM_PROTOCOL_INFO, FROM_PROTOCOL_INFO, FROM_PROTOCOL_INFO,
                                   &info, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (copy == INVALID_SOCKET) {
        system_failed("WSASocket");
    }
    return (pier_descriptor)copy;
}

pier_descriptor raw_duplicate(pier_descriptor descriptor)
{
    HANDLE copy;
    if (!is_pipe(descriptor)) {
        copy = (HANDLE)duplicate_socket(descriptor);
    } else if (!DuplicateHandle(GetCurrentProcess(), (HANDLE)descriptor, GetCurrentProcess(), &copy,
                                0, FALSE, DUPLICATE_SAME_ACCESS)) {
        system_failed("DuplicateHandle");
    }
    if (raw_is_nonblocking(descriptor)) {
        note_mode((pier_descriptor)copy, true);
    }
    return (pier_descriptor)copy;
}

pier_descriptor raw_refusing_address(struct pier_address *address)
{
    union socket_address name;
    *address = address_of("127.0.0.1:0");
    const int length = to_system(address, &name);
    const pier_descriptor holder = raw_socket(PIER_ADDRESS_IPV4);
    if (bind((SOCKET)holder, &name.any, length) != 0) {
        system_failed("bind");
    }
    raw_local_address(holder, address);
    return holder;
}

/* Of a pipe, whose backlog is known; AF_UNIX refuses when it's full. */
static bool open_pipe_hole(struct raw_black_hole *hole)
{
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    hole->address.family = PIER_ADDRESS_UNIX;
    hole->address.path_length = (uint8_t)strlen(path);
    memcpy(hole->address.u.path, path, strlen(path));
    if (!raw_is_pipe_address(&hole->address)) {
        return false;
    }
    hole->listener = raw_listen(&hole->address, 1);
    for (hole->count = 0; hole->count < 2; hole->count++) {
        hole->fillers[hole->count] = raw_connect(&hole->address);
    }
    return true;
}

bool raw_black_hole_open(struct raw_black_hole *hole, int family)
{
    memset(hole, 0, sizeof(*hole));
    if (family == PIER_ADDRESS_UNIX) {
        return open_pipe_hole(hole);
    }
    hole->address = address_of("127.0.0.1:0");
    hole->listener = raw_listen(&hole->address, 1);
    while (hole->count < 16) {
        const pier_descriptor filler = raw_socket(family);
        hole->fillers[hole->count++] = filler;
        set_mode(filler, true);
        union socket_address name;
        const int length = to_system(&hole->address, &name);
        connect((SOCKET)filler, &name.any, length);
        fd_set set;
        struct timeval limit = {0, 200000};
        FD_ZERO(&set);
        set.fd_array[set.fd_count++] = (SOCKET)filler;
        const int ready = select(0, NULL, &set, NULL, &limit);
        set_mode(filler, false);
        if (ready == 0) {
            return true;
        }
    }
    raw_black_hole_close(hole);
    return false;
}

void raw_black_hole_close(struct raw_black_hole *hole)
{
    for (int i = 0; i < hole->count; i++) {
        raw_close(hole->fillers[i]);
    }
    raw_close(hole->listener);
}
