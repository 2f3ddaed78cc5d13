/* end.c - how ops finish and are delivered: what end.h has no inline function for. */

#include "core/engine.h"

#include "core/remote.h"

void pier__op_clean_up(struct pier_loop *loop, struct pier_op *op)
{
    if (op->bits_ & PIER__TIMED) {
        pier__op_unlink(loop, op);
        op->timeout_ns = 0; /* which keeps a limit of progress meanwhile */
    }
    if (op->bits_ & PIER__TOKEN) {
        pier__token_release(loop, op);
    }
    if (op->bits_ & PIER__HOLDS) {
        pier__op_release(loop, op);
    }
    if (op->bits_ & PIER__ADDRESS) {
        struct pier__address_block *block = op->use_.address;
        pier__block_put(&loop->core.addresses_free, &block->block);
    }
    pier__op_clear(op, PIER__CLEAN_UP);
}

/* ---- lent memory that a send names */

void pier__op_hold_slow(struct pier_loop *loop, struct pier_op *op)
{
    if (PIER__LIKELY(op->kind_ == PIER__OP_SEND)) {
        struct pier_buffer *buffer = pier__pool_hold(loop, op->data);
        if (buffer != NULL) {
            pier__op_set(op, PIER__HOLDS);
            op->use_.buffer = buffer;
        }
        return;
    }
    const struct pier_vector *vectors = op->data;
    pier__op_set(op, PIER__LOOKED_THROUGH);
    for (size_t i = 0; i < op->size; i++) {
        if (vectors[i].size != 0 && pier__pool_hold(loop, vectors[i].data) != NULL) {
            pier__op_set(op, PIER__HOLDS);
        }
    }
}

void pier__op_release(struct pier_loop *loop, struct pier_op *op)
{
    if (PIER__LIKELY(op->kind_ == PIER__OP_SEND)) {
        pier__pool_drop(loop, op->use_.buffer);
        return;
    }
    const struct pier_vector *vectors = op->data;
    for (size_t i = 0; i < op->size; i++) {
        struct pier_buffer *buffer = vectors[i].size == 0
                                         ? NULL
                                         : pier__pool_find(&loop->pool, vectors[i].data);
        if (buffer != NULL && buffer->refs > 0) {
            pier__pool_drop(loop, buffer);
        }
    }
}

/* ---- finish */

/* Everything of a finish but leaving the queue and the delivery. A multishot op may be finished
 * inside the callback of one of its events, by a cancel or a close: that event stays whole until
 * the callback returns, so the outcome is noted and comes into the op with its delivery. */
static inline void conclude(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    if (PIER__UNLIKELY(result < 0) && pier__op_is_ending(op) && result == pier__op_reason(op)) {
        op->os_error = 0;
        loop->counters.cancels += (op->bits_ & PIER__INTERNAL) == 0;
    }
    if (PIER__UNLIKELY(op->bits_ & PIER__CLEAN_UP)) {
        pier__op_clean_up(loop, op);
    }
    if (PIER__LIKELY((op->bits_ & PIER__MULTISHOT) == 0)) {
        op->result = result;
        op->flags &= PIER_BACKGROUND | PIER_EOF | PIER_LENT;
    } else {
        op->timer_.deadline_ns = (uint64_t)result;
    }
}

/* Takes the op out of its handle's queue. Returns the op that became head, if another did. */
static inline struct pier_op *leave_queue(struct pier_handle *handle, struct pier_op *op,
                                          unsigned direction)
{
    if (PIER__LIKELY(handle->head_[direction] == op)) {
        handle->head_[direction] = op->next_;
        return op->next_;
    }
    struct pier_op *before = handle->head_[direction];
    while (before->next_ != op) {
        before = before->next_;
    }
    before->next_ = op->next_;
    if (handle->tail_[direction] == op) {
        handle->tail_[direction] = before;
    }
    return NULL;
}

/* The outcome of a connect that was started decides about everything that waited for it. One that
 * ends behind another decides nothing. */
static void connect_finished(struct pier_loop *loop, struct pier_handle *handle, int64_t result)
{
    pier__handle_clear(handle, PIER__CONNECTING);
    if (result < 0) {
        handle->bits_ |= PIER__FAILED;
    } else {
        pier__handle_clear(handle, PIER__UNCONNECTED | PIER__RESTRICTED);
        pier__handle_note_fast_sends(handle);
        loop->counters.connects++;
    }
    pier__op_start_direction(loop, handle, PIER__RECEIVING);
}

/* Ends what stands in the sending queue from `first` on. */
static void end_from(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *first,
                     int64_t result)
{
    struct pier_op **link = &handle->head_[PIER__SENDING], *last = NULL;
    while (*link != first) {
        last = *link;
        link = &last->next_;
    }
    *link = NULL;
    handle->tail_[PIER__SENDING] = last;
    while (first != NULL) {
        struct pier_op *op = first;
        first = op->next_;
        conclude(loop, op, result);
        pier__op_move(op, PIER__DONE);
        if (op->fn != NULL) {
            pier__queue_push(&loop->completed, op);
        } else {
            pier__op_leave(loop, op);
        }
    }
}

/* Nobody is told how a silent send ended. Were others to follow one that ended without all its
 * bytes, the stream would have a gap that shows nowhere: so they end with its error, those that
 * wait behind it and those to come (op.c). Requests of what waits are over, if there were any. */
PIER__COLD void pier__send_break(struct pier_loop *loop, struct pier_handle *handle,
                                 struct pier_op *behind, int64_t result)
{
    if (handle->bits_ & (PIER__BROKEN | PIER__CLOSING)) {
        return; /* the first reason stays */
    }
    if ((handle->bits_ & (PIER__UNCONNECTED | PIER__CONNECTING)) == PIER__UNCONNECTED) {
        return; /* there is no stream yet that could have a gap */
    }
    handle->bits_ |= PIER__BROKEN;
    handle->broken_ = (uint8_t)-result;
    pier__handle_clear(handle, PIER__FAST_SENDS);
    end_from(loop, handle, behind, result);
}

/* An op has left the queue: the next one's turn, or a close's if there is none. */
static inline void continue_queue(struct pier_loop *loop, struct pier_handle *handle,
                                  unsigned direction, struct pier_op *next)
{
    if (next != NULL) {
        pier__op_start_direction(loop, handle, direction);
    } else if (PIER__UNLIKELY(handle->bits_ & PIER__CLOSED_TO_USER)) {
        pier__handle_try_close(handle);
    }
}

/* Ops that wait in no direction's queue. */
static void finish_unordered(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    pier__op_unlink(loop, op);
    conclude(loop, op, result);
    pier__op_move(op, PIER__DONE);
    if (pier__op_has_handle(op)) {
        struct pier_handle *handle = op->owner_;
        pier__op_unlist_unordered(op);
        if (handle->bits_ & PIER__CLOSED_TO_USER) {
            pier__handle_try_close(handle);
        }
    }
    pier__queue_push(&loop->completed, op);
}

void pier__op_finish(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    unsigned direction = pier__op_direction(op);
    if (direction == PIER__NO_DIRECTION) {
        finish_unordered(loop, op, result);
        return;
    }
    struct pier_handle *handle = op->owner_;
    bool started = op->state_ == PIER__ACTIVE;
    conclude(loop, op, result);
    pier__op_move(op, PIER__DONE);
    struct pier_op *next = leave_queue(handle, op, direction);
    if (PIER__UNLIKELY(op->kind_ == PIER__OP_CONNECT) && started) {
        connect_finished(loop, handle, result);
    }
    if (PIER__LIKELY(op->fn != NULL)) {
        pier__queue_push(&loop->completed, op);
    } else {
        pier__op_leave(loop, op); /* silent: nobody is called, the op is the caller's at once */
        if (PIER__UNLIKELY(result < 0) && !pier__send_is_complete(op)) {
            pier__send_break(loop, handle, op->next_, result);
            next = handle->head_[direction];
        }
    }
    continue_queue(loop, handle, direction, next);
}

void pier__op_finish_now(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    if (PIER__UNLIKELY(loop->completed.head != NULL || loop->budget <= 0 || op->fn == NULL)) {
        pier__op_finish(loop, op, result);
        return;
    }
    struct pier_handle *handle = op->owner_;
    unsigned direction = pier__op_direction(op);
    conclude(loop, op, result);
    struct pier_op *next = leave_queue(handle, op, direction);
    pier__op_move(op, PIER__DONE);
    if (PIER__UNLIKELY(op->kind_ == PIER__OP_CONNECT)) {
        connect_finished(loop, handle, result);
    }
    continue_queue(loop, handle, direction, next);
    pier__op_deliver(loop, op);
}

void pier__op_abandon(struct pier_loop *loop, struct pier_op *op, unsigned reason)
{
    if (!pier__op_is_ending(op)) { /* the first reason stands */
        pier__op_set_reason(op, reason);
    }
    conclude(loop, op, pier__op_reason(op));
    pier__op_move(op, PIER__DONE);
    pier__queue_push(&loop->completed, op);
}

/* ---- deliver */

static void close_if_not_taken(struct pier_loop *loop)
{
    if (loop->core.accepted >= 0) {
        loop->counters.system_calls++;
        pier__sys_close(loop->core.accepted);
        pier__loop_retry(loop);
    }
    loop->core.accepted_op = NULL;
    loop->core.accepted = -1;
    loop->core.accepted_peer = NULL;
}

void pier__op_deliver(struct pier_loop *loop, struct pier_op *op)
{
    pier__op_leave(loop, op);
    if (PIER__UNLIKELY(op->bits_ & PIER__MULTISHOT)) {
        op->result = (int64_t)op->timer_.deadline_ns;
        op->flags &= PIER_BACKGROUND | PIER_EOF; /* those of the last event go */
        op->data = NULL;
        op->size = 0;
        pier__loop_call(loop, op);
    } else if (PIER__UNLIKELY(op->kind_ == PIER__OP_ACCEPT && op->result > 0)) {
        loop->core.accepted_op = op;
        loop->core.accepted = op->use_.socket;
        pier__loop_call(loop, op);
        close_if_not_taken(loop);
    } else if (PIER__UNLIKELY(op->kind_ == PIER__OP_RECEIVE_LENT && (op->flags & PIER_LENT) != 0)) {
        /* The buffer was taken when the data came; the op may be gone when its callback returns. */
        struct pier_buffer *buffer = op->use_.buffer;
        pier__loop_call(loop, op);
        pier__pool_drop(loop, buffer);
    } else if (PIER__LIKELY(op->fn != NULL)) {
        pier__loop_call(loop, op);
    }
}

void pier__op_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket,
                       const struct pier_address *peer)
{
    loop->counters.accepts++;
    loop->core.accepted_op = op;
    loop->core.accepted = socket;
    loop->core.accepted_peer = peer;
    pier__op_event(loop, op, 1, 0);
    close_if_not_taken(loop);
}

void pier__op_finish_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket,
                              const struct pier_address *peer)
{
    loop->counters.accepts++;
    op->use_.socket = socket;
    loop->core.accepted_peer = peer; /* lost if it has to wait: then the system is asked */
    pier__op_finish_now(loop, op, 1);
    loop->core.accepted_peer = NULL;
}

bool pier__op_received_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                            struct pier_buffer *buffer, size_t bytes)
{
    loop->counters.receives++;
    op->done += bytes;
    pier__lend(loop, buffer, handle, op, bytes);
    if (PIER__LIKELY(op->bits_ & PIER__MULTISHOT)) {
        pier__op_event(loop, op, (int64_t)bytes, PIER_LENT);
        return pier__lend_over(loop, buffer);
    }
    /* Its delivery may have to wait, with the buffer out of the pool meanwhile. */
    loop->pool.delivering = NULL;
    pier__pool_give(loop, buffer, handle);
    op->use_.buffer = buffer;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_LENT;
    pier__op_finish_now(loop, op, (int64_t)bytes);
    return false;
}
