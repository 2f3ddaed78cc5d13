/* notifications.c - pier_notify_each() that is paused: what comes meanwhile is counted, in one
 * event when it's resumed, and before its end when it's cancelled instead. */

#include "suite.h"

static unsigned counted;

static void count(struct tracked *tracked)
{
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(tracked->completions, ==, 0);
        counted += (unsigned)tracked->result;
    }
}

static void begin(struct pier_loop *loop, struct tracked *notify)
{
    memset(notify, 0, sizeof(*notify));
    counted = 0;
    tracked_notify_each(loop, notify, count);
}

static void notify_times(struct tracked *notify, unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        pier_notify(&notify->op);
    }
}

/* Notified before the pause and during it, with turns of the loop between them or not: all of it
 * comes, in one event, before the end. */
static void paused_and_cancelled(void)
{
    struct pier_loop *loop = test_loop();
    for (unsigned i = 0; i < 2 * 2 * 3 * 3; i++) {
        struct tracked notify;
        const unsigned before = i % 3, during = i / 3 % 3;
        begin(loop, &notify);
        if ((i / 9 & 1) != 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        notify_times(&notify, before);
        tracked_pause(&notify);
        if ((i / 18 & 1) != 0) {
            run(loop, PIER_RUN_NO_WAIT);
            run(loop, PIER_RUN_NO_WAIT);
            CHECK_INT(notify.events, ==, 0);
        }
        notify_times(&notify, during);
        if ((i / 18 & 1) != 0) {
            run(loop, PIER_RUN_NO_WAIT);
            CHECK_INT(notify.events, ==, 0);
        }
        tracked_cancel(&notify);
        CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
        CHECK_INT(counted, ==, before + during);
        CHECK_INT(notify.events, ==, before + during > 0 ? 1 : 0);
    }
}

static void paused_and_resumed(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked notify;
    begin(loop, &notify);
    for (unsigned i = 1; i <= 20; i++) {
        notify_times(&notify, i % 3);
        tracked_pause(&notify);
        if (i % 2 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        notify_times(&notify, 3);
        run(loop, PIER_RUN_NO_WAIT);
        CHECK_INT(notify.events, ==, i - 1);
        const unsigned before = counted;
        tracked_resume(&notify);
        RUN_UNTIL(loop, notify.events == i);
        CHECK_INT(counted - before, ==, i % 3 + 3);
    }
    /* Resumed with nothing there is no event, paused and resumed at once no loss. */
    tracked_pause(&notify);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_resume(&notify);
    run_quietly(loop, 2);
    CHECK_INT(notify.events, ==, 20);
    tracked_pause(&notify);
    notify_times(&notify, 1);
    tracked_resume(&notify);
    RUN_UNTIL(loop, notify.events == 21);
    tracked_cancel(&notify);
    CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
}

/* The drain is a cancel too. */
static void paused_and_drained(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked notify;
    begin(loop, &notify);
    tracked_pause(&notify);
    notify_times(&notify, 2);
    run(loop, PIER_RUN_NO_WAIT);
    notify_times(&notify, 3);
    notify.ending = true; /* for tracked.c: the drain cancels it */
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(notify.result, ==, PIER_ECANCELED);
    CHECK_INT(counted, ==, 5);
}

enum { EACH = 3000 };

static void notify_often(void *context)
{
    struct tracked *notify = context;
    for (int i = 0; i < EACH; i++) {
        pier_notify(&notify->op);
        if (i % 64 == 0) {
            platform_yield();
        }
    }
}

/* Two threads notify while the loop pauses, resumes and at last cancels a paused op: each one is
 * counted once. */
static void paused_under_a_storm(void)
{
    struct pier_loop *loop = test_loop();
    for (int round = 0; round < 10; round++) {
        struct platform_thread threads[2];
        struct tracked notify;
        begin(loop, &notify);
        for (int i = 0; i < 2; i++) {
            platform_thread_start(&threads[i], notify_often, &notify);
        }
        for (int i = 0; i < 50; i++) {
            tracked_pause(&notify);
            run(loop, PIER_RUN_NO_WAIT);
            tracked_resume(&notify);
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_pause(&notify);
        run(loop, PIER_RUN_NO_WAIT);
        for (int i = 0; i < 2; i++) {
            platform_thread_join(&threads[i]);
        }
        if (round % 2 == 0) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        tracked_cancel(&notify);
        CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
        CHECK_INT(counted, ==, 2 * EACH);
    }
}

const struct test notifications_tests[] = {
    TEST(notifications, paused_and_cancelled),
    TEST(notifications, paused_and_resumed),
    TEST(notifications, paused_and_drained),
    TEST(notifications, paused_under_a_storm),
    TEST_END,
};
