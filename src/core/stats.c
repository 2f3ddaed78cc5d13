/* stats.c - looking at a loop from outside: counters, the dump of what is pending, draining, and
 * life after fork.
 *
 * What these have in common is that they go through everything in flight: ops of handles by way of
 * the slots, timers (and polls with a time limit) by way of the wheel, other ops by way of
 * loop->others. */

#include <stdio.h>

#include "core/loop.h"

void pier_loop_stats(struct pier_loop *loop, struct pier_loop_stats *stats)
{
    *stats = loop->stats;
    stats->sends += loop->quick_sends;
    stats->receives += loop->quick_receives;
    stats->system_calls += loop->quick_sends + loop->quick_receives;
    if (loop->running) {
        stats->callbacks += (uint64_t)((int32_t)loop->options.callbacks_max - loop->budget);
    }
    stats->ops_in_flight = loop->in_flight;
    stats->buffers_lent = loop->pool.lent;
}

unsigned pier_loop_capabilities(const struct pier_loop *loop)
{
    int bits = loop->engine->probe();
    return bits < 0 ? 0 : (unsigned)bits;
}

static void visit_links(struct pier_loop *loop, struct pier_timer_link *link,
                        void (*fn)(struct pier_loop *, struct pier_op *, void *), void *context)
{
    while (link != NULL) {
        struct pier_timer_link *next = link->next;
        struct pier_op *op = PIER_OWNER(link, struct pier_op, timer_);
        if (link != &loop->retry_link && op->kind_ > PIER__OP_SHUTDOWN) {
            fn(loop, op, context);
        }
        link = next;
    }
}

void pier__loop_visit(struct pier_loop *loop,
                      void (*fn)(struct pier_loop *, struct pier_op *, void *), void *context)
{
    for (size_t slot = 0; slot < PIER__TIMER_SLOTS; slot++) {
        visit_links(loop, loop->timers.slots[slot], fn, context);
    }
    visit_links(loop, loop->timers.due, fn, context);
    visit_links(loop, loop->others, fn, context);
}

/* ---- dump */

static const char *const kind_names[] = {"none",         "accept", "connect",       "receive",
                                         "receive lent", "send",   "send vectored", "shutdown",
                                         "poll",         "timer",  "post",          "notify"};
static const char *const state_names[] = {"idle", "queued", "active", "posted", "completed"};
static const char *const handle_names[] = {"none",     "stream", "listener",    "pipe",
                                           "terminal", "file",   "pipe stream", "pipe listener"};

/* Ops on a handle stand below its line, indented; the loop's own begin where handles do, so that
 * they aren't taken for those of the handle above. */
static void dump_op(struct pier_loop *loop, const struct pier_op *op, pier_dump_fn *fn,
                    void *context)
{
    char line[256], when[64], bytes[48] = "";
    bool on_handle = pier__op_has_handle(op);
    uint64_t now = pier__loop_clock(loop);
    bool has_deadline = (op->bits_ & PIER__TIMED) || op->kind_ == PIER__OP_TIMER;
    if (has_deadline) {
        int64_t left = (int64_t)(op->timer_.deadline_ns - now);
        snprintf(when, sizeof(when), "due in %.3f ms", (double)left / 1e6);
    } else if (op->kind_ >= PIER__OP_POLL) { /* a post's thread doesn't read the clock */
        snprintf(when, sizeof(when), "no time limit");
    } else {
        snprintf(when, sizeof(when), "age %.3f ms", (double)(now - op->timer_.deadline_ns) / 1e6);
    }
    if (on_handle) {
        snprintf(bytes, sizeof(bytes), ", %llu bytes done", (unsigned long long)op->done);
    }
    snprintf(line, sizeof(line), "%s%s%s %s%s%s%s, %s", on_handle ? "  " : "",
             kind_names[op->kind_], op->bits_ & PIER__MULTISHOT ? " each" : "",
             state_names[op->state_], op->bits_ & PIER__PAUSED ? " paused" : "",
             op->reason_ != PIER__REASON_NONE ? " cancelling" : "", bytes, when);
    fn(context, line);
}

static void dump_handle(struct pier_loop *loop, const struct pier_handle *handle, pier_dump_fn *fn,
                        void *context)
{
    char line[256];
    snprintf(line, sizeof(line), "%s %ld%s%s%s%s, %u lent buffers", handle_names[handle->kind_],
             (long)handle->descriptor_, handle->bits_ & PIER__CLOSED_TO_USER ? " closing" : "",
             handle->bits_ & PIER__CONNECTING ? " connecting" : "",
             handle->bits_ & PIER__BLOCKED ? " send-blocked" : "",
             handle->bits_ & PIER__STARVED ? " starved" : "", (unsigned)handle->lent_);
    fn(context, line);
    for (int direction = 0; direction < 2; direction++) {
        for (const struct pier_op *op = handle->head_[direction]; op != NULL; op = op->next_) {
            dump_op(loop, op, fn, context);
        }
    }
}

struct dump {
    pier_dump_fn *fn;
    void *context;
};

static void dump_visited(struct pier_loop *loop, struct pier_op *op, void *context)
{
    const struct dump *dump = context;
    dump_op(loop, op, dump->fn, dump->context);
}

void pier_loop_dump(struct pier_loop *loop, pier_dump_fn *fn, void *context)
{
    char line[256];
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_loop_dump",
                 "called from another thread than the loop's");
    snprintf(line, sizeof(line),
             "loop on %s: %llu ops in flight (%llu in the background), %llu handles, %lu timers",
             loop->engine->name, (unsigned long long)loop->in_flight,
             (unsigned long long)loop->background, (unsigned long long)loop->stats.handles_open,
             (unsigned long)pier__timers_count(&loop->timers));
    fn(context, line);
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        const struct pier_handle *handle = loop->slots[i].handle;
        if (handle != NULL && handle->kind_ != PIER__KIND_FOREIGN) {
            dump_handle(loop, handle, fn, context);
        }
    }
    pier__loop_visit(loop, dump_visited, &(struct dump){fn, context});
    const struct pier_op *done[] = {loop->completed.head, loop->posted.head};
    for (size_t i = 0; i < sizeof(done) / sizeof(done[0]); i++) {
        for (const struct pier_op *op = done[i]; op != NULL; op = op->next_) {
            dump_op(loop, op, fn, context);
        }
    }
}

/* ---- drain */

static void cancel_visited(struct pier_loop *loop, struct pier_op *op, void *context)
{
    (void)context;
    pier__op_cancel(loop, op, PIER__REASON_CALLER);
}

static void cancel_everything(struct pier_loop *loop)
{
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = loop->slots[i].handle;
        if (handle == NULL || handle->kind_ == PIER__KIND_FOREIGN) {
            continue;
        }
        if (handle->bits_ & PIER__GRACEFUL && !(handle->bits_ & PIER__CLOSING)) {
            pier__handle_close_now(handle);
        } else {
            pier_close(handle, NULL);
        }
    }
    pier__loop_visit(loop, cancel_visited, NULL);
}

int pier_loop_drain(struct pier_loop *loop, uint64_t timeout_ns)
{
    PIER_REQUIRE(!loop->running, "pier_loop_drain",
                 "called from inside a callback of the same loop");
    uint64_t begin = pier__sys_clock();
    for (;;) {
        cancel_everything(loop);
        if (loop->in_flight == 0 && loop->handles_closing == 0 && !pier__remote_pending(loop)) {
            return 0;
        }
        uint64_t past = pier__sys_clock() - begin;
        if (past >= timeout_ns && timeout_ns != PIER_FOREVER) {
            return pier__fail(PIER_ETIMEDOUT, "%llu ops are still in flight: see pier_loop_dump()",
                              (unsigned long long)loop->in_flight);
        }
        loop->sleep_most_ns = timeout_ns == PIER_FOREVER ? PIER_FOREVER : timeout_ns - past;
        uint64_t before = loop->stats.callbacks + loop->stats.closes;
        int error = pier_loop_run(loop, PIER_RUN_ONCE);
        loop->sleep_most_ns = PIER_FOREVER;
        /* A turn whose wait failed delivers what needs no kernel: goes on as long as it does. */
        if (error < 0 && loop->stats.callbacks + loop->stats.closes == before) {
            return error;
        }
    }
}

/* ---- fork */

int pier_loop_after_fork(struct pier_loop *loop)
{
    PIER_REQUIRE(!loop->running, "pier_loop_after_fork", "called from inside a callback");
    if (loop->forks == pier__sys_forks()) {
        return pier__fail(
            PIER_EINVAL,
            "pier_loop_after_fork: this is not the child of a fork made after pier_loop_new()");
    }
    loop->thread = NULL;
    loop->forks = pier__sys_forks();
    pier__loop_awake(loop);
    int error = loop->engine->after_fork(loop);
    if (error < 0) {
        return pier__fail(error, "the %s backend can't be made anew in the child: %s",
                          loop->engine->name, pier_error_text(error));
    }
    /* What was being sent, the parent sends. */
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = loop->slots[i].handle;
        struct pier_op *op;
        while (handle != NULL && handle->kind_ != PIER__KIND_FOREIGN &&
               (op = handle->head_[PIER__SENDING]) != NULL) {
            handle->head_[PIER__SENDING] = op->next_;
            if (op->kind_ == PIER__OP_CONNECT) {
                handle->bits_ = (handle->bits_ & ~(uint32_t)PIER__CONNECTING) | PIER__FAILED;
            }
            pier__op_abandon(loop, op, PIER__REASON_CALLER);
        }
        if (handle != NULL && (handle->bits_ & PIER__FAILED)) {
            pier__op_start_direction(loop, handle, PIER__RECEIVING);
        }
    }
    return 0;
}
