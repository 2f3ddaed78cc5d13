/* timer_test.c - the timer wheel against a reference that is too simple to be wrong.
 *
 * The reference is an array of armed timers kept sorted by what the wheel promises: the tick that
 * a timer counts for, then its deadline, then its age. Random operations go to both, and each link
 * that the wheel hands out must be the first of the array. Beside that, without looking at ticks:
 * nothing fires early, nothing is a tick late after a pass that ran to its end, a pass hands out
 * what was armed before it in the order of deadlines, and a caller who sleeps until
 * pier__timers_next() is neither late nor spins.
 *
 * usage: timer_test [OPERATIONS [SEEDS]]
 * Prints the first failed check with its seed and exits with 1, else with 0. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timer.h"

#define TICK PIER__TIMER_TICK_NS
#define SECOND UINT64_C(1000000000)

static uint64_t seed; /* of the run, for the report */

#define CHECK(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))

static void fail(int line, const char *condition)
{
    printf("not ok: timer_test.c:%d: CHECK(%s), seed %llu\n", line, condition,
           (unsigned long long)seed);
    exit(1);
}

/* ---- the reference -------------------------------------------------------------------------- */

enum { TIMERS = 3000 };

struct timer {
    struct pier_timer_link link;
    uint64_t tick;     /* that it counts for */
    uint64_t deadline; /* as asked for */
    uint64_t since;    /* the clock of the last pass before it was inserted */
    uint64_t age;      /* insertions before it */
    uint64_t pass;     /* number of the last pass that began before it was inserted */
};

static struct pier__timers wheel;
static struct timer timers[TIMERS];
static struct timer *sorted[TIMERS];
static size_t armed;
static uint64_t passes, clock_ns;
static uint64_t insertions = 1;
static bool cut_short;
static struct timer last_old; /* a copy of the last one handed out in this pass older than it */
static size_t fired, fired_in_pass, inserted_in_pass, removed_due;

static uint64_t random_state;

static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * UINT64_C(0x2545F4914F6CDD1D);
}

static uint64_t random_below(uint64_t end)
{
    return random_bits() % end;
}

static uint64_t add_clamped(uint64_t a, uint64_t b)
{
    return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

/* The tick whose boundary is the first at or after a time, in other words than the wheel's. */
static uint64_t tick_after(uint64_t ns)
{
    uint64_t last = UINT64_MAX / TICK;
    uint64_t tick = ns / TICK + (ns % TICK != 0);
    return tick < last ? tick : last;
}

static int compare_timers(const struct timer *a, const struct timer *b)
{
    if (a->tick != b->tick) {
        return a->tick < b->tick ? -1 : 1;
    }
    if (a->deadline != b->deadline) {
        return a->deadline < b->deadline ? -1 : 1;
    }
    return a->age < b->age ? -1 : a->age > b->age;
}

static size_t find_place(const struct timer *timer)
{
    size_t low = 0;
    size_t high = armed;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (compare_timers(sorted[middle], timer) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void insert_timer(struct timer *timer, uint64_t deadline)
{
    timer->tick = tick_after(deadline);
    if (timer->tick < wheel.tick) {
        timer->tick = wheel.tick;
    }
    timer->deadline = deadline;
    timer->since = clock_ns;
    timer->age = insertions++;
    timer->pass = passes;
    size_t place = find_place(timer);
    memmove(&sorted[place + 1], &sorted[place], (armed - place) * sizeof sorted[0]);
    sorted[place] = timer;
    armed++;

    CHECK(!pier__timer_armed(&timer->link));
    pier__timers_insert(&wheel, &timer->link, deadline);
    CHECK(pier__timer_armed(&timer->link));
    CHECK(timer->link.deadline_ns == deadline);
    CHECK(pier__timers_count(&wheel) == armed);
}

static void forget_timer(struct timer *timer)
{
    size_t place = find_place(timer);
    CHECK(place < armed);
    CHECK(sorted[place] == timer);
    armed--;
    memmove(&sorted[place], &sorted[place + 1], (armed - place) * sizeof sorted[0]);
}

static void remove_timer(struct timer *timer)
{
    forget_timer(timer);
    pier__timers_remove(&wheel, &timer->link);
    CHECK(!pier__timer_armed(&timer->link));
    CHECK(pier__timers_count(&wheel) == armed);
}

/* Opens the wheel again. Links that were armed in it are forgotten. */
static void start_clock(uint64_t now_ns)
{
    memset(timers, 0, sizeof timers);
    armed = 0;
    cut_short = false;
    clock_ns = now_ns;
    pier__timers_open(&wheel, now_ns);
    CHECK(pier__timers_count(&wheel) == 0);
    CHECK(pier__timers_next(&wheel) == UINT64_MAX);
}

static void start_run(uint64_t new_seed, uint64_t now_ns)
{
    seed = new_seed;
    random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    start_clock(now_ns);
}

/* ---- what must hold ------------------------------------------------------------------------- */

static void forget_order(void)
{
    memset(&last_old, 0, sizeof last_old);
}

static void check_fired(struct timer *timer, uint64_t now)
{
    CHECK(!pier__timer_armed(&timer->link));
    CHECK(armed > 0);
    CHECK(timer == sorted[0]);
    CHECK(timer->deadline <= now);
    if (timer->pass < passes) {
        CHECK(last_old.deadline < timer->deadline ||
              (last_old.deadline == timer->deadline && last_old.age < timer->age));
        last_old = *timer;
    }
    forget_timer(timer);
    CHECK(pier__timers_count(&wheel) == armed);
    fired++;
}

/* When a timer may be handed out at the latest. */
static uint64_t latest(const struct timer *timer)
{
    uint64_t from = timer->deadline > timer->since ? timer->deadline : timer->since;
    return add_clamped(from, TICK);
}

static void check_next(uint64_t now, bool pass_ended)
{
    uint64_t next = pier__timers_next(&wheel);
    if (armed == 0) {
        CHECK(next == UINT64_MAX);
        return;
    }
    /* In the last two ticks of time deadlines wait for its end. */
    uint64_t bound = latest(sorted[0]);
    CHECK(next <= bound || bound > UINT64_MAX - 2 * TICK);
    CHECK(!pass_ended || next > now || now == UINT64_MAX);
}

static void check_none_late(uint64_t now)
{
    for (size_t i = 0; i < armed && sorted[i]->tick <= wheel.tick; i++) {
        CHECK(latest(sorted[i]) > now || latest(sorted[i]) > UINT64_MAX - 2 * TICK);
    }
    CHECK(armed == 0 || sorted[0]->tick > now / TICK || now > UINT64_MAX - TICK);
}

/* ---- random operations ---------------------------------------------------------------------- */

/* Delays of all sizes, also none and negative ones, and times that many timers share. */
static uint64_t random_deadline(void)
{
    uint64_t delay = random_bits();
    delay >>= random_below(64);
    switch (random_below(16)) {
    case 0: return UINT64_MAX - (random_below(2) ? random_below(4 * TICK) : 0);
    case 1: return clock_ns - (delay < clock_ns ? delay : clock_ns);
    case 2: return clock_ns - (clock_ns < 4 * TICK ? 0 : random_below(4 * TICK));
    case 3: return clock_ns;
    case 4: return add_clamped(clock_ns, delay);
    case 5: return add_clamped(clock_ns, random_below(8 * TICK));
    case 6: return add_clamped(clock_ns / TICK * TICK, random_below(200) * TICK);
    case 7: return add_clamped(clock_ns, random_below(SECOND / 50));
    case 8: return add_clamped(clock_ns, random_below(2 * SECOND));
    case 9: return add_clamped(clock_ns, random_below(100 * SECOND));
    case 10:
        delay = UINT64_C(1) << random_below(63);
        return add_clamped(clock_ns, delay - 1 + random_below(3));
    case 11: return add_clamped(clock_ns, random_below(5000 * SECOND));
    default: break;
    }
    /* A few moments of each second, minute and hour to come, hit from near and from far. */
    static const uint64_t spans[] = {SECOND / 100, SECOND, 60 * SECOND, 3600 * SECOND};
    uint64_t span = spans[random_below(4)];
    return add_clamped(clock_ns / span * span, span + random_below(3) * span / 7);
}

static struct timer *random_timer(void)
{
    return &timers[random_below(TIMERS)];
}

static void insert_or_remove(bool in_pass)
{
    struct timer *timer = random_timer();
    /* Often one of those that come next, or that are due already. */
    if (armed > 0 && random_below(3) == 0) {
        timer = sorted[random_below(armed < 20 ? armed : 20)];
    }
    if (pier__timer_armed(&timer->link)) {
        removed_due += in_pass && timer->tick < wheel.tick;
        remove_timer(timer);
    } else {
        inserted_in_pass += in_pass;
        insert_timer(timer, random_deadline());
    }
}

/* One pass, in a third of the cases with callbacks that insert and remove, sometimes cut short;
 * but not in the last tick of time, after which there is no other for what comes in late. */
static void run_pass(uint64_t now)
{
    uint64_t tick = wheel.tick;
    bool last_tick = now == UINT64_MAX;
    bool busy = random_below(3) == 0 && !last_tick;
    uint64_t most = random_below(10) == 0 && !last_tick ? random_below(20) : UINT64_MAX;
    struct pier_timer_link *link = NULL;

    clock_ns = now > clock_ns ? now : clock_ns;
    if (!cut_short) {
        passes++;
        forget_order();
    }
    for (; most > 0; most--) {
        link = pier__timers_expire(&wheel, now);
        if (link == NULL) {
            break;
        }
        struct timer *timer = (struct timer *)(void *)link;
        check_fired(timer, now);
        fired_in_pass++;
        if (busy && random_below(2) == 0) {
            insert_or_remove(true);
        }
        if (busy && random_below(4) == 0 && !pier__timer_armed(&timer->link)) {
            insert_timer(timer, random_deadline());
        }
        check_next(now, false);
    }
    CHECK(wheel.tick >= tick);
    /* A pass that is cut short, or finds the clock gone back, is carried on by the next one. */
    cut_short = most == 0 || wheel.due != NULL;
    if (most > 0 && now == clock_ns) {
        check_none_late(now);
        check_next(now, true);
    }
}

static uint64_t random_step(void)
{
    switch (random_below(12)) {
    case 0: return 0;
    case 1: return random_below(SECOND);
    case 2: return random_below(100 * SECOND);
    case 3: return random_below(50) == 0 ? random_below(UINT64_C(1) << (30 + random_below(30))) : 1;
    case 4: return random_below(SECOND / 50);
    default: return random_below(4 * TICK);
    }
}

static void run_to_the_end(void)
{
    run_pass(UINT64_MAX);
    while (armed > 0) {
        remove_timer(sorted[random_below(armed)]);
    }
    CHECK(pier__timers_expire(&wheel, UINT64_MAX) == NULL);
    CHECK(wheel.due == NULL);
    CHECK(wheel.words == 0);
}

static void test_random_operations(uint64_t operations)
{
    for (uint64_t i = 0; i < operations; i++) {
        if (clock_ns > UINT64_MAX / 2 && random_below(1000) == 0) {
            run_to_the_end();
            start_clock(0); /* there is more to be tried than there is time */
        }
        uint64_t choice = random_below(100);
        /* Phases of growth and of decline. */
        if (choice < (i / 5000 % 3 == 0 ? 90u : 70u)) {
            insert_or_remove(false);
        } else if (choice < 98) {
            run_pass(add_clamped(clock_ns, random_step()));
        } else if (choice < 99) {
            uint64_t next = pier__timers_next(&wheel);
            run_pass(next == UINT64_MAX || next < clock_ns ? clock_ns : next);
        } else {
            uint64_t back = random_below(2) ? random_below(8 * TICK) : random_below(10 * SECOND);
            run_pass(clock_ns - (back < clock_ns ? back : 0));
        }
    }
    run_to_the_end();
}

/* ---- single behaviours ---------------------------------------------------------------------- */

/* Sleeps until pier__timers_next() again and again, and counts how often. */
static uint64_t sleep_through(void)
{
    uint64_t wakes = 0;
    while (armed > 0) {
        uint64_t next = pier__timers_next(&wheel);
        CHECK(wakes == 0 || next > clock_ns);
        next = next > clock_ns ? next : clock_ns; /* what is past is due before the first sleep */
        clock_ns = next;
        wakes++;
        passes++;
        forget_order();
        struct pier_timer_link *link;
        while ((link = pier__timers_expire(&wheel, next)) != NULL) {
            struct timer *timer = (struct timer *)(void *)link;
            CHECK(next <= latest(timer));
            check_fired(timer, next);
        }
        check_none_late(next);
    }
    return wakes;
}

static void test_sleeper_is_neither_late_nor_spins(void)
{
    start_clock(random_below(1000 * SECOND));
    for (size_t i = 0; i < TIMERS; i++) {
        insert_timer(&timers[i], clock_ns + random_below(UINT64_C(1) << (12 + random_below(50))));
    }
    /* At most one step per level towards each, and ticks that are shared need fewer. */
    CHECK(sleep_through() <= TIMERS * 9);

    for (size_t i = 0; i < 8; i++) {
        insert_timer(&timers[i], clock_ns + (i + 1) * 3600 * SECOND + random_below(SECOND));
    }
    CHECK(sleep_through() <= 8 + 9); /* few timers: straight to each */

    insert_timer(&timers[0], clock_ns + 86400 * SECOND);
    CHECK(sleep_through() == 1);
}

/* One timer on each side of each level's edge, from a clock that is on or beside an edge too. */
static void test_levels_meet(void)
{
    for (unsigned from = 0; from < 62; from++) {
        uint64_t now = (UINT64_C(1) << from) - random_below(2);
        start_clock(now);
        for (unsigned bit = 0; bit < 64; bit++) {
            uint64_t edge = UINT64_C(1) << bit;
            insert_timer(&timers[bit * 4], add_clamped(now, edge));
            insert_timer(&timers[bit * 4 + 1], edge > TICK ? edge - TICK : edge);
            insert_timer(&timers[bit * 4 + 2], edge);
            insert_timer(&timers[bit * 4 + 3], add_clamped(now, edge - 1));
        }
        if (from % 2 == 0) {
            run_pass(UINT64_MAX);
            run_pass(UINT64_MAX);
            CHECK(pier__timers_expire(&wheel, UINT64_MAX) == NULL || armed > 0);
        } else {
            sleep_through();
        }
        while (armed > 0) {
            remove_timer(sorted[0]);
        }
    }
}

/* A deadline inserted from far, from the middle and from near keeps the order of insertion. */
static void test_equal_deadlines_keep_their_order(void)
{
    static const uint64_t ahead[] = {3600 * SECOND, 100 * SECOND, 70 * SECOND,    10 * SECOND,
                                     SECOND,        SECOND / 100, SECOND / 10000, 1};
    start_clock(123456789);
    uint64_t deadline = clock_ns + 3600 * SECOND;
    size_t next = 0;
    for (size_t i = 0; i < sizeof ahead / sizeof ahead[0]; i++) {
        passes++;
        clock_ns = deadline - ahead[i];
        CHECK(pier__timers_expire(&wheel, clock_ns) == NULL);
        for (int copy = 0; copy < 20; copy++) {
            insert_timer(&timers[next++], deadline);
        }
        for (int copy = 0; copy < 5; copy++) {
            remove_timer(sorted[random_below(armed)]);
        }
    }
    size_t left = armed;
    CHECK(sleep_through() <= 9);
    CHECK(left == 8 * 15);
}

/* From a suspended machine: a year passes between two passes, with little to be done in it. */
static void test_long_jump_is_short_work(void)
{
    uint64_t year = 365 * 86400 * SECOND;
    start_clock(5 * SECOND);
    for (int jump = 0; jump < 500; jump++) {
        insert_timer(&timers[0], clock_ns + SECOND);
        insert_timer(&timers[1], clock_ns + year / 2);
        insert_timer(&timers[2], clock_ns + 2 * year);
        run_pass(clock_ns + year);
        while (armed > 0) {
            remove_timer(sorted[0]);
        }
    }
}

/* What a pass that was cut short has left isn't handed out by a clock that has gone back. */
static void test_clock_that_goes_back_fires_nothing(void)
{
    start_clock(SECOND);
    for (size_t i = 0; i < 4; i++) {
        insert_timer(&timers[i], (10 + i / 2 * 10) * SECOND);
    }
    uint64_t tick = wheel.tick;
    CHECK(pier__timers_expire(&wheel, SECOND / 2) == NULL);
    CHECK(wheel.tick >= tick);
    clock_ns = 30 * SECOND;
    CHECK(pier__timers_expire(&wheel, clock_ns) == &timers[0].link);
    forget_timer(&timers[0]);
    CHECK(pier__timers_expire(&wheel, 5 * SECOND) == NULL);
    CHECK(pier__timers_expire(&wheel, 10 * SECOND + TICK) == &timers[1].link);
    forget_timer(&timers[1]);
    tick = wheel.tick;
    CHECK(pier__timers_expire(&wheel, 5 * SECOND) == NULL);
    CHECK(pier__timers_expire(&wheel, 15 * SECOND) == NULL);
    CHECK(wheel.tick >= tick);
    for (size_t i = 2; i < 4; i++) {
        CHECK(pier__timers_expire(&wheel, clock_ns) == &timers[i].link);
        forget_timer(&timers[i]);
    }
}

/* A timer that ends each block of level 0, so that no search looks further, passes by the marks of
 * timers that were removed, until links come into that level again. */
static void test_marks_of_removed_timers_do_no_harm(void)
{
    start_clock(0);
    uint64_t block = 64 * TICK;
    insert_timer(&timers[0], block - TICK);
    for (size_t i = 1; i < 64; i++) {
        insert_timer(&timers[i], i * block + random_below(block));
    }
    for (size_t i = 1; i < 64; i++) {
        remove_timer(&timers[i]);
    }
    for (size_t i = 1; i < 64; i++) {
        insert_timer(&timers[i], 64 * block + random_below(64 * block));
    }
    for (uint64_t i = 1; i < 200; i++) {
        clock_ns = i * block - TICK;
        struct pier_timer_link *link;
        while ((link = pier__timers_expire(&wheel, clock_ns)) != NULL) {
            struct timer *timer = (struct timer *)(void *)link;
            check_fired(timer, clock_ns);
            if (timer == &timers[0]) {
                insert_timer(timer, clock_ns + block);
            }
        }
    }
    CHECK(armed == 1);
}

static void test_end_of_time(void)
{
    start_clock(UINT64_MAX - 10 * TICK);
    insert_timer(&timers[0], UINT64_MAX);
    insert_timer(&timers[1], UINT64_MAX - 1);
    insert_timer(&timers[2], UINT64_MAX - TICK);
    insert_timer(&timers[3], UINT64_MAX - 5 * TICK);
    CHECK(pier__timers_expire(&wheel, UINT64_MAX - 3 * TICK) == &timers[3].link);
    forget_timer(&timers[3]);
    CHECK(pier__timers_expire(&wheel, UINT64_MAX - 1) == NULL);
    CHECK(pier__timers_next(&wheel) == UINT64_MAX);
    for (int i = 2; i >= 0; i--) {
        CHECK(pier__timers_expire(&wheel, UINT64_MAX) == &timers[i].link);
        forget_timer(&timers[i]);
    }
    for (int i = 0; i < 2; i++) {
        insert_timer(&timers[0], 0);
        CHECK(pier__timers_expire(&wheel, UINT64_MAX) == &timers[0].link);
        forget_timer(&timers[0]);
        CHECK(pier__timers_expire(&wheel, UINT64_MAX) == NULL);
    }
    CHECK(pier__timers_count(&wheel) == 0);
}

int main(int argc, char **argv)
{
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 8;

    if (argc > 3 || operations == 0 || seeds == 0) {
        fprintf(stderr, "usage: timer_test [OPERATIONS [SEEDS]], both above 0\n");
        return 2;
    }
    for (uint64_t run = 1; run <= seeds; run++) {
        start_run(run, 0);
        test_sleeper_is_neither_late_nor_spins();
        test_levels_meet();
        test_equal_deadlines_keep_their_order();
        test_long_jump_is_short_work();
        test_clock_that_goes_back_fires_nothing();
        test_marks_of_removed_timers_do_no_harm();
        test_end_of_time();
        start_run(run, run % 2 == 0 ? 0 : random_below(UINT64_C(1) << (12 + random_below(50))));
        test_random_operations(operations);
    }
    /* That the random operations came to where it matters. */
    CHECK(operations < 10000 || fired_in_pass > operations / 100);
    CHECK(operations < 10000 || inserted_in_pass > 50);
    CHECK(operations < 10000 || removed_due > 5);
    printf("ok: %llu seeds of %llu operations, %zu timers fired, %zu inserted and %zu due ones "
           "removed inside passes\n",
           (unsigned long long)seeds, (unsigned long long)operations, fired, inserted_in_pass,
           removed_due);
    return 0;
}
