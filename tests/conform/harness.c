/* harness.c - runs one test and holds what it needs: checks, loops, the counting allocator,
 * patterns.
 *
 * In a process of its own a failing check reports through platform_conclude(); with --no-fork
 * it prints its line and ends the program, since a test that stopped halfway leaves loops
 * behind that no later test should meet. */

#include "harness.h"
#include "tracked.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#define LOOPS_MAX 64

static struct suite suite;

static struct {
    const struct test *test;
    struct outcome outcome;
    int descriptors;
    _Atomic(struct pier_loop *) loops[LOOPS_MAX];
    _Atomic int64_t held;
    _Atomic uint64_t made;
} current;

/* What the main thread waits for, for the watchdog. */
static char waiting[512];
static const char *volatile waiting_for = "the test's own code";

static _Thread_local struct pier_loop *running;
static _Thread_local bool on_main_thread;

/* ---- checks ---------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *name = path;
    for (const char *at = path; *at != '\0'; at++) {
        if (*at == '/' || *at == '\\') {
            name = at + 1;
        }
    }
    return name;
}

_Noreturn static void fail_with(const char *file, int line, const char *message)
{
    struct outcome outcome = {.verdict = VERDICT_FAILED};
    snprintf(outcome.text, sizeof(outcome.text), "%s:%d: %s", base_name(file), line, message);
    if (suite.isolate) {
        platform_conclude(&outcome);
    }
    if (suite.aborts) {
        fprintf(stderr, "%s: %s\n", current.test->name, outcome.text);
        abort();
    }
    printf("not ok %s: %s\n", current.test->name, outcome.text);
    printf("backend=%s: stopped by --no-fork at the first failure\n", suite.backend);
    fflush(stdout);
    _Exit(1);
}

_Noreturn void test_fail(const char *file, int line, const char *format, ...)
{
    char message[800];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    fail_with(file, line, message);
}

static void describe_value(char *text, size_t size, int64_t value)
{
    if (value < 0 && value > -100 && strcmp(pier_error_name(value), "PIER_E?") != 0) {
        snprintf(text, size, "%" PRId64 " %s", value, pier_error_name(value));
    } else {
        snprintf(text, size, "%" PRId64, value);
    }
}

_Noreturn void test_fail_values(const char *file, int line, const char *expression, int64_t left,
                                int64_t right)
{
    char left_text[64], right_text[64];
    describe_value(left_text, sizeof(left_text), left);
    describe_value(right_text, sizeof(right_text), right);
    test_fail(file, line, "%s (%s, %s)", expression, left_text, right_text);
}

void test_check_detail(const char *file, int line, const char *call)
{
    const char *detail = pier_error_detail();
    if (strlen(detail) < 8) {
        test_fail(file, line, "%s left no explanation (\"%s\")", call, detail);
    }
    if (strchr(detail, '\n') != NULL) {
        test_fail(file, line, "%s explains itself in more than one line", call);
    }
}

void test_check_aborts(const char *file, int line, void (*action)(void), const char *function,
                       const char *rule)
{
    char text[1000];
    if (!platform_aborts(action, text, sizeof(text))) {
        test_fail(file, line, "%s() didn't stop the program; it wrote \"%s\"", function, text);
    }
    const char *line_end = strchr(text, '\n');
    if (line_end == NULL || line_end[1] != '\0') {
        test_fail(file, line, "%s() didn't write one line: \"%s\"", function, text);
    }
    if (strstr(text, function) == NULL || strstr(text, rule) == NULL) {
        test_fail(file, line, "the line doesn't name %s() and \"%s\": %s", function, rule, text);
    }
}

void test_check_text(const char *file, int line, const char *expression, const char *left,
                     const char *right)
{
    if (strcmp(left, right) != 0) {
        test_fail(file, line, "%s is \"%s\", not \"%s\"", expression, left, right);
    }
}

void test_check_bytes(const char *file, int line, const char *expression, const void *left,
                      const void *right, size_t size)
{
    const unsigned char *a = left, *b = right;
    for (size_t i = 0; i < size; i++) {
        if (a[i] != b[i]) {
            test_fail(file, line, "%s differs at byte %zu of %zu (%d, not %d)", expression, i, size,
                      a[i], b[i]);
        }
    }
}

void test_skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(current.outcome.text, sizeof(current.outcome.text), format, arguments);
    va_end(arguments);
    current.outcome.verdict = VERDICT_SKIPPED;
}

void test_wait_begin(const char *file, int line, const char *condition)
{
    if (on_main_thread) {
        snprintf(waiting, sizeof(waiting), "%s:%d: waited in vain for %s", base_name(file), line,
                 condition);
        waiting_for = waiting;
    }
}

void test_wait_end(void)
{
    if (on_main_thread) {
        waiting_for = "the test's own code";
    }
}

static const char *explain_watchdog(void)
{
    return waiting_for;
}

/* ---- the backend and its loops --------------------------------------------------------------- */

const char *test_backend(void)
{
    return suite.backend;
}

bool test_backend_is(const char *name)
{
    return strcmp(suite.backend, name) == 0;
}

enum pier_trigger test_trigger(void)
{
    return suite.trigger;
}

bool test_can(unsigned capability)
{
    const int bits = pier_backend_probe(suite.backend);
    return bits >= 0 && ((unsigned)bits & capability) == capability;
}

unsigned test_slowness(void)
{
    return suite.slowness;
}

/* Each block starts with its size, so that a wrong old_size is noticed. */
struct block {
    size_t size;
    size_t unused; /* keeps what follows aligned to 16 bytes */
};

static void *count_allocation(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    struct block *block = memory == NULL ? NULL : (struct block *)memory - 1;
    if (block == NULL) {
        CHECK_INT(old_size, ==, 0);
    } else {
        CHECK_INT(old_size, ==, block->size);
    }
    if (new_size == 0) {
        if (block != NULL) {
            atomic_fetch_sub(&current.held, 1);
            free(block);
        }
        return NULL;
    }
    struct block *grown = realloc(block, sizeof(*block) + new_size);
    if (grown == NULL) {
        return NULL;
    }
    if (block == NULL) {
        atomic_fetch_add(&current.held, 1);
    }
    atomic_fetch_add(&current.made, 1);
    grown->size = new_size;
    return grown + 1;
}

int64_t test_allocations_held(void)
{
    return atomic_load(&current.held);
}

uint64_t test_allocations_made(void)
{
    return atomic_load(&current.made);
}

struct pier_loop_options test_options(void)
{
    const struct pier_loop_options options = {
        .backend = suite.backend, .trigger = suite.trigger, .allocate = count_allocation};
    return options;
}

struct pier_loop *test_loop(void)
{
    const struct pier_loop_options options = test_options();
    return test_loop_with(&options);
}

struct pier_loop *test_loop_with(const struct pier_loop_options *options)
{
    struct pier_loop *loop = NULL;
    CHECK_OK(pier_loop_new(&loop, options));
    CHECK(loop != NULL);
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        struct pier_loop *none = NULL;
        if (atomic_compare_exchange_strong(&current.loops[i], &none, loop)) {
            return loop;
        }
    }
    FAIL("more than %d loops in one test", LOOPS_MAX);
}

void test_loop_free(struct pier_loop *loop)
{
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        struct pier_loop *wanted = loop;
        if (atomic_compare_exchange_strong(&current.loops[i], &wanted, NULL)) {
            pier_loop_free(loop);
            return;
        }
    }
    FAIL("this loop isn't one of the test's");
}

int run(struct pier_loop *loop, enum pier_run mode)
{
    struct pier_loop *outer = running;
    running = loop;
    const int result = pier_loop_run(loop, mode);
    running = outer;
    if (result < 0 && result != PIER_EFORKED) {
        FAIL("pier_loop_run() failed: %s", pier_error_name(result));
    }
    return result;
}

int drain(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier_loop *outer = running;
    running = loop;
    const int result = pier_loop_drain(loop, timeout_ns);
    running = outer;
    return result;
}

struct pier_loop *test_running(void)
{
    return running;
}

static void note_elapsed(struct pier_op *op)
{
    op->data = op;
}

void run_quietly(struct pier_loop *loop, unsigned milliseconds)
{
    struct pier_op pause = {0};
    pier_timer(loop, &pause, milliseconds * PIER_MILLISECOND, note_elapsed);
    RUN_UNTIL(loop, pause.data != NULL);
}

struct pier_loop_counters stats_of(struct pier_loop *loop)
{
    struct pier_loop_counters stats;
    pier_loop_stats(loop, &stats);
    return stats;
}

/* ---- data ------------------------------------------------------------------------------------ */

static unsigned char pattern_byte(unsigned seed, uint64_t offset)
{
    const uint64_t mixed = (offset + 1) * UINT64_C(0x9e3779b97f4a7c15) +
                           seed * UINT64_C(0xff51afd7ed558ccd);
    return (unsigned char)(mixed >> 56);
}

void pattern_fill(void *memory, size_t size, unsigned seed, uint64_t offset)
{
    unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = pattern_byte(seed, offset + i);
    }
}

void test_check_pattern(const char *file, int line, const void *memory, size_t size, unsigned seed,
                        uint64_t offset)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != pattern_byte(seed, offset + i)) {
            test_fail(file, line, "byte %" PRIu64 " of the stream is %d, not %d", offset + i,
                      bytes[i], pattern_byte(seed, offset + i));
        }
    }
}

uint32_t random_next(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t mixed = *state;
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((mixed ^ (mixed >> 31)) >> 16);
}

uint32_t random_below(uint64_t *state, uint32_t limit)
{
    return random_next(state) % limit;
}

struct pier_address address_of(const char *text)
{
    struct pier_address address;
    CHECK_OK(pier_address_parse(&address, text));
    return address;
}

/* ---- running a test -------------------------------------------------------------------------- */

void test_configure(const struct suite *settings)
{
    suite = *settings;
}

static void free_remaining_loops(void)
{
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        struct pier_loop *loop = atomic_exchange(&current.loops[i], NULL);
        if (loop != NULL) {
            pier_loop_free(loop);
        }
    }
}

/* Open descriptors that count. The library that stands in for kqueue on Linux learns of a queue's
 * close only when another is made, which a probe does. */
static int count_descriptors(void)
{
    pier_backend_probe("kqueue");
    return platform_descriptor_count();
}

static void run_here(void)
{
    on_main_thread = true;
    current.outcome.verdict = VERDICT_PASSED;
    current.outcome.text[0] = '\0';
    atomic_store(&current.made, 0);
    current.descriptors = count_descriptors();
    platform_watchdog(suite.watchdog_s, explain_watchdog);
    current.test->run();
    if (current.outcome.verdict != VERDICT_SKIPPED && tracked_in_flight() != 0) {
        FAIL("the test ended with %d tracked ops in flight", (int)tracked_in_flight());
    }
    free_remaining_loops();
    const int descriptors = count_descriptors();
    if (descriptors != current.descriptors) {
        FAIL("%d descriptors are open, %d were before", descriptors, current.descriptors);
    }
    if (test_allocations_held() != 0) {
        FAIL("%d allocations were not given back", (int)test_allocations_held());
    }
    platform_watchdog(0, NULL);
}

static void run_isolated(void)
{
    run_here();
    platform_conclude(&current.outcome);
}

void test_perform(const struct test *test, struct outcome *outcome)
{
    current.test = test;
    if (suite.isolate) {
        platform_isolate(run_isolated, suite.watchdog_s, outcome);
    } else {
        run_here();
        *outcome = current.outcome;
    }
}
