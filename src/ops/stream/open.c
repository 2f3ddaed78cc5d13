/* open.c - opening what streams run on: listeners, sockets, pairs, pipes, adopted descriptors.
 *
 * Nothing here knows an engine: sockets are opened and configured through src/sys, and the
 * descriptor is handed to pier__handle_open(). */

#include "base/options.h"
#include "core/engine.h"
#include "ops/stream/stream.h"

#define BACKLOG 4096

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
                 : address->port == 0
                     ? "; no port is free: use another address, or widen the system's range of them"
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
    PIER_REQUIRE(address != NULL, function, "no address was given");
    if (address->family < PIER_ADDRESS_IPV4 || address->family > PIER_ADDRESS_UNIX) {
        return pier__fail(PIER_EINVAL,
                          "%s: the address has family %d: fill it with pier_address_parse()",
                          function, address->family);
    }
    return 0;
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

int pier_listen_for(struct pier_loop *loop, struct pier_handle *handle,
                    const struct pier_address *address, const struct pier_listen_options *given,
                    size_t options_size)
{
    struct pier_listen_options chosen = {0};
    const struct pier_listen_options *options = &chosen;
    PIER__REQUIRE_THREAD(loop, "pier_listen");
    PIER_REQUIRE(handle->loop_ == NULL, "pier_listen", "the handle is open already");
    int error = check_address("pier_listen", address);
    if (error < 0 || (error = pier__take_options(&chosen, sizeof(chosen), given, options_size,
                                                 "listener")) < 0) {
        return error;
    }
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
    PIER__REQUIRE_THREAD(loop, "pier_open_socket");
    PIER_REQUIRE(handle->loop_ == NULL, "pier_open_socket", "the handle is open already");
    int error = check_address("pier_open_socket", address);
    if (error < 0) {
        return error;
    }
    bool is_pipe = pier__sys_uses_pipe(address);
    pier_descriptor socket = is_pipe ? pier__sys_pipe_open(address, false)
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

static bool has_local_address(const struct pier_address *local)
{
    static const uint8_t any[16];
    return local->family == PIER_ADDRESS_UNIX
               ? local->path_length > 0
               : local->port != 0 || memcmp(local->u.ip, any, sizeof(any)) != 0;
}

/* What the system would say in other words, or not at all: with the port left open Linux lets a
 * socket be bound again. */
static int check_binding(const struct pier_handle *handle, const struct pier_address *address)
{
    struct pier_address local = {0};
    char text[PIER_ADDRESS_TEXT_MAX];
    int error = pier__sys_local_address(handle->descriptor_, &local);
    if (error < 0) {
        return pier__fail(error, "can't bind descriptor %ld: %s", (long)handle->descriptor_,
                          pier_error_text(error));
    }
    if (address->family != handle->family_) {
        pier_address_format(address, text, sizeof(text));
        return pier__fail(PIER_EAFNOSUPPORT,
                          "can't bind descriptor %ld to %s: the socket was opened for another "
                          "family of addresses",
                          (long)handle->descriptor_, text);
    }
    if (has_local_address(&local)) {
        pier_address_format(&local, text, sizeof(text));
        return pier__fail(PIER_EINVAL, "can't bind descriptor %ld: it is bound to %s already",
                          (long)handle->descriptor_, text);
    }
    return 0;
}

int pier_bind(struct pier_handle *handle, const struct pier_address *address)
{
    pier__handle_require_open(handle, "pier_bind");
    PIER__REQUIRE_THREAD(handle->loop_, "pier_bind");
    int error = check_address("pier_bind", address);
    if (error < 0) {
        return error;
    }
    if (pier__is_pipe_for_unix(handle)) {
        return fail_opening(PIER_ENOTSUP, "bind to", address); /* a pipe's client has no name */
    }
    error = check_binding(handle, address);
    if (error < 0) {
        return error;
    }
    if (address->family != PIER_ADDRESS_UNIX && address->port == 0 &&
        (handle->bits_ & PIER__UNCONNECTED)) {
        pier__sys_choose_port_late(handle->descriptor_);
    }
    error = pier__sys_bind(handle->descriptor_, address);
    return error < 0 ? fail_opening(error, "bind to", address) : error;
}

int pier_adopt(struct pier_loop *loop, struct pier_handle *handle, pier_descriptor descriptor)
{
    PIER__REQUIRE_THREAD(loop, "pier_adopt");
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
    /* Of a connected socket each call says that it mustn't wait. */
    bool is_spared = description.kind == PIER__KIND_STREAM || description.kind == PIER__KIND_FILE;
    if (!is_spared && !description.nonblocking) {
        bits |= PIER__CAUTIOUS;
    }
    bits |= description.read_only ? PIER__READ_ONLY : description.write_only ? PIER__WRITE_ONLY : 0;
    error = pier__handle_open(loop, handle, descriptor, description.kind, description.family, bits);
    if (error == 0 && description.delays) {
        handle->listener_ = PIER__DELAYS;
    }
    return error;
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
    PIER__REQUIRE_THREAD(loop, "pier_socket_pair");
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
    PIER__REQUIRE_THREAD(loop, "pier_pipe");
    PIER_REQUIRE(read->loop_ == NULL && write->loop_ == NULL, "pier_pipe",
                 "the handle is open already");
    int error = pier__sys_pipe(pair,
                               true); /* also on uring, which waits for a pipe and then calls */
    if (error < 0) {
        return pier__fail(error, "can't make a pipe: %s", pier_error_text(error));
    }
    return open_two(loop, pair, read, write, PIER__KIND_PIPE, PIER_ADDRESS_NONE);
}
