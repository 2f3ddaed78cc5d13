/* writer.c - a bounded queue of bytes (writer_ring.c) in front of a handle's sends.
 *
 * One send is in flight at most. A write into an empty queue submits it *held*: it has its place
 * among the handle's sends, is in flight and keeps the loop running, but isn't started before the
 * end of the turn. Until then further writes are added to it, unless another send has queued up
 * behind. So what the callbacks of a turn write goes out as one, and a close, a cancel, a shutdown
 * or a send of the program's finds an op like any other.
 *
 * A send is cut to an eighth of the limit (and 64 KiB), since only its completion tells how far the
 * reader is: one send of the whole queue would make the low mark mean empty.
 *
 * Callbacks:
 *   - on_low, on_drained, on_error and the submit of a waiting finish come out of the send's own
 *     completion, and so before the handle's close callback, in which the writer is freed.
 *   - on_high is due inside a write, where callbacks may not run, and may not wait for the send,
 *     which is stuck just then. It comes at the end of the turn, by the link that starts the send.
 *   - on_high and on_low alternate, and a refused write counts as high, so that a program may
 *     always wait for on_low after PIER_ENOBUFS: whatever is queued then is in flight.
 *
 * A stall is looked for by a timer that compares, four times in stall_ns; the handle is paced, so
 * that its requests tell how far they are. When nothing has moved the send is cancelled. */

#include "pier/writer.h"

#include <string.h>

#include "base/options.h"
#include "ops/ops.h"
#include "ops/writer.h"

#define WRITER_LIMIT ((size_t)1 << 20)

#define WRITER_LOOKS 4 /* a stall is that many at which nothing had moved */

/* writer->level_ */
enum {
    WRITER_LOW,
    WRITER_HIGH,     /* high, and on_high is still to be called */
    WRITER_HIGH_TOLD /* high, and on_high was called */
};

static void writer_sent(struct pier_op *op);
static void writer_turn_ends(struct pier_turn_link *link);

/* ---- opening */

static int writer_check_options(struct pier_writer_options *chosen)
{
    if (chosen->limit == 0) {
        chosen->limit = WRITER_LIMIT;
    }
    if (chosen->high == 0) {
        chosen->high = chosen->limit - chosen->limit / 2;
    }
    if (chosen->low == 0) {
        chosen->low = chosen->high / 4;
    }
    if (chosen->high > chosen->limit) {
        return pier__fail(PIER_EINVAL,
                          "writer option high is %zu, above the limit of %zu: lower it",
                          chosen->high, chosen->limit);
    }
    if (chosen->low > chosen->high) {
        return pier__fail(PIER_EINVAL,
                          "writer option low is %zu, above high, which is %zu: lower it",
                          chosen->low, chosen->high);
    }
    return 0;
}

static size_t writer_send_size(size_t limit)
{
    size_t most = limit / 8;
    return most < PIER__WRITER_SEND_MIN   ? PIER__WRITER_SEND_MIN
           : most > PIER__WRITER_SEND_MAX ? PIER__WRITER_SEND_MAX
                                          : most;
}

int pier_writer_open_for(struct pier_writer *writer, size_t writer_size, struct pier_handle *handle,
                         const struct pier_writer_options *options, size_t options_size)
{
    struct pier_writer_options chosen = {0};
    if (writer_size < sizeof(*writer)) {
        return pier__fail(PIER_EINVAL,
                          "struct pier_writer has %zu bytes in the program and %zu in the library: "
                          "compile it against the headers of version " PIER_VERSION_STRING,
                          writer_size, sizeof(*writer));
    }
    int error = pier__take_options(&chosen, sizeof(chosen), options, options_size, "writer");
    if (error < 0 || (error = writer_check_options(&chosen)) < 0) {
        return error;
    }
    if (!pier_handle_is_open(handle)) {
        return pier__fail(PIER_ECLOSED, "the writer's handle is closed or closing: open it first");
    }
    memset(writer, 0, writer_size);
    writer->handle_ = handle;
    writer->loop_ = handle->loop_;
    writer->turn_.fn = writer_turn_ends;
    writer->most_ = writer_send_size(chosen.limit);
    if (chosen.stall_ns != 0) {
        pier__handle_pace(handle);
    }
    writer->options_ = chosen;
    return 0;
}

/* ---- watermarks */

static void writer_tell_high(struct pier_writer *writer)
{
    writer->level_ = WRITER_HIGH_TOLD;
    if (writer->options_.on_high != NULL) {
        writer->options_.on_high(writer);
    }
}

/* The queue is high. */
static void writer_rise(struct pier_writer *writer)
{
    if (writer->level_ == WRITER_LOW) {
        writer->level_ = WRITER_HIGH;
        pier__loop_at_turn_end(writer->loop_, &writer->turn_);
    }
}

/* The queue has shrunk to the low mark, inside a completion. */
static void writer_fall(struct pier_writer *writer)
{
    /* It drained before the turn's end: the two calls are a pair all the same. */
    if (writer->level_ == WRITER_HIGH) {
        writer_tell_high(writer);
        if (writer->queued_ > writer->options_.low) {
            return; /* written there: on_low comes when that has gone */
        }
    }
    /* Low only now, so that a write in on_high doesn't start the next pair before this one ends. */
    writer->level_ = WRITER_LOW;
    if (writer->queued_ >= writer->options_.high) {
        writer_rise(writer);
    }
    if (writer->options_.on_low != NULL && pier_handle_is_open(writer->handle_)) {
        writer->options_.on_low(writer);
    }
}

/* ---- sending */

static void writer_submit(struct pier_writer *writer)
{
    unsigned kind = pier__writer_name(writer);
    pier__send_submit_held(writer->handle_, &writer->op_, kind, writer_sent);
    pier__loop_at_turn_end(writer->loop_, &writer->turn_);
}

/* Starts the held send. One that is alone is taken back and sent anew, since pier_send() has a
 * faster road than the start of an op that waited. */
static void writer_start(struct pier_writer *writer)
{
    struct pier_op *op = &writer->op_;
    if (op->state_ != PIER__QUEUED) {
        return; /* something else has started it, or it's over */
    }
    if (PIER__LIKELY(pier__send_take_back(writer->handle_, op))) {
        pier_send(writer->handle_, op, op->data, op->size, writer_sent);
    } else {
        pier__op_start_direction(writer->loop_, writer->handle_, PIER__SENDING);
    }
}

/* ---- stalls */

/* Bytes of which is known that they are gone. */
static uint64_t writer_gone(const struct pier_writer *writer)
{
    return writer->written + (writer->sending_ > 0 ? writer->op_.done : 0);
}

/* Whether other sends of the handle are before the writer's. */
static bool writer_waits(const struct pier_writer *writer)
{
    return writer->handle_->head_[PIER__SENDING] != &writer->op_ ||
           writer->op_.state_ != PIER__ACTIVE;
}

static void writer_look(struct pier_op *op);

static void writer_look_later(struct pier_writer *writer)
{
    writer->look_.flags |= PIER_BACKGROUND;
    pier_timer(writer->loop_, &writer->look_, writer->options_.stall_ns / WRITER_LOOKS + 1,
               writer_look);
}

/* Something is queued and was tried. */
static void writer_watch(struct pier_writer *writer)
{
    if (!pier_op_pending(&writer->look_)) {
        writer->seen_ = writer_gone(writer);
        writer->quiet_ = 0;
        writer->fresh_ = writer_waits(writer);
        writer_look_later(writer);
    }
}

/* The time of a send that waits behind others, of the program's own, doesn't count: those may have
 * limits of their own. */
static void writer_look(struct pier_op *op)
{
    struct pier_writer *writer = PIER_OWNER(op, struct pier_writer, look_);
    if (op->result < 0 || writer->sending_ == 0) {
        return; /* cancelled by a drain; or all is gone, and the next write begins anew */
    }
    uint64_t now_gone = writer_gone(writer);
    bool waits = writer_waits(writer);
    if (writer->fresh_ || now_gone != writer->seen_ || waits) {
        writer->fresh_ = waits; /* whatever of this time it waited, it counts from the next look */
        writer->seen_ = now_gone;
        writer->quiet_ = 0;
    } else if (++writer->quiet_ >= WRITER_LOOKS) {
        writer->quiet_ = 0;
        writer->asks_ = true;
        pier_cancel(&writer->op_);
    }
    writer_look_later(writer);
}

/* What the end of the send means to a writer whose own cancel it may be: 0 to go on. On iocp bytes
 * may have gone unseen: the rest is sent anew, unless sends of the program's would overtake it. */
static int64_t writer_judge(struct pier_writer *writer, int64_t result)
{
    bool asked = writer->asks_;
    writer->asks_ = false;
    if (!asked || result != PIER_ECANCELED) {
        return result;
    }
    if (writer->written == writer->seen_ || writer->handle_->head_[PIER__SENDING] != NULL) {
        return PIER_ETIMEDOUT;
    }
    writer->seen_ = writer->written;
    return 0;
}

/* ---- the end of the turn */

static void writer_turn_ends(struct pier_turn_link *link)
{
    struct pier_writer *writer = PIER_OWNER(link, struct pier_writer, turn_);
    writer_start(writer);
    if (writer->options_.stall_ns != 0 && writer->sending_ > 0 &&
        writer->op_.state_ != PIER__DONE) {
        writer_watch(writer);
    }
    if (writer->level_ == WRITER_HIGH && pier_handle_is_open(writer->handle_)) {
        writer->loop_->budget--; /* it's a callback of the turn */
        writer_tell_high(writer);
    }
}

/* ---- writing */

/* Whether `size` more bytes may be queued; makes room for them. */
static int writer_admit(struct pier_writer *writer, size_t size, const char *function)
{
    if (PIER__UNLIKELY(writer->error != 0)) {
        return (int)writer->error;
    }
    if (PIER__UNLIKELY(writer->ended_)) {
        return PIER_ECLOSED;
    }
    PIER_REQUIRE(writer->loop_ != NULL, function, "the writer must be open");
    PIER_REQUIRE(pier__loop_on_thread(writer->loop_), function,
                 "must be called on the loop's thread");
    if (PIER__UNLIKELY(!pier_handle_is_open(writer->handle_))) {
        return PIER_ECLOSED;
    }
    size_t limit = writer->options_.limit;
    if (PIER__UNLIKELY(size > limit)) {
        return pier__fail(
            PIER_EMSGSIZE,
            "a write of %zu bytes never fits under the writer's limit of %zu: split it "
            "or raise the limit",
            size, limit);
    }
    if (PIER__UNLIKELY(size > limit - writer->queued_)) {
        writer_rise(writer);
        return PIER_ENOBUFS;
    }
    if (size > writer->capacity_ - writer->queued_) {
        return pier__writer_make_room(writer, writer->queued_ + size);
    }
    return 0;
}

/* Bytes were appended: they go with the held send or a new one, or wait for the one in flight. */
static void writer_appended(struct pier_writer *writer)
{
    if (writer->sending_ == 0) {
        writer->fresh_ = true;
        writer_submit(writer);
    } else if (writer->op_.next_ == NULL && writer->sending_ < writer->most_ &&
               pier__writer_is_held(writer)) {
        writer->op_.kind_ = (uint8_t)pier__writer_name(writer);
    }
    if (writer->queued_ >= writer->options_.high) {
        writer_rise(writer);
    }
}

int pier_writer_write(struct pier_writer *writer, const void *data, size_t size)
{
    int error = writer_admit(writer, size, "pier_writer_write");
    if (error != 0 || size == 0) {
        return error;
    }
    pier__writer_append(writer, data, size);
    writer_appended(writer);
    return 0;
}

int pier_writer_write_vectored(struct pier_writer *writer, const struct pier_vector *vectors,
                               size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size = vectors[i].size > SIZE_MAX - size ? SIZE_MAX : size + vectors[i].size;
    }
    int error = writer_admit(writer, size, "pier_writer_write_vectored");
    if (error != 0 || size == 0) {
        return error;
    }
    for (size_t i = 0; i < count; i++) {
        pier__writer_append(writer, vectors[i].data, vectors[i].size);
    }
    writer_appended(writer);
    return 0;
}

/* ---- completions */

static void writer_submit_finish(struct pier_writer *writer)
{
    struct pier_op *op = writer->finish_;
    writer->finish_ = NULL;
    if (op == NULL) {
        return;
    }
    /* After an error the peer mustn't be told of an end: it would take what it has for all. */
    if (writer->error != 0) {
        pier__op_submit_failed(writer->handle_, op, PIER__OP_SHUTDOWN, writer->finish_fn_,
                               (int)writer->error);
    } else {
        pier_shutdown(writer->handle_, op, writer->finish_fn_);
    }
}

static void writer_fail(struct pier_writer *writer, int64_t error)
{
    writer->error = error;
    writer->queued_ = 0;
    writer->level_ = WRITER_LOW;
    pier__writer_drop_ring(writer);
    pier_timer_stop(&writer->look_);
    writer_submit_finish(writer);
    if (writer->options_.on_error != NULL && pier_handle_is_open(writer->handle_)) {
        writer->options_.on_error(writer);
    }
}

/* Submits what comes next before it calls back. The writer's memory is safe until this returns,
 * since the close callback runs later whatever a callback of the writer does. */
static void writer_sent(struct pier_op *op)
{
    struct pier_writer *writer = PIER_OWNER(op, struct pier_writer, op_);
    pier__writer_drop_retired(writer);
    writer->sending_ = 0;
    writer->written += op->done;
    pier__writer_consume(writer, (size_t)op->done);
    int64_t error = writer_judge(writer, op->result);
    if (PIER__UNLIKELY(error < 0)) {
        writer_fail(writer, error);
        return;
    }
    bool drained = writer->queued_ == 0;
    if (drained) {
        pier__writer_drop_ring(writer);
        writer_submit_finish(writer);
    } else {
        writer_submit(writer);
    }
    if (writer->level_ != WRITER_LOW && writer->queued_ <= writer->options_.low) {
        writer_fall(writer);
    }
    if (drained && writer->options_.on_drained != NULL && writer->queued_ == 0 &&
        pier_handle_is_open(writer->handle_)) {
        writer->options_.on_drained(writer);
    }
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
    PIER_REQUIRE(!writer->ended_, function, "the writer was finished already");
    pier__handle_require_open(writer->handle_, function);
    writer->ended_ = true;
    writer->finish_ = op;
    writer->finish_fn_ = fn;
    if (writer->sending_ == 0) {
        writer_submit_finish(writer);
    }
}

void pier_writer_free(struct pier_writer *writer)
{
    if (writer->loop_ == NULL) {
        return;
    }
    PIER__REQUIRE_THREAD(writer->loop_, "pier_writer_free");
    PIER_REQUIRE(writer->sending_ == 0, "pier_writer_free",
                 "a send is in flight: close the handle, and free the writer when it is closed");
    pier__turn_link_remove(&writer->turn_);
    pier__timer_withdraw(&writer->look_);
    pier__writer_drop_ring(writer);
    writer->loop_ = NULL;
    writer->queued_ = 0;
    writer->ended_ = true;
}
