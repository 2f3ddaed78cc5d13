/* embed.c - a loop inside a foreign loop, and handles that move between loops. */

#include "suite.h"

#include <stdatomic.h>

/* What a foreign loop does: sleep until the descriptor is readable or the time has come, then
 * run what there is. */
static void turn_from_outside(struct pier_loop *loop, pier_descriptor descriptor)
{
    const uint64_t timeout = pier_loop_next_timeout(loop);
    if (timeout > 0) {
        platform_wait_readable(descriptor, timeout);
    }
    run(loop, PIER_RUN_NO_WAIT);
}

#define TURN_UNTIL(loop, descriptor, condition) \
    do { \
        test_wait_begin(__FILE__, __LINE__, #condition); \
        while (!(condition)) { \
            turn_from_outside(loop, descriptor); \
        } \
        test_wait_end(); \
    } while (0)

struct echo {
    struct tracked_handle handle;
    struct tracked each, sends[64];
    unsigned count;
};

static void echo_back(struct tracked *tracked)
{
    struct echo *echo = PIER_OWNER(tracked, struct echo, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        struct tracked *send = &echo->sends[echo->count++ % COUNT_OF(echo->sends)];
        tracked_send(&echo->handle, send, tracked->op.data, tracked->op.size, NULL);
    }
}

static void post_later(void *context)
{
    struct tracked *post = context;
    tracked_post(post->context, post, NULL);
}

static void driven_by_its_descriptor(void)
{
    struct pier_loop *loop = test_loop();
    struct echo echo = {0};
    struct tracked timer = {0}, post = {.context = loop}, idle = {0};
    struct platform_thread thread;
    if (!test_can(PIER_CAN_EMBED)) {
        CHECK_INT(pier_loop_descriptor(loop), ==, PIER_ENOTSUP);
        test_skip("the backend has no descriptor");
        return;
    }
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &echo.handle);
    const pier_descriptor descriptor = pier_loop_descriptor(loop);
    CHECK_INT(descriptor, >=, 0);
    CHECK_INT(pier_loop_descriptor(loop), ==, descriptor);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_receive_each(&echo.handle, &echo.each, echo_back);
    run(loop, PIER_RUN_NO_WAIT);
    for (unsigned i = 0; i < 100; i++) {
        char byte = (char)i, back = 0;
        raw_send(peer, &byte, 1);
        TURN_UNTIL(loop, descriptor, raw_available(peer) == 1);
        raw_receive(peer, &back, 1);
        CHECK_INT(back, ==, byte);
    }
    tracked_timer(loop, &timer, 10 * PIER_MILLISECOND, NULL);
    TURN_UNTIL(loop, descriptor, !timer.in_flight);
    tracked_notify_each(loop, &idle, NULL);
    platform_thread_start(&thread, post_later, &post);
    TURN_UNTIL(loop, descriptor, post.completions == 1);
    platform_thread_join(&thread);
    pier_notify(&idle.op);
    TURN_UNTIL(loop, descriptor, idle.events == 1);
    tracked_cancel(&idle);
    TURN_UNTIL(loop, descriptor, !idle.in_flight);
    raw_close(peer);
    TURN_UNTIL(loop, descriptor, !echo.each.in_flight);
    tracked_close(&echo.handle, NULL);
    TURN_UNTIL(loop, descriptor, echo.handle.closes == 1);
}

/* With nothing to do the foreign loop may sleep: the descriptor isn't readable all the time. */
static void idle_descriptor_is_quiet(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0};
    if (!test_can(PIER_CAN_EMBED)) {
        test_skip("the backend has no descriptor");
        return;
    }
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const pier_descriptor descriptor = pier_loop_descriptor(loop);
    tracked_receive_each(&a, &each, NULL);
    raw_send(peer, "x", 1);
    TURN_UNTIL(loop, descriptor, each.events == 1);
    unsigned busy = 0;
    for (int i = 0; i < 20; i++) {
        busy += pier_loop_next_timeout(loop) == 0 || platform_wait_readable(descriptor, 0);
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(busy, <, 10);
    close_and_wait(&a);
    raw_close(peer);
}

/* More work than one turn does: the descriptor stays readable, or the next time-out is 0, until
 * it is done. */
static void rest_of_a_turn_is_not_forgotten(void)
{
    struct pier_loop_options options = test_options();
    options.buffer_size = 64;
    options.receives_max = 2;
    options.callbacks_max = 4;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked_handle a = {0};
    struct tracked each = {0}, posts[50] = {0};
    static unsigned char data[64 * 100];
    if (!test_can(PIER_CAN_EMBED)) {
        test_skip("the backend has no descriptor");
        return;
    }
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const pier_descriptor descriptor = pier_loop_descriptor(loop);
    tracked_receive_each(&a, &each, NULL);
    raw_send(peer, data, sizeof(data));
    for (int i = 0; i < 50; i++) {
        tracked_post(loop, &posts[i], NULL);
    }
    TURN_UNTIL(loop, descriptor, each.done == sizeof(data) && !posts[49].in_flight);
    close_and_wait(&a);
    raw_close(peer);
}

/* The foreign loop's own callbacks submit, outside of a run: what they submit begins when that loop
 * asks how long it may sleep. */
static void submitted_from_outside(uint32_t queue_size)
{
    struct pier_loop_options options = test_options();
    options.queue_size = queue_size;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked_handle a = {0}, b = {0};
    struct tracked receive = {0}, sends[3] = {0}, polls[3] = {0};
    pier_descriptor ends[2];
    char got[3], byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    raw_pair(ends);
    CHECK_OK(tracked_adopt(loop, &b, raw_duplicate(ends[0])));
    const pier_descriptor descriptor = pier_loop_descriptor(loop);
    run(loop, PIER_RUN_NO_WAIT);
    for (int i = 0; i < 3; i++) {
        tracked_send(&a, &sends[i], "x", 1, NULL);
    }
    tracked_receive(&b, &receive, &byte, 1, NULL);
    TURN_UNTIL(loop, descriptor, sends[2].completions == 1 && pier_loop_next_timeout(loop) > 0);
    raw_receive(peer, got, 3);
    raw_send(ends[1], "y", 1);
    TURN_UNTIL(loop, descriptor, receive.completions == 1);
    for (int i = 0; i < 3; i++) {
        tracked_poll(loop, &polls[i], i == 0 ? peer : ends[0], PIER_READABLE, NULL);
    }
    raw_send(ends[1], "y", 1);
    TURN_UNTIL(loop, descriptor, polls[1].completions == 1 && polls[2].completions == 1);
    CHECK(polls[0].in_flight);
    tracked_cancel(&polls[0]);
    TURN_UNTIL(loop, descriptor, !polls[0].in_flight);
    close_and_wait(&a);
    close_and_wait(&b);
    raw_close(peer);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void submits_from_outside_begin(void)
{
    struct pier_loop *loop = test_loop();
    if (pier_loop_descriptor(loop) < 0) {
        test_skip("the backend has no descriptor");
        return;
    }
    submitted_from_outside(256);
    submitted_from_outside(1);
}

static void wake_own_loop(struct tracked *tracked)
{
    pier_wake(tracked->loop);
}

/* A wake-up late in a run is for the next wait, which is the foreign loop's. */
static void woken_at_the_end_of_a_run(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0};
    const pier_descriptor descriptor = pier_loop_descriptor(loop);
    if (descriptor < 0) {
        test_skip("the backend has no descriptor");
        return;
    }
    for (int i = 0; i < 3; i++) {
        run(loop, PIER_RUN_NO_WAIT);
    }
    tracked_timer(loop, &timer, 0, wake_own_loop);
    while (timer.completions == 0) {
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK(pier_loop_next_timeout(loop) == 0 || platform_wait_readable(descriptor, 0));
    run(loop, PIER_RUN_NO_WAIT);
    CHECK(pier_loop_next_timeout(loop) == PIER_FOREVER);
}

/* False, with the handle discarded and the test skipped, where the system ties a handle to the
 * completion port of its first op. */
static bool attach_to(struct tracked_handle *handle, struct pier_loop *loop)
{
    const int error = pier_attach(&handle->handle, loop);
    if (error == PIER_ENOTSUP && test_backend_is("iocp") && handle->loop != loop) {
        pier_handle_discard(&handle->handle);
        test_skip("this system can't take a handle off its completion port");
        return false;
    }
    CHECK_OK(error);
    handle->loop = loop;
    CHECK(pier_handle_loop(&handle->handle) == loop);
    return true;
}

static void moved_between_loops(void)
{
    struct pier_loop *loops[2] = {test_loop(), test_loop()};
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        struct tracked each = {0};
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loops[0], (enum stream)stream, &a);
        for (int i = 0; i < 6; i++) {
            check_usable(&a, peer);
            tracked_receive_each(&a, &each, NULL);
            run(loops[i % 2], PIER_RUN_NO_WAIT);
            CHECK_INT(pier_detach(&a.handle), ==, PIER_EBUSY);
            tracked_cancel(&each);
            CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
            raw_send(peer, "waits", 5);
            CHECK_OK(pier_detach(&a.handle));
            CHECK(pier_handle_loop(&a.handle) == NULL);
            if (!attach_to(&a, loops[(i + 1) % 2])) {
                raw_close(peer);
                return;
            }
            char got[5];
            receive_all(&a, got, 5);
            CHECK_BYTES(got, "waits", 5);
        }
        close_and_wait(&a);
        raw_receive_end(peer);
        raw_close(peer);
    }
}

static void back_to_its_loop(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, listener = {0};
    struct tracked accept = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept(&listener, &accept, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_cancel(&accept);
    CHECK_INT(wait_for(&accept), ==, PIER_ECANCELED);
    for (int i = 0; i < 3; i++) {
        check_usable(&a, peer);
        CHECK_OK(pier_detach(&a.handle));
        CHECK_OK(pier_detach(&listener.handle));
        attach_to(&a, loop);
        attach_to(&listener, loop);
    }
    check_usable(&a, peer);
    const pier_descriptor client = raw_connect(&address);
    tracked_accept(&listener, &accept, NULL);
    CHECK_INT(wait_for(&accept), ==, 1);
    close_and_wait(&a);
    close_and_wait(&listener);
    raw_close(peer);
    raw_close(client);
}

static void detach_of_a_closing_handle(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_close(&a, NULL);
    CHECK_INT(pier_detach(&a.handle), ==, PIER_EBUSY);
    RUN_UNTIL(loop, a.closes == 1);
    raw_close(peer);
}

/* An op whose outcome is known is in flight until its completion, which needs the loop. */
static void detach_before_a_completion(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char nothing;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &nothing, 0, NULL);
    CHECK_INT(pier_detach(&a.handle), ==, PIER_EBUSY);
    tracked_cancel(&receive);
    CHECK_INT(wait_for(&receive), ==, 0);
    CHECK_OK(pier_detach(&a.handle));
    pier_handle_discard(&a.handle);
    a.loop = NULL;
    raw_close(peer);
}

static void detached_listener(void)
{
    struct pier_loop *loops[2] = {test_loop(), test_loop()};
    struct tracked_handle listener = {0};
    struct tracked accept = {0};
    const struct pier_address address = tracked_listen(loops[0], &listener, STREAM_TCP4, NULL);
    tracked_accept(&listener, &accept, NULL);
    const pier_descriptor first = raw_connect(&address);
    CHECK_INT(wait_for(&accept), ==, 1);
    CHECK_OK(pier_detach(&listener.handle));
    if (!attach_to(&listener, loops[1])) {
        raw_close(first);
        return;
    }
    const pier_descriptor second = raw_connect(&address);
    tracked_accept(&listener, &accept, NULL);
    CHECK_INT(wait_for(&accept), ==, 1);
    close_and_wait(&listener);
    raw_close(first);
    raw_close(second);
}

/* The detached handles of a loop don't keep it from being freed. */
static void outlives_its_loop(void)
{
    struct pier_loop *loops[2] = {test_loop(), test_loop()};
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loops[0], STREAM_TCP4, &a);
    CHECK_OK(pier_detach(&a.handle));
    test_loop_free(loops[0]);
    if (!attach_to(&a, loops[1])) {
        raw_close(peer);
        return;
    }
    check_usable(&a, peer);
    CHECK_OK(pier_detach(&a.handle));
    pier_handle_discard(&a.handle);
    raw_receive_end(peer);
    raw_close(peer);
}

const struct test embed_tests[] = {
    TEST(embed, driven_by_its_descriptor),
    TEST(embed, idle_descriptor_is_quiet),
    TEST(embed, rest_of_a_turn_is_not_forgotten),
    TEST(embed, submits_from_outside_begin),
    TEST(embed, woken_at_the_end_of_a_run),
    TEST(embed, moved_between_loops),
    TEST(embed, back_to_its_loop),
    TEST(embed, detach_of_a_closing_handle),
    TEST(embed, detach_before_a_completion),
    TEST(embed, detached_listener),
    TEST(embed, outlives_its_loop),
    TEST_END,
};
