/* timers.c - one-shot and repeating timers, and a hundred thousand of them against a reference
 * model.
 *
 * Never early; in the order of their deadlines up to one tick of 65.536 us. How late is left to
 * the machine. */

#include "suite.h"

#include <stdlib.h>

#define TICK_NS UINT64_C(65536)

static void fires_once_and_never_early(void)
{
    struct pier_loop *loop = test_loop();
    static const uint64_t delays[] = {0,     1,       1000,         65535,       65536,
                                      65537, 1000000, 20 * 1000000, 50 * 1000000};
    for (size_t i = 0; i < COUNT_OF(delays); i++) {
        struct tracked timer = {0};
        const uint64_t wall = platform_now(), started = pier_loop_now(loop);
        tracked_timer(loop, &timer, delays[i], NULL);
        CHECK_INT(wait_for(&timer), ==, 0);
        CHECK_INT(platform_now() - wall, >=, delays[i]);
        CHECK_INT(pier_loop_now(loop) - started, >=, delays[i]);
        CHECK_INT(timer.completions, ==, 1);
    }
    CHECK_INT(stats_of(loop).timers, ==, COUNT_OF(delays));
}

/* A delay counts from a clock read no older than the start of the current callback, however
 * long the loop slept before. */
static void delay_counts_from_now(void)
{
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 3; i++) {
        struct tracked timer = {0};
        const uint64_t until = platform_now() + 20 * PIER_MILLISECOND;
        while (platform_now() < until) {}
        const uint64_t started = platform_now();
        tracked_timer(loop, &timer, 10 * PIER_MILLISECOND, NULL);
        wait_for(&timer);
        CHECK_INT(platform_now() - started, >=, 10 * PIER_MILLISECOND);
    }
}

struct repeating {
    struct tracked timer;
    uint64_t first, interval, expiries;
    unsigned stop_after;
    uint64_t stall_ns;
};

static void count_repeats(struct tracked *tracked)
{
    struct repeating *repeating = PIER_OWNER(tracked, struct repeating, timer);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    const uint64_t now = pier_loop_now(tracked->loop);
    repeating->expiries += (uint64_t)tracked->result;
    /* Never early on the grid. */
    CHECK_INT(now, >=, repeating->first + (repeating->expiries - 1) * repeating->interval);
    if (repeating->stall_ns > 0) {
        const uint64_t until = platform_now() + repeating->stall_ns;
        while (platform_now() < until) {}
        repeating->stall_ns = 0;
    }
    if (repeating->expiries >= repeating->stop_after) {
        tracked_cancel(tracked);
    }
}

static void repeats_on_its_grid(void)
{
    struct pier_loop *loop = test_loop();
    struct repeating repeating = {.interval = 2 * PIER_MILLISECOND, .stop_after = 20};
    repeating.first = pier_loop_now(loop) + 5 * PIER_MILLISECOND;
    tracked_timer_each(loop, &repeating.timer, 5 * PIER_MILLISECOND, 2 * PIER_MILLISECOND,
                       count_repeats);
    CHECK_INT(wait_for(&repeating.timer), ==, PIER_ECANCELED);
    CHECK_INT(repeating.expiries, >=, 20);
}

/* A callback of 30 ms on an interval of 2: the next event says how many were missed, and
 * nothing comes in a burst. */
static void late_repeats_are_skipped_and_counted(void)
{
    struct pier_loop *loop = test_loop();
    struct repeating repeating = {
        .interval = 2 * PIER_MILLISECOND, .stop_after = 40, .stall_ns = 30000000};
    repeating.first = pier_loop_now(loop) + PIER_MILLISECOND;
    tracked_timer_each(loop, &repeating.timer, PIER_MILLISECOND, 2 * PIER_MILLISECOND,
                       count_repeats);
    CHECK_INT(wait_for(&repeating.timer), ==, PIER_ECANCELED);
    CHECK_INT(repeating.timer.events, <=, repeating.expiries - 10);
    CHECK_INT(stats_of(loop).timer_skips, ==, repeating.expiries - repeating.timer.events);
}

static void interval_of_nothing_is_refused(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, other = {0};
    tracked_timer_each(loop, &timer, 0, 0, NULL);
    CHECK_INT(wait_for(&timer), ==, PIER_EINVAL);
    CHECK_INT(timer.events, ==, 0);
    /* One nanosecond is an interval: almost all expiries are skipped, and nothing else is
     * starved. */
    tracked_timer_each(loop, &timer, 0, 1, NULL);
    tracked_timer(loop, &other, 5 * PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&other), ==, 0);
    CHECK_INT(timer.events, >=, 1);
    CHECK(timer.in_flight);
    tracked_cancel(&timer);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
}

static void reset_moves_the_expiry(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, idle = {0}, each = {0};
    uint64_t moved = 0;
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    moved = pier_loop_now(loop);
    pier_timer_reset(&timer.op, 5 * PIER_MILLISECOND);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_INT(pier_loop_now(loop) - moved, >=, 5 * PIER_MILLISECOND);
    /* Later, again and again. */
    tracked_timer(loop, &timer, 10 * PIER_MILLISECOND, NULL);
    for (int i = 0; i < 5; i++) {
        run_quietly(loop, 1);
        if (timer.in_flight) {
            moved = pier_loop_now(loop);
            pier_timer_reset(&timer.op, 10 * PIER_MILLISECOND);
        }
    }
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_INT(pier_loop_now(loop) - moved, >=, 10 * PIER_MILLISECOND);
    /* Nothing on a timer that isn't in flight, or whose cancel is on its way. */
    pier_timer_reset(&idle.op, 0);
    CHECK(!pier_op_pending(&idle.op));
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    tracked_cancel(&timer);
    pier_timer_reset(&timer.op, 0);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    tracked_timer_each(loop, &each, 3600 * PIER_SECOND, PIER_MILLISECOND, NULL);
    pier_timer_reset(&each.op, PIER_MILLISECOND);
    RUN_UNTIL(loop, each.events >= 3);
    tracked_cancel(&each);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
}

static void reset_itself(struct tracked *tracked)
{
    unsigned *left = tracked->context;
    if ((tracked->flags & PIER_MORE) != 0) {
        if (--*left == 0) {
            tracked_cancel(tracked);
        } else {
            pier_timer_reset(&tracked->op, PIER_MILLISECOND);
        }
    }
}

static void reset_inside_its_callback(void)
{
    struct pier_loop *loop = test_loop();
    unsigned left = 5;
    struct tracked timer = {.context = &left};
    tracked_timer_each(loop, &timer, PIER_MILLISECOND, 3600 * PIER_SECOND, reset_itself);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    CHECK_INT(timer.events, ==, 5);
}

static void stop_itself(struct tracked *tracked)
{
    if (tracked->events == 3) {
        CHECK(tracked_timer_stop(tracked));
        tracked_timer(tracked->loop, tracked, PIER_MILLISECOND, NULL);
    }
}

static void stop_is_at_once_and_silent(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, each = {0}, background = {0};
    tracked_timer(loop, &timer, 0, NULL);
    CHECK(tracked_timer_stop(&timer));
    CHECK(!tracked_timer_stop(&timer));
    CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
    CHECK(pier_loop_next_timeout(loop) == PIER_FOREVER);
    run(loop, PIER_RUN_UNTIL_IDLE);
    CHECK_INT(timer.completions, ==, 0);
    /* It is free to be used at once. */
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    CHECK(tracked_timer_stop(&timer));
    tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK(!tracked_timer_stop(&timer));
    /* A cancel that is on its way stays one. */
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    tracked_cancel(&timer);
    CHECK(!tracked_timer_stop(&timer));
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    /* Repeating ones, also when paused and from their own callback. */
    tracked_timer_each(loop, &each, 0, PIER_MILLISECOND, NULL);
    RUN_UNTIL(loop, each.events == 1);
    tracked_pause(&each);
    CHECK(tracked_timer_stop(&each));
    tracked_timer_each(loop, &each, 0, PIER_MILLISECOND, stop_itself);
    each.events = 0;
    CHECK_INT(wait_for(&each), ==, 0);
    CHECK_INT(each.events, ==, 3);
    /* Counts and names go with it. */
    background.op.flags = PIER_BACKGROUND;
    tracked_timer(loop, &background, 3600 * PIER_SECOND, NULL);
    const uint64_t token = pier_op_token(&background.op);
    CHECK(tracked_timer_stop(&background));
    background.op.flags = 0;
    tracked_timer(loop, &background, PIER_MILLISECOND, NULL);
    pier_cancel_remote(loop, token);
    CHECK_INT(wait_for(&background), ==, 0);
    run(loop, PIER_RUN_UNTIL_IDLE);
}

/* ---- the model ------------------------------------------------------------------------------- */

/* What the model knows of a timer: its deadline lies between these, since the clock goes on
 * during the call. */
struct modelled {
    struct tracked timer;
    uint64_t earliest, latest;
    bool armed, cancelled;
};

struct model {
    struct pier_loop *loop;
    struct modelled *timers;
    size_t count;
    uint64_t random;
    uint64_t latest_fired; /* the largest `earliest` of those that fired */
    size_t fired, cancelled, stopped, resets;
    int rearms_left;
};

static struct model *the_model;

static void arm(struct modelled *modelled, uint64_t delay);

static void on_modelled(struct tracked *tracked)
{
    struct model *model = the_model;
    struct modelled *modelled = PIER_OWNER(tracked, struct modelled, timer);
    const uint64_t now = pier_loop_now(model->loop);
    CHECK(modelled->armed);
    modelled->armed = false;
    if (tracked->result == PIER_ECANCELED) {
        CHECK(modelled->cancelled);
        model->cancelled++;
        return;
    }
    CHECK_INT(tracked->result, ==, 0);
    model->fired++;
    CHECK_INT(now, >=, modelled->earliest);
    /* Nobody whose time was certainly later, by more than a tick, may have fired before. */
    CHECK_INT(modelled->latest + TICK_NS, >=, model->latest_fired);
    if (modelled->earliest > model->latest_fired) {
        model->latest_fired = modelled->earliest;
    }
    if (model->rearms_left > 0) {
        model->rearms_left--;
        arm(modelled, random_below(&model->random, 20000000));
    }
}

static void arm(struct modelled *modelled, uint64_t delay)
{
    struct model *model = the_model;
    const uint64_t before = pier_loop_now(model->loop);
    tracked_timer(model->loop, &modelled->timer, delay, on_modelled);
    modelled->earliest = before + delay;
    modelled->latest = pier_loop_now(model->loop) + delay;
    modelled->armed = true;
    modelled->cancelled = false;
}

static uint64_t random_delay(struct model *model)
{
    switch (random_below(&model->random, 8)) {
    case 0: return random_below(&model->random, 1000);
    case 1: return random_below(&model->random, 200000);
    case 2:
    case 3: return random_below(&model->random, 20000000);
    case 4:
    case 5:
    case 6: return random_below(&model->random, 400000000);
    default: return PIER_SECOND * (60 + random_below(&model->random, 100000));
    }
}

/* A timer that is armed and not being cancelled: at any time at least one in eight is far away. */
static struct modelled *pick_armed(struct model *model)
{
    for (int tries = 0; tries < 200; tries++) {
        struct modelled *modelled =
            &model->timers[random_below(&model->random, (uint32_t)model->count)];
        if (modelled->armed && !modelled->cancelled) {
            return modelled;
        }
    }
    return NULL;
}

static void change_one(struct model *model)
{
    struct modelled *modelled = pick_armed(model);
    if (modelled == NULL) {
        return;
    }
    switch (random_below(&model->random, 4)) {
    case 0:
        modelled->cancelled = true;
        tracked_cancel(&modelled->timer);
        return;
    case 1:
        CHECK(tracked_timer_stop(&modelled->timer));
        modelled->armed = false;
        model->stopped++;
        return;
    default: break;
    }
    const uint64_t delay = random_delay(model), before = pier_loop_now(model->loop);
    pier_timer_reset(&modelled->timer.op, delay);
    modelled->earliest = before + delay;
    modelled->latest = pier_loop_now(model->loop) + delay;
    model->resets++;
}

static bool anything_soon(const struct model *model)
{
    const uint64_t horizon = pier_loop_now(model->loop) + 30 * PIER_SECOND;
    for (size_t i = 0; i < model->count; i++) {
        if (model->timers[i].armed && model->timers[i].earliest < horizon) {
            return true;
        }
    }
    return false;
}

static void hundred_thousand_against_a_model(void)
{
    struct model model = {.loop = test_loop(), .count = 100000, .random = 42, .rearms_left = 20000};
    model.timers = calloc(model.count, sizeof(*model.timers));
    CHECK(model.timers != NULL);
    the_model = &model;
    for (size_t i = 0; i < model.count; i++) {
        arm(&model.timers[i], random_delay(&model));
        if (i % 2 == 1) {
            change_one(&model);
        }
        if (i % 1000 == 999) {
            run(model.loop, PIER_RUN_NO_WAIT);
        }
    }
    while (anything_soon(&model)) {
        for (int i = 0; i < 100; i++) {
            change_one(&model);
        }
        for (int i = 0; i < 20 && pier_loop_next_timeout(model.loop) < 30 * PIER_SECOND; i++) {
            run(model.loop, PIER_RUN_ONCE);
        }
    }
    /* None that was due is left; the rest is far away. */
    const uint64_t now = pier_loop_now(model.loop);
    for (size_t i = 0; i < model.count; i++) {
        CHECK(!model.timers[i].armed || model.timers[i].earliest > now);
        if (model.timers[i].armed && !model.timers[i].cancelled) {
            model.timers[i].cancelled = true;
            tracked_cancel(&model.timers[i].timer);
        }
    }
    while (tracked_in_flight() > 0) {
        run(model.loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(model.fired, >, model.count / 2);
    CHECK_INT(model.cancelled, >, 1000);
    CHECK_INT(model.stopped, >, 1000);
    CHECK_INT(model.resets, >, 1000);
    CHECK_INT(stats_of(model.loop).ops_in_flight, ==, 0);
    free(model.timers);
}

static void next_timeout_follows_the_timers(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked near = {0}, far = {0};
    CHECK(pier_loop_next_timeout(loop) == PIER_FOREVER);
    tracked_timer(loop, &far, 3600 * PIER_SECOND, NULL);
    CHECK_INT(pier_loop_next_timeout(loop) / PIER_SECOND, <=, 3600);
    tracked_timer(loop, &near, PIER_SECOND, NULL);
    CHECK_INT(pier_loop_next_timeout(loop), <=, PIER_SECOND + 2 * TICK_NS);
    tracked_cancel(&near);
    CHECK_INT(wait_for(&near), ==, PIER_ECANCELED);
    tracked_cancel(&far);
    CHECK_INT(wait_for(&far), ==, PIER_ECANCELED);
    CHECK(pier_loop_next_timeout(loop) == PIER_FOREVER);
}

const struct test timers_tests[] = {
    TEST(timers, fires_once_and_never_early),
    TEST(timers, delay_counts_from_now),
    TEST(timers, repeats_on_its_grid),
    TEST(timers, late_repeats_are_skipped_and_counted),
    TEST(timers, interval_of_nothing_is_refused),
    TEST(timers, reset_moves_the_expiry),
    TEST(timers, reset_inside_its_callback),
    TEST(timers, stop_is_at_once_and_silent),
    TEST(timers, hundred_thousand_against_a_model),
    TEST(timers, next_timeout_follows_the_timers),
    TEST_END,
};
