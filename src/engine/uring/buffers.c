/* buffers.c - the ring of provided buffers on io_uring.
 *
 * Buffers of the pool are handed to the kernel, some at first, more each time it runs out; one
 * comes back with data in it. The ring serves all handles: which handle's data comes next nobody
 * knows beforehand. A buffer gets its id when it's handed over first, and keeps it; ids have 16
 * bits, and the pool may have more buffers: those stay outside, and should all that have an id be
 * lent at once, data is read by system calls. */

#include "engine/uring/uring.h"

/* How many buffers the kernel gets at the most unless the program wants more held ready: they are
 * used in turn, so each is memory that is touched. */
#define TARGET_MAX 256

/* Buffers that one request may bring at the most: a peer whose data nobody takes any more has had
 * that much of the pool by the time its request is stopped. */
#define AHEAD_MAX 16

#define IDS_MAX 65536u
#define NAMED_MIN 128u

/* Whether the pool may make another buffer: what the kernel has counts against the program's own
 * bound, if it has set one. */
static bool may_make(const struct pier_loop *loop)
{
    const struct pier__pool *pool = &loop->pool;
    return pool->free != NULL || loop->options.buffers_hard_max == 0 ||
           pool->made < loop->options.buffers_hard_max;
}

/* Gives a buffer its id. False when there is none left, or no memory to note it. */
static bool name_buffer(struct pier_loop *loop, struct pier_buffer *buffer)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (buffer->id != 0) {
        return true;
    }
    if (uring->named_count == IDS_MAX) {
        return false;
    }
    if (uring->named_count == uring->named_size) {
        uint32_t size = uring->named_size == 0 ? NAMED_MIN : uring->named_size * 2;
        void *named = pier__reallocate(loop, uring->named, uring->named_size * sizeof(void *),
                                       size * sizeof(void *));
        if (named == NULL) {
            return false;
        }
        uring->named = named;
        uring->named_size = size;
    }
    uring->named[uring->named_count] = buffer;
    buffer->id = ++uring->named_count;
    return true;
}

static void provide(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct pier_buffer *buffer;
    while (uring->missing > 0 && may_make(loop) && (buffer = pier__pool_pop(loop)) != NULL) {
        if (!name_buffer(loop, buffer)) {
            pier__pool_put(loop, buffer);
            break;
        }
        pier__uring_provide_one(uring, buffer);
        if (loop->pool.made > loop->options.buffers_min) {
            uring->trim_most = loop->options.buffers_min;
        }
    }
}

bool pier__uring_have_buffers(struct pier_loop *loop)
{
    provide(loop);
    return pier__uring_of(loop)->missing < pier__uring_of(loop)->target;
}

static size_t ring_bytes(const struct pier__uring *uring)
{
    return (uring->buffers_mask + 1) * sizeof(struct io_uring_buf);
}

static bool make_ring(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    size_t count = uring->buffers_mask + 1;
    void *memory = pier__sys_pages(ring_bytes(uring));
    int error = memory != NULL
                    ? pier__sys_uring_register_buffers(&uring->ring, memory, (unsigned)count)
                    : PIER_ENOMEM;
    if (error < 0) {
        pier__sys_free_pages(memory, ring_bytes(uring));
        uring->buffers_refused = error != PIER_ENOMEM;
        return false;
    }
    uring->buffers = memory;
    for (unsigned i = 0; i < count; i++) {
        uring->buffers->bufs[i].len = (uint32_t)loop->pool.buffer_size;
    }
    return true;
}

bool pier__uring_make_buffers(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers != NULL || uring->buffers_refused || !uring->features.buffer_ring) {
        return uring->buffers != NULL;
    }
    unsigned least = loop->options.buffers_min;
    unsigned most = least > TARGET_MAX ? least : TARGET_MAX;
    uring->target_max = most > loop->pool.max ? loop->pool.max : most;
    uring->buffers_mask = 0;
    while (uring->buffers_mask + 1 < uring->target_max) {
        uring->buffers_mask = uring->buffers_mask * 2 + 1;
    }
    if (!make_ring(loop)) {
        return false;
    }
    uring->lent_max = loop->pool.share - loop->pool.share / 2;
    uring->ahead_max = loop->pool.share / 2 > AHEAD_MAX ? AHEAD_MAX : loop->pool.share / 2;
    uring->buffers_tail = uring->trimmed_tail = 0;
    uring->target = uring->missing = least < uring->target_max ? least : uring->target_max;
    return true;
}

void pier__uring_buffers_close(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers != NULL) {
        pier__sys_free_pages(uring->buffers, ring_bytes(uring));
        uring->buffers = NULL;
        uring->target = uring->missing = 0;
    }
}

void pier__uring_names_free(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    pier__free(loop, uring->named, uring->named_size * sizeof(void *));
}

/* The buffers that the old ring had are the loop's again. */
void pier__uring_buffers_anew(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers == NULL) {
        return;
    }
    /* In the ring is what has an id and is neither lent, held nor in the pool. */
    for (uint32_t i = 0; i < uring->named_count; i++) {
        if (uring->named[i]->refs == 0) {
            uring->named[i]->size = 1;
        }
    }
    for (struct pier_buffer *at = loop->pool.free; at != NULL; at = at->next) {
        at->size = 0;
    }
    for (uint32_t i = 0; i < uring->named_count; i++) {
        struct pier_buffer *buffer = uring->named[i];
        if (buffer->refs == 0 && buffer->size != 0 && buffer != loop->pool.spare) {
            pier__pool_put(loop, buffer);
        }
    }
    pier__uring_buffers_close(loop);
}

bool pier__uring_buffer_returned(struct pier_loop *loop, struct pier_buffer *buffer)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (PIER__UNLIKELY(uring->buffers == NULL || uring->missing == 0 || buffer->id == 0)) {
        return false;
    }
    pier__pool_poison(&loop->pool, buffer);
    pier__uring_provide_one(uring, buffer);
    return true;
}

/* Discards what is free of a chunk, from buffer `first` on. */
static void trim_chunk(const struct pier__pool *pool, const struct pier__pool_chunk *chunk,
                       uint32_t first)
{
    uint32_t begin = first;
    for (uint32_t k = first; k <= chunk->made; k++) {
        if (k == chunk->made || chunk->buffers[k].refs != 0 || &chunk->buffers[k] == pool->spare) {
            if (k > begin) {
                pier__sys_discard(chunk->memory + begin * chunk->stride,
                                  (k - begin) * chunk->stride);
            }
            begin = k + 1;
        }
    }
}

/* Buffers go round through the ring, so that many messages at once touch as many of them, and all
 * stay touched. With deferred task work the kernel fills buffers only while it's entered: so where
 * no completion is there, none in the ring has data in it. */
void pier__uring_trim(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    const struct pier__pool *pool = &loop->pool;
    uint32_t kept = loop->options.buffers_min;
    for (uint32_t i = 0; uring->features.deferred && i < pool->chunks_used; i++) {
        const struct pier__pool_chunk *chunk = &pool->chunks[i];
        const uint32_t first = kept < chunk->made ? kept : chunk->made;
        trim_chunk(pool, chunk, first);
        kept -= first;
    }
}

void pier__uring_provide_more(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->grew == loop->counters.turns) {
        return;
    }
    uring->grew = loop->counters.turns;
    unsigned more = uring->target < uring->target_max - uring->target
                        ? uring->target
                        : uring->target_max - uring->target;
    uring->target += more;
    uring->missing += more;
}
