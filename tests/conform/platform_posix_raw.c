/* platform_posix_raw.c - the raw peer of platform.h on POSIX systems.
 *
 * Raw descriptors stay in blocking mode; what must not wait uses MSG_DONTWAIT or asks poll() first.
 * SIGPIPE keeps its default action, since pier has to live with that, and is held off only while a
 * raw call writes. */

#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

_Noreturn static void system_failed(const char *what)
{
    FAIL("%s: %s", what, strerror(errno));
}

union socket_address {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct sockaddr_un local;
};

static int system_family(int family)
{
    return family == PIER_ADDRESS_IPV6 ? AF_INET6 : family == PIER_ADDRESS_UNIX ? AF_UNIX : AF_INET;
}

static socklen_t to_system(const struct pier_address *address, union socket_address *out)
{
    memset(out, 0, sizeof(*out));
    out->any.sa_family = (sa_family_t)system_family(address->family);
    if (address->family == PIER_ADDRESS_IPV4) {
        out->ipv4.sin_port = htons(address->port);
        memcpy(&out->ipv4.sin_addr, address->u.ip, 4);
        return sizeof(out->ipv4);
    }
    if (address->family == PIER_ADDRESS_IPV6) {
        out->ipv6.sin6_port = htons(address->port);
        out->ipv6.sin6_scope_id = address->scope;
        memcpy(&out->ipv6.sin6_addr, address->u.ip, 16);
        return sizeof(out->ipv6);
    }
    memcpy(out->local.sun_path, address->u.path, address->path_length);
    const size_t ending = address->u.path[0] == '\0' ? 0 : 1;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + address->path_length + ending);
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

pier_descriptor raw_socket(int family)
{
    const int descriptor = socket(system_family(family), SOCK_STREAM, 0);
    if (descriptor < 0) {
        system_failed("socket");
    }
    return descriptor;
}

pier_descriptor raw_datagram_socket(void)
{
    const int descriptor = socket(AF_INET, SOCK_DGRAM, 0);
    if (descriptor < 0) {
        system_failed("socket");
    }
    return descriptor;
}

bool raw_has_option(pier_descriptor socket, enum raw_option option)
{
    int value = -1;
    socklen_t size = sizeof(value);
    const int level = option == RAW_NO_DELAY ? IPPROTO_TCP : SOL_SOCKET;
    const int name = option == RAW_NO_DELAY     ? TCP_NODELAY
                     : option == RAW_KEEP_ALIVE ? SO_KEEPALIVE
                                                : SO_REUSEADDR;
    CHECK_INT(getsockopt((int)socket, level, name, &value, &size), ==, 0);
    return value != 0;
}

bool raw_is_inherited(pier_descriptor descriptor)
{
    return (fcntl((int)descriptor, F_GETFD) & FD_CLOEXEC) == 0;
}

void raw_local_address(pier_descriptor descriptor, struct pier_address *address)
{
    union socket_address name;
    socklen_t length = sizeof(name);
    if (getsockname((int)descriptor, &name.any, &length) != 0) {
        system_failed("getsockname");
    }
    from_system(&name, address);
}

bool raw_has_family(int family)
{
    struct pier_address address = address_of(family == PIER_ADDRESS_IPV6 ? "[::1]:0"
                                                                         : "127.0.0.1:0");
    union socket_address name;
    const socklen_t length = to_system(&address, &name);
    const int descriptor = socket(system_family(family), SOCK_STREAM, 0);
    const bool has = descriptor >= 0 && bind(descriptor, &name.any, length) == 0;
    if (descriptor >= 0) {
        close(descriptor);
    }
    return has;
}

bool raw_is_pipe_address(const struct pier_address *address)
{
    (void)address;
    return false;
}

pier_descriptor raw_listen(struct pier_address *address, int backlog)
{
    const pier_descriptor descriptor = raw_socket(address->family);
    union socket_address name;
    const socklen_t length = to_system(address, &name);
    if (bind((int)descriptor, &name.any, length) != 0) {
        system_failed("bind");
    }
    if (listen((int)descriptor, backlog) != 0) {
        system_failed("listen");
    }
    if (address->family != PIER_ADDRESS_UNIX) {
        raw_local_address(descriptor, address);
    }
    return descriptor;
}

pier_descriptor raw_connect(const struct pier_address *address)
{
    const pier_descriptor descriptor = raw_socket(address->family);
    union socket_address name;
    const socklen_t length = to_system(address, &name);
    if (connect((int)descriptor, &name.any, length) != 0) {
        system_failed("connect");
    }
    return descriptor;
}

/* Returns whether the connection was made or is on its way. */
static bool begin_connect(pier_descriptor descriptor, const struct pier_address *address)
{
    union socket_address name;
    const socklen_t length = to_system(address, &name);
    raw_set_nonblocking(descriptor, true);
    const bool begun = connect((int)descriptor, &name.any, length) == 0 || errno == EINPROGRESS;
    raw_set_nonblocking(descriptor, false);
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
    const int descriptor = accept((int)listener, NULL, NULL);
    if (descriptor < 0) {
        system_failed("accept");
    }
    return descriptor;
}

void raw_pair(pier_descriptor ends[2])
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        system_failed("socketpair");
    }
    ends[0] = pair[0];
    ends[1] = pair[1];
}

void raw_pipe(pier_descriptor ends[2])
{
    int pair[2];
    if (pipe(pair) != 0) {
        system_failed("pipe");
    }
    ends[0] = pair[0];
    ends[1] = pair[1];
}

static int64_t failure(void)
{
    switch (errno) {
    case EAGAIN: return RAW_AGAIN;
    case ECONNRESET: return RAW_RESET;
    case EPIPE: return RAW_PIPE;
    default: return RAW_FAILED;
    }
}

static bool is_ready(pier_descriptor descriptor, short events)
{
    struct pollfd asked = {.fd = (int)descriptor, .events = events};
    return poll(&asked, 1, 0) > 0;
}

int64_t raw_send_now(pier_descriptor descriptor, const void *memory, size_t size)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGPIPE, &ignore, &before);
    ssize_t sent = send((int)descriptor, memory, size, MSG_DONTWAIT);
    if (sent < 0 && errno == ENOTSOCK) {
        if (is_ready(descriptor, POLLOUT)) {
            sent = write((int)descriptor, memory, size < 4096 ? size : 4096);
        } else {
            errno = EAGAIN;
        }
    }
    const int64_t result = sent >= 0 ? sent : failure();
    sigaction(SIGPIPE, &before, NULL);
    return result;
}

/* Pairs are of Unix-domain sockets, which are full once and for all. */
void raw_fill(pier_descriptor descriptor)
{
    static const char nothing[65536];
    while (raw_send_now(descriptor, nothing, sizeof(nothing)) > 0) {}
}

int64_t raw_receive_now(pier_descriptor descriptor, void *memory, size_t size)
{
    ssize_t got = recv((int)descriptor, memory, size, MSG_DONTWAIT);
    if (got < 0 && errno == ENOTSOCK) {
        if (is_ready(descriptor, POLLIN)) {
            got = read((int)descriptor, memory, size);
        } else {
            errno = EAGAIN;
        }
    }
    return got >= 0 ? got : failure();
}

static void wait_ready(pier_descriptor descriptor, short events)
{
    struct pollfd asked = {.fd = (int)descriptor, .events = events};
    while (poll(&asked, 1, -1) < 0 && errno == EINTR) {}
}

void raw_send(pier_descriptor descriptor, const void *memory, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        wait_ready(descriptor, POLLOUT);
        const int64_t result = raw_send_now(descriptor, (const char *)memory + sent, size - sent);
        if (result < 0 && result != RAW_AGAIN) {
            system_failed("send");
        }
        sent += result > 0 ? (size_t)result : 0;
    }
}

void raw_send_urgent(pier_descriptor socket, char byte)
{
    CHECK_INT(send((int)socket, &byte, 1, MSG_OOB), ==, 1);
}

void raw_receive(pier_descriptor descriptor, void *memory, size_t size)
{
    for (size_t got = 0; got < size;) {
        wait_ready(descriptor, POLLIN);
        const int64_t result = raw_receive_now(descriptor, (char *)memory + got, size - got);
        if (result == 0) {
            FAIL("the stream ended after %zu of %zu bytes", got, size);
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
    wait_ready(descriptor, POLLIN);
    CHECK_INT(raw_receive_now(descriptor, &byte, 1), ==, 0);
}

uint64_t raw_receive_rest(pier_descriptor descriptor)
{
    char dropped[4096];
    uint64_t total = 0;
    for (;;) {
        wait_ready(descriptor, POLLIN);
        const int64_t got = raw_receive_now(descriptor, dropped, sizeof(dropped));
        if (got == 0 || got == RAW_RESET) {
            return total;
        }
        total += got > 0 ? (uint64_t)got : 0;
    }
}

size_t raw_available(pier_descriptor descriptor)
{
    int available = 0;
    if (ioctl((int)descriptor, FIONREAD, &available) != 0) {
        system_failed("FIONREAD");
    }
    return (size_t)available;
}

void raw_shutdown(pier_descriptor descriptor)
{
    if (shutdown((int)descriptor, SHUT_WR) != 0 && errno != ENOTCONN) {
        system_failed("shutdown"); /* ENOTCONN: the other side has reset the connection */
    }
}

void raw_close(pier_descriptor descriptor)
{
    if (close((int)descriptor) != 0) {
        system_failed("close");
    }
}

void raw_reset(pier_descriptor descriptor)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (setsockopt((int)descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) != 0) {
        system_failed("SO_LINGER");
    }
    raw_close(descriptor);
}

pier_descriptor raw_duplicate(pier_descriptor descriptor)
{
    const int copy = dup((int)descriptor);
    if (copy < 0) {
        system_failed("dup");
    }
    return copy;
}

void raw_set_nonblocking(pier_descriptor descriptor, bool on)
{
    const int flags = fcntl((int)descriptor, F_GETFL);
    if (flags < 0 ||
        fcntl((int)descriptor, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) != 0) {
        system_failed("O_NONBLOCK");
    }
}

bool raw_is_nonblocking(pier_descriptor descriptor)
{
    return (fcntl((int)descriptor, F_GETFL) & O_NONBLOCK) != 0;
}

pier_descriptor raw_refusing_address(struct pier_address *address)
{
    union socket_address name;
    *address = address_of("127.0.0.1:0");
    const socklen_t length = to_system(address, &name);
    const pier_descriptor holder = raw_socket(PIER_ADDRESS_IPV4);
    if (bind((int)holder, &name.any, length) != 0) {
        system_failed("bind");
    }
    raw_local_address(holder, address);
    return holder;
}

bool raw_black_hole_open(struct raw_black_hole *hole, int family)
{
    memset(hole, 0, sizeof(*hole));
    char path[PIER_PATH_MAX], text[PIER_ADDRESS_TEXT_MAX];
    if (family == PIER_ADDRESS_UNIX) {
        platform_temporary_path(path, sizeof(path));
        snprintf(text, sizeof(text), "unix:%s", path);
        hole->address = address_of(text);
    } else {
        hole->address = address_of("127.0.0.1:0");
    }
    hole->listener = raw_listen(&hole->address, 0);
    while (hole->count < 16) {
        const pier_descriptor filler = raw_socket(family);
        if (!begin_connect(filler, &hole->address)) {
            raw_close(filler); /* A Unix listener whose backlog is full says so. */
            return true;
        }
        hole->fillers[hole->count++] = filler;
        struct pollfd asked = {.fd = (int)filler, .events = POLLOUT};
        if (poll(&asked, 1, 200) == 0) {
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
    if (hole->address.family == PIER_ADDRESS_UNIX) {
        platform_remove(hole->address.u.path);
    }
}
