/* drain.c - pier_loop_drain() as the end of a program: its own completions close their handles with
 * the functions that free them, what is left is closed then, and it ends whatever callbacks do.
 *
 * What it ends of each kind of op is in loop.c. */

#include "suite.h"

#include <stdlib.h>

/* ---- a program of the shape that README.md has ----------------------------------------------- */

static unsigned connections, freed;

struct echo {
    struct pier_handle socket;
    struct pier_op receive, send;
};

static void on_received(struct pier_op *op);

static void on_closed(struct pier_handle *socket)
{
    struct echo *echo = PIER_OWNER(socket, struct echo, socket);
    CHECK(!pier_op_pending(&echo->receive));
    CHECK(!pier_op_pending(&echo->send));
    freed++;
    free(echo);
}

static void on_sent(struct pier_op *op)
{
    struct echo *echo = PIER_OWNER(op, struct echo, send);
    if (op->result < 0) {
        pier_close(&echo->socket, on_closed);
    } else {
        pier_receive_lent(&echo->socket, &echo->receive, on_received);
    }
}

static void on_received(struct pier_op *op)
{
    struct echo *echo = PIER_OWNER(op, struct echo, receive);
    if (op->result <= 0) {
        pier_close(&echo->socket, on_closed);
    } else {
        pier_send(&echo->socket, &echo->send, op->data, op->size, on_sent);
    }
}

static void on_accepted(struct pier_op *op)
{
    struct echo *echo = calloc(1, sizeof(*echo));
    if (echo != NULL && pier_accept_take(op, NULL, &echo->socket) == 0) {
        connections++;
        pier_receive_lent(&echo->socket, &echo->receive, on_received);
    } else {
        free(echo);
    }
}

/* Stopped at each of some moments: with clients that are silent, that have sent, that don't read
 * their echo, and that wait to be accepted. */
static void echo_server(void)
{
    static const char noise[65536] = "";
    for (int moment = 0; moment < 6; moment++) {
        struct pier_loop *loop = test_loop();
        struct pier_address address = stream_address(STREAM_TCP4);
        struct pier_handle listener = {0};
        struct pier_op accept = {0};
        pier_descriptor clients[12];
        connections = freed = 0;
        CHECK_OK(pier_listen(loop, &listener, &address, NULL));
        CHECK_OK(pier_local_address(&listener, &address));
        pier_accept_each(&listener, &accept, on_accepted);
        for (unsigned i = 0; i < COUNT_OF(clients); i++) {
            clients[i] = raw_connect(&address);
            if (moment > 0) {
                RUN_UNTIL(loop, connections == i + 1);
            }
            if (i % 3 == 1) {
                raw_send(clients[i], "echo", 4);
            }
        }
        for (int round = 0; round < moment * 5; round++) {
            for (unsigned i = 2; i < COUNT_OF(clients); i += 3) {
                raw_send_now(clients[i], noise, sizeof(noise)); /* its echo is never read */
            }
            run(loop, PIER_RUN_NO_WAIT);
        }
        CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
        CHECK_INT(freed, ==, connections);
        CHECK(moment == 0 || connections == COUNT_OF(clients));
        CHECK(!pier_handle_is_open(&listener)); /* which nobody closed */
        CHECK(!pier_op_pending(&accept));
        CHECK_INT(stats_of(loop).handles_open, ==, 0);
        CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
        test_loop_free(loop);
        for (unsigned i = 0; i < COUNT_OF(clients); i++) {
            raw_close(clients[i]);
        }
    }
}

/* ---- what is left ---------------------------------------------------------------------------- */

static void count_closed(struct tracked_handle *handle)
{
    (*(unsigned *)handle->context)++;
}

static void close_when_ended(struct tracked *tracked)
{
    if ((tracked->flags & PIER_MORE) == 0 && !tracked->owner->closing) {
        CHECK(tracked->result < 0);
        tracked_close(tracked->owner, count_closed);
    }
}

/* Handles whose completions close them, handles that nobody closes, with ops and without, handles
 * that are closing already, and one that closes gracefully: all are closed, and each function that
 * was given is called. */
static void closes_what_is_left(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0}, c = {0}, d = {0}, closing = {0}, polite = {0};
    struct tracked receive = {0}, idle = {0};
    unsigned closed = 0;
    char byte;
    const pier_descriptor peers[] = {
        tracked_raw_pair(loop, STREAM_TCP4, &a),       tracked_raw_pair(loop, STREAM_PAIR, &b),
        tracked_raw_pair(loop, STREAM_PAIR, &c),       tracked_raw_pair(loop, STREAM_TCP4, &d),
        tracked_raw_pair(loop, STREAM_TCP4, &closing), tracked_raw_pair(loop, STREAM_TCP4, &polite),
    };
    a.context = closing.context = polite.context = &closed;
    tracked_receive_each(&a, &receive, close_when_ended);
    tracked_receive(&d, &idle, &byte, 1, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_close_gracefully(&polite, 3600 * PIER_SECOND, count_closed);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_close(&closing, count_closed);
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(closed, ==, 3);
    CHECK_INT(receive.result, ==, PIER_ECANCELED);
    CHECK_INT(idle.result, ==, PIER_ECANCELED);
    CHECK(!pier_handle_is_open(&b.handle) && !pier_handle_is_open(&c.handle));
    CHECK_INT(stats_of(loop).handles_open, ==, 0);
    for (size_t i = 0; i < COUNT_OF(peers); i++) {
        raw_close(peers[i]);
    }
    CHECK_INT(drain(loop, 0), ==, 0); /* and once more is nothing */
}

/* ---- callbacks that never have enough -------------------------------------------------------- */

struct insatiable {
    struct tracked_handle handle;
    struct tracked ops[4];
    unsigned submits, closed;
    char bytes[4];
};

static void submit_again(struct tracked *tracked)
{
    struct insatiable *insatiable = tracked->context;
    const unsigned i = (unsigned)(tracked - insatiable->ops);
    if ((tracked->flags & PIER_MORE) != 0 || tracked->result == PIER_ECLOSED) {
        return;
    }
    insatiable->submits++;
    if (i == 0) {
        tracked_receive_each(&insatiable->handle, tracked, submit_again);
    } else {
        tracked_receive(&insatiable->handle, tracked, &insatiable->bytes[i], 1, submit_again);
    }
}

/* Each cancel is answered with another op: after some rounds the handle is closed. */
static void ends_though_ops_are_submitted_again(void)
{
    struct pier_loop *loop = test_loop();
    static struct insatiable all[5];
    pier_descriptor peers[5];
    memset(all, 0, sizeof(all));
    for (unsigned i = 0; i < 5; i++) {
        peers[i] = tracked_raw_pair(loop, i % 2 == 0 ? STREAM_TCP4 : STREAM_PAIR, &all[i].handle);
        for (unsigned j = 0; j < 4; j++) {
            all[i].ops[j].context = &all[i];
            if (j == 0) {
                tracked_receive_each(&all[i].handle, &all[i].ops[j], submit_again);
            } else {
                tracked_receive(&all[i].handle, &all[i].ops[j], &all[i].bytes[j], 1, submit_again);
            }
        }
    }
    run(loop, PIER_RUN_NO_WAIT);
    /* Drain closes without telling tracked.c. */
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    for (unsigned i = 0; i < 5; i++) {
        CHECK(!pier_handle_is_open(&all[i].handle.handle));
        CHECK_INT(all[i].submits, >=, 4);
        CHECK_INT(all[i].submits, <=, 4 * 40);
        for (unsigned j = 0; j < 4; j++) {
            CHECK_INT(all[i].ops[j].result, ==, PIER_ECLOSED);
        }
        raw_close(peers[i]);
    }
}

struct undying {
    struct tracked ops[2];
    bool give_up;
    unsigned submits;
};

static void post_again(struct tracked *tracked)
{
    struct undying *undying = tracked->context;
    if (!undying->give_up) {
        undying->submits++;
        tracked_post(tracked->loop, tracked, post_again);
    }
}

static void wait_again(struct tracked *tracked)
{
    struct undying *undying = tracked->context;
    if (!undying->give_up) {
        undying->submits++;
        tracked_timer(tracked->loop, tracked, 3600 * PIER_SECOND, wait_again);
    }
}

/* Ops of no handle can go on for ever: the time limit ends it, with everything as it was. */
static void gives_up_in_time(void)
{
    struct pier_loop *loop = test_loop();
    struct undying undying = {.give_up = false};
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    undying.ops[0].context = undying.ops[1].context = &undying;
    tracked_receive_each(&a, &receive, NULL);
    tracked_post(loop, &undying.ops[0], post_again);
    tracked_timer(loop, &undying.ops[1], 3600 * PIER_SECOND, wait_again);
    const uint64_t begun = platform_now();
    CHECK_REFUSED(drain(loop, 50 * PIER_MILLISECOND), PIER_ETIMEDOUT);
    CHECK_INT(platform_now() - begun, >=, 50 * PIER_MILLISECOND);
    CHECK_INT(undying.submits, >=, 2);
    CHECK(undying.ops[1].in_flight);
    CHECK_INT(receive.result, ==, PIER_ECANCELED);
    CHECK_REFUSED(drain(loop, 0), PIER_ETIMEDOUT);
    undying.give_up = true;
    CHECK_INT(drain(loop, PIER_FOREVER), ==, 0);
    CHECK(!pier_handle_is_open(&a.handle));
    raw_close(peer);
}

/* A peer that neither reads nor ends holds up nobody: sends are cancelled, and a graceful close is
 * closed at once, with the function that it was given. */
static void sends_to_nobody(void)
{
    struct pier_loop *loop = test_loop();
    static char big[4 << 20];
    struct tracked_handle a = {0}, b = {0};
    struct tracked sends[3] = {0};
    unsigned closed = 0;
    const pier_descriptor far = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const pier_descriptor near = tracked_raw_pair(loop, STREAM_PAIR, &b);
    a.context = b.context = &closed;
    tracked_send(&a, &sends[0], big, sizeof(big), close_when_ended);
    tracked_send(&b, &sends[1], big, sizeof(big), NULL);
    tracked_send(&b, &sends[2], big, sizeof(big), NULL);
    run_quietly(loop, 2);
    tracked_close_gracefully(&b, 3600 * PIER_SECOND, count_closed);
    run_quietly(loop, 2);
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(sends[0].result, ==, PIER_ECANCELED);
    CHECK_INT(sends[1].result, <, 0);
    CHECK_INT(sends[2].result, <, 0);
    CHECK_INT(closed, ==, 2);
    raw_close(far);
    raw_close(near);
}

const struct test drain_tests[] = {
    TEST(drain, echo_server),
    TEST(drain, closes_what_is_left),
    TEST(drain, ends_though_ops_are_submitted_again),
    TEST(drain, gives_up_in_time),
    TEST(drain, sends_to_nobody),
    TEST_END,
};
