/* stalled.c - peers whose data nobody takes cost themselves a buffer each and keep nobody else
 * waiting: who gets a lent buffer when few are left.
 *
 * The rules are those of buffer.h. A handle that holds none gets one up to buffers_hard_max, which
 * is buffers_max and the open handles by default; further ones come out of buffers_max, up to a
 * share that shrinks as the pool empties. What counts is told by turns and by the loop's own
 * statistics, never by time. buffers.c has the cases of a single handle. */

#include "suite.h"

#include <stdlib.h>

#define SIZE 64u /* bytes of a buffer where a test counts them */

static struct pier_loop *pool_of(uint32_t most, uint32_t hard, uint32_t share)
{
    struct pier_loop_options options = test_options();
    options.buffer_size = SIZE;
    options.buffers_min = 1;
    options.buffers_max = most;
    options.buffers_hard_max = hard;
    options.buffer_share = share;
    options.retry_ns = 3600 * PIER_SECOND; /* Only a release goes on. */
    return test_loop_with(&options);
}

static void some_turns(struct pier_loop *loop)
{
    for (int i = 0; i < 5; i++) {
        run(loop, PIER_RUN_NO_WAIT);
    }
}

/* ---- handles that keep what they get --------------------------------------------------------- */

struct hoarder {
    struct tracked_handle handle;
    struct tracked each;
    pier_descriptor peer;
    struct pier_buffer *kept[64];
    unsigned count;
    size_t received;
};

static void hoard(struct tracked *tracked)
{
    struct hoarder *hoarder = PIER_OWNER(tracked, struct hoarder, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(hoarder->count, <, COUNT_OF(hoarder->kept));
        CHECK_PATTERN(tracked->op.data, tracked->op.size, 91, hoarder->received);
        hoarder->received += tracked->op.size;
        hoarder->kept[hoarder->count++] = pier_buffer_keep(&tracked->op);
    }
}

static void open_hoarder(struct pier_loop *loop, struct hoarder *hoarder)
{
    memset(hoarder, 0, sizeof(*hoarder));
    hoarder->peer = tracked_raw_pair(loop, STREAM_PAIR, &hoarder->handle);
    tracked_receive_each(&hoarder->handle, &hoarder->each, hoard);
}

static void release_all(struct hoarder *hoarder)
{
    while (hoarder->count > 0) {
        pier_buffer_release(hoarder->kept[--hoarder->count]);
    }
}

static void close_hoarder(struct hoarder *hoarder)
{
    close_and_wait(&hoarder->handle);
    release_all(hoarder);
    raw_close(hoarder->peer);
}

/* Sends so many buffers' worth, whichever part of it is taken. */
static void feed(struct hoarder *hoarder, size_t from, unsigned buffers)
{
    unsigned char data[SIZE * 64];
    CHECK_INT(buffers, <=, 64);
    pattern_fill(data, buffers * SIZE, 91, from);
    raw_send(hoarder->peer, data, buffers * SIZE);
}

enum { HOARDERS = 80 };

/* The pool is used up: each further handle still gets its first buffer, and not its second. */
static void first_buffer_comes_beyond_the_pool(void)
{
    struct pier_loop *loop = pool_of(4, 0, 1);
    static struct hoarder greedy, modest[20];
    open_hoarder(loop, &greedy);
    feed(&greedy, 0, 4);
    RUN_UNTIL(loop, greedy.count == 4);
    some_turns(loop);
    for (size_t i = 0; i < COUNT_OF(modest); i++) {
        open_hoarder(loop, &modest[i]);
        feed(&modest[i], 0, 1);
        RUN_UNTIL(loop, modest[i].count == 1);
        some_turns(loop);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 5 + i);
    }
    for (size_t i = 0; i < COUNT_OF(modest); i++) {
        feed(&modest[i], SIZE, 1);
    }
    run_quietly(loop, 20);
    for (size_t i = 0; i < COUNT_OF(modest); i++) {
        CHECK_INT(modest[i].count, ==, 1);
    }
    CHECK_INT(stats_of(loop).buffer_pauses, >=, COUNT_OF(modest));
    CHECK_INT(stats_of(loop).buffers_lent, ==, 4 + COUNT_OF(modest));
    /* Who gives its own back gets the next one. */
    release_all(&modest[7]);
    RUN_UNTIL(loop, modest[7].received == 2 * SIZE);
    for (size_t i = 0; i < COUNT_OF(modest); i++) {
        close_hoarder(&modest[i]);
    }
    close_hoarder(&greedy);
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
}

/* With a bound of its own there are no more than that, and a release goes on. */
static void hard_bound_is_kept(void)
{
    struct pier_loop *loop = pool_of(4, 8, 1);
    static struct hoarder greedy, modest[8];
    unsigned served = 0;
    open_hoarder(loop, &greedy);
    feed(&greedy, 0, 4);
    RUN_UNTIL(loop, greedy.count == 4);
    some_turns(loop);
    for (size_t i = 0; i < COUNT_OF(modest); i++) {
        open_hoarder(loop, &modest[i]);
        feed(&modest[i], 0, 1);
        run_quietly(loop, 5);
        served += modest[i].count;
        CHECK_INT(served, ==, i < 4 ? i + 1 : 4);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 4 + served);
        CHECK_INT(stats_of(loop).buffers_total, <=, 8);
    }
    CHECK_INT(stats_of(loop).buffer_pauses, >=, 1);
    for (unsigned i = 0; i < 4; i++) {
        pier_buffer_release(greedy.kept[--greedy.count]);
        RUN_UNTIL(loop,
                  modest[4].count + modest[5].count + modest[6].count + modest[7].count == i + 1);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 8);
    }
    CHECK_INT(stats_of(loop).buffers_total, <=, 8);
    for (size_t i = 0; i < COUNT_OF(modest); i++) {
        close_hoarder(&modest[i]);
    }
    close_hoarder(&greedy);
}

/* How many buffers one handle gets while `others` have one each: of a pool of 64, a share of 16. */
static unsigned share_beside(unsigned others)
{
    struct pier_loop *loop = pool_of(64, 0, 4);
    static struct hoarder hoarders[HOARDERS], greedy;
    CHECK_INT(others, <=, HOARDERS);
    for (unsigned i = 0; i < others; i++) {
        open_hoarder(loop, &hoarders[i]);
        feed(&hoarders[i], 0, 1);
        RUN_UNTIL(loop, hoarders[i].count == 1);
    }
    open_hoarder(loop, &greedy);
    feed(&greedy, 0, 40);
    run_quietly(loop, 20);
    const unsigned got = greedy.count;
    CHECK_INT(stats_of(loop).buffers_lent, >=, others + got);
    /* Nothing is lost by waiting. */
    while (greedy.received < 40 * SIZE) {
        const size_t before = greedy.received;
        release_all(&greedy);
        RUN_UNTIL(loop, greedy.received > before);
    }
    close_hoarder(&greedy);
    for (unsigned i = 0; i < others; i++) {
        close_hoarder(&hoarders[i]);
    }
    test_loop_free(loop);
    return got;
}

static void share_shrinks_as_the_pool_empties(void)
{
    CHECK_INT(share_beside(0), ==, 16);
    CHECK_INT(share_beside(16), ==, 16); /* half of the pool is left */
    const unsigned third = share_beside(40), less = share_beside(52);
    CHECK_INT(third, >=, 2);
    CHECK_INT(third, <=, 12);
    CHECK_INT(less, <=, 6);
    CHECK_INT(less, <, third);
    CHECK_INT(share_beside(64), ==, 1);
    CHECK_INT(share_beside(80), ==, 1);
}

static void bound_below_the_pool_is_refused(void)
{
    struct pier_loop_options options = test_options();
    struct pier_loop *loop = NULL;
    options.buffers_max = 100;
    options.buffers_hard_max = 99;
    CHECK_REFUSED(pier_loop_new(&loop, &options), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "buffers_hard_max is 99") != NULL);
    CHECK(strstr(pier_error_detail(), "100") != NULL);
    options.buffers_max = 0; /* the default of it */
    options.buffers_hard_max = 1023;
    CHECK_REFUSED(pier_loop_new(&loop, &options), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "1024") != NULL);
    CHECK(loop == NULL);
    options.buffers_hard_max = 1024;
    test_loop_with(&options);
}

/* ---- peers that send on and on to somebody who doesn't take it ------------------------------- */

struct flooder {
    struct tracked_handle handle;
    struct tracked each;
    pier_descriptor peer;
    uint64_t sent, received;
    struct pier_buffer *kept;
    bool stalls, keeps;
};

static unsigned char flood[65536];

static void stall(struct tracked *tracked)
{
    struct flooder *flooder = PIER_OWNER(tracked, struct flooder, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_BYTES(tracked->op.data, flood, tracked->op.size < 100 ? tracked->op.size : 100);
        flooder->received += tracked->op.size;
        if (flooder->stalls) {
            flooder->kept = flooder->keeps ? pier_buffer_keep(&tracked->op) : NULL;
            tracked_pause(tracked);
        }
    }
}

static void open_flooder(struct pier_loop *loop, struct flooder *flooder)
{
    memset(flooder, 0, sizeof(*flooder));
    flooder->stalls = true;
    flooder->peer = tracked_raw_pair(loop, STREAM_PAIR, &flooder->handle);
    CHECK_OK(pier_set_buffer_sizes(&flooder->handle.handle, 32768, 0));
    tracked_receive_each(&flooder->handle, &flooder->each, stall);
}

/* All that goes without waiting. */
static void flood_one(struct flooder *flooder)
{
    for (;;) {
        const int64_t now = raw_send_now(flooder->peer, flood, sizeof(flood));
        CHECK(now > 0 || now == RAW_AGAIN);
        if (now < 0) {
            return;
        }
        flooder->sent += (uint64_t)now;
    }
}

struct good {
    struct tracked_handle handle;
    struct tracked each;
};

/* The good one has its data within this many turns, whatever the others do. */
enum { TURNS_AT_ONCE = 10 };

static void check_served_at_once(struct pier_loop *loop, unsigned messages)
{
    struct good good = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &good.handle);
    tracked_receive_each(&good.handle, &good.each, NULL);
    some_turns(loop);
    for (unsigned i = 1; i <= messages; i++) {
        const uint64_t before = stats_of(loop).turns;
        raw_send(peer, "good", 4);
        RUN_UNTIL(loop, good.each.done == i * 4);
        CHECK_INT(stats_of(loop).turns - before, <=, TURNS_AT_ONCE);
    }
    close_and_wait(&good.handle);
    raw_close(peer);
}

static void end_flooders(struct pier_loop *loop, struct flooder *flooders, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        tracked_close(&flooders[i].handle, NULL);
    }
    for (unsigned i = 0; i < count; i++) {
        RUN_UNTIL(loop, flooders[i].handle.closes == 1);
        if (flooders[i].kept != NULL) {
            pier_buffer_release(flooders[i].kept);
        }
        raw_close(flooders[i].peer);
    }
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
}

/* Half of them keep what they got when they pause. */
static void many_stalled(struct pier_loop *loop, unsigned count)
{
    struct flooder *flooders = calloc(count, sizeof(*flooders));
    CHECK(flooders != NULL);
    memset(flood, 'f', sizeof(flood));
    for (unsigned i = 0; i < count; i++) {
        open_flooder(loop, &flooders[i]);
        flooders[i].keeps = i % 2 == 0;
    }
    for (int round = 0; round < 10; round++) {
        for (unsigned i = 0; i < count; i++) {
            flood_one(&flooders[i]);
        }
        some_turns(loop);
    }
    /* About two buffers each: what is being read when the pause comes, and what was behind it. */
    CHECK_INT(stats_of(loop).buffers_lent, <=, 3 * count);
    CHECK_INT(stats_of(loop).buffers_lent, >=, count / 2);
    for (unsigned i = 0; i < count; i++) {
        CHECK_INT(flooders[i].each.events, ==, 1);
    }
    check_served_at_once(loop, 20);
    /* Those who stalled get all of it when they read on. */
    for (unsigned i = 0; i < count; i += 1 + count / 20) {
        flooders[i].stalls = false;
        if (flooders[i].kept != NULL) {
            pier_buffer_release(flooders[i].kept);
            flooders[i].kept = NULL;
        }
        tracked_resume(&flooders[i].each);
        RUN_UNTIL(loop, flooders[i].received == flooders[i].sent);
    }
    end_flooders(loop, flooders, count);
    free(flooders);
}

static void many_stalled_on_a_small_pool(void)
{
    struct pier_loop_options options = test_options();
    options.buffers_min = 16;
    options.buffers_max = 64;
    many_stalled(test_loop_with(&options), 200);
}

/* As many as descriptors allow, 1,500 at the most, with the options that everybody has. */
static void many_stalled_on_the_default_pool(void)
{
    const unsigned room = platform_descriptor_room();
    unsigned count = 1500 / test_slowness();
    if (room < 2 * count + 100) {
        count = room > 100 ? (room - 100) / 2 : 0;
    }
    if (count < 100) {
        test_skip("room for %u descriptors more", room);
        return;
    }
    many_stalled(test_loop(), count);
}

/* ---- relays whose far ends never read -------------------------------------------------------- */

enum { LINKS = 300, SENDS = 4 };

struct link {
    struct flooder from;
    struct tracked_handle to;
    struct tracked sends[SENDS];
    unsigned sending;
    pier_descriptor far;
};

static void relay(struct tracked *tracked)
{
    struct link *link = PIER_OWNER(tracked, struct link, from.each);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    CHECK_INT(link->sending, <, SENDS);
    tracked_send(&link->to, &link->sends[link->sending++], tracked->op.data, tracked->op.size,
                 NULL);
    if (link->sending == SENDS) {
        tracked_pause(tracked);
    }
}

/* As examples/tcp_proxy.c does: each link holds lent buffers by its sends, four of them, and then
 * pauses. There are more links than the pool has shares for. */
static void relays_that_cannot_send_on(void)
{
    struct pier_loop *loop = test_loop();
    const unsigned room = platform_descriptor_room();
    const unsigned count = LINKS / (test_slowness() > 3 ? 3u : 1u);
    if (room < 4 * count + 100) {
        test_skip("room for %u descriptors more", room);
        return;
    }
    struct link *links = calloc(count, sizeof(*links));
    CHECK(links != NULL);
    memset(flood, 'f', sizeof(flood));
    for (unsigned i = 0; i < count; i++) {
        struct link *link = &links[i];
        link->far = tracked_raw_pair(loop, STREAM_PAIR, &link->to);
        raw_fill(pier_handle_descriptor(&link->to.handle));
        open_flooder(loop, &link->from);
        link->from.each.then = relay;
    }
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < count; i++) {
            flood_one(&links[i].from);
        }
        run(loop, PIER_RUN_NO_WAIT);
    }
    unsigned sends = 0;
    for (unsigned i = 0; i < count; i++) {
        CHECK_INT(links[i].from.each.events, >=, 1);
        sends += links[i].sending;
    }
    CHECK_INT(stats_of(loop).buffers_lent, >=, sends);
    check_served_at_once(loop, 20);
    for (unsigned i = 0; i < count; i++) {
        tracked_close(&links[i].from.handle, NULL);
        tracked_close(&links[i].to, NULL);
    }
    for (unsigned i = 0; i < count; i++) {
        RUN_UNTIL(loop, links[i].from.handle.closes == 1 && links[i].to.closes == 1);
        raw_close(links[i].from.peer);
        raw_close(links[i].far);
    }
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    free(links);
}

/* ---- reading ahead --------------------------------------------------------------------------- */

/* A program that keeps up may be read ahead for; one that pauses over and over is not: what waits
 * in lent buffers while it holds its op is about two of them. */
static void read_ahead_falls_back_after_a_pause(void)
{
    struct pier_loop_options options = test_options();
    options.buffer_size = 1024;
    options.buffer_share = 4;
    struct pier_loop *loop = test_loop_with(&options);
    static struct flooder flooder;
    memset(flood, 'f', sizeof(flood));
    open_flooder(loop, &flooder);
    flooder.stalls = false;
    while (flooder.received < 4u << 20) {
        flood_one(&flooder);
        run(loop, PIER_RUN_NO_WAIT);
    }
    tracked_pause(&flooder.each);
    for (int i = 0; i < 20; i++) {
        flood_one(&flooder);
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(stats_of(loop).buffers_lent, <=, 17); /* semantics.md: 16 ahead, and a buffer more */
    flooder.stalls = true;
    for (int i = 0; i < 100; i++) {
        const unsigned before = flooder.each.events;
        tracked_resume(&flooder.each);
        RUN_UNTIL(loop, flooder.each.events > before);
        for (int turn = 0; turn < 5; turn++) {
            flood_one(&flooder);
            run(loop, PIER_RUN_NO_WAIT);
        }
        CHECK_INT(flooder.each.events, ==, before + 1);
        if (i >= 40) {
            CHECK_INT(stats_of(loop).buffers_lent, <=, 3);
        }
    }
    end_flooders(loop, &flooder, 1);
}

const struct test stalled_tests[] = {
    TEST(stalled, first_buffer_comes_beyond_the_pool),
    TEST(stalled, hard_bound_is_kept),
    TEST(stalled, share_shrinks_as_the_pool_empties),
    TEST(stalled, bound_below_the_pool_is_refused),
    TEST(stalled, many_stalled_on_a_small_pool),
    TEST(stalled, many_stalled_on_the_default_pool),
    TEST(stalled, relays_that_cannot_send_on),
    TEST(stalled, read_ahead_falls_back_after_a_pause),
    TEST_END,
};
