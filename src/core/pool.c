/* pool.c - the pool of lent buffers, and the public functions of buffer.h.
 *
 * A buffer out of the pool counts against the share of the handle it was filled for. The handle may
 * be closed long before the program releases the buffer: then the buffer counts for nobody. */

#include "core/loop.h"

static void set_free(struct pier__pool *pool, uint32_t index)
{
    pool->free = index;
    pool->free_memory = index == PIER__NO_BUFFER ? NULL : pier__pool_memory(pool, index);
}

int pier__pool_open(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    pool->buffer_size = loop->options.buffer_size;
    pool->count = loop->options.buffers_max;
    set_free(pool, PIER__NO_BUFFER);
    pool->current = PIER__NO_BUFFER;
    pool->share = pool->count / loop->options.buffer_share;
    if (pool->share == 0) {
        pool->share = 1;
    }
    return 0;
}

void pier__pool_close(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    pier__free(loop, pool->memory, pool->memory_size);
    pier__free(loop, pool->buffers, pool->count * sizeof(*pool->buffers));
    pool->memory = NULL;
    pool->buffers = NULL;
}

/* Reserves the memory at the first use: a loop that never lends has none. Untouched pages cost
 * nothing. */
static bool reserve(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->buffers == NULL) {
        pool->buffers = pier__allocate(loop, pool->count * sizeof(*pool->buffers));
    }
    if (pool->buffers == NULL) {
        return false;
    }
    size_t size = pool->buffer_size * pool->count;
    pool->memory = pier__allocate(loop, size);
    pool->memory_size = pool->memory != NULL ? size : 0;
    return pool->memory != NULL;
}

/* The pool has no free buffer: makes another, if it may. */
PIER__COLD static uint32_t make_buffer(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    if (pool->memory == NULL && !reserve(loop)) {
        return PIER__NO_BUFFER;
    }
    if (pool->used == pool->count) {
        return PIER__NO_BUFFER;
    }
    struct pier_buffer *buffer = &pool->buffers[pool->used];
    memset(buffer, 0, sizeof(*buffer));
    buffer->loop = loop;
    buffer->index = pool->used;
    buffer->memory = pool->memory + (size_t)pool->used * pool->buffer_size;
    buffer->next = PIER__NO_BUFFER;
    set_free(pool, pool->used++);
    loop->stats.buffers_total = pool->used;
    return pool->free;
}

uint32_t pier__pool_peek(struct pier_loop *loop)
{
    uint32_t index = loop->pool.free;
    return PIER__LIKELY(index != PIER__NO_BUFFER) ? index : make_buffer(loop);
}

void pier__pool_pop(struct pier_loop *loop, uint32_t index)
{
    struct pier__pool *pool = &loop->pool;
    PIER_ASSERT(pool->free == index);
    set_free(pool, pool->buffers[index].next);
}

void pier__pool_take(struct pier_loop *loop, uint32_t index, struct pier_handle *handle)
{
    pier__pool_pop(loop, index);
    pier__pool_give(loop, index, handle);
}

void pier__pool_give(struct pier_loop *loop, uint32_t index, struct pier_handle *handle)
{
    struct pier_buffer *buffer = &loop->pool.buffers[index];
    PIER_ASSERT(buffer->refs == 0);
    buffer->refs = 1;
    buffer->handle = handle;
    handle->lent_++;
    loop->pool.lent++;
}

void pier__pool_put(struct pier_loop *loop, uint32_t index)
{
    struct pier__pool *pool = &loop->pool;
    pool->buffers[index].next = pool->free;
    set_free(pool, index);
}

void pier__pool_disown(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__pool *pool = &loop->pool;
    for (uint32_t i = 0; i < pool->used; i++) {
        if (pool->buffers[i].handle == handle) {
            pool->buffers[i].handle = NULL;
        }
    }
    handle->lent_ = 0;
}

void pier__pool_drop(struct pier_loop *loop, uint32_t index)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = &pool->buffers[index];
    PIER_ASSERT(buffer->refs > 0);
    if (--buffer->refs != 0) {
        return;
    }
    pool->lent--;
    if (buffer->handle != NULL) {
        buffer->handle->lent_--;
    }
    if (buffer == pool->current_out) {
        return; /* its callback still runs; the backend takes it back after that */
    }
    if (!loop->engine->buffer_returned(loop, index)) {
        pier__pool_put(loop, index);
    }
    pier__loop_retry(loop);
}

/* Takes the buffer whose data is being delivered out of the free list. It was the first there; what
 * its callback has released since then lies on top of it. */
static void take_current(struct pier_loop *loop)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *above = NULL;
    for (uint32_t at = pool->free; PIER__UNLIKELY(at != pool->current); at = above->next) {
        above = &pool->buffers[at];
    }
    if (PIER__LIKELY(above == NULL)) {
        pier__pool_pop(loop, pool->current);
    } else {
        above->next = pool->buffers[pool->current].next;
    }
    pier__pool_give(loop, pool->current, pool->current_handle);
}

/* One more reference on a buffer that is out of the pool, or is the one whose data is being
 * delivered. */
static bool hold_buffer(struct pier_loop *loop, uint32_t index)
{
    struct pier__pool *pool = &loop->pool;
    struct pier_buffer *buffer = &pool->buffers[index];
    if (buffer->refs != 0) {
        buffer->refs++;
    } else if (buffer == pool->current_out) {
        pier__pool_give(loop, index, buffer->handle);
    } else if (index == pool->current) {
        take_current(loop);
        buffer->size = pool->current_size;
        buffer->offset = 0;
    } else {
        return false; /* memory that was given back: the caller's mistake, and nothing to hold */
    }
    return true;
}

void pier__pool_hold(struct pier_loop *loop, struct pier_op *op)
{
    const struct pier__pool *pool = &loop->pool;
    if (pool->memory == NULL || (op->bits_ & PIER__HOLDS)) {
        return;
    }
    if (PIER__LIKELY(op->kind_ == PIER__OP_SEND)) {
        uint32_t index = pier__pool_find(pool, op->data);
        if (index != PIER__NO_BUFFER && hold_buffer(loop, index)) {
            op->bits_ |= PIER__HOLDS;
            op->extra_.pointer = &loop->pool.buffers[index];
        }
        return;
    }
    const struct pier_vector *vectors = op->data;
    for (size_t i = 0; i < op->size; i++) {
        uint32_t index = vectors[i].size == 0 ? PIER__NO_BUFFER
                                              : pier__pool_find(pool, vectors[i].data);
        if (index != PIER__NO_BUFFER && hold_buffer(loop, index)) {
            op->bits_ |= PIER__HOLDS;
        }
    }
}

void pier__pool_unhold(struct pier_loop *loop, struct pier_op *op)
{
    const struct pier__pool *pool = &loop->pool;
    if (op->kind_ == PIER__OP_SEND) {
        pier__pool_drop(loop, pier__pool_find(pool, op->data));
        return;
    }
    const struct pier_vector *vectors = op->data;
    for (size_t i = 0; i < op->size; i++) {
        uint32_t index = vectors[i].size == 0 ? PIER__NO_BUFFER
                                              : pier__pool_find(pool, vectors[i].data);
        if (index != PIER__NO_BUFFER && pool->buffers[index].refs > 0) {
            pier__pool_drop(loop, index);
        }
    }
}

/* ---- public */

struct pier_buffer *pier_buffer_keep(struct pier_op *op)
{
    if (!(op->flags & PIER_LENT) || op->owner_ == NULL || op->kind_ != PIER__OP_RECEIVE_LENT) {
        return NULL;
    }
    struct pier_loop *loop = ((struct pier_handle *)op->owner_)->loop_;
    if (loop == NULL) {
        return NULL;
    }
    uint32_t index = pier__pool_find(&loop->pool, op->data);
    return index != PIER__NO_BUFFER && hold_buffer(loop, index) ? &loop->pool.buffers[index] : NULL;
}

void pier_buffer_release(struct pier_buffer *buffer)
{
    struct pier_loop *loop = buffer->loop;
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_buffer_release",
                 "called from another thread than the loop's");
    PIER_REQUIRE(buffer->refs > 0, "pier_buffer_release", "the buffer was released already");
    pier__pool_drop(loop, buffer->index);
}

void *pier_buffer_data(const struct pier_buffer *buffer)
{
    return buffer->memory + buffer->offset;
}

size_t pier_buffer_size(const struct pier_buffer *buffer)
{
    return buffer->size;
}
