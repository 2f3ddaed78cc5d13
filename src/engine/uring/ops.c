/* ops.c - the ops of handles on io_uring: what is asked of the kernel, and what becomes of its
 * answer.
 *
 * Per handle and direction at most one request is in the kernel; engine_.uring.requests says so.
 * Sends and what else goes out are in send.c.
 *
 * Pipes and terminals are waited for with a poll request and then read or written by a system call,
 * since a read that blocks would occupy a kernel thread. So are sockets that answer EAGAIN, because
 * somebody has set O_NONBLOCK on them.
 *
 * Files are read and written by system calls as well, when a request that does nothing is back. A
 * request to write at the current position leaves the position where it was if the system takes a
 * part only (seen on 6.18), and none takes the lock that orders those who share the position. */

#include "engine/uring/uring.h"

#include <poll.h>

void pier__uring_postpone(struct pier_loop *loop, struct pier_handle *handle)
{
    pier__loop_starve(loop, handle);
    pier__loop_retry_soon(loop);
}

/* A file is always ready, which not every file says when it is polled. */
static bool come_back(struct pier_loop *loop, struct pier_op *op)
{
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        return false;
    }
    entry->opcode = IORING_OP_NOP;
    entry->user_data = pier__uring_key(op, PIER__TAG_READY);
    return true;
}

void pier__uring_wait_for_op(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    bool sending = pier__op_direction(op) == PIER__SENDING;
    if (handle->kind_ == PIER__KIND_FILE
            ? come_back(loop, op)
            : pier__uring_wait_ready(loop, op, handle->descriptor_, sending ? POLLOUT : POLLIN)) {
        handle->engine_.uring.requests |= sending ? PIER__SEND_IN_KERNEL | PIER__SEND_POLLING
                                                  : PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING;
    } else {
        pier__uring_postpone(loop, handle);
    }
}

void pier__uring_fail(struct pier_loop *loop, struct pier_op *op, int code)
{
    pier__op_fail(loop, op, pier__sys_map(code), code);
}

/* ---- receiving into the caller's memory */

static void start_receive(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(handle->kind_ != PIER__KIND_STREAM)) {
        pier__uring_wait_for_op(loop, handle, op);
        return;
    }
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (PIER__UNLIKELY(entry == NULL)) {
        pier__uring_postpone(loop, handle);
        return;
    }
    entry->opcode = IORING_OP_RECV;
    entry->fd = (int)handle->descriptor_;
    entry->addr = (uint64_t)(uintptr_t)op->data;
    entry->len = op->size > PIER__URING_MOST ? PIER__URING_MOST : (uint32_t)op->size;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    handle->engine_.uring.requests |= PIER__RECEIVE_IN_KERNEL;
}

static void received_memory(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                            int result)
{
    if (PIER__LIKELY(result > 0)) {
        op->done = (uint64_t)result;
        loop->counters.receives++;
        loop->counters.received_bytes += (uint64_t)result;
        pier__op_finish_now(loop, op, result);
    } else if (result == 0) {
        op->flags |= PIER_EOF;
        pier__op_finish_now(loop, op, 0);
    } else if (pier__op_is_ending(op) && (pier__uring_was_cancelled(result) || result == -EAGAIN)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (result == -EAGAIN) {
        pier__uring_wait_for_op(loop, handle, op);
    } else if (pier__uring_was_cancelled(result)) {
        start_receive(loop, handle, op);
    } else if (result == -ENOMEM || result == -ENOBUFS) {
        pier__loop_starve(loop, handle);
    } else {
        pier__uring_fail(loop, op, -result);
    }
}

static void read_ready(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    loop->counters.system_calls++;
    int64_t result = handle->kind_ == PIER__KIND_STREAM
                         ? pier__sys_receive(handle->descriptor_, op->data, op->size)
                         : pier__sys_read(handle->descriptor_, op->data,
                                          op->size > PIER__URING_MOST ? PIER__URING_MOST : op->size,
                                          (handle->bits_ & PIER__CAUTIOUS) != 0);
    received_memory(loop, handle, op,
                    result >= 0             ? (int)result
                    : result == PIER_EAGAIN ? -EAGAIN
                    : result == PIER_EINTR  ? -EINTR
                                            : -pier__sys_code());
}

/* ---- the table of calls */

PIER__NOINLINE static void start_other(struct pier_loop *loop, struct pier_handle *handle,
                                       struct pier_op *op)
{
    switch (op->kind_) {
    case PIER__OP_SEND:
    case PIER__OP_SEND_VECTORED: pier__uring_start_send(loop, handle, op); break;
    case PIER__OP_ACCEPT: pier__uring_start_accept(loop, handle, op); break;
    case PIER__OP_CONNECT: pier__uring_start_connect(loop, handle, op); break;
    default: pier__uring_start_shutdown(loop, handle, op); break;
    }
}

void pier__uring_start_slow(struct pier_handle *handle, struct pier_op *op)
{
    if (op->kind_ == PIER__OP_RECEIVE) {
        start_receive(handle->loop_, handle, op);
    } else if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__uring_start_lent(handle->loop_, handle, op);
    } else {
        start_other(handle->loop_, handle, op);
    }
}

/* The key of a cancel says whose it is by number: the handle may be gone when it's answered. */
#define SENDING_BIT 8u
#define SLOT_SHIFT 4

bool pier__uring_cancel_request(struct pier_loop *loop, uint64_t key,
                                const struct pier_handle *handle, bool sending)
{
    uint64_t slot = handle != NULL ? handle->slot_ : UINT32_MAX;
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        return false;
    }
    entry->opcode = IORING_OP_ASYNC_CANCEL;
    entry->fd = -1;
    entry->addr = key;
    entry->user_data = slot << SLOT_SHIFT | (sending ? SENDING_BIT : 0) | PIER__TAG_CANCEL;
    return true;
}

/* Asks again later if the request is still there. */
static void cancel_lost(struct pier_loop *loop, struct pier_handle *handle, bool sending)
{
    unsigned in_kernel = sending ? PIER__SEND_IN_KERNEL : PIER__RECEIVE_IN_KERNEL;
    if (!(handle->engine_.uring.requests & in_kernel)) {
        return;
    }
    if (!sending) {
        handle->engine_.uring.requests &= (uint8_t)~PIER__STOPPING;
    }
    for (struct pier_op *op = handle->head_[sending]; op != NULL && op->state_ == PIER__ACTIVE;
         op = op->next_) {
        if (op->bits_ & PIER__CANCEL_ASKED) {
            pier__op_clear(op, PIER__CANCEL_ASKED);
            pier__uring_postpone(loop, handle);
        }
    }
}

/* A cancel that finds its request between a wake-up and the try that follows doesn't stop it (seen
 * on Linux 6.18: ENOENT, or EALREADY), and the request waits on. So it's asked again where the
 * request is still there in the next turn. A slot that is another handle's by now is looked at for
 * nothing. */
PIER__COLD void pier__uring_cancel_answered(struct pier_loop *loop, uint64_t key, int result)
{
    uint64_t slot = key >> SLOT_SHIFT;
    if (result >= 0) {
        return;
    }
    if (slot == UINT32_MAX) {
        pier__uring_of(loop)->cancels_unsent = true;
        pier__uring_of(loop)->plain = false;
        return;
    }
    struct pier_handle *handle = slot < loop->slots_used ? pier__slot_at(loop, (uint32_t)slot)
                                                         : NULL;
    if (handle != NULL) {
        cancel_lost(loop, handle, (key & SENDING_BIT) != 0);
    }
}

/* Gives up what is held for an op that its handle's close ends. */
static void drop_held(struct pier_loop *loop, struct pier_handle *handle, const struct pier_op *op)
{
    if (op->kind_ == PIER__OP_ACCEPT) {
        pier__uring_drop_accepted(loop, handle);
    } else if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__uring_drop_held(loop, handle);
    }
}

void pier__uring_cancel(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    bool sending = pier__op_direction(op) == PIER__SENDING;
    struct pier_op *head = handle->head_[sending];
    if ((op->bits_ & PIER__REASON) == PIER__REASON_CLOSE) {
        drop_held(loop, handle, op);
    }
    if (!(handle->engine_.uring.requests &
          (sending ? PIER__SEND_IN_KERNEL : PIER__RECEIVE_IN_KERNEL))) {
        if (!sending && (handle->engine_.uring.held != NULL ||
                         (handle->engine_.uring.requests & PIER__ENDED))) {
            pier__handle_serve_later(loop, handle); /* delivers what is held, then ends */
            return;
        }
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    bool polling = (handle->engine_.uring.requests &
                    (sending ? PIER__SEND_POLLING : PIER__RECEIVE_POLLING)) != 0;
    if (!pier__uring_cancel_request(loop,
                                    pier__uring_key(head, polling ? PIER__TAG_READY : PIER__TAG_OP),
                                    handle, sending)) {
        pier__uring_postpone(loop, handle);
    } else {
        pier__op_set(op, PIER__CANCEL_ASKED);
    }
}

/* Brings one direction forward: starts what isn't in the kernel, or asks again for a cancel that
 * found the queue full. */
static void revive(struct pier_loop *loop, struct pier_handle *handle, unsigned direction)
{
    struct pier_op *op = handle->head_[direction];
    unsigned in_kernel = direction == PIER__SENDING ? PIER__SEND_IN_KERNEL
                                                    : PIER__RECEIVE_IN_KERNEL;
    if (op == NULL || op->state_ != PIER__ACTIVE) {
        return;
    }
    bool holds = direction == PIER__RECEIVING && handle->engine_.uring.held != NULL;
    /* Sends that were merged are in the kernel together, and any of them may be cancelled. */
    for (struct pier_op *at = op;
         (handle->engine_.uring.requests & in_kernel) && at != NULL && at->state_ == PIER__ACTIVE;
         at = at->next_) {
        if (pier__op_is_ending(at) && !(at->bits_ & PIER__CANCEL_ASKED)) {
            pier__uring_cancel(handle, at);
        }
    }
    if ((handle->engine_.uring.requests & in_kernel) && !holds) {
        return;
    }
    if (direction == PIER__SENDING) {
        pier__uring_continue_sending(loop, handle);
    } else if (op->kind_ == PIER__OP_RECEIVE_LENT && (op->bits_ & PIER__MULTISHOT)) {
        pier__uring_serve_lent(loop, handle, op);
    } else if (op->kind_ == PIER__OP_ACCEPT && (op->bits_ & PIER__MULTISHOT)) {
        pier__uring_serve_accept(loop, handle, op);
    } else if (pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else {
        pier__uring_start(handle, op);
    }
}

void pier__uring_retry(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    struct pier_op *op = handle->head_[PIER__RECEIVING];
    revive(loop, handle, PIER__SENDING);
    /* A retry runs before the turn's events, but what it delivers is delivered like any: in the
     * turn. */
    if (op != NULL && handle->engine_.uring.held != NULL) {
        pier__handle_serve_later(loop, handle);
    } else {
        revive(loop, handle, PIER__RECEIVING);
    }
}

void pier__uring_serve(struct pier_loop *loop, struct pier_handle *handle)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    revive(loop, handle, PIER__RECEIVING);
    if (pier__slot_handle(loop, key) == handle) {
        revive(loop, handle, PIER__SENDING);
    }
}

void pier__uring_resume(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    (void)op;
    pier__handle_clear(handle, PIER__STREAMING); /* the program didn't keep up */
    if (PIER__LIKELY(handle->engine_.uring.held == NULL &&
                     (handle->engine_.uring.requests & PIER__RECEIVE_IN_KERNEL))) {
        return;
    }
    pier__handle_serve_later(loop, handle);
}

void pier__uring_completed(struct pier_loop *loop, struct pier_op *op, int result, unsigned flags)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__LIKELY(op->kind_ == PIER__OP_RECEIVE_LENT)) {
        pier__uring_received_lent(loop, handle, op, result, flags);
        return;
    }
    bool more = (flags & IORING_CQE_F_MORE) != 0;
    if (op->kind_ == PIER__OP_RECEIVE || op->kind_ == PIER__OP_ACCEPT) {
        if (!more) {
            handle->engine_.uring.requests &= (uint8_t) ~(PIER__RECEIVE_IN_KERNEL | PIER__STOPPING);
            pier__op_clear(op, PIER__CANCEL_ASKED);
        }
        if (op->kind_ == PIER__OP_RECEIVE) {
            received_memory(loop, handle, op, result);
        } else {
            pier__uring_accepted(loop, handle, op, result, more);
        }
        return;
    }
    handle->engine_.uring.requests &= (uint8_t)~PIER__SEND_IN_KERNEL;
    if (pier__op_is_send(op)) {
        pier__uring_sent(loop, handle, op, result);
    } else {
        pier__uring_connected(loop, handle, op, result);
    }
}

void pier__uring_ready(struct pier_loop *loop, struct pier_op *op, int result)
{
    struct pier_handle *handle = op->owner_;
    bool sending = pier__op_direction(op) == PIER__SENDING;
    handle->engine_.uring.requests &= (uint8_t) ~(
        sending ? PIER__SEND_IN_KERNEL | PIER__SEND_POLLING
                : PIER__RECEIVE_IN_KERNEL | PIER__RECEIVE_POLLING | PIER__STOPPING);
    pier__op_clear(op, PIER__CANCEL_ASKED);
    if (result < 0 || pier__op_is_ending(op)) {
        revive(loop, handle, sending ? PIER__SENDING : PIER__RECEIVING);
    } else if (sending) {
        pier__uring_write_ready(loop, handle, op);
    } else if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__uring_read_lent(loop, handle, op);
    } else if (op->kind_ == PIER__OP_RECEIVE) {
        read_ready(loop, handle, op);
    } else {
        pier__uring_accept_ready(loop, handle, op);
    }
}
