/* writer.c - a bounded ring of bytes in front of a handle's sends, on top of the public API.
 *
 * One send is in flight at most. It names the first `sending_` bytes of the ring, in one vector or
 * in two where they wrap, and these bytes stay put until it completes. So a ring that has to grow
 * meanwhile is copied and the old one retired, to be freed at the completion; should it grow again
 * before that, the ring in between goes at once, since no send knows it.
 *
 * Callbacks:
 *   - on_low, on_error and the submit of a waiting finish come out of the send's own completion. An
 *     op of the handle completes before the handle's close callback, in which the writer is freed.
 *   - on_high is due inside a write, where callbacks may not run, and may not wait for the send,
 *     which is stuck just then. It comes from a timer of no delay. That op belongs to the loop, so
 *     the close callback may run first; therefore it lives in memory of its own, and a writer that
 *     is freed before it leaves it to free itself. A post would do but for one thing: it doesn't
 *     keep the loop running, which could then be freed with the post still on its way.
 *   - on_high and on_low alternate, and a refused write counts as high, so that a program may
 *     always wait for on_low after PIER_ENOBUFS: whatever is queued then is in flight.
 *
 * A send is cut to an eighth of the limit (and 64 KiB), since only its completion tells how far the
 * reader is: one send of the whole queue would make the low mark mean empty. */

#include "pier/writer.h"

#include <string.h>

#include "core/engine.h"

enum {
    WRITER_LIMIT_DEFAULT = 1 << 20,
    WRITER_RING_MIN = 4096,
    WRITER_SEND_MIN = 4096,
    WRITER_SEND_MAX = 64 << 10
};

/* writer->level_ */
enum {
    WRITER_LOW,
    WRITER_HIGH,     /* high, and on_high is still to be called */
    WRITER_HIGH_TOLD /* high, and on_high was called */
};

struct pier_writer_signal {
    struct pier_op op;
    struct pier_loop *loop;
    struct pier_writer *writer; /* NULL once it was freed */
};

static void writer_sent(struct pier_op *op);

int pier_writer_open(struct pier_writer *writer, struct pier_handle *handle,
                     const struct pier_writer_options *options)
{
    struct pier_writer_options chosen = {0};
    if (options != NULL)
        chosen = *options;
    if (chosen.limit == 0)
        chosen.limit = WRITER_LIMIT_DEFAULT;
    if (chosen.high == 0)
        chosen.high = chosen.limit - chosen.limit / 2;
    if (chosen.low == 0)
        chosen.low = chosen.high / 4;
    if (chosen.high > chosen.limit)
        return pier__fail(PIER_EINVAL,
                          "writer option high is %zu, above the limit of %zu: lower it",
                          chosen.high, chosen.limit);
    if (chosen.low > chosen.high)
        return pier__fail(PIER_EINVAL,
                          "writer option low is %zu, above high, which is %zu: lower it",
                          chosen.low, chosen.high);
    if (!pier_handle_is_open(handle))
        return pier__fail(PIER_ECLOSED, "the writer's handle is closed or closing: open it first");
    memset(writer, 0, sizeof *writer);
    writer->handle_ = handle;
    writer->loop_ = pier_handle_loop(handle);
    writer->options_ = chosen;
    return 0;
}

/* ---- watermarks */

static void writer_tell_high(struct pier_writer *writer)
{
    writer->level_ = WRITER_HIGH_TOLD;
    if (writer->options_.on_high != NULL)
        writer->options_.on_high(writer);
}

static void writer_signalled(struct pier_op *op)
{
    struct pier_writer_signal *signal = PIER_OWNER(op, struct pier_writer_signal, op);
    struct pier_writer *writer = signal->writer;
    if (writer == NULL) {
        pier__free(signal->loop, signal, sizeof *signal);
        return;
    }
    if (writer->level_ == WRITER_HIGH && pier_handle_is_open(writer->handle_))
        writer_tell_high(writer);
}

/* The queue is high. Something is queued, so the ring and with it the signal exist. */
static void writer_rise(struct pier_writer *writer)
{
    if (writer->level_ != WRITER_LOW)
        return;
    writer->level_ = WRITER_HIGH;
    struct pier_writer_signal *signal = writer->signal_;
    if (signal != NULL && !pier_op_pending(&signal->op))
        pier_timer(writer->loop_, &signal->op, 0, writer_signalled);
}

/* The queue has shrunk to the low mark, inside a completion. */
static void writer_fall(struct pier_writer *writer)
{
    /* It drained before the signal came: the two calls are a pair all the same. */
    if (writer->level_ == WRITER_HIGH)
        writer_tell_high(writer);
    /* Low only now, so that a write in on_high doesn't start the next pair before this one ends. */
    writer->level_ = WRITER_LOW;
    if (writer->queued_ >= writer->options_.high)
        writer_rise(writer);
    if (writer->options_.on_low != NULL && pier_handle_is_open(writer->handle_))
        writer->options_.on_low(writer);
}

/* ---- the ring */

/* The offset of a byte in the ring, `index` bytes behind the first queued one. */
static size_t writer_offset(const struct pier_writer *writer, size_t index)
{
    size_t until_end = writer->capacity_ - writer->start_;
    return index < until_end ? writer->start_ + index : index - until_end;
}

static size_t writer_capacity_for(const struct pier_writer *writer, size_t size)
{
    size_t limit = writer->options_.limit;
    size_t capacity = writer->capacity_ > WRITER_RING_MIN / 2 ? writer->capacity_ * 2
                                                              : (size_t)WRITER_RING_MIN;
    while (capacity < size)
        capacity = capacity > limit / 2 ? limit : capacity * 2;
    return capacity < limit ? capacity : limit;
}

/* Makes the ring large enough for `size` bytes; what is queued moves to the front of the new
 * one. */
static int writer_grow(struct pier_writer *writer, size_t size)
{
    struct pier_loop *loop = writer->loop_;
    if (writer->signal_ == NULL && writer->options_.on_high != NULL) {
        struct pier_writer_signal *signal = pier__allocate(loop, sizeof *signal);
        if (signal == NULL)
            return PIER_ENOMEM;
        memset(signal, 0, sizeof *signal);
        signal->loop = loop;
        signal->writer = writer;
        writer->signal_ = signal;
    }
    size_t capacity = writer_capacity_for(writer, size);
    unsigned char *ring = pier__allocate(loop, capacity);
    if (ring == NULL)
        return PIER_ENOMEM;
    if (writer->ring_ != NULL) {
        size_t until_end = writer->capacity_ - writer->start_;
        size_t first = writer->queued_ < until_end ? writer->queued_ : until_end;
        memcpy(ring, writer->ring_ + writer->start_, first);
        memcpy(ring + first, writer->ring_, writer->queued_ - first);
        if (writer->sending_ > 0 && writer->retired_ == NULL) {
            writer->retired_ = writer->ring_;
            writer->retired_capacity_ = writer->capacity_;
        } else {
            pier__free(loop, writer->ring_, writer->capacity_);
        }
    }
    writer->ring_ = ring;
    writer->capacity_ = capacity;
    writer->start_ = 0;
    return 0;
}

/* Frees the ring that the send now completed was the last to name. */
static void writer_free_retired(struct pier_writer *writer)
{
    if (writer->retired_ != NULL)
        pier__free(writer->loop_, writer->retired_, writer->retired_capacity_);
    writer->retired_ = NULL;
}

/* ---- writing */

static void writer_send(struct pier_writer *writer)
{
    size_t most = writer->options_.limit / 8;
    if (most < WRITER_SEND_MIN)
        most = WRITER_SEND_MIN;
    if (most > WRITER_SEND_MAX)
        most = WRITER_SEND_MAX;
    size_t size = writer->queued_ < most ? writer->queued_ : most;
    size_t until_end = writer->capacity_ - writer->start_;
    unsigned char *data = writer->ring_ + writer->start_;

    writer->sending_ = size;
    if (size <= until_end) {
        pier_send(writer->handle_, &writer->op_, data, size, writer_sent);
        return;
    }
    writer->vectors_[0] = (struct pier_vector){data, until_end};
    writer->vectors_[1] = (struct pier_vector){writer->ring_, size - until_end};
    pier_send_vectored(writer->handle_, &writer->op_, writer->vectors_, 2, writer_sent);
}

/* Whether `size` more bytes may be queued; makes room for them. */
static int writer_admit(struct pier_writer *writer, size_t size, const char *function)
{
    if (PIER__UNLIKELY(writer->error != 0))
        return (int)writer->error;
    if (PIER__UNLIKELY(writer->ended_))
        return PIER_ECLOSED;
    PIER_REQUIRE(writer->loop_ != NULL, function, "the writer must be open");
    PIER_REQUIRE(pier__loop_on_thread(writer->loop_), function,
                 "must be called on the loop's thread");
    if (PIER__UNLIKELY(!pier_handle_is_open(writer->handle_)))
        return PIER_ECLOSED;
    size_t limit = writer->options_.limit;
    if (PIER__UNLIKELY(size > limit))
        return pier__fail(
            PIER_EMSGSIZE,
            "a write of %zu bytes never fits under the writer's limit of %zu: split it "
            "or raise the limit",
            size, limit);
    if (PIER__UNLIKELY(size > limit - writer->queued_)) {
        writer_rise(writer);
        return PIER_ENOBUFS;
    }
    if (PIER__UNLIKELY(size > writer->capacity_ - writer->queued_))
        return writer_grow(writer, writer->queued_ + size);
    return 0;
}

/* Copies bytes behind those queued; there is room. */
static void writer_append(struct pier_writer *writer, const void *data, size_t size)
{
    size_t offset = writer_offset(writer, writer->queued_);
    size_t until_end = writer->capacity_ - offset;
    if (PIER__LIKELY(size <= until_end)) {
        if (size > 0)
            memcpy(writer->ring_ + offset, data, size);
    } else {
        memcpy(writer->ring_ + offset, data, until_end);
        memcpy(writer->ring_, (const unsigned char *)data + until_end, size - until_end);
    }
    writer->queued_ += size;
}

static void writer_appended(struct pier_writer *writer)
{
    if (writer->sending_ == 0)
        writer_send(writer);
    if (writer->queued_ >= writer->options_.high)
        writer_rise(writer);
}

int pier_writer_write(struct pier_writer *writer, const void *data, size_t size)
{
    int error = writer_admit(writer, size, "pier_writer_write");
    if (error != 0 || size == 0)
        return error;
    writer_append(writer, data, size);
    writer_appended(writer);
    return 0;
}

int pier_writer_write_vectored(struct pier_writer *writer, const struct pier_vector *vectors,
                               size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size = vectors[i].size > SIZE_MAX - size ? SIZE_MAX : size + vectors[i].size;
    int error = writer_admit(writer, size, "pier_writer_write_vectored");
    if (error != 0 || size == 0)
        return error;
    for (size_t i = 0; i < count; i++)
        writer_append(writer, vectors[i].data, vectors[i].size);
    writer_appended(writer);
    return 0;
}

/* ---- completions */

static void writer_submit_finish(struct pier_writer *writer)
{
    struct pier_op *op = writer->finish_;
    writer->finish_ = NULL;
    if (op == NULL)
        return;
    /* After an error the peer mustn't be told of an end: it would take what it has for all. */
    if (writer->error != 0)
        pier__op_submit_failed(writer->handle_, op, PIER__OP_SHUTDOWN, writer->finish_fn_,
                               (int)writer->error);
    else
        pier_shutdown(writer->handle_, op, writer->finish_fn_);
}

static void writer_fail(struct pier_writer *writer, int64_t error)
{
    writer->error = error;
    writer->queued_ = 0;
    writer->level_ = WRITER_LOW;
    writer_submit_finish(writer);
    if (writer->options_.on_error != NULL && pier_handle_is_open(writer->handle_))
        writer->options_.on_error(writer);
}

/* Submits what comes next before it calls back, to keep the socket busy. The writer's memory is
 * safe until this returns, since the close callback runs later whatever a callback of the writer
 * does. */
static void writer_sent(struct pier_op *op)
{
    struct pier_writer *writer = PIER_OWNER(op, struct pier_writer, op_);
    writer_free_retired(writer);
    writer->sending_ = 0;
    writer->written += op->done;
    if (PIER__UNLIKELY(op->result < 0)) {
        writer_fail(writer, op->result);
        return;
    }
    size_t sent = (size_t)op->done;
    PIER_ASSERT(sent <= writer->queued_);
    writer->start_ = writer_offset(writer, sent);
    writer->queued_ -= sent;
    if (writer->queued_ > 0) {
        writer_send(writer);
    } else {
        writer->start_ = 0;
        writer_submit_finish(writer);
    }
    if (writer->level_ != WRITER_LOW && writer->queued_ <= writer->options_.low)
        writer_fall(writer);
}

size_t pier_writer_queued(const struct pier_writer *writer)
{
    return writer->queued_;
}

void pier_writer_finish(struct pier_writer *writer, struct pier_op *op, pier_op_fn *fn)
{
    static const char function[] = "pier_writer_finish";
    PIER_REQUIRE(writer->handle_ != NULL, function, "the writer must be open");
    PIER_REQUIRE(fn != NULL, function, "the function must not be NULL");
    PIER_REQUIRE(!pier_op_pending(op), function, "the op is in flight");
    PIER_REQUIRE(writer->finish_ == NULL, function, "the writer is being finished already");
    writer->ended_ = true;
    writer->finish_ = op;
    writer->finish_fn_ = fn;
    if (writer->sending_ == 0)
        writer_submit_finish(writer);
}

void pier_writer_free(struct pier_writer *writer)
{
    struct pier_loop *loop = writer->loop_;
    if (loop == NULL)
        return;
    PIER__REQUIRE_THREAD(loop, "pier_writer_free");
    PIER_REQUIRE(writer->sending_ == 0, "pier_writer_free",
                 "a send is in flight: close the handle, and free the writer when it is closed");
    if (writer->signal_ != NULL) {
        writer->signal_->writer = NULL;
        if (!pier_op_pending(&writer->signal_->op))
            pier__free(loop, writer->signal_, sizeof *writer->signal_);
    }
    if (writer->ring_ != NULL)
        pier__free(loop, writer->ring_, writer->capacity_);
    writer->signal_ = NULL;
    writer->ring_ = NULL;
    writer->loop_ = NULL;
    writer->capacity_ = 0;
    writer->queued_ = 0;
    writer->ended_ = true;
}
