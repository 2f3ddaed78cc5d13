/* accept.c - accepting on iocp: several AcceptEx outstanding per listener.
 *
 * Each needs a socket made before and memory for two addresses, both owned by the listener's struct
 * here, as is the OVERLAPPED: so an accept op is never in the system itself, and is over as soon as
 * it's cancelled. What was accepted meanwhile waits, in order, for the op that takes it next, be
 * that a paused one or a later one. A multishot accept keeps several outstanding, a single one one.
 * A listener that is closed, or leaves the loop, has them cancelled; its struct lives until the
 * last packet.
 *
 * Of a named pipe the socket is an end of the pipe and the request ConnectNamedPipe's, on that end:
 * pipe.c makes both. */

#include "engine/iocp/iocp.h"

static struct pier__iocp_listener *listener_of(const struct pier_handle *handle)
{
    return pier__handle_listens(handle) ? handle->engine_.iocp.of.listener : NULL;
}

static bool is_pipe(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_PIPE_LISTENER;
}

bool pier__iocp_make_listener(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__iocp_listener *listener = pier__allocate(loop, sizeof(*listener));
    if (listener == NULL) {
        return false;
    }
    memset(listener, 0, sizeof(*listener));
    listener->handle = handle;
    if (!is_pipe(handle)) {
        loop->counters.system_calls++;
        listener->no_delay = pier__sys_has_no_delay(handle->descriptor_);
    }
    for (unsigned i = 0; i < PIER__IOCP_ACCEPTS; i++) {
        listener->accepts[i].listener = listener;
        listener->accepts[i].socket = -1;
    }
    handle->engine_.iocp.of.listener = listener;
    return true;
}

static bool is_waiting(const struct pier__iocp_listener *listener, unsigned index)
{
    for (unsigned i = 0; i < listener->ready; i++) {
        if (listener->order[(listener->first + i) % PIER__IOCP_ACCEPTS] == index) {
            return true;
        }
    }
    return false;
}

static void push_ready(struct pier__iocp_listener *listener, const struct pier__iocp_accept *accept)
{
    unsigned last = (listener->first + listener->ready++) % PIER__IOCP_ACCEPTS;
    listener->order[last] = (uint8_t)(accept - listener->accepts);
}

static struct pier__iocp_accept *pop_ready(struct pier__iocp_listener *listener)
{
    struct pier__iocp_accept *accept = &listener->accepts[listener->order[listener->first]];
    listener->first = (listener->first + 1) % PIER__IOCP_ACCEPTS;
    listener->ready--;
    return accept;
}

static void drop_socket(struct pier_loop *loop, struct pier__iocp_accept *accept)
{
    if (accept->socket >= 0) {
        loop->counters.system_calls++;
        pier__sys_close(accept->socket);
        accept->socket = -1;
    }
}

static int arm_one(struct pier_loop *loop, struct pier_handle *handle,
                   struct pier__iocp_accept *accept)
{
    struct pier__iocp_listener *listener = accept->listener;
    if (accept->socket < 0) {
        loop->counters.system_calls++;
        accept->socket = is_pipe(handle) ? pier__iocp_pipe_end(loop, handle)
                                         : pier__sys_socket(handle->family_, true);
        if (accept->socket < 0) {
            return (int)accept->socket;
        }
    }
    loop->counters.system_calls++;
    int64_t result = is_pipe(handle)
                         ? pier__sys_start_pipe_accept(accept->socket, pier__iocp_of(loop)->port,
                                                       &accept->pipe, &accept->request)
                         : pier__sys_start_accept(handle->descriptor_, accept->socket,
                                                  accept->storage, &accept->request,
                                                  pier__iocp_skips(handle));
    if (result < 0) {
        int code = pier__sys_code();
        drop_socket(loop, accept);
        pier__sys_map(code);
        return (int)result;
    }
    if (result == PIER__PACKET) {
        accept->armed = true;
        listener->armed++;
    } else {
        push_ready(listener, accept);
    }
    return 0;
}

/* Keeps as many outstanding as the op is good for. 0, or the error when there is none at all. Of
 * pipes all: a client takes any of them. */
static int arm(struct pier_loop *loop, struct pier_handle *handle, const struct pier_op *op)
{
    struct pier__iocp_listener *listener = listener_of(handle);
    unsigned wanted = (op->bits_ & PIER__MULTISHOT) || is_pipe(handle) ? PIER__IOCP_ACCEPTS : 1;
    int error = 0;
    for (unsigned i = 0; i < PIER__IOCP_ACCEPTS && listener->armed + listener->ready < wanted;
         i++) {
        struct pier__iocp_accept *accept = &listener->accepts[i];
        if (accept->armed || is_waiting(listener, i)) {
            continue;
        }
        error = arm_one(loop, handle, accept);
        if (error < 0 && !pier__accept_passes(error)) {
            break;
        }
    }
    return listener->armed + listener->ready > 0 ? 0 : error;
}

/* Nothing is outstanding and nothing can be: pauses or ends the op. */
static void cannot_accept(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          int error)
{
    if (pier__accept_starves(error) || pier__accept_passes(error)) {
        loop->counters.accept_pauses++;
        pier__loop_starve(loop, handle);
    } else {
        pier__iocp_fail(loop, op, error);
    }
}

static void ask(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    int error = is_pipe(handle) ? 0 : pier__iocp_associate(handle);
    if (error == 0) {
        error = arm(loop, handle, op);
    }
    if (error < 0) {
        cannot_accept(loop, handle, op, error);
    } else if (listener_of(handle)->ready > 0) {
        pier__handle_serve_later(loop, handle);
    }
}

void pier__iocp_start_accept(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    if (listener_of(handle) == NULL && !pier__iocp_make_listener(loop, handle)) {
        cannot_accept(loop, handle, op, PIER_ENOMEM);
    } else if (handle->bits_ & PIER__STARVED) {
        pier__loop_retry_soon(loop);
    } else {
        ask(loop, handle, op);
    }
}

/* Delivers the oldest connection that waits. */
static void deliver_one(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op)
{
    struct pier__iocp_listener *listener = listener_of(handle);
    struct pier__iocp_accept *accept = pop_ready(listener);
    pier_descriptor socket = accept->socket;
    accept->socket = -1;
    int error = 0;
    struct pier_address peer;
    peer.family = PIER_ADDRESS_NONE;
    if (!is_pipe(handle)) {
        loop->counters.system_calls += listener->no_delay ? 2 : 1;
        error = pier__sys_finish_accept(handle->descriptor_, socket, listener->no_delay);
        if (handle->listener_ & PIER__WANTS_PEER) {
            pier__sys_accepted_address(accept->storage, &peer);
        }
    }
    const struct pier_address *known = peer.family != PIER_ADDRESS_NONE ? &peer : NULL;
    if (error < 0) {
        pier__sys_close(socket); /* the connection is gone already */
    } else if (op->bits_ & PIER__MULTISHOT) {
        pier__op_accepted(loop, op, socket, known);
    } else {
        pier__op_finish_accepted(loop, op, socket, known);
    }
}

/* Inside wait(). */
void pier__iocp_serve_accept(struct pier_loop *loop, struct pier_handle *handle)
{
    uint64_t key = pier__slot_key(loop, handle->slot_);
    while (pier__slot_handle(loop, key) == handle) {
        struct pier_op *op = handle->head_[PIER__RECEIVING];
        if (op == NULL || op->state_ != PIER__ACTIVE || (op->bits_ & PIER__PAUSED) ||
            (handle->bits_ & (PIER__LISTED | PIER__CLOSING))) {
            return;
        }
        if (listener_of(handle) == NULL) {
            pier__iocp_start_accept(loop, handle, op);
            return;
        }
        if (listener_of(handle)->ready == 0) {
            ask(loop, handle, op);
            return;
        }
        if (loop->budget <= 0 || pier__iocp_has_had_share(loop, handle)) {
            pier__handle_serve_later(loop, handle);
            return;
        }
        deliver_one(loop, handle, op);
        if (loop->completed.head != NULL && pier__slot_handle(loop, key) == handle) {
            pier__loop_deliver(loop);
        }
    }
}

/* ---- packets, and the end */

static void free_listener(struct pier_loop *loop, struct pier__iocp_listener *listener)
{
    for (unsigned i = 0; i < PIER__IOCP_ACCEPTS; i++) {
        drop_socket(loop, &listener->accepts[i]);
    }
    pier__free(loop, listener, sizeof(*listener));
}

/* A packet for a listener that is closing or has left the loop. */
static void outlived(struct pier_loop *loop, struct pier__iocp_listener *listener)
{
    struct pier_handle *handle = listener->handle;
    if (handle == NULL) {
        pier__iocp_of(loop)->orphans--;
    }
    if (listener->armed > 0) {
        return;
    }
    free_listener(loop, listener);
    if (handle != NULL) {
        /* Closed by way of the list: an op that was refused meanwhile completes first. */
        handle->engine_.iocp.of.listener = NULL;
        pier__handle_try_close(handle);
    }
}

void pier__iocp_accepted(struct pier_loop *loop, OVERLAPPED *request)
{
    struct pier__iocp_accept *accept =
        (struct pier__iocp_accept *)(void *)((char *)request -
                                             offsetof(struct pier__iocp_accept, request));
    struct pier__iocp_listener *listener = accept->listener;
    uint64_t bytes;
    accept->armed = false;
    listener->armed--;
    if (accept->pipe.event != NULL) {
        pier__sys_finish_pipe_accept(&accept->pipe);
    }
    if (listener->handle == NULL || listener->shut) {
        outlived(loop, listener);
        return;
    }
    struct pier_handle *handle = listener->handle;
    int error = pier__sys_outcome(request, &bytes);
    if (error == 0) {
        push_ready(listener, accept);
    } else {
        drop_socket(loop, accept);
    }
    if (error < 0 && error != PIER_ECANCELED && !pier__accept_passes(error)) {
        loop->counters.accept_pauses++; /* not the client's: to ask again at once might spin */
        pier__loop_starve(loop, handle);
        return;
    }
    pier__iocp_serve_accept(loop, handle);
}

static void cancel_all_accepts(struct pier_handle *handle, struct pier__iocp_listener *listener)
{
    if (!is_pipe(handle)) {
        pier__sys_cancel(handle->descriptor_, NULL);
        return;
    }
    for (unsigned i = 0; i < PIER__IOCP_ACCEPTS; i++) {
        if (listener->accepts[i].armed) {
            pier__sys_cancel(listener->accepts[i].socket, &listener->accepts[i].request);
        }
    }
}

void pier__iocp_detach_listener(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__iocp_listener *listener = listener_of(handle);
    if (listener == NULL) {
        return;
    }
    handle->engine_.iocp.of.listener = NULL;
    listener->handle = NULL;
    if (listener->armed == 0) {
        free_listener(loop, listener);
    } else {
        pier__iocp_of(loop)->orphans += listener->armed;
        cancel_all_accepts(handle, listener);
    }
}

bool pier__iocp_shut_listener(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__iocp_listener *listener = listener_of(handle);
    if (listener == NULL) {
        return true;
    }
    if (listener->armed == 0) {
        free_listener(loop, listener);
        handle->engine_.iocp.of.listener = NULL;
        return true;
    }
    listener->shut = true;
    cancel_all_accepts(handle, listener);
    return false;
}
