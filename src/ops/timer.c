/* timer.c - timer operations, and pier_poll(): the ops that have no handle. */

#include "core/loop.h"

static uint64_t after(uint64_t now, uint64_t delay_ns)
{
    return delay_ns > UINT64_MAX - now ? UINT64_MAX : now + delay_ns;
}

/* What pier__op_begin() does, without what a plain timer doesn't need: programs start one for each
 * request. */
void pier_timer(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns, pier_op_fn *fn)
{
    if (PIER__UNLIKELY(loop->thread != pier__thread() || op->state_ != PIER__IDLE || fn == NULL ||
                       op->flags != 0)) {
        pier__op_begin(loop, op, PIER__OP_TIMER, 0, fn, "pier_timer");
    } else {
        op->fn = fn;
        op->done = 0;
        op->timeout_ns = 0;
        op->os_error = 0;
        op->owner_ = loop;
        loop->in_flight++;
        op->kind_ = PIER__OP_TIMER; /* these four bytes become one store */
        pier__op_move(op, PIER__ACTIVE);
        op->reason_ = PIER__REASON_NONE;
        op->bits_ = 0;
    }
    pier__timers_insert(&loop->timers, &op->timer_, after(pier__loop_clock(loop), delay_ns));
}

void pier_timer_each(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns,
                     uint64_t interval_ns, pier_op_fn *fn)
{
    pier__op_begin(loop, op, PIER__OP_TIMER, PIER__MULTISHOT, fn, "pier_timer_each");
    op->extra_.number = interval_ns;
    if (interval_ns == 0) {
        op->reason_ = PIER__REASON_NONE;
        pier__op_finish(loop, op, PIER_EINVAL);
        return;
    }
    pier__timers_insert(&loop->timers, &op->timer_, after(pier__loop_clock(loop), delay_ns));
}

void pier_timer_reset(struct pier_op *op, uint64_t delay_ns)
{
    if (op->state_ != PIER__ACTIVE || op->kind_ != PIER__OP_TIMER ||
        op->reason_ != PIER__REASON_NONE) {
        return;
    }
    struct pier_loop *loop = op->owner_;
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_timer_reset",
                 "called from another thread than the loop's");
    uint64_t deadline = after(pier__loop_clock(loop), delay_ns);
    if (op->bits_ & PIER__PAUSED) {
        op->timer_.deadline_ns = deadline;
    } else {
        if (pier__timer_armed(&op->timer_)) {
            pier__timers_remove(&loop->timers, &op->timer_);
        }
        pier__timers_insert(&loop->timers, &op->timer_, deadline);
    }
}

/* A timer's end is known to no one but its callers, so it needs no completion to be over: half of
 * what cancelling a million of them costs is to come back to each for its callback. */
bool pier_timer_stop(struct pier_op *op)
{
    if (op->state_ != PIER__ACTIVE || op->kind_ != PIER__OP_TIMER ||
        op->reason_ != PIER__REASON_NONE) {
        return false;
    }
    struct pier_loop *loop = op->owner_;
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_timer_stop",
                 "called from another thread than the loop's");
    if (PIER__LIKELY(!(op->bits_ & PIER__PAUSED))) {
        pier__timers_remove(&loop->timers, &op->timer_);
    } else {
        pier__op_unlink(loop, op);
    }
    if (PIER__UNLIKELY(op->bits_ & PIER__TOKEN)) {
        pier__token_release(loop, op);
    }
    pier__op_move(op, PIER__IDLE);
    loop->in_flight--;
    if (PIER__UNLIKELY(op->bits_ & PIER__COUNTED_BACKGROUND)) {
        loop->background--;
    }
    return true;
}

/* Whether a descriptor is one to wait for. If not, finishes the op: a regular file is ready at
 * once, and what isn't open is an error on every backend. */
static bool can_wait(struct pier_op *op, pier_descriptor descriptor)
{
    struct pier_loop *loop = op->owner_;
    int is_file = pier__sys_is_file(descriptor);
    if (is_file == 0) {
        return true;
    }
    unsigned ready = (unsigned)op->size & (PIER_READABLE | PIER_WRITABLE);
    op->os_error = is_file < 0 ? pier__sys_code() : 0;
    if (is_file > 0) {
        is_file = (op->bits_ & PIER__MULTISHOT) || ready == 0 ? PIER_ENOTSUP : (int)ready;
    }
    pier__op_finish(loop, op, is_file);
    return false;
}

static void begin_poll(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                       unsigned events, unsigned bits, pier_op_fn *fn, const char *function)
{
    struct pier_handle *owner = pier__descriptor_handle(loop, descriptor);
    if (op->state_ == PIER__IDLE) {
        op->data = (void *)descriptor; /* extra_ may hold an idle limit */
        op->size = events;
    }
    pier__op_begin(loop, op, PIER__OP_POLL, bits, fn, function);
    if ((events & (PIER_READABLE | PIER_PRIORITY | PIER_WRITABLE | PIER_HANGUP)) == 0 ||
        (events & ~(unsigned)(PIER_READABLE | PIER_PRIORITY | PIER_WRITABLE | PIER_HANGUP)) != 0) {
        pier__op_finish(loop, op, PIER_EINVAL);
    } else if (owner != NULL && owner->kind_ != PIER__KIND_FOREIGN) {
        pier__op_finish(loop, op, PIER_EBUSY);
    } else if (owner == NULL && !can_wait(op, descriptor)) {
        /* finished already */
    } else {
        loop->engine->poll_start(loop, op);
    }
}

void pier_poll(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
               unsigned events, pier_op_fn *fn)
{
    begin_poll(loop, op, descriptor, events, 0, fn, "pier_poll");
}

void pier_poll_each(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                    unsigned events, pier_op_fn *fn)
{
    begin_poll(loop, op, descriptor, events, PIER__MULTISHOT, fn, "pier_poll_each");
}
