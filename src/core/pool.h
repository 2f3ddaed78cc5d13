/* pool.h - the loop's pool of lent buffers.
 *
 * Who may have a buffer:
 *   - A handle that holds none gets one, up to options.buffers_hard_max in all. So peers that stall
 * cost themselves a buffer each, and nobody else waits for them.
 *   - The second and further ones come out of options.buffers_max, and are bounded by the handle's
 * share: 1/buffer_share of the pool, and less as the pool empties.
 *
 * Buffers are made in chunks that never move: the first has buffers_max of them, reserved at the
 * first use and touched only as far as it's used; further ones come when they are needed. Free
 * buffers are taken last in, first out. A buffer out of the pool has refs > 0.
 *
 * A stream that keeps its buffers full may have large ones, unless the program has set buffer_size:
 * one system call and one event move as much as PIER__LARGE would, at half of the cost. A large one
 * counts as that many, and is to be had only while half of the pool is free.
 *
 * Buffers begin at a cache line: the kernel copies into one that doesn't at two thirds of the speed
 * (x86-64, "rep movs").
 *
 * Data that is being delivered needs no reference: `delivering` names its buffer while the callback
 * runs, and only keeping it, or a send that isn't over at once, takes one. An engine that receives
 * by system calls receives into `spare`, which is out of the free list but held by nobody. */

#ifndef PIER_CORE_POOL_H
#define PIER_CORE_POOL_H

#include <string.h>

#include "pier/pier.h"

#include "base/check.h"

/* Data that has gone back is poisoned for AddressSanitizer, so that a program that still reads it
 * is found. */
#if defined(__SANITIZE_ADDRESS__)
#define PIER__POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PIER__POISONS 1
#endif
#endif

#ifdef PIER__POISONS
#include <sanitizer/asan_interface.h>
#endif

struct pier_buffer {
    struct pier_loop *loop;
    struct pier_handle *handle; /* in whose share it counts, NULL when that was closed */
    unsigned char *memory;
    struct pier_buffer *next; /* in the free list, or among a handle's held ones */
    uint32_t refs;
    uint32_t id;   /* uring: its id in the ring of provided buffers, + 1; 0 while it has none */
    uint32_t size; /* bytes received, once the buffer is kept or held */
    int32_t
        outcome; /* uring, held data: how the op ends after it, PIER__NO_OUTCOME while it goes on */
    uint32_t capacity;
    uint32_t weight; /* as how many it counts: 1, or pool.large */
};

#define PIER__NO_OUTCOME INT32_MAX
#define PIER__BUFFER_SIZE 20480u
#define PIER__LARGE 8u

enum { PIER__POOL_CHUNKS = 24 };

struct pier__pool_chunk {
    void *allocated; /* what `memory` is aligned in */
    unsigned char *memory;
    size_t memory_size;
    size_t stride; /* from one buffer's memory to the next one's */
    struct pier_buffer *buffers;
    uint32_t count, made; /* has room for, has */
};

struct pier__pool {
    struct pier_buffer *spare;      /* where the next receive goes; NULL: to be fetched */
    struct pier_buffer *delivering; /* lent to the callback that runs */
    struct pier_buffer *free, *free_large;
    size_t buffer_size;
    struct pier_handle nobody; /* whose share a buffer counts in that is being delivered while its
                                  handle leaves the loop */
    uint32_t lent;             /* with references, each by its weight */
    uint32_t max, share;
    uint32_t large; /* what a large buffer weighs; 1: there are none */
    uint32_t made;  /* of those that weigh 1 */
    uint32_t chunks_used;
    struct pier__pool_chunk *room, *room_large; /* the last chunk of either, or NULL */
    struct pier__pool_chunk chunks[PIER__POOL_CHUNKS];
};

void pier__pool_open(struct pier_loop *loop);
void pier__pool_close(struct pier_loop *loop);

/* Whether a handle may have one more lent buffer. */
bool pier__pool_admits(const struct pier_loop *loop, const struct pier_handle *handle);
/* A buffer out of the free list, without reference or owner, or NULL: the engine has it now. Not
 * asked is whether anybody may have it. */
struct pier_buffer *pier__pool_pop(struct pier_loop *loop);
/* Back into the free list. */
void pier__pool_put(struct pier_loop *loop, struct pier_buffer *buffer);
/* Fetches a spare buffer; NULL when there is none to be had. */
struct pier_buffer *pier__pool_fetch_spare(struct pier_loop *loop);
/* A large buffer for a handle; NULL when it may have none. */
struct pier_buffer *pier__pool_pop_large(struct pier_loop *loop, const struct pier_handle *handle);
/* A buffer that was the spare one or a large one, and that nobody has a reference on. */
void pier__pool_return_spare(struct pier_loop *loop, struct pier_buffer *buffer);
/* The first reference on a buffer, for a handle. */
void pier__pool_give(struct pier_loop *loop, struct pier_buffer *buffer,
                     struct pier_handle *handle);
/* Drops a reference; the last one returns the buffer. */
void pier__pool_drop(struct pier_loop *loop, struct pier_buffer *buffer);
/* The handle is going: what it has lent, or is just being given, counts for nobody from now on. */
void pier__pool_disown(struct pier_loop *loop, struct pier_handle *handle);
/* One more reference on the buffer that an address lies in; NULL when it's in none that is out. */
struct pier_buffer *pier__pool_hold(struct pier_loop *loop, const void *address);
/* The buffer that an address lies in, or NULL. */
struct pier_buffer *pier__pool_find(const struct pier__pool *pool, const void *address);

static PIER__EXPRESSION bool pier__pool_is_in(const struct pier__pool *pool,
                                              const struct pier_buffer *buffer, const void *address)
{
    (void)pool;
    return (uintptr_t)address - (uintptr_t)buffer->memory < buffer->capacity;
}

/* The program may no longer look at a buffer's data, or may again. */
static PIER__EXPRESSION void pier__pool_poison(const struct pier__pool *pool,
                                               const struct pier_buffer *buffer)
{
    (void)pool;
#ifdef PIER__POISONS
    __asan_poison_memory_region(buffer->memory, buffer->capacity);
#elif defined(PIER_DEBUG)
    memset(buffer->memory, 0xdb, buffer->capacity < 4096 ? buffer->capacity : 4096);
#else
    (void)buffer;
#endif
}

static PIER__EXPRESSION void pier__pool_unpoison(const struct pier__pool *pool,
                                                 const struct pier_buffer *buffer)
{
    (void)pool;
#ifdef PIER__POISONS
    __asan_unpoison_memory_region(buffer->memory, buffer->capacity);
#else
    (void)buffer;
#endif
}

#endif
