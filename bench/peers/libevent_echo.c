/*
 * Echo on libevent, in the two ways its users write servers.
 *
 * As "libevent": the event API, with one struct event inside each connection and direct recv and
 * send through one shared buffer; level-triggered, so that one receive for each report is enough.
 * What a slow reader has not taken is copied, and the event turned from input to output until it is
 * gone.
 *
 * With --buffered, as "libevent-buffered": bufferevents. Input moves to the output without a copy;
 * above the high mark of the output, reading stops until it has gone out.
 */
#include "common.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/event_struct.h>

struct connection {
    struct event event;
    char *rest;
    uint32_t rest_size, rest_sent;
};

struct server {
    struct peer_worker *worker;
    struct event_base *base;
    char buffer[PEER_BUFFER_SIZE];
};

static __thread struct server server;

static void on_readable(evutil_socket_t fd, short events, void *argument);

static void close_connection(struct connection *connection)
{
    evutil_socket_t fd = event_get_fd(&connection->event);
    event_del(&connection->event);
    close(fd);
    free(connection->rest);
    free(connection);
}

static void turn_event(struct connection *connection, short events, event_callback_fn callback)
{
    evutil_socket_t fd = event_get_fd(&connection->event);
    event_del(&connection->event);
    event_assign(&connection->event, server.base, fd, (short)(events | EV_PERSIST), callback,
                 connection);
    event_add(&connection->event, NULL);
}

static void on_writable(evutil_socket_t fd, short events, void *argument)
{
    struct connection *connection = argument;
    (void)events;
    ssize_t n = send(fd, connection->rest + connection->rest_sent,
                     connection->rest_size - connection->rest_sent, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            close_connection(connection);
        return;
    }
    connection->rest_sent += (uint32_t)n;
    if (connection->rest_sent < connection->rest_size)
        return;
    free(connection->rest);
    connection->rest = NULL;
    turn_event(connection, EV_READ, on_readable);
}

static void keep_rest(struct connection *connection, const char *data, size_t size)
{
    connection->rest = malloc(size);
    if (connection->rest == NULL)
        peer_fail("out of memory for a slow reader");
    memcpy(connection->rest, data, size);
    connection->rest_size = (uint32_t)size;
    connection->rest_sent = 0;
    turn_event(connection, EV_WRITE, on_writable);
}

static void on_readable(evutil_socket_t fd, short events, void *argument)
{
    struct connection *connection = argument;
    (void)events;
    ssize_t n = recv(fd, server.buffer, sizeof server.buffer, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            close_connection(connection);
        return;
    }
    server.worker->receives++;
    server.worker->bytes += (uint64_t)n;
    ssize_t sent = send(fd, server.buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n)
        return;
    if (sent < 0 && errno != EAGAIN)
        close_connection(connection);
    else
        keep_rest(connection, server.buffer + (sent < 0 ? 0 : sent),
                  (size_t)(n - (sent < 0 ? 0 : sent)));
}

static void add_connection(int fd)
{
    struct connection *connection = malloc(sizeof *connection);
    if (connection == NULL)
        peer_fail("out of memory for a connection");
    connection->rest = NULL;
    event_assign(&connection->event, server.base, fd, EV_READ | EV_PERSIST, on_readable,
                 connection);
    event_add(&connection->event, NULL);
}

enum { OUTPUT_HIGH = 4 * PEER_BUFFER_SIZE };

static void on_buffer_read(struct bufferevent *stream, void *argument)
{
    struct evbuffer *input = bufferevent_get_input(stream),
                    *output = bufferevent_get_output(stream);
    (void)argument;
    server.worker->receives++;
    server.worker->bytes += evbuffer_get_length(input);
    evbuffer_add_buffer(output, input);
    if (evbuffer_get_length(output) >= OUTPUT_HIGH)
        bufferevent_disable(stream, EV_READ);
}

static void on_buffer_written(struct bufferevent *stream, void *argument)
{
    (void)argument;
    if (!(bufferevent_get_enabled(stream) & EV_READ))
        bufferevent_enable(stream, EV_READ);
}

static void on_last_written(struct bufferevent *stream, void *argument)
{
    (void)argument;
    bufferevent_free(stream);
}

static void on_buffer_event(struct bufferevent *stream, short what, void *argument)
{
    (void)argument;
    if (!(what & BEV_EVENT_EOF) || evbuffer_get_length(bufferevent_get_output(stream)) == 0)
        bufferevent_free(stream);
    else
        bufferevent_setcb(stream, NULL, on_last_written, on_buffer_event, NULL);
}

static void add_buffered_connection(int fd)
{
    struct bufferevent *stream = bufferevent_socket_new(server.base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (stream == NULL)
        peer_fail("out of memory for a connection");
    bufferevent_setcb(stream, on_buffer_read, on_buffer_written, on_buffer_event, NULL);
    bufferevent_enable(stream, EV_READ);
}

static void on_connection(evutil_socket_t listener, short events, void *argument)
{
    (void)events;
    (void)argument;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            if (peer_accept_is_drained(errno))
                return;
            continue;
        }
        server.worker->connections++;
        if (server.worker->variant)
            add_buffered_connection(fd);
        else
            add_connection(fd);
    }
}

static void on_stop(evutil_socket_t fd, short events, void *argument)
{
    (void)fd;
    (void)events;
    (void)argument;
    event_base_loopbreak(server.base);
}

static void serve(struct peer_worker *worker)
{
    struct event_config *config = event_config_new();
    struct event listener, stop;
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV);
    server.worker = worker;
    server.base = event_base_new_with_config(config);
    event_config_free(config);
    if (server.base == NULL)
        peer_fail("event_base_new failed");
    event_assign(&listener, server.base, worker->listener, EV_READ | EV_PERSIST, on_connection,
                 NULL);
    event_assign(&stop, server.base, worker->stop_fd, EV_READ, on_stop, NULL);
    event_add(&listener, NULL);
    event_add(&stop, NULL);
    event_base_dispatch(server.base);
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv,
                     &(struct peer_program){.name = "libevent",
                                            .variant_name = "libevent-buffered",
                                            .variant_option = "--buffered",
                                            .serve = serve});
}
