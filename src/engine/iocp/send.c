/* send.c - sending on iocp.
 *
 * Sends that queue up behind one in flight go out merged with the next; a merged op is
 * PIER__ACTIVE like the head, since its memory is the system's until the one packet. When one of
 * them is cancelled the whole request is, and the others are asked for again.
 *
 * Pipes and files take one buffer at a time. A write to a pipe that is cancelled is withdrawn
 * whole, even if the peer has read some of it: so such writes are short. Pipes that stand for
 * sockets have room for 64 KiB, and a write that fits is never read in part before it's over:
 * theirs may be longer, but a quarter of that, so that the reader goes on meanwhile. */

#include "engine/iocp/iocp.h"

#define PIPE_WRITE 4096
#define PIPE_STREAM_WRITE 16384
#define SENDS_PER_TURN 16
#define PACED_WRITE 65536 /* a request, on a handle whose sends are to show how far they are */

/* Cuts what is gathered to that. Returns how many vectors are left. */
static size_t cut(struct pier_vector *vectors, size_t count)
{
    size_t left = PACED_WRITE, used = 0;
    while (used < count && left > 0) {
        vectors[used].size = vectors[used].size < left ? vectors[used].size : left;
        left -= vectors[used++].size;
    }
    return used;
}

static int64_t request_send(struct pier_handle *handle, struct pier_op *op,
                            const struct pier_vector *vectors, size_t count)
{
    OVERLAPPED *request = pier__iocp_request(op);
    bool skips = pier__iocp_skips(handle);
    if (PIER__LIKELY(handle->kind_ == PIER__KIND_STREAM)) {
        return pier__sys_start_send(handle->descriptor_, vectors, count, request, skips);
    }
    if (handle->engine_.iocp.pipe & PIER__PIPE_SHUT) {
        return pier__sys_map(WSAESHUTDOWN);
    }
    if (handle->engine_.iocp.requests & PIER__SYNCHRONOUS) {
        return pier__sys_write_at(handle->descriptor_, vectors[0].data, vectors[0].size,
                                  pier__iocp_offset(handle), NULL);
    }
    size_t size = vectors[0].size;
    size_t most = handle->kind_ == PIER__KIND_PIPE          ? PIPE_WRITE
                  : handle->kind_ == PIER__KIND_PIPE_STREAM ? PIPE_STREAM_WRITE
                                                            : SIZE_MAX;
    size = size < most ? size : most;
    return pier__sys_start_write(handle->descriptor_, vectors[0].data, size,
                                 pier__iocp_offset(handle), request, skips);
}

static void starve_sending(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    pier__op_hold(loop, op);
    pier__loop_starve(loop, handle);
}

/* The system's answer to a request for the head and the sends behind it, up to `last`. True when
 * that much is over already. */
static bool answered(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                     const struct pier_op *last, int64_t result)
{
    if (result == PIER__PACKET) {
        handle->engine_.iocp.requests |= PIER__SEND_BUSY;
        pier__send_merged(loop, handle, last);
        return false;
    }
    if (PIER__UNLIKELY(pier__iocp_is_short(result))) {
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
    pier__iocp_advance_file(handle, (uint64_t)result);
    pier__send_advance(loop, handle, (uint64_t)result);
    return true;
}

/* Hands what is queued to the system. True when that much is over already. */
static bool issue(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier_vector vectors[PIER__VECTORS_MAX];
    struct pier_op *last = NULL;
    if (PIER__UNLIKELY(pier__send_is_complete(op))) {
        pier__send_advance(loop, handle, 0); /* a send of nothing: the system isn't asked */
        return true;
    }
    size_t most = handle->kind_ == PIER__KIND_STREAM ? PIER__VECTORS_MAX : 1;
    size_t count = pier__send_gather(handle, vectors, most, &last);
    if (PIER__UNLIKELY(pier__handle_is_paced(handle))) {
        count = cut(vectors, count);
    }
    loop->counters.system_calls++;
    return answered(loop, handle, op, last, request_send(handle, op, vectors, count));
}

/* Ends what was cancelled in a request that is over. None of these is partly sent unless it's the
 * head. */
static void end_cancelled(struct pier_loop *loop, struct pier_handle *handle)
{
    uint32_t before = pier__direction_hold(handle, PIER__SENDING);
    struct pier_op *op = handle->head_[PIER__SENDING];
    while (op != NULL && op->state_ == PIER__ACTIVE) {
        struct pier_op *next = op->next_;
        if (pier__op_is_ending(op)) {
            pier__op_finish(loop, op, pier__op_reason(op));
        }
        op = next;
    }
    pier__direction_let_go(handle, PIER__SENDING, before);
}

/* No request of this direction is in the system: asks for what is left. */
static void continue_sending(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier_op *op;
    end_cancelled(loop, handle);
    for (unsigned left = SENDS_PER_TURN;; left--) {
        op = handle->head_[PIER__SENDING];
        if (op == NULL || op->state_ != PIER__ACTIVE || !pier__op_is_send(op) ||
            (handle->engine_.iocp.requests & PIER__SEND_BUSY)) {
            break;
        }
        if (left == 0) {
            pier__op_hold(loop, op);
            pier__handle_serve_later(loop, handle);
            return;
        }
        if (!issue(loop, handle, op)) {
            return;
        }
    }
    pier__op_start_direction(loop, handle, PIER__SENDING);
}

void pier__iocp_start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    int error = pier__iocp_associate(handle);
    if (PIER__UNLIKELY(error < 0)) {
        pier__iocp_fail(loop, op, error);
        return;
    }
    continue_sending(loop, handle);
}

void pier__iocp_tried(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      int64_t result)
{
    if (answered(loop, handle, op, op, result)) {
        continue_sending(loop, handle);
    }
}

void pier__iocp_sent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                     uint64_t bytes, int error)
{
    int code = pier__sys_code();
    if (bytes > 0) {
        pier__iocp_advance_file(handle, bytes);
        pier__send_advance(loop, handle, bytes);
    }
    op = handle->head_[PIER__SENDING];
    if (error < 0 && op != NULL && op->state_ == PIER__ACTIVE) {
        if (pier__iocp_is_short(error) && !pier__op_is_ending(op)) {
            starve_sending(loop, handle, op);
            return;
        }
        if (error != PIER_ECANCELED) {
            pier__op_fail(loop, op, error, code);
        }
    }
    continue_sending(loop, handle);
}
