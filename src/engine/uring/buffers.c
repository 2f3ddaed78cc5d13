/* buffers.c - the ring of provided buffers on io_uring.
 *
 * Buffers of the pool are handed to the kernel, some at first, more each time it runs out; one
 * comes back with data in it. The ring serves all handles: which handle's data comes next nobody
 * knows beforehand. Ids name slots of the ring, so that the pool may have more buffers than ids
 * have bits. */

#include "engine/uring/uring.h"

/* How many buffers the kernel gets at the most unless the program wants more held ready: they are
 * used in turn, so each is memory that is touched. */
#define TARGET_MAX 256

/* Buffers that one request may bring at the most: a peer whose data nobody takes any more has had
 * that much of the pool by the time its request is stopped. */
#define AHEAD_MAX 16

/* Whether the pool may make another buffer: what the kernel has counts against the program's own
 * bound, if it has set one. */
static bool may_make(const struct pier_loop *loop)
{
    const struct pier__pool *pool = &loop->pool;
    return pool->free != NULL || loop->options.buffers_hard_max == 0 ||
           pool->made < loop->options.buffers_hard_max;
}

static void provide(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct pier_buffer *buffer;
    while (uring->missing > 0 && may_make(loop) && (buffer = pier__pool_pop(loop)) != NULL) {
        pier__uring_provide_one(uring, buffer);
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

static void free_tables(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    size_t count = uring->buffers_mask + 1;
    pier__free(loop, uring->provided, count * sizeof(*uring->provided));
    pier__free(loop, uring->ids_free, count * sizeof(*uring->ids_free));
    uring->provided = NULL;
    uring->ids_free = NULL;
}

/* As many more of the kernel's buffers are missing as `target` grows by: their ids are free. */
static void raise_target(struct pier__uring *uring, unsigned target)
{
    for (unsigned id = uring->target; id < target; id++) {
        uring->ids_free[uring->missing++] = (uint16_t)id;
    }
    uring->target = target;
}

static bool make_ring(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    size_t count = uring->buffers_mask + 1;
    uring->provided = pier__allocate(loop, count * sizeof(*uring->provided));
    uring->ids_free = pier__allocate(loop, count * sizeof(*uring->ids_free));
    void *memory = uring->provided != NULL && uring->ids_free != NULL
                       ? pier__sys_pages(ring_bytes(uring))
                       : NULL;
    int error = memory != NULL
                    ? pier__sys_uring_register_buffers(&uring->ring, memory, (unsigned)count)
                    : PIER_ENOMEM;
    if (error < 0) {
        pier__sys_free_pages(memory, ring_bytes(uring));
        free_tables(loop);
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
    unsigned least = loop->options.buffers_min, before = uring->target;
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
    uring->buffers_tail = 0;
    uring->missing = uring->target = 0;
    if (before == 0) {
        before = least < uring->target_max ? least : uring->target_max;
    }
    raise_target(uring, before);
    return true;
}

void pier__uring_buffers_close(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers != NULL) {
        pier__sys_free_pages(uring->buffers, ring_bytes(uring));
        uring->buffers = NULL;
        free_tables(loop);
    }
}

/* The buffers that the parent's ring had are this process's now. */
void pier__uring_buffers_after_fork(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->buffers == NULL) {
        return;
    }
    for (unsigned i = 0; i < uring->missing; i++) {
        uring->provided[uring->ids_free[i]] = NULL;
    }
    for (unsigned id = 0; id < uring->target; id++) {
        if (uring->provided[id] != NULL) {
            pier__pool_put(loop, uring->provided[id]);
        }
    }
    pier__uring_buffers_close(loop);
}

bool pier__uring_buffer_returned(struct pier_loop *loop, struct pier_buffer *buffer)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (PIER__UNLIKELY(uring->buffers == NULL || uring->missing == 0)) {
        return false;
    }
    pier__pool_poison(&loop->pool, buffer);
    pier__uring_provide_one(uring, buffer);
    return true;
}

void pier__uring_provide_more(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->grew == loop->counters.turns) {
        return;
    }
    uring->grew = loop->counters.turns;
    raise_target(uring, uring->target < uring->target_max - uring->target ? uring->target * 2
                                                                          : uring->target_max);
}
