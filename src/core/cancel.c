/* cancel.c - what is asked of an op in flight: cancel, by the caller or by its time limit; pause
 * and resume.
 *
 * A cancel only asks: the first reason is noted, and whoever has the op (its queue, the timer
 * wheel, the backend) finishes it. */

#include "core/engine.h"

void pier__op_list_other(struct pier_loop *loop, struct pier_op *op)
{
    op->timer_.next = loop->core.others;
    op->timer_.back = &loop->core.others;
    if (loop->core.others != NULL) {
        loop->core.others->back = &op->timer_.next;
    }
    loop->core.others = &op->timer_;
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
    bool is_timed = (op->bits_ & PIER__TIMED) || pier__op_is_timer(op);
    if (op->timer_.back == NULL) {
        return;
    }
    if (!pier__op_has_handle(op) && (!is_timed || (op->bits_ & PIER__PAUSED))) {
        unlist_other(op);
    } else {
        pier__timers_remove(&loop->core.timers, &op->timer_);
    }
}

void pier__op_cancel(struct pier_loop *loop, struct pier_op *op, unsigned reason)
{
    if (op->state_ == PIER__IDLE || op->state_ == PIER__DONE || pier__op_is_ending(op)) {
        return;
    }
    pier__op_set_reason(op, reason);
    if (op->state_ == PIER__QUEUED) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (op->state_ == PIER__ACTIVE) {
        pier__kind_of(op)->cancel(loop, op);
    } /* else posted: it has happened already, it only isn't here yet */
}

void pier__op_timed_out(struct pier_loop *loop, struct pier_op *op)
{
    if ((op->bits_ & PIER__PROGRESS) && !pier__op_is_ending(op) &&
        pier__progress_goes_on(loop, op)) {
        return;
    }
    loop->counters.timers++;
    if (!pier__op_has_handle(op)) {
        pier__op_clear(op, PIER__TIMED); /* it has left the wheel */
        pier__op_list_other(loop, op);
    }
    pier__op_cancel(loop, op, PIER__REASON_TIMEOUT);
}

PIER__COLD void pier__op_refresh(struct pier_loop *loop, struct pier_op *op, uint64_t now)
{
    if (!(op->bits_ & PIER__MULTISHOT) || pier__op_is_ending(op)) {
        return;
    }
    pier__op_unlink(loop, op);
    pier__timers_insert(&loop->core.timers, &op->timer_,
                        pier__time_after(now, op->use_.idle_limit_ns));
}

void pier_cancel(struct pier_op *op)
{
    if (op->state_ == PIER__IDLE) {
        return;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER__REQUIRE_THREAD(loop, "pier_cancel");
    pier__op_cancel(loop, op, PIER__REASON_CALLER);
}

/* Whether an op in flight is a multishot one that nothing has ended. */
static inline bool is_running(const struct pier_op *op)
{
    return op->state_ != PIER__DONE && (op->bits_ & PIER__MULTISHOT) && !pier__op_is_ending(op);
}

/* A timer stands in the wheel by its deadline alone, other ops by their limit. */
static bool is_in_wheel(const struct pier_op *op)
{
    return (op->bits_ & PIER__TIMED) || pier__op_is_timer(op);
}

void pier_pause(struct pier_op *op)
{
    if (op->state_ == PIER__IDLE) {
        return;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER__REQUIRE_THREAD(loop, "pier_pause");
    if (!is_running(op) || (op->bits_ & PIER__PAUSED)) {
        return;
    }
    if (is_in_wheel(op)) {
        pier__op_unlink(loop, op); /* a held op isn't idle */
        if (!pier__op_has_handle(op)) {
            pier__op_list_other(loop, op);
        }
    }
    pier__op_set(op, PIER__PAUSED);
    if (pier__kind_of(op)->pause != NULL) {
        pier__kind_of(op)->pause(loop, op);
    }
}

void pier_resume(struct pier_op *op)
{
    if (op->state_ == PIER__IDLE) {
        return;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER__REQUIRE_THREAD(loop, "pier_resume");
    if (!(op->bits_ & PIER__PAUSED) || !is_running(op)) {
        return;
    }
    if (!pier__op_has_handle(op) && is_in_wheel(op)) {
        pier__op_unlink(loop, op);
    }
    pier__op_clear(op, PIER__PAUSED);
    if (op->bits_ & PIER__TIMED) {
        pier__op_refresh(loop, op, pier__loop_clock(loop));
    }
    if (op->state_ == PIER__ACTIVE && pier__kind_of(op)->resume != NULL) {
        pier__kind_of(op)->resume(loop, op);
    }
}
