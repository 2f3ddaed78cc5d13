/* held_ends.c - a multishot receive that is paused while its peer ends or resets the stream.
 *
 * Nothing comes before the resume, on any backend, and then the data first. */

#include "suite.h"

struct reader {
    struct tracked_handle handle;
    struct tracked each;
    uint64_t received;
};

static unsigned char data[1 << 20];

static void read_on(struct tracked *tracked)
{
    struct reader *reader = PIER_OWNER(tracked, struct reader, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_PATTERN(tracked->op.data, tracked->op.size, 91, reader->received);
        reader->received += tracked->op.size;
    }
}

/* Begins, with some turns before the pause or none, and pauses. */
static pier_descriptor begin(struct pier_loop *loop, struct reader *reader, enum stream stream,
                             bool runs_before)
{
    memset(reader, 0, sizeof(*reader));
    const pier_descriptor peer = tracked_raw_pair(loop, stream, &reader->handle);
    tracked_receive_each(&reader->handle, &reader->each, read_on);
    if (runs_before) {
        run_quietly(loop, 2);
    }
    tracked_pause(&reader->each);
    return peer;
}

static void check_held(struct pier_loop *loop, const struct reader *reader)
{
    run_quietly(loop, 10);
    CHECK(reader->each.in_flight);
    CHECK_INT(reader->each.events, ==, 0);
}

static void end_of_stream(void)
{
    struct pier_loop *loop = test_loop();
    pattern_fill(data, sizeof(data), 91, 0);
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        for (int i = 0; i < 6 && stream_available((enum stream)stream); i++) {
            struct reader reader;
            const size_t size = i / 2 == 0 ? 0 : i / 2 == 1 ? 1000 : 60000;
            const pier_descriptor peer = begin(loop, &reader, (enum stream)stream, i % 2 != 0);
            raw_send(peer, data, size);
            if (i == 3) {
                run_quietly(loop, 2); /* the data alone first */
            }
            raw_shutdown(peer);
            check_held(loop, &reader);
            tracked_resume(&reader.each);
            CHECK_INT(wait_for(&reader.each), ==, 0);
            CHECK((reader.each.flags & PIER_EOF) != 0);
            CHECK_INT(reader.received, ==, size);
            CHECK_INT(reader.each.done, ==, size);
            receive_end(&reader.handle);
            close_and_wait(&reader.handle);
            raw_close(peer);
        }
    }
}

/* A socket tells of a reset once: it isn't lost. */
static void reset(void)
{
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 2; i++) {
        struct reader reader;
        const pier_descriptor peer = begin(loop, &reader, STREAM_TCP4, i != 0);
        raw_reset(peer);
        check_held(loop, &reader);
        tracked_resume(&reader.each);
        CHECK_INT(wait_for(&reader.each), ==, PIER_ECONNRESET);
        CHECK(reader.each.os_error != 0);
        close_and_wait(&reader.handle);
    }
}

/* Paused and resumed over and over, behind the end. */
static void paused_again(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader;
    const pier_descriptor peer = begin(loop, &reader, STREAM_PAIR, true);
    raw_shutdown(peer);
    for (int i = 0; i < 5; i++) {
        run_quietly(loop, 2);
        tracked_resume(&reader.each);
        tracked_pause(&reader.each);
        tracked_pause(&reader.each);
    }
    check_held(loop, &reader);
    tracked_resume(&reader.each);
    CHECK_INT(wait_for(&reader.each), ==, 0);
    close_and_wait(&reader.handle);
    raw_close(peer);
}

/* A cancel isn't held. What it meets is the cancel, or the end where that was seen already; the
 * next receive finds the end in any case. */
static void cancelled(void)
{
    struct pier_loop *loop = test_loop();
    static unsigned char rest[1000];
    pattern_fill(data, 1000, 91, 0);
    for (int i = 0; i < 4; i++) {
        struct reader reader;
        const pier_descriptor peer = begin(loop, &reader, STREAM_TCP4, i % 2 != 0);
        const size_t size = i / 2 == 0 ? 0 : 1000;
        raw_send(peer, data, size);
        raw_shutdown(peer);
        check_held(loop, &reader);
        tracked_cancel(&reader.each);
        const int64_t result = wait_for(&reader.each);
        CHECK(result == 0 || result == PIER_ECANCELED);
        CHECK(reader.received == size || result == PIER_ECANCELED);
        if (reader.received < size) {
            receive_all(&reader.handle, rest, size - (size_t)reader.received);
            CHECK_PATTERN(rest, size - (size_t)reader.received, 91, reader.received);
        }
        receive_end(&reader.handle);
        close_and_wait(&reader.handle);
        raw_close(peer);
    }
}

static void closed(void)
{
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 4; i++) {
        struct reader reader;
        const pier_descriptor peer = begin(loop, &reader, STREAM_TCP4, i % 2 != 0);
        if (i / 2 == 0) {
            raw_shutdown(peer);
        } else {
            raw_reset(peer);
        }
        check_held(loop, &reader);
        close_and_wait(&reader.handle);
        CHECK_INT(reader.each.result, ==, PIER_ECLOSED);
        if (i / 2 == 0) {
            raw_close(peer);
        }
    }
}

/* Drained in that state. */
static void drained(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader;
    const pier_descriptor peer = begin(loop, &reader, STREAM_PAIR, true);
    raw_shutdown(peer);
    check_held(loop, &reader);
    tracked_cancel(&reader.each);
    tracked_close(&reader.handle, NULL);
    CHECK_OK(drain(loop, 10 * PIER_SECOND));
    CHECK_INT(reader.handle.closes, ==, 1);
    raw_close(peer);
}

/* It costs no processor time to wait for the resume. */
static void is_quiet(void)
{
    struct pier_loop *loop = test_loop();
    struct reader reader;
    struct tracked timer = {0};
    const pier_descriptor peer = begin(loop, &reader, STREAM_PAIR, true);
    raw_shutdown(peer);
    check_held(loop, &reader);
    const uint64_t before = stats_of(loop).turns;
    tracked_timer(loop, &timer, 100 * PIER_MILLISECOND, NULL);
    wait_for(&timer);
    CHECK_INT(stats_of(loop).turns - before, <, 50);
    CHECK(reader.each.in_flight);
    close_and_wait(&reader.handle);
    raw_close(peer);
}

const struct test held_ends_tests[] = {
    TEST(held_ends, end_of_stream), TEST(held_ends, reset),
    TEST(held_ends, paused_again),  TEST(held_ends, cancelled),
    TEST(held_ends, closed),        TEST(held_ends, drained),
    TEST(held_ends, is_quiet),      TEST_END,
};
