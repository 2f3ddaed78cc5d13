/* poll_change.c - pier_poll_change(): other events for a poll in flight, at once.
 *
 * That no event comes which isn't asked for any more is checked by tracked.c in each of them. */

#include "suite.h"

static bool lacks_poll(void)
{
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return true;
    }
    return false;
}

static void close_both(const pier_descriptor ends[2])
{
    raw_close(ends[0]);
    raw_close(ends[1]);
}

static void cancel_and_wait(struct tracked *poll)
{
    tracked_cancel(poll);
    CHECK_INT(wait_for(poll), ==, PIER_ECANCELED);
}

/* Before the loop has run, and once the poll is the kernel's. */
static void one_shot(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int turns = 0; turns < 3; turns++) {
        struct tracked poll = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        tracked_poll(loop, &poll, ends[0], PIER_READABLE, NULL);
        for (int i = 0; i < turns; i++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_poll_change(&poll, PIER_WRITABLE);
        CHECK_INT(wait_for(&poll), ==, PIER_WRITABLE);
        /* And away from what holds. */
        tracked_poll(loop, &poll, ends[0], PIER_WRITABLE, NULL);
        tracked_poll_change(&poll, PIER_READABLE);
        run_quietly(loop, 5);
        CHECK(poll.in_flight);
        raw_send(ends[1], "x", 1);
        CHECK_INT(wait_for(&poll), ==, PIER_READABLE);
        close_both(ends);
    }
}

static void each(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    tracked_poll_each(loop, &poll, ends[0], PIER_READABLE, NULL);
    run_quietly(loop, 5);
    for (int i = 0; i < 10; i++) {
        unsigned before = poll.events;
        tracked_poll_change(&poll, PIER_WRITABLE);
        RUN_UNTIL(loop, poll.events >= before + 3);
        tracked_poll_change(&poll, PIER_READABLE);
        before = poll.events;
        run_quietly(loop, 2);
        CHECK_INT(poll.events, ==, before);
    }
    tracked_poll_change(&poll, PIER_READABLE | PIER_WRITABLE);
    raw_send(ends[1], "x", 1);
    RUN_UNTIL(loop, poll.result == (PIER_READABLE | PIER_WRITABLE));
    cancel_and_wait(&poll);
    close_both(ends);
}

static void turn_around(struct tracked *poll)
{
    if ((poll->flags & PIER_MORE) == 0) {
        return;
    }
    unsigned *writable = poll->context;
    *writable += (poll->result & PIER_WRITABLE) != 0;
    tracked_poll_change(poll, poll->events % 2 == 1 ? PIER_READABLE : PIER_WRITABLE);
}

static void inside_its_own_callback(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    unsigned writable = 0;
    struct tracked poll = {.context = &writable};
    pier_descriptor ends[2];
    char byte;
    raw_pair(ends);
    tracked_poll_each(loop, &poll, ends[0], PIER_WRITABLE, turn_around);
    for (unsigned i = 1; i <= 10; i++) {
        RUN_UNTIL(loop, writable == i);
        run_quietly(loop, 1);
        CHECK_INT(poll.events, ==, 2 * i - 1);
        raw_send(ends[1], "x", 1);
        RUN_UNTIL(loop, poll.events >= 2 * i);
        raw_receive(ends[0], &byte, 1);
    }
    cancel_and_wait(&poll);
    close_both(ends);
}

struct crowd {
    struct tracked polls[4];
    unsigned events, readable;
};

/* The first to be told asks for something else on behalf of all others. */
static void silence_others(struct tracked *poll)
{
    struct crowd *crowd = poll->context;
    crowd->readable += poll->result > 0 && (poll->result & PIER_READABLE) != 0;
    for (int i = 0; crowd->readable == 1 && i < 4; i++) {
        if (&crowd->polls[i] != poll) {
            tracked_poll_change(&crowd->polls[i], crowd->events);
        }
    }
    if ((poll->flags & PIER_MORE) != 0) {
        tracked_pause(poll);
    }
}

/* All were ready in one turn, and so were gathered together as a rule. */
static void gathered_events_are_dropped(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int round = 0; round < 8; round++) {
        struct crowd crowd = {.events = (round & 2) != 0 ? PIER_WRITABLE : 0};
        pier_descriptor ends[4][2];
        for (int i = 0; i < 4; i++) {
            raw_pair(ends[i]);
            crowd.polls[i].context = &crowd;
            if ((round & 1) != 0) {
                tracked_poll_each(loop, &crowd.polls[i], ends[i][0], PIER_READABLE, silence_others);
            } else {
                tracked_poll(loop, &crowd.polls[i], ends[i][0], PIER_READABLE, silence_others);
            }
        }
        if ((round & 4) != 0) {
            run_quietly(loop, 2);
        }
        for (int i = 0; i < 4; i++) {
            raw_send(ends[i][1], "x", 1);
        }
        RUN_UNTIL(loop, crowd.readable == 1);
        run_quietly(loop, 5);
        CHECK_INT(crowd.readable, ==, 1);
        for (int i = 0; i < 4; i++) {
            if (crowd.polls[i].in_flight) {
                cancel_and_wait(&crowd.polls[i]);
            } else {
                CHECK_INT(crowd.polls[i].completions, ==, 1);
            }
            close_both(ends[i]);
        }
    }
}

/* Polls of one descriptor share what the kernel knows of it, not what they ask for. */
static void one_of_several(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked polls[3] = {0}, eager = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    for (int i = 0; i < 3; i++) {
        tracked_poll(loop, &polls[i], ends[0], PIER_READABLE, NULL);
    }
    tracked_poll_each(loop, &eager, ends[0], PIER_READABLE, NULL);
    run_quietly(loop, 2);
    tracked_poll_change(&polls[1], PIER_WRITABLE);
    CHECK_INT(wait_for(&polls[1]), ==, PIER_WRITABLE);
    tracked_poll_change(&eager, PIER_WRITABLE);
    RUN_UNTIL(loop, eager.events >= 2);
    CHECK(polls[0].in_flight && polls[2].in_flight);
    /* The first of those that are left doesn't take the others' events with it. */
    tracked_poll_change(&polls[0], 0);
    tracked_poll_change(&eager, 0);
    const unsigned before = eager.events;
    raw_send(ends[1], "x", 1);
    CHECK_INT(wait_for(&polls[2]), ==, PIER_READABLE);
    run_quietly(loop, 2);
    CHECK(polls[0].in_flight);
    CHECK_INT(eager.events, ==, before);
    cancel_and_wait(&polls[0]);
    cancel_and_wait(&eager);
    close_both(ends);
}

/* The pause stays, and the resume is for the new events. */
static void while_paused(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int round = 0; round < 8; round++) {
        struct tracked poll = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        tracked_poll_each(loop, &poll, ends[0], PIER_READABLE, NULL);
        if ((round & 1) != 0) {
            run_quietly(loop, 2);
        }
        tracked_pause(&poll);
        if ((round & 2) != 0) {
            run_quietly(loop, 2);
        }
        tracked_poll_change(&poll, PIER_WRITABLE);
        if ((round & 4) != 0) {
            run_quietly(loop, 2);
            CHECK_INT(poll.events, ==, 0);
        }
        tracked_resume(&poll);
        RUN_UNTIL(loop, poll.events >= 2);
        cancel_and_wait(&poll);
        close_both(ends);
    }
}

/* Nothing but a hang-up, which is always told of; the loop sleeps meanwhile. */
static void to_nothing(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int once = 0; once < 2; once++) {
        struct tracked poll = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        raw_send(ends[1], "x", 1);
        if (once) {
            tracked_poll(loop, &poll, ends[0], PIER_READABLE | PIER_WRITABLE, NULL);
        } else {
            tracked_poll_each(loop, &poll, ends[0], PIER_READABLE | PIER_WRITABLE, NULL);
            RUN_UNTIL(loop, poll.events >= 2);
        }
        tracked_poll_change(&poll, 0);
        const unsigned before = poll.events;
        run_quietly(loop, 2);
        const uint64_t turns = stats_of(loop).turns;
        run_quietly(loop, 30);
        CHECK_INT(stats_of(loop).turns - turns, <, 50);
        CHECK_INT(poll.events, ==, before);
        CHECK(poll.in_flight);
        /* There the pair is one of TCP: that the peer has closed is an end, not a hang-up. */
        if (test_backend_is("iocp")) {
            raw_reset(ends[1]);
        } else {
            raw_close(ends[1]);
        }
        RUN_UNTIL(loop, poll.events > before || !poll.in_flight);
        CHECK_INT(poll.result, ==, PIER_HANGUP);
        if (poll.in_flight) {
            cancel_and_wait(&poll);
        }
        raw_close(ends[0]);
    }
}

static void not_in_flight(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0}, timer = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    tracked_poll_change(&poll, PIER_WRITABLE);
    tracked_poll(loop, &poll, ends[0], PIER_READABLE, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_cancel(&poll);
    tracked_poll_change(&poll, PIER_WRITABLE); /* its cancel is on its way */
    CHECK_INT(wait_for(&poll), ==, PIER_ECANCELED);
    tracked_poll_change(&poll, PIER_WRITABLE);
    CHECK(!pier_op_pending(&poll.op));
    tracked_poll(loop, &poll, ends[0], PIER_READABLE, NULL);
    run_quietly(loop, 2);
    CHECK(poll.in_flight);
    cancel_and_wait(&poll);
    tracked_timer(loop, &timer, 0, NULL);
    tracked_poll_change(&timer, PIER_WRITABLE);
    CHECK_INT(wait_for(&timer), ==, 0);
    close_both(ends);
}

static void keeps_its_time_limit(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    poll.op.timeout_ns = 20 * PIER_MILLISECOND;
    const uint64_t begin = pier_loop_now(loop);
    tracked_poll(loop, &poll, ends[0], PIER_READABLE, NULL);
    test_wait_begin(__FILE__, __LINE__, "the time limit");
    while (poll.in_flight) { /* a change that began it anew would never let it end */
        tracked_poll_change(&poll, PIER_PRIORITY);
        run(loop, PIER_RUN_NO_WAIT);
        tracked_poll_change(&poll, 0);
        run(loop, PIER_RUN_NO_WAIT);
    }
    test_wait_end();
    CHECK_INT(poll.result, ==, PIER_ETIMEDOUT);
    CHECK_INT(pier_loop_now(loop) - begin, >=, 20 * PIER_MILLISECOND);
    close_both(ends);
}

/* The owner may close the descriptor once the cancel has returned, also right after a change. */
static void changed_cancelled_and_closed(void)
{
    if (lacks_poll()) {
        return;
    }
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 60; i++) {
        struct tracked old = {0}, fresh = {0};
        pier_descriptor ends[2], others[2];
        raw_pair(ends);
        if (i % 2 == 0) {
            tracked_poll(loop, &old, ends[0], PIER_READABLE, NULL);
        } else {
            tracked_poll_each(loop, &old, ends[0], PIER_READABLE, NULL);
        }
        for (int turn = 0; turn < i / 2 % 3; turn++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_poll_change(&old, PIER_WRITABLE);
        if (i / 6 % 2 == 1) {
            tracked_poll_change(&old, PIER_PRIORITY);
            run(loop, PIER_RUN_NO_WAIT);
            tracked_poll_change(&old, PIER_READABLE);
        }
        tracked_cancel(&old);
        close_both(ends);
        raw_pair(others);
        tracked_poll(loop, &fresh, others[0], PIER_READABLE, NULL);
        CHECK_INT(wait_for(&old), ==, PIER_ECANCELED);
        run(loop, PIER_RUN_NO_WAIT);
        run(loop, PIER_RUN_NO_WAIT);
        CHECK(fresh.in_flight);
        raw_send(others[1], "x", 1);
        CHECK_INT(wait_for(&fresh), ==, PIER_READABLE);
        close_both(others);
    }
}

enum { POLLS = 12 };

/* Any changes, pauses and turns: what counts in the end is what was asked for last. With a queue of
 * one entry as well, which is full most of the time. */
static void any_changes(void)
{
    if (lacks_poll()) {
        return;
    }
    uint64_t state = 1;
    for (uint32_t queue_size = 1; queue_size <= 64; queue_size *= 8) {
        struct pier_loop_options options = test_options();
        options.queue_size = queue_size;
        struct pier_loop *loop = test_loop_with(&options);
        struct tracked polls[POLLS] = {0};
        pier_descriptor ends[POLLS][2];
        for (int i = 0; i < POLLS; i++) {
            raw_pair(ends[i]);
            tracked_poll_each(loop, &polls[i], ends[i][0], PIER_READABLE, NULL);
        }
        for (int step = 0; step < 600; step++) {
            struct tracked *poll = &polls[random_below(&state, POLLS)];
            switch (random_below(&state, 8)) {
            case 0: run(loop, PIER_RUN_NO_WAIT); break;
            case 1: tracked_pause(poll); break;
            case 2: tracked_resume(poll); break;
            default: tracked_poll_change(poll, random_below(&state, 8)); break;
            }
        }
        unsigned before[POLLS];
        for (int i = 0; i < POLLS; i++) {
            tracked_poll_change(&polls[i], i % 2 == 0 ? PIER_READABLE : PIER_WRITABLE);
            tracked_resume(&polls[i]);
            before[i] = polls[i].events;
        }
        for (int i = 1; i < POLLS; i += 2) {
            RUN_UNTIL(loop, polls[i].events > before[i] + 1);
        }
        for (int i = 0; i < POLLS; i += 2) {
            CHECK_INT(polls[i].events, ==, before[i]);
            raw_send(ends[i][1], "x", 1);
            RUN_UNTIL(loop, polls[i].events > before[i]);
        }
        for (int i = 0; i < POLLS; i++) {
            tracked_cancel(&polls[i]);
        }
        for (int i = 0; i < POLLS; i++) {
            CHECK_INT(wait_for(&polls[i]), ==, PIER_ECANCELED);
            close_both(ends[i]);
        }
        test_loop_free(loop);
    }
}

static struct pier_loop *the_loop;
static struct pier_op the_op;

static void do_nothing(struct pier_op *op)
{
    (void)op;
}

static void change_to_unknown_event(void)
{
    const struct pier_loop_options options = test_options();
    pier_descriptor ends[2];
    CHECK_OK(pier_loop_new(&the_loop, &options));
    raw_pair(ends);
    pier_poll(the_loop, &the_op, ends[0], PIER_READABLE, do_nothing);
    pier_poll_change(&the_op, PIER_READABLE | 64);
}

static void unknown_event_is_misuse(void)
{
    if (lacks_poll()) {
        return;
    }
    CHECK_ABORTS(change_to_unknown_event, "pier_poll_change", "events");
}

/* What isn't watched for reading neither spins when the peer has ended its half, nor misses that it
 * has hung up. */
static void nothing_to_read_for(void)
{
    static const unsigned events[] = {0, PIER_HANGUP, PIER_PRIORITY, PIER_WRITABLE};
    static unsigned char bytes[4096];
    if (lacks_poll()) {
        return;
    }
    if (test_backend_is("iocp")) {
        test_skip("Wine's driver tells of a peer's end unasked, each time");
        return;
    }
    struct pier_loop *loop = test_loop();
    for (size_t i = 0; i < COUNT_OF(events); i++) {
        struct tracked each = {0}, paused = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        raw_set_nonblocking(ends[0], true);
        while (raw_send_now(ends[0], bytes, sizeof(bytes)) > 0) {}
        while (raw_send_now(ends[0], bytes, 1) > 0) {}
        tracked_poll_each(loop, &each, ends[0], PIER_READABLE, NULL);
        tracked_poll_each(loop, &paused, ends[0], PIER_READABLE, NULL);
        tracked_poll_change(&each, events[i]);
        tracked_pause(&paused);
        run_quietly(loop, 5);
        raw_shutdown(ends[1]);
        run_quietly(loop, 5);
        const uint64_t turns = stats_of(loop).turns;
        run_quietly(loop, 100);
        CHECK_INT(stats_of(loop).turns - turns, <, 50);
        CHECK_INT(each.events, ==, 0);
        raw_close(ends[1]);
        RUN_UNTIL(loop, each.events > 0);
        CHECK(each.result & (PIER_HANGUP | PIER_WRITABLE));
        tracked_cancel(&each);
        CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
        tracked_cancel(&paused);
        CHECK_INT(wait_for(&paused), ==, PIER_ECANCELED);
        raw_close(ends[0]);
    }
}

const struct test poll_change_tests[] = {
    TEST(poll_change, one_shot),
    TEST(poll_change, each),
    TEST(poll_change, inside_its_own_callback),
    TEST(poll_change, gathered_events_are_dropped),
    TEST(poll_change, one_of_several),
    TEST(poll_change, while_paused),
    TEST(poll_change, to_nothing),
    TEST(poll_change, not_in_flight),
    TEST(poll_change, keeps_its_time_limit),
    TEST(poll_change, changed_cancelled_and_closed),
    TEST(poll_change, any_changes),
    TEST(poll_change, unknown_event_is_misuse),
    TEST(poll_change, nothing_to_read_for),
    TEST_END,
};
