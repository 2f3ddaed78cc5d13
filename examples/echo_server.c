/* echo_server.c - sends back what it receives, to any number of clients.
 *
 * usage: echo_server [ADDRESS]
 *
 * A connection receives into a lent buffer, sends that buffer back, and receives again only when
 * all of it is sent. So an idle client holds no buffer, and one that doesn't read holds just one:
 * it slows down nobody but itself. */

#include <pier/pier.h>

#include <stdio.h>
#include <stdlib.h>

struct echo {
    struct pier_handle socket;
    struct pier_op receive, send;
};

static void on_received(struct pier_op *op);

static void on_closed(struct pier_handle *socket)
{
    free(PIER_OWNER(socket, struct echo, socket));
}

static void on_sent(struct pier_op *op)
{
    struct echo *echo = PIER_OWNER(op, struct echo, send);
    if (op->result < 0)
        pier_close(&echo->socket, on_closed);
    else
        pier_receive_lent(&echo->socket, &echo->receive, on_received);
}

static void on_received(struct pier_op *op)
{
    struct echo *echo = PIER_OWNER(op, struct echo, receive);
    if (op->result <= 0) /* an error, or the end of the stream */
        pier_close(&echo->socket, on_closed);
    else /* the send holds the lent buffer until it is done */
        pier_send(&echo->socket, &echo->send, op->data, op->size, on_sent);
}

static void on_accepted(struct pier_op *op)
{
    struct echo *echo = calloc(1, sizeof *echo);
    if (echo != NULL && pier_accept_take(op, NULL, &echo->socket) == 0)
        pier_receive_lent(&echo->socket, &echo->receive, on_received);
    else /* out of memory, or accepting has ended; a socket that isn't taken is closed */
        free(echo);
}

int main(int argc, char **argv)
{
    struct pier_loop *loop;
    struct pier_address address;
    struct pier_handle listener = {0};
    struct pier_op accept = {0};
    char text[PIER_ADDRESS_TEXT_MAX];

    if (pier_address_parse(&address, argc > 1 ? argv[1] : "127.0.0.1:7000") < 0 ||
        pier_loop_new(&loop, NULL) < 0 || pier_listen(loop, &listener, &address, NULL) < 0 ||
        pier_local_address(&listener, &address) < 0) {
        fprintf(stderr, "echo_server: %s\n", pier_error_detail());
        return 1;
    }
    pier_address_format(&address, text, sizeof text);
    printf("listening on %s\n", text);
    fflush(stdout);

    pier_accept_each(&listener, &accept, on_accepted);
    return pier_loop_run(loop, PIER_RUN_UNTIL_IDLE) < 0;
}
