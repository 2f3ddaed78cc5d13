/* drain.c - pier_loop_drain(): ends what is in flight, then closes what the program hasn't.
 *
 * Ops are cancelled first, so that the program's own completions can close their handles, with the
 * functions that free them. What is still open once nothing is in flight is closed then. A program
 * that answers each cancel with another op is closed after some rounds.
 *
 * A round is as many callbacks as there were ops and handles when the drain began, and at least a
 * turn. Turns alone would be no measure: with ten thousand connections it takes many of them until
 * each completion has run once, and a handle that is closed before its own has run is closed
 * without the function that frees it (conform: drain.leaves_closing_to_completions). */

#include "core/engine.h"
#include "core/remote.h"

/* Rounds before handles are closed though ops are submitted on them. */
#define ROUNDS_MAX 16

static void cancel_visited(struct pier_loop *loop, struct pier_op *op, void *context)
{
    (void)context;
    pier__op_cancel(loop, op, PIER__REASON_CALLER);
}

static void end_everything(struct pier_loop *loop, bool close)
{
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = pier__slot_at(loop, i);
        if (handle == NULL || handle->kind_ == PIER__KIND_FOREIGN) {
            continue;
        }
        if (close || (handle->bits_ & PIER__GRACEFUL)) {
            pier_close(handle, NULL);
        } else if (!(handle->bits_ & PIER__CLOSING)) {
            pier__handle_cancel_all(handle, PIER__REASON_CALLER);
        }
    }
    pier__loop_visit(loop, cancel_visited, NULL);
}

/* Callbacks that a program which doesn't go on submitting may need. */
static uint64_t callbacks_max(const struct pier_loop *loop)
{
    return ROUNDS_MAX * (loop->core.in_flight + loop->counters.handles_open + 1);
}

static bool is_anything_pending(const struct pier_loop *loop)
{
    return loop->core.in_flight != 0 || loop->core.handles_closing != 0 ||
           loop->completed.head != NULL || pier__remote_pending(loop);
}

int pier_loop_drain(struct pier_loop *loop, uint64_t timeout_ns)
{
    PIER_REQUIRE(!loop->running, "pier_loop_drain",
                 "called from inside a callback of the same loop");
    int forked = pier__loop_check_fork(loop);
    if (forked < 0) {
        return forked; /* what it would end is the parent's */
    }
    pier__loop_rebind(loop);
    uint64_t begin = pier__sys_clock(), called = loop->counters.callbacks;
    uint64_t most = callbacks_max(loop);
    for (unsigned turns = 0;; turns++) {
        bool goes_on = turns > ROUNDS_MAX && loop->counters.callbacks - called > most;
        end_everything(loop, goes_on || !is_anything_pending(loop));
        if (!is_anything_pending(loop)) {
            return 0;
        }
        uint64_t past = pier__sys_clock() - begin;
        if (past >= timeout_ns && timeout_ns != PIER_FOREVER) {
            return pier__fail(PIER_ETIMEDOUT, "%llu ops are still in flight: see pier_loop_dump()",
                              (unsigned long long)loop->core.in_flight);
        }
        loop->core.sleep_most_ns = timeout_ns == PIER_FOREVER ? PIER_FOREVER : timeout_ns - past;
        uint64_t before = loop->counters.callbacks + loop->counters.closes;
        int error = pier_loop_run(loop, PIER_RUN_ONCE);
        loop->core.sleep_most_ns = PIER_FOREVER;
        /* A turn whose wait failed delivers what needs no kernel: goes on as long as it does. */
        if (error < 0 && loop->counters.callbacks + loop->counters.closes == before) {
            return error;
        }
    }
}
