/* hook.c - pier_prepare_each() and pier_check_each(): ops that are called around each wait. */

#include "core/engine.h"
#include "core/hooks.h"
#include "ops/ops.h"

static void begin_hook(struct pier_loop *loop, struct pier_op *op, enum pier__op_kind kind,
                       pier_op_fn *fn, const char *function)
{
    if (op->state_ == PIER__IDLE) {
        op->timeout_ns = 0;
    }
    pier__op_submit_free(loop, op, kind, PIER__MULTISHOT, fn, function);
    pier__hook_list(loop, op, kind == PIER__OP_PREPARE ? PIER__PREPARE : PIER__CHECK);
}

void pier_prepare_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    begin_hook(loop, op, PIER__OP_PREPARE, fn, "pier_prepare_each");
}

void pier_check_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    begin_hook(loop, op, PIER__OP_CHECK, fn, "pier_check_each");
}

void pier__hook_cancel(struct pier_loop *loop, struct pier_op *op)
{
    pier__hook_unlist(loop, op, op->kind_ == PIER__OP_PREPARE ? PIER__PREPARE : PIER__CHECK);
    pier__op_finish(loop, op, pier__op_reason(op));
}
