/* steady.c - an echo server in its steady state: no allocation, and no more system calls than a
 * hand-written loop.
 *
 * The clients are raw sockets on a thread of their own, so that the loop's counters show the
 * server alone. Each round sends one message on each connection. A turn may wait once; what is
 * left are the calls per message. With CONFORM_COUNTS set, each test prints what it counted for
 * the strace check (syscalls_check). */

#include "suite.h"

#include <stdatomic.h>
#include <stdlib.h>

#define CONNECTIONS 50
#define MESSAGE 64
#define WARM_ROUNDS 40

struct server;

struct connection {
    struct tracked_handle handle;
    struct tracked receive, send;
    struct server *server;
    pier_descriptor peer;
    unsigned char
        memory[4 *
               MESSAGE]; /* larger than a message: a full one proves nothing about what is left */
};

struct server {
    struct pier_loop *loop;
    struct connection connections[CONNECTIONS];
    uint64_t messages, bytes;
    unsigned rounds;
    bool one_shot;
};

static void on_event(struct tracked *tracked)
{
    struct connection *connection = PIER_OWNER(tracked, struct connection, receive);
    if ((tracked->flags & PIER_MORE) != 0) {
        connection->server->bytes += tracked->op.size;
        tracked_send(&connection->handle, &connection->send, tracked->op.data, tracked->op.size,
                     NULL);
    }
}

static void on_received(struct tracked *tracked)
{
    struct connection *connection = PIER_OWNER(tracked, struct connection, receive);
    if (tracked->result > 0) {
        connection->server->bytes += (uint64_t)tracked->result;
        tracked_send(&connection->handle, &connection->send, connection->memory,
                     (size_t)tracked->result, NULL);
        tracked_receive(&connection->handle, tracked, connection->memory,
                        sizeof(connection->memory), on_received);
    }
}

static void play_clients(void *context)
{
    struct server *server = context;
    unsigned char message[MESSAGE], answer[MESSAGE];
    for (unsigned round = 0; round < server->rounds; round++) {
        for (unsigned i = 0; i < CONNECTIONS; i++) {
            pattern_fill(message, MESSAGE, i, round);
            raw_send(server->connections[i].peer, message, MESSAGE);
        }
        for (unsigned i = 0; i < CONNECTIONS; i++) {
            raw_receive(server->connections[i].peer, answer, MESSAGE);
            CHECK_PATTERN(answer, MESSAGE, i, round);
        }
    }
}

static void serve(struct server *server, unsigned rounds)
{
    struct platform_thread thread;
    const uint64_t goal = server->bytes + (uint64_t)rounds * CONNECTIONS * MESSAGE;
    server->rounds = rounds;
    platform_thread_start(&thread, play_clients, server);
    RUN_UNTIL(server->loop, server->bytes == goal);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        RUN_UNTIL(server->loop, !server->connections[i].send.in_flight);
    }
    platform_thread_join(&thread);
}

/* Calls per message besides the wait of each turn, in hundredths, as a hand-written loop on
 * this interface makes them. */
static unsigned calls_allowed(bool internet)
{
    if (test_backend_is("uring")) {
        return 5;
    }
    if (test_backend_is("epoll") && test_trigger() == PIER_ONE_SHOT) {
        return 305; /* and a change of interest */
    }
    if ((test_backend_is("epoll") && test_trigger() == PIER_EDGE_TRIGGERED) ||
        test_backend_is("kqueue")) {
        /* A short read proves nothing on a Unix socket: once more, until EAGAIN. */
        return internet ? 205 : 305;
    }
    if (test_backend_is("iocp")) {
        return 305; /* the request that tells of data, the receive, the send */
    }
    return 205;
}

static void echo(enum stream stream, bool one_shot)
{
    struct server *server = calloc(1, sizeof(*server));
    CHECK(server != NULL);
    if (!stream_available(stream)) {
        free(server);
        test_skip("no %s here", stream_name(stream));
        return;
    }
    server->loop = test_loop();
    server->one_shot = one_shot;
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &server->connections[i];
        connection->server = server;
        connection->peer = tracked_raw_pair(server->loop, stream, &connection->handle);
        if (one_shot) {
            tracked_receive(&connection->handle, &connection->receive, connection->memory,
                            sizeof(connection->memory), on_received);
        } else {
            tracked_receive_each(&connection->handle, &connection->receive, on_event);
        }
    }
    serve(server, WARM_ROUNDS);
    const unsigned rounds = 400 / test_slowness();
    const uint64_t allocations = test_allocations_made(), messages = (uint64_t)rounds * CONNECTIONS;
    const struct pier_loop_stats before = stats_of(server->loop);
    serve(server, rounds);
    const struct pier_loop_stats after = stats_of(server->loop);
    const uint64_t calls = after.system_calls - before.system_calls,
                   turns = after.turns - before.turns;
    CHECK_INT(test_allocations_made(), ==, allocations);
    CHECK_INT(after.allocations, ==, before.allocations);
    if (getenv("CONFORM_COUNTS") != NULL) {
        printf("# %s %s: messages=%" PRIu64 " calls=%" PRIu64 " turns=%" PRIu64
               " all_calls=%" PRIu64 "\n",
               stream_name(stream), one_shot ? "one-shot" : "each", messages, calls, turns,
               after.system_calls);
    }
    CHECK_INT((calls - (turns < calls ? turns : calls)) * 100, <=,
              messages * calls_allowed(stream <= STREAM_TCP6));
    CHECK_INT(after.registrations - before.registrations, <=,
              test_trigger() == PIER_EDGE_TRIGGERED ? 10 : messages * 2 + 10);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        close_and_wait(&server->connections[i].handle);
        raw_close(server->connections[i].peer);
    }
    free(server);
}

static void echo_tcp(void)
{
    echo(STREAM_TCP4, false);
}

static void echo_tcp_one_shot(void)
{
    echo(STREAM_TCP4, true);
}

static void echo_unix(void)
{
    echo(STREAM_UNIX, false);
}

static void echo_unix_one_shot(void)
{
    echo(STREAM_UNIX, true);
}

static void take_into_context(struct tracked *tracked)
{
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
    }
}

/* Connections come and go without allocation once there were as many before. */
static void connections_allocate_nothing(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    uint64_t allocations = 0;
    for (int round = 0; round < 100; round++) {
        struct tracked_handle client = {0}, server = {0};
        struct tracked accept = {.context = &server}, connect = {0}, lent = {0}, timed = {0};
        if (round == 10) {
            allocations = test_allocations_made();
        }
        tracked_open_socket(loop, &client, &address);
        tracked_accept(&listener, &accept, take_into_context);
        tracked_connect(&client, &connect, &address, NULL);
        CHECK_INT(wait_for(&connect), ==, 0);
        CHECK_INT(wait_for(&accept), ==, 1);
        tracked_receive_lent(&server, &lent, NULL);
        send_all(&client, "hello", 5);
        CHECK_INT(wait_for(&lent), ==, 5);
        timed.op.timeout_ns = PIER_MILLISECOND;
        tracked_receive_lent(&server, &timed, NULL);
        CHECK_INT(wait_for(&timed), ==, PIER_ETIMEDOUT);
        close_and_wait(&client);
        close_and_wait(&server);
    }
    CHECK_INT(test_allocations_made(), ==, allocations);
    close_and_wait(&listener);
}

static void timers_and_posts_allocate_nothing(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timers[200] = {0}, posts[200] = {0};
    uint64_t allocations = 0, tokens = 0;
    for (int round = 0; round < 20; round++) {
        if (round == 2) {
            allocations = test_allocations_made();
        }
        for (unsigned i = 0; i < 200; i++) {
            tracked_timer(loop, &timers[i], i * 20 * PIER_MICROSECOND, NULL);
            tokens += pier_op_token(&timers[i].op) != 0;
            tracked_post(loop, &posts[i], NULL);
        }
        while (tracked_in_flight() > 0) {
            run(loop, PIER_RUN_ONCE);
        }
    }
    CHECK_INT(test_allocations_made(), ==, allocations);
    CHECK_INT(tokens, ==, 4000);
}

const struct test steady_tests[] = {
    TEST(steady, echo_tcp),
    TEST(steady, echo_tcp_one_shot),
    TEST(steady, echo_unix),
    TEST(steady, echo_unix_one_shot),
    TEST(steady, connections_allocate_nothing),
    TEST(steady, timers_and_posts_allocate_nothing),
    TEST_END,
};
