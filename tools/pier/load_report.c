/* SPDX-License-Identifier: MIT */
/* load_report.c - what `pier load` prints in the end, for people or as JSON.
 *
 * Throughput counts what was answered in the measured time. Latency also has what came in after
 * it, and what never came, with the age that it had reached: leaving these out would flatter a
 * server that stalls. Where there was no message at all there is no latency either. */

#include "load.h"

#include <inttypes.h>
#include <string.h>

struct totals {
    uint64_t messages, unsent, errors_count;
    uint64_t errors[LOAD_ERRORS];
    double seconds;
    struct histogram latency;
    const char *first_error;
};

static uint64_t count_errors(const struct load_result *result)
{
    uint64_t sum = 0;
    for (int i = 0; i < LOAD_ERRORS; i++) {
        sum += result->errors[i];
    }
    return sum;
}

uint64_t load_report_errors(const struct load_shared *shared)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        sum += count_errors(&shared->results[i]);
    }
    return sum;
}

static void add_up(struct totals *totals, const struct load_shared *shared)
{
    memset(totals, 0, sizeof(*totals));
    uint64_t longest_ns = 0;
    for (uint64_t i = 0; i < shared->clients_count; i++) {
        const struct load_result *result = &shared->results[i];
        totals->messages += atomic_load(&result->messages);
        totals->unsent += result->unsent;
        for (int j = 0; j < LOAD_ERRORS; j++) {
            totals->errors[j] += result->errors[j];
        }
        histogram_merge(&totals->latency, &result->latency);
        if (longest_ns < result->measured_ns) {
            longest_ns = result->measured_ns;
        }
        if (totals->first_error == NULL && result->first_error[0] != '\0') {
            totals->first_error = result->first_error;
        }
    }
    totals->errors_count = load_report_errors(shared);
    totals->seconds = (double)longest_ns / 1e9;
}

static const char *error_name(int error)
{
    switch (error) {
    case LOAD_ERROR_WRONG_BYTES: return "wrong_bytes";
    case LOAD_ERROR_EXTRA_BYTES: return "extra_bytes";
    case LOAD_ERROR_CLOSED_EARLY: return "closed_early";
    case LOAD_ERROR_UNANSWERED: return "unanswered";
    case LOAD_ERROR_NOT_CLOSED: return "not_closed";
    default: return pier_error_name(LOAD_ERROR_SYSTEM - error);
    }
}

static const struct {
    const char *name, *json_name;
    double part;
} quantiles[] = {{"p50", "p50_ns", 0.5},
                 {"p90", "p90_ns", 0.9},
                 {"p99", "p99_ns", 0.99},
                 {"p99.9", "p999_ns", 0.999},
                 {"max", "max_ns", 1}};

enum { QUANTILES = sizeof(quantiles) / sizeof(quantiles[0]) };

static void print_json_time(const char *name, bool known, uint64_t time_ns)
{
    if (known) {
        printf(",\"%s\":%" PRIu64, name, time_ns);
    } else {
        printf(",\"%s\":null", name);
    }
}

static void print_json(const struct load_options *options, const struct load_shared *shared,
                       const struct totals *totals, const struct platform_usage *usage)
{
    double per_second = totals->seconds > 0 ? (double)totals->messages / totals->seconds : 0;
    printf("{\"backend\":\"%s\",\"connections\":%" PRIu64 ",\"idle\":%" PRIu64 ",\"size\":%" PRIu64
           ",\"depth\":%" PRIu64 ",\"rate\":%" PRIu64 ",\"churn\":%s,\"processes\":%" PRIu64
           ",\"threads\":%" PRIu64,
           shared->results[0].backend, options->connections, options->idle, options->size,
           options->depth, options->rate, options->churn ? "true" : "false", options->processes,
           options->threads);
    printf(",\"seconds\":%.6f,\"messages\":%" PRIu64
           ",\"messages_per_second\":%.1f,\"megabytes_per_second\":%.3f",
           totals->seconds, totals->messages, per_second, per_second * (double)options->size / 1e6);
    bool known = totals->latency.total > 0;
    for (int i = 0; i < QUANTILES; i++) {
        print_json_time(quantiles[i].json_name, known,
                        histogram_quantile(&totals->latency, quantiles[i].part));
    }
    print_json_time("mean_ns", known, known ? totals->latency.sum / totals->latency.total : 0);
    printf(",\"unsent\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"error_kinds\":{", totals->unsent,
           totals->errors_count);
    const char *comma = "";
    for (int i = 0; i < LOAD_ERRORS; i++) {
        if (totals->errors[i] > 0) {
            printf("%s\"%s\":%" PRIu64, comma, error_name(i), totals->errors[i]);
            comma = ",";
        }
    }
    printf("},\"user_cpu_ns\":%" PRIu64 ",\"system_cpu_ns\":%" PRIu64 "}\n", usage->user_ns,
           usage->system_ns);
}

static void print_text(const struct load_options *options, const struct load_shared *shared,
                       const struct totals *totals, const struct platform_usage *usage)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    double per_second = totals->seconds > 0 ? (double)totals->messages / totals->seconds : 0;
    printf("%s connection%s%s", tool_format_count(text, options->connections),
           tool_plural(options->connections), options->churn ? " at a time" : "");
    if (options->idle > 0) {
        printf(" and %s idle", tool_format_count(text, options->idle));
    }
    printf(", %s byte%s, depth %" PRIu64 ", ", tool_format_count(text, options->size),
           tool_plural(options->size), options->depth);
    if (options->rate > 0) {
        printf("%s message%s/s wanted, ", tool_format_count(text, options->rate),
               tool_plural(options->rate));
    } else {
        printf("closed loop, ");
    }
    printf("%.2f s, backend %s\n", totals->seconds, shared->results[0].backend);
    printf("  %-16s %s\n", options->churn ? "connections" : "messages",
           tool_format_count(text, totals->messages));
    printf("  %-16s %s\n", options->churn ? "connections/s" : "messages/s",
           tool_format_count(text, (uint64_t)(per_second + 0.5)));
    printf("  %-16s %.2f\n", "MB/s", per_second * (double)options->size / 1e6);
    for (int i = 0; i < QUANTILES; i++) {
        uint64_t time_ns = histogram_quantile(&totals->latency, quantiles[i].part);
        printf("  %-16s %s\n", quantiles[i].name,
               totals->latency.total > 0 ? tool_format_time(text, time_ns) : "-");
    }
    printf("  %-16s %s user, %s system\n", "client's CPU", tool_format_time(text, usage->user_ns),
           tool_format_time(more, usage->system_ns));
    if (totals->unsent > 0) {
        printf("  %-16s %s (due in time, but the server had not answered those before)\n", "unsent",
               tool_format_count(text, totals->unsent));
    }
    printf("  %-16s %s\n", "errors", tool_format_count(text, totals->errors_count));
    for (int i = 0; i < LOAD_ERRORS; i++) {
        if (totals->errors[i] > 0) {
            printf("    %-22s %s\n", error_name(i), tool_format_count(text, totals->errors[i]));
        }
    }
    if (totals->first_error != NULL) {
        printf("    first: %s\n", totals->first_error);
    }
}

void load_report_print(const struct load_options *options, const struct load_shared *shared)
{
    /* 60 KB: too much for some stacks. */
    static struct totals totals;
    struct platform_usage usage;
    platform_usage(&usage, true);
    add_up(&totals, shared);
    if (options->json) {
        print_json(options, shared, &totals, &usage);
    } else {
        print_text(options, shared, &totals, &usage);
    }
}
