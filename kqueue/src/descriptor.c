/*
 * EVFILT_READ and EVFILT_WRITE on what epoll can watch: sockets, pipes, terminals, other kqueues.
 *
 * A knote is one epoll registration from EV_ADD to its end, in the queue's epoll (read) or in the
 * second one (write). EV_CLEAR is EPOLLET; EV_ONESHOT and EV_DISPATCH are EPOLLONESHOT, so that the
 * kernel sees to it that one thread gets the event, and no call is needed to disarm. A disabled
 * knote stays registered, for nothing: that way the kernel keeps telling whether the number still
 * means the same file, since a registration ends when its file is closed.
 *
 * Where epoll is ready and the BSD filter isn't (a socket that isn't connected, NOTE_LOWAT), the
 * knote is parked: edge-triggered until its filter agrees, or level-triggered waits would spin.
 *
 * A number that was closed and given to another file is noticed when epoll_ctl(MOD) answers ENOENT
 * (EV_ADD then begins anew, all else fails with ENOENT) or when the filter finds the number closed.
 */
#include "kq.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd_of(const struct knote *note)
{
    return (int)note->event.ident;
}

static bool fires_once(const struct knote *note)
{
    return (note->event.flags & (EV_ONESHOT | EV_DISPATCH)) != 0;
}

/* The registration. */

uint32_t pier__kq_epoll_mask(const struct knote *note)
{
    uint32_t mask = note->filter == &pier__kq_read ? EPOLLIN | EPOLLRDHUP : EPOLLOUT;

    if (note->disabled)
        return EPOLLET | EPOLLONESHOT;
    if (note->parked)
        return mask | EPOLLET;
    if (note->event.flags & EV_CLEAR)
        mask |= EPOLLET;
    if (fires_once(note))
        mask |= EPOLLONESHOT;
    return mask;
}

int pier__kq_epoll_of(struct kq *q, const struct knote *note)
{
    return note->filter == &pier__kq_write ? q->sources[SOURCE_SIDE].fd : q->fd;
}

static int set_epoll(struct kq *q, int operation, struct knote *note)
{
    struct epoll_event event = {.events = pier__kq_epoll_mask(note)};

    event.data.u64 = pier__kq_tag(note);
    return pier__kq_epoll_ctl(pier__kq_epoll_of(q, note), operation, fd_of(note), &event) == -1
               ? errno
               : 0;
}

/*
 * For a registration that must be there: ENOENT if the number is another file's now. epoll also
 * answers EPERM then, for a file that it can't watch, and EINVAL for the queue's own epoll.
 */
static int set_registered(struct kq *q, int operation, struct knote *note)
{
    int error = set_epoll(q, operation, note);

    return error == EPERM || error == EINVAL ? ENOENT : error;
}

static int prepare_side(struct kq *q)
{
    int side, error;

    if (q->sources[SOURCE_SIDE].fd != -1)
        return 0;
    side = epoll_create1(EPOLL_CLOEXEC);
    if (side == -1)
        return errno;
    error = pier__kq_source_add(q, SOURCE_SIDE, side, EPOLLIN);
    if (error != 0)
        close(side);
    return error;
}

/* First registration. A spent EV_ONESHOT may have left one behind, which is taken over. */
static int add_epoll(struct kq *q, struct knote *note)
{
    int error = set_epoll(q, EPOLL_CTL_ADD, note);

    if (error == EEXIST)
        error = set_epoll(q, EPOLL_CTL_MOD, note);
    note->registered = error == 0;
    if (error == EPERM)
        return pier__kq_file_attach(q, note);
    return error;
}

/* Drops the knotes of `fd` other than `fresh` that belong to a file closed since. */
static void forget_descriptor(struct kq *q, int fd, const struct knote *fresh)
{
    const struct pier__kq_filter *filters[] = {&pier__kq_read, &pier__kq_write};

    for (int i = 0; i < 2; i++) {
        struct knote *note = pier__kq_find(q, filters[i], (uintptr_t)fd);

        if (!note || note == fresh)
            continue;
        if (note->registered ? set_epoll(q, EPOLL_CTL_MOD, note) != 0
                             : !pier__kq_file_is_same(note)) {
            note->registered = false;
            pier__kq_drop(q, note, false);
        }
    }
}

/* Tells epoll what the knote is now. `begins`: if the number means another file, watch that. */
static int update_epoll(struct kq *q, struct knote *note, bool begins)
{
    int error = set_registered(q, EPOLL_CTL_MOD, note);

    if (error != ENOENT || !begins)
        return error;
    /* A new life: events still under way for the old file must not be taken for this one. */
    note->generation++;
    note->kind = KIND_UNKNOWN;
    note->parked = false;
    error = add_epoll(q, note);
    if (error == 0)
        forget_descriptor(q, fd_of(note), note);
    return error;
}

/* The same for what epoll can't watch. */
static int update_file(struct kq *q, struct knote *note, bool begins)
{
    bool is_same = pier__kq_file_is_same(note);
    int error;

    if (!is_same && !begins)
        return pier__kq_is_open(fd_of(note)) ? ENOENT : EBADF;
    pier__kq_file_detach(q, note);
    error = add_epoll(q, note);
    if (error == 0 && !is_same)
        forget_descriptor(q, fd_of(note), note);
    return error;
}

static int attach_read(struct kq *q, struct knote *note)
{
    return add_epoll(q, note);
}

static int attach_write(struct kq *q, struct knote *note)
{
    int error;

    if (pier__kq_is_queue(fd_of(note)))
        return EINVAL;
    error = prepare_side(q);
    return error != 0 ? error : add_epoll(q, note);
}

static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    bool begins = (change->flags & EV_ADD) != 0;
    int error;

    if (begins) {
        note->event.fflags = change->fflags;
        note->event.data = change->data;
    }
    if (note->registered) {
        note->parked = note->parked && !begins;
        error = update_epoll(q, note, begins);
    } else {
        error = update_file(q, note, begins);
    }
    if (error != 0)
        pier__kq_drop(q, note, false);
    return error;
}

static int detach(struct kq *q, struct knote *note, bool spent)
{
    int error = 0;

    if (note->kind == KIND_FILE) {
        if (!spent && !pier__kq_file_is_same(note))
            error = pier__kq_is_open(fd_of(note)) ? ENOENT : EBADF;
        pier__kq_file_detach(q, note);
        return error;
    }
    /* What EPOLLONESHOT has disarmed may stay until the file is closed: one call saved. */
    if (!note->registered || (spent && !note->parked))
        return 0;
    return set_registered(q, EPOLL_CTL_DEL, note);
}

static void silence(struct kq *q, struct knote *note)
{
    if (note->registered && note->parked)
        set_epoll(q, EPOLL_CTL_MOD, note);
    note->parked = false;
}

/* Events. */

/* The number was closed while a duplicate keeps the file, and so epoll's interest, alive. */
static bool drop_stale(struct kq *q, struct knote *note)
{
    pier__kq_drop(q, note, false);
    return false;
}

/* epoll is ready and the filter isn't: wait for the next edge. */
static bool park(struct kq *q, struct knote *note)
{
    bool has_edges = note->event.flags & EV_CLEAR && !fires_once(note);

    if (!note->parked && !has_edges) {
        note->parked = true;
        set_epoll(q, EPOLL_CTL_MOD, note);
    }
    return false;
}

/*
 * epoll was ready, the descriptor isn't: another thread was faster, or the number means another
 * file now while a duplicate keeps the old one ready. epoll_ctl() tells, and arms a one-shot again.
 */
static bool rearm(struct kq *q, struct knote *note)
{
    return set_epoll(q, EPOLL_CTL_MOD, note) == 0 ? false : drop_stale(q, note);
}

/* There is an event: a parked knote goes back to its own mode. */
static bool confirm(struct kq *q, struct knote *note)
{
    if (note->parked && !fires_once(note)) {
        note->parked = false;
        set_epoll(q, EPOLL_CTL_MOD, note);
    }
    return true;
}

static bool learn_kind(struct knote *note)
{
    struct stat status;

    if (note->kind != KIND_UNKNOWN)
        return true;
    if (pier__kq_stat(fd_of(note), &status) == -1)
        return false;
    if (S_ISSOCK(status.st_mode))
        note->kind = KIND_SOCKET;
    else
        note->kind = S_ISFIFO(status.st_mode) ? KIND_PIPE : KIND_OTHER;
    return true;
}

/* Those of `events` that hold now, errors and hang-ups included. */
static short poll_now(int fd, short events)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};

    return poll(&poll_fd, 1, 0) > 0 ? poll_fd.revents : 0;
}

/*
 * Nothing but EPOLLERR. A message in the error queue is no event. Where it can't be told from an
 * error there is an event for each time that epoll wakes, and not for as long as it lasts.
 */
static bool report_error(struct kq *q, struct knote *note)
{
    enum pier__kq_error kind = ERROR_OF_SOCKET;

    if (learn_kind(note) && note->kind == KIND_SOCKET)
        kind = pier__kq_error_kind(fd_of(note));
    if (kind == ERROR_OF_SOCKET)
        return confirm(q, note);
    park(q, note);
    return kind == ERROR_UNKNOWN;
}

static bool report_read(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    bool is_over = (ready & (EPOLLRDHUP | EPOLLHUP)) != 0;
    int fd = fd_of(note), bytes = 0;

    if (note->kind == KIND_FILE)
        return pier__kq_file_report(q, note, out);
    if (ioctl(fd, FIONREAD, &bytes) == -1) {
        if (errno == EBADF)
            return drop_stale(q, note);
        /* EINVAL is a listening socket; all else can be read and doesn't say how much. */
        bytes = errno == EINVAL ? pier__kq_backlog(fd) : 1;
    }
    if ((ready & (EPOLLRDHUP | EPOLLHUP)) == EPOLLHUP) {
        if (!learn_kind(note))
            return drop_stale(q, note);
        if (note->kind == KIND_SOCKET)
            return park(q, note); /* Not connected: ready for poll(), not for a BSD filter. */
    }
    if (note->event.fflags & NOTE_LOWAT && bytes < note->event.data && !is_over &&
        !(ready & EPOLLERR))
        return park(q, note);
    if (bytes == 0 && !is_over) {
        short now = poll_now(fd, POLLIN);

        if (!(now & (POLLIN | POLLERR | POLLHUP)))
            return rearm(q, note);
        if (!(now & (POLLIN | POLLHUP)))
            return report_error(q, note);
    }
    out->data = bytes;
    if (is_over) {
        out->flags |= EV_EOF;
        if (ready & EPOLLERR)
            out->fflags = (unsigned int)pier__kq_socket_error(fd);
    }
    return confirm(q, note);
}

static bool report_socket_write(struct kq *q, struct knote *note, uint32_t ready,
                                struct kevent *out)
{
    int fd = fd_of(note);

    out->data = pier__kq_socket_space(fd);
    if (!(ready & (EPOLLOUT | EPOLLHUP)))
        return report_error(q, note);
    if (ready & EPOLLHUP) {
        if (!(poll_now(fd, POLLRDHUP) & POLLRDHUP))
            return park(q, note);
        out->flags |= EV_EOF;
        if (ready & EPOLLERR)
            out->fflags = (unsigned int)pier__kq_socket_error(fd);
    } else if (out->data == 0) {
        out->data = 1; /* epoll said that there is room. */
    }
    return confirm(q, note);
}

static bool report_write(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    if (note->kind == KIND_FILE)
        return pier__kq_file_report(q, note, out);
    if (!learn_kind(note))
        return drop_stale(q, note);
    if (note->kind == KIND_SOCKET)
        return report_socket_write(q, note, ready, out);
    if (ready & (EPOLLERR | EPOLLHUP))
        out->flags |= EV_EOF; /* The reader is gone: nothing fits, however empty the pipe is. */
    else
        out->data = note->kind == KIND_PIPE ? pier__kq_pipe_space(fd_of(note)) : 1;
    return confirm(q, note);
}

const struct pier__kq_filter pier__kq_read = {
    .attach = attach_read,
    .modify = modify,
    .detach = detach,
    .report = report_read,
    .silence = silence,
    .is_descriptor = true,
};

const struct pier__kq_filter pier__kq_write = {
    .attach = attach_write,
    .modify = modify,
    .detach = detach,
    .report = report_write,
    .silence = silence,
    .is_descriptor = true,
};
