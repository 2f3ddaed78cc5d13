/* unit.h - the harness of pier's own tests.
 *
 * A test program is one or more files of TEST() blocks linked with unit.c, which has main(). Tests
 * run one after the other in one process, in the order of their files and lines. After a test that
 * passed, the harness compares open descriptors and live heap blocks with what there was before it;
 * if they grew it runs the test once more, and fails it if they grew again. See unit_memory.c for
 * how heap blocks are counted.
 *
 *     TEST(timer_fires_once)
 *     {
 *         REQUIRE(loop != NULL);         ends this test when it fails
 *         CHECK_EQ(fired, 1);            reports, and the test goes on
 *     }
 *
 * CHECK forms may be used in callbacks and on other threads, and evaluate their arguments once.
 * REQUIRE and SKIP leave the test by longjmp, so they are for the test's own thread only; what the
 * test held is then not released and not checked.
 *
 * The programs print `ok NAME`, `not ok NAME: FILE:LINE: WHAT` or `skip NAME: WHY` for each test,
 * end with `N passed, N failed, N skipped`, and exit with 0, with 1 when a test failed, or with 77
 * when each was skipped. `--help` lists their options. */

#ifndef PIER_UNIT_H
#define PIER_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Defines and registers a test. The name says the behaviour that it pins. */
#define TEST(test_name) \
    static void test_##test_name(void); \
    __attribute__((constructor)) static void register_##test_name(void) \
    { \
        static struct unit_test test = { \
            .name = #test_name, .file = __FILE__, .line = __LINE__, .run = test_##test_name}; \
        unit_register(&test); \
    } \
    static void test_##test_name(void)

/* Fails the test unless the condition holds. Is itself true when it held. */
#define CHECK(condition) \
    ((condition) ? true : unit_fail(__FILE__, __LINE__, "%s", "CHECK(" #condition ")"))

/* As CHECK(), but a failure ends the test at once: for what the rest of the test needs. */
#define REQUIRE(condition) \
    ((condition) \
         ? (void)0 \
         : (unit_fail(__FILE__, __LINE__, "%s", "REQUIRE(" #condition ")"), unit_abandon()))

/* Compare integers (of any two types, by their mathematical values) or pointers, and print both. */
#define CHECK_EQ(left, right) UNIT_COMPARE(left, right, UNIT_EQ)
#define CHECK_NE(left, right) UNIT_COMPARE(left, right, UNIT_NE)
#define CHECK_LT(left, right) UNIT_COMPARE(left, right, UNIT_LT)
#define CHECK_LE(left, right) UNIT_COMPARE(left, right, UNIT_LE)
#define CHECK_GT(left, right) UNIT_COMPARE(left, right, UNIT_GT)
#define CHECK_GE(left, right) UNIT_COMPARE(left, right, UNIT_GE)

/* Compare texts; NULL equals only NULL. */
#define CHECK_STR(left, right) \
    unit_check_text(__FILE__, __LINE__, #left ", " #right, (left), (right))

/* Compare memory, and print the first byte that differs. */
#define CHECK_MEM(left, right, size) \
    unit_check_memory(__FILE__, __LINE__, #left ", " #right, (left), (right), (size))

/* Fails the test with a message of its own, as printf() takes it. */
#define FAIL(...) ((void)unit_fail(__FILE__, __LINE__, __VA_ARGS__))

/* Ends the test as skipped; why must say what is missing. */
#define SKIP(why) unit_skip(why)

/* Calls of malloc(), calloc() and realloc() for new memory made so far by the test's and pier's
 * code (not by the C library's), and the blocks that are live now. Where the linker can't wrap
 * these functions both stay 0, and unit_allocations_counted() says so. */
bool unit_allocations_counted(void);
uint64_t unit_allocation_count(void);
size_t unit_live_blocks(void);

/* How many descriptors the process has open. */
size_t unit_open_descriptors(void);

/* The rest is what the macros above are made of. */

struct unit_test {
    const char *name;
    const char *file;
    int line;
    void (*run)(void);
    struct unit_test *next;
};

enum unit_relation { UNIT_EQ, UNIT_NE, UNIT_LT, UNIT_LE, UNIT_GT, UNIT_GE };

struct unit_value {
    enum { UNIT_SIGNED, UNIT_UNSIGNED, UNIT_POINTER } kind;
    intmax_t number;
    uintmax_t magnitude;
    const volatile void *pointer;
};

static inline struct unit_value unit_signed(intmax_t number)
{
    return (struct unit_value){UNIT_SIGNED, number, 0, NULL};
}

static inline struct unit_value unit_unsigned(uintmax_t magnitude)
{
    return (struct unit_value){UNIT_UNSIGNED, 0, magnitude, NULL};
}

static inline struct unit_value unit_pointer(const volatile void *pointer)
{
    return (struct unit_value){UNIT_POINTER, 0, 0, pointer};
}

/* clang-format off */
#define UNIT_VALUE(x) _Generic((x),                                                                \
    _Bool: unit_unsigned, char: unit_signed, signed char: unit_signed, short: unit_signed,         \
    int: unit_signed, long: unit_signed, long long: unit_signed,                                   \
    unsigned char: unit_unsigned, unsigned short: unit_unsigned, unsigned: unit_unsigned,          \
    unsigned long: unit_unsigned, unsigned long long: unit_unsigned, default: unit_pointer)(x)
/* clang-format on */

/* Runs a fixture's loop until the condition holds; fails when nothing is left to wait for. */
#define RUN_UNTIL(f, condition) \
    do { \
        while (!(condition)) { \
            if (pier_loop_run((f)->loop, PIER_RUN_ONCE) <= 0 && !(condition)) { \
                FAIL("nothing is in flight, but not %s", #condition); \
                break; \
            } \
        } \
    } while (0)

#define UNIT_COMPARE(left, right, relation) \
    unit_check_values(__FILE__, __LINE__, #left, #right, relation, UNIT_VALUE(left), \
                      UNIT_VALUE(right))

void unit_register(struct unit_test *test);
bool unit_check_values(const char *file, int line, const char *left_text, const char *right_text,
                       enum unit_relation relation, struct unit_value left,
                       struct unit_value right);
bool unit_check_text(const char *file, int line, const char *what, const char *left,
                     const char *right);
bool unit_check_memory(const char *file, int line, const char *what, const void *left,
                       const void *right, size_t size);

/* MinGW's own printf() takes the standard's formats, of which gcc has to be told. */
#if defined(__MINGW32__) && !defined(__clang__)
#define UNIT_PRINTF __attribute__((format(gnu_printf, 3, 4)))
#else
#define UNIT_PRINTF __attribute__((format(printf, 3, 4)))
#endif

/* Records a failure of the running test; always false. */
UNIT_PRINTF bool unit_fail(const char *file, int line, const char *format, ...);
_Noreturn void unit_abandon(void);
_Noreturn void unit_skip(const char *why);

/* Prints the blocks that were allocated after `mark` allocations and are still live. */
void unit_report_blocks(uint64_t mark);

#endif
