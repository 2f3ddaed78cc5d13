/* noise.c - handles with something in their socket's error queue, of which every event tells.
 *
 * Such a handle is PIER__NOISY: it's watched for edges, or asked from time to time where the poller
 * has none, so that the loop doesn't spin for what no receive takes away. */

#include "engine/ready/ready.h"

PIER__COLD void pier__ready_found_nothing(struct pier_loop *loop, struct pier_handle *handle)
{
    bool may_err = (handle->bits_ & PIER__HUNG_UP) || pier__ready_of(loop)->poller->hides_errors;
    if (!may_err || handle->kind_ != PIER__KIND_STREAM ||
        (handle->bits_ & (PIER__LEVELED | PIER__NOISY)) != PIER__LEVELED) {
        return;
    }
    loop->counters.system_calls++;
    if (pier__sys_poll_now(handle->descriptor_, 0) == PIER__ERROR) {
        handle->bits_ |= PIER__NOISY | PIER__HUNG_UP;
    }
}

void pier__ready_asked(struct pier_loop *loop, struct pier_handle *handle, unsigned events)
{
    if (handle->engine_.ready.interest & PIER__QUIET) {
        if (events == PIER__ERROR) {
            return;
        }
        events |= events == 0 ? PIER__READ : 0; /* the error is gone: as before from now on */
    }
    if (events != 0) {
        pier__ready_handle_event(loop, handle, events);
    }
}
