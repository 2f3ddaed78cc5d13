/* handle.c - the life of a handle: slot, attach, detach, close.
 *
 * Each open handle has a slot; (generation, slot) is the key that readiness kernels hand back, so
 * that an event for a closed handle is told from one for the handle that took its place. A second
 * table leads from a descriptor's number to the slot: it finds the handle that a number being
 * adopted or polled already belongs to.
 *
 * Closing: mark, cancel every op, and once both queues are empty (pier__handle_try_close) put the
 * handle in the closing list. The loop empties that list after the completed ops that were there
 * first, so the close callback comes last. */

#include "core/loop.h"

#define SLOTS_MIN 64
#define KEY_GENERATION (UINT64_MAX << 32)
#define GRACE_NS (10 * PIER_SECOND)

/* ---- slots */

static int grow_slots(struct pier_loop *loop)
{
    uint32_t old_size = loop->slots_size;
    uint32_t size = old_size == 0 ? SLOTS_MIN : old_size + old_size / 2;
    struct pier__slot *slots = pier__reallocate(loop, loop->slots, old_size * sizeof(*slots),
                                                size * sizeof(*slots));
    if (slots == NULL) {
        return PIER_ENOMEM;
    }
    loop->slots = slots;
    loop->slots_size = size;
    return 0;
}

int pier__slot_take(struct pier_loop *loop, struct pier_handle *handle)
{
    uint32_t index = loop->slots_free;
    if (index != UINT32_MAX) {
        loop->slots_free = (uint32_t)loop->slots[index].key;
    } else {
        if (loop->slots_used == loop->slots_size) {
            int error = grow_slots(loop);
            if (error < 0) {
                return error;
            }
        }
        index = loop->slots_used++;
        loop->slots[index].key = UINT64_C(1) << 32;
    }
    loop->slots[index].key = (loop->slots[index].key & KEY_GENERATION) | index;
    loop->slots[index].handle = handle;
    handle->slot_ = index;
    return 0;
}

void pier__slot_release(struct pier_loop *loop, struct pier_handle *handle)
{
    struct pier__slot *slot = &loop->slots[handle->slot_];
    PIER_ASSERT(slot->handle == handle);
    slot->handle = NULL;
    slot->key = ((slot->key & KEY_GENERATION) + (UINT64_C(1) << 32)) | loop->slots_free;
    loop->slots_free = handle->slot_;
}

int pier__descriptor_note(struct pier_loop *loop, pier_descriptor descriptor, uint32_t slot)
{
    size_t index = (size_t)descriptor;
#ifdef PIER__SPARSE_DESCRIPTORS
    index /= 4; /* see sys.h */
#endif
    if (index >= loop->by_descriptor_size) {
        size_t old_size = loop->by_descriptor_size;
        size_t size = old_size == 0 ? SLOTS_MIN : old_size;
        while (size <= index) {
            size += size / 2;
        }
        uint32_t *table = pier__reallocate(loop, loop->by_descriptor, old_size * sizeof(*table),
                                           size * sizeof(*table));
        if (table == NULL) {
            return PIER_ENOMEM;
        }
        memset(table + old_size, 0, (size - old_size) * sizeof(*table));
        loop->by_descriptor = table;
        loop->by_descriptor_size = size;
    }
    loop->by_descriptor[index] = slot;
    return 0;
}

struct pier_handle *pier__descriptor_handle(const struct pier_loop *loop,
                                            pier_descriptor descriptor)
{
    size_t index = (size_t)descriptor;
#ifdef PIER__SPARSE_DESCRIPTORS
    index /= 4;
#endif
    if (descriptor < 0 || index >= loop->by_descriptor_size || loop->by_descriptor[index] == 0) {
        return NULL;
    }
    struct pier_handle *handle = loop->slots[loop->by_descriptor[index] - 1].handle;
    return handle != NULL && handle->descriptor_ == descriptor ? handle : NULL;
}

/* ---- opening */

void pier__handle_require_open(const struct pier_handle *handle, const char *function)
{
    PIER_REQUIRE(handle->loop_ != NULL, function,
                 "the handle is not open (never opened, closed, or detached)");
}

static int join(struct pier_loop *loop, struct pier_handle *handle)
{
    int error = pier__slot_take(loop, handle);
    if (error < 0) {
        return pier__fail(error, "no memory for one more handle");
    }
    handle->loop_ = loop;
    handle->calls_ = &loop->engine->calls;
    struct pier_handle *other = pier__descriptor_handle(loop, handle->descriptor_);
    if (other != NULL) {
        other->interest_ =
            0; /* the number was closed and reused: what was watched under it is gone */
    }
    error = pier__descriptor_note(loop, handle->descriptor_, handle->slot_ + 1);
    if (error == 0) {
        error = loop->engine->attach(handle);
    }
    if (error < 0) {
        pier__slot_release(loop, handle);
        handle->loop_ = NULL;
        return pier__fail(error, "the %s backend can't take descriptor %ld: %s",
                          loop->engine->name, (long)handle->descriptor_, pier_error_text(error));
    }
    loop->stats.handles_open++;
    return 0;
}

int pier__handle_open(struct pier_loop *loop, struct pier_handle *handle,
                      pier_descriptor descriptor, unsigned kind, uint8_t family, uint32_t bits)
{
    memset(handle, 0, sizeof(*handle));
    handle->descriptor_ = descriptor;
    handle->kind_ = (uint8_t)kind;
    handle->family_ = family;
    handle->bits_ = bits;
    if (pier__handle_listens(handle) ||
        (bits & (PIER__READ_ONLY | PIER__WRITE_ONLY | PIER__UNCONNECTED))) {
        handle->bits_ |= PIER__RESTRICTED;
    }
    if (family == PIER_ADDRESS_IPV4 || family == PIER_ADDRESS_IPV6) {
        handle->bits_ |= PIER__IS_TCP;
    }
    return join(loop, handle);
}

void pier__descriptor_forget(struct pier_loop *loop, const struct pier_handle *handle)
{
    if (pier__descriptor_handle(loop, handle->descriptor_) == handle) {
        pier__descriptor_note(loop, handle->descriptor_, 0);
    }
}

/* Takes a handle off its loop's tables. */
static void leave(struct pier_loop *loop, struct pier_handle *handle)
{
    pier__descriptor_forget(loop, handle);
    pier__slot_release(loop, handle);
    if (PIER__UNLIKELY(handle->lent_ != 0)) {
        pier__pool_disown(loop, handle);
    }
    handle->loop_ = NULL;
    handle->bits_ &= ~(uint32_t)(PIER__PLAIN_SENDS | PIER__QUICK);
    loop->stats.handles_open--;
}

static void unlist(struct pier__handles *list, struct pier_handle *handle)
{
    struct pier_handle **link = &list->head, *before = NULL;
    while (*link != NULL && *link != handle) {
        before = *link;
        link = &(*link)->next_;
    }
    if (*link == handle) {
        *link = handle->next_;
        if (list->tail == handle) {
            list->tail = before;
        }
        handle->bits_ &= ~(uint32_t)(PIER__LISTED | PIER__STARVED);
    }
}

/* Whether the completion of an op on the handle is still to be delivered. */
static bool has_completed_op(const struct pier_loop *loop, const struct pier_handle *handle)
{
    const struct pier_op *op = loop->completed.head;
    while (op != NULL && (!pier__op_has_handle(op) || op->owner_ != handle)) {
        op = op->next_;
    }
    return op != NULL;
}

int pier_detach(struct pier_handle *handle)
{
    pier__handle_require_open(handle, "pier_detach");
    struct pier_loop *loop = handle->loop_;
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_detach",
                 "called from another thread than the loop's");
    if (handle->head_[0] != NULL || handle->head_[1] != NULL || has_completed_op(loop, handle)) {
        return pier__fail(
            PIER_EBUSY,
            "the handle has operations in flight: cancel them and wait for their completions");
    }
    if (handle->bits_ & (PIER__CLOSED_TO_USER | PIER__ENGINE_BUSY)) {
        return pier__fail(PIER_EBUSY, "the handle is closing");
    }
    if (handle->bits_ & PIER__LISTED) {
        unlist(&loop->starved, handle);
        unlist(&loop->ready, handle);
        unlist(&loop->serving, handle);
    }
    loop->engine->detach(handle);
    leave(loop, handle);
    handle->bits_ &= PIER__ADOPTED | PIER__CAUTIOUS | PIER__IS_TCP | PIER__SHARED | PIER__FAILED |
                     PIER__UNCONNECTED | PIER__READ_ONLY | PIER__WRITE_ONLY | PIER__RESTRICTED;
    handle->interest_ = handle->ready_ = 0;
    return 0;
}

int pier_attach(struct pier_handle *handle, struct pier_loop *loop)
{
    PIER_REQUIRE(handle->loop_ == NULL && handle->kind_ != PIER__KIND_NONE, "pier_attach",
                 "the handle isn't detached");
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_attach",
                 "called from another thread than the loop's");
    /* A loop on a completion backend may have opened it; receives and sends don't mind, the rest
     * would block. */
    bool may_block = handle->kind_ == PIER__KIND_LISTENER ||
                     (handle->kind_ == PIER__KIND_STREAM && (handle->bits_ & PIER__UNCONNECTED));
    if (may_block && loop->engine->nonblocking && !(handle->bits_ & PIER__ADOPTED)) {
        int error = pier__sys_set_nonblocking(handle->descriptor_);
        if (error < 0) {
            return pier__fail(error, "descriptor %ld can't be attached: %s",
                              (long)handle->descriptor_, pier_error_text(error));
        }
    }
    return join(loop, handle);
}

void pier_handle_discard(struct pier_handle *handle)
{
    PIER_REQUIRE(handle->loop_ == NULL, "pier_handle_discard",
                 "the handle isn't detached: use pier_close()");
    if (handle->kind_ != PIER__KIND_NONE) {
        pier__sys_close(handle->descriptor_);
        handle->kind_ = PIER__KIND_NONE;
    }
}

pier_descriptor pier_handle_descriptor(const struct pier_handle *handle)
{
    return handle->loop_ != NULL || handle->kind_ != PIER__KIND_NONE ? handle->descriptor_ : -1;
}

bool pier_handle_is_open(const struct pier_handle *handle)
{
    return handle->loop_ != NULL && (handle->bits_ & PIER__CLOSED_TO_USER) == 0;
}

/* ---- closing */

void pier__handle_try_close(struct pier_handle *handle)
{
    if ((handle->bits_ & PIER__CLOSING) == 0 ||
        (handle->bits_ & (PIER__LISTED | PIER__ENGINE_BUSY)) || handle->head_[0] != NULL ||
        handle->head_[1] != NULL) {
        return;
    }
    pier__handles_push(&handle->loop_->closing, handle);
}

void pier__handle_closed(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    leave(loop, handle);
    handle->kind_ = PIER__KIND_NONE;
    loop->handles_closing--;
    loop->stats.closes++;
    pier__loop_retry(loop);
    pier_handle_fn *fn = handle->closed_;
    if (fn != NULL) {
        loop->budget--;
        fn(handle);
    }
}

/* Ends all ops of a direction. Those that wait are taken off first, so that none is started when
 * the started ones finish: that is the head, and what the backend has merged with it. */
static void cancel_all(struct pier_loop *loop, struct pier_handle *handle, unsigned direction)
{
    struct pier_op *last = NULL, *waiting = handle->head_[direction];
    while (waiting != NULL && waiting->state_ == PIER__ACTIVE) {
        last = waiting;
        waiting = waiting->next_;
    }
    if (last == NULL) {
        handle->head_[direction] = NULL;
    } else {
        last->next_ = NULL;
        handle->tail_[direction] = last;
    }
    struct pier_op *started = handle->head_[direction];
    while (started != NULL) {
        struct pier_op *next = started->next_;
        pier__op_cancel(loop, started, PIER__REASON_CLOSE);
        started = next;
    }
    while (waiting != NULL) {
        struct pier_op *next = waiting->next_;
        pier__op_abandon(loop, waiting, PIER__REASON_CLOSE);
        waiting = next;
    }
}

void pier_close(struct pier_handle *handle, pier_handle_fn *fn)
{
    struct pier_loop *loop = handle->loop_;
    if (loop == NULL || (handle->bits_ & PIER__CLOSED_TO_USER)) {
        return;
    }
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_close",
                 "called from another thread than the loop's");
    handle->closed_ = fn;
    loop->handles_closing++;
    pier__handle_close_now(handle);
}

void pier__handle_close_now(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    handle->bits_ |= PIER__CLOSING;
    cancel_all(loop, handle, PIER__RECEIVING);
    cancel_all(loop, handle, PIER__SENDING);
    if (handle->bits_ & PIER__LISTED) {
        if (handle->bits_ & PIER__STARVED) {
            loop->retry_now = true; /* takes it off the list */
        }
        return; /* whoever takes it off its list closes it */
    }
    pier__handle_try_close(handle);
}

/* ---- closing gracefully */

/* What a graceful close needs until it is over. Owned by the loop; handle->extra_ isn't free for
 * it, since backends use that. */
struct graceful {
    struct pier_handle *handle;
    pier_handle_fn *closed;
    struct pier_op shut, discard, timer;
    unsigned parts;             /* ops of this struct that haven't completed */
    bool peer_ended, shut_done; /* for what has no half-close, the peer counts as having ended */
};

static void free_graceful(struct graceful *graceful, struct pier_loop *loop)
{
    if (--graceful->parts == 0) {
        pier__free(loop, graceful, sizeof(*graceful));
    }
}

/* Both directions are over, or time is: closes for real. The struct lives on until its ops have
 * completed. */
static void end_graceful(struct graceful *graceful)
{
    struct pier_handle *handle = graceful->handle;
    if (handle == NULL) {
        return;
    }
    graceful->handle = NULL;
    pier_cancel(&graceful->timer);
    pier__handle_close_now(handle);
}

static void on_graceful_shut(struct pier_op *op)
{
    struct graceful *graceful = PIER_OWNER(op, struct graceful, shut);
    struct pier_loop *loop = graceful->timer.owner_;
    graceful->shut_done = true;
    if (op->result < 0 || graceful->peer_ended) {
        end_graceful(graceful);
    }
    free_graceful(graceful, loop);
}

static void on_graceful_discard(struct pier_op *op)
{
    struct graceful *graceful = PIER_OWNER(op, struct graceful, discard);
    if (op->flags & PIER_MORE) {
        return;
    }
    struct pier_loop *loop = graceful->timer.owner_;
    graceful->peer_ended = true;
    if (graceful->shut_done || op->result < 0) {
        end_graceful(graceful);
    }
    free_graceful(graceful, loop);
}

static void on_graceful_timer(struct pier_op *op)
{
    struct graceful *graceful = PIER_OWNER(op, struct graceful, timer);
    struct pier_loop *loop = op->owner_;
    end_graceful(graceful);
    free_graceful(graceful, loop);
}

void pier_close_gracefully(struct pier_handle *handle, uint64_t timeout_ns, pier_handle_fn *fn)
{
    struct pier_loop *loop = handle->loop_;
    if (loop == NULL || (handle->bits_ & PIER__CLOSED_TO_USER)) {
        return;
    }
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_close_gracefully",
                 "called from another thread than the loop's");
    bool has_half_close = pier__handle_has_half_close(handle);
    bool polite = !(handle->bits_ & (PIER__UNCONNECTED | PIER__CONNECTING | PIER__FAILED)) &&
                  (has_half_close || handle->head_[PIER__SENDING] != NULL);
    struct graceful *graceful = polite ? pier__allocate(loop, sizeof(*graceful)) : NULL;
    if (graceful == NULL) {
        pier_close(handle, fn); /* nothing to be polite to, or no memory for it */
        return;
    }
    memset(graceful, 0, sizeof(*graceful));
    graceful->handle = handle;
    graceful->parts = has_half_close ? 3 : 2;
    graceful->peer_ended = !has_half_close;
    handle->closed_ = fn;
    loop->handles_closing++;
    handle->bits_ |= PIER__GRACEFUL;
    graceful->timer.flags = graceful->discard.flags = graceful->shut.flags = PIER_BACKGROUND;
    pier_timer(loop, &graceful->timer, timeout_ns == 0 ? GRACE_NS : timeout_ns, on_graceful_timer);
    cancel_all(loop, handle, PIER__RECEIVING);
    if (!has_half_close) {
        /* A send of nothing, behind the others, tells when they are done. */
        pier__op_submit(handle, &graceful->shut, PIER__OP_SEND, PIER__INTERNAL, on_graceful_shut,
                        "pier_close_gracefully");
        return;
    }
    pier__op_submit(handle, &graceful->discard, PIER__OP_RECEIVE_LENT,
                    PIER__MULTISHOT | PIER__INTERNAL, on_graceful_discard, "pier_close_gracefully");
    pier__op_submit(handle, &graceful->shut, PIER__OP_SHUTDOWN, PIER__INTERNAL, on_graceful_shut,
                    "pier_close_gracefully");
}
