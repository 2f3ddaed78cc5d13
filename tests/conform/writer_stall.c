/* writer_stall.c - a peer that takes nothing for stall_ns ends the writer; one that takes a little,
 * however slowly, doesn't.
 *
 * No test asks for an upper limit of time. A slow reader can't be taken for a stalled one because
 * the machine is busy: reader and loop take turns on one thread, and the writer looks several times
 * before it believes in a stall. */

#include "scribe.h"

static unsigned char data[1 << 20];

/* Wine asks for the window of a reader that was full every 0.2 s. */
static uint64_t stall_time(void)
{
    return test_backend_is("iocp") ? 2 * PIER_SECOND : 200 * PIER_MILLISECOND;
}

static void open_stalling(struct scribe *scribe, struct pier_loop *loop, size_t limit)
{
    const struct pier_writer_options options = {.limit = limit, .stall_ns = stall_time()};
    open_scribe_with(scribe, loop, &options);
    CHECK_OK(pier_set_buffer_sizes(&scribe->handle.handle, 0, 8192));
}

static void note_finish(struct pier_op *op)
{
    CHECK(test_running() != NULL);
    op->data = op;
}

static void a_peer_that_never_reads(void)
{
    struct scribe scribe = {0};
    struct pier_op finish = {0};
    open_stalling(&scribe, test_loop(), 0);
    const uint64_t begin = pier_loop_now(scribe.loop);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 900000));
    pier_writer_finish(&scribe.writer, &finish, note_finish);
    RUN_UNTIL(scribe.loop, scribe.errors == 1);
    CHECK_INT(pier_loop_now(scribe.loop) - begin, >=, stall_time());
    CHECK_INT(scribe.writer.error, ==, PIER_ETIMEDOUT);
    CHECK_INT(pier_writer_queued(&scribe.writer), ==, 0);
    CHECK_INT(pier_writer_write(&scribe.writer, "x", 1), ==, PIER_ETIMEDOUT);
    RUN_UNTIL(scribe.loop, finish.data == &finish);
    CHECK_INT(finish.result, ==, PIER_ETIMEDOUT);
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
    CHECK_INT(scribe.drains, ==, 0);
    close_scribe(&scribe);
}

/* What the peer has read up to now is all there is, in order. */
static void drop_what_came(struct scribe *scribe)
{
    static unsigned char got[sizeof(data)];
    const int64_t size = raw_receive_now(scribe->peer, got, sizeof(got));
    CHECK(size > 0);
}

/* It has read for a while, and then stops. */
static void a_peer_that_stops_reading(void)
{
    struct scribe scribe = {0};
    open_stalling(&scribe, test_loop(), 0);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 900000));
    run_quietly(scribe.loop, 20);
    drop_what_came(&scribe);
    run_quietly(scribe.loop, 20);
    CHECK_INT(scribe.errors, ==, 0);
    const uint64_t begin = pier_loop_now(scribe.loop);
    drop_what_came(&scribe);
    RUN_UNTIL(scribe.loop, scribe.errors == 1);
    CHECK_INT(pier_loop_now(scribe.loop) - begin, >=, stall_time());
    CHECK_INT(scribe.writer.error, ==, PIER_ETIMEDOUT);
    CHECK_INT(scribe.writer.written, <, 900000);
    close_scribe(&scribe);
}

/* One send takes longer than the limit; but for TCP on Windows, where the peer's window opens in
 * such steps that it takes several sends to be slow. */
static void a_slow_peer_is_no_stalled_one(void)
{
    static unsigned char got[32768];
    struct scribe scribe = {0};
    const bool by_steps = test_backend_is("iocp");
    const size_t size = by_steps ? 600000 : 200000, piece = by_steps ? sizeof(got) : 8192;
    const uint64_t pause = by_steps ? stall_time() / 8 : stall_time() / 4;
    size_t read = 0;
    open_stalling(&scribe, test_loop(), 0);
    pattern_fill(data, size, 101, 0);
    CHECK_OK(pier_writer_write(&scribe.writer, data, size));
    uint64_t next = 0;
    SPIN_UNTIL(scribe.loop, read == size, {
        if (platform_now() >= next) {
            const int64_t now = raw_receive_now(scribe.peer, got, piece);
            CHECK(now > 0 || now == RAW_AGAIN);
            if (now > 0) {
                CHECK_PATTERN(got, (size_t)now, 101, read);
                read += (size_t)now;
            }
            next = platform_now() + pause;
        }
    });
    RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
    CHECK_INT(scribe.writer.error, ==, 0);
    CHECK_INT(scribe.errors, ==, 0);
    CHECK_INT(scribe.drains, ==, 1);
    close_scribe(&scribe);
}

/* Time in which nothing is queued doesn't count. */
static void an_idle_writer_doesn_t_stall(void)
{
    struct scribe scribe = {0};
    open_stalling(&scribe, test_loop(), 0);
    for (unsigned round = 0; round < 3; round++) {
        pattern_fill(data, 3000, 101, 0);
        CHECK_OK(pier_writer_write(&scribe.writer, data, 3000));
        read_pattern(&scribe, 0, 3000);
        RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
        run_quietly(scribe.loop, (unsigned)(stall_time() / PIER_MILLISECOND / 2));
    }
    /* Nor does the look at it keep the loop running. */
    CHECK_INT(run(scribe.loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(scribe.errors, ==, 0);
    CHECK_INT(scribe.drains, ==, 3);
    close_scribe(&scribe);
}

/* A send of the program's own that is stuck before the writer's has a time limit of its own, or
 * none. */
static void behind_a_send_that_is_stuck(void)
{
    struct scribe scribe = {0};
    struct tracked send = {0};
    open_stalling(&scribe, test_loop(), 0);
    memset(data, 'x', 600000);
    tracked_send(&scribe.handle, &send, data, 600000, NULL);
    run_quietly(scribe.loop, 2);
    CHECK_OK(pier_writer_write(&scribe.writer, "behind", 6));
    run_quietly(scribe.loop, (unsigned)(3 * stall_time() / PIER_MILLISECOND));
    CHECK_INT(scribe.errors, ==, 0);
    CHECK(send.in_flight);
    static unsigned char got[600006];
    size_t read = 0;
    SPIN_UNTIL(scribe.loop, read == sizeof(got), {
        const int64_t now = raw_receive_now(scribe.peer, got + read, sizeof(got) - read);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_BYTES(got + 600000, "behind", 6);
    RUN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0);
    wait_for(&send);
    close_scribe(&scribe);
}

/* What is behind a send that is looked at stays behind all of it. */
static void order_is_kept_while_it_is_looked_at(void)
{
    struct scribe scribe = {0};
    struct tracked behind = {0};
    static unsigned char got[60001];
    const unsigned wait_ms = (unsigned)(stall_time() * 2 / 3 / PIER_MILLISECOND);
    if (test_backend_is("iocp")) {
        test_skip("this system doesn't tell how far a request is");
        return;
    }
    open_stalling(&scribe, test_loop(), 0);
    pattern_fill(data, 60000, 103, 0);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 60000));
    tracked_send(&scribe.handle, &behind, "D", 1, NULL);
    run_quietly(scribe.loop, wait_ms);
    size_t read = 0;
    int64_t some;
    while ((some = raw_receive_now(scribe.peer, got + read, sizeof(got) - read)) > 0) {
        read += (size_t)some;
    }
    CHECK_INT(read, <, 60000);
    run_quietly(scribe.loop, wait_ms);
    SPIN_UNTIL(scribe.loop, read == sizeof(got), {
        const int64_t now = raw_receive_now(scribe.peer, got + read, sizeof(got) - read);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_PATTERN(got, 60000, 103, 0);
    CHECK_INT(got[60000], ==, 'D');
    CHECK_INT(scribe.errors, ==, 0);
    CHECK_INT(wait_for(&behind), ==, 1);
    close_scribe(&scribe);
}

/* The look is taken out of the loop with the writer. */
static void freed_with_a_look_to_come(void)
{
    struct scribe scribe = {0};
    open_stalling(&scribe, test_loop(), 0);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 900000));
    run_quietly(scribe.loop, 2);
    close_scribe(&scribe);
    memset(&scribe.writer, 0xa5, sizeof(scribe.writer));
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
    test_loop_free(scribe.loop);
}

static void free_at_last(struct tracked *receive)
{
    struct scribe *scribe = receive->context;
    CHECK_INT(receive->result, ==, PIER_ECANCELED);
    pier_writer_free(&scribe->writer);
    memset(&scribe->writer, 0xa5, sizeof(scribe->writer));
}

/* A drain has cancelled the look, and a completion that comes before frees the writer. */
static void freed_in_a_drain(void)
{
    struct scribe scribe = {0};
    struct tracked receive = {.context = &scribe};
    char byte;
    open_stalling(&scribe, test_loop(), 0);
    tracked_receive(&scribe.handle, &receive, &byte, 1, free_at_last);
    CHECK_OK(pier_writer_write(&scribe.writer, data, 60000));
    static unsigned char got[sizeof(data)];
    SPIN_UNTIL(scribe.loop, pier_writer_queued(&scribe.writer) == 0,
               raw_receive_now(scribe.peer, got, sizeof(got)));
    receive.ending = true;
    CHECK_OK(drain(scribe.loop, 50 * PIER_SECOND));
    CHECK_INT(receive.completions, ==, 1);
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 0);
    raw_close(scribe.peer);
}

const struct test writer_stall_tests[] = {
    TEST(writer_stall, a_peer_that_never_reads),
    TEST(writer_stall, a_peer_that_stops_reading),
    TEST(writer_stall, a_slow_peer_is_no_stalled_one),
    TEST(writer_stall, an_idle_writer_doesn_t_stall),
    TEST(writer_stall, behind_a_send_that_is_stuck),
    TEST(writer_stall, order_is_kept_while_it_is_looked_at),
    TEST(writer_stall, freed_with_a_look_to_come),
    TEST(writer_stall, freed_in_a_drain),
    TEST_END,
};
