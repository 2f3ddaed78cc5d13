/* handle_timers.c - pier_timer_on(): a timer that ends with its handle. */

#include "suite.h"

#include <stdlib.h>

static void begin_pair(struct pier_loop **loop, struct tracked_handle *a, struct tracked_handle *b)
{
    *loop = test_loop();
    memset(a, 0, sizeof(*a));
    memset(b, 0, sizeof(*b));
    tracked_pair(*loop, STREAM_PAIR, a, b);
}

static void close_pair(struct tracked_handle *a, struct tracked_handle *b)
{
    close_and_wait(a);
    close_and_wait(b);
}

static void fires_like_any_timer(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timers[3] = {0}, other = {0};
    begin_pair(&loop, &a, &b);
    const uint64_t begin = pier_loop_now(loop);
    tracked_timer_on(&a, &timers[0], 30 * PIER_MILLISECOND, NULL);
    tracked_timer_on(&a, &timers[1], 10 * PIER_MILLISECOND, NULL);
    tracked_timer_on(&b, &timers[2], 0, NULL);
    tracked_timer(loop, &other, 20 * PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timers[0]), ==, 0);
    CHECK_INT(pier_loop_now(loop) - begin, >=, 30 * PIER_MILLISECOND);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(timers[i].completions, ==, 1);
        CHECK_INT(timers[i].result, ==, 0);
    }
    CHECK(timers[2].sequence < timers[1].sequence);
    CHECK(timers[1].sequence < other.sequence);
    CHECK(other.sequence < timers[0].sequence);
    CHECK_INT(stats_of(loop).timers, ==, 4);
    CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
    close_pair(&a, &b);
}

static void close_ends_it(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    for (int turns = 0; turns < 2; turns++) {
        struct tracked timers[5] = {0};
        begin_pair(&loop, &a, &b);
        for (int i = 0; i < 5; i++) {
            tracked_timer_on(&a, &timers[i], 3600 * PIER_SECOND, NULL);
        }
        if (turns) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        close_and_wait(&a);
        for (int i = 0; i < 5; i++) {
            CHECK_INT(timers[i].completions, ==, 1);
            CHECK_INT(timers[i].result, ==, PIER_ECLOSED);
            CHECK(timers[i].sequence < a.sequence);
        }
        close_and_wait(&b);
        test_loop_free(loop);
    }
}

/* At once, though the handle is still there to wait for its peer. */
static void graceful_close_ends_it(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0}, late = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timer, 3600 * PIER_SECOND, NULL);
    tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, PIER_ECLOSED);
    CHECK_INT(a.closes, ==, 0);
    tracked_timer_on(&a, &late, 0, NULL);
    CHECK_INT(wait_for(&late), ==, PIER_ECLOSED);
    CHECK_INT(a.closes, ==, 0);
    close_and_wait(&b);
    RUN_UNTIL(loop, a.closes == 1);
}

static void on_a_closing_handle(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    tracked_close(&a, NULL);
    tracked_timer_on(&a, &timer, 0, NULL);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(timer.result, ==, PIER_ECLOSED);
    CHECK(timer.sequence < a.sequence);
    close_and_wait(&b);
}

/* In flight, and with its completion still to come, the handle can't leave. */
static void detach_waits_for_it(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timer, 3600 * PIER_SECOND, NULL);
    CHECK_REFUSED(pier_detach(&a.handle), PIER_EBUSY);
    tracked_cancel(&timer);
    CHECK_REFUSED(pier_detach(&a.handle), PIER_EBUSY);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    CHECK_OK(pier_detach(&a.handle));
    CHECK_OK(pier_attach(&a.handle, loop));
    tracked_timer_on(&a, &timer, 3600 * PIER_SECOND, NULL);
    CHECK_REFUSED(pier_detach(&a.handle), PIER_EBUSY);
    CHECK(tracked_timer_stop(&timer));
    CHECK_OK(pier_detach(&a.handle));
    CHECK_OK(pier_attach(&a.handle, loop));
    close_pair(&a, &b);
}

static void detach_and_discard(struct tracked *timer)
{
    CHECK_OK(pier_detach(&timer->owner->handle));
    pier_handle_discard(&timer->owner->handle);
}

static void detach_in_its_function(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timer, 0, detach_and_discard);
    CHECK_INT(wait_for(&timer), ==, 0);
    close_and_wait(&b);
}

/* A handle that has moved takes its timers from the loop that it is on now. */
static void on_the_loop_of_the_handle(void)
{
    struct pier_loop *loop, *other = test_loop();
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timer, 0, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_OK(pier_detach(&a.handle));
    CHECK_OK(pier_attach(&a.handle, other));
    a.loop = other;
    tracked_timer_on(&a, &timer, PIER_MILLISECOND, NULL);
    CHECK(pier_op_loop(&timer.op) == other);
    CHECK_INT(wait_for(&timer), ==, 0);
    close_pair(&a, &b);
}

static void close_owner(struct tracked *timer)
{
    if (!timer->owner->closing) {
        tracked_close(timer->owner, NULL);
    }
}

/* Idle ones are closed by drain, others by what their completions do. */
static void drain_ends_it(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timers[2] = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timers[0], 3600 * PIER_SECOND, NULL);
    tracked_timer_on(&b, &timers[1], 3600 * PIER_SECOND, close_owner);
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(timers[0].result, ==, PIER_ECANCELED);
    CHECK_INT(timers[1].result, ==, PIER_ECANCELED);
    CHECK_INT(b.closes, ==, 1);
    CHECK(!pier_handle_is_open(&a.handle));
}

static void reset_and_stop(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timer, 3600 * PIER_SECOND, NULL);
    pier_timer_reset(&timer.op, 0);
    CHECK_INT(wait_for(&timer), ==, 0);
    pier_timer_reset(&timer.op, 0);
    CHECK(!tracked_timer_stop(&timer));
    const uint64_t begin = pier_loop_now(loop);
    tracked_timer_on(&a, &timer, 0, NULL);
    pier_timer_reset(&timer.op, 20 * PIER_MILLISECOND);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_INT(pier_loop_now(loop) - begin, >=, 20 * PIER_MILLISECOND);
    tracked_timer_on(&a, &timer, 0, NULL);
    CHECK(tracked_timer_stop(&timer));
    run_quietly(loop, 2);
    CHECK_INT(timer.completions, ==, 2);
    tracked_timer_on(&a, &timer, 0, NULL);
    tracked_close(&a, NULL);
    pier_timer_reset(&timer.op, 0); /* its end is on its way */
    CHECK(!tracked_timer_stop(&timer));
    CHECK_INT(wait_for(&timer), ==, PIER_ECLOSED);
    close_and_wait(&b);
}

static void in_the_background(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    timer.op.flags = PIER_BACKGROUND;
    tracked_timer_on(&a, &timer, 3600 * PIER_SECOND, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    close_pair(&a, &b);
    CHECK_INT(timer.result, ==, PIER_ECLOSED);
    CHECK((timer.flags & PIER_BACKGROUND) != 0);
}

static void cancelled_by_token(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timer = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timer, 3600 * PIER_SECOND, NULL);
    const uint64_t token = pier_op_token(&timer.op);
    CHECK(token != 0);
    pier_cancel_remote(loop, token);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    /* The token went with it, also when it fires. */
    tracked_timer_on(&a, &timer, 0, NULL);
    CHECK(pier_op_token(&timer.op) != token);
    pier_cancel_remote(loop, token);
    CHECK_INT(wait_for(&timer), ==, 0);
    close_pair(&a, &b);
}

/* Due at the same moment: the first closes the handle, and the others don't fire any more. */
static void the_first_of_many_closes(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timers[20] = {0};
    unsigned fired = 0;
    begin_pair(&loop, &a, &b);
    for (int i = 0; i < 20; i++) {
        tracked_timer_on(&a, &timers[i], 0, close_owner);
    }
    RUN_UNTIL(loop, a.closes == 1);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(timers[i].completions, ==, 1);
        fired += timers[i].result == 0;
        CHECK(timers[i].result == 0 || timers[i].result == PIER_ECLOSED);
    }
    CHECK_INT(fired, ==, 1);
    close_and_wait(&b);
}

struct beat {
    unsigned left;
};

static void beat_again(struct tracked *timer)
{
    struct beat *beat = timer->context;
    if (timer->result == 0 && --beat->left > 0) {
        tracked_timer_on(timer->owner, timer, PIER_MILLISECOND, beat_again);
    }
}

/* Beside a receive that waits and a send that is blocked, neither of which it disturbs. */
static void beside_other_ops(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct beat beat = {.left = 5};
    struct tracked timer = {.context = &beat}, receive = {0}, send = {0};
    static unsigned char big[1 << 22], got[1 << 16];
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    tracked_timer_on(&a, &timer, 0, beat_again);
    RUN_UNTIL(loop, beat.left == 0);
    CHECK(receive.in_flight);
    SPIN_UNTIL(loop, !send.in_flight, raw_receive_now(peer, got, sizeof(got)));
    CHECK_INT(send.result, ==, sizeof(big));
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    close_and_wait(&a);
    raw_close(peer);
}

enum { TIMERS = 64 };

/* Any of them in any order: each completes once or is stopped, and the handle has the rest. */
static void any_order(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked *timers = calloc(TIMERS, sizeof(*timers));
    uint64_t state = 7;
    CHECK(timers != NULL);
    begin_pair(&loop, &a, &b);
    for (int step = 0; step < 4000; step++) {
        struct tracked *timer = &timers[random_below(&state, TIMERS)];
        const uint64_t delay = random_below(&state, 4) * 300 * PIER_MICROSECOND;
        const uint32_t what = random_below(&state, 8);
        if (what == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        } else if (!timer->in_flight) {
            tracked_timer_on(what % 2 == 0 ? &a : &b, timer, delay, NULL);
        } else if (what == 1) {
            tracked_timer_stop(timer);
        } else if (what == 2) {
            tracked_cancel(timer);
        } else {
            pier_timer_reset(&timer->op, delay);
        }
    }
    unsigned in_flight = 0;
    for (int i = 0; i < TIMERS; i++) {
        in_flight += timers[i].in_flight;
    }
    CHECK_INT(a.in_flight + b.in_flight, ==, in_flight);
    close_pair(&a, &b);
    for (int i = 0; i < TIMERS; i++) {
        CHECK(!timers[i].in_flight);
    }
    free(timers);
}

struct lines {
    unsigned timers;
    bool below; /* a stream's line */
};

static void take_line(void *context, const char *line)
{
    struct lines *lines = context;
    if (strncmp(line, "  ", 2) != 0) {
        lines->below = strstr(line, "lent buffers") != NULL;
    }
    if (strncmp(line, "  timer active, due in ", 23) == 0) {
        CHECK(lines->below);
        CHECK(strstr(line, "bytes") == NULL);
        lines->timers++;
    }
}

static void in_the_dump(void)
{
    struct pier_loop *loop;
    struct tracked_handle a, b;
    struct tracked timers[2] = {0};
    struct lines lines = {0};
    begin_pair(&loop, &a, &b);
    tracked_timer_on(&a, &timers[0], 3600 * PIER_SECOND, NULL);
    tracked_timer_on(&b, &timers[1], 3600 * PIER_SECOND, NULL);
    pier_loop_dump(loop, take_line, &lines);
    CHECK_INT(lines.timers, ==, 2);
    close_pair(&a, &b);
}

static struct pier_loop *the_loop;
static struct pier_handle the_handle, the_other;
static struct pier_op the_op;

static void do_nothing(struct pier_op *op)
{
    (void)op;
}

static void open_pair(void)
{
    const struct pier_loop_options options = test_options();
    CHECK_OK(pier_loop_new(&the_loop, &options));
    CHECK_OK(pier_socket_pair(the_loop, &the_handle, &the_other));
}

static void submit_twice(void)
{
    open_pair();
    pier_timer_on(&the_handle, &the_op, PIER_SECOND, do_nothing);
    pier_timer_on(&the_other, &the_op, PIER_SECOND, do_nothing);
}

static void submit_without_function(void)
{
    open_pair();
    pier_timer_on(&the_handle, &the_op, PIER_SECOND, NULL);
}

static void submit_on_what_is_not_open(void)
{
    pier_timer_on(&the_handle, &the_op, PIER_SECOND, do_nothing);
}

static void misuse_is_noticed(void)
{
    CHECK_ABORTS(submit_twice, "pier_timer_on", "in flight");
    CHECK_ABORTS(submit_without_function, "pier_timer_on", "NULL");
    CHECK_ABORTS(submit_on_what_is_not_open, "pier_timer_on", "not open");
}

const struct test handle_timers_tests[] = {
    TEST(handle_timers, fires_like_any_timer),
    TEST(handle_timers, close_ends_it),
    TEST(handle_timers, graceful_close_ends_it),
    TEST(handle_timers, on_a_closing_handle),
    TEST(handle_timers, detach_waits_for_it),
    TEST(handle_timers, detach_in_its_function),
    TEST(handle_timers, on_the_loop_of_the_handle),
    TEST(handle_timers, drain_ends_it),
    TEST(handle_timers, reset_and_stop),
    TEST(handle_timers, in_the_background),
    TEST(handle_timers, cancelled_by_token),
    TEST(handle_timers, the_first_of_many_closes),
    TEST(handle_timers, beside_other_ops),
    TEST(handle_timers, any_order),
    TEST(handle_timers, in_the_dump),
    TEST(handle_timers, misuse_is_noticed),
    TEST_END,
};
