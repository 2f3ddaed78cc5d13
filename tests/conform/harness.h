/* harness.h - tests, checks and loops of the conformance suite.
 *
 * A test is a function in a table; it runs in a process of its own (unless --no-fork), on the
 * backend and trigger chosen on the command line. A check that fails ends the test at once with
 * one line: file, line, expression, values. When a test returns, the harness frees the loops
 * that it made (so nothing may be in flight) and checks that no tracked op is in flight, that
 * every allocation was given back, and that as many descriptors are open as before.
 *
 * Tests wait for conditions with RUN_UNTIL(), never by sleeping. To show that something does
 * *not* happen they run the loop for a while with run_quietly(): such a test can miss a fault
 * on a slow machine, but not invent one. */

#ifndef CONFORM_HARNESS_H
#define CONFORM_HARNESS_H

#include "platform.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A build with sanitizers is slow, and the leak check that comes with one of them slower still. */
#if defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__SANITIZE_ADDRESS__)
#define TEST_SANITIZED 1
#define TEST_LEAK_CHECKED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_SANITIZED 1
#elif __has_feature(address_sanitizer)
#define TEST_SANITIZED 1
#define TEST_LEAK_CHECKED 1
#endif
#endif

struct test {
    const char *name;
    void (*run)(void);
};

/* Each file of tests has one table, ended by an empty entry; all are listed in suite.c. */
#define TEST(area, function) \
    { \
#area "." #function, function \
    }
#define TEST_END \
    { \
        NULL, NULL \
    }

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* ---- checks ---------------------------------------------------------------------------------- */

#if defined(__MINGW32__) && !defined(__clang__)
#define PRINTF_LIKE(text, arguments) __attribute__((format(gnu_printf, text, arguments)))
#elif defined(__GNUC__)
#define PRINTF_LIKE(text, arguments) __attribute__((format(printf, text, arguments)))
#else
#define PRINTF_LIKE(text, arguments)
#endif

/* Ends the test as failed. From any thread. */
_Noreturn void test_fail(const char *file, int line, const char *format, ...) PRINTF_LIKE(3, 4);

/* Marks the test as skipped; it must return at once, having nothing left open. */
void test_skip(const char *format, ...) PRINTF_LIKE(1, 2);

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            test_fail(__FILE__, __LINE__, "%s", #condition); \
        } \
    } while (0)

/* CHECK_INT(a, ==, b): integers, both printed; a pier error number with its name. */
#define CHECK_INT(left, operator, right) \
    do { \
        const int64_t left_value = (int64_t)(left), right_value = (int64_t)(right); \
        if (!(left_value operator right_value)) { \
            test_fail_values(__FILE__, __LINE__, #left " " #operator" " #right, left_value, \
                             right_value); \
        } \
    } while (0)

_Noreturn void test_fail_values(const char *file, int line, const char *expression, int64_t left,
                                int64_t right);

/* A set-up call that returns int must succeed; its explanation is printed if it doesn't. */
#define CHECK_OK(call) \
    do { \
        const int64_t call_result = (int64_t)(call); \
        if (call_result < 0) { \
            test_fail(__FILE__, __LINE__, "%s (%s: %s)", #call, pier_error_name(call_result), \
                      pier_error_detail()); \
        } \
    } while (0)

/* A set-up call must fail with `error` and explain itself in one line. */
#define CHECK_REFUSED(call, error) \
    do { \
        CHECK_INT(call, ==, error); \
        test_check_detail(__FILE__, __LINE__, #call); \
    } while (0)

void test_check_detail(const char *file, int line, const char *call);

/* The action, run in a process of its own, must stop that as misuse does: with one line that names
 * the function and has `rule` in it. It makes its loop itself, since loops don't cross a fork. */
#define CHECK_ABORTS(action, function, rule) \
    test_check_aborts(__FILE__, __LINE__, action, function, rule)
void test_check_aborts(const char *file, int line, void (*action)(void), const char *function,
                       const char *rule);

#define CHECK_TEXT(left, right) test_check_text(__FILE__, __LINE__, #left, left, right)
void test_check_text(const char *file, int line, const char *expression, const char *left,
                     const char *right);

#define CHECK_BYTES(left, right, size) \
    test_check_bytes(__FILE__, __LINE__, #left, left, right, size)
void test_check_bytes(const char *file, int line, const char *expression, const void *left,
                      const void *right, size_t size);

/* ---- the backend under test, and its loops --------------------------------------------------- */

const char *test_backend(void);
bool test_backend_is(const char *name);
enum pier_trigger test_trigger(void);
bool test_can(unsigned capability);

/* How much slower than a bare machine this build is allowed to be: 1, or 10 and more under
 * sanitizers and emulators. */
unsigned test_slowness(void);

/* A loop on the backend under test with the counting allocator. Freed by the harness when the
 * test ends, or before with test_loop_free(). */
struct pier_loop *test_loop(void);
struct pier_loop *test_loop_with(const struct pier_loop_options *options);
void test_loop_free(struct pier_loop *loop);

/* Options as test_loop() uses them, to be changed and given to pier_loop_new() or
 * test_loop_with(). */
struct pier_loop_options test_options(void);

/* Allocations that loops of this test hold now, and how many they made so far. */
int64_t test_allocations_held(void);
uint64_t test_allocations_made(void);

/* Runs a turn, or until idle. All running goes through here, so that a callback outside is
 * noticed. */
int run(struct pier_loop *loop, enum pier_run mode);
int drain(struct pier_loop *loop, uint64_t timeout_ns);

/* The loop that this thread is running, NULL for none. */
struct pier_loop *test_running(void);

/* Runs turns until the condition holds. A loop that goes idle before is a failure. */
#define RUN_UNTIL(loop, condition) RUN_UNTIL_AT(__FILE__, __LINE__, loop, condition)
#define RUN_UNTIL_AT(file, line, loop, condition) \
    do { \
        test_wait_begin(file, line, #condition); \
        while (!(condition)) { \
            if (run(loop, PIER_RUN_ONCE) == 0 && !(condition)) { \
                test_fail(file, line, "%s (the loop is idle)", #condition); \
            } \
        } \
        test_wait_end(); \
    } while (0)

/* The same without sleeping in the kernel, for conditions that the raw peer brings about; the
 * rest is done in each turn. */
#define SPIN_UNTIL(loop, condition, ...) \
    do { \
        test_wait_begin(__FILE__, __LINE__, #condition); \
        while (!(condition)) { \
            __VA_ARGS__; \
            run(loop, PIER_RUN_NO_WAIT); \
        } \
        test_wait_end(); \
    } while (0)

void test_wait_begin(const char *file, int line, const char *condition);
void test_wait_end(void);

/* Runs the loop for about that many milliseconds, whatever happens in it. */
void run_quietly(struct pier_loop *loop, unsigned milliseconds);

struct pier_loop_counters stats_of(struct pier_loop *loop);

/* ---- data ------------------------------------------------------------------------------------ */

/* The bytes of an endless stream that differs per seed: any part can be made and checked on its
 * own. */
void pattern_fill(void *memory, size_t size, unsigned seed, uint64_t offset);
#define CHECK_PATTERN(memory, size, seed, offset) \
    test_check_pattern(__FILE__, __LINE__, memory, size, seed, offset)
void test_check_pattern(const char *file, int line, const void *memory, size_t size, unsigned seed,
                        uint64_t offset);

/* A generator of numbers, the same on every machine. */
uint32_t random_next(uint64_t *state);
/* Below `limit`. */
uint32_t random_below(uint64_t *state, uint32_t limit);

struct pier_address address_of(const char *text);

/* ---- for the runner -------------------------------------------------------------------------- */

struct suite {
    const char *backend;
    enum pier_trigger trigger;
    bool isolate;
    bool aborts; /* a failing check aborts, for a fuzzer to see */
    unsigned watchdog_s;
    unsigned slowness;
};

void test_configure(const struct suite *suite);
/* Runs one test, in a process of its own or here. */
void test_perform(const struct test *test, struct outcome *outcome);

#endif
