/* SPDX-License-Identifier: MIT */
/* load.h - what the parts of `pier load` share.
 *
 * load.c reads the command line, starts the clients and conducts them; load_client.c has a client,
 * one loop with its share of the connections, and the phases it goes through; load_connection.c
 * has what is done for each connection and message; load_report.c prints. Clients are threads of
 * this process, or of several. They and the conductor know each other only through struct
 * load_shared, which lies in shared memory. */

#ifndef PIER_TOOL_LOAD_H
#define PIER_TOOL_LOAD_H

#include "histogram.h"
#include "options.h"
#include "platform.h"

#include <stdatomic.h>

struct load_options {
    struct tool_address connect;
    const char *backend;
    uint64_t connections, idle, size, depth;
    uint64_t messages; /* in all; 0: as many as there is time for */
    uint64_t rate;     /* messages per second in all; 0: closed loop */
    uint64_t processes, threads;
    uint64_t duration_ns, warmup_ns; /* duration 0: until all messages are sent */
    bool churn, json;
    bool can_spread; /* over more --processes, which `pier bench` doesn't have */
};

/* What can go wrong with a connection or message. From LOAD_ERROR_SYSTEM on: pier's error numbers,
 * sign turned. */
enum load_error {
    LOAD_ERROR_WRONG_BYTES,
    LOAD_ERROR_EXTRA_BYTES,  /* more came than was sent */
    LOAD_ERROR_CLOSED_EARLY, /* the peer ended its stream though we hadn't */
    LOAD_ERROR_UNANSWERED,   /* messages without an answer in the end */
    LOAD_ERROR_NOT_CLOSED,   /* the peer didn't end its stream after we had */
    LOAD_ERROR_SYSTEM,
    LOAD_ERRORS = LOAD_ERROR_SYSTEM + 100
};

enum load_state { LOAD_CONNECTING, LOAD_READY, LOAD_ANSWERED, LOAD_ENDED };

/* What a client has done. Written by it alone; the atomics may be read meanwhile. */
struct load_result {
    _Atomic int state;
    _Atomic uint64_t messages; /* answered in the measured time */
    _Atomic uint64_t errors_seen;
    uint64_t measured_ns;
    uint64_t unsent; /* due by --rate, but the server had not answered those before */
    uint64_t errors[LOAD_ERRORS];
    struct histogram latency;
    char backend[32];
    char first_error[160]; /* the first error in words */
    char failure[400];     /* why the client gave up, or empty */
};

struct load_shared {
    _Atomic uint64_t go_ns; /* when the load begins, 0: not known yet */
    atomic_bool stop;       /* nothing new; what is in flight is waited for */
    atomic_bool give_up;    /* it isn't any more */
    atomic_bool close;      /* all answers are in */
    uint64_t clients_count;
    struct load_result results[];
};

/* ---- clients ---- */

enum load_phase {
    LOAD_PHASE_CONNECT, /* opening connections */
    LOAD_PHASE_WAIT,    /* for the others */
    LOAD_PHASE_WARM_UP,
    LOAD_PHASE_MEASURE,
    LOAD_PHASE_FINISH, /* nothing new; the last answers come in */
    LOAD_PHASE_CLOSE,  /* all clients have theirs; the connections are closed */
    LOAD_PHASE_END
};

struct load_connection;

struct load_client {
    const struct load_options *options;
    struct load_shared *shared;
    struct load_result *result;
    struct pier_loop *loop;
    enum load_phase phase;
    struct pier_op tick;     /* keeps the loop running; looks at what the conductor says */
    struct pier_op next;     /* the next phase */
    struct pier_op schedule; /* --rate */

    const unsigned char *pattern;
    uint64_t first, count;     /* active connections: the number of the first, how many */
    uint64_t first_idle, idle; /* likewise */
    struct load_connection *connections;
    uint64_t *times;
    uint64_t attempted, connected; /* while connecting */
    uint64_t open;                 /* handles */
    uint64_t active;               /* active connections that are not lost */
    uint64_t budget;               /* messages that may still be sent */
    uint64_t in_flight;            /* messages released or due, and not answered or lost */
    uint64_t remaining;            /* in_flight + open when last looked at */
    uint64_t start_ns, measured_from_ns;
    uint64_t round, turn; /* --rate: the next message is that of connection `turn` in this round */

    struct platform_thread thread;
};

/* Runs a client from the first connection to the last; its outcome is in its result. `index` of
 * shared->clients_count. */
void load_client_run(const struct load_options *options, struct load_shared *shared, uint64_t index,
                     const unsigned char *pattern);

/* Gives up, with the reason. */
TOOL_PRINTF(2, 3) void load_client_fail(struct load_client *client, const char *format, ...);

/* Called by connections: one that should be connected is, one has been closed, messages were
 * answered or lost. */
void load_client_connected(struct load_client *client);
void load_client_closed(struct load_client *client);
void load_client_check_end(struct load_client *client);

/* Whether there may be one more message: counts it as in flight. */
bool load_client_take_message(struct load_client *client);

/* When the message of connection `turn` in a round is due. */
uint64_t load_client_due_ns(const struct load_client *client, uint64_t round, uint64_t turn);

/* ---- connections ---- */

enum {
    LOAD_SEND_MAX = 256 * 1024, /* bytes handed over at a time */
    LOAD_RECEIVE_MAX = 64 * 1024,
    LOAD_CONNECTS_MAX = 64, /* connects in flight, of all clients */
    LOAD_CONNECTIONS_PER_SOURCE = 5000,
    LOAD_IN_FLIGHT_MAX = 1 << 30 /* bytes on a connection: all of them are waited for in the end */
};

/* Whether messages of this size may be in flight in such a number; says so if not. */
bool load_check_in_flight(uint64_t size, uint64_t depth);

/* What is sent, at any offset, and then expected. Made once per process; NULL when there is no
 * memory. */
unsigned char *load_pattern_new(void);

/* Makes the connections of a client, none of them open. Returns false when there is no memory. */
bool load_connections_new(struct load_client *client);
void load_connections_free(struct load_client *client);

/* Opens a connection; what comes of it is reported by load_client_connected(), load_client_fail()
 * or as an error. */
void load_connection_open(struct load_client *client, uint64_t index);

/* Begins the load on an open connection: closed loop. */
void load_connection_begin(struct load_client *client, uint64_t index);

/* One more message is due on a connection: --rate. */
void load_connection_due(struct load_client *client, uint64_t index, uint64_t now_ns);

/* No new messages. */
void load_connection_finish(struct load_client *client, uint64_t index, uint64_t now_ns);

/* Ends the stream; the peer has to do the same. */
void load_connection_close(struct load_client *client, uint64_t index);

/* Counts what has not come to an end in time as errors. */
void load_connection_give_up(struct load_client *client, uint64_t index, uint64_t now_ns);

/* ---- the report ---- */

/* The errors of all clients. */
uint64_t load_report_errors(const struct load_shared *shared);

void load_report_print(const struct load_options *options, const struct load_shared *shared);

#endif
