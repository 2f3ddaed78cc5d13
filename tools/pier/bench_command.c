/* SPDX-License-Identifier: MIT */
/* bench_command.c - `pier bench`: the command line, the files, and the rounds.
 *
 * Each round measures every backend at every load once, beginning with another backend each time,
 * so that what changes on the machine meanwhile meets all of them alike; the results are medians
 * over the rounds. */

#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
    "usage: pier bench [OPTION...]\n"
    "\n"
    "Compares the backends of this machine: for each, and for each number of connections, starts\n"
    "`pier echo` on loopback and drives it as `pier load` does. Prints messages per second,\n"
    "latency, the server's CPU time, system calls and memory, and writes the same as a page with\n"
    "charts and as CSV. Figures are medians over rounds in which the backends take turns. Memory\n"
    "is told from 1,000 connections on, since fewer say nothing of what each takes.\n"
    "\n"
    "  --short            about a minute over all backends: fewer, shorter rounds\n"
    "  --connections LIST numbers of connections; default 10,100,1000,5000, as far as the limit\n"
    "                     of open files allows\n"
    "  --active N         each number of connections above N is also measured with N of them busy\n"
    "                     and the others idle; 0: not; default 100\n"
    "  --duration TIME    of each measurement: 2, 500ms; default 2 seconds, 0.4 with --short\n"
    "  --rounds N         default 5, 3 with --short\n"
    "  --backend LIST     such as uring,epoll-level,poll; epoll stands for epoll-edge,\n"
    "                     epoll-level and epoll-oneshot; default: all\n"
    "  --size BYTES       of a message: 64, 16k; default 64\n"
    "  --depth N          messages in flight on a connection; default 1\n"
    "  --output DIR       where report.html and report.csv go; default build/bench\n"
    "  --csv FILE         the CSV file, if it is to be somewhere else\n"
    "  --json             print one line of JSON instead of the tables\n"
    "\n"
    "Ctrl-C (SIGINT, SIGTERM or SIGHUP) ends it early, with the figures of the rounds that are\n"
    "complete.\n";

enum { SPARE_DESCRIPTORS = 64 };

struct choice {
    const char *connections, *backends, *output, *csv;
    uint64_t duration_ns, rounds;
};

static const uint64_t not_given = UINT64_MAX;

static atomic_bool interrupted;

static void on_interrupt(void)
{
    atomic_store(&interrupted, true);
}

bool bench_interrupted(void)
{
    return atomic_load(&interrupted);
}

struct bench_cell *bench_cell(const struct bench *bench, size_t subject, size_t point)
{
    return &bench->cells[subject * bench->points_count + point];
}

void bench_note(struct bench *bench, const char *format, ...)
{
    va_list arguments;
    if (bench->notes_count < sizeof(bench->notes) / sizeof(bench->notes[0])) {
        va_start(arguments, format);
        vsnprintf(bench->notes[bench->notes_count++], sizeof(bench->notes[0]), format, arguments);
        va_end(arguments);
    }
}

static int parse(struct bench *bench, struct choice *choice, int argc, char **argv)
{
    *choice = (struct choice){
        .output = "build/bench", .duration_ns = not_given, .rounds = not_given};
    bench->size = 64;
    bench->depth = 1;
    bench->busy_max = 100;
    const struct tool_option table[] = {
        {.name = "--short", .kind = TOOL_OPTION_FLAG, .value.flag = &bench->is_short},
        {.name = "--connections", .kind = TOOL_OPTION_TEXT, .value.text = &choice->connections},
        {.name = "--active",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &bench->busy_max,
         .min = 0,
         .max = BENCH_CONNECTIONS_MAX},
        {.name = "--duration",
         .kind = TOOL_OPTION_DURATION,
         .value.number = &choice->duration_ns,
         .min = 50 * PIER_MILLISECOND,
         .max = 3600 * PIER_SECOND},
        {.name = "--rounds",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &choice->rounds,
         .min = 1,
         .max = BENCH_ROUNDS_MAX},
        {.name = "--backend", .kind = TOOL_OPTION_TEXT, .value.text = &choice->backends},
        {.name = "--size",
         .kind = TOOL_OPTION_SIZE,
         .value.number = &bench->size,
         .min = 1,
         .max = 64 << 20},
        {.name = "--depth",
         .kind = TOOL_OPTION_NUMBER,
         .value.number = &bench->depth,
         .min = 1,
         .max = 65536},
        {.name = "--output", .kind = TOOL_OPTION_TEXT, .value.text = &choice->output},
        {.name = "--csv", .kind = TOOL_OPTION_TEXT, .value.text = &choice->csv},
        {.name = "--json", .kind = TOOL_OPTION_FLAG, .value.flag = &bench->json},
        {.name = NULL},
    };
    int status = tool_options_parse(table, help_text, argc, argv);
    bench->duration_ns = choice->duration_ns != not_given ? choice->duration_ns
                         : bench->is_short                ? 400 * PIER_MILLISECOND
                                                          : 2 * PIER_SECOND;
    bench->rounds = choice->rounds != not_given ? choice->rounds : bench->is_short ? 3 : 5;
    bench->warmup_ns = bench->duration_ns / 4;
    if (bench->warmup_ns > PIER_SECOND / 2) {
        bench->warmup_ns = PIER_SECOND / 2;
    }
    return status;
}

/* ---- files ---- */

/* Until it is complete a file has the name part_path, so that an interrupt leaves the one before
 * alone. A device, a FIFO or a link is written to as it is (part_path is empty), since a file must
 * not take its place. */
static FILE *open_file(const char *path, char *part_path, size_t size, const char *option)
{
    bool in_place = bench_is_special(path);
    if (!in_place && !bench_may_replace(path)) {
        tool_say("cannot write \"%s\": there is a file of another user: choose another with %s",
                 path, option);
        return NULL;
    }
    snprintf(part_path, size, "%s%s", in_place ? "" : path, in_place ? "" : ".part");
    FILE *file = fopen(in_place ? path : part_path, "w");
    if (file == NULL) {
        tool_say("cannot write \"%s\": %s: choose another with %s", path,
                 platform_error_text(errno), option);
    }
    return file;
}

static void discard_file(FILE *file, const char *part_path)
{
    if (file != NULL) {
        fclose(file);
    }
    if (file != NULL && part_path[0] != '\0') {
        remove(part_path);
    }
}

/* Opens them before anything is measured: a wrong path should show at once. */
static int open_files(struct bench *bench, const struct choice *choice)
{
    if (choice->csv != NULL && choice->csv[0] == '\0') {
        tool_say("--csv takes the name of a file, not \"\"");
        return TOOL_USAGE;
    }
    int page = snprintf(bench->page_path, sizeof(bench->page_path), "%s/report.html",
                        choice->output);
    int csv = snprintf(bench->csv_path, sizeof(bench->csv_path), "%s%s",
                       choice->csv != NULL ? choice->csv : choice->output,
                       choice->csv != NULL ? "" : "/report.csv");
    if (page >= (int)sizeof(bench->page_path) || csv >= (int)sizeof(bench->csv_path)) {
        tool_say("the path of --output or --csv is too long: %d bytes at the most",
                 (int)sizeof(bench->page_path) - 16);
        return TOOL_USAGE;
    }
    bench->directory = choice->output;
    int error = bench_make_directory(choice->output, &bench->directory_kept);
    if (error != 0) {
        tool_say("cannot make the directory \"%s\": %s: choose another with --output",
                 choice->output, platform_error_text(error));
        return TOOL_FAILED;
    }
    bench->page = open_file(bench->page_path, bench->page_part, sizeof(bench->page_part),
                            "--output");
    if (bench->page == NULL) {
        return TOOL_FAILED;
    }
    bench->csv = open_file(bench->csv_path, bench->csv_part, sizeof(bench->csv_part),
                           choice->csv != NULL ? "--csv" : "--output");
    if (bench->csv != NULL && bench_is_same_file(bench->page, bench->csv)) {
        tool_say("the page and the CSV file would both be \"%s\": choose another with --csv",
                 bench->page_path);
        return TOOL_FAILED;
    }
    return bench->csv != NULL ? TOOL_GO_ON : TOOL_FAILED;
}

/* Leaves nothing of files that weren't completed. */
static void close_files(struct bench *bench)
{
    discard_file(bench->page, bench->page_part);
    discard_file(bench->csv, bench->csv_part);
    if (bench->directory != NULL) {
        bench_remove_directory(bench->directory, bench->directory_kept);
    }
}

/* ---- the rounds ---- */

static void announce(const struct bench *bench)
{
    size_t working = bench_count_working(bench);
    printf("%zu server%s, %zu load%s, %" PRIu64 " round%s: about %" PRIu64 " s\n", working,
           working == 1 ? "" : "s", bench->points_count, bench->points_count == 1 ? "" : "s",
           bench->rounds, bench->rounds == 1 ? "" : "s",
           (bench_estimate_ns(bench) + PIER_SECOND / 2) / PIER_SECOND);
    platform_flush_output();
}

static void show_progress(const struct bench *bench, uint64_t round, size_t subject, size_t point)
{
    char text[TOOL_TEXT_MAX], line[128];
    snprintf(line, sizeof(line), "round %" PRIu64 " of %" PRIu64 ": %s, %s connection%s",
             round < bench->rounds ? round + 1 : bench->rounds, bench->rounds,
             bench->subjects[subject].name,
             tool_format_count(text, bench->points[point].connections),
             tool_plural(bench->points[point].connections));
    fprintf(stderr, "\r%-70s", line);
}

/* One pass over all backends and loads. `load` false: counts what connecting costs. */
static void pass(struct bench *bench, struct bench_runner *runner, uint64_t round, bool load,
                 bool progress)
{
    for (size_t i = 0; i < bench->points_count; i++) {
        for (size_t j = 0; j < bench->subjects_count; j++) {
            size_t subject = (j + (size_t)round) % bench->subjects_count;
            struct bench_cell *cell = bench_cell(bench, subject, i);
            if (!bench->subjects[subject].works || cell->failure[0] != '\0' ||
                bench_interrupted()) {
                continue;
            }
            if (progress) {
                show_progress(bench, round, subject, i);
            }
            bench_run(runner, bench, &bench->subjects[subject], &bench->points[i], load, cell);
        }
    }
}

/* Measures the memory of each server with few connections, which is that of the program itself. */
static void measure_base(struct bench *bench, struct bench_runner *runner)
{
    const struct bench_point few = {BENCH_BASE, BENCH_BASE};
    for (size_t i = 0; i < bench->subjects_count; i++) {
        struct bench_cell *cell = calloc(1, sizeof(*cell));
        bench->subjects[i].base_memory = NAN;
        if (cell != NULL && bench->subjects[i].works && !bench_interrupted()) {
            bench_run(runner, bench, &bench->subjects[i], &few, false, cell);
            /* A failure will show again, where it is reported. */
            bench->subjects[i].base_memory = cell->failure[0] == '\0' ? cell->setup_memory : NAN;
        }
        free(cell);
    }
}

/* TOOL_FAILED when something was not measured. */
static int check_cells(struct bench *bench)
{
    int status = TOOL_GO_ON;
    for (size_t i = 0; i < bench->subjects_count * bench->points_count; i++) {
        struct bench_cell *cell = &bench->cells[i];
        if (!bench->subjects[i / bench->points_count].works) {
            continue;
        }
        if (cell->failure[0] == '\0' && cell->samples_count == 0) {
            snprintf(cell->failure, sizeof(cell->failure),
                     "no message came back in the measured time: use a longer --duration");
        }
        if (cell->failure[0] != '\0') {
            status = TOOL_FAILED;
        }
    }
    return status;
}

/* Takes the samples of a round that was interrupted away again, since backends are compared over
 * the same rounds. `counts`: how many there were before it. */
static void drop_round(struct bench *bench, const size_t *counts)
{
    for (size_t i = 0; i < bench->subjects_count * bench->points_count; i++) {
        bench->cells[i].samples_count = counts[i];
    }
}

/* Measures all rounds, or those that are complete when it is interrupted; returns how many. */
static uint64_t measure_rounds(struct bench *bench, struct bench_runner *runner, bool progress)
{
    static size_t counts[BENCH_SUBJECTS_MAX * BENCH_POINTS_MAX];
    measure_base(bench, runner);
    pass(bench, runner, 0, false, progress);
    for (uint64_t round = 0; round < bench->rounds; round++) {
        for (size_t i = 0; i < bench->subjects_count * bench->points_count; i++) {
            counts[i] = bench->cells[i].samples_count;
        }
        pass(bench, runner, round, true, progress);
        if (bench_interrupted()) {
            drop_round(bench, counts);
            return round;
        }
    }
    return bench->rounds;
}

/* Measures all; TOOL_FAILED when something did not work. *measured: whether there is something to
 * report. */
static int measure(struct bench *bench, struct bench_runner *runner, bool *measured)
{
    bool progress = platform_is_terminal(stderr) && !bench->json;
    uint64_t wanted = bench->rounds, rounds = measure_rounds(bench, runner, progress);
    if (progress) {
        fprintf(stderr, "\r%70s\r", "");
    }
    *measured = rounds > 0;
    if (rounds == 0) {
        tool_say("interrupted before the first round was complete");
        return TOOL_FAILED;
    }
    bench->client_backend = runner->shared->results[0].backend;
    int status = check_cells(bench);
    if (rounds < wanted) {
        bench->rounds = rounds;
        tool_say("interrupted: the figures are those of the first %" PRIu64 " round%s of %" PRIu64,
                 rounds, tool_plural(rounds), wanted);
        bench_note(bench, "interrupted after %" PRIu64 " round%s of %" PRIu64, rounds,
                   tool_plural(rounds), wanted);
        status = TOOL_FAILED;
    }
    bench_note_doubts(bench);
    return status;
}

static int run(struct bench *bench, const struct choice *choice)
{
    struct bench_runner runner;
    int status = open_files(bench, choice);
    if (status != TOOL_GO_ON) {
        return status;
    }
    int error = platform_on_interrupt(on_interrupt);
    if (error != 0) {
        tool_say("cannot handle signals: %s", platform_error_text(error));
        return TOOL_FAILED;
    }
    bench->cells = calloc(bench->subjects_count * bench->points_count, sizeof(*bench->cells));
    if (bench->cells == NULL) {
        tool_say("no memory for the results of %zu loads: use fewer --connections",
                 bench->points_count);
        return TOOL_FAILED;
    }
    status = bench_runner_open(&runner);
    if (status != TOOL_GO_ON) {
        return status;
    }
    if (runner.server_cpu < 0) {
        bench_note(bench,
                   "server and client share the CPUs: this process has fewer than two, or the "
                   "system does not let it choose");
    } else {
        bench_note(bench, "the server runs on CPU %d, the client on %u other%s", runner.server_cpu,
                   runner.clients_max, runner.clients_max > 1 ? "s" : "");
    }
    if (!bench->json) {
        announce(bench);
    }
    bool has_figures;
    int outcome = measure(bench, &runner, &has_figures);
    if (has_figures) {
        status = bench_write_files(bench);
        bench_print(bench);
    }
    bench_runner_close(&runner);
    return outcome == TOOL_GO_ON ? status : outcome;
}

int pier_tool_bench(int argc, char **argv)
{
    static struct bench bench;
    struct choice choice;
    int status = parse(&bench, &choice, argc, argv);
    if (status != TOOL_GO_ON) {
        return status;
    }
    if (!load_check_in_flight(bench.size, bench.depth)) {
        return TOOL_USAGE;
    }
    status = bench_choose_subjects(&bench, choice.backends);
    uint64_t limit = platform_raise_descriptor_limit();
    if (status == TOOL_GO_ON && limit < 2 * SPARE_DESCRIPTORS) {
        tool_say("a process may have %" PRIu64 " open descriptors, which is too few: %s", limit,
                 platform_descriptor_remedy());
        return TOOL_FAILED;
    }
    if (status == TOOL_GO_ON) {
        status = bench_choose_points(&bench, choice.connections, limit - SPARE_DESCRIPTORS);
    }
    if (status == TOOL_GO_ON && bench_count_working(&bench) == 0) {
        tool_say("no backend to measure: %s: %s", bench.subjects[0].name, bench.subjects[0].reason);
        return TOOL_FAILED;
    }
    if (status == TOOL_GO_ON) {
        status = run(&bench, &choice);
        close_files(&bench);
        free(bench.cells);
    }
    return status;
}
