/* stream.c - the functions of stream.h: opening sockets, and submitting operations on handles.
 *
 * Nothing here knows a backend. Set-up functions open and configure through src/sys and hand the
 * descriptor to pier__handle_open(); submitting functions note their arguments in the op and call
 * pier__op_submit(). */

#include "core/loop.h"

#define BACKLOG 4096

/* ---- opening */

static int fail_opening(int error, const char *what, const struct pier_address *address)
{
    char text[PIER_ADDRESS_TEXT_MAX];
    pier_address_format(address, text, sizeof(text));
    const char *remedy = "";
    switch (error) {
    case PIER_EADDRINUSE:
        remedy = address->family == PIER_ADDRESS_UNIX
                     ? "; stop the program that listens there, or choose another path if a file "
                       "is in the way"
                     : "; stop the other program, or choose another port (0 for any free one)";
        break;
    case PIER_EACCES:
    case PIER_EPERM:
        remedy = "; ports below 1024 need the right to bind them: choose a higher one";
        break;
    case PIER_EADDRNOTAVAIL: remedy = "; use an address of this machine"; break;
    case PIER_EMFILE: remedy = "; raise the limit on open files (ulimit -n)"; break;
    case PIER_EAFNOSUPPORT: remedy = "; this system has no sockets of this kind"; break;
    case PIER_ENOENT: remedy = "; make the directory first"; break;
    default: break;
    }
    if (error == PIER_EACCES && address->family == PIER_ADDRESS_UNIX) {
        remedy = "; the directory must be writable";
    }
    return pier__fail(error, "can't %s %s: %s%s", what, text, pier_error_text(error), remedy);
}

static int check_address(const char *function, const struct pier_address *address)
{
    if (address->family < PIER_ADDRESS_IPV4 || address->family > PIER_ADDRESS_UNIX) {
        return pier__fail(PIER_EINVAL,
                          "%s: the address has family %d: fill it with pier_address_parse()",
                          function, address->family);
    }
    return 0;
}

static void require_thread(const struct pier_loop *loop, const char *function)
{
    PIER_REQUIRE(pier__loop_on_thread(loop), function,
                 "called from another thread than the loop's");
}

static bool is_any_ipv6(const struct pier_address *address)
{
    static const uint8_t any[16];
    return address->family == PIER_ADDRESS_IPV6 && memcmp(address->u.ip, any, sizeof(any)) == 0;
}

/* OpenBSD's IPv6 sockets never take IPv4 connections, and refuse the wish; to one address alone it
 * makes no difference. */
static int set_dual_stack(pier_descriptor socket, const struct pier_address *address,
                          const struct pier_listen_options *options)
{
    int error = pier__sys_set_dual_stack(socket, !options->ipv6_only);
    if (options->ipv6_only || (error != PIER_EINVAL && error != PIER_ENOTSUP)) {
        return error;
    }
    return is_any_ipv6(address) ? PIER_EAFNOSUPPORT : 0;
}

static int set_up_listener(pier_descriptor socket, const struct pier_address *address,
                           const struct pier_listen_options *options)
{
    int error = 0;
    if (!options->no_reuse_address && address->family != PIER_ADDRESS_UNIX) {
        error = pier__sys_set_reuse_address(socket);
    }
    if (error == 0 && options->reuse_port) {
        error = pier__sys_set_reuse_port(socket);
    }
    if (error == 0 && address->family == PIER_ADDRESS_IPV6) {
        error = set_dual_stack(socket, address, options);
    }
    if (error == 0 && address->family != PIER_ADDRESS_UNIX && !options->delay) {
        error = pier__sys_set_no_delay(socket, true); /* accepted sockets inherit it */
    }
    if (error == 0 && options->unlink_path) {
        error = pier__sys_unlink_stale(address);
    }
    if (error == 0) {
        error = pier__sys_bind(socket, address);
    }
    if (error == 0) {
        error = pier__sys_listen(socket, options->backlog > 0 ? options->backlog : BACKLOG);
    }
    return error;
}

/* A bound and listening socket, or a negative PIER_E* that is explained. */
static pier_descriptor open_listener(const struct pier_loop *loop,
                                     const struct pier_address *address,
                                     const struct pier_listen_options *options)
{
    pier_descriptor socket = pier__sys_socket(address->family, loop->engine->nonblocking);
    if (socket < 0) {
        return fail_opening((int)socket, "open a socket for", address);
    }
    int error = set_up_listener(socket, address, options);
    if (error < 0) {
        pier__sys_close(socket);
        return fail_opening(error, "listen on", address);
    }
    return socket;
}

/* Kernels without IPv6, and sandboxes that withhold it, have no such sockets, and OpenBSD none for
 * both families. Where it is there but switched off, Linux binds to the address "any" nevertheless,
 * and takes IPv4 with it; others may have no address to bind to. */
static bool lacks_ipv6(pier_descriptor error)
{
    return error == PIER_EAFNOSUPPORT || error == PIER_EADDRNOTAVAIL;
}

static bool is_pipe_for_unix(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_PIPE_STREAM || handle->kind_ == PIER__KIND_PIPE_LISTENER;
}

/* A listener that is a named pipe. */
static int listen_by_pipe(struct pier_loop *loop, struct pier_handle *handle,
                          const struct pier_address *address,
                          const struct pier_listen_options *options)
{
    pier_descriptor pipe = options->reuse_port ? PIER_ENOTSUP : pier__sys_pipe_open(address, true);
    if (pipe < 0) {
        return fail_opening((int)pipe, "listen on", address);
    }
    int error = pier__handle_open(loop, handle, pipe, PIER__KIND_PIPE_LISTENER, address->family, 0);
    if (error < 0) {
        pier__sys_close(pipe);
    }
    return error;
}

int pier_listen(struct pier_loop *loop, struct pier_handle *handle,
                const struct pier_address *address, const struct pier_listen_options *options)
{
    static const struct pier_listen_options standard;
    require_thread(loop, "pier_listen");
    PIER_REQUIRE(handle->loop_ == NULL, "pier_listen", "the handle is open already");
    int error = check_address("pier_listen", address);
    if (error < 0) {
        return error;
    }
    options = options != NULL ? options : &standard;
    if (options->backlog < 0) {
        return pier__fail(
            PIER_EINVAL,
            "pier_listen: backlog is %d: give 0 for the default (%d) or a positive number",
            options->backlog, BACKLOG);
    }
    if (pier__sys_uses_pipe(address)) {
        return listen_by_pipe(loop, handle, address, options);
    }
    pier_descriptor socket = open_listener(loop, address, options);
    const struct pier_address every_ipv4 = {.family = PIER_ADDRESS_IPV4, .port = address->port};
    if (lacks_ipv6(socket) && is_any_ipv6(address) && !options->ipv6_only) {
        address = &every_ipv4; /* all that there is on this machine (test: unit/listen_test) */
        socket = open_listener(loop, address, options);
    }
    if (socket < 0) {
        return (int)socket;
    }
    error = pier__handle_open(loop, handle, socket, PIER__KIND_LISTENER, address->family,
                              options->exclusive ? PIER__SHARED : 0);
    if (error < 0) {
        pier__sys_close(socket);
    }
    return error;
}

int pier_open_socket(struct pier_loop *loop, struct pier_handle *handle,
                     const struct pier_address *address)
{
    require_thread(loop, "pier_open_socket");
    PIER_REQUIRE(handle->loop_ == NULL, "pier_open_socket", "the handle is open already");
    int error = check_address("pier_open_socket", address);
    if (error < 0) {
        return error;
    }
    bool is_pipe = pier__sys_uses_pipe(address);
    pier_descriptor socket = is_pipe
                                 ? pier__sys_pipe_open(address, false)
                                 : pier__sys_socket(address->family, loop->engine->nonblocking);
    if (socket < 0) {
        return fail_opening((int)socket, "open a socket for", address);
    }
    if (address->family != PIER_ADDRESS_UNIX &&
        (error = pier__sys_set_no_delay(socket, true)) < 0) {
        fail_opening(error, "set TCP_NODELAY on a socket for", address);
    }
    if (error == 0) {
        error = pier__handle_open(loop, handle, socket,
                                  is_pipe ? PIER__KIND_PIPE_STREAM : PIER__KIND_STREAM,
                                  address->family, PIER__UNCONNECTED);
    }
    if (error < 0) {
        pier__sys_close(socket);
    }
    return error;
}

int pier_bind(struct pier_handle *handle, const struct pier_address *address)
{
    pier__handle_require_open(handle, "pier_bind");
    int error = check_address("pier_bind", address);
    if (error < 0) {
        return error;
    }
    error = is_pipe_for_unix(handle) ? PIER_ENOTSUP /* a pipe's client has no name */
                                     : pier__sys_bind(handle->descriptor_, address);
    return error < 0 ? fail_opening(error, "bind to", address) : error;
}

int pier_adopt(struct pier_loop *loop, struct pier_handle *handle, pier_descriptor descriptor)
{
    require_thread(loop, "pier_adopt");
    PIER_REQUIRE(handle->loop_ == NULL, "pier_adopt", "the handle is open already");
    struct pier__sys_description description;
    struct pier_handle *other = pier__descriptor_handle(loop, descriptor);
    PIER_REQUIRE(other == NULL || other->kind_ == PIER__KIND_FOREIGN, "pier_adopt",
                 "the descriptor already is an open handle of this loop");
    int error = pier__sys_describe(descriptor, &description);
    if (error == PIER_EINVAL) {
        return pier__fail(
            error, "descriptor %ld is a socket, but not a stream socket: pier runs streams only",
            (long)descriptor);
    }
    if (error < 0) {
        return pier__fail(error, "descriptor %ld can't be adopted: %s", (long)descriptor,
                          pier_error_text(error));
    }
    if (description.kind == PIER__KIND_NONE) {
        return pier__fail(
            PIER_ENOTSUP,
            "descriptor %ld is a directory or the like: pier runs sockets, pipes, terminals "
            "and files",
            (long)descriptor);
    }
    uint32_t bits = PIER__ADOPTED;
    bool is_socket = description.kind == PIER__KIND_STREAM ||
                     description.kind == PIER__KIND_LISTENER;
    if (!is_socket && description.kind != PIER__KIND_FILE && !description.nonblocking) {
        bits |= PIER__CAUTIOUS;
    }
    bits |= description.read_only ? PIER__READ_ONLY : description.write_only ? PIER__WRITE_ONLY : 0;
    return pier__handle_open(loop, handle, descriptor, description.kind, description.family, bits);
}

static int open_two(struct pier_loop *loop, const pier_descriptor pair[2],
                    struct pier_handle *first, struct pier_handle *second, unsigned kind,
                    uint8_t family)
{
    bool one_way = kind == PIER__KIND_PIPE;
    int error = pier__handle_open(loop, first, pair[0], kind, family,
                                  one_way ? PIER__READ_ONLY : 0);
    if (error < 0) {
        pier__sys_close(pair[0]);
        pier__sys_close(pair[1]);
        return error;
    }
    error = pier__handle_open(loop, second, pair[1], kind, family, one_way ? PIER__WRITE_ONLY : 0);
    if (error < 0) {
        pier_detach(first);
        pier_handle_discard(first);
        pier__sys_close(pair[1]);
    }
    return error;
}

int pier_socket_pair(struct pier_loop *loop, struct pier_handle *a, struct pier_handle *b)
{
    pier_descriptor pair[2];
    require_thread(loop, "pier_socket_pair");
    PIER_REQUIRE(a->loop_ == NULL && b->loop_ == NULL, "pier_socket_pair",
                 "the handle is open already");
    int error = pier__sys_socket_pair(pair, loop->engine->nonblocking);
    if (error < 0) {
        return pier__fail(error, "can't make a socket pair: %s", pier_error_text(error));
    }
    return open_two(loop, pair, a, b, PIER__KIND_STREAM, PIER_ADDRESS_UNIX);
}

int pier_pipe(struct pier_loop *loop, struct pier_handle *read, struct pier_handle *write)
{
    pier_descriptor pair[2];
    require_thread(loop, "pier_pipe");
    PIER_REQUIRE(read->loop_ == NULL && write->loop_ == NULL, "pier_pipe",
                 "the handle is open already");
    int error = pier__sys_pipe(pair,
                               true); /* also on uring, which waits for a pipe and then calls */
    if (error < 0) {
        return pier__fail(error, "can't make a pipe: %s", pier_error_text(error));
    }
    return open_two(loop, pair, read, write, PIER__KIND_PIPE, PIER_ADDRESS_NONE);
}

/* ---- options and names */

/* A pipe in place of a socket has none of a socket's options. */
static int without_options(const struct pier_handle *handle)
{
    return is_pipe_for_unix(handle) ? PIER_ENOTSUP : 0;
}

static int explain(int error, const struct pier_handle *handle, const char *what)
{
    return error >= 0 ? 0
                      : pier__fail(error, "can't %s of descriptor %ld: %s", what,
                                   (long)handle->descriptor_, pier_error_text(error));
}

int pier_set_no_delay(struct pier_handle *handle, bool on)
{
    pier__handle_require_open(handle, "pier_set_no_delay");
    int error = without_options(handle);
    error = error < 0 ? error : pier__sys_set_no_delay(handle->descriptor_, on);
    return explain(error, handle, "set the no-delay option");
}

int pier_set_keep_alive(struct pier_handle *handle, unsigned idle_s, unsigned interval_s,
                        unsigned count)
{
    pier__handle_require_open(handle, "pier_set_keep_alive");
    if (idle_s == 0 && (interval_s != 0 || count != 0)) {
        return pier__fail(
            PIER_EINVAL,
            "keep-alive with idle 0, interval %u, count %u: give an idle time too, or all 0",
            interval_s, count);
    }
    if (idle_s > 32767 || interval_s > 32767 || count > 127) {
        return pier__fail(
            PIER_EINVAL,
            "keep-alive with idle %u, interval %u, count %u: at most 32767 s, 32767 s, 127", idle_s,
            interval_s, count);
    }
    int error = without_options(handle);
    error = error < 0 ? error
                      : pier__sys_set_keep_alive(handle->descriptor_, idle_s, interval_s, count);
    return explain(error, handle, "set keep-alive");
}

int pier_set_buffer_sizes(struct pier_handle *handle, size_t receive, size_t send)
{
    pier__handle_require_open(handle, "pier_set_buffer_sizes");
    int error = without_options(handle);
    error = error < 0 ? error : pier__sys_set_buffer_sizes(handle->descriptor_, receive, send);
    return explain(error, handle, "set the buffer sizes");
}

int pier_set_linger(struct pier_handle *handle, int seconds)
{
    pier__handle_require_open(handle, "pier_set_linger");
    if (seconds > 0) {
        return pier__fail(PIER_EINVAL,
                          "linger of %d seconds would block the loop: use pier_close_gracefully()",
                          seconds);
    }
    int error = without_options(handle);
    error = error < 0 ? error : pier__sys_set_linger(handle->descriptor_, seconds);
    return explain(error, handle, "set linger");
}

int pier_local_address(const struct pier_handle *handle, struct pier_address *address)
{
    pier__handle_require_open(handle, "pier_local_address");
    int error = is_pipe_for_unix(handle)
                    ? pier__sys_pipe_address(handle->descriptor_, false, address)
                    : pier__sys_local_address(handle->descriptor_, address);
    return explain(error, handle, "get the local address");
}

int pier_peer_address(const struct pier_handle *handle, struct pier_address *address)
{
    pier__handle_require_open(handle, "pier_peer_address");
    int error = !is_pipe_for_unix(handle) ? pier__sys_peer_address(handle->descriptor_, address)
                : handle->kind_ == PIER__KIND_PIPE_LISTENER || (handle->bits_ & PIER__UNCONNECTED)
                    ? PIER_ENOTCONN
                    : pier__sys_pipe_address(handle->descriptor_, true, address);
    return explain(error, handle, "get the peer's address");
}

/* ---- operations */

static void require_fn(pier_op_fn *fn, const char *function)
{
    PIER_REQUIRE(fn != NULL, function, "the completion function is NULL");
}

void pier_accept(struct pier_handle *listener, struct pier_op *op, pier_op_fn *fn)
{
    require_fn(fn, "pier_accept");
    pier__op_submit(listener, op, PIER__OP_ACCEPT, 0, fn, "pier_accept");
}

void pier_accept_each(struct pier_handle *listener, struct pier_op *op, pier_op_fn *fn)
{
    require_fn(fn, "pier_accept_each");
    pier__op_submit(listener, op, PIER__OP_ACCEPT, PIER__MULTISHOT, fn, "pier_accept_each");
}

/* The socket of the accept callback that is running, now the caller's. */
static pier_descriptor take_accepted(struct pier_op *op, uint8_t *family, unsigned *kind)
{
    struct pier_loop *loop = NULL;
    if (op->kind_ == PIER__OP_ACCEPT && op->owner_ != NULL) {
        struct pier_handle *listener = op->owner_;
        loop = listener->loop_;
        *family = listener->family_;
        *kind = listener->kind_ == PIER__KIND_PIPE_LISTENER ? PIER__KIND_PIPE_STREAM
                                                            : PIER__KIND_STREAM;
    }
    if (loop == NULL || loop->accepted_op != op || loop->accepted < 0) {
        return pier__fail(
            PIER_EINVAL,
            "no accepted socket to take: call this once, in the callback of a successful accept");
    }
    pier_descriptor socket = loop->accepted;
    loop->accepted = -1;
    return socket;
}

int pier_accept_take(struct pier_op *op, struct pier_loop *loop, struct pier_handle *handle)
{
    uint8_t family = PIER_ADDRESS_NONE;
    unsigned kind = PIER__KIND_STREAM;
    PIER_REQUIRE(handle->loop_ == NULL, "pier_accept_take", "the handle is open already");
    pier_descriptor socket = take_accepted(op, &family, &kind);
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
    pier_descriptor socket = take_accepted(op, &family, &kind);
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

void pier_connect(struct pier_handle *handle, struct pier_op *op,
                  const struct pier_address *address, pier_op_fn *fn)
{
    require_fn(fn, "pier_connect");
    pier__handle_require_open(handle, "pier_connect");
    PIER_REQUIRE(op->state_ == PIER__IDLE, "pier_connect", "the op is in flight already");
    struct pier_loop *loop = handle->loop_;
    struct pier__address_block *block = loop->addresses_free;
    if (block != NULL) {
        loop->addresses_free = block->next;
    } else {
        block = pier__allocate(loop, sizeof(*block));
    }
    op->extra_.pointer = block;
    if (block == NULL) {
        pier__op_submit(handle, op, PIER__OP_CONNECT, 0, fn,
                        "pier_connect"); /* the backend sees that it has none */
        return;
    }
    block->address = *address;
    pier__op_submit(handle, op, PIER__OP_CONNECT, PIER__ADDRESS, fn, "pier_connect");
}

void pier_receive_each(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn)
{
    require_fn(fn, "pier_receive_each");
    pier__op_submit(handle, op, PIER__OP_RECEIVE_LENT, PIER__MULTISHOT, fn, "pier_receive_each");
}

void pier_send_vectored(struct pier_handle *handle, struct pier_op *op,
                        const struct pier_vector *vectors, size_t count, pier_op_fn *fn)
{
    if (PIER__LIKELY(op->state_ == PIER__IDLE)) {
        op->data = (void *)(uintptr_t)vectors;
        op->size = count;
    }
    pier__op_submit(handle, op, PIER__OP_SEND_VECTORED, 0, fn, "pier_send_vectored");
}

void pier_shutdown(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn)
{
    require_fn(fn, "pier_shutdown");
    pier__op_submit(handle, op, PIER__OP_SHUTDOWN, 0, fn, "pier_shutdown");
}
