/* fast.c - the short ways on io_uring: data for a receive with nothing behind it, a send
 * into an empty queue, and its end.
 *
 * They fall back on receive.c and ops.c, having done nothing, whenever one test says
 * that something else is going on. What the kernel is given back (completion entries, buffers)
 * becomes visible to it once per turn: it looks only when it is entered. */

#include "engine/uring/uring.h"

/* Whether the handle has had its receives of this turn; counts them, in interest_. */
static inline bool has_had_share(const struct pier__uring *uring, struct pier_handle *handle)
{
    if (handle->turn_ != uring->turn) {
        handle->turn_ = uring->turn;
        handle->interest_ = 1;
        return false;
    }
    if (PIER__UNLIKELY(handle->interest_ >= uring->receives_max)) {
        return true;
    }
    handle->interest_++;
    return false;
}

bool pier__uring_has_had_share(struct pier_loop *loop, struct pier_handle *handle)
{
    return has_had_share(pier__uring_of(loop), handle);
}

/* A buffer that came from the kernel and that nobody refers to any more. */
static inline void give_back(struct pier_loop *loop, struct pier__uring *uring,
                             struct pier_buffer *buffer)
{
    if (PIER__LIKELY(uring->missing != 0)) {
        pier__uring_provide_one(uring, buffer);
    } else {
        pier__pool_put(loop, buffer->index);
    }
}

/* Data for a multishot receive that goes on, with nothing held. The buffer counts as lent only if
 * the callback keeps it or a send needs it, else it goes straight back. */
static inline bool received_usual(struct pier_loop *loop, struct pier__uring *uring,
                                  struct pier_op *op, int result, unsigned flags)
{
    const unsigned expected = IORING_CQE_F_MORE | IORING_CQE_F_BUFFER;
    struct pier_handle *handle = op->owner_;
    struct pier__pool *pool = &loop->pool;
    if (PIER__UNLIKELY((flags & expected) != expected || pier__uring_held_first(handle) != 0 ||
                       handle->lent_ >= uring->lent_max || has_had_share(uring, handle))) {
        return false;
    }
    PIER_ASSERT(result > 0); /* it would be the end else, without IORING_CQE_F_MORE */
    struct pier_buffer *buffer = &pool->buffers[flags >> IORING_CQE_BUFFER_SHIFT];
    uring->missing++;
    op->data = buffer->memory;
    op->size = (unsigned)result;
    op->done += (unsigned)result;
    op->result = (unsigned)result;
    op->flags = PIER_MORE | PIER_LENT; /* background ops have another word */
    loop->stats.receives++;
    loop->stats.received_bytes += (unsigned)result;
    buffer->size = (unsigned)result;
    buffer->handle = handle;
    pool->current_out = buffer;
    pier__loop_call(loop, op);
    pool->current_out = NULL;
    if (buffer->refs == 0) {
        give_back(loop, uring, buffer);
    }
    return true;
}

/* The end of a receive of one shot, and its callback. */
static inline void finish_usual(struct pier_loop *loop, struct pier_handle *handle,
                                struct pier_op *op, int size)
{
    pier__op_move(op, PIER__IDLE);
    op->result = size;
    op->done = (unsigned)size;
    handle->ready_ &= (uint8_t) ~(PIER__RECEIVE_IN_KERNEL | PIER__STOPPING);
    handle->head_[PIER__RECEIVING] = NULL;
    loop->in_flight--;
    loop->stats.receives++;
    loop->stats.received_bytes += (unsigned)size;
    pier__loop_call(loop, op);
}

/* Data for a receive into the caller's memory, with nothing behind it. */
PIER__NOINLINE static bool filled_usual(struct pier_loop *loop, struct pier_op *op, int result)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(result <= 0 || op->next_ != NULL ||
                       (handle->bits_ & PIER__CLOSED_TO_USER))) {
        return false;
    }
    finish_usual(loop, handle, op, result);
    return true;
}

/* What pier__pool_drop() does for a buffer that the kernel gets back. */
static inline void release_usual(struct pier_loop *loop, struct pier__uring *uring,
                                 struct pier_buffer *buffer)
{
    struct pier_handle *handle = buffer->handle;
    if (PIER__UNLIKELY(buffer->refs != 1 || handle == NULL || loop->starved.head != NULL)) {
        pier__pool_drop(loop, buffer->index);
        return;
    }
    buffer->refs = 0;
    loop->pool.lent--;
    handle->lent_--;
    give_back(loop, uring, buffer);
}

/* Data for a lent receive of one shot, with nothing behind it. */
PIER__NOINLINE static bool lent_usual(struct pier_loop *loop, struct pier__uring *uring,
                                      struct pier_op *op, int result, unsigned flags)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(result <= 0 || (flags & IORING_CQE_F_BUFFER) == 0 || op->next_ != NULL ||
                       (handle->bits_ & PIER__CLOSED_TO_USER) ||
                       pier__uring_held_first(handle) != 0)) {
        return false;
    }
    uint32_t index = flags >> IORING_CQE_BUFFER_SHIFT;
    struct pier_buffer *buffer = &loop->pool.buffers[index];
    uring->missing++;
    pier__pool_give(loop, index, handle);
    buffer->size = (unsigned)result;
    buffer->offset = 0;
    op->data = buffer->memory;
    op->size = (unsigned)result;
    op->flags = PIER_LENT; /* background ops have another word */
    finish_usual(loop, handle, op, result);
    release_usual(loop, uring, buffer);
    return true;
}

/* All of a send went, with nothing behind it. Its callback, if it has one, is left to be called. */
static inline bool sent_usual(struct pier_loop *loop, struct pier__uring *uring, struct pier_op *op,
                              uint32_t word, int result)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(op->next_ != NULL || (size_t)result != op->size ||
                       (handle->bits_ & PIER__CLOSED_TO_USER))) {
        return false;
    }
    pier__op_set_word(op, PIER__IDLE, pier__word_of(PIER__OP_SEND, PIER__IDLE, 0));
    op->result = result;
    op->done = (size_t)result;
    handle->ready_ &= (uint8_t)~PIER__SEND_IN_KERNEL;
    handle->head_[PIER__SENDING] = NULL;
    loop->in_flight--;
    loop->stats.sends++;
    loop->stats.sent_bytes += (size_t)result;
    if (word != pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0)) { /* PIER__HOLDS */
        release_usual(loop, uring, op->extra_.pointer);
    }
    return true;
}

PIER__NOINLINE static bool sent_with_callback(struct pier_loop *loop, struct pier__uring *uring,
                                              struct pier_op *op, uint32_t word, int result)
{
    if (PIER__UNLIKELY(!sent_usual(loop, uring, op, word, result))) {
        return false;
    }
    pier__loop_call(loop, op);
    return true;
}

/* A reference on the buffer that the send's data is in, if it is in one: what pier__pool_hold()
 * does, without a division where it's the one that is just being delivered. Returns the bits of the
 * op. */
static inline unsigned hold_usual(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = pool->current_out;
    if (PIER__LIKELY(buffer != NULL &&
                     (uintptr_t)op->data - (uintptr_t)buffer->memory < pool->buffer_size)) {
        if (PIER__UNLIKELY(buffer->refs != 0)) {
            return PIER__NOT_USUAL;
        }
        buffer->refs = 1;
        buffer->handle->lent_++;
        pool->lent++;
    } else {
        uint32_t index = pier__pool_find(pool, op->data);
        if (index == PIER__NO_BUFFER) {
            return 0;
        }
        buffer = &pool->buffers[index];
        if (PIER__UNLIKELY(buffer->refs == 0)) {
            return PIER__NOT_USUAL;
        }
        buffer->refs++;
    }
    op->extra_.pointer = buffer;
    return PIER__HOLDS;
}

/* pier__op_begin_send() for an op whose flags are 0; its result and bytes are told at its end. */
static inline void begin_usual(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, unsigned bits)
{
    pier__op_set_word(op, PIER__ACTIVE, pier__word_of(PIER__OP_SEND, PIER__ACTIVE, bits));
    op->done = 0;
    op->os_error = 0;
    op->owner_ = handle;
    op->next_ = NULL;
    op->token_ = 0;
    op->timer_.deadline_ns = loop->now; /* since when, for the dump */
    handle->head_[PIER__SENDING] = handle->tail_[PIER__SENDING] = op;
    loop->in_flight++;
}

/* Apart, so that what it needs of the processor's registers isn't saved in the usual case. */
PIER__NOINLINE static void send_otherwise(struct pier_loop *loop, struct pier_handle *handle,
                                          struct pier_op *op)
{
    pier__op_begin_send(loop, handle, op);
    pier__uring_start(handle, op);
}

void pier__uring_send(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    struct pier__uring *uring = pier__uring_of(loop);
    unsigned bits = PIER__NOT_USUAL;
    if (PIER__LIKELY(op->flags == 0 && op->size <= PIER__URING_MOST && uring->room != 0 &&
                     !loop->now_is_old)) {
        bits = hold_usual(loop, op);
    }
    if (PIER__UNLIKELY(bits == PIER__NOT_USUAL)) {
        send_otherwise(loop, handle, op);
        return;
    }
    pier__uring_fill_send(pier__uring_take_entry(uring), handle, op, op->data, (uint32_t)op->size);
    uring->quick++;
    handle->ready_ |= PIER__SEND_IN_KERNEL;
    begin_usual(loop, handle, op, bits);
}

/* Delivers completed ops, which come before the completion that is next, if there is budget left
 * for that. False when it has to wait for the next turn. */
PIER__COLD static bool deliver_first(struct pier_loop *loop, uint64_t key)
{
    if (loop->completed.head != NULL) {
        pier__loop_deliver(loop);
    }
    /* A closed handle's callback comes after those of the ops that were refused meanwhile. */
    return loop->budget > 0 &&
           (loop->completed.head == NULL || (key & PIER__TAG_MASK) != PIER__TAG_CLOSED);
}

/* False when there was no callback to be made. */
static PIER__INLINE bool take_one(struct pier_loop *loop, struct pier__uring *uring,
                                  const struct io_uring_cqe *completion)
{
    const uint32_t receive = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, PIER__MULTISHOT);
    const uint32_t send = pier__word_of(PIER__OP_SEND, PIER__ACTIVE, 0);
    const uint32_t fill = pier__word_of(PIER__OP_RECEIVE, PIER__ACTIVE, 0);
    const uint32_t lent = pier__word_of(PIER__OP_RECEIVE_LENT, PIER__ACTIVE, 0);
    const uint32_t holds = pier__word_of(PIER__OP_NONE, PIER__IDLE, PIER__HOLDS);
    uint64_t key = completion->user_data;
    if (PIER__LIKELY((key & PIER__TAG_MASK) == PIER__TAG_OP)) {
        struct pier_op *op = (void *)(uintptr_t)key;
        uint32_t word = pier__op_word(op);
        if (word == receive) {
            if (PIER__LIKELY(received_usual(loop, uring, op, completion->res, completion->flags))) {
                return true;
            }
        } else if ((word & ~holds) == send) {
            if (op->fn != NULL) {
                if (PIER__LIKELY(sent_with_callback(loop, uring, op, word, completion->res))) {
                    return true;
                }
            } else if (PIER__LIKELY(sent_usual(loop, uring, op, word, completion->res))) {
                return false;
            }
        } else if ((word == fill && filled_usual(loop, op, completion->res)) ||
                   (word == lent &&
                    lent_usual(loop, uring, op, completion->res, completion->flags))) {
            return true;
        }
    }
    if (PIER__UNLIKELY(key != PIER__TAG_WAKE)) {
        pier__uring_other_completion(loop, key, completion->res, completion->flags);
    }
    return true;
}

void pier__uring_take_completions(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    const struct io_uring_cq *queue = &uring->ring.cq;
    const struct io_uring_cqe *entries = queue->cqes;
    const unsigned first = *queue->khead;
    unsigned head = first;
    /* What is there now; what comes meanwhile has its turn after the next enter. */
    unsigned tail = __atomic_load_n(queue->ktail, __ATOMIC_ACQUIRE);
    if (loop->now_is_old && head != tail &&
        entries[head & queue->ring_mask].user_data != PIER__TAG_WAKE) {
        pier__loop_clock_about(loop); /* sends want it */
    }
    while (head != tail) {
        if (PIER__UNLIKELY(loop->completed.head != NULL || loop->budget <= 0) &&
            !deliver_first(loop, entries[head & queue->ring_mask].user_data)) {
            break;
        }
        bool called;
        do {
            called = take_one(loop, uring, &entries[head++ & queue->ring_mask]);
        } while (!called && head != tail);
    }
    loop->stats.events += head - first;
    __atomic_store_n(queue->khead, head, __ATOMIC_RELEASE);
}
