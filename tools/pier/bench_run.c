/* SPDX-License-Identifier: MIT */
/* bench_run.c - one measurement: starts a server, drives it, reads what it has used.
 *
 * The server is `pier echo` in a process of its own, exactly as a user starts it, on one CPU. The
 * client is that of `pier load`, in another process on the other CPUs, conducted from here: when
 * all connections are open, the server's memory is read; while the load runs steadily, its CPU
 * time. System calls come from the counters that the server prints in the end; those for connecting
 * and closing are taken off, which a run with one message has counted before. */

#include "bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define START_TIME (20 * PIER_SECOND) /* for a server to listen, a client to connect */
#define END_TIME (20 * PIER_SECOND)
#define SETTLE_TIME (15 * PIER_MILLISECOND) /* between two looks whether the server is at rest */
#define GO_TIME (30 * PIER_MILLISECOND)     /* for all clients to have seen when to begin */

/* As many connections are needed to tell what memory each takes. */
enum { MEMORY_CONNECTIONS = 1000 };

struct run {
    struct bench_runner *runner;
    const struct bench_subject *subject;
    struct bench_cell *cell;
    struct load_options options; /* of the client */
    char address[64];            /* of the server */
    struct bench_command server;
    struct platform_process client;
    char output[16384]; /* of the server */
    size_t output_size;
    double memory_open;
    double cpu_ns, cpu_time_ns; /* used in that time */
};

TOOL_PRINTF(2, 3) static void fail(struct run *run, const char *format, ...)
{
    va_list arguments;
    if (run->cell->failure[0] == '\0') {
        va_start(arguments, format);
        vsnprintf(run->cell->failure, sizeof(run->cell->failure), format, arguments);
        va_end(arguments);
    }
}

static bool has_failed(const struct run *run)
{
    return run->cell->failure[0] != '\0';
}

/* ---- the server ---- */

/* What the server said last, for a message: without line end, and not its counters. */
static const char *last_words(struct run *run)
{
    char *text = run->output;
    text[run->output_size] = '\0';
    while (run->output_size > 0 && text[run->output_size - 1] == '\n') {
        text[--run->output_size] = '\0';
    }
    char *line = strrchr(text, '\n');
    return line != NULL ? line + 1 : text;
}

/* Reads more of the server's output; false at its end, or when the time is up. */
static bool read_output(struct run *run, uint64_t deadline_ns)
{
    size_t room = sizeof(run->output) - 1 - run->output_size;
    if (room == 0) {
        return false;
    }
    int size = bench_command_read(&run->server, run->output + run->output_size, room, deadline_ns);
    run->output_size += size > 0 ? (size_t)size : 0;
    run->output[run->output_size] = '\0';
    return size > 0;
}

static void start_server(struct run *run)
{
    char backend[32], trigger[32];
    snprintf(backend, sizeof(backend), "--backend=%s", run->subject->backend);
    snprintf(trigger, sizeof(trigger), "--trigger=%s", run->subject->trigger);
    char name[] = "pier", command[] = "echo", listen[] = "--listen=127.0.0.1:0", json[] = "--json";
    char *arguments[] = {name, command, listen, backend, trigger, json, NULL};
    int error = bench_command_start(&run->server, arguments, run->runner->server_cpu);
    if (error != 0) {
        run->server.ended = true;
        fail(run, "cannot start the server: %s", platform_error_text(error));
        return;
    }
    static const char word[] = "listening on ";
    uint64_t deadline_ns = platform_now_ns() + START_TIME;
    while (strchr(run->output, '\n') == NULL && read_output(run, deadline_ns)) {}
    if (strncmp(run->output, word, sizeof(word) - 1) == 0) {
        const char *from = run->output + sizeof(word) - 1;
        snprintf(run->address, sizeof(run->address), "%.*s", (int)strcspn(from, " \n"), from);
    }
    run->options.connect.text = run->address;
    if (pier_address_parse(&run->options.connect.address, run->address) >= 0) {
        return;
    }
    if (last_words(run)[0] != '\0') {
        fail(run, "the server does not listen: %s", last_words(run));
        return;
    }
    char text[PLATFORM_STATUS_MAX];
    bool late = platform_now_ns() > deadline_ns;
    int status = bench_command_stop(&run->server, platform_now_ns() + END_TIME);
    fail(run, "the server does not listen: it %s",
         late ? "took too long" : platform_status_text(text, status));
}

static void stop_server(struct run *run)
{
    if (run->server.ended) {
        return;
    }
    /* The counters fit into the pipe, so that the server can end before they are read. */
    uint64_t deadline_ns = platform_now_ns() + END_TIME;
    platform_process_interrupt(&(struct platform_process){.id_ = run->server.id});
    while (read_output(run, deadline_ns)) {}
    int status = bench_command_stop(&run->server, deadline_ns);
    if (status != 0) {
        char text[PLATFORM_STATUS_MAX];
        const char *words = last_words(run);
        fail(run, "the server %s%s%s", platform_status_text(text, status),
             words[0] != '\0' ? ": " : "", words);
    }
}

/* A number of the server's counters, or NAN. */
static double find_counter(const struct run *run, const char *name)
{
    char key[64];
    snprintf(key, sizeof(key), "\"%s\":", name);
    const char *at = strstr(run->output, key);
    return at != NULL ? strtod(at + strlen(key), NULL) : NAN;
}

/* ---- the client ---- */

struct client_thread {
    const struct run *run;
    uint64_t index;
    struct platform_thread thread;
};

static void run_thread(void *argument)
{
    struct client_thread *client = argument;
    load_client_run(&client->run->options, client->run->runner->shared, client->index,
                    client->run->runner->pattern);
}

/* In the client's process. */
static int run_client(void *argument)
{
    struct run *run = argument;
    struct load_shared *shared = run->runner->shared;
    struct client_thread threads[BENCH_THREADS_MAX];
    bench_cpus_avoid(run->runner->server_cpu);
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        threads[i] = (struct client_thread){.run = run, .index = i};
        int error = platform_thread_start(&threads[i].thread, run_thread, &threads[i]);
        if (error != 0) {
            struct load_result *result = &shared->results[i];
            snprintf(result->failure, sizeof(result->failure), "cannot start a thread: %s",
                     platform_error_text(error));
            atomic_store(&result->state, LOAD_ENDED);
        }
    }
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        platform_thread_join(&threads[i].thread);
    }
    return TOOL_DONE;
}

static bool start_client(struct run *run)
{
    struct bench_runner *runner = run->runner;
    uint64_t threads = runner->clients_max;
    if (threads > run->options.connections) {
        threads = run->options.connections;
    }
    memset(runner->shared, 0, runner->shared_size);
    runner->shared->clients_count = threads;
    run->options.threads = threads;
    int error = platform_process_start(&run->client, run_client, run);
    if (error != 0) {
        fail(run, "cannot start the client: %s", platform_error_text(error));
    }
    return error == 0;
}

/* Why a client gave up, if one has. */
static const char *client_failure(const struct run *run)
{
    const struct load_shared *shared = run->runner->shared;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        if (atomic_load(&shared->results[i].state) == LOAD_ENDED &&
            shared->results[i].failure[0] != '\0') {
            return shared->results[i].failure;
        }
    }
    return NULL;
}

static bool all_reached(const struct run *run, int state)
{
    const struct load_shared *shared = run->runner->shared;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        if (atomic_load(&shared->results[i].state) < state) {
            return false;
        }
    }
    return true;
}

/* Waits for a state of all clients; what comes in the way is a failure. */
static bool await(struct run *run, int state, uint64_t limit_ns, const char *what)
{
    uint64_t deadline_ns = platform_now_ns() + limit_ns;
    while (!all_reached(run, state) && !has_failed(run)) {
        const char *failure = client_failure(run);
        if (failure != NULL) {
            fail(run, "%s", failure);
        } else if (bench_interrupted()) {
            fail(run, "interrupted");
        } else if (platform_now_ns() > deadline_ns) {
            fail(run, "the client did not %s within %" PRIu64 " s", what, limit_ns / PIER_SECOND);
        }
        platform_sleep_ns(PIER_MILLISECOND);
    }
    const char *failure = client_failure(run);
    if (failure != NULL) {
        fail(run, "%s", failure);
    }
    return !has_failed(run);
}

static void sleep_until(uint64_t time_ns)
{
    for (;;) {
        uint64_t now_ns = platform_now_ns();
        if (now_ns >= time_ns || bench_interrupted()) {
            return;
        }
        platform_sleep_ns(time_ns - now_ns);
    }
}

/* Waits until the server has accepted what the client sees as connected: it uses no more CPU. */
static void settle(struct run *run)
{
    enum { LOOKS_MAX = 100, QUIET_LOOKS = 3 };
    double used_ns = bench_process_cpu_ns(&run->server);
    for (int looks = 0, quiet = 0; looks < LOOKS_MAX && quiet < QUIET_LOOKS; looks++) {
        platform_sleep_ns(SETTLE_TIME);
        double now_ns = bench_process_cpu_ns(&run->server);
        quiet = now_ns - used_ns > 1e5 ? 0 : quiet + 1;
        used_ns = now_ns;
    }
}

/* The load itself: all connections are open. */
static void conduct(struct run *run)
{
    struct load_shared *shared = run->runner->shared;
    uint64_t go_ns = platform_now_ns() + GO_TIME;
    atomic_store(&shared->go_ns, go_ns);
    sleep_until(go_ns + run->options.warmup_ns);
    uint64_t from_ns = platform_now_ns();
    double used_ns = bench_process_cpu_ns(&run->server);
    sleep_until(go_ns + run->options.warmup_ns + run->options.duration_ns);
    run->cpu_ns = bench_process_cpu_ns(&run->server) - used_ns;
    run->cpu_time_ns = (double)(platform_now_ns() - from_ns);
    await(run, LOAD_ANSWERED, END_TIME, "get all answers");
}

/* Ends the client, by force if it has to be. */
static void end_client(struct run *run)
{
    struct load_shared *shared = run->runner->shared;
    uint64_t deadline_ns = platform_now_ns() + END_TIME;
    int status;
    atomic_store(&shared->close, true);
    atomic_store(&shared->stop, true);
    while (!platform_process_ended(&run->client, &status)) {
        if (deadline_ns != 0 && platform_now_ns() > deadline_ns) {
            deadline_ns = 0;
            fail(run, "the client did not end");
            platform_process_kill(&run->client);
        }
        platform_sleep_ns(PIER_MILLISECOND);
    }
    if (status != TOOL_DONE) {
        char text[PLATFORM_STATUS_MAX];
        fail(run, "the client %s", platform_status_text(text, status));
    }
    if (load_report_errors(shared) > 0) {
        const char *first = "";
        for (uint64_t i = 0; i < shared->clients_count && first[0] == '\0'; i++) {
            first = shared->results[i].first_error;
        }
        fail(run, "%" PRIu64 " errors, the first: %s", load_report_errors(shared), first);
    }
}

/* ---- the whole ---- */

static void add_figures(struct run *run)
{
    struct load_shared *shared = run->runner->shared;
    struct bench_cell *cell = run->cell;
    static struct histogram latency; /* too large for some stacks */
    memset(&latency, 0, sizeof(latency));
    double rate = 0;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        const struct load_result *result = &shared->results[i];
        if (result->measured_ns > 0) {
            rate += (double)atomic_load(&result->messages) * 1e9 / (double)result->measured_ns;
        }
        histogram_merge(&latency, &result->latency);
    }
    if (rate <= 0) {
        return; /* a round without messages says nothing of what they cost */
    }
    uint64_t connections = run->options.connections + run->options.idle;
    double messages = find_counter(run, "received_bytes") / (double)run->options.size;
    double figures[BENCH_FIGURES];
    figures[BENCH_RATE] = rate;
    figures[BENCH_P50] = (double)histogram_quantile(&latency, 0.5) / 1e3;
    figures[BENCH_P99] = (double)histogram_quantile(&latency, 0.99) / 1e3;
    figures[BENCH_CPU] = run->cpu_ns / run->cpu_time_ns * 1e9 / rate / 1e3;
    /* How many calls connecting takes varies a little; where it took most of them the difference
     * would be made of that. */
    double calls = find_counter(run, "system_calls") - cell->setup_calls;
    figures[BENCH_CALLS] = calls >= cell->setup_calls ? calls / messages : NAN;
    /* Memory comes in pages, and rings fill up once: few connections say nothing. */
    figures[BENCH_MEMORY] = connections >= MEMORY_CONNECTIONS
                                ? (run->memory_open - run->subject->base_memory) /
                                      (double)(connections - BENCH_BASE)
                                : NAN;
    figures[BENCH_BUSY] = run->cpu_ns / run->cpu_time_ns * 100;
    for (int i = 0; i < BENCH_FIGURES; i++) {
        cell->samples[i][cell->samples_count] = figures[i];
    }
    cell->samples_count++;
}

static void drive(struct run *run)
{
    uint64_t limit_ns = START_TIME +
                        (run->options.connections + run->options.idle) * 4 * PIER_MILLISECOND;
    if (!start_client(run)) {
        return;
    }
    if (await(run, LOAD_READY, limit_ns, "connect")) {
        settle(run);
        run->memory_open = bench_process_memory(&run->server);
        conduct(run);
    }
    end_client(run);
}

void bench_run(struct bench_runner *runner, const struct bench *bench,
               const struct bench_subject *subject, const struct bench_point *point, bool load,
               struct bench_cell *cell)
{
    struct run *run = calloc(1, sizeof(*run));
    if (run == NULL) {
        snprintf(cell->failure, sizeof(cell->failure), "no memory for a run");
        return;
    }
    run->runner = runner;
    run->subject = subject;
    run->cell = cell;
    run->options.connections = point->active;
    run->options.idle = point->connections - point->active;
    run->options.size = bench->size;
    run->options.depth = bench->depth;
    run->options.processes = 1;
    run->options.duration_ns = bench->duration_ns;
    run->options.warmup_ns = bench->warmup_ns;
    if (!load) {
        /* One message, so that connections are opened and closed as they are around a load. */
        run->options.rate = 1;
        run->options.duration_ns = 10 * PIER_MILLISECOND;
        run->options.warmup_ns = 0;
    }
    start_server(run);
    if (!has_failed(run)) {
        drive(run);
    }
    stop_server(run);
    if (bench_interrupted()) {
        /* Whatever came of that is no fault of the backend's. */
        cell->failure[0] = '\0';
    } else if (!has_failed(run) && load) {
        add_figures(run);
    } else if (!has_failed(run)) {
        cell->setup_calls = find_counter(run, "system_calls");
        cell->setup_memory = run->memory_open;
    }
    free(run);
}

int bench_runner_open(struct bench_runner *runner)
{
    memset(runner, 0, sizeof(*runner));
    runner->server_cpu = bench_cpus_split(&runner->clients_max);
    if (runner->clients_max > BENCH_THREADS_MAX) {
        runner->clients_max = BENCH_THREADS_MAX;
    }
    runner->shared_size = sizeof(*runner->shared) +
                          runner->clients_max * sizeof(runner->shared->results[0]);
    runner->shared = platform_shared_memory(runner->shared_size);
    runner->pattern = load_pattern_new();
    if (runner->shared == NULL || runner->pattern == NULL) {
        tool_say("no memory for the client");
        bench_runner_close(runner);
        return TOOL_FAILED;
    }
    return TOOL_GO_ON;
}

void bench_runner_close(struct bench_runner *runner)
{
    free(runner->pattern);
    runner->pattern = NULL;
}
