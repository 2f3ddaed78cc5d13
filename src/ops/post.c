/* post.c - what comes from other threads and signal handlers: posts, notifications, wake-ups.
 *
 * How they reach the loop is in core/remote.c. */

#include "core/engine.h"
#include "core/remote.h"
#include "ops/ops.h"

void pier_wake(struct pier_loop *loop)
{
    pier__remote_ask(loop, PIER__ASKED_WAKE);
}

void pier_loop_stop(struct pier_loop *loop)
{
    pier__remote_ask(loop, PIER__ASKED_STOP);
}

/* On a thread that isn't the loop's: the loop counts the op when it takes it. */
void pier_post(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    PIER_REQUIRE(fn != NULL, "pier_post", "the completion function is NULL");
    PIER_REQUIRE(op->state_ == PIER__IDLE, "pier_post", "the op is in flight already");
    op->fn = fn;
    op->kind_ = PIER__OP_POST;
    op->owner_ = loop;
    op->timeout_ns = 0;
    op->bits_ = 0;
    op->done = 0;
    op->os_error = 0;
    op->flags &= PIER_BACKGROUND;
    pier__op_move(op, PIER__REMOTE);
    pier__remote_push(loop, op);
}

void pier_notify_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    if (op->state_ == PIER__IDLE) {
        op->timeout_ns = 0; /* use_ is the count here, so there is no idle limit */
        pier__atomic_store(&op->use_.notifications, 0);
    }
    pier__op_submit_free(loop, op, PIER__OP_NOTIFY, PIER__MULTISHOT, fn, "pier_notify_each");
}

void pier_notify(struct pier_op *op)
{
    struct pier_loop *loop = op->owner_;
    if (pier__atomic_add(&op->use_.notifications, 1) == 0) {
        pier__remote_push(loop, op);
    }
}

/* What came while the op was paused is delivered: the count is above 0, and it's pushed as if it
 * came now. False when nothing came. */
static bool deliver_held(struct pier_op *op)
{
    if (pier__atomic_load(&op->use_.notifications) <= PIER__DISARMED) {
        return false;
    }
    pier__atomic_add(&op->use_.notifications, -PIER__DISARMED);
    pier__remote_push(op->owner_, op);
    return true;
}

void pier__notify_cancel(struct pier_loop *loop, struct pier_op *op)
{
    uint64_t none = 0;
    if (pier__atomic_compare_exchange(&op->use_.notifications, &none, PIER__DISARMED)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (none >= PIER__DISARMED) {
        deliver_held(op);
    } /* else a notification in flight ends it */
}

void pier__notify_resume(struct pier_loop *loop, struct pier_op *op)
{
    (void)loop;
    deliver_held(op);
}
