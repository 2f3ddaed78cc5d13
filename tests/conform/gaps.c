/* gaps.c - a silent send that ends without all its bytes is the end of sending on its handle: what
 * waits behind it and what comes later ends with the same error, so that no stream has a gap that
 * no completion tells of. */

#include "suite.h"

static unsigned char big[4 << 20];

/* All later sends of the handle, of each sort, end with the error, and a shutdown too. */
static void check_broken(struct tracked_handle *handle, int64_t error)
{
    struct tracked send = {0}, vectored = {0}, empty = {0}, shut = {0};
    struct pier_op silent = {0};
    const struct pier_vector piece = {"x", 1};
    for (int i = 0; i < 2; i++) {
        tracked_send(handle, &send, "x", 1, NULL);
        tracked_send_vectored(handle, &vectored, &piece, 1, NULL);
        tracked_send(handle, &empty, NULL, 0, NULL);
        tracked_shutdown(handle, &shut, NULL);
        pier_send(&handle->handle, &silent, "x", 1, NULL);
        CHECK_INT(wait_for(&send), ==, error);
        CHECK_INT(wait_for(&vectored), ==, error);
        CHECK_INT(wait_for(&empty), ==, error);
        CHECK_INT(wait_for(&shut), ==, error);
        RUN_UNTIL(handle->loop, !pier_op_pending(&silent));
        CHECK_INT(silent.result, ==, error);
        CHECK_INT(send.done + silent.done, ==, 0);
    }
}

static void check_receives(struct tracked_handle *handle, pier_descriptor peer)
{
    struct tracked receive = {0};
    char byte = 0;
    raw_send(peer, "r", 1);
    tracked_receive(handle, &receive, &byte, 1, NULL);
    CHECK_INT(wait_for(&receive), ==, 1);
    CHECK_INT(byte, ==, 'r');
}

/* The peer gets what had been sent and nothing more. */
static void close_and_count(struct tracked_handle *handle, pier_descriptor peer, uint64_t sent)
{
    close_and_wait(handle);
    const uint64_t rest = raw_receive_rest(peer);
    if (test_backend_is("iocp")) {
        CHECK_INT(rest, >=, sent);
    } else {
        CHECK_INT(rest, ==, sent);
    }
    raw_close(peer);
}

static void time_out_half_way(void)
{
    struct pier_loop *loop = test_loop();
    for (int progress = 0; progress < 2; progress++) {
        struct tracked_handle a = {0};
        struct pier_op silent = {0};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
        silent.timeout_ns = 20 * PIER_MILLISECOND;
        silent.flags = progress != 0 ? PIER_PROGRESS : 0;
        pier_send(&a.handle, &silent, big, sizeof(big), NULL);
        RUN_UNTIL(loop, !pier_op_pending(&silent));
        CHECK_INT(silent.result, ==, PIER_ETIMEDOUT);
        CHECK_INT(silent.done, >, 0);
        check_broken(&a, PIER_ETIMEDOUT);
        check_receives(&a, peer);
        close_and_count(&a, peer, silent.done);
    }
}

static void cancel_half_way(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked behind = {0}, shut = {0};
    struct pier_op silent = {0}, second = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pier_send(&a.handle, &silent, big, sizeof(big), NULL);
    pier_send(&a.handle, &second, big, 10, NULL);
    tracked_send(&a, &behind, big, 10, NULL);
    tracked_shutdown(&a, &shut, NULL);
    run_quietly(loop, 5);
    pier_cancel(&silent);
    RUN_UNTIL(loop, !pier_op_pending(&silent));
    CHECK_INT(silent.result, ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&behind), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&shut), ==, PIER_ECANCELED);
    CHECK(!pier_op_pending(&second));
    CHECK_INT(second.result, ==, PIER_ECANCELED);
    CHECK_INT(behind.done + second.done, ==, 0);
    check_broken(&a, PIER_ECANCELED);
    check_receives(&a, peer);
    close_and_count(&a, peer, silent.done);
}

/* One in the middle of the queue: what is before it goes out, what is behind it doesn't. */
static void cancel_in_the_queue(void)
{
    struct pier_loop *loop = test_loop();
    for (int merged = 0; merged < 2; merged++) {
        struct tracked_handle a = {0};
        struct tracked first = {0}, before = {0}, behind = {0};
        struct pier_op silent = {0}, other = {0};
        static unsigned char got[sizeof(big)];
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
        const size_t size = 1 << 20;
        tracked_send(&a, &first, big, size, NULL);
        tracked_send(&a, &before, big, 10, NULL);
        pier_send(&a.handle, &silent, big, 10, NULL);
        pier_send(&a.handle, &other, big, 10, NULL);
        tracked_send(&a, &behind, big, 10, NULL);
        if (merged != 0) {
            /* The first is over, and the others may be in the kernel together. */
            run_quietly(loop, 2);
            raw_receive(peer, got, 1000);
            run_quietly(loop, 2);
        }
        pier_cancel(&silent);
        RUN_UNTIL(loop, !pier_op_pending(&silent));
        CHECK_INT(silent.result, ==, PIER_ECANCELED);
        CHECK_INT(wait_for(&behind), ==, PIER_ECANCELED);
        CHECK_INT(other.result, ==, PIER_ECANCELED);
        CHECK_INT(behind.done + silent.done + other.done, ==, 0);
        tracked_send(&a, &behind, big, 10, NULL);
        CHECK_INT(wait_for(&behind), ==, PIER_ECANCELED);
        CHECK(before.in_flight);
        const size_t left = size + 10 - (merged != 0 ? 1000 : 0);
        size_t received = 0;
        SPIN_UNTIL(loop, received == left,
                   const int64_t bytes = raw_receive_now(peer, got, sizeof(got));
                   received += bytes > 0 ? (size_t)bytes : 0);
        CHECK_INT(wait_for(&first), ==, size);
        CHECK_INT(wait_for(&before), ==, 10);
        check_broken(&a, PIER_ECANCELED);
        close_and_count(&a, peer, 0);
    }
}

/* The peer is gone: the first silent send that hears of it has the reason, and so have the later
 * ones. A receive shows the end, or the reset, as ever. */
static void peer_is_gone(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        struct tracked receive = {0};
        struct pier_op silent = {0};
        char byte;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        raw_close(peer);
        while (silent.result >= 0) {
            pier_send(&a.handle, &silent, "x", 1, NULL);
            RUN_UNTIL(loop, !pier_op_pending(&silent));
            run(loop, PIER_RUN_NO_WAIT);
        }
        CHECK(silent.result == PIER_EPIPE || silent.result == PIER_ECONNRESET);
        check_broken(&a, silent.result);
        tracked_receive(&a, &receive, &byte, 1, NULL);
        CHECK_INT(wait_for(&receive), <=, 0);
        check_broken(&a, silent.result);
        close_and_wait(&a);
    }
}

/* Sent before there is a stream: it's in none, so that has no gap. */
static void before_the_connection(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, listener = {0};
    struct tracked connect = {0};
    struct pier_op silent = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_open_socket(loop, &a, &address);
    pier_send(&a.handle, &silent, "x", 1, NULL);
    RUN_UNTIL(loop, !pier_op_pending(&silent));
    CHECK_INT(silent.result, ==, PIER_ENOTCONN);
    tracked_connect(&a, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    send_all(&a, "y", 1);
    close_and_wait(&a);
    close_and_wait(&listener);
}

/* Cancelled while it waits for the connection. */
static void behind_a_connect(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, listener = {0};
    struct tracked connect = {0}, behind = {0};
    struct pier_op silent = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_open_socket(loop, &a, &address);
    tracked_connect(&a, &connect, &address, NULL);
    pier_send(&a.handle, &silent, "x", 1, NULL);
    tracked_send(&a, &behind, "y", 1, NULL);
    const bool waited = pier_op_pending(&silent);
    pier_cancel(&silent);
    CHECK_INT(wait_for(&connect), ==, 0);
    if (waited && silent.result == PIER_ECANCELED) {
        CHECK_INT(wait_for(&behind), ==, PIER_ECANCELED);
        check_broken(&a, PIER_ECANCELED);
    } else {
        CHECK_INT(wait_for(&behind), ==, 1);
    }
    close_and_wait(&a);
    close_and_wait(&listener);
}

/* With a function somebody is told, and decides: here to send the rest. Nor does a silent send
 * break anything that got one in time, or that had nothing to send. */
static void told_is_no_gap(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    struct pier_op silent = {0};
    static unsigned char got[sizeof(big)];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    pier_send(&a.handle, &silent, NULL, 0, NULL);
    run_quietly(loop, 5);
    pier_cancel(&silent);
    RUN_UNTIL(loop, !pier_op_pending(&silent));
    tracked_cancel(&send);
    CHECK_INT(wait_for(&send), ==, PIER_ECANCELED);
    raw_receive(peer, got, (size_t)send.done);
    check_usable(&a, peer);
    close_and_wait(&a);
    raw_close(peer);
}

static void closes_all_the_same(void)
{
    struct pier_loop *loop = test_loop();
    for (int graceful = 0; graceful < 2; graceful++) {
        struct tracked_handle a = {0};
        struct pier_op silent = {0};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
        pier_send(&a.handle, &silent, big, sizeof(big), NULL);
        run_quietly(loop, 2);
        pier_cancel(&silent);
        RUN_UNTIL(loop, !pier_op_pending(&silent));
        if (graceful != 0) {
            tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
            RUN_UNTIL(loop, a.closes == 1);
        } else {
            close_and_wait(&a);
        }
        raw_close(peer);
    }
}

/* It's the connection that has the gap, whichever loop it belongs to. */
static void moves_with_the_handle(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct pier_op silent = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pier_send(&a.handle, &silent, big, sizeof(big), NULL);
    run_quietly(loop, 2);
    pier_cancel(&silent);
    RUN_UNTIL(loop, !pier_op_pending(&silent));
    CHECK_OK(pier_detach(&a.handle));
    CHECK_OK(pier_attach(&a.handle, loop));
    check_broken(&a, PIER_ECANCELED);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test gaps_tests[] = {
    TEST(gaps, time_out_half_way),     TEST(gaps, cancel_half_way),
    TEST(gaps, cancel_in_the_queue),   TEST(gaps, peer_is_gone),
    TEST(gaps, before_the_connection), TEST(gaps, behind_a_connect),
    TEST(gaps, told_is_no_gap),        TEST(gaps, closes_all_the_same),
    TEST(gaps, moves_with_the_handle), TEST_END,
};
