/* SPDX-License-Identifier: MIT */
/* bench.h - what the parts of `pier bench` share.
 *
 * bench_command.c reads the command line and conducts the rounds; bench_plan.c decides what is
 * measured; bench_run.c measures once: one server process, one client process; bench_report.c turns
 * what was measured into tables, CSV and JSON, bench_page.c into the page; bench_system.c has what
 * it takes of the operating system beyond platform.h. */

#ifndef PIER_TOOL_BENCH_H
#define PIER_TOOL_BENCH_H

#include "load.h"
#include "options.h"
#include "pier.h"
#include "platform.h"
#include "report.h"

enum {
    BENCH_SUBJECTS_MAX = 12,
    BENCH_POINTS_MAX = 32,
    BENCH_CONNECTIONS_MAX = 1000000,
    BENCH_ROUNDS_MAX = 99,
    BENCH_THREADS_MAX = 4, /* of the client */
    BENCH_BASE = 10,       /* connections beyond which each costs the same */
    BENCH_TEXT_MAX = 400
};

/* The figures of one measurement; what could not be measured is NAN. */
enum bench_figure {
    BENCH_RATE,   /* messages per second */
    BENCH_P50,    /* microseconds */
    BENCH_P99,    /* microseconds */
    BENCH_CPU,    /* server's CPU time per message, microseconds */
    BENCH_CALLS,  /* server's system calls per message */
    BENCH_MEMORY, /* server's memory per connection, bytes */
    BENCH_BUSY,   /* how much of a CPU the server used, percent */
    BENCH_FIGURES
};

/* A backend, with epoll a mode of it. */
struct bench_subject {
    char name[32];
    const char *backend, *trigger;
    bool works;
    char reason[BENCH_TEXT_MAX]; /* why it doesn't */
    double base_memory;          /* bytes of the server with BENCH_BASE connections */
};

/* A load: so many connections, so many of which send; the others are idle. */
struct bench_point {
    uint64_t connections, active;
};

struct bench_cell {
    double samples[BENCH_FIGURES][BENCH_ROUNDS_MAX];
    size_t samples_count;
    double setup_calls;  /* system calls of all connects and closes */
    double setup_memory; /* bytes of the server with all of them open */
    char failure[BENCH_TEXT_MAX];
};

struct bench {
    uint64_t duration_ns, warmup_ns, size, depth, rounds;
    uint64_t busy_max; /* in points with idle connections: so many send */
    bool json, is_short;
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    size_t subjects_count;
    struct bench_point points[BENCH_POINTS_MAX];
    size_t points_count;
    struct bench_cell *cells; /* of subject s and point p: [s * points_count + p] */
    char notes[8][BENCH_TEXT_MAX];
    size_t notes_count;
    const char *client_backend; /* what the clients ran on, once known */
    const char *directory;
    size_t
        directory_kept; /* of its path, what was there before; the rest was made for the report */
    char page_path[1024], csv_path[1024];
    char page_part[1040], csv_part[1040]; /* until they are complete; empty: written in place */
    FILE *page, *csv;
};

struct bench_cell *bench_cell(const struct bench *bench, size_t subject, size_t point);

/* Whether the user wants it to end. */
bool bench_interrupted(void);

/* Adds a line about the measurement, for people. */
TOOL_PRINTF(2, 3) void bench_note(struct bench *bench, const char *format, ...);

/* ---- the plan ---- */

/* Which backends: those of the list, NULL for all. Returns TOOL_GO_ON, or TOOL_USAGE after a
 * line. */
int bench_choose_subjects(struct bench *bench, const char *list);

/* Which loads: the numbers of connections that are given, NULL for the usual ones, at most `fit` of
 * them. Returns likewise. */
int bench_choose_points(struct bench *bench, const char *given, uint64_t fit);

size_t bench_count_working(const struct bench *bench);

/* About how long it all takes. */
uint64_t bench_estimate_ns(const struct bench *bench);

/* ---- measuring ---- */

/* Memory that bench_run() and its clients share, and which CPUs they get. */
struct bench_runner {
    struct load_shared *shared;
    size_t shared_size;
    unsigned char *pattern;
    unsigned clients_max; /* threads */
    int server_cpu;       /* -1: not pinned */
};

/* Returns TOOL_GO_ON, or TOOL_FAILED after a line on why not. */
int bench_runner_open(struct bench_runner *runner);
void bench_runner_close(struct bench_runner *runner);

/* Measures a load once and adds the figures to the cell; without `load` sends one message
 * only, for what the cell keeps of the setup. What goes wrong is left in cell->failure. */
void bench_run(struct bench_runner *runner, const struct bench *bench,
               const struct bench_subject *subject, const struct bench_point *point, bool load,
               struct bench_cell *cell);

/* ---- results ---- */

/* What there is to say of a figure. */
struct bench_about {
    const char *key; /* in CSV and JSON, with its unit */
    const char *title, *unit;
    int decimals;
    const char *chart, *note; /* its chart, or NULL */
    enum report_scale scale;
    report_format_fn *format; /* of values in the chart, or NULL */
};

/* In the order of enum bench_figure. */
extern const struct bench_about bench_about[BENCH_FIGURES];

/* The figure of a cell in y, with the least and the greatest of its rounds; NAN when not
 * measured. x is left for the caller. */
struct report_point bench_find(const struct bench_cell *cell, enum bench_figure figure);

/* Words for a load. */
void bench_describe_point(const struct bench_point *point, char *text, size_t size);

/* A load as a table: each figure, and after the first how far its rounds were apart. */
enum { BENCH_COLUMNS = BENCH_FIGURES + 1 };

struct bench_sheet {
    struct report_column columns[BENCH_COLUMNS];
    struct report_row rows[BENCH_SUBJECTS_MAX];
    double values[BENCH_SUBJECTS_MAX][BENCH_COLUMNS];
    char notes[BENCH_SUBJECTS_MAX][BENCH_TEXT_MAX + 32];
    char title[128];
    struct report_table table;
};

/* Adds notes on figures that say less than they seem to: of a server that wasn't busy, of rounds
 * far apart. */
void bench_note_doubts(struct bench *bench);

const struct report_table *bench_fill_sheet(struct bench_sheet *sheet, const struct bench *bench,
                                            size_t point);

void bench_write_page(const struct bench *bench, FILE *file);

/* The tables, or one line of JSON, on stdout. */
void bench_print(const struct bench *bench);

/* Fills in and closes the page and the CSV file; returns TOOL_DONE, or TOOL_FAILED after a line. */
int bench_write_files(struct bench *bench);

/* ---- the system ---- */

/* A command that was started with its output in a pipe. */
struct bench_command {
    intptr_t id;
    int output;
    bool ended;
};

/* Starts `pier` itself with these arguments, the first being its own name, on the given CPU (-1:
 * any). It ends when this process does, where the system can do that. Returns 0 or an errno
 * value. */
int bench_command_start(struct bench_command *command, char *const arguments[], int cpu);

/* Reads what is there by the deadline: bytes read, 0 at the end of output, -1 when the time was
 * up. */
int bench_command_read(struct bench_command *command, char *text, size_t size,
                       uint64_t deadline_ns);

/* Ends it as SIGTERM does, by force after the deadline, and waits. Returns what
 * platform_process_ended() tells. */
int bench_command_stop(struct bench_command *command, uint64_t deadline_ns);

/* CPU time that a process has used, and its own memory in bytes; NAN when not known. */
double bench_process_cpu_ns(const struct bench_command *command);
double bench_process_memory(const struct bench_command *command);

/* Splits the CPUs of this process: the one for the server, -1 when there are fewer than two, or
 * they can't be chosen; and how many are left. */
int bench_cpus_split(unsigned *left);

/* Keeps the calling thread, and what it starts, off the server's CPU. */
void bench_cpus_avoid(int server_cpu);

/* Makes a directory with those above it. Returns 0 or an errno value; *kept is how much of the path
 * was there before. */
int bench_make_directory(const char *path, size_t *kept);

/* Removes those that were made, as far as they are empty. */
void bench_remove_directory(const char *path, size_t kept);

/* Whether something other than an ordinary file is at the path: a device, a FIFO, a link. */
bool bench_is_special(const char *path);

/* Whether two open files are one, and an ordinary one. */
bool bench_is_same_file(FILE *file, FILE *other);

/* Whether a file at the path, if there is one, may be replaced by rename(). */
bool bench_may_replace(const char *path);

#endif
