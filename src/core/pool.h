/* pool.h - the loop's pool of lent buffers.
 *
 * All buffers lie in one range of memory, so that the buffer behind an address is found by
 * arithmetic. The range is reserved at the first use and touched only as far as it's used: free
 * buffers are taken last in, first out. A buffer out of the pool has refs > 0. On readiness
 * backends data is received straight into the top of the free list, and the buffer is taken out
 * only if the callback keeps it or a send still needs it: that's what `current` is for. */

#ifndef PIER_CORE_POOL_H
#define PIER_CORE_POOL_H

#include "pier/pier.h"

#define PIER__NO_BUFFER UINT32_MAX

struct pier_buffer {
    struct pier_loop *loop;
    struct pier_handle *handle; /* in whose share it counts, NULL when that was closed */
    unsigned char *memory;
    uint32_t refs;
    uint32_t size;   /* bytes received */
    uint32_t next;   /* in the free list */
    uint32_t offset; /* of the data, from the buffer's start */
    int32_t
        outcome; /* uring, held data: how the op ends after it, PIER__NO_OUTCOME while it goes on */
    uint32_t index; /* its own, in pool->buffers */
};

#define PIER__NO_OUTCOME INT32_MAX

struct pier__pool {
    unsigned char *memory; /* NULL before the first use */
    struct pier_buffer *buffers;
    size_t buffer_size, memory_size;
    uint32_t count, used;       /* made at the most; ever taken */
    unsigned char *free_memory; /* of the buffer `free`, NULL when there is none */
    uint32_t free, lent, share;
    uint32_t current; /* was the top of the free list when the delivery of data in it began */
    struct pier_buffer *current_out; /* the same for one that isn't in the free list, since the
                                        backend had it; its size and handle are noted in it */
    uint32_t current_size;
    struct pier_handle *current_handle;
};

int pier__pool_open(struct pier_loop *loop);
void pier__pool_close(struct pier_loop *loop);

/* The next free buffer, without taking it; PIER__NO_BUFFER when there is none or the memory can't
 * be had. */
uint32_t pier__pool_peek(struct pier_loop *loop);
/* Takes the buffer that pier__pool_peek() has shown, with one reference, for a handle. */
void pier__pool_take(struct pier_loop *loop, uint32_t index, struct pier_handle *handle);
/* Takes it without an owner or reference: the backend has it now. */
void pier__pool_pop(struct pier_loop *loop, uint32_t index);
/* The same for a buffer that isn't in the free list, since the backend had it. */
void pier__pool_give(struct pier_loop *loop, uint32_t index, struct pier_handle *handle);
/* Back into the free list. */
void pier__pool_put(struct pier_loop *loop, uint32_t index);
/* The handle is going, and has buffers lent: they count for nobody from now on. */
void pier__pool_disown(struct pier_loop *loop, struct pier_handle *handle);
/* Drops a reference; the last one returns the buffer. */
void pier__pool_drop(struct pier_loop *loop, uint32_t index);
/* A send that stays in flight: takes references on the lent buffers that its memory is in, and
 * notes so in the op. The second time it does nothing. */
void pier__pool_hold(struct pier_loop *loop, struct pier_op *op);
void pier__pool_unhold(struct pier_loop *loop, struct pier_op *op);

/* The buffer that an address lies in, or PIER__NO_BUFFER. */
static inline uint32_t pier__pool_find(const struct pier__pool *pool, const void *address)
{
    uintptr_t offset = (uintptr_t)address - (uintptr_t)pool->memory;
    return offset >= pool->memory_size ? PIER__NO_BUFFER : (uint32_t)(offset / pool->buffer_size);
}

static inline unsigned char *pier__pool_memory(const struct pier__pool *pool, uint32_t index)
{
    return pool->buffers[index].memory;
}

#endif
