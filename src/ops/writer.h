/* writer.h - the ring of a writer, for writer.c. */

#ifndef PIER_OPS_WRITER_H
#define PIER_OPS_WRITER_H

#include "core/engine.h"

/* Sends are of this size at most, or an eighth of the limit if that is less. */
enum { PIER__WRITER_SEND_MIN = 4096, PIER__WRITER_SEND_MAX = 64 << 10 };

/* Whether what the writer's send names may still be changed: the core has it, and nobody else. */
static inline bool pier__writer_is_held(const struct pier_writer *writer)
{
    return writer->op_.state_ == PIER__QUEUED && writer->op_.done == 0;
}

/* Has op_ name what is to be sent next. Returns the kind of op that does. */
unsigned pier__writer_name(struct pier_writer *writer);
/* Makes room for `size` bytes in all. 0 or PIER_ENOMEM. */
int pier__writer_make_room(struct pier_writer *writer, size_t size);
/* Copies bytes behind those queued; there is room. */
void pier__writer_append(struct pier_writer *writer, const void *data, size_t size);
/* The first `size` bytes are gone. */
void pier__writer_consume(struct pier_writer *writer, size_t size);
/* The send that named the retired ring is over. */
void pier__writer_drop_retired(struct pier_writer *writer);
/* Nothing is queued, and no send in flight: gives the ring back. */
void pier__writer_drop_ring(struct pier_writer *writer);

#endif
