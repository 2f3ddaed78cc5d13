/* cancel.c - what is asked of an op in flight: cancel, by the caller or by its time limit; pause
 * and resume.
 *
 * A cancel only asks: the first reason is noted, and whoever has the op (its queue, the timer
 * wheel, the backend) finishes it. */

#include "core/loop.h"

void pier__op_list_other(struct pier_loop *loop, struct pier_op *op)
{
    op->timer_.next = loop->others;
    op->timer_.back = &loop->others;
    if (loop->others != NULL) {
        loop->others->back = &op->timer_.next;
    }
    loop->others = &op->timer_;
}

static void unlist_other(struct pier_op *op)
{
    *op->timer_.back = op->timer_.next;
    if (op->timer_.next != NULL) {
        op->timer_.next->back = op->timer_.back;
    }
    op->timer_.back = NULL;
}

void pier__op_unlink(struct pier_loop *loop, struct pier_op *op)
{
    bool is_timed = (op->bits_ & PIER__TIMED) || op->kind_ == PIER__OP_TIMER;
    if (op->timer_.back == NULL) {
        return;
    }
    if (!pier__op_has_handle(op) && (!is_timed || (op->bits_ & PIER__PAUSED))) {
        unlist_other(op);
    } else {
        pier__timers_remove(&loop->timers, &op->timer_);
    }
}

void pier__op_cancel(struct pier_loop *loop, struct pier_op *op, enum pier__reason reason)
{
    if (op->state_ == PIER__IDLE || op->state_ == PIER__DONE || op->reason_ != PIER__REASON_NONE) {
        return;
    }
    op->reason_ = (uint8_t)reason;
    if (op->state_ == PIER__QUEUED) {
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    switch (op->kind_) {
    case PIER__OP_TIMER:
        pier__op_unlink(loop, op);
        pier__op_finish(loop, op, pier__op_reason(op));
        break;
    case PIER__OP_POLL: loop->engine->poll_cancel(loop, op); break;
    case PIER__OP_POST: break; /* it has happened already, it only isn't here yet */
    case PIER__OP_NOTIFY:
        if (pier__notify_disarm(op)) {
            pier__op_finish(loop, op, pier__op_reason(op));
        }
        break;
    default: {
        struct pier_handle *handle = op->owner_;
        handle->calls_->cancel(handle, op);
    }
    }
}

void pier__op_timed_out(struct pier_loop *loop, struct pier_op *op)
{
    if (!pier__op_has_handle(op)) {
        op->bits_ &= (uint8_t)~PIER__TIMED; /* it has left the wheel */
        pier__op_list_other(loop, op);
    }
    pier__op_cancel(loop, op, PIER__REASON_TIMEOUT);
}

PIER__COLD void pier__op_refresh(struct pier_loop *loop, struct pier_op *op, uint64_t now)
{
    if (!(op->bits_ & PIER__MULTISHOT) || op->reason_ != PIER__REASON_NONE) {
        return;
    }
    pier__op_unlink(loop, op);
    uint64_t limit = op->extra_.number;
    pier__timers_insert(&loop->timers, &op->timer_,
                        limit > UINT64_MAX - now ? UINT64_MAX : now + limit);
}

void pier_cancel(struct pier_op *op)
{
    if (op->state_ == PIER__IDLE) {
        return;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_cancel",
                 "called from another thread than the loop's");
    pier__op_cancel(loop, op, PIER__REASON_CALLER);
}

/* Whether a multishot op is in flight and nothing has ended it. */
static inline bool is_running(const struct pier_op *op)
{
    return op->state_ != PIER__IDLE && op->state_ != PIER__DONE && (op->bits_ & PIER__MULTISHOT) &&
           op->reason_ == PIER__REASON_NONE;
}

void pier_pause(struct pier_op *op)
{
    if (!is_running(op) || (op->bits_ & PIER__PAUSED)) {
        return;
    }
    if (PIER__LIKELY(pier__op_has_handle(op) && !(op->bits_ & PIER__TIMED))) {
        op->bits_ |= PIER__PAUSED;
        return;
    }
    struct pier_loop *loop = pier__op_loop(op);
    if ((op->bits_ & PIER__TIMED) || op->kind_ == PIER__OP_TIMER) {
        pier__op_unlink(loop, op); /* a held op isn't idle */
        if (!pier__op_has_handle(op)) {
            pier__op_list_other(loop, op);
        }
    }
    op->bits_ |= PIER__PAUSED;
    if (op->kind_ == PIER__OP_POLL) {
        loop->engine->poll_pause(loop, op);
    }
}

PIER__COLD static void resume_other(struct pier_loop *loop, struct pier_op *op)
{
    if (!pier__op_has_handle(op) && ((op->bits_ & PIER__TIMED) || op->kind_ == PIER__OP_TIMER)) {
        pier__op_unlink(loop, op);
    }
    op->bits_ &= (uint8_t)~PIER__PAUSED;
    if (op->bits_ & PIER__TIMED) {
        pier__op_refresh(loop, op, pier__loop_clock(loop));
    }
    if (op->kind_ == PIER__OP_TIMER) {
        pier__timers_insert(&loop->timers, &op->timer_, op->timer_.deadline_ns);
    } else if (op->kind_ == PIER__OP_POLL) {
        loop->engine->poll_resume(loop, op);
    } else if (op->kind_ == PIER__OP_NOTIFY) {
        pier__notify_resume(op);
    }
}

void pier_resume(struct pier_op *op)
{
    if (!(op->bits_ & PIER__PAUSED) || !is_running(op)) {
        return;
    }
    if (PIER__UNLIKELY(!pier__op_has_handle(op) || (op->bits_ & PIER__TIMED))) {
        resume_other(pier__op_loop(op), op);
    }
    op->bits_ &= (uint8_t)~PIER__PAUSED;
    if (pier__op_has_handle(op) && op->state_ == PIER__ACTIVE) {
        struct pier_handle *handle = op->owner_;
        handle->calls_->resume(handle, op);
    }
}
