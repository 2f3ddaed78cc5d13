/* posix_limits.c - out of descriptors: accepting pauses, is counted, and goes on; set-up calls
 * say so. And the other limits of descriptors: a lowered one, large numbers.
 *
 * The limit is lowered to the descriptors that are open and the rest is filled up, so that the
 * next one fails with EMFILE. */

#include "suite.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILLERS_MAX 512

struct shortage {
    struct rlimit before;
    int fillers[FILLERS_MAX];
    int count;
};

static void begin_shortage(struct shortage *shortage)
{
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &shortage->before), ==, 0);
    const int top = dup(0);
    CHECK_INT(top, >=, 0);
    struct rlimit lowered = shortage->before;
    lowered.rlim_cur = (rlim_t)top + 40;
    close(top);
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &lowered), ==, 0);
    shortage->count = 0;
    for (int filler = dup(0); filler >= 0; filler = dup(0)) {
        CHECK_INT(shortage->count, <, FILLERS_MAX);
        shortage->fillers[shortage->count++] = filler;
    }
}

static void release_one(struct shortage *shortage)
{
    close(shortage->fillers[--shortage->count]);
}

static void end_shortage(struct shortage *shortage)
{
    while (shortage->count > 0) {
        release_one(shortage);
    }
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &shortage->before), ==, 0);
}

struct door {
    struct tracked_handle listener, guests[8];
    struct tracked each;
    unsigned count;
};

static void let_in(struct tracked *tracked)
{
    struct door *door = PIER_OWNER(tracked, struct door, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(door->count, <, COUNT_OF(door->guests));
        tracked_take(tracked, &door->guests[door->count++]);
    }
}

static struct pier_loop *loop_with_retry(uint64_t retry_ns)
{
    struct pier_loop_options options = test_options();
    options.retry_ns = retry_ns;
    return test_loop_with(&options);
}

static void close_guests(struct door *door, const pier_descriptor *peers)
{
    for (unsigned i = 0; i < door->count; i++) {
        check_usable(&door->guests[i], peers[i]);
        close_and_wait(&door->guests[i]);
        raw_close(peers[i]);
    }
    close_and_wait(&door->listener);
}

/* Nobody tells the loop that descriptors are free again: it tries on a timer. */
static void accept_resumes_on_a_timer(void)
{
    struct pier_loop *loop = loop_with_retry(20 * PIER_MILLISECOND);
    struct door door = {0};
    struct shortage shortage;
    pier_descriptor peers[8];
    const struct pier_address address = tracked_listen(loop, &door.listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 8; i++) {
        peers[i] = raw_connect(&address);
    }
    begin_shortage(&shortage);
    tracked_accept_each(&door.listener, &door.each, let_in);
    run_quietly(loop, 10);
    const struct pier_loop_counters first = stats_of(loop);
    CHECK_INT(door.count, ==, 0);
    CHECK(door.each.in_flight);
    CHECK_INT(first.accept_pauses, >=, 1);
    run_quietly(loop, 200);
    const struct pier_loop_counters second = stats_of(loop);
    CHECK_INT(second.turns - first.turns, <, 200);
    CHECK_INT(second.system_calls - first.system_calls, <, 600);
    CHECK_INT(door.count, ==, 0);
    end_shortage(&shortage);
    RUN_UNTIL(loop, door.count == 8);
    close_guests(&door, peers);
}

/* A close on the loop frees a descriptor, so accepting goes on at once: here the timer wouldn't
 * come for an hour. */
static void accept_resumes_on_close(void)
{
    struct pier_loop *loop = loop_with_retry(3600 * PIER_SECOND);
    struct door door = {0};
    struct tracked_handle spare[2] = {0};
    struct shortage shortage;
    pier_descriptor peers[2];
    const struct pier_address address = tracked_listen(loop, &door.listener, STREAM_TCP4, NULL);
    tracked_pair(loop, STREAM_PAIR, &spare[0], &spare[1]);
    for (int i = 0; i < 2; i++) {
        peers[i] = raw_connect(&address);
    }
    begin_shortage(&shortage);
    tracked_accept_each(&door.listener, &door.each, let_in);
    run_quietly(loop, 10);
    CHECK_INT(door.count, ==, 0);
    CHECK_INT(stats_of(loop).accept_pauses, >=, 1);
    close_and_wait(&spare[0]);
    RUN_UNTIL(loop, door.count == 1);
    run_quietly(loop, 10);
    CHECK_INT(door.count, ==, 1);
    close_and_wait(&spare[1]);
    RUN_UNTIL(loop, door.count == 2);
    end_shortage(&shortage);
    close_guests(&door, peers);
}

static void count_success(struct tracked *tracked)
{
    unsigned *count = tracked->context;
    *count += tracked->result == 1;
}

static void single_accepts_wait_as_well(void)
{
    struct pier_loop *loop = loop_with_retry(20 * PIER_MILLISECOND);
    struct tracked_handle listener = {0};
    unsigned count = 0;
    struct tracked accepts[3] = {{.context = &count}, {.context = &count}, {.context = &count}};
    struct tracked late = {0};
    struct shortage shortage;
    pier_descriptor peers[3];
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 3; i++) {
        peers[i] = raw_connect(&address);
    }
    begin_shortage(&shortage);
    for (int i = 0; i < 3; i++) {
        tracked_accept(&listener, &accepts[i], count_success);
    }
    late.op.timeout_ns = 40 * PIER_MILLISECOND;
    tracked_accept(&listener, &late, NULL);
    CHECK_INT(wait_for(&late), ==, PIER_ETIMEDOUT);
    CHECK_INT(count, ==, 0);
    /* Cancelled while paused. */
    tracked_cancel(&accepts[0]);
    CHECK_INT(wait_for(&accepts[0]), ==, PIER_ECANCELED);
    end_shortage(&shortage);
    RUN_UNTIL(loop, count == 2);
    close_and_wait(&listener);
    for (int i = 0; i < 3; i++) {
        raw_close(peers[i]);
    }
}

static void closed_while_paused(void)
{
    struct pier_loop *loop = loop_with_retry(3600 * PIER_SECOND);
    struct door door = {0};
    struct shortage shortage;
    const struct pier_address address = tracked_listen(loop, &door.listener, STREAM_TCP4, NULL);
    const pier_descriptor peer = raw_connect(&address);
    begin_shortage(&shortage);
    tracked_accept_each(&door.listener, &door.each, let_in);
    run_quietly(loop, 10);
    close_and_wait(&door.listener);
    CHECK_INT(door.each.result, ==, PIER_ECLOSED);
    end_shortage(&shortage);
    raw_close(peer);
}

static void set_up_calls_say_so(void)
{
    struct pier_loop *loop = test_loop();
    const struct pier_loop_options options = test_options();
    const struct pier_address address = address_of("127.0.0.1:0");
    struct pier_loop *second = NULL;
    struct pier_handle a = {0}, b = {0};
    struct shortage shortage;
    begin_shortage(&shortage);
    const int listened = pier_listen(loop, &a, &address, NULL);
    const size_t explained = strlen(pier_error_detail());
    const int opened = pier_open_socket(loop, &a, &address);
    const int paired = pier_socket_pair(loop, &a, &b);
    const int piped = pier_pipe(loop, &a, &b);
    const int made = pier_loop_new(&second, &options);
    /* One is free, and a pair needs two. */
    release_one(&shortage);
    const int half_paired = pier_socket_pair(loop, &a, &b);
    const int half_piped = pier_pipe(loop, &a, &b);
    end_shortage(&shortage);
    CHECK_INT(listened, ==, PIER_EMFILE);
    CHECK_INT(explained, >, 0);
    CHECK_INT(opened, ==, PIER_EMFILE);
    CHECK_INT(paired, ==, PIER_EMFILE);
    CHECK_INT(piped, ==, PIER_EMFILE);
    CHECK_INT(half_paired, ==, PIER_EMFILE);
    CHECK_INT(half_piped, ==, PIER_EMFILE);
    CHECK_INT(pier_handle_descriptor(&a), ==, -1);
    CHECK_INT(pier_handle_descriptor(&b), ==, -1);
    if (made == 0) {
        pier_loop_free(second); /* A backend that needs no descriptor. */
    } else {
        CHECK_INT(made, ==, PIER_EMFILE);
    }
    CHECK(!pier_handle_is_open(&a));
    CHECK(!pier_handle_is_open(&b));
}

/* A loop knows what it can: nothing is tried anew. */
static void capabilities_stay(void)
{
    struct pier_loop *loop = test_loop();
    const unsigned before = pier_loop_capabilities(loop);
    struct shortage shortage;
    begin_shortage(&shortage);
    const unsigned during = pier_loop_capabilities(loop);
    end_shortage(&shortage);
    CHECK_INT(before, !=, 0);
    CHECK_INT(during, ==, before);
}

static void wake_later(void *context)
{
    struct tracked *notified = context;
    pier_notify(&notified->op);
}

/* The limit is lowered below what is open: that goes on as it did. */
static void limit_below_what_is_open(void)
{
    struct pier_loop *loop = test_loop();
    enum { PAIRS = 5 };
    struct tracked_handle handles[PAIRS] = {0};
    struct tracked receives[PAIRS] = {0}, notified = {0}, timer = {0};
    pier_descriptor peers[PAIRS];
    struct platform_thread thread;
    struct rlimit before, lowered;
    for (int i = 0; i < PAIRS; i++) {
        peers[i] = tracked_raw_pair(loop, STREAM_TCP4, &handles[i]);
        tracked_receive_each(&handles[i], &receives[i], NULL);
    }
    tracked_notify_each(loop, &notified, NULL);
    run_quietly(loop, 2);
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), ==, 0);
    lowered = before;
    for (rlim_t limit = 1; limit <= 3; limit++) {
        lowered.rlim_cur = limit;
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &lowered), ==, 0);
        for (int i = 0; i < PAIRS; i++) {
            const uint64_t done = receives[i].done;
            raw_send(peers[i], "x", 1);
            RUN_UNTIL(loop, receives[i].done == done + 1);
        }
        tracked_timer(loop, &timer, 30 * PIER_MILLISECOND, NULL);
        CHECK_INT(wait_for(&timer), ==, 0);
        const unsigned events = notified.events;
        platform_thread_start(&thread, wake_later, &notified);
        RUN_UNTIL(loop, notified.events > events);
        platform_thread_join(&thread);
        const uint64_t turns = stats_of(loop).turns;
        run_quietly(loop, 100);
        CHECK_INT(stats_of(loop).turns - turns, <, 100);
    }
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), ==, 0);
    tracked_cancel(&notified);
    CHECK_INT(wait_for(&notified), ==, PIER_ECANCELED);
    for (int i = 0; i < PAIRS; i++) {
        close_and_wait(&handles[i]);
        raw_close(peers[i]);
    }
}

/* Above FD_SETSIZE, which is no limit of pier's select. */
static void numbers_of_four_digits(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked poll = {0};
    struct rlimit before;
    pier_descriptor ends[2];
    if (test_backend_is("select") && getenv("PIER_EMULATOR") != NULL) {
        test_skip("the emulator's select ends at FD_SETSIZE");
        return;
    }
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), ==, 0);
    struct rlimit raised = before;
    if (raised.rlim_cur < 4000) {
        raised.rlim_cur = 4000;
        if (setrlimit(RLIMIT_NOFILE, &raised) != 0) {
            test_skip("no more descriptors allowed");
            return;
        }
    }
    raw_pair(ends);
    const int polled = fcntl((int)ends[0], F_DUPFD_CLOEXEC, 3000);
    const int adopted = fcntl((int)ends[0], F_DUPFD_CLOEXEC, 3100);
    CHECK_INT(polled, >=, 3000);
    tracked_poll(loop, &poll, polled, PIER_READABLE, NULL);
    run_quietly(loop, 5);
    CHECK(poll.in_flight);
    raw_send(ends[1], "x", 1);
    CHECK_INT(wait_for(&poll), ==, PIER_READABLE);
    CHECK_OK(tracked_adopt(loop, &handle, adopted));
    char byte;
    receive_all(&handle, &byte, 1);
    check_usable(&handle, ends[1]);
    close_and_wait(&handle);
    close(polled);
    raw_close(ends[0]);
    raw_close(ends[1]);
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), ==, 0);
}

const struct test limits_tests[] = {
    TEST(limits, accept_resumes_on_a_timer),
    TEST(limits, accept_resumes_on_close),
    TEST(limits, single_accepts_wait_as_well),
    TEST(limits, closed_while_paused),
    TEST(limits, set_up_calls_say_so),
    TEST(limits, capabilities_stay),
    TEST(limits, limit_below_what_is_open),
    TEST(limits, numbers_of_four_digits),
    TEST_END,
};
