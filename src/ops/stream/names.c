/* names.c - what can be set on a socket, and its addresses. */

#include "core/engine.h"
#include "ops/stream/stream.h"

/* A pipe in place of a socket has none of a socket's options. */
static int without_options(const struct pier_handle *handle)
{
    return pier__is_pipe_for_unix(handle) ? PIER_ENOTSUP : 0;
}

static void require_use(const struct pier_handle *handle, const char *function)
{
    pier__handle_require_open(handle, function);
    PIER__REQUIRE_THREAD(handle->loop_, function);
}

static int explain(int error, const struct pier_handle *handle, const char *what)
{
    return error >= 0 ? 0
                      : pier__fail(error, "can't %s of descriptor %ld: %s", what,
                                   (long)handle->descriptor_, pier_error_text(error));
}

int pier_set_no_delay(struct pier_handle *handle, bool on)
{
    require_use(handle, "pier_set_no_delay");
    int error = without_options(handle);
    error = error < 0 ? error : pier__sys_set_no_delay(handle->descriptor_, on);
    if (error == 0) {
        handle->listener_ &= (uint8_t)~PIER__DELAYS; /* a listener hands its own on */
    }
    return explain(error, handle, "set the no-delay option");
}

int pier_set_keep_alive(struct pier_handle *handle, unsigned idle_s, unsigned interval_s,
                        unsigned count)
{
    require_use(handle, "pier_set_keep_alive");
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
    require_use(handle, "pier_set_buffer_sizes");
    int error = without_options(handle);
    error = error < 0 ? error : pier__sys_set_buffer_sizes(handle->descriptor_, receive, send);
    return explain(error, handle, "set the buffer sizes");
}

int pier_set_linger(struct pier_handle *handle, int seconds)
{
    require_use(handle, "pier_set_linger");
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
    require_use(handle, "pier_local_address");
    int error = pier__is_pipe_for_unix(handle)
                    ? pier__sys_pipe_address(handle->descriptor_, false, address)
                    : pier__sys_local_address(handle->descriptor_, address);
    return explain(error, handle, "get the local address");
}

int pier_peer_address(const struct pier_handle *handle, struct pier_address *address)
{
    require_use(handle, "pier_peer_address");
    int error = !pier__is_pipe_for_unix(handle)
                    ? pier__sys_peer_address(handle->descriptor_, address)
                : handle->kind_ == PIER__KIND_PIPE_LISTENER || (handle->bits_ & PIER__UNCONNECTED)
                    ? PIER_ENOTCONN
                    : pier__sys_pipe_address(handle->descriptor_, true, address);
    return explain(error, handle, "get the peer's address");
}
