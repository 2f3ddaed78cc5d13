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

#include "core/engine.h"

#define SLOTS_MIN 64
#define KEY_GENERATION (UINT64_MAX << 32)

/* ---- slots */

static int grow_slots(struct pier_loop *loop)
{
    uint32_t old_size = loop->core.slots_size;
    uint32_t size = old_size == 0 ? SLOTS_MIN : old_size + old_size / 2;
    struct pier__slot *slots = pier__reallocate(loop, loop->slots, old_size * sizeof(*slots),
                                                size * sizeof(*slots));
    if (slots == NULL) {
        return PIER_ENOMEM;
    }
    loop->slots = slots;
    loop->core.slots_size = size;
    return 0;
}

int pier__slot_take(struct pier_loop *loop, struct pier_handle *handle)
{
    uint32_t index = loop->core.slots_free;
    if (index != UINT32_MAX) {
        loop->core.slots_free = (uint32_t)loop->slots[index].key;
    } else {
        if (loop->slots_used == loop->core.slots_size) {
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
    slot->key = ((slot->key & KEY_GENERATION) + (UINT64_C(1) << 32)) | loop->core.slots_free;
    loop->core.slots_free = handle->slot_;
}

int pier__descriptor_note(struct pier_loop *loop, pier_descriptor descriptor, uint32_t slot)
{
    size_t index = (size_t)descriptor;
#ifdef PIER__SPARSE_DESCRIPTORS
    index /= 4; /* see sys.h */
#endif
    if (index >= loop->core.by_descriptor_size) {
        size_t old_size = loop->core.by_descriptor_size;
        size_t size = old_size == 0 ? SLOTS_MIN : old_size;
        while (size <= index) {
            size += size / 2;
        }
        uint32_t *table = pier__reallocate(loop, loop->core.by_descriptor,
                                           old_size * sizeof(*table), size * sizeof(*table));
        if (table == NULL) {
            return PIER_ENOMEM;
        }
        memset(table + old_size, 0, (size - old_size) * sizeof(*table));
        loop->core.by_descriptor = table;
        loop->core.by_descriptor_size = size;
    }
    loop->core.by_descriptor[index] = slot;
    return 0;
}

struct pier_handle *pier__descriptor_handle(const struct pier_loop *loop,
                                            pier_descriptor descriptor)
{
    size_t index = (size_t)descriptor;
#ifdef PIER__SPARSE_DESCRIPTORS
    index /= 4;
#endif
    if (descriptor < 0 || index >= loop->core.by_descriptor_size ||
        loop->core.by_descriptor[index] == 0) {
        return NULL;
    }
    struct pier_handle *handle = loop->slots[loop->core.by_descriptor[index] - 1].handle;
    return handle != NULL && handle->descriptor_ == descriptor ? handle : NULL;
}

/* ---- opening */

void pier__handle_require_open(const struct pier_handle *handle, const char *function)
{
    PIER_REQUIRE(handle->loop_ != NULL, function,
                 "the handle is not open (never opened, closed, or detached)");
}

void pier__handle_require_kept(const struct pier_loop *loop, const struct pier_handle *handle)
{
    PIER_REQUIRE(handle->loop_ == loop && handle->slot_ < loop->slots_used &&
                     loop->slots[handle->slot_].handle == handle,
                 "pier_close",
                 "the memory of the handle was used for something else before its close was over, "
                 "which takes turns of the loop");
}

static int join(struct pier_loop *loop, struct pier_handle *handle)
{
    int error = pier__slot_take(loop, handle);
    if (error < 0) {
        return pier__fail(error, "no memory for one more handle");
    }
    handle->loop_ = loop;
    handle->calls_ = &loop->engine->calls;
    error = handle->calls_->attach(handle);
    if (error == 0) {
        error = pier__descriptor_note(loop, handle->descriptor_, handle->slot_ + 1);
        if (error < 0) {
            handle->calls_->detach(handle);
        }
    }
    if (error < 0) {
        pier__slot_release(loop, handle);
        handle->loop_ = NULL;
        return pier__fail(error, "the %s backend can't take descriptor %ld: %s", loop->engine->name,
                          (long)handle->descriptor_, pier_error_text(error));
    }
    handle->bits_ |= PIER__OPEN;
    pier__handle_note_fast_sends(handle);
    loop->counters.handles_open++;
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
    int error = join(loop, handle);
    if (error < 0) {
        memset(handle, 0, sizeof(*handle)); /* the descriptor is the caller's still */
    }
    return error;
}

void pier__descriptor_forget(struct pier_loop *loop, const struct pier_handle *handle)
{
    if (pier__descriptor_handle(loop, handle->descriptor_) == handle) {
        pier__descriptor_note(loop, handle->descriptor_, 0);
    }
}

void pier__handle_leave(struct pier_loop *loop, struct pier_handle *handle)
{
    pier__descriptor_forget(loop, handle);
    pier__slot_release(loop, handle);
    pier__pool_disown(loop, handle);
    handle->loop_ = NULL;
    pier__handle_clear(handle, PIER__OPEN | PIER__FAST_SENDS | PIER__FAST_RECEIVES | PIER__WATCHED);
    loop->counters.handles_open--;
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
        pier__handle_clear(handle, PIER__LISTED | PIER__STARVED);
    }
}

void pier__handle_unlist(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->bits_ & PIER__LISTED) {
        unlist(&loop->core.starved, handle);
        unlist(&loop->ready, handle);
        unlist(&loop->serving, handle);
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
    PIER__REQUIRE_THREAD(loop, "pier_detach");
    if (!pier__handle_is_idle(handle) || has_completed_op(loop, handle)) {
        return pier__fail(
            PIER_EBUSY,
            "the handle has operations in flight: cancel them and wait for their completions");
    }
    if (handle->bits_ & (PIER__CLOSED_TO_USER | PIER__ENGINE_BUSY)) {
        return pier__fail(PIER_EBUSY, "the handle is closing");
    }
    pier__handle_unlist(loop, handle);
    handle->calls_->detach(handle);
    pier__handle_leave(loop, handle);
    handle->bits_ &= PIER__KIND_OF_HANDLE;
    return 0;
}

int pier_attach(struct pier_handle *handle, struct pier_loop *loop)
{
    PIER_REQUIRE(handle->loop_ == NULL && handle->kind_ != PIER__KIND_NONE, "pier_attach",
                 "the handle isn't detached");
    PIER__REQUIRE_THREAD(loop, "pier_attach");
    /* A loop on a completion engine may have opened it; receives and sends don't mind, the rest
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
    PIER_REQUIRE(handle->loop_ == NULL || pier__loop_on_thread(handle->loop_),
                 "pier_handle_is_open", "called from another thread than the loop's");
    return handle->loop_ != NULL && (handle->bits_ & PIER__CLOSED_TO_USER) == 0;
}
