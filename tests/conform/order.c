/* order.c - bytes and completions in the order of submitting, however sends are merged and cut
 * up. */

#include "suite.h"

static unsigned char big[8 << 20];

struct sink {
    struct tracked_handle handle;
    struct tracked each;
    uint64_t received;
    unsigned seed;
};

static void take_in(struct tracked *tracked)
{
    struct sink *sink = PIER_OWNER(tracked, struct sink, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_PATTERN(tracked->op.data, tracked->op.size, sink->seed, sink->received);
        sink->received += tracked->op.size;
    }
}

/* Sends one pattern in many pieces, all queued at once. */
static void send_in_pieces(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct sink sink = {.seed = 11};
    struct tracked sends[2000] = {0};
    size_t offset = 0;
    uint64_t state = 1;
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    tracked_pair(loop, stream, &sink.handle, &a);
    pattern_fill(big, sizeof(big), sink.seed, 0);
    tracked_receive_each(&sink.handle, &sink.each, take_in);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        const size_t size = i % 50 == 7 ? 60000 : random_below(&state, 200);
        tracked_send(&a, &sends[i], big + offset, size, NULL);
        offset += size;
        CHECK_INT(offset, <=, sizeof(big));
    }
    RUN_UNTIL(loop, sink.received == offset && !sends[COUNT_OF(sends) - 1].in_flight);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        CHECK_INT(sends[i].completions, ==, 1);
        CHECK_INT(sends[i].result, ==, sends[i].size);
        CHECK(i == 0 || sends[i - 1].sequence < sends[i].sequence);
    }
    close_and_wait(&a);
    CHECK_INT(wait_for(&sink.each), ==, 0);
    close_and_wait(&sink.handle);
}

static void many_queued_sends_tcp(void)
{
    send_in_pieces(STREAM_TCP4);
}

static void many_queued_sends_unix(void)
{
    send_in_pieces(STREAM_UNIX);
}

static void many_queued_sends_pipe(void)
{
    send_in_pieces(STREAM_PIPE);
}

static void big_transfer(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct sink sink = {.seed = 12};
    struct tracked sends[4] = {0};
    tracked_pair(loop, stream, &sink.handle, &a);
    tracked_receive_each(&sink.handle, &sink.each, take_in);
    pattern_fill(big, sizeof(big), sink.seed, 0);
    /* The same memory may be named by several sends; the pattern goes on only within one, so
     * each is its own stream. */
    for (int i = 0; i < 4; i++) {
        sink.received = 0;
        tracked_send(&a, &sends[i], big, sizeof(big), NULL);
        RUN_UNTIL(loop, sink.received == sizeof(big));
        CHECK_INT(wait_for(&sends[i]), ==, sizeof(big));
    }
    CHECK_INT(sink.each.done, ==, 4 * sizeof(big));
    CHECK_INT(stats_of(loop).received_bytes, ==, 4 * sizeof(big));
    CHECK_INT(stats_of(loop).sent_bytes, ==, 4 * sizeof(big));
    close_and_wait(&a);
    close_and_wait(&sink.handle);
}

static void big_transfer_tcp(void)
{
    big_transfer(STREAM_TCP4);
}

static void big_transfer_pair(void)
{
    big_transfer(STREAM_PAIR);
}

static void big_transfer_pipe(void)
{
    big_transfer(STREAM_PIPE);
}

/* A slow reader costs time, not memory. */
static void slow_reader(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[16] = {0};
    static unsigned char got[1 << 20];
    const size_t each = sizeof(got) / COUNT_OF(sends);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 16384));
    pattern_fill(big, sizeof(got), 13, 0);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        tracked_send(&a, &sends[i], big + i * each, each, NULL);
    }
    uint64_t before = 0, state = 2;
    size_t read = 0;
    SPIN_UNTIL(loop, read == sizeof(got), {
        const size_t left = sizeof(got) - read, step = 1 + random_below(&state, 4000);
        const int64_t now = raw_receive_now(peer, got + read, step < left ? step : left);
        CHECK(now > 0 || now == RAW_AGAIN);
        before = read < sizeof(got) / 4 ? test_allocations_made() : before;
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_PATTERN(got, sizeof(got), 13, 0);
    CHECK_INT(wait_for(&sends[COUNT_OF(sends) - 1]), ==, each);
    CHECK_INT(test_allocations_made(), ==, before);
    close_and_wait(&a);
    raw_close(peer);
}

/* More vectors than any system takes at once, empty ones among them, cut at every place by a
 * small buffer. */
static void vectored_send_of_many_pieces(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    static struct pier_vector vectors[3000];
    struct tracked send = {0};
    static unsigned char got[3000 * 150];
    size_t total = 0;
    uint64_t state = 3;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pattern_fill(big, sizeof(got), 14, 0);
    CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 8192));
    for (size_t i = 0; i < COUNT_OF(vectors); i++) {
        vectors[i].size = i % 7 == 3 ? 0 : random_below(&state, 150);
        vectors[i].data = vectors[i].size == 0 ? NULL : big + total;
        total += vectors[i].size;
    }
    tracked_send_vectored(&a, &send, vectors, COUNT_OF(vectors), NULL);
    size_t read = 0;
    SPIN_UNTIL(loop, read == total, {
        const int64_t now = raw_receive_now(peer, got + read, 1 + random_below(&state, 3000));
        CHECK(now > 0 || now == RAW_AGAIN);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_INT(wait_for(&send), ==, total);
    CHECK_PATTERN(got, total, 14, 0);
    close_and_wait(&a);
    raw_close(peer);
}

static void send_nothing(struct tracked_handle *from, struct tracked_handle *to)
{
    const struct pier_vector empty[3] = {{NULL, 0}, {"x", 0}, {NULL, 0}};
    const struct pier_vector mixed[3] = {{NULL, 0}, {"mixed", 5}, {NULL, 0}};
    struct tracked sends[4] = {0};
    char got[15];
    tracked_send_vectored(from, &sends[0], empty, 3, NULL);
    tracked_send_vectored(from, &sends[1], mixed, 3, NULL);
    CHECK_INT(wait_for(&sends[0]), ==, 0);
    CHECK_INT(wait_for(&sends[1]), ==, 5);
    tracked_send_vectored(from, &sends[0], empty, 3, NULL); /* and not what was sent before */
    CHECK_INT(wait_for(&sends[0]), ==, 0);
    tracked_send(from, &sends[0], "first", 5, NULL);
    tracked_send_vectored(from, &sends[1], empty, 3, NULL);
    tracked_send_vectored(from, &sends[2], empty, 1, NULL);
    tracked_send(from, &sends[3], "last!", 5, NULL);
    CHECK_INT(wait_for(&sends[3]), ==, 5);
    CHECK_INT(sends[1].result, ==, 0);
    CHECK_INT(sends[2].result, ==, 0);
    receive_all(to, got, 15);
    CHECK_BYTES(got, "mixedfirstlast!", 15);
    close_and_wait(from);
    receive_end(to);
    close_and_wait(to);
}

/* Sends of nothing, without memory, between others that wait. */
static void nothing_among_waiting_sends(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[4] = {0};
    static unsigned char got[65536];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pattern_fill(big, sizeof(big), 20, 0);
    tracked_send(&a, &sends[0], big, sizeof(big) - 1, NULL);
    tracked_send(&a, &sends[1], NULL, 0, NULL);
    tracked_send(&a, &sends[2], big + sizeof(big) - 1, 1, NULL);
    tracked_send(&a, &sends[3], NULL, 0, NULL);
    run_quietly(loop, 5);
    size_t read = 0;
    SPIN_UNTIL(loop, read == sizeof(big), {
        const int64_t now = raw_receive_now(peer, got, sizeof(got));
        CHECK(now > 0 || now == RAW_AGAIN);
        CHECK_PATTERN(got, now > 0 ? (size_t)now : 0, 20, read);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_INT(wait_for(&sends[3]), ==, 0);
    CHECK_INT(sends[0].result, ==, sizeof(big) - 1);
    CHECK_INT(sends[1].result, ==, 0);
    CHECK_INT(sends[2].result, ==, 1);
    CHECK(sends[0].sequence < sends[1].sequence && sends[1].sequence < sends[2].sequence &&
          sends[2].sequence < sends[3].sequence);
    close_and_wait(&a);
    raw_close(peer);
}

static void vectors_of_nothing(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    pier_descriptor ends[2];
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    send_nothing(&a, &b);
    tracked_pair(loop, STREAM_PIPE, &b, &a);
    send_nothing(&a, &b);
    raw_pipe(ends);
    CHECK_OK(tracked_adopt(loop, &b, ends[0]));
    CHECK_OK(tracked_adopt(loop, &a, ends[1]));
    send_nothing(&a, &b);
}

/* Receives of all three kinds in one queue share the bytes out in the order of the queue. */
static void mixed_receives_in_order(void)
{
    struct pier_loop *loop = test_loop();
    struct sink rest = {.seed = 15};
    struct tracked first = {0}, lent = {0}, second = {0};
    unsigned char one[10], two[10];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &rest.handle);
    pattern_fill(big, 100000, 15, 0);
    tracked_receive(&rest.handle, &first, one, sizeof(one), NULL);
    tracked_receive_lent(&rest.handle, &lent, NULL);
    tracked_receive(&rest.handle, &second, two, sizeof(two), NULL);
    tracked_receive_each(&rest.handle, &rest.each, take_in);
    raw_send(peer, big, 10);
    CHECK_INT(wait_for(&first), ==, 10);
    CHECK_PATTERN(one, 10, 15, 0);
    raw_send(peer, big + 10, 5);
    CHECK_INT(wait_for(&lent), ==, 5);
    raw_send(peer, big + 15, 100000 - 15);
    CHECK_INT(wait_for(&second), ==, 10);
    CHECK_PATTERN(two, 10, 15, 15);
    rest.received = 25;
    RUN_UNTIL(loop, rest.received == 100000);
    CHECK(first.sequence < lent.sequence);
    CHECK(lent.sequence < second.sequence);
    close_and_wait(&rest.handle);
    raw_close(peer);
}

static void queued_receives_share_one_burst(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receives[100] = {0};
    unsigned char got[100 * 16];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pattern_fill(big, sizeof(got), 16, 0);
    for (size_t i = 0; i < COUNT_OF(receives); i++) {
        tracked_receive(&a, &receives[i], got + i * 16, 16, NULL);
    }
    raw_send(peer, big, sizeof(got));
    CHECK_INT(wait_for(&receives[99]), ==, 16);
    for (size_t i = 0; i < COUNT_OF(receives); i++) {
        CHECK_INT(receives[i].result, ==, 16);
        CHECK(i == 0 || receives[i - 1].sequence < receives[i].sequence);
    }
    CHECK_PATTERN(got, sizeof(got), 16, 0);
    close_and_wait(&a);
    raw_close(peer);
}

static void directions_are_independent(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    char got[3];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_send(&a, &send, big, sizeof(big), NULL);
    run_quietly(loop, 5);
    CHECK(send.in_flight);
    raw_send(peer, "abc", 3);
    receive_all(&a, got, 3);
    CHECK_BYTES(got, "abc", 3);
    CHECK(send.in_flight);
    close_and_wait(&a);
    raw_close(peer);
}

static void shutdown_waits_for_sends(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0}, shutdown = {0};
    static unsigned char got[1 << 20];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    pattern_fill(big, sizeof(got), 17, 0);
    CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 16384));
    tracked_send(&a, &send, big, sizeof(got), NULL);
    tracked_shutdown(&a, &shutdown, NULL);
    size_t read = 0;
    SPIN_UNTIL(loop, read == sizeof(got), {
        const int64_t now = raw_receive_now(peer, got + read, sizeof(got) - read);
        CHECK(now > 0 || now == RAW_AGAIN);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_INT(wait_for(&shutdown), ==, 0);
    CHECK(send.sequence < shutdown.sequence);
    CHECK_PATTERN(got, sizeof(got), 17, 0);
    raw_receive_end(peer);
    close_and_wait(&a);
    raw_close(peer);
}

static void silent_sends(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct pier_op sends[200] = {0};
    static unsigned char got[200 * 500];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    pattern_fill(big, sizeof(got), 18, 0);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        pier_send(&a.handle, &sends[i], big + i * 500, 500, NULL);
    }
    RUN_UNTIL(loop, !pier_op_pending(&sends[199]));
    raw_receive(peer, got, sizeof(got));
    CHECK_PATTERN(got, sizeof(got), 18, 0);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        CHECK(!pier_op_pending(&sends[i]));
    }
    /* An error of a silent send shows at the next op. */
    raw_reset(peer);
    struct tracked next = {0};
    for (int i = 0; i < 2; i++) {
        pier_send(&a.handle, &sends[0], "x", 1, NULL);
        RUN_UNTIL(loop, !pier_op_pending(&sends[0]));
    }
    tracked_send(&a, &next, "x", 1, NULL);
    CHECK_INT(wait_for(&next), <, 0);
    close_and_wait(&a);
}

struct late_word {
    struct tracked_handle handle;
    struct pier_op send;
    unsigned calls;
};

static void note_late(struct pier_op *op)
{
    struct late_word *late = PIER_OWNER(op, struct late_word, send);
    CHECK(test_running() == late->handle.loop);
    CHECK_INT(op->result, ==, sizeof(big));
    CHECK_INT(op->done, ==, sizeof(big));
    late->calls++;
}

/* A silent send that has to wait gets a completion function after all; one that is over, none. */
static void silent_send_that_has_to_wait(void)
{
    struct pier_loop *loop = test_loop();
    struct late_word late = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &late.handle);
    pattern_fill(big, sizeof(big), 19, 0);
    pier_send(&late.handle.handle, &late.send, big, sizeof(big), NULL);
    CHECK(pier_op_pending(&late.send));
    pier_op_then(&late.send, note_late);
    run_quietly(loop, 5);
    CHECK_INT(late.calls, ==, 0);
    static unsigned char got[65536];
    size_t read = 0;
    SPIN_UNTIL(loop, read == sizeof(big), {
        const int64_t now = raw_receive_now(peer, got, sizeof(got));
        CHECK(now > 0 || now == RAW_AGAIN);
        CHECK_PATTERN(got, now > 0 ? (size_t)now : 0, 19, read);
        read += now > 0 ? (size_t)now : 0;
    });
    RUN_UNTIL(loop, late.calls == 1);
    CHECK(!pier_op_pending(&late.send));
    pier_op_then(&late.send, note_late);
    run_quietly(loop, 5);
    CHECK_INT(late.calls, ==, 1);
    close_and_wait(&late.handle);
    raw_close(peer);
}

/* Sends that are over at once, each from the completion of the one before; the last one's cancels
 * a receive that waits elsewhere. */
struct chain {
    struct tracked_handle a, waiting;
    struct tracked trigger, sends[4], receive, each;
    unsigned left, sent;
    bool overtaken;
};

static void cancel_at_the_end(struct tracked *tracked)
{
    struct chain *chain = tracked->context;
    if (chain->left-- == 0) {
        tracked_cancel(&chain->receive);
        return;
    }
    struct tracked *send = &chain->sends[chain->sent++];
    send->context = chain;
    tracked_send(&chain->a, send, "a", 1, cancel_at_the_end);
}

static void start_chain(struct tracked *tracked)
{
    struct chain *chain = tracked->context;
    if (chain->sent == 0 && (tracked->flags & PIER_MORE) != 0) {
        cancel_at_the_end(tracked);
    }
}

static void note_overtaking(struct tracked *tracked)
{
    struct chain *chain = tracked->context;
    chain->overtaken = chain->overtaken || chain->receive.in_flight;
}

/* What comes for a multishot receive doesn't overtake the end of the receive before it, which was
 * cancelled by a completion that was delivered before the event. */
static void events_after_the_end_before_them(void)
{
    const enum stream kinds[] = {STREAM_PAIR, STREAM_TCP4};
    for (unsigned i = 0; i < 2 * 4; i++) {
        struct pier_loop *loop = test_loop();
        struct chain chain = {.left = i % 4};
        char memory[8];
        const pier_descriptor first = tracked_raw_pair(loop, kinds[i / 4], &chain.a);
        const pier_descriptor second = tracked_raw_pair(loop, kinds[i / 4], &chain.waiting);
        chain.trigger.context = chain.receive.context = chain.each.context = &chain;
        tracked_receive_each(&chain.a, &chain.trigger, start_chain);
        tracked_receive(&chain.waiting, &chain.receive, memory, sizeof(memory), NULL);
        tracked_receive_each(&chain.waiting, &chain.each, note_overtaking);
        run_quietly(loop, 5);
        raw_send(first, "x", 1);
        raw_send(second, "more than there is memory for", 29);
        RUN_UNTIL(loop, chain.receive.completions == 1 && chain.each.events > 0);
        CHECK(!chain.overtaken);
        close_and_wait(&chain.a);
        close_and_wait(&chain.waiting);
        raw_close(first);
        raw_close(second);
        test_loop_free(loop);
    }
}

const struct test order_tests[] = {
    TEST(order, many_queued_sends_tcp),
    TEST(order, many_queued_sends_unix),
    TEST(order, many_queued_sends_pipe),
    TEST(order, big_transfer_tcp),
    TEST(order, big_transfer_pair),
    TEST(order, big_transfer_pipe),
    TEST(order, slow_reader),
    TEST(order, vectored_send_of_many_pieces),
    TEST(order, vectors_of_nothing),
    TEST(order, nothing_among_waiting_sends),
    TEST(order, mixed_receives_in_order),
    TEST(order, queued_receives_share_one_burst),
    TEST(order, directions_are_independent),
    TEST(order, shutdown_waits_for_sends),
    TEST(order, silent_sends),
    TEST(order, silent_send_that_has_to_wait),
    TEST(order, events_after_the_end_before_them),
    TEST_END,
};
