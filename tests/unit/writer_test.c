/* writer_test.c - the bounded writer at work: order, limits, memory, watermarks. How it ends is in
 * writer_end_test.c. */

#include "writer_fixture.h"

TEST_EACH(options_out_of_order_are_refused)
{
    struct fixture *f = open_fixture(backend, NULL);
    struct pier_writer other;
    struct pier_writer_options options = {.limit = 100, .high = 101};
    CHECK_EQ(pier_writer_open(&other, &f->near, &options), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "101") != NULL);
    options = (struct pier_writer_options){.limit = 100, .high = 50, .low = 51};
    CHECK_EQ(pier_writer_open(&other, &f->near, &options), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "51") != NULL);
    options = (struct pier_writer_options){.limit = 100, .high = 100, .low = 100};
    CHECK_EQ(pier_writer_open(&other, &f->near, &options), 0);
    options = (struct pier_writer_options){.limit = 1};
    CHECK_EQ(pier_writer_open(&other, &f->near, &options), 0);
    pier_writer_free(&other);
    pier_close(&f->near, on_near_closed);
    CHECK_EQ(pier_writer_open(&other, &f->near, NULL), PIER_ECLOSED);
    close_fixture(f);
}

TEST_EACH(a_writer_never_written_to_takes_no_memory)
{
    struct fixture *f = open_fixture(backend, NULL);
    settle(f);
    struct pier_loop_counters before, after;
    pier_loop_stats(f->loop, &before);
    struct pier_writer other, zero = {0};
    struct pier_writer_options options = all_callbacks(0, 0, 0);
    CHECK_EQ(pier_writer_open(&other, &f->near, &options), 0);
    CHECK_EQ(pier_writer_write(&other, NULL, 0), 0);
    pier_writer_free(&other);
    pier_writer_free(&other);
    pier_writer_free(&zero);
    CHECK_EQ(pier_writer_write(&other, "x", 1), PIER_ECLOSED);
    pier_loop_stats(f->loop, &after);
    CHECK_EQ(after.allocations, before.allocations);
    close_fixture(f);
}

/* Writes and reads a stream in random steps. */
static void run_stream(struct fixture *f, unsigned seed, uint64_t size)
{
    unsigned state = seed * 2654435761u + 1;
    while (f->produced < size) {
        state = state * 1103515245u + 12345u;
        size_t part = (state >> 16) % 5 == 0 ? (state >> 8) % 30000 : (state >> 8) % 300;
        int error = write_some(f, part);
        if (error != 0)
            CHECK_EQ(error, PIER_ENOBUFS);
        CHECK_LE(pier_writer_queued(&f->writer), 40000);
        if ((state >> 12) % 3 == 0 || error != 0)
            let_read(f, (state >> 4) % 20000 + 1);
        turn(f);
    }
    let_read(f, 1 << 20);
    RUN_UNTIL(f, f->consumed == f->produced && pier_writer_queued(&f->writer) == 0);
    CHECK_EQ(f->highs, f->lows);
    CHECK_EQ(f->writer.written, f->produced);
}

TEST_EACH(bytes_arrive_in_order_through_growth_and_wrapping)
{
    struct pier_writer_options options = all_callbacks(40000, 0, 0);
    struct fixture *f = open_fixture(backend, &options);
    run_stream(f, 1, 3000000);
    CHECK_GT(f->highs, 0);
    close_fixture(f);
    for (unsigned seed = 2; seed < 60; seed++) {
        f = open_fixture(backend, &options);
        run_stream(f, seed, 50000);
        close_fixture(f);
    }
}

TEST_EACH(the_ring_may_grow_twice_while_a_send_is_in_flight)
{
    struct fixture *f = open_fixture(backend, NULL);
    /* Until it is stuck, since the peer doesn't read. */
    for (int i = 0; i < 1000 && pier_writer_queued(&f->writer) < 20000; i++) {
        CHECK_EQ(write_some(f, 30000), 0);
        settle(f);
    }
    CHECK_GE(pier_writer_queued(&f->writer), 20000);
    CHECK_EQ(write_some(f, 100000), 0);
    CHECK_EQ(write_some(f, 300000), 0);
    CHECK_EQ(write_some(f, 500000), 0);
    let_read(f, 100000000);
    RUN_UNTIL(f, f->consumed == f->produced);
    close_fixture(f);
}

TEST_EACH(a_write_is_taken_whole_or_not_at_all)
{
    struct pier_writer_options options = all_callbacks(100000, 100000, 0);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 60000), 0);
    CHECK_EQ(write_some(f, 60000), PIER_ENOBUFS);
    for (size_t i = 0; i < 40001; i++)
        f->scratch[i] = byte_at(60000 + i);
    struct pier_vector parts[] = {{f->scratch, 20000}, {NULL, 0}, {f->scratch + 20000, 20001}};
    CHECK_EQ(pier_writer_write_vectored(&f->writer, parts, 3), PIER_ENOBUFS);
    CHECK_EQ(pier_writer_queued(&f->writer), 60000);
    parts[2].size = 20000;
    CHECK_EQ(pier_writer_write_vectored(&f->writer, parts, 3), 0);
    CHECK_EQ(pier_writer_queued(&f->writer), 100000);
    CHECK_EQ(pier_writer_write(&f->writer, "x", 1), PIER_ENOBUFS);
    CHECK_EQ(pier_writer_write(&f->writer, "x", 0), 0);
    CHECK_EQ(pier_writer_write_vectored(&f->writer, parts, 0), 0);

    CHECK_EQ(pier_writer_write(&f->writer, f->scratch, 100001), PIER_EMSGSIZE);
    CHECK(strstr(pier_error_detail(), "100001") != NULL);
    parts[0].size = parts[2].size = SIZE_MAX / 2 + 2; /* their sum overflows */
    CHECK_EQ(pier_writer_write_vectored(&f->writer, parts, 3), PIER_EMSGSIZE);
    CHECK_EQ(pier_writer_queued(&f->writer), 100000);
    f->produced = 100000;
    let_read(f, 100000);
    RUN_UNTIL(f, f->consumed == 100000);
    close_fixture(f);
}

TEST_EACH(a_small_limit_works_too)
{
    struct pier_writer_options options = all_callbacks(7, 0, 0);
    struct fixture *f = open_fixture(backend, &options);
    let_read(f, 1000);
    while (f->produced < 1000) {
        int error = write_some(f, (size_t)(1 + f->produced % 7));
        if (error != 0)
            CHECK_EQ(error, PIER_ENOBUFS);
        turn(f);
    }
    RUN_UNTIL(f, f->consumed >= 1000);
    close_fixture(f);
}

TEST_EACH(small_writes_are_merged)
{
    struct fixture *f = open_fixture(backend, NULL);
    struct pier_loop_counters before, after;
    pier_loop_stats(f->loop, &before);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(write_some(f, 20), 0);
    let_read(f, 2000);
    RUN_UNTIL(f, f->consumed == 2000);
    RUN_UNTIL(f, pier_writer_queued(&f->writer) == 0);
    pier_loop_stats(f->loop, &after);
    CHECK_LE(after.sends - before.sends, 2);
    close_fixture(f);
}

TEST_EACH(a_busy_writer_allocates_nothing)
{
    struct pier_writer_options options = all_callbacks(60000, 20000, 5000);
    struct fixture *f = open_fixture(backend, &options);
    settle(f);
    f->largest = 0;
    struct pier_loop_counters before, after;
    uint64_t count = 0;
    for (int round = 0; round < 200; round++) {
        if (round == 20) {
            pier_loop_stats(f->loop, &before);
            count = unit_allocation_count();
        }
        while (write_some(f, 777) == 0) {}
        let_read(f, 1 << 20);
        RUN_UNTIL(f, f->consumed == f->produced && f->highs == f->lows);
        f->wanted = 0;
    }
    pier_loop_stats(f->loop, &after);
    CHECK_EQ(after.allocations, before.allocations);
    CHECK_EQ(unit_allocation_count(), count);
    CHECK_GE(f->highs, 200);
    CHECK_LE(f->largest, 65536); /* a power of two */
    close_fixture(f);
}

TEST_EACH(watermarks_are_told_once_each_way)
{
    struct pier_writer_options options = all_callbacks(200000, 50000, 20000);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 30000), 0);
    settle(f);
    CHECK_EQ(f->highs, 0);
    CHECK_EQ(write_some(f, 60000), 0);
    CHECK_EQ(f->highs, 0); /* not inside the write */
    RUN_UNTIL(f, f->highs == 1);
    CHECK_EQ(write_some(f, 60000), 0);
    settle(f);
    CHECK_EQ(f->highs, 1);
    CHECK_EQ(f->lows, 0);
    let_read(f, 50000);
    RUN_UNTIL(f, f->consumed == 50000);
    settle(f);
    CHECK_EQ(f->lows, 0); /* more than 80,000 are queued still */
    let_read(f, 1 << 20);
    RUN_UNTIL(f, f->lows == 1);
    CHECK_LE(pier_writer_queued(&f->writer), 20000);
    RUN_UNTIL(f, f->consumed == f->produced);
    CHECK_EQ(f->highs, 1);
    CHECK_EQ(f->lows, 1);
    CHECK_EQ(write_some(f, 50000), 0);
    RUN_UNTIL(f, f->lows == 2);
    CHECK_EQ(f->highs, 2);
    RUN_UNTIL(f, f->consumed == f->produced);
    close_fixture(f);
}

static void expect_low_at(const char *backend, size_t limit, size_t part)
{
    struct pier_writer_options options = all_callbacks(limit, 4 * part, 2 * part);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 4 * part), 0);
    let_read(f, 1 << 20);
    RUN_UNTIL(f, f->lows == 1);
    CHECK_EQ(f->queued_at_low, 2 * part);
    RUN_UNTIL(f, f->consumed == 4 * part);
    CHECK_EQ(f->highs, 1);
    close_fixture(f);
}

TEST_EACH(marks_are_inclusive_and_sends_are_parts_of_the_limit)
{
    expect_low_at(backend, 80000, 10000);
    expect_low_at(backend, 8 << 20, 65536);
    expect_low_at(backend, 20000, 4096);
}

TEST_EACH(a_refused_write_is_followed_by_on_low)
{
    /* The queue never reaches `high`, and the write that is refused fits once it is empty. */
    struct pier_writer_options options = all_callbacks(100000, 100000, 1000);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 30000), 0);
    CHECK_EQ(write_some(f, 90000), PIER_ENOBUFS);
    settle(f);
    CHECK_EQ(f->highs, 1);
    CHECK_EQ(f->lows, 0);
    let_read(f, 1 << 20);
    RUN_UNTIL(f, f->lows == 1);
    CHECK_EQ(write_some(f, 90000), 0);
    RUN_UNTIL(f, f->consumed == 120000);
    close_fixture(f);
}

TEST_EACH(on_low_comes_without_on_high_too)
{
    struct pier_writer_options options = {.limit = 100000, .on_low = on_low};
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 80000), 0);
    let_read(f, 80000);
    RUN_UNTIL(f, f->lows == 1);
    RUN_UNTIL(f, f->consumed == 80000);
    close_fixture(f);
}

static void refill(struct fixture *f)
{
    while (f->produced < 2000000 && write_some(f, 5000) == 0) {}
}

TEST_EACH(on_low_may_write)
{
    struct pier_writer_options options = all_callbacks(100000, 50000, 20000);
    struct fixture *f = open_fixture(backend, &options);
    f->when_low = refill;
    refill(f);
    let_read(f, 10000000);
    RUN_UNTIL(f, f->consumed == 2000000);
    CHECK_GE(f->lows, 2000000 / 100000);
    close_fixture(f);
}

static void write_once_more(struct fixture *f)
{
    if (f->produced < 180000)
        CHECK_EQ(write_some(f, 60000), 0);
}

static void write_late(struct pier_op *op)
{
    CHECK_EQ(write_some(PIER_OWNER(op, struct fixture, post), 20000), 0);
}

/* The send of one byte is over, and its completion makes the queue high, when the writer's send may
 * be over too: then on_high comes right in front of on_low. */
static struct fixture *write_and_drain(const char *backend)
{
    static unsigned char first;
    struct pier_writer_options options = all_callbacks(1 << 20, 50000, 45000);
    struct fixture *f = open_fixture(backend, &options);
    pier_set_buffer_sizes(&f->near, 0, 1 << 20);
    first = byte_at(0);
    pier_send(&f->near, &f->post, &first, 1, write_late);
    f->produced = 1;
    CHECK_EQ(write_some(f, 40000), 0);
    let_read(f, 1 << 20);
    return f;
}

TEST_EACH(on_high_is_told_though_the_queue_drained_before)
{
    struct fixture *f = write_and_drain(backend);
    RUN_UNTIL(f, f->consumed == 60001 && f->lows == 1);
    settle(f);
    CHECK_EQ(f->highs, 1);
    CHECK_EQ(f->lows, 1);
    close_fixture(f);
}

TEST_EACH(a_late_on_high_may_write)
{
    struct fixture *f = write_and_drain(backend);
    f->when_high = write_once_more; /* which may start a pair of its own */
    RUN_UNTIL(f, f->consumed == f->produced && f->lows == f->highs && f->lows > 0);
    CHECK_GE(f->produced, 120001);
    settle(f);
    CHECK_EQ(f->highs, f->lows);
    close_fixture(f);
}

static void close_near(struct fixture *f)
{
    pier_close(&f->near, on_near_closed);
}

TEST_EACH(a_late_on_high_may_close)
{
    struct fixture *f = write_and_drain(backend);
    f->when_high = close_near;
    RUN_UNTIL(f, f->near_closed == 1);
    CHECK_EQ(f->highs, 1);
    CHECK_EQ(f->lows, 0);
    close_fixture(f);
}
