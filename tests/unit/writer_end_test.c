/* writer_end_test.c - every way in which a writer ends: closing from anywhere, draining, finishing,
 * errors of the socket, and misuse. */

#include "writer_fixture.h"

#ifndef _WIN32
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

static void close_near(struct fixture *f)
{
    pier_close(&f->near, on_near_closed);
}

static void run_until_closed(struct fixture *f)
{
    RUN_UNTIL(f, f->near_closed == 1);
    settle(f);
    close_fixture(f);
}

TEST_EACH(on_high_may_close)
{
    struct pier_writer_options options = all_callbacks(100000, 0, 0);
    struct fixture *f = open_fixture(backend, &options);
    f->when_high = close_near;
    CHECK_EQ(write_some(f, 90000), 0);
    run_until_closed(f);
}

TEST_EACH(on_low_may_close)
{
    struct pier_writer_options options = all_callbacks(100000, 0, 0);
    struct fixture *f = open_fixture(backend, &options);
    f->when_low = close_near;
    CHECK_EQ(write_some(f, 90000), 0);
    let_read(f, 10000000);
    run_until_closed(f);
}

TEST_EACH(closing_drops_the_queue_and_calls_nothing)
{
    for (int turns = 0; turns < 4; turns++) {
        struct pier_writer_options options = all_callbacks(100000, 20000, 0);
        struct fixture *f = open_fixture(backend, &options);
        for (int i = 0; i < 9; i++)
            CHECK_EQ(write_some(f, 10000), 0);
        for (int i = 0; i < turns; i++)
            turn(f);
        /* With no turn in between, the signal of on_high is on its way when the writer is freed. */
        int highs = f->highs;
        pier_close(&f->near, on_near_closed);
        CHECK_EQ(pier_writer_write(&f->writer, "x", 1), PIER_ECLOSED);
        RUN_UNTIL(f, f->near_closed == 1);
        settle(f);
        CHECK_EQ(f->highs, highs);
        CHECK_EQ(f->lows, 0);
        CHECK_EQ(f->errors, 0);
        close_fixture(f);
    }
}

static void write_and_close(struct pier_op *op)
{
    struct fixture *f = PIER_OWNER(op, struct fixture, post);
    CHECK_EQ(write_some(f, 50000), 0);
    pier_close(&f->near, on_near_closed);
}

TEST_EACH(the_writer_may_be_freed_before_its_signal_comes)
{
    struct pier_writer_options options = all_callbacks(100000, 50000, 0);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 40000), 0);
    settle(f);
    /* Posts come late in a turn: what they close is closed before the next timer fires. */
    pier_post(f->loop, &f->post, write_and_close);
    RUN_UNTIL(f, f->near_closed == 1);
    settle(f);
    CHECK_EQ(f->highs, 0);
    close_fixture(f);
}

TEST_EACH(draining_the_loop_ends_a_writer)
{
    struct pier_writer_options options = all_callbacks(100000, 20000, 0);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 90000), 0);
    pier_writer_finish(&f->writer, &f->finish, on_finished);
    CHECK_EQ(pier_loop_drain(f->loop, PIER_SECOND), 0);
    CHECK_EQ(f->finishes, 1);
    CHECK_LT(f->finish_result, 0);
    CHECK_EQ(f->lows, 0);
    pier_writer_free(&f->writer);
    pier_loop_free(f->loop);
    free(f);
}

TEST_EACH(finish_flushes_and_then_ends_the_stream)
{
    struct fixture *f = open_fixture(backend, NULL);
    CHECK_EQ(write_some(f, 200000), 0);
    pier_writer_finish(&f->writer, &f->finish, on_finished);
    CHECK_EQ(pier_writer_write(&f->writer, "x", 1), PIER_ECLOSED);
    settle(f);
    CHECK_EQ(f->finishes, 0);
    let_read(f, 10000000);
    RUN_UNTIL(f, f->at_end);
    RUN_UNTIL(f, f->finishes == 1);
    CHECK_EQ(f->finish_result, 0);
    CHECK_EQ(f->consumed, 200000);
    CHECK_EQ(f->written_at_finish, 200000);
    CHECK_EQ(f->writer.error, 0);
    close_fixture(f);
}

TEST_EACH(finish_with_nothing_queued_ends_the_stream)
{
    struct fixture *f = open_fixture(backend, NULL);
    pier_writer_finish(&f->writer, &f->finish, on_finished);
    let_read(f, 1);
    RUN_UNTIL(f, f->at_end);
    RUN_UNTIL(f, f->finishes == 1);
    CHECK_EQ(f->finish_result, 0);
    close_fixture(f);
}

TEST_EACH(closing_completes_a_waiting_finish)
{
    for (int turns = 0; turns < 3; turns++) {
        struct fixture *f = open_fixture(backend, NULL);
        CHECK_EQ(write_some(f, 200000), 0);
        pier_writer_finish(&f->writer, &f->finish, on_finished);
        for (int i = 0; i < turns; i++)
            turn(f);
        pier_close(&f->near, on_near_closed);
        RUN_UNTIL(f, f->near_closed == 1);
        CHECK_EQ(f->finishes, 1);
        CHECK_EQ(f->finish_result, PIER_ECLOSED);
        close_fixture(f);
    }
}

TEST_EACH(an_error_is_told_once_and_refuses_writes)
{
    struct pier_writer_options options = all_callbacks(100000, 20000, 0);
    struct fixture *f = open_fixture(backend, &options);
    CHECK_EQ(write_some(f, 90000), 0);
    settle(f);
    CHECK_EQ(f->highs, 1);
    pier_close(&f->far, on_far_closed);
    RUN_UNTIL(f, f->errors == 1);
    CHECK(f->writer.error == PIER_EPIPE || f->writer.error == PIER_ECONNRESET);
    CHECK_EQ(pier_writer_write(&f->writer, "x", 1), f->writer.error);
    CHECK_EQ(pier_writer_queued(&f->writer), 0);
    CHECK_LT(f->writer.written, 90000);
    settle(f);
    CHECK_EQ(f->errors, 1);
    CHECK_EQ(f->lows, 0);
    close_fixture(f);
}

static void write_late(struct pier_op *op)
{
    CHECK_EQ(write_some(PIER_OWNER(op, struct fixture, post), 60000), 0);
}

TEST_EACH(an_error_silences_a_watermark_on_its_way)
{
    struct pier_writer_options options = all_callbacks(100000, 50000, 0);
    struct fixture *f = open_fixture(backend, &options);
    pier_close(&f->far, on_far_closed);
    RUN_UNTIL(f, f->far_closed == 1);
    pier_post(f->loop, &f->post, write_late);
    RUN_UNTIL(f, f->errors == 1);
    int highs = f->highs; /* 0, unless the backend tells of the error a turn later */
    settle(f);
    CHECK_EQ(f->highs, highs);
    CHECK_EQ(f->lows, 0);
    close_fixture(f);
}

TEST_EACH(an_error_completes_a_waiting_finish)
{
    struct pier_writer_options options = all_callbacks(100000, 20000, 0);
    struct fixture *f = open_fixture(backend, &options);
    f->when_error = close_near;
    CHECK_EQ(write_some(f, 90000), 0);
    pier_writer_finish(&f->writer, &f->finish, on_finished);
    settle(f);
    pier_close(&f->far, on_far_closed);
    RUN_UNTIL(f, f->near_closed == 1);
    CHECK_EQ(f->errors, 1);
    CHECK_EQ(f->finishes, 1);
    close_fixture(f);
}

TEST_EACH(no_memory_refuses_the_write_and_no_more)
{
    struct pier_writer_options options = all_callbacks(100000, 0, 0);
    struct fixture *f = open_fixture(backend, &options);
    f->deny = 1;
    CHECK_EQ(write_some(f, 10), PIER_ENOMEM);
    f->deny = 4000; /* the small part is to be had, the ring is not */
    CHECK_EQ(write_some(f, 10), PIER_ENOMEM);
    f->deny = 0;
    CHECK_EQ(write_some(f, 3000), 0);
    f->deny = 1;
    CHECK_EQ(write_some(f, 50000), PIER_ENOMEM);
    CHECK_EQ(write_some(f, 1000), 0);
    f->deny = 0;
    CHECK_EQ(write_some(f, 50000), 0);
    let_read(f, 1 << 20);
    RUN_UNTIL(f, f->consumed == 54000);
    close_fixture(f);
}

#ifndef _WIN32

TEST(freeing_a_writer_with_a_send_in_flight_is_misuse)
{
    int ends[2];
    char line[200] = "";
    REQUIRE(pipe(ends) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        struct fixture *f = open_fixture(NULL, NULL);
        if (write_some(f, 500000) == 0)
            pier_writer_free(&f->writer);
        _exit(0);
    }
    close(ends[1]);
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_GT(read(ends[0], line, sizeof line - 1), 0);
    CHECK(strstr(line, "pier: pier_writer_free: a send is in flight") == line);
    close(ends[0]);
}

#endif
