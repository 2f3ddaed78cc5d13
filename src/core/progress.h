/* progress.h - time limits that ask for progress (PIER_PROGRESS), and whether there was any.
 *
 * Such a send is looked at four times in each span of its limit. It ends when four looks in a row
 * have found that nothing moved: so no sooner than its limit after the last byte, and at most a
 * quarter later. Moved is what the system has taken of the handle's sends, and what the peer has
 * taken of that where the system can tell (pier__sys_unsent()): a large buffer, once full, takes
 * nothing more for long, though the peer goes on reading.
 *
 * Nothing of this is on the road of other sends. What was seen last is in op->result, which means
 * nothing before the op ends; the limit stays in op->timeout_ns. */

#ifndef PIER_CORE_PROGRESS_H
#define PIER_CORE_PROGRESS_H

#include "core/handle.h"

/* A send with such a limit begins; arms its timer. */
void pier__progress_begin(struct pier_loop *loop, struct pier_op *op);
/* The next look is due. False when the limit has passed; else the timer is armed again. */
bool pier__progress_goes_on(struct pier_loop *loop, struct pier_op *op);

/* Whether requests of the handle's sends have to tell soon how far they are: one of its sends had
 * such a limit. */
static PIER__EXPRESSION bool pier__handle_is_paced(const struct pier_handle *handle)
{
    return (handle->bits_ & PIER__PACED) != 0;
}

/* From now on they do. */
static inline void pier__handle_pace(struct pier_handle *handle)
{
    handle->bits_ |= PIER__PACED;
    pier__handle_clear(handle, PIER__FAST_SENDS); /* requests that tell only when all has gone */
}

/* The system has taken something of the handle's sends. */
static PIER__EXPRESSION void pier__progress_note(struct pier_handle *handle)
{
    if (PIER__UNLIKELY(pier__handle_is_paced(handle))) {
        handle->moved_++;
    }
}

#endif
