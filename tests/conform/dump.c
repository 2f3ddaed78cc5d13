/* dump.c - what the dump of a loop tells of ops that are pending. */

#include "suite.h"

#include <stdlib.h>
#include <string.h>

struct lines {
    unsigned count, receives, timers;
};

static void take_line(void *context, const char *line)
{
    struct lines *lines = context;
    CHECK(strchr(line, '\n') == NULL);
    CHECK(strlen(line) > 0);
    lines->count++;
    if (lines->count > 1) { /* the first is about the loop as a whole */
        /* A handle's ops are below its line, the loop's own aren't. */
        lines->receives += strncmp(line, "  receive ", 10) == 0;
        lines->timers += strncmp(line, "timer ", 6) == 0;
    }
}

static void tells_what_is_pending(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receives[2] = {0}, timer = {0};
    struct lines lines = {0};
    char bytes[2];
    pier_loop_dump(loop, take_line, &lines);
    CHECK_INT(lines.receives + lines.timers, ==, 0);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receives[0], &bytes[0], 1, NULL);
    tracked_receive(&a, &receives[1], &bytes[1], 1, NULL);
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    run_quietly(loop, 5);
    memset(&lines, 0, sizeof(lines));
    pier_loop_dump(loop, take_line, &lines);
    CHECK_INT(lines.count, >=, 4);
    CHECK_INT(lines.receives, >=, 2);
    CHECK_INT(lines.timers, >=, 1);
    tracked_cancel(&timer);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    close_and_wait(&a);
    raw_close(peer);
}

static void take_never_due(void *context, const char *line)
{
    int *found = context;
    CHECK(strstr(line, "due in -") == NULL);
    *found += strncmp(line, "timer ", 6) == 0 && strstr(line, "never due") != NULL;
}

static void tells_of_timers_that_are_never_due(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timers[3] = {0};
    const uint64_t delays[3] = {PIER_FOREVER, UINT64_MAX / 2 + 1, 3600 * PIER_SECOND};
    int found = 0;
    for (int i = 0; i < 3; i++) {
        tracked_timer(loop, &timers[i], delays[i], NULL);
    }
    run_quietly(loop, 5);
    pier_loop_dump(loop, take_never_due, &found);
    CHECK_INT(found, ==, 1);
    for (int i = 0; i < 3; i++) {
        tracked_cancel(&timers[i]);
        CHECK_INT(wait_for(&timers[i]), ==, PIER_ECANCELED);
    }
}

struct aged {
    struct tracked_handle handle;
    struct tracked receive;
    char byte;
    double age_ms; /* of the receive, as dumped */
    uint64_t most_ns;
};

static void take_age(void *context, const char *line)
{
    struct aged *aged = context;
    const char *age = strstr(line, "age ");
    if (strstr(line, "receive") != NULL && age != NULL) {
        aged->age_ms = strtod(age + 4, NULL);
    }
}

static void submit_late(struct tracked *tracked)
{
    struct aged *aged = tracked->context;
    const uint64_t begin = platform_now();
    tracked_receive(&aged->handle, &aged->receive, &aged->byte, 1, NULL);
    pier_loop_dump(tracked->loop, take_age, aged);
    aged->most_ns = platform_now() - begin;
}

static void let_time_pass(void)
{
    const uint64_t until = platform_now() + 50 * PIER_MILLISECOND;
    while (platform_now() < until) {
        platform_yield();
    }
}

static void post_after_a_while(void *context)
{
    struct tracked *post = context;
    let_time_pass();
    tracked_post(post->loop, post, submit_late);
}

/* A turn that only has posts to deliver doesn't read the clock. */
static void age_counts_from_the_submit_after_an_idle_time(void)
{
    struct pier_loop *loop = test_loop();
    struct aged aged = {.age_ms = -1};
    struct tracked post = {.context = &aged, .loop = loop}, idle = {0};
    struct platform_thread thread;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &aged.handle);
    tracked_notify_each(loop, &idle, NULL);
    platform_thread_start(&thread, post_after_a_while, &post);
    RUN_UNTIL(loop, aged.most_ns != 0);
    platform_thread_join(&thread);
    CHECK(aged.age_ms >= 0);
    CHECK(aged.age_ms <= (double)aged.most_ns / 1e6 + 1);
    tracked_cancel(&idle);
    CHECK_INT(wait_for(&idle), ==, PIER_ECANCELED);
    close_and_wait(&aged.handle);
    raw_close(peer);
}

struct late_byte {
    pier_descriptor peer;
    struct tracked event;
};

static void send_after_a_while(void *context)
{
    const struct late_byte *late = context;
    let_time_pass();
    raw_send(late->peer, "x", 1);
}

/* With a timer every turn reads the clock, but only behind the events. */
static void age_counts_from_the_submit_also_with_timers(void)
{
    struct pier_loop *loop = test_loop();
    struct aged aged = {.age_ms = -1};
    struct late_byte late = {.event = {.context = &aged}};
    struct tracked timer = {0};
    struct platform_thread thread;
    char byte;
    late.peer = tracked_raw_pair(loop, STREAM_TCP4, &aged.handle);
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    tracked_receive(&aged.handle, &late.event, &byte, 1, submit_late);
    platform_thread_start(&thread, send_after_a_while, &late);
    RUN_UNTIL(loop, aged.most_ns != 0);
    platform_thread_join(&thread);
    CHECK(aged.age_ms >= 0);
    CHECK(aged.age_ms <= (double)aged.most_ns / 1e6 + 1);
    tracked_cancel(&timer);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    close_and_wait(&aged.handle);
    raw_close(late.peer);
}

static void take_post(void *context, const char *line)
{
    unsigned *posts = context;
    if (strstr(line, "post completed") != NULL) {
        CHECK(strstr(line, "age") == NULL);
        (*posts)++;
    }
}

static void dump_posts(struct tracked *tracked)
{
    pier_loop_dump(tracked->loop, take_post, tracked->context);
}

/* Nobody knows when a post was made. */
static void post_has_no_age(void)
{
    struct pier_loop *loop = test_loop();
    unsigned posts = 0;
    struct tracked first = {.context = &posts}, second = {0};
    tracked_post(loop, &first, dump_posts);
    tracked_post(loop, &second, NULL);
    CHECK_INT(wait_for(&second), ==, 0);
    CHECK_INT(posts, ==, 1);
}

static void take_posted(void *context, const char *line)
{
    unsigned *posts = context;
    if (strncmp(line, "post posted, ", 13) == 0) {
        CHECK(strstr(line, "age") == NULL);
        (*posts)++;
    }
}

static void post_another(void *context)
{
    struct tracked *post = context;
    tracked_post(post->loop, post, NULL);
}

/* It isn't counted, and has no token, but it can be seen. The loop has gone to sleep once before,
 * and not. */
static void post_that_is_not_taken(void)
{
    struct pier_loop *loop = test_loop();
    for (int round = 0; round < 2; round++) {
        struct tracked posts[3] = {0}, idle = {0};
        struct platform_thread thread;
        unsigned seen = 0;
        tracked_notify_each(loop, &idle, NULL);
        pier_loop_dump(loop, take_posted, &seen);
        CHECK_INT(seen, ==, 0);
        tracked_post(loop, &posts[0], NULL);
        pier_notify(&idle.op);
        tracked_post(loop, &posts[1], NULL);
        posts[2].loop = loop;
        platform_thread_start(&thread, post_another, &posts[2]);
        platform_thread_join(&thread);
        pier_loop_dump(loop, take_posted, &seen);
        CHECK_INT(seen, ==, 3);
        CHECK_INT(stats_of(loop).ops_in_flight, ==, 1);
        CHECK_INT(pier_op_token(&posts[0].op), ==, 0);
        tracked_cancel(&posts[0]);
        tracked_cancel(&idle);
        CHECK_INT(run(loop, PIER_RUN_NO_WAIT), >=, 0);
        CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
        for (int i = 0; i < 3; i++) {
            CHECK_INT(posts[i].result, ==, 0);
        }
        seen = 0;
        pier_loop_dump(loop, take_posted, &seen);
        CHECK_INT(seen, ==, 0);
        if (test_can(PIER_CAN_EMBED)) {
            CHECK_INT(pier_loop_descriptor(loop), >=, 0); /* asleep outside of its runs */
        }
    }
}

struct expected {
    char text[80];
    unsigned found;
};

static void take_expected(void *context, const char *line)
{
    struct expected *expected = context;
    expected->found += strncmp(line, expected->text, strlen(expected->text)) == 0;
}

static unsigned lines_that_begin(struct pier_loop *loop, const char *format,
                                 pier_descriptor descriptor)
{
    struct expected expected = {.found = 0};
    snprintf(expected.text, sizeof(expected.text), format, (long)descriptor);
    pier_loop_dump(loop, take_expected, &expected);
    return expected.found;
}

static void tells_what_is_polled(void)
{
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked one = {0}, each = {0};
    pier_descriptor ends[2];
    raw_pair(ends);
    tracked_poll(loop, &one, ends[0], PIER_READABLE, NULL);
    each.op.timeout_ns = 3600 * PIER_SECOND;
    tracked_poll_each(loop, &each, ends[1], PIER_READABLE | PIER_HANGUP, NULL);
    CHECK_INT(lines_that_begin(loop, "poll of %ld for readable ", ends[0]), ==, 1);
    CHECK_INT(lines_that_begin(loop, "poll each of %ld for readable hangup ", ends[1]), ==, 1);
    pier_pause(&each.op);
    CHECK_INT(lines_that_begin(loop,
                               "poll each of %ld for readable hangup active paused, "
                               "time stands still",
                               ends[1]),
              ==, 1);
    tracked_cancel(&one);
    tracked_cancel(&each);
    CHECK_INT(wait_for(&one), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

/* An op that is over isn't listed with its handle, and says which that is. */
static void tells_what_is_over(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked receive = {0}, other = {0};
    char byte, byte_of_b;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const pier_descriptor peer_of_b = tracked_raw_pair(loop, STREAM_TCP4, &b);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_receive(&b, &other, &byte_of_b, 1, NULL);
    run_quietly(loop, 5);
    const pier_descriptor descriptor = pier_handle_descriptor(&a.handle);
    tracked_cancel(&receive);
    const unsigned below = lines_that_begin(loop, "  receive active cancelling", 0);
    const unsigned apart = lines_that_begin(loop, "receive of stream %ld ", descriptor);
    CHECK_INT(below + apart, ==, 1);
    CHECK_INT(lines_that_begin(loop, "receive ", 0), ==, apart);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    close_and_wait(&a);
    close_and_wait(&b);
    raw_close(peer);
    raw_close(peer_of_b);
}

const struct test dump_tests[] = {
    TEST(dump, tells_what_is_pending),
    TEST(dump, tells_what_is_polled),
    TEST(dump, tells_what_is_over),
    TEST(dump, tells_of_timers_that_are_never_due),
    TEST(dump, age_counts_from_the_submit_after_an_idle_time),
    TEST(dump, age_counts_from_the_submit_also_with_timers),
    TEST(dump, post_has_no_age),
    TEST(dump, post_that_is_not_taken),
    TEST_END,
};
