/* SPDX-License-Identifier: MIT */
/* load.c - `pier load`: the command line, and the conductor of the clients.
 *
 * Each client is a thread of this process, or with --processes of one of several. The conductor
 * waits until all are connected, says when to begin, shows the progress on a terminal, hands an
 * interrupt on, and prints the sum of what the clients leave in shared memory. */

#include "load.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
    "usage: pier load --connect ADDRESS [OPTION...]\n"
    "\n"
    "Puts load on an echo server, checks every byte that comes back, and prints throughput,\n"
    "latency and errors. Exit code 1 when there were errors.\n"
    "\n"
    "  --connect ADDRESS  127.0.0.1:7000, [::1]:7000, unix:/path, unix:@name\n"
    "  --connections N    connections that send; default 50\n"
    "  --idle N           more connections that stay silent; default 0\n"
    "  --size BYTES       of a message: 64, 16k, 1M; default 64\n"
    "  --depth N          messages in flight on a connection; default 1\n"
    "  --duration TIME    how long to measure: 10, 0.5, 500ms, 2m; default 10 seconds\n"
    "  --warmup TIME      load before that is not counted; default 0\n"
    "  --messages N       stop after so many messages; --duration then is a limit, or none\n"
    "  --rate N           messages per second in all. Without it a message is sent for each\n"
    "                     answer (closed loop). With it each is due at its time, and latency\n"
    "                     counts from there, so that a server that stalls can't hide it\n"
    "  --churn            each connection: connect, one echo, close, again; latency counts from\n"
    "                     the start of the connect\n"
    "  --threads N        threads with their share of the connections; default 1\n"
    "  --processes N      processes with that many threads each; default 1\n"
    "  --backend NAME     what the client's loops run on; default: the best that works here\n"
    "  --json             print one line of JSON\n"
    "\n"
    "Ctrl-C (SIGINT, SIGTERM or SIGHUP) ends the measurement early; what is in flight is waited\n"
    "for, as long as answers come. A second one gives that up, and counts it as errors.\n"
    "Over 127.0.0.0/8 every 5,000 connections get a local address of their own, so that ports\n"
    "suffice.\n";

enum { PROCESSES_MAX = 1024 };

static int parse(struct load_options *options, int argc, char **argv)
{
    const uint64_t not_given = UINT64_MAX;
    memset(options, 0, sizeof(*options));
    options->connections = 50;
    options->size = 64;
    options->depth = 1;
    options->processes = 1;
    options->threads = 1;
    options->duration_ns = not_given;
    options->can_spread = true;
    const uint64_t day = 24 * 3600 * PIER_SECOND;
    const struct tool_option table[] = {
        {.name = "--connect", .kind = TOOL_OPTION_ADDRESS, .value.address = &options->connect},
        {.name = "--connections",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->connections,
         .min = 1,
         .max = 1000000},
        {.name = "--idle",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->idle,
         .min = 0,
         .max = 1000000},
        {.name = "--size",
         .kind = TOOL_OPTION_SIZE,
         .value.number = &options->size,
         .min = 1,
         .max = 64 << 20},
        {.name = "--depth",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->depth,
         .min = 1,
         .max = 65536},
        {.name = "--duration",
         .kind = TOOL_OPTION_DURATION,
         .value.number = &options->duration_ns,
         .min = 10 * PIER_MILLISECOND,
         .max = day},
        {.name = "--warmup",
         .kind = TOOL_OPTION_DURATION,
         .value.number = &options->warmup_ns,
         .min = 0,
         .max = day},
        {.name = "--messages",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->messages,
         .min = 1,
         .max = 1000000000000},
        {.name = "--rate",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->rate,
         .min = 1,
         .max = 100000000},
        {.name = "--processes",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->processes,
         .min = 1,
         .max = PROCESSES_MAX},
        {.name = "--threads",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->threads,
         .min = 1,
         .max = 1024},
        {.name = "--churn", .kind = TOOL_OPTION_FLAG, .value.flag = &options->churn},
        {.name = "--backend", .kind = TOOL_OPTION_BACKEND, .value.text = &options->backend},
        {.name = "--json", .kind = TOOL_OPTION_FLAG, .value.flag = &options->json},
        {.name = NULL},
    };
    int status = tool_options_parse(table, help_text, argc, argv);
    if (status != TOOL_GO_ON) {
        return status;
    }
    if (options->duration_ns == not_given) {
        options->duration_ns = options->messages > 0 ? 0 : 10 * PIER_SECOND;
    }
    return TOOL_GO_ON;
}

bool load_check_in_flight(uint64_t size, uint64_t depth)
{
    if (size <= LOAD_IN_FLIGHT_MAX / depth) {
        return true;
    }
    tool_say("--size %" PRIu64 " times --depth %" PRIu64
             " is more than 1 GiB in flight on a connection: use a --depth up to %d",
             size, depth, (int)(LOAD_IN_FLIGHT_MAX / size));
    return false;
}

/* What each option allows by itself, but not together. */
static int check(const struct load_options *options)
{
    const struct pier_address *to = &options->connect.address;
    uint64_t clients = options->processes * options->threads;
    if (options->connect.text == NULL) {
        tool_say(
            "--connect ADDRESS is needed: where the echo server listens, such as 127.0.0.1:7000");
    } else if (to->family != PIER_ADDRESS_UNIX && to->port == 0) {
        tool_say("--connect %s has port 0, which nobody listens on: give the port that the server "
                 "printed",
                 options->connect.text);
    } else if (options->churn && options->depth > 1) {
        tool_say("--churn sends one message per connection: leave out --depth %" PRIu64,
                 options->depth);
    } else if (options->churn && options->rate > 0) {
        tool_say("--churn is a closed loop: leave out --rate %" PRIu64, options->rate);
    } else if (!tool_check_loops(options->threads, options->processes)) {
        return TOOL_USAGE;
    } else if (clients > options->connections) {
        tool_say("%" PRIu64 " clients (--processes times --threads) can't share %" PRIu64
                 " connection%s: use more --connections",
                 clients, options->connections, tool_plural(options->connections));
    } else if (options->messages > 0 && options->messages < options->connections) {
        tool_say("--messages %" PRIu64 " is less than one for each of %" PRIu64
                 " connections: use fewer --connections",
                 options->messages, options->connections);
    } else if (load_check_in_flight(options->size, options->depth)) {
        return TOOL_GO_ON;
    }
    return TOOL_USAGE;
}

enum { SPARE_DESCRIPTORS = 32 }; /* of each client */

/* What else than a higher limit would make all connections fit: part of a sentence, or nothing. */
static void advise_on_descriptors(const struct load_options *options, uint64_t limit, char *text,
                                  size_t size)
{
    uint64_t total = options->connections + options->idle;
    uint64_t spare = SPARE_DESCRIPTORS * options->threads;
    uint64_t room = limit > spare ? limit - spare : 0;
    uint64_t processes = room > 0 ? (total + room - 1) / room : UINT64_MAX;
    text[0] = '\0';
    /* The bounds of check() and of the option itself. */
    if (processes <= PROCESSES_MAX && processes * options->threads <= TOOL_LOOPS_MAX &&
        processes * options->threads <= options->connections) {
        snprintf(text, size, "use --processes %" PRIu64 ", or ", processes);
    } else if (options->threads > 1 &&
               (total + options->processes - 1) / options->processes + SPARE_DESCRIPTORS <= limit) {
        snprintf(text, size, "use fewer --threads, or ");
    }
}

/* Whether all connections fit; a client that finds out half way leaves the server with the other
 * half. */
static int check_descriptors(const struct load_options *options)
{
    uint64_t limit = platform_raise_descriptor_limit();
    uint64_t total = options->connections + options->idle;
    uint64_t each = (total + options->processes - 1) / options->processes +
                    SPARE_DESCRIPTORS * options->threads;
    if (each <= limit) {
        return TOOL_GO_ON;
    }
    char advice[64];
    advise_on_descriptors(options, limit, advice, sizeof(advice));
    tool_say("%" PRIu64 " connection%s need%s %" PRIu64
             " open descriptors in a process, and the limit is %" PRIu64 ": %s%s",
             total, tool_plural(total), total == 1 ? "s" : "", each, limit, advice,
             platform_descriptor_remedy());
    return TOOL_FAILED;
}

/* ---- clients ---- */

struct starter {
    const struct load_options *options;
    struct load_shared *shared;
    unsigned char *pattern;
    uint64_t first; /* client of the process */
    struct platform_thread *threads;
};

struct client_start {
    const struct starter *starter;
    uint64_t index;
};

static void run_client(void *argument)
{
    struct client_start *start = argument;
    load_client_run(start->starter->options, start->starter->shared, start->index,
                    start->starter->pattern);
    free(start);
}

/* Starts the threads of this process; those that can't be started report as clients that failed. */
static void start_threads(struct starter *starter)
{
    for (uint64_t i = 0; i < starter->options->threads; i++) {
        struct client_start *start = malloc(sizeof(*start));
        int error = -1;
        if (start != NULL) {
            *start = (struct client_start){.starter = starter, .index = starter->first + i};
            error = platform_thread_start(&starter->threads[i], run_client, start);
        }
        if (error != 0) {
            free(start);
            struct load_result *result = &starter->shared->results[starter->first + i];
            snprintf(result->failure, sizeof(result->failure),
                     "cannot start thread %" PRIu64 " of %" PRIu64 ": %s%s", i + 1,
                     starter->options->threads,
                     error > 0 ? platform_error_text(error) : "out of memory",
                     i > 0 ? ": use fewer --threads" : "");
            atomic_store(&result->state, LOAD_ENDED);
        }
    }
}

static void join_threads(struct starter *starter)
{
    for (uint64_t i = 0; i < starter->options->threads; i++) {
        platform_thread_join(&starter->threads[i]);
    }
}

static int run_process(void *argument)
{
    struct starter *starter = argument;
    start_threads(starter);
    join_threads(starter);
    return TOOL_DONE;
}

/* ---- the conductor ---- */

static atomic_uint interrupts;

static void on_interrupt(void)
{
    atomic_fetch_add(&interrupts, 1);
}

struct progress {
    bool shown;
    uint64_t last_ns, last_messages;
};

static void show_progress(struct progress *progress, const struct load_shared *shared)
{
    uint64_t now_ns = platform_now_ns();
    if (now_ns - progress->last_ns < PIER_SECOND / 2) {
        return;
    }
    uint64_t messages = 0, errors = 0;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        messages += atomic_load(&shared->results[i].messages);
        errors += atomic_load(&shared->results[i].errors_seen);
    }
    if (messages < progress->last_messages) {
        progress->last_messages = 0; /* the warm-up was over */
    }
    if (progress->last_ns > 0) {
        char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
        double seconds = (double)(now_ns - progress->last_ns) / 1e9;
        double rate = (double)(messages - progress->last_messages) / seconds;
        uint64_t go_ns = atomic_load(&shared->go_ns);
        fprintf(stderr, "\r%6.1f s  %14s messages/s  %s errors   ",
                go_ns > 0 && now_ns > go_ns ? (double)(now_ns - go_ns) / 1e9 : 0.0,
                tool_format_count(text, (uint64_t)rate), tool_format_count(more, errors));
        progress->shown = true;
    }
    progress->last_ns = now_ns;
    progress->last_messages = messages;
}

/* Whether all clients have reached a state; a failed one makes all stop. */
static bool all_reached(struct load_shared *shared, int state)
{
    bool all = true;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        int reached = atomic_load(&shared->results[i].state);
        if (reached == LOAD_ENDED && shared->results[i].failure[0] != '\0') {
            atomic_store(&shared->stop, true);
        }
        all = all && reached >= state;
    }
    return all;
}

/* Notices processes that ended without having said so. */
static void check_processes(struct load_shared *shared, struct platform_process *processes,
                            bool *ended, const struct load_options *options)
{
    for (uint64_t i = 0; i < options->processes; i++) {
        int status;
        if (ended[i] || !platform_process_ended(&processes[i], &status)) {
            continue;
        }
        ended[i] = true;
        for (uint64_t j = 0; j < options->threads; j++) {
            struct load_result *result = &shared->results[i * options->threads + j];
            if (atomic_load(&result->state) != LOAD_ENDED) {
                char text[PLATFORM_STATUS_MAX];
                snprintf(result->failure, sizeof(result->failure),
                         "process %" PRIu64 " of %" PRIu64 " %s", i + 1, options->processes,
                         platform_status_text(text, status));
                atomic_store(&result->state, LOAD_ENDED);
            }
        }
    }
}

static void conduct(const struct load_options *options, struct load_shared *shared,
                    struct platform_process *processes, bool *ended)
{
    struct progress progress = {0};
    bool terminal = platform_is_terminal(stderr) && !options->json;
    while (!all_reached(shared, LOAD_ENDED)) {
        unsigned interrupted = atomic_load(&interrupts);
        if (interrupted > 0) {
            atomic_store(&shared->stop, true);
            atomic_store(&shared->give_up, interrupted > 1);
        }
        if (atomic_load(&shared->go_ns) == 0 && all_reached(shared, LOAD_READY) &&
            !atomic_load(&shared->stop)) {
            /* Long enough for every client to have seen it. */
            atomic_store(&shared->go_ns, platform_now_ns() + 30 * PIER_MILLISECOND);
        }
        if (all_reached(shared, LOAD_ANSWERED)) {
            atomic_store(&shared->close, true);
        }
        if (processes != NULL) {
            check_processes(shared, processes, ended, options);
        }
        if (terminal) {
            show_progress(&progress, shared);
        }
        platform_sleep_ns(5 * PIER_MILLISECOND);
    }
    if (progress.shown) {
        fprintf(stderr, "\r%60s\r", "");
    }
}

static int load_with_threads(struct starter *starter)
{
    start_threads(starter);
    conduct(starter->options, starter->shared, NULL, NULL);
    join_threads(starter);
    return TOOL_GO_ON;
}

static int load_with_processes(struct starter *starter)
{
    const struct load_options *options = starter->options;
    struct platform_process *processes = tool_allocate(options->processes, sizeof(*processes));
    bool *ended = tool_allocate(options->processes, sizeof(*ended));
    int error = processes != NULL && ended != NULL ? 0 : -1;
    uint64_t started = 0;
    while (error == 0 && started < options->processes) {
        starter->first = started * options->threads;
        error = platform_process_start(&processes[started], run_process, starter);
        started += error == 0 ? 1 : 0;
    }
    if (error == 0) {
        conduct(options, starter->shared, processes, ended);
    } else {
        tool_say("cannot start process %" PRIu64 " of %" PRIu64 ": %s: use fewer --processes",
                 started + 1, options->processes,
                 error > 0 ? platform_error_text(error) : "out of memory");
    }
    atomic_store(&starter->shared->stop, true);
    for (uint64_t i = 0; i < started; i++) {
        int status;
        while (!ended[i] && !platform_process_ended(&processes[i], &status)) {
            platform_sleep_ns(PIER_MILLISECOND);
        }
    }
    free(processes);
    free(ended);
    return error == 0 ? TOOL_GO_ON : TOOL_FAILED;
}

static int conclude(const struct load_options *options, const struct load_shared *shared)
{
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        if (shared->results[i].failure[0] != '\0') {
            tool_say("%s", shared->results[i].failure);
            return TOOL_FAILED;
        }
    }
    if (atomic_load(&shared->go_ns) == 0) {
        tool_say("interrupted before all connections were open");
        return TOOL_FAILED;
    }
    load_report_print(options, shared);
    return load_report_errors(shared) > 0 ? TOOL_FAILED : TOOL_DONE;
}

static int prepare(struct starter *starter)
{
    const struct load_options *options = starter->options;
    uint64_t clients = options->processes * options->threads;
    uint64_t size = sizeof(*starter->shared) + clients * sizeof(starter->shared->results[0]);
    starter->shared = platform_shared_memory(size);
    starter->pattern = load_pattern_new();
    starter->threads = tool_allocate(options->threads, sizeof(*starter->threads));
    if (starter->shared == NULL || starter->pattern == NULL || starter->threads == NULL) {
        tool_say("no memory for %" PRIu64 " client%s%s", clients, tool_plural(clients),
                 clients == 1 ? "" : ": use fewer --processes and --threads");
        return TOOL_FAILED;
    }
    starter->shared->clients_count = clients;
    int error = platform_on_interrupt(on_interrupt);
    if (error != 0) {
        tool_say("cannot handle signals: %s", platform_error_text(error));
        return TOOL_FAILED;
    }
    return TOOL_GO_ON;
}

int pier_tool_load(int argc, char **argv)
{
    struct load_options options;
    int status = parse(&options, argc, argv);
    if (status == TOOL_GO_ON) {
        status = check(&options);
    }
    if (status == TOOL_GO_ON) {
        status = check_descriptors(&options);
    }
    if (status != TOOL_GO_ON) {
        return status;
    }
    struct starter starter = {.options = &options};
    status = prepare(&starter);
    if (status == TOOL_GO_ON) {
        status = options.processes == 1 ? load_with_threads(&starter)
                                        : load_with_processes(&starter);
    }
    if (status == TOOL_GO_ON) {
        status = conclude(&options, starter.shared);
    }
    free(starter.pattern);
    free(starter.threads);
    return status;
}
