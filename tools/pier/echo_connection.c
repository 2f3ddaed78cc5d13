/* SPDX-License-Identifier: MIT */
/* echo_connection.c - what `pier echo` does for each connection and each message.
 *
 * With lent buffers (the default) each piece that arrives is sent back from the buffer it arrived
 * in. The send has no completion function as long as nothing else is in flight, so that a message
 * costs one callback. When a piece arrives while the one before it is still being sent it queues
 * behind, in a send that tells when it is done. A connection may have BEHIND_MAX of these; then
 * receiving pauses until half of them are gone, and the kernel's window holds the peer back. Once
 * many are waiting in all, each connection has only one, so that the pool of lent buffers lasts
 * for the others however many peers don't read.
 *
 * With --receive lent a connection alternates between receiving into a lent buffer and sending that
 * buffer back, each with a completion function: the way of README.md and examples/echo_server.c.
 *
 * With memory of its own (--receive memory) a connection alternates between receiving and sending.
 * Where the kernel completes operations each send has a completion function. Where the library
 * sends it usually is done when pier_send() returns, and needs none.
 *
 * An end of stream is answered by the end of ours once everything before it is sent. An error
 * closes the connection at once. */

#include "echo.h"

/* Out of line, so that the usual case has no registers to save for it. */
#if defined(__GNUC__)
#define ECHO_COLD __attribute__((cold, noinline))
#else
#define ECHO_COLD
#endif

/* MSVC has the C11 word in its latest versions at most. */
#if defined(_MSC_VER)
#define ECHO_THREAD_LOCAL __declspec(thread)
#else
#define ECHO_THREAD_LOCAL _Thread_local
#endif

enum {
    MEMORY_SIZE = 16 * 1024,
    BEHIND_MAX = 4,
    BEHIND_MANY = 4 * 1024 /* of the pool of 16384 buffers, see echo_server.c */
};

struct echo_connection {
    struct pier_handle socket;
    struct pier_op receive; /* after the end of stream: the shutdown */
    struct pier_op send;
    uint16_t behind; /* sends that wait behind `send` or behind another */
    bool paused;
    unsigned char memory[]; /* --receive memory: MEMORY_SIZE bytes */
};

/* Not in the connection, since most connections never need it. */
struct echo_send {
    struct pier_op op;
    struct echo_connection *connection;
};

static ECHO_THREAD_LOCAL struct echo_worker *worker;

void echo_connection_use(struct echo_worker *of_this_thread)
{
    worker = of_this_thread;
}

size_t echo_connection_size(enum echo_receive receive, size_t *cleared)
{
    *cleared = sizeof(struct echo_connection);
    return sizeof(struct echo_connection) + (receive == ECHO_RECEIVE_MEMORY ? MEMORY_SIZE : 0);
}

size_t echo_send_size(void)
{
    return sizeof(struct echo_send);
}

static void on_closed(struct pier_handle *socket)
{
    slab_give(worker->connections, PIER_OWNER(socket, struct echo_connection, socket));
}

static void on_shutdown(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, receive);
    pier_close(&c->socket, on_closed);
}

/* Receiving is over: c->receive is free again. */
static void finish(struct echo_connection *c)
{
    c->paused = false;
    if (c->receive.result == 0 && (c->behind > 0 || pier_op_pending(&c->send))) {
        pier_shutdown(&c->socket, &c->receive, on_shutdown);
    } else {
        pier_close(&c->socket, on_closed);
    }
}

/* ---- lent buffers ---- */

static void on_sent_behind(struct pier_op *op)
{
    struct echo_send *send = PIER_OWNER(op, struct echo_send, op);
    struct echo_connection *c = send->connection;
    slab_give(&worker->sends, send);
    worker->behind--;
    c->behind--;
    if (c->paused && (c->behind == BEHIND_MAX / 2 || c->behind == 0)) {
        c->paused = false;
        pier_resume(&c->receive);
    }
}

static void send_behind(struct echo_connection *c)
{
    struct echo_send *send = slab_take(&worker->sends);
    if (send == NULL) {
        /* Without memory the stream can't go on; a gap in it would be worse than its end. */
        pier_close(&c->socket, on_closed);
        return;
    }
    send->connection = c;
    pier_send(&c->socket, &send->op, c->receive.data, c->receive.size, on_sent_behind);
    worker->behind++;
    c->behind++;
    if (c->behind == BEHIND_MAX || worker->behind > BEHIND_MANY) {
        c->paused = true;
        pier_pause(&c->receive);
    }
}

/* What isn't one message, received and sent back at once. */
static ECHO_COLD void on_other(struct echo_connection *c)
{
    if (c->receive.result <= 0) {
        finish(c);
    } else {
        send_behind(c);
    }
}

static void on_receive(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, receive);
    if (op->result <= 0 || pier_op_pending(&c->send)) {
        on_other(c);
        return;
    }
    pier_send(&c->socket, &c->send, op->data, op->size, NULL);
}

/* ---- lent buffers, one receive at a time ---- */

static void on_lent(struct pier_op *op);

static void on_lent_sent(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, send);
    if (op->result < 0) {
        pier_close(&c->socket, on_closed);
    } else {
        pier_receive_lent(&c->socket, &c->receive, on_lent);
    }
}

static void on_lent(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, receive);
    if (op->result <= 0) {
        on_other(c);
    } else {
        pier_send(&c->socket, &c->send, op->data, op->size, on_lent_sent);
    }
}

/* ---- memory of its own ---- */

static void on_filled(struct pier_op *op);

static void on_echoed(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, send);
    if (op->result < 0) {
        pier_close(&c->socket, on_closed);
        return;
    }
    pier_receive(&c->socket, &c->receive, c->memory, MEMORY_SIZE, on_filled);
}

static void on_sent_before(struct pier_op *op)
{
    struct echo_send *send = PIER_OWNER(op, struct echo_send, op);
    struct echo_connection *c = send->connection;
    int64_t result = op->result;
    slab_give(&worker->sends, send);
    if (result < 0) {
        pier_close(&c->socket, on_closed);
        return;
    }
    pier_receive(&c->socket, &c->receive, c->memory, MEMORY_SIZE, on_filled);
}

/* The send has no completion function: a send of nothing behind it has. */
static ECHO_COLD void wait_for_send(struct echo_connection *c)
{
    struct echo_send *send = slab_take(&worker->sends);
    if (send == NULL) {
        pier_close(&c->socket, on_closed);
        return;
    }
    send->connection = c;
    pier_send(&c->socket, &send->op, c->memory, 0, on_sent_before);
}

static void on_filled(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, receive);
    if (op->result <= 0) {
        on_other(c);
        return;
    }
    if (worker->completes) {
        pier_send(&c->socket, &c->send, c->memory, (size_t)op->result, on_echoed);
        return;
    }
    pier_send(&c->socket, &c->send, c->memory, (size_t)op->result, NULL);
    if (pier_op_pending(&c->send)) {
        wait_for_send(c);
    } else {
        pier_receive(&c->socket, &c->receive, c->memory, MEMORY_SIZE, on_filled);
    }
}

/* ---- beginning ---- */

static void start(struct echo_connection *c)
{
    switch ((enum echo_receive)worker->server->options->receive) {
    case ECHO_RECEIVE_EACH: pier_receive_each(&c->socket, &c->receive, on_receive); break;
    case ECHO_RECEIVE_LENT: pier_receive_lent(&c->socket, &c->receive, on_lent); break;
    case ECHO_RECEIVE_MEMORY:
        pier_receive(&c->socket, &c->receive, c->memory, MEMORY_SIZE, on_filled);
        break;
    }
}

void echo_connection_accept(struct echo_worker *acceptor)
{
    struct echo_connection *c = slab_take(acceptor->connections);
    if (c == NULL) {
        return; /* the library closes what isn't taken */
    }
    if (pier_accept_take(&acceptor->accept, NULL, &c->socket) < 0) {
        slab_give(acceptor->connections, c);
        return;
    }
    start(c);
}

static void on_handed_over(struct pier_op *op)
{
    struct echo_connection *c = PIER_OWNER(op, struct echo_connection, receive);
    if (pier_attach(&c->socket, worker->loop) < 0) {
        pier_handle_discard(&c->socket);
        slab_give(worker->connections, c);
        return;
    }
    start(c);
}

void echo_connection_hand_over(struct echo_worker *acceptor, struct echo_worker *target)
{
    struct echo_connection *c = slab_take(acceptor->connections);
    if (c == NULL) {
        return;
    }
    if (pier_accept_detach(&acceptor->accept, &c->socket) < 0) {
        slab_give(acceptor->connections, c);
        return;
    }
    pier_post(target->loop, &c->receive, on_handed_over);
}
