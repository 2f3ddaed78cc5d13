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

/* Right behind a connect that is still on its way: the sends go out when that is done. */
static void right_after_connect_and_send(void)
{
    struct pier_loop *loop = test_loop();
    /* There a Unix-domain address may be a pipe, which platform_wait_readable() can't ask. */
    const int last = test_backend_is("iocp") ? STREAM_TCP4 : STREAM_UNIX;
    for (int stream = STREAM_TCP4; stream <= last; stream++) {
        for (unsigned sends = 1; sends <= 3 && stream_available((enum stream)stream); sends++) {
            struct tracked_handle a = {0};
            struct tracked connect = {0}, send[3] = {0}, receive = {0};
            struct pier_address address = stream_address((enum stream)stream);
            char got[3], byte;
            const pier_descriptor listener = raw_listen(&address, 16);
            tracked_open_socket(loop, &a, &address);
            tracked_connect(&a, &connect, &address, NULL);
            tracked_receive(&a, &receive, &byte, 1, NULL);
            for (unsigned i = 0; i < sends; i++) {
                tracked_send(&a, &send[i], &"abc"[i], 1, NULL);
            }
            tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
            CHECK_INT(wait_for(&receive), ==, PIER_ECLOSED);
            CHECK_INT(wait_for(&send[sends - 1]), ==, 1);
            CHECK_INT(connect.result, ==, 0);
            const pier_descriptor peer = raw_accept(listener);
            raw_receive(peer, got, sends);
            CHECK_BYTES(got, "abc", sends);
            SPIN_UNTIL(loop, platform_wait_readable(peer, 0), {});
            raw_receive_end(peer);
            CHECK_INT(a.closes, ==, 0);
            raw_close(peer);
            RUN_UNTIL(loop, a.closes == 1);
            raw_close(listener);
            forget_address(&address);
        }
    }
}

/* Nobody can be connected to: it closes, and the sends say so. */
static void right_after_a_connect_that_fails(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked connect = {0}, send = {0};
    struct pier_address address;
    const pier_descriptor nobody = raw_refusing_address(&address);
    tracked_open_socket(loop, &a, &address);
    tracked_connect(&a, &connect, &address, NULL);
    tracked_send(&a, &send, "x", 1, NULL);
    tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(connect.result, ==, PIER_ECONNREFUSED);
    CHECK_INT(send.result, <, 0);
    raw_close(nobody);
}

/* An allocator that refuses when it's told to. */
struct stingy {
    pier_allocate_fn *allocate;
    void *context;
    bool refuses;
    unsigned refused;
};

static void *allocate_unless_stingy(void *context, void *memory, size_t old_size, size_t new_size)
{
    struct stingy *stingy = context;
    if (stingy->refuses && new_size > old_size) {
        stingy->refused++;
        return NULL;
    }
    return stingy->allocate(stingy->context, memory, old_size, new_size);
}

/* Without memory to wait for the peer, what was queued still goes out; then the handle closes,
 * though the peer hasn't ended. */
static void without_memory(void)
{
    struct pier_loop_options options = test_options();
    struct stingy stingy = {.allocate = options.allocate, .context = options.allocate_context};
    options.allocate = allocate_unless_stingy;
    options.allocate_context = &stingy;
    struct pier_loop *loop = test_loop_with(&options);
    static unsigned char got[sizeof(big)];
    pattern_fill(big, sizeof(big), 9, 0);
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        for (unsigned sends = 0; sends < 3; sends++) {
            struct tracked_handle a = {0};
            struct tracked send[2] = {0}, receive = {0};
            char byte;
            if (!stream_available((enum stream)stream)) {
                continue;
            }
            const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
            tracked_receive(&a, &receive, &byte, 1, NULL);
            for (unsigned i = 0; i < sends; i++) {
                tracked_send(&a, &send[i], big + i * 2000000, 2000000, NULL);
            }
            run(loop, PIER_RUN_NO_WAIT);
            const unsigned refused = stingy.refused;
            stingy.refuses = true;
            tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
            CHECK_INT(stingy.refused, >, refused);
            CHECK_INT(wait_for(&receive), ==, PIER_ECLOSED);
            size_t read = 0;
            SPIN_UNTIL(loop, read == sends * 2000000, {
                const int64_t now = raw_receive_now(peer, got + read, sends * 2000000 - read);
                CHECK(now > 0 || now == RAW_AGAIN);
                read += now > 0 ? (size_t)now : 0;
            });
            RUN_UNTIL(loop, a.closes == 1);
            CHECK_PATTERN(got, read, 9, 0);
            raw_receive_end(peer);
            for (unsigned i = 0; i < sends; i++) {
                CHECK_INT(send[i].result, ==, 2000000);
            }
            stingy.refuses = false;
            raw_close(peer);
        }
    }
    test_loop_free(loop); /* which needs the allocator */
}

/* A second close isn't kept waiting by the sends. */
static void without_memory_and_cut_short(void)
{
    struct pier_loop_options options = test_options();
    struct stingy stingy = {.allocate = options.allocate, .context = options.allocate_context};
    options.allocate = allocate_unless_stingy;
    options.allocate_context = &stingy;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked_handle a = {0};
    struct tracked send = {0}, queued = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    tracked_send(&a, &queued, big, sizeof(big), NULL);
    run(loop, PIER_RUN_NO_WAIT);
    stingy.refuses = true;
    tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
    run_quietly(loop, 5);
    CHECK_INT(a.closes, ==, 0);
    tracked_close(&a, NULL);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(send.result, ==, PIER_ECLOSED);
    CHECK_INT(queued.result, ==, PIER_ECLOSED);
    stingy.refuses = false;
    raw_close(peer);
    test_loop_free(loop);
}

/* As many graceful closes at once as there were before take no memory any more. */
static void many_allocate_once(void)
{
    struct pier_loop *loop = test_loop();
    enum { COUNT = 50 };
    uint64_t before = 0;
    for (int round = 0; round < 6; round++) {
        static struct tracked_handle a[COUNT], b[COUNT];
        const unsigned count = round < 2 ? COUNT : COUNT / (unsigned)round;
        if (round == 2) {
            before = test_allocations_made();
        }
        memset(a, 0, sizeof(a));
        memset(b, 0, sizeof(b));
        for (unsigned i = 0; i < count; i++) {
            tracked_pair(loop, STREAM_PAIR, &a[i], &b[i]);
        }
        for (unsigned i = 0; i < count; i++) {
            tracked_close_gracefully(&a[i], 3600 * PIER_SECOND, NULL);
        }
        run_quietly(loop, 2);
        for (unsigned i = 0; i < count; i++) {
            CHECK_INT(a[i].closes, ==, 0);
            tracked_close_gracefully(&b[i], 3600 * PIER_SECOND, NULL);
        }
        for (unsigned i = 0; i < count; i++) {
            RUN_UNTIL(loop, a[i].closes == 1 && b[i].closes == 1);
        }
    }
    CHECK_INT(test_allocations_made() - before, ==, 0);
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
    TEST(graceful, right_after_connect_and_send),
    TEST(graceful, right_after_a_connect_that_fails),
    TEST(graceful, without_memory),
    TEST(graceful, without_memory_and_cut_short),
    TEST(graceful, many_allocate_once),
    TEST_END,
};
