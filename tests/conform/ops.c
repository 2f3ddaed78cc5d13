/* ops.c - what holds for every op: one completion, inside the run, never nested, in order,
 * errors too.
 *
 * Most of this is checked by tracked.c in every other test as well; here are the cases that put
 * it to the test on purpose. */

#include "suite.h"

/* Each kind of op that can complete at once does so inside the run, not inside the submit
 * (tracked.c checks that). */
static void nothing_completes_at_submit(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked send = {0}, receive = {0}, timer = {0}, post = {0}, shutdown = {0};
    char byte = 'x', got = 0;
    tracked_pair(loop, STREAM_PAIR, &a, &b);
    tracked_send(&a, &send, &byte, 1, NULL);
    tracked_shutdown(&a, &shutdown, NULL);
    tracked_receive(&b, &receive, &got, 1, NULL);
    tracked_timer(loop, &timer, 0, NULL);
    tracked_post(loop, &post, NULL);
    CHECK_INT(send.completions + shutdown.completions + receive.completions + timer.completions +
                  post.completions,
              ==, 0);
    RUN_UNTIL(loop, !send.in_flight && !shutdown.in_flight && !receive.in_flight &&
                        !timer.in_flight && !post.in_flight);
    CHECK_INT(send.result, ==, 1);
    CHECK_INT(receive.result, ==, 1);
    CHECK_INT(got, ==, 'x');
    close_and_wait(&a);
    close_and_wait(&b);
}

static void exactly_one_completion(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked sends[50] = {0}, receives[50] = {0};
    char got[50];
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    for (int i = 0; i < 50; i++) {
        tracked_receive(&b, &receives[i], &got[i], 1, NULL);
        tracked_send(&a, &sends[i], &"0123456789"[i % 10], 1, NULL);
    }
    while (tracked_in_flight() > 0) {
        run(loop, PIER_RUN_ONCE);
    }
    run_quietly(loop, 20);
    for (int i = 0; i < 50; i++) {
        CHECK_INT(sends[i].completions, ==, 1);
        CHECK_INT(receives[i].completions, ==, 1);
        CHECK_INT(got[i], ==, '0' + i % 10);
    }
    close_and_wait(&a);
    close_and_wait(&b);
}

struct chain {
    struct tracked op;
    struct pier_loop *loop;
    int left;
};

static void continue_chain(struct tracked *tracked)
{
    struct chain *chain = PIER_OWNER(tracked, struct chain, op);
    if (--chain->left > 0) {
        if (chain->left % 100 != 0) {
            tracked_post(chain->loop, tracked, continue_chain);
        } else {
            tracked_timer(chain->loop, tracked, 0, continue_chain);
        }
    }
}

/* Deep enough to overflow the stack if completions were called from submits. */
static void resubmit_in_callback_does_not_nest(void)
{
    struct chain chain = {.loop = test_loop(), .left = 100000 / (int)test_slowness()};
    tracked_timer(chain.loop, &chain.op, 0, continue_chain);
    RUN_UNTIL(chain.loop, chain.left == 0);
    CHECK(!chain.op.in_flight);
}

struct self_send {
    struct tracked_handle a, b;
    struct tracked send, receive;
    char out, in;
    int left;
};

static void on_self_received(struct tracked *tracked)
{
    struct self_send *self = PIER_OWNER(tracked, struct self_send, receive);
    if (--self->left > 0) {
        tracked_receive(&self->b, tracked, &self->in, 1, on_self_received);
        CHECK(!self->send.in_flight);
        tracked_send(&self->a, &self->send, &self->out, 1, NULL);
    }
}

/* A socket that is ready all the time: the submit could do all the work at once. */
static void ready_io_does_not_nest(void)
{
    struct pier_loop *loop = test_loop();
    struct self_send self = {.left = 20000 / (int)test_slowness()};
    tracked_pair(loop, STREAM_PAIR, &self.a, &self.b);
    tracked_receive(&self.b, &self.receive, &self.in, 1, on_self_received);
    tracked_send(&self.a, &self.send, &self.out, 1, NULL);
    RUN_UNTIL(loop, self.left == 0);
    close_and_wait(&self.a);
    close_and_wait(&self.b);
}

static void zero_size_completes_at_once(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked send = {0}, receive = {0}, vectored = {0};
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    tracked_receive(&b, &receive, NULL, 0, NULL);
    tracked_send(&a, &send, NULL, 0, NULL);
    tracked_send_vectored(&a, &vectored, NULL, 0, NULL);
    CHECK_INT(wait_for(&receive), ==, 0);
    CHECK((receive.flags & PIER_EOF) == 0);
    CHECK_INT(wait_for(&send), ==, 0);
    CHECK_INT(wait_for(&vectored), ==, 0);
    close_and_wait(&a);
    close_and_wait(&b);
}

static void zero_size_keeps_its_place(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked first = {0}, empty = {0}, last = {0};
    char one, two;
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    tracked_receive(&b, &first, &one, 1, NULL);
    tracked_receive(&b, &empty, NULL, 0, NULL);
    tracked_receive(&b, &last, &two, 1, NULL);
    run_quietly(loop, 20);
    CHECK(empty.in_flight);
    send_all(&a, "12", 2);
    CHECK_INT(wait_for(&last), ==, 1);
    CHECK_INT(empty.result, ==, 0);
    CHECK(first.sequence < empty.sequence);
    CHECK(empty.sequence < last.sequence);
    CHECK_INT(one, ==, '1');
    CHECK_INT(two, ==, '2');
    close_and_wait(&a);
    close_and_wait(&b);
}

/* What is wrong from the start is a completion like any other. */
static void error_at_submit_is_queued(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, socket = {0};
    struct tracked receive = {0}, send = {0}, poll = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    char byte = 0;
    tracked_open_socket(loop, &socket, &address);
    tracked_receive(&socket, &receive, &byte, 1, NULL);
    tracked_send(&socket, &send, &byte, 1, NULL);
    tracked_poll(loop, &poll, -1, PIER_READABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_EBADF);
    CHECK_INT(wait_for(&receive), ==, PIER_ENOTCONN);
    CHECK_INT(wait_for(&send), <, 0);
    CHECK(send.result == PIER_ENOTCONN || send.result == PIER_EPIPE);
    close_and_wait(&socket);
    close_and_wait(&listener);
}

static void free_owner(struct tracked *tracked)
{
    struct tracked **owned = tracked->context;
    memset(tracked, 0xa5, sizeof(*tracked));
    *owned = NULL;
}

/* In the terminal callback the op is the caller's: here its memory is overwritten there. */
static void op_may_be_freed_in_its_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked timer = {0}, send = {0}, receive = {0}, post = {0};
    struct tracked *owned[4] = {&timer, &send, &receive, &post};
    char byte = 0, got;
    for (int i = 0; i < 4; i++) {
        owned[i]->context = &owned[i];
    }
    tracked_pair(loop, STREAM_PAIR, &a, &b);
    tracked_timer(loop, &timer, 0, free_owner);
    tracked_receive(&b, &receive, &got, 1, free_owner);
    tracked_send(&a, &send, &byte, 1, free_owner);
    tracked_post(loop, &post, free_owner);
    RUN_UNTIL(loop, owned[0] == NULL && owned[1] == NULL && owned[2] == NULL && owned[3] == NULL);
    run_quietly(loop, 5);
    const struct tracked *freed[4] = {&timer, &send, &receive, &post};
    for (int i = 0; i < 4; i++) {
        for (size_t at = 0; at < sizeof(struct tracked); at++) {
            CHECK_INT(((const unsigned char *)freed[i])[at], ==, 0xa5);
        }
    }
    close_and_wait(&a);
    close_and_wait(&b);
}

static void pending_tells_what_is_in_flight(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0};
    CHECK(!pier_op_pending(&timer.op));
    tracked_timer(loop, &timer, 1, NULL);
    CHECK(pier_op_pending(&timer.op));
    wait_for(&timer);
    CHECK(!pier_op_pending(&timer.op));
    CHECK_INT(pier_op_token(&timer.op), ==, 0);
}

static void sizes_are_as_promised(void)
{
    CHECK_INT(sizeof(struct pier_op), <=, sizeof(void *) == 8 ? 144 : 112);
#if UINTPTR_MAX == UINT64_MAX && !defined(_WIN32)
    CHECK_INT(sizeof(struct pier_op), <=, 112);
#endif
    CHECK_INT(sizeof(struct pier_handle), <=, 112);
}

const struct test ops_tests[] = {
    TEST(ops, nothing_completes_at_submit),
    TEST(ops, exactly_one_completion),
    TEST(ops, resubmit_in_callback_does_not_nest),
    TEST(ops, ready_io_does_not_nest),
    TEST(ops, zero_size_completes_at_once),
    TEST(ops, zero_size_keeps_its_place),
    TEST(ops, error_at_submit_is_queued),
    TEST(ops, op_may_be_freed_in_its_callback),
    TEST(ops, pending_tells_what_is_in_flight),
    TEST(ops, sizes_are_as_promised),
    TEST_END,
};
