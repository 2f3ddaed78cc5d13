/* gather.h - merging the sends that wait on a handle into one vectored call. */

#ifndef PIER_CORE_GATHER_H
#define PIER_CORE_GATHER_H

#include "core/end.h"

/* Whether a send has nothing (more) to send. */
bool pier__send_is_complete(const struct pier_op *op);
/* What is still to be sent by the handle's sends, from the head on, as at most `most` vectors.
 * Returns how many; *last is the last op that is part of it. */
size_t pier__send_gather(const struct pier_handle *handle, struct pier_vector *vectors, size_t most,
                         struct pier_op **last);
/* The sends up to `last` are in the kernel together: their memory is the kernel's. */
void pier__send_merged(struct pier_loop *loop, struct pier_handle *handle,
                       const struct pier_op *last);
/* The system took `bytes` of what was gathered: finishes the sends that are complete. Starts none.
 */
void pier__send_advance(struct pier_loop *loop, struct pier_handle *handle, uint64_t bytes);

#endif
