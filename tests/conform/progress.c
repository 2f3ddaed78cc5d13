/* progress.c - sends whose time limit is one of progress (PIER_PROGRESS), and op->done of a send in
 * flight.
 *
 * The reader is the test itself, and reads between the turns of the loop: so however busy the
 * machine, something moves between two looks of the loop, or nothing does because nothing was
 * read. */

#include "suite.h"

static unsigned char big[8 << 20], got[256 << 10];

enum shape { WHOLE, VECTORED };

static const struct pier_vector *pieces_of(struct pier_vector pieces[4], size_t size)
{
    for (size_t i = 0; i < 4; i++) {
        pieces[i].data = big + i * (size / 4);
        pieces[i].size = size / 4;
    }
    return pieces;
}

static void submit(struct tracked_handle *handle, struct tracked *send, enum shape shape,
                   struct pier_vector pieces[4], size_t size)
{
    if (shape == WHOLE) {
        tracked_send(handle, send, big, size, NULL);
    } else {
        tracked_send_vectored(handle, send, pieces_of(pieces, size), 4, NULL);
    }
}

/* Reads what is there, a piece at the most, and checks it. */
static void read_piece(pier_descriptor peer, size_t most, uint64_t *received)
{
    const int64_t bytes = raw_receive_now(peer, got, most < sizeof(got) ? most : sizeof(got));
    if (bytes > 0) {
        CHECK_PATTERN(got, (size_t)bytes, 3, *received);
        *received += (uint64_t)bytes;
    }
}

/* A reader that takes `piece` bytes for each 10 ms, and longer than the limit for all of it. On a
 * busy machine it takes as much in fewer steps. */
static void slow_reader(enum stream stream, enum shape shape, size_t size, size_t piece,
                        uint64_t limit_ns)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    struct pier_vector pieces[4];
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &a);
    uint64_t received = 0, last = 0;
    pattern_fill(big, size, 3, 0);
    send.op.timeout_ns = limit_ns;
    send.op.flags = PIER_PROGRESS;
    const uint64_t started = platform_now();
    submit(&a, &send, shape, pieces, size);
    CHECK_INT(send.op.flags & PIER_PROGRESS, ==, 0);
    uint64_t before = started;
    SPIN_UNTIL(
        loop, !send.in_flight, CHECK_INT(send.op.done, >=, last); last = send.op.done;
        const uint64_t steps = (platform_now() - before) / (10 * PIER_MILLISECOND); if (steps > 0) {
            read_piece(peer, piece * (size_t)steps, &received);
            before = platform_now();
        });
    CHECK_INT(send.result, ==, size);
    CHECK_INT(send.done, ==, size);
    CHECK_INT(send.op.timeout_ns, ==, 0);
    CHECK_INT(platform_now() - started, >, limit_ns);
    close_and_wait(&a);
    while (received < size) {
        read_piece(peer, sizeof(got), &received);
    }
    raw_receive_end(peer);
    raw_close(peer);
}

static void slow_reader_is_no_time_out(void)
{
    slow_reader(STREAM_PAIR, WHOLE, 1 << 20, 16 << 10, 200 * PIER_MILLISECOND);
    slow_reader(STREAM_PAIR, VECTORED, 1 << 20, 16 << 10, 200 * PIER_MILLISECOND);
}

/* TCP takes more in leaps of a third of its buffer, which is large: what the peer takes meanwhile
 * counts too. */
static void slow_reader_of_tcp(void)
{
    if (test_backend_is("iocp")) {
        test_skip("this system doesn't tell what the peer has taken");
        return;
    }
    slow_reader(STREAM_TCP4, WHOLE, sizeof(big), 32 << 10, 300 * PIER_MILLISECOND);
}

/* Without the flag the same reader is too slow. */
static void limit_of_time_is_one_of_time(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    uint64_t received = 0, next = 0;
    pattern_fill(big, sizeof(big), 3, 0);
    send.op.timeout_ns = 100 * PIER_MILLISECOND;
    tracked_send(&a, &send, big, sizeof(big), NULL);
    SPIN_UNTIL(
        loop, !send.in_flight, if (platform_now() >= next) {
            read_piece(peer, 4096, &received);
            next = platform_now() + 2 * PIER_MILLISECOND;
        });
    CHECK_INT(send.result, ==, PIER_ETIMEDOUT);
    CHECK_INT(send.done, <, sizeof(big));
    close_and_wait(&a);
    raw_close(peer);
}

static void stall(enum stream stream, enum shape shape)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[3] = {0};
    struct pier_vector pieces[3][4];
    const uint64_t limit_ns = 40 * PIER_MILLISECOND;
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &a);
    pattern_fill(big, sizeof(big), 3, 0);
    const uint64_t started = pier_loop_now(loop);
    for (int i = 0; i < 3; i++) {
        sends[i].op.timeout_ns = limit_ns;
        sends[i].op.flags = PIER_PROGRESS;
        submit(&a, &sends[i], shape, pieces[i], sizeof(big));
    }
    for (int i = 0; i < 3; i++) {
        CHECK_INT(wait_for(&sends[i]), ==, PIER_ETIMEDOUT);
        CHECK_INT(pier_loop_now(loop) - started, >=, limit_ns);
        CHECK_INT(sends[i].op.timeout_ns, ==, 0);
        CHECK_INT(sends[i].done, <, sizeof(big));
    }
    CHECK_INT(stats_of(loop).timers, ==, 3);
    CHECK_INT(stats_of(loop).cancels, ==, 3);
    CHECK_INT(sends[0].done, >, 0);
    CHECK_INT(sends[1].done + sends[2].done, ==, 0);
    const uint64_t sent = sends[0].done;
    close_and_wait(&a);
    const uint64_t rest = raw_receive_rest(peer);
    if (test_backend_is("iocp")) {
        CHECK_INT(rest, >=, sent);
    } else {
        CHECK_INT(rest, ==, sent);
    }
    raw_close(peer);
}

static void stalled_send_times_out(void)
{
    stall(STREAM_PAIR, WHOLE);
    stall(STREAM_PAIR, VECTORED);
    stall(STREAM_TCP4, WHOLE);
}

/* Each waits for longer than its limit, but something moves all the time. */
static void behind_one_that_gets_on(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[4] = {0};
    enum { SIZE = 512 << 10 };
    const uint64_t limit_ns = 100 * PIER_MILLISECOND;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    uint64_t received = 0, next = 0;
    pattern_fill(big, 4 * SIZE, 3, 0);
    const uint64_t started = platform_now();
    for (int i = 0; i < 4; i++) {
        sends[i].op.timeout_ns = limit_ns;
        sends[i].op.flags = PIER_PROGRESS;
        tracked_send(&a, &sends[i], big + i * SIZE, SIZE, NULL);
    }
    SPIN_UNTIL(
        loop, !sends[3].in_flight, if (platform_now() >= next) {
            read_piece(peer, 32 << 10, &received);
            next = platform_now() + 5 * PIER_MILLISECOND;
        });
    CHECK_INT(platform_now() - started, >, limit_ns);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(sends[i].result, ==, SIZE);
    }
    close_and_wait(&a);
    raw_close(peer);
}

/* What stands before it doesn't show how far it is, so that its time doesn't count. */
static void behind_one_without_the_flag(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked plain = {0}, send = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    uint64_t received = 0;
    pattern_fill(big, sizeof(big), 3, 0);
    tracked_send(&a, &plain, big, 2 << 20, NULL);
    send.op.timeout_ns = 20 * PIER_MILLISECOND;
    send.op.flags = PIER_PROGRESS;
    tracked_send(&a, &send, big + (2 << 20), 2 << 20, NULL);
    run_quietly(loop, 80);
    CHECK(plain.in_flight);
    CHECK(send.in_flight);
    SPIN_UNTIL(loop, !send.in_flight, read_piece(peer, sizeof(got), &received));
    CHECK_INT(plain.result, ==, 2 << 20);
    CHECK_INT(send.result, ==, 2 << 20);
    close_and_wait(&a);
    raw_close(peer);
}

/* A pipe can't be asked what is in it; `done` says it all. The reader is slow, and then stops. */
static void through_a_pipe(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked send = {0}, receive = {0};
    const uint64_t limit_ns = 60 * PIER_MILLISECOND;
    tracked_pair(loop, STREAM_PIPE, &a, &b);
    pattern_fill(big, 2 << 20, 3, 0);
    send.op.timeout_ns = limit_ns;
    send.op.flags = PIER_PROGRESS;
    const uint64_t started = platform_now();
    tracked_send(&b, &send, big, 2 << 20, NULL);
    uint64_t received = 0, next = 0;
    SPIN_UNTIL(
        loop, received >= 1 << 20, CHECK(send.in_flight); if (!receive.in_flight) {
            received += (uint64_t)receive.result;
            receive.result = 0;
            if (platform_now() >= next) {
                tracked_receive(&a, &receive, got, 30000, NULL);
                next = platform_now() + 5 * PIER_MILLISECOND;
            }
        });
    CHECK_INT(platform_now() - started, >, 2 * limit_ns);
    CHECK_INT(wait_for(&send), ==, PIER_ETIMEDOUT);
    CHECK_INT(send.done, >=, received);
    CHECK_INT(send.done, <, 2 << 20);
    if (receive.in_flight) {
        wait_for(&receive);
    }
    close_and_wait(&a);
    close_and_wait(&b);
}

/* No limit, but the wish to see how far it is. */
static void done_can_be_watched(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    uint64_t received = 0, last = 0;
    unsigned seen = 0;
    pattern_fill(big, sizeof(big), 3, 0);
    if (!test_backend_is("iocp")) {
        CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 64 << 10));
    }
    send.op.timeout_ns = PIER_FOREVER;
    send.op.flags = PIER_PROGRESS;
    tracked_send(&a, &send, big, sizeof(big), NULL);
    SPIN_UNTIL(loop, !send.in_flight, read_piece(peer, 64 << 10, &received);
               CHECK_INT(send.op.done, >=, last); CHECK_INT(send.op.done, <=, sizeof(big));
               seen += send.op.done != last && send.op.done < sizeof(big); last = send.op.done);
    CHECK_INT(send.result, ==, sizeof(big));
    CHECK_INT(seen, >=, 5);
    close_and_wait(&a);
    raw_close(peer);
}

/* `done` never goes back, whatever the backend shows of it. */
static void done_of_a_plain_send(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked send = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    uint64_t received = 0, last = 0;
    pattern_fill(big, 2 << 20, 3, 0);
    tracked_send(&a, &send, big, 2 << 20, NULL);
    SPIN_UNTIL(loop, !send.in_flight, read_piece(peer, 64 << 10, &received);
               CHECK_INT(send.op.done, >=, last); CHECK_INT(send.op.done, <=, 2 << 20);
               last = send.op.done);
    CHECK_INT(send.done, ==, 2 << 20);
    close_and_wait(&a);
    raw_close(peer);
}

/* Other ops take no notice of the flag, and it stays set in none. */
static void flag_on_other_ops(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, each = {0}, small = {0}, timer = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    receive.op.timeout_ns = each.op.timeout_ns = 20 * PIER_MILLISECOND;
    receive.op.flags = each.op.flags = small.op.flags = timer.op.flags = PIER_PROGRESS;
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_receive_each(&a, &each, NULL);
    tracked_send(&a, &small, "x", 1, NULL);
    tracked_timer(loop, &timer, 0, NULL);
    CHECK_INT(wait_for(&receive), ==, PIER_ETIMEDOUT);
    CHECK_INT(wait_for(&each), ==, PIER_ETIMEDOUT);
    CHECK_INT(wait_for(&small), ==, 1);
    wait_for(&timer);
    CHECK_INT(receive.op.flags | each.op.flags | small.op.flags | timer.op.flags, ==, 0);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test progress_tests[] = {
    TEST(progress, slow_reader_is_no_time_out),
    TEST(progress, slow_reader_of_tcp),
    TEST(progress, limit_of_time_is_one_of_time),
    TEST(progress, stalled_send_times_out),
    TEST(progress, behind_one_that_gets_on),
    TEST(progress, behind_one_without_the_flag),
    TEST(progress, through_a_pipe),
    TEST(progress, done_can_be_watched),
    TEST(progress, done_of_a_plain_send),
    TEST(progress, flag_on_other_ops),
    TEST_END,
};
