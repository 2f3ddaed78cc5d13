/* promises.c - single promises of the headers that no other file is about. */

#include "suite.h"

/* What may be asked about an op depends on whether there is still something to cancel. */
static void pending_send_has_a_token(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked sends[2] = {0}, small = {0};
    static unsigned char big[8 << 20];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    CHECK_INT(pier_op_token(&sends[0].op), ==, 0);
    tracked_send(&a, &small, "x", 1, NULL);
    wait_for(&small);
    CHECK_INT(pier_op_token(&small.op), ==, 0);
    tracked_send(&a, &sends[0], big, sizeof(big), NULL);
    tracked_send(&a, &sends[1], big, 10, NULL);
    const uint64_t first = pier_op_token(&sends[0].op), second = pier_op_token(&sends[1].op);
    CHECK(first != 0);
    CHECK(second != 0);
    CHECK(first != second);
    CHECK(pier_op_token(&sends[0].op) == first);
    pier_cancel_remote(loop, second);
    CHECK_INT(wait_for(&sends[1]), ==, PIER_ECANCELED);
    pier_cancel_remote(loop, first);
    CHECK_INT(wait_for(&sends[0]), ==, PIER_ECANCELED);
    CHECK_INT(pier_op_token(&sends[0].op), ==, 0);
    close_and_wait(&a);
    raw_close(peer);
}

/* Whichever the socket's family is, and on every system. */
static void bind_of_another_family(void)
{
    struct pier_loop *loop = test_loop();
    const enum stream streams[] = {STREAM_TCP4, STREAM_TCP6, STREAM_UNIX};
    for (size_t i = 0; i < COUNT_OF(streams); i++) {
        if (!stream_available(streams[i])) {
            continue;
        }
        const struct pier_address own = stream_address(streams[i]);
        for (size_t k = 0; k < COUNT_OF(streams); k++) {
            struct tracked_handle handle = {0};
            if (k == i || !stream_available(streams[k]) || raw_is_pipe_address(&own)) {
                continue;
            }
            const struct pier_address other = stream_address(streams[k]);
            tracked_open_socket(loop, &handle, &own);
            CHECK_REFUSED(pier_bind(&handle.handle, &other), PIER_EAFNOSUPPORT);
            close_and_wait(&handle);
            forget_address(&other);
        }
        forget_address(&own);
    }
}

/* Also with the port left open, which Linux would do again. */
static void bind_again(void)
{
    struct pier_loop *loop = test_loop();
    const enum stream streams[] = {STREAM_TCP4, STREAM_TCP6, STREAM_UNIX};
    for (size_t i = 0; i < COUNT_OF(streams); i++) {
        struct tracked_handle handle = {0};
        if (!stream_available(streams[i])) {
            continue;
        }
        const struct pier_address own = stream_address(streams[i]);
        if (!raw_is_pipe_address(&own)) {
            tracked_open_socket(loop, &handle, &own);
            CHECK_OK(pier_bind(&handle.handle, &own));
            CHECK_REFUSED(pier_bind(&handle.handle, &own), PIER_EINVAL);
            CHECK(strstr(pier_error_detail(), "is bound to") != NULL);
            close_and_wait(&handle);
        }
        forget_address(&own);
    }
}

static void bind_what_has_no_address(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle read = {0}, write = {0};
    const struct pier_address any = address_of("127.0.0.1:0");
    tracked_pair(loop, STREAM_PIPE, &read, &write);
    CHECK_REFUSED(pier_bind(&read.handle, &any),
                  test_backend_is("iocp") ? PIER_ENOTSUP : PIER_ENOTSOCK);
    close_and_wait(&read);
    close_and_wait(&write);
}

struct worker {
    struct tracked begin, timer;
    bool asks;
    uint64_t read, started, fired;
};

static void note_fired(struct tracked *tracked)
{
    PIER_OWNER(tracked, struct worker, timer)->fired = platform_now();
}

static void work_and_set(struct tracked *tracked)
{
    struct worker *worker = PIER_OWNER(tracked, struct worker, begin);
    worker->started = platform_now();
    if (worker->asks) {
        worker->read = pier_loop_now(tracked->loop);
    }
    while (platform_now() < worker->started + 30 * PIER_MILLISECOND) {}
    tracked_timer(tracked->loop, &worker->timer, 20 * PIER_MILLISECOND, note_fired);
}

/* A delay counts from the clock that the running callback has read, or, if it has read none, from
 * the call. By that clock it's never early. */
static void work_before_a_timer(void)
{
    struct pier_loop *loop = test_loop();
    for (int asks = 0; asks < 2; asks++) {
        struct worker worker = {.asks = asks != 0};
        tracked_timer(loop, &worker.begin, 0, work_and_set);
        RUN_UNTIL(loop, worker.timer.completions == 1);
        CHECK_INT(worker.fired - worker.started, >=,
                  asks != 0 ? 30 * PIER_MILLISECOND : 20 * PIER_MILLISECOND);
        if (worker.asks) {
            CHECK_INT(pier_loop_now(loop), >=, worker.read + 20 * PIER_MILLISECOND);
        }
    }
}

struct grid {
    struct tracked each;
    uint64_t base, interval, expiries;
};

static void on_grid(struct tracked *tracked)
{
    struct grid *grid = PIER_OWNER(tracked, struct grid, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        grid->expiries += (uint64_t)tracked->result;
        CHECK_INT(pier_loop_now(tracked->loop), >=,
                  grid->base + (grid->expiries - 1) * grid->interval);
    }
}

/* The reset expiry is the first of a new grid. */
static void grid_after_a_reset(void)
{
    struct pier_loop *loop = test_loop();
    struct grid grid = {.interval = 10 * PIER_MILLISECOND};
    grid.base = pier_loop_now(loop) + 5 * PIER_MILLISECOND;
    tracked_timer_each(loop, &grid.each, 5 * PIER_MILLISECOND, grid.interval, on_grid);
    RUN_UNTIL(loop, grid.expiries >= 2);
    for (unsigned i = 0; i < 3; i++) {
        grid.expiries = 0;
        grid.base = pier_loop_now(loop) + 3 * PIER_MILLISECOND;
        pier_timer_reset(&grid.each.op, 3 * PIER_MILLISECOND);
        RUN_UNTIL(loop, grid.expiries >= 3);
    }
    tracked_cancel(&grid.each);
    wait_for(&grid.each);
}

static unsigned slow_calls;

static void note_slow(void *context, struct pier_loop *loop, pier_op_fn *fn, uint64_t took_ns)
{
    (void)context;
    (void)loop;
    (void)fn;
    (void)took_ns;
    slow_calls++;
}

static void dawdle_closed(struct tracked_handle *handle)
{
    (void)handle;
    const uint64_t until = platform_now() + 30 * PIER_MILLISECOND;
    while (platform_now() < until) {}
}

static void close_functions_are_not_timed(void)
{
    struct pier_loop_options options = test_options();
    options.slow_callback_ns = 20 * PIER_MILLISECOND;
    options.slow_callback = note_slow;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const unsigned before = slow_calls; /* a busy machine is slow, too */
    tracked_close(&a, dawdle_closed);
    RUN_UNTIL(loop, a.closes == 1);
    CHECK_INT(slow_calls, ==, before);
    CHECK_INT(stats_of(loop).slow_callbacks, ==, before);
    raw_close(peer);
}

/* A turn needn't complete anything: a wake-up ends it, and a time limit that is only looked at. */
static void turn_without_a_completion(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0};
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    pier_wake(loop);
    CHECK_INT(run(loop, PIER_RUN_ONCE), ==, 1);
    CHECK(timer.in_flight);
    CHECK_INT(stats_of(loop).callbacks, ==, 0);
    tracked_cancel(&timer);
    wait_for(&timer);
}

/* On an op that isn't in flight, and on one of one shot, both do nothing. */
static void pause_of_what_is_idle(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked never = {0}, receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pier_pause(&never.op);
    pier_resume(&never.op);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    pier_pause(&receive.op);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    pier_resume(&receive.op);
    pier_pause(&receive.op);
    raw_send(peer, "x", 1);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    CHECK_INT(wait_for(&receive), ==, 1);
    close_and_wait(&a);
    raw_close(peer);
}

/* The last completion of a multishot receive has no data, and one of one shot none that counts. */
static void no_data_at_the_end(void)
{
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 2; i++) {
        struct tracked_handle a = {0};
        struct tracked receive = {0};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
        if (i == 0) {
            tracked_receive_each(&a, &receive, NULL);
        } else {
            tracked_receive_lent(&a, &receive, NULL);
        }
        raw_shutdown(peer);
        CHECK_INT(wait_for(&receive), ==, 0);
        CHECK_INT(receive.flags, ==, PIER_EOF);
        CHECK(i != 0 || (receive.op.data == NULL && receive.op.size == 0));
        CHECK(pier_buffer_keep(&receive.op) == NULL);
        close_and_wait(&a);
        raw_close(peer);
    }
}

const struct test promises_tests[] = {
    TEST(promises, pending_send_has_a_token),
    TEST(promises, bind_of_another_family),
    TEST(promises, bind_again),
    TEST(promises, bind_what_has_no_address),
    TEST(promises, work_before_a_timer),
    TEST(promises, grid_after_a_reset),
    TEST(promises, close_functions_are_not_timed),
    TEST(promises, turn_without_a_completion),
    TEST(promises, pause_of_what_is_idle),
    TEST(promises, no_data_at_the_end),
    TEST_END,
};
