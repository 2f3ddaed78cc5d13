/* pipe.c - what is special about named pipes that stand for Unix-domain sockets.
 *
 * What listens is a handle that only has the name, and up to PIER__IOCP_ACCEPTS ends of the pipe in
 * the listener's struct (accept.c). They exist from the start, since those that no accept has
 * asked for yet are the backlog. None is associated with the port before it's a connection and has
 * an op, so that a connection can go to another loop: an accept's packet is posted, by a thread of
 * the system's (windows_pipe.c).
 *
 * Connecting succeeds or fails at once, unless no end is listening just now: then, as with a full
 * backlog, the connect waits. That is a request of its own (Windows has no way but this one, and
 * the call that blocks), in memory of the backend's: Wine can't cancel it, so that it may outlive
 * the op. It has a time limit for the same reason, after which connecting is tried once more.
 *
 * An empty message is the end of the stream in its direction. What others may send by it between
 * programs that don't know of that is lost. On pipes of bytes, which somebody else has made, an
 * empty write means nothing, and there is no half-close. */

#include "engine/iocp/iocp.h"

#define WAIT_NS (100 * PIER_MILLISECOND)

/* ---- listening */

pier_descriptor pier__iocp_pipe_end(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->counters.system_calls++; /* it asks for the name first */
    return pier__sys_pipe_instance(handle->descriptor_);
}

int pier__iocp_pipe_listen(struct pier_loop *loop, struct pier_handle *handle)
{
    if (!pier__iocp_make_listener(loop, handle)) {
        return PIER_ENOMEM;
    }
    struct pier__iocp_listener *listener = handle->engine_.iocp.of.listener;
    for (unsigned i = 0; i < PIER__IOCP_ACCEPTS; i++) {
        loop->counters.system_calls++;
        listener->accepts[i].socket = pier__iocp_pipe_end(loop, handle);
        if (listener->accepts[i].socket < 0 && i > 0) {
            break; /* an accept tries again */
        }
        if (listener->accepts[i].socket < 0) {
            int error = (int)listener->accepts[i].socket;
            pier__iocp_detach_listener(loop, handle);
            return error;
        }
    }
    return 0;
}

void pier__iocp_pipe_connected(struct pier_loop *loop, struct pier_handle *handle)
{
    loop->counters.system_calls++;
    if (pier__sys_pipe_has_messages(handle->descriptor_)) {
        pier__iocp_pipe_note(handle, PIER__PIPE_MESSAGES);
    }
}

/* ---- connecting */

static struct pier__iocp_wait *take_wait(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    struct pier__iocp_wait *wait = iocp->waits_free;
    if (wait == NULL) {
        return pier__allocate(loop, sizeof(*wait));
    }
    iocp->waits_free = wait->next;
    return wait;
}

static void give_back(struct pier__iocp *iocp, struct pier__iocp_wait *wait)
{
    wait->next = iocp->waits_free;
    iocp->waits_free = wait;
}

/* The handle's descriptor becomes the connection, and what was in its place is closed. */
static int replace_descriptor(struct pier_loop *loop, struct pier_handle *handle,
                              pier_descriptor connected)
{
    pier_descriptor before = handle->descriptor_;
    int error = pier__descriptor_note(loop, connected, handle->slot_ + 1);
    if (error < 0) {
        pier__sys_close(connected);
        return error;
    }
    pier__descriptor_forget(loop, handle);
    handle->descriptor_ = connected;
    handle->engine_.iocp.requests &= (unsigned char)~(PIER__ASSOCIATED | PIER__SKIPS);
    loop->counters.system_calls++;
    pier__sys_close(before);
    return 0;
}

static void end_connect(struct pier_loop *loop, struct pier_op *op, int error)
{
    op->os_error = error < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, error);
}

static void wait_for_pipe(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    const struct pier__address_block *block = op->use_.address;
    struct pier__iocp_wait *wait = NULL;
    int64_t result = 0;
    if (!(handle->engine_.iocp.requests & PIER__ASSOCIATED)) {
        loop->counters.system_calls++;
        loop->counters.registrations++;
        result = pier__sys_port_attach(iocp->port, handle->descriptor_, PIER__KEY_PIPE_WAIT);
        handle->engine_.iocp.requests |= result == 0 ? PIER__ASSOCIATED : 0;
    }
    if (result == 0) {
        wait = take_wait(loop);
        result = wait != NULL ? 0 : PIER_ENOMEM;
    }
    if (result == 0) {
        loop->counters.system_calls++;
        result = pier__sys_start_pipe_wait(handle->descriptor_, &block->address, WAIT_NS,
                                           &wait->request);
    }
    if (result == PIER__PACKET) {
        wait->op = op;
        handle->engine_.iocp.of.wait = wait;
        return;
    }
    if (wait != NULL) {
        give_back(iocp, wait);
    }
    pier__loop_starve(loop, handle); /* the same, by the loop's own timer */
}

void pier__iocp_pipe_connect(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    const struct pier__address_block *block = op->use_.address;
    loop->counters.system_calls += 2;
    pier_descriptor connected = pier__sys_pipe_connect(&block->address);
    if (connected == PIER_EBUSY) {
        wait_for_pipe(loop, handle, op);
        return;
    }
    int error = connected < 0 ? (int)connected : replace_descriptor(loop, handle, connected);
    if (error == 0) {
        pier__iocp_pipe_connected(loop, handle);
    }
    end_connect(loop, op, error);
}

void pier__iocp_pipe_forget(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__iocp_wait *wait = handle->engine_.iocp.of.wait;
    if (wait != NULL) {
        handle->engine_.iocp.of.wait = NULL;
        wait->op = NULL;
        pier__iocp_of(loop)->orphans++;
        loop->counters.system_calls++;
        pier__sys_cancel(handle->descriptor_, &wait->request);
    }
}

/* Whatever has become of the wait, connecting tells. */
void pier__iocp_pipe_waited(struct pier_loop *loop, OVERLAPPED *request)
{
    struct pier__iocp_wait *wait = (struct pier__iocp_wait *)(void *)request;
    struct pier_op *op = wait->op;
    give_back(pier__iocp_of(loop), wait);
    if (op == NULL) {
        pier__iocp_of(loop)->orphans--;
        return;
    }
    struct pier_handle *handle = op->owner_;
    handle->engine_.iocp.of.wait = NULL;
    pier__iocp_pipe_connect(loop, handle, op);
}

void pier__iocp_waits_close(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    while (iocp->waits_free != NULL) {
        struct pier__iocp_wait *wait = iocp->waits_free;
        iocp->waits_free = wait->next;
        pier__free(loop, wait, sizeof(*wait));
    }
}

/* ---- half-close */

void pier__iocp_pipe_shutdown(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op)
{
    unsigned flags = handle->engine_.iocp.pipe;
    if (!(flags & PIER__PIPE_MESSAGES) || (flags & PIER__PIPE_SHUT)) {
        pier__op_finish(loop, op, flags & PIER__PIPE_MESSAGES ? 0 : PIER_ENOTSUP);
        return;
    }
    int64_t result = pier__iocp_associate(handle);
    if (result == 0) {
        loop->counters.system_calls++;
        result = pier__sys_start_pipe_shutdown(handle->descriptor_, pier__iocp_request(op));
    }
    if (result == PIER__PACKET) {
        handle->engine_.iocp.requests |= PIER__SEND_BUSY;
    } else {
        pier__iocp_pipe_shut(loop, handle, op, (int)result);
    }
}

void pier__iocp_pipe_shut(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          int error)
{
    if (error == PIER_ECANCELED && pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    if (error == PIER_EPIPE) {
        error = 0; /* the peer has gone: the direction has ended already */
    }
    if (error == 0) {
        pier__iocp_pipe_note(handle, PIER__PIPE_SHUT);
    }
    op->os_error = error < 0 ? pier__sys_code() : 0;
    pier__op_finish(loop, op, error);
}
