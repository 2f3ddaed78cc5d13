/* fast.c - the fast roads of the readiness engine: data for the only receive of a TCP connection on
 * which nothing else is going on, and a send into an empty queue.
 *
 * One fused look says that nothing speaks against it; then the functions of core/end.h follow with
 * what is known written out. All else goes through pier__ready_event_slow(), receive.c and send.c,
 * with the same results. What isn't ordinary has functions of its own that aren't inlined, so that
 * the ordinary case saves no registers for them. */

#include "engine/ready/ready.h"

/* Neither nothing, nor as much as there was room for, which may not be all. */
static PIER__EXPRESSION bool is_part(int64_t result, size_t size)
{
    return PIER__LIKELY((uint64_t)(result - 1) < (uint64_t)size - 1);
}

/* A receive that got nothing, or as much as it had room for, so that there may be more. Whether
 * there is something to deliver. */
PIER__NOINLINE static bool has_data(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    struct pier_handle *handle = op->owner_;
    uint64_t key = pier__slot_key(loop, handle->slot_);
    handle->bits_ |= PIER__HAS_DATA;
    if (result > 0) {
        if (op->bits_ & PIER__MULTISHOT) {
            handle->bits_ |= PIER__STREAMING;
            pier__handle_serve_later(loop, handle);
        }
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

/* The callback to which the spare buffer was lent is back. */
static PIER__EXPRESSION void lend_over(struct pier_loop *loop)
{
    struct pier_buffer *buffer = loop->pool.delivering;
    loop->pool.delivering = NULL;
    if (PIER__UNLIKELY(loop->pool.spare != buffer)) {
        spare_was_taken(loop, buffer);
    } else {
        pier__pool_poison(&loop->pool, buffer);
    }
}

/* Receives into the spare buffer. The op leads to its handle, so that little has to be kept in
 * saved registers. */
static PIER__INLINE int64_t receive_spare(struct pier_loop *loop, const struct pier_handle *handle)
{
    struct pier_buffer *buffer = loop->pool.spare;
    pier__pool_unpoison(&loop->pool, buffer);
    return pier__sys_receive(handle->descriptor_, buffer->memory, loop->pool.buffer_size);
}

/* The sends that the callback made come before the next event. Most often it's one, over at once,
 * which is called as the last thing that is done here. */
static PIER__EXPRESSION void deliver_sends(struct pier_loop *loop)
{
    if (loop->completed.head != NULL) {
        struct pier_op *op = pier__op_pop_alone(loop);
        if (PIER__LIKELY(op != NULL)) {
            pier__loop_call_untimed(loop, op);
        } else {
            pier__loop_deliver(loop);
        }
    }
}

/* Data for a multishot receive that goes on. */
static PIER__EXPRESSION void deliver_each(struct pier_loop *loop, struct pier_op *op,
                                          int64_t result)
{
    pier__lend(loop, loop->pool.spare, op->owner_, op, (size_t)result);
    op->done += (uint64_t)result;
    op->result = result;
    op->flags |= PIER_MORE | PIER_LENT; /* and nothing else, since it goes on */
    loop->receives_at_once++;
    pier__loop_call_untimed(loop, op);
    lend_over(loop);
}

/* For a lent receive of one shot. A level-triggered poller goes on watching, since another receive
 * is about to follow; an event that finds none ends that. */
static PIER__EXPRESSION void deliver_lent(struct pier_loop *loop, struct pier_op *op,
                                          int64_t result)
{
    pier__lend(loop, loop->pool.spare, op->owner_, op, (size_t)result);
    op->flags = PIER_LENT; /* background ops have another word */
    loop->receives_at_once++;
    pier__op_finish_alone(loop, op->owner_, op, PIER__OP_RECEIVE_LENT, PIER__RECEIVING, result);
    pier__loop_call_untimed(loop, op);
    lend_over(loop);
    deliver_sends(loop);
}

/* For a receive into the caller's memory. */
static PIER__EXPRESSION void deliver_memory(struct pier_loop *loop, struct pier_op *op,
                                            int64_t result)
{
    loop->receives_at_once++;
    loop->counters.received_bytes += (uint64_t)result;
    pier__op_finish_alone(loop, op->owner_, op, PIER__OP_RECEIVE, PIER__RECEIVING, result);
    pier__loop_call_untimed(loop, op);
    deliver_sends(loop);
}

/* The same three after a receive that got nothing, or all that there was room for. */
PIER__NOINLINE static void each_full(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    if (has_data(loop, op, result)) {
        deliver_each(loop, op, result);
    }
}

PIER__NOINLINE static void lent_full(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    if (has_data(loop, op, result)) {
        deliver_lent(loop, op, result);
    }
}

PIER__NOINLINE static void memory_full(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    if (has_data(loop, op, result)) {
        deliver_memory(loop, op, result);
    }
}

PIER__NOINLINE static void receive_each_fast(struct pier_loop *loop,
                                             const struct pier_handle *handle, struct pier_op *op)
{
    int64_t result = receive_spare(loop, handle);
    if (is_part(result, loop->pool.buffer_size)) {
        deliver_each(loop, op, result);
    } else {
        each_full(loop, op, result);
    }
}

PIER__NOINLINE static void receive_lent_fast(struct pier_loop *loop,
                                             const struct pier_handle *handle, struct pier_op *op)
{
    int64_t result = receive_spare(loop, handle);
    if (is_part(result, loop->pool.buffer_size)) {
        deliver_lent(loop, op, result);
    } else {
        lent_full(loop, op, result);
    }
}

PIER__NOINLINE static void receive_memory_fast(struct pier_loop *loop,
                                               const struct pier_handle *handle, struct pier_op *op)
{
    int64_t result = pier__sys_receive(handle->descriptor_, op->data, op->size);
    if (is_part(result, op->size)) {
        deliver_memory(loop, op, result);
    } else {
        memory_full(loop, op, result);
    }
}

/* Completed ops come first. */
PIER__NOINLINE static void event_after_completed(struct pier_loop *loop, struct pier_handle *handle,
                                                 unsigned events)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    pier__loop_deliver(loop);
    if (pier__slot_handle(loop, key) != handle) {
        return;
    }
    if (PIER__LIKELY(loop->completed.head == NULL)) {
        pier__ready_handle_event(loop, handle, events);
    } else {
        pier__ready_event_slow(loop, handle, events);
    }
}

static PIER__INLINE void handle_event(struct pier_loop *loop, struct pier_handle *handle,
                                      unsigned events)
{
    const uint32_t slow = PIER__CLOSED_TO_USER | PIER__LISTED | PIER__BLOCKED | PIER__CONNECTING |
                          PIER__HUNG_UP | PIER__FAST_RECEIVES | PIER__STREAMING;
    const uint32_t each = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    const uint32_t memory = pier__word_of(PIER__OP_RECEIVE, PIER__ACTIVE, 0);
    const uint32_t lent = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0);
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    if (PIER__LIKELY(((events ^ PIER__READ) & ~(unsigned)PIER__WRITE) == 0 &&
                     (handle->bits_ & slow) == PIER__FAST_RECEIVES && op != NULL &&
                     loop->budget > 0)) {
        if (PIER__UNLIKELY(loop->completed.head != NULL)) {
            event_after_completed(loop, handle, events);
            return;
        }
        uint32_t word = pier__op_word(op);
        if (PIER__LIKELY(loop->pool.spare != NULL && handle->lent_ == 0)) {
            if (word == each) {
                receive_each_fast(loop, handle, op);
                return;
            }
            if (word == lent && op->next_ == NULL) {
                receive_lent_fast(loop, handle, op);
                return;
            }
        }
        if (word == memory && op->next_ == NULL) {
            receive_memory_fast(loop, handle, op);
            return;
        }
    }
    pier__ready_event_slow(loop, handle, events);
}

void pier__ready_handle_event(struct pier_loop *loop, struct pier_handle *handle, unsigned events)
{
    handle_event(loop, handle, events);
}

void pier__ready_event(struct pier_loop *loop, uint64_t key, unsigned events)
{
    const struct pier__slot *slot = &loop->slots[(uint32_t)key];
    if (PIER__UNLIKELY(slot->key != key)) {
        loop->counters.stale_events++;
        return;
    }
    handle_event(loop, slot->handle, events);
}

/* ---- sending */

/* A send that isn't over. */
PIER__COLD static void send_not_over(struct pier_op *op, int64_t result)
{
    struct pier_handle *handle = op->owner_;
    struct pier_loop *loop = handle->loop_;
    loop->counters.system_calls++;
    pier__loop_clock_of_turn(loop);
    pier__op_begin_alone(loop, handle, op, PIER__SENDING,
                         pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0));
    pier__ready_tried(loop, handle, op, result);
}

static PIER__EXPRESSION void send_over_by(struct pier_loop *loop, struct pier_op *op,
                                          int64_t result)
{
    loop->sends_at_once++;
    loop->counters.sent_bytes += (uint64_t)result;
    pier__op_begin_finished(loop, op, PIER__OP_SEND, result);
}

/* Apart, so that send_over() calls nobody and saves no registers. */
PIER__COLD static void send_over_with_clock(struct pier_loop *loop, struct pier_op *op,
                                            int64_t result)
{
    pier__loop_clock_of_turn(loop);
    send_over_by(loop, op, result);
}

/* A send that is over, and has somebody to call. */
PIER__NOINLINE static void send_over(struct pier_op *op, int64_t result)
{
    struct pier_loop *loop = ((struct pier_handle *)op->owner_)->loop_;
    if (PIER__UNLIKELY(!pier__loop_clock_is_fresh(loop))) {
        send_over_with_clock(loop, op, result);
    } else {
        send_over_by(loop, op, result);
    }
}

void pier__ready_send_fast(struct pier_handle *handle, struct pier_op *op)
{
    op->owner_ = handle; /* rather than in a saved register */
    pier__op_clear_flags(op);
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
