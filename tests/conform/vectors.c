/* vectors.c - vectored sends: any number of pieces, cut anywhere, with nothing among them, merged
 * with what waits behind, cancelled half-way; and what they cost.
 *
 * The socket's buffer is small and the peer reads a byte, or a few, at a time, so that the system
 * takes a send in many parts; what goes before a send moves the places where it's cut. order.c has
 * large transfers, tests/unit/gather_test.c each single cut. */

#include "suite.h"

#include <stdlib.h>

enum { SMALL = 4096 };

static unsigned char stream_bytes[1 << 20];

static pier_descriptor narrow_pair(struct pier_loop *loop, enum stream stream,
                                   struct tracked_handle *handle)
{
    const pier_descriptor peer = tracked_raw_pair(loop, stream, handle);
    CHECK_OK(pier_set_buffer_sizes(&handle->handle, 0, SMALL));
    return peer;
}

/* Reads what there is, `step` bytes at a time, and runs the loop between, until `tracked` is over
 * and `total` bytes have come. */
static void read_slowly(struct pier_loop *loop, pier_descriptor peer, size_t step, size_t from,
                        size_t total, const struct tracked *tracked)
{
    unsigned char got[SMALL];
    size_t read = 0;
    CHECK_INT(step, <=, sizeof(got));
    SPIN_UNTIL(loop, read == total && !tracked->in_flight, {
        const size_t left = total - read;
        const int64_t now = left == 0 ? RAW_AGAIN
                                      : raw_receive_now(peer, got, left < step ? left : step);
        CHECK(now > 0 || now == RAW_AGAIN);
        if (now > 0) {
            CHECK_PATTERN(got, (size_t)now, 31, from + read);
            read += (size_t)now;
        }
    });
    CHECK_INT(raw_available(peer), ==, 0);
}

/* Cuts the first `total` bytes of the stream's rest into pieces whose sizes go round in `sizes`. */
static size_t cut(struct pier_vector *vectors, size_t most, size_t from, size_t total,
                  const size_t *sizes, size_t sizes_count)
{
    size_t count = 0, at = 0;
    while (at < total) {
        const size_t want = sizes[count % sizes_count], left = total - at;
        const size_t size = want < left ? want : left;
        CHECK_INT(count, <, most);
        vectors[count++] = (struct pier_vector){size == 0 ? NULL : stream_bytes + from + at, size};
        at += size;
    }
    return count;
}

/* ---- counts and cuts ------------------------------------------------------------------------- */

static void each_count(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    static struct pier_vector vectors[3000];
    pattern_fill(stream_bytes, sizeof(stream_bytes), 31, 0);
    const pier_descriptor peer = narrow_pair(loop, STREAM_PAIR, &a);
    size_t at = 0;
    for (size_t count = 0; count <= 2100; count += count < 140 ? 1 : 653) {
        struct tracked send = {0};
        const size_t one = 3;
        const size_t pieces = cut(vectors, COUNT_OF(vectors), at, count * one, &one, 1);
        CHECK_INT(pieces, ==, count);
        tracked_send_vectored(&a, &send, vectors, pieces, NULL);
        read_slowly(loop, peer, 1000, at, count * one, &send);
        CHECK_INT(send.result, ==, count * one);
        at += count * one;
    }
    close_and_wait(&a);
    raw_close(peer);
}

/* What is cut where depends on the system's buffers, so each run begins some bytes further. */
static void each_cut(enum stream stream, size_t step)
{
    struct pier_loop *loop = test_loop();
    static const size_t sizes[] = {1, 90, 0, 130, 257, 0, 0, 70, 311}; /* 64 are more than fit */
    enum { PERIOD = 859, STEP = 29, TOTAL = 24000 };
    static struct pier_vector vectors[TOTAL];
    pattern_fill(stream_bytes, sizeof(stream_bytes), 31, 0);
    for (size_t before = 0; before < PERIOD; before += STEP) {
        struct tracked_handle a = {0};
        struct tracked first = {0}, send = {0};
        const pier_descriptor peer = narrow_pair(loop, stream, &a);
        const size_t count = cut(vectors, COUNT_OF(vectors), before, TOTAL, sizes, COUNT_OF(sizes));
        tracked_send(&a, &first, stream_bytes, before, NULL);
        tracked_send_vectored(&a, &send, vectors, count, NULL);
        read_slowly(loop, peer, step, 0, before + TOTAL, &send);
        CHECK_INT(first.result, ==, before);
        CHECK_INT(send.result, ==, TOTAL);
        close_and_wait(&a);
        raw_close(peer);
    }
}

static void each_cut_tcp(void)
{
    each_cut(STREAM_TCP4, 509);
}

static void each_cut_pair(void)
{
    each_cut(STREAM_PAIR, 509);
}

static void reader_of_single_bytes(void)
{
    struct pier_loop *loop = test_loop();
    static const size_t sizes[] = {1, 3, 0, 1000, 2};
    static struct pier_vector vectors[300];
    struct tracked_handle a = {0};
    struct tracked send = {0};
    const size_t total = 30000 / (test_slowness() > 3 ? 3u : 1u);
    pattern_fill(stream_bytes, sizeof(stream_bytes), 31, 0);
    const pier_descriptor peer = narrow_pair(loop, STREAM_PAIR, &a);
    const size_t count = cut(vectors, COUNT_OF(vectors), 0, total, sizes, COUNT_OF(sizes));
    tracked_send_vectored(&a, &send, vectors, count, NULL);
    read_slowly(loop, peer, 1, 0, total, &send);
    CHECK_INT(send.result, ==, total);
    close_and_wait(&a);
    raw_close(peer);
}

/* ---- nothing --------------------------------------------------------------------------------- */

/* Empty vectors at each set of places among eight, alone and with a send waiting before and one
 * behind; those of nothing but empty ones complete with 0 in their turn. */
static void nothing_at_each_place(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    tracked_pair(loop, STREAM_PAIR, &a, &b);
    for (unsigned empty = 0; empty < 256; empty++) {
        struct pier_vector vectors[8];
        struct tracked before = {0}, send = {0}, behind = {0};
        char expected[20], got[20];
        size_t size = 0;
        expected[size++] = '<';
        for (unsigned i = 0; i < 8; i++) {
            const bool is_empty = (empty >> i & 1) != 0;
            static const char letters[] = "abcdefgh";
            vectors[i] = (struct pier_vector){is_empty && i % 2 == 0 ? NULL : letters + i,
                                              is_empty ? 0 : 1};
            if (!is_empty) {
                expected[size++] = letters[i];
            }
        }
        expected[size++] = '>';
        tracked_send(&a, &before, "<", 1, NULL);
        tracked_send_vectored(&a, &send, vectors, 8, NULL);
        tracked_send(&a, &behind, ">", 1, NULL);
        receive_all(&b, got, size);
        CHECK_BYTES(got, expected, size);
        CHECK_INT(wait_for(&behind), ==, 1);
        CHECK(!before.in_flight && !send.in_flight);
        CHECK_INT(send.result, ==, size - 2);
        CHECK(before.sequence < send.sequence && send.sequence < behind.sequence);
        /* Into an empty queue. */
        tracked_send_vectored(&a, &send, vectors, 8, NULL);
        CHECK_INT(wait_for(&send), ==, size - 2);
        if (size > 2) {
            receive_all(&b, got, size - 2);
            CHECK_BYTES(got, expected + 1, size - 2);
        }
    }
    close_and_wait(&a);
    close_and_wait(&b);
}

/* ---- several at once ------------------------------------------------------------------------- */

/* Many sends wait behind a full buffer, vectored ones of several counts, single ones and empty
 * ones: they may be merged as the backend likes, and complete in order, each with its own bytes. */
static void merged_with_others(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    enum { SENDS = 60, EACH = 997 };
    static const size_t sizes[] = {0, 1, 90, 0, 7, 200};
    static struct pier_vector vectors[SENDS][100];
    static struct tracked sends[SENDS];
    pattern_fill(stream_bytes, sizeof(stream_bytes), 31, 0);
    for (size_t before = 0; before < 12; before++) {
        struct tracked_handle a = {0};
        struct tracked filler = {0};
        size_t at = before * 500;
        memset(sends, 0, sizeof(sends));
        const pier_descriptor peer = narrow_pair(loop, stream, &a);
        tracked_send(&a, &filler, stream_bytes, at, NULL);
        for (size_t i = 0; i < SENDS; i++) {
            const size_t size = i % 5 == 4 ? 0 : EACH;
            if (i % 3 == 2) {
                tracked_send(&a, &sends[i], stream_bytes + at, size, NULL);
            } else {
                const size_t count = cut(vectors[i], COUNT_OF(vectors[i]), at, size, sizes,
                                         COUNT_OF(sizes));
                tracked_send_vectored(&a, &sends[i], vectors[i], count, NULL);
            }
            at += size;
        }
        read_slowly(loop, peer, 251, 0, at, &sends[SENDS - 1]);
        CHECK_INT(filler.result, ==, before * 500);
        for (size_t i = 0; i < SENDS; i++) {
            CHECK_INT(sends[i].completions, ==, 1);
            CHECK_INT(sends[i].result, ==, i % 5 == 4 ? 0 : EACH);
            CHECK(i == 0 || sends[i].sequence > sends[i - 1].sequence);
        }
        close_and_wait(&a);
        raw_close(peer);
    }
}

static void merged_tcp(void)
{
    merged_with_others(STREAM_TCP4);
}

static void merged_pair(void)
{
    merged_with_others(STREAM_PAIR);
}

/* ---- cancelled ------------------------------------------------------------------------------- */

/* What had gone when it was cancelled is in `done`, and the next send goes on right behind it,
 * whether one waits there already or comes later. */
static void cancelled_half_way(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    enum { TOTAL = 1 << 19 };
    static const size_t sizes[] = {1, 4000, 0, 77, 30000};
    static struct pier_vector vectors[200];
    pattern_fill(stream_bytes, sizeof(stream_bytes), 31, 0);
    for (size_t round = 0; round < 12; round++) {
        struct tracked_handle a = {0};
        struct tracked send = {0}, behind = {0};
        const struct pier_vector tail[2] = {{"", 0}, {"waits", 5}};
        char got[5];
        const pier_descriptor peer = narrow_pair(loop, stream, &a);
        const size_t count = cut(vectors, COUNT_OF(vectors), 0, TOTAL, sizes, COUNT_OF(sizes));
        const size_t read_before = round * 1001;
        static unsigned char drop[TOTAL];
        tracked_send_vectored(&a, &send, vectors, count, NULL);
        run_quietly(loop, 2);
        if (round % 2 == 0) {
            tracked_send_vectored(&a, &behind, tail, 2, NULL);
        }
        size_t read = 0;
        SPIN_UNTIL(loop, read >= read_before, {
            const int64_t now = raw_receive_now(peer, drop + read, read_before - read);
            CHECK(now > 0 || now == RAW_AGAIN);
            read += now > 0 ? (size_t)now : 0;
        });
        tracked_cancel(&send);
        CHECK_INT(wait_for(&send), ==, PIER_ECANCELED);
        CHECK_INT(send.done, >, 0);
        CHECK_INT(send.done, >=, read);
        CHECK_INT(send.done, <, TOTAL);
        if (round % 2 != 0) {
            tracked_send_vectored(&a, &behind, tail, 2, NULL);
        }
        SPIN_UNTIL(loop, read == send.done, {
            const int64_t now = raw_receive_now(peer, drop + read, (size_t)send.done - read);
            CHECK(now > 0 || now == RAW_AGAIN);
            read += now > 0 ? (size_t)now : 0;
        });
        CHECK_PATTERN(drop, read, 31, 0);
        CHECK_INT(wait_for(&behind), ==, 5);
        raw_receive(peer, got, 5);
        CHECK_BYTES(got, "waits", 5);
        close_and_wait(&a);
        raw_close(peer);
    }
}

static void cancelled_half_way_tcp(void)
{
    cancelled_half_way(STREAM_TCP4);
}

static void cancelled_half_way_pair(void)
{
    cancelled_half_way(STREAM_PAIR);
}

/* ---- cost ------------------------------------------------------------------------------------ */

struct cost {
    uint64_t system_calls, turns, ns;
};

static struct cost cost_of(size_t pieces)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked send = {0}, each = {0};
    struct pier_vector *vectors = calloc(pieces, sizeof(*vectors));
    CHECK(vectors != NULL);
    for (size_t i = 0; i < pieces; i++) {
        vectors[i] = (struct pier_vector){"0123456789abcdef", 16};
    }
    tracked_pair(loop, STREAM_PAIR, &a, &b);
    tracked_receive_each(&b, &each, NULL);
    const struct pier_loop_counters before = stats_of(loop);
    const uint64_t begun = platform_processor_time();
    tracked_send_vectored(&a, &send, vectors, pieces, NULL);
    CHECK_INT(wait_for(&send), ==, pieces * 16);
    const uint64_t took = platform_processor_time() - begun;
    const struct pier_loop_counters after = stats_of(loop);
    RUN_UNTIL(loop, each.done == pieces * 16);
    close_and_wait(&a);
    CHECK_INT(wait_for(&each), ==, 0);
    close_and_wait(&b);
    test_loop_free(loop);
    free(vectors);
    return (struct cost){after.system_calls - before.system_calls, after.turns - before.turns,
                         took};
}

#define WINDOWS_STEP_NS (16 * PIER_MILLISECOND)

/* Ten times as many pieces: about ten times the calls and turns. The time is the processor's, the
 * least of several, and has room: a cost that grows with the square is a hundred times as much. */
static void cost_grows_with_the_pieces(void)
{
    struct cost small = {UINT64_MAX, UINT64_MAX, UINT64_MAX}, large = small;
    for (int i = 0; i < 4; i++) {
        const struct cost one = cost_of(20000), ten = cost_of(200000);
        CHECK_INT(ten.system_calls, <=, 15 * one.system_calls + 100);
        CHECK_INT(ten.turns, <=, 15 * one.turns + 100);
        small.ns = one.ns < small.ns ? one.ns : small.ns;
        large.ns = ten.ns < large.ns ? ten.ns : large.ns;
    }
    if (test_backend_is("iocp") && small.ns < WINDOWS_STEP_NS) {
        small.ns = WINDOWS_STEP_NS; /* below it the clock says nothing */
    }
    CHECK_INT(large.ns, <, 40 * small.ns);
}

const struct test vectors_tests[] = {
    TEST(vectors, each_count),
    TEST(vectors, each_cut_tcp),
    TEST(vectors, each_cut_pair),
    TEST(vectors, reader_of_single_bytes),
    TEST(vectors, nothing_at_each_place),
    TEST(vectors, merged_tcp),
    TEST(vectors, merged_pair),
    TEST(vectors, cancelled_half_way_tcp),
    TEST(vectors, cancelled_half_way_pair),
    TEST(vectors, cost_grows_with_the_pieces),
    TEST_END,
};
