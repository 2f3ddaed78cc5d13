/* gather_test.c - merging sends into vectors and taking notes of what has gone, at every cut.
 *
 * A handle of a real loop gets calls that start nothing, so that the test plays the engine: it
 * gathers, takes some bytes as sent, and gathers again. All sends name consecutive parts of one
 * memory, so what is gathered must be one run from the first byte that hasn't gone. */

#include "unit.h"

#include <string.h>

#include "core/engine.h"
#include "core/gather.h"

enum { OPS_MAX = 5, PIECES_MAX = 8, MEMORY = 128 };

/* A send: the sizes of its pieces. One without `is_vectored` has the first of them. */
struct shape {
    size_t sizes[PIECES_MAX];
    size_t count;
    bool is_vectored;
};

struct fixture {
    struct pier_loop *loop;
    struct pier_handle handle, other;
    struct pier_handle_calls calls;
    const struct pier_handle_calls *real_calls;
    struct pier_op ops[OPS_MAX];
    struct pier_vector pieces[OPS_MAX][PIECES_MAX];
    size_t sizes[OPS_MAX];
    size_t count, total, finished;
};

static char memory[MEMORY];
static struct fixture fixture;

static void start_nothing(struct pier_handle *handle, struct pier_op *op)
{
    (void)handle;
    (void)op;
}

static void cancel_at_once(struct pier_handle *handle, struct pier_op *op)
{
    pier__op_finish(handle->loop_, op, pier__op_reason(op));
}

static void open_fixture(void)
{
    memset(&fixture, 0, sizeof(fixture));
    REQUIRE(pier_loop_new(&fixture.loop, NULL) == 0);
    REQUIRE(pier_socket_pair(fixture.loop, &fixture.handle, &fixture.other) == 0);
    fixture.real_calls = fixture.handle.calls_;
    fixture.calls = *fixture.real_calls;
    fixture.calls.start = start_nothing;
    fixture.calls.cancel = cancel_at_once;
    fixture.calls.send = NULL;
    fixture.handle.calls_ = &fixture.calls;
    pier__handle_clear(&fixture.handle, PIER__FAST_SENDS);
}

static void close_fixture(void)
{
    fixture.handle.calls_ = fixture.real_calls;
    pier_close(&fixture.handle, NULL);
    pier_close(&fixture.other, NULL);
    CHECK_EQ(pier_loop_run(fixture.loop, PIER_RUN_UNTIL_IDLE), 0);
    pier_loop_free(fixture.loop);
}

/* Completions come in order, with all bytes. */
static void on_sent(struct pier_op *op)
{
    size_t index = (size_t)(op - fixture.ops);
    CHECK_EQ(index, fixture.finished);
    CHECK_EQ(op->result, fixture.sizes[index]);
    CHECK_EQ(op->done, fixture.sizes[index]);
    fixture.finished++;
}

static void submit(const struct shape *shapes, size_t count)
{
    size_t at = 0;
    fixture.count = count;
    fixture.finished = 0;
    for (size_t i = 0; i < count; i++) {
        size_t begin = at;
        for (size_t k = 0; k < shapes[i].count; k++) {
            size_t size = shapes[i].sizes[k];
            fixture.pieces[i][k] = (struct pier_vector){size == 0 ? NULL : memory + at, size};
            at += size;
        }
        fixture.sizes[i] = at - begin;
    }
    fixture.total = at;
    REQUIRE(at <= MEMORY);
    for (size_t i = 0; i < count; i++) {
        struct pier_op *op = &fixture.ops[i];
        if (shapes[i].is_vectored) {
            pier_send_vectored(&fixture.handle, op, fixture.pieces[i], shapes[i].count, on_sent);
        } else {
            pier_send(&fixture.handle, op, fixture.pieces[i][0].data, fixture.sizes[i], on_sent);
        }
    }
}

/* What is gathered is one run from byte `gone`, of as many vectors as there may be, and of all that
 * is left if these were enough. Returns its bytes. */
static size_t gather(size_t gone, size_t most)
{
    struct pier_vector vectors[OPS_MAX * PIECES_MAX];
    struct pier_op *last = NULL;
    size_t count = pier__send_gather(&fixture.handle, vectors, most, &last);
    size_t at = gone;
    CHECK(count <= most);
    for (size_t i = 0; i < count; i++) {
        if (vectors[i].size != 0) {
            CHECK(vectors[i].data == memory + at);
        }
        at += vectors[i].size;
    }
    CHECK(at <= fixture.total);
    if (count < most) {
        CHECK_EQ(at, fixture.total);
    }
    if (fixture.handle.head_[PIER__SENDING] != NULL) {
        REQUIRE(last != NULL);
        size_t last_index = (size_t)(last - fixture.ops), end = 0;
        for (size_t i = 0; i <= last_index; i++) {
            end += fixture.sizes[i];
        }
        CHECK(at <= end); /* no byte of a send that isn't the kernel's then */
        pier__send_merged(fixture.loop, &fixture.handle, last);
    }
    return at - gone;
}

static void advance(size_t bytes)
{
    pier__send_advance(fixture.loop, &fixture.handle, bytes);
    pier__op_start_direction(fixture.loop, &fixture.handle, PIER__SENDING);
    pier_loop_run(fixture.loop, PIER_RUN_NO_WAIT);
}

/* Sends end as soon as their last byte is gone, and not before. */
static void check_progress(size_t gone)
{
    size_t end = 0, complete = 0;
    while (complete < fixture.count && end + fixture.sizes[complete] <= gone) {
        end += fixture.sizes[complete++];
    }
    if (gone == fixture.total) {
        CHECK_EQ(fixture.finished, fixture.count);
        return;
    }
    CHECK(fixture.finished <= complete);
    size_t begun = 0;
    for (size_t i = 0; i < fixture.finished; i++) {
        begun += fixture.sizes[i];
    }
    CHECK_EQ(begun, end); /* only sends of nothing may still be there */
    for (size_t i = complete; i < fixture.count; i++) {
        size_t part = gone > end ? gone - end : 0;
        CHECK_EQ(fixture.ops[i].done, part < fixture.sizes[i] ? part : fixture.sizes[i]);
        end += fixture.sizes[i];
    }
}

/* Takes `first` bytes, `second` bytes, and then all that is gathered, until nothing is left. */
static void run_shapes(const struct shape *shapes, size_t count, size_t most, size_t first,
                       size_t second)
{
    size_t gone = 0;
    submit(shapes, count);
    for (size_t step = 0; gone < fixture.total || fixture.finished < fixture.count; step++) {
        size_t wanted = step == 0 ? first : step == 1 ? second : SIZE_MAX;
        size_t there = gather(gone, most);
        size_t taken = wanted < there ? wanted : there;
        if (!CHECK(step < 2 || there > 0 || gone == fixture.total)) {
            break;
        }
        advance(taken);
        gone += taken;
        check_progress(gone);
    }
    CHECK_EQ(fixture.finished, count);
    CHECK(fixture.handle.head_[PIER__SENDING] == NULL);
}

static void run_every_cut(const struct shape *shapes, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < shapes[i].count; k++) {
            total += shapes[i].sizes[k];
        }
    }
    static const size_t bounds[] = {1, 2, 3, 5, OPS_MAX * PIECES_MAX};
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        for (size_t first = 0; first <= total; first++) {
            for (size_t second = 0; second <= total - first; second++) {
                run_shapes(shapes, count, bounds[i], first, second);
            }
        }
    }
}

TEST(one_send_at_every_cut)
{
    static const struct shape shapes[] = {{{9}, 1, false}};
    open_fixture();
    run_every_cut(shapes, 1);
    close_fixture();
}

/* One to six pieces of 0 to 2 bytes, in every combination. */
TEST(every_vectored_send_at_every_cut)
{
    open_fixture();
    for (size_t count = 1; count <= 6; count++) {
        size_t combinations = 1;
        for (size_t i = 0; i < count; i++) {
            combinations *= 3;
        }
        for (size_t number = 0; number < combinations; number++) {
            struct shape shape = {.count = count, .is_vectored = true};
            size_t rest = number, total = 0;
            for (size_t i = 0; i < count; i++, rest /= 3) {
                shape.sizes[i] = rest % 3;
                total += rest % 3;
            }
            for (size_t first = 0; first <= total; first++) {
                run_shapes(&shape, 1, number % 4 + 1, first, (number + first) % 4);
            }
        }
    }
    close_fixture();
}

TEST(merged_sends_at_every_two_cuts)
{
    static const struct shape shapes[][OPS_MAX] = {
        {{{3}, 1, false},
         {{2, 0, 3}, 3, true},
         {{0}, 1, false},
         {{1, 1}, 2, true},
         {{4}, 1, false}},
        {{{0, 2, 0}, 3, true},
         {{0, 0}, 2, true},
         {{5}, 1, false},
         {{0}, 1, true},
         {{1, 3}, 2, true}},
        {{{1, 1, 1, 1}, 4, true},
         {{1}, 1, false},
         {{1, 0, 0, 1}, 4, true},
         {{2}, 1, false},
         {{0, 0, 3}, 3, true}},
    };
    open_fixture();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        run_every_cut(shapes[i], OPS_MAX);
    }
    close_fixture();
}

/* The same road with progress that can't be noted: vectors too long for that are gone through from
 * their start each time. */
TEST(long_vectors_at_every_cut)
{
    open_fixture();
    for (size_t first = 0; first <= 11; first++) {
        for (size_t second = 0; second <= 11 - first; second++) {
            static const struct shape shapes[] = {{{3, 0, 2, 1}, 4, true}, {{0, 5}, 2, true}};
            size_t gone = 0;
            submit(shapes, 2);
            pier__op_set(&fixture.ops[0], PIER__LONG_VECTORS);
            pier__op_set(&fixture.ops[1], PIER__LONG_VECTORS);
            for (size_t step = 0; fixture.finished < 2; step++) {
                size_t wanted = step == 0 ? first : step == 1 ? second : SIZE_MAX;
                size_t there = gather(gone, 3);
                size_t taken = wanted < there ? wanted : there;
                if (!CHECK(step < 20)) {
                    break;
                }
                advance(taken);
                gone += taken;
                check_progress(gone);
            }
        }
    }
    close_fixture();
}
