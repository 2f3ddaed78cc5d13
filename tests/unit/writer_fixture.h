/* writer_fixture.h - what the tests of the writer share: a connection on a loop, a writer on its
 * near end, and a far end that reads only as much as it is told to.
 *
 * The bytes sent are a function of their place in the stream, so that one lost, doubled or moved
 * shows. The callbacks check what must always hold: they never run inside a write, nor once the
 * writer is freed, and on_high and on_low alternate. TEST_EACH() runs a test on each backend that
 * works here. */

#ifndef PIER_WRITER_FIXTURE_H
#define PIER_WRITER_FIXTURE_H

#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "pier/pier.h"

enum { PIECE = 16384 };

struct fixture {
    struct pier_loop *loop;
    struct pier_handle near, far;
    struct pier_writer writer;
    struct pier_op receive, finish, post;
    uint64_t produced, consumed; /* bytes written and read */
    unsigned char piece[PIECE], scratch[1 << 20];
    size_t wanted; /* bytes still to be read */
    bool at_end, inside_write, writer_freed;
    int highs, lows, errors, finishes, near_closed, far_closed;
    int64_t finish_result, receive_result;
    void (*when_high)(struct fixture *f);
    void (*when_low)(struct fixture *f);
    void (*when_error)(struct fixture *f);
    uint64_t written_at_finish;
    int64_t deny;   /* allocations from this many bytes on fail; 0: none */
    size_t largest; /* the largest allocation so far */
    size_t queued_at_low;
};

static inline unsigned char byte_at(uint64_t place)
{
    return (unsigned char)(place ^ (place >> 8) * 5 ^ (place >> 16) * 11);
}

static inline void *allocate(void *context, void *memory, size_t old_size, size_t new_size)
{
    struct fixture *f = context;
    (void)old_size;
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    if (new_size > f->largest)
        f->largest = new_size;
    if (f->deny > 0 && new_size >= (size_t)f->deny)
        return NULL;
    return realloc(memory, new_size);
}

static inline void on_high(struct pier_writer *writer)
{
    struct fixture *f = PIER_OWNER(writer, struct fixture, writer);
    CHECK(!f->inside_write);
    CHECK(!f->writer_freed);
    CHECK_EQ(f->highs, f->lows); /* they alternate */
    f->highs++;
    if (f->when_high != NULL)
        f->when_high(f);
}

static inline void on_low(struct pier_writer *writer)
{
    struct fixture *f = PIER_OWNER(writer, struct fixture, writer);
    CHECK(!f->inside_write);
    CHECK(!f->writer_freed);
    f->lows++;
    f->queued_at_low = pier_writer_queued(writer);
    if (writer->options_.on_high != NULL)
        CHECK_EQ(f->highs, f->lows);
    if (f->when_low != NULL)
        f->when_low(f);
}

static inline void on_error(struct pier_writer *writer)
{
    struct fixture *f = PIER_OWNER(writer, struct fixture, writer);
    CHECK(!f->inside_write);
    CHECK(!f->writer_freed);
    CHECK_LT(writer->error, 0);
    CHECK_EQ(pier_writer_queued(writer), 0);
    f->errors++;
    if (f->when_error != NULL)
        f->when_error(f);
}

static inline void on_finished(struct pier_op *op)
{
    struct fixture *f = PIER_OWNER(op, struct fixture, finish);
    CHECK_EQ(f->near_closed, 0); /* it completes before the handle is closed */
    f->finishes++;
    f->finish_result = op->result;
    f->written_at_finish = f->writer.written;
}

static inline void on_near_closed(struct pier_handle *handle)
{
    struct fixture *f = PIER_OWNER(handle, struct fixture, near);
    f->near_closed++;
    pier_writer_free(&f->writer);
    f->writer_freed = true;
    /* Whoever still uses the writer reads rubbish. */
    memset(&f->writer, 0xa5, sizeof f->writer);
}

static inline void on_far_closed(struct pier_handle *handle)
{
    PIER_OWNER(handle, struct fixture, far)->far_closed++;
}

static inline void on_received(struct pier_op *op)
{
    struct fixture *f = PIER_OWNER(op, struct fixture, receive);
    f->receive_result = op->result;
    if (op->flags & PIER_EOF)
        f->at_end = true;
    if (op->result <= 0)
        return;
    for (uint64_t i = 0; i < op->done; i++) {
        if (f->piece[i] != byte_at(f->consumed + i)) {
            FAIL("byte %llu is wrong", (unsigned long long)(f->consumed + i));
            abort();
        }
    }
    f->consumed += op->done;
    f->wanted = f->wanted > op->done ? f->wanted - (size_t)op->done : 0;
    if (f->wanted > 0)
        pier_receive(&f->far, op, f->piece, f->wanted < PIECE ? f->wanted : PIECE, on_received);
}

/* Lets the far end read `size` bytes more. */
static inline void let_read(struct fixture *f, size_t size)
{
    f->wanted = size > SIZE_MAX - f->wanted ? SIZE_MAX : f->wanted + size;
    if (!pier_op_pending(&f->receive))
        pier_receive(&f->far, &f->receive, f->piece, f->wanted < PIECE ? f->wanted : PIECE,
                     on_received);
}

static inline void turn(struct fixture *f)
{
    int more = pier_loop_run(f->loop, PIER_RUN_NO_WAIT);
    CHECK_GE(more, 0);
}

/* Long enough for everything to happen that doesn't wait for the far end. */
static inline void settle(struct fixture *f)
{
    for (int i = 0; i < 20; i++)
        turn(f);
}

static inline int write_some(struct fixture *f, size_t size)
{
    REQUIRE(size <= sizeof f->scratch);
    for (size_t i = 0; i < size; i++)
        f->scratch[i] = byte_at(f->produced + i);
    size_t before = pier_writer_queued(&f->writer);
    f->inside_write = true;
    int error = pier_writer_write(&f->writer, f->scratch, size);
    f->inside_write = false;
    CHECK_EQ(pier_writer_queued(&f->writer), before + (error == 0 ? size : 0));
    if (error == 0)
        f->produced += size;
    return error;
}

static inline struct pier_writer_options all_callbacks(size_t limit, size_t high, size_t low)
{
    return (struct pier_writer_options){.limit = limit,
                                        .high = high,
                                        .low = low,
                                        .on_high = on_high,
                                        .on_low = on_low,
                                        .on_error = on_error};
}

#ifdef _WIN32

static inline void on_opened(struct pier_op *op)
{
    CHECK_GE(op->result, 0);
}

static inline void on_far_accepted(struct pier_op *op)
{
    struct fixture *f = PIER_OWNER(op, struct fixture, receive);
    CHECK_EQ(pier_accept_take(op, f->loop, &f->far), 0);
}

/* Pairs are TCP there. If one's receive buffer shrinks once it is connected, what Linux under Wine
 * sends is larger than the window, and moves by 8 KiB with each probe of the window, every 0.2 s.
 * So the far end has its small buffer from the start, from its listener.
 *
 * The near end's has room for a send of 12,500 bytes. Of one that is taken in part, by a peer that
 * has closed, Wine 8 misses the reset if it comes before the rest is said to wait. */
static inline void open_ends(struct fixture *f)
{
    struct pier_handle listener = {0};
    struct pier_address address;
    REQUIRE(pier_address_parse(&address, "127.0.0.1:0") == 0);
    REQUIRE(pier_listen(f->loop, &listener, &address, NULL) == 0);
    REQUIRE(pier_set_buffer_sizes(&listener, 4096, 4096) == 0);
    REQUIRE(pier_local_address(&listener, &address) == 0);
    pier_accept(&listener, &f->receive, on_far_accepted);
    REQUIRE(pier_open_socket(f->loop, &f->near, &address) == 0);
    REQUIRE(pier_set_buffer_sizes(&f->near, 4096, 16384) == 0);
    pier_connect(&f->near, &f->post, &address, on_opened);
    RUN_UNTIL(f, !pier_op_pending(&f->receive) && !pier_op_pending(&f->post));
    REQUIRE(pier_set_no_delay(&f->near, true) == 0);
    pier_close(&listener, NULL);
    CHECK_EQ(pier_loop_run(f->loop, PIER_RUN_UNTIL_IDLE), 0);
}

#else

static inline void open_ends(struct fixture *f)
{
    REQUIRE(pier_socket_pair(f->loop, &f->near, &f->far) == 0);
    pier_set_buffer_sizes(&f->near, 4096, 4096);
    pier_set_buffer_sizes(&f->far, 4096, 4096);
}

#endif

static inline struct fixture *open_fixture(const char *backend,
                                           const struct pier_writer_options *options)
{
    struct fixture *f = calloc(1, sizeof *f);
    REQUIRE(f != NULL);
    struct pier_loop_options loop_options = {
        .backend = backend, .allocate = allocate, .allocate_context = f};
    REQUIRE(pier_loop_new(&f->loop, &loop_options) == 0);
    open_ends(f);
    REQUIRE(pier_writer_open(&f->writer, &f->near, options) == 0);
    return f;
}

static inline void close_fixture(struct fixture *f)
{
    pier_close(&f->near, on_near_closed);
    pier_close(&f->far, on_far_closed);
    CHECK_EQ(pier_loop_run(f->loop, PIER_RUN_UNTIL_IDLE), 0);
    CHECK_EQ(f->near_closed, 1);
    CHECK_EQ(f->far_closed, 1);
    pier_loop_free(f->loop);
    free(f);
}

/* Runs a test's body on each backend that this machine allows. */
static inline void on_each_backend(void (*body)(const char *backend))
{
    int count = 0;
    const char *backend;
    for (size_t i = 0; (backend = pier_backend_name(i)) != NULL; i++) {
        if (pier_backend_probe(backend) < 0)
            continue;
        body(backend);
        count++;
    }
    CHECK_GT(count, 0);
}

#define TEST_EACH(test_name) \
    static void test_name##_on(const char *backend); \
    TEST(test_name) \
    { \
        on_each_backend(test_name##_on); \
    } \
    static void test_name##_on(const char *backend)

#endif
