/* timer.h - the timer wheel: deadlines in order, without allocation.
 *
 * Time is cut into ticks of PIER__TIMER_TICK_NS. A deadline belongs to the first tick boundary at
 * or after it, and its link is handed out by the first pass whose clock has reached that boundary:
 * never early, and less than one tick late for a caller who sleeps until pier__timers_next(). A
 * deadline that is past when it is inserted counts as one of the first boundary after the last
 * pass. The last tick before UINT64_MAX (584 years) is over at UINT64_MAX only.
 *
 * The clock is whatever the caller passes in, and may jump ahead by any amount. A clock that goes
 * back fires nothing and undoes nothing.
 *
 * Links belong to the caller and stay where they are while armed; so does the wheel itself. Not
 * for use from several threads. How the slots are laid out is told in timer.c. */

#ifndef PIER_BASE_TIMER_H
#define PIER_BASE_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pier/pier.h"

#include "base/check.h"

#define PIER__TIMER_TICK_SHIFT 12
#define PIER__TIMER_TICK_NS (UINT64_C(1) << PIER__TIMER_TICK_SHIFT)

enum {
    PIER__TIMER_WORDS = 30, /* of 64 slots each */
    PIER__TIMER_SLOTS = PIER__TIMER_WORDS * 64
};

/* All zero but `tick` when empty. About 15 KiB, of which a program uses the few lines that its
 * time-outs fall into. */
struct pier__timers {
    struct pier_timer_link *due; /* the rest of the slot being handed out, sorted */
    uint64_t look_ns;            /* before this time a pass finds nothing and changes nothing */
    uint64_t next_ns;            /* before this time no deadline is due */
    uint64_t tick;               /* the first tick not yet handed out; all in the slots are >= it */
    size_t count;                /* armed links, due ones included */
    uint32_t words;              /* which words of `occupied` aren't 0 */
    uint64_t occupied[PIER__TIMER_WORDS];             /* which slots have links, or had some */
    struct pier_timer_link *slots[PIER__TIMER_SLOTS]; /* lists, newest first */
};

void pier__timers_open(struct pier__timers *t, uint64_t now_ns);

/* Arms a link that isn't armed. */
void pier__timers_insert(struct pier__timers *t, struct pier_timer_link *link,
                         uint64_t deadline_ns);

/* Sorts a slot's list, newest first, by deadline, equal ones oldest first. The places that lead to
 * the links are right afterwards but for the first link's. In timer_sort.c. */
struct pier_timer_link *pier__timers_sort(struct pier_timer_link *rest);

/* The slow part of pier__timers_expire(). */
struct pier_timer_link *pier__timers_take(struct pier__timers *t, uint64_t now_ns);

static PIER__EXPRESSION bool pier__timer_armed(const struct pier_timer_link *link)
{
    return link->back != NULL;
}

/* Disarms an armed link, also one that is due. The slot's mark and `next_ns` are left alone: a
 * search and a wake-up that find nothing, at most one for each deadline that was the first, cost
 * less than the care in each cancel. */
static inline void pier__timers_remove(struct pier__timers *t, struct pier_timer_link *link)
{
    struct pier_timer_link *next = link->next;
    struct pier_timer_link **back = link->back;

    PIER_ASSERT(back != NULL);
    link->back = NULL;
    *back = next;
    t->count--;
    if (next != NULL) {
        next->back = back;
    }
}

/* When to begin the next pass, in absolute time; UINT64_MAX when nothing is armed. Never later
 * than the first deadline rounded up to a tick. It can be earlier: after a removal, and for a
 * deadline far ahead, towards which it leads in at most one step per level of the wheel. After a
 * pass that ran to its end it is always later than that pass. */
static PIER__EXPRESSION uint64_t pier__timers_next(const struct pier__timers *t)
{
    return t->count == 0 ? UINT64_MAX : t->next_ns;
}

/* The next link whose deadline's tick is over at now_ns, disarmed, or NULL when there is none. A
 * pass is a series of calls with one now_ns until NULL; what one that was cut short has left is
 * where the next begins. It hands out what was armed before in the order of deadlines, equal ones
 * in the order of insertion.
 *
 * Between two calls any link may be inserted and removed. What is inserted with a deadline after
 * now_ns waits for a later pass. What is inserted with one that is past takes part in this pass if
 * the clock has jumped far enough: it counts as one of the tick after that of the link handed out
 * last. A callback that always re-arms for the past is thus called once per tick to make up for,
 * which is the caller's to bound. */
static inline struct pier_timer_link *pier__timers_expire(struct pier__timers *t, uint64_t now_ns)
{
    return now_ns < t->look_ns ? NULL : pier__timers_take(t, now_ns);
}

static PIER__EXPRESSION size_t pier__timers_count(const struct pier__timers *t)
{
    return t->count;
}

#endif
