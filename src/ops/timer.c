/* timer.c - timers: ops that stand in the loop's wheel, its own or those tied to a handle. */

#include "core/engine.h"
#include "core/remote.h"
#include "ops/ops.h"

/* What pier__op_submit_free() does, without what a plain timer doesn't need: programs start one for
 * each request. */
void pier_timer(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns, pier_op_fn *fn)
{
    if (PIER__UNLIKELY(loop->core.thread != pier__thread_id || op->state_ != PIER__IDLE ||
                       fn == NULL || (op->flags & PIER_BACKGROUND))) {
        pier__op_submit_free(loop, op, PIER__OP_TIMER, 0, fn, "pier_timer");
    } else {
        pier__op_begin_timer(loop, op, fn);
    }
    pier__timers_insert(&loop->core.timers, &op->timer_,
                        pier__time_after(pier__loop_clock(loop), delay_ns));
}

void pier_timer_each(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns,
                     uint64_t interval_ns, pier_op_fn *fn)
{
    pier__op_submit_free(loop, op, PIER__OP_TIMER, PIER__MULTISHOT, fn, "pier_timer_each");
    op->use_.interval_ns = interval_ns;
    if (interval_ns == 0) {
        pier__op_finish(loop, op, PIER_EINVAL);
        return;
    }
    pier__timers_insert(&loop->core.timers, &op->timer_,
                        pier__time_after(pier__loop_clock(loop), delay_ns));
}

void pier_timer_on(struct pier_handle *handle, struct pier_op *op, uint64_t delay_ns,
                   pier_op_fn *fn)
{
    PIER_REQUIRE(fn != NULL, "pier_timer_on", "the completion function is NULL");
    if (op->state_ == PIER__IDLE) {
        op->timeout_ns = 0;
    }
    pier__op_submit(handle, op, PIER__OP_TIMER_ON, 0, fn, "pier_timer_on");
    if (op->state_ == PIER__ACTIVE) { /* else the handle is closing */
        struct pier_loop *loop = handle->loop_;
        pier__timers_insert(&loop->core.timers, &op->timer_,
                            pier__time_after(pier__loop_clock(loop), delay_ns));
    }
}

static bool is_timer_running(const struct pier_op *op)
{
    return op->state_ == PIER__ACTIVE && pier__op_is_timer(op) && !pier__op_is_ending(op);
}

void pier_timer_reset(struct pier_op *op, uint64_t delay_ns)
{
    if (!is_timer_running(op)) {
        return;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER__REQUIRE_THREAD(loop, "pier_timer_reset");
    uint64_t deadline = pier__time_after(pier__loop_clock(loop), delay_ns);
    if (op->bits_ & PIER__PAUSED) {
        op->timer_.deadline_ns = deadline;
    } else {
        if (pier__timer_armed(&op->timer_)) {
            pier__timers_remove(&loop->core.timers, &op->timer_);
        }
        pier__timers_insert(&loop->core.timers, &op->timer_, deadline);
    }
}

/* A timer's end is known to no one but its callers, so it needs no completion to be over: half of
 * what cancelling a million of them costs is to come back to each for its callback. */
bool pier_timer_stop(struct pier_op *op)
{
    if (!is_timer_running(op)) {
        return false;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER__REQUIRE_THREAD(loop, "pier_timer_stop");
    if (op->kind_ == PIER__OP_TIMER_ON) {
        pier__op_unlist_unordered(op);
    }
    if (PIER__LIKELY(!(op->bits_ & PIER__PAUSED))) {
        pier__timers_remove(&loop->core.timers, &op->timer_);
    } else {
        pier__op_unlink(loop, op);
    }
    pier__op_finish_timer(loop, op);
    return true;
}

static void remove_from_queue(struct pier__queue *queue, const struct pier_op *op)
{
    struct pier_op **link = &queue->head, *before = NULL;
    while (*link != op) {
        before = *link;
        link = &before->next_;
    }
    *link = op->next_;
    if (queue->tail == op) {
        queue->tail = before;
    }
}

void pier__timer_withdraw(struct pier_op *op)
{
    if (pier_timer_stop(op) || op->state_ != PIER__DONE) {
        return;
    }
    struct pier_loop *loop = op->owner_;
    remove_from_queue(&loop->completed, op); /* a drain has cancelled it */
    pier__op_leave(loop, op);
}

void pier__timer_cancel(struct pier_loop *loop, struct pier_op *op)
{
    pier__op_finish(loop, op, pier__op_reason(op));
}

void pier__timer_resume(struct pier_loop *loop, struct pier_op *op)
{
    pier__timers_insert(&loop->core.timers, &op->timer_, op->timer_.deadline_ns);
}
