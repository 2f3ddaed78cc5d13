/* SPDX-License-Identifier: MIT */
/* bench_report.c - what `pier bench` prints and writes: tables, JSON and CSV.
 *
 * All are made from the one table of figures below and from the medians of the cells; a backend
 * that isn't to be had here has a row that says why, everywhere. */

#include "bench.h"

#include "doctor.h"
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Microseconds, short: "50 us", "1.25 ms", "2 s". */
static char *format_latency(char text[TOOL_TEXT_MAX], double latency_us)
{
    double divisor = latency_us >= 1e6 ? 1e6 : latency_us >= 1e3 ? 1e3 : 1;
    snprintf(text, TOOL_TEXT_MAX, "%.3g %s", latency_us / divisor,
             divisor > 1e3 ? "s"
             : divisor > 1 ? "ms"
                           : "us");
    return text;
}

const struct bench_about bench_about[BENCH_FIGURES] = {
    {"messages_per_second", "messages", "per s", 0, "Messages per second", "higher is better",
     REPORT_LINEAR, NULL},
    {"p50_us", "p50", "us", -1, "Median latency (p50)", "lower is better", REPORT_LOG,
     format_latency},
    {"p99_us", "p99", "us", -1, "Latency of the slowest 1 % (p99)", "lower is better", REPORT_LOG,
     format_latency},
    {"server_cpu_us_per_message", "server CPU", "us/message", 2, "Server CPU time per message",
     "lower is better", REPORT_LINEAR, NULL},
    {"system_calls_per_message", "system calls", "per message", 2,
     "Server's system calls per message", "lower is better", REPORT_LINEAR, NULL},
    {"memory_bytes_per_connection", "memory", "bytes/conn.", 0, "Memory per connection",
     "lower is better", REPORT_LINEAR, NULL},
    {"server_cpu_percent", "server busy", "% of a CPU", 0, NULL, NULL, REPORT_LINEAR, NULL},
};

/* ---- medians ---- */

static int compare_numbers(const void *a, const void *b)
{
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

struct report_point bench_find(const struct bench_cell *cell, enum bench_figure figure)
{
    struct report_point result = {NAN, NAN, NAN, NAN};
    double sorted[BENCH_ROUNDS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < cell->samples_count && cell->failure[0] == '\0'; i++) {
        if (isfinite(cell->samples[figure][i])) {
            sorted[count++] = cell->samples[figure][i];
        }
    }
    if (count == 0) {
        return result;
    }
    qsort(sorted, count, sizeof(sorted[0]), compare_numbers);
    result.y = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
    result.low = sorted[0];
    result.high = sorted[count - 1];
    return result;
}

/* Half of what lies between the best and the worst round, as a part of the median. */
static double spread_percent(const struct bench_cell *cell)
{
    struct report_point rate = bench_find(cell, BENCH_RATE);
    return cell->samples_count > 1 ? (rate.high - rate.low) / rate.y * 50 : NAN;
}

/* ---- tables ---- */

void bench_describe_point(const struct bench_point *point, char *text, size_t size)
{
    char number[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    if (point->active == point->connections) {
        snprintf(text, size, "%s connection%s, all busy",
                 tool_format_count(number, point->connections), point->connections > 1 ? "s" : "");
    } else {
        snprintf(text, size, "%s connections, %s of them busy, the others idle",
                 tool_format_count(number, point->connections),
                 tool_format_count(more, point->active));
    }
}

static void fill_row(struct bench_sheet *sheet, const struct bench *bench, size_t subject,
                     size_t point)
{
    const struct bench_subject *about = &bench->subjects[subject];
    const struct bench_cell *cell = bench_cell(bench, subject, point);
    struct report_row *row = &sheet->rows[subject];
    double *values = sheet->values[subject];
    *row = (struct report_row){.name = about->name, .values = values};
    if (!about->works || cell->failure[0] != '\0') {
        snprintf(sheet->notes[subject], sizeof(sheet->notes[subject]), "%s: %s",
                 about->works ? "failed" : "not available",
                 about->works ? cell->failure : about->reason);
        row->values = NULL;
        row->note = sheet->notes[subject];
        return;
    }
    for (int i = 0; i < BENCH_FIGURES; i++) {
        struct report_point figure = bench_find(cell, (enum bench_figure)i);
        values[i == BENCH_RATE ? 0 : i + 1] = figure.y;
        if (i == BENCH_RATE) {
            values[1] = spread_percent(cell);
        }
    }
}

const struct report_table *bench_fill_sheet(struct bench_sheet *sheet, const struct bench *bench,
                                            size_t point)
{
    for (int i = 0; i < BENCH_FIGURES; i++) {
        sheet->columns[i == BENCH_RATE ? 0 : i + 1] = (struct report_column){
            bench_about[i].title, bench_about[i].unit, bench_about[i].decimals};
    }
    sheet->columns[1] = (struct report_column){"spread", "+- %", 1};
    for (size_t i = 0; i < bench->subjects_count; i++) {
        fill_row(sheet, bench, i, point);
    }
    bench_describe_point(&bench->points[point], sheet->title, sizeof(sheet->title));
    sheet->table = (struct report_table){.title = sheet->title,
                                         .row_title = "backend",
                                         .columns = sheet->columns,
                                         .columns_count = BENCH_COLUMNS,
                                         .rows = sheet->rows,
                                         .rows_count = bench->subjects_count};
    return &sheet->table;
}

/* ---- doubts ---- */

/* The cell of those measured whose value is the greatest; false when none is above `bound`. */
static bool find_worst(const struct bench *bench, double (*value_of)(const struct bench_cell *),
                       double bound, double *worst, char *text, size_t size)
{
    bool found = false;
    for (size_t i = 0; i < bench->subjects_count; i++) {
        for (size_t j = 0; j < bench->points_count; j++) {
            double value = value_of(bench_cell(bench, i, j));
            if (isfinite(value) && value > bound) {
                char load[128];
                bound = *worst = value;
                found = true;
                bench_describe_point(&bench->points[j], load, sizeof(load));
                snprintf(text, size, "%s with %s", bench->subjects[i].name, load);
            }
        }
    }
    return found;
}

static double idle_percent(const struct bench_cell *cell)
{
    return 100 - bench_find(cell, BENCH_BUSY).y;
}

void bench_note_doubts(struct bench *bench)
{
    const double idle_most = 20, spread_most = 10;
    char where[200];
    double worst;
    if (find_worst(bench, idle_percent, idle_most, &worst, where, sizeof(where))) {
        bench_note(bench,
                   "not every server was busy (%s: %.0f %% of a CPU): there the client set the "
                   "pace, and CPU time per message says more than messages per second",
                   where, 100 - worst);
    }
    if (find_worst(bench, spread_percent, spread_most, &worst, where, sizeof(where))) {
        bench_note(bench,
                   "rounds are up to +- %.0f %% apart (%s): the machine may have had other work; "
                   "more --rounds or a longer --duration help",
                   worst, where);
    }
}

/* ---- CSV and JSON ---- */

static const char *status_of(const struct bench_subject *subject, const struct bench_cell *cell,
                             const char **reason)
{
    *reason = !subject->works ? subject->reason : cell->failure[0] != '\0' ? cell->failure : NULL;
    return !subject->works ? "not available" : *reason != NULL ? "failed" : "measured";
}

/* Only epoll has more than one mode. */
static const char *trigger_of(const struct bench_subject *subject)
{
    return strcmp(subject->backend, "epoll") == 0 ? subject->trigger : "";
}

static void write_csv_row(const struct bench *bench, size_t subject, size_t point)
{
    const struct bench_subject *about = &bench->subjects[subject];
    const struct bench_cell *cell = bench_cell(bench, subject, point);
    FILE *file = bench->csv;
    const char *reason;
    const char *status = status_of(about, cell, &reason);
    fprintf(file, "%s,%s,%s,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%s,", about->name,
            about->backend, trigger_of(about), bench->points[point].connections,
            bench->points[point].active, bench->size, bench->depth, status);
    report_csv_text(file, reason);
    fprintf(file, ",%zu", cell->samples_count);
    for (int i = 0; i < BENCH_FIGURES; i++) {
        struct report_point figure = bench_find(cell, (enum bench_figure)i);
        const double numbers[] = {figure.y, figure.low, figure.high};
        for (int j = 0; j < 3; j++) {
            fputc(',', file);
            if (isfinite(numbers[j])) {
                fprintf(file, "%.3f", numbers[j]);
            }
        }
    }
    fputc('\n', file);
}

static void write_csv(const struct bench *bench)
{
    fputs("subject,backend,trigger,connections,active_connections,message_bytes,depth,status,"
          "reason,rounds",
          bench->csv);
    for (int i = 0; i < BENCH_FIGURES; i++) {
        fprintf(bench->csv, ",%s,%s_min,%s_max", bench_about[i].key, bench_about[i].key,
                bench_about[i].key);
    }
    fputc('\n', bench->csv);
    for (size_t i = 0; i < bench->points_count; i++) {
        for (size_t j = 0; j < bench->subjects_count; j++) {
            write_csv_row(bench, j, i);
        }
    }
}

static void print_json_number(double number)
{
    if (isfinite(number)) {
        printf("%.3f", number);
    } else {
        printf("null");
    }
}

static void print_json_cell(const struct bench *bench, size_t subject, size_t point)
{
    const struct bench_subject *about = &bench->subjects[subject];
    const struct bench_cell *cell = bench_cell(bench, subject, point);
    const char *reason, *trigger = trigger_of(about);
    const char *quote = trigger[0] != '\0' ? "\"" : "";
    printf("{\"subject\":\"%s\",\"backend\":\"%s\",\"trigger\":%s%s%s,\"connections\":%" PRIu64
           ",\"active_connections\":%" PRIu64 ",\"status\":\"%s\",\"reason\":",
           about->name, about->backend, quote, trigger[0] != '\0' ? trigger : "null", quote,
           bench->points[point].connections, bench->points[point].active,
           status_of(about, cell, &reason));
    if (reason != NULL) {
        report_json_text(stdout, reason);
    } else {
        printf("null");
    }
    printf(",\"rounds\":%zu", cell->samples_count);
    for (int i = 0; i < BENCH_FIGURES; i++) {
        struct report_point figure = bench_find(cell, (enum bench_figure)i);
        printf(",\"%s\":", bench_about[i].key);
        print_json_number(figure.y);
        printf(",\"%s_min\":", bench_about[i].key);
        print_json_number(figure.low);
        printf(",\"%s_max\":", bench_about[i].key);
        print_json_number(figure.high);
    }
    printf("}");
}

static void print_json(const struct bench *bench)
{
    struct doctor_system system;
    doctor_system_describe(&system);
    printf("{\"pier\":\"%s\",\"system\":", pier_version());
    report_json_text(stdout, system.name);
    printf(",\"processor\":");
    report_json_text(stdout, system.processor);
    printf(",\"processors\":%u,\"client_backend\":\"%s\",\"message_bytes\":%" PRIu64
           ",\"depth\":%" PRIu64 ",\"seconds\":%.3f,\"notes\":[",
           system.processors, bench->client_backend, bench->size, bench->depth,
           (double)bench->duration_ns / 1e9);
    for (size_t i = 0; i < bench->notes_count; i++) {
        printf("%s", i > 0 ? "," : "");
        report_json_text(stdout, bench->notes[i]);
    }
    printf("],\"results\":[");
    for (size_t i = 0; i < bench->points_count; i++) {
        for (size_t j = 0; j < bench->subjects_count; j++) {
            printf("%s", i + j > 0 ? "," : "");
            print_json_cell(bench, j, i);
        }
    }
    printf("],\"report\":");
    report_json_text(stdout, bench->page_path);
    printf(",\"csv\":");
    report_json_text(stdout, bench->csv_path);
    printf("}\n");
}

/* ---- all ---- */

static int finish_file(FILE **file, const char *part_path, const char *path)
{
    bool written = !ferror(*file);
    written = fclose(*file) == 0 && written;
    *file = NULL;
    written = written && (part_path[0] == '\0' || rename(part_path, path) == 0);
    if (!written) {
        tool_say("cannot write \"%s\": is the disk full?", path);
    }
    return written ? TOOL_DONE : TOOL_FAILED;
}

int bench_write_files(struct bench *bench)
{
    bench_write_page(bench, bench->page);
    write_csv(bench);
    int page = finish_file(&bench->page, bench->page_part, bench->page_path);
    int csv = finish_file(&bench->csv, bench->csv_part, bench->csv_path);
    return page != TOOL_DONE ? page : csv;
}

void bench_print(const struct bench *bench)
{
    static struct bench_sheet sheet;
    if (bench->json) {
        print_json(bench);
        return;
    }
    for (size_t i = 0; i < bench->points_count; i++) {
        printf("\n");
        report_table_text(stdout, bench_fill_sheet(&sheet, bench, i));
    }
    printf("\n");
    for (size_t i = 0; i < bench->notes_count; i++) {
        printf("note: %s\n", bench->notes[i]);
    }
    printf("charts: %s\nnumbers: %s\n", bench->page_path, bench->csv_path);
}
