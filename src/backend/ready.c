/* ready.c - completions on top of readiness: interest, events, and the receiving direction.
 *
 * A handle is registered at the first op that has to wait, once, for its life. The engine remembers
 * readiness in handle->ready_: an event sets it, a call that would block (or a short read, where
 * that proves as much) clears it. Ops that find their handle ready are not run inside the submit:
 * the handle goes to loop->ready and is served in the next turn.
 *
 * With an edge-triggered poller interest is only ever added: reading from the start, writing from
 * the start on TCP (no event comes of it as long as nothing blocks) and at the first full buffer
 * elsewhere, since a Unix socket wakes for each message that its peer takes. With level and
 * one-shot pollers interest follows the ops that wait.
 *
 * Callbacks run from here directly. After each the handle is looked up again by its key unless an
 * op of it is surely still in flight: the callback may have detached it. Completed ops that are
 * queued are delivered before the next event, so that ops of one direction complete in order. */

#include "backend/ready.h"

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
    return interest;
}

static int set_interest(struct pier_loop *loop, struct pier_handle *handle, unsigned interest)
{
    struct pier__ready *ready = pier__ready_of(loop);
    if (interest == handle->interest_ || (handle->bits_ & PIER__ALWAYS)) {
        return 0;
    }
    if (handle->kind_ == PIER__KIND_FILE) { /* always ready, which not every poller would say */
        handle->bits_ |= PIER__ALWAYS;
        handle->ready_ = PIER__READ | PIER__WRITE;
        return 0;
    }
    loop->stats.registrations++;
    int error = ready->poller->set(loop, handle->descriptor_, pier__slot_key(loop, handle->slot_),
                                   handle->interest_, interest);
    if (error == PIER_EPERM && handle->kind_ == PIER__KIND_TERMINAL) {
        /* A device like /dev/null, that can't be waited for (traps 23). */
        handle->bits_ |= PIER__ALWAYS;
        handle->ready_ = PIER__READ | PIER__WRITE;
        return 0;
    }
    if (error == 0) {
        handle->interest_ = (uint8_t)interest;
    }
    return error;
}

int pier__ready_want(struct pier_loop *loop, struct pier_handle *handle)
{
    unsigned interest = wanted(handle);
    if (PIER__LIKELY((interest & ~(unsigned)handle->interest_) == 0)) {
        return 0;
    }
    if (pier__ready_of(loop)->mode == PIER__POLLER_EDGE) {
        if (handle->interest_ == 0) {
            interest |= PIER__READ;
            if ((handle->bits_ & PIER__IS_TCP) && handle->kind_ == PIER__KIND_STREAM) {
                interest |= PIER__WRITE;
            }
        }
        interest |= handle->interest_;
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

/* After an event on a level or one-shot poller: interest follows what is still wanted. */
static void settle(struct pier_loop *loop, struct pier_handle *handle)
{
    unsigned interest = wanted(handle);
    if (handle->bits_ & PIER__SHARED) {
        interest |= interest != 0 ? PIER__EXCLUSIVE : 0;
    }
    if (pier__ready_of(loop)->mode == PIER__POLLER_LEVEL && handle->ready_ & PIER__READ &&
        (interest & PIER__READ)) {
        interest = handle->interest_; /* in the ready list: served before the next wait sleeps */
    }
    if (PIER__UNLIKELY(set_interest(loop, handle, interest) < 0) &&
        (interest & ~(unsigned)handle->interest_) != 0) {
        pier__loop_starve(loop, handle); /* not armed again: nothing else would try */
    }
}

/* ---- receiving */

static void out_of_buffers(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->stats.buffer_pauses++;
    pier__loop_starve(loop, handle);
}

/* After data: whether there may be more without another event. With a level-triggered poller, or
 * one that is armed anew, what's left is told of again. With edges a short read proves the opposite
 * only on Internet streams that nobody has ended: the end of stream, or urgent data, would show in
 * no further event. */
static inline void note_read(struct pier_handle *handle, bool is_short)
{
    uint32_t bits = handle->bits_ & (PIER__IS_TCP | PIER__HUNG_UP | PIER__ALWAYS);
    if (is_short &&
        (bits == PIER__IS_TCP || ((handle->bits_ & PIER__LEVELED) && !(bits & PIER__ALWAYS)))) {
        handle->ready_ &= (uint8_t)~PIER__READ;
    }
}

static inline int64_t receive(struct pier_loop *loop, struct pier_handle *handle, void *memory,
                              size_t size)
{
    loop->stats.system_calls++;
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        return pier__sys_receive(handle->descriptor_, memory, size);
    }
    return pier__sys_read(handle->descriptor_, memory, size, (handle->bits_ & PIER__CAUTIOUS) != 0);
}

/* Nothing came: would block, end of stream, or an error. */
PIER__COLD static void no_data(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, int64_t result)
{
    if (result == PIER_EAGAIN) {
        handle->ready_ &= (uint8_t)~PIER__READ;
        return;
    }
    if (result == PIER_EINTR) {
        pier__handle_serve_later(loop, handle);
        return;
    }
    if (result == PIER_ENOMEM || result == PIER_ENOBUFS) {
        out_of_buffers(loop, handle);
        return;
    }
    op->flags = (op->flags & PIER_BACKGROUND) | (result == 0 ? PIER_EOF : 0);
    op->os_error = result == 0 ? 0 : pier__sys_code();
    pier__op_finish_now(loop, op, result);
}

static inline void received(struct pier_loop *loop, struct pier_op *op, int64_t bytes)
{
    op->done += (uint64_t)bytes;
    loop->stats.receives++;
    loop->stats.received_bytes += (uint64_t)bytes;
}

static inline void receive_lent(struct pier_loop *loop, struct pier_handle *handle,
                                struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    uint32_t index = pier__pool_peek(loop);
    if (PIER__UNLIKELY(index == PIER__NO_BUFFER || handle->lent_ >= pool->share)) {
        out_of_buffers(loop, handle);
        return;
    }
    unsigned char *memory = pier__pool_memory(pool, index);
    int64_t result = receive(loop, handle, memory, pool->buffer_size);
    if (PIER__UNLIKELY(result <= 0)) {
        no_data(loop, handle, op, result);
        return;
    }
    note_read(handle, (size_t)result < pool->buffer_size);
    received(loop, op, result);
    op->data = memory;
    op->size = (size_t)result;
    if (PIER__UNLIKELY((op->bits_ & PIER__MULTISHOT) == 0)) {
        pier__pool_take(loop, index, handle);
        pool->buffers[index].size = (uint32_t)result;
        pool->buffers[index].offset = 0;
        op->extra_.number = index;
        op->flags = (op->flags & PIER_BACKGROUND) | PIER_LENT;
        pier__op_finish_now(loop, op, result);
        return;
    }
    pool->current = index;
    pool->current_size = (uint32_t)result;
    pool->current_handle = handle;
    pier__op_event(loop, op, result, PIER_LENT);
    pool->current = PIER__NO_BUFFER;
}

static inline void receive_memory(struct pier_loop *loop, struct pier_handle *handle,
                                  struct pier_op *op)
{
    int64_t result = receive(loop, handle, op->data, op->size);
    if (PIER__UNLIKELY(result <= 0)) {
        no_data(loop, handle, op, result);
        return;
    }
    note_read(handle, (size_t)result < op->size);
    received(loop, op, result);
    pier__op_finish_now(loop, op, result);
}

static void accept_one(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    loop->stats.system_calls++;
    pier_descriptor socket = (handle->bits_ & PIER__CAUTIOUS) &&
                                     !pier__sys_can_read(handle->descriptor_)
                                 ? PIER_EAGAIN
                                 : pier__sys_accept(handle->descriptor_, true);
    if (PIER__LIKELY(socket >= 0)) {
        if (op->bits_ & PIER__MULTISHOT) {
            pier__op_accepted(loop, op, socket);
        } else {
            pier__op_finish_accepted(loop, op, socket);
        }
    } else if (socket == PIER_EAGAIN) {
        handle->ready_ &= (uint8_t)~PIER__READ;
    } else if (pier__accept_starves(socket)) {
        loop->stats.accept_pauses++;
        pier__loop_starve(loop, handle);
    } else if (!pier__accept_passes(socket)) {
        op->os_error = pier__sys_code();
        pier__op_finish_now(loop, op, socket);
    }
}

/* Runs the receiving op at the head for as long as there is something, up to the turn's share of
 * one handle. `key` is the handle's: false when it was detached meanwhile. */
static inline bool run_receiving(struct pier_loop *loop, struct pier_handle *handle, uint64_t key)
{
    for (unsigned left = loop->options.receives_max; left > 0; left--) {
        struct pier_op *op = handle->head_[PIER__RECEIVING];
        if (op == NULL || op->state_ != PIER__ACTIVE || (op->bits_ & PIER__PAUSED)) {
            return true;
        }
        if (PIER__LIKELY(op->kind_ == PIER__OP_RECEIVE_LENT)) {
            receive_lent(loop, handle, op);
        } else if (op->kind_ == PIER__OP_RECEIVE) {
            receive_memory(loop, handle, op);
        } else {
            accept_one(loop, handle, op);
        }
        if (PIER__UNLIKELY(pier__slot_handle(loop, key) != handle)) {
            return false;
        }
        if (PIER__LIKELY((handle->ready_ & PIER__READ) == 0) ||
            (handle->bits_ & (PIER__LISTED | PIER__CLOSING))) {
            return true;
        }
        if (loop->completed.head != NULL) {
            pier__loop_deliver(loop);
            if (pier__slot_handle(loop, key) != handle) {
                return false;
            }
        }
        if (loop->budget <= 0) {
            break;
        }
    }
    if (handle->head_[PIER__RECEIVING] != NULL) {
        pier__handle_serve_later(loop, handle);
    }
    return true;
}

/* ---- events */

/* The usual receive came to nothing, or to a full buffer. */
PIER__COLD static void unusual_result(struct pier_loop *loop, struct pier_handle *handle,
                                      struct pier_op *op, int64_t result)
{
    handle->ready_ |= PIER__READ;
    if (result <= 0) {
        loop->pool.current = PIER__NO_BUFFER;
        no_data(loop, handle, op, result);
    } else {
        pier__handle_serve_later(loop, handle);
    }
}

/* The usual event: data for a multishot receive on a TCP connection with nothing else going on.
 * Does what receive_lent() does, without the loop and the checks around it; false (nothing done) in
 * other cases. `current` is set early, so as not to be carried in a saved register. */
static inline bool receive_usual(struct pier_loop *loop, struct pier_handle *handle,
                                 unsigned events)
{
    const uint32_t odd = PIER__CLOSED_TO_USER | PIER__LISTED | PIER__BLOCKED | PIER__CONNECTING |
                         PIER__HUNG_UP | PIER__QUICK;
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    struct pier__pool *pool = &loop->pool;
    uint32_t index = pool->free;
    const uint32_t usual = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    if (PIER__UNLIKELY(((events ^ PIER__READ) & ~(unsigned)PIER__WRITE) != 0 ||
                       (handle->bits_ & odd) != PIER__QUICK || op == NULL ||
                       pier__op_word(op) != usual || index == PIER__NO_BUFFER ||
                       handle->lent_ != 0 || loop->completed.head != NULL || loop->budget <= 0)) {
        return false;
    }
    unsigned char *memory = pier__pool_memory(pool, index);
    op->data = memory;
    pool->current = index;
    pool->current_handle = handle;
    int64_t result = pier__sys_receive(handle->descriptor_, memory, pool->buffer_size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == pool->buffer_size)) {
        unusual_result(loop, handle, op, result);
        if (result <= 0) {
            loop->stats.system_calls++;
            return true;
        }
    }
    op->done += (uint64_t)result;
    op->size = (size_t)result;
    op->result = result;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_MORE | PIER_LENT;
    loop->quick_receives++;
    loop->stats.received_bytes += (uint64_t)result;
    pool->current_size = (uint32_t)result;
    pier__loop_call(loop, op);
    pool->current = PIER__NO_BUFFER;
    return true;
}

PIER__NOINLINE static void other_event(struct pier_loop *loop, struct pier_handle *handle,
                                       uint64_t key, unsigned events)
{
    if (PIER__UNLIKELY(handle->kind_ == PIER__KIND_FOREIGN)) {
        pier__foreign_event(loop, handle, events);
        return;
    }
    enum pier__poller_mode mode = pier__ready_of(loop)->mode;
    if (PIER__UNLIKELY(events & (PIER__ERROR | PIER__HANGUP | PIER__PEER_ENDED))) {
        /* Hang-up and error may come alone (traps 29); a half-closed peer says nothing about
         * writing (traps 28). */
        events |= PIER__READ | ((events & (PIER__ERROR | PIER__HANGUP)) ? PIER__WRITE : 0);
        handle->bits_ |= PIER__HUNG_UP;
    }
    if (mode == PIER__POLLER_ONE_SHOT) {
        handle->interest_ = 0;
    }
    if (PIER__UNLIKELY(loop->completed.head != NULL)) {
        pier__loop_deliver(loop);
        if (pier__slot_handle(loop, key) != handle) {
            return;
        }
    }
    if (events & PIER__READ) {
        handle->ready_ |= PIER__READ;
        if (PIER__UNLIKELY(loop->budget <= 0)) {
            pier__handle_serve_later(loop, handle);
        } else if (PIER__LIKELY((handle->bits_ & PIER__LISTED) == 0) &&
                   !run_receiving(loop, handle, key)) {
            return;
        }
    }
    if ((events & PIER__WRITE) && (handle->bits_ & (PIER__BLOCKED | PIER__CONNECTING))) {
        pier__ready_writable(loop, handle);
    }
    if (mode != PIER__POLLER_EDGE && pier__slot_handle(loop, key) == handle &&
        !(handle->bits_ & PIER__CLOSING)) {
        settle(loop, handle);
    }
}

void pier__ready_event(struct pier_loop *loop, uint64_t key, unsigned events)
{
    struct pier_handle *handle = pier__slot_handle(loop, key);
    if (PIER__UNLIKELY(handle == NULL)) {
        loop->stats.stale_events++;
    } else if (PIER__UNLIKELY(!receive_usual(loop, handle, events))) {
        other_event(loop, handle, key, events);
    }
}

static void serve(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->bits_ & PIER__CLOSING) {
        pier__handle_try_close(handle);
        return;
    }
    uint64_t key = pier__slot_key(loop, handle->slot_);
    const struct pier_op *send = handle->head_[PIER__SENDING];
    if (send != NULL && send->state_ == PIER__ACTIVE && pier__op_is_send(send) &&
        (!(handle->bits_ & PIER__BLOCKED) || (handle->bits_ & PIER__ALWAYS))) {
        pier__ready_writable(loop, handle); /* it has had its share of an earlier turn */
    }
    if ((handle->ready_ & PIER__READ) && run_receiving(loop, handle, key) &&
        pier__ready_of(loop)->mode != PIER__POLLER_EDGE && !(handle->bits_ & PIER__CLOSING)) {
        pier__ready_want(loop, handle);
    }
}

void pier__ready_wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier__ready *ready = pier__ready_of(loop);
    if (PIER__UNLIKELY(ready->foreign_changed != NULL)) {
        pier__foreign_settle(loop);
    }
    loop->serving = loop->ready;
    loop->ready.head = NULL;
    ready->poller->wait(loop, timeout_ns);
    while (loop->serving.head != NULL) {
        if (loop->completed.head != NULL) {
            pier__loop_deliver(loop); /* may take handles off the list */
        }
        struct pier_handle *handle = pier__handles_pop(&loop->serving);
        if (handle != NULL && loop->budget <= 0) {
            pier__handles_push(&loop->ready, handle);
        } else if (handle != NULL) {
            serve(loop, handle);
        }
    }
}

/* ---- the rest of the backend */

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
        loop->retry_now = true; /* what an earlier op was short of this one may not need */
    }
    if (handle->ready_ & PIER__READ) {
        pier__handle_serve_later(loop, handle);
        return;
    }
    int error = pier__ready_want(loop, handle);
    if (PIER__UNLIKELY(error == PIER_ENOMEM || error == PIER_ENOSPC)) {
        pier__loop_starve(loop, handle);
    } else if (PIER__UNLIKELY(error < 0)) {
        op->os_error = pier__sys_code();
        pier__op_finish(loop, op, error);
    }
}

void pier__ready_cancel(struct pier_handle *handle, struct pier_op *op)
{
    pier__op_finish(handle->loop_, op, pier__op_reason(op));
}

void pier__ready_resume(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    (void)op;
    if (handle->ready_ & PIER__READ) {
        pier__handle_serve_later(loop, handle);
    } else if (!(handle->interest_ & PIER__READ) && pier__ready_want(loop, handle) < 0) {
        pier__loop_starve(loop, handle);
    }
}

void pier__ready_retry(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    struct pier_op *op = handle->head_[PIER__SENDING];
    if (op != NULL && op->state_ == PIER__ACTIVE && op->kind_ == PIER__OP_CONNECT) {
        pier__ready_connect(loop, handle, op);
    } else if (op != NULL && op->state_ == PIER__ACTIVE) {
        pier__ready_writable(loop, handle);
    }
    op = handle->head_[PIER__RECEIVING];
    if (op == NULL || op->state_ != PIER__ACTIVE) {
        return;
    }
    if (handle->ready_ & PIER__READ) {
        pier__handle_serve_later(loop, handle);
    } else if (pier__ready_want(loop, handle) < 0) {
        pier__loop_starve(loop, handle);
    }
}

bool pier__ready_busy(struct pier_loop *loop)
{
    return loop->ready.head != NULL;
}

void pier__ready_flush(struct pier_loop *loop)
{
    const struct pier__poller *poller = pier__ready_of(loop)->poller;
    pier__foreign_settle(loop);
    if (poller->flush != NULL) {
        poller->flush(loop);
    }
}

void pier__ready_wake(struct pier_loop *loop)
{
    pier__ready_of(loop)->poller->wake(loop);
}

bool pier__ready_buffer_returned(struct pier_loop *loop, uint32_t index)
{
    (void)loop;
    (void)index;
    return false;
}

pier_descriptor pier__ready_descriptor(struct pier_loop *loop)
{
    return pier__ready_of(loop)->poller->descriptor(loop);
}

int pier__ready_attach(struct pier_handle *handle)
{
    /* Registered by the first op that waits. */
    if (pier__ready_of(handle->loop_)->mode != PIER__POLLER_EDGE) {
        handle->bits_ |= PIER__LEVELED;
    }
    if (handle->kind_ == PIER__KIND_STREAM) {
        handle->bits_ |= PIER__PLAIN_SENDS;
        if ((handle->bits_ & PIER__IS_TCP) &&
            pier__ready_of(handle->loop_)->mode != PIER__POLLER_ONE_SHOT) {
            handle->bits_ |= PIER__QUICK;
        }
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
    /* A descriptor that others share stays registered after close, and would report for ever. */
    if (handle->interest_ != 0 && (!poller->close_removes || (handle->bits_ & PIER__ADOPTED))) {
        set_interest(loop, handle, 0);
    }
    loop->stats.system_calls++;
    pier__sys_close(handle->descriptor_);
    pier__handle_closed(handle);
}

int pier__ready_open(struct pier_loop *loop, const struct pier_loop_options *options)
{
    struct pier__ready *ready = pier__allocate(loop, sizeof(*ready));
    if (ready == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the %s backend", loop->backend->name);
    }
    memset(ready, 0, sizeof(*ready));
    ready->poller = loop->backend->poller;
    ready->mode = ready->poller->mode(options->trigger);
    loop->backend_data = ready;
    int error = ready->poller->open(loop, options);
    if (error < 0) {
        pier__free(loop, ready, sizeof(*ready));
        loop->backend_data = NULL;
    }
    return error;
}

void pier__ready_close(struct pier_loop *loop)
{
    struct pier__ready *ready = pier__ready_of(loop);
    pier__foreign_settle(loop);
    pier__foreign_close(loop);
    ready->poller->close(loop);
    pier__free(loop, ready, sizeof(*ready));
}

int pier__ready_after_fork(struct pier_loop *loop)
{
    struct pier__ready *ready = pier__ready_of(loop);
    int error = ready->poller->after_fork(loop);
    for (uint32_t i = 0; error == 0 && i < loop->slots_used; i++) {
        struct pier_handle *handle = loop->slots[i].handle;
        if (handle != NULL && handle->interest_ != 0) {
            unsigned interest = handle->interest_;
            handle->interest_ = 0;
            error = set_interest(loop, handle, interest);
        }
    }
    return error;
}
