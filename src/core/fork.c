/* fork.c - a loop in the child of a fork. */

#include "core/engine.h"
#include "core/remote.h"

int pier_loop_after_fork(struct pier_loop *loop)
{
    PIER_REQUIRE(!loop->running, "pier_loop_after_fork", "called from inside a callback");
    if (loop->core.forks == pier__sys_forks()) {
        return pier__fail(
            PIER_EINVAL,
            "pier_loop_after_fork: this is not the child of a fork made after pier_loop_new()");
    }
    loop->core.thread = PIER__NO_THREAD;
    loop->core.forks = pier__sys_forks();
    pier__remote_after_fork(loop);
    int error = loop->engine->after_fork(loop);
    if (error < 0) {
        return pier__fail(error, "the %s backend can't be made anew in the child: %s",
                          loop->engine->name, pier_error_text(error));
    }
    /* What was being sent, the parent sends. */
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = pier__slot_at(loop, i);
        struct pier_op *op;
        while (handle != NULL && handle->kind_ != PIER__KIND_FOREIGN &&
               (op = handle->head_[PIER__SENDING]) != NULL) {
            handle->head_[PIER__SENDING] = op->next_;
            if (op->kind_ == PIER__OP_CONNECT) {
                handle->bits_ = (handle->bits_ & ~(uint32_t)PIER__CONNECTING) | PIER__FAILED;
            }
            pier__op_abandon(loop, op, PIER__REASON_CALLER);
        }
        if (handle != NULL && (handle->bits_ & PIER__FAILED)) {
            pier__op_start_direction(loop, handle, PIER__RECEIVING);
        }
        if (handle != NULL && (handle->bits_ & PIER__CLOSED_TO_USER)) {
            pier__handle_try_close(handle); /* a close may have waited for the sends */
        }
    }
    return 0;
}
