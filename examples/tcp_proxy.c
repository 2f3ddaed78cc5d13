/* tcp_proxy.c - passes connections on to another address, without copying a byte.
 *
 * usage: tcp_proxy TARGET [ADDRESS]
 *
 * Each connection is two streams, one per direction, that are alike: what arrives at one handle in
 * lent buffers is sent to the other handle from these buffers. While SENDS_MAX sends are in flight
 * the receiving op is paused, so that a slow reader makes its own writer wait, and nobody else. The
 * end of one stream is passed on by a shutdown, which queues behind the sends; the other stream
 * goes on. */

#include <pier/pier.h>

#include <stdio.h>
#include <stdlib.h>

enum { SENDS_MAX = 4 };

struct send {
    struct pier_op op;
    struct stream *stream;
};

struct stream {
    struct link *link;
    struct pier_handle *from, *to;
    struct pier_op receive, shutdown;
    struct send sends[SENDS_MAX];
    int in_flight;
};

struct link {
    struct pier_handle client, target;
    struct pier_op connect;
    struct stream up, down;
    int open, ended;
};

static struct pier_address target_address;

static void on_closed(struct link *link)
{
    if (--link->open == 0)
        free(link);
}

static void on_client_closed(struct pier_handle *handle)
{
    on_closed(PIER_OWNER(handle, struct link, client));
}

static void on_target_closed(struct pier_handle *handle)
{
    on_closed(PIER_OWNER(handle, struct link, target));
}

/* Each op in flight completes before its handle is closed, and may call this again: no harm. */
static void close_link(struct link *link)
{
    pier_close(&link->client, on_client_closed);
    pier_close(&link->target, on_target_closed);
}

static void on_sent(struct pier_op *op)
{
    struct stream *stream = PIER_OWNER(op, struct send, op)->stream;
    stream->in_flight--;
    if (op->result < 0)
        close_link(stream->link);
    else
        pier_resume(&stream->receive);
}

static void on_shutdown(struct pier_op *op)
{
    struct stream *stream = PIER_OWNER(op, struct stream, shutdown);
    if (op->result < 0 || ++stream->link->ended == 2) /* both streams have ended */
        close_link(stream->link);
}

static void on_received(struct pier_op *op)
{
    struct stream *stream = PIER_OWNER(op, struct stream, receive);
    if (op->flags & PIER_MORE) {
        struct send *send = stream->sends;
        if (stream->in_flight == SENDS_MAX) { /* not while it's paused, unless it was cancelled */
            close_link(stream->link);
            return;
        }
        while (pier_op_pending(&send->op))
            send++;
        pier_send(stream->to, &send->op, op->data, op->size, on_sent);
        if (++stream->in_flight == SENDS_MAX)
            pier_pause(op);
    } else if (op->flags & PIER_EOF) {
        pier_shutdown(stream->to, &stream->shutdown, on_shutdown);
    } else {
        close_link(stream->link);
    }
}

static void on_connected(struct pier_op *op)
{
    if (op->result < 0) {
        fprintf(stderr, "tcp_proxy: target: %s\n", pier_error_text(op->result));
        close_link(PIER_OWNER(op, struct link, connect));
    }
}

static void start_stream(struct stream *stream, struct link *link, struct pier_handle *from,
                         struct pier_handle *to)
{
    stream->link = link;
    stream->from = from;
    stream->to = to;
    for (int i = 0; i < SENDS_MAX; i++)
        stream->sends[i].stream = stream;
    pier_receive_each(from, &stream->receive, on_received);
}

static void on_accepted(struct pier_op *op)
{
    struct link *link = op->result < 0 ? NULL : calloc(1, sizeof *link);
    if (link == NULL)
        return;
    if (pier_accept_take(op, NULL, &link->client) < 0) {
        free(link);
        return;
    }
    link->open = 1;
    if (pier_open_socket(pier_handle_loop(&link->client), &link->target, &target_address) < 0) {
        fprintf(stderr, "tcp_proxy: %s\n", pier_error_detail());
        pier_close(&link->client, on_client_closed);
        return;
    }
    link->open = 2;
    /* What is sent to the target meanwhile waits for the connect. */
    pier_connect(&link->target, &link->connect, &target_address, on_connected);
    start_stream(&link->up, link, &link->client, &link->target);
    start_stream(&link->down, link, &link->target, &link->client);
}

int main(int argc, char **argv)
{
    struct pier_loop *loop;
    struct pier_address address;
    struct pier_handle listener = {0};
    struct pier_op accept = {0};
    char text[PIER_ADDRESS_TEXT_MAX];

    if (argc < 2) {
        fprintf(stderr, "usage: tcp_proxy TARGET [ADDRESS]\n");
        return 2;
    }
    if (pier_address_parse(&target_address, argv[1]) < 0 ||
        pier_address_parse(&address, argc > 2 ? argv[2] : "127.0.0.1:7002") < 0 ||
        pier_loop_new(&loop, NULL) < 0 || pier_listen(loop, &listener, &address, NULL) < 0 ||
        pier_local_address(&listener, &address) < 0) {
        fprintf(stderr, "tcp_proxy: %s\n", pier_error_detail());
        return 1;
    }
    pier_address_format(&address, text, sizeof text);
    printf("listening on %s\n", text);
    fflush(stdout);

    pier_accept_each(&listener, &accept, on_accepted);
    return pier_loop_run(loop, PIER_RUN_UNTIL_IDLE) < 0;
}
