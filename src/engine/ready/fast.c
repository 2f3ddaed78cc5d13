/* fast.c - the fast roads of the readiness engine: data for the only receive of a TCP connection on
 * which nothing else is going on, and a send into an empty queue.
 *
 * One fused look says that nothing speaks against it; then the functions of core/end.h follow with
 * what is known written out. All else goes through pier__ready_event_slow(), receive.c and send.c,
 * with the same results. What isn't ordinary has functions of its own that aren't inlined, so that
 * the ordinary case saves no registers for them. */

#include "engine/ready/ready.h"

/* A receive that got nothing, or as much as it had room for, so that there may be more. Whether
 * there is something to deliver. */
PIER__NOINLINE static bool has_data(struct pier_loop *loop, struct pier_handle *handle,
                                    struct pier_op *op, int64_t result, uint64_t key)
{
    handle->bits_ |= PIER__HAS_DATA;
    if (result > 0) {
        return true;
    }
    loop->counters.system_calls++;
    pier__ready_no_data(loop, handle, op, result);
    pier__ready_settle(loop, key);
    return false;
}

/* The callback has kept the buffer, or kept and released it. */
PIER__COLD static void spare_was_taken(struct pier_loop *loop, struct pier_buffer *buffer)
{
    if (buffer->refs == 0) {
        pier__pool_return_spare(loop, buffer);
    }
}

/* The buffer's callback is back. */
static PIER__INLINE void lend_over(struct pier_loop *loop, struct pier_buffer *buffer)
{
    loop->pool.delivering = NULL;
    if (PIER__UNLIKELY(loop->pool.spare != buffer)) {
        spare_was_taken(loop, buffer);
    } else {
        pier__pool_poison(&loop->pool, buffer);
    }
}

/* A full buffer: there may be more, which is looked for when the handle is served. */
PIER__COLD static void more_than_room(struct pier_loop *loop, struct pier_handle *handle)
{
    handle->bits_ |= PIER__HAS_DATA | PIER__STREAMING;
    pier__handle_serve_later(loop, handle);
}

/* For a multishot receive that goes on. */
static PIER__INLINE void receive_each_fast(struct pier_loop *loop, struct pier_handle *handle,
                                           struct pier_op *op, uint64_t key)
{
    struct pier_buffer *buffer = loop->pool.spare;
    pier__pool_unpoison(&loop->pool, buffer);
    int64_t result = pier__sys_receive(handle->descriptor_, buffer->memory, loop->pool.buffer_size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == loop->pool.buffer_size)) {
        if (!has_data(loop, handle, op, result, key)) {
            return;
        }
        more_than_room(loop, handle);
    }
    pier__lend(loop, buffer, handle, op, (size_t)result);
    op->done += (uint64_t)result;
    op->result = result;
    op->flags |= PIER_MORE | PIER_LENT; /* and nothing else, since it goes on */
    loop->receives_at_once++;
    pier__loop_call_untimed(loop, op);
    lend_over(loop, buffer);
}

/* The sends that the callback made, which come before the next event. */
static inline void deliver_sends(struct pier_loop *loop)
{
    if (loop->completed.head != NULL) {
        pier__loop_deliver(loop);
    }
}

/* For a lent receive of one shot. A level-triggered poller goes on watching, since another receive
 * is about to follow; an event that finds none ends that. */
PIER__NOINLINE static void receive_lent_fast(struct pier_loop *loop, struct pier_handle *handle,
                                             struct pier_op *op, uint64_t key)
{
    struct pier_buffer *buffer = loop->pool.spare;
    pier__pool_unpoison(&loop->pool, buffer);
    int64_t result = pier__sys_receive(handle->descriptor_, buffer->memory, loop->pool.buffer_size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == loop->pool.buffer_size) &&
        !has_data(loop, handle, op, result, key)) {
        return;
    }
    pier__lend(loop, buffer, handle, op, (size_t)result);
    op->flags = PIER_LENT; /* background ops have another word */
    loop->receives_at_once++;
    pier__op_finish_alone(loop, handle, op, PIER__RECEIVING, result);
    pier__loop_call_untimed(loop, op);
    lend_over(loop, buffer);
    deliver_sends(loop);
}

/* For a receive into the caller's memory. */
PIER__NOINLINE static void receive_memory_fast(struct pier_loop *loop, struct pier_handle *handle,
                                               struct pier_op *op, uint64_t key)
{
    int64_t result = pier__sys_receive(handle->descriptor_, op->data, op->size);
    if (PIER__UNLIKELY(result <= 0 || (size_t)result == op->size) &&
        !has_data(loop, handle, op, result, key)) {
        return;
    }
    loop->receives_at_once++;
    loop->counters.received_bytes += (uint64_t)result;
    pier__op_finish_alone(loop, handle, op, PIER__RECEIVING, result);
    pier__loop_call_untimed(loop, op);
    deliver_sends(loop);
}

/* Completed ops come first. */
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
        pier__ready_event_slow(loop, handle, key, events);
    }
}

void pier__ready_event(struct pier_loop *loop, uint64_t key, unsigned events)
{
    const uint32_t slow = PIER__CLOSED_TO_USER | PIER__LISTED | PIER__BLOCKED | PIER__CONNECTING |
                          PIER__HUNG_UP | PIER__FAST_RECEIVES | PIER__STREAMING;
    const uint32_t each = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    const uint32_t memory = pier__word_of(PIER__OP_RECEIVE, PIER__ACTIVE, 0);
    const uint32_t lent = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0);
    const struct pier__slot *slot = &loop->slots[(uint32_t)key];
    struct pier_handle *handle = slot->handle;
    if (PIER__UNLIKELY(slot->key != key)) {
        loop->counters.stale_events++;
        return;
    }
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    if (PIER__LIKELY(((events ^ PIER__READ) & ~(unsigned)PIER__WRITE) == 0 &&
                     (handle->bits_ & slow) == PIER__FAST_RECEIVES && op != NULL &&
                     loop->budget > 0)) {
        if (PIER__UNLIKELY(loop->completed.head != NULL)) {
            event_after_completed(loop, key, events);
            return;
        }
        uint32_t word = pier__op_word(op);
        bool has_buffer = loop->pool.spare != NULL && handle->lent_ == 0;
        if (PIER__LIKELY(word == each && has_buffer)) {
            receive_each_fast(loop, handle, op, key);
            return;
        }
        if (op->next_ == NULL) {
            if (word == lent && has_buffer) {
                receive_lent_fast(loop, handle, op, key);
                return;
            }
            if (word == memory) {
                receive_memory_fast(loop, handle, op, key);
                return;
            }
        }
    }
    pier__ready_event_slow(loop, handle, key, events);
}

/* ---- sending */

/* A send that isn't over. */
PIER__COLD static void send_not_over(struct pier_op *op, int64_t result)
{
    struct pier_handle *handle = op->owner_;
    struct pier_loop *loop = handle->loop_;
    loop->counters.system_calls++;
    pier__loop_clock_of_turn(loop);
    pier__op_begin_alone(loop, handle, op, PIER__OP_SEND, PIER__SENDING, 0);
    pier__ready_tried(loop, handle, op, result);
}

static void send_over(struct pier_op *op, int64_t result);

/* Apart, so that send_over() calls nobody and saves no registers. */
PIER__COLD static void send_over_with_clock(struct pier_loop *loop, struct pier_op *op,
                                            int64_t result)
{
    pier__loop_clock_of_turn(loop);
    send_over(op, result);
}

/* A send that is over, and has somebody to call. */
PIER__NOINLINE static void send_over(struct pier_op *op, int64_t result)
{
    struct pier_handle *handle = op->owner_;
    struct pier_loop *loop = handle->loop_;
    if (PIER__UNLIKELY(loop->core.fast_thread == PIER__NO_THREAD)) {
        send_over_with_clock(loop, op, result);
        return;
    }
    loop->sends_at_once++;
    loop->counters.sent_bytes += (uint64_t)result;
    pier__op_begin_finished(loop, handle, op, PIER__OP_SEND, result);
}

void pier__ready_send_fast(struct pier_handle *handle, struct pier_op *op)
{
    op->owner_ = handle; /* rather than in a saved register */
    op->flags &= PIER_BACKGROUND;
    op->os_error = 0;
    int64_t result = pier__sys_send(handle->descriptor_, op->data, op->size);
    if (PIER__UNLIKELY(result < 0 || (uint64_t)result != op->size)) {
        send_not_over(op, result);
        return;
    }
    if (op->fn != NULL) {
        send_over(op, result);
        return;
    }
    struct pier_loop *loop = ((struct pier_handle *)op->owner_)->loop_;
    op->result = result;
    op->done = (uint64_t)result;
    loop->sends_at_once++;
    loop->counters.sent_bytes += (uint64_t)result;
}
