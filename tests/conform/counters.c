/* counters.c - each counter of pier_loop_stats() counts what loop.h says, on every backend. */

#include "suite.h"

static struct pier_loop_counters since(struct pier_loop *loop,
                                       const struct pier_loop_counters *before)
{
    struct pier_loop_counters now = stats_of(loop);
    now.callbacks -= before->callbacks;
    now.accepts -= before->accepts;
    now.connects -= before->connects;
    now.receives -= before->receives;
    now.received_bytes -= before->received_bytes;
    now.sends -= before->sends;
    now.sent_bytes -= before->sent_bytes;
    now.timers -= before->timers;
    now.posts -= before->posts;
    now.cancels -= before->cancels;
    now.closes -= before->closes;
    return now;
}

static unsigned closed;

static void note_closed(struct pier_handle *handle)
{
    (void)handle;
    closed++;
}

/* A close function is a callback; a close without one isn't, and cancels nothing. */
static void closes_without_ops(void)
{
    struct pier_loop *loop = test_loop();
    for (int with = 0; with < 2; with++) {
        struct pier_handle a = {0}, b = {0};
        CHECK_OK(pier_socket_pair(loop, &a, &b));
        const struct pier_loop_counters before = stats_of(loop);
        CHECK_INT(before.handles_open, ==, 2);
        closed = 0;
        pier_close(&a, with != 0 ? note_closed : NULL);
        pier_close(&b, with != 0 ? note_closed : NULL);
        run(loop, PIER_RUN_UNTIL_IDLE);
        const struct pier_loop_counters now = since(loop, &before);
        CHECK_INT(closed, ==, with != 0 ? 2 : 0);
        CHECK_INT(now.callbacks, ==, closed);
        CHECK_INT(now.closes, ==, 2);
        CHECK_INT(now.cancels, ==, 0);
        CHECK_INT(now.handles_open, ==, 0);
    }
}

/* What a graceful close submits is no op of the program's: whether the peer ends, sends something
 * first, or lets it give up. */
static void graceful_closes(void)
{
    struct pier_loop *loop = test_loop();
    for (int kind = 0; kind < 6; kind++) {
        struct pier_handle a = {0};
        pier_descriptor ends[2];
        const bool gives_up = kind >= 4, with = kind % 2 != 0;
        raw_pair(ends);
        CHECK_OK(pier_adopt(loop, &a, ends[0]));
        const struct pier_loop_counters before = stats_of(loop);
        closed = 0;
        pier_close_gracefully(&a, gives_up ? PIER_MILLISECOND : 3600 * PIER_SECOND,
                              with ? note_closed : NULL);
        CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
        if (!gives_up) {
            run(loop, PIER_RUN_NO_WAIT);
            run(loop, PIER_RUN_NO_WAIT);
            CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
            if (kind >= 2) {
                raw_send(ends[1], "discarded", 9);
                RUN_UNTIL(loop, since(loop, &before).received_bytes == 9);
            }
            raw_shutdown(ends[1]);
        }
        run(loop, PIER_RUN_UNTIL_IDLE);
        const struct pier_loop_counters now = since(loop, &before);
        CHECK_INT(now.closes, ==, 1);
        CHECK_INT(now.callbacks, ==, with ? 1 : 0);
        CHECK_INT(now.cancels, ==, 0);
        CHECK_INT(now.timers, ==, 0);
        CHECK_INT(now.ops_in_flight, ==, 0);
        CHECK_INT(now.received_bytes, ==, kind == 2 || kind == 3 ? 9 : 0);
        raw_close(ends[1]);
    }
}

/* Ops that a graceful close ends are the program's. */
static void graceful_close_with_ops(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receives[2] = {0}, send = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_receive(&a, &receives[0], &byte, 1, NULL);
    tracked_receive_each(&a, &receives[1], NULL);
    const struct pier_loop_counters before = stats_of(loop);
    CHECK_INT(before.ops_in_flight, ==, 2);
    tracked_send(&a, &send, "xy", 2, NULL);
    tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
    RUN_UNTIL(loop, !receives[0].in_flight && !receives[1].in_flight && !send.in_flight);
    raw_shutdown(peer);
    RUN_UNTIL(loop, a.closes == 1);
    const struct pier_loop_counters now = since(loop, &before);
    CHECK_INT(receives[0].result, ==, PIER_ECLOSED);
    CHECK_INT(receives[1].result, ==, PIER_ECLOSED);
    CHECK_INT(now.callbacks, ==, 4);
    CHECK_INT(now.cancels, ==, 2);
    CHECK_INT(now.sends, ==, 1);
    CHECK_INT(now.sent_bytes, ==, 2);
    raw_close(peer);
}

/* Each that ends for being closed counts, whether it was in flight or is refused. */
static void closed_ops(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked before_it[2] = {0}, after_it[3] = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &before_it[0], &byte, 1, NULL);
    tracked_receive(&a, &before_it[1], &byte, 1, NULL);
    const struct pier_loop_counters before = stats_of(loop);
    tracked_close(&a, NULL);
    tracked_receive(&a, &after_it[0], &byte, 1, NULL);
    tracked_send(&a, &after_it[1], "x", 1, NULL);
    tracked_shutdown(&a, &after_it[2], NULL);
    CHECK_INT(stats_of(loop).ops_in_flight, ==, 5);
    RUN_UNTIL(loop, a.closes == 1);
    const struct pier_loop_counters now = since(loop, &before);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(after_it[i].result, ==, PIER_ECLOSED);
    }
    CHECK_INT(now.cancels, ==, 5);
    CHECK_INT(now.callbacks, ==, 6);
    CHECK_INT(now.sends, ==, 0);
    CHECK_INT(now.ops_in_flight, ==, 0);
    raw_close(peer);
}

static void transfers(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked send = {0}, empty = {0}, receive = {0}, nothing = {0};
    struct pier_op silent = {0};
    static char memory[1000];
    const struct pier_vector pieces[] = {{memory, 300}, {memory, 0}, {memory, 200}};
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    const struct pier_loop_counters before = stats_of(loop);
    tracked_send(&a, &send, memory, 100, NULL);
    wait_for(&send);
    tracked_send_vectored(&a, &send, pieces, 3, NULL);
    wait_for(&send);
    pier_send(&a.handle, &silent, memory, 400, NULL);
    tracked_send(&a, &empty, memory, 0, NULL);
    wait_for(&empty);
    RUN_UNTIL(loop, !pier_op_pending(&silent));
    unsigned receives = 0;
    for (uint64_t received = 0; received < 1000; receives++) {
        tracked_receive(&b, &receive, memory, sizeof(memory), NULL);
        received += (uint64_t)wait_for(&receive);
    }
    tracked_receive(&b, &nothing, memory, 0, NULL);
    wait_for(&nothing);
    struct pier_loop_counters now = since(loop, &before);
    CHECK_INT(now.sends, ==, 3);
    CHECK_INT(now.sent_bytes, ==, 1000);
    CHECK_INT(now.receives, ==, receives);
    CHECK_INT(now.received_bytes, ==, 1000);
    CHECK_INT(now.callbacks, ==, 3 + receives + 1);
    CHECK_INT(now.cancels, ==, 0);
    CHECK_INT(now.ops_in_flight, ==, 0);
    close_and_wait(&a);
    tracked_receive(&b, &receive, memory, 1, NULL);
    wait_for(&receive);
    now = since(loop, &before);
    CHECK_INT(now.receives, ==, receives); /* the end is no data */
    close_and_wait(&b);
}

static void connections(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, client = {0}, refused = {0};
    struct tracked accept = {0}, connect = {0};
    struct pier_address nobody;
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    const pier_descriptor guard = raw_refusing_address(&nobody);
    const struct pier_loop_counters before = stats_of(loop);
    tracked_accept(&listener, &accept, NULL); /* nobody takes it */
    tracked_open_socket(loop, &client, &address);
    tracked_connect(&client, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    CHECK_INT(wait_for(&accept), ==, 1);
    tracked_open_socket(loop, &refused, &nobody);
    tracked_connect(&refused, &connect, &nobody, NULL);
    CHECK_INT(wait_for(&connect), <, 0);
    const struct pier_loop_counters now = since(loop, &before);
    CHECK_INT(now.accepts, ==, 1);
    CHECK_INT(now.connects, ==, 1);
    CHECK_INT(now.callbacks, ==, 3);
    CHECK_INT(now.cancels, ==, 0);
    CHECK_INT(now.handles_open, ==, 3);
    CHECK_INT(now.closes, ==, 0);
    raw_close(guard);
    close_and_wait(&client);
    close_and_wait(&refused);
    close_and_wait(&listener);
}

/* Timers once for each call, time limits once; stopped ones are no cancels. */
static void timers_and_posts(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked timer = {0}, each = {0}, stopped = {0}, receive = {0}, posts[2] = {0},
                   notify = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const struct pier_loop_counters before = stats_of(loop);
    tracked_timer(loop, &timer, 0, NULL);
    wait_for(&timer);
    tracked_timer_each(loop, &each, 0, PIER_MILLISECOND, NULL);
    RUN_UNTIL(loop, each.events == 3);
    tracked_cancel(&each);
    wait_for(&each);
    tracked_timer(loop, &stopped, PIER_SECOND, NULL);
    CHECK(tracked_timer_stop(&stopped));
    struct pier_loop_counters now = since(loop, &before);
    CHECK_INT(now.timers, ==, 4);
    CHECK_INT(now.cancels, ==, 1);
    CHECK_INT(now.callbacks, ==, 5);
    receive.op.timeout_ns = PIER_MILLISECOND;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    CHECK_INT(wait_for(&receive), ==, PIER_ETIMEDOUT);
    now = since(loop, &before);
    CHECK_INT(now.timers, ==, 5);
    CHECK_INT(now.cancels, ==, 2);
    tracked_post(loop, &posts[0], NULL);
    tracked_post(loop, &posts[1], NULL);
    tracked_notify_each(loop, &notify, NULL);
    pier_notify(&notify.op);
    pier_notify(&notify.op);
    RUN_UNTIL(loop, notify.events == 1 && posts[1].completions == 1);
    now = since(loop, &before);
    CHECK_INT(now.posts, ==, 3);
    CHECK_INT(now.ops_in_flight, ==, 1);
    tracked_cancel(&notify);
    wait_for(&notify);
    now = since(loop, &before);
    CHECK_INT(now.posts, ==, 3);
    CHECK_INT(now.cancels, ==, 3);
    CHECK_INT(now.callbacks, ==, 10);
    CHECK_INT(now.ops_in_flight, ==, 0);
    close_and_wait(&a);
    raw_close(peer);
}

static uint64_t callbacks_inside;

static void note_callbacks(struct pier_op *op)
{
    callbacks_inside = stats_of(op->owner_).callbacks;
}

/* Up to and with the one that is running. */
static void inside_a_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_op timers[2] = {0};
    pier_timer(loop, &timers[0], 0, note_callbacks);
    run(loop, PIER_RUN_UNTIL_IDLE);
    CHECK_INT(callbacks_inside, ==, 1);
    pier_timer(loop, &timers[1], 0, note_callbacks);
    run(loop, PIER_RUN_UNTIL_IDLE);
    CHECK_INT(callbacks_inside, ==, 2);
}

const struct test counters_tests[] = {
    TEST(counters, closes_without_ops),
    TEST(counters, graceful_closes),
    TEST(counters, graceful_close_with_ops),
    TEST(counters, closed_ops),
    TEST(counters, transfers),
    TEST(counters, connections),
    TEST(counters, timers_and_posts),
    TEST(counters, inside_a_callback),
    TEST_END,
};
