/* steady.c - an echo server in its steady state: no allocation, no more system calls than a
 * hand-written loop, and no change of the kernel's interest per message.
 *
 * The clients are raw sockets, so that the loop's counters show the server alone. Each round sends
 * one message on each connection. A turn may wait once; what is left are the calls per message.
 * Small messages come from a thread of their own, while the loop runs. Large ones are sent before
 * it does, so that each is there in one piece and all of them in one turn. With CONFORM_COUNTS set,
 * each test of small ones prints what it counted for the strace check (syscalls_check). */

#include "suite.h"

#include <stdatomic.h>
#include <stdlib.h>

#define CONNECTIONS 50
#define MESSAGE 64
#define LARGE (16 * 1024) /* what buffer_size has room for by default, see pier.h */
#define WARM_ROUNDS 40

/* How the server receives: by one op that goes on, or one op at a time. */
enum receiving { EACH, INTO_MEMORY, LENT };

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
    uint64_t bytes;
    unsigned rounds;
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

static void on_lent(struct tracked *tracked);

static void on_lent_sent(struct tracked *tracked)
{
    struct connection *connection = PIER_OWNER(tracked, struct connection, send);
    CHECK_INT(tracked->result, >=, 0);
    tracked_receive_lent(&connection->handle, &connection->receive, on_lent);
}

/* As README.md's server does it: the next receive is submitted when the send is over, after the
 * callback of the one before. */
static void on_lent(struct tracked *tracked)
{
    struct connection *connection = PIER_OWNER(tracked, struct connection, receive);
    if (tracked->result > 0) {
        connection->server->bytes += (uint64_t)tracked->result;
        tracked_send(&connection->handle, &connection->send, tracked->op.data, tracked->op.size,
                     on_lent_sent);
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

static bool sends_are_over(const struct server *server)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        if (server->connections[i].send.in_flight) {
            return false;
        }
    }
    return true;
}

static void serve_large(struct server *server, unsigned rounds)
{
    static unsigned char message[LARGE], answer[LARGE];
    for (unsigned round = 0; round < rounds; round++) {
        const uint64_t goal = server->bytes + (uint64_t)CONNECTIONS * LARGE;
        for (unsigned i = 0; i < CONNECTIONS; i++) {
            pattern_fill(message, LARGE, i, round);
            raw_send(server->connections[i].peer, message, LARGE);
        }
        RUN_UNTIL(server->loop, server->bytes == goal && sends_are_over(server));
        for (unsigned i = 0; i < CONNECTIONS; i++) {
            raw_receive(server->connections[i].peer, answer, LARGE);
            CHECK_PATTERN(answer, LARGE, i, round);
        }
    }
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

/* Changes of interest for so many messages. Only a one-shot poller needs one for each; a
 * level-triggered one goes on watching between two receives of one shot. On streams that aren't
 * Internet ones it is told that nobody waits, and that somebody does. */
static uint64_t registrations_allowed(enum stream stream, enum receiving receiving,
                                      uint64_t messages)
{
    if (test_trigger() == PIER_ONE_SHOT) {
        return messages + messages / 20 + 10;
    }
    return stream > STREAM_TCP6 && receiving == LENT ? 2 * messages + 10 : 10;
}

/* Turns for so many rounds, whose messages are all there before the first: one each, or three on
 * io_uring, where what was submitted in one turn is done in the next. Twice as many for messages
 * that the system brings late. */
static uint64_t turns_allowed(uint64_t rounds)
{
    return 2 * rounds * (test_can(PIER_CAN_COMPLETE) ? 3 : 1);
}

static struct server *make_server(enum stream stream, enum receiving receiving)
{
    struct server *server = calloc(1, sizeof(*server));
    CHECK(server != NULL);
    server->loop = test_loop();
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &server->connections[i];
        connection->server = server;
        connection->peer = tracked_raw_pair(server->loop, stream, &connection->handle);
        if (receiving == INTO_MEMORY) {
            tracked_receive(&connection->handle, &connection->receive, connection->memory,
                            sizeof(connection->memory), on_received);
        } else if (receiving == LENT) {
            tracked_receive_lent(&connection->handle, &connection->receive, on_lent);
        } else {
            tracked_receive_each(&connection->handle, &connection->receive, on_event);
        }
    }
    return server;
}

static void free_server(struct server *server)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        close_and_wait(&server->connections[i].handle);
        raw_close(server->connections[i].peer);
    }
    free(server);
}

static void echo(enum stream stream, enum receiving receiving)
{
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    struct server *server = make_server(stream, receiving);
    serve(server, WARM_ROUNDS);
    const unsigned rounds = 400 / test_slowness();
    const uint64_t allocations = test_allocations_made(), messages = (uint64_t)rounds * CONNECTIONS;
    const struct pier_loop_counters before = stats_of(server->loop);
    serve(server, rounds);
    const struct pier_loop_counters after = stats_of(server->loop);
    const uint64_t calls = after.system_calls - before.system_calls,
                   turns = after.turns - before.turns;
    CHECK_INT(test_allocations_made(), ==, allocations);
    CHECK_INT(after.allocations, ==, before.allocations);
    if (getenv("CONFORM_COUNTS") != NULL) {
        printf("# %s %s: messages=%" PRIu64 " calls=%" PRIu64 " turns=%" PRIu64
               " all_calls=%" PRIu64 "\n",
               stream_name(stream), receiving == EACH ? "each" : "one-shot", messages, calls, turns,
               after.system_calls);
    }
    CHECK_INT((calls - (turns < calls ? turns : calls)) * 100, <=,
              messages * calls_allowed(stream <= STREAM_TCP6));
    CHECK_INT(after.registrations - before.registrations, <=,
              registrations_allowed(stream, receiving, messages));
    free_server(server);
}

static void echo_tcp(void)
{
    echo(STREAM_TCP4, EACH);
}

static void echo_tcp_one_shot(void)
{
    echo(STREAM_TCP4, INTO_MEMORY);
}

static void echo_tcp_lent_one_shot(void)
{
    echo(STREAM_TCP4, LENT);
}

static void echo_unix(void)
{
    echo(STREAM_UNIX, EACH);
}

static void echo_unix_one_shot(void)
{
    echo(STREAM_UNIX, INTO_MEMORY);
}

/* A message of 16 KiB is less than a lent buffer holds, so one receive takes it and has no need of
 * another to learn that this was all; and one turn serves all connections. */
static void echo_large(enum receiving receiving)
{
    struct server *server = make_server(STREAM_TCP4, receiving);
    serve_large(server, 4);
    const unsigned rounds = 60 / test_slowness();
    const uint64_t allocations = test_allocations_made(), messages = (uint64_t)rounds * CONNECTIONS;
    const struct pier_loop_counters before = stats_of(server->loop);
    serve_large(server, rounds);
    const struct pier_loop_counters after = stats_of(server->loop);
    const uint64_t calls = after.system_calls - before.system_calls,
                   turns = after.turns - before.turns;
    CHECK_INT(test_allocations_made(), ==, allocations);
    CHECK_INT(after.receives - before.receives, <=, messages + messages / 20);
    CHECK_INT(turns, <=, turns_allowed(rounds));
    CHECK_INT((calls - (turns < calls ? turns : calls)) * 100, <=, messages * calls_allowed(true));
    CHECK_INT(after.registrations - before.registrations, <=,
              registrations_allowed(STREAM_TCP4, receiving, messages));
    free_server(server);
}

static void echo_large_messages(void)
{
    echo_large(EACH);
}

static void echo_large_messages_lent_one_shot(void)
{
    echo_large(LENT);
}

/* As examples/tcp_proxy.c does it. */
struct relay {
    struct tracked_handle in, out;
    struct tracked each, sends[4];
    unsigned in_flight;
    uint64_t bytes;
};

static void on_relayed(struct tracked *tracked)
{
    struct relay *relay = tracked->context;
    CHECK_INT(tracked->result, >, 0);
    relay->in_flight--;
    relay->bytes += tracked->done;
    tracked_resume(&relay->each);
}

static void on_piece(struct tracked *tracked)
{
    struct relay *relay = PIER_OWNER(tracked, struct relay, each);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    struct tracked *send = relay->sends;
    CHECK_INT(relay->in_flight, <, COUNT_OF(relay->sends));
    while (send->in_flight) {
        send++;
    }
    send->context = relay;
    tracked_send(&relay->out, send, tracked->op.data, tracked->op.size, on_relayed);
    if (++relay->in_flight == COUNT_OF(relay->sends)) {
        tracked_pause(tracked);
    }
}

/* A stream that comes as fast as it can be passed on takes a system call or two for what several
 * lent buffers of the ordinary size would hold. */
static void relayed_stream(void)
{
    enum { TOTAL = 8 << 20 };
    static unsigned char piece[1 << 16], got[1 << 18];
    struct pier_loop *loop = test_loop();
    struct relay *relay = calloc(1, sizeof(*relay));
    CHECK(relay != NULL);
    const pier_descriptor source = tracked_raw_pair(loop, STREAM_TCP4, &relay->in);
    const pier_descriptor target = tracked_raw_pair(loop, STREAM_TCP4, &relay->out);
    tracked_receive_each(&relay->in, &relay->each, on_piece);
    uint64_t sent = 0, received = 0;
    struct pier_loop_counters before = stats_of(loop);
    SPIN_UNTIL(loop, received == TOTAL, {
        int64_t now = 1;
        while (sent < TOTAL && now > 0) {
            const uint64_t left = TOTAL - sent;
            const size_t size = left < sizeof(piece) ? (size_t)left : sizeof(piece);
            pattern_fill(piece, size, 55, sent);
            now = raw_send_now(source, piece, size);
            sent += now > 0 ? (uint64_t)now : 0;
        }
        while ((now = raw_receive_now(target, got, sizeof(got))) > 0) {
            CHECK_PATTERN(got, (size_t)now, 55, received);
            received += (uint64_t)now;
        }
    });
    struct pier_loop_counters after = stats_of(loop);
    const uint64_t calls = after.system_calls - before.system_calls,
                   turns = after.turns - before.turns;
    if (!test_backend_is("iocp")) {
        CHECK_INT(calls - (turns < calls ? turns : calls), <=, (TOTAL >> 20) * 40);
        CHECK_INT(after.receives - before.receives, <=, (TOTAL >> 20) * 25);
    }
    RUN_UNTIL(loop, relay->bytes == TOTAL);
    close_and_wait(&relay->in);
    close_and_wait(&relay->out);
    raw_close(source);
    raw_close(target);
    free(relay);
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
        CHECK(pier_op_token(&connect.op) != 0); /* two things to be cleaned up at its end */
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
    TEST(steady, echo_tcp_lent_one_shot),
    TEST(steady, echo_unix),
    TEST(steady, echo_unix_one_shot),
    TEST(steady, echo_large_messages),
    TEST(steady, echo_large_messages_lent_one_shot),
    TEST(steady, relayed_stream),
    TEST(steady, connections_allocate_nothing),
    TEST(steady, timers_and_posts_allocate_nothing),
    TEST_END,
};
