/* op.c - submitting: checks, the queue of a direction, starting what is at its head.
 *
 * An op on a handle is appended to its direction's queue; the head is started by handing it to
 * handle->calls_->start, the others wait. When it finishes (end.c) the next one is started. So at
 * most one request per handle and direction is in the kernel, on every engine. An op cancelled
 * while it waits in the queue finishes at once, ahead of those before it: waiting for a stranger's
 * slow receive is what the canceller wanted to avoid. */

#include "core/engine.h"

/* `flags` are those that the op was submitted with. */
static void arm_time_limit(struct pier_loop *loop, struct pier_op *op, uint32_t flags)
{
    uint64_t limit = op->timeout_ns;
    pier__op_set(op, PIER__TIMED);
    if ((flags & PIER_PROGRESS) && pier__op_is_send(op)) {
        pier__progress_begin(loop, op);
        return;
    }
    op->timeout_ns = 0;
    if (op->bits_ & PIER__MULTISHOT) {
        op->use_.idle_limit_ns = limit;
    }
    pier__timers_insert(&loop->core.timers, &op->timer_,
                        pier__time_after(pier__loop_clock(loop), limit));
}

PIER__COLD static void check_submit(const struct pier_handle *handle, const struct pier_op *op,
                                    const char *function)
{
    pier__handle_require_open(handle, function);
    PIER__REQUIRE_THREAD(handle->loop_, function);
    PIER_REQUIRE(op->state_ == PIER__IDLE, function, "the op is in flight already");
}

/* A transfer of nothing completes with 0, in its turn. */
static bool is_empty(const struct pier_op *op)
{
    if (op->kind_ == PIER__OP_SEND_VECTORED) {
        return pier__send_is_complete(op);
    }
    return op->size == 0 && (op->kind_ == PIER__OP_SEND || op->kind_ == PIER__OP_RECEIVE);
}

static inline void start(struct pier_handle *handle, struct pier_op *op)
{
    const struct pier__kind *kind = pier__kind_of(op);
    pier__op_move(op, PIER__ACTIVE);
    if (PIER__UNLIKELY((handle->bits_ & PIER__RESTRICTED) || op->kind_ == PIER__OP_ACCEPT)) {
        int error = kind->refusal(handle, op);
        if (error < 0) {
            pier__op_finish(handle->loop_, op, error);
            return;
        }
    }
    if (PIER__UNLIKELY(op->size == 0 || op->kind_ == PIER__OP_SEND_VECTORED) && is_empty(op)) {
        pier__op_finish(handle->loop_, op, 0);
        return;
    }
    kind->start(handle->loop_, op);
}

/* Starts the head of a direction, and those behind it for as long as they finish at once: a loop
 * rather than a recursion through pier__op_finish(), since thousands may wait. */
void pier__op_start_direction(struct pier_loop *loop, struct pier_handle *handle,
                              unsigned direction)
{
    uint32_t starting = (uint32_t)PIER__STARTING << direction;
    if (handle->bits_ & starting) {
        return;
    }
    handle->bits_ |= starting;
    struct pier_op *op;
    while ((op = handle->head_[direction]) != NULL && op->state_ == PIER__QUEUED) {
        if (handle->bits_ & PIER__FAILED) {
            pier__op_finish(loop, op, PIER_ENOTCONN);
        } else if ((handle->bits_ & PIER__CONNECTING) && direction == PIER__RECEIVING) {
            break; /* the connect's end starts it */
        } else {
            start(handle, op);
        }
    }
    pier__handle_clear(handle, starting);
}

/* Why an op can't even be queued, on a handle that is closing or whose sends are broken. */
PIER__COLD static int refusal_of(const struct pier_handle *handle, const struct pier_op *op)
{
    if ((handle->bits_ & PIER__CLOSED_TO_USER) &&
        !((handle->bits_ & PIER__GRACEFUL) && (op->bits_ & PIER__INTERNAL))) {
        return PIER_ECLOSED;
    }
    return (handle->bits_ & PIER__BROKEN) &&
                   (pier__op_is_send(op) || op->kind_ == PIER__OP_SHUTDOWN)
               ? -handle->broken_
               : 0;
}

/* Puts an op that can't even be queued straight among the completed. */
PIER__COLD static void refuse(struct pier_loop *loop, struct pier_op *op, int error)
{
    op->timeout_ns = 0;
    if (error == PIER_ECLOSED) {
        pier__op_abandon(loop, op, PIER__REASON_CLOSE);
        return;
    }
    op->result = error;
    pier__op_move(op, PIER__DONE);
    pier__queue_push(&loop->completed, op);
}

static void queue(struct pier_loop *loop, struct pier_op *op)
{
    pier__op_move(op, PIER__QUEUED);
    if (pier__op_is_send(op)) {
        pier__op_hold(loop, op);
    }
}

static inline void append(struct pier_handle *handle, struct pier_op *op, unsigned direction)
{
    struct pier_op *head = handle->head_[direction];
    struct pier_op *tail = head->next_ != NULL ? handle->tail_[direction] : head;
    tail->next_ = op;
    handle->tail_[direction] = op;
}

void pier__op_submit(struct pier_handle *handle, struct pier_op *op, unsigned kind, unsigned bits,
                     pier_op_fn *fn, const char *function)
{
    struct pier_loop *loop = handle->loop_;
    /* One test for everything that isn't the ordinary case. */
    if (PIER__UNLIKELY(loop == NULL || op->state_ != PIER__IDLE ||
                       loop->core.fast_thread != pier__thread_id)) {
        check_submit(handle, op, function);
        PIER__TAKE_FOR_GRANTED(loop != NULL); /* static analysers don't see that it's checked */
        pier__loop_clock_of_turn(loop);
    }
    uint32_t flags = op->flags;
    pier__op_begin(loop, op, kind, bits, fn, handle);
    if (PIER__UNLIKELY(handle->bits_ & (PIER__CLOSED_TO_USER | PIER__BROKEN))) {
        int error = refusal_of(handle, op);
        if (error < 0) {
            refuse(loop, op, error);
            return;
        }
    }
    if (PIER__UNLIKELY(op->timeout_ns != 0)) {
        arm_time_limit(loop, op, flags);
    }
    unsigned direction = pier__op_direction(op);
    if (direction == PIER__NO_DIRECTION) {
        pier__op_list_unordered(handle, op);
        pier__op_move(op, PIER__ACTIVE);
        if (pier__kind_of(op)->start != NULL) {
            pier__kind_of(op)->start(loop, op);
        }
        return;
    }
    op->next_ = NULL;
    if (handle->head_[direction] != NULL) {
        queue(loop, op);
        append(handle, op, direction);
        return;
    }
    handle->head_[direction] = op;
    if (PIER__UNLIKELY(handle->bits_ & (PIER__FAILED | PIER__CONNECTING))) {
        queue(loop, op);
        pier__op_start_direction(loop, handle, direction);
        return;
    }
    start(handle, op);
}

void pier__send_submit_held(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                            pier_op_fn *fn)
{
    struct pier_loop *loop = handle->loop_;
    pier__loop_clock_of_turn(loop);
    pier__op_begin(loop, op, kind, 0, fn, handle);
    if (PIER__UNLIKELY(handle->bits_ & (PIER__CLOSED_TO_USER | PIER__BROKEN))) {
        int error = refusal_of(handle, op);
        if (error < 0) {
            refuse(loop, op, error);
            return;
        }
    }
    op->next_ = NULL;
    pier__op_move(op, PIER__QUEUED);
    if (PIER__UNLIKELY(handle->head_[PIER__SENDING] != NULL)) {
        append(handle, op, PIER__SENDING);
    } else {
        handle->head_[PIER__SENDING] = op;
    }
}

bool pier__send_take_back(struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(
            pier__op_word(op) != pier__word_of(PIER__OP_SEND, PIER__QUEUED, 0) ||
            handle->head_[PIER__SENDING] != op || op->next_ != NULL || op->done != 0 ||
            (handle->bits_ & (PIER__CLOSED_TO_USER | PIER__STARTING << PIER__SENDING)))) {
        return false;
    }
    handle->head_[PIER__SENDING] = NULL;
    pier__op_move(op, PIER__ACTIVE);
    pier__op_leave(handle->loop_, op);
    return true;
}

void pier__op_submit_failed(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                            pier_op_fn *fn, int error)
{
    struct pier_loop *loop = handle->loop_;
    pier__loop_clock_of_turn(loop);
    pier__op_begin(loop, op, kind, 0, fn, handle);
    op->timeout_ns = 0;
    op->result = error;
    pier__op_move(op, PIER__DONE);
    pier__queue_push(&loop->completed, op);
}

void pier__op_submit_free(struct pier_loop *loop, struct pier_op *op, unsigned kind, unsigned bits,
                          pier_op_fn *fn, const char *function)
{
    PIER__REQUIRE_THREAD(loop, function);
    PIER_REQUIRE(op->state_ == PIER__IDLE, function, "the op is in flight already");
    PIER_REQUIRE(fn != NULL, function, "the completion function is NULL");
    pier__loop_clock_of_turn(loop);
    pier__op_begin(loop, op, kind, bits, fn, loop);
    pier__op_move(op, PIER__ACTIVE);
    if (op->timeout_ns != 0 && kind != PIER__OP_TIMER) {
        arm_time_limit(loop, op, 0);
    }
    op->timeout_ns = 0;
    if (kind != PIER__OP_TIMER && !(op->bits_ & PIER__TIMED)) {
        pier__op_list_other(loop, op);
    }
}
