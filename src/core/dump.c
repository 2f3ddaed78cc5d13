/* dump.c - the description of what is pending, for people. */

#include <stdio.h>

#include "core/engine.h"

static const char *const state_names[] = {"idle", "queued", "active", "posted", "completed"};
static const char *const handle_names[] = {"none",     "stream", "listener",    "pipe",
                                           "terminal", "file",   "pipe stream", "pipe listener"};

#define TEXT_SIZE 64

static void describe_time(struct pier_loop *loop, const struct pier_op *op, char *text)
{
    uint64_t now = pier__loop_clock(loop), due = op->timer_.deadline_ns;
    bool is_timer = pier__op_is_timer(op), has_deadline = (op->bits_ & PIER__TIMED) || is_timer;
    if (has_deadline && !is_timer && (op->bits_ & PIER__PAUSED)) {
        snprintf(text, TEXT_SIZE, "time stands still");
    } else if (has_deadline && due == PIER_FOREVER) {
        snprintf(text, TEXT_SIZE, "never due");
    } else if (has_deadline) {
        double left = due >= now ? (double)(due - now) : -(double)(now - due);
        snprintf(text, TEXT_SIZE, "due in %.3f ms", left / 1e6);
    } else if (!pier__kind_of(op)->has_age) {
        snprintf(text, TEXT_SIZE, "no time limit");
    } else {
        snprintf(text, TEXT_SIZE, "age %.3f ms", (double)(now - due) / 1e6);
    }
}

/* What the op is about, where the line above doesn't tell: a poll's descriptor and events, the
 * handle of an op that isn't listed below it. */
static void describe_object(const struct pier_op *op, bool is_below, char *text)
{
    if (op->kind_ == PIER__OP_POLL) {
        unsigned events = (unsigned)op->size;
        snprintf(text, TEXT_SIZE, " of %ld for%s%s%s%s", (long)(pier_descriptor)op->data,
                 events & PIER_READABLE ? " readable" : "",
                 events & PIER_PRIORITY ? " priority" : "",
                 events & PIER_WRITABLE ? " writable" : "", events & PIER_HANGUP ? " hangup" : "");
    } else if (pier__op_has_handle(op) && !is_below) {
        const struct pier_handle *handle = op->owner_;
        snprintf(text, TEXT_SIZE, " of %s %ld", handle_names[handle->kind_],
                 (long)handle->descriptor_);
    } else {
        text[0] = '\0';
    }
}

/* Ops on a handle stand below its line, indented; the loop's own begin where handles do, so that
 * they aren't taken for those of the handle above. */
static void dump_op(struct pier_loop *loop, const struct pier_op *op, bool is_below,
                    pier_dump_fn *fn, void *context)
{
    char line[256], when[TEXT_SIZE], object[TEXT_SIZE], bytes[48] = "";
    describe_time(loop, op, when);
    describe_object(op, is_below, object);
    if (pier__op_has_handle(op) && !pier__op_is_timer(op)) {
        snprintf(bytes, sizeof(bytes), ", %llu bytes done", (unsigned long long)op->done);
    }
    snprintf(line, sizeof(line), "%s%s%s%s %s%s%s%s, %s", is_below ? "  " : "",
             pier__kind_of(op)->name, op->bits_ & PIER__MULTISHOT ? " each" : "", object,
             state_names[op->state_], op->bits_ & PIER__PAUSED ? " paused" : "",
             pier__op_is_ending(op) ? " cancelling" : "", bytes, when);
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
            dump_op(loop, op, true, fn, context);
        }
    }
    for (const struct pier_op *op = handle->unordered_; op != NULL; op = op->next_) {
        dump_op(loop, op, true, fn, context);
    }
}

struct dump {
    pier_dump_fn *fn;
    void *context;
};

static void dump_visited(struct pier_loop *loop, struct pier_op *op, void *context)
{
    const struct dump *dump = context;
    dump_op(loop, op, false, dump->fn, dump->context);
}

/* What other threads have posted and the loop hasn't taken yet, the last one first. The stack only
 * grows meanwhile: this thread alone takes from it. Notifications are listed already. */
static void dump_posted(struct pier_loop *loop, pier_dump_fn *fn, void *context)
{
    const struct pier_op *op = pier__atomic_load(&loop->core.remote);
    for (op = op != PIER__ASLEEP ? op : NULL; op != NULL; op = op->next_) {
        if (op->kind_ == PIER__OP_POST) {
            dump_op(loop, op, false, fn, context);
        }
    }
}

void pier_loop_dump(struct pier_loop *loop, pier_dump_fn *fn, void *context)
{
    char line[256];
    PIER__REQUIRE_THREAD(loop, "pier_loop_dump");
    PIER_REQUIRE(fn != NULL, "pier_loop_dump", "the function must not be NULL");
    snprintf(line, sizeof(line),
             "loop on %s: %llu ops in flight (%llu in the background), %llu handles, %lu timers",
             loop->engine->name, (unsigned long long)loop->core.in_flight,
             (unsigned long long)loop->core.background,
             (unsigned long long)loop->counters.handles_open,
             (unsigned long)pier__timers_count(&loop->core.timers));
    fn(context, line);
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        const struct pier_handle *handle = loop->slots[i].handle;
        if (handle != NULL && handle->kind_ != PIER__KIND_FOREIGN) {
            dump_handle(loop, handle, fn, context);
        }
    }
    pier__loop_visit(loop, dump_visited, &(struct dump){fn, context});
    const struct pier_op *done[] = {loop->completed.head, loop->core.posted.head};
    for (size_t i = 0; i < sizeof(done) / sizeof(done[0]); i++) {
        for (const struct pier_op *op = done[i]; op != NULL; op = op->next_) {
            dump_op(loop, op, false, fn, context);
        }
    }
    dump_posted(loop, fn, context);
}
