/* SPDX-License-Identifier: MIT */
/* bench_page.c - the page of `pier bench`: what was measured as charts and tables.
 *
 * Loads fall into two groups: every connection busy, and most of them idle; each has its charts,
 * over the number of connections, with a line for each backend. */

#include "bench.h"

#include "doctor.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Which loads a chart shows. */
enum group { ALL_BUSY, MOSTLY_IDLE, ANY };

/* With as many connections as are busy the others are none: that load belongs to both groups. */
static bool belongs(const struct bench *bench, const struct bench_point *point, enum group group)
{
    return group == ANY || (group == ALL_BUSY && point->active == point->connections) ||
           (group == MOSTLY_IDLE && point->active == bench->busy_max);
}

struct picture {
    struct report_point points[BENCH_SUBJECTS_MAX][BENCH_POINTS_MAX];
    struct report_line lines[BENCH_SUBJECTS_MAX];
    size_t lines_count;
};

static int compare_x(const void *a, const void *b)
{
    double one = ((const struct report_point *)a)->x, other = ((const struct report_point *)b)->x;
    return (one > other) - (one < other);
}

/* The lines of a figure: a point for each load of the group, one for each number of connections. */
static void fill_picture(struct picture *picture, const struct bench *bench, enum group group,
                         enum bench_figure figure)
{
    picture->lines_count = 0;
    for (size_t i = 0; i < bench->subjects_count; i++) {
        struct report_point *points = picture->points[i];
        size_t count = 0;
        for (size_t j = 0; j < bench->points_count && bench->subjects[i].works; j++) {
            struct report_point point = bench_find(bench_cell(bench, i, j), figure);
            point.x = (double)bench->points[j].connections;
            bool known = !isfinite(point.y) || !belongs(bench, &bench->points[j], group);
            for (size_t k = 0; k < count; k++) {
                known = known || points[k].x == point.x;
            }
            if (!known) {
                points[count++] = point;
            }
        }
        qsort(points, count, sizeof(*points), compare_x);
        if (bench->subjects[i].works) {
            picture->lines[picture->lines_count++] = (struct report_line){bench->subjects[i].name,
                                                                          (int)i, points, count};
        }
    }
}

static void write_chart(FILE *file, const struct bench *bench, enum group group,
                        enum bench_figure figure)
{
    const struct bench_about *about = &bench_about[figure];
    static struct picture picture;
    char y_title[64];
    fill_picture(&picture, bench, group, figure);
    /* With a format of its own each number has its unit. */
    snprintf(y_title, sizeof(y_title), "%s%s%s", about->title, about->format != NULL ? "" : ", ",
             about->format != NULL ? "" : about->unit);
    report_chart(file, &(struct report_chart){.title = about->chart,
                                              .note = about->note,
                                              .x_title = "connections",
                                              .x_one = "connection",
                                              .y_title = y_title,
                                              .y_unit = about->unit,
                                              .x_scale = REPORT_LOG,
                                              .y_scale = about->scale,
                                              .y_decimals = about->decimals,
                                              .y_format = about->format,
                                              .lines = picture.lines,
                                              .lines_count = picture.lines_count});
}

static void write_charts(FILE *file, const struct bench *bench, enum group group)
{
    report_charts_begin(file);
    for (int i = 0; i < BENCH_MEMORY; i++) {
        write_chart(file, bench, group, (enum bench_figure)i);
    }
    if (group == ALL_BUSY) {
        write_chart(file, bench, ANY, BENCH_MEMORY);
    }
    report_charts_end(file);
}

static void write_facts(FILE *file, const struct bench *bench)
{
    struct doctor_system system;
    char text[256], number[TOOL_TEXT_MAX];
    time_t now = time(NULL);
    doctor_system_describe(&system);
    report_facts_begin(file);
    snprintf(text, sizeof(text), "%s%s%s, %u CPU%s", system.name,
             system.processor[0] != '\0' ? ", " : "", system.processor, system.processors,
             system.processors == 1 ? "" : "s");
    report_fact(file, "machine", text);
    snprintf(text, sizeof(text), "pier %s; the clients ran on %s", pier_version(),
             bench->client_backend);
    report_fact(file, "version", text);
    snprintf(text, sizeof(text),
             "TCP echo over 127.0.0.1, one server thread, %s-byte messages, %" PRIu64
             " in flight on each busy connection",
             tool_format_count(number, bench->size), bench->depth);
    report_fact(file, "load", text);
    snprintf(text, sizeof(text),
             "median of %" PRIu64 " round%s of %.3g s after %.2g s of warm-up; backends take turns",
             bench->rounds, bench->rounds == 1 ? "" : "s", (double)bench->duration_ns / 1e9,
             (double)bench->warmup_ns / 1e9);
    report_fact(file, "figures", text);
    if (strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", gmtime(&now)) > 0) {
        report_fact(file, "measured", text);
    }
    for (size_t i = 0; i < bench->notes_count; i++) {
        report_fact(file, "note", bench->notes[i]);
    }
    for (size_t i = 0; i < bench->subjects_count; i++) {
        if (!bench->subjects[i].works) {
            snprintf(text, sizeof(text), "not available: %.200s", bench->subjects[i].reason);
            report_fact(file, bench->subjects[i].name, text);
        }
    }
    report_facts_end(file);
}

/* One sentence: who needs the least and the most of the server's CPU at a load. */
static void write_finding(FILE *file, const struct bench *bench, size_t point)
{
    size_t best = bench->subjects_count, worst = best;
    double least = INFINITY, most = 0;
    for (size_t i = 0; i < bench->subjects_count; i++) {
        double cpu = bench_find(bench_cell(bench, i, point), BENCH_CPU).y;
        if (isfinite(cpu) && cpu < least) {
            least = cpu;
            best = i;
        }
        if (isfinite(cpu) && cpu > most) {
            most = cpu;
            worst = i;
        }
    }
    if (best == worst) {
        return;
    }
    char load[128], text[400];
    bench_describe_point(&bench->points[point], load, sizeof(load));
    snprintf(text, sizeof(text),
             "With %s: %s takes the least of the server's CPU, %.2f us per message, and %s the "
             "most, %.2f us, which is %.1f times as much.",
             load, bench->subjects[best].name, least, bench->subjects[worst].name, most,
             most / least);
    report_paragraph(file, text);
}

static void write_findings(FILE *file, const struct bench *bench, enum group group)
{
    size_t last = bench->points_count;
    for (size_t i = 0; i < bench->points_count; i++) {
        bool idle = bench->points[i].active < bench->points[i].connections;
        if (idle == (group == MOSTLY_IDLE)) {
            last = i;
        }
    }
    if (last < bench->points_count) {
        write_finding(file, bench, last);
    }
}

static bool has_idle_points(const struct bench *bench)
{
    for (size_t i = 0; i < bench->points_count; i++) {
        if (bench->points[i].active < bench->points[i].connections) {
            return true;
        }
    }
    return false;
}

static bool has_busy_points(const struct bench *bench)
{
    for (size_t i = 0; i < bench->points_count; i++) {
        if (bench->points[i].active == bench->points[i].connections) {
            return true;
        }
    }
    return false;
}

void bench_write_page(const struct bench *bench, FILE *file)
{
    static struct bench_sheet sheet;
    char text[200];
    report_begin(file, "pier bench: the backends of this machine",
                 "One echo server, the same program on each interface that this kernel has for "
                 "input and output: how much it carries, how fast it answers, and what it costs.");
    write_facts(file, bench);
    if (has_busy_points(bench)) {
        report_section(file, "Every connection busy",
                       "Each connection sends its next message when the last has come back. More "
                       "connections mean more work waiting, so latency grows with their number.");
        write_findings(file, bench, ALL_BUSY);
        write_charts(file, bench, ALL_BUSY);
    }
    if (has_idle_points(bench)) {
        snprintf(text, sizeof(text),
                 "%" PRIu64 " connections are busy, all others are open and silent: what servers "
                 "meet in practice, and where it shows what looking after idle ones costs.",
                 bench->busy_max);
        report_section(file, "Most connections idle", text);
        write_findings(file, bench, MOSTLY_IDLE);
        write_charts(file, bench, MOSTLY_IDLE);
    }
    report_section(file, "The numbers", NULL);
    for (size_t i = 0; i < bench->points_count; i++) {
        report_table(file, bench_fill_sheet(&sheet, bench, i));
    }
    report_section(
        file, "How it was measured",
        "Server and client are processes of their own. CPU time is the server's, user "
        "and system, over the measured time. System calls are those that the server's "
        "loop counts, without those for accepting and closing, which a run of one message has "
        "counted; where these are most of all, the figure is left out. Memory is what the process "
        "gains from 10 to so many open, silent connections, for each of them, from 1,000 on; the "
        "kernel's own share, about 4 KiB for each, isn't in it. The spread is half of what lies "
        "between the best and the worst round; vertical bars in the charts show the same.");
    report_paragraph(file, "Client and server share the machine, and a client that checks every "
                           "byte is no lighter than an echo server: where \"server busy\" is well "
                           "below 100 %, the client set the pace, and CPU time per message says "
                           "more than messages per second.");
    report_end(file);
}
