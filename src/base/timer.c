/* timer.c - the timer wheel: see timer.h for what it promises.
 *
 * Nine levels of slots, each level 64 times as wide as the one below: a slot of level 0 is one
 * tick, one of level 1 is 64 ticks, and so on up to all of time. A link is in the lowest level
 * whose block of 64 slots also has `tick` (the first tick not handed out), which is told by the
 * highest bit in which the two differ. When `tick` enters a slot of a higher level, the slot's
 * links are split over the level below. Three things follow:
 *
 *   - all links of one tick are in one slot at any time, so that equal deadlines stay in order;
 *   - a level's slots are empty when a slot is split into them;
 *   - what is in a lower level, or in a lower slot of a level, is due earlier: the first link is
 *     in the slot of the first bit set in `occupied`, two bit scans away, however far it is.
 *     (Removing a link leaves the bit of a slot that gets empty; the search clears it.)
 *
 * With many timers armed, the cost of all this is the cache misses of walking the lists when a
 * slot is split, one after the other. Therefore a slot of levels 2 to 4, where the links have
 * been out of sight for long, is divided into 8 lists by time, which are walked side by side with
 * the next link of each already on its way. (With single lists, a million timers of up to 10 s
 * took four times as long to fire.) The levels below work on what has just been touched.
 *
 * The longest step is splitting one slot: some 25 ns for each link in it. With a million timers
 * of a minute armed that is 25 ms once in 69 s, when nearly all are in the slot entered. */

#include "base/timer.h"

#include <assert.h>
#include <string.h>

#define TIMER_TICK_LAST (UINT64_MAX >> PIER__TIMER_TICK_SHIFT)

enum {
    TIMER_LISTS_MAX = 8,
    TIMER_SCAN_MAX = 8 /* links looked at to tell the first one of a slot */
};

struct timer_level {
    uint16_t first; /* its first list in `slots` */
    uint16_t mask;  /* the number of its lists - 1 */
    uint16_t shift; /* from a tick to a list's number */
    uint16_t lists; /* for each slot */
};

static const struct timer_level timer_levels[] = {
    {.first = 0 * 64, .mask = 1 * 64 - 1, .shift = 0, .lists = 1},       /* 4 us, 262 us in all */
    {.first = 1 * 64, .mask = 1 * 64 - 1, .shift = 6, .lists = 1},       /* 262 us, 17 ms */
    {.first = 2 * 64, .mask = 8 * 64 - 1, .shift = 12 - 3, .lists = 8},  /* 17 ms, 1.07 s */
    {.first = 10 * 64, .mask = 8 * 64 - 1, .shift = 18 - 3, .lists = 8}, /* 1.07 s, 69 s */
    {.first = 18 * 64, .mask = 8 * 64 - 1, .shift = 24 - 3, .lists = 8}, /* 69 s, 73 min */
    {.first = 26 * 64, .mask = 1 * 64 - 1, .shift = 30, .lists = 1},     /* 73 min, 78 h */
    {.first = 27 * 64, .mask = 1 * 64 - 1, .shift = 36, .lists = 1},     /* 78 h, 209 days */
    {.first = 28 * 64, .mask = 1 * 64 - 1, .shift = 42, .lists = 1},     /* 209 days, 37 years */
    {.first = 29 * 64, .mask = 1 * 64 - 1, .shift = 48, .lists = 1},     /* 37 years, all of time */
};

static_assert(sizeof timer_levels / sizeof timer_levels[0] * 6 >= 64 - PIER__TIMER_TICK_SHIFT,
              "the levels reach to the end of time");
static_assert(PIER__TIMER_WORDS <= 32, "one bit of `words` for each word");

static unsigned lowest_set_bit(uint64_t bits)
{
#if defined(__GNUC__)
    return (unsigned)__builtin_ctzll(bits);
#else
    unsigned bit = 0;
    for (unsigned half = 32; half != 0; half /= 2) {
        if ((bits & ((UINT64_C(1) << half) - 1)) == 0) {
            bits >>= half;
            bit += half;
        }
    }
    return bit;
#endif
}

static unsigned highest_set_bit(uint64_t bits)
{
#if defined(__GNUC__)
    return 63 - (unsigned)__builtin_clzll(bits);
#else
    unsigned bit = 0;
    for (unsigned half = 32; half != 0; half /= 2) {
        if (bits >> half != 0) {
            bits >>= half;
            bit += half;
        }
    }
    return bit;
#endif
}

/* The link may lie across two cache lines. */
static void prefetch_link(const struct pier_timer_link *link)
{
#if defined(__GNUC__)
    __builtin_prefetch(link, 1);
    __builtin_prefetch(&link->deadline_ns, 1);
#else
    (void)link;
#endif
}

/* The head of the op around a link that fires soon: its callback is read then. Links that are in
 * something else lose nothing by the hint. */
static void prefetch_op(const struct pier_timer_link *link)
{
#if defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)link - offsetof(struct pier_op, timer_)));
#else
    (void)link;
#endif
}

/* The tick whose end is the first boundary at or after the deadline. */
static uint64_t tick_of_deadline(uint64_t deadline_ns)
{
    uint64_t inside_ns = deadline_ns + (PIER__TIMER_TICK_NS - 1);
    return inside_ns < deadline_ns ? TIMER_TICK_LAST : inside_ns >> PIER__TIMER_TICK_SHIFT;
}

/* The last tick that is over. */
static uint64_t tick_of_clock(uint64_t now_ns)
{
    uint64_t tick = now_ns >> PIER__TIMER_TICK_SHIFT;
    return tick == TIMER_TICK_LAST && now_ns != UINT64_MAX ? tick - 1 : tick;
}

/* When a tick is over. */
static uint64_t end_of_tick(uint64_t tick)
{
    return tick < TIMER_TICK_LAST ? tick << PIER__TIMER_TICK_SHIFT : UINT64_MAX;
}

static size_t slot_of_tick(const struct timer_level *level, uint64_t tick)
{
    return level->first + (size_t)((tick >> level->shift) & level->mask);
}

static void mark_slot(struct pier__timers *t, size_t slot)
{
    t->occupied[slot / 64] |= UINT64_C(1) << slot % 64;
    t->words |= UINT32_C(1) << slot / 64;
}

static void clear_mark(struct pier__timers *t, size_t slot)
{
    t->occupied[slot / 64] &= ~(UINT64_C(1) << slot % 64);
    if (t->occupied[slot / 64] == 0) {
        t->words &= ~(UINT32_C(1) << slot / 64);
    }
}

static struct pier_timer_link *empty_slot(struct pier__timers *t, size_t slot)
{
    struct pier_timer_link *links = t->slots[slot];
    t->slots[slot] = NULL;
    clear_mark(t, slot);
    return links;
}

/* Sees to it that a pass when this tick is over finds it. */
static void lead_to_tick(struct pier__timers *t, uint64_t tick)
{
    uint64_t end_ns = end_of_tick(tick);
    if (end_ns < t->next_ns) {
        t->next_ns = end_ns;
        if (end_ns < t->look_ns) {
            t->look_ns = end_ns;
        }
    }
}

void pier__timers_open(struct pier__timers *t, uint64_t now_ns)
{
    memset(t, 0, sizeof *t);
    t->tick = tick_of_clock(now_ns);
    t->next_ns = UINT64_MAX;
}

void pier__timers_insert(struct pier__timers *t, struct pier_timer_link *link, uint64_t deadline_ns)
{
    PIER_ASSERT(link->back == NULL);
    uint64_t tick = tick_of_deadline(deadline_ns);
    if (tick < t->tick) {
        tick = t->tick;
    }
    const struct timer_level *level = &timer_levels[highest_set_bit((tick ^ t->tick) | 1) / 6];
    size_t slot = slot_of_tick(level, tick);
    struct pier_timer_link **head = &t->slots[slot];
    struct pier_timer_link *next = *head;

    link->next = next;
    link->back = head;
    link->deadline_ns = deadline_ns;
    *head = link;
    if (next != NULL) {
        next->back = &link->next;
    } else {
        mark_slot(t, slot);
    }
    t->count++;
    if (deadline_ns < t->next_ns) {
        lead_to_tick(t, tick);
    }
}

/* Puts a link behind those that a split has put into the slot before. While that goes on, the
 * slot's list is a ring and the slot has its last link, whose place to be told is its next one. */
static void append_link(struct pier__timers *t, size_t slot, struct pier_timer_link *link)
{
    struct pier_timer_link *last = t->slots[slot];
    t->slots[slot] = link;
    if (last == NULL) {
        link->next = link;
        mark_slot(t, slot);
    } else {
        link->next = last->next;
        link->back = &last->next;
        last->next = link;
    }
}

/* Opens the rings that append_link() has made in a level. */
static void open_rings(struct pier__timers *t, const struct timer_level *level)
{
    size_t end = ((size_t)level->first + level->mask) / 64 + 1;
    for (size_t word = level->first / 64; word < end; word++) {
        for (uint64_t bits = t->occupied[word]; bits != 0; bits &= bits - 1) {
            struct pier_timer_link **head = &t->slots[word * 64 + lowest_set_bit(bits)];
            struct pier_timer_link *last = *head;
            PIER_ASSERT(last != NULL);
            *head = last->next;
            (*head)->back = head;
            last->next = NULL;
        }
    }
}

/* Splits the slot whose lists begin at `first` over the level below, which is empty and unmarked.
 * Links of different lists come into different slots, so that walking the lists side by side keeps
 * the order in each. */
static void split_slot(struct pier__timers *t, const struct timer_level *from, size_t first)
{
    const struct timer_level *to = from - 1;
    struct pier_timer_link *walks[TIMER_LISTS_MAX];
    size_t live = 0;

    for (size_t slot = first; slot < first + from->lists; slot++) {
        struct pier_timer_link *links = empty_slot(t, slot);
        if (links != NULL) {
            walks[live++] = links;
        }
    }
    bool soon = to->lists == 1;
    while (live > 0) {
        for (size_t i = 0; i < live; i++) {
            struct pier_timer_link *link = walks[i];
            if (link->next != NULL) {
                walks[i] = link->next;
                prefetch_link(link->next);
                if (soon) {
                    prefetch_op(link->next);
                }
            } else {
                walks[i] = walks[--live];
            }
            append_link(t, slot_of_tick(to, tick_of_deadline(link->deadline_ns)), link);
        }
    }
    open_rings(t, to);
}

/* Makes `tick` the first one not handed out. All links must be of that tick or later. */
static void advance_tick(struct pier__timers *t, uint64_t tick)
{
    uint64_t changed = t->tick ^ tick;
    t->tick = tick;
    if (changed < 64) {
        return;
    }
    const struct timer_level *level = &timer_levels[highest_set_bit(changed) / 6];
    for (; level > timer_levels; level--) {
        size_t first = slot_of_tick(level, tick) / level->lists * level->lists;
        uint64_t lists = ((UINT64_C(1) << level->lists) - 1) << first % 64;
        if ((t->occupied[first / 64] & lists) != 0) {
            split_slot(t, level, first);
        }
    }
}

/* A slot with links: its level, its place, and the tick that it begins with. */
struct timer_slot {
    const struct timer_level *level;
    size_t slot;
    uint64_t tick;
};

/* Finds the first slot that has links. The marks of slots that have lost theirs end here. */
static bool find_first(struct pier__timers *t, struct timer_slot *first)
{
    for (; t->words != 0; clear_mark(t, first->slot)) {
        unsigned word = lowest_set_bit(t->words);
        first->slot = word * 64 + lowest_set_bit(t->occupied[word]);
        if (t->slots[first->slot] == NULL) {
            continue;
        }
        first->level = timer_levels;
        while (first->slot > (size_t)first->level->first + first->level->mask) {
            first->level++;
        }
        uint64_t lists = (uint64_t)first->level->mask + 1;
        uint64_t block = t->tick >> first->level->shift & ~(lists - 1);
        first->tick = (block + (first->slot - first->level->first)) << first->level->shift;
        return true;
    }
    return false;
}

/* The tick of the first link in a slot if it has few, so that a loop with few timers doesn't wake
 * up on the way to a far one; else the slot's own first tick. */
static uint64_t first_tick(const struct pier__timers *t, const struct timer_slot *first)
{
    const struct pier_timer_link *link = t->slots[first->slot];
    uint64_t least = TIMER_TICK_LAST;

    if (first->level == timer_levels) {
        return first->tick;
    }
    for (unsigned seen = 0; link != NULL; link = link->next) {
        uint64_t tick = tick_of_deadline(link->deadline_ns);
        least = tick < least ? tick : least;
        if (++seen == TIMER_SCAN_MAX && link->next != NULL) {
            return first->tick;
        }
    }
    return least;
}

/* Ends a pass that found nothing more: follows the clock, so that what is inserted from now on
 * comes into the lowest level it can, and says when to look again. */
static void end_pass(struct pier__timers *t, uint64_t over, uint64_t next_tick)
{
    if (t->tick <= over) {
        advance_tick(t, over < TIMER_TICK_LAST ? over + 1 : over);
    }
    t->next_ns = end_of_tick(next_tick);
    t->look_ns = end_of_tick(t->tick | 63);
    if (t->next_ns < t->look_ns) {
        t->look_ns = t->next_ns;
    }
}

/* Makes the links of the first tick the due ones if that tick is over. */
static bool fill_due(struct pier__timers *t, uint64_t now_ns)
{
    uint64_t over = tick_of_clock(now_ns);
    struct timer_slot first;

    while (find_first(t, &first)) {
        if (first.tick > over) {
            end_pass(t, over, first_tick(t, &first));
            return false;
        }
        if (first.level == timer_levels) {
            struct pier_timer_link *links = empty_slot(t, first.slot);
            advance_tick(t, first.tick < TIMER_TICK_LAST ? first.tick + 1 : first.tick);
            t->due = pier__timers_sort(links);
            t->next_ns = t->look_ns = end_of_tick(first.tick);
            return true;
        }
        advance_tick(t, first.tick);
    }
    end_pass(t, over, TIMER_TICK_LAST);
    return false;
}

struct pier_timer_link *pier__timers_take(struct pier__timers *t, uint64_t now_ns)
{
    if (t->due == NULL && !fill_due(t, now_ns)) {
        return NULL;
    }
    struct pier_timer_link *link = t->due;
    struct pier_timer_link *next = link->next;
    t->due = next;
    if (next != NULL) {
        next->back = &t->due;
    }
    link->back = NULL;
    t->count--;
    return link;
}
