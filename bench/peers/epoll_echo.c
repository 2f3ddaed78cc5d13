/*
 * Echo by hand on epoll: edge-triggered, each connection registered once for its life, accept4,
 * direct recv and send.
 *
 * The connections live in a table indexed by descriptor, 16 bytes each. One receive buffer serves
 * them all; only what a slow reader has not taken yet is copied to memory of its own, at most one
 * buffer, and nothing more is received for it until that is gone.
 *
 * A receive that did not fill the buffer proves that the socket is drained, unless a hang-up was
 * reported with it. A connection that fills it 16 times in a row is re-registered, which puts it
 * behind the others in the kernel's list.
 */
#include "common.h"

#include <sys/epoll.h>

enum { EVENTS_MAX = 512, RECEIVES_PER_EVENT = 16 };

struct connection {
    char *rest; /* received but not taken by the reader yet; NULL in the usual case */
    uint32_t rest_size, rest_sent;
};

struct server {
    struct peer_worker *worker;
    struct connection *connections;
    int epoll;
    char buffer[PEER_BUFFER_SIZE];
};

static const uint32_t interest = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

static void close_connection(struct server *server, int fd)
{
    free(server->connections[fd].rest);
    server->connections[fd].rest = NULL;
    close(fd);
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
        struct epoll_event event = {.events = interest, .data.fd = fd};
        server->worker->connections++;
        if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            peer_fail("epoll_ctl: %s", strerror(errno));
    }
}

/* True when nothing is left to send; false when the socket is full, or was closed for an error. */
static bool send_rest(struct server *server, int fd, struct connection *connection)
{
    ssize_t n = send(fd, connection->rest + connection->rest_sent,
                     connection->rest_size - connection->rest_sent, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            close_connection(server, fd);
        return false;
    }
    connection->rest_sent += (uint32_t)n;
    if (connection->rest_sent < connection->rest_size)
        return false;
    free(connection->rest);
    connection->rest = NULL;
    return true;
}

static void keep_rest(struct server *server, struct connection *connection, size_t sent,
                      size_t size)
{
    connection->rest = malloc(size - sent);
    if (connection->rest == NULL)
        peer_fail("out of memory for a slow reader");
    memcpy(connection->rest, server->buffer + sent, size - sent);
    connection->rest_size = (uint32_t)(size - sent);
    connection->rest_sent = 0;
}

static void echo(struct server *server, int fd, uint32_t events)
{
    struct connection *connection = &server->connections[fd];
    if (connection->rest != NULL && !send_rest(server, fd, connection))
        return;

    for (int i = 0; i < RECEIVES_PER_EVENT; i++) {
        ssize_t n = recv(fd, server->buffer, sizeof server->buffer, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                close_connection(server, fd);
            return;
        }
        server->worker->receives++;
        server->worker->bytes += (uint64_t)n;
        ssize_t sent = send(fd, server->buffer, (size_t)n, MSG_NOSIGNAL);
        if (sent < n) {
            if (sent < 0 && errno != EAGAIN)
                close_connection(server, fd);
            else
                keep_rest(server, connection, sent < 0 ? 0 : (size_t)sent, (size_t)n);
            return;
        }
        if ((size_t)n < sizeof server->buffer && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
            return;
    }
    struct epoll_event event = {.events = interest, .data.fd = fd};
    epoll_ctl(server->epoll, EPOLL_CTL_MOD, fd, &event);
}

static void serve(struct peer_worker *worker)
{
    static __thread struct epoll_event events[EVENTS_MAX];
    static __thread struct server server;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    server.worker = worker;
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.connections = calloc(files.rlim_cur, sizeof *server.connections);
    if (server.epoll < 0 || server.connections == NULL)
        peer_fail("cannot start: %s", strerror(errno));

    struct epoll_event listener = {.events = EPOLLIN | EPOLLET, .data.fd = worker->listener};
    struct epoll_event stop = {.events = EPOLLIN, .data.fd = worker->stop_fd};
    epoll_ctl(server.epoll, EPOLL_CTL_ADD, worker->listener, &listener);
    epoll_ctl(server.epoll, EPOLL_CTL_ADD, worker->stop_fd, &stop);
    for (;;) {
        int count = epoll_wait(server.epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == worker->listener)
                accept_all(&server);
            else if (fd == worker->stop_fd)
                return;
            else
                echo(&server, fd, events[i].events);
        }
    }
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, &(struct peer_program){.name = "epoll", .serve = serve});
}
