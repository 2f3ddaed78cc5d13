/* ops.c - the ops of handles on iocp: what is asked of Windows, and what becomes of its
 * answer.
 *
 * Per handle and direction at most one request is in the system; handle->ready_ says so. Its
 * OVERLAPPED lies in the op at the head. Sends that queue up behind one in flight go out merged
 * with the next; a merged op is PIER__ACTIVE like the head, since its memory is the system's until
 * the one packet. When one of them is cancelled the whole request is, and the others are asked for
 * again.
 *
 * A request that the system doesn't find when it's to be cancelled is over, as a rule, and its
 * packet comes in the next turn. Should it not be there by then the system is asked again, at once
 * and from then on at the pace of starved handles: Wine loses cancels (pier__sys_cancel_op()), and
 * whoever waits for the op's end or the handle's, waits for the packet.
 *
 * Pipes and files take one buffer at a time. A write to a pipe that is cancelled is withdrawn
 * whole, even if the peer has read some of it: so such writes are short. Pipes that stand for
 * sockets have room for 64 KiB, and a write that fits is never read in part before it's over:
 * theirs may be longer, but a quarter of that, so that the reader goes on meanwhile. */

#include "engine/iocp/iocp.h"

#define PIPE_WRITE 4096
#define PIPE_STREAM_WRITE 16384
#define SENDS_PER_TURN 16

bool pier__iocp_has_had_share(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->turn_ != (uint16_t)loop->counters.turns) {
        handle->turn_ = (uint16_t)loop->counters.turns;
        handle->interest_ = 0;
    }
    uint32_t most = loop->options.receives_max;
    if (handle->interest_ >= (most > 250 ? 250 : most)) {
        return true;
    }
    handle->interest_++;
    return false;
}

static bool is_short_of_memory(int64_t error)
{
    return error == PIER_ENOBUFS || error == PIER_ENOMEM || error == PIER_EAGAIN;
}

/* ---- files: where the next read or write goes */

static uint64_t offset_of(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_FILE ? (uint64_t)(uintptr_t)handle->extra_ : 0;
}

static void advance_file(struct pier_handle *handle, uint64_t bytes)
{
    if (handle->kind_ == PIER__KIND_FILE) {
        handle->extra_ = (void *)((uintptr_t)handle->extra_ + bytes);
    }
}

/* ---- sending */

static int64_t request_send(struct pier_handle *handle, struct pier_op *op,
                            const struct pier_vector *vectors, size_t count)
{
    OVERLAPPED *request = pier__iocp_request(op);
    bool skips = pier__iocp_skips(handle);
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        return pier__sys_start_send(handle->descriptor_, vectors, count, request, skips);
    }
    if (pier__iocp_pipe_flags(handle) & PIER__PIPE_SHUT) {
        return pier__sys_map(WSAESHUTDOWN);
    }
    if (handle->ready_ & PIER__SYNCHRONOUS) {
        return pier__sys_write_at(handle->descriptor_, vectors[0].data, vectors[0].size,
                                  offset_of(handle), NULL);
    }
    size_t size = vectors[0].size;
    size_t most = handle->kind_ == PIER__KIND_PIPE          ? PIPE_WRITE
                  : handle->kind_ == PIER__KIND_PIPE_STREAM ? PIPE_STREAM_WRITE
                                                            : SIZE_MAX;
    size = size < most ? size : most;
    return pier__sys_start_write(handle->descriptor_, vectors[0].data, size, offset_of(handle),
                                 request, skips);
}

/* The request has these ops' memory until its packet. */
static void note_in_system(struct pier_loop *loop, struct pier_handle *handle,
                           const struct pier_op *last)
{
    handle->ready_ |= PIER__SEND_BUSY;
    for (struct pier_op *op = handle->head_[PIER__SENDING];; op = op->next_) {
        if (op->state_ == PIER__QUEUED) {
            pier__op_move(op, PIER__ACTIVE);
        }
        pier__pool_hold(loop, op);
        if (op == last) {
            break;
        }
    }
}

static void starve_sending(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    pier__pool_hold(loop, op);
    pier__loop_starve(loop, handle);
}

/* Hands what is queued to the system. True when that much is over already. */
static bool issue(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier_vector vectors[PIER__VECTORS_MAX];
    struct pier_op *last = NULL;
    if (PIER__UNLIKELY(pier__send_total(op) == op->done)) {
        pier__send_advance(loop, handle, 0); /* a send of nothing: the system isn't asked */
        return true;
    }
    size_t most = handle->kind_ == PIER__KIND_STREAM ? PIER__VECTORS_MAX : 1;
    size_t count = pier__send_gather(handle, vectors, most, &last);
    loop->counters.system_calls++;
    int64_t result = request_send(handle, op, vectors, count);
    if (result == PIER__PACKET) {
        note_in_system(loop, handle, last);
        return false;
    }
    if (PIER__UNLIKELY(is_short_of_memory(result))) {
        starve_sending(loop, handle, op);
        return false;
    }
    if (PIER__UNLIKELY(result <= 0)) {
        if (result == 0) {
            result = PIER_EIO; /* something was to be sent, and nothing was */
        }
        pier__iocp_fail(loop, op, result);
        return true;
    }
    advance_file(handle, (uint64_t)result);
    pier__send_advance(loop, handle, (uint64_t)result);
    return true;
}

/* Ends what was cancelled in a request that is over. None of these is partly sent unless it's the
 * head. */
static void end_cancelled(struct pier_loop *loop, struct pier_handle *handle)
{
    uint32_t starting = (uint32_t)PIER__STARTING << PIER__SENDING;
    uint32_t before = handle->bits_ & starting;
    handle->bits_ |= starting;
    struct pier_op *op = handle->head_[PIER__SENDING];
    while (op != NULL && op->state_ == PIER__ACTIVE) {
        struct pier_op *next = op->next_;
        if (pier__op_is_ending(op)) {
            pier__op_finish(loop, op, pier__op_reason(op));
        }
        op = next;
    }
    handle->bits_ = (handle->bits_ & ~starting) | before;
}

/* No request of this direction is in the system: asks for what is left. */
static void continue_sending(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_op *op;
    end_cancelled(loop, handle);
    for (unsigned left = SENDS_PER_TURN;; left--) {
        op = handle->head_[PIER__SENDING];
        if (op == NULL || op->state_ != PIER__ACTIVE || !pier__op_is_send(op) ||
            (handle->ready_ & PIER__SEND_BUSY)) {
            break;
        }
        if (left == 0) {
            pier__pool_hold(loop, op);
            pier__handle_serve_later(loop, handle);
            return;
        }
        if (!issue(loop, handle, op)) {
            return;
        }
    }
    pier__op_start_direction(loop, handle, PIER__SENDING);
}

static void start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    int error = pier__iocp_associate(handle);
    if (PIER__UNLIKELY(error < 0)) {
        pier__iocp_fail(loop, op, error);
        return;
    }
    continue_sending(loop, handle);
}

static void sent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                 uint64_t bytes, int error)
{
    int code = pier__sys_code();
    if (PIER__LIKELY(op->next_ == NULL && op->kind_ == PIER__OP_SEND && error == 0 &&
                     bytes == op->size - op->done)) {
        advance_file(handle, bytes);
        op->done = op->size;
        loop->counters.sends++;
        loop->counters.sent_bytes += bytes;
        pier__op_finish_now(loop, op, (int64_t)op->size);
        return;
    }
    if (bytes > 0) {
        advance_file(handle, bytes);
        pier__send_advance(loop, handle, bytes);
    }
    op = handle->head_[PIER__SENDING];
    if (error < 0 && op != NULL && op->state_ == PIER__ACTIVE) {
        if (is_short_of_memory(error) && !pier__op_is_ending(op)) {
            starve_sending(loop, handle, op);
            return;
        }
        if (error != PIER_ECANCELED) {
            op->os_error = code;
            pier__op_finish(loop, op, error);
        }
    }
    continue_sending(loop, handle);
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
        handle->ready_ |= PIER__SEND_BUSY;
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
        advance_file(handle, (uint64_t)result);
        op->done = (uint64_t)result;
        loop->counters.receives++;
        loop->counters.received_bytes += (uint64_t)result;
        finish(loop, op, result);
        return;
    }
    if (result == PIER_ECANCELED || is_short_of_memory(result)) {
        if (pier__op_is_ending(op)) {
            pier__op_finish(loop, op, pier__op_reason(op));
        } else if (result == PIER_ECANCELED) {
            start_receive(loop, handle, op);
        } else {
            pier__loop_starve(loop, handle);
        }
        return;
    }
    if (result == 0 && handle->kind_ == PIER__KIND_PIPE_STREAM) {
        if (!(pier__iocp_pipe_flags(handle) & PIER__PIPE_MESSAGES)) {
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
    } else if (pier__iocp_pipe_flags(handle) & PIER__PIPE_ENDED) {
        result = 0;
    } else if (handle->ready_ & PIER__SYNCHRONOUS) {
        result = pier__sys_read_at(handle->descriptor_, op->data, op->size, offset_of(handle),
                                   NULL);
    } else {
        result = pier__sys_start_read(handle->descriptor_, op->data, op->size, offset_of(handle),
                                      request, pier__iocp_skips(handle));
    }
    if (result == PIER__PACKET) {
        handle->ready_ |= PIER__RECEIVE_BUSY;
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
    case PIER__OP_SEND_VECTORED: start_send(loop, handle, op); break;
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
    if (!(handle->ready_ & (sending ? PIER__SEND_BUSY : PIER__RECEIVE_BUSY))) {
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
    if (!(handle->ready_ & in_system)) {
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
    if (op == NULL || op->state_ != PIER__ACTIVE || (handle->ready_ & in_system)) {
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
    if (!(handle->ready_ & PIER__RECEIVE_BUSY)) {
        pier__handle_serve_later(handle->loop_, handle);
    }
}

void pier__iocp_completed(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    uint64_t bytes;
    int error = pier__sys_outcome(pier__iocp_request(op), &bytes);
    if (PIER__UNLIKELY(handle->bits_ & PIER__STARVED) &&
        (is_ending(handle, PIER__SENDING) || is_ending(handle, PIER__RECEIVING))) {
        pier__loop_retry_soon(loop); /* listed to ask again, perhaps: nothing else waits for that */
    }
    if (pier__op_direction(op) == PIER__SENDING) {
        handle->ready_ &= (uint8_t)~PIER__SEND_BUSY;
        if (pier__op_is_send(op)) {
            sent(loop, handle, op, bytes, error);
        } else if (op->kind_ == PIER__OP_SHUTDOWN) {
            pier__iocp_pipe_shut(loop, handle, op, error);
        } else {
            connected(loop, handle, op, error);
        }
        return;
    }
    handle->ready_ &= (uint8_t)~PIER__RECEIVE_BUSY;
    if (op->kind_ == PIER__OP_RECEIVE_LENT) {
        pier__iocp_lent_completed(loop, handle, op, error);
    } else {
        received(loop, handle, op, error < 0 && bytes == 0 ? error : (int64_t)bytes,
                 pier__op_finish_now);
    }
}
