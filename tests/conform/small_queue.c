/* small_queue.c - thousands of ops through a queue of 4 entries: it may be full, but nothing is
 * lost, late or doubled. */

#include "suite.h"

#include <stdlib.h>

#define PAIRS 100
#define SENDS_EACH 50

static struct pier_loop *loop_of_four(void)
{
    struct pier_loop_options options = test_options();
    options.queue_size = 4;
    return test_loop_with(&options);
}

struct lane {
    struct tracked_handle in, out;
    struct tracked sends[SENDS_EACH], receives[SENDS_EACH];
    unsigned char sent[SENDS_EACH * 8], got[SENDS_EACH * 8];
};

/* 5,000 sends and 5,000 receives, all submitted before the first turn. */
static void ten_thousand_ops(void)
{
    struct pier_loop *loop = loop_of_four();
    struct lane *lanes = calloc(PAIRS, sizeof(*lanes));
    CHECK(lanes != NULL);
    for (unsigned i = 0; i < PAIRS; i++) {
        struct lane *lane = &lanes[i];
        tracked_pair(loop, STREAM_PAIR, &lane->in, &lane->out);
        pattern_fill(lane->sent, sizeof(lane->sent), i, 0);
        for (unsigned j = 0; j < SENDS_EACH; j++) {
            tracked_receive(&lane->in, &lane->receives[j], lane->got + j * 8, 8, NULL);
            tracked_send(&lane->out, &lane->sends[j], lane->sent + j * 8, 8, NULL);
        }
    }
    CHECK_INT(tracked_in_flight(), ==, PAIRS * SENDS_EACH * 2);
    /* A receive takes at least one byte, and 8 when there are 8: sends are merged or not, so
     * count bytes. */
    for (unsigned i = 0; i < PAIRS; i++) {
        for (unsigned j = 0; j < SENDS_EACH; j++) {
            CHECK_INT(wait_for(&lanes[i].sends[j]), ==, 8);
            CHECK_INT(wait_for(&lanes[i].receives[j]), ==, 8);
        }
        CHECK_PATTERN(lanes[i].got, sizeof(lanes[i].got), i, 0);
    }
    for (unsigned i = 0; i < PAIRS; i++) {
        tracked_close(&lanes[i].in, NULL);
        tracked_close(&lanes[i].out, NULL);
    }
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    free(lanes);
}

/* Everything at once that needs an entry: receives, polls, accepts, and then all their cancels. */
static void cancels_through_a_full_queue(void)
{
    struct pier_loop *loop = loop_of_four();
    enum { COUNT = 200 };
    struct tracked_handle *handles = calloc(COUNT, sizeof(*handles));
    struct tracked *receives = calloc(COUNT, sizeof(*receives)),
                   *polls = calloc(COUNT, sizeof(*polls));
    static char bytes[COUNT];
    CHECK(handles != NULL && receives != NULL && polls != NULL);
    pier_descriptor ends[2];
    raw_pair(ends);
    for (int i = 0; i < COUNT; i += 2) {
        tracked_pair(loop, STREAM_PAIR, &handles[i], &handles[i + 1]);
    }
    for (int i = 0; i < COUNT; i++) {
        if (i % 2 == 0) {
            tracked_receive(&handles[i], &receives[i], &bytes[i], 1, NULL);
        } else {
            tracked_receive_each(&handles[i], &receives[i], NULL);
        }
        tracked_poll(loop, &polls[i], ends[0], PIER_READABLE, NULL);
    }
    for (int i = 0; i < COUNT; i++) {
        if (i == COUNT / 2) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_cancel(&receives[i]);
        tracked_cancel(&polls[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(wait_for(&receives[i]), ==, PIER_ECANCELED);
        CHECK_INT(wait_for(&polls[i]), ==, PIER_ECANCELED);
        close_and_wait(&handles[i]);
    }
    raw_close(ends[0]);
    raw_close(ends[1]);
    free(handles);
    free(receives);
    free(polls);
}

/* A cancel that found the queue full isn't forgotten when the op's time limit passes before there
 * is room, in a turn that begins with the timers since the one before used up its budget. */
static void time_limit_behind_a_full_queue(void)
{
    struct pier_loop_options options = test_options();
    struct tracked busy = {0}, polls[20] = {0};
    pier_descriptor ends[2];
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return;
    }
    options.queue_size = 4;
    options.callbacks_max = 1;
    struct pier_loop *loop = test_loop_with(&options);
    raw_pair(ends);
    tracked_poll_each(loop, &busy, ends[1], PIER_WRITABLE, NULL);
    for (size_t i = 0; i < COUNT_OF(polls); i++) {
        polls[i].op.timeout_ns = 20 * PIER_MILLISECOND;
        tracked_poll(loop, &polls[i], ends[0], PIER_READABLE, NULL);
    }
    const uint64_t begin = pier_loop_now(loop);
    RUN_UNTIL(loop, busy.events >= 2);
    for (size_t i = 0; i < COUNT_OF(polls); i++) {
        tracked_cancel(&polls[i]);
    }
    while (pier_loop_now(loop) - begin < 25 * PIER_MILLISECOND) {}
    for (size_t i = 0; i < COUNT_OF(polls); i++) {
        const int64_t result = wait_for(&polls[i]);
        CHECK(result == PIER_ECANCELED || result == PIER_ETIMEDOUT);
    }
    tracked_cancel(&busy);
    CHECK_INT(wait_for(&busy), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

/* More completions in one go than a completion queue of that size holds. */
static void burst_of_completions(void)
{
    struct pier_loop *loop = loop_of_four();
    enum { COUNT = 150 };
    struct tracked_handle *handles = calloc(COUNT, sizeof(*handles));
    struct tracked *each = calloc(COUNT, sizeof(*each));
    pier_descriptor peers[COUNT];
    CHECK(handles != NULL && each != NULL);
    for (int i = 0; i < COUNT; i++) {
        peers[i] = tracked_raw_pair(loop, STREAM_PAIR, &handles[i]);
        tracked_receive_each(&handles[i], &each[i], NULL);
    }
    run_quietly(loop, 5);
    for (unsigned round = 1; round <= 5; round++) {
        for (int i = 0; i < COUNT; i++) {
            raw_send(peers[i], "0123456789", 10);
        }
        for (int i = 0; i < COUNT; i++) {
            RUN_UNTIL(loop, each[i].done == round * 10);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        raw_close(peers[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(wait_for(&each[i]), ==, 0);
        CHECK_INT(each[i].done, ==, 50);
        close_and_wait(&handles[i]);
    }
    free(handles);
    free(each);
}

const struct test small_queue_tests[] = {
    TEST(small_queue, ten_thousand_ops),
    TEST(small_queue, cancels_through_a_full_queue),
    TEST(small_queue, time_limit_behind_a_full_queue),
    TEST(small_queue, burst_of_completions),
    TEST_END,
};
