/* ops.c - the ops of handles on io_uring: what is asked of the kernel, and what becomes of its
 * answer.
 *
 * Per handle and direction at most one request is in the kernel; engine_.uring.requests says so.
 * Sends that queue up behind one in flight go out merged with the next. A merged op is
 * PIER__ACTIVE like the head: its memory is the kernel's until the one completion. When one of them
 * is cancelled the whole request is, and the others are asked for again.
 *
 * Pipes and terminals are waited for with a poll request and then read or written by a system call,
 * since a read that blocks would occupy a kernel thread. So are sockets that answer EAGAIN, because
 * somebody has set O_NONBLOCK on them. */

#include "engine/uring/uring.h"

#include <fcntl.h>
#include <poll.h>

void pier__uring_postpone(struct pier_loop *loop, struct pier_handle *handle)
{
    pier__loop_starve(loop, handle);
    pier__loop_retry_soon(loop);
}

void pier__uring_wait_for_op(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    bool sending = pier__op_direction(op) == PIER__SENDING;
    if (pier__uring_wait_ready(loop, op, handle->descriptor_, sending ? POLLOUT : POLLIN)) {
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

/* ---- sending */

static bool fill_vectored(struct pier_loop *loop, struct pier_handle *handle,
                          struct io_uring_sqe *entry)
{
    struct pier__uring_scratch *scratch = pier__uring_scratch_of(loop, entry);
    struct pier_vector vectors[PIER__URING_VECTORS];
    struct pier_op *last = NULL;
    if (scratch == NULL) {
        return false;
    }
    size_t count = pier__send_gather(handle, vectors, PIER__URING_VECTORS, &last);
    for (size_t i = 0; i < count; i++) {
        scratch->u.vectors[i].iov_base = (void *)(uintptr_t)vectors[i].data;
        scratch->u.vectors[i].iov_len = vectors[i].size;
    }
    pier__send_merged(loop, handle, last);
    if (handle->kind_ == PIER__KIND_FILE) {
        entry->opcode = IORING_OP_WRITEV;
        entry->off = (uint64_t)-1;
        entry->addr = (uint64_t)(uintptr_t)scratch->u.vectors;
        entry->len = (uint32_t)count;
        return true;
    }
    memset(&scratch->message, 0, sizeof(scratch->message));
    scratch->message.msg_iov = scratch->u.vectors;
    scratch->message.msg_iovlen = count;
    entry->opcode = IORING_OP_SENDMSG;
    entry->addr = (uint64_t)(uintptr_t)&scratch->message;
    entry->len = 1;
    entry->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    return true;
}

static void fill_single(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                        struct io_uring_sqe *entry)
{
    size_t left = op->size - (size_t)op->done;
    pier__op_hold(loop, op);
    entry->addr = (uint64_t)(uintptr_t)op->data + op->done;
    entry->len = left > PIER__URING_MOST ? PIER__URING_MOST : (uint32_t)left;
    if (PIER__UNLIKELY(handle->kind_ == PIER__KIND_FILE)) {
        entry->opcode = IORING_OP_WRITE;
        entry->off = (uint64_t)-1;
    } else {
        entry->opcode = IORING_OP_SEND;
        entry->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    }
}

static void start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(handle->kind_ != PIER__KIND_STREAM && handle->kind_ != PIER__KIND_FILE)) {
        pier__op_hold(loop, op);
        pier__uring_wait_for_op(loop, handle, op);
        return;
    }
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (PIER__UNLIKELY(entry == NULL)) {
        pier__op_hold(loop, op);
        pier__uring_postpone(loop, handle);
        return;
    }
    entry->fd = (int)handle->descriptor_;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    if (PIER__LIKELY(op->next_ == NULL && op->kind_ == PIER__OP_SEND)) {
        fill_single(loop, handle, op, entry);
    } else if (!fill_vectored(loop, handle, entry)) {
        entry->opcode = IORING_OP_NOP; /* no memory for the vectors; the answer is 0 bytes, and then
                                          it's tried again */
    }
    pier__uring_of(loop)->quick++;
    handle->engine_.uring.requests |= PIER__SEND_IN_KERNEL;
}

/* No request is in the kernel any more: ends what was cancelled, which may have been merged behind
 * what wasn't, and asks for what is left. */
static void continue_sending(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_op *op = handle->head_[PIER__SENDING];
    while (op != NULL && op->state_ == PIER__ACTIVE &&
           !(handle->engine_.uring.requests & PIER__SEND_IN_KERNEL)) {
        struct pier_op *next = op->next_;
        if (pier__op_is_ending(op)) {
            pier__op_finish(loop, op, pier__op_reason(op));
        }
        op = next;
    }
    op = handle->head_[PIER__SENDING];
    if (op != NULL && op->state_ == PIER__ACTIVE &&
        !(handle->engine_.uring.requests & PIER__SEND_IN_KERNEL)) {
        pier__uring_start(handle, op);
        return;
    }
    pier__op_start_direction(loop, handle, PIER__SENDING);
}

static void sent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op, int result)
{
    pier__op_clear(op, PIER__CANCEL_ASKED);
    if (PIER__LIKELY(op->next_ == NULL && op->kind_ == PIER__OP_SEND && result >= 0 &&
                     (size_t)result == op->size - (size_t)op->done)) {
        op->done = op->size;
        loop->counters.sends++;
        loop->counters.sent_bytes += (uint64_t)result;
        pier__op_finish_now(loop, op, (int64_t)op->size);
        return;
    }
    if (result >= 0) {
        pier__send_advance(loop, handle, (uint64_t)result);
    } else if (result == -EAGAIN) {
        pier__uring_wait_for_op(loop, handle, op);
        return;
    } else if (result == -ENOBUFS || result == -ENOMEM) {
        pier__loop_starve(loop, handle);
        return;
    } else if (!pier__uring_was_cancelled(result)) {
        pier__uring_fail(loop, op, -result);
    }
    continue_sending(loop, handle);
}

/* A pipe or terminal is writable. */
static void write_ready(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier_vector vectors[PIER__URING_VECTORS];
    struct pier_op *last = NULL;
    if (handle->kind_ == PIER__KIND_STREAM) {
        continue_sending(loop, handle);
        return;
    }
    size_t count = pier__send_gather(handle, vectors, PIER__URING_VECTORS, &last);
    loop->counters.system_calls++;
    int64_t result = pier__sys_write_vectored(handle->descriptor_, vectors, count,
                                              (handle->bits_ & PIER__CAUTIOUS) != 0);
    sent(loop, handle, op,
         result >= 0             ? (int)result
         : result == PIER_EAGAIN ? -EAGAIN
                                 : -pier__sys_code());
}

/* ---- connecting, shutting down */

static void start_connect(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    const struct pier__address_block *block = op->use_.address;
    if (block == NULL || handle->kind_ != PIER__KIND_STREAM ||
        !(handle->bits_ & PIER__UNCONNECTED)) {
        pier__op_finish(loop, op,
                        block == NULL                        ? PIER_ENOMEM
                        : handle->kind_ == PIER__KIND_STREAM ? PIER_EISCONN
                                                             : PIER_ENOTSUP);
        return;
    }
    handle->bits_ |= PIER__CONNECTING;
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    struct pier__uring_scratch *scratch = entry != NULL ? pier__uring_scratch_of(loop, entry)
                                                        : NULL;
    if (scratch == NULL) {
        if (entry != NULL) {
            entry->opcode = IORING_OP_NOP;
            entry->user_data = PIER__TAG_IGNORE;
            pier__op_finish(loop, op, PIER_ENOMEM);
        } else {
            pier__uring_postpone(loop, handle);
        }
        return;
    }
    unsigned size = pier__sys_native_address(&block->address, scratch->u.address);
    if (size == 0) {
        entry->opcode = IORING_OP_NOP;
        entry->user_data = PIER__TAG_IGNORE;
        pier__op_finish(loop, op, PIER_EAFNOSUPPORT);
        return;
    }
    entry->opcode = IORING_OP_CONNECT;
    entry->fd = (int)handle->descriptor_;
    entry->addr = (uint64_t)(uintptr_t)scratch->u.address;
    entry->off = size;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    handle->engine_.uring.requests |= PIER__SEND_IN_KERNEL;
}

static void connected(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      int result)
{
    if (result == 0) {
        pier__op_finish_now(loop, op, 0);
    } else if (pier__op_is_ending(op) && pier__uring_was_cancelled(result)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (result == -EAGAIN && !pier__op_is_ending(op)) {
        pier__loop_starve(
            loop, handle); /* a Unix listener's backlog is full, and nothing tells of room */
    } else {
        pier__uring_fail(loop, op, -result);
    }
}

static void start_shutdown(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (handle->kind_ != PIER__KIND_STREAM) {
        pier__op_finish(loop, op, PIER_ENOTSUP);
        return;
    }
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        pier__uring_postpone(loop, handle);
        return;
    }
    pier__uring_of(loop)->quick++;
    entry->opcode = IORING_OP_SHUTDOWN;
    entry->fd = (int)handle->descriptor_;
    entry->len = SHUT_WR;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
    handle->engine_.uring.requests |= PIER__SEND_IN_KERNEL;
}

/* ---- receiving into the caller's memory */

static void start_receive(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    bool is_file = handle->kind_ == PIER__KIND_FILE;
    if (PIER__UNLIKELY(handle->kind_ != PIER__KIND_STREAM && !is_file)) {
        pier__uring_wait_for_op(loop, handle, op);
        return;
    }
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (PIER__UNLIKELY(entry == NULL)) {
        pier__uring_postpone(loop, handle);
        return;
    }
    entry->opcode = IORING_OP_RECV;
    if (PIER__UNLIKELY(is_file)) {
        entry->opcode = IORING_OP_READ;
        entry->off = (uint64_t)-1;
    }
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
    case PIER__OP_SEND_VECTORED: start_send(loop, handle, op); break;
    case PIER__OP_ACCEPT: pier__uring_start_accept(loop, handle, op); break;
    case PIER__OP_CONNECT: start_connect(loop, handle, op); break;
    default: start_shutdown(loop, handle, op); break;
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
        if (!sending && handle->engine_.uring.held != NULL) {
            pier__handle_serve_later(loop, handle); /* delivers what is held, then ends */
            return;
        }
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    bool polling = (handle->engine_.uring.requests &
                    (sending ? PIER__SEND_POLLING : PIER__RECEIVE_POLLING)) != 0;
    if (!pier__uring_cancel_request(
            loop, pier__uring_key(head, polling ? PIER__TAG_READY : PIER__TAG_OP))) {
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
        continue_sending(loop, handle);
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
        sent(loop, handle, op, result);
    } else if (op->kind_ == PIER__OP_CONNECT) {
        connected(loop, handle, op, result);
    } else if (pier__uring_was_cancelled(result) && pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else {
        op->os_error = result < 0 ? -result : 0;
        pier__op_finish_now(loop, op, result < 0 ? pier__sys_map(-result) : 0);
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
        write_ready(loop, handle, op);
    } else if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__uring_read_lent(loop, handle, op);
    } else if (op->kind_ == PIER__OP_RECEIVE) {
        read_ready(loop, handle, op);
    } else {
        pier__uring_accept_ready(loop, handle, op);
    }
}
