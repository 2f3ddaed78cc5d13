/* poll.c - pier_poll(): readiness of descriptors that pier doesn't own. The engine watches them. */

#include "core/engine.h"
#include "ops/ops.h"

void pier__poll_start(struct pier_loop *loop, struct pier_op *op)
{
    loop->engine->poll_start(loop, op);
}

void pier__poll_cancel(struct pier_loop *loop, struct pier_op *op)
{
    loop->engine->poll_cancel(loop, op);
}

void pier__poll_pause(struct pier_loop *loop, struct pier_op *op)
{
    loop->engine->poll_pause(loop, op);
}

void pier__poll_resume(struct pier_loop *loop, struct pier_op *op)
{
    loop->engine->poll_resume(loop, op);
}

#define POLL_EVENTS ((unsigned)(PIER_READABLE | PIER_PRIORITY | PIER_WRITABLE | PIER_HANGUP))

/* What a poll of a file comes to: which events are there at once, 0 when it has to be waited for,
 * or an error. Most files are ready and tell of nothing. Of those that do, what happened before is
 * asked for here: epoll loses what it finds when it begins to watch (Linux 6.18; tests/conform:
 * changes.mounts). */
static int poll_file(const struct pier_op *op, pier_descriptor file)
{
    unsigned ready = (unsigned)op->size & (PIER_READABLE | PIER_WRITABLE);
    bool each = (op->bits_ & PIER__MULTISHOT) != 0;
    if (ready != 0 || !((unsigned)op->size & PIER_PRIORITY) || !pier__sys_tells_changes(file)) {
        return each || ready == 0 ? PIER_ENOTSUP : (int)ready;
    }
    return !each && pier__sys_has_changed(file) ? PIER_PRIORITY : 0;
}

/* Whether a descriptor is one to wait for. If not, finishes the op: what isn't open is an error on
 * every backend. The engine may know the number, from a poll that is over: it may be another file's
 * by now. */
static bool can_wait(struct pier_op *op, pier_descriptor descriptor)
{
    struct pier_loop *loop = op->owner_;
    int result = pier__sys_is_file(descriptor);
    op->os_error = result < 0 ? pier__sys_code() : 0;
    if (result > 0) {
        result = poll_file(op, descriptor);
    }
    if (result != 0) {
        pier__op_finish(loop, op, result);
    }
    return result == 0;
}

static void begin_poll(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                       unsigned events, unsigned bits, pier_op_fn *fn, const char *function)
{
    struct pier_handle *owner = pier__descriptor_handle(loop, descriptor);
    if (op->state_ == PIER__IDLE) {
        op->data = (void *)descriptor;
        op->size = events;
    }
    pier__op_submit_free(loop, op, PIER__OP_POLL, bits, fn, function);
    if (events == 0 || (events & ~POLL_EVENTS) != 0) {
        pier__op_finish(loop, op, PIER_EINVAL);
    } else if (owner != NULL && owner->kind_ != PIER__KIND_FOREIGN) {
        pier__op_finish(loop, op, PIER_EBUSY);
    } else if (can_wait(op, descriptor)) {
        pier__poll_start(loop, op);
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

/* An event that the kernel has told of already is looked at with the new events when its turn
 * comes, so what isn't asked for any more isn't delivered. */
void pier_poll_change(struct pier_op *op, unsigned events)
{
    if (op->state_ != PIER__ACTIVE || op->kind_ != PIER__OP_POLL || pier__op_is_ending(op)) {
        return;
    }
    struct pier_loop *loop = op->owner_;
    PIER__REQUIRE_THREAD(loop, "pier_poll_change");
    PIER_REQUIRE((events & ~POLL_EVENTS) == 0, "pier_poll_change",
                 "the events aren't all of PIER_READABLE, PIER_PRIORITY, PIER_WRITABLE and "
                 "PIER_HANGUP");
    if (op->size != events) {
        op->size = events;
        loop->engine->poll_change(loop, op);
    }
}
