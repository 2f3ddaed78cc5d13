/* receive.c - the receiving direction of the readiness engine: receive, accept.
 *
 * pier__ready_receive() runs the op at the head of the queue for as long as there is something to
 * take. The fast road of an ordinary receive is in fast.c. */

#include "engine/ready/ready.h"

static void out_of_buffers(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->counters.buffer_pauses++;
    pier__loop_starve(loop, handle);
}

/* After data: whether there may be more without another event. With a level-triggered poller, or
 * one that is armed anew, what's left is told of again. With edges a short read proves the opposite
 * only on Internet streams that nobody has ended: the end of stream, or urgent data, would show in
 * no further event. */
static inline void note_read(struct pier_handle *handle, bool is_short)
{
    uint32_t bits = handle->bits_ & (PIER__IS_TCP | PIER__HUNG_UP | PIER__ALWAYS | PIER__NOISY);
    if (is_short && (bits == PIER__IS_TCP ||
                     ((handle->bits_ & PIER__LEVELED) && !(bits & (PIER__ALWAYS | PIER__NOISY))))) {
        pier__handle_clear(handle, PIER__HAS_DATA);
    }
}

static inline int64_t receive(struct pier_loop *loop, struct pier_handle *handle, void *memory,
                              size_t size)
{
    loop->counters.system_calls++;
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        return pier__sys_receive(handle->descriptor_, memory, size);
    }
    return pier__sys_read(handle->descriptor_, memory, size, (handle->bits_ & PIER__CAUTIOUS) != 0);
}

/* Nothing came: would block, end of stream, or an error. */
PIER__COLD void pier__ready_no_data(struct pier_loop *loop, struct pier_handle *handle,
                                    struct pier_op *op, int64_t result)
{
    if (result == PIER_EAGAIN) {
        pier__handle_clear(handle, PIER__HAS_DATA);
        pier__ready_found_nothing(loop, handle);
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

/* Where the next lent receive goes: a large buffer for a stream that keeps them full, if there is
 * one to be had. */
static inline struct pier_buffer *fetch_buffer(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_buffer *buffer = NULL;
    if (PIER__UNLIKELY(handle->bits_ & PIER__STREAMING)) {
        buffer = pier__pool_pop_large(loop, handle);
    }
    if (PIER__LIKELY(buffer == NULL) && pier__pool_admits(loop, handle)) {
        buffer = pier__pool_fetch_spare(loop);
    }
    return buffer;
}

/* Returns the weight of what came. */
static inline unsigned receive_lent(struct pier_loop *loop, struct pier_handle *handle,
                                    struct pier_op *op)
{
    struct pier_buffer *buffer = fetch_buffer(loop, handle);
    if (PIER__UNLIKELY(buffer == NULL)) {
        out_of_buffers(loop, handle);
        return 1;
    }
    unsigned weight = buffer->weight;
    int64_t result = receive(loop, handle, buffer->memory, buffer->capacity);
    if (PIER__UNLIKELY(result <= 0)) {
        pier__pool_return_spare(loop, buffer);
        pier__ready_no_data(loop, handle, op, result);
        return 1;
    }
    note_read(handle, (size_t)result < buffer->capacity);
    if ((size_t)result >= loop->pool.buffer_size) {
        handle->bits_ |= PIER__STREAMING;
    } else {
        pier__handle_clear(handle, PIER__STREAMING);
    }
    if (pier__op_received_lent(loop, handle, op, buffer, (size_t)result)) {
        pier__pool_return_spare(loop, buffer);
    }
    return weight;
}

static inline void receive_memory(struct pier_loop *loop, struct pier_handle *handle,
                                  struct pier_op *op)
{
    int64_t result = receive(loop, handle, op->data, op->size);
    if (PIER__UNLIKELY(result <= 0)) {
        pier__ready_no_data(loop, handle, op, result);
        return;
    }
    note_read(handle, (size_t)result < op->size);
    op->done += (uint64_t)result;
    loop->counters.receives++;
    loop->counters.received_bytes += (uint64_t)result;
    pier__op_finish_now(loop, op, result);
}

/* With the peer's address where the program has asked for the one before. */
static pier_descriptor accept_socket(const struct pier_handle *handle, struct pier_address *peer)
{
    if ((handle->bits_ & PIER__CAUTIOUS) && !pier__sys_can_read(handle->descriptor_)) {
        return PIER_EAGAIN;
    }
    return handle->listener_ & PIER__WANTS_PEER
               ? pier__sys_accept_from(handle->descriptor_, true, peer)
               : pier__sys_accept(handle->descriptor_, true);
}

static void accept_one(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier_address peer;
    peer.family = PIER_ADDRESS_NONE;
    loop->counters.system_calls++;
    pier_descriptor socket = accept_socket(handle, &peer);
    const struct pier_address *known = peer.family != PIER_ADDRESS_NONE ? &peer : NULL;
    if (PIER__LIKELY(socket >= 0)) {
        if (op->bits_ & PIER__MULTISHOT) {
            pier__op_accepted(loop, op, socket, known);
        } else {
            pier__op_finish_accepted(loop, op, socket, known);
        }
    } else if (socket == PIER_EAGAIN) {
        pier__handle_clear(handle, PIER__HAS_DATA);
    } else if (pier__accept_starves(socket)) {
        loop->counters.accept_pauses++;
        pier__loop_starve(loop, handle);
    } else if (!pier__accept_passes(socket)) {
        op->os_error = pier__sys_code();
        pier__op_finish_now(loop, op, socket);
    }
}

/* Whether an op that was before this one in its handle's queue has finished and isn't called back
 * yet. Events are delivered at once, and must not overtake that. What is in the completed queue was
 * put there by the callbacks of the delivery just before, and comes with the next one: so each op
 * is looked at about once, however many there are. */
PIER__COLD static bool is_behind(const struct pier_loop *loop, const struct pier_op *op)
{
    if ((op->bits_ & PIER__MULTISHOT) == 0) {
        return false; /* it completes through the same queue */
    }
    const struct pier_op *done = loop->completed.head;
    while (done != NULL &&
           (done->owner_ != op->owner_ || pier__op_direction(done) != PIER__RECEIVING)) {
        done = done->next_;
    }
    return done != NULL;
}

bool pier__ready_receive(struct pier_loop *loop, struct pier_handle *handle, uint64_t key)
{
    for (unsigned left = loop->options.receives_max, weight = 1; left > 0;
         left -= weight < left ? weight : left) {
        struct pier_op *op = handle->head_[PIER__RECEIVING];
        if (op == NULL || op->state_ != PIER__ACTIVE || (op->bits_ & PIER__PAUSED)) {
            return true;
        }
        weight = 1;
        if (PIER__UNLIKELY(loop->completed.head != NULL) && is_behind(loop, op)) {
            break;
        }
        if (PIER__LIKELY(op->kind_ == PIER__OP_RECEIVE_LENT)) {
            weight = receive_lent(loop, handle, op);
        } else if (op->kind_ == PIER__OP_RECEIVE) {
            receive_memory(loop, handle, op);
        } else {
            accept_one(loop, handle, op);
        }
        if (PIER__UNLIKELY(pier__slot_handle(loop, key) != handle)) {
            return false;
        }
        if (PIER__LIKELY((handle->bits_ & PIER__HAS_DATA) == 0) ||
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
