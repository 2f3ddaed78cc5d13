/* SPDX-License-Identifier: MIT */
/* load_connection.c - what `pier load` does for each connection and each message.
 *
 * A connection's stream is a window that moves over a table of random bytes with a prime period,
 * from an offset of its own, so that data that is lost, doubled, swapped, or another connection's
 * differs from what is expected. Sends name the table's memory; whatever is received is compared
 * with it.
 *
 * A message is *released* when it may be sent; its time counts from there. In a closed loop
 * `depth` messages are released in the beginning and one for each answer. With --rate the schedule
 * releases them; when the peer has not answered `depth` messages the rest waits as `due`, and
 * their time counts from when they should have been sent. Bytes are handed to pier in one send at
 * a time, which takes all that was released since the last. */

#include "load.h"

#include <stdlib.h>
#include <string.h>

enum { PATTERN_PERIOD = 65521 };

#define CONNECT_TIME (10 * PIER_SECOND)
#define RETRY_TIME (10 * PIER_MILLISECOND)

struct load_connection {
    struct pier_handle socket;
    struct pier_op receive; /* before a new attempt of --churn: the timer */
    struct pier_op send;    /* also connects, and shuts down */
    struct load_client *client;
    uint64_t released, handed, received; /* bytes */
    uint64_t boundary;                   /* where the oldest message without answer ends */
    uint64_t *times;                     /* of the messages in flight: a ring of `depth` */
    uint32_t oldest, in_flight;
    uint64_t due, round; /* --rate: messages that wait, and the round of the first of them */
    bool idle;
    bool last; /* no more messages will be released */
    bool shut; /* our stream has ended */
    bool lost; /* ended by an error, which is counted */
};

/* ---- the pattern ---- */

unsigned char *load_pattern_new(void)
{
    size_t size = PATTERN_PERIOD + LOAD_SEND_MAX;
    unsigned char *pattern = malloc(size);
    if (pattern == NULL) {
        return NULL;
    }
    uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < size; i++) {
        /* xorshift64*, of which the upper bits are good. */
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        pattern[i] = i < PATTERN_PERIOD ? (unsigned char)((state * 0x2545f4914f6cdd1d) >> 56)
                                        : pattern[i - PATTERN_PERIOD];
    }
    return pattern;
}

static uint64_t index_of(const struct load_connection *c)
{
    return (uint64_t)(c - c->client->connections);
}

/* Numbers count across all clients: the active connections first, then the idle ones. */
static uint64_t number_of(const struct load_connection *c)
{
    const struct load_client *client = c->client;
    uint64_t index = index_of(c);
    return c->idle ? client->options->connections + client->first_idle + index - client->count
                   : client->first + index;
}

static const unsigned char *pattern_at(const struct load_connection *c, uint64_t position)
{
    uint64_t start = number_of(c) * 7919;
    return c->client->pattern + (start + position) % PATTERN_PERIOD;
}

/* ---- errors ---- */

static void on_closed(struct pier_handle *socket);

static void drop_messages(struct load_connection *c)
{
    c->client->in_flight -= c->in_flight + c->due;
    c->in_flight = 0;
    c->due = 0;
}

/* Loses the connection. `reason` is in words for the first error of all. */
static void lose(struct load_connection *c, int error, const char *reason)
{
    struct load_client *client = c->client;
    if (c->lost || client->phase == LOAD_PHASE_END) {
        return;
    }
    c->lost = true;
    struct load_result *result = client->result;
    result->errors[error]++;
    atomic_fetch_add_explicit(&result->errors_seen, 1, memory_order_relaxed);
    if (result->first_error[0] == '\0') {
        snprintf(result->first_error, sizeof(result->first_error), "connection %llu: %s",
                 (unsigned long long)number_of(c), reason);
    }
    drop_messages(c);
    if (!c->idle && !client->options->churn) {
        client->active--;
    }
    pier_close(&c->socket, on_closed);
    load_client_check_end(client);
}

static void lose_by_system(struct load_connection *c, int64_t error)
{
    lose(c, LOAD_ERROR_SYSTEM + (int)-error, pier_error_text(error));
}

/* ---- sending ---- */

static void on_sent(struct pier_op *op);

static void on_shutdown(struct pier_op *op)
{
    /* If it failed the connection did, which its receive tells. */
    (void)op;
}

/* Sends what was released, or ends the stream after the last answer. Streams are ended only once
 * all answers of all clients are in, whose latency that would disturb. */
static void advance(struct load_connection *c)
{
    const struct load_client *client = c->client;
    bool may_end = client->options->churn || client->phase == LOAD_PHASE_CLOSE;
    if (c->lost || pier_op_pending(&c->send)) {
        return;
    }
    if (c->handed < c->released) {
        uint64_t size = c->released - c->handed;
        if (size > LOAD_SEND_MAX) {
            size = LOAD_SEND_MAX;
        }
        pier_send(&c->socket, &c->send, pattern_at(c, c->handed), (size_t)size, on_sent);
        c->handed += size;
    } else if (c->last && may_end && !c->shut && c->in_flight == 0) {
        c->shut = true;
        pier_shutdown(&c->socket, &c->send, on_shutdown);
    }
}

static void on_sent(struct pier_op *op)
{
    struct load_connection *c = PIER_OWNER(op, struct load_connection, send);
    if (op->result < 0) {
        lose_by_system(c, op->result);
        return;
    }
    advance(c);
}

static void release(struct load_connection *c, uint64_t time_ns)
{
    uint64_t depth = c->client->options->depth;
    uint64_t newest = c->oldest + c->in_flight;
    c->times[newest < depth ? newest : newest - depth] = time_ns;
    c->in_flight++;
    c->released += c->client->options->size;
}

/* Releases a message if there may be one more. */
static bool release_new(struct load_connection *c, uint64_t time_ns)
{
    if (c->last || !load_client_take_message(c->client)) {
        return false;
    }
    release(c, time_ns);
    return true;
}

static void release_due(struct load_connection *c, uint64_t now_ns)
{
    while (c->due > 0 && c->in_flight < c->client->options->depth) {
        /* The schedule lets messages go up to a tick early. */
        uint64_t due_ns = load_client_due_ns(c->client, c->round, index_of(c));
        release(c, due_ns < now_ns ? due_ns : now_ns);
        c->due--;
        c->round++;
    }
}

/* ---- receiving ---- */

static bool verify(struct load_connection *c, const unsigned char *data, size_t size)
{
    if (c->received + size > c->handed) {
        lose(c, LOAD_ERROR_EXTRA_BYTES, "more came back than was sent");
        return false;
    }
    const unsigned char *expected = pattern_at(c, c->received);
    if (memcmp(data, expected, size) == 0) {
        return true;
    }
    size_t wrong = 0;
    while (data[wrong] == expected[wrong]) {
        wrong++;
    }
    char reason[120];
    snprintf(reason, sizeof(reason), "byte %llu came back as 0x%02x instead of 0x%02x",
             (unsigned long long)(c->received + wrong), data[wrong], expected[wrong]);
    lose(c, LOAD_ERROR_WRONG_BYTES, reason);
    return false;
}

/* Counts the messages that are answered in full. */
static uint64_t count_answers(struct load_connection *c, uint64_t now_ns)
{
    struct load_client *client = c->client;
    uint64_t answers = 0;
    while (c->in_flight > 0 && c->received >= c->boundary) {
        histogram_add(&client->result->latency, now_ns - c->times[c->oldest]);
        c->oldest = c->oldest + 1 < client->options->depth ? c->oldest + 1 : 0;
        c->in_flight--;
        c->boundary += client->options->size;
        answers++;
    }
    client->in_flight -= answers;
    if (client->phase == LOAD_PHASE_MEASURE || client->phase == LOAD_PHASE_WARM_UP) {
        uint64_t messages = atomic_load_explicit(&client->result->messages, memory_order_relaxed);
        atomic_store_explicit(&client->result->messages, messages + answers, memory_order_relaxed);
    }
    return answers;
}

static void end_of_stream(struct load_connection *c)
{
    if (c->receive.result < 0) {
        lose_by_system(c, c->receive.result);
    } else if (!c->shut) {
        lose(c, LOAD_ERROR_CLOSED_EARLY, "the peer ended its stream");
    }
    pier_close(&c->socket, on_closed);
}

static void on_receive(struct pier_op *op)
{
    struct load_connection *c = PIER_OWNER(op, struct load_connection, receive);
    struct load_client *client = c->client;
    if (op->result <= 0) {
        end_of_stream(c);
        return;
    }
    if (c->lost || !verify(c, op->data, op->size)) {
        return;
    }
    c->received += op->size;
    uint64_t now_ns = platform_now_ns();
    uint64_t answers = count_answers(c, now_ns);
    if (client->options->churn) {
        c->last = c->last || answers > 0;
    } else if (client->options->rate > 0) {
        release_due(c, now_ns);
    } else {
        while (answers > 0 && release_new(c, now_ns)) {
            answers--;
        }
    }
    advance(c);
    if (client->in_flight == 0) {
        load_client_check_end(client);
    }
}

/* ---- connecting ---- */

/* A local address of its own for every 5,000 connections over loopback. One has some 28,000 ports,
 * and Linux searches them one by one: beyond half of them each connect takes a millisecond. */
static int bind_source(struct load_connection *c)
{
    const struct load_options *options = c->client->options;
    const struct pier_address *to = &options->connect.address;
    if (to->family != PIER_ADDRESS_IPV4 || to->u.ip[0] != 127 ||
        options->connections + options->idle <= LOAD_CONNECTIONS_PER_SOURCE) {
        return 0;
    }
    uint64_t source = 1 + number_of(c) / LOAD_CONNECTIONS_PER_SOURCE;
    struct pier_address from = {.family = PIER_ADDRESS_IPV4};
    from.u.ip[0] = 127;
    from.u.ip[2] = (uint8_t)(source / 250);
    from.u.ip[3] = (uint8_t)(1 + source % 250);
    return pier_bind(&c->socket, &from);
}

static void fail_to_connect(struct load_connection *c, int64_t error)
{
    struct load_client *client = c->client;
    const char *remedy = "";
    if (error == PIER_ECONNREFUSED || error == PIER_ENOENT) {
        remedy = ": is the server running, and listening there?";
    } else if (error == PIER_EADDRNOTAVAIL) {
        remedy = ": no address of this machine leads there, or the local ports are used up (then "
                 "widen net.ipv4.ip_local_port_range or open fewer connections)";
    } else if (error == PIER_ETIMEDOUT) {
        remedy = ": nothing answers there; is the address right?";
    }
    load_client_fail(client, "cannot connect to %s: %s%s (connection %llu of %llu)",
                     client->options->connect.text, pier_error_text(error), remedy,
                     (unsigned long long)number_of(c) + 1,
                     (unsigned long long)(client->options->connections + client->options->idle));
}

static void on_connected(struct pier_op *op)
{
    struct load_connection *c = PIER_OWNER(op, struct load_connection, send);
    struct load_client *client = c->client;
    bool churns = client->options->churn && !c->idle;
    if (op->result < 0) {
        if (client->phase == LOAD_PHASE_FINISH || client->phase == LOAD_PHASE_END) {
            pier_close(&c->socket, on_closed);
        } else if (churns) {
            lose_by_system(c, op->result);
        } else {
            fail_to_connect(c, op->result);
        }
        return;
    }
    pier_receive_each(&c->socket, &c->receive, on_receive);
    if (churns) {
        advance(c);
    } else {
        load_client_connected(client);
    }
}

void load_connection_open(struct load_client *client, uint64_t index)
{
    struct load_connection *c = &client->connections[index];
    bool churns = client->options->churn && !c->idle;
    memset(&c->socket, 0, sizeof(c->socket));
    c->released = c->handed = c->received = 0;
    c->boundary = client->options->size;
    c->shut = c->lost = c->last = false;
    if (churns && !release_new(c, platform_now_ns())) {
        return;
    }
    int error = pier_open_socket(client->loop, &c->socket, &client->options->connect.address);
    if (error == PIER_EMFILE) {
        load_client_fail(
            client,
            "cannot open connection %llu of %llu: no more than %llu descriptors may be open in a "
            "process: %s%s",
            (unsigned long long)number_of(c) + 1,
            (unsigned long long)(client->options->connections + client->options->idle),
            (unsigned long long)platform_raise_descriptor_limit(), platform_descriptor_remedy(),
            client->options->can_spread &&
                    client->shared->clients_count + client->options->threads <=
                        client->options->connections
                ? ", or use more --processes"
                : "");
        return;
    }
    if (error < 0) {
        load_client_fail(client, "cannot open a socket: %s", pier_error_detail());
        return;
    }
    client->open++;
    error = bind_source(c);
    if (error < 0) {
        load_client_fail(client, "cannot use a local address: %s", pier_error_detail());
        return;
    }
    c->send.timeout_ns = CONNECT_TIME;
    pier_connect(&c->socket, &c->send, &client->options->connect.address, on_connected);
}

static void on_retry(struct pier_op *op)
{
    struct load_connection *c = PIER_OWNER(op, struct load_connection, receive);
    if (op->result == 0 && c->client->phase < LOAD_PHASE_FINISH) {
        load_connection_open(c->client, index_of(c));
    }
}

static void on_closed(struct pier_handle *socket)
{
    struct load_connection *c = PIER_OWNER(socket, struct load_connection, socket);
    struct load_client *client = c->client;
    client->open--;
    load_client_closed(client);
    if (!client->options->churn || c->idle || client->phase >= LOAD_PHASE_FINISH) {
        return;
    }
    if (c->lost) {
        pier_timer(client->loop, &c->receive, RETRY_TIME, on_retry);
    } else {
        load_connection_open(client, index_of(c));
    }
}

/* ---- what the client asks for ---- */

bool load_connections_new(struct load_client *client)
{
    uint64_t total = client->count + client->idle;
    uint64_t depth = client->options->depth;
    client->connections = tool_allocate(total > 0 ? total : 1, sizeof(*client->connections));
    client->times = tool_allocate(client->count > 0 ? client->count * depth : 1,
                                  sizeof(*client->times));
    if (client->connections == NULL || client->times == NULL) {
        return false;
    }
    for (uint64_t i = 0; i < total; i++) {
        struct load_connection *c = &client->connections[i];
        c->client = client;
        c->idle = i >= client->count;
        c->times = c->idle ? NULL : client->times + i * depth;
    }
    return true;
}

void load_connections_free(struct load_client *client)
{
    free(client->connections);
    free(client->times);
}

void load_connection_begin(struct load_client *client, uint64_t index)
{
    struct load_connection *c = &client->connections[index];
    if (c->lost) {
        return;
    }
    uint64_t now_ns = platform_now_ns();
    for (uint64_t i = 0; i < client->options->depth; i++) {
        release_new(c, now_ns);
    }
    advance(c);
}

void load_connection_due(struct load_client *client, uint64_t index, uint64_t now_ns)
{
    struct load_connection *c = &client->connections[index];
    if (c->lost || !load_client_take_message(client)) {
        return;
    }
    if (c->due == 0) {
        c->round = client->round;
    }
    c->due++;
    release_due(c, now_ns);
    advance(c);
}

void load_connection_finish(struct load_client *client, uint64_t index, uint64_t now_ns)
{
    struct load_connection *c = &client->connections[index];
    c->last = true;
    if (c->lost || !pier_handle_is_open(&c->socket)) {
        pier_cancel(&c->receive); /* the timer of a new attempt */
        return;
    }
    if (pier_op_pending(&c->send) && !pier_op_pending(&c->receive)) {
        drop_messages(c); /* still connecting */
        pier_close(&c->socket, on_closed);
        return;
    }
    /* The age of what is due stands for the latency that it would have had at least. */
    for (; c->due > 0; c->due--) {
        uint64_t due_ns = load_client_due_ns(client, c->round++, index);
        histogram_add(&client->result->latency, now_ns > due_ns ? now_ns - due_ns : 0);
        client->result->unsent++;
        client->in_flight--;
    }
    advance(c);
}

void load_connection_close(struct load_client *client, uint64_t index)
{
    struct load_connection *c = &client->connections[index];
    if (pier_handle_is_open(&c->socket)) {
        advance(c);
    }
}

void load_connection_give_up(struct load_client *client, uint64_t index, uint64_t now_ns)
{
    struct load_connection *c = &client->connections[index];
    struct load_result *result = client->result;
    if (c->lost || !pier_handle_is_open(&c->socket)) {
        return;
    }
    if (c->in_flight == 0) {
        if (!c->shut) {
            return; /* the answers of others are what was waited for */
        }
        lose(c, LOAD_ERROR_NOT_CLOSED, "the peer did not end its stream after we had");
        return;
    }
    uint64_t depth = client->options->depth;
    for (uint64_t i = 0; i < c->in_flight; i++) {
        histogram_add(&result->latency, now_ns - c->times[(c->oldest + i) % depth]);
    }
    result->errors[LOAD_ERROR_UNANSWERED] += c->in_flight - 1; /* and one by lose() */
    lose(c, LOAD_ERROR_UNANSWERED, "messages were not answered");
}
