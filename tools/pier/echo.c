/* SPDX-License-Identifier: MIT */
/* echo.c - `pier echo`: the command line, the processes and the counters of the echo server.
 *
 * One process serves by itself. With --processes N the first one only starts N others, which share
 * the port, hands the signal to stop on to them, and adds up what they leave in shared memory. */

#include "echo.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
    "usage: pier echo [OPTION...]\n"
    "\n"
    "An echo server. Its first line is `listening on ADDRESS backend=NAME threads=N`. It sends\n"
    "back what a peer sends until the peer ends its stream, then ends its own. On SIGINT\n"
    "(Ctrl-C), SIGTERM or SIGHUP it stops accepting, finishes what is in flight within 5 seconds,\n"
    "and prints its counters; a second signal ends it without what is in flight.\n"
    "\n"
    "  --listen ADDRESS   127.0.0.1:7000, [::1]:0 (0: any free port), *:7000, unix:/path,\n"
    "                     unix:@name; default 127.0.0.1:0\n"
    "  --backend NAME     what the loop runs on; default: the best that works here, see\n"
    "                     `pier doctor`\n"
    "  --threads N        loops, each on a thread of its own; default 1\n"
    "  --processes N      processes with that many threads each; default 1\n"
    "  --trigger MODE     edge, level or oneshot: how epoll watches its sockets; default edge\n"
    "  --receive HOW      each: one receive that goes on, into buffers that the loop lends;\n"
    "                     lent: one receive after the other, into such buffers; memory: the same,\n"
    "                     into a buffer of each connection; default each\n"
    "  --json             print the counters as one line of JSON\n";

static const char *const trigger_names[] = {"edge", "level", "oneshot", NULL};
static const char *const receive_names[] = {"each", "lent", "memory", NULL};

static int parse(struct echo_options *options, int argc, char **argv)
{
    memset(options, 0, sizeof(*options));
    options->threads = 1;
    options->processes = 1;
    pier_address_parse(&options->listen.address, "127.0.0.1:0");
    options->listen.text = "127.0.0.1:0";
    const struct tool_option table[] = {
        {.name = "--listen", .kind = TOOL_OPTION_ADDRESS, .value.address = &options->listen},
        {.name = "--backend", .kind = TOOL_OPTION_BACKEND, .value.text = &options->backend},
        {.name = "--threads",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->threads,
         .min = 1,
         .max = 1024},
        {.name = "--processes",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &options->processes,
         .min = 1,
         .max = 1024},
        {.name = "--trigger",
         .kind = TOOL_OPTION_CHOICE,
         .value.choice = &options->trigger,
         .choices = trigger_names},
        {.name = "--receive",
         .kind = TOOL_OPTION_CHOICE,
         .value.choice = &options->receive,
         .choices = receive_names},
        {.name = "--json", .kind = TOOL_OPTION_FLAG, .value.flag = &options->json},
        {.name = NULL},
    };
    int status = tool_options_parse(table, help_text, argc, argv);
    if (status == TOOL_GO_ON && !tool_check_loops(options->threads, options->processes)) {
        return TOOL_USAGE;
    }
    return status;
}

/* ---- what is printed ---- */

/* False, after a line, when it didn't arrive: a server whose port nobody knows is of no use. */
static bool announce(const struct pier_address *address, const char *backend, uint64_t threads)
{
    char text[PIER_ADDRESS_TEXT_MAX];
    pier_address_format(address, text, sizeof(text));
    printf("listening on %s backend=%s threads=%" PRIu64 "\n", text, backend, threads);
    if (!platform_flush_output()) {
        tool_say("cannot write the output, which says where it listens: is the disk full, or the "
                 "reader gone?");
        return false;
    }
    return true;
}

/* A counter for people: "user_cpu_ns" becomes "user cpu", with a unit that fits the value. */
static void print_line(const char *name, uint64_t value)
{
    char label[TOOL_TEXT_MAX], text[TOOL_TEXT_MAX];
    snprintf(label, sizeof(label), "%s", name);
    char *unit = strstr(label, "_ns");
    if (unit != NULL) {
        *unit = '\0';
    }
    for (char *at = label; *at != '\0'; at++) {
        *at = *at == '_' ? ' ' : *at;
    }
    printf("  %-18s %s\n", label,
           unit != NULL ? tool_format_time(text, value) : tool_format_count(text, value));
}

static void print_counters(const struct echo_options *options, const char *backend,
                           const struct pier_loop_counters *stats)
{
    struct platform_usage usage;
    platform_usage(&usage, true);
    const struct {
        const char *name;
        uint64_t value;
    } counters[] = {{"connections", stats->accepts},
                    {"receives", stats->receives},
                    {"received_bytes", stats->received_bytes},
                    {"sends", stats->sends},
                    {"sent_bytes", stats->sent_bytes},
                    {"user_cpu_ns", usage.user_ns},
                    {"system_cpu_ns", usage.system_ns},
                    {"resident_max_bytes", usage.resident_max},
                    {"turns", stats->turns},
                    {"waits", stats->waits},
                    {"events", stats->events},
                    {"callbacks", stats->callbacks},
                    {"system_calls", stats->system_calls},
                    {"registrations", stats->registrations},
                    {"allocations", stats->allocations},
                    {"buffers_total", stats->buffers_total},
                    {"buffer_pauses", stats->buffer_pauses},
                    {"accept_pauses", stats->accept_pauses},
                    {"rearms", stats->rearms},
                    {"stale_events", stats->stale_events},
                    {"queue_full", stats->queue_full},
                    {"queue_overflows", stats->queue_overflows},
                    {"wakeups", stats->wakeups},
                    {"closes", stats->closes}};
    size_t count = sizeof(counters) / sizeof(counters[0]);
    if (options->json) {
        printf("{\"backend\":\"%s\",\"trigger\":\"%s\",\"receive\":\"%s\",\"threads\":%" PRIu64
               ",\"processes\":%" PRIu64,
               backend, trigger_names[options->trigger], receive_names[options->receive],
               options->threads, options->processes);
        for (size_t i = 0; i < count; i++) {
            printf(",\"%s\":%" PRIu64, counters[i].name, counters[i].value);
        }
        printf("}\n");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        print_line(counters[i].name, counters[i].value);
    }
}

/* ---- stopping ---- */

static atomic_uint interrupts;
static struct echo_server *_Atomic interruptible;
static const struct child *self; /* in a process that was started */

static void on_interrupt(void)
{
    atomic_fetch_add(&interrupts, 1);
    struct echo_server *server = atomic_load(&interruptible);
    if (server != NULL) {
        echo_server_stop(server);
    }
}

bool echo_interrupted(void)
{
    return atomic_load(&interrupts) > 0;
}

static int serve(struct echo_server *server)
{
    atomic_store(&interruptible, server);
    /* Also for a signal that came before the line above. */
    if (echo_interrupted()) {
        echo_server_stop(server);
    }
    int status = echo_server_run(server);
    atomic_store(&interruptible, NULL);
    return status;
}

/* ---- one process ---- */

static int serve_alone(const struct echo_options *options)
{
    struct echo_server server;
    int status = echo_server_open(&server, options, &options->listen.address, ECHO_ALONE);
    if (status == TOOL_GO_ON) {
        status = echo_server_start(&server);
    }
    if (status != TOOL_GO_ON) {
        return status;
    }
    const char *backend = pier_loop_backend(server.workers[0].loop);
    bool announced = announce(&server.address, backend, options->threads);
    if (!announced) {
        echo_server_stop(&server);
    }
    status = serve(&server);
    if (announced) {
        struct pier_loop_counters stats = {0};
        echo_server_stats(&server, &stats);
        print_counters(options, backend, &stats);
    }
    echo_server_close(&server);
    return announced ? status : TOOL_FAILED;
}

/* ---- several processes ---- */

enum child_state { CHILD_STARTING, CHILD_LISTENS };

/* In memory that all processes share. */
struct child {
    const struct echo_options *options;
    struct pier_address address; /* where to listen; then where it does */
    char backend[32];
    bool first; /* to listen there */
    _Atomic int state;
    atomic_bool hurry;
    struct pier_loop_counters stats;
    struct platform_process process;
    bool ended;
};

/* Ctrl-C reaches all processes, and what the first one hands on comes besides: it alone counts. */
bool echo_hurried(void)
{
    return self != NULL ? atomic_load(&self->hurry) : atomic_load(&interrupts) > 1;
}

static int run_child(void *argument)
{
    struct child *child = argument;
    struct echo_server server;
    self = child;
    int status = echo_server_open(&server, child->options, &child->address,
                                  child->first ? ECHO_FIRST : ECHO_FURTHER);
    if (status == TOOL_GO_ON) {
        status = echo_server_start(&server);
    }
    if (status != TOOL_GO_ON) {
        return status;
    }
    child->address = server.address;
    snprintf(child->backend, sizeof(child->backend), "%s",
             pier_loop_backend(server.workers[0].loop));
    atomic_store(&child->state, CHILD_LISTENS);
    status = serve(&server);
    echo_server_stats(&server, &child->stats);
    echo_server_close(&server);
    return status;
}

/* Starts a child and waits until it listens; TOOL_DONE when interrupted. */
static int start_child(struct child *child)
{
    int error = platform_process_start(&child->process, run_child, child);
    if (error != 0) {
        tool_say("cannot start a process: %s: use fewer --processes", platform_error_text(error));
        child->ended = true;
        return TOOL_FAILED;
    }
    int status;
    bool told = false;
    while (atomic_load(&child->state) != CHILD_LISTENS) {
        if (platform_process_ended(&child->process, &status)) {
            child->ended = true;
            if (status < 0) {
                char text[PLATFORM_STATUS_MAX];
                tool_say("a process %s before it listened", platform_status_text(text, status));
                return TOOL_FAILED;
            }
            /* Else it has said why. */
            return status == TOOL_DONE && !echo_interrupted() ? TOOL_FAILED : status;
        }
        if (echo_interrupted() && !told) {
            told = true;
            platform_process_interrupt(&child->process);
        }
        platform_sleep_ns(PIER_MILLISECOND / 4);
    }
    return TOOL_GO_ON;
}

/* Notices those that have ended. Returns how many run on, and TOOL_FAILED in *result if one of them
 * did not end well. */
static uint64_t look_after(struct child *children, uint64_t count, int *result)
{
    uint64_t running = 0;
    for (uint64_t i = 0; i < count; i++) {
        int status;
        if (!children[i].ended && platform_process_ended(&children[i].process, &status)) {
            children[i].ended = true;
            if (status != TOOL_DONE) {
                char text[PLATFORM_STATUS_MAX];
                tool_say("process %" PRIu64 " of %" PRIu64 " %s", i + 1, count,
                         platform_status_text(text, status));
                *result = TOOL_FAILED;
            }
        }
        running += children[i].ended ? 0 : 1;
    }
    return running;
}

/* Waits for all children; when one of them fails, the others are stopped. */
static int wait_for_children(struct child *children, uint64_t count, bool stop)
{
    int result = TOOL_DONE;
    bool told = false;
    while (look_after(children, count, &result) > 0) {
        unsigned interrupted = atomic_load(&interrupts);
        bool tells = !told && (stop || result != TOOL_DONE || interrupted > 0);
        told = told || tells;
        for (uint64_t i = 0; i < count; i++) {
            atomic_store(&children[i].hurry, interrupted > 1);
            if (tells && !children[i].ended) {
                platform_process_interrupt(&children[i].process);
            }
        }
        /* A signal ends the sleep. */
        platform_sleep_ns(told ? PIER_MILLISECOND : 100 * PIER_MILLISECOND);
    }
    return result;
}

static int serve_with_children(const struct echo_options *options)
{
    struct child *children = platform_shared_memory(options->processes * sizeof(*children));
    if (children == NULL) {
        tool_say("no memory for %" PRIu64 " processes: use fewer --processes", options->processes);
        return TOOL_FAILED;
    }
    uint64_t started = 0;
    int status = TOOL_GO_ON;
    while (started < options->processes && status == TOOL_GO_ON) {
        if (echo_interrupted()) {
            status = TOOL_DONE;
            break;
        }
        children[started].options = options;
        children[started].first = started == 0;
        children[started].address = started == 0 ? options->listen.address : children[0].address;
        status = start_child(&children[started]);
        started++;
    }
    if (status == TOOL_GO_ON &&
        !announce(&children[0].address, children[0].backend, options->threads)) {
        status = TOOL_FAILED;
    }
    if (status != TOOL_GO_ON) {
        int ended = wait_for_children(children, started, true);
        return status == TOOL_DONE ? ended : status;
    }
    status = wait_for_children(children, options->processes, false);
    struct pier_loop_counters stats = {0};
    for (uint64_t i = 0; i < options->processes; i++) {
        echo_stats_add(&stats, &children[i].stats);
    }
    print_counters(options, children[0].backend, &stats);
    return status;
}

int pier_tool_echo(int argc, char **argv)
{
    struct echo_options options;
    int status = parse(&options, argc, argv);
    if (status != TOOL_GO_ON) {
        return status;
    }
    platform_raise_descriptor_limit();
    int error = platform_on_interrupt(on_interrupt);
    if (error != 0) {
        tool_say("cannot handle signals: %s", platform_error_text(error));
        return TOOL_FAILED;
    }
    return options.processes == 1 ? serve_alone(&options) : serve_with_children(&options);
}
