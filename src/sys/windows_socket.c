/* windows_socket.c - sockets on Windows, but for requests to the completion port (windows_port.c).
 *
 * Sockets that pier makes are non-blocking, which requests don't mind, and aren't inherited by
 * child processes. A pair is made of TCP over the loopback, since Windows has no other.
 *
 * Unix-domain sockets, which Windows has since 10.0.17063 and Wine 8.0 hasn't, are sockets like the
 * others but for their names and for connecting. They have no abstract names that work:
 * windows_pipe.c has those, and paths where there are no such sockets. */

#include "sys/windows.h"

#include <assert.h>
#include <mstcpip.h>
#include <string.h>

static BOOL CALLBACK start_once(INIT_ONCE *once, void *context, void **result)
{
    WSADATA data;
    (void)once;
    (void)result;
    *(int *)context = WSAStartup(MAKEWORD(2, 2), &data);
    return *(int *)context == 0;
}

int pier__sys_start_winsock(void)
{
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    int code = 0;
    return InitOnceExecuteOnce(&once, start_once, &code, NULL) ? 0 : pier__sys_map(code);
}

static int to_native_address(const struct pier_address *address, union pier__native_address *native)
{
    memset(native, 0, sizeof(*native));
    switch (address->family) {
    case PIER_ADDRESS_IPV4:
        native->ipv4.sin_family = AF_INET;
        native->ipv4.sin_port = htons(address->port);
        memcpy(&native->ipv4.sin_addr, address->u.ip, 4);
        return sizeof(native->ipv4);
    case PIER_ADDRESS_IPV6:
        native->ipv6.sin6_family = AF_INET6;
        native->ipv6.sin6_port = htons(address->port);
        native->ipv6.sin6_scope_id = address->scope;
        memcpy(&native->ipv6.sin6_addr, address->u.ip, 16);
        return sizeof(native->ipv6);
    case PIER_ADDRESS_UNIX:
        native->path.sun_family = AF_UNIX;
        if (address->path_length > PIER_PATH_MAX) {
            return PIER_ENAMETOOLONG;
        }
        memcpy(native->path.sun_path, address->u.path, address->path_length);
        return address->path_length > 0 && address->u.path[0] == '\0' ? PIER_EAFNOSUPPORT
                                                                      : (int)sizeof(native->path);
    default: return PIER_EINVAL;
    }
}

int pier__sys_native_address(const struct pier_address *address, union pier__native_address *native)
{
    int size = to_native_address(address, native);
    bool is_pipe = address->family == PIER_ADDRESS_UNIX && pier__sys_uses_pipe(address);
    return size < 0 || is_pipe ? 0 : size;
}

/* 0, or why the address isn't one of pier's, or not whole. */
static int from_native_address(const union pier__native_address *native, size_t size,
                               struct pier_address *address)
{
    memset(address, 0, sizeof(*address));
    if (size < sizeof(native->any.sa_family)) {
        return PIER_EINVAL;
    }
    switch (native->any.sa_family) {
    case AF_INET:
        if (size < sizeof(native->ipv4)) {
            return PIER_EINVAL;
        }
        address->family = PIER_ADDRESS_IPV4;
        address->port = ntohs(native->ipv4.sin_port);
        memcpy(address->u.ip, &native->ipv4.sin_addr, 4);
        return 0;
    case AF_INET6:
        if (size < sizeof(native->ipv6)) {
            return PIER_EINVAL;
        }
        address->family = PIER_ADDRESS_IPV6;
        address->port = ntohs(native->ipv6.sin6_port);
        address->scope = native->ipv6.sin6_scope_id;
        memcpy(address->u.ip, &native->ipv6.sin6_addr, 16);
        return 0;
    case AF_UNIX: {
        size_t most = size > sizeof(native->path) ? sizeof(native->path) : size;
        size_t length = strnlen(native->path.sun_path,
                                most - offsetof(struct pier__native_path, sun_path));
        address->family = PIER_ADDRESS_UNIX;
        address->path_length = (uint8_t)(length > PIER_PATH_MAX ? PIER_PATH_MAX : length);
        memcpy(address->u.path, native->path.sun_path, address->path_length);
        return length > PIER_PATH_MAX ? PIER_ENAMETOOLONG : 0;
    }
    default: return PIER_EAFNOSUPPORT;
    }
}

static_assert(sizeof(union pier__native_address) <= PIER_SOCKADDR_MAX,
              "PIER_SOCKADDR_MAX has room for each");

int pier__sys_address_from(struct pier_address *address, const void *native, size_t size,
                           int *family)
{
    union pier__native_address copy;
    struct pier_address result;
    memset(&copy, 0, sizeof(copy));
    memcpy(&copy, native, size < sizeof(copy) ? size : sizeof(copy));
    *family = copy.any.sa_family;
    int error = from_native_address(&copy, size, &result);
    if (error == 0) {
        *address = result;
    }
    return error;
}

int pier__sys_address_to(const struct pier_address *address, void *native)
{
    union pier__native_address made;
    int size = to_native_address(address, &made);
    if (size > 0) {
        memcpy(native, &made, (size_t)size);
    }
    return size;
}

static int socket_result(int result)
{
    return result == 0 ? 0 : pier__sys_socket_error();
}

static int set_socket_option(pier_descriptor socket, int level, int option, int value)
{
    PIER__FAULT(OPTION);
    return socket_result(
        setsockopt((SOCKET)socket, level, option, (const char *)&value, sizeof(value)));
}

int pier__sys_set_nonblocking(pier_descriptor descriptor)
{
    u_long on = 1;
    return socket_result(ioctlsocket((SOCKET)descriptor, (long)FIONBIO, &on));
}

pier_descriptor pier__sys_socket(uint8_t family, bool nonblocking)
{
    PIER__FAULT(SOCKET);
    int error = pier__sys_start_winsock();
    if (error < 0) {
        return error;
    }
    static const int families[] = {AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX};
    if (family < PIER_ADDRESS_IPV4 || family > PIER_ADDRESS_UNIX) {
        return pier__sys_map(WSAEAFNOSUPPORT);
    }
    SOCKET made = WSASocketW(families[family], SOCK_STREAM,
                             family == PIER_ADDRESS_UNIX ? 0 : IPPROTO_TCP, NULL, 0,
                             WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (made == INVALID_SOCKET) {
        return pier__sys_socket_error();
    }
    if (nonblocking && (error = pier__sys_set_nonblocking((pier_descriptor)made)) < 0) {
        closesocket(made);
        return error;
    }
    return (pier_descriptor)made;
}

int pier__sys_bind(pier_descriptor socket, const struct pier_address *address)
{
    PIER__FAULT(BIND);
    union pier__native_address native;
    int size = pier__sys_native_address(address, &native);
    if (size == 0) {
        return pier__sys_map(WSAEAFNOSUPPORT);
    }
    int error = socket_result(bind((SOCKET)socket, &native.any, size));
    /* No port is privileged: the right that is missing is to a port that another socket has for
     * itself. */
    return error == PIER_EACCES && address->family != PIER_ADDRESS_UNIX ? PIER_EADDRINUSE : error;
}

static bool path_exists(const char *path)
{
    wchar_t wide[PIER_PATH_MAX + 1];
    return MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, PIER_PATH_MAX + 1) > 0 &&
           GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES;
}

/* Of Unix-domain sockets only: TCP connects by request. Called again after PIER_EAGAIN. */
int pier__sys_connect(pier_descriptor socket, const struct pier_address *address)
{
    PIER__FAULT(CONNECT);
    union pier__native_address native;
    int size = pier__sys_native_address(address, &native);
    if (size == 0 || native.any.sa_family != AF_UNIX) {
        return pier__sys_map(WSAEAFNOSUPPORT);
    }
    if (connect((SOCKET)socket, &native.any, size) == 0) {
        return 0;
    }
    int code = WSAGetLastError();
    if (code == WSAEISCONN) {
        return 0;
    }
    if (code == WSAEWOULDBLOCK || code == WSAEALREADY || code == WSAEINPROGRESS) {
        return pier__sys_map(WSAEWOULDBLOCK);
    }
    /* Windows has one code for both: */
    bool is_missing = code == WSAECONNREFUSED && !path_exists(native.path.sun_path);
    return pier__sys_map(is_missing ? ERROR_FILE_NOT_FOUND : code);
}

int pier__sys_listen(pier_descriptor socket, int backlog)
{
    PIER__FAULT(LISTEN);
    return socket_result(listen((SOCKET)socket, backlog));
}

int64_t pier__sys_receive(pier_descriptor socket, void *memory, size_t size)
{
    PIER__FAULT(RECEIVE);
    int result = recv((SOCKET)socket, memory, size > 1 << 30 ? 1 << 30 : (int)size, 0);
    return result >= 0 ? result : pier__sys_socket_error();
}

bool pier__sys_can_read(pier_descriptor descriptor)
{
    fd_set set;
    struct timeval none = {0, 0};
    FD_ZERO(&set);
    set.fd_array[set.fd_count++] = (SOCKET)descriptor;
    return select(0, &set, NULL, NULL, &none) != 0; /* an error shows in the receive */
}

int pier__sys_shutdown(pier_descriptor socket)
{
    PIER__FAULT(SHUTDOWN);
    return socket_result(shutdown((SOCKET)socket, SD_SEND));
}

uint32_t pier__sys_unsent(pier_descriptor socket)
{
    (void)socket;
    return 0;
}

/* A socket that isn't bound yet has no name for Windows; elsewhere it's any address and port 0. */
static int name_of_unbound(pier_descriptor socket, union pier__native_address *native)
{
    WSAPROTOCOL_INFOW info;
    int size = sizeof(info);
    int error = socket_result(
        getsockopt((SOCKET)socket, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size));
    if (error == 0) {
        memset(native, 0, sizeof(*native));
        native->any.sa_family = (ADDRESS_FAMILY)info.iAddressFamily;
    }
    return error;
}

int pier__sys_local_address(pier_descriptor socket, struct pier_address *address)
{
    PIER__FAULT(NAME);
    union pier__native_address native = {.any = {0}};
    int size = sizeof(native);
    int error = socket_result(getsockname((SOCKET)socket, &native.any, &size));
    if (error == PIER_EINVAL) {
        error = name_of_unbound(socket, &native);
    }
    if (error == 0) {
        from_native_address(&native, sizeof(native), address);
    }
    return error;
}

int pier__sys_peer_address(pier_descriptor socket, struct pier_address *address)
{
    PIER__FAULT(NAME);
    union pier__native_address native = {.any = {0}};
    int size = sizeof(native);
    int error = socket_result(getpeername((SOCKET)socket, &native.any, &size));
    if (error == 0) {
        from_native_address(&native, sizeof(native), address);
    }
    return error;
}

int pier__sys_set_no_delay(pier_descriptor socket, bool on)
{
    return set_socket_option(socket, IPPROTO_TCP, TCP_NODELAY, on);
}

int pier__sys_set_keep_alive(pier_descriptor socket, unsigned idle_s, unsigned interval_s,
                             unsigned count)
{
    PIER__FAULT(OPTION);
    /* Windows before 10.0.15063 has no option for each of them; the number of probes is its
     * own, 10. */
    struct tcp_keepalive values = {.onoff = idle_s != 0,
                                   .keepalivetime = idle_s * 1000,
                                   .keepaliveinterval = interval_s != 0 ? interval_s * 1000 : 1000};
    DWORD unused;
    (void)count;
    return socket_result(WSAIoctl((SOCKET)socket, SIO_KEEPALIVE_VALS, &values, sizeof(values), NULL,
                                  0, &unused, NULL, NULL));
}

int pier__sys_set_buffer_sizes(pier_descriptor socket, size_t receive, size_t send)
{
    int error = 0;
    if (receive != 0) {
        error = set_socket_option(socket, SOL_SOCKET, SO_RCVBUF,
                                  receive > 1 << 30 ? 1 << 30 : (int)receive);
    }
    if (error == 0 && send != 0) {
        error = set_socket_option(socket, SOL_SOCKET, SO_SNDBUF,
                                  send > 1 << 30 ? 1 << 30 : (int)send);
    }
    return error;
}

int pier__sys_set_linger(pier_descriptor socket, int seconds)
{
    PIER__FAULT(OPTION);
    struct linger linger = {.l_onoff = seconds >= 0,
                            .l_linger = (u_short)(seconds > 0 ? seconds : 0)};
    return socket_result(
        setsockopt((SOCKET)socket, SOL_SOCKET, SO_LINGER, (const char *)&linger, sizeof(linger)));
}

void pier__sys_choose_port_late(pier_descriptor socket)
{
    const int reuse_unicast_port = 0x3007; /* SO_REUSE_UNICASTPORT, Windows 10; Wine has none */
    set_socket_option(socket, SOL_SOCKET, reuse_unicast_port, 1);
}

/* What SO_REUSEADDR is for elsewhere, binding again while old connections linger, Windows always
 * allows. Its option of that name lets others steal the port; this one forbids it. */
int pier__sys_set_reuse_address(pier_descriptor socket)
{
    return set_socket_option(socket, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
}

int pier__sys_set_reuse_port(pier_descriptor socket)
{
    (void)socket;
    return pier__sys_map(WSAEOPNOTSUPP);
}

int pier__sys_set_dual_stack(pier_descriptor socket, bool on)
{
    return set_socket_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, !on);
}

/* Whether there is a socket at the path that refuses connections. */
static bool is_stale(const struct pier_address *address)
{
    pier_descriptor probe = pier__sys_socket(PIER_ADDRESS_UNIX, true);
    bool stale = probe >= 0 && pier__sys_connect(probe, address) == PIER_ECONNREFUSED;
    if (probe >= 0) {
        closesocket((SOCKET)probe);
    }
    return stale;
}

/* Of pipes nothing is left over. */
int pier__sys_unlink_stale(const struct pier_address *address)
{
    const DWORD tag = 0x80000023; /* IO_REPARSE_TAG_AF_UNIX: the file of a socket */
    wchar_t wide[PIER_PATH_MAX + 1];
    WIN32_FIND_DATAW found;
    if (address->family != PIER_ADDRESS_UNIX || pier__sys_uses_pipe(address) ||
        MultiByteToWideChar(CP_UTF8, 0, address->u.path, -1, wide, PIER_PATH_MAX + 1) <= 0) {
        return 0;
    }
    HANDLE search = FindFirstFileW(wide, &found);
    if (search == INVALID_HANDLE_VALUE) {
        return 0;
    }
    FindClose(search);
    bool is_socket = (found.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0 &&
                     found.dwReserved0 == tag;
    return !is_socket || !is_stale(address) || DeleteFileW(wide) ? 0 : pier__sys_last_error();
}

static bool same_address(const struct pier_address *a, const struct pier_address *b)
{
    return a->port == b->port && memcmp(a->u.ip, b->u.ip, 4) == 0;
}

/* Connects to the listener and accepts. Another process could connect in between: then the names
 * don't match. */
static int make_pair(pier_descriptor listener, pier_descriptor pair[2])
{
    struct pier_address here = {.family = PIER_ADDRESS_IPV4, .u.ip = {127, 0, 0, 1}}, there;
    union pier__native_address native;
    int error = pier__sys_bind(listener, &here);
    if (error < 0 || (error = pier__sys_listen(listener, 1)) < 0 ||
        (error = pier__sys_local_address(listener, &here)) < 0) {
        return error;
    }
    int size = pier__sys_native_address(&here, &native);
    if (connect((SOCKET)pair[0], &native.any, size) != 0) {
        return pier__sys_socket_error();
    }
    SOCKET accepted = accept((SOCKET)listener, NULL, NULL);
    if (accepted == INVALID_SOCKET) {
        return pier__sys_socket_error();
    }
    pair[1] = (pier_descriptor)accepted;
    SetHandleInformation((HANDLE)accepted, HANDLE_FLAG_INHERIT, 0);
    if ((error = pier__sys_local_address(pair[0], &here)) < 0 ||
        (error = pier__sys_peer_address(pair[1], &there)) < 0) {
        return error;
    }
    return same_address(&here, &there) ? 0 : pier__sys_map(WSAECONNABORTED);
}

int pier__sys_socket_pair(pier_descriptor pair[2], bool nonblocking)
{
    PIER__FAULT(PAIR);
    pier_descriptor listener = pier__sys_socket(PIER_ADDRESS_IPV4, false);
    if (listener < 0) {
        return (int)listener;
    }
    pair[1] = -1;
    pair[0] = pier__sys_socket(PIER_ADDRESS_IPV4, false);
    int error = pair[0] < 0 ? (int)pair[0] : make_pair(listener, pair);
    for (int i = 0; error == 0 && i < 2; i++) {
        error = pier__sys_set_no_delay(pair[i], true);
        if (error == 0 && nonblocking) {
            error = pier__sys_set_nonblocking(pair[i]);
        }
    }
    closesocket((SOCKET)listener);
    for (int i = 0; error != 0 && i < 2; i++) {
        if (pair[i] >= 0) {
            closesocket((SOCKET)pair[i]);
        }
    }
    return error;
}
