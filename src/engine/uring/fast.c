/* fast.c - the fast roads on io_uring: going through the completions, data for a receive with
 * nothing behind it, a send into an empty queue, and its end.
 *
 * They fall back on receive.c and ops.c, having done nothing, whenever one look says that something
 * else is going on. What the kernel is given back (completion entries, buffers) becomes visible to
 * it once per turn: it looks only when it is entered. */

#include "engine/uring/uring.h"

/* Whether the handle has had its receives of this turn; counts one more. */
static inline bool has_had_share(const struct pier__uring *uring, struct pier_handle *handle)
{
    if (handle->engine_.uring.turn != uring->share.turn) {
        memcpy(&handle->engine_.uring.turn, &uring->share, sizeof(uring->share));
        return false;
    }
    if (PIER__UNLIKELY(handle->engine_.uring.receives >= uring->receives_max)) {
        return true;
    }
    handle->engine_.uring.receives++;
    return false;
}

bool pier__uring_has_had_share(struct pier_loop *loop, struct pier_handle *handle, unsigned weight)
{
    const struct pier__uring *uring = pier__uring_of(loop);
    if (has_had_share(uring, handle)) {
        return true;
    }
    unsigned receives = handle->engine_.uring.receives + weight - 1;
    handle->engine_.uring.receives = (uint16_t)(receives < uring->receives_max
                                                    ? receives
                                                    : uring->receives_max);
    return false;
}

/* A buffer that came from the kernel and that nobody refers to any more. */
static inline void give_back(struct pier_loop *loop, struct pier__uring *uring,
                             struct pier_buffer *buffer)
{
    pier__pool_poison(&loop->pool, buffer);
    if (PIER__LIKELY(uring->missing != 0)) {
        pier__uring_provide_one(uring, buffer);
    } else {
        pier__pool_put(loop, buffer);
    }
}

/* Data for a multishot receive that goes on, with nothing held. */
static PIER__INLINE bool received_each(struct pier_loop *loop, struct pier__uring *uring,
                                       struct pier_op *op, int result, unsigned flags)
{
    const unsigned expected = IORING_CQE_F_MORE | IORING_CQE_F_BUFFER;
    struct pier_handle *handle = op->owner_;
    /* What is held counts as lent. */
    if (PIER__UNLIKELY((flags & expected) != expected || handle->lent_ != 0 ||
                       has_had_share(uring, handle))) {
        return false;
    }
    PIER_ASSERT(result > 0); /* it would be the end else, without IORING_CQE_F_MORE */
    struct pier_buffer *buffer = pier__uring_take_buffer(uring, flags);
    pier__pool_unpoison(&loop->pool, buffer);
    const uint64_t size = (uint32_t)result;
    op->result = (int64_t)size;
    op->done += size;
    op->flags = PIER_MORE | PIER_LENT; /* background ops have another word */
    loop->counters.receives++;
    pier__lend(loop, buffer, handle, op, size);
    pier__loop_call_untimed(loop, op);
    buffer = loop->pool.delivering; /* it isn't kept in a register for that */
    if (PIER__LIKELY(pier__lend_over(loop, buffer))) {
        give_back(loop, uring, buffer);
    }
    return true;
}

/* Data for a receive into the caller's memory, with nothing behind it. */
static PIER__INLINE bool received_into_memory(struct pier_loop *loop, struct pier_op *op,
                                              int result)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(result <= 0 || op->next_ != NULL ||
                       (handle->bits_ & PIER__CLOSED_TO_USER))) {
        return false;
    }
    handle->engine_.uring.requests &= (uint8_t)~PIER__RECEIVE_IN_KERNEL;
    loop->counters.receives++;
    loop->counters.received_bytes += (unsigned)result;
    pier__op_finish_alone(loop, handle, op, PIER__OP_RECEIVE, PIER__RECEIVING, result);
    pier__loop_call_untimed(loop, op);
    return true;
}

/* Data for a lent receive of one shot, with nothing behind it. */
static PIER__INLINE bool received_one(struct pier_loop *loop, struct pier__uring *uring,
                                      struct pier_op *op, int result, unsigned flags)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(result <= 0 || (flags & IORING_CQE_F_BUFFER) == 0 || op->next_ != NULL ||
                       (handle->bits_ & PIER__CLOSED_TO_USER) || handle->lent_ != 0)) {
        return false;
    }
    struct pier_buffer *buffer = pier__uring_take_buffer(uring, flags);
    pier__pool_unpoison(&loop->pool, buffer);
    handle->engine_.uring.requests &= (uint8_t)~PIER__RECEIVE_IN_KERNEL;
    op->flags = PIER_LENT; /* background ops have another word */
    loop->counters.receives++;
    pier__lend(loop, buffer, handle, op, (unsigned)result);
    pier__op_finish_alone(loop, handle, op, PIER__OP_RECEIVE_LENT, PIER__RECEIVING, result);
    pier__loop_call_untimed(loop, op);
    buffer = loop->pool.delivering; /* it isn't kept in a register for that */
    if (PIER__LIKELY(pier__lend_over(loop, buffer))) {
        give_back(loop, uring, buffer);
    }
    return true;
}

/* pier__pool_drop() for the buffer of a send that is over. */
static inline void release_buffer(struct pier_loop *loop, struct pier__uring *uring,
                                  struct pier_buffer *buffer)
{
    struct pier_handle *handle = buffer->handle;
    PIER_ASSERT(loop->pool.delivering == NULL); /* a completion isn't in a callback */
    /* A large buffer has no id. */
    if (PIER__UNLIKELY(buffer->refs != 1 || buffer->id == 0 || handle == NULL ||
                       pier__loop_has_starved(loop))) {
        pier__pool_drop(loop, buffer);
        return;
    }
    buffer->refs = 0;
    loop->pool.lent--;
    handle->lent_--;
    give_back(loop, uring, buffer);
}

/* All of a send went, with nothing behind it. */
static PIER__INLINE bool sent_all(struct pier_loop *loop, struct pier__uring *uring,
                                  struct pier_op *op, bool holds, int result)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(op->next_ != NULL || (size_t)result != op->size ||
                       (handle->bits_ & PIER__CLOSED_TO_USER))) {
        return false;
    }
    if (holds) {
        release_buffer(loop, uring, op->use_.buffer);
    }
    handle->engine_.uring.requests &= (uint8_t)~PIER__SEND_IN_KERNEL;
    loop->counters.sends++;
    loop->counters.sent_bytes += (size_t)result;
    pier__op_finish_alone(loop, handle, op, PIER__OP_SEND, PIER__SENDING, result);
    if (op->fn != NULL) {
        pier__loop_call_untimed(loop, op);
    }
    return true;
}

/* pier__op_hold() for a send whose data is in the buffer that is being delivered, if in any.
 * Returns the word of the op, or 0 where it's for the slow road: also in a large buffer, in which
 * there is a reference. */
static inline uint32_t hold_buffer(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = pool->delivering;
    if (PIER__LIKELY(buffer != NULL &&
                     (uintptr_t)op->data - (uintptr_t)buffer->memory < pool->buffer_size)) {
        if (PIER__UNLIKELY(buffer->refs != 0)) {
            return 0;
        }
        buffer->refs = 1;
        buffer->handle->lent_++;
        pool->lent++;
        op->use_.buffer = buffer;
        return pier__word_of(PIER__OP_SEND, PIER__ACTIVE, PIER__HOLDS);
    }
    return pool->lent == 0 ? pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0) : 0;
}

/* Receives of one shot are asked for anew for each message: from a stream, and into memory or, for
 * a handle that holds no buffer, into one of those that the kernel has, if it has any. */
void pier__uring_start(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    struct pier__uring *uring = pier__uring_of(loop);
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM && uring->room != 0)) {
        if (pier__op_word(op) == pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0) &&
            handle->lent_ == 0 && uring->missing < uring->target) {
            pier__uring_fill_receive(pier__uring_take_entry(uring), handle, op, IOSQE_BUFFER_SELECT,
                                     NULL, (uint32_t)loop->pool.buffer_size);
            handle->engine_.uring.requests |= PIER__RECEIVE_IN_KERNEL;
            return;
        }
        if (op->kind_ == PIER__OP_RECEIVE && op->size <= PIER__URING_MOST) {
            pier__uring_fill_receive(pier__uring_take_entry(uring), handle, op, 0, op->data,
                                     (uint32_t)op->size);
            handle->engine_.uring.requests |= PIER__RECEIVE_IN_KERNEL;
            return;
        }
    }
    pier__uring_start_slow(handle, op);
}

/* More than this is sent by a system call, since copying it takes longer than the call: so it's
 * over at once, the buffer it's in is free again, and the program goes on in this turn. */
#define BY_CALL_MIN (16u << 10)

/* The system call of a large send into an empty queue, as far as the socket's buffer has room. What
 * it doesn't take at once is asked for as any send is. */
static void send_by_call(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    pier__loop_clock_of_turn(loop);
    loop->counters.system_calls++;
    int64_t result = pier__sys_send(handle->descriptor_, op->data, op->size);
    if (PIER__LIKELY(result == (int64_t)op->size)) {
        loop->counters.sends++;
        loop->counters.sent_bytes += (uint64_t)result;
        pier__op_clear_flags(op);
        op->owner_ = handle;
        if (op->fn != NULL) {
            pier__op_begin_finished(loop, op, PIER__OP_SEND, result);
        } else {
            op->result = result;
            op->done = (uint64_t)result;
        }
        return;
    }
    pier__op_begin_alone(loop, handle, op, PIER__SENDING,
                         pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0));
    if (result >= 0) {
        op->done = (uint64_t)result;
        loop->counters.sent_bytes += op->done;
    } else if (result != PIER_EAGAIN && result != PIER_EINTR && result != PIER_ENOBUFS &&
               result != PIER_ENOMEM) {
        pier__op_fail(loop, op, result, pier__sys_code()); /* a socket says it only once */
        return;
    }
    pier__uring_start(handle, op);
}

/* Apart, so that what it needs of the processor's registers isn't saved in the ordinary case. */
PIER__NOINLINE static void begin_send_slow(struct pier_loop *loop, struct pier_handle *handle,
                                           struct pier_op *op)
{
    if (op->size > BY_CALL_MIN) {
        send_by_call(loop, handle, op);
        return;
    }
    pier__loop_clock_of_turn(loop);
    pier__op_begin_alone(loop, handle, op, PIER__SENDING,
                         pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0));
    pier__uring_start(handle, op);
}

void pier__uring_send(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    struct pier__uring *uring = pier__uring_of(loop);
    uint32_t word = 0;
    if (PIER__LIKELY(op->size <= BY_CALL_MIN && uring->room != 0 &&
                     pier__loop_clock_is_fresh(loop))) {
        word = hold_buffer(loop, op);
    }
    if (PIER__UNLIKELY(word == 0)) {
        begin_send_slow(loop, handle, op);
        return;
    }
    pier__uring_fill_send(pier__uring_take_entry(uring), handle, op, op->data, (uint32_t)op->size);
    uring->quick++;
    handle->engine_.uring.requests |= PIER__SEND_IN_KERNEL;
    pier__op_begin_alone(loop, handle, op, PIER__SENDING, word);
}

/* Delivers completed ops, which come before the completion that is next, if there is budget left
 * for that. False when it has to wait for the next turn. */
PIER__COLD static bool deliver_first(struct pier_loop *loop, uint64_t key)
{
    bool has_budget = pier__loop_before_event(loop);
    /* A closed handle's callback comes after those of the ops that were refused meanwhile. */
    return has_budget &&
           (loop->completed.head == NULL || (key & PIER__TAG_MASK) != PIER__TAG_CLOSED);
}

static PIER__INLINE void take_one(struct pier_loop *loop, struct pier__uring *uring,
                                  const struct io_uring_cqe *completion)
{
    const uint32_t each = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    const uint32_t send = pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0);
    const uint32_t memory = pier__word_of(PIER__OP_RECEIVE, PIER__ACTIVE, 0);
    const uint32_t lent = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0);
    const uint32_t holds = pier__word_of(PIER__OP_SEND, PIER__ACTIVE, PIER__HOLDS);
    uint64_t key = completion->user_data;
    int result = completion->res;
    if (PIER__LIKELY((key & PIER__TAG_MASK) == PIER__TAG_OP)) {
        struct pier_op *op = (void *)(uintptr_t)key;
        uint32_t word = pier__op_word(op);
        bool done = false;
        if (word == each) {
            done = received_each(loop, uring, op, result, completion->flags);
        } else if (word == holds) {
            done = sent_all(loop, uring, op, true, result);
        } else if (word == send) {
            done = sent_all(loop, uring, op, false, result);
        } else if (word == lent) {
            done = received_one(loop, uring, op, result, completion->flags);
        } else if (word == memory) {
            done = received_into_memory(loop, op, result);
        }
        if (PIER__LIKELY(done)) {
            return;
        }
    }
    if (PIER__UNLIKELY(key != PIER__TAG_WAKE)) {
        pier__uring_completion_slow(loop, key, result, completion->flags);
    }
}

/* Where callbacks are timed, which no fast road does. */
PIER__COLD static void take_completions_slow(struct pier_loop *loop)
{
    const struct io_uring_cq *queue = &pier__uring_of(loop)->ring.cq;
    unsigned head = *queue->khead;
    unsigned tail = __atomic_load_n(queue->ktail, __ATOMIC_ACQUIRE);
    for (; head != tail; head++) {
        const struct io_uring_cqe *entry = &queue->cqes[head & queue->ring_mask];
        if ((loop->completed.head != NULL || loop->budget <= 0) &&
            !deliver_first(loop, entry->user_data)) {
            break;
        }
        loop->counters.events++;
        pier__uring_completion_slow(loop, entry->user_data, entry->res, entry->flags);
    }
    __atomic_store_n(queue->khead, head, __ATOMIC_RELEASE);
}

/* What was delivered has completed more at once: the next event queues up behind that. */
PIER__COLD static void take_behind_completed(struct pier_loop *loop,
                                             const struct io_uring_cqe *completion)
{
    pier__uring_completion_slow(loop, completion->user_data, completion->res, completion->flags);
}

void pier__uring_take_completions(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    const struct io_uring_cq *queue = &uring->ring.cq;
    const struct io_uring_cqe *entries = queue->cqes;
    unsigned head = *queue->khead;
    /* What is there now; what comes meanwhile has its turn after the next enter. */
    unsigned tail = __atomic_load_n(queue->ktail, __ATOMIC_ACQUIRE);
    if (head != tail && entries[head & queue->ring_mask].user_data != PIER__TAG_WAKE) {
        pier__loop_clock_of_turn(loop); /* sends want it */
    }
    if (PIER__UNLIKELY(pier__loop_times_callbacks(loop))) {
        take_completions_slow(loop);
        return;
    }
    loop->counters.events += tail - head;
    while (head != tail) {
        if (PIER__UNLIKELY(loop->completed.head != NULL || loop->budget <= 0)) {
            if (!deliver_first(loop, entries[head & queue->ring_mask].user_data)) {
                break;
            }
            if (loop->completed.head != NULL) {
                take_behind_completed(loop, &entries[head++ & queue->ring_mask]);
                continue;
            }
        }
        /* Most make one callback each, or none. */
        const unsigned left = tail - head, budget = (unsigned)loop->budget;
        const unsigned stop = head + (left < budget ? left : budget);
        do {
            const struct io_uring_cqe *completion = &entries[head & queue->ring_mask];
            head += 1;
            take_one(loop, uring, completion);
        } while (head != stop && PIER__LIKELY(loop->completed.head == NULL));
    }
    loop->counters.events -= tail - head;
    __atomic_store_n(queue->khead, head, __ATOMIC_RELEASE);
}
