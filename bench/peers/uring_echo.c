/*
 * Echo by hand on io_uring: multishot accept, multishot receive from a ring of provided buffers,
 * deferred task work, one enter for each turn.
 *
 * A received buffer is sent as it is and given back when the send has completed. At most one send
 * of a connection is in the kernel; buffers that arrive meanwhile queue behind it, linked by
 * number. A send never waits for the reader: if it comes back short, what is left is copied out of
 * the provided buffers, receiving is cancelled, and the copy is sent by a request that does wait.
 * So a slow reader holds no provided buffer and a bounded copy.
 *
 * settle() is the one place that decides what a connection does next; each completion ends in it. A
 * connection is closed only when none of its requests is in the kernel, so that a descriptor number
 * is never confused with the one before it. Connections live in a table indexed by descriptor, 16
 * bytes each.
 */
#include "common.h"

#include <liburing.h>
#include <poll.h>

enum { ENTRIES = 1024, COMPLETIONS = 8192, BUFFERS = 256, QUEUE_LIMIT = 8, BUFFER_GROUP = 0 };
enum kind { RECEIVE, SEND, SEND_REST, ACCEPT, CANCEL, CLOSE, STOP };
enum state {
    RECEIVING = 1,  /* a multishot receive is in the kernel */
    CANCELLING = 2, /* and was asked to end */
    SENDING = 4,
    STARVED = 8, /* receiving ended for want of buffers; listed in server->starved */
    ENDED = 16,  /* nothing more will be received */
    FAILED = 32  /* nothing more can be sent */
};

struct rest {
    size_t size, sent;
    char data[];
};

struct connection {
    struct rest *rest; /* what a slow reader has not taken; NULL in the usual case */
    /* Buffers that wait for the send in the kernel, linked through server->next. */
    uint16_t first, last, queued;
    uint16_t state;
};

struct server {
    struct peer_worker *worker;
    struct connection *connections;
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    char *memory;
    int returned; /* buffers given back in this turn */
    int *starved;
    size_t starved_count;
    uint16_t next[BUFFERS];
    uint32_t length[BUFFERS];
    bool stopped;
};

/* A completion says what it is about: descriptor in the low half, then the kind, then the buffer
 * that is being sent. */
static uint64_t make_key(enum kind kind, int fd, unsigned buffer)
{
    return (uint64_t)buffer << 48 | (uint64_t)kind << 32 | (uint32_t)fd;
}

static struct io_uring_sqe *next_entry(struct server *server, uint64_t key)
{
    struct io_uring_sqe *entry;
    while ((entry = io_uring_get_sqe(&server->ring)) == NULL)
        io_uring_submit(&server->ring);
    entry->user_data = key; /* the io_uring_prep functions leave it alone */
    return entry;
}

static char *buffer_memory(struct server *server, unsigned buffer)
{
    return server->memory + (size_t)buffer * PEER_BUFFER_SIZE;
}

static void return_buffer(struct server *server, unsigned buffer)
{
    io_uring_buf_ring_add(server->buffers, buffer_memory(server, buffer), PEER_BUFFER_SIZE,
                          (uint16_t)buffer, BUFFERS - 1, server->returned++);
}

static unsigned take_first(struct server *server, struct connection *connection)
{
    unsigned buffer = connection->first;
    connection->first = server->next[buffer];
    connection->queued--;
    return buffer;
}

static void append_buffer(struct server *server, struct connection *connection, unsigned buffer)
{
    if (connection->queued++ == 0)
        connection->first = (uint16_t)buffer;
    else
        server->next[connection->last] = (uint16_t)buffer;
    connection->last = (uint16_t)buffer;
}

static void copy_to_rest(struct server *server, struct connection *connection, unsigned buffer,
                         size_t skip)
{
    size_t used = connection->rest != NULL ? connection->rest->size : 0,
           more = server->length[buffer] - skip;
    struct rest *rest = realloc(connection->rest, sizeof *rest + used + more);
    if (rest == NULL)
        peer_fail("out of memory for a slow reader");
    memcpy(rest->data + used, buffer_memory(server, buffer) + skip, more);
    rest->size = used + more;
    rest->sent = 0;
    connection->rest = rest;
    return_buffer(server, buffer);
}

static void start_receive(struct server *server, int fd)
{
    struct io_uring_sqe *entry = next_entry(server, make_key(RECEIVE, fd, 0));
    io_uring_prep_recv_multishot(entry, fd, NULL, 0, 0);
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = BUFFER_GROUP;
    server->connections[fd].state |= RECEIVING;
}

static void cancel_receive(struct server *server, int fd)
{
    if ((server->connections[fd].state & (RECEIVING | CANCELLING)) != RECEIVING)
        return;
    struct io_uring_sqe *entry = next_entry(server, make_key(CANCEL, fd, 0));
    io_uring_prep_cancel64(entry, make_key(RECEIVE, fd, 0), 0);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    server->connections[fd].state |= CANCELLING;
}

static void send_buffer(struct server *server, int fd, unsigned buffer)
{
    struct io_uring_sqe *entry = next_entry(server, make_key(SEND, fd, buffer));
    io_uring_prep_send(entry, fd, buffer_memory(server, buffer), server->length[buffer],
                       MSG_DONTWAIT | MSG_NOSIGNAL);
    server->connections[fd].state |= SENDING;
}

static void send_rest(struct server *server, int fd, struct rest *rest)
{
    struct io_uring_sqe *entry = next_entry(server, make_key(SEND_REST, fd, 0));
    io_uring_prep_send(entry, fd, rest->data + rest->sent, rest->size - rest->sent,
                       MSG_WAITALL | MSG_NOSIGNAL);
    server->connections[fd].state |= SENDING;
}

static void start_close(struct server *server, int fd)
{
    struct io_uring_sqe *entry = next_entry(server, make_key(CLOSE, fd, 0));
    io_uring_prep_close(entry, fd);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    server->connections[fd].state = 0;
}

static void settle(struct server *server, int fd)
{
    struct connection *connection = &server->connections[fd];
    if (connection->state & SENDING)
        return;
    if (connection->rest == NULL && connection->queued > 0) {
        send_buffer(server, fd, take_first(server, connection));
    } else if (connection->state & RECEIVING) {
        if (connection->rest != NULL || connection->state & FAILED)
            cancel_receive(server, fd);
    } else if (connection->rest != NULL) {
        send_rest(server, fd, connection->rest);
    } else if (!(connection->state & STARVED)) {
        if (connection->state & (ENDED | FAILED))
            start_close(server, fd);
        else
            start_receive(server, fd);
    }
}

static void fail(struct server *server, struct connection *connection)
{
    while (connection->queued > 0)
        return_buffer(server, take_first(server, connection));
    free(connection->rest);
    connection->rest = NULL;
    connection->state |= FAILED;
}

static void on_accept(struct server *server, const struct io_uring_cqe *completion)
{
    if (!(completion->flags & IORING_CQE_F_MORE)) {
        struct io_uring_sqe *entry = next_entry(server, make_key(ACCEPT, 0, 0));
        io_uring_prep_multishot_accept(entry, server->worker->listener, NULL, NULL, 0);
    }
    if (completion->res >= 0) {
        server->worker->connections++;
        start_receive(server, completion->res);
    } else {
        peer_accept_is_drained(-completion->res);
    }
}

static void on_receive_ended(struct server *server, int fd, int result)
{
    struct connection *connection = &server->connections[fd];
    if (result == -ENOBUFS) {
        connection->state |= STARVED;
        server->starved[server->starved_count++] = fd;
    } else if (result <= 0 && result != -ECANCELED) {
        connection->state |= ENDED;
    }
    connection->state &= (uint16_t) ~(RECEIVING | CANCELLING);
}

static void on_receive(struct server *server, int fd, const struct io_uring_cqe *completion)
{
    struct connection *connection = &server->connections[fd];
    if (!(completion->flags & IORING_CQE_F_MORE))
        on_receive_ended(server, fd, completion->res);
    if (completion->res > 0) {
        unsigned buffer = completion->flags >> IORING_CQE_BUFFER_SHIFT;
        server->worker->receives++;
        server->worker->bytes += (uint64_t)completion->res;
        server->length[buffer] = (uint32_t)completion->res;
        if (connection->state == RECEIVING) { /* the usual case: nothing is under way */
            send_buffer(server, fd, buffer);
            return;
        }
        if (connection->state & FAILED)
            return_buffer(server, buffer);
        else if (connection->rest != NULL)
            copy_to_rest(server, connection, buffer, 0);
        else
            append_buffer(server, connection, buffer);
        if (connection->queued >= QUEUE_LIMIT)
            cancel_receive(server, fd);
    }
    settle(server, fd);
}

static void on_sent(struct server *server, int fd, unsigned buffer, int result)
{
    struct connection *connection = &server->connections[fd];
    connection->state &= (uint16_t)~SENDING;
    if ((uint32_t)result == server->length[buffer]) {
        return_buffer(server, buffer);
    } else if (result >= 0 || result == -EAGAIN) {
        copy_to_rest(server, connection, buffer, result > 0 ? (size_t)result : 0);
        while (connection->queued > 0)
            copy_to_rest(server, connection, take_first(server, connection), 0);
    } else {
        return_buffer(server, buffer);
        fail(server, connection);
    }
    if (connection->state != RECEIVING || connection->queued > 0 || connection->rest != NULL)
        settle(server, fd);
}

static void on_rest_sent(struct server *server, int fd, int result)
{
    struct connection *connection = &server->connections[fd];
    connection->state &= (uint16_t)~SENDING;
    if (result <= 0) {
        fail(server, connection);
    } else if ((connection->rest->sent += (size_t)result) == connection->rest->size) {
        free(connection->rest);
        connection->rest = NULL;
    }
    settle(server, fd);
}

static void dispatch(struct server *server, const struct io_uring_cqe *completion)
{
    int fd = (int)(uint32_t)completion->user_data;
    enum kind kind = completion->user_data >> 32 & 0xffff;
    if (kind == RECEIVE)
        on_receive(server, fd, completion);
    else if (kind == SEND)
        on_sent(server, fd, (unsigned)(completion->user_data >> 48), completion->res);
    else if (kind == SEND_REST)
        on_rest_sent(server, fd, completion->res);
    else if (kind == ACCEPT)
        on_accept(server, completion);
    else if (kind == STOP)
        server->stopped = true;
    /* Of CANCEL and CLOSE only failures are reported: the receive had ended by itself. */
}

/* Buffers that came back in this turn go to the kernel, and as many starved connections receive
 * again. */
static void return_buffers(struct server *server)
{
    size_t count = (size_t)server->returned;
    io_uring_buf_ring_advance(server->buffers, server->returned);
    server->returned = 0;
    if (server->starved_count == 0)
        return;
    if (count > server->starved_count)
        count = server->starved_count;
    for (size_t i = 0; i < count; i++) {
        int fd = server->starved[i];
        server->connections[fd].state &= (uint16_t)~STARVED;
        settle(server, fd);
    }
    server->starved_count -= count;
    memmove(server->starved, server->starved + count,
            server->starved_count * sizeof *server->starved);
}

/* io_uring_for_each_cqe reads the tail again for each completion; once for all is enough. */
static void dispatch_all(struct server *server)
{
    struct io_uring_cq *queue = &server->ring.cq;
    unsigned head = *queue->khead, tail = io_uring_smp_load_acquire(queue->ktail),
             mask = queue->ring_mask;
    for (unsigned i = head; i != tail; i++)
        dispatch(server, &queue->cqes[i & mask]);
    io_uring_smp_store_release(queue->khead, tail);
}

static void open_ring(struct server *server)
{
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE,
        .cq_entries = COMPLETIONS,
    };
    int error = io_uring_queue_init_params(ENTRIES, &server->ring, &parameters);
    if (error < 0)
        peer_fail("io_uring_setup: %s: needs Linux 6.1 or later, and io_uring allowed",
                  strerror(-error));
    io_uring_register_ring_fd(&server->ring);

    server->buffers = mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    server->memory = mmap(NULL, (size_t)BUFFERS * PEER_BUFFER_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (server->buffers == MAP_FAILED || server->memory == MAP_FAILED)
        peer_fail("mmap: %s", strerror(errno));
    struct io_uring_buf_reg registration = {.ring_addr = (uint64_t)(uintptr_t)server->buffers,
                                            .ring_entries = BUFFERS,
                                            .bgid = BUFFER_GROUP};
    error = io_uring_register_buf_ring(&server->ring, &registration, 0);
    if (error < 0)
        peer_fail("provided buffers: %s", strerror(-error));
    io_uring_buf_ring_init(server->buffers);
    for (unsigned i = 0; i < BUFFERS; i++)
        return_buffer(server, i);
    return_buffers(server);
}

static void serve(struct peer_worker *worker)
{
    static __thread struct server server;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    server.worker = worker;
    server.connections = calloc(files.rlim_cur, sizeof *server.connections);
    server.starved = calloc(files.rlim_cur, sizeof *server.starved);
    if (server.connections == NULL || server.starved == NULL)
        peer_fail("out of memory");
    open_ring(&server);

    struct io_uring_sqe *entry = next_entry(&server, make_key(ACCEPT, 0, 0));
    io_uring_prep_multishot_accept(entry, worker->listener, NULL, NULL, 0);
    entry = next_entry(&server, make_key(STOP, 0, 0));
    io_uring_prep_poll_add(entry, worker->stop_fd, POLLIN);
    while (!server.stopped) {
        int error = io_uring_submit_and_wait(&server.ring, 1);
        if (error < 0 && error != -EINTR && error != -EBUSY && error != -EAGAIN)
            peer_fail("io_uring_enter: %s", strerror(-error));
        dispatch_all(&server);
        return_buffers(&server);
    }
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, &(struct peer_program){.name = "uring", .serve = serve});
}
