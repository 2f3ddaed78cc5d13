/* posix_socket.c - sockets on POSIX systems.
 *
 * Sends never raise SIGPIPE: MSG_NOSIGNAL where it exists, SO_NOSIGPIPE on every socket elsewhere,
 * also on accepted ones (Darwin). Sends and receives pass MSG_DONTWAIT, so that the
 * O_NONBLOCK of adopted sockets doesn't matter. */

#include "sys/linux_call.h"
#include "sys/posix.h"
#include "sys/posix_address.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static int native_family(uint8_t family)
{
    return family == PIER_ADDRESS_IPV4   ? AF_INET
           : family == PIER_ADDRESS_IPV6 ? AF_INET6
           : family == PIER_ADDRESS_UNIX ? AF_UNIX
                                         : AF_UNSPEC;
}

static int set_option(pier_descriptor socket, int level, int option, int value)
{
    PIER__FAULT(OPTION);
    return setsockopt((int)socket, level, option, &value, sizeof(value)) < 0 ? pier__sys_errno()
                                                                             : 0;
}

#ifndef SOCK_CLOEXEC
/* What accept4 and the SOCK_ flags do elsewhere. Closes the socket on failure. */
static pier_descriptor prepare(int descriptor, bool nonblocking)
{
    if (fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(descriptor, F_SETFL, nonblocking ? O_NONBLOCK : 0) < 0) {
        int error = pier__sys_errno();
        close(descriptor);
        return error;
    }
    return descriptor;
}
#endif

static pier_descriptor without_sigpipe(int descriptor)
{
#ifdef SO_NOSIGPIPE
    int on = 1;
    setsockopt(descriptor, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
#endif
    return descriptor;
}

pier_descriptor pier__sys_socket(uint8_t family, bool nonblocking)
{
    PIER__FAULT(SOCKET);
#ifdef SOCK_CLOEXEC
    int flags = SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
    int descriptor = socket(native_family(family), flags, 0);
    return descriptor < 0 ? pier__sys_errno() : without_sigpipe(descriptor);
#else
    int descriptor = socket(native_family(family), SOCK_STREAM, 0);
    return descriptor < 0 ? pier__sys_errno()
                          : prepare((int)without_sigpipe(descriptor), nonblocking);
#endif
}

int pier__sys_bind(pier_descriptor socket, const struct pier_address *address)
{
    PIER__FAULT(BIND);
    union pier__native_address native = {0};
    socklen_t size = pier__address_to_native(address, &native);
    if (size == 0) {
        return pier__sys_map(EAFNOSUPPORT);
    }
    return bind((int)socket, &native.any, size) < 0 ? pier__sys_errno() : 0;
}

int pier__sys_listen(pier_descriptor socket, int backlog)
{
    PIER__FAULT(LISTEN);
    return listen((int)socket, backlog) < 0 ? pier__sys_errno() : 0;
}

static pier_descriptor accept_native(pier_descriptor listener, bool nonblocking,
                                     struct sockaddr *peer, socklen_t *size)
{
    PIER__FAULT(ACCEPT);
    for (;;) {
#ifdef SOCK_CLOEXEC
        int descriptor = accept4((int)listener, peer, size,
                                 SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0));
        if (descriptor >= 0) {
            return without_sigpipe(descriptor);
        }
#else
        int descriptor = accept((int)listener, peer, size);
        if (descriptor >= 0) {
            return prepare((int)without_sigpipe(descriptor), nonblocking);
        }
#endif
        if (errno != EINTR) {
            return pier__sys_errno();
        }
    }
}

pier_descriptor pier__sys_accept(pier_descriptor listener, bool nonblocking)
{
    return accept_native(listener, nonblocking, NULL, NULL);
}

pier_descriptor pier__sys_accept_from(pier_descriptor listener, bool nonblocking,
                                      struct pier_address *peer)
{
    union pier__native_address native;
    socklen_t size = sizeof(native);
    native.any.sa_family = AF_UNSPEC;
    pier_descriptor descriptor = accept_native(listener, nonblocking, &native.any, &size);
    if (descriptor >= 0) {
        pier__address_from_native(peer, &native, size);
    }
    return descriptor;
}

int pier__sys_connect(pier_descriptor socket, const struct pier_address *address)
{
    PIER__FAULT(CONNECT);
    union pier__native_address native = {0};
    socklen_t size = pier__address_to_native(address, &native);
    if (size == 0) {
        return pier__sys_map(EAFNOSUPPORT);
    }
    if (connect((int)socket, &native.any, size) == 0) {
        return 0;
    }
    /* Interrupted or not, a TCP connect goes on in the background. */
    return errno == EINPROGRESS || errno == EINTR ? PIER__IN_PROGRESS : pier__sys_errno();
}

int pier__sys_connect_result(pier_descriptor socket)
{
    PIER__FAULT(NAME);
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt((int)socket, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
        return pier__sys_errno();
    }
    return error == 0 ? 0 : pier__sys_map(error);
}

/* A call that can't sleep isn't interrupted on any system known; if one is, it says PIER_EINTR, and
 * the caller tries again. To restart it here would cost saving its arguments, each time. */
#ifdef PIER__DIRECT_CALLS
/* Apart, since most calls succeed. */
PIER__COLD static int64_t direct_failure(int64_t result)
{
    return pier__sys_map((int)-result);
}

int64_t pier__sys_receive(pier_descriptor socket, void *memory, size_t size)
{
    PIER__FAULT(RECEIVE);
    int64_t result = pier__linux_call(SYS_recvfrom, socket, memory, size, MSG_DONTWAIT);
    return PIER__LIKELY(result >= 0) ? result : direct_failure(result);
}

int64_t pier__sys_send(pier_descriptor socket, const void *memory, size_t size)
{
    PIER__FAULT(SEND);
    int64_t result = pier__linux_call(SYS_sendto, socket, memory, size,
                                      MSG_DONTWAIT | MSG_NOSIGNAL);
    return PIER__LIKELY(result >= 0) ? result : direct_failure(result);
}
#else
int64_t pier__sys_receive(pier_descriptor socket, void *memory, size_t size)
{
    PIER__FAULT(RECEIVE);
    return pier__sys_result(recv((int)socket, memory, size, MSG_DONTWAIT));
}

int64_t pier__sys_send(pier_descriptor socket, const void *memory, size_t size)
{
    PIER__FAULT(SEND);
    return pier__sys_result(send((int)socket, memory, size, MSG_DONTWAIT | MSG_NOSIGNAL));
}
#endif

int64_t pier__sys_send_vectored(pier_descriptor socket, const struct pier_vector *vectors,
                                size_t count)
{
    PIER__FAULT(SEND);
    struct iovec pieces[PIER__VECTORS_MAX];
    for (size_t i = 0; i < count; i++) {
        pieces[i].iov_base = (void *)(uintptr_t)vectors[i].data;
        pieces[i].iov_len = vectors[i].size;
    }
    struct msghdr message = {.msg_iov = pieces};
    message.msg_iovlen = (__typeof__(message.msg_iovlen))count;
    for (;;) {
        ssize_t result = sendmsg((int)socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (result >= 0 || errno != EINTR) {
            return pier__sys_result(result);
        }
    }
}

int pier__sys_shutdown(pier_descriptor socket)
{
    PIER__FAULT(SHUTDOWN);
    return shutdown((int)socket, SHUT_WR) < 0 ? pier__sys_errno() : 0;
}

uint32_t pier__sys_unsent(pier_descriptor socket)
{
    int bytes = 0, result = -1;
#if defined(__linux__)
    result = ioctl((int)socket, TIOCOUTQ, &bytes); /* SIOCOUTQ is another name of it */
#elif defined(FIONWRITE)
    result = ioctl((int)socket, FIONWRITE, &bytes);
#elif defined(SO_NWRITE)
    result = getsockopt((int)socket, SOL_SOCKET, SO_NWRITE, &bytes, &(socklen_t){sizeof(bytes)});
#else
    (void)socket;
#endif
    return result < 0 ? 0 : (uint32_t)bytes;
}

int pier__sys_local_address(pier_descriptor socket, struct pier_address *address)
{
    PIER__FAULT(NAME);
    union pier__native_address native = {0};
    socklen_t size = sizeof(native);
    if (getsockname((int)socket, &native.any, &size) < 0) {
        return pier__sys_errno();
    }
    pier__address_from_native(address, &native, size);
    return 0;
}

int pier__sys_peer_address(pier_descriptor socket, struct pier_address *address)
{
    PIER__FAULT(NAME);
    union pier__native_address native = {0};
    socklen_t size = sizeof(native);
    if (getpeername((int)socket, &native.any, &size) < 0) {
        return pier__sys_errno();
    }
    pier__address_from_native(address, &native, size);
    return 0;
}

int pier__sys_set_no_delay(pier_descriptor socket, bool on)
{
    return set_option(socket, IPPROTO_TCP, TCP_NODELAY, on);
}

int pier__sys_set_keep_alive(pier_descriptor socket, unsigned idle_s, unsigned interval_s,
                             unsigned count)
{
    int error = set_option(socket, SOL_SOCKET, SO_KEEPALIVE, idle_s != 0);
    if (error != 0 || idle_s == 0) {
        return error;
    }
#if defined(TCP_KEEPIDLE)
    error = set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, (int)idle_s);
#elif defined(TCP_KEEPALIVE)
    error = set_option(socket, IPPROTO_TCP, TCP_KEEPALIVE, (int)idle_s);
#endif
#ifdef TCP_KEEPINTVL
    if (error == 0 && interval_s != 0) {
        error = set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, (int)interval_s);
    }
#endif
#ifdef TCP_KEEPCNT
    if (error == 0 && count != 0) {
        error = set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, (int)count);
    }
#endif
    (void)interval_s;
    (void)count;
    return error;
}

int pier__sys_set_buffer_sizes(pier_descriptor socket, size_t receive, size_t send)
{
    int error = 0;
    if (receive != 0) {
        error = set_option(socket, SOL_SOCKET, SO_RCVBUF,
                           receive > 1 << 30 ? 1 << 30 : (int)receive);
    }
    if (error == 0 && send != 0) {
        error = set_option(socket, SOL_SOCKET, SO_SNDBUF, send > 1 << 30 ? 1 << 30 : (int)send);
    }
    return error;
}

int pier__sys_set_linger(pier_descriptor socket, int seconds)
{
    PIER__FAULT(OPTION);
    struct linger linger = {.l_onoff = seconds >= 0, .l_linger = seconds > 0 ? seconds : 0};
    return setsockopt((int)socket, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0
               ? pier__sys_errno()
               : 0;
}

void pier__sys_choose_port_late(pier_descriptor socket)
{
#ifdef __linux__
    enum { BIND_ADDRESS_NO_PORT = 24 }; /* IP_BIND_ADDRESS_NO_PORT, also of IPv6; Linux 4.2 */
    set_option(socket, IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1); /* else bind() chooses it */
#else
    (void)socket;
#endif
}

int pier__sys_set_reuse_address(pier_descriptor socket)
{
    return set_option(socket, SOL_SOCKET, SO_REUSEADDR, 1);
}

int pier__sys_set_reuse_port(pier_descriptor socket)
{
    /* Only where the system balances between the listeners: on macOS, NetBSD and OpenBSD the last
     * one takes all. */
#if defined(SO_REUSEPORT_LB)
    return set_option(socket, SOL_SOCKET, SO_REUSEPORT_LB, 1);
#elif defined(__linux__)
    return set_option(socket, SOL_SOCKET, SO_REUSEPORT, 1);
#else
    (void)socket;
    return pier__sys_map(EOPNOTSUPP);
#endif
}

int pier__sys_set_dual_stack(pier_descriptor socket, bool on)
{
    return set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, !on);
}

int pier__sys_unlink_stale(const struct pier_address *address)
{
    union pier__native_address native = {0};
    socklen_t size = pier__address_to_native(address, &native);
    struct stat status;
    if (address->family != PIER_ADDRESS_UNIX || size == 0 || address->u.path[0] == '\0') {
        return 0;
    }
    if (lstat(native.unix_domain.sun_path, &status) < 0 || !S_ISSOCK(status.st_mode)) {
        return 0; /* nothing there, or not ours to remove: bind will say */
    }
    /* Nonblocking, since a live listener with a full backlog would hold us up. */
    pier_descriptor probe = pier__sys_socket(PIER_ADDRESS_UNIX, true);
    if (probe < 0) {
        return (int)probe;
    }
    bool stale = connect((int)probe, &native.any, size) < 0 && errno == ECONNREFUSED;
    close((int)probe);
    return stale && unlink(native.unix_domain.sun_path) < 0 ? pier__sys_errno() : 0;
}

int pier__sys_socket_pair(pier_descriptor pair[2], bool nonblocking)
{
    PIER__FAULT(PAIR);
    int descriptors[2];
#ifdef SOCK_CLOEXEC
    int flags = SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
    if (socketpair(AF_UNIX, flags, 0, descriptors) < 0) {
        return pier__sys_errno();
    }
    pair[0] = without_sigpipe(descriptors[0]);
    pair[1] = without_sigpipe(descriptors[1]);
#else
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, descriptors) < 0) {
        return pier__sys_errno();
    }
    pair[0] = prepare((int)without_sigpipe(descriptors[0]), nonblocking);
    pair[1] = prepare((int)without_sigpipe(descriptors[1]), nonblocking);
    if (pair[0] < 0 || pair[1] < 0) {
        pier_descriptor bad = pair[0] < 0 ? pair[0] : pair[1];
        close((int)(pair[0] < 0 ? pair[1] : pair[0]));
        return (int)bad;
    }
#endif
    return 0;
}
