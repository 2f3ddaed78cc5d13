/* unit.c - runs the tests that unit.h registered: main(), checks and reports.
 *
 * Owns the list of tests, the verdict on the running one, and the guards around it: the balance of
 * descriptors and heap blocks, a watchdog for tests that hang, a last word for tests that crash.
 *
 * A failure is printed when it happens, since a test that fails often crashes or hangs next, and
 * the first one once more in the test's own line. Failures may come from any thread, so the verdict
 * is behind a lock. Forked children share the guards' handlers; only the harness's own process
 * speaks. */

#include "unit.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit_system.h"

enum { EXIT_ALL_SKIPPED = 77, TIMEOUT_DEFAULT = 60 };

struct options {
    const char **filters;
    int filter_count;
    int repeat;
    unsigned timeout_seconds;
    bool list;
};

struct totals {
    int passed, failed, skipped;
};

static struct unit_test *tests;
static jmp_buf leave_test;
static _Thread_local bool on_test_thread;
static const char *skip_reason;

static atomic_flag verdict_lock = ATOMIC_FLAG_INIT;
static int failures;
static char first_failure[512];

/* Keeps the list ordered by file and line: systems disagree on the order of constructors. */
void unit_register(struct unit_test *test)
{
    struct unit_test **place = &tests;
    while (*place != NULL) {
        int order = strcmp((*place)->file, test->file);
        if (order > 0 || (order == 0 && (*place)->line > test->line))
            break;
        place = &(*place)->next;
    }
    test->next = *place;
    *place = test;
}

static const char *file_name(const char *path)
{
    const char *name = path;
    for (const char *p = path; *p != '\0'; p++) {
        if (*p == '/' || *p == '\\')
            name = p + 1;
    }
    return name;
}

bool unit_fail(const char *file, int line, const char *format, ...)
{
    char text[512];
    int used = snprintf(text, sizeof text, "%s:%d: ", file_name(file), line);
    va_list arguments;
    va_start(arguments, format);
    if (used > 0 && (size_t)used < sizeof text)
        vsnprintf(text + used, sizeof text - (size_t)used, format, arguments);
    va_end(arguments);

    while (atomic_flag_test_and_set_explicit(&verdict_lock, memory_order_acquire)) {}
    if (failures++ == 0)
        memcpy(first_failure, text, sizeof text);
    atomic_flag_clear_explicit(&verdict_lock, memory_order_release);
    printf("# %s\n", text);
    fflush(stdout);
    return false;
}

static void leave(const char *what)
{
    if (!on_test_thread) {
        printf("# %s on a thread that isn't the test's: stopping\n", what);
        fflush(stdout);
        abort();
    }
    longjmp(leave_test, 1);
}

_Noreturn void unit_abandon(void)
{
    leave("REQUIRE failed");
    abort();
}

_Noreturn void unit_skip(const char *why)
{
    skip_reason = why;
    leave("SKIP");
    abort();
}

static void print_value(char *text, size_t size, struct unit_value value)
{
    if (value.kind == UNIT_SIGNED)
        snprintf(text, size, "%" PRIdMAX, value.number);
    else if (value.kind == UNIT_UNSIGNED)
        snprintf(text, size, "%" PRIuMAX, value.magnitude);
    else
        snprintf(text, size, "%#" PRIxPTR, (uintptr_t)value.pointer);
}

/* -1, 0 or 1. NULL as the integer 0 may meet a pointer, so a pointer counts as its address. */
static int compare_values(struct unit_value left, struct unit_value right)
{
    bool left_negative = left.kind == UNIT_SIGNED && left.number < 0;
    bool right_negative = right.kind == UNIT_SIGNED && right.number < 0;
    if (left_negative != right_negative)
        return left_negative ? -1 : 1;
    if (left_negative)
        return (left.number > right.number) - (left.number < right.number);
    uintmax_t a = left.kind == UNIT_SIGNED     ? (uintmax_t)left.number
                  : left.kind == UNIT_UNSIGNED ? left.magnitude
                                               : (uintptr_t)left.pointer;
    uintmax_t b = right.kind == UNIT_SIGNED     ? (uintmax_t)right.number
                  : right.kind == UNIT_UNSIGNED ? right.magnitude
                                                : (uintptr_t)right.pointer;
    return (a > b) - (a < b);
}

bool unit_check_values(const char *file, int line, const char *left_text, const char *right_text,
                       enum unit_relation relation, struct unit_value left, struct unit_value right)
{
    static const char *const signs[] = {"==", "!=", "<", "<=", ">", ">="};
    int order = compare_values(left, right);
    bool holds = false;
    switch (relation) {
    case UNIT_EQ: holds = order == 0; break;
    case UNIT_NE: holds = order != 0; break;
    case UNIT_LT: holds = order < 0; break;
    case UNIT_LE: holds = order <= 0; break;
    case UNIT_GT: holds = order > 0; break;
    case UNIT_GE: holds = order >= 0; break;
    }
    if (holds)
        return true;
    char a[32], b[32];
    print_value(a, sizeof a, left);
    print_value(b, sizeof b, right);
    return unit_fail(file, line, "%s %s %s: %s and %s", left_text, signs[relation], right_text, a,
                     b);
}

bool unit_check_text(const char *file, int line, const char *what, const char *left,
                     const char *right)
{
    if (left == right || (left != NULL && right != NULL && strcmp(left, right) == 0))
        return true;
    return unit_fail(file, line, "%s: \"%s\" and \"%s\"", what, left != NULL ? left : "(null)",
                     right != NULL ? right : "(null)");
}

bool unit_check_memory(const char *file, int line, const char *what, const void *left,
                       const void *right, size_t size)
{
    const unsigned char *a = left, *b = right;
    for (size_t i = 0; i < size; i++) {
        if (a[i] != b[i])
            return unit_fail(file, line, "%s: byte %zu of %zu is 0x%02x and 0x%02x", what, i, size,
                             a[i], b[i]);
    }
    return true;
}

/* Runs a test's body. Returns false when it was left early. */
static bool run_body(const struct unit_test *test)
{
    skip_reason = NULL;
    if (setjmp(leave_test) != 0)
        return false;
    test->run();
    return true;
}

/* What a test must leave as it was. */
struct balance {
    struct unit_descriptors descriptors;
    size_t blocks;
    uint64_t allocations;
};

static void take_balance(struct balance *balance)
{
    unit_list_descriptors(&balance->descriptors);
    balance->blocks = unit_live_blocks();
    balance->allocations = unit_allocation_count();
}

static bool is_balanced(const struct balance *before, const struct balance *after)
{
    return !unit_descriptors_grew(&before->descriptors, &after->descriptors) &&
           after->blocks <= before->blocks;
}

static void report_imbalance(const struct unit_test *test, const struct balance *before,
                             const struct balance *after)
{
    if (unit_descriptors_grew(&before->descriptors, &after->descriptors)) {
        unit_report_descriptors(&before->descriptors, &after->descriptors);
        unit_fail(test->file, test->line, "open descriptors before %zu, after %zu",
                  before->descriptors.count, after->descriptors.count);
    }
    if (after->blocks > before->blocks) {
        unit_report_blocks(before->allocations);
        unit_fail(test->file, test->line, "live heap blocks before %zu, after %zu", before->blocks,
                  after->blocks);
    }
}

/* Runs one test with its guards and prints its line. What is still held after a first run may be
 * kept for the life of the process (Windows opens handles for itself, libpier-kqueue an eventfd):
 * only a second run that adds to it shows a leak. */
static void run_test(const struct unit_test *test, unsigned timeout_seconds, struct totals *totals)
{
    struct balance before, after;
    bool complete = true, balanced = false;
    failures = 0;
    unit_guard_start(test->name, timeout_seconds);
    for (int run = 0; run < 2 && complete && !balanced && failures == 0; run++) {
        take_balance(&before);
        complete = run_body(test);
        take_balance(&after);
        balanced = is_balanced(&before, &after);
    }
    unit_guard_stop();

    if (complete && !balanced && failures == 0)
        report_imbalance(test, &before, &after);
    if (failures > 0) {
        totals->failed++;
        printf("not ok %s: %s\n", test->name, first_failure);
    } else if (skip_reason != NULL) {
        totals->skipped++;
        printf("skip %s: %s\n", test->name, skip_reason);
    } else {
        totals->passed++;
        printf("ok %s\n", test->name);
    }
    fflush(stdout);
}

static bool is_chosen(const struct unit_test *test, const struct options *options)
{
    if (options->filter_count == 0)
        return true;
    for (int i = 0; i < options->filter_count; i++) {
        if (strstr(test->name, options->filters[i]) != NULL)
            return true;
    }
    return false;
}

static int usage(const char *program, FILE *stream)
{
    fprintf(stream,
            "usage: %s [--list] [--repeat N] [--timeout SECONDS] [PART-OF-A-NAME...]\n"
            "  --list     print the names of the tests and exit\n"
            "  --repeat   run each chosen test N times\n"
            "  --timeout  stop a test that takes longer (default %d, 0 for never;\n"
            "             PIER_TEST_TIMEOUT in the environment sets the default)\n",
            file_name(program), TIMEOUT_DEFAULT);
    return stream == stdout ? 0 : 2;
}

static bool parse_number(const char *text, int least, int *number)
{
    char *end;
    long value = text != NULL ? strtol(text, &end, 10) : -1;
    if (text == NULL || end == text || *end != '\0' || value < least || value > 1000000)
        return false;
    *number = (int)value;
    return true;
}

/* Returns -1 to go on, or the exit code. */
static int parse_options(int argc, char **argv, struct options *options)
{
    int seconds = TIMEOUT_DEFAULT;
    const char *environment = getenv("PIER_TEST_TIMEOUT");
    if (environment != NULL && !parse_number(environment, 0, &seconds)) {
        fprintf(stderr, "PIER_TEST_TIMEOUT=%s: not a number of seconds\n", environment);
        return 2;
    }
    *options = (struct options){.repeat = 1};
    options->filters = (const char **)(void *)(argv + 1);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0) {
            options->list = true;
        } else if (strcmp(argv[i], "--help") == 0) {
            return usage(argv[0], stdout);
        } else if (strcmp(argv[i], "--repeat") == 0) {
            if (!parse_number(argv[++i], 1, &options->repeat))
                return usage(argv[0], stderr);
        } else if (strcmp(argv[i], "--timeout") == 0) {
            if (!parse_number(argv[++i], 0, &seconds))
                return usage(argv[0], stderr);
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return usage(argv[0], stderr);
        } else {
            options->filters[options->filter_count++] = argv[i];
        }
    }
    options->timeout_seconds = (unsigned)seconds;
    return -1;
}

int main(int argc, char **argv)
{
    struct options options;
    int code = parse_options(argc, argv, &options);
    if (code >= 0)
        return code;

    struct totals totals = {0, 0, 0};
    int chosen = 0;
    on_test_thread = true;
    unit_system_start();
    for (const struct unit_test *test = tests; test != NULL; test = test->next) {
        if (!is_chosen(test, &options))
            continue;
        chosen++;
        if (options.list)
            printf("%s\n", test->name);
        for (int i = 0; i < options.repeat && !options.list; i++)
            run_test(test, options.timeout_seconds, &totals);
    }
    if (chosen == 0) {
        fprintf(stderr, "no test has such a name; --list prints them\n");
        return 2;
    }
    if (options.list)
        return 0;
    printf("%d passed, %d failed, %d skipped\n", totals.passed, totals.failed, totals.skipped);
    if (totals.failed > 0)
        return 1;
    return totals.passed == 0 ? EXIT_ALL_SKIPPED : 0;
}
