/* unopened.c - handles that aren't open: all zero, closed, or detached. Each op on one is misuse
 * and stops the program with a line, as the first thing a loop sees and later, in builds of either
 * kind (shipped.* runs this on the library as it ships); closing one without a function does
 * nothing. */

#include "suite.h"

static struct pier_loop *the_loop;
static struct pier_handle the_handle;
static struct pier_op the_op;
static char memory[8];

static void do_nothing(struct pier_op *op)
{
    (void)op;
}

static void on_closed(struct pier_handle *handle)
{
    (void)handle;
}

/* ---- what is tried --------------------------------------------------------------------------- */

static const struct pier_vector two_vectors[] = {{"a", 1}, {"b", 1}};

static void call_receive(void)
{
    pier_receive(&the_handle, &the_op, memory, sizeof(memory), do_nothing);
}

static void call_receive_of_nothing(void)
{
    pier_receive(&the_handle, &the_op, NULL, 0, do_nothing);
}

static void call_receive_lent(void)
{
    pier_receive_lent(&the_handle, &the_op, do_nothing);
}

static void call_receive_each(void)
{
    pier_receive_each(&the_handle, &the_op, do_nothing);
}

static void call_send(void)
{
    pier_send(&the_handle, &the_op, "x", 1, do_nothing);
}

static void call_send_silent(void)
{
    pier_send(&the_handle, &the_op, "x", 1, NULL);
}

static void call_send_of_nothing(void)
{
    pier_send(&the_handle, &the_op, NULL, 0, NULL);
}

static void call_send_timed(void)
{
    the_op.timeout_ns = PIER_SECOND;
    pier_send(&the_handle, &the_op, "x", 1, do_nothing);
}

static void call_send_vectored(void)
{
    pier_send_vectored(&the_handle, &the_op, two_vectors, 2, do_nothing);
}

static void call_shutdown(void)
{
    pier_shutdown(&the_handle, &the_op, do_nothing);
}

static void call_accept(void)
{
    pier_accept(&the_handle, &the_op, do_nothing);
}

static void call_accept_each(void)
{
    pier_accept_each(&the_handle, &the_op, do_nothing);
}

static void call_connect(void)
{
    const struct pier_address address = address_of("127.0.0.1:9");
    pier_connect(&the_handle, &the_op, &address, do_nothing);
}

static void call_detach(void)
{
    pier_detach(&the_handle);
}

static void call_set_no_delay(void)
{
    pier_set_no_delay(&the_handle, true);
}

static void call_set_keep_alive(void)
{
    pier_set_keep_alive(&the_handle, 1, 1, 1);
}

static void call_set_buffer_sizes(void)
{
    pier_set_buffer_sizes(&the_handle, 4096, 4096);
}

static void call_set_linger(void)
{
    pier_set_linger(&the_handle, 0);
}

static void call_local_address(void)
{
    struct pier_address address;
    pier_local_address(&the_handle, &address);
}

static void call_peer_address(void)
{
    struct pier_address address;
    pier_peer_address(&the_handle, &address);
}

static void call_close(void)
{
    pier_close(&the_handle, on_closed);
}

static void call_close_gracefully(void)
{
    pier_close_gracefully(&the_handle, 0, on_closed);
}

static const struct {
    void (*call)(void);
    const char *function;
} calls[] = {
    {call_receive, "pier_receive"},
    {call_receive_of_nothing, "pier_receive"},
    {call_receive_lent, "pier_receive_lent"},
    {call_receive_each, "pier_receive_each"},
    {call_send, "pier_send"},
    {call_send_silent, "pier_send"},
    {call_send_of_nothing, "pier_send"},
    {call_send_timed, "pier_send"},
    {call_send_vectored, "pier_send_vectored"},
    {call_shutdown, "pier_shutdown"},
    {call_accept, "pier_accept"},
    {call_accept_each, "pier_accept_each"},
    {call_connect, "pier_connect"},
    {call_detach, "pier_detach"},
    {call_set_no_delay, "pier_set_no_delay"},
    {call_set_keep_alive, "pier_set_keep_alive"},
    {call_set_buffer_sizes, "pier_set_buffer_sizes"},
    {call_set_linger, "pier_set_linger"},
    {call_local_address, "pier_local_address"},
    {call_peer_address, "pier_peer_address"},
    /* These two are right where there is nothing to close; see below. */
    {call_close, "pier_close"},
    {call_close_gracefully, "pier_close_gracefully"},
};

enum { CALLS = COUNT_OF(calls), OPENED_CALLS = CALLS - 2 };

/* Every action here calls the one of this number, in a process of its own. */
static void the_call(void)
{
    calls[platform_variant].call();
}

static void make_loop(bool has_run)
{
    const struct pier_loop_options options = test_options();
    CHECK_OK(pier_loop_new(&the_loop, &options));
    if (has_run) {
        pier_timer(the_loop, &the_op, 0, do_nothing);
        while (pier_op_pending(&the_op)) {
            pier_loop_run(the_loop, PIER_RUN_ONCE);
        }
        memset(&the_op, 0, sizeof(the_op));
    }
}

static void on_new_loop(void)
{
    make_loop(false);
    the_call();
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void on_loop_that_ran(void)
{
    make_loop(true);
    the_call();
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void call_in_callback(struct pier_op *op)
{
    (void)op;
    memset(&the_op, 0, sizeof(the_op));
    the_call();
}

static void inside_a_callback(void)
{
    static struct pier_op timer;
    make_loop(true);
    pier_timer(the_loop, &timer, 0, call_in_callback);
    pier_loop_run(the_loop, PIER_RUN_UNTIL_IDLE);
}

static void on_closed_handle(void)
{
    struct pier_handle other = {0};
    make_loop(true);
    CHECK_OK(pier_socket_pair(the_loop, &the_handle, &other));
    pier_close(&the_handle, NULL);
    while (pier_handle_loop(&the_handle) != NULL) {
        pier_loop_run(the_loop, PIER_RUN_ONCE);
    }
    the_call();
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void on_detached_handle(void)
{
    struct pier_handle other = {0};
    make_loop(true);
    CHECK_OK(pier_socket_pair(the_loop, &the_handle, &other));
    CHECK_OK(pier_detach(&the_handle));
    the_call();
    pier_loop_run(the_loop, PIER_RUN_NO_WAIT);
}

static void try_all(void (*how)(void))
{
    for (unsigned i = 0; i < OPENED_CALLS; i++) {
        platform_variant = i;
        CHECK_ABORTS(how, calls[i].function, "not open");
    }
}

static void never_opened(void)
{
    try_all(on_new_loop);
    try_all(on_loop_that_ran);
}

static void never_opened_in_a_callback(void)
{
    try_all(inside_a_callback);
}

static void closed_already(void)
{
    try_all(on_closed_handle);
}

static void detached(void)
{
    try_all(on_detached_handle);
}

/* ---- closing --------------------------------------------------------------------------------- */

/* Its function would never be called. */
static void closing_with_a_function(void)
{
    static void (*const hows[])(void) = {on_new_loop, on_loop_that_ran, inside_a_callback,
                                         on_detached_handle};
    for (size_t i = 0; i < COUNT_OF(hows); i++) {
        for (unsigned k = OPENED_CALLS; k < CALLS; k++) {
            platform_variant = k;
            CHECK_ABORTS(hows[i], calls[k].function, "never opened");
        }
    }
}

static unsigned closes;

static void count_close(struct pier_handle *handle)
{
    (void)handle;
    closes++;
}

static void closing_without_a_function(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle never = {0}, a = {0}, b = {0};
    pier_close(&never, NULL);
    pier_close_gracefully(&never, 0, NULL);
    CHECK(!pier_handle_is_open(&never));
    CHECK_INT(pier_handle_descriptor(&never), ==, -1);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(stats_of(loop).closes, ==, 0);
    /* It can be opened after that, and closed as ever. */
    CHECK_OK(pier_socket_pair(loop, &never, &a));
    pier_close(&never, count_close);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(closes, ==, 1);
    /* Detached: it stays what it is. */
    CHECK_OK(pier_detach(&a));
    const pier_descriptor descriptor = pier_handle_descriptor(&a);
    pier_close(&a, NULL);
    pier_close_gracefully(&a, 0, NULL);
    CHECK_INT(pier_handle_descriptor(&a), ==, descriptor);
    CHECK_OK(pier_attach(&a, loop));
    CHECK(pier_handle_is_open(&a));
    pier_close(&a, count_close);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(closes, ==, 2);
    /* Closed already, with a function and without: nothing, also once the loop is gone. */
    pier_close(&a, count_close);
    pier_close(&a, NULL);
    pier_close_gracefully(&a, 0, count_close);
    pier_close_gracefully(&a, 0, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_OK(pier_socket_pair(loop, &a, &b));
    pier_close(&a, NULL);
    pier_close(&b, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    test_loop_free(loop);
    pier_close(&a, count_close);
    pier_close_gracefully(&b, 0, count_close);
    CHECK_INT(closes, ==, 2);
}

const struct test unopened_tests[] = {
    TEST(unopened, never_opened),
    TEST(unopened, never_opened_in_a_callback),
    TEST(unopened, closed_already),
    TEST(unopened, detached),
    TEST(unopened, closing_with_a_function),
    TEST(unopened, closing_without_a_function),
    TEST_END,
};
