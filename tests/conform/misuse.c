/* misuse.c - broken rules stop the program with one line that names the function and the rule.
 *
 * Each action runs in a process of its own and is expected to abort. It makes its loop itself,
 * since a loop doesn't cross a fork. */

#include "suite.h"

static struct pier_loop *new_loop(void)
{
    const struct pier_loop_options options = test_options();
    struct pier_loop *loop = NULL;
    CHECK_OK(pier_loop_new(&loop, &options));
    return loop;
}

static void do_nothing(struct pier_op *op)
{
    (void)op;
}

static struct pier_loop *the_loop;
static struct pier_handle the_handle, the_other;
static struct pier_op the_op, the_second;
static char the_byte;

static void open_pair(void)
{
    the_loop = new_loop();
    CHECK_OK(pier_socket_pair(the_loop, &the_handle, &the_other));
}

static void submit_receive_twice(void)
{
    open_pair();
    pier_receive(&the_handle, &the_op, &the_byte, 1, do_nothing);
    pier_receive(&the_handle, &the_op, &the_byte, 1, do_nothing);
}

static void submit_send_in_flight_as_receive(void)
{
    open_pair();
    pier_receive_each(&the_handle, &the_op, do_nothing);
    pier_send(&the_handle, &the_op, "x", 1, do_nothing);
}

static void submit_timer_twice(void)
{
    the_loop = new_loop();
    pier_timer(the_loop, &the_op, PIER_SECOND, do_nothing);
    pier_timer(the_loop, &the_op, PIER_SECOND, do_nothing);
}

static void post_twice(void)
{
    the_loop = new_loop();
    pier_post(the_loop, &the_op, do_nothing);
    pier_post(the_loop, &the_op, do_nothing);
}

static void resubmit_while_more(struct pier_op *op)
{
    pier_timer(the_loop, op, 0, do_nothing);
}

static void resubmit_in_event(void)
{
    the_loop = new_loop();
    pier_timer_each(the_loop, &the_op, 0, 1, resubmit_while_more);
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
}

static void op_in_flight(void)
{
    CHECK_ABORTS(submit_receive_twice, "pier_receive", "in flight");
    CHECK_ABORTS(submit_send_in_flight_as_receive, "pier_send", "in flight");
    CHECK_ABORTS(submit_timer_twice, "pier_timer", "in flight");
    CHECK_ABORTS(post_twice, "pier_post", "in flight");
    CHECK_ABORTS(resubmit_in_event, "pier_timer", "in flight");
}

static void receive_without_callback(void)
{
    open_pair();
    pier_receive(&the_handle, &the_op, &the_byte, 1, NULL);
}

static void timer_without_callback(void)
{
    the_loop = new_loop();
    pier_timer(the_loop, &the_op, 0, NULL);
}

static void post_without_callback(void)
{
    the_loop = new_loop();
    pier_post(the_loop, &the_op, NULL);
}

static void shutdown_without_callback(void)
{
    open_pair();
    pier_shutdown(&the_handle, &the_op, NULL);
}

static void no_callback(void)
{
    CHECK_ABORTS(receive_without_callback, "pier_receive", "completion function");
    CHECK_ABORTS(timer_without_callback, "pier_timer", "completion function");
    CHECK_ABORTS(post_without_callback, "pier_post", "completion function");
    CHECK_ABORTS(shutdown_without_callback, "pier_shutdown", "completion function");
}

static void on_other_thread(void (*body)(void *))
{
    struct platform_thread thread;
    open_pair();
    pier_timer(the_loop, &the_op, PIER_SECOND, do_nothing);
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
    platform_thread_start(&thread, body, NULL);
    platform_thread_join(&thread);
}

static void receive_body(void *context)
{
    (void)context;
    pier_receive(&the_handle, &the_second, &the_byte, 1, do_nothing);
}

static void send_body(void *context)
{
    (void)context;
    pier_send(&the_handle, &the_second, "x", 1, do_nothing);
}

static void timer_body(void *context)
{
    (void)context;
    pier_timer(the_loop, &the_second, 0, do_nothing);
}

static void cancel_body(void *context)
{
    (void)context;
    pier_cancel(&the_op);
}

static void close_body(void *context)
{
    (void)context;
    pier_close(&the_handle, NULL);
}

static void run_body(void *context)
{
    (void)context;
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void receive_on_other_thread(void)
{
    on_other_thread(receive_body);
}

static void send_on_other_thread(void)
{
    on_other_thread(send_body);
}

static void timer_on_other_thread(void)
{
    on_other_thread(timer_body);
}

static void cancel_on_other_thread(void)
{
    on_other_thread(cancel_body);
}

static void close_on_other_thread(void)
{
    on_other_thread(close_body);
}

static void run_on_other_thread(void)
{
    on_other_thread(run_body);
}

static void wrong_thread(void)
{
    CHECK_ABORTS(receive_on_other_thread, "pier_receive", "thread");
    CHECK_ABORTS(send_on_other_thread, "pier_send", "thread");
    CHECK_ABORTS(timer_on_other_thread, "pier_timer", "thread");
    CHECK_ABORTS(cancel_on_other_thread, "pier_cancel", "thread");
    CHECK_ABORTS(close_on_other_thread, "pier_close", "thread");
    CHECK_ABORTS(run_on_other_thread, "pier_loop_run", "thread");
}

static void run_inside(struct pier_op *op)
{
    (void)op;
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void drain_inside(struct pier_op *op)
{
    (void)op;
    pier_loop_drain(the_loop, 0);
}

static void free_inside(struct pier_op *op)
{
    (void)op;
    pier_loop_free(the_loop);
}

static void run_in_callback(void)
{
    the_loop = new_loop();
    pier_timer(the_loop, &the_op, 0, run_inside);
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
}

static void drain_in_callback(void)
{
    the_loop = new_loop();
    pier_timer(the_loop, &the_op, 0, drain_inside);
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
}

static void free_in_callback(void)
{
    the_loop = new_loop();
    pier_timer(the_loop, &the_op, 0, free_inside);
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
}

static void nested_run(void)
{
    CHECK_ABORTS(run_in_callback, "pier_loop_run", "callback");
    CHECK_ABORTS(drain_in_callback, "pier_loop_drain", "callback");
    CHECK_ABORTS(free_in_callback, "pier_loop_free", "callback");
}

static void free_with_timer(void)
{
    the_loop = new_loop();
    pier_timer(the_loop, &the_op, PIER_SECOND, do_nothing);
    pier_loop_free(the_loop);
}

static void free_with_background_op(void)
{
    the_loop = new_loop();
    the_op.flags = PIER_BACKGROUND;
    pier_timer(the_loop, &the_op, PIER_SECOND, do_nothing);
    pier_loop_free(the_loop);
}

static void free_with_handle(void)
{
    open_pair();
    pier_loop_free(the_loop);
}

static void loop_freed_too_early(void)
{
    CHECK_ABORTS(free_with_timer, "pier_loop_free", "in flight");
    CHECK_ABORTS(free_with_background_op, "pier_loop_free", "in flight");
    CHECK_ABORTS(free_with_handle, "pier_loop_free", "open");
}

static void adopt_again(void)
{
    struct pier_handle second = {0};
    open_pair();
    pier_adopt(the_loop, &second, pier_handle_descriptor(&the_handle));
}

static void open_into_open_handle(void)
{
    open_pair();
    const struct pier_address address = address_of("127.0.0.1:0");
    pier_open_socket(the_loop, &the_handle, &address);
}

static void adopted_or_opened_twice(void)
{
    CHECK_ABORTS(adopt_again, "pier_adopt", "already");
    CHECK_ABORTS(open_into_open_handle, "pier_open_socket", "already");
}

static void reuse_after_close(void)
{
    open_pair();
    pier_close(&the_handle, NULL);
    memset(&the_handle, 0x5a, sizeof(the_handle));
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
}

/* As happens to a handle on the stack of a function that has returned. */
static void memory_of_a_closing_handle(void)
{
    CHECK_ABORTS(reuse_after_close, "pier_close", "memory");
}

static struct pier_writer the_writer;

static void open_writer(void)
{
    open_pair();
    pier_writer_open(&the_writer, &the_handle, NULL);
}

/* The first is on its way, or over: either way there is nothing left to finish. */
static void finish_again(void)
{
    static struct pier_op second;
    open_writer();
    pier_writer_finish(&the_writer, &the_op, do_nothing);
    pier_writer_finish(&the_writer, &second, do_nothing);
}

static void finish_after_close(void)
{
    open_writer();
    pier_close(&the_handle, NULL);
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
    pier_writer_finish(&the_writer, &the_op, do_nothing);
}

static void writer_finished_wrongly(void)
{
    CHECK_ABORTS(finish_again, "pier_writer_finish", "already");
    CHECK_ABORTS(finish_after_close, "pier_writer_finish", "not open");
}

static void listen_nowhere(void)
{
    static struct pier_handle listener;
    the_loop = new_loop();
    pier_listen(the_loop, &listener, NULL, NULL);
}

static void open_for_nowhere(void)
{
    static struct pier_handle handle;
    the_loop = new_loop();
    pier_open_socket(the_loop, &handle, NULL);
}

static void bind_to_nowhere(void)
{
    open_pair();
    pier_bind(&the_handle, NULL);
}

static void connect_to_nowhere(void)
{
    open_pair();
    pier_connect(&the_handle, &the_op, NULL, do_nothing);
}

static void no_address(void)
{
    CHECK_ABORTS(connect_to_nowhere, "pier_connect", "no address");
    CHECK_ABORTS(listen_nowhere, "pier_listen", "no address");
    CHECK_ABORTS(open_for_nowhere, "pier_open_socket", "no address");
    CHECK_ABORTS(bind_to_nowhere, "pier_bind", "no address");
}

/* Nothing of this is misuse, though it looks like it. */
static void harmless(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked never = {0}, send = {0};
    struct pier_op silent = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    pier_cancel(&never.op);
    pier_cancel_remote(loop, 0);
    pier_timer_reset(&never.op, 1);
    CHECK(!pier_timer_stop(&never.op));
    pier_loop_free(NULL);
    pier_wake(loop);
    pier_loop_stop(loop);
    pier_send(&a.handle, &silent, "x", 1, NULL);
    tracked_send(&a, &send, "y", 1, NULL);
    CHECK_INT(wait_for(&send), ==, 1);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test misuse_tests[] = {
    TEST(misuse, op_in_flight),
    TEST(misuse, no_callback),
    TEST(misuse, wrong_thread),
    TEST(misuse, nested_run),
    TEST(misuse, loop_freed_too_early),
    TEST(misuse, adopted_or_opened_twice),
    TEST(misuse, memory_of_a_closing_handle),
    TEST(misuse, writer_finished_wrongly),
    TEST(misuse, no_address),
    TEST(misuse, harmless),
    TEST_END,
};
