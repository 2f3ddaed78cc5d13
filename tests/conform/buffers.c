/* buffers.c - lent buffers: kept, released, referenced by sends, shared out, and what an empty
 * pool does.
 *
 * An empty pool or a used-up share pauses receiving, which is counted, and a release goes on
 * with it. */

#include "suite.h"

static unsigned char big[1 << 20];

struct keeper {
    struct tracked_handle handle;
    struct tracked each;
    struct pier_buffer *kept[64];
    uint64_t offsets[64];
    unsigned count, released, most;
    uint64_t received;
    unsigned seed;
};

static void keep_all(struct tracked *tracked)
{
    struct keeper *keeper = PIER_OWNER(tracked, struct keeper, each);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    CHECK_INT(keeper->count, <, COUNT_OF(keeper->kept));
    CHECK_PATTERN(tracked->op.data, tracked->op.size, keeper->seed, keeper->received);
    struct pier_buffer *buffer = pier_buffer_keep(&tracked->op);
    CHECK(buffer != NULL);
    CHECK(pier_buffer_data(buffer) == tracked->op.data);
    CHECK_INT(pier_buffer_size(buffer), ==, tracked->op.size);
    keeper->kept[keeper->count] = buffer;
    keeper->offsets[keeper->count++] = keeper->received;
    keeper->received += tracked->op.size;
}

static void release_oldest(struct keeper *keeper)
{
    struct pier_buffer *buffer = keeper->kept[keeper->released];
    CHECK_PATTERN(pier_buffer_data(buffer), pier_buffer_size(buffer), keeper->seed,
                  keeper->offsets[keeper->released]);
    keeper->released++;
    pier_buffer_release(buffer);
}

static struct pier_loop *small_pool(uint32_t buffers, uint32_t share)
{
    struct pier_loop_options options = test_options();
    options.buffer_size = 64;
    options.buffers_min = buffers;
    options.buffers_max = buffers;
    options.buffers_hard_max = buffers; /* also the first buffer of a handle comes out of these */
    options.buffer_share = share;
    options.retry_ns = 3600 * PIER_SECOND; /* Only a release goes on. */
    return test_loop_with(&options);
}

static void kept_until_released(void)
{
    struct pier_loop *loop = test_loop();
    struct keeper keeper = {.seed = 71};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &keeper.handle);
    pattern_fill(big, sizeof(big), 71, 0);
    tracked_receive_each(&keeper.handle, &keeper.each, keep_all);
    for (unsigned i = 0; i < 10; i++) {
        raw_send(peer, big + keeper.received, 100);
        RUN_UNTIL(loop, keeper.received == (i + 1) * 100);
    }
    CHECK_INT(stats_of(loop).buffers_lent, ==, keeper.count);
    close_and_wait(&keeper.handle);
    /* Kept buffers outlive their op and their handle. */
    while (keeper.released < keeper.count) {
        release_oldest(&keeper);
    }
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    raw_close(peer);
}

/* Whatever their size. The kernel copies into memory that doesn't at two thirds of the speed. */
static void lent_memory_begins_at_a_cache_line(void)
{
    static const uint32_t sizes[] = {64, 100, 0};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct pier_loop_options options = test_options();
        options.buffer_size = sizes[i];
        struct pier_loop *loop = test_loop_with(&options);
        struct keeper keeper = {.seed = 79};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &keeper.handle);
        pattern_fill(big, sizeof(big), 79, 0);
        tracked_receive_each(&keeper.handle, &keeper.each, keep_all);
        for (unsigned sent = 0; sent < 300; sent += 50) {
            raw_send(peer, big + sent, 50);
            RUN_UNTIL(loop, keeper.received == sent + 50);
        }
        CHECK_INT(keeper.count, >, 1);
        for (; keeper.released < keeper.count; release_oldest(&keeper)) {
            CHECK_INT((uintptr_t)pier_buffer_data(keeper.kept[keeper.released]) % 64, ==, 0);
        }
        close_and_wait(&keeper.handle);
        raw_close(peer);
    }
}

/* What comes through one handle, and how: the first and the largest piece of each stretch. */
struct stretch {
    struct tracked_handle handle;
    struct tracked each;
    uint64_t received;
    size_t first, most;
    bool keeps;
    struct pier_buffer *kept;
};

static void note_piece(struct tracked *tracked)
{
    struct stretch *stretch = PIER_OWNER(tracked, struct stretch, each);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    const size_t size = tracked->op.size;
    CHECK_PATTERN(tracked->op.data, size, 78, stretch->received);
    stretch->received += size;
    stretch->first = stretch->first == 0 ? size : stretch->first;
    stretch->most = size > stretch->most ? size : stretch->most;
    if (stretch->keeps && size > 20480 && stretch->kept == NULL) {
        stretch->kept = pier_buffer_keep(&tracked->op);
        CHECK(stretch->kept != NULL);
    }
}

/* Sends until so much has been received in all, never more at once than the sockets take. */
static void stream_up_to(struct pier_loop *loop, struct stretch *stretch, pier_descriptor peer,
                         size_t end)
{
    size_t sent = (size_t)stretch->received;
    stretch->first = stretch->most = 0;
    SPIN_UNTIL(loop, stretch->received == end, {
        if (sent < end) {
            const int64_t now = raw_send_now(peer, big + sent, end - sent);
            sent += now > 0 ? (size_t)now : 0;
        }
    });
}

/* A stream that keeps its buffers full comes in larger pieces, each of which counts as eight; a
 * pause ends that. Where buffer_size is set, no piece is larger. */
static void streams_that_fill_their_buffers(void)
{
    pattern_fill(big, sizeof(big), 78, 0);
    for (int i = 0; i < 2; i++) {
        struct pier_loop_options options = test_options();
        options.buffer_size = i == 0 ? 0 : 20480;
        struct pier_loop *loop = test_loop_with(&options);
        struct stretch stretch = {.keeps = true};
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &stretch.handle);
        tracked_receive_each(&stretch.handle, &stretch.each, note_piece);
        /* Of the first part a kernel may have brought all before it was told to stop. */
        stream_up_to(loop, &stretch, peer, sizeof(big) / 4);
        stream_up_to(loop, &stretch, peer, sizeof(big) / 2);
        if (i == 1 || test_backend_is("iocp")) {
            CHECK_INT(stretch.most, ==, 20480);
            CHECK(stretch.kept == NULL);
        } else {
            CHECK_INT(stretch.most, >, 20480);
            CHECK_INT(stretch.most, <=, 8 * 20480);
            CHECK_INT(stats_of(loop).buffers_lent, ==, 8);
            CHECK_INT(pier_buffer_size(stretch.kept), >, 20480);
            pier_buffer_release(stretch.kept);
        }
        CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
        tracked_pause(&stretch.each);
        raw_send(peer, big + stretch.received, 50000);
        run_quietly(loop, 5);
        CHECK_INT(stats_of(loop).buffers_lent, <=, 3);
        tracked_resume(&stretch.each);
        stretch.first = 0;
        RUN_UNTIL(loop, stretch.received == sizeof(big) / 2 + 50000);
        CHECK_INT(stretch.first, <=, 20480);
        stream_up_to(loop, &stretch, peer, sizeof(big));
        raw_shutdown(peer);
        CHECK_INT(wait_for(&stretch.each), ==, 0);
        CHECK((stretch.each.flags & PIER_EOF) != 0);
        close_and_wait(&stretch.handle);
        raw_close(peer);
    }
}

static void empty_pool_pauses_and_a_release_resumes(void)
{
    struct pier_loop *loop = small_pool(4, 1);
    struct keeper keeper = {.seed = 72};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &keeper.handle);
    const size_t total = 64 * 12;
    pattern_fill(big, total, 72, 0);
    tracked_receive_each(&keeper.handle, &keeper.each, keep_all);
    raw_send(peer, big, total);
    RUN_UNTIL(loop, keeper.count == 4);
    const struct pier_loop_counters before = stats_of(loop);
    run_quietly(loop, 60);
    const struct pier_loop_counters after = stats_of(loop);
    CHECK_INT(keeper.count, ==, 4);
    CHECK(keeper.each.in_flight);
    CHECK_INT(after.buffers_lent, ==, 4);
    CHECK_INT(after.buffer_pauses, >=, 1);
    CHECK_INT(after.turns - before.turns, <, 50);
    while (keeper.received < total) {
        const unsigned count = keeper.count;
        release_oldest(&keeper);
        RUN_UNTIL(loop, keeper.count > count);
        CHECK_INT(keeper.count - keeper.released, <=, 4);
    }
    while (keeper.released < keeper.count) {
        release_oldest(&keeper);
    }
    raw_shutdown(peer);
    CHECK_INT(wait_for(&keeper.each), ==, 0);
    close_and_wait(&keeper.handle);
    raw_close(peer);
}

static void one_shot_receive_waits_for_the_pool(void)
{
    struct pier_loop *loop = small_pool(2, 1);
    struct keeper keeper = {.seed = 73};
    struct tracked lent = {0};
    struct tracked_handle other = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &keeper.handle);
    const pier_descriptor second = tracked_raw_pair(loop, STREAM_PAIR, &other);
    pattern_fill(big, 1000, 73, 0);
    tracked_receive_each(&keeper.handle, &keeper.each, keep_all);
    raw_send(peer, big, 128);
    RUN_UNTIL(loop, keeper.count == 2);
    tracked_receive_lent(&other, &lent, NULL);
    raw_send(second, "waits", 5);
    run_quietly(loop, 30);
    CHECK(lent.in_flight);
    release_oldest(&keeper);
    CHECK_INT(wait_for(&lent), ==, 5);
    /* Its own memory needs no pool. */
    char got[4];
    struct tracked own = {0};
    raw_send(peer, big + 128, 64);
    RUN_UNTIL(loop, keeper.count == 3);
    tracked_receive(&other, &own, got, 4, NULL);
    raw_send(second, "mine", 4);
    CHECK_INT(wait_for(&own), ==, 4);
    close_and_wait(&keeper.handle);
    while (keeper.released < keeper.count) {
        release_oldest(&keeper);
    }
    close_and_wait(&other);
    raw_close(peer);
    raw_close(second);
}

static void cancelled_and_closed_while_starved(void)
{
    struct pier_loop *loop = small_pool(2, 1);
    struct keeper keeper = {.seed = 74};
    struct tracked_handle a = {0}, b = {0};
    struct tracked lent = {0}, each = {0}, timed = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &keeper.handle);
    const pier_descriptor peer_a = tracked_raw_pair(loop, STREAM_PAIR, &a);
    const pier_descriptor peer_b = tracked_raw_pair(loop, STREAM_PAIR, &b);
    pattern_fill(big, 1000, 74, 0);
    tracked_receive_each(&keeper.handle, &keeper.each, keep_all);
    raw_send(peer, big, 1000);
    RUN_UNTIL(loop, keeper.count == 2);
    tracked_receive_lent(&a, &lent, NULL);
    tracked_receive_each(&b, &each, NULL);
    raw_send(peer_a, "a", 1);
    raw_send(peer_b, "b", 1);
    run_quietly(loop, 10);
    tracked_cancel(&lent);
    CHECK_INT(wait_for(&lent), ==, PIER_ECANCELED);
    timed.op.timeout_ns = 10 * PIER_MILLISECOND;
    tracked_receive_lent(&a, &timed, NULL);
    CHECK_INT(wait_for(&timed), ==, PIER_ETIMEDOUT);
    char byte;
    receive_all(&a, &byte, 1);
    CHECK_INT(byte, ==, 'a');
    close_and_wait(&b);
    CHECK_INT(each.result, ==, PIER_ECLOSED);
    close_and_wait(&keeper.handle);
    CHECK_INT(keeper.each.result, ==, PIER_ECLOSED);
    while (keeper.released < keeper.count) {
        release_oldest(&keeper);
    }
    close_and_wait(&a);
    raw_close(peer);
    raw_close(peer_a);
    raw_close(peer_b);
}

/* One handle keeps all it may: another still receives. */
static void share_of_one_handle(void)
{
    struct pier_loop *loop = small_pool(16, 4);
    struct keeper greedy = {.seed = 75}, modest = {.seed = 75};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &greedy.handle);
    const pier_descriptor second = tracked_raw_pair(loop, STREAM_TCP4, &modest.handle);
    pattern_fill(big, 10000, 75, 0);
    tracked_receive_each(&greedy.handle, &greedy.each, keep_all);
    tracked_receive_each(&modest.handle, &modest.each, keep_all);
    raw_send(peer, big, 2000);
    run_quietly(loop, 30);
    CHECK_INT(greedy.count, ==, 4);
    CHECK_INT(stats_of(loop).buffer_pauses, >=, 1);
    raw_send(second, big, 100);
    RUN_UNTIL(loop, modest.received == 100);
    while (greedy.received < 2000) {
        const uint64_t before = greedy.received;
        release_oldest(&greedy);
        RUN_UNTIL(loop, greedy.received > before);
        CHECK_INT(greedy.count - greedy.released, <=, 4);
        CHECK_INT(greedy.count, <, 60);
    }
    close_and_wait(&greedy.handle);
    close_and_wait(&modest.handle);
    while (greedy.released < greedy.count) {
        release_oldest(&greedy);
    }
    while (modest.released < modest.count) {
        release_oldest(&modest);
    }
    raw_close(peer);
    raw_close(second);
}

enum { FLOODED_MAX = 6, SHARE = 8 };

static void keep_some(struct tracked *tracked)
{
    struct keeper *keeper = PIER_OWNER(tracked, struct keeper, each);
    if ((tracked->flags & PIER_MORE) != 0 && keeper->count < keeper->most) {
        keep_all(tracked);
    } else if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_PATTERN(tracked->op.data, tracked->op.size, keeper->seed, keeper->received);
        keeper->received += tracked->op.size;
    }
}

/* Floods handles that have kept some buffers and whose receives are paused then. */
static void flood_paused(int flooded, unsigned kept, size_t piece)
{
    struct pier_loop *loop = small_pool(64, 64 / SHARE);
    struct tracked_handle modest = {0};
    struct tracked lent = {0};
    struct keeper keepers[FLOODED_MAX] = {{.count = 0}};
    pier_descriptor peers[FLOODED_MAX];
    size_t sent = 0;
    pattern_fill(big, sizeof(big), 79, 0);
    for (int i = 0; i < flooded; i++) {
        keepers[i].seed = 79;
        keepers[i].most = kept;
        peers[i] = tracked_raw_pair(loop, STREAM_TCP4, &keepers[i].handle);
        tracked_receive_each(&keepers[i].handle, &keepers[i].each, keep_some);
        run_quietly(loop, 2);
        for (sent = 0; sent < kept; sent++) {
            raw_send(peers[i], big + sent, 1);
            RUN_UNTIL(loop, keepers[i].count == sent + 1);
        }
        tracked_pause(&keepers[i].each);
    }
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &modest);
    for (unsigned round = 0; round < 50; round++, sent += piece) {
        for (int i = 0; i < flooded; i++) {
            raw_send(peers[i], big + sent, piece);
        }
        run(loop, PIER_RUN_NO_WAIT);
        CHECK_INT(stats_of(loop).buffers_lent, <=, flooded * SHARE);
    }
    for (int i = 0; i < 20; i++) {
        raw_send(peer, "?", 1);
        tracked_receive_lent(&modest, &lent, NULL);
        CHECK_INT(wait_for(&lent), ==, 1);
    }
    for (int i = 0; i < flooded; i++) {
        tracked_resume(&keepers[i].each);
        while (keepers[i].released < keepers[i].count) {
            CHECK_INT(stats_of(loop).buffers_lent, <=, flooded * SHARE);
            release_oldest(&keepers[i]);
            run(loop, PIER_RUN_NO_WAIT);
        }
        RUN_UNTIL(loop, keepers[i].received == sent);
        close_and_wait(&keepers[i].handle);
        raw_close(peers[i]);
    }
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    close_and_wait(&modest);
    raw_close(peer);
}

/* Peers that flood while their receives are paused get no more than their shares of the pool, in
 * small pieces or in large ones: one that came later still has its buffers. */
static void paused_receives_hold_their_share(void)
{
    static const size_t pieces[] = {10, 64, 1000};
    for (size_t i = 0; i < COUNT_OF(pieces); i++) {
        flood_paused(FLOODED_MAX, 0, pieces[i]);
        flood_paused(FLOODED_MAX, 1, pieces[i]);
        for (unsigned kept = 2; kept <= SHARE; kept++) {
            flood_paused(1, kept, pieces[i]);
        }
    }
}

static void keep_of_what_is_not_lent(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked receive = {0};
    char byte;
    tracked_pair(loop, STREAM_PAIR, &a, &b);
    CHECK(pier_buffer_keep(&receive.op) == NULL);
    tracked_receive(&b, &receive, &byte, 1, NULL);
    send_all(&a, "x", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    CHECK(pier_buffer_keep(&receive.op) == NULL);
    close_and_wait(&a);
    close_and_wait(&b);
}

static void keep_and_drop_again(struct tracked *tracked)
{
    if (tracked->result > 0) {
        struct pier_buffer *one = pier_buffer_keep(&tracked->op);
        struct pier_buffer *two = pier_buffer_keep(&tracked->op);
        CHECK(one != NULL && one == two);
        pier_buffer_release(one);
        CHECK_INT(((const char *)tracked->op.data)[0], ==, 'x');
        pier_buffer_release(two);
        CHECK_INT(((const char *)tracked->op.data)[0], ==, 'x');
    }
}

static void exchange_kept(struct tracked *tracked)
{
    struct keeper *keeper = PIER_OWNER(tracked, struct keeper, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        if (keeper->kept[0] != NULL) {
            pier_buffer_release(keeper->kept[0]);
        }
        keeper->kept[0] = pier_buffer_keep(&tracked->op);
        CHECK(keeper->kept[0] != NULL);
        keeper->received += tracked->op.size;
    }
}

/* What the callback releases comes before the buffer that it is given, which it keeps then: neither
 * may get lost. */
static void exchanged_inside_the_callback(void)
{
    struct pier_loop *loop = small_pool(4, 1);
    struct keeper keeper = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &keeper.handle);
    tracked_receive_each(&keeper.handle, &keeper.each, exchange_kept);
    for (unsigned i = 1; i <= 20; i++) {
        raw_send(peer, "x", 1);
        RUN_UNTIL(loop, keeper.received == i);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 1);
    }
    close_and_wait(&keeper.handle);
    pier_buffer_release(keeper.kept[0]);
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    raw_close(peer);
}

static void released_inside_the_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked lent = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    for (int i = 0; i < 10; i++) {
        raw_send(peer, "x", 1);
        tracked_receive_lent(&a, &lent, keep_and_drop_again);
        CHECK_INT(wait_for(&lent), ==, 1);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    }
    close_and_wait(&a);
    raw_close(peer);
}

struct forwarder {
    struct tracked_handle in, out;
    struct tracked each;
    struct tracked sends[200];
    unsigned count;
    uint64_t received;
};

static void forward(struct tracked *tracked)
{
    struct forwarder *forwarder = PIER_OWNER(tracked, struct forwarder, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(forwarder->count, <, COUNT_OF(forwarder->sends));
        forwarder->received += tracked->op.size;
        tracked_send(&forwarder->out, &forwarder->sends[forwarder->count++], tracked->op.data,
                     tracked->op.size, NULL);
    }
}

/* Sends name lent memory without keeping it, their peer doesn't read for a while, and receiving
 * goes on meanwhile: the bytes must be the right ones when they are sent at last. */
static void sends_in_flight_hold_their_buffer(void)
{
    struct pier_loop_options options = test_options();
    options.buffer_size = 4096;
    options.buffers_min = 16;
    options.buffers_max = 128;
    options.buffer_share = 1;
    struct pier_loop *loop = test_loop_with(&options);
    struct forwarder forwarder = {0};
    static unsigned char got[4096 * 100];
    const pier_descriptor source = tracked_raw_pair(loop, STREAM_TCP4, &forwarder.in);
    const pier_descriptor target = tracked_raw_pair(loop, STREAM_PAIR, &forwarder.out);
    pattern_fill(big, sizeof(got), 77, 0);
    CHECK_OK(pier_set_buffer_sizes(&forwarder.out.handle, 0, 8192));
    tracked_receive_each(&forwarder.in, &forwarder.each, forward);
    for (size_t sent = 0; sent < sizeof(got); sent += 4096) {
        raw_send(source, big + sent, 4096);
        RUN_UNTIL(loop, forwarder.received == sent + 4096);
    }
    CHECK_INT(stats_of(loop).buffers_lent, >, 0);
    CHECK(forwarder.sends[forwarder.count - 1].in_flight);
    size_t read = 0;
    SPIN_UNTIL(loop, read == sizeof(got), {
        const int64_t now = raw_receive_now(target, got + read, sizeof(got) - read);
        CHECK(now > 0 || now == RAW_AGAIN);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_PATTERN(got, sizeof(got), 77, 0);
    RUN_UNTIL(loop, !forwarder.sends[forwarder.count - 1].in_flight);
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    close_and_wait(&forwarder.in);
    close_and_wait(&forwarder.out);
    raw_close(source);
    raw_close(target);
}

/* Idle receives hold no buffer where the backend binds late: many of them on a pool of two. */
static void idle_receives_need_no_buffer(void)
{
    if (!test_can(PIER_CAN_BIND_LATE)) {
        test_skip("the backend binds a buffer before data arrives");
        return;
    }
    struct pier_loop *loop = small_pool(2, 1);
    struct tracked_handle handles[40] = {0};
    struct tracked receives[40] = {0};
    pier_descriptor peers[40];
    for (int i = 0; i < 40; i++) {
        peers[i] = tracked_raw_pair(loop, STREAM_PAIR, &handles[i]);
        if (i % 2 == 0) {
            tracked_receive_lent(&handles[i], &receives[i], NULL);
        } else {
            tracked_receive_each(&handles[i], &receives[i], NULL);
        }
    }
    run_quietly(loop, 5);
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    CHECK_INT(stats_of(loop).buffers_total, <=, 2);
    for (int i = 39; i >= 0; i--) {
        raw_send(peers[i], "x", 1);
        RUN_UNTIL(loop, receives[i].events + receives[i].completions == 1);
    }
    for (int i = 0; i < 40; i++) {
        close_and_wait(&handles[i]);
        raw_close(peers[i]);
    }
}

const struct test buffers_tests[] = {
    TEST(buffers, kept_until_released),
    TEST(buffers, lent_memory_begins_at_a_cache_line),
    TEST(buffers, streams_that_fill_their_buffers),
    TEST(buffers, empty_pool_pauses_and_a_release_resumes),
    TEST(buffers, one_shot_receive_waits_for_the_pool),
    TEST(buffers, cancelled_and_closed_while_starved),
    TEST(buffers, share_of_one_handle),
    TEST(buffers, paused_receives_hold_their_share),
    TEST(buffers, keep_of_what_is_not_lent),
    TEST(buffers, exchanged_inside_the_callback),
    TEST(buffers, released_inside_the_callback),
    TEST(buffers, sends_in_flight_hold_their_buffer),
    TEST(buffers, idle_receives_need_no_buffer),
    TEST_END,
};
