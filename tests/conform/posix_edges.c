/* posix_edges.c - a loop inside a foreign loop that watches its descriptor for edges, as an epoll
 * with EPOLLET does: it hears of each change once. Whatever a run leaves over must show as a
 * time-out of 0, since no edge tells of it. */

#include "suite.h"

#ifdef __linux__

#include <sys/epoll.h>
#include <unistd.h>

enum { CONNECTIONS = 40 };

struct connection {
    struct tracked_handle handle;
    struct tracked each;
    pier_descriptor peer;
};

static int watch(struct pier_loop *loop)
{
    const pier_descriptor descriptor = pier_loop_descriptor(loop);
    const int outer = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    CHECK_INT(descriptor, >=, 0);
    CHECK_INT(outer, >=, 0);
    CHECK_INT(epoll_ctl(outer, EPOLL_CTL_ADD, (int)descriptor, &event), ==, 0);
    return outer;
}

/* A turn of the foreign loop. It sleeps for as long as it may; where it sleeps though there is work
 * and no time-out, nobody wakes it, and the watchdog ends the test. */
static void turn_from_outside(struct pier_loop *loop, int outer)
{
    struct epoll_event event;
    const uint64_t timeout = pier_loop_next_timeout(loop);
    const int ms = timeout >= 3600 * PIER_SECOND
                       ? -1
                       : (int)((timeout + PIER_MILLISECOND - 1) / PIER_MILLISECOND);
    if (timeout > 0) {
        epoll_wait(outer, &event, 1, ms);
    }
    run(loop, PIER_RUN_NO_WAIT);
}

#define TURN_UNTIL(loop, outer, condition) \
    do { \
        test_wait_begin(__FILE__, __LINE__, #condition); \
        while (!(condition)) { \
            turn_from_outside(loop, outer); \
        } \
        test_wait_end(); \
    } while (0)

static uint64_t received_by(const struct connection *connections)
{
    uint64_t sum = 0;
    for (int i = 0; i < CONNECTIONS; i++) {
        sum += connections[i].each.done;
    }
    return sum;
}

static bool has_descriptor(void)
{
    if (!test_can(PIER_CAN_EMBED)) {
        test_skip("the backend has no descriptor");
        return false;
    }
    return true;
}

/* More events than a wait has room for, more callbacks than a turn has. */
static void flood(uint32_t queue_size, uint32_t callbacks_max, bool paused_between)
{
    struct pier_loop_options options = test_options();
    options.queue_size = queue_size;
    options.callbacks_max = callbacks_max;
    struct pier_loop *loop = test_loop_with(&options);
    static struct connection connections[CONNECTIONS];
    memset(connections, 0, sizeof(connections));
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *at = &connections[i];
        at->peer = tracked_raw_pair(loop, i % 2 == 0 ? STREAM_TCP4 : STREAM_PAIR, &at->handle);
        tracked_receive_each(&at->handle, &at->each, NULL);
    }
    const int outer = watch(loop);
    uint64_t sent = 0;
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < CONNECTIONS; i++) {
            raw_send(connections[i].peer, "0123456789", 10);
        }
        sent += CONNECTIONS * 10;
        if (paused_between) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        TURN_UNTIL(loop, outer, received_by(connections) == sent);
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        raw_shutdown(connections[i].peer);
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        TURN_UNTIL(loop, outer, !connections[i].each.in_flight);
        close_and_wait(&connections[i].handle);
        raw_close(connections[i].peer);
    }
    close(outer);
    test_loop_free(loop);
}

static void more_events_than_a_wait_takes(void)
{
    if (has_descriptor()) {
        flood(4, 1024, false);
        flood(4, 1024, true);
        flood(1, 1024, false);
    }
}

static void more_callbacks_than_a_turn_has(void)
{
    if (has_descriptor()) {
        flood(256, 3, false);
        flood(8, 3, true);
    }
}

static void take_byte(struct tracked *tracked)
{
    const pier_descriptor *end = tracked->context;
    char byte;
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(raw_receive_now(*end, &byte, 1), ==, 1);
    }
}

/* pier_poll_each() is level-triggered: it goes on as long as its descriptor is ready, which is no
 * news to the kernel. */
static void levels_within_edges(void)
{
    if (!has_descriptor()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    pier_descriptor ends[2];
    raw_pair(ends);
    struct tracked poll = {.context = &ends[0]};
    const int outer = watch(loop);
    tracked_poll_each(loop, &poll, ends[0], PIER_READABLE, take_byte);
    raw_send(ends[1], "0123456789", 10);
    TURN_UNTIL(loop, outer, poll.events == 10);
    raw_send(ends[1], "0123456789", 10);
    TURN_UNTIL(loop, outer, poll.events == 20);
    tracked_cancel(&poll);
    TURN_UNTIL(loop, outer, !poll.in_flight);
    raw_close(ends[0]);
    raw_close(ends[1]);
    close(outer);
}

/* Once all is done the foreign loop may sleep. */
static void is_quiet_in_the_end(void)
{
    if (!has_descriptor()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const int outer = watch(loop);
    tracked_receive_each(&a, &each, NULL);
    raw_send(peer, "x", 1);
    TURN_UNTIL(loop, outer, each.events == 1);
    unsigned busy = 0;
    for (int i = 0; i < 20; i++) {
        busy += pier_loop_next_timeout(loop) == 0;
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(busy, <, 10);
    close_and_wait(&a);
    raw_close(peer);
    close(outer);
}

#else

static void skip(void)
{
    test_skip("edges of a nested descriptor are epoll's");
}

#define more_events_than_a_wait_takes skip
#define more_callbacks_than_a_turn_has skip
#define levels_within_edges skip
#define is_quiet_in_the_end skip

#endif

const struct test edges_tests[] = {
    TEST(edges, more_events_than_a_wait_takes),
    TEST(edges, more_callbacks_than_a_turn_has),
    TEST(edges, levels_within_edges),
    TEST(edges, is_quiet_in_the_end),
    TEST_END,
};
