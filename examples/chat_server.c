/* chat_server.c - sends each line that a client writes to all the others.
 *
 * usage: chat_server [ADDRESS]
 *
 * Each client has a writer, which queues the lines of others for it, so a line costs no allocation
 * however many clients there are. A client that reads too slowly is first held: it isn't
 * read from until it has caught up. One whose queue is full is dropped.
 *
 * SIGINT and SIGTERM stop the loop; then everything open is closed and freed. */

#include <pier/pier.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1024 };

struct client {
    struct pier_handle socket;
    struct pier_op receive;
    struct pier_writer writer;
    struct client *next, **back; /* in the list of clients that are online */
    char name[24];
    char line[LINE_MAX_BYTES];
    size_t length;
};

static struct pier_loop *loop;
static struct client *clients;

static void on_closed(struct pier_handle *socket)
{
    struct client *client = PIER_OWNER(socket, struct client, socket);
    pier_writer_free(&client->writer);
    free(client);
}

static void drop(struct client *client, const char *why)
{
    if (!pier_handle_is_open(&client->socket))
        return;
    printf("%s left: %s\n", client->name, why);
    *client->back = client->next;
    if (client->next != NULL)
        client->next->back = client->back;
    pier_close(&client->socket, on_closed);
}

static void on_high(struct pier_writer *writer)
{
    struct client *client = PIER_OWNER(writer, struct client, writer);
    printf("%s falls behind\n", client->name);
    pier_pause(&client->receive);
}

static void on_low(struct pier_writer *writer)
{
    struct client *client = PIER_OWNER(writer, struct client, writer);
    printf("%s has caught up\n", client->name);
    pier_resume(&client->receive);
}

static void on_error(struct pier_writer *writer)
{
    drop(PIER_OWNER(writer, struct client, writer), pier_error_text(writer->error));
}

static void broadcast(const struct client *from, const char *line, size_t length)
{
    const struct pier_vector message[] = {
        {from->name, strlen(from->name)}, {": ", 2}, {line, length}, {"\n", 1}};
    for (struct client *to = clients, *next; to != NULL; to = next) {
        next = to->next;
        if (to != from && pier_writer_write_vectored(&to->writer, message, 4) == PIER_ENOBUFS)
            drop(to, "it reads too slowly");
    }
}

static void on_received(struct pier_op *op)
{
    struct client *client = PIER_OWNER(op, struct client, receive);
    if (!(op->flags & PIER_MORE)) {
        drop(client, op->flags & PIER_EOF ? "end of stream" : pier_error_text(op->result));
        return;
    }
    const char *data = op->data;
    for (size_t i = 0; i < op->size; i++) {
        if (data[i] == '\n' || client->length == LINE_MAX_BYTES) {
            broadcast(client, client->line, client->length);
            client->length = 0;
        }
        if (data[i] != '\n')
            client->line[client->length++] = data[i];
    }
}

static void on_accepted(struct pier_op *op)
{
    static const struct pier_writer_options writer_options = {.high = 64 << 10,
                                                              .stall_ns = 60 * PIER_SECOND,
                                                              .on_high = on_high,
                                                              .on_low = on_low,
                                                              .on_error = on_error};
    static unsigned number;
    struct client *client = op->result < 0 ? NULL : calloc(1, sizeof *client);
    if (client == NULL)
        return;
    if (pier_accept_take(op, NULL, &client->socket) < 0) {
        free(client);
        return;
    }
    snprintf(client->name, sizeof client->name, "guest %u", ++number);
    printf("%s joined\n", client->name);
    client->next = clients;
    client->back = &clients;
    if (clients != NULL)
        clients->back = &client->next;
    clients = client;
    pier_writer_open(&client->writer, &client->socket, &writer_options);
    pier_receive_each(&client->socket, &client->receive, on_received);
}

static void on_signal(int signal_number)
{
    (void)signal_number;
    pier_loop_stop(loop);
}

int main(int argc, char **argv)
{
    struct pier_address address;
    struct pier_handle listener = {0};
    struct pier_op accept = {0};
    char text[PIER_ADDRESS_TEXT_MAX];

    if (pier_address_parse(&address, argc > 1 ? argv[1] : "127.0.0.1:7001") < 0 ||
        pier_loop_new(&loop, NULL) < 0 || pier_listen(loop, &listener, &address, NULL) < 0 ||
        pier_local_address(&listener, &address) < 0) {
        fprintf(stderr, "chat_server: %s\n", pier_error_detail());
        return 1;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    pier_address_format(&address, text, sizeof text);
    printf("listening on %s\n", text);

    pier_accept_each(&listener, &accept, on_accepted);
    int result = pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    while (clients != NULL)
        drop(clients, "the server stops");
    pier_loop_drain(loop, PIER_SECOND);
    pier_loop_free(loop);
    return result < 0;
}
