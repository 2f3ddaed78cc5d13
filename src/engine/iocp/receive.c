/* receive.c - lent receives on iocp.
 *
 * What waits in the system is a receive of nothing: it completes when there is data, and holds no
 * buffer. Then data is received without waiting into the top of the pool, for as long as there is
 * some and the handle has a share of the turn left; then the system is asked to wait again. So
 * nothing is ever taken from the system that isn't delivered at once, and a paused op has nothing
 * to hold. PIER__READABLE says that receiving is worth a try; of files it always holds. */

#include "engine/iocp/iocp.h"

static void pause_for_buffers(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->counters.buffer_pauses++;
    pier__loop_starve(loop, handle);
}

static int64_t receive_now(struct pier_loop *loop, struct pier_handle *handle, void *memory,
                           size_t size)
{
    const struct pier__iocp *iocp = pier__iocp_of(loop);
    loop->counters.system_calls++;
    if (PIER__UNLIKELY(pier__iocp_is_pipe(handle))) {
        return pier__sys_read_pipe(handle->descriptor_, memory, size, iocp->event);
    }
    if (PIER__UNLIKELY(handle->kind_ == PIER__KIND_FILE)) {
        HANDLE event = handle->engine_.iocp.requests & PIER__SYNCHRONOUS ? NULL : iocp->event;
        int64_t result = pier__sys_read_at(handle->descriptor_, memory, size,
                                           pier__iocp_offset(handle), event);
        pier__iocp_advance_file(handle, result > 0 ? (uint64_t)result : 0);
        return result;
    }
    /* Somebody else's socket may be in blocking mode. */
    if ((handle->bits_ & PIER__ADOPTED) && !pier__sys_can_read(handle->descriptor_)) {
        return PIER_EAGAIN;
    }
    return pier__sys_receive(handle->descriptor_, memory, size);
}

/* Ends the op, inside wait(). */
static void end_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                     int64_t result)
{
    if (result == 0 && (handle->engine_.iocp.pipe & PIER__PIPE_MESSAGES)) {
        pier__iocp_pipe_note(handle, PIER__PIPE_ENDED);
    }
    result = pier__iocp_read_end(loop, handle, result);
    op->flags = (op->flags & PIER_BACKGROUND) | (result == 0 ? PIER_EOF : 0);
    op->os_error = result < 0 ? pier__sys_code() : 0;
    pier__op_finish_now(loop, op, result);
}

void pier__iocp_no_data(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                        int64_t result)
{
    if (result == PIER_EAGAIN || result == PIER_EINTR) {
        handle->engine_.iocp.requests &= (unsigned char)~PIER__READABLE;
    } else if (result == PIER_ENOMEM || result == PIER_ENOBUFS) {
        pause_for_buffers(loop, handle);
    } else {
        end_lent(loop, handle, op, result);
    }
}

static void receive_one(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = pier__pool_admits(loop, handle) ? pier__pool_fetch_spare(loop)
                                                                 : NULL;
    if (PIER__UNLIKELY(buffer == NULL)) {
        pause_for_buffers(loop, handle);
        return;
    }
    int64_t result = receive_now(loop, handle, buffer->memory, pool->buffer_size);
    if (PIER__UNLIKELY(result <= 0)) {
        pier__iocp_no_data(loop, handle, op, result);
        return;
    }
    if ((size_t)result < pool->buffer_size && handle->kind_ != PIER__KIND_FILE) {
        handle->engine_.iocp.requests &=
            (unsigned char)~PIER__READABLE; /* if there's more, the next request says so at once */
    }
    if (pier__op_received_lent(loop, handle, op, buffer, (size_t)result)) {
        pier__pool_return_spare(loop, buffer);
    }
}

/* Has the system tell when there is something. The op is at the head, active, not paused, and not
 * in the system. */
static void wait_for_data(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(handle->engine_.iocp.pipe & PIER__PIPE_ENDED)) {
        op->flags |= PIER_EOF;
        pier__op_finish(loop, op, 0);
        return;
    }
    int64_t result = pier__iocp_associate(handle);
    if (result == 0) {
        loop->counters.system_calls++;
        result = handle->kind_ == PIER__KIND_STREAM
                     ? pier__sys_start_receive(handle->descriptor_, NULL, 0, pier__iocp_request(op),
                                               pier__iocp_skips(handle))
                     : pier__sys_start_read(handle->descriptor_, NULL, 0, 0, pier__iocp_request(op),
                                            pier__iocp_skips(handle));
    }
    if (result == PIER__PACKET) {
        handle->engine_.iocp.requests |= PIER__RECEIVE_BUSY;
    } else if (result >= 0) {
        handle->engine_.iocp.requests |= PIER__READABLE;
        pier__handle_serve_later(loop, handle);
    } else if (result == PIER_ENOMEM || result == PIER_ENOBUFS) {
        pier__loop_starve(loop, handle);
    } else {
        result = pier__iocp_read_end(loop, handle, result);
        op->flags |= result == 0 ? PIER_EOF : 0;
        op->os_error = result < 0 ? pier__sys_code() : 0;
        pier__op_finish(loop, op, result);
    }
}

static struct pier_op *running_op(const struct pier_handle *handle)
{
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    return op != NULL && op->kind_ == PIER__OP_RECEIVE_LENT && op->state_ == PIER__ACTIVE &&
                   !(op->bits_ & PIER__PAUSED) && !pier__op_is_ending(op) &&
                   !(handle->engine_.iocp.requests & PIER__RECEIVE_BUSY) &&
                   !(handle->bits_ & (PIER__LISTED | PIER__CLOSING))
               ? op
               : NULL;
}

/* Inside wait(): runs the op at the head for as long as there is something. */
void pier__iocp_serve_lent(struct pier_loop *loop, struct pier_handle *handle)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    struct pier_op *op;
    while ((op = running_op(handle)) != NULL) {
        if (!(handle->engine_.iocp.requests & PIER__READABLE)) {
            wait_for_data(loop, handle, op);
            return;
        }
        if (loop->budget <= 0 || pier__iocp_has_had_share(loop, handle)) {
            pier__handle_serve_later(loop, handle);
            return;
        }
        receive_one(loop, handle, op);
        if (loop->completed.head != NULL && pier__slot_handle(loop, key) == handle) {
            pier__loop_deliver(loop);
        }
        if (pier__slot_handle(loop, key) != handle) {
            return;
        }
    }
}

void pier__iocp_start_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(handle->bits_ & PIER__STARVED)) {
        pier__loop_retry_soon(loop); /* what an earlier op was short of this one may not need */
    } else if (handle->engine_.iocp.requests & PIER__READABLE) {
        pier__handle_serve_later(loop, handle);
    } else {
        wait_for_data(loop, handle, op);
    }
}

/* A request of nothing succeeded on a pipe. Windows says so of any message; of one that isn't empty
 * there is something to be seen. */
static void look_for_end(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->engine_.iocp.pipe & PIER__PIPE_MESSAGES) {
        loop->counters.system_calls++;
        if (pier__sys_pipe_is_empty(handle->descriptor_)) {
            pier__iocp_pipe_note(handle, PIER__PIPE_ENDED);
            handle->engine_.iocp.requests &= (unsigned char)~PIER__READABLE;
        }
    }
}

void pier__iocp_lent_completed(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, int error)
{
    bool is_message = error == PIER_EMSGSIZE; /* one has come, and is longer than nothing */
    if (error == 0 || is_message) {
        error = 0;
        handle->engine_.iocp.requests |= PIER__READABLE;
        if (PIER__UNLIKELY(handle->kind_ == PIER__KIND_PIPE_STREAM) && !is_message) {
            look_for_end(loop, handle);
        }
    }
    if (pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (error < 0 && error != PIER_ECANCELED && (op->bits_ & PIER__PAUSED)) {
        handle->engine_.iocp.requests |= PIER__READABLE; /* the next receive is told the same */
    } else if (error < 0 && error != PIER_ECANCELED) {
        end_lent(loop, handle, op, error);
    } else if (!(op->bits_ & PIER__PAUSED)) {
        pier__iocp_serve_lent(loop, handle);
    }
}
