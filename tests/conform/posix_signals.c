/* posix_signals.c - signals: they interrupt waits without harm, and their handlers may call
 * what the header allows. */

#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>

static struct pier_loop *handler_loop;
static struct pier_op handler_post;
static struct pier_op *handler_notify;
static _Atomic uint64_t handler_token;
static volatile sig_atomic_t handler_calls, handler_changed_errno, handler_stops;

static void note_posted(struct pier_op *op)
{
    op->data = op;
}

static void count_only(int number)
{
    (void)number;
    handler_calls++;
}

static void install(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK_INT(sigaction(number, &action, NULL), ==, 0);
}

/* A timer signal every 300 us, without SA_RESTART: each wait and many calls are cut short. */
static void interrupted_waits(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked timer = {0}, send = {0};
    const struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    static unsigned char data[2 << 20], got[2 << 20];
    pattern_fill(data, sizeof(data), 91, 0);
    handler_calls = 0;
    install(SIGVTALRM, count_only, 0);
    install(SIGPROF, count_only, 0);
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    setitimer(ITIMER_PROF, &often, NULL);
    setitimer(ITIMER_VIRTUAL, &often, NULL);
    const uint64_t started = pier_loop_now(loop);
    tracked_timer(loop, &timer, 50 * PIER_MILLISECOND, NULL);
    tracked_send(&a, &send, data, sizeof(data), NULL);
    receive_all(&b, got, sizeof(got));
    CHECK_INT(wait_for(&send), ==, sizeof(data));
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_INT(pier_loop_now(loop) - started, >=, 50 * PIER_MILLISECOND);
    setitimer(ITIMER_PROF, &never, NULL);
    setitimer(ITIMER_VIRTUAL, &never, NULL);
    CHECK_PATTERN(got, sizeof(got), 91, 0);
    close_and_wait(&a);
    close_and_wait(&b);
}

struct pest {
    pthread_t target;
    _Atomic bool done;
};

static void send_signals(void *context)
{
    struct pest *pest = context;
    while (!atomic_load(&pest->done)) {
        pthread_kill(pest->target, SIGUSR1);
        platform_yield();
    }
}

static void storm_of_signals(void)
{
    struct pier_loop *loop = test_loop();
    struct pest pest = {.target = pthread_self()};
    struct platform_thread thread;
    handler_calls = 0;
    install(SIGUSR1, count_only, 0);
    platform_thread_start(&thread, send_signals, &pest);
    SPIN_UNTIL(loop, handler_calls > 0, {}); /* a busy machine may start the thread late */
    for (int i = 0; i < 20; i++) {
        struct tracked_handle a = {0}, b = {0};
        struct tracked timer = {0}, receive = {0};
        char byte = 0;
        tracked_pair(loop, STREAM_TCP4, &a, &b);
        tracked_receive(&b, &receive, &byte, 1, NULL);
        tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
        CHECK_INT(wait_for(&timer), ==, 0);
        CHECK(receive.in_flight);
        send_all(&a, "x", 1);
        CHECK_INT(wait_for(&receive), ==, 1);
        close_and_wait(&a);
        close_and_wait(&b);
    }
    atomic_store(&pest.done, true);
    platform_thread_join(&thread);
}

static void call_pier(int number)
{
    (void)number;
    const int interrupted = errno;
    errno = E2BIG;
    if (!pier_op_pending(&handler_post)) {
        pier_post(handler_loop, &handler_post, note_posted);
    }
    if (handler_notify != NULL) {
        pier_notify(handler_notify);
    }
    pier_cancel_remote(handler_loop, atomic_load(&handler_token));
    pier_wake(handler_loop);
    if (handler_stops) {
        pier_loop_stop(handler_loop);
    }
    handler_changed_errno |= errno != E2BIG;
    handler_calls++;
    errno = interrupted;
}

static void handlers_may_call(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked notify = {0}, victim = {0};
    handler_loop = loop;
    handler_calls = handler_changed_errno = handler_stops = 0;
    memset(&handler_post, 0, sizeof(handler_post));
    install(SIGUSR1, call_pier, 0);
    tracked_notify_each(loop, &notify, NULL);
    handler_notify = &notify.op;
    for (unsigned i = 1; i <= 50; i++) {
        handler_post.data = NULL;
        tracked_timer(loop, &victim, 3600 * PIER_SECOND, NULL);
        atomic_store(&handler_token, pier_op_token(&victim.op));
        raise(SIGUSR1);
        RUN_UNTIL(loop,
                  handler_post.data == &handler_post && notify.events == i && !victim.in_flight);
        CHECK_INT(victim.result, ==, PIER_ECANCELED);
    }
    CHECK_INT(handler_changed_errno, ==, 0);
    handler_stops = 1;
    raise(SIGUSR1);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 1);
    RUN_UNTIL(loop, !pier_op_pending(&handler_post) && notify.events == 51);
    tracked_cancel(&notify);
    CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
}

static void count_notifications(struct tracked *tracked)
{
    uint64_t *total = tracked->context;
    if ((tracked->flags & PIER_MORE) != 0) {
        *total += (uint64_t)tracked->result;
    }
}

/* Handlers that strike anywhere inside the loop, also while it takes posts out. */
static void handlers_at_any_moment(void)
{
    struct pier_loop *loop = test_loop();
    uint64_t total = 0;
    struct tracked notify = {.context = &total};
    struct pest pest = {.target = pthread_self()};
    struct platform_thread thread;
    handler_loop = loop;
    handler_calls = handler_changed_errno = handler_stops = 0;
    atomic_store(&handler_token, 0);
    memset(&handler_post, 0, sizeof(handler_post));
    tracked_notify_each(loop, &notify, count_notifications);
    handler_notify = &notify.op;
    install(SIGUSR1, call_pier, 0);
    platform_thread_start(&thread, send_signals, &pest);
    RUN_UNTIL(loop, handler_calls > 2000);
    atomic_store(&pest.done, true);
    platform_thread_join(&thread);
    RUN_UNTIL(loop, total == (uint64_t)handler_calls && !pier_op_pending(&handler_post));
    CHECK_INT(handler_changed_errno, ==, 0);
    tracked_cancel(&notify);
    CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
}

const struct test signals_tests[] = {
    TEST(signals, interrupted_waits),
    TEST(signals, storm_of_signals),
    TEST(signals, handlers_may_call),
    TEST(signals, handlers_at_any_moment),
    TEST_END,
};
