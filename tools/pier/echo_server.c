/* SPDX-License-Identifier: MIT */
/* echo_server.c - the workers of `pier echo` in one process: a loop and a thread each, listening,
 * stopping.
 *
 * Where the system balances connections between sockets of one port (TCP on Linux) each worker
 * listens for itself. Elsewhere the first one accepts for all and hands connections over in turn,
 * by posting to the other loops. The first listener of a shared port has to find it free, as the
 * only one of a port has to: two servers on one port would take each other's connections.
 *
 * The stop is asked for by a notification, which a signal handler may send. A worker then closes
 * its listener and goes on serving, until all connections are closed, or nothing has moved for a
 * moment, or STOP_TIME has passed, or the user is in a hurry. Workers that are handed their
 * connections are told to stop by a post of the first one, behind its last connection.
 *
 * The file of a Unix-domain socket is removed before the listener is closed. Later it may be the
 * next server's, which takes the place of a socket that nobody listens on. */

#include "echo.h"

#include <stdlib.h>
#include <string.h>

#define STOP_TIME (5 * PIER_SECOND)
#define WATCH_TIME (50 * PIER_MILLISECOND)
#define ORPHAN_CHECK_TIME PIER_SECOND

/* ---- stopping ---- */

static void on_watch(struct pier_op *op)
{
    struct echo_worker *worker = PIER_OWNER(op, struct echo_worker, watch);
    if ((op->flags & PIER_MORE) == 0) {
        return;
    }
    struct pier_loop_counters now;
    pier_loop_stats(worker->loop, &now);
    bool moved = now.received_bytes != worker->stats.received_bytes ||
                 now.sent_bytes != worker->stats.sent_bytes;
    bool all_sent = now.sent_bytes >= now.received_bytes;
    worker->stats = now;
    if ((!moved && all_sent) || echo_hurried() ||
        pier_loop_now(worker->loop) >= worker->stop_deadline_ns) {
        pier_loop_stop(worker->loop);
    }
}

/* Only the first worker listens on a path, so that none but its thread comes here with one. */
static void remove_path(struct echo_server *server)
{
    if (server->path.known) {
        platform_file_remove(server->address.u.path, &server->path);
        server->path.known = false;
    }
}

static void begin_stop(struct echo_worker *worker)
{
    if (worker->stopping) {
        return;
    }
    worker->stopping = true;
    worker->stop_deadline_ns = pier_loop_now(worker->loop) + STOP_TIME;
    pier_cancel(&worker->interrupt);
    if (pier_handle_is_open(&worker->listener)) {
        remove_path(worker->server);
        pier_close(&worker->listener, NULL);
    }
    pier_loop_stats(worker->loop, &worker->stats);
    worker->watch.flags = PIER_BACKGROUND;
    pier_timer_each(worker->loop, &worker->watch, WATCH_TIME, WATCH_TIME, on_watch);
}

static void on_interrupt(struct pier_op *op)
{
    if ((op->flags & PIER_MORE) != 0) {
        begin_stop(PIER_OWNER(op, struct echo_worker, interrupt));
    }
}

static void on_handed_all(struct pier_op *op)
{
    begin_stop(PIER_OWNER(op, struct echo_worker, handed_all));
}

/* Once for each worker, which can't have cancelled its `interrupt` before. */
static void notify_worker(struct echo_worker *worker)
{
    atomic_fetch_add(&worker->telling, 1);
    pier_notify(&worker->interrupt);
    atomic_fetch_sub(&worker->telling, 1);
}

void echo_server_stop(struct echo_server *server)
{
    if (atomic_flag_test_and_set(&server->stopped)) {
        return;
    }
    uint64_t count = server->hands_over ? 1 : server->options->threads;
    for (uint64_t i = 0; i < count; i++) {
        notify_worker(&server->workers[i]);
    }
}

static void on_orphan_check(struct pier_op *op)
{
    struct echo_server *server = PIER_OWNER(op, struct echo_server, orphan_check);
    if ((op->flags & PIER_MORE) != 0 && platform_process_is_orphan()) {
        echo_server_stop(server);
    }
}

/* ---- accepting ---- */

static void accept_ended(struct echo_worker *worker)
{
    struct echo_server *server = worker->server;
    if (server->closing) {
        return;
    }
    if (!worker->stopping) {
        tool_say("cannot accept connections any more: %s", pier_error_text(worker->accept.result));
        atomic_store(&server->failed, true);
        echo_server_stop(server);
    }
    for (uint64_t i = 1; server->hands_over && i < server->options->threads; i++) {
        struct echo_worker *other = &server->workers[i];
        atomic_fetch_add(&other->telling, 1);
        pier_post(other->loop, &other->handed_all, on_handed_all);
        atomic_fetch_sub(&other->telling, 1);
    }
}

static void on_accept(struct pier_op *op)
{
    struct echo_worker *worker = PIER_OWNER(op, struct echo_worker, accept);
    if ((op->flags & PIER_MORE) == 0) {
        accept_ended(worker);
        return;
    }
    struct echo_server *server = worker->server;
    uint64_t target = 0;
    if (server->hands_over) {
        target = server->next_worker++ % server->options->threads;
    }
    if (target == 0) {
        echo_connection_accept(worker);
    } else {
        echo_connection_hand_over(worker, &server->workers[target]);
    }
}

/* ---- listening ---- */

/* What helps, or NULL. */
static const char *listen_remedy(int error, const struct pier_address *address)
{
    bool is_unix = address->family == PIER_ADDRESS_UNIX;
    switch (error) {
    case PIER_EADDRINUSE:
        if (is_unix) {
            return "another program listens there, or a file that is no socket is in the way; "
                   "stop the program or choose another path";
        }
        return address->port == 0 ? "all local ports are taken; choose one of another range"
                                  : "another program has the port; stop it, choose another port, "
                                    "or 0 for any free one";
    case PIER_EADDRNOTAVAIL: return "give an address of this machine, or *:PORT for all of them";
    case PIER_EACCES:
    case PIER_EPERM:
        if (is_unix) {
            return "choose a folder that you may write to";
        }
        return address->port > 0 && address->port < 1024
                   ? "ports below 1024 are reserved; choose one from 1024 up, or give "
                     "the program the right (CAP_NET_BIND_SERVICE)"
                   : NULL;
    case PIER_EROFS: return "choose a folder that can be written to";
    case PIER_ENOENT:
    case PIER_ENOTDIR: return "make the folder first";
    case PIER_EMFILE: return platform_descriptor_remedy();
    default: return NULL;
    }
}

/* `first`: of several on one port. Where the socket can't be told after it has the port, another
 * takes its place: in between the port is free for a moment. */
static int open_listener(struct echo_worker *worker, const struct pier_address *address,
                         bool shared, bool first)
{
    struct pier_listen_options options = {.reuse_port = shared && !first, .unlink_path = true};
    int error = pier_listen(worker->loop, &worker->listener, address, &options);
    if (error >= 0) {
        error = pier_local_address(&worker->listener, &worker->server->address);
    }
    if (error >= 0 && shared && first &&
        platform_share_port((intptr_t)pier_handle_descriptor(&worker->listener)) != 0) {
        error = pier_detach(&worker->listener);
        if (error >= 0) {
            pier_handle_discard(&worker->listener);
            memset(&worker->listener, 0, sizeof(worker->listener));
            options.reuse_port = true;
            error = pier_listen(worker->loop, &worker->listener, &worker->server->address,
                                &options);
        }
    }
    return error;
}

static int listen_on(struct echo_worker *worker, const struct pier_address *address, bool shared,
                     bool first)
{
    struct echo_server *server = worker->server;
    int error = open_listener(worker, address, shared, first);
    if (error < 0) {
        char text[PIER_ADDRESS_TEXT_MAX];
        const char *remedy = listen_remedy(error, address);
        pier_address_format(address, text, sizeof(text));
        tool_say("cannot listen on %s: %s%s%s", text, pier_error_text(error),
                 remedy != NULL ? ": " : "", remedy != NULL ? remedy : "");
        return TOOL_FAILED;
    }
    if (server->address.family == PIER_ADDRESS_UNIX && server->address.path_length > 0 &&
        server->address.u.path[0] != '\0') {
        platform_file_identify(server->address.u.path, &server->path);
    }
    pier_accept_each(&worker->listener, &worker->accept, on_accept);
    return TOOL_GO_ON;
}

/* ---- workers ---- */

static int open_loop(struct echo_worker *worker)
{
    const struct echo_options *options = worker->server->options;
    /* The pool grows as it is needed. Its limit is high and each connection's share of it is small
     * (16 buffers), so that peers which don't read leave enough for the others: io_uring goes on
     * filling buffers for a receive that is paused, up to that share. */
    const struct pier_loop_options loop_options = {.backend = options->backend,
                                                   .trigger = (enum pier_trigger)options->trigger,
                                                   .buffers_max = 16384,
                                                   .buffer_share = 1024};
    int error = pier_loop_new(&worker->loop, &loop_options);
    if (error < 0) {
        tool_say("cannot make a loop: %s", pier_error_detail());
        return TOOL_FAILED;
    }
    pier_notify_each(worker->loop, &worker->interrupt, on_interrupt);
    worker->completes = (pier_loop_capabilities(worker->loop) & PIER_CAN_COMPLETE) != 0;

    size_t cleared, size = echo_connection_size((enum echo_receive)options->receive, &cleared);
    struct echo_worker *first = worker->server->workers;
    worker->connections = worker->server->hands_over ? &first->own_connections
                                                     : &worker->own_connections;
    int system_error = 0;
    if (worker->connections == &worker->own_connections) {
        system_error = slab_init(&worker->own_connections, size, cleared,
                                 worker->server->hands_over);
    }
    if (system_error == 0) {
        system_error = slab_init(&worker->sends, echo_send_size(), echo_send_size(), false);
    }
    if (system_error != 0) {
        tool_say("cannot start: %s", platform_error_text(system_error));
        return TOOL_FAILED;
    }
    return TOOL_GO_ON;
}

static bool balances(const struct pier_loop *loop, const struct pier_address *address)
{
    return (pier_loop_capabilities(loop) & PIER_CAN_SHARE_PORT) != 0 &&
           address->family != PIER_ADDRESS_UNIX;
}

/* Whether connections are handed over has to be known before the loops are made, and what decides
 * it only afterwards: a loop for the question alone. */
static int choose_sharing(struct echo_server *server, const struct pier_address *address,
                          bool shared)
{
    if (server->options->threads == 1 && !shared) {
        return TOOL_GO_ON;
    }
    struct pier_loop *loop;
    const struct pier_loop_options options = {.backend = server->options->backend};
    int error = pier_loop_new(&loop, &options);
    if (error < 0) {
        tool_say("cannot make a loop: %s", pier_error_detail());
        return TOOL_FAILED;
    }
    bool balanced = balances(loop, address);
    pier_loop_free(loop);
    if (shared && !balanced) {
        tool_say(
            "--processes needs a port that several processes can listen on, which %s is not here: "
            "use --threads",
            server->options->listen.text);
        return TOOL_FAILED;
    }
    server->hands_over = !balanced;
    return TOOL_GO_ON;
}

int echo_server_open(struct echo_server *server, const struct echo_options *options,
                     const struct pier_address *address, enum echo_place place)
{
    bool shared = place != ECHO_ALONE;
    memset(server, 0, sizeof(*server));
    atomic_flag_clear(&server->stopped);
    server->options = options;
    server->address = *address;
    int status = choose_sharing(server, address, shared);
    if (status != TOOL_GO_ON) {
        return status;
    }
    server->workers = tool_allocate(options->threads, sizeof(*server->workers));
    if (server->workers == NULL) {
        tool_say("no memory for %llu thread%s%s", (unsigned long long)options->threads,
                 tool_plural(options->threads),
                 options->threads == 1 ? "" : ": use fewer --threads");
        return TOOL_FAILED;
    }
    bool share_port = !server->hands_over && (shared || options->threads > 1);
    for (uint64_t i = 0; i < options->threads && status == TOOL_GO_ON; i++) {
        struct echo_worker *worker = &server->workers[i];
        worker->server = server;
        status = echo_interrupted() ? TOOL_DONE : open_loop(worker);
        if (status == TOOL_GO_ON && (i == 0 || !server->hands_over)) {
            status = listen_on(worker, &server->address, share_port,
                               i == 0 && place != ECHO_FURTHER);
        }
    }
    if (status != TOOL_GO_ON) {
        echo_server_close(server);
        return status;
    }
    if (shared) {
        server->orphan_check.flags = PIER_BACKGROUND;
        pier_timer_each(server->workers[0].loop, &server->orphan_check, ORPHAN_CHECK_TIME,
                        ORPHAN_CHECK_TIME, on_orphan_check);
    }
    return TOOL_GO_ON;
}

/* Ends the process from a worker's thread, where the others can't be waited for. */
static void leave(struct echo_server *server)
{
    remove_path(server);
    exit(TOOL_FAILED);
}

static void run_worker(void *argument)
{
    struct echo_worker *worker = argument;
    echo_connection_use(worker);
    int result = pier_loop_run(worker->loop, PIER_RUN_UNTIL_IDLE);
    if (result < 0) {
        /* The other workers can't know, and a server without one of its loops serves nobody
         * well. */
        tool_say("the %s loop failed: %s", pier_loop_backend(worker->loop),
                 pier_error_text(result));
        leave(worker->server);
    }
    if (pier_loop_drain(worker->loop, STOP_TIME) < 0) {
        tool_say("operations of the %s loop did not end", pier_loop_backend(worker->loop));
        leave(worker->server);
    }
    pier_loop_stats(worker->loop, &worker->stats);
    /* A thread that has just told this one may be about to wake its loop, which was awake. */
    while (atomic_load(&worker->telling) > 0) {
        platform_sleep_ns(PIER_MICROSECOND);
    }
    pier_loop_free(worker->loop);
    worker->loop = NULL;
}

static void join_workers(struct echo_server *server)
{
    for (uint64_t i = 1; i < server->options->threads; i++) {
        if (server->workers[i].runs) {
            platform_thread_join(&server->workers[i].thread);
            server->workers[i].runs = false;
        }
    }
    /* From now on a late signal may not touch the workers. */
    atomic_flag_test_and_set(&server->stopped);
}

/* Stops the threads that were started before the one that couldn't be. */
static void abandon(struct echo_server *server)
{
    bool told = atomic_flag_test_and_set(&server->stopped);
    for (uint64_t i = 1; i < server->options->threads && !told; i++) {
        if (server->workers[i].runs) {
            notify_worker(&server->workers[i]);
        }
    }
    join_workers(server);
    echo_server_close(server);
}

int echo_server_start(struct echo_server *server)
{
    uint64_t count = server->options->threads;
    for (uint64_t i = 1; i < count; i++) {
        struct echo_worker *worker = &server->workers[i];
        int error = platform_thread_start(&worker->thread, run_worker, worker);
        worker->runs = error == 0;
        if (error != 0) {
            tool_say("cannot start thread %llu of %llu: %s: use fewer --threads",
                     (unsigned long long)i + 1, (unsigned long long)count,
                     platform_error_text(error));
            abandon(server);
            return TOOL_FAILED;
        }
    }
    return TOOL_GO_ON;
}

int echo_server_run(struct echo_server *server)
{
    run_worker(&server->workers[0]);
    join_workers(server);
    return atomic_load(&server->failed) ? TOOL_FAILED : TOOL_DONE;
}

void echo_stats_add(struct pier_loop_counters *sum, const struct pier_loop_counters *stats)
{
    enum { COUNTERS = sizeof(*stats) / sizeof(uint64_t) };
    uint64_t left[COUNTERS], right[COUNTERS];
    memcpy(left, sum, sizeof(left));
    memcpy(right, stats, sizeof(right));
    for (int i = 0; i < COUNTERS; i++) {
        left[i] += right[i];
    }
    memcpy(sum, left, sizeof(left));
}

void echo_server_stats(const struct echo_server *server, struct pier_loop_counters *sum)
{
    for (uint64_t i = 0; i < server->options->threads; i++) {
        echo_stats_add(sum, &server->workers[i].stats);
    }
}

void echo_server_close(struct echo_server *server)
{
    remove_path(server);
    server->closing = true;
    for (uint64_t i = 0; server->workers != NULL && i < server->options->threads; i++) {
        struct echo_worker *worker = &server->workers[i];
        if (worker->loop != NULL) {
            /* It never ran. */
            pier_loop_drain(worker->loop, STOP_TIME);
            pier_loop_free(worker->loop);
        }
        slab_free(&worker->sends);
        slab_free(&worker->own_connections);
    }
    free(server->workers);
    server->workers = NULL;
}
