/* atomic.h - the few atomic accesses that pier makes to plain fields.
 *
 * The fields live in public structs that C++ programs include too, so they can't be _Atomic. All
 * accesses are sequentially consistent unless named otherwise: every one of them sits on a path
 * between threads, where a fence is not what costs. */

#ifndef PIER_BASE_ATOMIC_H
#define PIER_BASE_ATOMIC_H

#include <stdint.h>

#if defined(__GNUC__)

#define pier__atomic_load(field) __atomic_load_n((field), __ATOMIC_SEQ_CST)
#define pier__atomic_load_relaxed(field) __atomic_load_n((field), __ATOMIC_RELAXED)
#define pier__atomic_store(field, value) __atomic_store_n((field), (value), __ATOMIC_SEQ_CST)
#define pier__atomic_exchange(field, value) __atomic_exchange_n((field), (value), __ATOMIC_SEQ_CST)
#define pier__atomic_add(field, value) __atomic_fetch_add((field), (value), __ATOMIC_SEQ_CST)
#define pier__atomic_or(field, bits) __atomic_fetch_or((field), (bits), __ATOMIC_SEQ_CST)
#define pier__atomic_and(field, bits) __atomic_fetch_and((field), (bits), __ATOMIC_SEQ_CST)
#define pier__atomic_compare_exchange(field, expected, value) \
    __atomic_compare_exchange_n((field), (expected), (value), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

#elif defined(_MSC_VER)

/* MSVC has C11's atomics for _Atomic objects only, and as an experiment. These are for its 64-bit
 * targets, whose interlocked functions are full fences. A field is a uint32_t, a uint64_t or a
 * pointer. */

#include <intrin.h>

static inline uint32_t pier__load_32(const volatile void *field)
{
    return (uint32_t)_InterlockedOr((volatile long *)field, 0);
}

static inline uint64_t pier__load_64(const volatile void *field)
{
    return (uint64_t)_InterlockedOr64((volatile long long *)field, 0);
}

static inline void *pier__load_pointer(const volatile void *field)
{
    return (void *)(uintptr_t)pier__load_64(field);
}

static inline uint32_t pier__peek_32(const volatile void *field)
{
    return *(const volatile uint32_t *)field;
}

static inline uint64_t pier__peek_64(const volatile void *field)
{
    return *(const volatile uint64_t *)field;
}

static inline void *pier__peek_pointer(const volatile void *field)
{
    return *(void *const volatile *)field;
}

static inline uint32_t pier__exchange_32(volatile void *field, uint32_t value)
{
    return (uint32_t)_InterlockedExchange((volatile long *)field, (long)value);
}

static inline uint64_t pier__exchange_64(volatile void *field, uint64_t value)
{
    return (uint64_t)_InterlockedExchange64((volatile long long *)field, (long long)value);
}

static inline void *pier__exchange_pointer(volatile void *field, void *value)
{
    return _InterlockedExchangePointer((void *volatile *)field, value);
}

static inline uint32_t pier__add_32(volatile void *field, uint32_t value)
{
    return (uint32_t)_InterlockedExchangeAdd((volatile long *)field, (long)value);
}

static inline uint64_t pier__add_64(volatile void *field, uint64_t value)
{
    return (uint64_t)_InterlockedExchangeAdd64((volatile long long *)field, (long long)value);
}

static inline uint32_t pier__or_32(volatile void *field, uint32_t bits)
{
    return (uint32_t)_InterlockedOr((volatile long *)field, (long)bits);
}

static inline uint32_t pier__and_32(volatile void *field, uint32_t bits)
{
    return (uint32_t)_InterlockedAnd((volatile long *)field, (long)bits);
}

static inline int pier__swap_32(volatile void *field, void *expected, uint32_t value)
{
    long before = *(long *)expected;
    long found = _InterlockedCompareExchange((volatile long *)field, (long)value, before);
    *(long *)expected = found;
    return found == before;
}

static inline int pier__swap_64(volatile void *field, void *expected, uint64_t value)
{
    long long before = *(long long *)expected;
    long long found = _InterlockedCompareExchange64((volatile long long *)field, (long long)value,
                                                    before);
    *(long long *)expected = found;
    return found == before;
}

static inline int pier__swap_pointer(volatile void *field, void *expected, void *value)
{
    void *before = *(void **)expected;
    void *found = _InterlockedCompareExchangePointer((void *volatile *)field, value, before);
    *(void **)expected = found;
    return found == before;
}

/* By the type of the pointer, since the loop may be const here. */
#define PIER__BY_SIZE(function, field) \
    _Generic((field), uint32_t *: function##_32, const uint32_t *: function##_32, \
             uint64_t *: function##_64, const uint64_t *: function##_64, \
             default: function##_pointer)

#define pier__atomic_load(field) PIER__BY_SIZE(pier__load, field)(field)
#define pier__atomic_load_relaxed(field) PIER__BY_SIZE(pier__peek, field)(field)
#define pier__atomic_store(field, value) ((void)pier__atomic_exchange(field, value))
#define pier__atomic_exchange(field, value) PIER__BY_SIZE(pier__exchange, field)(field, value)
#define pier__atomic_add(field, value) \
    _Generic((field), uint32_t * : pier__add_32, uint64_t * : pier__add_64)(field, value)
#define pier__atomic_or(field, bits) pier__or_32(field, bits) /* of a uint32_t */
#define pier__atomic_and(field, bits) pier__and_32(field, bits)
#define pier__atomic_compare_exchange(field, expected, value) \
    PIER__BY_SIZE(pier__swap, field)(field, expected, value)

#endif

#endif
