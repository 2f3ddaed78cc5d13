/* SPDX-License-Identifier: MIT */
/* echo.h - what the parts of `pier echo` share.
 *
 * echo.c reads the command line, starts processes and prints; echo_server.c has the workers of one
 * process, one loop and one thread each, how they listen and how they stop; echo_connection.c has
 * what is done for each connection and message. */

#ifndef PIER_TOOL_ECHO_H
#define PIER_TOOL_ECHO_H

#include "options.h"
#include "platform.h"
#include "slab.h"

#include <stdatomic.h>

enum echo_receive { ECHO_RECEIVE_EACH, ECHO_RECEIVE_LENT, ECHO_RECEIVE_MEMORY };

struct echo_options {
    struct tool_address listen;
    const char *backend;
    int trigger; /* enum pier_trigger */
    int receive; /* enum echo_receive */
    uint64_t threads, processes;
    bool json;
};

/* One loop with the connections it serves. */
struct echo_worker {
    struct pier_loop *loop;
    struct echo_server *server;
    struct pier_handle listener; /* not open in a worker that is handed its connections */
    struct pier_op accept;
    struct pier_op interrupt; /* armed until the worker is told to stop; keeps its loop running */
    struct pier_op handed_all;
    struct pier_op watch; /* after the stop: looks whether anything is still going on */
    bool stopping;
    bool runs;           /* on a thread of its own */
    atomic_uint telling; /* threads that are telling it to stop, and so still use its loop */
    bool completes;      /* the backend can PIER_CAN_COMPLETE */
    uint64_t stop_deadline_ns;
    uint64_t behind;          /* sends of all its connections that wait behind another */
    struct slab *connections; /* its own, or where connections are handed over the first worker's */
    struct slab own_connections, sends;
    struct pier_loop_counters stats; /* as `watch` saw them last; in the end of the whole run */
    struct platform_thread thread;
};

/* The workers of one process. */
struct echo_server {
    const struct echo_options *options;
    struct pier_address address; /* with the real port */
    struct platform_file path;   /* the file of its socket, until that is removed */
    bool hands_over;             /* the first worker accepts for all */
    atomic_flag stopped;
    atomic_bool failed;
    bool closing;         /* workers that never ran are being closed */
    uint64_t next_worker; /* whose turn it is to be handed a connection */
    struct pier_op orphan_check;
    struct echo_worker *workers; /* options->threads of them */
};

/* Which of those that listen on one port a server is. The first has to find the port free, so that
 * it can't get into another server's by mistake. */
enum echo_place { ECHO_ALONE, ECHO_FIRST, ECHO_FURTHER };

/* Makes the workers and listens on `address`, in the end with the real port. Returns TOOL_GO_ON, or
 * the exit code: TOOL_FAILED after a line on why not, TOOL_DONE when interrupted. Then nothing is
 * left to close. */
int echo_server_open(struct echo_server *server, const struct echo_options *options,
                     const struct pier_address *address, enum echo_place place);

/* Starts the threads of all workers but the first. Returns TOOL_GO_ON, or TOOL_FAILED after a line
 * on why not; then the server is closed. */
int echo_server_start(struct echo_server *server);

/* Serves until it was stopped and what was in flight is finished. Returns TOOL_DONE or
 * TOOL_FAILED. */
int echo_server_run(struct echo_server *server);

/* Asks for the stop: from any thread and from signal handlers. Asking again does nothing. */
void echo_server_stop(struct echo_server *server);

/* Adds up what the workers have counted. */
void echo_server_stats(const struct echo_server *server, struct pier_loop_counters *sum);

/* Adds one set of counters to another. */
void echo_stats_add(struct pier_loop_counters *sum, const struct pier_loop_counters *stats);

void echo_server_close(struct echo_server *server);

/* ---- interrupts ---- */

/* Whether the user wants it to end, and whether at once, without what is in flight. */
bool echo_interrupted(void);
bool echo_hurried(void);

/* ---- connections ---- */

/* The size of a connection for slab_init(), and how much of it has to be cleared. */
size_t echo_connection_size(enum echo_receive receive, size_t *cleared);
size_t echo_send_size(void);

/* In the callback of acceptor->accept: takes the socket and begins to serve it. */
void echo_connection_accept(struct echo_worker *acceptor);

/* The same, but the connection is to be served by `target`. */
void echo_connection_hand_over(struct echo_worker *acceptor, struct echo_worker *target);

/* The worker of this thread, which the functions above and the callbacks of connections work
 * for. */
void echo_connection_use(struct echo_worker *of_this_thread);

#endif
