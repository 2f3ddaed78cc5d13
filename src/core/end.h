/* end.h - where ops begin, hold lent memory, release it, deliver, and end. The only place.
 *
 * Notions that are kept apart: an op *finishes* when its outcome is known, exactly once; its
 * terminal completion is *delivered* when its callback runs, exactly once and perhaps later.
 * pier__op_finish() queues the delivery. pier__op_finish_now(), for an engine inside wait(), makes
 * it at once if nothing is queued before it and the turn's budget allows. Events of multishot ops
 * are delivered at once: their terminal completion can't overtake them.
 *
 * All of it is inline where it is short, so that the fast road of an engine is a shorter one to the
 * same functions. The functions whose name ends in _alone are for an op of which the caller knows,
 * by its word (op.h), that nothing is attached to it, and that no other op is in its direction:
 * they do what the general ones do, without looking. */

#ifndef PIER_CORE_END_H
#define PIER_CORE_END_H

#include "core/handle.h"
#include "core/loop.h"
#include "core/op.h"
#include "core/pool.h"

/* ---- begin */

static inline void pier__op_count(struct pier_loop *loop, struct pier_op *op)
{
    loop->core.in_flight++;
    if (PIER__UNLIKELY(pier__op_clear_flags(op))) {
        pier__op_set(op, PIER__COUNTED_BACKGROUND);
        loop->core.background++;
    }
}

/* What each submit notes in the op; its state is the caller's to move. The clock is of this turn:
 * see pier__loop_clock_of_turn(). */
static inline void pier__op_begin(struct pier_loop *loop, struct pier_op *op, unsigned kind,
                                  unsigned bits, pier_op_fn *fn, void *owner)
{
    PIER_ASSERT(loop->core.fast_thread == loop->core.thread);
    op->fn = fn;
    op->result = 0;
    op->done = 0;
    op->timer_.deadline_ns = loop->now; /* since when, for the dump, unless a limit replaces it */
    op->owner_ = owner;
    op->kind_ = (uint8_t)kind;
    op->bits_ = (uint16_t)bits;
    pier__op_count(loop, op);
}

/* Begins an op without a time limit as the started and only one of its direction; fn, data and size
 * are in it, and the caller has found that nothing speaks against it. `word` is what it becomes. */
static PIER__INLINE void pier__op_begin_alone(struct pier_loop *loop, struct pier_handle *handle,
                                              struct pier_op *op, unsigned direction, uint32_t word)
{
    PIER_ASSERT(loop->core.fast_thread == loop->core.thread);
    PIER_ASSERT(handle->head_[direction] == NULL);
    pier__op_set_word(op, PIER__ACTIVE, word);
    op->done = 0;
    op->timer_.deadline_ns = loop->now;
    op->next_ = NULL;
    op->owner_ = handle;
    handle->head_[direction] = op; /* its tail is noted when another one comes: see append() */
    pier__op_count(loop, op);
}

/* Begins a timer that isn't in the background: programs start one for each request. Its state and
 * what is beside it become one store. */
static inline void pier__op_begin_timer(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    op->fn = fn;
    op->done = 0;
    op->timeout_ns = 0;
    op->flags = 0;
    op->os_error = 0;
    op->owner_ = loop;
    loop->core.in_flight++;
    pier__op_set_word(op, PIER__ACTIVE, pier__word_of(PIER__OP_TIMER, PIER__ACTIVE, 0));
}

/* Submits on a handle: checks, queues, starts when it's the first. In op.c, like the following. */
void pier__op_submit(struct pier_handle *handle, struct pier_op *op, unsigned kind, unsigned bits,
                     pier_op_fn *fn, const char *function);
/* Begins an op that has no handle; the caller sets it going afterwards. */
void pier__op_submit_free(struct pier_loop *loop, struct pier_op *op, unsigned kind, unsigned bits,
                          pier_op_fn *fn, const char *function);
/* Begins an op on a handle that is known to fail, and finishes it with `error`. */
void pier__op_submit_failed(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                            pier_op_fn *fn, int error);
/* Submits a send of a handle that is open or closing without starting it, be it the first of its
 * queue: pier__op_start_direction() does, and so does whatever starts that queue before. Until it's
 * started (PIER__QUEUED), what it names may be changed. */
void pier__send_submit_held(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                            pier_op_fn *fn);
/* Takes such a send out of flight, unless it was started, or something is behind it or special
 * about it: then nothing is done, and the result is false. */
bool pier__send_take_back(struct pier_handle *handle, struct pier_op *op);
/* Starts what waits at the head of a direction. */
void pier__op_start_direction(struct pier_loop *loop, struct pier_handle *handle,
                              unsigned direction);

/* The list of a handle's ops without a direction. */
static inline void pier__op_list_unordered(struct pier_handle *handle, struct pier_op *op)
{
    op->next_ = handle->unordered_;
    op->use_.before = &handle->unordered_;
    if (op->next_ != NULL) {
        op->next_->use_.before = &op->next_;
    }
    handle->unordered_ = op;
}

static inline void pier__op_unlist_unordered(struct pier_op *op)
{
    *op->use_.before = op->next_;
    if (op->next_ != NULL) {
        op->next_->use_.before = op->use_.before;
    }
}

/* While this holds, finishing an op of the direction doesn't start the next one from inside: the
 * caller does, afterwards. Returns what pier__direction_let_go() wants back. */
static inline uint32_t pier__direction_hold(struct pier_handle *handle, unsigned direction)
{
    uint32_t starting = (uint32_t)PIER__STARTING << direction;
    uint32_t before = handle->bits_ & starting;
    handle->bits_ |= starting;
    return before;
}

static inline void pier__direction_let_go(struct pier_handle *handle, unsigned direction,
                                          uint32_t before)
{
    uint32_t starting = (uint32_t)PIER__STARTING << direction;
    handle->bits_ = (handle->bits_ & ~starting) | before;
}

/* ---- lent memory that a send names */

/* Takes references on the lent buffers that a send's memory is in, once: it stays in flight. */
void pier__op_hold_slow(struct pier_loop *loop, struct pier_op *op);
/* Gives them back. */
void pier__op_release(struct pier_loop *loop, struct pier_op *op);

static inline void pier__op_hold(struct pier_loop *loop, struct pier_op *op)
{
    if (loop->pool.made != 0 && !(op->bits_ & (PIER__HOLDS | PIER__LOOKED_THROUGH))) {
        pier__op_hold_slow(loop, op);
    }
}

/* ---- end */

/* What an op may have attached to it besides its queue. */
void pier__op_clean_up(struct pier_loop *loop, struct pier_op *op);

/* An op is no longer in flight, and the caller's: its callback is about to run, or none does. */
static inline void pier__op_leave(struct pier_loop *loop, struct pier_op *op)
{
    pier__op_move(op, PIER__IDLE);
    loop->core.in_flight--;
    if (PIER__UNLIKELY(op->bits_ & PIER__COUNTED_BACKGROUND)) {
        loop->core.background--;
    }
}

/* The same for an op whose word shows that it isn't in the background. */
static PIER__INLINE void pier__op_leave_alone(struct pier_loop *loop, struct pier_op *op)
{
    PIER_ASSERT((op->bits_ & PIER__COUNTED_BACKGROUND) == 0);
    pier__op_move(op, PIER__IDLE);
    loop->core.in_flight--;
}

void pier__loop_call_slow(struct pier_loop *loop, struct pier_op *op);

/* Runs a callback. The only place that does, for ops. */
static inline void pier__loop_call(struct pier_loop *loop, struct pier_op *op)
{
    PIER_ASSERT(op->fn != NULL);
    loop->budget--;
    if (PIER__UNLIKELY(loop->core.callbacks_timed)) {
        pier__loop_call_slow(loop, op);
    } else {
        op->fn(op);
    }
}

/* The same where callbacks aren't timed, which the caller knows. */
static PIER__INLINE void pier__loop_call_untimed(struct pier_loop *loop, struct pier_op *op)
{
    PIER_ASSERT(!loop->core.callbacks_timed);
    loop->budget--;
    op->fn(op);
}

/* The op's outcome is known: queues its terminal completion and starts the next op of its
 * direction. */
void pier__op_finish(struct pier_loop *loop, struct pier_op *op, int64_t result);
/* The same, inside wait(): calls back at once if nothing else is waiting to be delivered. Touch
 * neither op nor handle afterwards without pier__slot_handle(). */
void pier__op_finish_now(struct pier_loop *loop, struct pier_op *op, int64_t result);
/* Finishes an op with an error, behind which is the system's own code. */
static inline void pier__op_fail(struct pier_loop *loop, struct pier_op *op, int64_t error,
                                 int code)
{
    op->os_error = code;
    pier__op_finish(loop, op, error);
}
/* Finishes an op that its caller has taken out of the handle's queue already. */
void pier__op_abandon(struct pier_loop *loop, struct pier_op *op, unsigned reason);
/* A silent send ended with an error and without all its bytes: so do those from `behind` on, and
 * later ones. */
void pier__send_break(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *behind,
                      int64_t result);
/* Delivers a terminal completion. */
void pier__op_deliver(struct pier_loop *loop, struct pier_op *op);

/* The end of an op that is alone, not in the background, and has succeeded; without its callback:
 * that is the caller's to run, at once. */
static PIER__INLINE void pier__op_finish_alone(struct pier_loop *loop, struct pier_handle *handle,
                                               struct pier_op *op, unsigned kind,
                                               unsigned direction, int64_t result)
{
    PIER_ASSERT(handle->head_[direction] == op);
    PIER_ASSERT(op->next_ == NULL);
    PIER_ASSERT((op->bits_ & ~(unsigned)PIER__HOLDS) == 0); /* released already */
    PIER_ASSERT(loop->completed.head == NULL);
    op->result = result;
    op->done = (uint64_t)result;
    handle->head_[direction] = NULL;
    pier__op_set_word(op, PIER__IDLE, pier__word_of(kind, PIER__IDLE, 0));
    loop->core.in_flight--;
}

/* A send that was over inside its submit and that somebody is to be called for: it begins and
 * finishes here, and never was in its handle's queue. Its owner is noted already. */
static PIER__INLINE void pier__op_begin_finished(struct pier_loop *loop, struct pier_op *op,
                                                 unsigned kind, int64_t result)
{
    pier__op_set_word(op, PIER__DONE, pier__word_of(kind, PIER__DONE, 0));
    op->result = result;
    op->done = (uint64_t)result;
    op->timer_.deadline_ns = loop->now;
    pier__op_count(loop, op);
    pier__queue_push(&loop->completed, op);
}

/* The first of the completed ops, if it is a send that was over at once, alone in the queue, and
 * the turn has a callback left: out of the queue and out of flight, for the caller to call. */
static PIER__INLINE struct pier_op *pier__op_pop_alone(struct pier_loop *loop)
{
    struct pier_op *op = loop->completed.head;
    if (PIER__UNLIKELY(op->next_ != NULL || loop->budget <= 0 ||
                       pier__op_word(op) != pier__word_of(PIER__OP_SEND, PIER__DONE, 0))) {
        return NULL;
    }
    loop->completed.head = NULL;
    pier__op_leave_alone(loop, op);
    return op;
}

/* Takes a timer out of flight that is in no list any more. */
static inline void pier__op_finish_timer(struct pier_loop *loop, struct pier_op *op)
{
    if (PIER__UNLIKELY(op->bits_ & PIER__CLEAN_UP)) {
        pier__op_clean_up(loop, op);
    }
    pier__op_leave(loop, op);
}

/* ---- events of multishot ops, inside wait() */

/* Pushes the idle limit of a multishot op back, to be counted from now. */
void pier__op_refresh(struct pier_loop *loop, struct pier_op *op, uint64_t now);

/* Delivers one event. The op and its handle's memory stay valid; whether the op is still to go on
 * says pier__op_goes_on(). */
static inline void pier__op_event(struct pier_loop *loop, struct pier_op *op, int64_t result,
                                  uint32_t flags)
{
    op->result = result;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_MORE | flags;
    if (PIER__UNLIKELY(op->bits_ & PIER__TIMED)) {
        pier__op_refresh(loop, op, pier__loop_clock_next(loop));
    }
    pier__loop_call(loop, op);
}

/* Lends a buffer, in which nobody has a reference, to the callback that is about to run. */
static inline void pier__lend(struct pier_loop *loop, struct pier_buffer *buffer,
                              struct pier_handle *handle, struct pier_op *op, size_t bytes)
{
    buffer->handle = handle;
    op->data = buffer->memory;
    op->size = bytes;
    loop->pool.delivering = buffer;
    loop->counters.received_bytes += bytes;
}

/* The callback is back. True when nobody has kept the buffer: it's the engine's again. */
static inline bool pier__lend_over(struct pier_loop *loop, struct pier_buffer *buffer)
{
    loop->pool.delivering = NULL;
    return buffer->refs == 0;
}

/* Data has come, into a buffer without references: delivers it, as an event of a multishot receive
 * or as the end of another. True when the buffer is the engine's again. */
bool pier__op_received_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                            struct pier_buffer *buffer, size_t bytes);
/* Delivers an accepted socket with PIER_MORE and closes it if it isn't taken. `peer` is the address
 * that came with it, or NULL. */
void pier__op_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket,
                       const struct pier_address *peer);
/* Finishes an op with an accepted socket. */
void pier__op_finish_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket,
                              const struct pier_address *peer);

/* ---- cancel, in cancel.c */

/* Ends an op for a reason, the first of which wins. */
void pier__op_cancel(struct pier_loop *loop, struct pier_op *op, unsigned reason);
/* Ops of no handle that aren't in the timer wheel are listed, so that they can be found by drain
 * and dump: those without a deadline, those paused, and those whose time limit has passed but whose
 * cancel is still under way. The links are those of the wheel. */
void pier__op_list_other(struct pier_loop *loop, struct pier_op *op);
/* Takes an op's link out of the wheel, or out of that list. */
void pier__op_unlink(struct pier_loop *loop, struct pier_op *op);
/* The op's time limit has passed. */
void pier__op_timed_out(struct pier_loop *loop, struct pier_op *op);

#endif
