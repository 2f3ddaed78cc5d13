/*
 * kevent(): apply the changes and wait. collect.c turns what epoll says into events.
 *
 * The wait is one epoll_wait on the program's own descriptor with no lock held, so any number of
 * threads may wait while others make changes. What it brings is looked at under the lock.
 *
 * A wait may bring nothing worth an event (another thread was faster, a filter says no): then it
 * goes on with what is left of the time.
 */
#include "kq.h"

#include <errno.h>
#include <limits.h>
#include <linux/time_types.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_SECOND 1000000000LL
#define NS_PER_MS 1000000LL
#define FOREVER INT64_MAX
/* Waits in a row that bring only events of nobody, before epoll is rebuilt. */
#define STALE_STREAK_MAX 4

/* Changes. */

static const struct pier__kq_filter *filter_of(short filter)
{
    switch (filter) {
    case EVFILT_READ: return &pier__kq_read;
    case EVFILT_WRITE: return &pier__kq_write;
    case EVFILT_VNODE: return &pier__kq_vnode;
    case EVFILT_PROC: return &pier__kq_process;
    case EVFILT_SIGNAL: return &pier__kq_signal;
    case EVFILT_TIMER: return &pier__kq_timer;
    case EVFILT_USER: return &pier__kq_user;
    default: return NULL;
    }
}

static int add_note(struct kq *q, const struct pier__kq_filter *filter, const struct kevent *change)
{
    struct knote *note = pier__kq_note_new(q, filter, change);
    int error;

    if (!note)
        return ENOMEM;
    note->event.flags = (unsigned short)((change->flags & PIER__KQ_STICKY) | filter->implied);
    note->disabled = (change->flags & EV_DISABLE) != 0;
    error = filter->attach(q, note);
    if (error != 0)
        pier__kq_note_free(q, note);
    return error;
}

static int change_note(struct kq *q, struct knote *note, const struct kevent *change)
{
    if (!(change->flags & EV_KEEPUDATA))
        note->event.udata = change->udata;
    for (int i = 0; i < 4; i++)
        note->event.ext[i] = change->ext[i];
    if (change->flags & EV_ADD)
        note->event.flags = (unsigned short)((change->flags & PIER__KQ_STICKY) |
                                             note->filter->implied);
    if (change->flags & EV_DISABLE)
        note->disabled = true;
    else if (change->flags & (EV_ENABLE | EV_ADD))
        note->disabled = false;
    if (note->disabled)
        pier__kq_deactivate(q, note);
    return note->filter->modify(q, note, change);
}

static int apply_change(struct kq *q, const struct kevent *change)
{
    const struct pier__kq_filter *filter = filter_of(change->filter);
    struct knote *note;

    if (!filter || change->flags & EV_FORCEONESHOT)
        return EINVAL;
    if (filter->is_descriptor && change->ident > INT_MAX)
        return EBADF;
    note = pier__kq_find(q, filter, change->ident);
    if (note && change->flags & EV_DELETE)
        return pier__kq_drop(q, note, false);
    if (note)
        return change_note(q, note, change);
    if (change->flags & EV_ADD)
        return add_note(q, filter, change);
    if (filter->is_descriptor && !pier__kq_is_open((int)change->ident))
        return EBADF;
    return ENOENT;
}

/*
 * Returns the number of events stored (errors and receipts), or -1 with *error set. `events` may be
 * `changes`: a result is stored at the place of its change or before it, after the change was read.
 */
static int apply_changes(struct kq *q, const struct kevent *changes, int nchanges,
                         struct kevent *events, int nevents, int *error)
{
    int stored = 0;

    for (int i = 0; i < nchanges; i++) {
        struct kevent change = changes[i];

        if (change.filter == 0)
            continue;
        *error = apply_change(q, &change);
        if (*error == 0 && !(change.flags & EV_RECEIPT))
            continue;
        if (stored == nevents) {
            if (*error != 0)
                return -1;
            continue;
        }
        change.flags = EV_ERROR;
        change.data = *error;
        events[stored++] = change;
    }
    return stored;
}

/* Time. */

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_SECOND + now.tv_nsec;
}

/* How long to wait: 0 not at all, FOREVER, or -1 if `timeout` isn't a time. */
static int64_t ns_of(const struct timespec *timeout)
{
    if (!timeout)
        return FOREVER;
    if (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= NS_PER_SECOND)
        return -1;
    if (timeout->tv_sec > INT_MAX)
        return FOREVER; /* As FreeBSD has it: 68 years and more are for ever. */
    return timeout->tv_sec * NS_PER_SECOND + timeout->tv_nsec;
}

/* Waits `ns`; never shorter. Whole milliseconds go to the call that all kernels have. */
static int wait_ready(int fd, struct epoll_event *ready, int room, int64_t ns)
{
    static atomic_bool has_no_pwait2;

    if (ns == FOREVER)
        return epoll_wait(fd, ready, room, -1);
#ifdef SYS_epoll_pwait2
    if ((ns % NS_PER_MS != 0 || ns / NS_PER_MS > INT_MAX) &&
        !atomic_load_explicit(&has_no_pwait2, memory_order_relaxed)) {
        struct __kernel_timespec time = {
            .tv_sec = ns / NS_PER_SECOND,
            .tv_nsec = ns % NS_PER_SECOND,
        };
        long count = syscall(SYS_epoll_pwait2, fd, ready, room, &time, NULL, (size_t)0);

        if (count != -1 || errno != ENOSYS)
            return (int)count;
        /* Linux before 5.11, and some sandboxes. */
        atomic_store_explicit(&has_no_pwait2, true, memory_order_relaxed);
    }
#endif
    ns = (ns + NS_PER_MS - 1) / NS_PER_MS;
    return epoll_wait(fd, ready, room, ns > INT_MAX ? INT_MAX : (int)ns);
}

/* The wait. */

/* Stores events; true if the wait itself brought something, even if nothing came of it. */
static int wait_and_collect(int fd, uint64_t life, struct kevent *events, int nevents, int64_t ns,
                            bool *woken)
{
    struct epoll_event ready[PIER__KQ_BATCH];
    int room = nevents < PIER__KQ_BATCH ? nevents : PIER__KQ_BATCH;
    int count = wait_ready(fd, ready, room, ns);
    struct kq *q;
    bool is_rebuilt = false;

    *woken = count > 0;
    if (count <= 0) {
        if (count == -1 && errno == EINVAL)
            errno = EBADF; /* Closed meanwhile, and the number isn't an epoll now. */
        return count;
    }
    q = pier__kq_lock(fd);
    if (q && q->life != life) {
        pier__kq_unlock(q);
        q = NULL;
    }
    if (!q) {
        errno = EBADF;
        return -1;
    }
    count = pier__kq_collect(q, ready, count, events, nevents);
    if (q->stale_streak >= STALE_STREAK_MAX) {
        pier__kq_rebuild(q);
        is_rebuilt = true;
    }
    pier__kq_unlock(q);
    if (is_rebuilt)
        pier__kq_refresh_watchers(fd);
    return count;
}

static int wait_for_events(int fd, uint64_t life, struct kevent *events, int nevents, int64_t ns)
{
    int64_t deadline = ns == 0 || ns == FOREVER ? ns : now_ns() + ns;

    for (int passes = 0;; passes++) {
        unsigned int swallowed = pier__kq_signals_swallowed();
        bool woken;
        int count = wait_and_collect(fd, life, events, nevents, ns > 0 ? ns : 0, &woken);

        if (count > 0 || (count == -1 && errno != EINTR))
            return count;
        if (count == -1) {
            /* BSD returns what the signal itself brought, rather than EINTR. */
            count = wait_and_collect(fd, life, events, nevents, 0, &woken);
            if (count != 0)
                return count;
            if (swallowed == pier__kq_signals_swallowed()) {
                errno = EINTR;
                return -1;
            }
        }
        if (deadline == 0) {
            /* What was there turned out to be nothing: there may be more behind it. */
            if (!woken || passes > STALE_STREAK_MAX)
                return 0;
        } else if (deadline != FOREVER) {
            ns = deadline - now_ns();
            if (ns <= 0 && (!woken || passes > STALE_STREAK_MAX))
                return 0;
        }
    }
}

/*
 * Applies the changes, looks at what no kernel source tells of, and stores what is owed. Returns as
 * apply_changes() does.
 */
static int prepare(int fd, const struct kevent *changes, int nchanges, struct kevent *events,
                   int nevents, uint64_t *life, int *error)
{
    struct kq *q;
    int stored;

    *life = nchanges == 0 ? pier__kq_peek(fd) : 0;
    if (*life != 0)
        return 0;
    q = pier__kq_lock(fd);
    if (!q) {
        *error = EBADF;
        return -1;
    }
    *life = q->life;
    stored = apply_changes(q, changes, nchanges, events, nevents, error);
    if (stored == 0 && nevents > 0) {
        if (q->signal_count > 0)
            pier__kq_signals_refresh(q);
        if (q->files)
            pier__kq_files_check(q);
        stored = pier__kq_collect_owed(q, events, nevents);
    }
    pier__kq_unlock(q);
    return stored;
}

static int change_and_wait(int kq, const struct kevent *changelist, int nchanges,
                           struct kevent *eventlist, int nevents, const struct timespec *timeout)
{
    uint64_t life;
    int64_t ns;
    int error = 0, stored;

    if (nchanges < 0 || nevents < 0) {
        errno = EINVAL;
        return -1;
    }
    if ((nchanges > 0 && !changelist) || (nevents > 0 && !eventlist)) {
        errno = EFAULT;
        return -1;
    }
    stored = prepare(kq, changelist, nchanges, eventlist, nevents, &life, &error);
    if (stored == -1) {
        errno = error;
        return -1;
    }
    if (stored > 0 || nevents == 0)
        return stored;

    ns = ns_of(timeout);
    if (ns == -1) {
        errno = EINVAL;
        return -1;
    }
    return wait_for_events(kq, life, eventlist, nevents, ns);
}

/* A system call that succeeds leaves errno alone, and so must this, whatever it tried. */
int kevent(int kq, const struct kevent *changelist, int nchanges, struct kevent *eventlist,
           int nevents, const struct timespec *timeout)
{
    int saved_errno = errno;
    int count = change_and_wait(kq, changelist, nchanges, eventlist, nevents, timeout);

    if (count != -1)
        errno = saved_errno;
    return count;
}
