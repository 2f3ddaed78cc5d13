/* transfer.c - connecting, receiving, sending, shutting down: the ops that a handle's queues hold.
 *
 * Submitting notes the arguments in the op and calls pier__op_submit(). The ordinary receive and
 * the ordinary send have a fast road: one fused look at what could speak against it, and then the
 * functions of core/end.h with what is known written out. */

#include "core/engine.h"
#include "core/gather.h"
#include "ops/stream/stream.h"

void pier_connect(struct pier_handle *handle, struct pier_op *op,
                  const struct pier_address *address, pier_op_fn *fn)
{
    pier__require_fn(fn, "pier_connect");
    pier__handle_require_open(handle, "pier_connect");
    PIER_REQUIRE(op->state_ == PIER__IDLE, "pier_connect", "the op is in flight already");
    PIER_REQUIRE(address != NULL, "pier_connect", "no address was given");
    struct pier_loop *loop = handle->loop_;
    struct pier__address_block *block = pier__block_take(loop, &loop->core.addresses_free,
                                                         sizeof(*block));
    op->use_.address = block;
    if (block == NULL) {
        pier__op_submit(handle, op, PIER__OP_CONNECT, 0, fn,
                        "pier_connect"); /* the engine sees that it has none */
        return;
    }
    block->address = *address;
    pier__op_submit(handle, op, PIER__OP_CONNECT, PIER__ADDRESS, fn, "pier_connect");
}

/* ---- receiving */

/* Data and size of a receive into the caller's memory are in the op, unless that is in flight
 * already. */
PIER__COLD static void receive_slow(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                                    pier_op_fn *fn)
{
    const char *function = kind == PIER__OP_RECEIVE ? "pier_receive" : "pier_receive_lent";
    PIER_REQUIRE(fn != NULL, function, "the completion function is NULL");
    pier__op_submit(handle, op, kind, 0, fn, function);
}

/* The first receive of a handle on which nothing special is going on. Where the poller watches it
 * and nothing is there to be read, there is nothing to start: the op only becomes the head. */
static PIER__INLINE void begin_receive(struct pier_handle *handle, struct pier_op *op,
                                       unsigned kind, pier_op_fn *fn)
{
    const uint32_t fast = PIER__CLOSED_TO_USER | PIER__CONNECTING | PIER__FAILED |
                          PIER__RESTRICTED | PIER__OPEN;
    const uint32_t watched = PIER__LISTED | PIER__HAS_DATA | PIER__WATCHED;
    uint32_t bits = handle->bits_ & (fast | watched);
    if (PIER__UNLIKELY((bits & fast) != PIER__OPEN || handle->head_[PIER__RECEIVING] != NULL ||
                       handle->loop_->core.fast_thread != pier__thread_id ||
                       op->state_ != PIER__IDLE || fn == NULL || op->timeout_ns != 0)) {
        receive_slow(handle, op, kind, fn);
        return;
    }
    op->fn = fn;
    pier__op_begin_alone(handle->loop_, handle, op, PIER__RECEIVING,
                         pier__word_of(kind, PIER__ACTIVE, 0));
    if (bits != (PIER__OPEN | PIER__WATCHED)) {
        handle->calls_->start(handle, op);
    }
}

void pier_receive(struct pier_handle *handle, struct pier_op *op, void *memory, size_t size,
                  pier_op_fn *fn)
{
    if (PIER__LIKELY(op->state_ == PIER__IDLE)) {
        op->data = memory;
        op->size = size;
    }
    if (PIER__UNLIKELY(size == 0)) {
        receive_slow(handle, op, PIER__OP_RECEIVE, fn);
    } else {
        begin_receive(handle, op, PIER__OP_RECEIVE, fn);
    }
}

void pier_receive_lent(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn)
{
    begin_receive(handle, op, PIER__OP_RECEIVE_LENT, fn);
}

void pier_receive_each(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn)
{
    pier__require_fn(fn, "pier_receive_each");
    pier__op_submit(handle, op, PIER__OP_RECEIVE_LENT, PIER__MULTISHOT, fn, "pier_receive_each");
}

/* ---- sending */

PIER__COLD static void send_slow(struct pier_handle *handle, struct pier_op *op, const void *memory,
                                 size_t size, pier_op_fn *fn)
{
    if (op->state_ == PIER__IDLE) {
        op->data = (void *)(uintptr_t)memory;
        op->size = size;
    }
    pier__op_submit(handle, op, PIER__OP_SEND, 0, fn, "pier_send");
}

/* A send into an empty queue is the engine's without further checks. Where it is over at once, no
 * state is moved and nothing counted for an op that nobody could see in flight. The arguments wait
 * in the op, not in saved registers. */
void pier_send(struct pier_handle *handle, struct pier_op *op, const void *memory, size_t size,
               pier_op_fn *fn)
{
    const uint32_t fast = PIER__CLOSED_TO_USER | PIER__CONNECTING | PIER__FAILED | PIER__BLOCKED |
                          PIER__STARTING << PIER__SENDING | PIER__FAST_SENDS;
    if (PIER__UNLIKELY((handle->bits_ & fast) != PIER__FAST_SENDS ||
                       handle->head_[PIER__SENDING] != NULL ||
                       handle->loop_->core.thread != pier__thread_id || op->state_ != PIER__IDLE ||
                       size == 0 || op->timeout_ns != 0)) {
        send_slow(handle, op, memory, size, fn);
        return;
    }
    op->fn = fn;
    op->data = (void *)(uintptr_t)memory;
    op->size = size;
    handle->calls_->send(handle, op);
}

/* Whether the progress in these vectors may not fit into op->use_.sent. */
static bool are_long(const struct pier_vector *vectors, size_t count)
{
    bool is_long = count > UINT32_MAX;
    for (size_t i = 0; i < count && !is_long; i++) {
        is_long = vectors[i].size > UINT32_MAX;
    }
    return is_long;
}

void pier_send_vectored(struct pier_handle *handle, struct pier_op *op,
                        const struct pier_vector *vectors, size_t count, pier_op_fn *fn)
{
    unsigned bits = 0;
    if (PIER__LIKELY(op->state_ == PIER__IDLE)) {
        op->data = (void *)(uintptr_t)vectors;
        op->size = count;
        op->use_.sent.vectors = op->use_.sent.offset = 0;
        bits = are_long(vectors, count) ? PIER__LONG_VECTORS : 0;
    }
    pier__op_submit(handle, op, PIER__OP_SEND_VECTORED, bits, fn, "pier_send_vectored");
}

void pier_shutdown(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn)
{
    pier__require_fn(fn, "pier_shutdown");
    pier__op_submit(handle, op, PIER__OP_SHUTDOWN, 0, fn, "pier_shutdown");
}

/* ---- what the rows of kinds.c name */

void pier__stream_start(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    (void)loop;
    handle->calls_->start(handle, op);
}

void pier__stream_cancel(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    (void)loop;
    handle->calls_->cancel(handle, op);
}

void pier__stream_pause(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    (void)loop;
    if (op->state_ == PIER__ACTIVE && handle->calls_->pause != NULL) {
        handle->calls_->pause(handle, op);
    }
}

void pier__stream_resume(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    (void)loop;
    handle->calls_->resume(handle, op);
}

int pier__refuse_accept(const struct pier_handle *handle, const struct pier_op *op)
{
    (void)op;
    return pier__handle_listens(handle) ? 0 : PIER_EINVAL;
}

int pier__refuse_connect(const struct pier_handle *handle, const struct pier_op *op)
{
    (void)op;
    return pier__handle_listens(handle) ? PIER_EISCONN : 0;
}

/* What neither direction of a handle of this sort can do, which not every engine would find out:
 * kqueue would wait for ever. */
static int refuse_transfer(const struct pier_handle *handle, uint32_t lacks)
{
    if (pier__handle_listens(handle) || (handle->bits_ & PIER__UNCONNECTED)) {
        return PIER_ENOTCONN;
    }
    return handle->bits_ & lacks ? PIER_EBADF : 0;
}

int pier__refuse_receive(const struct pier_handle *handle, const struct pier_op *op)
{
    (void)op;
    return refuse_transfer(handle, PIER__WRITE_ONLY);
}

int pier__refuse_send(const struct pier_handle *handle, const struct pier_op *op)
{
    (void)op;
    return refuse_transfer(handle, PIER__READ_ONLY);
}
