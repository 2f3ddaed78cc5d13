/* loop.c - set-up, run modes, background ops, draining and statistics of a loop. */

#include "suite.h"

#include <stdlib.h>

static void run_modes(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked near = {0}, far = {0};
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(run(loop, PIER_RUN_ONCE), ==, 0);
    CHECK_INT(run(loop, PIER_RUN_NO_WAIT), ==, 0);
    const uint64_t started = platform_now();
    tracked_timer(loop, &near, 5 * PIER_MILLISECOND, NULL);
    tracked_timer(loop, &far, 500 * PIER_MILLISECOND, NULL);
    CHECK_INT(run(loop, PIER_RUN_NO_WAIT), ==, 1);
    CHECK(near.in_flight || platform_now() - started > 5 * PIER_MILLISECOND);
    RUN_UNTIL(loop, !near.in_flight);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK(!far.in_flight);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
}

static void background_ops_keep_nothing_running(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked heartbeat = {0}, receive = {0}, foreground = {0}, notify = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    heartbeat.op.flags |= PIER_BACKGROUND;
    tracked_timer_each(loop, &heartbeat, PIER_MILLISECOND, PIER_MILLISECOND, NULL);
    receive.op.flags |= PIER_BACKGROUND;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    notify.op.flags |= PIER_BACKGROUND;
    tracked_notify_each(loop, &notify, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    /* They run beside others. */
    tracked_timer(loop, &foreground, 30 * PIER_MILLISECOND, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK(!foreground.in_flight);
    CHECK_INT(heartbeat.events, >=, 1);
    CHECK(receive.in_flight);
    tracked_cancel(&heartbeat);
    tracked_cancel(&notify);
    raw_send(peer, "x", 1);
    while (heartbeat.in_flight || receive.in_flight || notify.in_flight) {
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(receive.result, ==, 1);
    /* The flag isn't sticky beyond what the caller sets. */
    receive.op.flags = 0;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    CHECK_INT(run(loop, PIER_RUN_NO_WAIT), ==, 1);
    close_and_wait(&a);
    raw_close(peer);
}

static void stop_in_callback(struct tracked *tracked)
{
    pier_loop_stop(tracked->loop);
}

static void stop_inside_a_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked stopper = {0}, far = {0};
    tracked_timer(loop, &far, 3600 * PIER_SECOND, NULL);
    tracked_timer(loop, &stopper, PIER_MILLISECOND, stop_in_callback);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 1);
    CHECK(!stopper.in_flight);
    CHECK(far.in_flight);
    /* Once. */
    tracked_timer(loop, &stopper, PIER_MILLISECOND, NULL);
    tracked_cancel(&far);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK(!stopper.in_flight);
}

static void options_out_of_range(void)
{
    struct pier_loop *loop = NULL;
    const struct pier_loop_options good = test_options();
    struct pier_loop_options bad[] = {good, good, good, good, good, good, good};
    static const char *const named[] = {"queue_size", "buffer_size", "buffer_size", "buffers_max",
                                        "trigger",    "buffers_min", "backend"};
    bad[0].queue_size = 32769;
    bad[1].buffer_size = 63;
    bad[2].buffer_size = (16u << 20) + 1;
    bad[3].buffers_max = 32769;
    bad[4].trigger = (enum pier_trigger)9;
    bad[5].buffers_min = 100;
    bad[5].buffers_max = 50;
    bad[6].backend = "teleport";
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        CHECK_REFUSED(pier_loop_new(&loop, &bad[i]), PIER_EINVAL);
        CHECK(loop == NULL);
        if (strstr(pier_error_detail(), named[i]) == NULL) {
            FAIL("\"%s\" doesn't name %s", pier_error_detail(), named[i]);
        }
    }
    CHECK(strstr(pier_error_detail(), "teleport") != NULL);
}

static void options_at_their_bounds(void)
{
    struct pier_loop_options options = test_options();
    struct tracked timer = {0};
    options.queue_size = 1;
    options.receives_max = 1;
    options.callbacks_max = 1;
    options.buffer_size = 64;
    options.buffers_min = 1;
    options.buffers_max = 1;
    options.buffer_share = 1;
    struct pier_loop *loop = test_loop_with(&options);
    tracked_timer(loop, &timer, 0, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    run(loop, PIER_RUN_NO_WAIT);
    struct tracked_handle a = {0}, b = {0};
    struct tracked each = {0};
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    tracked_receive_each(&b, &each, NULL);
    send_all(&a, "0123456789", 10);
    RUN_UNTIL(loop, each.done == 10);
    close_and_wait(&a);
    CHECK_INT(wait_for(&each), ==, 0);
    close_and_wait(&b);
}

static void other_sizes_are_refused(void)
{
    struct pier_loop *loop = NULL;
    const struct pier_loop_options options = test_options();
    const struct pier_abi good = {
        sizeof(struct pier_abi), PIER_VERSION_MAJOR * 1000 + PIER_VERSION_MINOR,
        sizeof(struct pier_op), sizeof(struct pier_handle), sizeof(struct pier_loop_options)};
    struct pier_abi bad[] = {good, good, good, good};
    bad[0].op_size -= 8;
    bad[1].handle_size += 8;
    bad[2].options_size += 8;
    bad[3].size -= 4;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        CHECK_REFUSED(pier_loop_new_for(&loop, &options, &bad[i]), PIER_EINVAL);
        CHECK(loop == NULL);
    }
    CHECK_OK(pier_loop_new_for(&loop, &options, &good));
    pier_loop_free(loop);
    pier_loop_free(NULL);
}

static void backend_from_the_environment(void)
{
    struct pier_loop_options options = test_options();
    options.backend = NULL;
    platform_set_environment("PIER_BACKEND", test_backend());
    struct pier_loop *loop = test_loop_with(&options);
    CHECK_TEXT(pier_loop_backend(loop), test_backend());
    test_loop_free(loop);
    options.backend = ""; /* the same */
    loop = test_loop_with(&options);
    CHECK_TEXT(pier_loop_backend(loop), test_backend());
    test_loop_free(loop);
    options.backend = NULL;
    platform_set_environment("PIER_BACKEND", "teleport");
    loop = NULL;
    CHECK_REFUSED(pier_loop_new(&loop, &options), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "teleport") != NULL);
    CHECK(strstr(pier_error_detail(), "PIER_BACKEND") != NULL);
    /* The option is stronger. */
    options.backend = test_backend();
    loop = test_loop_with(&options);
    CHECK_TEXT(pier_loop_backend(loop), test_backend());
    test_loop_free(loop);
    platform_set_environment("PIER_BACKEND", NULL);
    /* The best there is. */
    options.backend = NULL;
    loop = test_loop_with(&options);
    CHECK(pier_backend_probe(pier_loop_backend(loop)) >= 0);
}

static void backends_are_listed_and_probed(void)
{
    bool found = false;
    size_t count = 0;
    for (const char *name; (name = pier_backend_name(count)) != NULL; count++) {
        const int bits = pier_backend_probe(name);
        found = found || strcmp(name, test_backend()) == 0;
        if (bits < 0) {
            test_check_detail(__FILE__, __LINE__, "pier_backend_probe()");
        }
    }
    CHECK(found);
    CHECK_INT(count, >=, 1);
    CHECK_REFUSED(pier_backend_probe("teleport"), PIER_EINVAL);
    struct pier_loop *loop = test_loop();
    CHECK_TEXT(pier_loop_backend(loop), test_backend());
    CHECK_INT(pier_loop_capabilities(loop), ==, pier_backend_probe(test_backend()));
    CHECK_TEXT(pier_version(), PIER_VERSION_STRING);
}

struct drained {
    struct pier_loop *loop;
    struct tracked stubborn, late;
    struct tracked_handle a, b;
    unsigned resubmits;
};

static void resubmit_when_cancelled(struct tracked *tracked)
{
    struct drained *drained = PIER_OWNER(tracked, struct drained, stubborn);
    if (drained->resubmits++ < 5) {
        tracked_timer(drained->loop, tracked, 3600 * PIER_SECOND, resubmit_when_cancelled);
    }
}

/* Everything ends, also what callbacks submit meanwhile. */
static void drain_ends_everything(void)
{
    struct drained drained = {.loop = test_loop()};
    struct pier_loop *loop = drained.loop;
    struct tracked_handle listener = {0};
    struct tracked ops[8] = {0};
    char byte;
    tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_pair(loop, STREAM_TCP4, &drained.a, &drained.b);
    tracked_accept_each(&listener, &ops[0], NULL);
    tracked_receive(&drained.a, &ops[1], &byte, 1, NULL);
    tracked_receive_each(&drained.b, &ops[2], NULL);
    tracked_timer(loop, &ops[3], 3600 * PIER_SECOND, NULL);
    tracked_timer_each(loop, &ops[4], PIER_MILLISECOND, PIER_MILLISECOND, NULL);
    tracked_notify_each(loop, &ops[5], NULL);
    ops[6].op.flags |= PIER_BACKGROUND;
    tracked_timer(loop, &ops[6], 3600 * PIER_SECOND, NULL);
    tracked_post(loop, &ops[7], NULL);
    tracked_timer(loop, &drained.stubborn, 3600 * PIER_SECOND, resubmit_when_cancelled);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    for (size_t i = 0; i < COUNT_OF(ops); i++) {
        CHECK_INT(ops[i].completions, ==, 1);
    }
    CHECK_INT(drained.resubmits, ==, 6);
    CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
    CHECK_INT(stats_of(loop).handles_open, ==, 0);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(drain(loop, 0), ==, 0);
}

struct undying {
    struct tracked timer;
    bool give_up;
};

static void never_give_up(struct tracked *tracked)
{
    struct undying *undying = PIER_OWNER(tracked, struct undying, timer);
    if (!undying->give_up) {
        tracked_timer(tracked->loop, tracked, 3600 * PIER_SECOND, never_give_up);
    }
}

/* Ops that wait for nothing are found as well: those paused, also with a time limit. */
static void drain_ends_what_is_paused(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, notify = {0}, polls[2] = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    for (unsigned round = 0; round < 2; round++) {
        tracked_timer_each(loop, &timer, PIER_MILLISECOND, PIER_MILLISECOND, NULL);
        tracked_notify_each(loop, &notify, NULL);
        tracked_pause(&timer);
        tracked_pause(&notify);
        for (unsigned i = 0; i < 2 && test_can(PIER_CAN_POLL); i++) {
            polls[i].op.timeout_ns = i * PIER_SECOND;
            tracked_poll_each(loop, &polls[i], ends[0], PIER_READABLE, NULL);
            tracked_pause(&polls[i]);
        }
        if (round == 1) {
            tracked_resume(&timer);
            tracked_pause(&timer);
            pier_timer_reset(&timer.op, PIER_SECOND);
            run_quietly(loop, 5);
        }
        CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
        CHECK_INT(timer.result, ==, PIER_ECANCELED);
        CHECK_INT(notify.result, ==, PIER_ECANCELED);
        for (unsigned i = 0; i < 2; i++) {
            CHECK_INT(polls[i].result, ==, test_can(PIER_CAN_POLL) ? PIER_ECANCELED : 0);
        }
    }
    tracked_timer_each(loop, &timer, 0, PIER_MILLISECOND, NULL);
    tracked_pause(&timer);
    tracked_resume(&timer);
    RUN_UNTIL(loop, timer.events >= 2);
    tracked_pause(&timer);
    tracked_cancel(&timer);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void drain_gives_up_in_time(void)
{
    struct pier_loop *loop = test_loop();
    struct undying undying = {0};
    tracked_timer(loop, &undying.timer, 3600 * PIER_SECOND, never_give_up);
    CHECK_INT(drain(loop, 30 * PIER_MILLISECOND), ==, PIER_ETIMEDOUT);
    CHECK(undying.timer.in_flight);
    undying.give_up = true;
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
}

static void statistics_add_up(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked timer = {0}, post = {0};
    char got[100] = {0};
    const struct pier_loop_counters start = stats_of(loop);
    CHECK_INT(start.callbacks + start.ops_in_flight + start.handles_open + start.buffers_lent, ==,
              0);
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    struct pier_loop_counters now = stats_of(loop);
    CHECK_INT(now.accepts, ==, 1);
    CHECK_INT(now.connects, ==, 1);
    CHECK_INT(now.closes, ==, 1);
    CHECK_INT(now.handles_open, ==, 2);
    CHECK_INT(now.callbacks, >=, 2); /* close functions may be counted as well */
    CHECK_INT(now.callbacks, <=, 2 + now.closes);
    send_all(&a, got, 100);
    receive_all(&b, got, 100);
    tracked_timer(loop, &timer, 0, NULL);
    wait_for(&timer);
    tracked_post(loop, &post, NULL);
    wait_for(&post);
    tracked_timer(loop, &timer, PIER_SECOND, NULL);
    CHECK_INT(stats_of(loop).ops_in_flight, ==, 1);
    tracked_cancel(&timer);
    wait_for(&timer);
    now = stats_of(loop);
    CHECK_INT(now.sends, ==, 1);
    CHECK_INT(now.sent_bytes, ==, 100);
    CHECK_INT(now.receives, >=, 1);
    CHECK_INT(now.received_bytes, ==, 100);
    CHECK_INT(now.timers, ==, 1);
    CHECK_INT(now.posts, ==, 1);
    CHECK_INT(now.cancels, ==, 1);
    CHECK_INT(now.callbacks, >=, 2 + 1 + now.receives + 3);
    CHECK_INT(now.callbacks, <=, 2 + 1 + now.receives + 3 + now.closes);
    CHECK_INT(now.ops_in_flight, ==, 0);
    CHECK_INT(now.turns, >=, 1);
    CHECK_INT(now.waits, >=, 1); /* for the connection, if for nothing else */
    CHECK_INT(now.waits, <=, now.turns);
    pier_loop_run(loop, PIER_RUN_NO_WAIT);
    CHECK_INT(stats_of(loop).turns, ==, now.turns + 1);
    CHECK_INT(stats_of(loop).waits, ==, now.waits);
    CHECK_INT(now.system_calls, >=, 1);
    CHECK_INT(now.allocations, ==, test_allocations_made());
    CHECK_INT(now.longest_callback_ns, ==, 0);
    close_and_wait(&a);
    close_and_wait(&b);
    CHECK_INT(stats_of(loop).closes, ==, 3);
}

struct slow {
    unsigned calls;
    uint64_t longest;
};

static void note_slow(void *context, struct pier_loop *loop, pier_op_fn *fn, uint64_t took_ns)
{
    struct slow *slow = context;
    CHECK(loop != NULL);
    CHECK(fn != NULL);
    slow->calls++;
    slow->longest = took_ns > slow->longest ? took_ns : slow->longest;
}

static void dawdle(struct tracked *tracked)
{
    (void)tracked;
    const uint64_t until = platform_now() + 20 * PIER_MILLISECOND;
    while (platform_now() < until) {}
}

static void slow_callbacks_are_reported(void)
{
    struct slow slow = {0};
    struct pier_loop_options options = test_options();
    options.slow_callback_ns = 10 * PIER_MILLISECOND;
    options.slow_callback = note_slow;
    options.slow_context = &slow;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked timer = {0};
    tracked_timer(loop, &timer, 0, dawdle);
    wait_for(&timer);
    CHECK_INT(slow.calls, ==, 1);
    CHECK_INT(slow.longest, >=, 19 * PIER_MILLISECOND);
    CHECK_INT(stats_of(loop).slow_callbacks, ==, 1);
    CHECK_INT(stats_of(loop).longest_callback_ns, ==, slow.longest);
}

const struct test loop_tests[] = {
    TEST(loop, run_modes),
    TEST(loop, background_ops_keep_nothing_running),
    TEST(loop, stop_inside_a_callback),
    TEST(loop, options_out_of_range),
    TEST(loop, options_at_their_bounds),
    TEST(loop, other_sizes_are_refused),
    TEST(loop, backend_from_the_environment),
    TEST(loop, backends_are_listed_and_probed),
    TEST(loop, drain_ends_everything),
    TEST(loop, drain_ends_what_is_paused),
    TEST(loop, drain_gives_up_in_time),
    TEST(loop, statistics_add_up),
    TEST(loop, slow_callbacks_are_reported),
    TEST_END,
};
