/* poll.c - pier_poll(): readiness of descriptors that pier doesn't own, level-triggered on
 * every backend. */

#include "suite.h"

#include <stdlib.h>

static unsigned char big[1 << 20];

static bool lacks_poll(void)
{
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return true;
    }
    return false;
}

/* Sockets, and pipes where those can be waited for. */
static int kinds_to_poll(void)
{
    return test_backend_is("iocp") ? 1 : 2;
}

static void readable_and_writable(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int pipe_ends = 0; pipe_ends < kinds_to_poll(); pipe_ends++) {
        struct tracked read = {0}, write = {0};
        pier_descriptor ends[2];
        if (pipe_ends) {
            raw_pipe(ends);
        } else {
            raw_pair(ends);
        }
        tracked_poll(loop, &read, ends[0], PIER_READABLE, NULL);
        tracked_poll(loop, &write, ends[1], PIER_WRITABLE, NULL);
        CHECK_INT(wait_for(&write), ==, PIER_WRITABLE);
        run_quietly(loop, 10);
        CHECK(read.in_flight);
        raw_send(ends[1], "x", 1);
        CHECK_INT(wait_for(&read), ==, PIER_READABLE);
        /* Ready already at submit. */
        tracked_poll(loop, &read, ends[0], PIER_READABLE, NULL);
        CHECK_INT(wait_for(&read), ==, PIER_READABLE);
        /* Not writable for long. */
        raw_fill(ends[1]);
        tracked_poll(loop, &write, ends[1], PIER_WRITABLE, NULL);
        run_quietly(loop, 10);
        CHECK(write.in_flight);
        while (raw_receive_now(ends[0], big, sizeof(big)) > 0) {}
        CHECK_INT(wait_for(&write), ==, PIER_WRITABLE);
        raw_close(ends[0]);
        raw_close(ends[1]);
    }
}

/* Where pipes can't be waited for, that is said. */
static void pipes_or_not(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    pier_descriptor ends[2];
    raw_pipe(ends);
    tracked_poll(loop, &poll, ends[1], PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, kinds_to_poll() > 1 ? PIER_WRITABLE : PIER_ENOTSUP);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void both_events_with_one_op(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    tracked_poll(loop, &poll, ends[0], PIER_READABLE | PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_WRITABLE);
    raw_send(ends[1], "x", 1);
    tracked_poll(loop, &poll, ends[0], PIER_READABLE | PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_READABLE | PIER_WRITABLE);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void hang_up(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int pipe_ends = 0; pipe_ends < kinds_to_poll(); pipe_ends++) {
        struct tracked read = {0}, write = {0};
        pier_descriptor ends[2], others[2];
        if (pipe_ends) {
            raw_pipe(ends);
            raw_pipe(others);
        } else {
            raw_pair(ends);
            raw_pair(others);
        }
        /* The writer goes: the reader is told. */
        tracked_poll(loop, &read, ends[0], PIER_READABLE, NULL);
        run_quietly(loop, 5);
        raw_close(ends[1]);
        CHECK_INT(wait_for(&read) & (PIER_READABLE | PIER_HANGUP), !=, 0);
        raw_close(ends[0]);
        /* The reader goes: the writer is told, though it waits for room. */
        raw_fill(others[1]);
        tracked_poll(loop, &write, others[1], PIER_WRITABLE, NULL);
        run_quietly(loop, 5);
        CHECK(write.in_flight);
        raw_close(others[0]);
        CHECK_INT(wait_for(&write) & (PIER_WRITABLE | PIER_HANGUP), !=, 0);
        raw_close(others[1]);
    }
}

static void repeats_while_it_holds(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked each = {0};
    pier_descriptor ends[2];
    char got[3];
    raw_pair(ends);
    tracked_poll_each(loop, &each, ends[0], PIER_READABLE, NULL);
    run_quietly(loop, 5);
    CHECK_INT(each.events, ==, 0);
    raw_send(ends[1], "abc", 3);
    RUN_UNTIL(loop, each.events >= 5);
    raw_receive(ends[0], got, 1);
    const unsigned before = each.events;
    RUN_UNTIL(loop, each.events >= before + 5);
    raw_receive(ends[0], got, 2);
    run(loop, PIER_RUN_NO_WAIT);
    run(loop, PIER_RUN_NO_WAIT);
    const unsigned after = each.events;
    run_quietly(loop, 10);
    CHECK_INT(each.events, <=, after + 1);
    tracked_cancel(&each);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void paused_does_not_repeat(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked each = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    raw_send(ends[1], "x", 1);
    tracked_poll_each(loop, &each, ends[0], PIER_READABLE, NULL);
    RUN_UNTIL(loop, each.events >= 2);
    tracked_pause(&each);
    const uint64_t turns = stats_of(loop).turns;
    run_quietly(loop, 30);
    CHECK_INT(stats_of(loop).turns - turns, <, 50);
    const unsigned before = each.events;
    tracked_resume(&each);
    RUN_UNTIL(loop, each.events > before);
    tracked_cancel(&each);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void several_on_one_descriptor(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked reads[3] = {0}, writes[2] = {0}, each = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    raw_fill(ends[0]);
    for (int i = 0; i < 3; i++) {
        tracked_poll(loop, &reads[i], ends[0], PIER_READABLE, NULL);
    }
    for (int i = 0; i < 2; i++) {
        tracked_poll(loop, &writes[i], ends[0], PIER_WRITABLE, NULL);
    }
    tracked_poll_each(loop, &each, ends[0], PIER_READABLE, NULL);
    run_quietly(loop, 10);
    CHECK_INT(tracked_in_flight(), ==, 6);
    /* One leaves, the others stay. */
    tracked_cancel(&reads[1]);
    CHECK_INT(wait_for(&reads[1]), ==, PIER_ECANCELED);
    raw_send(ends[1], "x", 1);
    CHECK_INT(wait_for(&reads[0]), ==, PIER_READABLE);
    CHECK_INT(wait_for(&reads[2]), ==, PIER_READABLE);
    RUN_UNTIL(loop, each.events >= 2);
    CHECK(writes[0].in_flight);
    CHECK(writes[1].in_flight);
    while (raw_receive_now(ends[1], big, sizeof(big)) > 0) {}
    CHECK_INT(wait_for(&writes[0]), ==, PIER_WRITABLE);
    CHECK_INT(wait_for(&writes[1]), ==, PIER_WRITABLE);
    tracked_cancel(&each);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

/* After pier_cancel() has returned the owner may close the descriptor, and the number may be
 * anything next. */
static void closed_right_after_cancel(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 100; i++) {
        struct tracked old = {0}, each = {0}, fresh = {0};
        pier_descriptor ends[2], others[2];
        raw_pair(ends);
        tracked_poll(loop, &old, ends[0], PIER_READABLE, NULL);
        tracked_poll_each(loop, &each, ends[0], PIER_READABLE, NULL);
        for (int turn = 0; turn < i % 3; turn++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        if (i % 2 == 0) {
            raw_send(ends[1], "x", 1);
        }
        tracked_cancel(&old);
        tracked_cancel(&each);
        raw_close(ends[0]);
        raw_close(ends[1]);
        raw_pair(others);
        tracked_poll(loop, &fresh, others[0], PIER_READABLE, NULL);
        wait_for(&old);
        wait_for(&each);
        CHECK(old.result == PIER_ECANCELED || old.result == PIER_READABLE);
        CHECK_INT(each.result, ==, PIER_ECANCELED);
        run(loop, PIER_RUN_NO_WAIT);
        run(loop, PIER_RUN_NO_WAIT);
        CHECK(fresh.in_flight);
        raw_send(others[1], "x", 1);
        CHECK_INT(wait_for(&fresh), ==, PIER_READABLE);
        raw_close(others[0]);
        raw_close(others[1]);
    }
}

/* The same once the op has completed by itself. */
static void closed_right_after_completion(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 100; i++) {
        struct tracked poll = {0}, fresh = {0};
        pier_descriptor ends[2], others[2];
        raw_pair(ends);
        tracked_poll(loop, &poll, ends[0], PIER_READABLE, NULL);
        raw_send(ends[1], "x", 1);
        CHECK_INT(wait_for(&poll), ==, PIER_READABLE);
        raw_close(ends[0]);
        raw_close(ends[1]);
        raw_pair(others);
        tracked_poll(loop, &fresh, others[0], PIER_READABLE, NULL);
        run(loop, PIER_RUN_NO_WAIT);
        run(loop, PIER_RUN_NO_WAIT);
        CHECK(fresh.in_flight);
        raw_send(others[1], "x", 1);
        CHECK_INT(wait_for(&fresh), ==, PIER_READABLE);
        raw_close(others[0]);
        raw_close(others[1]);
    }
}

static void number_becomes_a_handle(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 20; i++) {
        struct tracked poll = {0};
        struct tracked_handle handle = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        tracked_poll(loop, &poll, ends[0], PIER_READABLE | PIER_WRITABLE, NULL);
        if (i % 2 == 0) {
            CHECK_INT(wait_for(&poll), ==, PIER_WRITABLE);
        } else {
            run(loop, PIER_RUN_NO_WAIT);
            tracked_cancel(&poll);
            wait_for(&poll);
        }
        CHECK_OK(tracked_adopt(loop, &handle, ends[0]));
        check_usable(&handle, ends[1]);
        close_and_wait(&handle);
        raw_close(ends[1]);
    }
}

struct reused {
    struct tracked poll;
    struct tracked_handle handle;
    pier_descriptor ends[2], others[2];
};

/* The owner's right: the poll is over. The number usually is the next to be given out. */
static void close_and_reuse(struct tracked *tracked)
{
    struct reused *reused = PIER_OWNER(tracked, struct reused, poll);
    raw_close(reused->ends[0]);
    raw_pair(reused->others);
    CHECK_OK(tracked_adopt(tracked->loop, &reused->handle, reused->others[0]));
    tracked_close(&reused->handle, NULL);
}

/* What was watched under a number goes with it, though its handle never waited for anything. */
static void number_is_reused_and_closed(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct reused reused = {0};
    struct tracked timer = {0};
    raw_pair(reused.ends);
    tracked_poll(loop, &reused.poll, reused.ends[0], PIER_WRITABLE, close_and_reuse);
    CHECK_INT(wait_for(&reused.poll), ==, PIER_WRITABLE);
    RUN_UNTIL(loop, reused.handle.closes == 1);
    const uint64_t turns = stats_of(loop).turns;
    tracked_timer(loop, &timer, 20 * PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_INT(stats_of(loop).turns - turns, <=, 8);
    raw_close(reused.ends[1]);
    raw_close(reused.others[1]);
}

static void refusals(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0}, each = {0};
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const pier_descriptor closed = raw_duplicate(peer);
    raw_close(closed);
    tracked_poll(loop, &poll, peer, 0, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_EINVAL);
    tracked_poll(loop, &poll, closed, PIER_READABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_EBADF);
    tracked_poll_each(loop, &each, closed, PIER_READABLE, NULL);
    CHECK_INT(wait_for(&each), ==, PIER_EBADF);
    tracked_poll(loop, &poll, pier_handle_descriptor(&a.handle), PIER_READABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_EBUSY);
    check_usable(&a, peer);
    close_and_wait(&a);
    raw_close(peer);
}

static void regular_file(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0}, each = {0};
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    const pier_descriptor descriptor = platform_descriptor_of(file);
    tracked_poll(loop, &poll, descriptor, PIER_READABLE | PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_READABLE | PIER_WRITABLE);
    tracked_poll(loop, &poll, descriptor, PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_WRITABLE);
    tracked_poll_each(loop, &each, descriptor, PIER_READABLE, NULL);
    CHECK_INT(wait_for(&each), ==, PIER_ENOTSUP);
    fclose(file);
    platform_remove(path);
}

static void listener_is_readable(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0}, connecting = {0};
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 4);
    tracked_poll(loop, &poll, listener, PIER_READABLE, NULL);
    run_quietly(loop, 5);
    CHECK(poll.in_flight);
    const pier_descriptor client = raw_connect_begin(&address);
    tracked_poll(loop, &connecting, client, PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_READABLE);
    CHECK_INT(wait_for(&connecting), ==, PIER_WRITABLE);
    raw_close(client);
    raw_close(listener);
}

static void urgent_data(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 4);
    const pier_descriptor client = raw_connect(&address), server = raw_accept(listener);
    tracked_poll(loop, &poll, server, PIER_PRIORITY, NULL);
    run_quietly(loop, 5);
    raw_send(client, "x", 1);
    run_quietly(loop, 5);
    CHECK(poll.in_flight);
    raw_send_urgent(client, '!');
    CHECK_INT(wait_for(&poll), ==, PIER_PRIORITY);
    raw_close(client);
    raw_close(server);
    raw_close(listener);
}

/* Cancelling one of two polls, before and after they were armed, leaves the other one armed. */
static void urgent_data_for_one_of_two(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 4);
    for (int i = 0; i < 2; i++) {
        struct tracked polls[2] = {0};
        const pier_descriptor client = raw_connect(&address), server = raw_accept(listener);
        tracked_poll(loop, &polls[0], server, PIER_PRIORITY, NULL);
        tracked_poll(loop, &polls[1], server, PIER_PRIORITY, NULL);
        if (i == 1) {
            run_quietly(loop, 5);
        }
        tracked_cancel(&polls[0]);
        CHECK_INT(wait_for(&polls[0]), ==, PIER_ECANCELED);
        raw_send(client, "x", 1); /* kqueue may tell of urgent data only together with other data */
        run_quietly(loop, 5);
        CHECK(polls[1].in_flight);
        raw_send_urgent(client, '!');
        CHECK_INT(wait_for(&polls[1]), ==, PIER_PRIORITY);
        raw_close(client);
        raw_close(server);
    }
    raw_close(listener);
}

/* Hundreds of descriptors, each with an op, in one loop. */
static void many_descriptors(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    enum { COUNT = 300 };
    struct tracked *polls = calloc(COUNT, sizeof(*polls));
    static pier_descriptor ends[COUNT][2];
    for (int i = 0; i < COUNT; i++) {
        raw_pair(ends[i]);
        tracked_poll(loop, &polls[i], ends[i][0], PIER_READABLE, NULL);
    }
    run_quietly(loop, 5);
    for (int i = COUNT - 1; i >= 0; i--) {
        CHECK(polls[i].in_flight);
        raw_send(ends[i][1], "x", 1);
        if (i % 7 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(wait_for(&polls[i]), ==, PIER_READABLE);
        raw_close(ends[i][0]);
        raw_close(ends[i][1]);
    }
    free(polls);
}

static void drained_with_the_loop(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0}, each = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    tracked_poll(loop, &poll, ends[0], PIER_READABLE, NULL);
    tracked_poll_each(loop, &each, ends[1], PIER_READABLE, NULL);
    run_quietly(loop, 2);
    CHECK_INT(drain(loop, 10 * PIER_SECOND), ==, 0);
    CHECK_INT(poll.result, ==, PIER_ECANCELED);
    CHECK_INT(each.result, ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

/* PIER_HANGUP is always reported, also when it's all that was asked for; and before the peer has
 * gone there is nothing to report. */
static void hang_up_alone(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 8; i++) {
        struct tracked one = {0}, each = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        tracked_poll(loop, &one, ends[0], PIER_HANGUP, NULL);
        tracked_poll_each(loop, &each, ends[0], PIER_HANGUP, NULL);
        if ((i & 1) != 0) {
            run_quietly(loop, 2);
            CHECK(one.in_flight && each.events == 0);
        }
        if ((i & 2) != 0) {
            raw_send(ends[1], "data", 4);
            run_quietly(loop, 2);
            CHECK(one.in_flight && each.events == 0);
        }
        /* There the pair is one of TCP: that the peer has closed is an end, not a hang-up. */
        if ((i & 4) != 0 || test_backend_is("iocp")) {
            raw_reset(ends[1]);
        } else {
            raw_close(ends[1]);
        }
        CHECK_INT(wait_for(&one), ==, PIER_HANGUP);
        RUN_UNTIL(loop, each.events > 0);
        CHECK_INT(each.result, ==, PIER_HANGUP);
        tracked_cancel(&each);
        CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
        raw_close(ends[0]);
    }
}

const struct test poll_tests[] = {
    TEST(poll, readable_and_writable),
    TEST(poll, pipes_or_not),
    TEST(poll, both_events_with_one_op),
    TEST(poll, hang_up),
    TEST(poll, hang_up_alone),
    TEST(poll, repeats_while_it_holds),
    TEST(poll, paused_does_not_repeat),
    TEST(poll, several_on_one_descriptor),
    TEST(poll, closed_right_after_cancel),
    TEST(poll, closed_right_after_completion),
    TEST(poll, number_becomes_a_handle),
    TEST(poll, number_is_reused_and_closed),
    TEST(poll, refusals),
    TEST(poll, regular_file),
    TEST(poll, listener_is_readable),
    TEST(poll, urgent_data),
    TEST(poll, urgent_data_for_one_of_two),
    TEST(poll, many_descriptors),
    TEST(poll, drained_with_the_loop),
    TEST_END,
};
