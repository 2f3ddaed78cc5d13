/*
 * EVFILT_SIGNAL: the knotes. disposition.c does the noticing, for the whole process.
 *
 * A knote remembers how many deliveries of its signal it has returned, and `data` is what came
 * since. Queues with such knotes have the process's eventfd, edge-triggered: each delivery writes
 * to it, and each queue then compares the counts.
 */
#include "kq.h"

#include <errno.h>

/* Called when the first knote comes, and when the last has gone. */
static int watch_process(struct kq *q)
{
    int error = pier__kq_source_add(q, SOURCE_SIGNAL, pier__kq_signal_eventfd(), EPOLLIN | EPOLLET);

    if (error != 0)
        return error;
    return pier__kq_source_add(q, SOURCE_SIGNAL_BLOCKED, pier__kq_signal_blockedfd(),
                               EPOLLIN | EPOLLET);
}

static void unwatch_process(struct kq *q)
{
    for (int source = SOURCE_SIGNAL; source <= SOURCE_SIGNAL_BLOCKED; source++) {
        if (q->sources[source].fd != -1)
            pier__kq_epoll_ctl(q->fd, EPOLL_CTL_DEL, q->sources[source].fd, NULL);
        q->sources[source].fd = -1;
    }
}

static int attach(struct kq *q, struct knote *note)
{
    int signal = note->event.ident < 65 ? (int)note->event.ident : 0;
    int error = pier__kq_signal_watch(signal);

    if (error != 0)
        return error;
    note->u.signal.seen = pier__kq_signal_count(signal);
    if (q->signal_count == 0)
        error = watch_process(q);
    if (error != 0) {
        unwatch_process(q);
        pier__kq_signal_unwatch(signal);
        return error;
    }
    q->signal_count++;
    return 0;
}

static bool has_news(const struct knote *note)
{
    return pier__kq_signal_count((int)note->event.ident) != note->u.signal.seen;
}

static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    (void)change;
    pier__kq_signal_adapt((int)note->event.ident);
    return has_news(note) ? pier__kq_activate(q, note) : 0;
}

static int detach(struct kq *q, struct knote *note, bool spent)
{
    (void)spent;
    pier__kq_signal_unwatch((int)note->event.ident);
    if (--q->signal_count == 0)
        unwatch_process(q);
    return 0;
}

static bool report(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    uint64_t count = pier__kq_signal_count((int)note->event.ident);

    (void)q;
    (void)ready;
    out->data = (int64_t)(count - note->u.signal.seen);
    note->u.signal.seen = count;
    return out->data != 0;
}

static void silence(struct kq *q, struct knote *note)
{
    (void)q;
    (void)note;
}

/* Few signals exist, so each is looked for in the table of knotes. */
void pier__kq_signals_collect(struct kq *q)
{
    for (uintptr_t signal = 1; signal < 65; signal++) {
        struct knote *note = pier__kq_find(q, &pier__kq_signal, signal);

        if (note && has_news(note))
            pier__kq_activate(q, note);
    }
}

void pier__kq_signals_refresh(struct kq *q)
{
    for (uintptr_t signal = 1; signal < 65; signal++) {
        if (pier__kq_find(q, &pier__kq_signal, signal))
            pier__kq_signal_adapt((int)signal);
    }
}

const struct pier__kq_filter pier__kq_signal = {
    .attach = attach,
    .modify = modify,
    .detach = detach,
    .report = report,
    .silence = silence,
    .implied = EV_CLEAR,
};
