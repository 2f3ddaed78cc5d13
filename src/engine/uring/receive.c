/* receive.c - lent receives on io_uring: what is asked for, and data that is held back.
 *
 * A buffer is bound by the kernel when data comes, out of the ring of provided ones. Data beyond a
 * handle's share of a turn, and what comes while the op is paused, is held: a ring of buffers per
 * handle, delivered in later turns.
 *
 * How much a multishot receive may bring before the loop is asked again is its read-ahead: one
 * buffer at first and after a pause, twice as much each time when the program has kept up. The
 * request has a limit of bytes for that (Linux 6.17); where the kernel knows none it's asked again
 * after each piece once the handle was paused. So a peer whose data nobody takes has about two
 * buffers, and all others go on.
 *
 * A stream that fills its buffer has more to come, and each request would bring as little again. So
 * it's read on by system calls, into large buffers, until there is no more or the handle has had
 * its share of the turn; then the kernel is asked again.
 *
 * When the kernel runs out of buffers, the data that is there is read by a system call, into a
 * buffer for this handle: a handle that holds none always gets one (core/pool.h). */

#include "engine/uring/uring.h"

#include <poll.h>

/* ---- held data: a ring of buffers, engine_.uring.held is the last */

/* Appends to the data held: into the last buffer as far as that has room, so that what is held is
 * never more buffers than its bytes need. */
static void hold(struct pier_loop *loop, struct pier_handle *handle, struct pier_buffer *buffer)
{
    struct pier_buffer *last = handle->engine_.uring.held;
    handle->engine_.uring.held = buffer;
    if (last == NULL) {
        buffer->next = buffer;
        return;
    }
    uint32_t room = last->capacity - last->size;
    uint32_t moved = buffer->size < room ? buffer->size : room;
    memcpy(last->memory + last->size, buffer->memory, moved);
    last->size += moved;
    buffer->size -= moved;
    if (buffer->size == 0) {
        handle->engine_.uring.held = last;
        pier__pool_drop(loop, buffer);
        return;
    }
    memmove(buffer->memory, buffer->memory + moved, buffer->size);
    buffer->next = last->next;
    last->next = buffer;
}

static struct pier_buffer *unhold(struct pier_handle *handle)
{
    struct pier_buffer *last = handle->engine_.uring.held, *first = last->next;
    handle->engine_.uring.held = first == last ? NULL : last;
    last->next = first->next;
    return first;
}

void pier__uring_drop_held(struct pier_loop *loop, struct pier_handle *handle)
{
    while (handle->engine_.uring.held != NULL) {
        pier__pool_drop(loop, unhold(handle));
    }
    handle->engine_.uring.requests &= (uint8_t)~PIER__ENDED;
}

/* ---- asking */

static void pause_for_buffers(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->counters.buffer_pauses++;
    pier__loop_starve(loop, handle);
}

/* How many bytes a multishot receive may bring. It ends with the buffer that reaches them, so it
 * brings a buffer more at the most. */
static uint32_t limit_of(const struct pier_loop *loop, const struct pier_handle *handle)
{
    uint32_t ahead = handle->engine_.uring.ahead;
    uint64_t limit = (uint64_t)(ahead > 1 ? ahead - 1 : 1) * loop->pool.buffer_size;
    return limit > PIER__URING_MOST ? PIER__URING_MOST : (uint32_t)limit;
}

/* Whether a receive may bring more than one buffer. */
static bool reads_ahead(const struct pier_loop *loop, const struct pier_handle *handle)
{
    const struct pier__uring *uring = pier__uring_of(loop);
    return uring->features.multishot_receive && uring->ahead_max > 1 &&
           handle->lent_ < uring->lent_max &&
           (uring->features.receive_limit || handle->engine_.uring.ahead == 0);
}

/* A request has brought all that it might, and the program has taken it. */
static void read_further_ahead(const struct pier__uring *uring, struct pier_handle *handle)
{
    uint32_t ahead = handle->engine_.uring.ahead * 2u;
    ahead = ahead < 2 ? 2 : ahead;
    handle->engine_.uring.ahead = (uint8_t)(ahead < uring->ahead_max ? ahead : uring->ahead_max);
}

void pier__uring_start_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (PIER__UNLIKELY(!pier__pool_admits(loop, handle))) {
        pause_for_buffers(loop, handle);
        return;
    }
    if (handle->kind_ != PIER__KIND_STREAM || !pier__uring_make_buffers(loop)) {
        pier__uring_wait_for_op(loop, handle, op);
        return;
    }
    if (!pier__uring_have_buffers(loop)) {
        pause_for_buffers(loop, handle);
        return;
    }
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        pier__uring_postpone(loop, handle);
        return;
    }
    entry->opcode = IORING_OP_RECV;
    entry->fd = (int)handle->descriptor_;
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->buf_group = 0;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    if ((op->bits_ & PIER__MULTISHOT) && reads_ahead(loop, handle)) {
        entry->ioprio = IORING_RECV_MULTISHOT;
        if (uring->features.receive_limit) {
            pier__sys_uring_limit(entry, limit_of(loop, handle));
        }
    } else {
        entry->len = (uint32_t)loop->pool.buffer_size;
    }
    handle->engine_.uring.requests |= PIER__RECEIVE_IN_KERNEL;
}

/* ---- delivering */

static inline void deliver(struct pier_loop *loop, struct pier_op *op, struct pier_buffer *buffer)
{
    op->data = buffer->memory;
    op->size = buffer->size;
    op->done += buffer->size;
    loop->counters.receives++;
    loop->counters.received_bytes += buffer->size;
    pier__op_event(loop, op, (int64_t)buffer->size, PIER_LENT);
    pier__pool_drop(loop, buffer);
}

/* Ends the op with an outcome: bytes 0 or a negative errno. */
static void end(struct pier_loop *loop, struct pier_op *op, int outcome)
{
    op->flags = (op->flags & PIER_BACKGROUND) | (outcome == 0 ? PIER_EOF : 0);
    op->os_error = outcome == 0 ? 0 : -outcome;
    pier__op_finish_now(loop, op, outcome == 0 ? 0 : pier__sys_map(-outcome));
}

static void request_over(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                         int result);

/* A stream that keeps its buffers full, with nothing of it in the kernel or held: reads on, for a
 * multishot op. */
static void read_on(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    bool is_full = true;
    PIER_ASSERT(op->bits_ & PIER__MULTISHOT);
    while (is_full) {
        if (loop->budget <= 0 || pier__uring_has_had_share(loop, handle, loop->pool.large)) {
            pier__handle_serve_later(loop, handle);
            return;
        }
        struct pier_buffer *buffer = pier__pool_pop_large(loop, handle);
        if (buffer == NULL) {
            break;
        }
        loop->counters.system_calls++;
        int64_t result = pier__sys_receive(handle->descriptor_, buffer->memory, buffer->capacity);
        if (result <= 0) {
            pier__pool_put(loop, buffer);
            pier__handle_clear(handle, PIER__STREAMING);
            if (result == 0 || (result != PIER_EAGAIN && result != PIER_EINTR)) {
                request_over(loop, handle, op, result == 0 ? 0 : -pier__sys_code());
                return;
            }
            break;
        }
        is_full = (uint64_t)result == buffer->capacity;
        pier__pool_give(loop, buffer, handle);
        pier__op_received_lent(loop, handle, op, buffer, (size_t)result);
        pier__pool_drop(loop, buffer);
        if (!pier__op_goes_on(op)) {
            return;
        }
        if (loop->completed.head != NULL) {
            pier__loop_deliver(loop);
            if (pier__slot_handle(loop, key) != handle || handle->head_[PIER__RECEIVING] != op ||
                !pier__op_goes_on(op)) {
                return;
            }
        }
    }
    pier__handle_clear(handle, PIER__STREAMING);
    handle->engine_.uring.ahead = 1;
    pier__uring_start_lent(loop, handle, op);
}

/* Nothing of a receive is in the kernel or held, and it isn't paused. One of one shot is never read
 * on: it ends with what comes first, and may be another op's successor on a stream that was. */
static void ask_again(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if ((handle->bits_ & PIER__STREAMING) && (op->bits_ & PIER__MULTISHOT)) {
        read_on(loop, handle, op);
    } else {
        pier__uring_start_lent(loop, handle, op);
    }
}

/* The request is over. Goes on with another, ends the op, or leaves both to whoever delivers what
 * is held. */
static void request_over(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                         int result)
{
    struct pier__uring *uring = pier__uring_of(loop);
    bool canceled = result == -ECANCELED || result == -EINTR;
    bool goes_on = result > 0 || canceled || result == -ENOBUFS || result == -EAGAIN ||
                   result == -EINVAL || result == -ENOMEM;
    if (result == -EINVAL) {
        goes_on = (op->bits_ & PIER__MULTISHOT) && uring->features.multishot_receive;
        uring->features.multishot_receive = false; /* step down */
    }
    /* After a close the data before an end of stream was dropped: to report that end would claim
     * that all of it had been delivered. */
    bool is_cut = result == 0 && pier__uring_silenced(handle, op);
    if (pier__op_is_ending(op) && (goes_on || is_cut)) {
        if (handle->engine_.uring.held == NULL) {
            pier__op_finish(loop, op, pier__op_reason(op));
        } else {
            pier__handle_serve_later(loop, handle);
        }
        return;
    }
    if (!goes_on) {
        if (handle->engine_.uring.held == NULL && (op->bits_ & PIER__PAUSED)) {
            op->os_error = -result; /* a socket says it only once */
            handle->engine_.uring.requests |= PIER__ENDED;
        } else if (handle->engine_.uring.held == NULL) {
            end(loop, op, result);
        } else {
            struct pier_buffer *last = handle->engine_.uring.held;
            last->outcome = result;
            handle->engine_.uring.requests |= PIER__ENDED;
            pier__handle_serve_later(loop, handle);
        }
        return;
    }
    if (result == -ENOBUFS) {
        pier__uring_provide_more(loop);
    } else if (result > 0 && (op->bits_ & PIER__MULTISHOT) && handle->engine_.uring.held == NULL &&
               !(op->bits_ & PIER__PAUSED)) {
        read_further_ahead(uring, handle);
    }
    loop->counters.rearms += result == -ENOBUFS || result > 0 ? (op->bits_ & PIER__MULTISHOT) != 0
                                                              : 0;
    if (result == -ENOMEM) {
        pause_for_buffers(loop, handle);
    } else if (result == -EAGAIN) { /* O_NONBLOCK is set on a socket that others may share */
        if (pier__uring_wait_ready(loop, op, handle->descriptor_, POLLIN)) {
            handle->engine_.uring.requests |= PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING;
        } else {
            pier__uring_postpone(loop, handle);
        }
    } else if (handle->engine_.uring.held == NULL && !(op->bits_ & PIER__PAUSED)) {
        ask_again(loop, handle, op);
    }
}

/* Has the request cancelled, so that no more comes than what is to be held already. */
static void stop(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    unsigned states = PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING | PIER__STOPPING;
    if ((handle->engine_.uring.requests & states) == PIER__RECEIVE_IN_KERNEL &&
        !pier__op_is_ending(op) &&
        pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP), handle, false)) {
        handle->engine_.uring.requests |= PIER__STOPPING;
    }
}

/* The kernel seems never to tell a multishot receive of an end that comes between its read of data
 * and its next wait (Linux 6.18; docs/semantics.md): cancelled and asked for anew, it does. */
void pier__uring_ask_for_end(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    if (op != NULL && op->state_ == PIER__ACTIVE && (op->bits_ & PIER__MULTISHOT)) {
        stop(loop, handle, op);
    }
}

static void take_data(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      struct pier_buffer *buffer, int size)
{
    pier__pool_give(loop, buffer, handle);
    buffer->size = (uint32_t)size;
    buffer->outcome = PIER__NO_OUTCOME;
    bool more = (handle->engine_.uring.requests & PIER__RECEIVE_IN_KERNEL) != 0;
    if (PIER__UNLIKELY(pier__uring_silenced(handle, op))) {
        pier__pool_drop(loop, buffer);
    } else if (PIER__UNLIKELY((op->bits_ & PIER__PAUSED) || handle->engine_.uring.held != NULL ||
                              pier__uring_has_had_share(loop, handle, 1) ||
                              (more && handle->lent_ > pier__uring_of(loop)->lent_max))) {
        hold(loop, handle, buffer);
        if (!(op->bits_ & PIER__PAUSED)) {
            pier__handle_serve_later(loop, handle);
        } else {
            handle->engine_.uring.ahead = 1;
            stop(loop, handle, op); /* a slow reader's peer must not fill the pool */
        }
    } else {
        deliver(loop, op, buffer);
    }
}

/* A stream has filled its buffer. Where it has no limit that ends it, it's stopped. */
static void note_full(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      bool more)
{
    if (!more) {
        handle->bits_ |= PIER__STREAMING;
    } else if (!pier__uring_of(loop)->features.receive_limit) {
        handle->bits_ |= PIER__STREAMING;
        stop(loop, handle, op);
    }
}

void pier__uring_received_lent(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, int result, unsigned flags)
{
    struct pier__uring *uring = pier__uring_of(loop);
    bool more = (flags & IORING_CQE_F_MORE) != 0;
    if (!more) {
        handle->engine_.uring.requests &= (uint8_t) ~(PIER__RECEIVE_IN_KERNEL | PIER__STOPPING);
        pier__op_clear(op, PIER__CANCEL_ASKED);
    }
    if (result == (int)loop->pool.buffer_size && (op->bits_ & PIER__MULTISHOT) &&
        handle->kind_ == PIER__KIND_STREAM && loop->pool.large != 1) {
        note_full(loop, handle, op, more);
    }
    if (flags & IORING_CQE_F_BUFFER) {
        struct pier_buffer *buffer = pier__uring_take_buffer(uring, flags);
        pier__pool_unpoison(&loop->pool, buffer);
        if (result <= 0) {
            pier__uring_buffer_returned(loop, buffer);
        } else if (op->bits_ & PIER__MULTISHOT) {
            take_data(loop, handle, op, buffer, result);
        } else {
            pier__op_received_lent(loop, handle, op, buffer, (size_t)result);
            return;
        }
    }
    if (PIER__UNLIKELY(!more)) {
        if (op->state_ == PIER__ACTIVE) {
            request_over(loop, handle, op, result);
        }
    } else if (PIER__UNLIKELY(handle->lent_ != 0) &&
               (handle->lent_ >= uring->lent_max || !pier__pool_admits(loop, handle))) {
        stop(loop, handle, op);
    }
}

void pier__uring_serve_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (pier__uring_silenced(handle, op)) {
        pier__uring_drop_held(loop, handle);
    }
    while (handle->engine_.uring.held != NULL) {
        /* What was taken from the kernel is still delivered. */
        bool ending = pier__op_is_ending(op);
        if (!ending && (op->bits_ & PIER__PAUSED)) {
            return;
        }
        if (loop->budget <= 0 || (!ending && pier__uring_has_had_share(loop, handle, 1))) {
            pier__handle_serve_later(loop, handle);
            return;
        }
        struct pier_buffer *buffer = unhold(handle);
        int32_t outcome = buffer->outcome;
        deliver(loop, op, buffer);
        if (op->state_ != PIER__ACTIVE) {
            return;
        }
        if (PIER__UNLIKELY(pier__uring_silenced(handle, op))) {
            pier__uring_drop_held(loop, handle); /* closed in the callback, cancelled before */
            break;
        }
        if (outcome != PIER__NO_OUTCOME) {
            handle->engine_.uring.requests &= (uint8_t)~PIER__ENDED;
            end(loop, op, outcome);
            return;
        }
    }
    if (handle->engine_.uring.requests & PIER__RECEIVE_IN_KERNEL) {
        return;
    }
    if (handle->engine_.uring.requests & PIER__ENDED) {
        if (pier__op_is_ending(op) || !(op->bits_ & PIER__PAUSED)) {
            handle->engine_.uring.requests &= (uint8_t)~PIER__ENDED;
            end(loop, op, -op->os_error);
        }
    } else if (pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (!(op->bits_ & PIER__PAUSED) && !(handle->bits_ & PIER__STARVED)) {
        ask_again(loop, handle, op);
    }
}

void pier__uring_read_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier__pool *pool = &loop->pool;
    if ((op->bits_ & PIER__PAUSED) && !pier__op_is_ending(op)) {
        return; /* nothing was taken yet: resume asks again */
    }
    struct pier_buffer *buffer = pier__pool_admits(loop, handle) ? pier__pool_fetch_spare(loop)
                                                                 : NULL;
    if (buffer == NULL) {
        pause_for_buffers(loop, handle);
        return;
    }
    loop->counters.system_calls++;
    int64_t result = handle->kind_ == PIER__KIND_STREAM
                         ? pier__sys_receive(handle->descriptor_, buffer->memory, pool->buffer_size)
                         : pier__sys_read(handle->descriptor_, buffer->memory, pool->buffer_size,
                                          (handle->bits_ & PIER__CAUTIOUS) != 0);
    if (result > 0) {
        if (!(op->bits_ & PIER__MULTISHOT)) {
            pier__op_received_lent(loop, handle, op, buffer, (size_t)result);
            return;
        }
        take_data(loop, handle, op, buffer, (int)result);
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
