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
        op->data = (void *)descriptor;
        op->size = events;
    }
    pier__op_submit_free(loop, op, PIER__OP_POLL, bits, fn, function);
    if (events == 0 || (events & ~POLL_EVENTS) != 0) {
        pier__op_finish(loop, op, PIER_EINVAL);
    } else if (owner != NULL && owner->kind_ != PIER__KIND_FOREIGN) {
        pier__op_finish(loop, op, PIER_EBUSY);
    } else if (owner == NULL && !can_wait(op, descriptor)) {
        /* finished already */
    } else {
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
