/*
 * EVFILT_PROC: the end of a process by a pidfd, its fork() and execve() by the process connector.
 *
 * The pidfd is what is watched, so a number that is given to a new process later is no danger. The
 * status for `data` is asked for without reaping: waitid() for our own children; for others /proc,
 * while they are zombies; and on Linux 6.15 or later the pidfd itself remembers.
 */
#include "kq.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECTOR_NOTES (NOTE_FORK | NOTE_EXEC)
#define ALL_NOTES (NOTE_EXIT | CONNECTOR_NOTES)
#define ID_PIDFD ((idtype_t)3) /* P_PIDFD, which C libraries have got late */

/* PIDFD_GET_INFO of <linux/pidfd.h>, Linux 6.13; PIDFD_INFO_EXIT since 6.15. */
struct pidfd_answer {
    uint64_t mask, cgroup;
    uint32_t ids[11];
    int32_t exit_code;
};
#define PIDFD_ASK _IOWR(0xff, 11, struct pidfd_answer)
#define PIDFD_ANSWER_EXIT (1U << 3)

/* The status. */

/* Our own child, whether reaped later or not. */
static bool status_of_child(int pidfd, int *status)
{
    siginfo_t info;

    memset(&info, 0, sizeof(info));
    if (waitid(ID_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == -1 || info.si_pid == 0)
        return false;
    if (info.si_code == CLD_EXITED)
        *status = (info.si_status & 0xff) << 8;
    else
        *status = info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
    return true;
}

/* The 52nd field of /proc/PID/stat; readable for processes that we might also trace. */
static bool parse_stat(char *text, int *status)
{
    char *field = strrchr(text, ')');

    if (!field || strlen(field) < 3 || field[2] != 'Z')
        return false;
    for (int number = 2; number < 52; number++) {
        field = strchr(field + 1, ' ');
        if (!field)
            return false;
    }
    *status = (int)strtol(field + 1, NULL, 10);
    return true;
}

static bool status_of_zombie(int pidfd, pid_t pid, int *status)
{
    char path[32], text[1024];
    ssize_t size;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return false;
    size = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (size <= 0)
        return false;
    text[size] = '\0';
    /* If it still is there now, the number wasn't another process's before. */
    return parse_stat(text, status) &&
           (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM);
}

static bool status_of_reaped(int pidfd, int *status)
{
    struct pidfd_answer answer;

    memset(&answer, 0, sizeof(answer));
    answer.mask = PIDFD_ANSWER_EXIT;
    if (syscall(SYS_ioctl, pidfd, PIDFD_ASK, &answer) == -1 || !(answer.mask & PIDFD_ANSWER_EXIT))
        return false;
    *status = answer.exit_code;
    return true;
}

static int exit_status(const struct knote *note)
{
    int pidfd = note->u.process.pidfd, status = 0;

    if (!status_of_child(pidfd, &status) &&
        !status_of_zombie(pidfd, (pid_t)note->event.ident, &status))
        status_of_reaped(pidfd, &status);
    return status;
}

/* The filter. */

static int set_epoll(struct kq *q, int operation, struct knote *note)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};

    if (note->disabled)
        event.events = EPOLLET | EPOLLONESHOT;
    event.data.u64 = pier__kq_tag(note);
    return pier__kq_epoll_ctl(q->fd, operation, note->u.process.pidfd, &event) == -1 ? errno : 0;
}

/* Opens or closes the connector as the wish for its news comes and goes. */
static int change_wish(struct kq *q, unsigned int old, unsigned int wanted)
{
    if (wanted & ~ALL_NOTES)
        return EINVAL;
    if (wanted & CONNECTOR_NOTES && !(old & CONNECTOR_NOTES)) {
        int error = q->connector_count == 0 ? pier__kq_connector_open(q) : 0;

        if (error != 0)
            return error;
        q->connector_count++;
    }
    if (old & CONNECTOR_NOTES && !(wanted & CONNECTOR_NOTES) && --q->connector_count == 0)
        pier__kq_source_close(q, SOURCE_CONNECTOR);
    return 0;
}

static int attach(struct kq *q, struct knote *note)
{
    int error;

    if (note->event.ident == 0 || note->event.ident > INT_MAX)
        return ESRCH;
    note->u.process.pidfd = (int)syscall(SYS_pidfd_open, (pid_t)note->event.ident, 0);
    if (note->u.process.pidfd == -1) {
        if (errno == ENOSYS)
            return ENOTSUP; /* Before Linux 5.3. */
        /* EINVAL, ENOENT: the number of a thread, which BSD's filter doesn't know. */
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? errno : ESRCH;
    }
    error = set_epoll(q, EPOLL_CTL_ADD, note);
    if (error == 0)
        error = change_wish(q, 0, note->event.fflags);
    if (error != 0)
        close(note->u.process.pidfd);
    else
        note->registered = true;
    return error;
}

static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    if (change->flags & EV_ADD) {
        int error = change_wish(q, note->event.fflags, change->fflags);

        if (error != 0)
            return error;
        note->event.fflags = change->fflags;
        note->event.data = change->data;
    }
    if (note->u.process.happened & note->event.fflags)
        pier__kq_activate(q, note);
    return set_epoll(q, EPOLL_CTL_MOD, note);
}

static int detach(struct kq *q, struct knote *note, bool spent)
{
    (void)spent;
    change_wish(q, note->event.fflags, 0);
    pier__kq_close(note->u.process.pidfd, "pidfd");
    return 0;
}

static bool has_ended(const struct knote *note)
{
    struct pollfd poll_fd = {.fd = note->u.process.pidfd, .events = POLLIN};

    return poll(&poll_fd, 1, 0) > 0;
}

static bool report(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    out->fflags = note->u.process.happened & note->event.fflags;
    note->u.process.happened = 0;
    if (ready == 0)
        return out->fflags != 0;
    if (!has_ended(note)) {
        set_epoll(q, EPOLL_CTL_MOD, note);
        return false;
    }
    /* What it did before it ended is in the connector by now. */
    if (note->event.fflags & CONNECTOR_NOTES)
        pier__kq_connector_read(q);
    out->fflags |= (note->u.process.happened | NOTE_EXIT) & note->event.fflags;
    if (out->fflags == 0) {
        pier__kq_drop(q, note, false); /* Nobody asked, and nothing can follow. */
        return false;
    }
    out->flags |= EV_EOF | EV_ONESHOT;
    if (out->fflags & NOTE_EXIT)
        out->data = exit_status(note);
    return true;
}

static void silence(struct kq *q, struct knote *note)
{
    set_epoll(q, EPOLL_CTL_MOD, note);
}

const struct pier__kq_filter pier__kq_process = {
    .attach = attach,
    .modify = modify,
    .detach = detach,
    .report = report,
    .silence = silence,
    .implied = EV_CLEAR,
};
