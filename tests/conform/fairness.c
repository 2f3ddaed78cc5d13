/* fairness.c - a peer that floods costs only itself: timers, posts and other handles are served
 * every turn. */

#include "suite.h"

#include <stdatomic.h>

static unsigned char noise[65536];

struct flood {
    pier_descriptor peer;
    _Atomic bool stop;
};

static void keep_sending(void *context)
{
    struct flood *flood = context;
    while (!atomic_load(&flood->stop)) {
        if (raw_send_now(flood->peer, noise, sizeof(noise)) == RAW_AGAIN) {
            platform_yield();
        }
    }
}

static void count_expiry(struct tracked *tracked)
{
    unsigned *expiries = tracked->context;
    if ((tracked->flags & PIER_MORE) != 0) {
        (*expiries)++;
    }
}

static void flooding_peer(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle flooded = {0}, modest = {0};
    struct flood flood = {0};
    struct platform_thread thread;
    unsigned expiries = 0;
    struct tracked each = {0}, timer = {.context = &expiries}, post = {0};
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    flood.peer = tracked_raw_pair(loop, stream, &flooded);
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &modest);
    tracked_receive_each(&flooded, &each, NULL);
    tracked_timer_each(loop, &timer, PIER_MILLISECOND, PIER_MILLISECOND, count_expiry);
    platform_thread_start(&thread, keep_sending, &flood);
    RUN_UNTIL(loop, each.events > 20);
    for (unsigned i = 1; i <= 20; i++) {
        const unsigned before = expiries;
        check_usable(&modest, peer);
        tracked_post(loop, &post, NULL);
        RUN_UNTIL(loop, !post.in_flight);
        RUN_UNTIL(loop, expiries > before);
    }
    CHECK(each.in_flight);
    tracked_cancel(&timer);
    CHECK_INT(wait_for(&timer), ==, PIER_ECANCELED);
    /* Also closing it gets through. */
    close_and_wait(&flooded);
    atomic_store(&flood.stop, true);
    platform_thread_join(&thread);
    close_and_wait(&modest);
    raw_close(flood.peer);
    raw_close(peer);
}

static void flooding_peer_tcp(void)
{
    flooding_peer(STREAM_TCP4);
}

static void flooding_peer_unix(void)
{
    flooding_peer(STREAM_UNIX);
}

/* Much more is waiting than a handle may receive in one turn. */
static void receives_per_turn(void)
{
    struct pier_loop_options options = test_options();
    options.buffer_size = 64;
    for (uint32_t limit = 0; limit <= 3; limit += 3) {
        options.receives_max = limit;
        struct pier_loop *loop = test_loop_with(&options);
        struct tracked_handle a = {0};
        struct tracked each = {0};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
        const unsigned most = limit == 0 ? 16 : limit;
        raw_send(peer, noise, 64 * 200);
        tracked_receive_each(&a, &each, NULL);
        while (each.done < 64 * 200) {
            const unsigned before = each.events;
            const uint64_t turns = stats_of(loop).turns;
            run(loop, PIER_RUN_NO_WAIT);
            CHECK_INT(stats_of(loop).turns - turns, ==, 1);
            CHECK_INT(each.events - before, <=, most);
        }
        close_and_wait(&a);
        raw_close(peer);
        test_loop_free(loop);
    }
}

/* The largest that is allowed, and one that doesn't fit into a byte: no less than asked for. */
static void many_receives_per_turn(void)
{
    static const uint32_t limits[] = {1000, 65535};
    struct pier_loop_options options = test_options();
    options.buffer_size = 64;
    options.callbacks_max = 4096;
    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        options.receives_max = limits[i];
        struct pier_loop *loop = test_loop_with(&options);
        struct tracked_handle a = {0};
        struct tracked each = {0};
        unsigned most = 0;
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
        raw_send(peer, noise, 64 * 600);
        tracked_receive_each(&a, &each, NULL);
        while (each.done < 64 * 600) {
            const unsigned before = each.events;
            run(loop, PIER_RUN_NO_WAIT);
            most = each.events - before > most ? each.events - before : most;
        }
        /* uring's kernel receives ahead as many buffers as the program keeps up with. */
        if (!test_backend_is("uring")) {
            CHECK_INT(most, >, 255);
        }
        close_and_wait(&a);
        raw_close(peer);
        test_loop_free(loop);
    }
}

static void callbacks_per_turn(void)
{
    struct pier_loop_options options = test_options();
    options.callbacks_max = 10;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked posts[500] = {0};
    for (int i = 0; i < 500; i++) {
        tracked_post(loop, &posts[i], NULL);
    }
    const uint64_t turns = stats_of(loop).turns;
    unsigned called = 0;
    while (called < 500) {
        const uint64_t before = stats_of(loop).callbacks;
        run(loop, PIER_RUN_NO_WAIT);
        const unsigned now = (unsigned)(stats_of(loop).callbacks - before);
        CHECK_INT(now, <=, 10);
        called += now;
    }
    CHECK_INT(stats_of(loop).turns - turns, >=, 50);
    for (int i = 0; i < 500; i++) {
        CHECK_INT(posts[i].completions, ==, 1);
        CHECK(i == 0 || posts[i - 1].sequence < posts[i].sequence);
    }
}

struct endless {
    struct tracked post;
    struct pier_loop *loop;
    bool stop;
    unsigned count;
};

static void post_again(struct tracked *tracked)
{
    struct endless *endless = PIER_OWNER(tracked, struct endless, post);
    endless->count++;
    if (!endless->stop) {
        tracked_post(endless->loop, tracked, post_again);
    }
}

/* An op that resubmits itself for ever holds up neither timers nor the kernel's events. */
static void endless_posts(void)
{
    struct endless endless = {.loop = test_loop()};
    struct tracked_handle a = {0};
    struct tracked timer = {0};
    const pier_descriptor peer = tracked_raw_pair(endless.loop, STREAM_TCP4, &a);
    tracked_post(endless.loop, &endless.post, post_again);
    tracked_timer(endless.loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    check_usable(&a, peer);
    endless.stop = true;
    RUN_UNTIL(endless.loop, !endless.post.in_flight);
    CHECK_INT(endless.count, >, 1);
    close_and_wait(&a);
    raw_close(peer);
}

/* Posts that use up the whole of each turn's budget leave the handles their share. */
static void more_posts_than_budget(void)
{
    struct pier_loop_options options = test_options();
    options.callbacks_max = 4;
    struct pier_loop *loop = test_loop_with(&options);
    struct endless endless[8];
    struct tracked_handle a = {0};
    struct tracked timer = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    for (size_t i = 0; i < COUNT_OF(endless); i++) {
        endless[i] = (struct endless){.loop = loop};
        tracked_post(loop, &endless[i].post, post_again);
    }
    check_usable(&a, peer);
    tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    check_usable(&a, peer);
    for (size_t i = 0; i < COUNT_OF(endless); i++) {
        endless[i].stop = true;
        RUN_UNTIL(loop, !endless[i].post.in_flight);
        CHECK_INT(endless[i].count, >, 1);
    }
    close_and_wait(&a);
    raw_close(peer);
}

struct spinner {
    struct tracked timer;
    bool stop;
};

static void rearm_at_once(struct tracked *tracked)
{
    struct spinner *spinner = PIER_OWNER(tracked, struct spinner, timer);
    if (!spinner->stop) {
        tracked_timer(tracked->loop, tracked, 0, rearm_at_once);
    }
}

static void endless_timers(void)
{
    struct pier_loop *loop = test_loop();
    struct spinner spinner = {0};
    struct tracked_handle a = {0};
    struct tracked post = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_timer(loop, &spinner.timer, 0, rearm_at_once);
    check_usable(&a, peer);
    tracked_post(loop, &post, NULL);
    CHECK_INT(wait_for(&post), ==, 0);
    spinner.stop = true;
    RUN_UNTIL(loop, !spinner.timer.in_flight);
    close_and_wait(&a);
    raw_close(peer);
}

/* More sources are ready all the time than a turn has callbacks: a handle beside them is served. */
static void busy_polls_starve_nobody(void)
{
    struct pier_loop_options options = test_options();
    struct tracked_handle a = {0};
    struct tracked polls[8] = {0}, timer = {0}, post = {0}, each = {0};
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return;
    }
    options.callbacks_max = 4;
    options.receives_max = 1;
    options.buffer_size = 64;
    struct pier_loop *loop = test_loop_with(&options);
    pier_descriptor ends[2];
    raw_pair(ends);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    for (size_t i = 0; i < COUNT_OF(polls); i++) {
        tracked_poll_each(loop, &polls[i], ends[i % 2], PIER_WRITABLE, NULL);
    }
    for (size_t i = 0; i < COUNT_OF(polls); i++) {
        RUN_UNTIL(loop, polls[i].events >= 2);
    }
    check_usable(&a, peer);
    tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    tracked_post(loop, &post, NULL);
    CHECK_INT(wait_for(&post), ==, 0);
    check_usable(&a, peer);
    /* Nor what has come already, and is delivered a piece a turn. */
    tracked_receive_each(&a, &each, NULL);
    raw_send(peer, noise, 64 * 20);
    RUN_UNTIL(loop, each.done == 64 * 20);
    tracked_cancel(&each);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    for (size_t i = 0; i < COUNT_OF(polls); i++) {
        tracked_cancel(&polls[i]);
        CHECK_INT(wait_for(&polls[i]), ==, PIER_ECANCELED);
    }
    close_and_wait(&a);
    raw_close(peer);
    raw_close(ends[0]);
    raw_close(ends[1]);
}

/* More handles have data all the time than a turn has callbacks: all of them get on. */
static void more_busy_handles_than_budget(void)
{
    enum { HANDLES = 8, PIECE = 64, PIECES = 100 };
    struct pier_loop_options options = test_options();
    struct tracked_handle handles[HANDLES] = {0};
    struct tracked each[HANDLES] = {0};
    pier_descriptor peers[HANDLES];
    options.callbacks_max = 3;
    options.receives_max = 1;
    options.buffer_size = PIECE;
    struct pier_loop *loop = test_loop_with(&options);
    for (int i = 0; i < HANDLES; i++) {
        peers[i] = tracked_raw_pair(loop, STREAM_TCP4, &handles[i]);
        raw_send(peers[i], noise, PIECE * PIECES);
        tracked_receive_each(&handles[i], &each[i], NULL);
    }
    uint64_t most = 0;
    while (most < PIECE * PIECES / 2) {
        run(loop, PIER_RUN_NO_WAIT);
        for (int i = 0; i < HANDLES; i++) {
            most = each[i].done > most ? each[i].done : most;
        }
    }
    for (int i = 0; i < HANDLES; i++) {
        CHECK_INT(each[i].done, >, PIECE * PIECES / 4);
        tracked_cancel(&each[i]);
        CHECK_INT(wait_for(&each[i]), ==, PIER_ECANCELED);
        close_and_wait(&handles[i]);
        raw_close(peers[i]);
    }
}

/* Of files there is always more to read, and no event says so: more of them than a turn has
 * callbacks leave the kernel's events their share. */
static void files_starve_nobody(void)
{
    enum { FILES = 4, PIECE = 64 };
    struct pier_loop_options options = test_options();
    struct tracked_handle a = {0}, files[FILES] = {0};
    struct tracked each[FILES] = {0}, receive = {0};
    char paths[FILES][PIER_PATH_MAX];
    options.callbacks_max = 2;
    options.buffer_size = PIECE;
    struct pier_loop *loop = test_loop_with(&options);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    for (int i = 0; i < FILES; i++) {
        platform_temporary_path(paths[i], sizeof(paths[i]));
        FILE *file = fopen(paths[i], "wb");
        CHECK(file != NULL);
        CHECK_INT(fwrite(noise, 1, sizeof(noise), file), ==, sizeof(noise));
        CHECK_INT(fclose(file), ==, 0);
        CHECK_OK(tracked_adopt(loop, &files[i], platform_open(paths[i], PLATFORM_READ, 0)));
        tracked_receive_each(&files[i], &each[i], NULL);
    }
    tracked_receive_each(&a, &receive, NULL);
    for (int i = 0; i < FILES; i++) {
        RUN_UNTIL(loop, each[i].events > 0);
    }
    raw_send(peer, noise, 1);
    RUN_UNTIL(loop, receive.done == 1);
    for (int i = 0; i < FILES; i++) {
        CHECK_INT(each[i].done, <, sizeof(noise));
        tracked_cancel(&each[i]);
        CHECK_INT(wait_for(&each[i]), ==, PIER_ECANCELED);
        close_and_wait(&files[i]);
        platform_remove(paths[i]);
    }
    close_and_wait(&a);
    raw_close(peer);
}

const struct test fairness_tests[] = {
    TEST(fairness, flooding_peer_tcp),        TEST(fairness, flooding_peer_unix),
    TEST(fairness, receives_per_turn),        TEST(fairness, many_receives_per_turn),
    TEST(fairness, callbacks_per_turn),       TEST(fairness, endless_posts),
    TEST(fairness, more_posts_than_budget),   TEST(fairness, endless_timers),
    TEST(fairness, busy_polls_starve_nobody), TEST(fairness, more_busy_handles_than_budget),
    TEST(fairness, files_starve_nobody),      TEST_END,
};
