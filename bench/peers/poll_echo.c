/*
 * Echo by hand on poll: a dense array of pollfd, accept4, direct recv and send, one receive for
 * each ready report.
 *
 * Beside the pollfd array lies one of what each connection still has to send; entries are removed
 * by moving the last one into the gap, and the array is walked from its end, so that an entry which
 * moves was served in this turn already. One receive buffer serves all connections; what a slow
 * reader has not taken is copied, and its interest turned from input to output until it is gone.
 */
#include "common.h"

#include <poll.h>

enum { STOP_SLOT, LISTENER_SLOT, FIRST_CONNECTION };

struct rest {
    char *data;
    uint32_t size, sent;
};

struct server {
    struct peer_worker *worker;
    struct pollfd *polled;
    struct rest *rests;
    size_t count, size_max;
    char buffer[PEER_BUFFER_SIZE];
};

static void close_connection(struct server *server, size_t slot)
{
    close(server->polled[slot].fd);
    free(server->rests[slot].data);
    server->count--;
    server->polled[slot] = server->polled[server->count];
    server->rests[slot] = server->rests[server->count];
}

static void accept_all(struct server *server)
{
    for (;;) {
        int fd = accept4(server->worker->listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            if (peer_accept_is_drained(errno))
                return;
            continue;
        }
        server->worker->connections++;
        server->polled[server->count] = (struct pollfd){.fd = fd, .events = POLLIN};
        server->rests[server->count] = (struct rest){.data = NULL};
        server->count++;
    }
}

static void send_rest(struct server *server, size_t slot)
{
    struct rest *rest = &server->rests[slot];
    ssize_t n = send(server->polled[slot].fd, rest->data + rest->sent, rest->size - rest->sent,
                     MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            close_connection(server, slot);
        return;
    }
    rest->sent += (uint32_t)n;
    if (rest->sent == rest->size) {
        free(rest->data);
        rest->data = NULL;
        server->polled[slot].events = POLLIN;
    }
}

static void keep_rest(struct server *server, size_t slot, size_t sent, size_t size)
{
    struct rest *rest = &server->rests[slot];
    rest->data = malloc(size - sent);
    if (rest->data == NULL)
        peer_fail("out of memory for a slow reader");
    memcpy(rest->data, server->buffer + sent, size - sent);
    rest->size = (uint32_t)(size - sent);
    rest->sent = 0;
    server->polled[slot].events = POLLOUT;
}

static void echo(struct server *server, size_t slot)
{
    int fd = server->polled[slot].fd;
    ssize_t n = recv(fd, server->buffer, sizeof server->buffer, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            close_connection(server, slot);
        return;
    }
    server->worker->receives++;
    server->worker->bytes += (uint64_t)n;
    ssize_t sent = send(fd, server->buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n)
        return;
    if (sent < 0 && errno != EAGAIN)
        close_connection(server, slot);
    else
        keep_rest(server, slot, sent < 0 ? 0 : (size_t)sent, (size_t)n);
}

static void serve(struct peer_worker *worker)
{
    static __thread struct server server;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    server.worker = worker;
    server.polled = calloc(files.rlim_cur, sizeof *server.polled);
    server.rests = calloc(files.rlim_cur, sizeof *server.rests);
    if (server.polled == NULL || server.rests == NULL)
        peer_fail("out of memory");
    server.polled[STOP_SLOT] = (struct pollfd){.fd = worker->stop_fd, .events = POLLIN};
    server.polled[LISTENER_SLOT] = (struct pollfd){.fd = worker->listener, .events = POLLIN};
    server.count = FIRST_CONNECTION;
    for (;;) {
        int ready = poll(server.polled, server.count, -1);
        for (size_t slot = server.count; ready > 0 && slot-- > FIRST_CONNECTION;) {
            if (server.polled[slot].revents == 0)
                continue;
            ready--;
            if (server.rests[slot].data != NULL)
                send_rest(&server, slot);
            else
                echo(&server, slot);
        }
        if (ready > 0 && server.polled[STOP_SLOT].revents != 0)
            return;
        if (ready > 0 && server.polled[LISTENER_SLOT].revents != 0)
            accept_all(&server);
    }
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, &(struct peer_program){.name = "poll", .serve = serve});
}
