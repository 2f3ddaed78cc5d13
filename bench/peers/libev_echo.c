/*
 * Echo on libev: one ev_io inside each connection, direct recv and send through one shared buffer.
 *
 * libev is level-triggered, so that one receive for each report is enough. What a slow reader has
 * not taken is copied, and the watcher turned from input to output until it is gone.
 */
#include "common.h"

#define EV_COMPAT3 0
#include <ev.h>

struct connection {
    ev_io watcher;
    char *rest;
    uint32_t rest_size, rest_sent;
};

struct server {
    struct peer_worker *worker;
    ev_io listener, stop;
    char buffer[PEER_BUFFER_SIZE];
};

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events);

static void close_connection(struct ev_loop *loop, struct connection *connection)
{
    ev_io_stop(loop, &connection->watcher);
    close(connection->watcher.fd);
    free(connection->rest);
    free(connection);
}

static void turn_watcher(struct ev_loop *loop, ev_io *watcher,
                         void (*callback)(struct ev_loop *, ev_io *, int), int events)
{
    ev_io_stop(loop, watcher);
    ev_set_cb(watcher, callback);
    ev_io_set(watcher, watcher->fd, events);
    ev_io_start(loop, watcher);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = (struct connection *)watcher;
    (void)events;
    ssize_t n = send(watcher->fd, connection->rest + connection->rest_sent,
                     connection->rest_size - connection->rest_sent, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            close_connection(loop, connection);
        return;
    }
    connection->rest_sent += (uint32_t)n;
    if (connection->rest_sent < connection->rest_size)
        return;
    free(connection->rest);
    connection->rest = NULL;
    turn_watcher(loop, watcher, on_readable, EV_READ);
}

static void keep_rest(struct ev_loop *loop, struct connection *connection, const char *data,
                      size_t size)
{
    connection->rest = malloc(size);
    if (connection->rest == NULL)
        peer_fail("out of memory for a slow reader");
    memcpy(connection->rest, data, size);
    connection->rest_size = (uint32_t)size;
    connection->rest_sent = 0;
    turn_watcher(loop, &connection->watcher, on_writable, EV_WRITE);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = (struct connection *)watcher;
    struct server *server = ev_userdata(loop);
    (void)events;
    ssize_t n = recv(watcher->fd, server->buffer, sizeof server->buffer, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            close_connection(loop, connection);
        return;
    }
    server->worker->receives++;
    server->worker->bytes += (uint64_t)n;
    ssize_t sent = send(watcher->fd, server->buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n)
        return;
    if (sent < 0 && errno != EAGAIN)
        close_connection(loop, connection);
    else
        keep_rest(loop, connection, server->buffer + (sent < 0 ? 0 : sent),
                  (size_t)(n - (sent < 0 ? 0 : sent)));
}

static void on_connection(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct server *server = ev_userdata(loop);
    (void)events;
    for (;;) {
        int fd = accept4(watcher->fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            if (peer_accept_is_drained(errno))
                return;
            continue;
        }
        struct connection *connection = malloc(sizeof *connection);
        if (connection == NULL)
            peer_fail("out of memory for a connection");
        connection->rest = NULL;
        server->worker->connections++;
        ev_io_init(&connection->watcher, on_readable, fd, EV_READ);
        ev_io_start(loop, &connection->watcher);
    }
}

static void on_stop(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)watcher;
    (void)events;
    ev_break(loop, EVBREAK_ALL);
}

static void serve(struct peer_worker *worker)
{
    static __thread struct server server;
    struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (loop == NULL)
        peer_fail("ev_loop_new: cannot use epoll");
    server.worker = worker;
    ev_set_userdata(loop, &server);
    ev_io_init(&server.listener, on_connection, worker->listener, EV_READ);
    ev_io_init(&server.stop, on_stop, worker->stop_fd, EV_READ);
    ev_io_start(loop, &server.listener);
    ev_io_start(loop, &server.stop);
    ev_run(loop, 0);
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, &(struct peer_program){.name = "libev", .serve = serve});
}
