/* main.c - the command line of the conformance suite.
 *
 *   conform --backend NAME [--trigger edge|level|oneshot] [--list] [--no-fork] [--repeat N]
 *           [--watchdog SECONDS] [--slowness N] [FILTER]
 *
 * Runs the tests whose name contains FILTER, each in a process of its own, and prints a line
 * for each and a sum. Exit code 0: all passed, 1: one failed or the command line is wrong, 77:
 * the backend isn't to be had here. */

#include "suite.h"

#include <stdlib.h>

struct arguments {
    struct suite suite;
    const char *filter;
    unsigned repeat;
    bool list;
};

struct totals {
    unsigned passed, failed, skipped;
};

static bool parse_number(const char *text, unsigned *number)
{
    char *end = NULL;
    const unsigned long value = text == NULL ? 0 : strtoul(text, &end, 10);
    if (text == NULL || end == text || *end != '\0' || value < 1 || value > 100000) {
        fprintf(stderr, "conform: \"%s\" isn't a number from 1 to 100000\n",
                text == NULL ? "" : text);
        return false;
    }
    *number = (unsigned)value;
    return true;
}

static bool parse_trigger(const char *text, enum pier_trigger *trigger)
{
    static const char *const names[] = {"edge", "level", "oneshot"};
    for (unsigned i = 0; text != NULL && i < COUNT_OF(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *trigger = (enum pier_trigger)i;
            return true;
        }
    }
    fprintf(stderr, "conform: --trigger \"%s\": it is edge, level or oneshot\n",
            text == NULL ? "" : text);
    return false;
}

static const char usage[] =
    "usage: conform --backend NAME [--trigger edge|level|oneshot] [--list] [--no-fork]\n"
    "               [--repeat N] [--watchdog SECONDS] [--slowness N] [FILTER]\n";

static bool parse(int count, char **words, struct arguments *arguments)
{
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *value = i + 1 < count ? words[i + 1] : NULL;
        bool right = true;
        if (strcmp(word, "--list") == 0) {
            arguments->list = true;
        } else if (strcmp(word, "--no-fork") == 0) {
            arguments->suite.isolate = false;
        } else if (strcmp(word, "--backend") == 0) {
            arguments->suite.backend = value;
            i++;
        } else if (strcmp(word, "--trigger") == 0) {
            right = parse_trigger(value, &arguments->suite.trigger);
            i++;
        } else if (strcmp(word, "--watchdog") == 0) {
            right = parse_number(value, &arguments->suite.watchdog_s);
            i++;
        } else if (strcmp(word, "--slowness") == 0) {
            right = parse_number(value, &arguments->suite.slowness);
            i++;
        } else if (strcmp(word, "--repeat") == 0) {
            right = parse_number(value, &arguments->repeat);
            i++;
        } else if (word[0] == '-' || arguments->filter != NULL) {
            fprintf(stderr, "conform: \"%s\" isn't understood\n%s", word, usage);
            right = false;
        } else {
            arguments->filter = word;
        }
        if (!right) {
            return false;
        }
    }
    return true;
}

static bool check_backend(const char *backend, int *status)
{
    static const char *const names[] = {"uring", "epoll", "kqueue", "iocp", "poll", "select"};
    for (size_t i = 0; backend != NULL && i < COUNT_OF(names); i++) {
        if (strcmp(backend, names[i]) != 0) {
            continue;
        }
        if (pier_backend_probe(backend) < 0) {
            printf("backend=%s: not to be had here: %s\n", backend, pier_error_detail());
            *status = 77;
            return false;
        }
        return true;
    }
    fprintf(stderr, "conform: --backend \"%s\": it is uring, epoll, kqueue, iocp, poll or select\n",
            backend == NULL ? "" : backend);
    *status = 1;
    return false;
}

static void run_test(const struct test *test, struct totals *totals)
{
    struct outcome outcome = {.verdict = VERDICT_FAILED};
    test_perform(test, &outcome);
    switch (outcome.verdict) {
    case VERDICT_PASSED:
        totals->passed++;
        printf("ok %s\n", test->name);
        break;
    case VERDICT_FAILED:
        totals->failed++;
        printf("not ok %s: %s\n", test->name, outcome.text);
        break;
    case VERDICT_SKIPPED:
        totals->skipped++;
        printf("skip %s: %s\n", test->name, outcome.text);
        break;
    }
    fflush(stdout);
}

static void for_each_test(const struct arguments *arguments, struct totals *totals)
{
    for (size_t area = 0; suite_areas[area] != NULL; area++) {
        for (const struct test *test = suite_areas[area]; test->name != NULL; test++) {
            if (arguments->filter != NULL && strstr(test->name, arguments->filter) == NULL) {
                continue;
            }
            if (arguments->list) {
                printf("%s\n", test->name);
                continue;
            }
            for (unsigned i = 0; i < arguments->repeat; i++) {
                run_test(test, totals);
            }
        }
    }
}

int main(int count, char **words)
{
    struct arguments arguments = {.repeat = 1};
    struct totals totals = {0};
    const char *limit = getenv("PIER_TEST_TIMEOUT");
    int status = 0;
    arguments.suite.isolate = platform_can_isolate();
#ifdef TEST_SANITIZED
    arguments.suite.slowness = 10;
#else
    arguments.suite.slowness = 1;
#endif
    arguments.suite.watchdog_s = 60;
    if (limit != NULL && atoi(limit) > 0) {
        arguments.suite.watchdog_s = (unsigned)atoi(limit);
    }
    if (!parse(count, words, &arguments)) {
        return 1;
    }
    if (!arguments.list && !check_backend(arguments.suite.backend, &status)) {
        return status;
    }
    test_configure(&arguments.suite);
    for_each_test(&arguments, &totals);
    if (arguments.list) {
        return 0;
    }
    if (totals.passed + totals.failed + totals.skipped == 0) {
        fprintf(stderr, "conform: no test has \"%s\" in its name\n", arguments.filter);
        return 1;
    }
    printf("backend=%s: %u passed, %u failed, %u skipped\n", arguments.suite.backend, totals.passed,
           totals.failed, totals.skipped);
    return totals.failed > 0 ? 1 : 0;
}
