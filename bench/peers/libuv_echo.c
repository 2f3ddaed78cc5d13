/*
 * Echo on libuv: uv_read_start into one shared buffer, uv_try_write at once.
 *
 * libuv calls the read callback right after it has filled the buffer, so that one buffer per loop
 * is enough. A write request is made only for what uv_try_write could not place; reading stops
 * until it has gone out.
 */
#include "common.h"

#include <uv.h>

struct server {
    struct peer_worker *worker;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_poll_t stop;
    char buffer[PEER_BUFFER_SIZE];
};

struct rest {
    uv_write_t request;
    char data[];
};

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

static void close_connection(uv_stream_t *stream)
{
    if (!uv_is_closing((uv_handle_t *)stream))
        uv_close((uv_handle_t *)stream, on_closed);
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct server *server = handle->loop->data;
    (void)suggested;
    *buffer = uv_buf_init(server->buffer, sizeof server->buffer);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer);

static void on_written(uv_write_t *request, int status)
{
    uv_stream_t *stream = request->handle;
    free(request);
    if (status < 0)
        close_connection(stream);
    else
        uv_read_start(stream, on_allocate, on_read);
}

static void write_rest(uv_stream_t *stream, const char *data, size_t size)
{
    struct rest *rest = malloc(sizeof *rest + size);
    if (rest == NULL)
        peer_fail("out of memory for a slow reader");
    memcpy(rest->data, data, size);
    uv_buf_t piece = uv_buf_init(rest->data, (unsigned)size);
    uv_read_stop(stream);
    if (uv_write(&rest->request, stream, &piece, 1, on_written) < 0) {
        free(rest);
        close_connection(stream);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    struct server *server = stream->loop->data;
    if (n <= 0) {
        if (n < 0)
            close_connection(stream);
        return;
    }
    server->worker->receives++;
    server->worker->bytes += (uint64_t)n;
    uv_buf_t piece = uv_buf_init(buffer->base, (unsigned)n);
    int sent = uv_try_write(stream, &piece, 1);
    if (sent == n)
        return;
    if (sent < 0 && sent != UV_EAGAIN)
        close_connection(stream);
    else
        write_rest(stream, buffer->base + (sent < 0 ? 0 : sent),
                   (size_t)(n - (sent < 0 ? 0 : sent)));
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->loop->data;
    uv_tcp_t *connection = status == 0 ? malloc(sizeof *connection) : NULL;
    if (connection == NULL)
        peer_fail("accept: %s: raise `ulimit -n` or spread the connections with --processes",
                  uv_strerror(status));
    uv_tcp_init(&server->loop, connection);
    server->worker->connections++;
    if (uv_accept(listener, (uv_stream_t *)connection) < 0 ||
        uv_read_start((uv_stream_t *)connection, on_allocate, on_read) < 0)
        close_connection((uv_stream_t *)connection);
}

static void on_stop(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    uv_stop(poll->loop);
}

static void serve(struct peer_worker *worker)
{
    static __thread struct server server;
    server.worker = worker;
    server.loop.data = &server;
    uv_loop_init(&server.loop);
    uv_tcp_init(&server.loop, &server.listener);
    uv_tcp_open(&server.listener, worker->listener);
    uv_poll_init(&server.loop, &server.stop, worker->stop_fd);
    uv_poll_start(&server.stop, UV_READABLE, on_stop);
    int error = uv_listen((uv_stream_t *)&server.listener, PEER_BACKLOG, on_connection);
    if (error < 0)
        peer_fail("uv_listen: %s", uv_strerror(error));
    uv_run(&server.loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, &(struct peer_program){.name = "libuv", .serve = serve});
}
