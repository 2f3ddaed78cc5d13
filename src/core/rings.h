/* rings.h - memory for queues of bytes, kept by the loop for the next one that needs it.
 *
 * Sizes are powers of two from 4 KiB on; each of them is a class. Whoever has emptied its queue
 * gives its ring back, so that idle connections hold none, and the ring is the next one's: nothing
 * is allocated as long as no more of a class are in use at once than before.
 *
 * Rings of the smallest class are kept for good. Of the larger ones, those that nobody needed for
 * 10 s go back to the allocator, and after 20 s at the latest; only while there are such rings the
 * loop has a timer for that. */

#ifndef PIER_CORE_RINGS_H
#define PIER_CORE_RINGS_H

#include <stddef.h>
#include <stdint.h>

struct pier_loop;

enum {
    PIER__RING_MIN = 4096,
    PIER__RING_CLASSES = sizeof(size_t) > 4 ? 24 : 19 /* up to 32 GiB, or 1 GiB */
};

/* What a free ring begins with. */
struct pier__ring {
    struct pier__ring *next;
};

struct pier__rings {
    struct {
        struct pier__ring *free;
        uint32_t count; /* of these */
        uint32_t least; /* the least that there were since the trim before */
    } classes[PIER__RING_CLASSES];
};

static inline size_t pier__ring_size(unsigned ring_class)
{
    return (size_t)PIER__RING_MIN << ring_class;
}

/* The smallest class that has room for `size` bytes; PIER__RING_CLASSES when none has. */
static inline unsigned pier__ring_class(size_t size)
{
    unsigned ring_class = 0;
    while (ring_class < PIER__RING_CLASSES && pier__ring_size(ring_class) < size) {
        ring_class++;
    }
    return ring_class;
}

/* A ring of a class, kept or new; NULL when there is no memory. */
void *pier__rings_take(struct pier_loop *loop, unsigned ring_class);
/* Gives it back. */
void pier__rings_put(struct pier_loop *loop, void *memory, unsigned ring_class);
/* Gives the allocator what nobody needed since the trim before. */
void pier__rings_trim(struct pier_loop *loop);
/* Gives the allocator everything. */
void pier__rings_free(struct pier_loop *loop);

#endif
