/* SPDX-License-Identifier: MIT */
/* load_client.c - a client of `pier load`: one loop with its share of the connections, and the
 * phases it goes through.
 *
 * Connect, wait until all clients are connected, warm up, measure, finish, wait until all clients
 * have their answers, close. The conductor says when through shared memory, where the client looks
 * every few milliseconds; the clock is the same in all processes.
 *
 * With --rate R, message m of all is due at start + m / R and belongs to connection m mod N, so
 * that what is due when follows from numbers alone and nothing has to be kept for a server that
 * stalls. The timer's tick is allowed for: messages may go that much early, and then count from
 * when they went. */

#include "load.h"

#include <stdarg.h>
#include <string.h>

#define TICK_TIME (10 * PIER_MILLISECOND)
#define FINISH_TIME (5 * PIER_SECOND)
#define EARLY_TIME UINT64_C(65536) /* the loop's timers are late by this at the most */

static void end(struct load_client *client)
{
    client->phase = LOAD_PHASE_END;
    pier_loop_stop(client->loop);
}

void load_client_fail(struct load_client *client, const char *format, ...)
{
    if (client->result->failure[0] == '\0') {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(client->result->failure, sizeof(client->result->failure), format, arguments);
        va_end(arguments);
    }
    end(client);
}

bool load_client_take_message(struct load_client *client)
{
    if (client->budget == 0) {
        return false;
    }
    client->budget--;
    client->in_flight++;
    return true;
}

/* ---- the schedule ---- */

uint64_t load_client_due_ns(const struct load_client *client, uint64_t round, uint64_t turn)
{
    uint64_t number = round * client->options->connections + client->first + turn;
    uint64_t rate = client->options->rate;
    return client->start_ns + number / rate * PIER_SECOND + number % rate * PIER_SECOND / rate;
}

static void on_schedule(struct pier_op *op)
{
    struct load_client *client = PIER_OWNER(op, struct load_client, schedule);
    if (op->result < 0 || client->phase >= LOAD_PHASE_FINISH) {
        return;
    }
    uint64_t now_ns = platform_now_ns();
    uint64_t due_ns;
    while ((due_ns = load_client_due_ns(client, client->round, client->turn)) <=
           now_ns + EARLY_TIME) {
        load_connection_due(client, client->turn, now_ns);
        if (++client->turn == client->count) {
            client->turn = 0;
            client->round++;
        }
    }
    if (client->budget > 0) {
        pier_timer(client->loop, &client->schedule, due_ns - EARLY_TIME - now_ns, on_schedule);
    }
}

/* ---- phases ---- */

static void on_next(struct pier_op *op);

static void set_next(struct load_client *client, uint64_t delay_ns)
{
    if (pier_op_pending(&client->next)) {
        pier_timer_reset(&client->next, delay_ns);
    } else {
        pier_timer(client->loop, &client->next, delay_ns, on_next);
    }
}

/* Tells the conductor that nothing is in flight any more. */
static void check_answers(struct load_client *client)
{
    if (client->in_flight == 0 && atomic_load(&client->result->state) < LOAD_ANSWERED) {
        atomic_store(&client->result->state, LOAD_ANSWERED);
    }
}

static void finish(struct load_client *client)
{
    uint64_t now_ns = platform_now_ns();
    client->phase = LOAD_PHASE_FINISH;
    client->result->measured_ns = now_ns - client->measured_from_ns;
    pier_cancel(&client->schedule);
    for (uint64_t i = 0; i < client->count + client->idle; i++) {
        load_connection_finish(client, i, now_ns);
    }
    check_answers(client);
    client->remaining = client->in_flight + client->open;
    set_next(client, FINISH_TIME);
}

static void close_all(struct load_client *client)
{
    client->phase = LOAD_PHASE_CLOSE;
    for (uint64_t i = 0; i < client->count + client->idle; i++) {
        load_connection_close(client, i);
    }
    if (client->open == 0) {
        end(client);
    } else {
        client->remaining = client->in_flight + client->open;
        set_next(client, FINISH_TIME);
    }
}

static void give_up(struct load_client *client)
{
    uint64_t now_ns = platform_now_ns();
    for (uint64_t i = 0; i < client->count + client->idle; i++) {
        load_connection_give_up(client, i, now_ns);
    }
    end(client);
}

/* Gives up when nothing has come in, and nothing was closed, for FINISH_TIME. */
static void look_again(struct load_client *client)
{
    uint64_t remaining = client->in_flight + client->open;
    if (remaining < client->remaining) {
        client->remaining = remaining;
        set_next(client, FINISH_TIME);
    } else {
        give_up(client);
    }
}

static void measure(struct load_client *client)
{
    client->phase = LOAD_PHASE_MEASURE;
    client->measured_from_ns = platform_now_ns();
    memset(&client->result->latency, 0, sizeof(client->result->latency));
    atomic_store_explicit(&client->result->messages, 0, memory_order_relaxed);
    if (client->options->duration_ns > 0) {
        set_next(client, client->options->duration_ns);
    }
}

static void begin(struct load_client *client)
{
    client->start_ns = atomic_load(&client->shared->go_ns);
    client->measured_from_ns = client->start_ns;
    client->phase = LOAD_PHASE_WARM_UP;
    if (client->options->warmup_ns > 0) {
        set_next(client, client->options->warmup_ns);
    } else {
        measure(client);
    }
    if (client->options->rate > 0 && client->count > 0) {
        pier_timer(client->loop, &client->schedule, 0, on_schedule);
        return;
    }
    for (uint64_t i = 0; i < client->count; i++) {
        if (client->options->churn) {
            load_connection_open(client, i);
        } else {
            load_connection_begin(client, i);
        }
    }
    /* Nothing comes if all were lost before. */
    load_client_check_end(client);
}

static void on_next(struct pier_op *op)
{
    struct load_client *client = PIER_OWNER(op, struct load_client, next);
    if (op->result < 0) {
        return;
    }
    switch (client->phase) {
    case LOAD_PHASE_WAIT: begin(client); break;
    case LOAD_PHASE_WARM_UP: measure(client); break;
    case LOAD_PHASE_MEASURE: finish(client); break;
    case LOAD_PHASE_FINISH:
    case LOAD_PHASE_CLOSE: look_again(client); break;
    case LOAD_PHASE_CONNECT:
    case LOAD_PHASE_END: break;
    }
}

static void on_tick(struct pier_op *op)
{
    struct load_client *client = PIER_OWNER(op, struct load_client, tick);
    if ((op->flags & PIER_MORE) == 0) {
        return;
    }
    bool stop = atomic_load(&client->shared->stop);
    uint64_t go_ns = atomic_load(&client->shared->go_ns);
    if (platform_process_is_orphan() || (stop && client->phase <= LOAD_PHASE_WAIT)) {
        end(client);
    } else if (stop && client->phase <= LOAD_PHASE_MEASURE) {
        finish(client);
    } else if (atomic_load(&client->shared->give_up) && client->phase != LOAD_PHASE_END) {
        give_up(client);
    } else if (client->phase == LOAD_PHASE_FINISH && atomic_load(&client->shared->close)) {
        close_all(client);
    } else if (client->phase == LOAD_PHASE_WAIT && go_ns > 0 && !pier_op_pending(&client->next)) {
        uint64_t now_ns = platform_now_ns();
        set_next(client, go_ns > now_ns ? go_ns - now_ns : 0);
    }
}

/* ---- what connections tell ---- */

void load_client_check_end(struct load_client *client)
{
    if (client->phase == LOAD_PHASE_FINISH) {
        check_answers(client);
    }
    if (client->phase != LOAD_PHASE_WARM_UP && client->phase != LOAD_PHASE_MEASURE) {
        return;
    }
    bool all_sent = client->budget == 0 && client->in_flight == 0;
    if (all_sent || client->active == 0) {
        finish(client);
    }
}

void load_client_closed(struct load_client *client)
{
    if (client->phase == LOAD_PHASE_CLOSE && client->open == 0) {
        end(client);
    }
}

/* Opens as many connections as may be connecting at a time: the peer's backlog is short. */
static void connect_more(struct load_client *client)
{
    uint64_t in_flight_max = LOAD_CONNECTS_MAX / client->shared->clients_count + 1;
    uint64_t first = client->options->churn ? client->count : 0;
    uint64_t wanted = client->count + client->idle - first;
    while (client->attempted < wanted && client->attempted - client->connected < in_flight_max &&
           client->phase == LOAD_PHASE_CONNECT) {
        load_connection_open(client, first + client->attempted++);
    }
    if (client->connected == wanted && client->phase == LOAD_PHASE_CONNECT) {
        client->phase = LOAD_PHASE_WAIT;
        atomic_store(&client->result->state, LOAD_READY);
    }
}

void load_client_connected(struct load_client *client)
{
    client->connected++;
    connect_more(client);
}

/* ---- the whole ---- */

static uint64_t share(uint64_t amount, uint64_t index, uint64_t clients, uint64_t *first)
{
    *first = amount * index / clients;
    return amount * (index + 1) / clients - *first;
}

static void run(struct load_client *client)
{
    const struct pier_loop_options loop_options = {
        .backend = client->options->backend,
        .buffer_size = client->options->size * client->options->depth > 16384 ? LOAD_RECEIVE_MAX
                                                                              : 0};
    if (pier_loop_new(&client->loop, &loop_options) < 0) {
        snprintf(client->result->failure, sizeof(client->result->failure), "cannot make a loop: %s",
                 pier_error_detail());
        return;
    }
    snprintf(client->result->backend, sizeof(client->result->backend), "%s",
             pier_loop_backend(client->loop));
    pier_timer_each(client->loop, &client->tick, TICK_TIME, TICK_TIME, on_tick);
    connect_more(client);
    int result = pier_loop_run(client->loop, PIER_RUN_UNTIL_IDLE);
    if (result < 0) {
        load_client_fail(client, "the %s loop failed: %s", pier_loop_backend(client->loop),
                         pier_error_text(result));
    }
    client->phase = LOAD_PHASE_END;
    if (pier_loop_drain(client->loop, FINISH_TIME) < 0) {
        load_client_fail(client, "operations of the %s loop did not end",
                         pier_loop_backend(client->loop));
        return;
    }
    pier_loop_free(client->loop);
}

void load_client_run(const struct load_options *options, struct load_shared *shared, uint64_t index,
                     const unsigned char *pattern)
{
    struct load_client client = {.options = options,
                                 .shared = shared,
                                 .result = &shared->results[index],
                                 .pattern = pattern};
    uint64_t clients = shared->clients_count, first_message;
    client.count = share(options->connections, index, clients, &client.first);
    client.idle = share(options->idle, index, clients, &client.first_idle);
    client.budget = options->messages > 0 ? share(options->messages, index, clients, &first_message)
                                          : UINT64_MAX;
    client.active = client.count;
    if (load_connections_new(&client)) {
        run(&client);
    } else {
        snprintf(
            client.result->failure, sizeof(client.result->failure),
            "no memory for %llu connections of depth %llu: use fewer --connections or less --depth",
            (unsigned long long)(client.count + client.idle), (unsigned long long)options->depth);
    }
    load_connections_free(&client);
    atomic_store(&client.result->state, LOAD_ENDED);
}
