/* SPDX-License-Identifier: MIT */
/* slab.h - many structs of one size, taken and given back.
 *
 * Chunks of about 64 KiB are cut into items, so that an item costs its own size and nothing for
 * the allocator's headers. Memory goes back to the system only with the whole slab. Items are
 * reused last in, first out. A slab that several threads use is locked; others aren't. */

#ifndef PIER_TOOL_SLAB_H
#define PIER_TOOL_SLAB_H

#include "platform.h"

struct slab_chunk;

struct slab {
    size_t item_size, zeroed; /* the first `zeroed` bytes of an item are cleared when it is taken */
    void *free;               /* given back: a list through their first bytes */
    struct slab_chunk *chunks;
    size_t fresh; /* items of the newest chunk that were never taken */
    bool locked;
    struct platform_mutex lock;
};

/* Sets up a slab without taking memory for items. Returns 0 or an errno value. */
int slab_init(struct slab *slab, size_t item_size, size_t zeroed, bool locked);

/* An item, or NULL when there is no memory. */
void *slab_take(struct slab *slab);

void slab_give(struct slab *slab, void *item);

/* Frees every item, taken or not. */
void slab_free(struct slab *slab);

#endif
