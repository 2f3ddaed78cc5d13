/* graceful.c - pier_close_gracefully(): queued sends first, then the end of the stream both
 * ways, within a time. */

#include "suite.h"

static unsigned char big[4 << 20];

static void finishes_queued_sends(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[8] = {0};
    static unsigned char got[sizeof(big)];
    const size_t each = sizeof(big) / COUNT_OF(sends);
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &a);
    pattern_fill(big, sizeof(big), 4, 0);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        tracked_send(&a, &sends[i], big + i * each, each, NULL);
    }
    tracked_close_gracefully(&a, 50 * PIER_SECOND, NULL);
    size_t read = 0;
    bool ended = false;
    SPIN_UNTIL(loop, ended, {
        char extra;
        const bool full = read == sizeof(got);
        const int64_t now = raw_receive_now(peer, full ? (void *)&extra : got + read,
                                            full ? 1 : sizeof(got) - read);
        CHECK(now > 0 || now == RAW_AGAIN || now == 0);
        read += now > 0 ? (size_t)now : 0;
        ended = now == 0;
    });
    CHECK_INT(read, ==, sizeof(got));
    CHECK_PATTERN(got, sizeof(got), 4, 0);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        CHECK_INT(sends[i].result, ==, each);
    }
    run_quietly(loop, 20);
    CHECK_INT(a.closes, ==, 0);
    raw_close(peer);
    RUN_UNTIL(loop, a.closes == 1);
}

static void finishes_queued_sends_tcp(void)
{
    finishes_queued_sends(STREAM_TCP4);
}

static void finishes_queued_sends_unix(void)
{
    finishes_queued_sends(STREAM_UNIX);
}

static void flood_then_close(void *context)
{
    const pier_descriptor *peer = context;
    raw_send(*peer, big, sizeof(big));
    raw_close(*peer);
}

/* Closing with data unread would make TCP send a reset, which can destroy what the peer hasn't
 * read yet. */
static void discards_what_the_peer_still_sends(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct platform_thread thread;
    pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    char got[5];
    send_all(&a, "hello", 5);
    tracked_close_gracefully(&a, 50 * PIER_SECOND, NULL);
    run_quietly(loop, 5);
    raw_receive(peer, got, 5);
    CHECK_BYTES(got, "hello", 5);
    raw_receive_end(peer);
    platform_thread_start(&thread, flood_then_close, &peer);
    RUN_UNTIL(loop, a.closes == 1);
    platform_thread_join(&thread);
}

static void receives_end_at_once(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0}, queued = {0}, late = {0}, late_send = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive_each(&a, &each, NULL);
    tracked_receive(&a, &queued, &byte, 1, NULL);
    run_quietly(loop, 5);
    tracked_close_gracefully(&a, 50 * PIER_SECOND, NULL);
    CHECK(!pier_handle_is_open(&a.handle));
    tracked_receive(&a, &late, &byte, 1, NULL);
    tracked_send(&a, &late_send, "x", 1, NULL);
    CHECK_INT(wait_for(&each), ==, PIER_ECLOSED);
    CHECK_INT(wait_for(&queued), ==, PIER_ECLOSED);
    CHECK_INT(wait_for(&late), ==, PIER_ECLOSED);
    CHECK_INT(wait_for(&late_send), ==, PIER_ECLOSED);
    CHECK_INT(a.closes, ==, 0);
    raw_send(peer, "discarded", 9);
    run_quietly(loop, 5);
    CHECK_INT(a.closes, ==, 0);
    raw_receive_end(peer);
    raw_close(peer);
    RUN_UNTIL(loop, a.closes == 1);
}

static void gives_up_after_its_time(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const uint64_t started = pier_loop_now(loop);
    tracked_close_gracefully(&a, 40 * PIER_MILLISECOND, NULL);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(pier_loop_now(loop) - started, >=, 40 * PIER_MILLISECOND);
    raw_close(peer);
}

static void gives_up_with_unsent_data(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0}, queued = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pattern_fill(big, sizeof(big), 6, 0);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    tracked_send(&a, &queued, big, sizeof(big), NULL);
    tracked_close_gracefully(&a, 40 * PIER_MILLISECOND, NULL);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(send.result, <, 0);
    CHECK_INT(send.done, >, 0);
    CHECK_INT(queued.result, <, 0);
    CHECK_INT(queued.done, ==, 0);
    static unsigned char got[sizeof(big)];
    raw_receive(peer, got, (size_t)send.done);
    CHECK_PATTERN(got, (size_t)send.done, 6, 0);
    raw_receive_end(peer);
    raw_close(peer);
}

static void peer_that_resets(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_close_gracefully(&a, 50 * PIER_SECOND, NULL);
    run_quietly(loop, 5);
    raw_reset(peer);
    RUN_UNTIL(loop, a.closes == 1);
}

static void peer_that_has_ended_already(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked receive = {0};
    char got[4];
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    /* Both sides at the same time, one with data unread. */
    send_all(&a, "data", 4);
    tracked_receive(&b, &receive, got, 1, NULL);
    CHECK_INT(wait_for(&receive), ==, 1);
    tracked_close_gracefully(&a, 50 * PIER_SECOND, NULL);
    tracked_close_gracefully(&b, 50 * PIER_SECOND, NULL);
    RUN_UNTIL(loop, a.closes == 1 && b.closes == 1);
}

static void end_gracefully(struct tracked *tracked)
{
    if (!tracked->owner->closing && (tracked->flags & PIER_MORE) != 0) {
        tracked_close_gracefully(tracked->owner, 50 * PIER_SECOND, NULL);
    }
}

static void inside_a_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0}, send = {0};
    char got[3];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive_each(&a, &each, end_gracefully);
    tracked_send(&a, &send, "end", 3, NULL);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&each), ==, PIER_ECLOSED);
    raw_receive(peer, got, 3);
    SPIN_UNTIL(loop, raw_available(peer) == 0 && platform_wait_readable(peer, 0), {});
    raw_receive_end(peer);
    raw_close(peer);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(send.result, ==, 3);
}

/* A pipe has no half-close: its sends are finished, then it is closed. */
static void writing_end_of_a_pipe(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked send = {0};
    static unsigned char got[300000];
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    pattern_fill(big, sizeof(got), 8, 0);
    tracked_send(&writer, &send, big, sizeof(got), NULL);
    tracked_close_gracefully(&writer, 50 * PIER_SECOND, NULL);
    receive_all(&reader, got, sizeof(got));
    CHECK_PATTERN(got, sizeof(got), 8, 0);
    receive_end(&reader);
    RUN_UNTIL(loop, writer.closes == 1);
    CHECK_INT(send.result, ==, sizeof(got));
    close_and_wait(&reader);
}

static void of_a_listener_and_an_unconnected_socket(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, socket = {0};
    struct tracked each = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_open_socket(loop, &socket, &address);
    tracked_accept_each(&listener, &each, NULL);
    run_quietly(loop, 5);
    tracked_close_gracefully(&listener, 50 * PIER_SECOND, NULL);
    tracked_close_gracefully(&socket, 50 * PIER_SECOND, NULL);
    RUN_UNTIL(loop, listener.closes == 1 && socket.closes == 1);
    CHECK_INT(each.result, ==, PIER_ECLOSED);
}

const struct test graceful_tests[] = {
    TEST(graceful, finishes_queued_sends_tcp),
    TEST(graceful, finishes_queued_sends_unix),
    TEST(graceful, discards_what_the_peer_still_sends),
    TEST(graceful, receives_end_at_once),
    TEST(graceful, gives_up_after_its_time),
    TEST(graceful, gives_up_with_unsent_data),
    TEST(graceful, peer_that_resets),
    TEST(graceful, peer_that_has_ended_already),
    TEST(graceful, inside_a_callback),
    TEST(graceful, writing_end_of_a_pipe),
    TEST(graceful, of_a_listener_and_an_unconnected_socket),
    TEST_END,
};
