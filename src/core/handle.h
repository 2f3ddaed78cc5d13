/* handle.h - the state of a handle: what is known of it, its slot, the lists it may be in.
 *
 * handle->next_ is used by one list at a time; PIER__LISTED says that some list has it. Slots give
 * readiness kernels a key, (generation, slot), by which an event for a closed handle is told from
 * one for the handle that took its place. */

#ifndef PIER_CORE_HANDLE_H
#define PIER_CORE_HANDLE_H

#include "core/loop.h"
#include "core/op.h"

/* handle->bits_. The low ones make a submit take the slow road. */
enum {
    PIER__CLOSING = 0x0001,  /* pier_close() was called */
    PIER__GRACEFUL = 0x0002, /* pier_close_gracefully() was called: only its own ops are let in */
    PIER__CLOSED_TO_USER = PIER__CLOSING | PIER__GRACEFUL,
    PIER__LISTED = 0x0004, /* in the ready, serving, starved or closing list */
    PIER__CONNECTING =
        0x0008,            /* receiving ops wait for the connect at the head of the sending queue */
    PIER__FAILED = 0x0010, /* its connect failed: only close helps */
    PIER__ADOPTED = 0x0020,  /* the descriptor may be shared with others */
    PIER__CAUTIOUS = 0x0040, /* without O_NONBLOCK: nothing may be called that could block */
    PIER__BLOCKED = 0x0080,  /* readiness: a send would block */
    PIER__HAS_DATA = 0x0100, /* readiness: there may be something to read or accept */
    PIER__ALWAYS = 0x0200,   /* readiness: the poller can't watch it, it's always ready */
    PIER__HUNG_UP = 0x0400, /* readiness: an event said hang-up or end: short reads prove nothing */
    PIER__IS_TCP = 0x0800,
    PIER__SHARED = 0x1000,      /* exclusive wake-up wanted */
    PIER__STARVED = 0x2000,     /* in the starved list */
    PIER__ENGINE_BUSY = 0x4000, /* the engine has something of its own in flight on it */
    PIER__UNCONNECTED = 0x8000, /* opened by pier_open_socket() and not yet connected */
    PIER__STARTING = 0x10000,   /* and twice that: start_direction() is at work on the direction */
    PIER__FAST_SENDS = 0x40000, /* calls_->send() may be used */
    PIER__FAST_RECEIVES = 0x80000, /* readiness: plain receives may take the fast road */
    PIER__READ_ONLY = 0x100000,    /* opened without the right to write, or to read */
    PIER__WRITE_ONLY = 0x200000,
    PIER__RESTRICTED = 0x400000,   /* one of these, or a listener: not every op is for it */
    PIER__LEVELED = 0x800000,      /* readiness: what is left unread is told of again */
    PIER__WATCHED = 0x1000000,     /* readiness: the poller tells of something to read */
    PIER__AFTER_SENDS = 0x2000000, /* closes once its sends are done: no memory for more */
    PIER__OPEN = 0x4000000,        /* belongs to a loop */
    PIER__STREAMING = 0x8000000,   /* its last receive filled its buffer, and more is wanted: it may
                                      have a large one */
    PIER__PACED = 0x10000000,      /* requests tell soon how far they are: see progress.h */
    PIER__BROKEN = 0x20000000,     /* a silent send ended without all its bytes: none follows it */
    PIER__NOISY = 0x40000000,      /* readiness: an event tells of its error queue for ever */
    PIER__KIND_OF_HANDLE = PIER__ADOPTED | PIER__CAUTIOUS | PIER__IS_TCP | PIER__SHARED |
                           PIER__FAILED | PIER__UNCONNECTED | PIER__READ_ONLY | PIER__WRITE_ONLY |
                           PIER__RESTRICTED |
                           PIER__BROKEN /* what stays true of it from one loop to the next */
};

/* handle->listener_, of listeners. */
enum {
    PIER__DELAYS = 1,     /* what is taken from it is to get TCP_NODELAY */
    PIER__WANTS_PEER = 2, /* the addresses of its connections are asked */
};

/* handle->kind_ has the enum pier__sys_kind values, and one more: */
enum { PIER__KIND_FOREIGN = 100 /* readiness: what stands for a descriptor of pier_poll() */ };

static PIER__EXPRESSION void pier__handle_clear(struct pier_handle *handle, uint32_t bits)
{
    handle->bits_ &= ~bits;
}

static PIER__EXPRESSION bool pier__handle_listens(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_LISTENER || handle->kind_ == PIER__KIND_PIPE_LISTENER;
}

/* Whether a stream's two directions end one at a time. */
static PIER__EXPRESSION bool pier__handle_has_half_close(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_STREAM || handle->kind_ == PIER__KIND_PIPE_STREAM;
}

/* Whether no op of it is in flight. */
static PIER__EXPRESSION bool pier__handle_is_idle(const struct pier_handle *handle)
{
    return handle->head_[0] == NULL && handle->head_[1] == NULL && handle->unordered_ == NULL;
}

/* ---- life, in handle.c and close.c */

int pier__handle_open(struct pier_loop *loop, struct pier_handle *handle,
                      pier_descriptor descriptor, unsigned kind, uint8_t family, uint32_t bits);
/* The engine has closed the descriptor: frees the slot and calls back. */
void pier__handle_closed(struct pier_handle *handle);
/* Takes a handle off its loop's tables. */
void pier__handle_leave(struct pier_loop *loop, struct pier_handle *handle);
/* Misuse where the memory of a handle that is closing isn't that handle any more, as far as can be
 * seen. */
void pier__handle_require_kept(const struct pier_loop *loop, const struct pier_handle *handle);
/* If the handle is closing and nothing is in flight, has it closed. */
void pier__handle_try_close(struct pier_handle *handle);
/* Cancels everything and closes; handles_closing is counted already. */
void pier__handle_close_now(struct pier_handle *handle);
/* What every way of closing begins with: checks, and notes the function. False when nothing is left
 * to do. */
bool pier__handle_begin_close(struct pier_handle *handle, pier_handle_fn *fn, const char *function);
/* Cancels every op without a direction, without closing. */
void pier__handle_cancel_unordered(struct pier_handle *handle, unsigned reason);
/* Cancels every op of a direction, without closing. */
void pier__handle_cancel_direction(struct pier_handle *handle, unsigned direction, unsigned reason);
/* Cancels every op, without closing. */
void pier__handle_cancel_all(struct pier_handle *handle, unsigned reason);
/* Misuse unless it is open. */
void pier__handle_require_open(const struct pier_handle *handle, const char *function);

/* ---- slots */

/* Takes a slot, and so a key. 0 or PIER_ENOMEM. */
int pier__slot_take(struct pier_loop *loop, struct pier_handle *handle);
void pier__slot_release(struct pier_loop *loop, struct pier_handle *handle);

static PIER__EXPRESSION uint64_t pier__slot_key(const struct pier_loop *loop, uint32_t slot)
{
    return loop->slots[slot].key;
}

/* The handle of a key, NULL when it's gone. */
static PIER__EXPRESSION struct pier_handle *pier__slot_handle(const struct pier_loop *loop,
                                                              uint64_t key)
{
    const struct pier__slot *slot = &loop->slots[(uint32_t)key];
    return PIER__LIKELY(slot->key == key) ? slot->handle : NULL;
}

/* The handle of slot `index`, NULL for one that is free; there are loop->slots_used. */
static PIER__EXPRESSION struct pier_handle *pier__slot_at(const struct pier_loop *loop,
                                                          uint32_t index)
{
    return loop->slots[index].handle;
}

/* Notes which slot + 1 has a descriptor, 0 for none. 0 or PIER_ENOMEM. */
int pier__descriptor_note(struct pier_loop *loop, pier_descriptor descriptor, uint32_t slot);
/* The handle's descriptor is about to be closed, or is another's. */
void pier__descriptor_forget(struct pier_loop *loop, const struct pier_handle *handle);
/* The handle of a descriptor, NULL when there is none. */
struct pier_handle *pier__descriptor_handle(const struct pier_loop *loop,
                                            pier_descriptor descriptor);

/* Which slot + 1 was noted last for a descriptor that once had one. Not on Windows. */
static PIER__EXPRESSION uint32_t pier__descriptor_slot(const struct pier_loop *loop,
                                                       pier_descriptor descriptor)
{
    return loop->core.by_descriptor[descriptor];
}

/* ---- lists */

static inline void pier__handles_push(struct pier__handles *list, struct pier_handle *handle)
{
    PIER_ASSERT((handle->bits_ & PIER__LISTED) == 0);
    handle->bits_ |= PIER__LISTED;
    handle->next_ = NULL;
    if (list->head == NULL) {
        list->head = handle;
    } else {
        list->tail->next_ = handle;
    }
    list->tail = handle;
}

static inline struct pier_handle *pier__handles_pop(struct pier__handles *list)
{
    struct pier_handle *handle = list->head;
    if (handle != NULL) {
        list->head = handle->next_;
        pier__handle_clear(handle, PIER__LISTED | PIER__STARVED);
    }
    return handle;
}

/* Puts all of `front` before what is in `list`, and leaves it empty. */
static inline void pier__handles_prepend(struct pier__handles *list, struct pier__handles *front)
{
    if (front->head != NULL) {
        front->tail->next_ = list->head;
        list->tail = list->head != NULL ? list->tail : front->tail;
        list->head = front->head;
        front->head = NULL;
    }
}

/* Takes a handle off whichever list has it. */
void pier__handle_unlist(struct pier_loop *loop, struct pier_handle *handle);

/* Hands a handle to the next turn, for the engine's serve(). */
static inline void pier__handle_serve_later(struct pier_loop *loop, struct pier_handle *handle)
{
    if (!(handle->bits_ & PIER__LISTED)) {
        pier__handles_push(&loop->ready, handle);
    }
}

/* Takes what pier__handle_serve_later() has listed, to be served in this turn. */
static inline void pier__loop_take_ready(struct pier_loop *loop)
{
    if (loop->ready.head != NULL) {
        loop->serving = loop->ready;
        loop->ready.head = NULL;
    }
}

/* Has the engine serve what is in loop->serving. False when the budget left some of it nothing:
 * that comes first in the next turn. */
bool pier__loop_serve(struct pier_loop *loop);

#endif
