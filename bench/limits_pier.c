/*
 * Echoes and posts on pier whose instructions can be counted: the same each time, since nothing
 * depends on timing.
 *
 *   limits_pier BACKEND each|lent|memory|post
 *
 * The server's loop and its clients take turns on one thread: each client sends, the loop runs
 * until all is echoed, each client receives. So every turn finds all connections ready, and what is
 * executed inside pier_loop_run() is the same in each round and on a busy machine. The server does
 * what `pier echo --receive` does under the same name. Posts are notifications that the loop's own
 * thread makes: each callback makes the next, for the next turn, so that the loop is awake.
 *
 * bench/driver/limits.py runs it under callgrind, which counts inside pier_loop_run() and writes
 * what it has counted after each call of count_messages(): WINDOWS times at depth 1, then WINDOWS
 * times at depth 16.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <pier/pier.h>

enum { CONNECTIONS = 50, SIZE = 64, DEPTH = 16, ROUNDS = 20, WINDOWS = 3 };

static struct connection {
    struct pier_handle socket;
    struct pier_op receive, send;
    int client;
    char memory[SIZE * DEPTH * 2]; /* twice: a full one would have to be read again */
} connections[CONNECTIONS];

static struct pier_loop *loop;
static struct pier_handle listener;
static bool completes;
static int accepted;
static void (*start)(struct connection *c);
static struct pier_op notifications[DEPTH];
static uint64_t notified;

static void fail(const char *what)
{
    fprintf(stderr, "limits_pier: %s\n", what);
    exit(1);
}

/* ---- the server */

static void each_received(struct pier_op *op)
{
    struct connection *c = PIER_OWNER(op, struct connection, receive);
    if (op->result <= 0 || pier_op_pending(&c->send))
        fail("a receive has ended, or came before the send of the one before was done");
    pier_send(&c->socket, &c->send, op->data, op->size, NULL);
}

static void start_each(struct connection *c)
{
    pier_receive_each(&c->socket, &c->receive, each_received);
}

static void lent_received(struct pier_op *op);

static void lent_sent(struct pier_op *op)
{
    struct connection *c = PIER_OWNER(op, struct connection, send);
    if (op->result < 0)
        fail("a send has failed");
    pier_receive_lent(&c->socket, &c->receive, lent_received);
}

static void lent_received(struct pier_op *op)
{
    struct connection *c = PIER_OWNER(op, struct connection, receive);
    if (op->result <= 0)
        fail("a receive has failed");
    pier_send(&c->socket, &c->send, op->data, op->size, lent_sent);
}

static void start_lent(struct connection *c)
{
    pier_receive_lent(&c->socket, &c->receive, lent_received);
}

static void start_memory(struct connection *c);

static void memory_sent(struct pier_op *op)
{
    if (op->result < 0)
        fail("a send has failed");
    start_memory(PIER_OWNER(op, struct connection, send));
}

static void memory_received(struct pier_op *op)
{
    struct connection *c = PIER_OWNER(op, struct connection, receive);
    if (op->result <= 0)
        fail("a receive has failed");
    if (completes) {
        pier_send(&c->socket, &c->send, c->memory, (size_t)op->result, memory_sent);
        return;
    }
    pier_send(&c->socket, &c->send, c->memory, (size_t)op->result, NULL);
    if (pier_op_pending(&c->send))
        pier_op_then(&c->send, memory_sent);
    else
        start_memory(c);
}

static void start_memory(struct connection *c)
{
    pier_receive(&c->socket, &c->receive, c->memory, sizeof c->memory, memory_received);
}

static void on_accepted(struct pier_op *op)
{
    struct connection *c = &connections[accepted];
    if (op->result != 1 || pier_accept_take(op, NULL, &c->socket) < 0)
        fail("a connection can't be accepted");
    accepted++;
    start(c);
}

/* ---- the clients */

static void connect_clients(struct pier_op *accept)
{
    struct pier_address address;
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char text[PIER_ADDRESS_TEXT_MAX];
    if (pier_address_parse(&address, "127.0.0.1:0") < 0 ||
        pier_listen(loop, &listener, &address, NULL) < 0 ||
        pier_local_address(&listener, &address) < 0)
        fail(pier_error_detail());
    pier_address_format(&address, text, sizeof text);
    name.sin_port = htons((uint16_t)atoi(strrchr(text, ':') + 1));
    pier_accept_each(&listener, accept, on_accepted);
    for (int i = 0; i < CONNECTIONS; i++) {
        int client = connections[i].client = socket(AF_INET, SOCK_STREAM, 0);
        if (client < 0 || connect(client, (struct sockaddr *)&name, sizeof name) < 0)
            fail("a client can't connect");
        while (accepted == i)
            pier_loop_run(loop, PIER_RUN_ONCE);
    }
}

static uint64_t sent_bytes(void)
{
    struct pier_loop_counters stats;
    pier_loop_stats(loop, &stats);
    return stats.sent_bytes;
}

static void echo_messages(int depth)
{
    char out[SIZE * DEPTH], in[SIZE * DEPTH];
    size_t size = SIZE * (size_t)depth;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t goal = sent_bytes() + CONNECTIONS * size;
        memset(out, 'a' + round, size);
        for (int i = 0; i < CONNECTIONS; i++) {
            if (send(connections[i].client, out, size, 0) != (ssize_t)size)
                fail("a client can't send");
        }
        while (sent_bytes() < goal) {
            if (pier_loop_run(loop, PIER_RUN_ONCE) < 0)
                fail(pier_error_detail());
        }
        for (int i = 0; i < CONNECTIONS; i++) {
            if (recv(connections[i].client, in, size, MSG_WAITALL) != (ssize_t)size ||
                memcmp(in, out, size) != 0)
                fail("what a client got back isn't what it sent");
        }
    }
}

/* ---- posts */

static void on_notification(struct pier_op *op)
{
    notified++;
    pier_notify(op);
}

/* `depth` of them in each turn, as many turns as there are messages with clients. */
static void post_messages(int depth)
{
    uint64_t goal = notified + CONNECTIONS * ROUNDS * (uint64_t)depth;
    for (int i = 0; i < depth; i++) {
        if (!pier_op_pending(&notifications[i])) {
            pier_notify_each(loop, &notifications[i], on_notification);
            pier_notify(&notifications[i]);
        }
    }
    while (notified < goal) {
        if (pier_loop_run(loop, PIER_RUN_ONCE) < 0)
            fail(pier_error_detail());
    }
}

/* Not inlined: callgrind knows it by its name. */
__attribute__((noinline)) static void count_messages(int depth)
{
    if (start != NULL)
        echo_messages(depth);
    else
        post_messages(depth);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*start)(struct connection *c);
    } ways[] = {
        {"each", start_each}, {"lent", start_lent}, {"memory", start_memory}, {"post", NULL}};
    struct pier_op accept = {0};
    size_t way = 0;
    while (argc == 3 && way < sizeof ways / sizeof ways[0] && strcmp(argv[2], ways[way].name) != 0)
        way++;
    if (argc != 3 || way == sizeof ways / sizeof ways[0]) {
        fprintf(stderr, "usage: limits_pier BACKEND each|lent|memory|post\n");
        return 2;
    }
    start = ways[way].start;
    const struct pier_loop_options options = {.backend = argv[1]};
    if (pier_loop_new(&loop, &options) < 0) {
        fprintf(stderr, "%s\n", pier_error_detail());
        return 77; /* skipped */
    }
    completes = (pier_loop_capabilities(loop) & PIER_CAN_COMPLETE) != 0;
    if (start != NULL)
        connect_clients(&accept);
    count_messages(1); /* to warm up, which the driver knows */
    for (int i = 0; i < WINDOWS; i++)
        count_messages(1);
    for (int i = 0; i < WINDOWS; i++)
        count_messages(DEPTH);
    printf("{\"messages\":%d,\"windows\":%d}\n", CONNECTIONS * ROUNDS, WINDOWS);
    return 0;
}
