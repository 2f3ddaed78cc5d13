/* unconnected.c - the same mistake has the same result by each road: transfers on a socket that
 * isn't connected are PIER_ENOTCONN, in the first turn and later, alone and behind others, in one
 * piece and in vectors, silent and not, with a time limit, before a connect and after one that
 * failed, and on a listener. */

#include "suite.h"

enum road {
    SEND,
    SEND_NOTHING,
    VECTORED,
    VECTORED_MANY,
    VECTORED_NOTHING,
    SHUTDOWN,
    RECEIVE,
    RECEIVE_NOTHING,
    RECEIVE_LENT,
    RECEIVE_EACH,
    ROADS
};

static const char *const names[ROADS] = {"send",        "send of nothing",    "vector",
                                         "vectors",     "vectors of nothing", "shutdown",
                                         "receive",     "receive of nothing", "lent receive",
                                         "receive each"};

static char memory[10];

static void submit(struct tracked_handle *handle, struct tracked *tracked, enum road road)
{
    static const struct pier_vector vectors[3] = {{"ab", 2}, {NULL, 0}, {"c", 1}};
    switch (road) {
    case SEND: tracked_send(handle, tracked, "abc", 3, NULL); break;
    case SEND_NOTHING: tracked_send(handle, tracked, NULL, 0, NULL); break;
    case VECTORED: tracked_send_vectored(handle, tracked, vectors, 1, NULL); break;
    case VECTORED_MANY: tracked_send_vectored(handle, tracked, vectors, 3, NULL); break;
    case VECTORED_NOTHING: tracked_send_vectored(handle, tracked, vectors + 1, 1, NULL); break;
    case SHUTDOWN: tracked_shutdown(handle, tracked, NULL); break;
    case RECEIVE: tracked_receive(handle, tracked, memory, sizeof(memory), NULL); break;
    case RECEIVE_NOTHING: tracked_receive(handle, tracked, memory, 0, NULL); break;
    case RECEIVE_LENT: tracked_receive_lent(handle, tracked, NULL); break;
    case RECEIVE_EACH: tracked_receive_each(handle, tracked, NULL); break;
    case ROADS: break;
    }
}

static void check_one(const struct tracked *tracked, int road)
{
    if (tracked->result != PIER_ENOTCONN) {
        FAIL("a %s is %s", names[road], pier_error_name(tracked->result));
    }
    CHECK_INT(tracked->done, ==, 0);
    CHECK_INT(tracked->events, ==, 0);
}

/* Every road, alone, all together, and with a time limit. */
static void check_each_road(struct tracked_handle *handle)
{
    struct tracked all[ROADS] = {0};
    for (int timed = 0; timed < 2; timed++) {
        for (int road = 0; road < ROADS; road++) {
            struct tracked alone = {.op = {.timeout_ns = (uint64_t)timed * 3600 * PIER_SECOND}};
            submit(handle, &alone, (enum road)road);
            wait_for(&alone);
            check_one(&alone, road);
        }
    }
    for (int road = 0; road < ROADS; road++) {
        submit(handle, &all[road], (enum road)road);
    }
    for (int road = 0; road < ROADS; road++) {
        wait_for(&all[road]);
        check_one(&all[road], road);
    }
    struct pier_op silent = {0};
    pier_send(&handle->handle, &silent, "abc", 3, NULL);
    RUN_UNTIL(handle->loop, !pier_op_pending(&silent));
    CHECK_INT(silent.result, ==, PIER_ENOTCONN);
    CHECK_INT(silent.done, ==, 0);
    pier_send_vectored(&handle->handle, &silent, &(const struct pier_vector){"abc", 3}, 1, NULL);
    RUN_UNTIL(handle->loop, !pier_op_pending(&silent));
    CHECK_INT(silent.result, ==, PIER_ENOTCONN);
}

/* Each road once as the very first of its loop, then all of them. */
static void first_turn_and_later(enum stream stream)
{
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    const struct pier_address address = stream_address(stream);
    for (int road = 0; road < ROADS; road++) {
        struct pier_loop *loop = test_loop();
        struct tracked_handle socket = {0};
        struct tracked first = {0}, second = {0};
        tracked_open_socket(loop, &socket, &address);
        submit(&socket, &first, (enum road)road);
        submit(&socket, &second, (enum road)road);
        wait_for(&first);
        wait_for(&second);
        check_one(&first, road);
        check_one(&second, road);
        check_each_road(&socket);
        close_and_wait(&socket);
        test_loop_free(loop);
    }
}

static void before_a_connect_tcp(void)
{
    first_turn_and_later(STREAM_TCP4);
}

static void before_a_connect_unix(void)
{
    first_turn_and_later(STREAM_UNIX);
}

/* Also those that waited behind it. */
static void after_a_failed_connect(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle socket = {0};
    struct tracked connect = {0}, behind[ROADS] = {0};
    struct pier_address address;
    const pier_descriptor nobody = raw_refusing_address(&address);
    tracked_open_socket(loop, &socket, &address);
    check_each_road(&socket);
    tracked_connect(&socket, &connect, &address, NULL);
    for (int road = 0; road < ROADS; road++) {
        submit(&socket, &behind[road], (enum road)road);
    }
    CHECK_INT(wait_for(&connect), ==, PIER_ECONNREFUSED);
    for (int road = 0; road < ROADS; road++) {
        wait_for(&behind[road]);
        check_one(&behind[road], road);
    }
    check_each_road(&socket);
    raw_close(nobody);
    close_and_wait(&socket);
}

/* A connect that was cancelled has failed too. */
static void after_a_cancelled_connect(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle socket = {0};
    struct tracked connect = {0};
    struct raw_black_hole hole;
    if (!raw_black_hole_open(&hole, PIER_ADDRESS_IPV4)) {
        test_skip("no address here that doesn't answer");
        return;
    }
    tracked_open_socket(loop, &socket, &hole.address);
    tracked_connect(&socket, &connect, &hole.address, NULL);
    run_quietly(loop, 2);
    tracked_cancel(&connect);
    CHECK_INT(wait_for(&connect), ==, PIER_ECANCELED);
    check_each_road(&socket);
    close_and_wait(&socket);
    raw_black_hole_close(&hole);
}

static void on_a_listener(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    check_each_road(&listener);
    close_and_wait(&listener);
}

/* Nothing of this stands in the way of a connect: the roads are open then. */
static void connected_after_all(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle socket = {0};
    struct tracked connect = {0};
    struct pier_address address = stream_address(STREAM_TCP4);
    const pier_descriptor listener = raw_listen(&address, 16);
    tracked_open_socket(loop, &socket, &address);
    check_each_road(&socket);
    tracked_connect(&socket, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    const pier_descriptor peer = raw_accept(listener);
    check_usable(&socket, peer);
    close_and_wait(&socket);
    raw_close(peer);
    raw_close(listener);
}

const struct test unconnected_tests[] = {
    TEST(unconnected, before_a_connect_tcp),
    TEST(unconnected, before_a_connect_unix),
    TEST(unconnected, after_a_failed_connect),
    TEST(unconnected, after_a_cancelled_connect),
    TEST(unconnected, on_a_listener),
    TEST(unconnected, connected_after_all),
    TEST_END,
};
