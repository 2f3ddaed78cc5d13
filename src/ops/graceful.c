/* graceful.c - pier_close_gracefully(): sends go out, the peer is told of the end and waited for.
 *
 * A shutdown behind the handle's sends, a receive that discards, and a timer, in a struct of the
 * loop's that is used again. Whichever of them decides closes the handle. */

#include "core/engine.h"

#define GRACE_NS (10 * PIER_SECOND)

/* What a graceful close needs until it is over. The loop's memory, used again. */
struct graceful {
    struct pier__block block;   /* first: see pier__block_take() */
    struct pier_handle *handle; /* NULL: it closes for real */
    struct pier_op shut, discard, timer;
    unsigned parts;             /* ops of this struct that haven't completed */
    bool peer_ended, shut_done; /* for what has no half-close, the peer counts as having ended */
};

/* The callback of one of the ops runs. It is no business of the program's, so it isn't counted. */
static void release_part(struct graceful *graceful, struct pier_loop *loop)
{
    loop->core.own_callbacks++;
    loop->core.own_ops--;
    if (--graceful->parts == 0) {
        pier__block_put(&loop->core.graceful_free, &graceful->block);
    }
}

/* Both directions are over, or time is, or the program doesn't want to wait any more: closes for
 * real. The struct lives on until its ops have completed; those of the handle do so before it is
 * closed, so that the timer's finds no handle then. */
static void end_graceful(struct graceful *graceful)
{
    struct pier_handle *handle = graceful->handle;
    if (handle == NULL) {
        return;
    }
    graceful->handle = NULL;
    pier_cancel(&graceful->timer);
    if (!(handle->bits_ & PIER__CLOSING)) {
        pier__handle_close_now(handle);
    }
}

static void on_graceful_shut(struct pier_op *op)
{
    struct graceful *graceful = PIER_OWNER(op, struct graceful, shut);
    struct pier_loop *loop = graceful->timer.owner_;
    graceful->shut_done = true;
    if (op->result < 0 || graceful->peer_ended) {
        end_graceful(graceful);
    }
    release_part(graceful, loop);
}

static void on_graceful_discard(struct pier_op *op)
{
    struct graceful *graceful = PIER_OWNER(op, struct graceful, discard);
    struct pier_loop *loop = graceful->timer.owner_;
    if (op->flags & PIER_MORE) {
        loop->core.own_callbacks++;
        return;
    }
    graceful->peer_ended = true;
    if (graceful->shut_done || op->result < 0) {
        end_graceful(graceful);
    }
    release_part(graceful, loop);
}

static void on_graceful_timer(struct pier_op *op)
{
    struct graceful *graceful = PIER_OWNER(op, struct graceful, timer);
    struct pier_loop *loop = op->owner_;
    loop->counters.timers -= op->result == 0;
    end_graceful(graceful);
    release_part(graceful, loop);
}

/* Whether there is somebody to be polite to: a peer that can be told of the end, or sends that are
 * still to go, also behind a connect. */
static bool is_polite(const struct pier_handle *handle)
{
    if (handle->bits_ & PIER__FAILED) {
        return false;
    }
    bool sends = handle->head_[PIER__SENDING] != NULL;
    return sends || (pier__handle_has_half_close(handle) && !(handle->bits_ & PIER__UNCONNECTED));
}

void pier_close_gracefully(struct pier_handle *handle, uint64_t timeout_ns, pier_handle_fn *fn)
{
    static const char function[] = "pier_close_gracefully";
    if (!pier__handle_begin_close(handle, fn, function) || (handle->bits_ & PIER__CLOSED_TO_USER)) {
        return;
    }
    struct pier_loop *loop = handle->loop_;
    loop->core.handles_closing++;
    if (!is_polite(handle)) {
        pier__handle_close_now(handle);
        return;
    }
    struct graceful *graceful = pier__block_take(loop, &loop->core.graceful_free,
                                                 sizeof(*graceful));
    handle->bits_ |= PIER__GRACEFUL;
    pier__handle_cancel_direction(handle, PIER__RECEIVING, PIER__REASON_CLOSE);
    pier__handle_cancel_unordered(handle, PIER__REASON_CLOSE);
    if (graceful == NULL) {
        /* No memory to wait for the peer: what was to be sent goes out all the same. */
        handle->bits_ |= PIER__AFTER_SENDS;
        pier__handle_try_close(handle);
        return;
    }
    bool has_half_close = pier__handle_has_half_close(handle);
    graceful->handle = handle;
    graceful->parts = has_half_close ? 3 : 2;
    loop->core.own_ops += graceful->parts;
    graceful->peer_ended = !has_half_close;
    graceful->timer.flags = graceful->discard.flags = graceful->shut.flags = PIER_BACKGROUND;
    pier_timer(loop, &graceful->timer, timeout_ns == 0 ? GRACE_NS : timeout_ns, on_graceful_timer);
    pier__op_set(&graceful->timer, PIER__INTERNAL);
    if (!has_half_close) {
        /* A send of nothing, behind the others, tells when they are done. */
        pier__op_submit(handle, &graceful->shut, PIER__OP_SEND, PIER__INTERNAL, on_graceful_shut,
                        function);
        return;
    }
    pier__op_submit(handle, &graceful->discard, PIER__OP_RECEIVE_LENT,
                    PIER__MULTISHOT | PIER__INTERNAL, on_graceful_discard, function);
    pier__op_submit(handle, &graceful->shut, PIER__OP_SHUTDOWN, PIER__INTERNAL, on_graceful_shut,
                    function);
}
