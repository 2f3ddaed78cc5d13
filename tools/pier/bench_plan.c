/* SPDX-License-Identifier: MIT */
/* bench_plan.c - what `pier bench` measures: which backends, and at which loads.
 *
 * Lists of the command line are read strictly; what the machine can't have is kept as a subject
 * with the reason (a backend), or fitted to its limit with a note (numbers of connections). */

#include "bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const triggers[] = {"edge", "level", "oneshot"};

/* The next item of a list with commas, copied; false at its end, which *list = NULL marks. */
static bool next_item(const char **list, char *item, size_t size)
{
    if (*list == NULL) {
        return false;
    }
    size_t length = strcspn(*list, ",");
    snprintf(item, size, "%.*s", (int)length, *list);
    *list = (*list)[length] == ',' ? *list + length + 1 : NULL;
    return true;
}

/* ---- which backends ---- */

static void add_subject(struct bench *bench, const char *backend, const char *trigger, bool named)
{
    if (bench->subjects_count == BENCH_SUBJECTS_MAX) {
        return;
    }
    struct bench_subject *subject = &bench->subjects[bench->subjects_count++];
    memset(subject, 0, sizeof(*subject));
    snprintf(subject->name, sizeof(subject->name), "%s%s%s", backend, named ? "-" : "",
             named ? trigger : "");
    subject->backend = backend;
    subject->trigger = trigger;
    subject->works = pier_backend_probe(backend) >= 0;
    if (!subject->works) {
        snprintf(subject->reason, sizeof(subject->reason), "%s", pier_error_detail());
    }
}

static void add_all_subjects(struct bench *bench)
{
    for (size_t i = 0; pier_backend_name(i) != NULL; i++) {
        bool modes = strcmp(pier_backend_name(i), "epoll") == 0;
        for (size_t j = 0; j < (modes ? 3 : 1); j++) {
            add_subject(bench, pier_backend_name(i), triggers[j], modes);
        }
    }
}

/* Keeps the subjects that are named; TOOL_USAGE for a name that none has. */
int bench_choose_subjects(struct bench *bench, const char *list)
{
    add_all_subjects(bench);
    if (list == NULL) {
        return TOOL_GO_ON;
    }
    bool wanted[BENCH_SUBJECTS_MAX] = {false};
    char item[64];
    while (next_item(&list, item, sizeof(item))) {
        bool known = false;
        for (size_t i = 0; i < bench->subjects_count; i++) {
            const struct bench_subject *subject = &bench->subjects[i];
            if (strcmp(item, subject->name) == 0 || strcmp(item, subject->backend) == 0) {
                wanted[i] = known = true;
            }
        }
        if (!known) {
            char names[256] = "";
            for (size_t i = 0; i < bench->subjects_count; i++) {
                size_t used = strlen(names);
                snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "",
                         bench->subjects[i].name);
            }
            tool_say("--backend takes a list of %s, not \"%s\"", names, item);
            return TOOL_USAGE;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < bench->subjects_count; i++) {
        if (wanted[i]) {
            bench->subjects[kept++] = bench->subjects[i];
        }
    }
    bench->subjects_count = kept;
    return TOOL_GO_ON;
}

/* ---- which loads ---- */

static void add_point(struct bench *bench, uint64_t connections, uint64_t active)
{
    for (size_t i = 0; i < bench->points_count; i++) {
        if (bench->points[i].connections == connections && bench->points[i].active == active) {
            return;
        }
    }
    bench->points[bench->points_count++] = (struct bench_point){connections, active};
}

/* All busy first, then with idle ones; by number. */
static int compare_points(const void *a, const void *b)
{
    const struct bench_point *one = a, *other = b;
    bool one_idle = one->active < one->connections, other_idle = other->active < other->connections;
    if (one_idle != other_idle) {
        return one_idle ? 1 : -1;
    }
    return one->connections < other->connections ? -1 : one->connections > other->connections;
}

int bench_choose_points(struct bench *bench, const char *given, uint64_t fit)
{
    /* With more than LOAD_CONNECTIONS_PER_SOURCE the client has to choose its local ports, and
     * those of the runs before are not free for a minute. */
    const char *list = given != NULL ? given : "10,100,1000,5000";
    char item[64];
    uint64_t most = 0, number;
    while (next_item(&list, item, sizeof(item))) {
        if (!tool_parse_number(item, &number) || number < 1 || number > BENCH_CONNECTIONS_MAX) {
            tool_say("--connections takes a list of whole numbers from 1 to %d, such as "
                     "10,1000, not \"%s\"",
                     BENCH_CONNECTIONS_MAX, item);
            return TOOL_USAGE;
        }
        if (bench->points_count + 2 > BENCH_POINTS_MAX) {
            tool_say("--connections takes %d numbers at the most", BENCH_POINTS_MAX / 2);
            return TOOL_USAGE;
        }
        most = number > most ? number : most;
        number = number < fit ? number : fit;
        bool is_long = given == NULL && bench->is_short && number > 1000;
        if (!is_long || bench->busy_max == 0 || number <= bench->busy_max) {
            add_point(bench, number, number);
        }
        if (bench->busy_max > 0 && number > bench->busy_max) {
            add_point(bench, number, bench->busy_max);
        }
    }
    qsort(bench->points, bench->points_count, sizeof(bench->points[0]), compare_points);
    if (most > fit) {
        char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
        bench_note(
            bench,
            "%s connections were asked for, %s are measured: a process here may have no more "
            "descriptors; %s",
            tool_format_count(text, most), tool_format_count(more, fit),
            platform_descriptor_remedy());
    }
    return TOOL_GO_ON;
}

/* ---- how much that is ---- */

size_t bench_count_working(const struct bench *bench)
{
    size_t working = 0;
    for (size_t i = 0; i < bench->subjects_count; i++) {
        working += bench->subjects[i].works ? 1 : 0;
    }
    return working;
}

/* Each measurement, and opening and closing its connections. */
uint64_t bench_estimate_ns(const struct bench *bench)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bench->points_count; i++) {
        uint64_t connect_ns = 120 * PIER_MILLISECOND +
                              bench->points[i].connections * 60 * PIER_MICROSECOND;
        uint64_t load_ns = bench->warmup_ns + bench->duration_ns + connect_ns;
        sum += (load_ns * bench->rounds + connect_ns) * bench_count_working(bench);
    }
    return sum;
}
