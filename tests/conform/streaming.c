/* streaming.c - streams that keep their buffers full, whose program changes from one way of
 * receiving to another while more of them have data than buffers are ready. */

#include "suite.h"

#define STREAMS 300 /* more than uring has ready for all */
#define TOTAL 70000

struct flow {
    struct tracked_handle handle;
    struct tracked each, one;
    pier_descriptor peer;
    size_t received;
    bool is_over;
};

static unsigned char data[TOTAL];

static void take(struct flow *flow, const struct pier_op *op)
{
    CHECK_INT(flow->received + op->size, <=, TOTAL);
    CHECK_BYTES(op->data, data + flow->received, op->size);
    flow->received += op->size;
}

static void note_single(struct tracked *tracked)
{
    struct flow *flow = PIER_OWNER(tracked, struct flow, one);
    CHECK_INT(tracked->op.result, >, 0);
    take(flow, &tracked->op);
    flow->is_over = true;
}

static void note_each(struct tracked *tracked)
{
    struct flow *flow = PIER_OWNER(tracked, struct flow, each);
    if (tracked->op.flags & PIER_MORE) {
        take(flow, &tracked->op);
        tracked_cancel(&flow->each);
    } else {
        flow->is_over = true;
    }
}

static void count_slow(void *context, struct pier_loop *loop, pier_op_fn *fn, uint64_t took_ns)
{
    (void)context;
    (void)loop;
    (void)fn;
    (void)took_ns;
}

/* All at once, round by round, so that the kernel has no buffer for some of them. */
static void single_receives(bool timed, bool each_first)
{
    static struct flow flows[STREAMS];
    struct pier_loop_options options = test_options();
    options.buffer_size = 0; /* large ones too */
    options.slow_callback_ns = timed ? 3600 * PIER_SECOND : 0;
    options.slow_callback = timed ? count_slow : NULL;
    struct pier_loop *loop = test_loop_with(&options);
    memset(flows, 0, sizeof(flows));
    pattern_fill(data, TOTAL, 83, 0);
    for (int i = 0; i < STREAMS; i++) {
        struct flow *flow = &flows[i];
        flow->peer = tracked_raw_pair(loop, STREAM_TCP4, &flow->handle);
        raw_send(flow->peer, data, TOTAL);
    }
    bool goes_on = true;
    for (int round = 0; goes_on; round++) {
        goes_on = false;
        for (int i = 0; i < STREAMS; i++) {
            struct flow *flow = &flows[i];
            flow->is_over = flow->received == TOTAL;
            goes_on = goes_on || !flow->is_over;
            if (flow->is_over) {
                continue;
            }
            if (round == 0 && each_first) {
                tracked_receive_each(&flow->handle, &flow->each, note_each);
            } else {
                tracked_receive_lent(&flow->handle, &flow->one, note_single);
            }
        }
        for (int i = 0; i < STREAMS; i++) {
            RUN_UNTIL(loop, flows[i].is_over);
        }
    }
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    for (int i = 0; i < STREAMS; i++) {
        close_and_wait(&flows[i].handle);
        raw_close(flows[i].peer);
    }
    test_loop_free(loop);
}

static void single_receives_in_a_crowd(void)
{
    for (int i = 0; i < 4; i++) {
        single_receives((i & 1) != 0, (i & 2) != 0);
    }
}

/* The system doesn't promise memory for all buffers that there may be: there are fewer. */
static void *refuse_much(void *context, void *memory, size_t old_size, size_t new_size)
{
    return new_size > (size_t)100 << 20
               ? NULL
               : test_options().allocate(context, memory, old_size, new_size);
}

static void more_buffers_than_memory(void)
{
    struct pier_loop_options options = test_options();
    struct tracked_handle a = {0};
    struct tracked lent = {0};
    options.allocate = refuse_much;
    options.buffer_size = 16 << 20;
    options.buffers_max = 1024;
    options.buffers_min = 1;
    struct pier_loop *loop = test_loop_with(&options);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_receive_lent(&a, &lent, NULL);
    raw_send(peer, "hello", 5);
    CHECK_INT(wait_for(&lent), ==, 5);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test streaming_tests[] = {
    TEST(streaming, single_receives_in_a_crowd),
    TEST(streaming, more_buffers_than_memory),
    TEST_END,
};
