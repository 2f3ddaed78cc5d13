/*
 * What a socket or pipe says of itself: connections waiting, room to write, what it died of.
 *
 * The numbers for kevent's `data` and `fflags`, at one or two system calls each; docs/kqueue.md has
 * the price list. Nothing here takes anything from the socket: SO_ERROR would clear the error that
 * the program is about to look for, so the error is inferred from what TCP_INFO remembers.
 */
#include "kq.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* The kernel's own have negative ints in them. */
#define ATTRIBUTE_HEADER sizeof(struct nlattr)
#define ALIGN_ATTRIBUTE(size) (((size) + 3U) & ~(size_t)3U)
/* TCP_LISTEN and TCP_CLOSE; the kernel's header for programs leaves them out. */
#define STATE_LISTEN 10
#define STATE_CLOSED 7
#define TCP_INFO_SIZE_MIN (offsetof(struct tcp_info, tcpi_total_retrans) + sizeof(uint32_t))
/* The words of SO_MEMINFO, <linux/sock_diag.h>, and as many of them as are needed. */
#define MEMINFO_WORDS 9
#define MEMINFO_SIZE_MIN ((SK_MEMINFO_WMEM_QUEUED + 1) * sizeof(uint32_t))

/*
 * False if it isn't TCP, and for an answer shorter than Linux 2.6 gave: qemu-user hands out the
 * first word alone, which on big-endian machines is turned round besides. Later fields that an old
 * kernel leaves out are 0.
 */
static bool get_tcp_info(int fd, struct tcp_info *info)
{
    socklen_t size = sizeof(*info);

    memset(info, 0, sizeof(*info));
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 && size >= TCP_INFO_SIZE_MIN;
}

/* The queue length in the kernel's answer about the listening Unix socket, or -1. */
static int parse_unix_answer(const char *answer, ssize_t size)
{
    struct nlmsghdr header;
    size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct unix_diag_msg));

    if (size < (ssize_t)sizeof(header))
        return -1;
    memcpy(&header, answer, sizeof(header));
    if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY)
        return -1;
    while (at + ATTRIBUTE_HEADER <= (size_t)size) {
        struct nlattr attribute;
        struct unix_diag_rqlen length;

        memcpy(&attribute, &answer[at], sizeof(attribute));
        if (attribute.nla_type == UNIX_DIAG_RQLEN) {
            if (at + ATTRIBUTE_HEADER + sizeof(length) > (size_t)size)
                return -1;
            memcpy(&length, &answer[at + ATTRIBUTE_HEADER], sizeof(length));
            return (int)length.udiag_rqueue;
        }
        if (attribute.nla_len < ATTRIBUTE_HEADER)
            return -1;
        at += ALIGN_ATTRIBUTE((size_t)attribute.nla_len);
    }
    return -1;
}

/* Unix sockets have no option for it; the kernel's socket statistics know. */
static int unix_backlog(int fd)
{
    struct {
        struct nlmsghdr header;
        struct unix_diag_req request;
    } question = {
        .header = {.nlmsg_len = sizeof(question),
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST},
        .request = {.sdiag_family = AF_UNIX,
                    .udiag_states = UINT32_MAX,
                    .udiag_show = UDIAG_SHOW_RQLEN,
                    .udiag_cookie = {UINT32_MAX, UINT32_MAX}},
    };
    struct stat status;
    char answer[512];
    ssize_t size = -1;
    int netlink;

    if (pier__kq_stat(fd, &status) == -1)
        return -1;
    question.request.udiag_ino = (uint32_t)status.st_ino;
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    if (netlink == -1)
        return -1;
    if (send(netlink, &question, sizeof(question), 0) == (ssize_t)sizeof(question))
        size = recv(netlink, answer, sizeof(answer), 0);
    close(netlink);
    return parse_unix_answer(answer, size);
}

int pier__kq_backlog(int fd)
{
    struct tcp_info info;
    int count;

    if (get_tcp_info(fd, &info) && info.tcpi_state == STATE_LISTEN)
        return (int)info.tcpi_unacked;
    count = unix_backlog(fd);
    return count == -1 ? 1 : count; /* epoll said that there is one at least. */
}

/*
 * Called for sockets with EPOLLERR that are over. A connection that never carried anything was
 * refused, unless its last SYN was sent in vain; one that did was reset. What isn't known to be
 * either is called reset.
 */
int pier__kq_socket_error(int fd)
{
    struct tcp_info info;
    int attempts = 0;
    socklen_t size = sizeof(attempts);

    if (!get_tcp_info(fd, &info))
        return ECONNRESET;
    if (info.tcpi_rtt != 0 || info.tcpi_bytes_acked != 0 || info.tcpi_bytes_received != 0)
        return ECONNRESET;
    if (getsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &attempts, &size) == 0 &&
        info.tcpi_retransmits >= attempts)
        return ETIMEDOUT;
    return ECONNREFUSED;
}

/* Not before Linux 4.12, and of qemu-user one word. */
static bool get_memory_info(int fd, uint32_t words[MEMINFO_WORDS])
{
    socklen_t size = MEMINFO_WORDS * sizeof(words[0]);

    memset(words, 0, size);
    return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, words, &size) == 0 && size >= MEMINFO_SIZE_MIN;
}

static bool has_option(int fd, int level, int option)
{
    int value = 0;
    socklen_t size = sizeof(value);

    return getsockopt(fd, level, option, &value, &size) == 0 && value != 0;
}

/*
 * An error of TCP ends the connection, and poll() says so, too. For the others nobody tells, but
 * messages in the error queue take of the memory for receiving, and nothing else does where there
 * is nothing to read. IP_RECVERR puts a message into the queue and sets the error as well.
 */
enum pier__kq_error pier__kq_error_kind(int fd)
{
    uint32_t words[MEMINFO_WORDS];
    struct tcp_info info;

    if (!get_tcp_info(fd, &info) || info.tcpi_state == STATE_CLOSED) {
        if (!get_memory_info(fd, words))
            return ERROR_UNKNOWN;
        if (words[SK_MEMINFO_RMEM_ALLOC] == 0)
            return ERROR_OF_SOCKET;
    }
    return has_option(fd, IPPROTO_IP, IP_RECVERR) || has_option(fd, IPPROTO_IPV6, IPV6_RECVERR)
               ? ERROR_UNKNOWN
               : ERROR_QUEUE;
}

/*
 * For want of SO_MEMINFO: when epoll calls a socket writable, at least a third of its buffer is
 * free (a third for TCP, half for datagrams, three quarters for Unix sockets).
 */
static int64_t least_space(int fd)
{
    int total = 0;
    socklen_t size = sizeof(total);

    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &total, &size) == 0 ? total / 3 : 1;
}

/*
 * Linux counts the memory of buffers, not bytes, so what fits is a little less than what is free:
 * a thirty-second is held back, and a write of `data` bytes is taken in one go (test: write_test).
 */
int64_t pier__kq_socket_space(int fd)
{
    uint32_t words[MEMINFO_WORDS], used;
    int64_t space;

    if (!get_memory_info(fd, words)) {
        space = least_space(fd);
        return space - space / 32;
    }
    used = words[SK_MEMINFO_WMEM_QUEUED] > words[SK_MEMINFO_WMEM_ALLOC]
               ? words[SK_MEMINFO_WMEM_QUEUED]
               : words[SK_MEMINFO_WMEM_ALLOC];
    space = (int64_t)words[SK_MEMINFO_SNDBUF] - (int64_t)used;
    space -= space / 32;
    return space > 0 ? space : 0;
}

/* A writable pipe takes PIPE_BUF bytes, whatever its pages are filled with. */
int64_t pier__kq_pipe_space(int fd)
{
    int size = fcntl(fd, F_GETPIPE_SZ), used = 0;

    if (size == -1 || ioctl(fd, FIONREAD, &used) == -1)
        return PIPE_BUF;
    return size - used > PIPE_BUF ? size - used : PIPE_BUF;
}
