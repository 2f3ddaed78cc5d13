/* writer.c - struct pier_writer: bounded, all or nothing, watermarks, merged sends, how it ends. */

#include "scribe.h"

static unsigned char data[1 << 20];

static void many_small_writes_are_merged(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 0, 0, 0);
    pattern_fill(data, 10000, 101, 0);
    for (size_t i = 0; i < 1000; i++) {
        CHECK_OK(pier_writer_write(&scribe.writer, data + i * 10, 10));
    }
    read_pattern(&scribe, 0, 10000);
    RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
    CHECK_INT(scribe.writer.written, ==, 10000);
    CHECK_INT(stats_of(scribe.loop).sends, ==, 1);
    CHECK_INT(scribe.highs + scribe.lows + scribe.errors, ==, 0);
    close_scribe(&scribe);
}

static void all_or_nothing_at_the_limit(void)
{
    struct scribe scribe = {0};
    size_t taken = 0;
    open_scribe(&scribe, 100000, 0, 0);
    CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 8192));
    pattern_fill(data, sizeof(data), 101, 0);
    for (;;) {
        const int result = pier_writer_write(&scribe.writer, data + taken, 7000);
        CHECK_INT(pier_writer_queued(&scribe.writer), <=, 100000);
        if (result < 0) {
            CHECK_INT(result, ==, PIER_ENOBUFS);
            break;
        }
        taken += 7000;
        CHECK_INT(taken, <, sizeof(data) - 7000);
        run(scribe.loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(taken, >=, 90000);
    const size_t queued = pier_writer_queued(&scribe.writer);
    /* Too much at any time, for all pieces together, and too much now. */
    const struct pier_vector two[2] = {{data, 60000}, {data, 60000}};
    CHECK_INT(pier_writer_write_vectored(&scribe.writer, two, 2), ==, PIER_EMSGSIZE);
    CHECK_INT(pier_writer_write(&scribe.writer, data, 100001), ==, PIER_EMSGSIZE);
    CHECK_INT(pier_writer_write(&scribe.writer, data, 100000), ==, PIER_ENOBUFS);
    CHECK_INT(pier_writer_queued(&scribe.writer), ==, queued);
    read_pattern(&scribe, 0, taken);
    RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
    const struct pier_vector three[3] = {{data + taken, 100}, {NULL, 0}, {data + taken + 100, 900}};
    CHECK_OK(pier_writer_write_vectored(&scribe.writer, three, 3));
    read_pattern(&scribe, taken, 1000);
    CHECK_INT(scribe.writer.error, ==, 0);
    close_scribe(&scribe);
}

static void watermarks(void)
{
    struct scribe scribe = {0};
    uint64_t written = 0, read = 0;
    open_scribe(&scribe, 200000, 100000, 20000);
    CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 8192));
    for (unsigned round = 1; round <= 3; round++) {
        while (pier_writer_queued(&scribe.writer) < 150000) {
            pattern_fill(data, 10000, 101, written);
            CHECK_OK(pier_writer_write(&scribe.writer, data, 10000));
            written += 10000;
            CHECK(pier_writer_queued(&scribe.writer) < 100000 || scribe.highs <= round);
            run(scribe.loop, PIER_RUN_NO_WAIT);
        }
        RUN_UNTIL(scribe.loop, scribe.highs == round);
        run_quietly(scribe.loop, 2);
        CHECK_INT(scribe.highs, ==, round);
        CHECK_INT(scribe.lows, ==, round - 1);
        read_pattern(&scribe, read, (size_t)(written - read));
        read = written;
        RUN_UNTIL(scribe.loop, scribe.lows == round);
        CHECK_INT(pier_writer_queued(&scribe.writer), <=, 20000);
    }
    CHECK_INT(scribe.highs, ==, 3);
    close_scribe(&scribe);
}

static void long_stream_through_a_small_ring(void)
{
    struct scribe scribe = {0};
    uint64_t written = 0, read = 0, state = 9;
    open_scribe(&scribe, 5000, 0, 0);
    CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 4096));
    static unsigned char got[8192];
    test_wait_begin(__FILE__, __LINE__, "500,000 bytes through a ring of 5,000");
    while (read < 500000) {
        const size_t size = 1 + random_below(&state, 900);
        pattern_fill(data, size, 101, written);
        if (pier_writer_write(&scribe.writer, data, size) == 0) {
            written += size;
        }
        const int64_t now = raw_receive_now(scribe.peer, got, 1 + random_below(&state, 1500));
        if (now > 0) {
            CHECK_PATTERN(got, (size_t)now, 101, read);
            read += (uint64_t)now;
        }
        run(scribe.loop, PIER_RUN_NO_WAIT);
    }
    test_wait_end();
    CHECK_INT(written, >=, read);
    close_scribe(&scribe);
}

static void steady_writes_allocate_nothing(void)
{
    struct scribe scribe = {0};
    uint64_t allocations = 0;
    open_scribe(&scribe, 0, 0, 0);
    for (unsigned round = 0; round < 200; round++) {
        if (round == 20) {
            allocations = test_allocations_made();
        }
        pattern_fill(data, 2000, 101, round * 2000);
        for (unsigned i = 0; i < 20; i++) {
            CHECK_OK(pier_writer_write(&scribe.writer, data + i * 100, 100));
        }
        read_pattern(&scribe, round * 2000, 2000);
    }
    RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
    CHECK_INT(test_allocations_made(), ==, allocations);
    close_scribe(&scribe);
}

static void broken_stream(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 0, 0, 0);
    CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 8192));
    while (pier_writer_queued(&scribe.writer) < 200000) {
        CHECK_OK(pier_writer_write(&scribe.writer, data, 50000));
        run(scribe.loop, PIER_RUN_NO_WAIT);
    }
    raw_close(scribe.peer);
    RUN_UNTIL(scribe.loop, scribe.errors == 1);
    CHECK(scribe.writer.error == PIER_EPIPE || scribe.writer.error == PIER_ECONNRESET);
    CHECK_INT(pier_writer_write(&scribe.writer, "x", 1), ==, scribe.writer.error);
    CHECK_INT(pier_writer_queued(&scribe.writer), ==, 0);
    run_quietly(scribe.loop, 5);
    CHECK_INT(scribe.errors, ==, 1);
    scribe.peer = raw_socket(PIER_ADDRESS_IPV4);
    close_scribe(&scribe);
}

static void note_finished(struct pier_op *op)
{
    CHECK(test_running() != NULL);
    CHECK_INT(op->result, ==, 0);
    op->data = op;
}

static void finish_sends_the_rest_and_ends(void)
{
    struct scribe scribe = {0};
    struct pier_op finish = {0};
    open_scribe(&scribe, 0, 0, 0);
    CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 8192));
    pattern_fill(data, 300000, 101, 0);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 300000));
    pier_writer_finish(&scribe.writer, &finish, note_finished);
    CHECK_INT(pier_writer_write(&scribe.writer, "late", 4), ==, PIER_ECLOSED);
    read_pattern(&scribe, 0, 300000);
    RUN_UNTIL(scribe.loop, finish.data == &finish);
    CHECK_INT(scribe.writer.written, ==, 300000);
    raw_receive_end(scribe.peer);
    close_scribe(&scribe);
}

static void finish_with_nothing_queued(void)
{
    struct scribe scribe = {0};
    struct pier_op finish = {0};
    open_scribe(&scribe, 0, 0, 0);
    pier_writer_finish(&scribe.writer, &finish, note_finished);
    RUN_UNTIL(scribe.loop, finish.data == &finish);
    raw_receive_end(scribe.peer);
    close_scribe(&scribe);
}

static void closed_with_data_queued(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 0, 0, 0);
    CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 8192));
    CHECK_OK(pier_writer_write(&scribe.writer, data, 500000));
    run_quietly(scribe.loop, 5);
    tracked_close(&scribe.handle, NULL);
    CHECK_INT(pier_writer_write(&scribe.writer, "x", 1), ==, PIER_ECLOSED);
    close_scribe(&scribe);
}

static void beside_other_sends(void)
{
    struct scribe scribe = {0};
    struct tracked send = {0};
    char got[15];
    open_scribe(&scribe, 0, 0, 0);
    CHECK_OK(pier_writer_write(&scribe.writer, "first", 5));
    tracked_send(&scribe.handle, &send, "other", 5, NULL);
    CHECK_INT(wait_for(&send), ==, 5);
    CHECK_OK(pier_writer_write(&scribe.writer, "third", 5));
    RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
    raw_receive(scribe.peer, got, 15);
    CHECK_BYTES(got, "firstotherthird", 15);
    close_scribe(&scribe);
}

/* An idle writer has no ring, so the next one needs no other. */
static void new_writers_allocate_nothing(void)
{
    struct pier_loop *loop = test_loop();
    const struct pier_writer_options none = {0};
    uint64_t allocations = 0;
    struct scribe scribes[8] = {{.loop = NULL}};
    for (unsigned i = 0; i < COUNT_OF(scribes); i++) {
        open_scribe_with(&scribes[i], loop, &none);
    }
    for (unsigned i = 0; i < COUNT_OF(scribes); i++) {
        pattern_fill(data, 300000, 101, 0);
        CHECK_OK(pier_writer_write(&scribes[i].writer, data, 2000));
        read_pattern(&scribes[i], 0, 2000);
        RUN_UNTIL(loop, pier_writer_queued(&scribes[i].writer) == 0);
        CHECK_OK(pier_writer_write(&scribes[i].writer, data, 300000));
        read_pattern(&scribes[i], 0, 300000);
        RUN_UNTIL(loop, pier_writer_queued(&scribes[i].writer) == 0);
        if (i == 0) {
            allocations = test_allocations_made();
        }
    }
    CHECK_INT(test_allocations_made(), ==, allocations);
    for (unsigned i = 0; i < COUNT_OF(scribes); i++) {
        close_scribe(&scribes[i]);
    }
}

/* Only a write that never fits explains itself. */
static void refusals_and_the_detail(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 1000, 0, 0);
    CHECK_REFUSED(pier_writer_write(&scribe.writer, data, 1001), PIER_EMSGSIZE);
    char line[256];
    snprintf(line, sizeof(line), "%s", pier_error_detail());
    CHECK_OK(pier_writer_write(&scribe.writer, data, 900));
    CHECK_INT(pier_writer_write(&scribe.writer, data, 900), ==, PIER_ENOBUFS);
    CHECK_TEXT(pier_error_detail(), line);
    tracked_close(&scribe.handle, NULL);
    CHECK_INT(pier_writer_write(&scribe.writer, data, 1), ==, PIER_ECLOSED);
    CHECK_TEXT(pier_error_detail(), line);
    close_scribe(&scribe);
}

static void options_that_make_no_sense(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct pier_writer writer = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const struct pier_writer_options low_above_high = {.limit = 1000, .high = 100, .low = 200};
    const struct pier_writer_options high_above_limit = {.limit = 1000, .high = 2000};
    CHECK_REFUSED(pier_writer_open(&writer, &a.handle, &low_above_high), PIER_EINVAL);
    CHECK_REFUSED(pier_writer_open(&writer, &a.handle, &high_above_limit), PIER_EINVAL);
    CHECK_OK(pier_writer_open(&writer, &a.handle, NULL));
    CHECK_OK(pier_writer_write(&writer, "", 0));
    close_and_wait(&a);
    pier_writer_free(&writer);
    raw_close(peer);
}

const struct test writer_tests[] = {
    TEST(writer, many_small_writes_are_merged),
    TEST(writer, all_or_nothing_at_the_limit),
    TEST(writer, watermarks),
    TEST(writer, long_stream_through_a_small_ring),
    TEST(writer, steady_writes_allocate_nothing),
    TEST(writer, broken_stream),
    TEST(writer, finish_sends_the_rest_and_ends),
    TEST(writer, finish_with_nothing_queued),
    TEST(writer, closed_with_data_queued),
    TEST(writer, beside_other_sends),
    TEST(writer, new_writers_allocate_nothing),
    TEST(writer, refusals_and_the_detail),
    TEST(writer, options_that_make_no_sense),
    TEST_END,
};
