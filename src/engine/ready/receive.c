/* receive.c - the receiving direction of the readiness engine: receive, accept.
 *
 * The usual event, data for a receive on a TCP connection with nothing else going on, has a short
 * way of its own; everything else goes through pier__ready_other_event() and pier__ready_receive(),
 * which runs the op at the head of the queue for as long as there is something to take. */

#include "engine/ready/ready.h"

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

static inline void receive_lent(struct pier_loop *loop, struct pier_handle *handle,
                                struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    uint32_t index = pier__pool_peek(loop);
    if (PIER__UNLIKELY(index == PIER__NO_BUFFER || handle->lent_ >= pool->share)) {
        out_of_buffers(loop, handle);
        return;
    }
    int64_t result = receive(loop, handle, pier__pool_memory(pool, index), pool->buffer_size);
    if (PIER__UNLIKELY(result <= 0)) {
        no_data(loop, handle, op, result);
        return;
    }
    note_read(handle, (size_t)result < pool->buffer_size);
    pier__op_received_lent(loop, handle, op, index, (size_t)result);
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
    op->done += (uint64_t)result;
    loop->stats.receives++;
    loop->stats.received_bytes += (uint64_t)result;
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

bool pier__ready_receive(struct pier_loop *loop, struct pier_handle *handle, uint64_t key)
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

/* ---- the short way */

/* The usual receive came to nothing, or to a full buffer. */
PIER__COLD static void unusual_result(struct pier_loop *loop, struct pier_handle *handle,
                                      struct pier_op *op, int64_t result)
{
    handle->ready_ |= PIER__READ;
    if (result <= 0) {
        loop->pool.current = PIER__NO_BUFFER;
        loop->stats.system_calls++;
        no_data(loop, handle, op, result);
    } else {
        pier__handle_serve_later(loop, handle);
    }
}

/* What receive_lent() does for a multishot receive, without what it checks. The handle is read from
 * the op again where it's needed, and `current` set early, so as not to be carried in saved
 * registers. */
static inline void receive_each_quickly(struct pier_loop *loop, struct pier_handle *handle,
                                        struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    op->data = pool->free_memory;
    pool->current = pool->free;
    pool->current_handle = handle;
    int64_t result = pier__sys_receive(handle->descriptor_, op->data, pool->buffer_size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == pool->buffer_size)) {
        unusual_result(loop, op->owner_, op, result);
        if (result <= 0) {
            return;
        }
    }
    op->done += (uint64_t)result;
    op->size = (size_t)result;
    op->result = result;
    op->flags |= PIER_MORE | PIER_LENT; /* and nothing else, since it goes on */
    pool->current_size = (uint32_t)result;
    loop->quick_receives++;
    loop->stats.received_bytes += (uint64_t)result;
    loop->budget--;
    op->fn(op);
    pool->current = PIER__NO_BUFFER;
}

/* The end of a quick receive of one shot. A level-triggered poller goes on watching, since another
 * receive is about to follow; an event that finds none ends that. */
static inline void finish_quickly(struct pier_loop *loop, struct pier_handle *handle,
                                  struct pier_op *op, int64_t result)
{
    op->done = (uint64_t)result;
    op->result = result;
    handle->head_[PIER__RECEIVING] = NULL;
    pier__op_move(op, PIER__IDLE);
    loop->in_flight--;
    loop->quick_receives++;
    loop->stats.received_bytes += (uint64_t)result;
    loop->budget--;
    op->fn(op);
}

/* A quick receive that got nothing, or as much as it had room for, so that there may be more.
 * Whether there is something to deliver. */
PIER__NOINLINE static bool has_data(struct pier_loop *loop, struct pier_handle *handle,
                                    struct pier_op *op, int64_t result, uint64_t key)
{
    handle->ready_ |= PIER__READ;
    if (result > 0) {
        return true;
    }
    loop->stats.system_calls++;
    no_data(loop, handle, op, result);
    pier__ready_settle(loop, key);
    return false;
}

/* What receive_lent() does for an op of one shot that no other waits behind: the buffer is out of
 * the pool until the callback returns. */
PIER__NOINLINE static void receive_lent_quickly(struct pier_loop *loop, struct pier_handle *handle,
                                                struct pier_op *op, uint64_t key)
{
    struct pier__pool *pool = &loop->pool;
    uint32_t index = pool->free;
    op->data = pool->free_memory;
    int64_t result = pier__sys_receive(handle->descriptor_, op->data, pool->buffer_size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == pool->buffer_size) &&
        !has_data(loop, handle, op, result, key)) {
        return;
    }
    pier__pool_take(loop, index, handle);
    pool->buffers[index].size = (uint32_t)result;
    pool->buffers[index].offset = 0;
    op->size = (size_t)result;
    op->flags = PIER_LENT;
    finish_quickly(loop, handle, op, result);
    pier__pool_drop(loop, index);
}

/* What receive_memory() does for an op that no other waits behind. */
PIER__NOINLINE static void receive_memory_quickly(struct pier_loop *loop,
                                                  struct pier_handle *handle, struct pier_op *op,
                                                  uint64_t key)
{
    int64_t result = pier__sys_receive(handle->descriptor_, op->data, op->size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == op->size) &&
        !has_data(loop, handle, op, result, key)) {
        return;
    }
    finish_quickly(loop, handle, op, result);
}

/* Completed ops come first, sends that the callbacks of other events made. */
PIER__NOINLINE static void event_after_completed(struct pier_loop *loop, uint64_t key,
                                                 unsigned events)
{
    pier__loop_deliver(loop);
    struct pier_handle *handle = pier__slot_handle(loop, key);
    if (handle == NULL) {
        return;
    }
    if (PIER__LIKELY(loop->completed.head == NULL)) {
        pier__ready_event(loop, key, events);
    } else {
        pier__ready_other_event(loop, handle, key, events);
    }
}

void pier__ready_event(struct pier_loop *loop, uint64_t key, unsigned events)
{
    const uint32_t odd = PIER__CLOSED_TO_USER | PIER__LISTED | PIER__BLOCKED | PIER__CONNECTING |
                         PIER__HUNG_UP | PIER__QUICK;
    const uint32_t each = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    const uint32_t once = pier__word_of(PIER__OP_RECEIVE, PIER__ACTIVE, 0);
    const uint32_t lent = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0);
    const struct pier__slot *slot = &loop->slots[(uint32_t)key];
    struct pier_handle *handle = slot->handle;
    if (PIER__UNLIKELY(slot->key != key)) {
        loop->stats.stale_events++;
        return;
    }
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    if (PIER__LIKELY(((events ^ PIER__READ) & ~(unsigned)PIER__WRITE) == 0 &&
                     (handle->bits_ & odd) == PIER__QUICK && op != NULL && loop->budget > 0)) {
        if (PIER__UNLIKELY(loop->completed.head != NULL)) {
            event_after_completed(loop, key, events);
            return;
        }
        if (PIER__LIKELY(pier__op_word(op) == each && loop->pool.free_memory != NULL &&
                         handle->lent_ == 0)) {
            receive_each_quickly(loop, handle, op);
            return;
        }
        if (pier__op_word(op) == once && op->next_ == NULL) {
            receive_memory_quickly(loop, handle, op, key);
            return;
        }
        if (pier__op_word(op) == lent && op->next_ == NULL && loop->pool.free_memory != NULL &&
            handle->lent_ == 0) {
            receive_lent_quickly(loop, handle, op, key);
            return;
        }
    }
    pier__ready_other_event(loop, handle, key, events);
}
