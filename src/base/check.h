/* check.h - what pier demands of its caller and of itself.
 *
 * PIER_REQUIRE guards the rules that the header gives to callers; it is on in every build and stops
 * the program with one line that names the function and the rule. PIER_ASSERT guards pier's own
 * invariants; it is off with PIER_NDEBUG. Nothing that can happen to a correct program (errors of
 * the system, peers, memory) goes through either. */

#ifndef PIER_BASE_CHECK_H
#define PIER_BASE_CHECK_H

#if defined(__GNUC__)
#define PIER__LIKELY(x) __builtin_expect(!!(x), 1)
#define PIER__UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PIER__COLD __attribute__((cold, noinline))
#define PIER__NORETURN __attribute__((noreturn))
#define PIER__NOINLINE __attribute__((noinline))
#define PIER__INLINE inline __attribute__((always_inline))
/* A function that stands for an expression: a look at a field, a number made of others. The walk of
 * tests/style, which follows functions from file to file, passes over it. */
#define PIER__EXPRESSION inline __attribute__((no_instrument_function))
/* What the compiler may build on. */
#define PIER__TAKE_FOR_GRANTED(x) ((x) ? (void)0 : __builtin_unreachable())
#elif defined(_MSC_VER)
#define PIER__LIKELY(x) (x)
#define PIER__UNLIKELY(x) (x)
#define PIER__COLD __declspec(noinline)
#define PIER__NORETURN __declspec(noreturn)
#define PIER__NOINLINE __declspec(noinline)
#define PIER__INLINE __forceinline
#define PIER__EXPRESSION __forceinline
#define PIER__TAKE_FOR_GRANTED(x) __assume(x)
#else
#define PIER__LIKELY(x) (x)
#define PIER__UNLIKELY(x) (x)
#define PIER__COLD
#define PIER__NORETURN
#define PIER__NOINLINE
#define PIER__INLINE inline
#define PIER__EXPRESSION inline
#define PIER__TAKE_FOR_GRANTED(x) ((void)0)
#endif

/* MSVC has the C11 word in its latest versions at most, and this in all. */
#if defined(_MSC_VER)
#define PIER__THREAD_LOCAL __declspec(thread)
#else
#define PIER__THREAD_LOCAL _Thread_local
#endif

/* Writes "pier: FUNCTION: RULE" to standard error and aborts. In base/error.c. */
PIER__NORETURN PIER__COLD void pier__misuse(const char *function, const char *rule);
PIER__NORETURN PIER__COLD void pier__broken(const char *file, int line, const char *expression);

#define PIER_REQUIRE(condition, function, rule) \
    do { \
        if (PIER__UNLIKELY(!(condition))) { \
            pier__misuse(function, rule); \
        } \
    } while (0)

#ifdef PIER_NDEBUG
#define PIER_ASSERT(condition) ((void)0)
#else
#define PIER_ASSERT(condition) \
    do { \
        if (PIER__UNLIKELY(!(condition))) { \
            pier__broken(__FILE__, __LINE__, #condition); \
        } \
    } while (0)
#endif

#endif
