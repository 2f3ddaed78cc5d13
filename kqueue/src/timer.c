/*
 * EVFILT_TIMER: a heap of timers per clock and queue, each with one timerfd set to the earliest.
 *
 * Any number of timers costs one descriptor. How often a timer expired is computed from its next
 * expiry and its period when the event is returned, so a late program sees one event with the right
 * count, as on BSD, and periods don't drift. An expired timer that found no room stays at the top
 * of the heap, where the timerfd, left as it is, keeps the queue readable.
 *
 * Disabled timers run on, outside the heap. NOTE_ABSTIME follows the wall clock, also when it is
 * set; all others the monotonic clock.
 */
#include "kq.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_SECOND 1000000000ULL
#define NS_MAX ((uint64_t)INT64_MAX)

/* The clock. */

static uint64_t now_of(bool wall)
{
    struct timespec now;

    clock_gettime(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t add_clamped(uint64_t a, uint64_t b)
{
    return b > NS_MAX - a ? NS_MAX : a + b;
}

static uint64_t multiply_clamped(uint64_t a, uint64_t b)
{
    return a != 0 && b > NS_MAX / a ? NS_MAX : a * b;
}

/* The heap. */

static struct pier__kq_heap *heap_of(struct kq *q, const struct knote *note)
{
    return &q->heaps[note->u.timer.wall];
}

static void put(struct pier__kq_heap *heap, uint32_t place, struct knote *note)
{
    heap->notes[place] = note;
    note->u.timer.place = place;
}

/* One that stays expired comes after those that expired before it was returned. */
static uint64_t order_of(const struct knote *note)
{
    return note->u.timer.returned_ns > note->u.timer.next_ns ? note->u.timer.returned_ns
                                                             : note->u.timer.next_ns;
}

static bool is_earlier(const struct knote *a, const struct knote *b)
{
    return order_of(a) < order_of(b);
}

static void sift_up(struct pier__kq_heap *heap, uint32_t place, struct knote *note)
{
    while (place > 0 && is_earlier(note, heap->notes[(place - 1) / 2])) {
        put(heap, place, heap->notes[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put(heap, place, note);
}

static void sift_down(struct pier__kq_heap *heap, uint32_t place, struct knote *note)
{
    for (;;) {
        uint32_t child = place * 2 + 1;

        if (child + 1 < heap->count && is_earlier(heap->notes[child + 1], heap->notes[child]))
            child++;
        if (child >= heap->count || !is_earlier(heap->notes[child], note))
            break;
        put(heap, place, heap->notes[child]);
        place = child;
    }
    put(heap, place, note);
}

static int heap_add(struct pier__kq_heap *heap, struct knote *note)
{
    if (heap->count == heap->room) {
        uint32_t room = heap->room ? heap->room * 2 : 16;
        struct knote **notes = realloc(heap->notes, room * sizeof(*notes));

        if (!notes)
            return ENOMEM;
        heap->notes = notes;
        heap->room = room;
    }
    sift_up(heap, heap->count++, note);
    return 0;
}

static void heap_remove(struct pier__kq_heap *heap, struct knote *note)
{
    uint32_t place = note->u.timer.place;
    struct knote *last;

    if (place == PIER__KQ_NOWHERE)
        return;
    note->u.timer.place = PIER__KQ_NOWHERE;
    last = heap->notes[--heap->count];
    if (last == note)
        return;
    if (place > 0 && is_earlier(last, heap->notes[(place - 1) / 2]))
        sift_up(heap, place, last);
    else
        sift_down(heap, place, last);
}

/* The timerfd. */

static int prepare_timerfd(struct kq *q, struct pier__kq_heap *heap, bool wall)
{
    int fd, error;

    if (heap->timerfd != -1)
        return 0;
    fd = timerfd_create(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd == -1)
        return errno;
    error = pier__kq_source_add(q, wall ? SOURCE_WALL_TIMER : SOURCE_TIMER, fd, EPOLLIN);
    if (error != 0) {
        close(fd);
        return error;
    }
    heap->timerfd = fd;
    return 0;
}

/* Sets the timerfd to the earliest timer, if that has changed; setting it also makes it unread. */
static void arm(struct pier__kq_heap *heap)
{
    uint64_t next = heap->count > 0 ? heap->notes[0]->u.timer.next_ns : 0;
    struct itimerspec setting = {.it_interval = {0}};

    if (next == heap->armed_ns)
        return;
    heap->armed_ns = next;
    setting.it_value.tv_sec = (time_t)(next / NS_PER_SECOND);
    setting.it_value.tv_nsec = (long)(next % NS_PER_SECOND);
    timerfd_settime(heap->timerfd, TFD_TIMER_ABSTIME, &setting, NULL);
}

/* The filter. */

/* Reads a program's `fflags` and `data`: nanoseconds, or EINVAL. */
static int read_time(const struct kevent *change, uint64_t *ns)
{
    uint64_t value = (uint64_t)change->data, unit;

    if (change->data < 0)
        return EINVAL;
    /* FreeBSD takes a period of 0 as the shortest there is; a one-shot of 0 is at once. */
    if (value == 0 && !(change->flags & EV_ONESHOT) && !(change->fflags & NOTE_ABSTIME))
        value = 1;
    switch (change->fflags & ~(unsigned int)NOTE_ABSTIME) {
    case NOTE_SECONDS: unit = NS_PER_SECOND; break;
    case 0:
    case NOTE_MSECONDS: unit = 1000000; break;
    case NOTE_USECONDS: unit = 1000; break;
    case NOTE_NSECONDS: unit = 1; break;
    default: return EINVAL;
    }
    *ns = multiply_clamped(value, unit);
    return 0;
}

static int start(struct kq *q, struct knote *note)
{
    struct pier__kq_heap *heap = heap_of(q, note);
    int error;

    if (note->disabled || note->u.timer.next_ns == 0)
        return 0;
    error = prepare_timerfd(q, heap, note->u.timer.wall);
    if (error == 0)
        error = heap_add(heap, note);
    if (error == 0)
        arm(heap);
    return error;
}

static void stop(struct kq *q, struct knote *note)
{
    struct pier__kq_heap *heap = heap_of(q, note);

    heap_remove(heap, note);
    if (heap->timerfd != -1)
        arm(heap);
}

/* Takes over the time in `note->event`, which has been checked. */
static int set_time(struct kq *q, struct knote *note, uint64_t ns)
{
    note->u.timer.wall = (note->event.fflags & NOTE_ABSTIME) != 0;
    note->u.timer.period_ns = note->u.timer.returned_ns = 0;
    if (note->u.timer.wall) {
        note->u.timer.next_ns = ns > 0 ? ns : 1;
    } else {
        note->event.flags = (unsigned short)(note->event.flags | EV_CLEAR);
        note->u.timer.next_ns = add_clamped(now_of(false), ns);
        if (!(note->event.flags & EV_ONESHOT))
            note->u.timer.period_ns = ns;
    }
    return start(q, note);
}

static int attach(struct kq *q, struct knote *note)
{
    uint64_t ns;
    int error = read_time(&note->event, &ns);

    note->u.timer.place = PIER__KQ_NOWHERE;
    if (error == 0)
        error = pier__kq_verify(q);
    return error != 0 ? error : set_time(q, note, ns);
}

/* EV_ADD starts anew and forgets expirations not yet returned; all else leaves the time alone. */
static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    uint64_t ns;
    int error;

    if (change->flags & EV_ADD) {
        error = read_time(change, &ns);
        if (error != 0)
            return error;
        stop(q, note);
        note->event.fflags = change->fflags;
        note->event.data = change->data;
        return set_time(q, note, ns);
    }
    if (note->disabled) {
        stop(q, note);
        return 0;
    }
    return note->u.timer.place == PIER__KQ_NOWHERE ? start(q, note) : 0;
}

static int detach(struct kq *q, struct knote *note, bool spent)
{
    (void)spent;
    stop(q, note);
    return 0;
}

static void silence(struct kq *q, struct knote *note)
{
    stop(q, note);
}

/* `ready` isn't used: pier__kq_timers_collect() calls only for a timer at the top of its heap. */
static bool report(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    struct pier__kq_heap *heap = heap_of(q, note);
    uint64_t now = now_of(note->u.timer.wall);
    uint64_t count = 1;

    (void)ready;
    if (now < note->u.timer.next_ns)
        return false;
    if (note->u.timer.period_ns > 0)
        count += (now - note->u.timer.next_ns) / note->u.timer.period_ns;
    out->data = (int64_t)count;
    heap_remove(heap, note);
    if (note->u.timer.wall && !(note->event.flags & EV_CLEAR)) {
        note->u.timer.returned_ns = now;
        heap_add(heap, note); /* Stays expired, as on FreeBSD, until it is deleted or set anew. */
        return true;
    }
    note->u.timer.next_ns = note->u.timer.period_ns > 0
                                ? add_clamped(note->u.timer.next_ns,
                                              multiply_clamped(count, note->u.timer.period_ns))
                                : 0;
    if (note->u.timer.next_ns != 0)
        heap_add(heap, note); /* Can't fail: it has just left. */
    return true;
}

int pier__kq_timers_collect(struct kq *q, int which, struct kevent *out, int room)
{
    struct pier__kq_heap *heap = &q->heaps[which];
    uint64_t until = now_of(which == 1);
    int stored = 0;

    while (heap->count > 0 && stored < room) {
        struct knote *note = heap->notes[0];

        /* The rest isn't due, or stays expired and has been returned just now. */
        if (note->u.timer.next_ns > until || note->u.timer.returned_ns >= until)
            break;
        if (!pier__kq_deliver(q, note, 0, &out[stored]))
            break;
        stored++;
    }
    /* The wall clock may have been set back since the timerfd fired: then it must be set again. */
    if (heap->count > 0 && heap->notes[0]->u.timer.next_ns > until)
        heap->armed_ns = 0;
    arm(heap);
    return stored;
}

void pier__kq_timers_close(struct kq *q)
{
    for (int which = 0; which < 2; which++) {
        struct pier__kq_heap *heap = &q->heaps[which];

        pier__kq_source_close(q, which ? SOURCE_WALL_TIMER : SOURCE_TIMER);
        heap->timerfd = -1;
    }
}

const struct pier__kq_filter pier__kq_timer = {
    .attach = attach,
    .modify = modify,
    .detach = detach,
    .report = report,
    .silence = silence,
};
