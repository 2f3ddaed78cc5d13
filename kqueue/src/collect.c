/*
 * Turning what epoll says into events, each that is ready in its turn.
 *
 * A tag leads to a knote, its filter decides whether there is an event and completes it. Some of
 * what epoll says isn't a knote but a source of the library behind which there are many: the bell
 * (with it the active list), the second epoll, the timers. To epoll each is one of those that are
 * ready, and it gets one place among them. So that one event behind it waits no longer than one of
 * a plain knote, a source whose turn has come may return all that it has then. What finds no room
 * is owed, and the next kevent() returns it before it asks epoll again.
 */
#include "kq.h"

#define ACTIVE_SOURCES \
    (1U << SOURCE_BELL | 1U << SOURCE_INOTIFY | 1U << SOURCE_CONNECTOR | 1U << SOURCE_SIGNAL | \
     1U << SOURCE_SIGNAL_BLOCKED)

bool pier__kq_deliver(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    if (note->disabled)
        return false;
    *out = note->event;
    out->fflags = 0;
    out->data = 0;
    /* A report of false may have freed the knote, if its descriptor turned out to be closed. */
    if (!note->filter->report(q, note, ready, out))
        return false;
    if (out->flags & EV_ONESHOT) {
        pier__kq_drop(q, note, true);
    } else if (out->flags & EV_DISPATCH) {
        note->disabled = true;
        pier__kq_deactivate(q, note);
        note->filter->silence(q, note);
    }
    return true;
}

/* What a wait brought, apart from events. */
struct catch
{
    uint32_t sources; /* the library's own that are ready, a bit each */
    bool found;       /* a knote that exists */
    bool strangers;   /* a tag of a knote that exists no more */
    bool is_round;    /* epoll has begun to say the same again */
};

/* epoll goes on returning it for as long as it is ready. */
static bool is_level_triggered(const struct knote *note)
{
    return note->filter != &pier__kq_process &&
           (pier__kq_epoll_mask(note) & (EPOLLET | EPOLLONESHOT)) == 0;
}

/* Whether this call has had it already. What epoll returns once only is never left out. */
static bool is_repeated(const struct kq *q, struct knote *note)
{
    bool is_repeated = note->round == q->round && is_level_triggered(note);

    note->round = q->round;
    return is_repeated;
}

static void catch_source(struct catch *catch, uint64_t number)
{
    if (catch->sources & 1U << number)
        catch->is_round = true;
    catch->sources |= 1U << number;
}

static int collect_notes(struct kq *q, const struct epoll_event *ready, int count,
                         struct kevent *out, struct catch *catch)
{
    int stored = 0;

    for (int i = 0; i < count; i++) {
        struct knote *note;

        if ((uint32_t)ready[i].data.u64 >= (uint32_t)pier__kq_source_tag(0)) {
            catch_source(catch, ready[i].data.u64 - pier__kq_source_tag(0));
            continue;
        }
        note = pier__kq_by_tag(q, ready[i].data.u64);
        if (!note) {
            catch->strangers = true;
            continue;
        }
        catch->found = true;
        if (is_repeated(q, note))
            catch->is_round = true;
        else if (pier__kq_deliver(q, note, ready[i].events, &out[stored]))
            stored++;
    }
    return stored;
}

/* The first wait brought as many as it could hold, and there is room for more. */
static int collect_more(struct kq *q, struct kevent *out, int room, struct catch *catch)
{
    struct epoll_event ready[PIER__KQ_BATCH];
    int stored = 0, count, wanted;

    do {
        wanted = room < PIER__KQ_BATCH ? room : PIER__KQ_BATCH;
        count = epoll_wait(q->fd, ready, wanted, 0);
        if (count <= 0)
            break;
        stored += collect_notes(q, ready, count, &out[stored], catch);
        room -= count;
    } while (count == wanted && room > 0 && !catch->is_round);
    return stored;
}

/* Turns. Each returns how many events it stored, at most `room`. */

/* Knotes that are still ready afterwards (without EV_CLEAR) go to the end and keep the bell on. */
static int serve_active(struct kq *q, struct kevent *out, int room)
{
    int stored = 0;

    for (; q->owed[TURN_ACTIVE] > 0 && stored < room; q->owed[TURN_ACTIVE]--) {
        struct knote *note = q->active_first;
        uint32_t generation;

        if (!note) {
            q->owed[TURN_ACTIVE] = 0;
            break;
        }
        generation = note->generation;
        pier__kq_deactivate(q, note);
        if (!pier__kq_deliver(q, note, 0, &out[stored]))
            continue;
        stored++;
        if (note->in_use && note->generation == generation && !(note->event.flags & EV_CLEAR))
            pier__kq_activate(q, note);
    }
    return stored;
}

/*
 * Leaves out what the turn has had already, that is, what comes with and after the one that it
 * began with. epoll will return that again, and must: what it returns once only stays.
 */
static int leave_out_second_round(struct kq *q, struct epoll_event *ready, int count)
{
    bool is_second = false;
    int left = 0;

    for (int i = 0; i < count; i++) {
        const struct knote *note = pier__kq_by_tag(q, ready[i].data.u64);

        is_second = is_second || ready[i].data.u64 == q->side_first;
        if (!is_second || !note || !is_level_triggered(note))
            ready[left++] = ready[i];
    }
    if (is_second)
        q->owed[TURN_SIDE] = 0;
    return left;
}

/* How many are ready isn't known. The turn is over when epoll has no more or begins anew. */
static int serve_side(struct kq *q, struct kevent *out, int room, struct catch *catch)
{
    struct epoll_event ready[PIER__KQ_BATCH];
    uint32_t *owed = &q->owed[TURN_SIDE];
    int stored = 0;

    while (*owed > 0 && stored < room) {
        int left = room - stored, count;
        int wanted = left < PIER__KQ_BATCH ? left : PIER__KQ_BATCH;

        if ((uint32_t)wanted > *owed)
            wanted = (int)*owed;
        count = epoll_wait(q->sources[SOURCE_SIDE].fd, ready, wanted, 0);
        *owed = count == wanted ? *owed - (uint32_t)count : 0;
        if (count <= 0)
            break;
        if (q->side_first == PIER__KQ_NO_TAG)
            q->side_first = ready[0].data.u64;
        else
            count = leave_out_second_round(q, ready, count);
        stored += collect_notes(q, ready, count, &out[stored], catch);
    }
    return stored;
}

static int serve_timers(struct kq *q, int which, struct kevent *out, int room)
{
    uint32_t *owed = &q->owed[which == 0 ? TURN_TIMER : TURN_WALL_TIMER];
    int wanted = (uint32_t)room < *owed ? room : (int)*owed;
    int stored = pier__kq_timers_collect(q, which, out, wanted);

    *owed = stored == wanted ? *owed - (uint32_t)stored : 0;
    return stored;
}

static int serve_turns(struct kq *q, struct kevent *out, int room, struct catch *catch)
{
    int stored = 0;

    if (q->owed[TURN_SIDE] > 0 && stored < room)
        stored += serve_side(q, &out[stored], room - stored, catch);
    if (q->owed[TURN_TIMER] > 0 && stored < room)
        stored += serve_timers(q, 0, &out[stored], room - stored);
    if (q->owed[TURN_WALL_TIMER] > 0 && stored < room)
        stored += serve_timers(q, 1, &out[stored], room - stored);
    if (q->owed[TURN_ACTIVE] > 0 && stored < room)
        stored += serve_active(q, &out[stored], room - stored);
    return stored;
}

/* A turn that has begun goes on; else one begins, for as many as may be there now. */
static void begin_turn(struct kq *q, enum pier__kq_turn turn, uint32_t count)
{
    if (q->owed[turn] == 0)
        q->owed[turn] = count;
}

static void begin_turns(struct kq *q, uint32_t sources)
{
    if (sources & 1U << SOURCE_BELL)
        q->bell_rung = false;
    if (sources & 1U << SOURCE_INOTIFY)
        pier__kq_inotify_read(q);
    if (sources & 1U << SOURCE_CONNECTOR)
        pier__kq_connector_read(q);
    if (sources & 1U << SOURCE_SIGNAL_BLOCKED)
        pier__kq_signal_take_blocked();
    if (sources & (1U << SOURCE_SIGNAL | 1U << SOURCE_SIGNAL_BLOCKED))
        pier__kq_signals_collect(q);
    if (sources & ACTIVE_SOURCES)
        begin_turn(q, TURN_ACTIVE, q->active_count);
    if (sources & 1U << SOURCE_SIDE) {
        if (q->owed[TURN_SIDE] == 0)
            q->side_first = PIER__KQ_NO_TAG;
        begin_turn(q, TURN_SIDE, q->note_count);
    }
    if (sources & 1U << SOURCE_TIMER)
        begin_turn(q, TURN_TIMER, q->heaps[0].count);
    if (sources & 1U << SOURCE_WALL_TIMER)
        begin_turn(q, TURN_WALL_TIMER, q->heaps[1].count);
}

/* Strangers and nothing else, again and again: epoll won't let go of them. */
static void count_strangers(struct kq *q, const struct catch *catch)
{
    if (!catch->strangers || catch->found || (catch->sources & ~(1U << SOURCE_SIDE)) != 0)
        q->stale_streak = 0;
    else
        q->stale_streak++;
}

int pier__kq_collect(struct kq *q, const struct epoll_event *ready, int count, struct kevent *out,
                     int room)
{
    struct catch catch = {0};
    int stored;

    q->is_collecting = true;
    q->round++;
    stored = collect_notes(q, ready, count, out, &catch);
    if (count == PIER__KQ_BATCH && count < room)
        stored += collect_more(q, &out[stored], room - count, &catch);
    /* Each source that came up has left one place at least: it was one of `room` itself. */
    if (catch.sources != 0)
        begin_turns(q, catch.sources);
    stored += serve_turns(q, &out[stored], room - stored, &catch);
    q->is_collecting = false;
    if (q->active_count > 0)
        pier__kq_ring(q);
    count_strangers(q, &catch);
    return stored;
}

bool pier__kq_owes(const struct kq *q)
{
    return (q->owed[TURN_ACTIVE] | q->owed[TURN_SIDE] | q->owed[TURN_TIMER] |
            q->owed[TURN_WALL_TIMER]) != 0;
}

int pier__kq_collect_owed(struct kq *q, struct kevent *out, int room)
{
    struct catch catch = {0};
    int stored;

    if (!pier__kq_owes(q))
        return 0;
    q->is_collecting = true;
    q->round++;
    stored = serve_turns(q, out, room, &catch);
    q->is_collecting = false;
    if (q->active_count > 0)
        pier__kq_ring(q);
    else
        pier__kq_silence_bell(q);
    return stored;
}
