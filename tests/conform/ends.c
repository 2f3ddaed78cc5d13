/* ends.c - how streams end: half-closes both ways, resets, peers that are gone, and what still
 * works after each. */

#include "suite.h"

static unsigned char big[4 << 20];

static void peer_ends(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0}, lent = {0};
    char got[6];
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &a);
    raw_send(peer, "before", 6);
    raw_shutdown(peer);
    receive_all(&a, got, 6);
    CHECK_BYTES(got, "before", 6);
    /* The end stays the end, for each kind of receive. */
    receive_end(&a);
    receive_end(&a);
    tracked_receive_lent(&a, &lent, NULL);
    CHECK_INT(wait_for(&lent), ==, 0);
    CHECK((lent.flags & PIER_EOF) != 0);
    tracked_receive_each(&a, &each, NULL);
    CHECK_INT(wait_for(&each), ==, 0);
    CHECK((each.flags & PIER_EOF) != 0);
    CHECK_INT(each.events, ==, 0);
    /* The other direction is untouched. */
    send_all(&a, "after", 5);
    raw_receive(peer, got, 5);
    CHECK_BYTES(got, "after", 5);
    close_and_wait(&a);
    raw_receive_end(peer);
    raw_close(peer);
}

static void peer_ends_tcp(void)
{
    peer_ends(STREAM_TCP4);
}

static void peer_ends_unix(void)
{
    peer_ends(STREAM_UNIX);
}

static void peer_ends_pair(void)
{
    peer_ends(STREAM_PAIR);
}

static void we_end(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked shutdown = {0}, send = {0};
    char got[5];
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &a);
    tracked_shutdown(&a, &shutdown, NULL);
    CHECK_INT(wait_for(&shutdown), ==, 0);
    raw_receive_end(peer);
    tracked_send(&a, &send, "x", 1, NULL);
    CHECK_INT(wait_for(&send), ==, PIER_EPIPE);
    raw_send(peer, "still", 5);
    receive_all(&a, got, 5);
    CHECK_BYTES(got, "still", 5);
    raw_shutdown(peer);
    receive_end(&a);
    close_and_wait(&a);
    raw_close(peer);
}

static void we_end_tcp(void)
{
    we_end(STREAM_TCP4);
}

static void we_end_unix(void)
{
    we_end(STREAM_UNIX);
}

struct gather {
    struct tracked_handle handle;
    struct tracked each;
    uint64_t received;
};

static void gather_bytes(struct tracked *tracked)
{
    struct gather *gather = PIER_OWNER(tracked, struct gather, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_PATTERN(tracked->op.data, tracked->op.size, 31, gather->received);
        gather->received += tracked->op.size;
    }
}

static void send_and_end(void *context)
{
    const pier_descriptor *peer = context;
    raw_send(*peer, big, sizeof(big));
    raw_shutdown(*peer);
}

/* Data and the end of the stream arrive together: first all the data, then the end. */
static void data_comes_before_the_end(void)
{
    struct pier_loop *loop = test_loop();
    pattern_fill(big, sizeof(big), 31, 0);
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct gather gather = {0};
        struct platform_thread thread;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &gather.handle);
        platform_thread_start(&thread, send_and_end, &peer);
        tracked_receive_each(&gather.handle, &gather.each, gather_bytes);
        CHECK_INT(wait_for(&gather.each), ==, 0);
        CHECK_INT(gather.received, ==, sizeof(big));
        platform_thread_join(&thread);
        close_and_wait(&gather.handle);
        raw_close(peer);
    }
}

/* The peer ends its direction while we still have much to send to it. */
static void half_close_under_a_long_send(void)
{
    struct pier_loop *loop = test_loop();
    static unsigned char got[sizeof(big)];
    pattern_fill(big, sizeof(big), 32, 0);
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        struct tracked send = {0}, each = {0};
        size_t read = 0;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        tracked_send(&a, &send, big, sizeof(big), NULL);
        tracked_receive_each(&a, &each, NULL);
        run_quietly(loop, 5);
        raw_shutdown(peer);
        CHECK_INT(wait_for(&each), ==, 0);
        SPIN_UNTIL(loop, read == sizeof(got), {
            const int64_t now = raw_receive_now(peer, got + read, sizeof(got) - read);
            CHECK(now > 0 || now == RAW_AGAIN);
            read += now > 0 ? (size_t)now : 0;
        });
        CHECK_PATTERN(got, sizeof(got), 32, 0);
        CHECK_INT(wait_for(&send), ==, sizeof(big));
        close_and_wait(&a);
        raw_close(peer);
    }
}

/* A half-closed peer and nothing to do must not make the loop spin: no HUP, no RDHUP over and
 * over. */
static void half_closed_and_idle_does_not_spin(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        struct tracked each = {0};
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        tracked_receive_each(&a, &each, NULL);
        run_quietly(loop, 5);
        raw_shutdown(peer);
        CHECK_INT(wait_for(&each), ==, 0);
        const uint64_t before = stats_of(loop).turns;
        run_quietly(loop, 60);
        CHECK_INT(stats_of(loop).turns - before, <, 50);
        raw_close(peer);
        const uint64_t after_close = stats_of(loop).turns;
        run_quietly(loop, 60);
        CHECK_INT(stats_of(loop).turns - after_close, <, 50);
        close_and_wait(&a);
    }
}

static void close_at_the_end(struct tracked *tracked)
{
    tracked_close(tracked->owner, NULL);
}

/* The peer doesn't read, and ends its half: what is done about the send in the completion that
 * says so ends it. */
static void stuck_send_and_the_peers_end(void)
{
    struct pier_loop *loop = test_loop();
    static unsigned char plenty[8 << 20];
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        struct tracked receive = {0}, send = {0}, behind = {0};
        char byte;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        tracked_send(&a, &send, plenty, sizeof(plenty), NULL);
        tracked_send(&a, &behind, plenty, 100, NULL);
        tracked_receive(&a, &receive, &byte, 1, close_at_the_end);
        run_quietly(loop, 20);
        if (!send.in_flight) { /* the system took all: it promises no limit */
            close_and_wait(&a);
            raw_close(peer);
            continue;
        }
        raw_shutdown(peer);
        RUN_UNTIL(loop, a.closes == 1);
        CHECK_INT(send.result, ==, PIER_ECLOSED);
        CHECK_INT(behind.result, ==, PIER_ECLOSED);
        raw_close(peer);
    }
}

static void reset_ends_everything(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, send = {0}, queued = {0}, late = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 16384));
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    tracked_send(&a, &queued, big, sizeof(big), NULL);
    run_quietly(loop, 5);
    raw_reset(peer);
    /* The system reports the reset once (and io_uring drops it if some of that send went); the
     * others learn that it is over. */
    CHECK_INT(wait_for(&receive), <=, 0);
    CHECK_INT(wait_for(&send), <, 0);
    CHECK_INT(wait_for(&queued), <, 0);
    CHECK(send.result == PIER_ECONNRESET || send.result == PIER_EPIPE);
    CHECK(queued.result == PIER_ECONNRESET || queued.result == PIER_EPIPE);
    CHECK(receive.result == PIER_ECONNRESET || receive.result == 0);
    CHECK(receive.result != PIER_ECONNRESET || receive.os_error != 0);
    CHECK(send.os_error != 0);
    CHECK_INT(queued.done, ==, 0);
    tracked_send(&a, &late, "x", 1, NULL);
    /* Windows says so each time. */
    CHECK_INT(wait_for(&late), ==, test_backend_is("iocp") ? PIER_ECONNRESET : PIER_EPIPE);
    close_and_wait(&a);
}

static void reset_ends_multishot_receive(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive_each(&a, &each, NULL);
    run_quietly(loop, 5);
    raw_reset(peer);
    CHECK_INT(wait_for(&each), ==, PIER_ECONNRESET);
    CHECK(each.os_error != 0);
    close_and_wait(&a);
}

/* Without SIGPIPE: its default action would end the test. */
static void sending_to_nobody(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        struct tracked send = {0};
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        raw_close(peer);
        for (int i = 0; i < 3; i++) {
            tracked_send(&a, &send, "x", 1, NULL);
            wait_for(&send);
            run_quietly(loop, 2);
        }
        CHECK(send.result == PIER_EPIPE || send.result == PIER_ECONNRESET);
        close_and_wait(&a);
    }
}

static void pipe_without_reader(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked send = {0}, stuck = {0};
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    tracked_send(&writer, &stuck, big, sizeof(big), NULL);
    run_quietly(loop, 5);
    CHECK(stuck.in_flight);
    close_and_wait(&reader);
    CHECK_INT(wait_for(&stuck), ==, PIER_EPIPE);
    CHECK_INT(stuck.done, >, 0);
    tracked_send(&writer, &send, "x", 1, NULL);
    CHECK_INT(wait_for(&send), ==, PIER_EPIPE);
    close_and_wait(&writer);
}

static void pipe_without_writer(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked each = {0};
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    tracked_receive_each(&reader, &each, NULL);
    send_all(&writer, "last", 4);
    close_and_wait(&writer);
    CHECK_INT(wait_for(&each), ==, 0);
    CHECK_INT(each.done, ==, 4);
    receive_end(&reader);
    close_and_wait(&reader);
}

static void shutdown_where_there_is_none(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0}, socket = {0};
    struct tracked shutdown = {0};
    const struct pier_address address = address_of("127.0.0.1:9");
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    tracked_shutdown(&writer, &shutdown, NULL);
    CHECK_INT(wait_for(&shutdown), ==, PIER_ENOTSUP);
    send_all(&writer, "x", 1);
    tracked_open_socket(loop, &socket, &address);
    tracked_shutdown(&socket, &shutdown, NULL);
    CHECK_INT(wait_for(&shutdown), ==, PIER_ENOTCONN);
    close_and_wait(&socket);
    close_and_wait(&reader);
    close_and_wait(&writer);
}

static void reset_with_data_unread(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    char byte;
    raw_send(peer, "unread", 6);
    close_and_wait(&a);
    while (!platform_wait_readable(peer, PIER_SECOND)) {}
    const int64_t seen = raw_receive_now(peer, &byte, 1);
    CHECK(seen == 0 || seen == RAW_RESET);
    raw_close(peer);
}

const struct test ends_tests[] = {
    TEST(ends, peer_ends_tcp),
    TEST(ends, peer_ends_unix),
    TEST(ends, peer_ends_pair),
    TEST(ends, we_end_tcp),
    TEST(ends, we_end_unix),
    TEST(ends, data_comes_before_the_end),
    TEST(ends, half_close_under_a_long_send),
    TEST(ends, half_closed_and_idle_does_not_spin),
    TEST(ends, stuck_send_and_the_peers_end),
    TEST(ends, reset_ends_everything),
    TEST(ends, reset_ends_multishot_receive),
    TEST(ends, sending_to_nobody),
    TEST(ends, pipe_without_reader),
    TEST(ends, pipe_without_writer),
    TEST(ends, shutdown_where_there_is_none),
    TEST(ends, reset_with_data_unread),
    TEST_END,
};
