/* posix_reuse.c - numbers of polled descriptors that are closed by their owner and given out again,
 * and what is left of the polls: no event of the old one for the new one, and no spinning. The
 * lowest free number comes first (POSIX), so it is known which. */

#include "suite.h"

#include <unistd.h>

/* Turns that the loop makes in 30 ms with nothing to do. */
static uint64_t idle_turns(struct pier_loop *loop)
{
    const struct pier_loop_counters before = stats_of(loop);
    struct tracked timer = {0};
    tracked_timer(loop, &timer, 30 * PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    return stats_of(loop).turns - before.turns;
}

struct reuse {
    struct pier_loop *loop;
    struct tracked polls[2], again;
    struct tracked_handle handle;
    pier_descriptor ends[2][2], fresh[2];
    bool done;
};

static void renew(struct reuse *reuse, int which)
{
    const pier_descriptor number = reuse->ends[which][0];
    raw_close(number);
    raw_pair(reuse->fresh);
    CHECK_INT(reuse->fresh[0], ==, number);
    reuse->done = true;
}

static void close_rest(struct reuse *reuse, int count)
{
    for (int i = 0; i < count; i++) {
        if (reuse->ends[i][0] != reuse->fresh[0]) {
            raw_close(reuse->ends[i][0]);
        }
        raw_close(reuse->ends[i][1]);
    }
    raw_close(reuse->fresh[1]);
}

static void becomes_a_handle(struct tracked *tracked)
{
    struct reuse *reuse = PIER_OWNER(tracked, struct reuse, polls[0]);
    renew(reuse, 0);
    raw_send(reuse->fresh[1], "waits", 5);
    CHECK_OK(tracked_adopt(reuse->loop, &reuse->handle, reuse->fresh[0]));
}

/* Nobody reads from the handle for now. */
static void by_a_handle_that_does_not_read(void)
{
    struct reuse reuse = {.loop = test_loop()};
    char got[5];
    raw_pair(reuse.ends[0]);
    tracked_poll(reuse.loop, &reuse.polls[0], reuse.ends[0][0], PIER_READABLE, becomes_a_handle);
    raw_send(reuse.ends[0][1], "x", 1);
    CHECK_INT(wait_for(&reuse.polls[0]), ==, PIER_READABLE);
    CHECK_INT(idle_turns(reuse.loop), <, 20);
    receive_all(&reuse.handle, got, 5);
    CHECK_BYTES(got, "waits", 5);
    close_and_wait(&reuse.handle);
    close_rest(&reuse, 1);
}

static void replace_other(struct tracked *tracked)
{
    struct reuse *reuse = tracked->context;
    const int other = tracked == &reuse->polls[0];
    if (!reuse->done && tracked->result > 0) {
        tracked_cancel(&reuse->polls[other]);
        renew(reuse, other);
        tracked_poll(reuse->loop, &reuse->again, reuse->fresh[0], PIER_READABLE, NULL);
    }
}

/* Two descriptors become readable in one turn. The callback of the first closes the other and polls
 * one of the same number, which isn't readable. */
static void event_of_the_closed_one(bool each)
{
    struct reuse reuse = {.loop = test_loop()};
    for (int i = 0; i < 2; i++) {
        raw_pair(reuse.ends[i]);
        reuse.polls[i].context = &reuse;
        (each ? tracked_poll_each : tracked_poll)(reuse.loop, &reuse.polls[i], reuse.ends[i][0],
                                                  PIER_READABLE, replace_other);
    }
    run(reuse.loop, PIER_RUN_NO_WAIT);
    raw_send(reuse.ends[0][1], "x", 1);
    raw_send(reuse.ends[1][1], "x", 1);
    RUN_UNTIL(reuse.loop, reuse.done);
    for (int i = 0; i < 2; i++) {
        tracked_cancel(&reuse.polls[i]);
    }
    idle_turns(reuse.loop);
    CHECK(reuse.again.in_flight);
    raw_send(reuse.fresh[1], "x", 1);
    CHECK_INT(wait_for(&reuse.again), ==, PIER_READABLE);
    raw_close(reuse.fresh[0]);
    close_rest(&reuse, 2);
}

static void event_of_the_closed_one_once(void)
{
    event_of_the_closed_one(false);
}

static void event_of_the_closed_one_each(void)
{
    event_of_the_closed_one(true);
}

static void close_polled(struct tracked *tracked)
{
    struct reuse *reuse = PIER_OWNER(tracked, struct reuse, polls[0]);
    raw_close(reuse->ends[0][0]);
}

/* What is closed may still be open under another number, or in another process. */
static void closed_with_another_open(void)
{
    struct reuse reuse = {.loop = test_loop()};
    raw_pair(reuse.ends[0]);
    const pier_descriptor other = raw_duplicate(reuse.ends[0][0]);
    tracked_poll(reuse.loop, &reuse.polls[0], reuse.ends[0][0], PIER_READABLE, close_polled);
    raw_send(reuse.ends[0][1], "x", 1);
    CHECK_INT(wait_for(&reuse.polls[0]), ==, PIER_READABLE);
    CHECK_INT(idle_turns(reuse.loop), <, 20);
    raw_close(other);
    raw_close(reuse.ends[0][1]);
}

static void poll_writable_each(struct tracked *tracked)
{
    struct reuse *reuse = PIER_OWNER(tracked, struct reuse, polls[1]);
    tracked_poll_each(reuse->loop, &reuse->again, reuse->ends[0][0], PIER_WRITABLE, NULL);
}

/* Polls of one descriptor for different events: the others go on when one completes. */
static void one_of_several_completes(void)
{
    struct reuse reuse = {.loop = test_loop()};
    raw_pair(reuse.ends[0]);
    for (int i = 0; i < 2; i++) {
        tracked_poll(reuse.loop, &reuse.polls[0], reuse.ends[0][0], PIER_READABLE, NULL);
        tracked_poll(reuse.loop, &reuse.polls[1], reuse.ends[0][0], PIER_WRITABLE,
                     i == 0 ? NULL : poll_writable_each);
        CHECK_INT(wait_for(&reuse.polls[1]), ==, PIER_WRITABLE);
        if (i == 1) {
            RUN_UNTIL(reuse.loop, reuse.again.events > 2);
            tracked_cancel(&reuse.again);
            CHECK_INT(wait_for(&reuse.again), ==, PIER_ECANCELED);
        }
        CHECK_INT(idle_turns(reuse.loop), <, 20);
        raw_send(reuse.ends[0][1], "x", 1);
        CHECK_INT(wait_for(&reuse.polls[0]), ==, PIER_READABLE);
        char byte;
        raw_receive(reuse.ends[0][0], &byte, 1);
    }
    raw_close(reuse.ends[0][0]);
    raw_close(reuse.ends[0][1]);
}

static void poll_readable(struct tracked *tracked)
{
    struct reuse *reuse = PIER_OWNER(tracked, struct reuse, polls[0]);
    tracked_poll(reuse->loop, &reuse->again, reuse->ends[0][0], PIER_READABLE, NULL);
}

/* What libraries do that connect: the same descriptor, writable first, and then readable. */
static void writable_then_readable(void)
{
    struct reuse reuse = {.loop = test_loop()};
    raw_pair(reuse.ends[0]);
    tracked_poll(reuse.loop, &reuse.polls[0], reuse.ends[0][0], PIER_WRITABLE, poll_readable);
    CHECK_INT(wait_for(&reuse.polls[0]), ==, PIER_WRITABLE);
    CHECK_INT(idle_turns(reuse.loop), <, 20);
    CHECK(reuse.again.in_flight);
    raw_send(reuse.ends[0][1], "x", 1);
    CHECK_INT(wait_for(&reuse.again), ==, PIER_READABLE);
    raw_close(reuse.ends[0][0]);
    raw_close(reuse.ends[0][1]);
}

/* A poll that is cancelled is over, though no turn has seen it, and nothing that comes under its
 * number afterwards is taken for it. */
static void cancelled_before_a_turn(bool each, bool ran)
{
    struct reuse reuse = {.loop = test_loop()};
    if (ran) {
        run_quietly(reuse.loop, 2);
    }
    raw_pair(reuse.ends[0]);
    raw_pair(reuse.ends[1]);
    raw_send(reuse.ends[1][1], "x", 1);
    const pier_descriptor number = reuse.ends[0][0];
    (each ? tracked_poll_each : tracked_poll)(reuse.loop, &reuse.polls[0], number, PIER_READABLE,
                                              NULL);
    tracked_cancel(&reuse.polls[0]);
    CHECK_INT(dup2((int)reuse.ends[1][0], (int)number), ==, number);
    CHECK_INT(wait_for(&reuse.polls[0]), ==, PIER_ECANCELED);
    CHECK_INT(reuse.polls[0].events, ==, 0);
    tracked_poll(reuse.loop, &reuse.polls[0], number, PIER_READABLE, NULL);
    CHECK_INT(wait_for(&reuse.polls[0]), ==, PIER_READABLE);
    for (int i = 0; i < 2; i++) {
        raw_close(reuse.ends[i][0]);
        raw_close(reuse.ends[i][1]);
    }
    test_loop_free(reuse.loop);
}

static void cancelled_poll_of_a_reused_number(void)
{
    cancelled_before_a_turn(false, false);
    cancelled_before_a_turn(true, false);
    cancelled_before_a_turn(false, true);
    cancelled_before_a_turn(true, true);
}

/* The same with so many polls that the queue is full. */
static void cancelled_polls_of_reused_numbers(void)
{
    struct pier_loop_options options = test_options();
    static struct tracked polls[100];
    pier_descriptor ends[2], ready[2], number[COUNT_OF(polls)];
    options.queue_size = 8;
    for (int ran = 0; ran < 2; ran++) {
        struct pier_loop *loop = test_loop_with(&options);
        if (ran) {
            run_quietly(loop, 2);
        }
        raw_pair(ends);
        raw_pair(ready);
        raw_send(ready[1], "x", 1);
        for (size_t i = 0; i < COUNT_OF(polls); i++) {
            number[i] = raw_duplicate(ends[0]);
            tracked_poll(loop, &polls[i], number[i], PIER_READABLE, NULL);
        }
        for (size_t i = 0; i < COUNT_OF(polls); i++) {
            tracked_cancel(&polls[i]);
            CHECK_INT(dup2((int)ready[0], (int)number[i]), ==, number[i]);
        }
        for (size_t i = 0; i < COUNT_OF(polls); i++) {
            CHECK_INT(wait_for(&polls[i]), ==, PIER_ECANCELED);
            raw_close(number[i]);
        }
        for (int i = 0; i < 2; i++) {
            raw_close(ends[i]);
            raw_close(ready[i]);
        }
        test_loop_free(loop);
    }
}

enum fate { CLOSED, A_FILE, A_SOCKET };

struct fated {
    struct tracked first, again, each;
    pier_descriptor ends[2], fresh[2];
    enum fate fate;
};

/* The poll is over, and the number is its owner's: the engine may know it as it was. */
static void meet_fate(struct tracked *tracked)
{
    struct fated *fated = PIER_OWNER(tracked, struct fated, first);
    const pier_descriptor number = fated->ends[0];
    raw_close(number);
    if (fated->fate == A_FILE) {
        char path[PIER_PATH_MAX];
        platform_temporary_path(path, sizeof(path));
        fated->fresh[0] = platform_open(path, PLATFORM_CREATE, 0);
        platform_remove(path);
        CHECK_INT(fated->fresh[0], ==, number);
    } else if (fated->fate == A_SOCKET) {
        raw_pair(fated->fresh);
        CHECK_INT(fated->fresh[0], ==, number);
    }
    tracked_poll(tracked->loop, &fated->again, number, PIER_READABLE | PIER_WRITABLE, NULL);
    tracked_poll_each(tracked->loop, &fated->each, number, PIER_READABLE, NULL);
}

/* What is polled under a number is what has it now. */
static void polled_again_as_something_else(void)
{
    struct pier_loop *loop = test_loop();
    for (int round = 0; round < 6; round++) {
        struct fated fated = {.fate = (enum fate)(round % 3), .fresh = {-1, -1}};
        raw_pair(fated.ends);
        tracked_poll(loop, &fated.first, fated.ends[0], PIER_WRITABLE, meet_fate);
        CHECK_INT(wait_for(&fated.first), ==, PIER_WRITABLE);
        const int64_t again = wait_for(&fated.again);
        if (fated.fate == CLOSED) {
            CHECK_INT(again, ==, PIER_EBADF);
            CHECK_INT(wait_for(&fated.each), ==, PIER_EBADF);
        } else if (fated.fate == A_FILE) {
            CHECK_INT(again, ==, PIER_READABLE | PIER_WRITABLE);
            CHECK_INT(wait_for(&fated.each), ==, PIER_ENOTSUP);
        } else {
            CHECK_INT(again, ==, PIER_WRITABLE);
            tracked_cancel(&fated.each);
            CHECK_INT(wait_for(&fated.each), ==, PIER_ECANCELED);
        }
        CHECK_INT(fated.each.events, ==, 0);
        CHECK_INT(idle_turns(loop), <, 20);
        raw_close(fated.ends[1]);
        for (int i = 0; i < 2; i++) {
            if (fated.fresh[i] >= 0) {
                raw_close(fated.fresh[i]);
            }
        }
    }
}

const struct test reuse_tests[] = {
    TEST(reuse, by_a_handle_that_does_not_read),    TEST(reuse, event_of_the_closed_one_once),
    TEST(reuse, event_of_the_closed_one_each),      TEST(reuse, closed_with_another_open),
    TEST(reuse, one_of_several_completes),          TEST(reuse, writable_then_readable),
    TEST(reuse, polled_again_as_something_else),    TEST(reuse, cancelled_poll_of_a_reused_number),
    TEST(reuse, cancelled_polls_of_reused_numbers), TEST_END,
};
