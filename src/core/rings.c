/* rings.c - memory for queues of bytes, kept for the next one that needs it: see rings.h. */

#include "core/rings.h"

#include "core/loop.h"

#define RINGS_TRIM_NS (10 * PIER_SECOND)

static void pop_ring(struct pier_loop *loop, unsigned ring_class)
{
    struct pier__ring *ring = loop->core.rings.classes[ring_class].free;
    loop->core.rings.classes[ring_class].free = ring->next;
    loop->core.rings.classes[ring_class].count--;
    pier__free(loop, ring, pier__ring_size(ring_class));
}

/* From now on is counted what is needed. */
static void begin_ring_period(struct pier_loop *loop)
{
    bool any = false;
    for (unsigned i = 1; i < PIER__RING_CLASSES; i++) {
        loop->core.rings.classes[i].least = loop->core.rings.classes[i].count;
        any = any || loop->core.rings.classes[i].count != 0;
    }
    if (any) {
        pier__timers_insert(&loop->core.timers, &loop->core.own_timers[PIER__OWN_TRIM],
                            pier__time_after(pier__loop_clock(loop), RINGS_TRIM_NS));
    }
}

void *pier__rings_take(struct pier_loop *loop, unsigned ring_class)
{
    if (ring_class >= PIER__RING_CLASSES) {
        return NULL;
    }
    struct pier__ring *ring = loop->core.rings.classes[ring_class].free;
    if (ring == NULL) {
        return pier__allocate(loop, pier__ring_size(ring_class));
    }
    loop->core.rings.classes[ring_class].free = ring->next;
    uint32_t count = --loop->core.rings.classes[ring_class].count;
    if (count < loop->core.rings.classes[ring_class].least) {
        loop->core.rings.classes[ring_class].least = count;
    }
    return ring;
}

void pier__rings_put(struct pier_loop *loop, void *memory, unsigned ring_class)
{
    struct pier__ring *ring = memory;
    ring->next = loop->core.rings.classes[ring_class].free;
    loop->core.rings.classes[ring_class].free = ring;
    loop->core.rings.classes[ring_class].count++;
    if (PIER__UNLIKELY(ring_class > 0) &&
        !pier__timer_armed(&loop->core.own_timers[PIER__OWN_TRIM])) {
        begin_ring_period(loop);
    }
}

void pier__rings_trim(struct pier_loop *loop)
{
    for (unsigned i = 1; i < PIER__RING_CLASSES; i++) {
        for (uint32_t left = loop->core.rings.classes[i].least; left > 0; left--) {
            pop_ring(loop, i);
        }
    }
    begin_ring_period(loop);
}

void pier__rings_free(struct pier_loop *loop)
{
    for (unsigned i = 0; i < PIER__RING_CLASSES; i++) {
        while (loop->core.rings.classes[i].free != NULL) {
            pop_ring(loop, i);
        }
    }
}
