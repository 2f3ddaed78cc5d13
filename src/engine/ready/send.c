/* send.c - the sending direction of the readiness engine: send, connect, shutdown.
 *
 * A send is tried at once, inside the submit: the usual one fits into the socket's buffer and is
 * done without the poller hearing of it. When the buffer is full (PIER__BLOCKED) the sends wait for
 * writability; what has queued up meanwhile goes out in merged, vectored calls. */

#include "engine/ready/ready.h"

/* Calls per turn for one handle whose other end takes all that it's given. */
#define CALLS_MAX 16

/* The buffer is full: holds lent memory until the send is over, and waits. */
PIER__COLD static void block(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                             int64_t why)
{
    pier__op_hold(loop, op);
    if (why != PIER_EAGAIN) {
        pier__loop_starve(
            loop, handle); /* the system is short of memory: no event will tell when that's over */
        return;
    }
    handle->bits_ |= PIER__BLOCKED;
    int error = pier__ready_want(loop, handle);
    if (error == PIER_ENOMEM || error == PIER_ENOSPC) {
        pier__loop_starve(loop, handle);
    } else if (error < 0) {
        pier__handle_clear(handle, PIER__BLOCKED);
        pier__op_fail(loop, op, error, pier__sys_code());
    }
}

static bool is_wait(int64_t result)
{
    return result == PIER_EAGAIN || result == PIER_ENOBUFS || result == PIER_ENOMEM;
}

static int64_t transmit_vectored(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_vector vectors[PIER__VECTORS_MAX];
    struct pier_op *last;
    size_t count = pier__send_gather(handle, vectors, PIER__VECTORS_MAX, &last);
    if (count == 0) {
        return 0; /* vectors of nothing at the head */
    }
    loop->counters.system_calls++;
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        return pier__sys_send_vectored(handle->descriptor_, vectors, count);
    }
    return pier__sys_write_vectored(handle->descriptor_, vectors, count,
                                    (handle->bits_ & PIER__CAUTIOUS) != 0);
}

static int64_t transmit_one(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    const char *data = (const char *)op->data + op->done;
    size_t size = op->size - (size_t)op->done;
    loop->counters.system_calls++;
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        return pier__sys_send(handle->descriptor_, data, size);
    }
    return pier__sys_write(handle->descriptor_, data, size, (handle->bits_ & PIER__CAUTIOUS) != 0);
}

/* Sends what the handle's sends have, until it's all gone, blocks, or something else is at the
 * head. The direction is marked as starting, so that finishing one send doesn't start the next from
 * inside. */
static void send_queued(struct pier_loop *loop, struct pier_handle *handle)
{
    unsigned left = CALLS_MAX;
    uint32_t before = pier__direction_hold(handle, PIER__SENDING);
    struct pier_op *op;
    while ((op = handle->head_[PIER__SENDING]) != NULL &&
           (op->kind_ == PIER__OP_SEND || op->kind_ == PIER__OP_SEND_VECTORED)) {
        if (op->state_ == PIER__QUEUED) {
            pier__op_move(op, PIER__ACTIVE);
        }
        if (left-- == 0) {
            pier__op_hold(loop, op);
            pier__handle_serve_later(loop, handle);
            break;
        }
        int64_t result = op->next_ == NULL && op->kind_ == PIER__OP_SEND && op->size != 0
                             ? transmit_one(loop, handle, op)
                             : transmit_vectored(loop, handle);
        if (result >= 0) {
            pier__send_advance(loop, handle, (uint64_t)result);
        } else if (is_wait(result)) {
            block(loop, handle, op, result);
            break;
        } else if (result != PIER_EINTR) {
            pier__op_fail(loop, op, result, pier__sys_code());
        }
    }
    pier__direction_let_go(handle, PIER__SENDING, before);
    pier__op_start_direction(loop, handle, PIER__SENDING);
}

/* Goes on with a send of which the system took `result` bytes, or none for an error. */
PIER__COLD void pier__ready_tried(struct pier_loop *loop, struct pier_handle *handle,
                                  struct pier_op *op, int64_t result)
{
    if (result >= 0) {
        op->done = (uint64_t)result;
        loop->counters.sent_bytes += op->done;
        pier__progress_note(handle);
        if (op->done == op->size) {
            loop->counters.sends++;
            pier__op_finish(loop, op, result);
        } else {
            send_queued(loop, handle);
        }
    } else if (is_wait(result)) {
        block(loop, handle, op, result);
    } else if (result == PIER_EINTR) {
        send_queued(loop, handle);
    } else {
        pier__op_fail(loop, op, result, pier__sys_code());
    }
}

void pier__ready_start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(handle->bits_ & PIER__BLOCKED)) {
        pier__op_hold(loop, op);
        if (pier__ready_want(loop, handle) < 0) {
            pier__loop_starve(loop, handle);
        }
        return;
    }
    if (PIER__UNLIKELY(op->kind_ != PIER__OP_SEND)) {
        send_queued(loop, handle);
        return;
    }
    pier__ready_tried(loop, handle, op, transmit_one(loop, handle, op));
}

void pier__ready_connect(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    const struct pier__address_block *block = op->use_.address;
    if (block == NULL) {
        pier__op_finish(loop, op, PIER_ENOMEM);
        return;
    }
    if (handle->kind_ != PIER__KIND_STREAM || !(handle->bits_ & PIER__UNCONNECTED)) {
        pier__op_finish(loop, op, handle->kind_ == PIER__KIND_STREAM ? PIER_EISCONN : PIER_ENOTSUP);
        return;
    }
    loop->counters.system_calls++;
    int result = pier__sys_connect(handle->descriptor_, &block->address);
    if (result == PIER__IN_PROGRESS) {
        handle->bits_ |= PIER__CONNECTING;
        result = pier__ready_want(loop, handle);
        if (result == 0) {
            return;
        }
    }
    handle->bits_ |= PIER__CONNECTING;
    if (result == PIER_EAGAIN && handle->family_ == PIER_ADDRESS_UNIX) {
        /* The listener's backlog is full, and no event will tell of room. */
        pier__loop_starve(loop, handle);
        return;
    }
    op->os_error = result < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, result);
}

void pier__ready_shutdown(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (handle->kind_ != PIER__KIND_STREAM) {
        pier__op_finish(loop, op, PIER_ENOTSUP);
        return;
    }
    loop->counters.system_calls++;
    int result = pier__sys_shutdown(handle->descriptor_);
    op->os_error = result < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, result);
}

void pier__ready_writable(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_op *op = handle->head_[PIER__SENDING];
    if (op != NULL && op->kind_ == PIER__OP_CONNECT && op->state_ == PIER__ACTIVE) {
        loop->counters.system_calls++;
        int result = pier__sys_connect_result(handle->descriptor_);
        op->os_error = result < 0 ? pier__sys_code() : 0;
        pier__op_finish(loop, op, result);
        return;
    }
    pier__handle_clear(handle, PIER__BLOCKED);
    if (op != NULL) {
        send_queued(loop, handle);
    }
}
