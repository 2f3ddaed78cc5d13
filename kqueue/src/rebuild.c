/*
 * A new epoll for a queue whose old one can't be told to forget.
 *
 * epoll watches files, not numbers: when the program closes a descriptor of which a duplicate lives
 * on (in a child, say), the registration stays, and epoll_ctl needs the number that is gone to
 * remove it. Level-triggered and ready, it would end every wait at once for ever. kevent() notices
 * waits that bring only events of nobody, and has the queue move to a fresh epoll, in which only
 * what is still watched is registered; dup3() puts it under the old number. A foreign epoll or
 * poll() in progress on the queue keeps looking at the old one: see docs/kqueue.md.
 */
#include "kq.h"

#include <errno.h>
#include <unistd.h>

/* Edge-triggered knotes whose condition holds are returned once more; BSD wouldn't. */
static int register_note(const struct knote *note, int epoll, int side)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
    int fd = (int)note->event.ident;

    event.data.u64 = pier__kq_tag(note);
    if (note->filter == &pier__kq_process) {
        fd = note->u.process.pidfd;
        if (note->disabled)
            event.events = EPOLLET | EPOLLONESHOT;
    } else {
        event.events = pier__kq_epoll_mask(note);
    }
    if (note->filter == &pier__kq_write)
        epoll = side;
    return pier__kq_epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void register_notes(struct kq *q, int epoll, int side)
{
    for (uint32_t index = 0;; index++) {
        struct knote *note = pier__kq_at(q, index);

        if (!note)
            return;
        if (!note->in_use || !note->registered)
            continue;
        if (register_note(note, epoll, side) == -1) {
            note->registered = false;
            pier__kq_drop(q, note, false);
        }
    }
}

static int register_sources(const struct kq *q, int epoll, int side)
{
    for (int source = 0; source < SOURCE_COUNT; source++) {
        struct epoll_event event = {.events = q->sources[source].events};
        int fd = source == SOURCE_SIDE ? side : q->sources[source].fd;

        event.data.u64 = pier__kq_source_tag((enum pier__kq_source)source);
        if (fd != -1 && pier__kq_epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == -1)
            return -1;
    }
    return 0;
}

/* Ends the waits in the old epoll: its bell is readable, now for all of them. */
static void wake_sleepers(const struct kq *q)
{
    struct epoll_event event = {.events = EPOLLIN};

    event.data.u64 = pier__kq_source_tag(SOURCE_BELL);
    pier__kq_epoll_ctl(q->fd, EPOLL_CTL_MOD, q->sources[SOURCE_BELL].fd, &event);
}

void pier__kq_rebuild(struct kq *q)
{
    int old_side = q->sources[SOURCE_SIDE].fd;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int side = old_side == -1 ? -1 : epoll_create1(EPOLL_CLOEXEC);

    q->stale_streak = 0;
    if (epoll == -1 || (old_side != -1 && side == -1) || register_sources(q, epoll, side) != 0) {
        /* No descriptors left: the queue works on, and spins until there are some. */
        if (epoll != -1)
            close(epoll);
        if (side != -1)
            close(side);
        return;
    }
    register_notes(q, epoll, side);
    wake_sleepers(q);
    pier__kq_replace_epoll(q, epoll);
    close(epoll);
    if (old_side != -1)
        close(old_side);
    q->sources[SOURCE_SIDE].fd = side;
    q->bell_rung = false;
    if (q->active_count > 0)
        pier__kq_ring(q);
}
