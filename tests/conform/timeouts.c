/* timeouts.c - op->timeout_ns: counted from submit, an idle limit on multishot ops, and the
 * first reason wins.
 *
 * Nothing may time out early; how late is left to the machine. */

#include "suite.h"

static unsigned char big[4 << 20];

/* Waits for an op that was submitted with a time-out of `timeout_ns` at `started`. */
static void expect_timeout(struct tracked *tracked, uint64_t started, uint64_t timeout_ns)
{
    CHECK_INT(wait_for(tracked), ==, PIER_ETIMEDOUT);
    CHECK_INT(pier_loop_now(tracked->loop) - started, >=, timeout_ns);
}

static void each_kind_times_out(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, listener = {0};
    const uint64_t timeout_ns = 20 * PIER_MILLISECOND;
    struct tracked ops[7] = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    const uint64_t started = pier_loop_now(loop);
    for (size_t i = 0; i < COUNT_OF(ops); i++) {
        ops[i].op.timeout_ns = timeout_ns;
    }
    tracked_receive(&a, &ops[0], &byte, 1, NULL);
    tracked_receive_lent(&a, &ops[1], NULL);
    tracked_receive_each(&a, &ops[2], NULL);
    tracked_accept(&listener, &ops[3], NULL);
    tracked_accept_each(&listener, &ops[4], NULL);
    tracked_poll(loop, &ops[5], peer, PIER_READABLE, NULL);
    tracked_poll_each(loop, &ops[6], peer, PIER_READABLE, NULL);
    for (size_t i = 0; i < COUNT_OF(ops); i++) {
        expect_timeout(&ops[i], started, timeout_ns);
        CHECK_INT(ops[i].events, ==, 0);
    }
    check_usable(&a, peer);
    close_and_wait(&a);
    close_and_wait(&listener);
    raw_close(peer);
}

static void send_times_out_partly_done(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pattern_fill(big, sizeof(big), 2, 0);
    send.op.timeout_ns = 30 * PIER_MILLISECOND;
    const uint64_t started = pier_loop_now(loop);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    expect_timeout(&send, started, 30 * PIER_MILLISECOND);
    CHECK_INT(send.done, >, 0);
    close_and_wait(&a);
    static unsigned char got[sizeof(big)];
    raw_receive(peer, got, (size_t)send.done);
    CHECK_PATTERN(got, (size_t)send.done, 2, 0);
    raw_receive_end(peer);
    raw_close(peer);
}

static void queued_op_times_out_in_the_queue(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked first = {0}, queued = {0}, last = {0};
    char one = 0, two = 0, three = 0;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &first, &one, 1, NULL);
    queued.op.timeout_ns = 20 * PIER_MILLISECOND;
    const uint64_t started = pier_loop_now(loop);
    tracked_receive(&a, &queued, &two, 1, NULL);
    tracked_receive(&a, &last, &three, 1, NULL);
    expect_timeout(&queued, started, 20 * PIER_MILLISECOND);
    CHECK(first.in_flight);
    CHECK(last.in_flight);
    raw_send(peer, "13", 2);
    CHECK_INT(wait_for(&last), ==, 1);
    CHECK_INT(one, ==, '1');
    CHECK_INT(three, ==, '3');
    close_and_wait(&a);
    raw_close(peer);
}

static void cancel_other(struct tracked *tracked)
{
    tracked_cancel(tracked->context);
}

/* The second op is queued for 400 of its 500 ms. If the time in the queue didn't count it would
 * end at 900, not at 500. Whether it was over before the referee, at 700. */
static bool is_over_in_time(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked first = {0}, second = {0}, canceller = {.context = &first}, referee = {0};
    char one, two;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &first, &one, 1, NULL);
    second.op.timeout_ns = 500 * PIER_MILLISECOND;
    tracked_receive(&a, &second, &two, 1, NULL);
    tracked_timer(loop, &canceller, 400 * PIER_MILLISECOND, cancel_other);
    tracked_timer(loop, &referee, 700 * PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&second), ==, PIER_ETIMEDOUT);
    CHECK_INT(first.result, ==, PIER_ECANCELED);
    const bool in_time = referee.in_flight;
    tracked_cancel(&referee);
    wait_for(&referee);
    close_and_wait(&a);
    raw_close(peer);
    test_loop_free(loop);
    return in_time;
}

/* A machine that is busy elsewhere for 200 ms of the 700 proves nothing: then once more. */
static void time_in_the_queue_counts(void)
{
    unsigned late = 0;
    while (late < 5 && !is_over_in_time()) {
        late++;
    }
    CHECK_INT(late, <, 5);
}

static void cleared_at_submit(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    receive.op.timeout_ns = PIER_MILLISECOND;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    CHECK_INT(wait_for(&receive), ==, PIER_ETIMEDOUT);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    run_quietly(loop, 30);
    CHECK(receive.in_flight);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    close_and_wait(&a);
    raw_close(peer);
}

/* A time-out that didn't strike must not strike the next use of the op. */
static void forgotten_after_completion(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    for (int i = 0; i < 20; i++) {
        receive.op.timeout_ns = 10 * PIER_MILLISECOND * test_slowness();
        tracked_receive(&a, &receive, &byte, 1, NULL);
        raw_send(peer, "x", 1);
        CHECK(wait_for(&receive) == 1 || receive.result == PIER_ETIMEDOUT);
        if (receive.result == PIER_ETIMEDOUT) {
            receive_all(&a, &byte, 1);
        }
    }
    tracked_receive(&a, &receive, &byte, 1, NULL);
    run_quietly(loop, 30 * test_slowness());
    CHECK(receive.in_flight);
    raw_send(peer, "y", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    close_and_wait(&a);
    raw_close(peer);
}

struct trickle {
    struct tracked_handle handle;
    struct tracked each, sender;
    pier_descriptor peer;
    uint64_t last_event, last_send, longest_gap;
    int left;
};

static void note_event(struct tracked *tracked)
{
    struct trickle *trickle = PIER_OWNER(tracked, struct trickle, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        trickle->last_event = pier_loop_now(tracked->loop);
    }
}

static void send_one(struct tracked *tracked)
{
    struct trickle *trickle = PIER_OWNER(tracked, struct trickle, sender);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    const uint64_t now = pier_loop_now(tracked->loop);
    if (now - trickle->last_send > trickle->longest_gap) {
        trickle->longest_gap = now - trickle->last_send;
    }
    trickle->last_send = now;
    raw_send(trickle->peer, "x", 1);
    if (--trickle->left == 0) {
        tracked_cancel(tracked);
    }
}

static void idle_limit_of_multishot(void)
{
    struct pier_loop *loop = test_loop();
    struct trickle trickle = {.left = 12};
    const uint64_t idle_ns = 300 * PIER_MILLISECOND, interval_ns = 50 * PIER_MILLISECOND;
    trickle.peer = tracked_raw_pair(loop, STREAM_TCP4, &trickle.handle);
    trickle.last_event = trickle.last_send = pier_loop_now(loop);
    trickle.each.op.timeout_ns = idle_ns;
    tracked_receive_each(&trickle.handle, &trickle.each, note_event);
    tracked_timer_each(loop, &trickle.sender, interval_ns, interval_ns, send_one);
    CHECK_INT(wait_for(&trickle.each), ==, PIER_ETIMEDOUT);
    CHECK_INT(pier_loop_now(loop) - trickle.last_event, >=, idle_ns);
    /* 12 bytes in 600 ms: longer than the limit in all, unless the machine stood still between
     * two of them. */
    if (trickle.longest_gap < idle_ns / 2) {
        CHECK_INT(trickle.left, ==, 0);
        CHECK_INT(trickle.each.done, ==, 12);
    }
    tracked_cancel(&trickle.sender);
    RUN_UNTIL(loop, !trickle.sender.in_flight);
    close_and_wait(&trickle.handle);
    raw_close(trickle.peer);
}

static void racing_with_data(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    unsigned timed_out = 0;
    for (unsigned i = 0; i < 300; i++) {
        struct tracked receive = {0};
        unsigned char byte = 0, sent = (unsigned char)i;
        const uint64_t until = platform_now() + 150 * PIER_MICROSECOND;
        receive.op.timeout_ns = 100 * PIER_MICROSECOND;
        tracked_receive(&a, &receive, &byte, 1, NULL);
        run(loop, PIER_RUN_NO_WAIT);
        while (platform_now() < until) {}
        raw_send(peer, &sent, 1);
        wait_for(&receive);
        CHECK(receive.result == 1 || receive.result == PIER_ETIMEDOUT);
        if (receive.result == PIER_ETIMEDOUT) {
            timed_out++;
            receive_all(&a, &byte, 1);
        }
        CHECK_INT(byte, ==, sent);
    }
    CHECK_INT(timed_out, <=, 300);
    close_and_wait(&a);
    raw_close(peer);
}

static void stall(uint64_t nanoseconds)
{
    const uint64_t until = platform_now() + nanoseconds;
    while (platform_now() < until) {}
}

/* The time is up, but the program's cancel came before the loop could say so. */
static void cancel_before_overdue_timeout_wins(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    receive.op.timeout_ns = PIER_MILLISECOND;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    stall(5 * PIER_MILLISECOND);
    tracked_cancel(&receive);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    receive.op.timeout_ns = PIER_MILLISECOND;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    stall(5 * PIER_MILLISECOND);
    tracked_close(&a, NULL);
    CHECK_INT(wait_for(&receive), ==, PIER_ECLOSED);
    RUN_UNTIL(loop, a.closes == 1);
    raw_close(peer);
}

static void close_owner(struct tracked *tracked)
{
    tracked_close(tracked->context, NULL);
}

/* Time-out first, cancel or close some ticks later, all due in one turn. */
static void timeout_before_cancel_wins(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked one = {0}, two = {0}, canceller = {.context = &one}, closer = {.context = &b};
    char byte, other;
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    run(loop, PIER_RUN_NO_WAIT);
    one.op.timeout_ns = PIER_MILLISECOND;
    two.op.timeout_ns = PIER_MILLISECOND;
    tracked_receive(&a, &one, &byte, 1, NULL);
    tracked_receive(&b, &two, &other, 1, NULL);
    tracked_timer(loop, &canceller, 2 * PIER_MILLISECOND, cancel_other);
    tracked_timer(loop, &closer, 2 * PIER_MILLISECOND, close_owner);
    stall(5 * PIER_MILLISECOND);
    CHECK_INT(wait_for(&one), ==, PIER_ETIMEDOUT);
    CHECK_INT(wait_for(&two), ==, PIER_ETIMEDOUT);
    RUN_UNTIL(loop, b.closes == 1 && !canceller.in_flight);
    close_and_wait(&a);
}

static void cancel_before_close_wins(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, second = {0};
    char byte, other;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_receive(&a, &second, &other, 1, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_cancel(&receive);
    tracked_close(&a, NULL);
    tracked_cancel(&second);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&second), ==, PIER_ECLOSED);
    RUN_UNTIL(loop, a.closes == 1);
    raw_close(peer);
}

static void huge_times_do_not_wrap(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    static const uint64_t huge[] = {PIER_FOREVER, PIER_FOREVER - 1, UINT64_MAX / 2,
                                    (uint64_t)INT64_MAX + 1,
                                    UINT64_C(25) * 24 * 3600 * PIER_SECOND};
    struct tracked receives[COUNT_OF(huge)] = {0}, timers[COUNT_OF(huge)] = {0};
    char bytes[COUNT_OF(huge)];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    for (size_t i = 0; i < COUNT_OF(huge); i++) {
        receives[i].op.timeout_ns = huge[i];
        tracked_receive(&a, &receives[i], &bytes[i], 1, NULL);
        tracked_timer(loop, &timers[i], huge[i], NULL);
    }
    run_quietly(loop, 30);
    for (size_t i = 0; i < COUNT_OF(huge); i++) {
        CHECK(receives[i].in_flight);
        CHECK(timers[i].in_flight);
        tracked_cancel(&timers[i]);
    }
    close_and_wait(&a);
    for (size_t i = 0; i < COUNT_OF(huge); i++) {
        CHECK_INT(wait_for(&timers[i]), ==, PIER_ECANCELED);
    }
    raw_close(peer);
}

/* Time-outs at all places of a queue of merged sends: the bytes that went are those that `done`
 * says, in order. */
static void in_a_queue_of_sends(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[64] = {0};
    const size_t each = sizeof(big) / COUNT_OF(sends);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    static unsigned char got[sizeof(big)];
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        pattern_fill(big + i * each, each, (unsigned)i, 0);
        sends[i].op.timeout_ns = (i % 3 + 1) * 10 * PIER_MILLISECOND;
        tracked_send(&a, &sends[i], big + i * each, each, NULL);
    }
    uint64_t read = 0;
    SPIN_UNTIL(loop, stats_of(loop).ops_in_flight == 0, {
        const int64_t now = read < sizeof(got) / 2 ? raw_receive_now(peer, got + read, 5000) : 0;
        read += now > 0 ? (uint64_t)now : 0;
    });
    uint64_t total = 0;
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        CHECK_INT(sends[i].completions, ==, 1);
        CHECK(sends[i].result == (int64_t)each || sends[i].result == PIER_ETIMEDOUT);
        total += sends[i].done;
    }
    close_and_wait(&a);
    CHECK_INT(total, >=, read);
    raw_receive(peer, got + read, (size_t)(total - read));
    raw_receive_end(peer);
    const unsigned char *at = got;
    for (size_t i = 0; i < COUNT_OF(sends); at += sends[i].done, i++) {
        CHECK_PATTERN(at, (size_t)sends[i].done, (unsigned)i, 0);
    }
    raw_close(peer);
}

struct stalled {
    struct tracked_handle a, b;
    struct tracked stalls, idle, timer;
    uint64_t event;
};

static void be_slow(struct tracked *tracked)
{
    struct stalled *stalled = PIER_OWNER(tracked, struct stalled, stalls);
    const uint64_t begin = platform_now();
    if ((tracked->flags & PIER_MORE) != 0) {
        tracked_timer(tracked->loop, &stalled->timer, 0, NULL); /* reads the clock */
        while (platform_now() - begin < 150 * PIER_MILLISECOND) {}
    }
}

static void note_idle_event(struct tracked *tracked)
{
    struct stalled *stalled = PIER_OWNER(tracked, struct stalled, idle);
    if ((tracked->flags & PIER_MORE) != 0) {
        stalled->event = platform_now();
    }
}

/* An idle limit counts from the event, not from when the callback before read the clock. */
static void idle_limit_after_a_slow_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct stalled stalled = {.event = 0};
    const pier_descriptor peer_a = tracked_raw_pair(loop, STREAM_TCP4, &stalled.a);
    const pier_descriptor peer_b = tracked_raw_pair(loop, STREAM_TCP4, &stalled.b);
    tracked_receive_each(&stalled.a, &stalled.stalls, be_slow);
    stalled.idle.op.timeout_ns = 100 * PIER_MILLISECOND;
    tracked_receive_each(&stalled.b, &stalled.idle, note_idle_event);
    run(loop, PIER_RUN_NO_WAIT);
    raw_send(peer_a, "a", 1);
    raw_send(peer_b, "b", 1);
    RUN_UNTIL(loop, !stalled.idle.in_flight);
    if (stalled.idle.events == 1) { /* not so where the events came too late */
        /* Half of it, since the loop's clock was read some time before the callback's. */
        CHECK_INT(platform_now() - stalled.event, >=, 50 * PIER_MILLISECOND);
    }
    close_and_wait(&stalled.a);
    close_and_wait(&stalled.b);
    raw_close(peer_a);
    raw_close(peer_b);
}

/* Set all the same, it's cleared and ignored; before the loop's first run, and later. */
static void some_ops_have_none(void)
{
    struct pier_loop *loop = test_loop();
    enum { TIMER, TIED, EACH, POST, NOTIFY, PREPARE, CHECK_OP, OPS };
    for (int round = 0; round < 2; round++) {
        struct tracked_handle a = {0}, b = {0};
        struct tracked ops[OPS] = {0}, later = {0};
        tracked_pair(loop, STREAM_PAIR, &a, &b);
        if (round == 1) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        for (int i = 0; i < OPS; i++) {
            ops[i].op.timeout_ns = 1;
        }
        tracked_timer(loop, &ops[TIMER], 20 * PIER_MILLISECOND, NULL);
        tracked_timer_on(&a, &ops[TIED], 20 * PIER_MILLISECOND, NULL);
        tracked_timer_each(loop, &ops[EACH], 20 * PIER_MILLISECOND, PIER_MILLISECOND, NULL);
        tracked_post(loop, &ops[POST], NULL);
        CHECK_INT(ops[POST].op.timeout_ns, ==, 0);
        tracked_notify_each(loop, &ops[NOTIFY], NULL);
        tracked_prepare_each(loop, &ops[PREPARE], NULL);
        tracked_check_each(loop, &ops[CHECK_OP], NULL);
        CHECK_INT(wait_for(&ops[TIMER]), ==, 0);
        CHECK_INT(wait_for(&ops[TIED]), ==, 0);
        CHECK_INT(wait_for(&ops[POST]), ==, 0);
        RUN_UNTIL(loop, ops[EACH].events > 0);
        tracked_timer(loop, &later, PIER_MILLISECOND, NULL);
        CHECK_INT(wait_for(&later), ==, 0);
        pier_notify(&ops[NOTIFY].op);
        RUN_UNTIL(loop, ops[NOTIFY].events == 1);
        const int multishot[] = {EACH, NOTIFY, PREPARE, CHECK_OP};
        for (size_t i = 0; i < COUNT_OF(multishot); i++) {
            CHECK(ops[multishot[i]].in_flight);
            tracked_cancel(&ops[multishot[i]]);
            CHECK_INT(wait_for(&ops[multishot[i]]), ==, PIER_ECANCELED);
        }
        /* Nor when it is refused. */
        tracked_close(&a, NULL);
        ops[TIED].op.timeout_ns = 1;
        tracked_timer_on(&a, &ops[TIED], 0, NULL);
        CHECK_INT(wait_for(&ops[TIED]), ==, PIER_ECLOSED);
        RUN_UNTIL(loop, a.closes == 1);
        close_and_wait(&b);
    }
}

const struct test timeouts_tests[] = {
    TEST(timeouts, each_kind_times_out),
    TEST(timeouts, send_times_out_partly_done),
    TEST(timeouts, queued_op_times_out_in_the_queue),
    TEST(timeouts, time_in_the_queue_counts),
    TEST(timeouts, cleared_at_submit),
    TEST(timeouts, forgotten_after_completion),
    TEST(timeouts, idle_limit_of_multishot),
    TEST(timeouts, racing_with_data),
    TEST(timeouts, cancel_before_overdue_timeout_wins),
    TEST(timeouts, timeout_before_cancel_wins),
    TEST(timeouts, cancel_before_close_wins),
    TEST(timeouts, huge_times_do_not_wrap),
    TEST(timeouts, in_a_queue_of_sends),
    TEST(timeouts, idle_limit_after_a_slow_callback),
    TEST(timeouts, some_ops_have_none),
    TEST_END,
};
