/* SPDX-License-Identifier: MIT */
/* slab.c - many structs of one size, taken and given back; see slab.h. */

#include "slab.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_SIZE = 64 * 1024, CHUNK_ITEMS_MIN = 8 };

struct slab_chunk {
    struct slab_chunk *next;
    max_align_t items[];
};

int slab_init(struct slab *slab, size_t item_size, size_t zeroed, bool locked)
{
    memset(slab, 0, sizeof(*slab));
    slab->item_size = (item_size + sizeof(void *) - 1) / sizeof(void *) * sizeof(void *);
    slab->zeroed = zeroed;
    slab->locked = locked;
    return locked ? platform_mutex_init(&slab->lock) : 0;
}

static size_t items_per_chunk(const struct slab *slab)
{
    size_t items = (CHUNK_SIZE - sizeof(struct slab_chunk)) / slab->item_size;
    return items > CHUNK_ITEMS_MIN ? items : CHUNK_ITEMS_MIN;
}

static void *take_item(struct slab *slab)
{
    void *item = slab->free;
    if (item != NULL) {
        memcpy(&slab->free, item, sizeof(slab->free));
        return item;
    }
    if (slab->fresh == 0) {
        size_t items = items_per_chunk(slab);
        struct slab_chunk *chunk = malloc(sizeof(*chunk) + items * slab->item_size);
        if (chunk == NULL) {
            return NULL;
        }
        chunk->next = slab->chunks;
        slab->chunks = chunk;
        slab->fresh = items;
    }
    return (char *)slab->chunks->items + --slab->fresh * slab->item_size;
}

void *slab_take(struct slab *slab)
{
    if (slab->locked) {
        platform_mutex_lock(&slab->lock);
    }
    void *item = take_item(slab);
    if (slab->locked) {
        platform_mutex_unlock(&slab->lock);
    }
    if (item != NULL) {
        memset(item, 0, slab->zeroed);
    }
    return item;
}

void slab_give(struct slab *slab, void *item)
{
    if (slab->locked) {
        platform_mutex_lock(&slab->lock);
    }
    memcpy(item, &slab->free, sizeof(slab->free));
    slab->free = item;
    if (slab->locked) {
        platform_mutex_unlock(&slab->lock);
    }
}

void slab_free(struct slab *slab)
{
    while (slab->chunks != NULL) {
        struct slab_chunk *chunk = slab->chunks;
        slab->chunks = chunk->next;
        free(chunk);
    }
    platform_mutex_free(&slab->lock);
    memset(slab, 0, sizeof(*slab));
}
