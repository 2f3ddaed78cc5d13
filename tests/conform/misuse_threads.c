/* misuse_threads.c - calls from another thread than the loop's stop the program; those that are
 * allowed from there don't. */

#include "suite.h"

static struct pier_loop *the_loop;
static struct pier_handle the_handle, the_other, the_unconnected;
static struct pier_op the_timer, the_receive, the_poll, the_op;
static struct pier_address the_address;
static struct pier_writer the_writer;

static void do_nothing(struct pier_op *op)
{
    (void)op;
}

static void pause_op(void)
{
    pier_pause(&the_receive);
}

static void pause_what_cant_be(void)
{
    pier_pause(&the_timer);
}

static void resume_op(void)
{
    pier_resume(&the_receive);
}

static void bind_handle(void)
{
    pier_bind(&the_unconnected, &the_address);
}

static void set_no_delay(void)
{
    pier_set_no_delay(&the_handle, true);
}

static void set_keep_alive(void)
{
    pier_set_keep_alive(&the_handle, 0, 0, 0);
}

static void set_buffer_sizes(void)
{
    pier_set_buffer_sizes(&the_handle, 0, 0);
}

static void set_linger(void)
{
    pier_set_linger(&the_handle, -1);
}

static void local_address(void)
{
    pier_local_address(&the_handle, &the_address);
}

static void peer_address(void)
{
    pier_peer_address(&the_handle, &the_address);
}

static void is_open(void)
{
    pier_handle_is_open(&the_handle);
}

static void now(void)
{
    pier_loop_now(the_loop);
}

static void next_timeout(void)
{
    pier_loop_next_timeout(the_loop);
}

static void stats(void)
{
    struct pier_loop_counters counters;
    pier_loop_stats(the_loop, &counters);
}

static void descriptor(void)
{
    pier_loop_descriptor(the_loop);
}

static void print_nothing(void *context, const char *line)
{
    (void)context;
    (void)line;
}

static void dump(void)
{
    pier_loop_dump(the_loop, print_nothing, NULL);
}

static void token(void)
{
    pier_op_token(&the_timer);
}

static void reset_timer(void)
{
    pier_timer_reset(&the_timer, 0);
}

static void stop_timer(void)
{
    pier_timer_stop(&the_timer);
}

static void open_writer(void)
{
    static struct pier_writer second;
    pier_writer_open(&second, &the_handle, NULL);
}

static void free_writer(void)
{
    pier_writer_free(&the_writer);
}

static void write_by_writer(void)
{
    pier_writer_write(&the_writer, "x", 1);
}

static void close_gracefully(void)
{
    pier_close_gracefully(&the_handle, 0, NULL);
}

static void detach(void)
{
    pier_detach(&the_unconnected);
}

static void do_nothing_with(void *context, struct pier_handle *handle)
{
    (void)context;
    (void)handle;
}

static void each_handle(void)
{
    pier_loop_each_handle(the_loop, do_nothing_with, NULL);
}

static void change_poll(void)
{
    pier_poll_change(&the_poll, PIER_WRITABLE);
}

static void adopt(void)
{
    pier_adopt(the_loop, &(struct pier_handle){0}, 0);
}

static const struct {
    void (*call)(void);
    const char *name; /* as the line has it */
} calls[] = {
    {pause_op, "pier_pause"},
    {pause_what_cant_be, "pier_pause"},
    {resume_op, "pier_resume"},
    {bind_handle, "pier_bind"},
    {set_no_delay, "pier_set_no_delay"},
    {set_keep_alive, "pier_set_keep_alive"},
    {set_buffer_sizes, "pier_set_buffer_sizes"},
    {set_linger, "pier_set_linger"},
    {local_address, "pier_local_address"},
    {peer_address, "pier_peer_address"},
    {is_open, "pier_handle_is_open"},
    {now, "pier_loop_now"},
    {next_timeout, "pier_loop_next_timeout"},
    {stats, "pier_loop_stats"},
    {descriptor, "pier_loop_descriptor"},
    {dump, "pier_loop_dump"},
    {token, "pier_op_token"},
    {reset_timer, "pier_timer_reset"},
    {stop_timer, "pier_timer_stop"},
    {open_writer, "pier_handle_is_open"},
    {free_writer, "pier_writer_free"},
    {write_by_writer, "pier_writer_write"},
    {close_gracefully, "pier_close_gracefully"},
    {detach, "pier_detach"},
    {each_handle, "pier_loop_each_handle"},
    {change_poll, "pier_poll_change"},
    {adopt, "pier_adopt"},
};

static void open_all(void)
{
    pier_descriptor polled[2];
    const struct pier_loop_options options = test_options();
    the_address = address_of("127.0.0.1:0");
    CHECK_OK(pier_loop_new(&the_loop, &options));
    CHECK_OK(pier_socket_pair(the_loop, &the_handle, &the_other));
    CHECK_OK(pier_open_socket(the_loop, &the_unconnected, &the_address));
    CHECK_OK(pier_writer_open(&the_writer, &the_handle, NULL));
    pier_timer(the_loop, &the_timer, PIER_SECOND, do_nothing);
    pier_receive_each(&the_handle, &the_receive, do_nothing);
    raw_pair(polled);
    pier_poll(the_loop, &the_poll, polled[0], PIER_READABLE, do_nothing);
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void call_it(void *context)
{
    (void)context;
    calls[platform_variant].call();
}

static void call_from_elsewhere(void)
{
    struct platform_thread thread;
    open_all();
    platform_thread_start(&thread, call_it, NULL);
    platform_thread_join(&thread);
}

static void each_call(void)
{
    for (unsigned i = 0; i < COUNT_OF(calls); i++) {
        platform_variant = i;
        CHECK_ABORTS(call_from_elsewhere, calls[i].name, "thread");
    }
}

static struct pier_op *accepted_op;
static struct pier_handle accepted;
static unsigned way; /* index of what is asked, as in accepted_sockets() */

static void take_it(void *context)
{
    (void)context;
    switch (way) {
    case 0: pier_accept_take(accepted_op, NULL, &accepted); break;
    case 1: pier_accept_detach(accepted_op, &accepted); break;
    default: pier_accept_address(accepted_op, &the_address); break;
    }
}

static void on_accepted(struct pier_op *op)
{
    struct platform_thread thread;
    accepted_op = op;
    platform_thread_start(&thread, take_it, NULL);
    platform_thread_join(&thread);
}

static void accept_and_take(void)
{
    struct pier_handle listener = {0};
    way = platform_variant;
    open_all();
    CHECK_OK(pier_listen(the_loop, &listener, &the_address, NULL));
    CHECK_OK(pier_local_address(&listener, &the_address));
    pier_accept(&listener, &the_op, on_accepted);
    const pier_descriptor client = raw_connect(&the_address);
    while (pier_op_pending(&the_op)) {
        pier_loop_run(the_loop, PIER_RUN_ONCE);
    }
    raw_close(client);
}

static void accepted_sockets(void)
{
    static const char *const names[] = {"pier_accept_take", "pier_accept_detach",
                                        "pier_accept_address"};
    for (unsigned i = 0; i < COUNT_OF(names); i++) {
        platform_variant = i;
        CHECK_ABORTS(accept_and_take, names[i], "thread");
    }
}

struct visit {
    struct pier_loop *loop;
    struct pier_op post;
    struct tracked *timer, *notify;
    uint64_t token;
    bool over;
};

static void note_over(struct pier_op *op)
{
    PIER_OWNER(op, struct visit, post)->over = true;
}

static void call_all_that_may_be(void *context)
{
    struct visit *visit = context;
    struct pier_address address;
    char text[PIER_ADDRESS_TEXT_MAX];
    struct pier_loop *other = NULL;
    const struct pier_loop_options options = test_options();
    CHECK_TEXT(pier_loop_backend(visit->loop), test_backend());
    CHECK_INT(pier_loop_capabilities(visit->loop) & PIER_CAN_POLL, ==,
              test_can(PIER_CAN_POLL) ? PIER_CAN_POLL : 0);
    CHECK_OK(pier_address_parse(&address, "127.0.0.1:1"));
    CHECK_INT(pier_address_format(&address, text, sizeof(text)), ==, 11);
    CHECK_TEXT(pier_error_name(PIER_EPIPE), "PIER_EPIPE");
    CHECK_INT(pier_loop_new(&other, &options), ==, 0);
    pier_loop_free(other);
    pier_notify(&visit->notify->op);
    pier_cancel_remote(visit->loop, visit->token);
    pier_wake(visit->loop);
    pier_post(visit->loop, &visit->post, note_over);
}

static void allowed_from_any_thread(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0}, notify = {0};
    struct platform_thread thread;
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    tracked_notify_each(loop, &notify, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    struct visit visit = {.loop = loop, .timer = &timer, .notify = &notify};
    visit.token = pier_op_token(&timer.op);
    platform_thread_start(&thread, call_all_that_may_be, &visit);
    RUN_UNTIL(loop, visit.over && notify.events == 1 && !timer.in_flight);
    platform_thread_join(&thread);
    CHECK_INT(timer.result, ==, PIER_ECANCELED);
    tracked_cancel(&notify);
    wait_for(&notify);
}

const struct test misuse_threads_tests[] = {
    TEST(misuse_threads, each_call),
    TEST(misuse_threads, accepted_sockets),
    TEST(misuse_threads, allowed_from_any_thread),
    TEST_END,
};
