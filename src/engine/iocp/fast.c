/* fast.c - the fast roads on iocp: a send into an empty queue, and the packets of the ordinary
 * sends and receives of a connection, with nothing behind them.
 *
 * One look says that nothing else is going on; then the functions of core/end.h follow with what is
 * known written out. All else goes to ops.c, send.c and receive.c, with the same results. */

#include "engine/iocp/iocp.h"

/* ---- sending */

/* Apart, so that the fast road saves no registers for it. */
PIER__NOINLINE static void send_slow_iocp(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    pier__loop_clock_of_turn(loop);
    pier__op_begin_alone(loop, handle, op, PIER__SENDING,
                         pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0));
    pier__iocp_start_send(loop, handle, op);
}

/* A send that isn't over, or not all of it. */
PIER__NOINLINE static void send_goes_on(struct pier_handle *handle, struct pier_op *op,
                                        int64_t result)
{
    struct pier_loop *loop = handle->loop_;
    loop->counters.system_calls++;
    pier__loop_clock_of_turn(loop);
    pier__op_begin_alone(loop, handle, op, PIER__SENDING,
                         pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0));
    pier__iocp_tried(loop, handle, op, result);
}

void pier__iocp_send(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    if (PIER__UNLIKELY(!(handle->engine_.iocp.requests & PIER__ASSOCIATED))) {
        send_slow_iocp(handle, op);
        return;
    }
    struct pier_vector all = {.data = op->data, .size = op->size};
    int64_t result = pier__sys_start_send(handle->descriptor_, &all, 1, pier__iocp_request(op),
                                          pier__iocp_skips(handle));
    if (PIER__UNLIKELY(result < 0 || (uint64_t)result != op->size)) {
        send_goes_on(handle, op, result);
        return;
    }
    pier__op_clear_flags(op);
    op->owner_ = handle;
    loop->sends_at_once++;
    loop->counters.sent_bytes += (uint64_t)result;
    if (op->fn != NULL) {
        pier__loop_clock_of_turn(loop);
        pier__op_begin_finished(loop, op, PIER__OP_SEND, result);
        return;
    }
    op->result = result;
    op->done = (uint64_t)result;
}

/* ---- packets */

/* All that was left of a send went. */
static void finish_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (op->bits_ & PIER__HOLDS) {
        pier__op_clear(op, PIER__HOLDS);
        pier__op_release(loop, op);
    }
    handle->engine_.iocp.requests &= (unsigned char)~PIER__SEND_BUSY;
    loop->counters.sends++;
    loop->counters.sent_bytes += op->size - op->done;
    pier__op_finish_alone(loop, handle, op, PIER__OP_SEND, PIER__SENDING, (int64_t)op->size);
    if (op->fn != NULL) {
        pier__loop_call(loop, op);
    }
}

static void finish_receive(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                           uint64_t bytes)
{
    handle->engine_.iocp.requests &= (unsigned char)~PIER__RECEIVE_BUSY;
    loop->counters.receives++;
    loop->counters.received_bytes += bytes;
    pier__op_finish_alone(loop, handle, op, PIER__OP_RECEIVE, PIER__RECEIVING, (int64_t)bytes);
    pier__loop_call(loop, op);
}

/* The callback of a lent buffer is back. */
static inline void lend_ends(struct pier_loop *loop, struct pier_buffer *buffer)
{
    if (PIER__LIKELY(pier__lend_over(loop, buffer))) {
        pier__pool_return_spare(loop, buffer);
    }
}

/* Data for a multishot receive. It stays in flight at least until its end is delivered, so that the
 * handle stays as well. */
static void deliver_each(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                         struct pier_buffer *buffer, int64_t result)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    pier__lend(loop, buffer, handle, op, (size_t)result);
    op->done += (uint64_t)result;
    op->result = result;
    op->flags = PIER_MORE | PIER_LENT; /* background ops have another word */
    pier__loop_call(loop, op);
    lend_ends(loop, buffer);
    if (loop->completed.head != NULL) {
        pier__loop_deliver(loop);
        if (pier__slot_handle(loop, key) != handle) {
            return;
        }
    }
    pier__iocp_serve_lent(loop, handle);
}

/* The same for one that ends with it. Afterwards op and handle are the caller's. */
static void deliver_one_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                             struct pier_buffer *buffer, int64_t result)
{
    pier__lend(loop, buffer, handle, op, (size_t)result);
    op->flags = PIER_LENT;
    pier__op_finish_alone(loop, handle, op, PIER__OP_RECEIVE_LENT, PIER__RECEIVING, result);
    pier__loop_call(loop, op);
    lend_ends(loop, buffer);
}

/* There is something for a lent receive. False, with nothing done, when it's for the slow road. */
static bool receive_lent_now(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier_buffer *buffer = loop->pool.spare;
    if (PIER__UNLIKELY(buffer == NULL || handle->lent_ != 0 ||
                       (handle->bits_ & (PIER__LISTED | PIER__ADOPTED)) ||
                       pier__iocp_has_had_share(loop, handle))) {
        return false;
    }
    pier__pool_unpoison(&loop->pool, buffer);
    int64_t result = pier__sys_receive(handle->descriptor_, buffer->memory, loop->pool.buffer_size);
    handle->engine_.iocp.requests &= (unsigned char)~PIER__RECEIVE_BUSY;
    if (PIER__UNLIKELY(result <= 0)) {
        loop->counters.system_calls++;
        if (result == PIER_EAGAIN || result == PIER_EINTR) {
            pier__iocp_start_lent(loop, handle, op); /* somebody else has taken it: waits again */
        } else {
            handle->engine_.iocp.requests |= PIER__READABLE;
            pier__iocp_no_data(loop, handle, op, result);
        }
        return true;
    }
    if ((size_t)result == loop->pool.buffer_size) {
        handle->engine_.iocp.requests |= PIER__READABLE; /* there may be more */
    }
    loop->receives_at_once++;
    if (op->bits_ & PIER__MULTISHOT) {
        deliver_each(loop, handle, op, buffer, result);
    } else {
        deliver_one_lent(loop, handle, op, buffer, result);
    }
    return true;
}

/* Takes the packet of a request that succeeded. False, with nothing done, when it's for the slow
 * road. */
static bool take_fast(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      uint64_t bytes)
{
    const uint32_t send = pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0);
    const uint32_t holds = send ^ pier__word_of(PIER__OP_SEND, PIER__ACTIVE, PIER__HOLDS);
    const uint32_t each = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    const uint32_t lent = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0);
    const uint32_t memory = pier__word_of(PIER__OP_RECEIVE, PIER__ACTIVE, 0);
    uint32_t word = pier__op_word(op);
    if (PIER__UNLIKELY(handle->kind_ != PIER__KIND_STREAM || op->next_ != NULL ||
                       (handle->bits_ & (PIER__CLOSED_TO_USER | PIER__STARVED)) ||
                       loop->completed.head != NULL)) {
        return false;
    }
    if (word == each || word == lent) {
        return receive_lent_now(loop, handle, op);
    }
    if ((word & ~holds) == send && bytes == op->size - op->done) {
        finish_send(loop, handle, op);
        return true;
    }
    if (word == memory && bytes > 0) {
        finish_receive(loop, handle, op, bytes);
        return true;
    }
    return false;
}

void pier__iocp_completed(struct pier_loop *loop, struct pier_op *op)
{
    uint64_t bytes;
    int error = pier__sys_outcome(pier__iocp_request(op), &bytes);
    if (PIER__UNLIKELY(error < 0) || !take_fast(loop, op->owner_, op, bytes)) {
        pier__iocp_completed_slow(loop, op, bytes, error);
    }
}
