/* accept.c - accepting on io_uring.
 *
 * Multishot where the kernel has it. The kernel may have accepted several connections before it
 * hears that the op is paused: these are held in a ring of the listener's, of which
 * engine_.uring.held is the last; delivered at resume or before the op's end, and closed with the
 * listener. A multishot request has one place for the addresses of all that it accepts, so that
 * none is asked for (netty, pull request 14807): pier_accept_address() makes a call of its own. */

#include "engine/uring/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

void pier__uring_start_accept(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op)
{
    const struct pier__uring *uring = pier__uring_of(loop);
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        pier__uring_postpone(loop, handle);
        return;
    }
    entry->opcode = IORING_OP_ACCEPT;
    entry->fd = (int)handle->descriptor_;
    entry->accept_flags = SOCK_CLOEXEC;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    if ((op->bits_ & PIER__MULTISHOT) && uring->features.multishot_accept) {
        entry->ioprio = IORING_ACCEPT_MULTISHOT;
    }
    handle->engine_.uring.requests |= PIER__RECEIVE_IN_KERNEL;
}

/* A socket that came while the op was paused. Without memory to note it, it's closed. */
static void hold_accepted(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          pier_descriptor socket)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct pier__uring_accepted *accepted = uring->accepted_free;
    if (accepted != NULL) {
        uring->accepted_free = accepted->next;
    } else {
        accepted = pier__allocate(loop, sizeof(*accepted));
    }
    if (accepted == NULL) {
        pier__sys_close(socket);
    } else {
        struct pier__uring_accepted *last = handle->engine_.uring.held;
        accepted->socket = socket;
        accepted->next = last != NULL ? last->next : accepted;
        if (last != NULL) {
            last->next = accepted;
        }
        handle->engine_.uring.held = accepted;
    }
    if ((handle->engine_.uring.requests & (PIER__RECEIVE_IN_KERNEL | PIER__STOPPING)) ==
            PIER__RECEIVE_IN_KERNEL &&
        pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP), handle, false)) {
        handle->engine_.uring.requests |= PIER__STOPPING;
    }
}

static pier_descriptor unhold_accepted(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct pier__uring_accepted *last = handle->engine_.uring.held, *first = last->next;
    pier_descriptor socket = first->socket;
    handle->engine_.uring.held = first == last ? NULL : last;
    last->next = first->next;
    first->next = uring->accepted_free;
    uring->accepted_free = first;
    return socket;
}

void pier__uring_drop_accepted(struct pier_loop *loop, struct pier_handle *handle)
{
    while (handle->engine_.uring.held != NULL) {
        pier__sys_close(unhold_accepted(loop, handle));
    }
}

/* Delivers held sockets, then ends or goes on. */
void pier__uring_serve_accept(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op)
{
    if (pier__uring_silenced(handle, op)) {
        pier__uring_drop_accepted(loop, handle);
    }
    while (handle->engine_.uring.held != NULL) {
        if (!pier__op_is_ending(op) && (op->bits_ & PIER__PAUSED)) {
            return;
        }
        if (loop->budget <= 0) {
            pier__uring_postpone(loop, handle);
            return;
        }
        pier__op_accepted(loop, op, unhold_accepted(loop, handle), NULL);
        if (op->state_ != PIER__ACTIVE) {
            return;
        }
        if (PIER__UNLIKELY(pier__uring_silenced(handle, op))) {
            pier__uring_drop_accepted(loop, handle); /* closed in the callback, cancelled before */
        }
    }
    if (handle->engine_.uring.requests & PIER__RECEIVE_IN_KERNEL) {
        return;
    }
    if (pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (!(op->bits_ & PIER__PAUSED) && !(handle->bits_ & PIER__STARVED)) {
        pier__uring_start_accept(loop, handle, op);
    }
}

static void accept_over(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                        int result)
{
    int64_t error = result < 0 ? pier__sys_map(-result) : 0;
    struct pier__uring *uring = pier__uring_of(loop);
    if (result == -EINVAL && uring->features.multishot_accept && (op->bits_ & PIER__MULTISHOT)) {
        uring->features.multishot_accept = false; /* step down */
        pier__uring_start_accept(loop, handle, op);
    } else if (result >= 0 || pier__uring_was_cancelled(result) || pier__op_is_ending(op)) {
        loop->counters.rearms += result >= 0 && uring->features.multishot_accept;
        pier__uring_serve_accept(loop, handle, op);
    } else if (result == -EAGAIN) {
        pier__uring_wait_for_op(loop, handle, op);
    } else if (pier__accept_starves(error)) {
        loop->counters.accept_pauses++;
        pier__loop_starve(loop, handle);
    } else if (pier__accept_passes(error)) {
        pier__uring_start_accept(loop, handle, op);
    } else {
        pier__uring_fail(loop, op, -result);
    }
}

void pier__uring_accepted(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          int result, bool more)
{
    if (result >= 0) {
        if (pier__uring_silenced(handle, op)) {
            pier__sys_close(result); /* nothing comes after pier_close() */
        } else if (!(op->bits_ & PIER__MULTISHOT)) {
            pier__op_finish_accepted(loop, op, result, NULL);
            return;
        } else if ((op->bits_ & PIER__PAUSED) || handle->engine_.uring.held != NULL) {
            hold_accepted(loop, handle, op, result);
        } else {
            pier__op_accepted(loop, op, result, NULL);
        }
    }
    if (!more && op->state_ == PIER__ACTIVE) {
        accept_over(loop, handle, op, result);
    }
}

void pier__uring_accept_ready(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op)
{
    loop->counters.system_calls++;
    pier_descriptor socket = pier__sys_accept(handle->descriptor_, false);
    pier__uring_accepted(loop, handle, op,
                         socket >= 0             ? (int)socket
                         : socket == PIER_EAGAIN ? -EAGAIN
                                                 : -pier__sys_code(),
                         false);
}
