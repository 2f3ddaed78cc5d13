/* elsewhere.c - a socket that somebody else holds too, by a copy of its descriptor: once its handle
 * is closed, what arrives there is no business of the loop's. */

#include "suite.h"

enum { QUIET_MS = 100, TURNS_MAX = 60 };

static void send_and_watch(struct pier_loop *loop, const pier_descriptor *peers, size_t count)
{
    for (int round = 0; round < 3; round++) {
        run_quietly(loop, 2);
    }
    for (size_t i = 0; i < count; i++) {
        raw_send(peers[i], "to whom?", 8);
    }
    const struct pier_loop_counters before = stats_of(loop);
    run_quietly(loop, QUIET_MS);
    const struct pier_loop_counters after = stats_of(loop);
    CHECK_INT(after.turns - before.turns, <, TURNS_MAX);
    CHECK_INT(after.stale_events - before.stale_events, <, TURNS_MAX);
}

/* Watched for data, or for room as well, by ops in flight at the close or gone before. */
static void closed_with_a_copy(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    static char big[4 << 20];
    struct tracked_handle a[6] = {0};
    struct tracked receives[6] = {0}, sends[6] = {0};
    pier_descriptor peers[6], copies[6];
    for (unsigned i = 0; i < 6; i++) {
        peers[i] = tracked_raw_pair(loop, stream, &a[i]);
        if (i % 2 == 0) {
            tracked_receive_each(&a[i], &receives[i], NULL);
        } else {
            tracked_receive_lent(&a[i], &receives[i], NULL);
        }
        if (i / 2 == 1) {
            tracked_send(&a[i], &sends[i], big, sizeof(big), NULL);
        }
        run_quietly(loop, 1);
        if (i / 2 == 2) {
            tracked_cancel(&receives[i]);
            CHECK_INT(wait_for(&receives[i]), ==, PIER_ECANCELED);
        }
        copies[i] = raw_duplicate(pier_handle_descriptor(&a[i].handle));
    }
    for (unsigned i = 0; i < 6; i++) {
        close_and_wait(&a[i]);
    }
    send_and_watch(loop, peers, 6);
    for (unsigned i = 0; i < 6; i++) {
        char got[8];
        raw_receive(copies[i], got, 8); /* it's the copy's */
        CHECK_BYTES(got, "to whom?", 8);
        raw_close(copies[i]);
        raw_close(peers[i]);
    }
    run_quietly(loop, 2);
}

static void closed_with_a_copy_tcp(void)
{
    closed_with_a_copy(STREAM_TCP4);
}

static void closed_with_a_copy_pair(void)
{
    closed_with_a_copy(STREAM_PAIR);
}

/* A copy of a listener: who connects there isn't the loop's guest. */
static void closed_listener_with_a_copy(void)
{
    struct pier_loop *loop = test_loop();
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        const struct pier_listen_options options = {.exclusive = exclusive == 1};
        struct tracked_handle listener = {0};
        struct tracked each = {0};
        const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, &options);
        tracked_accept_each(&listener, &each, NULL);
        run_quietly(loop, 2);
        const pier_descriptor copy = raw_duplicate(pier_handle_descriptor(&listener.handle));
        close_and_wait(&listener);
        run_quietly(loop, 2);
        const pier_descriptor client = raw_connect(&address);
        const uint64_t turns = stats_of(loop).turns;
        run_quietly(loop, QUIET_MS);
        CHECK_INT(stats_of(loop).turns - turns, <, TURNS_MAX);
        CHECK_INT(each.events, ==, 0);
        raw_close(client);
        raw_close(copy);
    }
}

/* The same after pier_detach(), whose handle lives on: nothing is watched for it. */
static void detached_and_readable(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked lent = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive_lent(&a, &lent, NULL);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&lent), ==, 1);
    CHECK_OK(pier_detach(&a.handle));
    send_and_watch(loop, &peer, 1);
    pier_handle_discard(&a.handle);
    raw_close(peer);
}

/* A copy given to the loop while the first handle is closed works on, and only it is told. */
static void copy_becomes_a_handle(void)
{
    if (test_backend_is("iocp")) {
        test_skip("this system can't take a handle off its completion port");
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked first = {0}, second = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_receive_each(&a, &first, NULL);
    run_quietly(loop, 1);
    CHECK_OK(tracked_adopt(loop, &b, raw_duplicate(pier_handle_descriptor(&a.handle))));
    close_and_wait(&a);
    tracked_receive_each(&b, &second, NULL);
    run_quietly(loop, 1);
    raw_send(peer, "second", 6);
    RUN_UNTIL(loop, second.done == 6);
    const uint64_t turns = stats_of(loop).turns;
    run_quietly(loop, QUIET_MS);
    CHECK_INT(stats_of(loop).turns - turns, <, TURNS_MAX);
    CHECK_INT(first.events, ==, 0);
    close_and_wait(&b);
    raw_close(peer);
}

const struct test elsewhere_tests[] = {
    TEST(elsewhere, closed_with_a_copy_tcp),      TEST(elsewhere, closed_with_a_copy_pair),
    TEST(elsewhere, closed_listener_with_a_copy), TEST(elsewhere, detached_and_readable),
    TEST(elsewhere, copy_becomes_a_handle),       TEST_END,
};
