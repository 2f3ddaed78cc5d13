/* op.h - what goes for every op, and the ops that need no handle: timers, readiness of a descriptor
 * that isn't pier's, posts and notifications. And timers that are tied to one. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_OP_H
#define PIER_OP_H

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the op is in flight: submitted, and its terminal completion not yet begun. */
PIER_INLINE bool pier_op_pending(const struct pier_op *op)
{
    return op->state_ != 0;
}

/* The loop of an op: in flight, and until its terminal completion returns. NULL before its first
 * use, and when the handle it is on has left its loop in that completion. At other times it may not
 * be asked for: the handle that the op was on may be gone. */
PIER_API struct pier_loop *pier_op_loop(const struct pier_op *op);

/* Gives an op in flight that was submitted without a completion function (a silent send) one after
 * all. With this a sender that usually succeeds at once pays for a callback only when it has to
 * wait:
 *
 *     pier_send(&c->socket, &c->send, data, size, NULL);
 *     if (pier_op_pending(&c->send)) {
 *         pier_op_then(&c->send, on_sent);
 *         pier_pause(&c->receive);
 *     }
 */
PIER_INLINE void pier_op_then(struct pier_op *op, pier_op_fn *fn)
{
    if (op->state_ != 0 && fn) {
        op->fn = fn;
    }
}

/* Asks for the op to end soon. It completes once, with PIER_ECANCELED or with its real outcome if
 * that came first; `done` says what had moved by then. Not a barrier: the completion comes later,
 * inside pier_loop_run(). On an op that isn't in flight it does nothing. In a callback of the op
 * itself, with PIER_MORE, the event stays whole until the callback returns: its data can still be
 * read, sent and kept. */
PIER_API void pier_cancel(struct pier_op *op);

/* Holds a multishot op: its events wait in the kernel (or in held buffers up to the handle's share)
 * until pier_resume(). Its time limit is suspended too. An end that the program brings about, by
 * cancel or close, isn't held, nor what was received before a cancel: that comes before the end. So
 * an op whose cancel was asked for can't be paused. An end that the peer brings about, by ending or
 * resetting the stream, is held like data, and comes behind it after the resume. Notifications are
 * counted meanwhile. Does nothing on an op that isn't in flight, isn't multishot, or is paused
 * already. */
PIER_API void pier_pause(struct pier_op *op);

/* Lets a held op go on. Its time limit begins anew, in full. A repeating timer that has missed
 * expiries reports them as one. Does nothing on an op that isn't held. */
PIER_API void pier_resume(struct pier_op *op);

/* A number by which other threads can name this op while it is in flight; never reused for another
 * op. 0 when there is nothing to cancel (the op isn't in flight, or its outcome is known and only
 * its completion is still to come), for a post, or when there is no memory. A send that the system
 * takes whole in the submit has none, which depends on the backend: one that waits has one on
 * each. */
PIER_API uint64_t pier_op_token(struct pier_op *op);

/* pier_cancel() from any thread: if the op behind the token is still in flight it is cancelled on
 * the loop's thread. */
PIER_API void pier_cancel_remote(struct pier_loop *loop, uint64_t token);

/* Completes once, delay_ns from now: never early, at most one tick (4.096 us) and the scheduler's
 * delay late. result 0; PIER_ECANCELED when it was cancelled, by the program or by
 * pier_loop_drain(). "Now" is a clock read since the running callback began (pier_loop_now()): what
 * a callback does between that reading and this call counts as time that has passed. */
PIER_API void pier_timer(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns,
                         pier_op_fn *fn);

/* Completes with PIER_MORE after delay_ns and then every interval_ns (at least 1), on the grid that
 * the first expiry set. op->result is the number of expiries since the last call: more than 1 when
 * the loop was late and skipped some. It ends with PIER_ECANCELED, or at once with PIER_EINVAL when
 * the interval is 0. */
PIER_API void pier_timer_each(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns,
                              uint64_t interval_ns, pier_op_fn *fn);

/* A timer tied to a handle: pier_timer(), but that it ends with the handle. A close, also a
 * graceful one, completes it at once with PIER_ECLOSED, before the handle's close function runs; so
 * its function never meets a handle that is gone. It counts as an op in flight on the handle, so
 * that pier_detach() is PIER_EBUSY; submitted on one that is closing, it completes with
 * PIER_ECLOSED. Any number of them may be on a handle, in no order with its other ops. For a
 * heartbeat, submit it again in its function. */
PIER_API void pier_timer_on(struct pier_handle *handle, struct pier_op *op, uint64_t delay_ns,
                            pier_op_fn *fn);

/* Moves the next expiry of a timer in flight to delay_ns from now; a repeating timer has its grid
 * from there on, one that is paused at its resume. Does nothing on a timer that isn't in flight, or
 * whose cancel is on its way. */
PIER_API void pier_timer_reset(struct pier_op *op, uint64_t delay_ns);

/* Takes a timer out of flight without a completion. True: it is the caller's again on return, to be
 * freed or submitted, and its function isn't called any more. False, and nothing is done: it isn't
 * in flight, or its cancel is on its way and its completion comes. Unlike pier_cancel(), it is a
 * barrier; and with many timers that are nearly all stopped before they expire it spares a call for
 * each. Allowed in the timer's own callback too. (Modelled on Go's Timer.Stop().) */
PIER_API bool pier_timer_stop(struct pier_op *op);

/* What pier_poll() watches for; PIER_HANGUP is always reported. */
enum {
    PIER_READABLE = 1 << 0,
    PIER_PRIORITY = 1 << 1,
    PIER_WRITABLE = 1 << 2,
    PIER_HANGUP = 1 << 3 /* hung up or in error: reading or writing won't block */
};

/* Waits until a descriptor that pier doesn't own is ready: for libraries that do their own input
 * and output (libpq, curl, c-ares). result: the PIER_READABLE... bits seen. Level-triggered on
 * every backend. Several ops may watch one descriptor. Once the op has completed, or pier_cancel()
 * has returned, the owner may close the descriptor. A regular file is ready at once, to be read and
 * written; for PIER_PRIORITY alone the few that tell of changes can be waited for (Linux:
 * /proc/mounts, /proc/pressure/, /sys and cgroup attributes; not on kqueue), and say PIER_PRIORITY,
 * some PIER_HANGUP with it. PIER_HANGUP is also said while something is in a socket's error queue
 * (Linux: time stamps, notices of zero-copy sends), until its owner takes it with MSG_ERRQUEUE.
 * Errors: PIER_EINVAL no event asked for, PIER_EBADF not open, PIER_EBUSY it belongs to a handle of
 * this loop, PIER_ENOTSUP what can't be waited for (on epoll also devices like /dev/null, which are
 * ready at once elsewhere). */
PIER_API void pier_poll(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                        unsigned events, pier_op_fn *fn);

/* pier_poll() as a multishot op: called each turn while the descriptor is ready. PIER_ENOTSUP on a
 * regular file, but for PIER_PRIORITY as above. */
PIER_API void pier_poll_each(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                             unsigned events, pier_op_fn *fn);

/* Changes what a poll in flight watches for, of either sort, at once. An event that the loop has
 * seen and not delivered yet is delivered only as far as the new events ask for it. Other polls of
 * the descriptor stay as they are; so do the op's pause and its time limit. With 0 only a hang-up
 * is reported, as with PIER_HANGUP. Allowed in the op's own callback, for the events after that
 * one. Does nothing on an op that isn't in flight or isn't a poll, whose cancel is on its way, or
 * whose outcome is known and only its completion is still to come. Another event than those above
 * is misuse. */
PIER_API void pier_poll_change(struct pier_op *op, unsigned events);

/* Completes the op on the loop's thread with result 0. From any thread and from signal handlers;
 * posts of one thread complete in the order made. The op may not be in flight. It doesn't keep the
 * loop running until it has arrived: a loop that should wait for posts needs an op in flight, such
 * as pier_notify_each(). Once the op has completed the loop may be freed, also while this hasn't
 * returned yet: pier_loop_free() waits for it. */
PIER_API void pier_post(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* Arms an op that other threads can fire with pier_notify(). Each completion has PIER_MORE and
 * result = the number of notifications since the last, at least 1. Ends by pier_cancel(), which
 * first delivers what has come. */
PIER_API void pier_notify_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* Fires an op armed with pier_notify_each(). From any thread and from signal handlers.
 * Notifications coalesce. The caller sees to it that no thread calls this once the op's terminal
 * completion may have come. */
PIER_API void pier_notify(struct pier_op *op);

/* Calls fn in each turn of the loop before it asks the system for events, whether it will sleep
 * there or not: the place to send what the callbacks of a turn have gathered. A multishot op; each
 * call has PIER_MORE and result 1, and it ends with PIER_ECANCELED. What the function submits,
 * cancels or closes is seen before the loop sleeps; it doesn't sleep over what is over at once. In
 * a loop that runs inside another (pier_loop_descriptor()) it is called at the end of each run as
 * well, before the other one waits.
 *
 * Several are called in the order submitted. One that is submitted, or resumed after its turn in
 * that order, by such a function has its first call in the next turn; one that is cancelled or
 * paused has none any more. The calls don't count in options.callbacks_max. The op keeps the loop
 * running unless it has PIER_BACKGROUND, and by itself doesn't keep it from sleeping. (Modelled on
 * libuv's uv_prepare_t, as the next on libev's ev_check.) */
PIER_API void pier_prepare_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* The same, but called when the loop is back from asking the system, slept or not, before it
 * delivers what that brings. Between the calls of pier_prepare_each() and these nothing is called
 * but what the turn before has left over, for which the loop doesn't sleep. */
PIER_API void pier_check_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* Ends the loop's present or next wait, so that its turn goes round once. From any thread and from
 * signal handlers. */
PIER_API void pier_wake(struct pier_loop *loop);

#ifdef __cplusplus
}
#endif

#endif
