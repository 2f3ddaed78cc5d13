/* hooks.c - what is called around each wait: the ops of pier_prepare_each() before it, those of
 * pier_check_each() as soon as the engine is back from it.
 *
 * They don't count in the turn's budget. A small one would be used up by them in each turn, and the
 * events would have nothing left. */

#include "core/hooks.h"

#include "core/end.h"

static void mark(struct pier_loop *loop, enum pier__hook which, bool on)
{
    uint8_t *bits = which == PIER__PREPARE ? &loop->core.owed : &loop->core.on_return;
    unsigned bit = which == PIER__PREPARE ? (unsigned)PIER__HAS_PREPARES
                                          : (unsigned)PIER__HAS_CHECKS;
    *bits = (uint8_t)(on ? *bits | bit : *bits & ~bit);
}

void pier__hook_list(struct pier_loop *loop, struct pier_op *op, enum pier__hook which)
{
    pier__queue_push(&loop->core.hooks[which].ops, op);
    mark(loop, which, true);
}

void pier__hook_unlist(struct pier_loop *loop, struct pier_op *op, enum pier__hook which)
{
    struct pier__hooks *hooks = &loop->core.hooks[which];
    struct pier_op *before = NULL;
    if (hooks->ops.head == op) {
        hooks->ops.head = op->next_;
    } else {
        before = hooks->ops.head;
        while (before->next_ != op) {
            before = before->next_;
        }
        before->next_ = op->next_;
    }
    if (hooks->ops.tail == op) {
        hooks->ops.tail = before;
    }
    if (hooks->next == op) {
        hooks->next = op == hooks->last ? NULL : op->next_;
    } else if (hooks->last == op) {
        hooks->last = before; /* of the same pass, or one that is over */
    }
    mark(loop, which, hooks->ops.head != NULL);
}

PIER__COLD void pier__hooks_call(struct pier_loop *loop, enum pier__hook which)
{
    struct pier__hooks *hooks = &loop->core.hooks[which];
    hooks->next = hooks->ops.head;
    hooks->last = hooks->ops.tail; /* those that are submitted meanwhile have the next pass */
    while (hooks->next != NULL) {
        struct pier_op *op = hooks->next;
        hooks->next = op == hooks->last ? NULL : op->next_;
        if (op->bits_ & PIER__PAUSED) {
            continue;
        }
        loop->core.clock_budget = loop->budget + 1; /* for a delay the clock is read anew */
        loop->core.fast_thread = PIER__NO_THREAD;
        loop->budget++;
        loop->counters.callbacks++;
        pier__op_event(loop, op, 1, 0);
    }
    loop->core.clock_budget = loop->budget + 1; /* the loop may sleep now */
}

/* ---- links, which are pier's own */

void pier__loop_at_turn_end(struct pier_loop *loop, struct pier_turn_link *link)
{
    if (link->back != NULL) {
        return;
    }
    link->next = loop->core.turn_links;
    link->back = &loop->core.turn_links;
    if (link->next != NULL) {
        link->next->back = &link->next;
    }
    loop->core.turn_links = link;
    loop->core.owed |= PIER__OWES_LINKS;
}

void pier__links_call(struct pier_loop *loop)
{
    struct pier_turn_link *link = loop->core.turn_links;
    loop->core.turn_links = NULL;
    loop->core.owed &= (uint8_t)~PIER__OWES_LINKS;
    loop->core.links_called = link;
    if (link != NULL) {
        link->back = &loop->core.links_called;
    }
    while ((link = loop->core.links_called) != NULL) {
        pier__turn_link_remove(link);
        link->fn(link);
    }
}
