/* ready.c - completions on top of readiness: interest, and what comes of events.
 *
 * A handle is registered at the first op that has to wait, once, for its life. The engine remembers
 * readiness in PIER__HAS_DATA: an event sets it, a call that would block (or a short read, where
 * that proves as much) clears it. Ops that find their handle ready are not run inside the submit:
 * the handle goes to loop->ready and is served in the next turn.
 *
 * With an edge-triggered poller interest is only ever added: reading from the start, writing from
 * the start on TCP (no event comes of it as long as nothing blocks) and at the first full buffer
 * elsewhere, since a Unix socket wakes for each message that its peer takes. With level and
 * one-shot pollers interest follows the ops that wait.
 *
 * Linux tells of an error for as long as something is in a socket's error queue (time stamps,
 * notices of zero-copy sends), which is for the program to take. Reading and sending find nothing
 * then: a handle that this happens to is PIER__NOISY and watched with PIER__QUIET, by edges or at a
 * slow pace, until an event comes without the error (tests/conform: noise).
 *
 * Callbacks run from here directly. After each the handle is looked up again by its key unless an
 * op of it is surely still in flight: the callback may have detached it. Completed ops that are
 * queued are delivered before the next event, so that ops of one direction complete in order. */

#include "engine/ready/ready.h"

/* ---- interest */

/* What the handle's ops wait for right now. */
static unsigned wanted(const struct pier_handle *handle)
{
    unsigned interest = 0;
    const struct pier_op *op = handle->head_[PIER__RECEIVING];
    if (op != NULL && op->state_ == PIER__ACTIVE && !(op->bits_ & PIER__PAUSED) &&
        !(handle->bits_ & PIER__STARVED)) {
        interest |= PIER__READ;
    }
    if (handle->bits_ & (PIER__BLOCKED | PIER__CONNECTING)) {
        interest |= PIER__WRITE;
    }
    if (PIER__UNLIKELY(handle->bits_ & PIER__NOISY) && interest != 0) {
        interest |= PIER__QUIET;
    }
    return interest;
}

void pier__ready_note_interest(struct pier_handle *handle, unsigned interest)
{
    handle->engine_.ready.interest = (uint8_t)interest;
    if ((interest & PIER__READ) && (handle->bits_ & PIER__FAST_RECEIVES)) {
        handle->bits_ |= PIER__WATCHED;
    } else {
        pier__handle_clear(handle, PIER__WATCHED);
    }
}

static int set_interest(struct pier_loop *loop, struct pier_handle *handle, unsigned interest)
{
    struct pier__ready *ready = pier__ready_of(loop);
    if (interest == handle->engine_.ready.interest || (handle->bits_ & PIER__ALWAYS)) {
        return 0;
    }
    if (handle->kind_ == PIER__KIND_FILE) { /* always ready, which not every poller would say */
        handle->bits_ |= PIER__ALWAYS;
        handle->bits_ |= PIER__HAS_DATA;
        return 0;
    }
    loop->counters.registrations++;
    int error = ready->poller->set(loop, handle->descriptor_, pier__slot_key(loop, handle->slot_),
                                   handle->engine_.ready.interest, interest);
    if (error == PIER_EPERM && handle->kind_ == PIER__KIND_TERMINAL) {
        /* A device like /dev/null, that can't be waited for (epoll_ctl(2), EPERM). */
        handle->bits_ |= PIER__ALWAYS;
        handle->bits_ |= PIER__HAS_DATA;
        return 0;
    }
    if (error == 0) {
        pier__ready_note_interest(handle, interest);
    }
    return error;
}

int pier__ready_want(struct pier_loop *loop, struct pier_handle *handle)
{
    unsigned interest = wanted(handle);
    if (PIER__LIKELY((interest & ~(unsigned)handle->engine_.ready.interest) == 0)) {
        return 0;
    }
    if (pier__ready_of(loop)->mode == PIER__POLLER_EDGE) {
        if (handle->engine_.ready.interest == 0) {
            interest |= PIER__READ;
            if ((handle->bits_ & PIER__IS_TCP) && handle->kind_ == PIER__KIND_STREAM) {
                interest |= PIER__WRITE;
            }
        }
        interest |= handle->engine_.ready.interest;
    }
    if (handle->bits_ & PIER__SHARED) {
        interest |= PIER__EXCLUSIVE;
    }
    int error = set_interest(loop, handle, interest);
    if (handle->bits_ & PIER__ALWAYS) {
        pier__handle_serve_later(loop, handle);
    }
    return error;
}

void pier__ready_settle(struct pier_loop *loop, uint64_t key)
{
    struct pier_handle *handle = pier__slot_handle(loop, key);
    /* With edges interest isn't taken back, but for a listener that others share: they get no
     * wake-up that goes to one who doesn't accept. */
    if (handle == NULL || (handle->bits_ & PIER__CLOSING) ||
        (pier__ready_of(loop)->mode == PIER__POLLER_EDGE && !(handle->bits_ & PIER__SHARED))) {
        return;
    }
    unsigned interest = wanted(handle);
    if (handle->bits_ & PIER__SHARED) {
        interest |= interest != 0 ? PIER__EXCLUSIVE : 0;
    }
    if (pier__ready_of(loop)->mode == PIER__POLLER_LEVEL && handle->bits_ & PIER__HAS_DATA &&
        (interest & PIER__READ)) {
        /* In the ready list: served before the next wait sleeps. */
        interest = handle->engine_.ready.interest;
    }
    if (PIER__UNLIKELY(set_interest(loop, handle, interest) < 0) &&
        (interest & ~(unsigned)handle->engine_.ready.interest) != 0) {
        pier__loop_starve(loop, handle); /* not armed again: nothing else would try */
    }
}

/* ---- events */

void pier__ready_event_slow(struct pier_loop *loop, struct pier_handle *handle, unsigned events)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    if (PIER__UNLIKELY(handle->kind_ == PIER__KIND_FOREIGN)) {
        pier__foreign_event(loop, handle, events);
        return;
    }
    enum pier__poller_mode mode = pier__ready_of(loop)->mode;
    if (PIER__UNLIKELY(events & PIER__INVALID)) {
        events |= PIER__ERROR; /* closed behind pier's back: its ops find out */
    }
    if (PIER__UNLIKELY(events & (PIER__ERROR | PIER__HANGUP | PIER__PEER_ENDED | PIER__PRIORITY))) {
        /* Hang-up and error may come alone (nginx's epoll module ORs both in, too); a half-closed
         * peer says nothing about writing (mio, pull request 933). Urgent data makes short reads
         * prove nothing as well. */
        events |= PIER__READ | ((events & (PIER__ERROR | PIER__HANGUP)) ? PIER__WRITE : 0);
        handle->bits_ |= PIER__HUNG_UP;
    }
    if (mode == PIER__POLLER_ONE_SHOT && !(handle->bits_ & PIER__SHARED) &&
        !(handle->engine_.ready.interest & PIER__QUIET)) {
        pier__ready_note_interest(handle, 0); /* these two aren't of one shot: epoll.c */
    }
    if (PIER__UNLIKELY(handle->bits_ & PIER__NOISY) && !(events & PIER__ERROR)) {
        pier__handle_clear(handle, PIER__NOISY);
    }
    if (PIER__UNLIKELY(loop->completed.head != NULL)) {
        pier__loop_deliver(loop);
        if (pier__slot_handle(loop, key) != handle) {
            return;
        }
    }
    if (events & PIER__READ) {
        handle->bits_ |= PIER__HAS_DATA;
        if (PIER__UNLIKELY(loop->budget <= 0)) {
            pier__handle_serve_later(loop, handle);
        } else if (PIER__LIKELY((handle->bits_ & PIER__LISTED) == 0) &&
                   !pier__ready_receive(loop, handle, key)) {
            return;
        }
    }
    if ((events & PIER__WRITE) && (handle->bits_ & (PIER__BLOCKED | PIER__CONNECTING))) {
        pier__ready_writable(loop, handle);
        if (handle->bits_ & PIER__BLOCKED) {
            pier__ready_found_nothing(loop, handle);
        }
    }
    pier__ready_settle(loop, key);
}

void pier__ready_serve(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->kind_ == PIER__KIND_FOREIGN) {
        pier__foreign_serve(loop, handle);
        return;
    }
    uint64_t key = pier__slot_key(loop, handle->slot_);
    const struct pier_op *send = handle->head_[PIER__SENDING];
    if (send != NULL && send->state_ == PIER__ACTIVE && pier__op_is_send(send) &&
        (!(handle->bits_ & PIER__BLOCKED) || (handle->bits_ & PIER__ALWAYS))) {
        pier__ready_writable(loop, handle); /* it has had its share of an earlier turn */
    }
    /* Also with edges: the kernel may have refused the registration meanwhile. */
    if ((handle->bits_ & PIER__HAS_DATA) && pier__ready_receive(loop, handle, key) &&
        !(handle->bits_ & PIER__CLOSING) && pier__ready_want(loop, handle) < 0) {
        pier__loop_starve(loop, handle);
    }
}

/* Handles that were left over come first, and what finds no budget after them queues up behind:
 * so each source that is always ready has its turn, however small the budget. */
void pier__ready_wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier__ready *ready = pier__ready_of(loop);
    if (PIER__UNLIKELY(ready->foreign_changed != NULL)) {
        pier__foreign_settle(loop);
    }
    if (PIER__UNLIKELY(loop->ready.head != NULL)) {
        pier__loop_take_ready(loop);
        if (PIER__UNLIKELY(ready->left_over)) {
            pier__loop_serve(loop);
            timeout_ns = 0;
        }
    }
    ready->poller->wait(loop, timeout_ns);
    if (loop->serving.head != NULL) {
        pier__loop_serve(loop);
    }
    ready->left_over = loop->budget <= 0 && loop->ready.head != NULL;
}

/* ---- the rest of the engine */

void pier__ready_start(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    if (PIER__LIKELY(op->kind_ == PIER__OP_SEND || op->kind_ == PIER__OP_SEND_VECTORED)) {
        pier__ready_start_send(loop, handle, op);
        return;
    }
    if (op->kind_ == PIER__OP_CONNECT) {
        pier__ready_connect(loop, handle, op);
        return;
    }
    if (op->kind_ == PIER__OP_SHUTDOWN) {
        pier__ready_shutdown(loop, handle, op);
        return;
    }
    if (PIER__UNLIKELY(handle->bits_ & PIER__STARVED)) {
        pier__loop_retry_soon(loop); /* what an earlier op was short of this one may not need */
    }
    if (handle->bits_ & PIER__HAS_DATA) {
        pier__handle_serve_later(loop, handle);
        return;
    }
    int error = pier__ready_want(loop, handle);
    if (PIER__UNLIKELY(error == PIER_ENOMEM || error == PIER_ENOSPC)) {
        pier__loop_starve(loop, handle);
    } else if (PIER__UNLIKELY(error < 0)) {
        pier__op_fail(loop, op, error, pier__sys_code());
    }
}

void pier__ready_cancel(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    pier__op_finish(loop, op, pier__op_reason(op));
    if (PIER__UNLIKELY(handle->bits_ & PIER__SHARED)) {
        pier__ready_settle(loop, pier__slot_key(loop, handle->slot_));
    }
}

void pier__ready_pause(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    (void)op;
    if (PIER__UNLIKELY(handle->bits_ & PIER__SHARED)) {
        pier__ready_settle(loop, pier__slot_key(loop, handle->slot_));
    }
}

void pier__ready_resume(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    (void)op;
    pier__handle_clear(handle, PIER__STREAMING); /* the program didn't keep up */
    if (handle->bits_ & PIER__HAS_DATA) {
        pier__handle_serve_later(loop, handle);
    } else if (!(handle->engine_.ready.interest & PIER__READ) &&
               pier__ready_want(loop, handle) < 0) {
        pier__loop_starve(loop, handle);
    }
}

void pier__ready_retry(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    struct pier_op *op = handle->head_[PIER__SENDING];
    if (op != NULL && op->state_ == PIER__ACTIVE && op->kind_ == PIER__OP_CONNECT) {
        if (handle->family_ == PIER_ADDRESS_UNIX) {
            pier__ready_connect(loop, handle, op); /* the backlog was full */
        } else if (pier__ready_want(loop, handle) < 0) {
            pier__loop_starve(loop, handle); /* it's on its way, and not yet watched */
        }
    } else if (op != NULL && op->state_ == PIER__ACTIVE) {
        pier__ready_writable(loop, handle);
    }
    op = handle->head_[PIER__RECEIVING];
    if (op == NULL || op->state_ != PIER__ACTIVE) {
        return;
    }
    if (handle->bits_ & PIER__HAS_DATA) {
        pier__handle_serve_later(loop, handle);
    } else if (pier__ready_want(loop, handle) < 0) {
        pier__loop_starve(loop, handle);
    }
}

/* Events that the last wait had no room for, and levels, which it leaves there. Without any event
 * there were none of these. */
bool pier__ready_more(struct pier_loop *loop)
{
    const struct pier__ready *ready = pier__ready_of(loop);
    if (ready->taken == 0) {
        return false;
    }
    loop->counters.system_calls++;
    return pier__sys_can_read(ready->poller->descriptor(loop));
}

void pier__ready_flush(struct pier_loop *loop)
{
    const struct pier__poller *poller = pier__ready_of(loop)->poller;
    pier__foreign_settle(loop);
    if (poller->flush != NULL) {
        poller->flush(loop);
    }
}

pier_descriptor pier__ready_descriptor(struct pier_loop *loop)
{
    return pier__ready_of(loop)->poller->descriptor(loop);
}

int pier__poller_probed(const char *call, int error, int bits)
{
    if (error == PIER_ENOTSUP || error == PIER_EPERM || error == PIER_EACCES) {
        return pier__fail(PIER_ENOTSUP, "%s can't be used here: %s", call, pier_error_text(error));
    }
    return bits;
}

/* The handle is registered by the first op that waits. */
int pier__ready_attach(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    const struct pier__ready *ready = pier__ready_of(loop);
    struct pier_handle *other = pier__descriptor_handle(loop, handle->descriptor_);
    if (other != NULL) {
        /* Its number was closed and reused: what was watched is gone. */
        pier__ready_note_interest(other, 0);
    }
    if (!ready->poller->close_removes) {
        /* The owner of a polled descriptor may have closed it, whose number this is now. */
        ready->poller->set(loop, handle->descriptor_, pier__slot_key(loop, handle->slot_), 0, 0);
    }
    handle->engine_.ready.interest = 0;
    if (ready->mode != PIER__POLLER_EDGE) {
        handle->bits_ |= PIER__LEVELED;
    }
    if (handle->kind_ == PIER__KIND_STREAM && (handle->bits_ & PIER__IS_TCP) &&
        ready->mode != PIER__POLLER_ONE_SHOT && !pier__loop_times_callbacks(loop)) {
        handle->bits_ |= PIER__FAST_RECEIVES;
    }
    return 0;
}

void pier__ready_detach(struct pier_handle *handle)
{
    set_interest(handle->loop_, handle, 0);
}

void pier__ready_shut(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    const struct pier__poller *poller = pier__ready_of(loop)->poller;
    /* A descriptor that others share, by dup() or in a child, stays registered after close. An edge
     * is told of once, and dropped; a level would be told of for ever, and an exclusive wake-up
     * would go to nobody (conform: exclusive.closed). */
    if (handle->engine_.ready.interest != 0 &&
        (!poller->close_removes ||
         (handle->bits_ & (PIER__ADOPTED | PIER__LEVELED | PIER__SHARED)))) {
        set_interest(loop, handle, 0);
    }
    loop->counters.system_calls++;
    pier__sys_close(handle->descriptor_);
    pier__handle_closed(handle);
}

int pier__ready_open(struct pier_loop *loop, const struct pier_loop_options *options)
{
    struct pier__ready *ready = pier__allocate(loop, sizeof(*ready));
    if (ready == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the %s backend", loop->engine->name);
    }
    memset(ready, 0, sizeof(*ready));
    ready->poller = loop->engine->poller;
    ready->mode = ready->poller->mode(options->trigger);
    loop->engine_data = ready;
    int error = ready->poller->open(loop, options);
    if (error < 0) {
        pier__free(loop, ready, sizeof(*ready));
        loop->engine_data = NULL;
    }
    return error;
}

void pier__ready_close(struct pier_loop *loop)
{
    struct pier__ready *ready = pier__ready_of(loop);
    pier__foreign_close(loop);
    ready->poller->close(loop);
    pier__free(loop, ready, sizeof(*ready));
}

int pier__ready_after_fork(struct pier_loop *loop)
{
    struct pier__ready *ready = pier__ready_of(loop);
    int error = ready->poller->after_fork(loop);
    for (uint32_t i = 0; error == 0 && i < loop->slots_used; i++) {
        struct pier_handle *handle = pier__slot_at(loop, i);
        if (handle != NULL && handle->engine_.ready.interest != 0) {
            unsigned interest = handle->engine_.ready.interest;
            pier__ready_note_interest(handle, 0);
            error = set_interest(loop, handle, interest);
        }
    }
    return error;
}
