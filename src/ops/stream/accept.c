/* accept.c - accepting: the ops, and who gets an accepted socket. */

#include "core/engine.h"
#include "ops/stream/stream.h"

void pier_accept(struct pier_handle *listener, struct pier_op *op, pier_op_fn *fn)
{
    pier__require_fn(fn, "pier_accept");
    pier__op_submit(listener, op, PIER__OP_ACCEPT, 0, fn, "pier_accept");
}

void pier_accept_each(struct pier_handle *listener, struct pier_op *op, pier_op_fn *fn)
{
    pier__require_fn(fn, "pier_accept_each");
    pier__op_submit(listener, op, PIER__OP_ACCEPT, PIER__MULTISHOT, fn, "pier_accept_each");
}

/* The listener whose accepted socket is there in the callback that is running; NULL, and explained,
 * when there is none. */
static struct pier_handle *listener_of_accepted(const struct pier_op *op, const char *function)
{
    struct pier_handle *listener = op->kind_ == PIER__OP_ACCEPT ? op->owner_ : NULL;
    const struct pier_loop *loop = listener != NULL ? listener->loop_ : NULL;
    PIER_REQUIRE(loop == NULL || pier__loop_on_thread(loop), function,
                 "called from another thread than the loop's");
    if (loop == NULL || loop->core.accepted_op != op || loop->core.accepted < 0) {
        pier__fail(PIER_EINVAL, "no accepted socket to take: call this in the callback of a "
                                "successful accept, before the socket is taken");
        return NULL;
    }
    return listener;
}

/* The socket of the accept callback that is running, now the caller's. */
static pier_descriptor take_accepted(struct pier_op *op, uint8_t *family, unsigned *kind,
                                     const char *function)
{
    const struct pier_handle *listener = listener_of_accepted(op, function);
    if (listener == NULL) {
        return PIER_EINVAL;
    }
    struct pier_loop *loop = listener->loop_;
    pier_descriptor socket = loop->core.accepted;
    *family = listener->family_;
    *kind = listener->kind_ == PIER__KIND_PIPE_LISTENER ? PIER__KIND_PIPE_STREAM
                                                        : PIER__KIND_STREAM;
    loop->core.accepted = -1;
    if (listener->listener_ & PIER__DELAYS) {
        loop->counters.system_calls++;
        pier__sys_set_no_delay(socket, true); /* if it fails, the connection is gone again */
    }
    return socket;
}

int pier_accept_address(struct pier_op *op, struct pier_address *address)
{
    struct pier_handle *listener = listener_of_accepted(op, "pier_accept_address");
    if (listener == NULL) {
        return PIER_EINVAL;
    }
    struct pier_loop *loop = listener->loop_;
    listener->listener_ |= PIER__WANTS_PEER; /* the next ones come with it, where the engine can */
    if (loop->core.accepted_peer != NULL) {
        *address = *loop->core.accepted_peer;
        return 0;
    }
    loop->counters.system_calls++;
    int error = pier__is_pipe_for_unix(listener)
                    ? pier__sys_pipe_address(loop->core.accepted, true, address)
                    : pier__sys_peer_address(loop->core.accepted, address);
    return error < 0 ? pier__fail(error, "can't get the address of an accepted socket's peer: %s",
                                  pier_error_text(error))
                     : 0;
}

int pier_accept_take(struct pier_op *op, struct pier_loop *loop, struct pier_handle *handle)
{
    uint8_t family = PIER_ADDRESS_NONE;
    unsigned kind = PIER__KIND_STREAM;
    PIER_REQUIRE(handle->loop_ == NULL, "pier_accept_take", "the handle is open already");
    pier_descriptor socket = take_accepted(op, &family, &kind, "pier_accept_take");
    if (socket < 0) {
        return (int)socket;
    }
    struct pier_loop *home = ((struct pier_handle *)op->owner_)->loop_;
    PIER_REQUIRE(loop == NULL || loop == home, "pier_accept_take",
                 "the loop isn't the listener's: use pier_accept_detach() and pier_attach()");
    int error = pier__handle_open(home, handle, socket, kind, family, 0);
    if (error < 0) {
        pier__sys_close(socket);
    }
    return error;
}

int pier_accept_detach(struct pier_op *op, struct pier_handle *handle)
{
    uint8_t family = PIER_ADDRESS_NONE;
    unsigned kind = PIER__KIND_STREAM;
    PIER_REQUIRE(handle->loop_ == NULL, "pier_accept_detach", "the handle is open already");
    pier_descriptor socket = take_accepted(op, &family, &kind, "pier_accept_detach");
    if (socket < 0) {
        return (int)socket;
    }
    memset(handle, 0, sizeof(*handle));
    handle->descriptor_ = socket;
    handle->kind_ = (uint8_t)kind;
    handle->family_ = family;
    if (family == PIER_ADDRESS_IPV4 || family == PIER_ADDRESS_IPV6) {
        handle->bits_ = PIER__IS_TCP;
    }
    return 0;
}
