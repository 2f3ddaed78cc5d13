/* remote.h - what comes from other threads and signal handlers. How is told in remote.c. */

#ifndef PIER_CORE_REMOTE_H
#define PIER_CORE_REMOTE_H

#include "core/loop.h"

/* In a notify op's count: it is being cancelled, or paused with notifications to come; nobody
 * pushes it. */
#define PIER__DISARMED (UINT64_C(1) << 63)

/* The loop sleeps, as it seems: the op's poster is the one that wakes it. The loop may have been
 * woken by something else meanwhile, have delivered the op, and be about to be freed. */
void pier__remote_push_and_wake(struct pier_loop *loop, struct pier_op *op);

/* Puts an op on the stack, and wakes the loop if it sleeps. The op may be gone as soon as it is
 * there; the stack of a loop that is awake isn't touched after that either. */
static inline void pier__remote_push(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_op *head = pier__atomic_load_relaxed(&loop->core.remote);
    do {
        if (PIER__UNLIKELY(head == PIER__ASLEEP)) {
            pier__remote_push_and_wake(loop, op);
            return;
        }
        op->next_ = head;
    } while (!pier__atomic_compare_exchange(&loop->core.remote, &head, op));
}

/* Asks for something that isn't an op: PIER__ASKED_*. */
void pier__remote_ask(struct pier_loop *loop, uint32_t bit);

/* Delivers what other threads have posted, notified and cancelled. */
void pier__remote_deliver(struct pier_loop *loop);

static PIER__EXPRESSION bool pier__remote_pending(const struct pier_loop *loop)
{
    return loop->core.posted.head != NULL ||
           (uintptr_t)pier__atomic_load_relaxed(&loop->core.remote) > (uintptr_t)PIER__ASLEEP ||
           (pier__atomic_load_relaxed(&loop->core.asked) & PIER__ASKED_CANCELS) != 0;
}

/* In the child of a fork, where no other thread is any more: what one of them was half-way through
 * is done to its end. */
void pier__remote_after_fork(struct pier_loop *loop);

/* The op is over: its token names nothing any more. In token.c. */
void pier__token_release(struct pier_loop *loop, struct pier_op *op);
/* Cancels what other threads have asked for by token. */
void pier__tokens_deliver(struct pier_loop *loop);
/* Lists the cancels that are asked for anew. */
void pier__tokens_after_fork(struct pier_loop *loop);
void pier__tokens_free(struct pier_loop *loop);

#endif
