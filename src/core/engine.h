/* engine.h - the contract between the core and an engine, whole.
 *
 * An engine runs operations to completion. uring and iocp do it on their kernels' own completions;
 * engine/ready does it once for all readiness kernels, on top of its pollers.
 *
 * What an engine may rely on: per handle and direction it is given one op at a time, the head of
 * that direction's queue, in state PIER__ACTIVE; the next is started when that one finishes. What
 * it owes: pier__op_finish() exactly once for each op started, also after cancel; never a callback
 * from inside start, cancel or close (they may call pier__op_finish(), which queues); in wait() it
 * may deliver directly, by pier__op_event() and pier__op_finish_now().
 *
 * What an engine may touch:
 *   - of an op and a handle: everything, its own part by the names it has in the union;
 *   - of the loop: what stands before `core` in loop.h. `counters` it counts in; `engine_data` and
 *     `failure` it sets; `completed`, `budget`, `running`, `now`, `options`, `slots` it reads;
 *     `ready` and `serving` it walks by the functions of handle.h;
 *   - the functions and inline functions of core: end.h for how ops begin and end, handle.h for
 *     lists and keys, pool.h for lent buffers, gather.h for sends, loop.h for memory and clock.
 *
 * docs/porting.md walks through it for somebody who adds an engine. */

#ifndef PIER_CORE_ENGINE_H
#define PIER_CORE_ENGINE_H

#include "core/end.h"
#include "core/gather.h"
#include "core/hooks.h"
#include "core/progress.h"

/* What runs the ops of a handle. A table per kind of handle, so that a filter can stand between a
 * handle and the engine. */
struct pier_handle_calls {
    /* `op` is the head of its direction: run it. */
    void (*start)(struct pier_handle *handle, struct pier_op *op);
    /* End the started op soon; its reason is noted, pier__op_reason() is the result unless the real
     * outcome was first. */
    void (*cancel)(struct pier_handle *handle, struct pier_op *op);
    /* A send into an empty queue of a handle that the core has marked PIER__FAST_SENDS; fn, data
     * and size are in the op, which isn't in flight yet, and whose flags are the caller's. Either
     * the send is over on return: silent, with its result in the op, or begun and finished; or it
     * has begun, and is in the queue. */
    void (*send)(struct pier_handle *handle, struct pier_op *op);
    /* A started multishot op was paused: whoever has an event for it holds it. May be NULL. */
    void (*pause)(struct pier_handle *handle, struct pier_op *op);
    /* It was resumed. */
    void (*resume)(struct pier_handle *handle, struct pier_op *op);
    /* Try again: the handle was given to pier__loop_starve(). */
    void (*retry)(struct pier_handle *handle);
    /* A descriptor became a handle of the loop, or is leaving it alive with nothing in flight.
     * attach may fail. */
    int (*attach)(struct pier_handle *handle);
    void (*detach)(struct pier_handle *handle);
    /* Nothing is in flight on the handle any more: close its descriptor, then call
     * pier__handle_closed(), now or later in wait(). */
    void (*shut)(struct pier_handle *handle);
};

/* Marks a connected stream whose engine has a send() for it. */
static inline void pier__handle_note_fast_sends(struct pier_handle *handle)
{
    if (handle->kind_ == PIER__KIND_STREAM && handle->calls_->send != NULL &&
        !(handle->bits_ & (PIER__RESTRICTED | PIER__BROKEN | PIER__PACED))) {
        handle->bits_ |= PIER__FAST_SENDS;
    }
}

struct pier__poller;

struct pier__engine {
    const char *name;
    struct pier_handle_calls calls;
    bool nonblocking;                  /* wants O_NONBLOCK on the sockets it owns */
    const struct pier__poller *poller; /* of engine/ready */

    /* PIER_CAN_* bits, or a negative PIER_E* with detail when it can't run here. Tries for real. */
    int (*probe)(void);
    int (*open)(struct pier_loop *loop, const struct pier_loop_options *options);
    void (*close)(struct pier_loop *loop);

    /* Runs what the kernel has, sleeping up to timeout_ns (0: not at all) if there is nothing. Says
     * pier__loop_returned() as soon as it's back, once each time. */
    void (*wait)(struct pier_loop *loop, uint64_t timeout_ns);
    /* Goes on with a handle that was given to pier__handle_serve_later(), inside wait(). */
    void (*serve)(struct pier_loop *loop, struct pier_handle *handle);
    /* Ends a sleep of wait(). From any thread and from signal handlers; called only when the loop
     * sleeps or is about to. open() may give something shorter to pier__loop_wake_by(). */
    void (*wake)(struct pier_loop *loop);
    /* Whether there is work that wait() must not sleep on, besides loop->ready. May be NULL. */
    bool (*busy)(struct pier_loop *loop);

    /* Whether the kernel may have more than the last wait() took. What it has shows at the
     * descriptor, but not to somebody who watches that for edges. May be NULL. */
    bool (*more)(struct pier_loop *loop);

    /* Hands over what is still on its way to the kernel: the loop won't wait, a foreign one does.
     * May be NULL. */
    void (*flush)(struct pier_loop *loop);

    /* pier_poll(). poll_cancel leaves nothing in the kernel and finishes the op. */
    void (*poll_start)(struct pier_loop *loop, struct pier_op *op);
    void (*poll_cancel)(struct pier_loop *loop, struct pier_op *op);
    void (*poll_pause)(struct pier_loop *loop, struct pier_op *op);
    void (*poll_resume)(struct pier_loop *loop, struct pier_op *op);
    /* The op waits for other events from now on, which are in op->size already. */
    void (*poll_change)(struct pier_loop *loop, struct pier_op *op);

    /* A lent buffer has no reference left; false to have the pool keep it. NULL: always so. */
    bool (*buffer_returned)(struct pier_loop *loop, struct pier_buffer *buffer);

    /* Another thread runs the loop from now on: the one before has ended. May be NULL; should it
     * fail, wait() says so. */
    void (*rebind)(struct pier_loop *loop);

    pier_descriptor (*descriptor)(struct pier_loop *loop);
    int (*after_fork)(struct pier_loop *loop);
};

/* A shorter way to wake the loop than the engine's wake(): all else in the loop is in cache lines
 * that its thread writes, so what it needs is this descriptor alone. */
static inline void pier__loop_wake_by(struct pier_loop *loop, void (*wake)(struct pier_loop *loop),
                                      pier_descriptor descriptor)
{
    loop->core.wake = wake;
    loop->core.wake_descriptor = descriptor;
}

static inline pier_descriptor pier__loop_wake_descriptor(const struct pier_loop *loop)
{
    return loop->core.wake_descriptor;
}

/* Nobody else is about to wake the loop, or will before it falls asleep again. */
void pier__loop_settle(struct pier_loop *loop);

/* The descriptor that a foreign loop watches is gone, and has to be asked for again. */
static inline void pier__loop_unembed(struct pier_loop *loop)
{
    loop->core.embedded = false;
}

/* The engine is back from the system, in wait(): once a turn, before the events that it brings, and
 * in a state in which callbacks may run. Other threads needn't wake the loop any more. */
static PIER__EXPRESSION void pier__loop_returned(struct pier_loop *loop)
{
    if (PIER__LIKELY(loop->core.on_return == PIER__WAS_ASLEEP)) {
        loop->core.on_return = 0;
        pier__loop_leave_sleep(loop);
    } else if (PIER__UNLIKELY(loop->core.on_return != 0)) {
        pier__loop_awake(loop);
        pier__hooks_call(loop, PIER__CHECK);
    }
}

/* Whether plain receives and sends may take fast roads, on which callbacks aren't timed. */
static inline bool pier__loop_times_callbacks(const struct pier_loop *loop)
{
    return loop->core.callbacks_timed;
}

/* Delivers what has completed, which comes before the event that is next. False when the turn's
 * budget is used up. */
static inline bool pier__loop_before_event(struct pier_loop *loop)
{
    if (PIER__UNLIKELY(loop->completed.head != NULL)) {
        pier__loop_deliver(loop);
    }
    return loop->budget > 0;
}

/* Calls fn for each timer, poll and notify op in flight; it may end that op. */
void pier__loop_visit(struct pier_loop *loop,
                      void (*fn)(struct pier_loop *, struct pier_op *, void *), void *context);

/* Errors of accept that belong to the connection that failed, not to the listener: Linux hands on
 * what is pending on the new socket (accept(2)); ECONNABORTED is the classic one. */
static inline bool pier__accept_passes(int64_t error)
{
    return error == PIER_ECONNABORTED || error == PIER_EPROTO || error == PIER_ENETDOWN ||
           error == PIER_ENETUNREACH || error == PIER_EHOSTUNREACH || error == PIER_ETIMEDOUT ||
           error == PIER_ECONNRESET || error == PIER_EINTR;
}

/* Errors that go away when something is released. And EPERM: where a sandbox or a security module
 * refuses the call itself, the connection stays, and to try again at once would spin for ever
 * (conform: sandbox.refused_accepts_pause). */
static inline bool pier__accept_starves(int64_t error)
{
    return error == PIER_EMFILE || error == PIER_ENFILE || error == PIER_ENOBUFS ||
           error == PIER_ENOMEM || error == PIER_EPERM;
}

#endif
