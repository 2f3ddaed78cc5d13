/* cancel.c - cancelling an op in each state of its life.
 *
 * A cancel asks, and the op completes once: with PIER_ECANCELED, or with its real outcome if
 * that came first. Whichever it is, no byte and no connection is lost: what `done` and the data
 * events say is what the peer sees. */

#include "suite.h"

static unsigned char big[4 << 20];

static void while_queued(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked first = {0}, second = {0}, third = {0};
    char one = 0, two = 0, three = 0;
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    tracked_receive(&b, &first, &one, 1, NULL);
    tracked_receive(&b, &second, &two, 1, NULL);
    tracked_receive(&b, &third, &three, 1, NULL);
    run_quietly(loop, 5);
    tracked_cancel(&second);
    CHECK_INT(wait_for(&second), ==, PIER_ECANCELED);
    CHECK(first.in_flight);
    CHECK(third.in_flight);
    send_all(&a, "12", 2);
    CHECK_INT(wait_for(&third), ==, 1);
    CHECK_INT(first.result, ==, 1);
    CHECK(first.sequence < third.sequence);
    CHECK_INT(one, ==, '1');
    CHECK_INT(two, ==, 0);
    CHECK_INT(three, ==, '2');
    close_and_wait(&a);
    close_and_wait(&b);
}

static void while_in_the_kernel(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte = 0;
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        tracked_receive(&a, &receive, &byte, 1, NULL);
        run_quietly(loop, 5);
        tracked_cancel(&receive);
        CHECK(receive.in_flight);
        CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
        check_usable(&a, peer);
        close_and_wait(&a);
        raw_close(peer);
    }
}

static void before_the_first_turn(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, lent = {0}, each = {0}, timer = {0};
    char byte = 0;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_receive_lent(&a, &lent, NULL);
    tracked_receive_each(&a, &each, NULL);
    tracked_timer(loop, &timer, PIER_SECOND, NULL);
    tracked_cancel(&receive);
    tracked_cancel(&lent);
    tracked_cancel(&each);
    tracked_cancel(&timer);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&lent), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    check_usable(&a, peer);
    close_and_wait(&a);
    raw_close(peer);
}

/* Sends that queue up may be merged into one request: each can still be ended by itself. */
static void merged_send(uint32_t queue_size, uint64_t timeout_ns)
{
    struct pier_loop_options options = test_options();
    options.queue_size = queue_size;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked_handle a = {0};
    struct tracked sends[4] = {0}, receive = {0};
    static unsigned char data[1 << 20], taken[1 << 16];
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    for (int i = 0; i < 4; i++) {
        sends[i].op.timeout_ns = i == 2 ? timeout_ns : 0;
        tracked_send(&a, &sends[i], data, sizeof(data), NULL);
    }
    SPIN_UNTIL(loop, !sends[0].in_flight, raw_receive_now(peer, taken, sizeof(taken)));
    run_quietly(loop, 5);
    if (timeout_ns == 0) {
        tracked_receive(&a, &receive, &byte, 1, NULL); /* takes an entry of the queue */
        tracked_cancel(&sends[2]);
    }
    CHECK_INT(wait_for(&sends[2]), ==, timeout_ns == 0 ? PIER_ECANCELED : PIER_ETIMEDOUT);
    CHECK(sends[1].in_flight);
    CHECK(sends[3].in_flight);
    SPIN_UNTIL(loop, !sends[3].in_flight, raw_receive_now(peer, taken, sizeof(taken)));
    CHECK_INT(sends[1].result, ==, sizeof(data));
    CHECK_INT(sends[3].result, ==, sizeof(data));
    close_and_wait(&a);
    raw_close(peer);
}

static void one_of_merged_sends(void)
{
    merged_send(256, 0);
    merged_send(1, 0);
    merged_send(256, 100 * PIER_MILLISECOND);
}

static void cancel_other(struct tracked *tracked)
{
    struct tracked *other = tracked->context;
    tracked_cancel(other);
}

/* Two ops become complete in one turn; the callback of each cancels the other. */
static void while_completed_and_waiting(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    const pier_descriptor peer_a = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const pier_descriptor peer_b = tracked_raw_pair(loop, STREAM_PAIR, &b);
    for (int i = 0; i < 50; i++) {
        struct tracked one = {0}, two = {0};
        char got[2] = {0, 0}, left;
        one.context = &two;
        two.context = &one;
        tracked_receive(&a, &one, &got[0], 1, cancel_other);
        tracked_receive(&b, &two, &got[1], 1, cancel_other);
        run(loop, PIER_RUN_NO_WAIT);
        raw_send(peer_a, "A", 1);
        raw_send(peer_b, "B", 1);
        RUN_UNTIL(loop, !one.in_flight && !two.in_flight);
        CHECK(one.result == 1 || one.result == PIER_ECANCELED);
        CHECK(two.result == 1 || two.result == PIER_ECANCELED);
        CHECK(one.result == 1 || two.result == 1);
        if (one.result != 1) {
            receive_all(&a, &left, 1);
            CHECK_INT(left, ==, 'A');
        }
        if (two.result != 1) {
            receive_all(&b, &left, 1);
            CHECK_INT(left, ==, 'B');
        }
    }
    close_and_wait(&a);
    close_and_wait(&b);
    raw_close(peer_a);
    raw_close(peer_b);
}

static void racing_with_data(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    unsigned char next = 0;
    int received = 0;
    for (int i = 0; i < 1000; i++) {
        struct tracked receive = {0};
        unsigned char byte = 0;
        tracked_receive(&a, &receive, &byte, 1, NULL);
        if (i % 3 != 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        raw_send(peer, &next, 1);
        if (i % 5 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_cancel(&receive);
        wait_for(&receive);
        CHECK(receive.result == 1 || receive.result == PIER_ECANCELED);
        if (receive.result == PIER_ECANCELED) {
            receive_all(&a, &byte, 1);
        }
        CHECK_INT(byte, ==, next);
        received++;
        next++;
    }
    CHECK_INT(received, ==, 1000);
    close_and_wait(&a);
    raw_close(peer);
}

static void twice_is_once(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_cancel(&receive);
    tracked_cancel(&receive);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_cancel(&receive);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    tracked_cancel(&receive); /* Not in flight: nothing happens. */
    run_quietly(loop, 10);
    CHECK_INT(receive.completions, ==, 1);
    check_usable(&a, peer);
    close_and_wait(&a);
    raw_close(peer);
}

static void multishot_of_every_kind(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, listener = {0};
    struct tracked ops[5] = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    for (int turns = 0; turns < 3; turns++) {
        tracked_receive_each(&a, &ops[0], NULL);
        tracked_accept_each(&listener, &ops[1], NULL);
        tracked_timer_each(loop, &ops[2], PIER_SECOND, PIER_SECOND, NULL);
        tracked_notify_each(loop, &ops[3], NULL);
        tracked_poll_each(loop, &ops[4], peer, PIER_READABLE, NULL);
        for (int i = 0; i < turns; i++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        for (int i = 0; i < 5; i++) {
            tracked_cancel(&ops[i]);
        }
        for (int i = 0; i < 5; i++) {
            CHECK_INT(wait_for(&ops[i]), ==, PIER_ECANCELED);
            CHECK_INT(ops[i].events, ==, 0);
        }
    }
    check_usable(&a, peer);
    close_and_wait(&a);
    close_and_wait(&listener);
    raw_close(peer);
}

/* A send to a peer that doesn't read is cut short; the peer then reads exactly `done` bytes,
 * and after them the bytes of the next send. */
static void cut_send_short(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked send = {0}, next = {0};
    pattern_fill(big, sizeof(big), 1, 0);
    tracked_pair(loop, stream, &b, &a);
    if (stream != STREAM_PIPE) {
        CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 65536));
        CHECK_OK(pier_set_buffer_sizes(&b.handle, 65536, 0));
    }
    tracked_send(&a, &send, big, sizeof(big), NULL);
    run_quietly(loop, 30);
    CHECK(send.in_flight);
    tracked_cancel(&send);
    tracked_send(&a, &next, "next", 4, NULL);
    CHECK_INT(wait_for(&send), ==, PIER_ECANCELED);
    CHECK_INT(send.done, >, 0);
    static unsigned char got[sizeof(big) + 4];
    receive_all(&b, got, (size_t)send.done + 4);
    CHECK_INT(wait_for(&next), ==, 4);
    CHECK_PATTERN(got, (size_t)send.done, 1, 0);
    CHECK_BYTES(got + send.done, "next", 4);
    close_and_wait(&a);
    receive_end(&b);
    close_and_wait(&b);
}

static void partial_send_tcp(void)
{
    cut_send_short(STREAM_TCP4);
}

static void partial_send_pair(void)
{
    cut_send_short(STREAM_PAIR);
}

static void partial_send_pipe(void)
{
    cut_send_short(STREAM_PIPE);
}

struct catcher {
    struct tracked_handle handle;
    struct tracked each;
    uint64_t received;
    unsigned limit; /* events before it cancels itself; 0: never */
};

static void catch_bytes(struct tracked *tracked)
{
    struct catcher *catcher = PIER_OWNER(tracked, struct catcher, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_PATTERN(tracked->op.data, tracked->op.size, 7, catcher->received);
        catcher->received += tracked->op.size;
        if (tracked->events >= catcher->limit || catcher->received == sizeof(big)) {
            tracked_cancel(tracked);
        }
    }
}

static void stream_big(void *context)
{
    const pier_descriptor *peer = context;
    raw_send(*peer, big, sizeof(big));
}

/* Cancelled inside its own callback and started anew, over and over, under a stream of data:
 * not a byte is lost. */
static void multishot_inside_its_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct catcher catcher = {.limit = 1};
    struct platform_thread thread;
    pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &catcher.handle);
    pattern_fill(big, sizeof(big), 7, 0);
    platform_thread_start(&thread, stream_big, &peer);
    unsigned started = 0;
    while (catcher.received < sizeof(big)) {
        memset(&catcher.each, 0, sizeof(catcher.each));
        catcher.limit = 1 + started++ % 4;
        tracked_receive_each(&catcher.handle, &catcher.each, catch_bytes);
        CHECK_INT(wait_for(&catcher.each), ==, PIER_ECANCELED);
    }
    platform_thread_join(&thread);
    CHECK_INT(catcher.received, ==, sizeof(big));
    CHECK_INT(started, >, 1);
    close_and_wait(&catcher.handle);
    raw_close(peer);
}

static void keep_connection(struct tracked *tracked)
{
    struct tracked_handle *handle = tracked->context;
    if (tracked->result == 1) {
        tracked_take(tracked, handle);
    }
}

static void accept_loses_no_connection(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, taken = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 200; i++) {
        struct tracked accept = {.context = &taken};
        tracked_accept(&listener, &accept, keep_connection);
        if (i % 2 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        const pier_descriptor peer = raw_connect(&address);
        if (i % 3 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_cancel(&accept);
        wait_for(&accept);
        if (accept.result == PIER_ECANCELED) {
            tracked_accept(&listener, &accept, keep_connection);
            wait_for(&accept);
        }
        CHECK_INT(accept.result, ==, 1);
        check_usable(&taken, peer);
        close_and_wait(&taken);
        raw_close(peer);
    }
    close_and_wait(&listener);
}

static void whole_queue_of_sends(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[100] = {0};
    const size_t each = sizeof(big) / COUNT_OF(sends);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pattern_fill(big, sizeof(big), 3, 0);
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        tracked_send(&a, &sends[i], big + i * each, each, NULL);
    }
    run_quietly(loop, 20);
    for (size_t i = COUNT_OF(sends); i-- > 0;) {
        tracked_cancel(&sends[i]);
    }
    uint64_t total = 0;
    bool cut = false;
    for (size_t i = 0; i < COUNT_OF(sends); i++) {
        wait_for(&sends[i]);
        total += sends[i].done;
        CHECK(!cut || sends[i].done == 0);
        CHECK(sends[i].result == (int64_t)each || sends[i].result == PIER_ECANCELED);
        cut = cut || sends[i].result != (int64_t)each;
    }
    CHECK(cut);
    close_and_wait(&a);
    static unsigned char got[sizeof(big)];
    raw_receive(peer, got, (size_t)total);
    CHECK_PATTERN(got, (size_t)total, 3, 0);
    raw_receive_end(peer);
    raw_close(peer);
}

static void post_and_timer_in_a_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked post = {0}, timer = {0}, canceller = {0};
    canceller.context = &timer;
    tracked_timer(loop, &timer, 10 * PIER_SECOND, NULL);
    tracked_timer(loop, &canceller, 0, cancel_other);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    tracked_post(loop, &post, NULL);
    tracked_cancel(&post);
    wait_for(&post);
    CHECK(post.result == 0 || post.result == PIER_ECANCELED);
    CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
}

static void counted(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timers[10] = {0};
    for (int i = 0; i < 10; i++) {
        tracked_timer(loop, &timers[i], PIER_SECOND, NULL);
    }
    for (int i = 0; i < 10; i++) {
        tracked_cancel(&timers[i]);
    }
    for (int i = 0; i < 10; i++) {
        CHECK_INT(wait_for(&timers[i]), ==, PIER_ECANCELED);
    }
    CHECK_INT(stats_of(loop).cancels, ==, 10);
}

const struct test cancel_tests[] = {
    TEST(cancel, while_queued),
    TEST(cancel, while_in_the_kernel),
    TEST(cancel, before_the_first_turn),
    TEST(cancel, while_completed_and_waiting),
    TEST(cancel, racing_with_data),
    TEST(cancel, twice_is_once),
    TEST(cancel, multishot_of_every_kind),
    TEST(cancel, partial_send_tcp),
    TEST(cancel, partial_send_pair),
    TEST(cancel, partial_send_pipe),
    TEST(cancel, multishot_inside_its_callback),
    TEST(cancel, accept_loses_no_connection),
    TEST(cancel, whole_queue_of_sends),
    TEST(cancel, post_and_timer_in_a_callback),
    TEST(cancel, counted),
    TEST(cancel, one_of_merged_sends),
    TEST_END,
};
