/* atomic.h - the few atomic accesses that pier makes to plain fields.
 *
 * The fields live in public structs that C++ programs include too, so they can't be _Atomic. All
 * accesses are sequentially consistent unless named otherwise: every one of them sits on a path
 * between threads, where a fence is not what costs. */

#ifndef PIER_CORE_ATOMIC_H
#define PIER_CORE_ATOMIC_H

#include <stdint.h>

#define pier__atomic_load(field) __atomic_load_n((field), __ATOMIC_SEQ_CST)
#define pier__atomic_load_relaxed(field) __atomic_load_n((field), __ATOMIC_RELAXED)
#define pier__atomic_store(field, value) __atomic_store_n((field), (value), __ATOMIC_SEQ_CST)
#define pier__atomic_store_relaxed(field, value) \
    __atomic_store_n((field), (value), __ATOMIC_RELAXED)
#define pier__atomic_exchange(field, value) __atomic_exchange_n((field), (value), __ATOMIC_SEQ_CST)
#define pier__atomic_add(field, value) __atomic_fetch_add((field), (value), __ATOMIC_SEQ_CST)
#define pier__atomic_compare_exchange(field, expected, value) \
    __atomic_compare_exchange_n((field), (expected), (value), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

#endif
