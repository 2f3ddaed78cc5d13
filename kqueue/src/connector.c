/*
 * The process connector: the kernel's news of fork() and execve(), for NOTE_FORK and NOTE_EXEC.
 *
 * It reports every process of the machine over netlink, so it is open only while a knote of the
 * queue wants it. The kernel must have it (CONFIG_PROC_EVENTS) and lets only the first namespaces
 * listen, before Linux 6.6 only root; what refuses us becomes the errno of EV_ADD. News can be lost
 * when the socket's buffer overflows: a missed NOTE_FORK, never a false one.
 */
#include "kq.h"

#include <errno.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_WAIT_MS 100

static int ask(int fd, uint32_t operation)
{
    char packet[NLMSG_SPACE(sizeof(struct cn_msg) + sizeof(operation))];
    struct nlmsghdr header = {
        .nlmsg_len = NLMSG_LENGTH(sizeof(struct cn_msg) + sizeof(operation)),
        .nlmsg_type = NLMSG_DONE,
    };
    struct cn_msg message = {
        .id = {.idx = CN_IDX_PROC, .val = CN_VAL_PROC},
        .len = sizeof(operation),
    };

    memset(packet, 0, sizeof(packet));
    memcpy(packet, &header, sizeof(header));
    memcpy(&packet[NLMSG_HDRLEN], &message, sizeof(message));
    memcpy(&packet[NLMSG_HDRLEN + sizeof(message)], &operation, sizeof(operation));
    return send(fd, packet, header.nlmsg_len, 0) == -1 ? errno : 0;
}

/* Takes one piece of news off the socket: 1, or 0 if there is none. */
static int take(int fd, struct proc_event *news)
{
    char packet[1024];
    ssize_t size = recv(fd, packet, sizeof(packet), MSG_DONTWAIT);
    size_t start = NLMSG_HDRLEN + sizeof(struct cn_msg);

    while (size == -1 && errno == ENOBUFS)
        size = recv(fd, packet, sizeof(packet), MSG_DONTWAIT);
    if (size < (ssize_t)start)
        return 0;
    memset(news, 0, sizeof(*news));
    memcpy(news, &packet[start],
           (size_t)size - start < sizeof(*news) ? (size_t)size - start : sizeof(*news));
    return 1;
}

/* The kernel confirms within send() itself; nothing at all means that it won't. */
static int wait_for_answer(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    struct proc_event news;

    while (poll(&poll_fd, 1, ANSWER_WAIT_MS) > 0) {
        while (take(fd, &news)) {
            if (news.what == PROC_EVENT_NONE)
                return (int)news.event_data.ack.err;
        }
    }
    return ENOTSUP;
}

int pier__kq_connector_open(struct kq *q)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR);
    int error;

    if (fd == -1)
        return errno == EPROTONOSUPPORT || errno == EAFNOSUPPORT ? ENOTSUP : errno;
    error = bind(fd, (const struct sockaddr *)&address, sizeof(address)) == -1 ? errno : 0;
    if (error == 0)
        error = ask(fd, PROC_CN_MCAST_LISTEN);
    if (error == 0)
        error = wait_for_answer(fd);
    if (error == 0)
        error = pier__kq_source_add(q, SOURCE_CONNECTOR, fd, EPOLLIN);
    if (error != 0)
        close(fd);
    return error;
}

static void tell(struct kq *q, int pid, unsigned int happened)
{
    struct knote *note = pier__kq_find(q, &pier__kq_process, (uintptr_t)pid);

    if (!note || !(note->event.fflags & happened))
        return;
    note->u.process.happened |= happened;
    pier__kq_activate(q, note);
}

void pier__kq_connector_read(struct kq *q)
{
    struct proc_event news;

    while (q->sources[SOURCE_CONNECTOR].fd != -1 && take(q->sources[SOURCE_CONNECTOR].fd, &news)) {
        if (news.what == PROC_EVENT_EXEC)
            tell(q, news.event_data.exec.process_tgid, NOTE_EXEC);
        /* A new thread is a fork to the kernel, but not to the program. */
        if (news.what == PROC_EVENT_FORK &&
            news.event_data.fork.child_pid == news.event_data.fork.child_tgid)
            tell(q, news.event_data.fork.parent_tgid, NOTE_FORK);
    }
}
