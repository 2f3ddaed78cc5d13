/* close.c - closing a handle. The polite way, on top of this, is in ops/graceful.c.
 *
 * Closing: mark, cancel every op, and once none is in flight (pier__handle_try_close) put the
 * handle in the closing list. The loop empties that list after the completed ops that were there
 * first, so the close callback comes last. The first function that is given to a close counts, not
 * the first call. */

#include "core/engine.h"

void pier__handle_try_close(struct pier_handle *handle)
{
    if ((handle->bits_ & PIER__AFTER_SENDS) && handle->head_[PIER__SENDING] == NULL) {
        pier__handle_clear(handle, PIER__AFTER_SENDS);
        pier__handle_close_now(handle);
        return;
    }
    if ((handle->bits_ & PIER__CLOSING) == 0 ||
        (handle->bits_ & (PIER__LISTED | PIER__ENGINE_BUSY)) || !pier__handle_is_idle(handle)) {
        return;
    }
    pier__handles_push(&handle->loop_->core.closing, handle);
}

void pier__handle_closed(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    pier__handle_leave(loop, handle);
    handle->kind_ = PIER__KIND_NONE;
    loop->core.handles_closing--;
    loop->counters.closes++;
    pier__loop_retry(loop);
    pier_handle_fn *fn = handle->closed_;
    if (fn != NULL) {
        loop->budget--;
        fn(handle);
    }
}

/* Ends all ops of a direction. Those that wait are taken off first, so that none is started when
 * the started ones finish: that is the head, and what the engine has merged with it. */
void pier__handle_cancel_direction(struct pier_handle *handle, unsigned direction, unsigned reason)
{
    struct pier_loop *loop = handle->loop_;
    struct pier_op *last = NULL, *waiting = handle->head_[direction];
    while (waiting != NULL && waiting->state_ == PIER__ACTIVE) {
        last = waiting;
        waiting = waiting->next_;
    }
    if (last == NULL) {
        handle->head_[direction] = NULL;
    } else {
        last->next_ = NULL;
        handle->tail_[direction] = last;
    }
    struct pier_op *started = handle->head_[direction];
    while (started != NULL && started->state_ == PIER__ACTIVE) {
        struct pier_op *next = started->next_;
        pier__op_cancel(loop, started, reason);
        started = next;
    }
    while (waiting != NULL) {
        struct pier_op *next = waiting->next_;
        bool is_silent = waiting->fn == NULL && !pier__send_is_complete(waiting);
        pier__op_abandon(loop, waiting, reason);
        if (is_silent) {
            pier__send_break(loop, handle, NULL, pier__op_reason(waiting));
        }
        waiting = next;
    }
}

void pier__handle_cancel_all(struct pier_handle *handle, unsigned reason)
{
    pier__handle_cancel_direction(handle, PIER__RECEIVING, reason);
    pier__handle_cancel_direction(handle, PIER__SENDING, reason);
    pier__handle_cancel_unordered(handle, reason);
}

void pier__handle_cancel_unordered(struct pier_handle *handle, unsigned reason)
{
    struct pier_loop *loop = handle->loop_;
    struct pier_op *op = handle->unordered_;
    while (op != NULL) {
        struct pier_op *next = op->next_;
        pier__op_cancel(loop, op, reason);
        op = next;
    }
}

void pier__handle_close_now(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    handle->bits_ |= PIER__CLOSING;
    pier__handle_cancel_all(handle, PIER__REASON_CLOSE);
    if (handle->bits_ & PIER__LISTED) {
        if (handle->bits_ & PIER__STARVED) {
            pier__loop_retry_soon(loop); /* takes it off the list */
        }
        return; /* whoever takes it off its list closes it */
    }
    pier__handle_try_close(handle);
}

bool pier__handle_begin_close(struct pier_handle *handle, pier_handle_fn *fn, const char *function)
{
    struct pier_loop *loop = handle->loop_;
    if (loop == NULL && (fn == NULL || (handle->bits_ & PIER__CLOSING))) {
        return false; /* never opened, and nobody waits; or closed already */
    }
    PIER_REQUIRE(
        loop != NULL, function,
        "the handle was never opened, or is detached, so its close function would never be "
        "called");
    PIER__REQUIRE_THREAD(loop, function);
    if (handle->closed_ == NULL) {
        handle->closed_ = fn;
    }
    return true;
}

void pier_close(struct pier_handle *handle, pier_handle_fn *fn)
{
    if (!pier__handle_begin_close(handle, fn, "pier_close") || (handle->bits_ & PIER__CLOSING)) {
        return;
    }
    if (!(handle->bits_ & PIER__GRACEFUL)) {
        handle->loop_->core.handles_closing++;
    }
    pier__handle_clear(handle, PIER__AFTER_SENDS);
    pier__handle_close_now(handle);
}
