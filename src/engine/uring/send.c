/* send.c - sends, connects and shutdowns on io_uring.
 *
 * A shutdown is a system call: the kernel would give the request to a thread of its own, though it
 * doesn't block, and where there may be no more threads it wouldn't happen.
 *
 * Sends that queue up behind one in flight go out merged with the next. A merged op is
 * PIER__ACTIVE like the head: its memory is the kernel's until the one completion. When one of them
 * is cancelled the whole request is, and the others are asked for again. */

#include "engine/uring/uring.h"

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
    memset(&scratch->message, 0, sizeof(scratch->message));
    scratch->message.msg_iov = scratch->u.vectors;
    scratch->message.msg_iovlen = count;
    entry->opcode = IORING_OP_SENDMSG;
    entry->addr = (uint64_t)(uintptr_t)&scratch->message;
    entry->len = 1;
    /* With MSG_WAITALL the kernel goes on by itself until all has gone, and tells nobody how far it
     * is. Without, it completes with what went. */
    entry->msg_flags = MSG_NOSIGNAL | (pier__handle_is_paced(handle) ? 0u : MSG_WAITALL);
    return true;
}

static void fill_single(struct pier_loop *loop, struct pier_op *op, struct io_uring_sqe *entry)
{
    size_t left = op->size - (size_t)op->done;
    pier__op_hold(loop, op);
    entry->addr = (uint64_t)(uintptr_t)op->data + op->done;
    entry->len = left > PIER__URING_MOST ? PIER__URING_MOST : (uint32_t)left;
    entry->opcode = IORING_OP_SEND;
    entry->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

void pier__uring_start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (PIER__UNLIKELY(handle->kind_ != PIER__KIND_STREAM)) {
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
    if (PIER__LIKELY(op->next_ == NULL && op->kind_ == PIER__OP_SEND &&
                     !pier__handle_is_paced(handle))) {
        fill_single(loop, op, entry);
    } else if (!fill_vectored(loop, handle, entry)) { /* no memory for the vectors */
        entry->opcode = IORING_OP_NOP;
        entry->user_data = PIER__TAG_IGNORE;
        pier__op_hold(loop, op);
        pier__loop_starve(loop, handle);
        return;
    }
    pier__uring_of(loop)->quick++;
    handle->engine_.uring.requests |= PIER__SEND_IN_KERNEL;
}

/* A request is over: ends the sends that are to end. Returns the one that has to go on, if there is
 * one; else others are started. */
static struct pier_op *end_cancelled(struct pier_loop *loop, struct pier_handle *handle)
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
        return op;
    }
    pier__op_start_direction(loop, handle, PIER__SENDING);
    return NULL;
}

void pier__uring_continue_sending(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_op *op = end_cancelled(loop, handle);
    if (op != NULL) {
        pier__uring_start(handle, op);
    }
}

void pier__uring_sent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      int result)
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
    } else if (result == -EAGAIN) { /* a cancel on its way found nothing to cancel */
        op = end_cancelled(loop, handle);
        if (op != NULL) {
            pier__uring_wait_for_op(loop, handle, op);
        }
        return;
    } else if (result == -ENOBUFS || result == -ENOMEM) {
        pier__loop_starve(loop, handle);
        return;
    } else if (!pier__uring_was_cancelled(result)) {
        pier__uring_fail(loop, op, -result);
        pier__uring_ask_for_end(loop, handle);
    }
    pier__uring_continue_sending(loop, handle);
}

void pier__uring_write_ready(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier_vector vectors[PIER__URING_VECTORS];
    struct pier_op *last = NULL;
    if (handle->kind_ == PIER__KIND_STREAM) {
        pier__uring_continue_sending(loop, handle);
        return;
    }
    size_t count = pier__send_gather(handle, vectors, PIER__URING_VECTORS, &last);
    if (count == 0) { /* vectors of nothing */
        pier__uring_sent(loop, handle, op, 0);
        return;
    }
    loop->counters.system_calls++;
    int64_t result = pier__sys_write_vectored(handle->descriptor_, vectors, count,
                                              (handle->bits_ & PIER__CAUTIOUS) != 0);
    pier__uring_sent(loop, handle, op,
                     result >= 0             ? (int)result
                     : result == PIER_EAGAIN ? -EAGAIN
                                             : -pier__sys_code());
}

/* ---- connecting, shutting down */

void pier__uring_start_connect(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op)
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

/* A connect that the kernel calls successful isn't always: a SYN that an ICMP message answered
 * leaves its error with the socket (Linux 6.18; tests/conform: unreachable_host). */
static int64_t check_connected(struct pier_loop *loop, const struct pier_handle *handle)
{
    if (handle->family_ == PIER_ADDRESS_UNIX) {
        return 0;
    }
    loop->counters.system_calls++;
    return pier__sys_connect_result(handle->descriptor_);
}

void pier__uring_connected(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                           int result)
{
    int64_t error = result == 0 ? check_connected(loop, handle) : 0;
    if (error < 0) {
        pier__op_fail(loop, op, error, pier__sys_code());
    } else if (result == 0) {
        pier__op_finish_now(loop, op, 0);
    } else if (pier__op_is_ending(op) && pier__uring_was_cancelled(result)) {
        pier__op_finish(loop, op, pier__op_reason(op));
    } else if (result == -EAGAIN || pier__uring_was_cancelled(result)) {
        /* A Unix listener's backlog is full, and nothing tells of room; or there may be no thread
         * that the kernel would leave the waiting to. */
        pier__loop_starve(loop, handle);
    } else {
        pier__uring_fail(loop, op, -result);
    }
}

void pier__uring_start_shutdown(struct pier_loop *loop, struct pier_handle *handle,
                                struct pier_op *op)
{
    if (handle->kind_ != PIER__KIND_STREAM) {
        pier__op_finish(loop, op, PIER_ENOTSUP);
        return;
    }
    loop->counters.system_calls++;
    int error = pier__sys_shutdown(handle->descriptor_);
    op->os_error = error < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, error);
}
