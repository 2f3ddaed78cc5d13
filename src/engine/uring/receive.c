/* receive.c - lent receives on io_uring: provided buffers, and data that is held back.
 *
 * Buffers of the pool are handed to the kernel through a ring of provided buffers, some at first,
 * more each time the kernel runs out; a buffer comes back with data in it. Data beyond a handle's
 * share of a turn, and what comes while the op is paused, is held: a list of buffers per handle (in
 * handle->extra_), delivered in later turns.
 *
 * No handle has more than its share of the pool, held data included, though the kernel may take
 * many buffers for one flooding peer before the loop can say anything. A multishot receive has a
 * limit of bytes, and held pieces are packed together, so that it brings at most `ahead` buffers
 * more; it's cancelled when the handle has all of its share but that. What is left of the share is
 * received a piece at a time. Kernels without such limits (before 6.17) are given no more buffers
 * than that, for all handles together. */

#include "engine/uring/uring.h"

#include <poll.h>

/* How many buffers the kernel gets at the most unless the program wants more held ready: they are
 * used in turn, so each is memory that is touched. */
#define TARGET_MAX 256

/* ---- held data: first and last buffer + 1, in handle->extra_ */

static inline uint32_t held_last(const struct pier_handle *handle)
{
    return (uint32_t)((uint64_t)(uintptr_t)handle->extra_ >> 32);
}

static inline void set_held(struct pier_handle *handle, uint32_t first, uint32_t last)
{
    handle->extra_ = (void *)(uintptr_t)((uint64_t)last << 32 | first);
}

/* Appends to the data held: into the last buffer as far as that has room, so that what is held is
 * never more buffers than its bytes need. */
static void hold(struct pier_loop *loop, struct pier_handle *handle, uint32_t index)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = &pool->buffers[index];
    if (handle->extra_ == NULL) {
        buffer->next = 0;
        set_held(handle, index + 1, index + 1);
        return;
    }
    struct pier_buffer *last = &pool->buffers[held_last(handle) - 1];
    unsigned char *memory = pier__pool_memory(pool, index);
    uint32_t room = (uint32_t)pool->buffer_size - last->size;
    uint32_t moved = buffer->size < room ? buffer->size : room;
    memcpy(pier__pool_memory(pool, held_last(handle) - 1) + last->size, memory, moved);
    last->size += moved;
    buffer->size -= moved;
    if (buffer->size == 0) {
        pier__pool_drop(loop, index);
        return;
    }
    memmove(memory, memory + moved, buffer->size);
    buffer->next = 0;
    last->next = index + 1;
    set_held(handle, pier__uring_held_first(handle), index + 1);
}

static uint32_t unhold(struct pier_loop *loop, struct pier_handle *handle)
{
    uint32_t index = pier__uring_held_first(handle) - 1;
    uint32_t next = loop->pool.buffers[index].next;
    set_held(handle, next, next == 0 ? 0 : held_last(handle));
    return index;
}

void pier__uring_drop_held(struct pier_loop *loop, struct pier_handle *handle)
{
    while (handle->extra_ != NULL) {
        pier__pool_drop(loop, unhold(loop, handle));
    }
    handle->ready_ &= (uint8_t)~PIER__ENDED;
}

/* ---- provided buffers */

static void provide(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    uint32_t index;
    while (uring->missing > 0 && (index = pier__pool_peek(loop)) != PIER__NO_BUFFER) {
        pier__pool_pop(loop, index);
        pier__uring_provide_one(uring, &loop->pool.buffers[index]);
    }
}

static size_t ring_bytes(const struct pier__uring *uring)
{
    return (uring->buffers_mask + 1) * sizeof(struct io_uring_buf);
}

static bool make_ring(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers != NULL || uring->buffers_refused || !uring->features.buffer_ring) {
        return uring->buffers != NULL;
    }
    uring->buffers_mask = 0;
    while (uring->buffers_mask + 1 < loop->pool.count) {
        uring->buffers_mask = uring->buffers_mask * 2 + 1;
    }
    void *memory = pier__sys_pages(ring_bytes(uring));
    int error = memory != NULL ? pier__sys_uring_register_buffers(&uring->ring, memory,
                                                                  uring->buffers_mask + 1)
                               : PIER_ENOMEM;
    if (error < 0) {
        pier__sys_free_pages(memory, ring_bytes(uring));
        uring->buffers_refused = error != PIER_ENOMEM;
        return false;
    }
    uring->buffers = memory;
    for (unsigned i = 0; i <= uring->buffers_mask; i++) {
        uring->buffers->bufs[i].len = (uint32_t)loop->pool.buffer_size;
    }
    uring->buffers_tail = 0;
    uring->ahead = loop->pool.share / 2;
    uring->lent_max = loop->pool.share - uring->ahead;
    uint32_t most = uring->ahead;
    if (uring->features.receive_limit) {
        most = loop->options.buffers_min > TARGET_MAX ? loop->options.buffers_min : TARGET_MAX;
        most = most > loop->pool.count / 2 ? loop->pool.count / 2 : most;
    }
    uring->target_max = most > 0 ? most : 1;
    if (uring->target == 0 || uring->target > uring->target_max) {
        uring->target = loop->options.buffers_min < uring->target_max ? loop->options.buffers_min
                                                                      : uring->target_max;
    }
    uring->missing = uring->target;
    return true;
}

void pier__uring_buffers_close(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers != NULL) {
        pier__sys_free_pages(uring->buffers, ring_bytes(uring));
        uring->buffers = NULL;
    }
}

void pier__uring_buffers_after_fork(struct pier_loop *loop)
{
    pier__uring_buffers_close(loop);
    for (uint32_t i = 0; i < loop->pool.used; i++) {
        if (loop->pool.buffers[i].next == PIER__PROVIDED && loop->pool.buffers[i].refs == 0) {
            pier__pool_put(loop, i);
        }
    }
}

bool pier__uring_buffer_returned(struct pier_loop *loop, uint32_t index)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (PIER__UNLIKELY(uring->missing == 0 || uring->buffers == NULL)) {
        return false;
    }
    pier__uring_provide_one(uring, &loop->pool.buffers[index]);
    return true;
}

/* ---- asking */

static void pause_for_buffers(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->stats.buffer_pauses++;
    pier__loop_starve(loop, handle);
}

/* The kernel has run out of buffers, for one handle or for many: it gets more at a time from now
 * on. */
static void provide_more(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->grew == loop->stats.turns) {
        return;
    }
    uring->grew = loop->stats.turns;
    unsigned more = uring->target < uring->target_max - uring->target
                        ? uring->target
                        : uring->target_max - uring->target;
    uring->target += more;
    uring->missing += more;
}

/* Whether the kernel has a buffer to put data in. */
static bool have_buffers(struct pier_loop *loop)
{
    provide(loop);
    return pier__uring_of(loop)->missing < pier__uring_of(loop)->target;
}

void pier__uring_start_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (handle->lent_ >= loop->pool.share) {
        pause_for_buffers(loop, handle);
        return;
    }
    bool is_file = handle->kind_ == PIER__KIND_FILE;
    if ((handle->kind_ != PIER__KIND_STREAM && !is_file) || !make_ring(loop)) {
        if (!pier__uring_wait_ready(loop, op, handle->descriptor_, POLLIN)) {
            pier__uring_postpone(loop, handle);
            return;
        }
        handle->ready_ |= PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING;
        return;
    }
    if (!have_buffers(loop)) {
        pause_for_buffers(loop, handle);
        return;
    }
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        pier__uring_postpone(loop, handle);
        return;
    }
    entry->opcode = is_file ? IORING_OP_READ : IORING_OP_RECV;
    entry->fd = (int)handle->descriptor_;
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->buf_group = 0;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    if (is_file) {
        entry->off = (uint64_t)-1;
        entry->len = (uint32_t)loop->pool.buffer_size;
    } else if ((op->bits_ & PIER__MULTISHOT) && uring->features.multishot_receive &&
               uring->ahead > 1 && handle->lent_ < uring->lent_max) {
        entry->ioprio = IORING_RECV_MULTISHOT;
        if (uring->features.receive_limit) {
            uint64_t limit = (uint64_t)(uring->ahead - 1) * loop->pool.buffer_size;
            pier__sys_uring_limit(entry,
                                  limit > PIER__URING_MOST ? PIER__URING_MOST : (uint32_t)limit);
        }
    } else {
        entry->len = (uint32_t)loop->pool.buffer_size;
    }
    handle->ready_ |= PIER__RECEIVE_IN_KERNEL;
}

/* ---- delivering */

static inline void deliver(struct pier_loop *loop, struct pier_op *op, uint32_t index)
{
    op->data = pier__pool_memory(&loop->pool, index);
    op->size = loop->pool.buffers[index].size;
    op->done += op->size;
    loop->stats.receives++;
    loop->stats.received_bytes += op->size;
    pier__op_event(loop, op, (int64_t)op->size, PIER_LENT);
    pier__pool_drop(loop, index);
}

/* Ends the op with an outcome: bytes 0 or a negative errno. */
static void end(struct pier_loop *loop, struct pier_op *op, int outcome)
{
    op->flags = (op->flags & PIER_BACKGROUND) | (outcome == 0 ? PIER_EOF : 0);
    op->os_error = outcome == 0 ? 0 : -outcome;
    pier__op_finish_now(loop, op, outcome == 0 ? 0 : pier__sys_map(-outcome));
}

/* The request is over. Goes on with another, ends the op, or leaves both to whoever delivers what
 * is held. */
static void request_over(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                         int result)
{
    struct pier__uring *uring = pier__uring_of(loop);
    bool canceled = result == -ECANCELED || result == -EINTR;
    bool goes_on = result > 0 || canceled || result == -ENOBUFS || result == -EAGAIN ||
                   result == -EINVAL;
    if (result == -EINVAL) {
        goes_on = (op->bits_ & PIER__MULTISHOT) && uring->features.multishot_receive;
        uring->features.multishot_receive = false; /* step down */
    }
    /* After a close the data before an end of stream was dropped: to report that end would claim
     * that all of it had been delivered. */
    bool is_cut = result == 0 && pier__uring_silenced(handle, op);
    if (op->reason_ != PIER__REASON_NONE && (goes_on || is_cut)) {
        if (handle->extra_ == NULL) {
            pier__op_finish(loop, op, pier__op_reason(op));
        } else {
            pier__handle_serve_later(loop, handle);
        }
        return;
    }
    if (!goes_on) {
        if (handle->extra_ == NULL) {
            end(loop, op, result);
        } else {
            loop->pool.buffers[held_last(handle) - 1].outcome = result;
            handle->ready_ |= PIER__ENDED;
            pier__handle_serve_later(loop, handle);
        }
        return;
    }
    if (result == -ENOBUFS) {
        provide_more(loop);
    }
    loop->stats.rearms += result == -ENOBUFS || result > 0 ? (op->bits_ & PIER__MULTISHOT) != 0 : 0;
    if (result == -EAGAIN) { /* O_NONBLOCK is set on a socket that others may share */
        if (pier__uring_wait_ready(loop, op, handle->descriptor_, POLLIN)) {
            handle->ready_ |= PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING;
        } else {
            pier__uring_postpone(loop, handle);
        }
    } else if (handle->extra_ == NULL && !(op->bits_ & PIER__PAUSED)) {
        pier__uring_start_lent(loop, handle, op);
    }
}

/* Has the request cancelled, so that no more comes than what is to be held already. */
static void stop(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    unsigned states = PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING | PIER__STOPPING;
    if ((handle->ready_ & states) == PIER__RECEIVE_IN_KERNEL && op->reason_ == PIER__REASON_NONE &&
        pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP))) {
        handle->ready_ |= PIER__STOPPING;
    }
}

static void take_data(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      uint32_t index, int size)
{
    struct pier_buffer *buffer = &loop->pool.buffers[index];
    pier__pool_give(loop, index, handle);
    buffer->size = (uint32_t)size;
    buffer->offset = 0;
    buffer->outcome = PIER__NO_OUTCOME;
    bool more = (handle->ready_ & PIER__RECEIVE_IN_KERNEL) != 0;
    if (PIER__UNLIKELY(pier__uring_silenced(handle, op))) {
        pier__pool_drop(loop, index);
    } else if (PIER__UNLIKELY((op->bits_ & PIER__PAUSED) || handle->extra_ != NULL ||
                              pier__uring_has_had_share(loop, handle) ||
                              (more && handle->lent_ > pier__uring_of(loop)->lent_max))) {
        hold(loop, handle, index);
        PIER_ASSERT(handle->lent_ <= loop->pool.share);
        if (!(op->bits_ & PIER__PAUSED)) {
            pier__handle_serve_later(loop, handle);
        } else {
            stop(loop, handle, op); /* a slow reader's peer must not fill the pool */
        }
    } else {
        deliver(loop, op, index);
    }
}

static void finish_single(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          uint32_t index, int size)
{
    struct pier_buffer *buffer = &loop->pool.buffers[index];
    pier__pool_give(loop, index, handle);
    buffer->size = (uint32_t)size;
    buffer->offset = 0;
    op->data = pier__pool_memory(&loop->pool, index);
    op->size = (size_t)size;
    op->done = (uint64_t)size;
    op->extra_.number = index;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_LENT;
    loop->stats.receives++;
    loop->stats.received_bytes += (uint64_t)size;
    pier__op_finish_now(loop, op, size);
}

void pier__uring_received_lent(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, int result, unsigned flags)
{
    struct pier__uring *uring = pier__uring_of(loop);
    bool more = (flags & IORING_CQE_F_MORE) != 0;
    if (!more) {
        handle->ready_ &= (uint8_t) ~(PIER__RECEIVE_IN_KERNEL | PIER__STOPPING);
        op->bits_ &= (uint8_t)~PIER__WANTED;
    }
    if (flags & IORING_CQE_F_BUFFER) {
        uint32_t index = flags >> IORING_CQE_BUFFER_SHIFT;
        uring->missing++;
        if (result <= 0) {
            if (!pier__uring_buffer_returned(loop, index)) {
                pier__pool_put(loop, index);
            }
        } else if (op->bits_ & PIER__MULTISHOT) {
            take_data(loop, handle, op, index, result);
        } else {
            finish_single(loop, handle, op, index, result);
            return;
        }
    }
    if (PIER__UNLIKELY(!more)) {
        if (op->state_ == PIER__ACTIVE) {
            request_over(loop, handle, op, result);
        }
    } else if (PIER__UNLIKELY(handle->lent_ >= uring->lent_max)) {
        stop(loop, handle, op);
    }
}

void pier__uring_serve_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (pier__uring_silenced(handle, op)) {
        pier__uring_drop_held(loop, handle);
    }
    while (handle->extra_ != NULL) {
        bool ending = op->reason_ !=
                      PIER__REASON_NONE; /* what was taken from the kernel is still delivered */
        if (!ending && (op->bits_ & PIER__PAUSED)) {
            return;
        }
        if (loop->budget <= 0 || (!ending && pier__uring_has_had_share(loop, handle))) {
            pier__handle_serve_later(loop, handle);
            return;
        }
        uint32_t index = unhold(loop, handle);
        int32_t outcome = loop->pool.buffers[index].outcome;
        deliver(loop, op, index);
        if (op->state_ != PIER__ACTIVE) {
            return;
        }
        if (outcome != PIER__NO_OUTCOME) {
            handle->ready_ &= (uint8_t)~PIER__ENDED;
            if (handle->bits_ & PIER__CLOSING) {
                return; /* closed in the callback: that finished it */
            }
            end(loop, op, outcome);
            return;
        }
    }
    if (handle->ready_ & PIER__RECEIVE_IN_KERNEL) {
        return;
    }
    if (op->reason_ != PIER__REASON_NONE) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (!(op->bits_ & PIER__PAUSED) && !(handle->bits_ & PIER__STARVED)) {
        pier__uring_start_lent(loop, handle, op);
    }
}

void pier__uring_read_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    uint32_t index = pier__pool_peek(loop);
    if ((op->bits_ & PIER__PAUSED) && op->reason_ == PIER__REASON_NONE) {
        return; /* nothing was taken yet: resume asks again */
    }
    if (index == PIER__NO_BUFFER) {
        pause_for_buffers(loop, handle);
        return;
    }
    unsigned char *memory = pier__pool_memory(&loop->pool, index);
    loop->stats.system_calls++;
    int64_t result = handle->kind_ == PIER__KIND_STREAM
                         ? pier__sys_receive(handle->descriptor_, memory, loop->pool.buffer_size)
                         : pier__sys_read(handle->descriptor_, memory, loop->pool.buffer_size,
                                          (handle->bits_ & PIER__CAUTIOUS) != 0);
    if (result > 0) {
        pier__pool_pop(loop, index);
        if (!(op->bits_ & PIER__MULTISHOT)) {
            finish_single(loop, handle, op, index, (int)result);
            return;
        }
        take_data(loop, handle, op, index, (int)result);
        if (op->state_ != PIER__ACTIVE) {
            return;
        }
    }
    request_over(loop, handle, op,
                 result >= 0             ? (int)result
                 : result == PIER_EAGAIN ? -EAGAIN
                 : result == PIER_EINTR  ? -EINTR
                                         : -pier__sys_code());
}
