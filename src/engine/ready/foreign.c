/* foreign.c - pier_poll() on the readiness engine: descriptors that pier doesn't own.
 *
 * All polls of one descriptor share one registration, level-triggered, for the union of what they
 * wait for. It is held by a struct pier__foreign, whose embedded handle gives it a slot and key
 * like any other. The owner may close the descriptor as soon as the last poll is cancelled or has
 * completed: cancelling takes the registration away at once; after a completion it's left for the
 * callback to poll again, and is settled before the next wait. So that nothing comes of it if the
 * owner closes one of several descriptors that share it, the poller forgets it with the event where
 * it can, unless a multishot op is among them. A number that was closed and reused
 * meanwhile is noticed by pier__ready_attach(), which notes no interest then. */

#include "engine/ready/ready.h"

struct pier__foreign {
    struct pier_handle handle;
    struct pier_op *ops;    /* through next_ */
    struct pier_op *cursor; /* the next op to tell of the event that is being delivered */
    struct pier__foreign *next;
    bool changed;   /* in the list of those to settle */
    bool forgotten; /* the poller may not watch it any more, whatever `interest` says */
};

static unsigned bits_wanted(const struct pier_op *op)
{
    unsigned events = (unsigned)op->size;
    return ((events & PIER_READABLE) ? PIER__READ : 0) |
           ((events & PIER_PRIORITY) ? PIER__PRIORITY : 0) |
           ((events & PIER_WRITABLE) ? PIER__WRITE : 0);
}

static unsigned all_wanted(const struct pier__foreign *foreign)
{
    unsigned interest = 0, once = PIER__ONCE;
    for (const struct pier_op *op = foreign->ops; op != NULL; op = op->next_) {
        interest |= op->bits_ & PIER__PAUSED ? 0 : PIER__LEVEL | bits_wanted(op);
        once &= op->bits_ & PIER__MULTISHOT ? 0u : PIER__ONCE;
    }
    return interest != 0 ? interest | once : 0;
}

static int tell_foreign_interest(struct pier_loop *loop, struct pier__foreign *foreign,
                                 unsigned interest)
{
    struct pier_handle *handle = &foreign->handle;
    loop->counters.registrations++;
    int error = pier__ready_of(loop)->poller->set(loop, handle->descriptor_,
                                                  pier__slot_key(loop, handle->slot_),
                                                  handle->engine_.ready.interest, interest);
    handle->engine_.ready.interest = error == 0 ? (uint8_t)interest : 0;
    foreign->forgotten = false;
    return error;
}

static int set_foreign_interest(struct pier_loop *loop, struct pier__foreign *foreign,
                                unsigned interest)
{
    bool is_known = interest == foreign->handle.engine_.ready.interest && !foreign->forgotten;
    return is_known ? 0 : tell_foreign_interest(loop, foreign, interest);
}

static void mark_changed(struct pier_loop *loop, struct pier__foreign *foreign)
{
    struct pier__ready *ready = pier__ready_of(loop);
    if (!foreign->changed) {
        foreign->changed = true;
        foreign->next = ready->foreign_changed;
        ready->foreign_changed = foreign;
    }
}

static struct pier__foreign *find_foreign(struct pier_loop *loop, pier_descriptor descriptor)
{
    struct pier_handle *handle = pier__descriptor_handle(loop, descriptor);
    return handle != NULL ? PIER_OWNER(handle, struct pier__foreign, handle) : NULL;
}

/* The foreign of this handle if it has the op, else NULL. */
static struct pier__foreign *foreign_with(struct pier_handle *handle, const struct pier_op *op)
{
    if (handle == NULL || handle->kind_ != PIER__KIND_FOREIGN) {
        return NULL;
    }
    struct pier__foreign *foreign = PIER_OWNER(handle, struct pier__foreign, handle);
    const struct pier_op *at = foreign->ops;
    while (at != NULL && at != op) {
        at = at->next_;
    }
    return at != NULL ? foreign : NULL;
}

/* The foreign that has this op: found through the descriptor, or, when the number now belongs to
 * something else, among all. */
static struct pier__foreign *foreign_of(struct pier_loop *loop, const struct pier_op *op)
{
    struct pier__foreign *foreign = foreign_with(
        pier__descriptor_handle(loop, (pier_descriptor)op->data), op);
    for (uint32_t i = 0; foreign == NULL && i < loop->slots_used; i++) {
        foreign = foreign_with(pier__slot_at(loop, i), op);
    }
    return foreign;
}

static struct pier__foreign *make_foreign(struct pier_loop *loop, pier_descriptor descriptor)
{
    struct pier__ready *ready = pier__ready_of(loop);
    struct pier__foreign *foreign = ready->foreign_free;
    if (foreign != NULL) {
        ready->foreign_free = foreign->next;
    } else {
        foreign = pier__allocate(loop, sizeof(*foreign));
        if (foreign == NULL) {
            return NULL;
        }
    }
    memset(foreign, 0, sizeof(*foreign));
    foreign->handle.kind_ = PIER__KIND_FOREIGN;
    foreign->handle.descriptor_ = descriptor;
    foreign->handle.loop_ = loop;
    if (pier__slot_take(loop, &foreign->handle) < 0) {
        foreign->next = ready->foreign_free;
        ready->foreign_free = foreign;
        return NULL;
    }
    if (pier__descriptor_note(loop, descriptor, foreign->handle.slot_ + 1) < 0) {
        pier__slot_release(loop, &foreign->handle);
        foreign->next = ready->foreign_free;
        ready->foreign_free = foreign;
        return NULL;
    }
    return foreign;
}

static void release_foreign(struct pier_loop *loop, struct pier__foreign *foreign)
{
    struct pier__ready *ready = pier__ready_of(loop);
    pier_descriptor descriptor = foreign->handle.descriptor_;
    if (pier__descriptor_handle(loop, descriptor) == &foreign->handle) {
        set_foreign_interest(loop, foreign, 0);
        pier__descriptor_note(loop, descriptor, 0);
    }
    pier__slot_release(loop, &foreign->handle);
    foreign->next = ready->foreign_free;
    ready->foreign_free = foreign;
}

void pier__foreign_settle(struct pier_loop *loop)
{
    struct pier__ready *ready = pier__ready_of(loop);
    struct pier__foreign *foreign;
    while ((foreign = ready->foreign_changed) != NULL) {
        ready->foreign_changed = foreign->next;
        foreign->changed = false;
        if (foreign->ops == NULL && (foreign->handle.bits_ & PIER__LISTED)) {
            set_foreign_interest(loop, foreign, 0); /* released when it's served */
        } else if (foreign->ops == NULL) {
            release_foreign(loop, foreign);
        } else if (pier__descriptor_handle(loop, foreign->handle.descriptor_) == &foreign->handle) {
            set_foreign_interest(loop, foreign, all_wanted(foreign));
        }
    }
}

/* At the end of the loop, whose handles are all closed: in the list are at most descriptors that
 * were polled and not served any more. */
void pier__foreign_close(struct pier_loop *loop)
{
    struct pier__ready *ready = pier__ready_of(loop);
    struct pier_handle *handle;
    while ((handle = pier__handles_pop(&loop->ready)) != NULL) {
        mark_changed(loop, PIER_OWNER(handle, struct pier__foreign, handle));
    }
    pier__foreign_settle(loop);
    while (ready->foreign_free != NULL) {
        struct pier__foreign *foreign = ready->foreign_free;
        ready->foreign_free = foreign->next;
        pier__free(loop, foreign, sizeof(*foreign));
    }
}

void pier__foreign_start(struct pier_loop *loop, struct pier_op *op)
{
    pier_descriptor descriptor = (pier_descriptor)op->data;
    struct pier__foreign *foreign = find_foreign(loop, descriptor);
    if (foreign == NULL) {
        foreign = make_foreign(loop, descriptor);
        if (foreign == NULL) {
            pier__op_finish(loop, op, PIER_ENOMEM);
            return;
        }
    }
    bool is_first = foreign->ops == NULL;
    op->next_ = foreign->ops;
    foreign->ops = op;
    int error;
    if (is_first) {
        /* The owner may have closed the descriptor and opened another of its number: has the kernel
         * told again, under another key, so that events of the old one are known. */
        loop->slots[foreign->handle.slot_].key += UINT64_C(1) << 32;
        error = tell_foreign_interest(loop, foreign, all_wanted(foreign));
    } else {
        error = set_foreign_interest(
            loop, foreign,
            (foreign->handle.engine_.ready.interest & ~(unsigned)PIER__ONCE) | all_wanted(foreign));
    }
    if (error < 0) {
        int code = pier__sys_code();
        foreign->ops = op->next_;
        mark_changed(loop, foreign);
        pier__op_fail(loop, op, error == PIER_EPERM ? PIER_ENOTSUP : error, code);
    }
}

static void unlink_op(struct pier__foreign *foreign, struct pier_op *op)
{
    struct pier_op **link = &foreign->ops;
    while (*link != op) {
        link = &(*link)->next_;
    }
    *link = op->next_;
    if (foreign->cursor == op) {
        foreign->cursor = op->next_;
    }
}

void pier__foreign_cancel(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__foreign *foreign = foreign_of(loop, op);
    unlink_op(foreign, op);
    if (foreign->ops == NULL &&
        pier__descriptor_handle(loop, foreign->handle.descriptor_) == &foreign->handle) {
        /* At once: the owner may close the descriptor now. */
        set_foreign_interest(loop, foreign, 0);
    }
    mark_changed(loop, foreign);
    pier__op_finish(loop, op, pier__op_reason(op));
}

void pier__foreign_change(struct pier_loop *loop, struct pier_op *op)
{
    mark_changed(loop, foreign_of(loop, op));
}

unsigned pier__ready_ask(const struct pier_handle *handle)
{
    return pier__sys_poll_now(handle->descriptor_, handle->engine_.ready.interest &
                                                       (PIER__READ | PIER__PRIORITY | PIER__WRITE));
}

/* Makes `first` the head of the list and what stood before it the end. */
static void rotate(struct pier__foreign *foreign, struct pier_op *first)
{
    if (foreign->ops == first) {
        return;
    }
    struct pier_op *before = foreign->ops, *last = first;
    while (before->next_ != first) {
        before = before->next_;
    }
    while (last->next_ != NULL) {
        last = last->next_;
    }
    before->next_ = NULL;
    last->next_ = foreign->ops;
    foreign->ops = first;
}

void pier__foreign_event(struct pier_loop *loop, struct pier_handle *handle, unsigned events)
{
    struct pier__foreign *foreign = PIER_OWNER(handle, struct pier__foreign, handle);
    uint64_t key = pier__slot_key(loop, handle->slot_);
    if (loop->completed.head != NULL) {
        pier__loop_deliver(loop);
        if (pier__slot_handle(loop, key) != handle) {
            return; /* the event was another descriptor's, of the same number */
        }
    }
    foreign->forgotten = (handle->engine_.ready.interest & PIER__ONCE) != 0;
    for (struct pier_op *op = foreign->ops; op != NULL; op = foreign->cursor) {
        foreign->cursor = op->next_;
        unsigned seen = events & bits_wanted(op);
        int64_t result = ((seen & PIER__READ) ? PIER_READABLE : 0) |
                         ((seen & PIER__PRIORITY) ? PIER_PRIORITY : 0) |
                         ((seen & PIER__WRITE) ? PIER_WRITABLE : 0) |
                         ((events & (PIER__HANGUP | PIER__ERROR | PIER__INVALID)) ? PIER_HANGUP
                                                                                  : 0);
        if (result == 0 || (op->bits_ & PIER__PAUSED)) {
            continue;
        }
        if (!(op->bits_ & PIER__MULTISHOT)) {
            unlink_op(foreign, op);
            pier__op_finish(loop, op, result);
        } else if (loop->budget > 0) {
            pier__op_event(loop, op, result, 0);
        } else {
            rotate(foreign, op); /* the first to be told next time */
            pier__handle_serve_later(loop, handle);
            break;
        }
    }
    foreign->cursor = NULL;
    mark_changed(loop, foreign);
}

/* A descriptor that an earlier turn had no budget left for: what held then may be over. */
void pier__foreign_serve(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__foreign *foreign = PIER_OWNER(handle, struct pier__foreign, handle);
    unsigned events = 0;
    if (foreign->ops != NULL && pier__descriptor_handle(loop, handle->descriptor_) == handle) {
        loop->counters.system_calls++;
        events = pier__ready_ask(handle);
    }
    if (events != 0) {
        pier__foreign_event(loop, handle, events);
    } else {
        mark_changed(loop, foreign); /* its polls may be over: then it can go */
    }
}
