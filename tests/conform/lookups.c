/* lookups.c - finding one's way: from an op to its loop, from a loop to the program's own data and
 * to its open handles. */

#include "suite.h"

#include <stdlib.h>

/* ---- pier_op_loop() */

static void check_loop(struct tracked *tracked)
{
    CHECK(pier_op_loop(&tracked->op) == tracked->loop);
}

static void loop_of_ops_without_a_handle(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, each = {0}, notify = {0}, post = {0}, poll = {0};
    pier_descriptor ends[2];
    CHECK(pier_op_loop(&timer.op) == NULL);
    raw_pair(ends);
    tracked_timer(loop, &timer, 0, check_loop);
    tracked_timer_each(loop, &each, 0, PIER_MILLISECOND, check_loop);
    tracked_notify_each(loop, &notify, check_loop);
    tracked_post(loop, &post, check_loop);
    CHECK(pier_op_loop(&timer.op) == loop);
    CHECK(pier_op_loop(&each.op) == loop);
    CHECK(pier_op_loop(&notify.op) == loop);
    CHECK(pier_op_loop(&post.op) == loop);
    if (test_can(PIER_CAN_POLL)) {
        tracked_poll(loop, &poll, ends[0], PIER_WRITABLE, check_loop);
        CHECK(pier_op_loop(&poll.op) == loop);
        CHECK_INT(wait_for(&poll), ==, PIER_WRITABLE);
    }
    pier_notify(&notify.op);
    RUN_UNTIL(loop, !timer.in_flight && !post.in_flight && each.events > 0 && notify.events > 0);
    tracked_cancel(&each);
    tracked_cancel(&notify);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void loop_of_ops_on_a_handle(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0}, c = {0}, listener = {0}, client = {0};
    struct tracked accept = {0}, connect = {0}, late = {0};
    struct tracked receives[3] = {0}, sends[3] = {0}, shutdown = {0};
    char bytes[4];
    tracked_pair(loop, STREAM_PAIR, &a, &b);
    tracked_receive(&a, &receives[0], bytes, 1, check_loop);
    tracked_receive_lent(&a, &receives[1], check_loop);
    tracked_receive_each(&a, &receives[2], check_loop);
    for (int i = 0; i < 3; i++) {
        CHECK(pier_op_loop(&receives[i].op) == loop);
        tracked_send(&b, &sends[i], "x", 1, check_loop);
        CHECK(pier_op_loop(&sends[i].op) == loop);
        CHECK_INT(wait_for(&sends[i]), ==, 1);
    }
    tracked_shutdown(&b, &shutdown, check_loop);
    CHECK(pier_op_loop(&shutdown.op) == loop);
    RUN_UNTIL(loop, !shutdown.in_flight);
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_open_socket(loop, &client, &address);
    tracked_accept(&listener, &accept, check_loop);
    tracked_connect(&client, &connect, &address, check_loop);
    CHECK(pier_op_loop(&accept.op) == loop);
    CHECK(pier_op_loop(&connect.op) == loop);
    CHECK_INT(wait_for(&connect), ==, 0);
    CHECK_INT(wait_for(&accept), ==, 1);
    tracked_close(&a, NULL);
    tracked_close(&b, NULL);
    tracked_close(&listener, NULL);
    tracked_close(&client, NULL);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &c);
    tracked_receive(&c, &late, bytes, 1, check_loop); /* ends by the close */
    tracked_close(&c, NULL);
    tracked_receive(&c, &receives[0], bytes, 1, check_loop); /* refused by it */
    CHECK(pier_op_loop(&late.op) == loop);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(late.result, ==, PIER_ECLOSED);
    CHECK_INT(receives[0].result, ==, PIER_ECLOSED);
    raw_close(peer);
}

static void detach_and_ask(struct tracked *tracked)
{
    CHECK_OK(pier_detach(&tracked->owner->handle));
    CHECK(pier_op_loop(&tracked->op) == NULL);
}

static void loop_of_an_op_whose_handle_has_left(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_receive(&a, &receive, &byte, 1, detach_and_ask);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    pier_handle_discard(&a.handle);
    raw_close(peer);
}

/* ---- pier_loop_user() */

static void user_pointer(void)
{
    struct pier_loop *loop = test_loop(), *other = test_loop();
    int mine = 1, its = 2;
    CHECK(pier_loop_user(loop) == NULL);
    pier_loop_set_user(loop, &mine);
    pier_loop_set_user(other, &its);
    CHECK(pier_loop_user(loop) == &mine);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_INT(drain(loop, PIER_FOREVER), ==, 0);
    CHECK(pier_loop_user(loop) == &mine);
    CHECK(pier_loop_user(other) == &its);
    pier_loop_set_user(loop, NULL);
    CHECK(pier_loop_user(loop) == NULL);
}

/* ---- pier_loop_each_handle() */

enum { PAIRS = 40, HANDLES = 2 * PAIRS };

struct walk {
    struct pier_loop *loop;
    struct tracked_handle *handles;
    unsigned calls[HANDLES];
    unsigned total;
    int close; /* of every two, that one; 2: all at the first */
    struct tracked_handle opened[2];
};

static unsigned index_of(const struct walk *walk, struct pier_handle *handle)
{
    const struct tracked_handle *tracked = PIER_OWNER(handle, struct tracked_handle, handle);
    CHECK(tracked >= walk->handles && tracked < walk->handles + HANDLES);
    return (unsigned)(tracked - walk->handles);
}

static void count(void *context, struct pier_handle *handle)
{
    struct walk *walk = context;
    walk->calls[index_of(walk, handle)]++;
    walk->total++;
}

static void close_some(void *context, struct pier_handle *handle)
{
    struct walk *walk = context;
    const unsigned index = index_of(walk, handle);
    CHECK(pier_handle_is_open(handle));
    CHECK(!walk->handles[index].closing);
    count(walk, handle);
    if (walk->close == 2) {
        for (unsigned i = 0; i < HANDLES; i++) {
            tracked_close(&walk->handles[i], NULL);
        }
    } else if (index % 2 == (unsigned)walk->close) {
        tracked_close(&walk->handles[index ^ 1], NULL);
        tracked_close(&walk->handles[index], NULL);
    }
}

static void open_handles(struct walk *walk)
{
    memset(walk->calls, 0, sizeof(walk->calls));
    walk->total = 0;
    for (unsigned i = 0; i < HANDLES; i += 2) {
        tracked_pair(walk->loop, STREAM_PAIR, &walk->handles[i], &walk->handles[i + 1]);
    }
}

static void every_open_handle(void)
{
    struct walk walk = {.loop = test_loop(), .handles = calloc(HANDLES, sizeof(*walk.handles))};
    struct tracked poll = {0};
    pier_descriptor ends[2];
    CHECK(walk.handles != NULL);
    raw_pair(ends);
    pier_loop_each_handle(walk.loop, count, &walk);
    CHECK_INT(walk.total, ==, 0);
    if (test_can(PIER_CAN_POLL)) { /* what stands for its descriptor isn't a handle */
        tracked_poll(walk.loop, &poll, ends[0], PIER_READABLE, NULL);
    }
    open_handles(&walk);
    pier_loop_each_handle(walk.loop, count, &walk);
    CHECK_INT(walk.total, ==, HANDLES);
    for (unsigned i = 0; i < HANDLES; i++) {
        CHECK_INT(walk.calls[i], ==, 1);
    }
    /* Those that are closing aren't open, nor those that are detached. */
    tracked_close(&walk.handles[3], NULL);
    tracked_close_gracefully(&walk.handles[4], PIER_SECOND, NULL);
    CHECK_OK(pier_detach(&walk.handles[7].handle));
    pier_loop_each_handle(walk.loop, count, &walk);
    CHECK_INT(walk.total, ==, 2 * HANDLES - 3);
    CHECK_INT(walk.calls[3] + walk.calls[4] + walk.calls[7], ==, 3);
    CHECK_OK(pier_attach(&walk.handles[7].handle, walk.loop));
    for (unsigned i = 0; i < HANDLES; i++) {
        if (i != 4) {
            tracked_close(&walk.handles[i], NULL);
        }
    }
    if (poll.in_flight) {
        tracked_cancel(&poll);
    }
    CHECK_INT(run(walk.loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    free(walk.handles);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

/* The handle itself and its neighbour, on whichever side; or all of them at the first. */
static void closing_while_walking(void)
{
    struct walk walk = {.loop = test_loop(), .handles = calloc(HANDLES, sizeof(*walk.handles))};
    CHECK(walk.handles != NULL);
    for (walk.close = 0; walk.close < 3; walk.close++) {
        open_handles(&walk);
        pier_loop_each_handle(walk.loop, close_some, &walk);
        CHECK_INT(walk.total, >=, walk.close == 2 ? 1 : PAIRS);
        CHECK_INT(walk.total, <=, walk.close == 2 ? 1 : HANDLES);
        CHECK_INT(run(walk.loop, PIER_RUN_UNTIL_IDLE), ==, 0);
        for (unsigned i = 0; i < HANDLES; i++) {
            CHECK_INT(walk.handles[i].closes, ==, 1);
        }
        CHECK_INT(stats_of(walk.loop).handles_open, ==, 0);
    }
    free(walk.handles);
}

static void detach_and_open(void *context, struct pier_handle *handle)
{
    struct walk *walk = context;
    struct tracked_handle *tracked = PIER_OWNER(handle, struct tracked_handle, handle);
    if (tracked < walk->handles || tracked >= walk->handles + HANDLES) {
        return; /* one of those that it has opened */
    }
    count(walk, handle);
    CHECK_OK(pier_detach(handle));
    if (walk->total % 2 == 0) {
        CHECK_OK(pier_attach(handle, walk->loop)); /* in the slot that has just become free */
    } else {
        pier_handle_discard(handle);
    }
    if (walk->total == 2) {
        tracked_pair(walk->loop, STREAM_PAIR, &walk->opened[0], &walk->opened[1]);
    }
}

static void detaching_and_opening_while_walking(void)
{
    struct walk walk = {.loop = test_loop(), .handles = calloc(HANDLES, sizeof(*walk.handles))};
    CHECK(walk.handles != NULL);
    open_handles(&walk);
    pier_loop_each_handle(walk.loop, detach_and_open, &walk);
    for (unsigned i = 0; i < HANDLES; i++) {
        CHECK_INT(walk.calls[i], ==, 1);
        if (pier_handle_is_open(&walk.handles[i].handle)) {
            tracked_close(&walk.handles[i], NULL);
        }
    }
    tracked_close(&walk.opened[0], NULL);
    tracked_close(&walk.opened[1], NULL);
    CHECK_INT(run(walk.loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    free(walk.handles);
}

const struct test lookups_tests[] = {
    TEST(lookups, loop_of_ops_without_a_handle),
    TEST(lookups, loop_of_ops_on_a_handle),
    TEST(lookups, loop_of_an_op_whose_handle_has_left),
    TEST(lookups, user_pointer),
    TEST(lookups, every_open_handle),
    TEST(lookups, closing_while_walking),
    TEST(lookups, detaching_and_opening_while_walking),
    TEST_END,
};
