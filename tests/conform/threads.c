/* threads.c - what other threads may do: post, notify, wake, stop, cancel by token; and loops
 * that are bound to a thread. */

#include "suite.h"

#include <stdatomic.h>
#include <stdlib.h>

#define POSTERS 4
#define POSTS_EACH 20000

struct storm {
    struct pier_loop *loop;
    struct tracked *posts[POSTERS];
    unsigned next[POSTERS];
    struct tracked keep_running;
    uint64_t arrived;
    unsigned posts_each;
};

struct poster {
    struct storm *storm;
    unsigned number;
};

/* Posts of one thread arrive in the order made. */
static void on_posted(struct tracked *tracked)
{
    const struct poster *poster = tracked->context;
    struct storm *storm = poster->storm;
    CHECK(tracked == &storm->posts[poster->number][storm->next[poster->number]]);
    storm->next[poster->number]++;
    storm->arrived++;
}

static void post_many(void *context)
{
    struct poster *poster = context;
    for (unsigned i = 0; i < poster->storm->posts_each; i++) {
        struct tracked *post = &poster->storm->posts[poster->number][i];
        post->context = poster;
        tracked_post(poster->storm->loop, post, on_posted);
    }
}

static void storm_of_posts(void)
{
    struct storm storm = {.loop = test_loop(), .posts_each = POSTS_EACH / test_slowness()};
    struct platform_thread threads[POSTERS];
    struct poster posters[POSTERS];
    tracked_notify_each(storm.loop, &storm.keep_running, NULL);
    for (unsigned i = 0; i < POSTERS; i++) {
        storm.posts[i] = calloc(storm.posts_each, sizeof(struct tracked));
        CHECK(storm.posts[i] != NULL);
        posters[i] = (struct poster){&storm, i};
        platform_thread_start(&threads[i], post_many, &posters[i]);
    }
    RUN_UNTIL(storm.loop, storm.arrived == POSTERS * (uint64_t)storm.posts_each);
    for (unsigned i = 0; i < POSTERS; i++) {
        platform_thread_join(&threads[i]);
        free(storm.posts[i]);
    }
    CHECK_INT(stats_of(storm.loop).posts, ==, storm.arrived);
    tracked_cancel(&storm.keep_running);
    CHECK_INT(wait_for(&storm.keep_running), ==, PIER_ECANCELED);
}

struct ping {
    struct pier_loop *loops[2];
    struct tracked op, idle[2];
    unsigned left;
    _Atomic bool done, woken;
};

static void hit_back(struct tracked *tracked)
{
    struct ping *ping = tracked->context;
    struct pier_loop *other = tracked->loop == ping->loops[0] ? ping->loops[1] : ping->loops[0];
    if (--ping->left == 0) {
        atomic_store(&ping->done, true);
        pier_wake(ping->loops[0]);
        pier_wake(ping->loops[1]);
        atomic_store(&ping->woken, true);
        return;
    }
    tracked_post(other, tracked, hit_back);
}

static void play(void *context)
{
    struct ping *ping = context;
    tracked_notify_each(ping->loops[1], &ping->idle[1], NULL);
    while (!atomic_load(&ping->done)) {
        run(ping->loops[1], PIER_RUN_ONCE);
    }
    tracked_cancel(&ping->idle[1]);
    CHECK_INT(wait_for(&ping->idle[1]), ==, PIER_ECANCELED);
    while (!atomic_load(&ping->woken)) {
        platform_yield(); /* the other thread may be about to wake this loop */
    }
    test_loop_free(ping->loops[1]);
}

/* One op goes to and fro between two sleeping loops: no wake-up may be lost. */
static void ping_pong_between_loops(void)
{
    struct ping ping = {.loops = {test_loop(), test_loop()}, .left = 20000 / test_slowness()};
    struct platform_thread thread;
    ping.op.context = &ping;
    tracked_notify_each(ping.loops[0], &ping.idle[0], NULL);
    platform_thread_start(&thread, play, &ping);
    tracked_post(ping.loops[1], &ping.op, hit_back);
    while (!atomic_load(&ping.done)) {
        run(ping.loops[0], PIER_RUN_ONCE);
    }
    platform_thread_join(&thread);
    tracked_cancel(&ping.idle[0]);
    CHECK_INT(wait_for(&ping.idle[0]), ==, PIER_ECANCELED);
}

struct notifier {
    struct tracked notify;
    uint64_t received;
    unsigned rounds;
};

static void sum_notifications(struct tracked *tracked)
{
    struct notifier *notifier = PIER_OWNER(tracked, struct notifier, notify);
    if ((tracked->flags & PIER_MORE) != 0) {
        notifier->received += (uint64_t)tracked->result;
    }
}

static void notify_many(void *context)
{
    struct notifier *notifier = context;
    for (unsigned i = 0; i < notifier->rounds; i++) {
        pier_notify(&notifier->notify.op);
    }
}

static void notifications_coalesce_and_none_is_lost(void)
{
    struct pier_loop *loop = test_loop();
    struct notifier notifier = {.rounds = 50000 / test_slowness()};
    struct platform_thread threads[4];
    tracked_notify_each(loop, &notifier.notify, sum_notifications);
    for (int i = 0; i < 3; i++) {
        pier_notify(&notifier.notify.op);
    }
    RUN_UNTIL(loop, notifier.received == 3);
    CHECK_INT(notifier.notify.events, ==, 1);
    for (int i = 0; i < 4; i++) {
        platform_thread_start(&threads[i], notify_many, &notifier);
    }
    RUN_UNTIL(loop, notifier.received == 3 + 4 * (uint64_t)notifier.rounds);
    for (int i = 0; i < 4; i++) {
        platform_thread_join(&threads[i]);
    }
    run_quietly(loop, 5);
    CHECK_INT(notifier.received, ==, 3 + 4 * (uint64_t)notifier.rounds);
    CHECK_INT(notifier.notify.events, <=, notifier.received);
    tracked_cancel(&notifier.notify);
    CHECK_INT(wait_for(&notifier.notify), ==, PIER_ECANCELED);
}

struct caller {
    struct pier_loop *loop;
    _Atomic unsigned runs;
    _Atomic bool done;
};

static void wake_now_and_then(void *context)
{
    struct caller *caller = context;
    unsigned seen = 0;
    while (!atomic_load(&caller->done)) {
        pier_wake(caller->loop);
        for (int i = 0;
             i < 1000000 && atomic_load(&caller->runs) == seen && !atomic_load(&caller->done);
             i++) {
            platform_yield();
        }
        seen = atomic_load(&caller->runs);
    }
}

static void wake_ends_a_wait(void)
{
    struct caller caller = {.loop = test_loop()};
    struct platform_thread thread;
    struct tracked idle = {0};
    tracked_notify_each(caller.loop, &idle, NULL);
    /* The present wait or the next: a wake before the run counts. */
    pier_wake(caller.loop);
    CHECK_INT(run(caller.loop, PIER_RUN_ONCE), ==, 1);
    platform_thread_start(&thread, wake_now_and_then, &caller);
    for (int i = 0; i < 2000 / (int)test_slowness(); i++) {
        CHECK_INT(run(caller.loop, PIER_RUN_ONCE), ==, 1);
        atomic_fetch_add(&caller.runs, 1);
    }
    atomic_store(&caller.done, true);
    platform_thread_join(&thread);
    CHECK_INT(idle.events, ==, 0);
    tracked_cancel(&idle);
    CHECK_INT(wait_for(&idle), ==, PIER_ECANCELED);
}

#define POSTS_AWAKE 100

struct awake {
    struct pier_loop *loop;
    struct tracked posts[POSTS_AWAKE];
};

static void post_while_awake(void *context)
{
    struct awake *awake = context;
    for (unsigned i = 0; i < POSTS_AWAKE; i++) {
        tracked_post(awake->loop, &awake->posts[i], NULL);
    }
    pier_wake(awake->loop);
}

static void have_others_post(struct tracked *tracked)
{
    struct platform_thread thread;
    platform_thread_start(&thread, post_while_awake, tracked->context);
    platform_thread_join(&thread);
}

/* No system call is made for them: the loop's next look at the kernel would find an event. */
static void posts_while_the_loop_is_awake_wake_nobody(void)
{
    struct awake awake = {.loop = test_loop()};
    struct tracked first = {.context = &awake};
    tracked_post(awake.loop, &first, have_others_post);
    wait_for(&first);
    const struct pier_loop_counters before = stats_of(awake.loop);
    CHECK_INT(before.wakeups, ==, 0);
    for (unsigned i = 0; i < POSTS_AWAKE; i++) {
        CHECK_INT(wait_for(&awake.posts[i]), ==, 0);
    }
    run(awake.loop, PIER_RUN_NO_WAIT);
    CHECK_INT(stats_of(awake.loop).events, ==, before.events);
    CHECK_INT(stats_of(awake.loop).wakeups, ==, 0);
}

static void stop_from_outside(void *context)
{
    pier_loop_stop(context);
}

static void stop_ends_a_run(void)
{
    struct pier_loop *loop = test_loop();
    struct platform_thread thread;
    struct tracked idle = {0};
    tracked_notify_each(loop, &idle, NULL);
    pier_loop_stop(loop);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 1);
    for (int i = 0; i < 100; i++) {
        platform_thread_start(&thread, stop_from_outside, loop);
        CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 1);
        platform_thread_join(&thread);
    }
    CHECK(idle.in_flight);
    tracked_cancel(&idle);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(idle.result, ==, PIER_ECANCELED);
}

struct remote {
    struct pier_loop *loop;
    uint64_t tokens[64];
    unsigned count;
};

static void cancel_all(void *context)
{
    const struct remote *remote = context;
    for (unsigned i = 0; i < remote->count; i++) {
        pier_cancel_remote(remote->loop, remote->tokens[i]);
    }
}

static void cancelled_by_token(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, timer = {0}, each = {0}, bystander = {0};
    struct remote remote = {.loop = loop};
    struct platform_thread thread;
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    tracked_receive_each(&a, &each, NULL);
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    tracked_timer(loop, &bystander, 3600 * PIER_SECOND, NULL);
    remote.tokens[remote.count++] = pier_op_token(&receive.op);
    remote.tokens[remote.count++] = pier_op_token(&each.op);
    remote.tokens[remote.count++] = pier_op_token(&timer.op);
    remote.tokens[remote.count++] = 0;
    remote.tokens[remote.count++] = UINT64_C(0xdeadbeefdeadbeef);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(remote.tokens[i] != 0);
    }
    CHECK(remote.tokens[0] != remote.tokens[1]);
    CHECK_INT(pier_op_token(&receive.op) == remote.tokens[0], ==, 1);
    platform_thread_start(&thread, cancel_all, &remote);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    platform_thread_join(&thread);
    CHECK(bystander.in_flight);
    tracked_cancel(&bystander);
    CHECK_INT(wait_for(&bystander), ==, PIER_ECANCELED);
    close_and_wait(&a);
    raw_close(peer);
}

/* A token outlives its op: it must not reach what uses the op's memory next. */
static void stale_tokens_reach_nobody(void)
{
    struct pier_loop *loop = test_loop();
    struct remote remote = {.loop = loop};
    struct tracked timer = {0}, notify = {0}, others[64] = {0};
    struct platform_thread thread;
    for (unsigned i = 0; i < 64; i++) {
        tracked_timer(loop, &timer, 0, NULL);
        remote.tokens[remote.count++] = pier_op_token(&timer.op);
        CHECK_INT(wait_for(&timer), ==, 0);
    }
    for (unsigned i = 0; i < 64; i++) {
        for (unsigned j = 0; j < i; j++) {
            CHECK(remote.tokens[i] != remote.tokens[j]);
        }
        tracked_timer(loop, &others[i], 3600 * PIER_SECOND, NULL);
        CHECK(pier_op_token(&others[i].op) != 0);
    }
    tracked_timer(loop, &timer, 3600 * PIER_SECOND, NULL);
    tracked_notify_each(loop, &notify, NULL);
    platform_thread_start(&thread, cancel_all, &remote);
    platform_thread_join(&thread);
    cancel_all(&remote);
    run_quietly(loop, 5);
    CHECK(timer.in_flight);
    CHECK(notify.in_flight);
    tracked_cancel(&timer);
    tracked_cancel(&notify);
    for (unsigned i = 0; i < 64; i++) {
        CHECK(others[i].in_flight);
        tracked_cancel(&others[i]);
        CHECK_INT(wait_for(&others[i]), ==, PIER_ECANCELED);
    }
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&notify), ==, PIER_ECANCELED);
}

struct canceller {
    struct pier_loop *loop;
    _Atomic uint64_t token;
    _Atomic bool done;
};

static void cancel_whatever_there_is(void *context)
{
    struct canceller *canceller = context;
    while (!atomic_load(&canceller->done)) {
        pier_cancel_remote(canceller->loop, atomic_load(&canceller->token));
        platform_yield();
    }
}

static void remote_cancel_racing_with_completion(void)
{
    struct canceller canceller = {.loop = test_loop()};
    struct platform_thread thread;
    struct tracked timer = {0};
    unsigned fired = 0, cancelled = 0;
    platform_thread_start(&thread, cancel_whatever_there_is, &canceller);
    for (int i = 0; i < 2000 / (int)test_slowness(); i++) {
        tracked_timer(canceller.loop, &timer, (uint64_t)(i % 4) * 50 * PIER_MICROSECOND, NULL);
        atomic_store(&canceller.token, pier_op_token(&timer.op));
        wait_for(&timer);
        CHECK(timer.result == 0 || timer.result == PIER_ECANCELED);
        *(timer.result == 0 ? &fired : &cancelled) += 1;
    }
    atomic_store(&canceller.done, true);
    platform_thread_join(&thread);
    run_quietly(canceller.loop, 2);
    CHECK_INT(fired + cancelled, ==, 2000 / (int)test_slowness());
}

struct elsewhere {
    struct pier_loop *loop;
    struct tracked timer;
    bool fired;
};

static void run_elsewhere(void *context)
{
    struct elsewhere *elsewhere = context;
    CHECK_INT(wait_for(&elsewhere->timer), ==, 0);
    elsewhere->fired = true;
    test_loop_free(elsewhere->loop);
}

/* A loop takes its thread with the first run: it may be made and filled on another. */
static void made_here_run_there(void)
{
    struct elsewhere elsewhere = {.loop = test_loop()};
    struct platform_thread thread;
    tracked_timer(elsewhere.loop, &elsewhere.timer, PIER_MILLISECOND, NULL);
    platform_thread_start(&thread, run_elsewhere, &elsewhere);
    platform_thread_join(&thread);
    CHECK(elsewhere.fired);
}

static void run_a_loop(void *context)
{
    (void)context;
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    for (int i = 0; i < 20; i++) {
        tracked_pair(loop, STREAM_TCP4, &a, &b);
        send_all(&a, "x", 1);
        char byte;
        receive_all(&b, &byte, 1);
        close_and_wait(&a);
        close_and_wait(&b);
    }
    test_loop_free(loop);
}

static void many_loops_side_by_side(void)
{
    struct platform_thread threads[8];
    for (int i = 0; i < 8; i++) {
        platform_thread_start(&threads[i], run_a_loop, NULL);
    }
    for (int i = 0; i < 8; i++) {
        platform_thread_join(&threads[i]);
    }
}

struct first_turn {
    struct pier_loop *loop;
    struct tracked notify;
    _Atomic bool ready;
};

static void notify_at_the_first_turn(void *context)
{
    struct first_turn *first = context;
    while (!atomic_load(&first->ready)) {}
    for (volatile unsigned i = 0; i < (unsigned)((uintptr_t)first->notify.context); i++) {}
    pier_notify(&first->notify.op);
}

/* A wake-up that comes while a loop falls asleep for the first time. One in some hundreds was lost
 * on io_uring; the watchdog ends a test that waits. */
static void notified_at_the_first_turn(void)
{
    const unsigned rounds = test_slowness() > 1 ? 100 : 1000;
    for (unsigned i = 0; i < rounds; i++) {
        struct first_turn first = {.loop = test_loop()};
        struct platform_thread thread;
        first.notify.context = (void *)(uintptr_t)(i * 37 % 20000);
        tracked_notify_each(first.loop, &first.notify, NULL);
        platform_thread_start(&thread, notify_at_the_first_turn, &first);
        atomic_store(&first.ready, true);
        RUN_UNTIL(first.loop, first.notify.events == 1);
        platform_thread_join(&thread);
        tracked_cancel(&first.notify);
        CHECK_INT(wait_for(&first.notify), ==, PIER_ECANCELED);
        test_loop_free(first.loop);
    }
}

const struct test threads_tests[] = {
    TEST(threads, storm_of_posts),
    TEST(threads, ping_pong_between_loops),
    TEST(threads, notifications_coalesce_and_none_is_lost),
    TEST(threads, wake_ends_a_wait),
    TEST(threads, posts_while_the_loop_is_awake_wake_nobody),
    TEST(threads, stop_ends_a_run),
    TEST(threads, cancelled_by_token),
    TEST(threads, stale_tokens_reach_nobody),
    TEST(threads, remote_cancel_racing_with_completion),
    TEST(threads, made_here_run_there),
    TEST(threads, many_loops_side_by_side),
    TEST(threads, notified_at_the_first_turn),
    TEST_END,
};
