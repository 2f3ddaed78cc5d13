/* close_again.c - a handle that is closed more than once, by several parts of a program: the first
 * function given is called, once; a close after a graceful one closes now; everything else does
 * nothing. */

#include "suite.h"

static unsigned ones, twos;

static void on_one(struct pier_handle *handle)
{
    CHECK(test_running() != NULL);
    CHECK(!pier_handle_is_open(handle));
    ones++;
}

static void on_two(struct pier_handle *handle)
{
    (void)handle;
    twos++;
}

struct pair {
    struct pier_loop *loop;
    struct pier_handle a;
    pier_descriptor peer;
};

static void open_pair(struct pair *pair, struct pier_loop *loop, enum stream stream)
{
    struct tracked_handle handle = {0};
    memset(pair, 0, sizeof(*pair));
    pair->loop = loop;
    pair->peer = tracked_raw_pair(loop, stream, &handle);
    CHECK_OK(pier_detach(&handle.handle)); /* a handle with tracked.c's checks may not be copied */
    pair->a = handle.handle;
    CHECK_OK(pier_attach(&pair->a, loop));
    ones = twos = 0;
}

static void run_until_closed(struct pair *pair)
{
    RUN_UNTIL(pair->loop, pier_handle_loop(&pair->a) == NULL);
    run_quietly(pair->loop, 2);
    raw_close(pair->peer);
}

static void close_now(struct pier_handle *handle, pier_handle_fn *fn)
{
    pier_close(handle, fn);
}

/* So long that a test which waits for it never ends. */
static void close_politely(struct pier_handle *handle, pier_handle_fn *fn)
{
    pier_close_gracefully(handle, 3600 * PIER_SECOND, fn);
}

typedef void close_fn(struct pier_handle *handle, pier_handle_fn *fn);
static close_fn *const ways[2] = {close_now, close_politely};

/* Two or three closes of either kind, whichever of them brings a function, with turns of the loop
 * between them or none; the last one closes now. */
static void first_function_given_is_called(void)
{
    struct pier_loop *loop = test_loop();
    for (unsigned i = 0; i < 2 * 2 * 3 * 2; i++) {
        close_fn *first = ways[i & 1], *second = ways[i >> 1 & 1];
        const unsigned who = (i >> 2) % 3;
        struct pair pair;
        open_pair(&pair, loop, STREAM_TCP4);
        first(&pair.a, who == 0 ? on_one : NULL);
        if (i / 12 == 1 && first == close_politely) {
            run(loop, PIER_RUN_NO_WAIT);
            run(loop, PIER_RUN_NO_WAIT);
        }
        second(&pair.a, who == 1 ? on_one : who == 0 ? on_two : NULL);
        pier_close(&pair.a, who == 2 ? on_one : on_two);
        run_until_closed(&pair);
        CHECK_INT(ones, ==, 1);
        CHECK_INT(twos, ==, 0);
        pier_close(&pair.a, on_two);
        pier_close_gracefully(&pair.a, 0, on_two);
        CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
        CHECK_INT(twos, ==, 0);
    }
}

/* The peer neither reads nor ends, and the graceful close would wait for an hour; the second one
 * doesn't, whatever is in flight. */
static void close_cuts_a_graceful_one_short(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    static char big[16 << 20]; /* more than the buffers of a connection grow to */
    for (unsigned i = 0; i < 8; i++) {
        struct tracked_handle a = {0};
        struct tracked send = {0}, queued = {0};
        const bool sends = (i & 1) != 0;
        const pier_descriptor peer = tracked_raw_pair(loop, stream, &a);
        if (sends) {
            tracked_send(&a, &send, big, sizeof(big), NULL);
            tracked_send(&a, &queued, big, sizeof(big), NULL);
        }
        tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
        if ((i & 2) != 0) {
            run_quietly(loop, 2);
        }
        CHECK_INT(a.closes, ==, 0);
        tracked_close(&a, NULL);
        if ((i & 4) != 0) {
            tracked_close(&a, NULL);
        }
        RUN_UNTIL(loop, a.closes == 1);
        if (sends) {
            CHECK_INT(send.result, ==, PIER_ECLOSED);
            CHECK_INT(queued.result, ==, PIER_ECLOSED);
        }
        CHECK_INT(stats_of(loop).ops_in_flight, ==, 0);
        raw_close(peer);
    }
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
}

static void after_a_graceful_one_tcp(void)
{
    close_cuts_a_graceful_one_short(STREAM_TCP4);
}

static void after_a_graceful_one_pair(void)
{
    close_cuts_a_graceful_one_short(STREAM_PAIR);
}

static void after_a_graceful_one_pipe(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked send = {0};
    static char big[1 << 20];
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    tracked_send(&writer, &send, big, sizeof(big), NULL);
    tracked_close_gracefully(&writer, 3600 * PIER_SECOND, NULL);
    run_quietly(loop, 2);
    CHECK_INT(writer.closes, ==, 0);
    tracked_close(&writer, NULL);
    RUN_UNTIL(loop, writer.closes == 1);
    CHECK_INT(send.result, ==, PIER_ECLOSED);
    close_and_wait(&reader);
}

/* A completion of the graceful close's victim closes for real. */
static void close_owner(struct tracked *tracked)
{
    tracked_close(tracked->owner, NULL);
}

static void in_the_completion_that_a_graceful_one_causes(void)
{
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 4; i++) {
        struct tracked_handle a = {0};
        struct tracked receive = {0}, send = {0};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
        if (i % 2 == 0) {
            tracked_receive_each(&a, &receive, close_owner);
        } else {
            tracked_receive_lent(&a, &receive, close_owner);
        }
        run(loop, PIER_RUN_NO_WAIT);
        if (i >= 2) {
            tracked_send(&a, &send, "sent", 4, NULL);
        }
        tracked_close_gracefully(&a, 3600 * PIER_SECOND, NULL);
        RUN_UNTIL(loop, a.closes == 1);
        CHECK_INT(receive.result, ==, PIER_ECLOSED);
        raw_close(peer);
    }
}

static struct pier_handle *again;
static unsigned closed_in_itself;

static void close_in_its_own_function(struct pier_handle *handle)
{
    closed_in_itself++;
    pier_close(handle, on_two);
    pier_close(handle, NULL);
    pier_close_gracefully(handle, 0, on_two);
    again = handle;
}

/* In its close function the handle is closed already. */
static void in_its_own_close_function(void)
{
    struct pier_loop *loop = test_loop();
    struct pair pair;
    open_pair(&pair, loop, STREAM_PAIR);
    pier_close(&pair.a, close_in_its_own_function);
    run_until_closed(&pair);
    CHECK(again == &pair.a);
    CHECK_INT(closed_in_itself, ==, 1);
    CHECK_INT(twos, ==, 0);
}

const struct test close_again_tests[] = {
    TEST(close_again, first_function_given_is_called),
    TEST(close_again, after_a_graceful_one_tcp),
    TEST(close_again, after_a_graceful_one_pair),
    TEST(close_again, after_a_graceful_one_pipe),
    TEST(close_again, in_the_completion_that_a_graceful_one_causes),
    TEST(close_again, in_its_own_close_function),
    TEST_END,
};
