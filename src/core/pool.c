/* pool.c - the pool of lent buffers, and the public functions of buffer.h.
 *
 * A buffer out of the pool counts against the share of the handle it was filled for. The handle may
 * be closed long before the program releases the buffer: then the buffer counts for nobody. */

#include "core/pool.h"

#include "core/engine.h"
#include "core/handle.h"

#define CHUNK_MIN 64u
#define ALIGNMENT ((size_t)64) /* of a buffer's memory: a cache line */

static size_t align(size_t size)
{
    return (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
}

void pier__pool_open(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    pool->buffer_size = loop->options.buffer_size;
    pool->large = 1;
    if (pool->buffer_size == 0) {
        pool->buffer_size = PIER__BUFFER_SIZE;
        pool->large = PIER__LARGE;
    }
    pool->max = loop->options.buffers_max;
    pool->share = pool->max / loop->options.buffer_share;
    if (pool->share == 0) {
        pool->share = 1;
    }
}

void pier__pool_close(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    for (uint32_t i = 0; i < pool->chunks_used; i++) {
        struct pier__pool_chunk *chunk = &pool->chunks[i];
#ifdef PIER__POISONS
        __asan_unpoison_memory_region(chunk->memory, chunk->memory_size);
#endif
        pier__free(loop, chunk->allocated, chunk->memory_size + ALIGNMENT - 1);
        pier__free(loop, chunk->buffers, chunk->count * sizeof(*chunk->buffers));
    }
    pool->chunks_used = 0;
}

/* What all handles together may hold. */
static uint32_t hard_max(const struct pier_loop *loop)
{
    uint64_t most = loop->options.buffers_hard_max;
    if (most == 0) {
        most = loop->pool.max + loop->counters.handles_open;
    }
    return most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

/* Of the second buffer on: the share, and less as the pool empties. While half of the pool is free
 * the share is whole; a share of all of it is never cut. */
static uint32_t share_now(const struct pier__pool *pool)
{
    uint32_t left = pool->max > pool->lent ? pool->max - pool->lent : 0;
    if (left >= pool->max / 2 || pool->share == pool->max) {
        return pool->share;
    }
    return (uint32_t)((uint64_t)pool->share * left / (pool->max / 2));
}

bool pier__pool_admits(const struct pier_loop *loop, const struct pier_handle *handle)
{
    const struct pier__pool *pool = &loop->pool;
    if (PIER__LIKELY(handle->lent_ == 0)) {
        return pool->lent < pool->max || pool->lent < hard_max(loop);
    }
    return pool->lent < pool->max && handle->lent_ < share_now(pool);
}

static struct pier__pool_chunk *add_chunk(struct pier_loop *loop, uint32_t count, uint32_t weight)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->chunks_used == PIER__POOL_CHUNKS) {
        return NULL;
    }
    struct pier__pool_chunk *chunk = &pool->chunks[pool->chunks_used];
    chunk->stride = align(pool->buffer_size * weight);
    if (count > (SIZE_MAX - ALIGNMENT) / chunk->stride) {
        return NULL;
    }
    chunk->buffers = pier__allocate(loop, count * sizeof(*chunk->buffers));
    if (chunk->buffers == NULL) {
        return NULL;
    }
    chunk->memory_size = chunk->stride * count;
    chunk->allocated = pier__allocate(loop, chunk->memory_size + ALIGNMENT - 1);
    if (chunk->allocated == NULL) {
        pier__free(loop, chunk->buffers, count * sizeof(*chunk->buffers));
        return NULL;
    }
    chunk->memory = (void *)align((uintptr_t)chunk->allocated);
    chunk->count = count;
    chunk->made = 0;
    pool->chunks_used++;
    return chunk;
}

static struct pier_buffer *make_in(struct pier_loop *loop, struct pier__pool_chunk *chunk,
                                   uint32_t weight)
{
    uint32_t index = chunk->made++;
    struct pier_buffer *buffer = &chunk->buffers[index];
    memset(buffer, 0, sizeof(*buffer));
    buffer->loop = loop;
    buffer->memory = chunk->memory + (size_t)index * chunk->stride;
    buffer->capacity = (uint32_t)loop->pool.buffer_size * weight;
    buffer->weight = weight;
    loop->counters.buffers_total += weight;
    return buffer;
}

/* The pool has no free buffer: makes another. The first chunk has room for what the pool ordinarily
 * may have, each further one for as much as all before it, at most. Untouched pages cost nothing,
 * but the system may not promise as many: then there is room for fewer. */
PIER__COLD static struct pier_buffer *make_buffer(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->room == NULL || pool->room->made == pool->room->count) {
        uint32_t count = pool->made > CHUNK_MIN ? pool->made : CHUNK_MIN;
        count = pool->room == NULL ? pool->max : count;
        uint32_t least = pool->made / 4; /* so that the number of chunks is never what runs out */
        struct pier__pool_chunk *chunk;
        while ((chunk = add_chunk(loop, count, 1)) == NULL && count / 2 > least) {
            count /= 2;
        }
        if (chunk == NULL) {
            return NULL;
        }
        pool->room = chunk;
    }
    pool->made++;
    return make_in(loop, pool->room, 1);
}

/* As many large ones as may be lent at the same time are made at the most, in one chunk. */
PIER__COLD static struct pier_buffer *make_large(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->room_large == NULL) {
        pool->room_large = add_chunk(loop, pool->max / 2 / pool->large, pool->large);
    }
    if (pool->room_large == NULL || pool->room_large->made == pool->room_large->count) {
        return NULL;
    }
    return make_in(loop, pool->room_large, pool->large);
}

struct pier_buffer *pier__pool_pop_large(struct pier_loop *loop, const struct pier_handle *handle)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->large == 1 || pool->lent + pool->large > pool->max / 2 ||
        handle->lent_ + pool->large > pool->share) {
        return NULL;
    }
    struct pier_buffer *buffer = pool->free_large;
    if (PIER__UNLIKELY(buffer == NULL)) {
        return make_large(loop);
    }
    pool->free_large = buffer->next;
    pier__pool_unpoison(pool, buffer);
    return buffer;
}

struct pier_buffer *pier__pool_pop(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = pool->free;
    if (PIER__UNLIKELY(buffer == NULL)) {
        return make_buffer(loop);
    }
    pool->free = buffer->next;
    pier__pool_unpoison(pool, buffer);
    return buffer;
}

void pier__pool_put(struct pier_loop *loop, struct pier_buffer *buffer)
{
    struct pier__pool *pool = &loop->pool;
    pier__pool_poison(pool, buffer);
    if (PIER__UNLIKELY(buffer->weight != 1)) {
        buffer->next = pool->free_large;
        pool->free_large = buffer;
        return;
    }
    if (pool->spare == NULL) {
        pool->spare = buffer;
        return;
    }
    buffer->next = pool->free;
    pool->free = buffer;
}

struct pier_buffer *pier__pool_fetch_spare(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->spare == NULL) {
        pool->spare = pier__pool_pop(loop);
    }
    if (pool->spare != NULL) {
        pier__pool_unpoison(pool, pool->spare);
    }
    return pool->spare;
}

void pier__pool_return_spare(struct pier_loop *loop, struct pier_buffer *buffer)
{
    if (loop->pool.spare != buffer) {
        pier__pool_put(loop, buffer);
    } else {
        pier__pool_poison(&loop->pool, buffer);
    }
}

void pier__pool_give(struct pier_loop *loop, struct pier_buffer *buffer, struct pier_handle *handle)
{
    struct pier__pool *pool = &loop->pool;
    PIER_ASSERT(buffer->refs == 0);
    buffer->refs = 1;
    buffer->handle = handle;
    handle->lent_ = (uint16_t)(handle->lent_ + buffer->weight);
    pool->lent += buffer->weight;
    if (buffer == pool->spare) {
        pool->spare = NULL;
    }
}

void pier__pool_disown(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *delivering = pool->delivering;
    if (delivering != NULL && delivering->handle == handle) {
        delivering->handle = &pool->nobody;
        if (delivering->refs != 0) {
            handle->lent_ = (uint16_t)(handle->lent_ - delivering->weight);
            pool->nobody.lent_ = (uint16_t)(pool->nobody.lent_ + delivering->weight);
        }
    }
    if (PIER__LIKELY(handle->lent_ == 0)) {
        return;
    }
    for (uint32_t i = 0; i < pool->chunks_used; i++) {
        struct pier__pool_chunk *chunk = &pool->chunks[i];
        for (uint32_t k = 0; k < chunk->made; k++) {
            if (chunk->buffers[k].handle == handle) {
                chunk->buffers[k].handle = NULL;
            }
        }
    }
    handle->lent_ = 0;
}

void pier__pool_drop(struct pier_loop *loop, struct pier_buffer *buffer)
{
    struct pier__pool *pool = &loop->pool;
    PIER_ASSERT(buffer->refs > 0);
    if (--buffer->refs != 0) {
        return;
    }
    pool->lent -= buffer->weight;
    if (buffer->handle != NULL) {
        buffer->handle->lent_ = (uint16_t)(buffer->handle->lent_ - buffer->weight);
    }
    if (PIER__UNLIKELY(loop->core.starved.head != NULL)) {
        pier__loop_retry(loop);
    }
    if (buffer == pool->delivering) {
        return; /* its callback still runs; whoever delivers takes it back after that */
    }
    if (buffer->weight != 1 || loop->engine->buffer_returned == NULL ||
        !loop->engine->buffer_returned(loop, buffer)) {
        pier__pool_put(loop, buffer);
    }
}

/* ---- finding a buffer by an address in it */

struct pier_buffer *pier__pool_find(const struct pier__pool *pool, const void *address)
{
    for (uint32_t i = 0; i < pool->chunks_used; i++) {
        const struct pier__pool_chunk *chunk = &pool->chunks[i];
        uintptr_t offset = (uintptr_t)address - (uintptr_t)chunk->memory;
        if (offset < chunk->memory_size) {
            return &chunk->buffers[offset / chunk->stride];
        }
    }
    return NULL;
}

struct pier_buffer *pier__pool_hold(struct pier_loop *loop, const void *address)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = pool->delivering;
    if (buffer == NULL || !pier__pool_is_in(pool, buffer, address)) {
        buffer = pier__pool_find(pool, address);
    }
    if (buffer == NULL) {
        return NULL;
    }
    if (buffer->refs != 0) {
        buffer->refs++;
    } else if (buffer == pool->delivering && buffer->handle != NULL) {
        pier__pool_give(loop, buffer, buffer->handle);
    } else {
        return NULL; /* memory that was given back: the caller's mistake, and nothing to hold */
    }
    return buffer;
}

/* ---- public */

struct pier_buffer *pier_buffer_keep(struct pier_op *op)
{
    if (!(op->flags & PIER_LENT) || op->owner_ == NULL || op->kind_ != PIER__OP_RECEIVE_LENT) {
        return NULL;
    }
    struct pier_loop *loop = ((struct pier_handle *)op->owner_)->loop_;
    struct pier_buffer *buffer = loop != NULL ? pier__pool_hold(loop, op->data) : NULL;
    if (buffer != NULL) {
        buffer->size = (uint32_t)op->size;
    }
    return buffer;
}

void pier_buffer_release(struct pier_buffer *buffer)
{
    struct pier_loop *loop = buffer->loop;
    PIER__REQUIRE_THREAD(loop, "pier_buffer_release");
    PIER_REQUIRE(buffer->refs > 0, "pier_buffer_release", "the buffer was released already");
    pier__pool_drop(loop, buffer);
}

void *pier_buffer_data(const struct pier_buffer *buffer)
{
    return buffer->memory;
}

size_t pier_buffer_size(const struct pier_buffer *buffer)
{
    return buffer->size;
}
