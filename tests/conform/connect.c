/* connect.c - connections that are refused, swallowed, cancelled, and the ops that wait behind
 * them. */

#include "suite.h"

static void refused(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0};
    struct pier_address address;
    const pier_descriptor holder = raw_refusing_address(&address);
    tracked_open_socket(loop, &client, &address);
    tracked_connect(&client, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, PIER_ECONNREFUSED);
    CHECK(connect.os_error != 0);
    close_and_wait(&client);
    raw_close(holder);
}

static void refused_by_a_path(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0};
    if (!stream_available(STREAM_UNIX)) {
        test_skip("no Unix-domain sockets here");
        return;
    }
    struct pier_address address = stream_address(STREAM_UNIX);
    tracked_open_socket(loop, &client, &address);
    tracked_connect(&client, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, PIER_ENOENT);
    close_and_wait(&client);
    raw_close(raw_listen(&address, 1));
    tracked_open_socket(loop, &client, &address);
    tracked_connect(&client, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==,
              raw_is_pipe_address(&address) ? PIER_ENOENT : PIER_ECONNREFUSED);
    close_and_wait(&client);
    forget_address(&address);
}

/* A connect that didn't succeed leaves a handle that can only be closed: everything on it
 * fails, once each. */
static void check_only_close_is_left(struct tracked_handle *client,
                                     const struct pier_address *address)
{
    struct tracked receive = {0}, each = {0}, send = {0}, shutdown = {0}, connect = {0};
    char byte;
    tracked_receive(client, &receive, &byte, 1, NULL);
    tracked_receive_each(client, &each, NULL);
    tracked_send(client, &send, "x", 1, NULL);
    tracked_shutdown(client, &shutdown, NULL);
    tracked_connect(client, &connect, address, NULL);
    CHECK_INT(wait_for(&receive), <, 0);
    CHECK_INT(wait_for(&each), <, 0);
    CHECK_INT(wait_for(&send), <, 0);
    CHECK_INT(wait_for(&shutdown), <, 0);
    CHECK_INT(wait_for(&connect), <, 0);
    CHECK(pier_handle_is_open(&client->handle));
    close_and_wait(client);
}

static void only_close_after_refusal(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0}, send = {0}, receive = {0}, shutdown = {0};
    struct pier_address address;
    char byte;
    const pier_descriptor holder = raw_refusing_address(&address);
    tracked_open_socket(loop, &client, &address);
    tracked_connect(&client, &connect, &address, NULL);
    tracked_send(&client, &send, "x", 1, NULL);
    tracked_receive(&client, &receive, &byte, 1, NULL);
    tracked_shutdown(&client, &shutdown, NULL);
    CHECK_INT(wait_for(&connect), ==, PIER_ECONNREFUSED);
    CHECK_INT(wait_for(&send), <, 0);
    CHECK_INT(wait_for(&receive), <, 0);
    CHECK_INT(wait_for(&shutdown), <, 0);
    CHECK(connect.sequence < send.sequence);
    check_only_close_is_left(&client, &address);
    raw_close(holder);
}

static void connect_into(struct raw_black_hole *hole, struct tracked_handle *client,
                         struct tracked *connect, struct pier_loop *loop)
{
    tracked_open_socket(loop, client, &hole->address);
    tracked_connect(client, connect, &hole->address, NULL);
    run_quietly(loop, 10);
    /* On a busy machine 10 ms may take longer than the time limit that one of these has. */
    CHECK(connect->in_flight || connect->result == PIER_ETIMEDOUT);
}

static void swallowed(int family)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0}, send = {0};
    struct raw_black_hole hole;
    if (!raw_black_hole_open(&hole, family)) {
        test_skip("a full backlog doesn't hold connections off on this system");
        return;
    }
    /* Timed out. */
    connect.op.timeout_ns = 60 * PIER_MILLISECOND;
    const uint64_t started = pier_loop_now(loop);
    connect_into(&hole, &client, &connect, loop);
    CHECK_INT(wait_for(&connect), ==, PIER_ETIMEDOUT);
    CHECK_INT(pier_loop_now(loop) - started, >=, 60 * PIER_MILLISECOND);
    check_only_close_is_left(&client, &hole.address);
    /* Cancelled, with a send behind it. */
    connect_into(&hole, &client, &connect, loop);
    tracked_send(&client, &send, "x", 1, NULL);
    tracked_cancel(&connect);
    CHECK_INT(wait_for(&connect), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&send), <, 0);
    check_only_close_is_left(&client, &hole.address);
    /* Closed. */
    connect_into(&hole, &client, &connect, loop);
    tracked_send(&client, &send, "x", 1, NULL);
    close_and_wait(&client);
    CHECK_INT(connect.result, ==, PIER_ECLOSED);
    CHECK_INT(send.result, ==, PIER_ECLOSED);
    raw_black_hole_close(&hole);
}

static void swallowed_tcp(void)
{
    swallowed(PIER_ADDRESS_IPV4);
}

static void swallowed_unix(void)
{
    if (!stream_available(STREAM_UNIX)) {
        test_skip("no Unix-domain sockets here");
        return;
    }
    swallowed(PIER_ADDRESS_UNIX);
}

/* A non-blocking connect to a Unix listener whose backlog is full has no event to wait for (it
 * answers EAGAIN). */
static void waits_for_a_full_backlog_unix(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0};
    struct raw_black_hole hole;
    if (!stream_available(STREAM_UNIX) || !raw_black_hole_open(&hole, PIER_ADDRESS_UNIX)) {
        test_skip("no Unix-domain sockets here, or none whose backlog fills");
        return;
    }
    connect_into(&hole, &client, &connect, loop);
    for (int i = 0; i < hole.count; i++) {
        raw_close(raw_accept(hole.listener));
    }
    CHECK_INT(wait_for(&connect), ==, 0);
    const pier_descriptor peer = raw_accept(hole.listener);
    check_usable(&client, peer);
    close_and_wait(&client);
    raw_close(peer);
    raw_black_hole_close(&hole);
}

static void ops_wait_behind_it(void)
{
    struct pier_loop *loop = test_loop();
    static unsigned char data[100000], got[100000];
    pattern_fill(data, sizeof(data), 51, 0);
    for (int stream = STREAM_TCP4; stream <= STREAM_ABSTRACT; stream++) {
        struct tracked_handle client = {0};
        struct tracked connect = {0}, sends[3] = {0}, shutdown = {0}, receive = {0}, each = {0};
        char byte = 0;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        struct pier_address address = stream_address((enum stream)stream);
        const pier_descriptor listener = raw_listen(&address, 4);
        tracked_open_socket(loop, &client, &address);
        tracked_connect(&client, &connect, &address, NULL);
        tracked_receive(&client, &receive, &byte, 1, NULL);
        tracked_receive_each(&client, &each, NULL);
        tracked_send(&client, &sends[0], data, 10, NULL);
        tracked_send(&client, &sends[1], data + 10, 90, NULL);
        tracked_send(&client, &sends[2], data + 100, sizeof(data) - 100, NULL);
        tracked_shutdown(&client, &shutdown, NULL);
        run_quietly(loop, 2);
        const pier_descriptor peer = raw_accept(listener);
        size_t read = 0;
        SPIN_UNTIL(loop, read == sizeof(got), {
            const int64_t now = raw_receive_now(peer, got + read, sizeof(got) - read);
            CHECK(now > 0 || now == RAW_AGAIN);
            read += now > 0 ? (size_t)now : 0;
        });
        CHECK_INT(wait_for(&shutdown), ==, 0);
        CHECK_PATTERN(got, sizeof(got), 51, 0);
        CHECK_INT(connect.result, ==, 0);
        CHECK(connect.sequence < sends[0].sequence);
        CHECK(sends[2].sequence < shutdown.sequence);
        CHECK(receive.in_flight);
        raw_receive_end(peer);
        raw_send(peer, "!", 1);
        CHECK_INT(wait_for(&receive), ==, 1);
        CHECK_INT(byte, ==, '!');
        raw_close(peer);
        CHECK_INT(wait_for(&each), ==, 0);
        close_and_wait(&client);
        raw_close(listener);
        forget_address(&address);
    }
}

static void address_is_copied(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle clients[50] = {0};
    struct tracked connects[50] = {0};
    struct pier_address address = address_of("127.0.0.1:0"), used;
    const pier_descriptor listener = raw_listen(&address, 100);
    for (int i = 0; i < 50; i++) {
        used = address;
        tracked_open_socket(loop, &clients[i], &used);
        tracked_connect(&clients[i], &connects[i], &used, NULL);
        memset(&used, 0xff, sizeof(used));
    }
    for (int i = 0; i < 50; i++) {
        CHECK_INT(wait_for(&connects[i]), ==, 0);
    }
    CHECK_INT(stats_of(loop).connects, ==, 50);
    for (int i = 0; i < 50; i++) {
        const pier_descriptor peer = raw_accept(listener);
        raw_close(peer);
        close_and_wait(&clients[i]);
    }
    raw_close(listener);
}

static void twice(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0}, again = {0};
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 4);
    tracked_open_socket(loop, &client, &address);
    tracked_connect(&client, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    tracked_connect(&client, &again, &address, NULL);
    CHECK_INT(wait_for(&again), ==, PIER_EISCONN);
    const pier_descriptor peer = raw_accept(listener);
    close_and_wait(&client);
    raw_close(peer);
    raw_close(listener);
}

/* Another behind one that is on its way, given up: nothing changes for the first. */
static void given_up_behind_another(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0}, timed = {0}, cancelled = {0}, receive = {0};
    struct raw_black_hole hole;
    char byte = 0;
    if (!stream_available(STREAM_UNIX) || !raw_black_hole_open(&hole, PIER_ADDRESS_UNIX)) {
        test_skip("no Unix-domain sockets here, or none whose backlog fills");
        return;
    }
    connect_into(&hole, &client, &connect, loop);
    tracked_receive(&client, &receive, &byte, 1, NULL);
    timed.op.timeout_ns = PIER_MILLISECOND;
    tracked_connect(&client, &timed, &hole.address, NULL);
    tracked_connect(&client, &cancelled, &hole.address, NULL);
    tracked_cancel(&cancelled);
    CHECK_INT(wait_for(&cancelled), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&timed), ==, PIER_ETIMEDOUT);
    CHECK(connect.in_flight && receive.in_flight);
    for (int i = 0; i < hole.count; i++) {
        raw_close(raw_accept(hole.listener));
    }
    CHECK_INT(wait_for(&connect), ==, 0);
    const pier_descriptor peer = raw_accept(hole.listener);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    check_usable(&client, peer);
    close_and_wait(&client);
    raw_close(peer);
    raw_black_hole_close(&hole);
}

static void to_the_wrong_family(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked connect = {0};
    const struct pier_address four = address_of("127.0.0.1:9"),
                              path = address_of("unix:/nowhere/at/all");
    const struct pier_address none = {.family = PIER_ADDRESS_NONE};
    struct pier_handle refused_handle = {0};
    tracked_open_socket(loop, &client, &four);
    tracked_connect(&client, &connect, &path, NULL);
    CHECK_INT(wait_for(&connect), <, 0);
    close_and_wait(&client);
    CHECK_INT(pier_open_socket(loop, &refused_handle, &none), <, 0);
    CHECK(strlen(pier_error_detail()) > 0);
}

/* Cancelled at every moment around its completion: connected or cancelled, and closed without a
 * leak either way. */
static void cancel_racing_with_success(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 200);
    for (int i = 0; i < 150; i++) {
        struct tracked_handle client = {0};
        struct tracked connect = {0};
        tracked_open_socket(loop, &client, &address);
        tracked_connect(&client, &connect, &address, NULL);
        for (int turn = 0; turn < i % 3 && connect.in_flight; turn++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_cancel(&connect);
        wait_for(&connect);
        CHECK(connect.result == 0 || connect.result == PIER_ECANCELED);
        close_and_wait(&client);
    }
    raw_close(listener);
}

const struct test connect_tests[] = {
    TEST(connect, refused),
    TEST(connect, refused_by_a_path),
    TEST(connect, only_close_after_refusal),
    TEST(connect, swallowed_tcp),
    TEST(connect, swallowed_unix),
    TEST(connect, waits_for_a_full_backlog_unix),
    TEST(connect, ops_wait_behind_it),
    TEST(connect, address_is_copied),
    TEST(connect, twice),
    TEST(connect, given_up_behind_another),
    TEST(connect, to_the_wrong_family),
    TEST(connect, cancel_racing_with_success),
    TEST_END,
};
