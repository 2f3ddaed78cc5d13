/* thread_ends.c - the end of a loop's thread, and of a loop that other threads still talk to.
 *
 * Whoever has joined a loop's thread frees or drains the loop. A remote cancel that comes too late
 * is dropped. A post or notification whose call is still on its way back out of pier when the loop
 * is freed doesn't touch it any more. */

#include "suite.h"

#include <stdatomic.h>

struct worker {
    struct pier_loop *loop;
    struct tracked timer, receive, posts[2];
    struct tracked_handle handle;
    pier_descriptor peer;
};

static void work(void *context)
{
    struct worker *worker = context;
    tracked_timer(worker->loop, &worker->timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&worker->timer), ==, 0);
}

static void work_and_leave_something(void *context)
{
    struct worker *worker = context;
    work(context);
    worker->peer = tracked_raw_pair(worker->loop, STREAM_TCP4, &worker->handle);
    tracked_receive_each(&worker->handle, &worker->receive, NULL);
    tracked_timer(worker->loop, &worker->timer, 3600 * PIER_SECOND, NULL);
    run(worker->loop, PIER_RUN_NO_WAIT);
}

static void run_and_join(struct worker *worker, void (*body)(void *))
{
    struct platform_thread thread;
    memset(worker, 0, sizeof(*worker));
    worker->loop = test_loop();
    platform_thread_start(&thread, body, worker);
    platform_thread_join(&thread);
}

static void freed_by_who_joined(void)
{
    struct worker worker;
    for (int i = 0; i < 10; i++) {
        run_and_join(&worker, work);
        test_loop_free(worker.loop);
    }
}

static void drained_by_who_joined(void)
{
    struct worker worker;
    for (int i = 0; i < 10; i++) {
        run_and_join(&worker, work_and_leave_something);
        CHECK_INT(drain(worker.loop, 20 * PIER_SECOND), ==, 0);
        CHECK_INT(worker.receive.result, ==, PIER_ECANCELED);
        CHECK_INT(worker.timer.result, ==, PIER_ECANCELED);
        CHECK(!pier_handle_is_open(&worker.handle.handle));
        /* From then on it's this thread's: it can go on with it. */
        tracked_timer(worker.loop, &worker.timer, 0, NULL);
        CHECK_INT(wait_for(&worker.timer), ==, 0);
        test_loop_free(worker.loop);
        raw_close(worker.peer);
    }
}

/* What was posted when nobody ran it any more is delivered by the drain. */
static void posts_after_the_thread_has_ended(void)
{
    struct worker worker;
    run_and_join(&worker, work);
    tracked_post(worker.loop, &worker.posts[0], NULL);
    tracked_post(worker.loop, &worker.posts[1], NULL);
    CHECK_INT(drain(worker.loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(worker.posts[0].completions + worker.posts[1].completions, ==, 2);
    test_loop_free(worker.loop);
}

/* A second thread that *runs* the loop breaks the rule, on each backend in the same way. */
static struct worker the_worker;

static void run_on_a_second_thread(void)
{
    const struct pier_loop_options options = test_options();
    struct platform_thread thread;
    CHECK_OK(pier_loop_new(&the_worker.loop, &options));
    for (int i = 0; i < 2; i++) {
        platform_thread_start(&thread, work, &the_worker);
        platform_thread_join(&thread);
    }
}

static void running_on_a_second_thread_is_misuse(void)
{
    CHECK_ABORTS(run_on_a_second_thread, "pier_", "thread");
}

/* ---- cancels that come too late -------------------------------------------------------------- */

static void late_remote_cancel(void)
{
    for (unsigned turns = 0; turns < 3; turns++) {
        struct pier_loop *loop = test_loop();
        struct tracked timers[3] = {0};
        uint64_t tokens[3];
        for (int i = 0; i < 3; i++) {
            tracked_timer(loop, &timers[i], 0, NULL);
            tokens[i] = pier_op_token(&timers[i].op);
            CHECK(tokens[i] != 0);
        }
        for (int i = 0; i < 3; i++) {
            wait_for(&timers[i]);
            CHECK_INT(timers[i].result, ==, 0);
        }
        for (int i = 0; i < 3; i++) {
            pier_cancel_remote(loop, tokens[i]);
            pier_cancel_remote(loop, tokens[0]);
        }
        for (unsigned i = 0; i < turns; i++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        test_loop_free(loop);
    }
}

struct canceller {
    struct pier_loop *loop;
    uint64_t token;
    _Atomic bool called;
};

static void cancel_late(void *context)
{
    struct canceller *canceller = context;
    pier_cancel_remote(canceller->loop, canceller->token);
    atomic_store(&canceller->called, true);
}

/* The canceller has returned; the loop hasn't looked yet, and is drained and freed by its owner. */
static void late_remote_cancel_from_a_thread(void)
{
    for (int i = 0; i < 50; i++) {
        struct canceller canceller = {.loop = test_loop()};
        struct platform_thread thread;
        struct tracked timer = {0};
        tracked_timer(canceller.loop, &timer, (uint64_t)(i % 2) * 3600 * PIER_SECOND, NULL);
        canceller.token = pier_op_token(&timer.op);
        platform_thread_start(&thread, cancel_late, &canceller);
        if (i % 2 == 0) {
            wait_for(&timer);
            CHECK(timer.result == 0 || timer.result == PIER_ECANCELED);
        } else {
            CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
        }
        platform_thread_join(&thread);
        CHECK(atomic_load(&canceller.called));
        test_loop_free(canceller.loop);
    }
}

/* ---- posts and notifications racing with the free -------------------------------------------- */

struct messenger {
    struct pier_loop *loop;
    struct pier_op post, notify, timer;
    _Atomic unsigned may_begin; /* 1 + how long the sender lets the loop run before it sends */
    unsigned delivered;
    bool over;
};

static void on_post(struct pier_op *op)
{
    struct messenger *messenger = PIER_OWNER(op, struct messenger, post);
    messenger->delivered++;
    messenger->over = true;
}

static void on_notify(struct pier_op *op)
{
    struct messenger *messenger = PIER_OWNER(op, struct messenger, notify);
    if ((op->flags & PIER_MORE) != 0) {
        messenger->delivered++;
        pier_cancel(op);
    } else {
        messenger->over = true;
    }
}

static void ignore(struct pier_op *op)
{
    (void)op;
}

static void let_it_run(struct messenger *messenger)
{
    unsigned yields;
    while ((yields = atomic_load(&messenger->may_begin)) == 0) {}
    while (--yields > 0) {
        platform_yield();
    }
}

static void send_post(void *context)
{
    struct messenger *messenger = context;
    let_it_run(messenger);
    pier_post(messenger->loop, &messenger->post, on_post);
}

static void send_notification(void *context)
{
    struct messenger *messenger = context;
    let_it_run(messenger);
    pier_notify(&messenger->notify);
}

/* The loop is freed as soon as what was sent has been delivered: the sender may still be inside its
 * call, waking the loop. Only then is it joined. In most rounds the loop falls asleep and is woken
 * by a timer all the time, so that it can be past the delivery before the sender has woken it; in
 * the others it's the sender alone that wakes it. */
static void race_with_free(void (*send)(void *), bool notifies)
{
    /* Making and closing a ring takes milliseconds where others take microseconds. */
    const unsigned rounds = test_can(PIER_CAN_COMPLETE) ? 100 : 500;
    for (unsigned i = 0; i < rounds; i++) {
        struct messenger messenger = {.loop = test_loop()};
        struct platform_thread thread;
        if (i % 4 != 0) {
            pier_timer_each(messenger.loop, &messenger.timer, 0, 10 * PIER_MICROSECOND, ignore);
        }
        if (notifies) {
            pier_notify_each(messenger.loop, &messenger.notify, on_notify);
        } else if (i % 4 == 0) {
            pier_timer(messenger.loop, &messenger.timer, 3600 * PIER_SECOND, ignore);
        }
        platform_thread_start(&thread, send, &messenger);
        atomic_store(&messenger.may_begin, 1 + i * 7 % 10); /* a yield is long on a busy machine */
        test_wait_begin(__FILE__, __LINE__, "what was sent");
        while (!messenger.over) {
            run(messenger.loop, i % 16 == 1 ? PIER_RUN_NO_WAIT : PIER_RUN_ONCE);
        }
        test_wait_end();
        CHECK_INT(messenger.delivered, ==, 1);
        pier_timer_stop(&messenger.timer);
        test_loop_free(messenger.loop);
        platform_thread_join(&thread);
    }
}

static void free_races_with_a_post(void)
{
    race_with_free(send_post, false);
}

static void free_races_with_a_notification(void)
{
    race_with_free(send_notification, true);
}

const struct test thread_ends_tests[] = {
    TEST(thread_ends, freed_by_who_joined),
    TEST(thread_ends, drained_by_who_joined),
    TEST(thread_ends, posts_after_the_thread_has_ended),
    TEST(thread_ends, running_on_a_second_thread_is_misuse),
    TEST(thread_ends, late_remote_cancel),
    TEST(thread_ends, late_remote_cancel_from_a_thread),
    TEST(thread_ends, free_races_with_a_post),
    TEST(thread_ends, free_races_with_a_notification),
    TEST_END,
};
