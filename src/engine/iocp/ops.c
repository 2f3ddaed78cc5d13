/* ops.c - the ops of handles on iocp: what is asked of Windows, and what becomes of its answer.
 *
 * Per handle and direction at most one request is in the system; engine_.iocp.requests says so. Its
 * OVERLAPPED lies in the op at the head. Sends are in send.c, lent receives in receive.c, accepts
 * in accept.c; fast.c has the ordinary packets before this file sees them.
 *
 * A request that the system doesn't find when it's to be cancelled is over, as a rule, and its
 * packet comes in the next turn. Should it not be there by then the system is asked again, at once
 * and from then on at the pace of starved handles: Wine loses cancels (pier__sys_cancel_op()), and
 * whoever waits for the op's end or the handle's, waits for the packet. */

#include "engine/iocp/iocp.h"

bool pier__iocp_has_had_share(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->engine_.iocp.turn != (uint16_t)loop->counters.turns) {
        handle->engine_.iocp.turn = (uint16_t)loop->counters.turns;
        handle->engine_.iocp.receives = 0;
    }
    if (handle->engine_.iocp.receives >= loop->options.receives_max) {
        return true;
    }
    handle->engine_.iocp.receives++;
    return false;
}

/* ---- connecting, shutting down */

static void connected(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      int error)
{
    if (error == PIER_ECANCELED && pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    if (error == 0) {
        loop->counters.system_calls++;
        error = pier__sys_finish_connect(handle->descriptor_);
    }
    op->os_error = error < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, error);
}

/* ConnectEx() of Winsock writes over its own stack when it's given an address of this family
 * (libuv #4636), and there is nothing to wait for but a full backlog. */
static void connect_unix(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    const struct pier__address_block *block = op->use_.address;
    loop->counters.system_calls++;
    int error = pier__sys_connect(handle->descriptor_, &block->address);
    if (error == PIER_EAGAIN) {
        pier__loop_starve(loop, handle);
        return;
    }
    op->os_error = error < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, error);
}

static void start_connect(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    const struct pier__address_block *block = op->use_.address;
    bool is_stream = pier__handle_has_half_close(handle);
    if (block == NULL || !is_stream || !(handle->bits_ & PIER__UNCONNECTED)) {
        pier__op_finish(loop, op,
                        block == NULL ? PIER_ENOMEM
                        : is_stream   ? PIER_EISCONN
                                      : PIER_ENOTSUP);
        return;
    }
    handle->bits_ |= PIER__CONNECTING;
    if (handle->kind_ == PIER__KIND_PIPE_STREAM) {
        pier__iocp_pipe_connect(loop, handle, op);
        return;
    }
    if (handle->family_ == PIER_ADDRESS_UNIX) {
        connect_unix(loop, handle, op);
        return;
    }
    int64_t result = pier__iocp_associate(handle);
    if (result == 0) {
        loop->counters.system_calls += 2;
        result = pier__sys_start_connect(handle->descriptor_, &block->address,
                                         pier__iocp_request(op), pier__iocp_skips(handle));
    }
    if (result == PIER__PACKET) {
        handle->engine_.iocp.requests |= PIER__SEND_BUSY;
    } else {
        connected(loop, handle, op, (int)result);
    }
}

static void start_shutdown(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (handle->kind_ == PIER__KIND_PIPE_STREAM) {
        pier__iocp_pipe_shutdown(loop, handle, op);
        return;
    }
    if (handle->kind_ != PIER__KIND_STREAM) {
        pier__op_finish(loop, op, PIER_ENOTSUP);
        return;
    }
    loop->counters.system_calls++;
    int error = pier__sys_shutdown(handle->descriptor_);
    op->os_error = error < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, error);
}

/* ---- receiving into the caller's memory */

int64_t pier__iocp_read_end(struct pier_loop *loop, struct pier_handle *handle, int64_t result)
{
    if (result == PIER_EPIPE && pier__iocp_is_pipe(handle)) {
        return 0;
    }
    if (result == 0 && handle->kind_ == PIER__KIND_STREAM) {
        loop->counters.system_calls++;
        if (pier__sys_was_reset(pier__iocp_of(loop)->afd_now, handle->descriptor_)) {
            return pier__sys_map(WSAECONNRESET);
        }
    }
    return result;
}

static void start_receive(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);

/* `finish` queues the completion or runs it at once. */
static void received(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                     int64_t result, void (*finish)(struct pier_loop *, struct pier_op *, int64_t))
{
    if (PIER__LIKELY(result > 0)) {
        pier__iocp_advance_file(handle, (uint64_t)result);
        op->done = (uint64_t)result;
        loop->counters.receives++;
        loop->counters.received_bytes += (uint64_t)result;
        finish(loop, op, result);
        return;
    }
    if (result == PIER_ECANCELED || pier__iocp_is_short(result)) {
        if (pier__op_is_ending(op)) {
            pier__op_finish(loop, op, pier__op_reason(op));
        } else if (result == PIER_ECANCELED) {
            start_receive(loop, handle, op);
        } else {
            pier__loop_starve(loop, handle);
        }
        return;
    }
    if (result == 0 && pier__iocp_is_pipe(handle)) {
        if (!(handle->engine_.iocp.pipe & PIER__PIPE_MESSAGES)) {
            start_receive(loop, handle, op); /* somebody wrote nothing */
            return;
        }
        pier__iocp_pipe_note(handle, PIER__PIPE_ENDED);
    }
    result = pier__iocp_read_end(loop, handle, result);
    op->os_error = result < 0 ? pier__sys_code() : 0;
    op->flags |= result == 0 ? PIER_EOF : 0;
    finish(loop, op, result);
}

static void start_receive(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    int64_t result = pier__iocp_associate(handle);
    if (PIER__UNLIKELY(result < 0)) {
        pier__iocp_fail(loop, op, result);
        return;
    }
    if (PIER__UNLIKELY(pier__iocp_has_had_share(loop, handle))) {
        pier__handle_serve_later(loop, handle);
        return;
    }
    OVERLAPPED *request = pier__iocp_request(op);
    loop->counters.system_calls++;
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        result = pier__sys_start_receive(handle->descriptor_, op->data, op->size, request,
                                         pier__iocp_skips(handle));
    } else if (handle->engine_.iocp.pipe & PIER__PIPE_ENDED) {
        result = 0;
    } else if (handle->engine_.iocp.requests & PIER__SYNCHRONOUS) {
        result = pier__sys_read_at(handle->descriptor_, op->data, op->size,
                                   pier__iocp_offset(handle), NULL);
    } else {
        result = pier__sys_start_read(handle->descriptor_, op->data, op->size,
                                      pier__iocp_offset(handle), request, pier__iocp_skips(handle));
    }
    if (result == PIER__PACKET) {
        handle->engine_.iocp.requests |= PIER__RECEIVE_BUSY;
    } else {
        received(loop, handle, op, result, pier__op_finish);
    }
}

/* ---- the table of calls */

void pier__iocp_start(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    switch (op->kind_) {
    case PIER__OP_SEND:
    case PIER__OP_SEND_VECTORED: pier__iocp_start_send(loop, handle, op); break;
    case PIER__OP_RECEIVE_LENT: pier__iocp_start_lent(loop, handle, op); break;
    case PIER__OP_RECEIVE: start_receive(loop, handle, op); break;
    case PIER__OP_ACCEPT: pier__iocp_start_accept(loop, handle, op); break;
    case PIER__OP_CONNECT: start_connect(loop, handle, op); break;
    default: start_shutdown(loop, handle, op); break;
    }
}

/* Has the system cancel the request of a direction. False when it finds none. */
static bool cancel_request(struct pier_loop *loop, const struct pier_handle *handle,
                           unsigned direction)
{
    loop->counters.system_calls++;
    return pier__sys_cancel_op(handle->descriptor_, pier__iocp_request(handle->head_[direction])) ==
           0;
}

void pier__iocp_cancel(struct pier_handle *handle, struct pier_op *op)
{
    struct pier_loop *loop = handle->loop_;
    bool sending = pier__op_direction(op) == PIER__SENDING;
    if (op->kind_ == PIER__OP_CONNECT && handle->kind_ == PIER__KIND_PIPE_STREAM) {
        pier__iocp_pipe_forget(loop, handle);
    }
    if (!(handle->engine_.iocp.requests & (sending ? PIER__SEND_BUSY : PIER__RECEIVE_BUSY))) {
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    if (PIER__UNLIKELY(!cancel_request(loop, handle, sending))) {
        pier__handle_serve_later(loop, handle); /* by then the packet has been taken, or else: */
    }
}

/* Whether the request of a direction, if there is one in the system, was to be cancelled for one of
 * its ops. */
static bool is_ending(const struct pier_handle *handle, unsigned direction)
{
    unsigned in_system = direction == PIER__SENDING ? PIER__SEND_BUSY : PIER__RECEIVE_BUSY;
    if (!(handle->engine_.iocp.requests & in_system)) {
        return false;
    }
    const struct pier_op *op = handle->head_[direction];
    while (op != NULL && op->state_ == PIER__ACTIVE && !pier__op_is_ending(op)) {
        op = op->next_;
    }
    return op != NULL && op->state_ == PIER__ACTIVE;
}

static void cancel_again(struct pier_loop *loop, struct pier_handle *handle)
{
    for (unsigned direction = 0; direction < 2; direction++) {
        if (PIER__UNLIKELY(is_ending(handle, direction)) &&
            !cancel_request(loop, handle, direction)) {
            pier__loop_starve(loop, handle);
        }
    }
}

/* Starts a direction whose op isn't in the system. */
static void revive(struct pier_loop *loop, struct pier_handle *handle, unsigned direction)
{
    struct pier_op *op = handle->head_[direction];
    unsigned in_system = direction == PIER__SENDING ? PIER__SEND_BUSY : PIER__RECEIVE_BUSY;
    if (op == NULL || op->state_ != PIER__ACTIVE || (handle->engine_.iocp.requests & in_system)) {
        return;
    }
    if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__iocp_serve_lent(loop, handle);
    } else if (op->kind_ == PIER__OP_ACCEPT) {
        pier__iocp_serve_accept(loop, handle);
    } else {
        pier__iocp_start(handle, op);
    }
}

void pier__iocp_serve(struct pier_loop *loop, struct pier_handle *handle)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    revive(loop, handle, PIER__SENDING);
    if (pier__slot_handle(loop, key) == handle) {
        revive(loop, handle, PIER__RECEIVING);
    }
    if (pier__slot_handle(loop, key) == handle) {
        cancel_again(loop, handle);
    }
}

void pier__iocp_retry(struct pier_handle *handle)
{
    pier__handle_serve_later(handle->loop_,
                             handle); /* what it delivers is delivered in the turn, like any */
}

void pier__iocp_resume(struct pier_handle *handle, struct pier_op *op)
{
    (void)op;
    if (!(handle->engine_.iocp.requests & PIER__RECEIVE_BUSY)) {
        pier__handle_serve_later(handle->loop_, handle);
    }
}

void pier__iocp_completed_slow(struct pier_loop *loop, struct pier_op *op, uint64_t bytes,
                               int error)
{
    struct pier_handle *handle = op->owner_;
    if (PIER__UNLIKELY(handle->bits_ & PIER__STARVED) &&
        (is_ending(handle, PIER__SENDING) || is_ending(handle, PIER__RECEIVING))) {
        pier__loop_retry_soon(loop); /* listed to ask again, perhaps: nothing else waits for that */
    }
    if (pier__op_direction(op) == PIER__SENDING) {
        handle->engine_.iocp.requests &= (unsigned char)~PIER__SEND_BUSY;
        if (pier__op_is_send(op)) {
            pier__iocp_sent(loop, handle, op, bytes, error);
        } else if (op->kind_ == PIER__OP_SHUTDOWN) {
            pier__iocp_pipe_shut(loop, handle, op, error);
        } else {
            connected(loop, handle, op, error);
        }
        return;
    }
    handle->engine_.iocp.requests &= (unsigned char)~PIER__RECEIVE_BUSY;
    if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__iocp_lent_completed(loop, handle, op, error);
    } else {
        received(loop, handle, op, error < 0 && bytes == 0 ? error : (int64_t)bytes,
                 pier__op_finish_now);
    }
}
