/* writer_ends.c - a handle that closes before its writer has sent leaves nothing of it in the loop;
 * and callbacks of the writer that write or close. */

#include "scribe.h"

static unsigned char data[1 << 20];

static void count_finish(struct pier_op *op)
{
    CHECK(test_running() != NULL);
    op->data = op;
}

static void close_it(struct scribe *scribe)
{
    tracked_close(&scribe->handle, NULL);
}

static struct pier_op finish;

static void write_and_close(struct tracked *post)
{
    struct scribe *scribe = post->context;
    CHECK_OK(pier_writer_write(&scribe->writer, data, 90000));
    pier_writer_finish(&scribe->writer, &finish, count_finish);
    close_it(scribe);
}

/* Nothing of the writer is in the loop once its handle is closed and it is freed, also where
 * on_high was due. */
static void closed_in_the_callback_that_writes(void)
{
    struct scribe scribe = {0};
    struct tracked post = {.context = &scribe};
    open_scribe(&scribe, 100000, 50000, 0);
    tracked_post(scribe.loop, &post, write_and_close);
    SPIN_UNTIL(scribe.loop, post.completions == 1, {});
    RUN_UNTIL(scribe.loop, scribe.handle.closes == 1);
    pier_writer_free(&scribe.writer);
    memset(&scribe.writer, 0xa5, sizeof(scribe.writer));
    CHECK(finish.data == &finish);
    CHECK_INT(finish.result, ==, PIER_ECLOSED);
    CHECK_INT(scribe.highs + scribe.lows + scribe.errors + scribe.drains, ==, 0);
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
    raw_close(scribe.peer);
    test_loop_free(scribe.loop);
}

static void closed_outside_with_a_watermark_due(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 100000, 50000, 0);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 90000));
    CHECK_INT(pier_writer_write(&scribe.writer, data, 90000), ==, PIER_ENOBUFS);
    close_it(&scribe);
    RUN_UNTIL(scribe.loop, scribe.handle.closes == 1);
    pier_writer_free(&scribe.writer);
    CHECK_INT(scribe.highs + scribe.lows + scribe.errors + scribe.drains, ==, 0);
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
    raw_close(scribe.peer);
    test_loop_free(scribe.loop);
}

static void drained_by_the_loop_before_it_ran(void)
{
    struct scribe scribe = {0};
    const struct pier_writer_options options = {
        .limit = 100000, .high = 50000, .stall_ns = PIER_SECOND};
    open_scribe_with(&scribe, test_loop(), &options);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 90000));
    CHECK_OK(drain(scribe.loop, 50 * PIER_SECOND));
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
    pier_writer_free(&scribe.writer);
    raw_close(scribe.peer);
}

/* ---- callbacks that write or close */

static void write_ten_times(struct scribe *scribe)
{
    const unsigned calls = scribe->highs + scribe->lows + scribe->drains;
    if (scribe->errors > 0) {
        CHECK_INT(pier_writer_write(&scribe->writer, "x", 1), ==, scribe->writer.error);
    } else if (calls <= 10) {
        CHECK_OK(pier_writer_write(&scribe->writer, data, 30000));
    }
}

static void every_callback_may_write(void)
{
    struct scribe scribe = {.then = write_ten_times};
    open_scribe(&scribe, 1000000, 30000, 10000);
    memset(data, 'x', 30000);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 30000));
    static unsigned char got[65536];
    SPIN_UNTIL(scribe.loop, scribe.writer.written == 11 * 30000 && scribe.drains > 0,
               raw_receive_now(scribe.peer, got, sizeof(got)));
    SPIN_UNTIL(scribe.loop, scribe.highs == scribe.lows, {});
    CHECK_INT(scribe.highs + scribe.lows + scribe.drains, >=, 11);
    raw_close(scribe.peer);
    while (scribe.errors == 0) {
        /* A peer that is gone is noticed by the second send at the latest. */
        if (pier_writer_queued(&scribe.writer) == 0 && scribe.writer.error == 0) {
            CHECK_OK(pier_writer_write(&scribe.writer, data, 1000));
        }
        run(scribe.loop, PIER_RUN_NO_WAIT);
    }
    scribe.peer = raw_socket(PIER_ADDRESS_IPV4);
    close_scribe(&scribe);
}

enum ending { AT_HIGH, AT_LOW, AT_DRAINED, AT_ERROR };

static void close_and_free(struct tracked_handle *handle)
{
    struct scribe *scribe = handle->context;
    pier_writer_free(&scribe->writer);
    memset(&scribe->writer, 0xa5, sizeof(scribe->writer));
}

static enum ending ending;

static void close_when_it_comes(struct scribe *scribe)
{
    const unsigned counts[] = {scribe->highs, scribe->lows, scribe->drains, scribe->errors};
    if (counts[ending] == 1) {
        tracked_close(&scribe->handle, close_and_free);
    }
}

static void every_callback_may_close(void)
{
    static unsigned char got[65536];
    for (ending = AT_HIGH; ending <= AT_ERROR; ending++) {
        struct scribe scribe = {.then = close_when_it_comes};
        const struct pier_writer_options options = {
            .limit = 200000, .high = 50000, .low = 20000, .stall_ns = 100 * PIER_SECOND};
        open_scribe_with(&scribe, test_loop(), &options);
        scribe.handle.context = &scribe;
        CHECK_OK(pier_set_buffer_sizes(&scribe.handle.handle, 0, 8192));
        CHECK_OK(pier_writer_write(&scribe.writer, data, 180000));
        if (ending == AT_ERROR) {
            run_quietly(scribe.loop, 2);
            raw_close(scribe.peer);
        }
        SPIN_UNTIL(scribe.loop, scribe.handle.closes == 1, {
            if (ending != AT_ERROR) {
                raw_receive_now(scribe.peer, got, sizeof(got));
            }
        });
        CHECK_INT(scribe.highs, ==, 1);
        CHECK_INT(scribe.drains, ==, ending == AT_DRAINED);
        CHECK_INT(scribe.errors, ==, ending == AT_ERROR);
        CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
        if (ending != AT_ERROR) {
            raw_close(scribe.peer);
        }
        test_loop_free(scribe.loop);
    }
}

const struct test writer_ends_tests[] = {
    TEST(writer_ends, closed_in_the_callback_that_writes),
    TEST(writer_ends, closed_outside_with_a_watermark_due),
    TEST(writer_ends, drained_by_the_loop_before_it_ran),
    TEST(writer_ends, every_callback_may_write),
    TEST(writer_ends, every_callback_may_close),
    TEST_END,
};
