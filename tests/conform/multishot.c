/* multishot.c - pier_receive_each() under data: PIER_MORE, pause and resume, cancel inside
 * callbacks. */

#include "suite.h"

static unsigned char big[4 << 20];

struct reader {
    struct tracked_handle handle;
    struct tracked each, timer;
    uint64_t received;
    unsigned seed, pauses;
    bool pause_each_time;
};

static void resume_reader(struct tracked *tracked)
{
    struct reader *reader = PIER_OWNER(tracked, struct reader, timer);
    tracked_resume(&reader->each);
}

static void read_on(struct tracked *tracked)
{
    struct reader *reader = PIER_OWNER(tracked, struct reader, each);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    CHECK_PATTERN(tracked->op.data, tracked->op.size, reader->seed, reader->received);
    reader->received += tracked->op.size;
    if (reader->pause_each_time) {
        reader->pauses++;
        tracked_pause(tracked);
        tracked_timer(tracked->loop, &reader->timer, 0, resume_reader);
    }
}

static void send_big(void *context)
{
    const pier_descriptor *peer = context;
    raw_send(*peer, big, sizeof(big));
}

static void stays_in_flight_between_events(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct reader reader = {.seed = 61};
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &reader.handle);
        pattern_fill(big, sizeof(big), 61, 0);
        tracked_receive_each(&reader.handle, &reader.each, read_on);
        for (unsigned i = 0; i < 200; i++) {
            raw_send(peer, big + i * 10, 10);
            RUN_UNTIL(loop, reader.received == (i + 1) * 10);
            CHECK(pier_op_pending(&reader.each.op));
        }
        CHECK_INT(reader.each.events, <=, 2000);
        raw_shutdown(peer);
        CHECK_INT(wait_for(&reader.each), ==, 0);
        CHECK_INT(reader.each.done, ==, 2000);
        close_and_wait(&reader.handle);
        raw_close(peer);
    }
}

static void stream_of_data(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 62};
    struct platform_thread thread;
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    pier_descriptor peer = tracked_raw_pair(loop, stream, &reader.handle);
    pattern_fill(big, sizeof(big), 62, 0);
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    platform_thread_start(&thread, send_big, &peer);
    RUN_UNTIL(loop, reader.received == sizeof(big));
    platform_thread_join(&thread);
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    raw_close(peer);
    CHECK_INT(wait_for(&reader.each), ==, 0);
    close_and_wait(&reader.handle);
}

static void stream_of_data_tcp(void)
{
    stream_of_data(STREAM_TCP4);
}

static void stream_of_data_unix(void)
{
    stream_of_data(STREAM_UNIX);
}

/* Paused in each callback and resumed by a timer, under a stream of data: no event while paused
 * (tracked.c), no byte lost. */
static void paused_over_and_over(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 63, .pause_each_time = true};
    struct platform_thread thread;
    const size_t size = sizeof(big);
    pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &reader.handle);
    pattern_fill(big, size, 63, 0);
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    platform_thread_start(&thread, send_big, &peer);
    RUN_UNTIL(loop, reader.received == size);
    platform_thread_join(&thread);
    CHECK_INT(reader.pauses, >, 10);
    close_and_wait(&reader.handle);
    RUN_UNTIL(loop, !reader.timer.in_flight);
    raw_close(peer);
}

/* What a paused op doesn't take stays in the kernel, which holds the peer back: nothing piles
 * up in pier. */
static void paused_holds_the_peer_back(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 64};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &reader.handle);
    pattern_fill(big, sizeof(big), 64, 0);
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    run_quietly(loop, 5);
    tracked_pause(&reader.each);
    tracked_pause(&reader.each);
    size_t sent = 0;
    for (int quiet = 0; quiet < 20;) {
        const int64_t now = raw_send_now(peer, big + sent, sizeof(big) - sent);
        CHECK(now > 0 || now == RAW_AGAIN);
        sent += now > 0 ? (size_t)now : 0;
        quiet = now > 0 ? 0 : quiet + 1;
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(sent, <, sizeof(big));
    CHECK_INT(reader.received, ==, 0);
    const uint64_t turns = stats_of(loop).turns;
    run_quietly(loop, 50);
    CHECK_INT(stats_of(loop).turns - turns, <, 50);
    tracked_resume(&reader.each);
    RUN_UNTIL(loop, reader.received == sent);
    close_and_wait(&reader.handle);
    raw_close(peer);
}

static void terminal_completion_is_not_held(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 65};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &reader.handle);
    pattern_fill(big, 100, 65, 0);
    for (int turns = 0; turns < 2; turns++) {
        tracked_receive_each(&reader.handle, &reader.each, read_on);
        for (int i = 0; i < turns; i++) {
            run_quietly(loop, 5);
        }
        tracked_pause(&reader.each);
        run_quietly(loop, 5);
        tracked_cancel(&reader.each);
        CHECK_INT(wait_for(&reader.each), ==, PIER_ECANCELED);
    }
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    tracked_pause(&reader.each);
    run_quietly(loop, 5);
    close_and_wait(&reader.handle);
    CHECK_INT(reader.each.result, ==, PIER_ECLOSED);
    raw_close(peer);
}

/* Bytes that pier held for a paused op are there for the next receive after its cancel. */
static void cancelled_while_paused_loses_nothing(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 66};
    pattern_fill(big, 100000, 66, 0);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &reader.handle);
    size_t sent = 0;
    for (int i = 0; i < 50; i++) {
        tracked_receive_each(&reader.handle, &reader.each, read_on);
        if (i % 2 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        raw_send(peer, big + sent, 500);
        sent += 500;
        if (i % 3 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_pause(&reader.each);
        run(loop, PIER_RUN_NO_WAIT);
        raw_send(peer, big + sent, 500);
        sent += 500;
        run(loop, PIER_RUN_NO_WAIT);
        tracked_cancel(&reader.each);
        CHECK_INT(wait_for(&reader.each), ==, PIER_ECANCELED);
    }
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    RUN_UNTIL(loop, reader.received == sent);
    close_and_wait(&reader.handle);
    raw_close(peer);
}

/* An op that is about to end can't be paused: what came before the cancel isn't held back, then
 * comes the end. */
static void paused_after_its_cancel(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 68};
    pattern_fill(big, 100000, 68, 0);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &reader.handle);
    for (unsigned i = 0; i < 30; i++) {
        tracked_receive_each(&reader.handle, &reader.each, read_on);
        if (i % 2 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        raw_send(peer, big + i * 100, 100);
        if (i % 3 == 0) {
            tracked_pause(&reader.each);
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_cancel(&reader.each);
        tracked_pause(&reader.each);
        tracked_pause(&reader.each);
        CHECK_INT(wait_for(&reader.each), ==, PIER_ECANCELED);
    }
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    RUN_UNTIL(loop, reader.received == 3000);
    close_and_wait(&reader.handle);
    raw_close(peer);
}

/* The end of the stream means that all of it was delivered: a close, after which nothing is, may
 * not be answered with it while there was data before that end. */
static void close_is_no_end_of_stream(void)
{
    struct pier_loop *loop = test_loop();
    pattern_fill(big, 1000, 69, 0);
    for (unsigned i = 0; i < 24; i++) {
        struct reader reader = {.seed = 69};
        const enum stream stream = i % 2 == 0 ? STREAM_TCP4 : STREAM_PAIR;
        const pier_descriptor peer = tracked_raw_pair(loop, stream, &reader.handle);
        tracked_receive_each(&reader.handle, &reader.each, read_on);
        if (i % 4 < 2) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        raw_send(peer, big, 1000);
        raw_shutdown(peer);
        if (i % 6 == 5) {
            tracked_cancel(&reader.each);
        }
        if (i % 3 == 0) {
            tracked_close_gracefully(&reader.handle, PIER_MILLISECOND, NULL);
        } else {
            tracked_close(&reader.handle, NULL);
        }
        RUN_UNTIL(loop, reader.handle.closes == 1);
        CHECK(reader.each.result < 0 || reader.received == 1000);
        raw_close(peer);
    }
}

static void pause_of_timers_and_notifications(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, notify = {0};
    tracked_timer_each(loop, &timer, PIER_MILLISECOND, PIER_MILLISECOND, NULL);
    tracked_notify_each(loop, &notify, NULL);
    RUN_UNTIL(loop, timer.events >= 2);
    tracked_pause(&timer);
    tracked_pause(&notify);
    pier_notify(&notify.op);
    pier_notify(&notify.op);
    run_quietly(loop, 10);
    CHECK_INT(notify.events, ==, 0);
    const unsigned before = timer.events;
    tracked_resume(&timer);
    tracked_resume(&notify);
    RUN_UNTIL(loop, timer.events > before && notify.events == 1);
    CHECK_INT(notify.result, ==, 2);
    tracked_cancel(&timer);
    tracked_cancel(&notify);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
}

static void close_at_the_first(struct tracked *tracked)
{
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK(!tracked->owner->closing);
        tracked_close(tracked->owner, NULL);
    }
}

/* Data that came while it was paused, and perhaps the end of it, is delivered after a cancel; until
 * the handle is closed in the callback. */
static void closed_in_what_comes_after_a_cancel(void)
{
    struct pier_loop *loop = test_loop();
    pattern_fill(big, 300000, 69, 0);
    for (int i = 0; i < 6; i++) {
        struct tracked_handle a = {0};
        struct tracked each = {0};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
        tracked_receive_each(&a, &each, close_at_the_first);
        run_quietly(loop, 2);
        tracked_pause(&each);
        raw_send(peer, big, i % 3 == 0 ? 1 : 30000u * (unsigned)i);
        if (i >= 3) {
            raw_shutdown(peer);
        }
        run_quietly(loop, 5);
        tracked_cancel(&each);
        CHECK_INT(wait_for(&each), <, 0);
        close_and_wait(&a);
        raw_close(peer);
    }
}

static void resume_of_what_is_not_paused(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader = {.seed = 67};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &reader.handle);
    pattern_fill(big, 100, 67, 0);
    tracked_receive_each(&reader.handle, &reader.each, read_on);
    tracked_resume(&reader.each);
    run_quietly(loop, 5);
    tracked_resume(&reader.each);
    raw_send(peer, big, 100);
    RUN_UNTIL(loop, reader.received == 100);
    tracked_pause(&reader.each);
    tracked_resume(&reader.each);
    raw_send(peer, big, 0);
    pattern_fill(big, 100, 67, 100);
    raw_send(peer, big, 100);
    RUN_UNTIL(loop, reader.received == 200);
    close_and_wait(&reader.handle);
    raw_close(peer);
}

/* A time limit stands still while the op is paused, and begins anew with its resume. */
static void paused_without_time(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0};
    const uint64_t limit_ns = 40 * PIER_MILLISECOND;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    each.op.timeout_ns = limit_ns;
    tracked_receive_each(&a, &each, NULL);
    tracked_pause(&each);
    run_quietly(loop, 120);
    CHECK(each.in_flight);
    const uint64_t resumed = platform_now();
    tracked_resume(&each);
    CHECK_INT(wait_for(&each), ==, PIER_ETIMEDOUT);
    CHECK_INT(platform_now() - resumed, >=, limit_ns);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test multishot_tests[] = {
    TEST(multishot, stays_in_flight_between_events),
    TEST(multishot, stream_of_data_tcp),
    TEST(multishot, stream_of_data_unix),
    TEST(multishot, paused_over_and_over),
    TEST(multishot, paused_holds_the_peer_back),
    TEST(multishot, terminal_completion_is_not_held),
    TEST(multishot, cancelled_while_paused_loses_nothing),
    TEST(multishot, paused_after_its_cancel),
    TEST(multishot, paused_without_time),
    TEST(multishot, close_is_no_end_of_stream),
    TEST(multishot, pause_of_timers_and_notifications),
    TEST(multishot, closed_in_what_comes_after_a_cancel),
    TEST(multishot, resume_of_what_is_not_paused),
    TEST_END,
};
