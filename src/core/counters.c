/* counters.c - looking at a loop from outside: its counters, what it can do, its handles; and going
 * through what is in flight, for the dump, the drain and the engines.
 *
 * Ops of handles are found by way of the slots, timers (and polls with a time limit) by way of the
 * wheel, other ops by way of core.others. */

#include "core/engine.h"

void pier_loop_stats_for(struct pier_loop *loop, struct pier_loop_counters *counters, size_t size)
{
    struct pier_loop_counters all = loop->counters;
    PIER__REQUIRE_THREAD(loop, "pier_loop_stats");
    all.sends += loop->sends_at_once;
    all.receives += loop->receives_at_once;
    all.system_calls += loop->sends_at_once + loop->receives_at_once;
    if (loop->running) {
        all.callbacks += (uint64_t)((int32_t)loop->options.callbacks_max - loop->budget);
    }
    all.callbacks -= loop->core.own_callbacks;
    all.ops_in_flight = loop->core.in_flight - loop->core.own_ops;
    all.buffers_lent = loop->pool.lent;
    size_t known = size < sizeof(all) ? size : sizeof(all);
    memcpy(counters, &all, known);
    memset((char *)counters + known, 0, size - known);
}

unsigned pier_loop_capabilities(const struct pier_loop *loop)
{
    return loop->core.capabilities;
}

void pier_loop_set_user(struct pier_loop *loop, void *user)
{
    loop->core.user = user;
}

void *pier_loop_user(const struct pier_loop *loop)
{
    return loop->core.user;
}

struct pier_loop *pier_op_loop(const struct pier_op *op)
{
    return op->owner_ == NULL ? NULL : pier__op_loop(op);
}

/* By index, since the table moves when the function opens a handle. */
void pier_loop_each_handle(struct pier_loop *loop, pier_each_handle_fn *fn, void *context)
{
    PIER__REQUIRE_THREAD(loop, "pier_loop_each_handle");
    PIER_REQUIRE(fn != NULL, "pier_loop_each_handle", "the function must not be NULL");
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = pier__slot_at(loop, i);
        if (handle != NULL && handle->kind_ != PIER__KIND_FOREIGN && pier_handle_is_open(handle)) {
            fn(context, handle);
        }
    }
}

static void visit_links(struct pier_loop *loop, struct pier_timer_link *link,
                        void (*fn)(struct pier_loop *, struct pier_op *, void *), void *context)
{
    while (link != NULL) {
        struct pier_timer_link *next = link->next;
        struct pier_op *op = PIER_OWNER(link, struct pier_op, timer_);
        if (!pier__timer_is_own(loop, link) && !pier__op_has_handle(op)) {
            fn(loop, op, context);
        }
        link = next;
    }
}

void pier__loop_visit(struct pier_loop *loop,
                      void (*fn)(struct pier_loop *, struct pier_op *, void *), void *context)
{
    for (size_t slot = 0; slot < PIER__TIMER_SLOTS; slot++) {
        visit_links(loop, loop->core.timers.slots[slot], fn, context);
    }
    visit_links(loop, loop->core.timers.due, fn, context);
    visit_links(loop, loop->core.others, fn, context);
}
