/* writer_order.c - what is written has its place among the sends, shutdowns and closes that the
 * program submits itself. */

#include "scribe.h"

static void a_send_goes_behind_what_was_written(void)
{
    struct scribe scribe = {0};
    struct tracked send = {0}, again = {0};
    open_scribe(&scribe, 0, 0, 0);
    for (unsigned round = 0; round < 3; round++) {
        write_letters(&scribe, "abc");
        tracked_send(&scribe.handle, &send, "DE", 2, NULL);
        write_letters(&scribe, "fg"); /* not into the send that is before DE */
        read_text(&scribe, "abcDEfg");
        flush(&scribe);
        CHECK_INT(wait_for(&send), ==, 2);
    }
    tracked_send(&scribe.handle, &send, "1", 1, NULL);
    write_letters(&scribe, "23");
    tracked_send(&scribe.handle, &again, "4", 1, NULL);
    read_text(&scribe, "1234");
    flush(&scribe);
    wait_for(&send);
    wait_for(&again);
    close_scribe(&scribe);
}

static void two_writers_of_a_handle(void)
{
    struct scribe scribe = {0};
    struct pier_writer other;
    open_scribe(&scribe, 0, 0, 0);
    CHECK_OK(pier_writer_open(&other, &scribe.handle.handle, NULL));
    for (unsigned round = 0; round < 3; round++) {
        CHECK_OK(pier_writer_write(&other, "12", 2));
        write_letters(&scribe, "ab");
        read_text(&scribe, "12ab");
        flush(&scribe);
        RUN_UNTIL(scribe.loop, pier_writer_queued(&other) == 0);
    }
    close_scribe(&scribe);
    pier_writer_free(&other);
}

static void a_shutdown_goes_behind_what_was_written(void)
{
    struct scribe scribe = {0};
    struct tracked shutdown = {0};
    open_scribe(&scribe, 0, 0, 0);
    write_letters(&scribe, "last");
    tracked_shutdown(&scribe.handle, &shutdown, NULL);
    read_text(&scribe, "last");
    CHECK_INT(wait_for(&shutdown), ==, 0);
    raw_receive_end(scribe.peer);
    close_scribe(&scribe);
}

static void count_finish(struct pier_op *op)
{
    CHECK(test_running() != NULL);
    op->data = op;
}

static void a_finish_goes_behind_what_was_written(void)
{
    struct scribe scribe = {0};
    struct pier_op finish = {0};
    open_scribe(&scribe, 0, 0, 0);
    write_letters(&scribe, "last");
    pier_writer_finish(&scribe.writer, &finish, count_finish);
    read_text(&scribe, "last");
    RUN_UNTIL(scribe.loop, finish.data == &finish);
    CHECK_INT(finish.result, ==, 0);
    raw_receive_end(scribe.peer);
    close_scribe(&scribe);
}

static void a_graceful_close_goes_behind_what_was_written(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 0, 0, 0);
    write_letters(&scribe, "last");
    tracked_close_gracefully(&scribe.handle, 50 * PIER_SECOND, NULL);
    read_text(&scribe, "last");
    raw_receive_end(scribe.peer);
    raw_close(scribe.peer);
    RUN_UNTIL(scribe.loop, scribe.handle.closes == 1);
    CHECK_INT(scribe.errors, ==, 0);
    pier_writer_free(&scribe.writer);
}

static void what_is_written_keeps_a_handle_from_being_detached(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 0, 0, 0);
    write_letters(&scribe, "here");
    CHECK_REFUSED(pier_detach(&scribe.handle.handle), PIER_EBUSY);
    flush(&scribe);
    pier_writer_free(&scribe.writer);
    CHECK_OK(pier_detach(&scribe.handle.handle));
    CHECK_OK(pier_attach(&scribe.handle.handle, scribe.loop));
    read_text(&scribe, "here");
    close_scribe(&scribe);
}

static void behind_a_connect(void)
{
    struct pier_loop *loop = test_loop();
    struct scribe scribe = {.loop = loop};
    struct tracked connect = {0};
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 1);
    tracked_open_socket(loop, &scribe.handle, &address);
    CHECK_OK(pier_writer_open(&scribe.writer, &scribe.handle.handle, NULL));
    tracked_connect(&scribe.handle, &connect, &address, NULL);
    write_letters(&scribe, "early");
    CHECK_INT(wait_for(&connect), ==, 0);
    scribe.peer = raw_accept(listener);
    write_letters(&scribe, "late");
    read_text(&scribe, "earlylate");
    flush(&scribe);
    raw_close(listener);
    close_scribe(&scribe);
}

const struct test writer_order_tests[] = {
    TEST(writer_order, a_send_goes_behind_what_was_written),
    TEST(writer_order, two_writers_of_a_handle),
    TEST(writer_order, a_shutdown_goes_behind_what_was_written),
    TEST(writer_order, a_finish_goes_behind_what_was_written),
    TEST(writer_order, a_graceful_close_goes_behind_what_was_written),
    TEST(writer_order, what_is_written_keeps_a_handle_from_being_detached),
    TEST(writer_order, behind_a_connect),
    TEST_END,
};
