/* op.h - the state of an op: where it is, what is attached to it, who may move it on.
 *
 *   IDLE -> QUEUED -> ACTIVE -> DONE -> IDLE     on a handle; QUEUED while others are before it
 *   IDLE -> ACTIVE -> DONE -> IDLE               ops of the loop alone
 *   IDLE -> REMOTE -> DONE -> IDLE               posts
 *
 * An op is in exactly one place: a queue or list of its handle (QUEUED, ACTIVE), its engine or the
 * timer wheel (ACTIVE without handle), the remote stack (REMOTE), or the loop's queue of completed
 * or posted ops (DONE). pier__op_move() is the only writer of the state. How an op begins and ends
 * is in end.h. */

#ifndef PIER_CORE_OP_H
#define PIER_CORE_OP_H

#include <assert.h>
#include <string.h>

#include "pier/pier.h"

#include "base/check.h"
#include "core/kind.h"

enum pier__state {
    PIER__IDLE,   /* the caller's */
    PIER__QUEUED, /* waiting in its handle's queue */
    PIER__ACTIVE, /* started */
    PIER__REMOTE, /* posted, not yet seen by the loop */
    PIER__DONE    /* outcome known, in the completed or the posted queue */
};

/* op->bits_ */
enum {
    /* Why it is to end. The first reason counts. */
    PIER__REASON_NONE = 0,
    PIER__REASON_CALLER = 1,
    PIER__REASON_TIMEOUT = 2,
    PIER__REASON_CLOSE = 3,
    PIER__REASON = 3,

    PIER__MULTISHOT = 0x0004,
    PIER__PAUSED = 0x0008,
    PIER__COUNTED_BACKGROUND = 0x0010,
    PIER__TIMED = 0x0020,        /* timer_ may be armed with the op's time limit */
    PIER__TOKEN = 0x0040,        /* token_ names a token */
    PIER__HOLDS = 0x0080,        /* a send that holds references on lent buffers */
    PIER__ADDRESS = 0x0100,      /* use_.address is a struct pier__address_block */
    PIER__CANCEL_ASKED = 0x0200, /* uring: a cancel of its request is on its way, or of a poll's
                                    request for other events than it waits for now */
    PIER__POLL_ASKED = 0x0400,   /* uring: its poll request is in the kernel */
    PIER__INTERNAL = 0x0800,     /* an op of pier's own, let in while closing gracefully */
    PIER__LONG_VECTORS = 0x1000, /* a vectored send whose progress doesn't fit into use_.sent */
    PIER__LOOKED_THROUGH =
        0x2000,              /* a vectored send: for lent memory, which needs no second look */
    PIER__PROGRESS = 0x4000, /* its time limit is one of progress: see progress.h */
    PIER__CLEAN_UP = PIER__TIMED | PIER__TOKEN | PIER__HOLDS | PIER__ADDRESS
};

static PIER__EXPRESSION bool pier__op_is_ending(const struct pier_op *op)
{
    return (op->bits_ & PIER__REASON) != PIER__REASON_NONE;
}

static PIER__EXPRESSION void pier__op_set_reason(struct pier_op *op, unsigned reason)
{
    op->bits_ = (uint16_t)(op->bits_ | reason);
}

static PIER__EXPRESSION void pier__op_clear(struct pier_op *op, unsigned bits)
{
    op->bits_ = (uint16_t)(op->bits_ & ~bits);
}

static PIER__EXPRESSION void pier__op_set(struct pier_op *op, unsigned bits)
{
    op->bits_ = (uint16_t)(op->bits_ | bits);
}

/* The result of an op that ends for its reason. */
static PIER__EXPRESSION int pier__op_reason(const struct pier_op *op)
{
    unsigned reason = op->bits_ & PIER__REASON;
    return reason == PIER__REASON_TIMEOUT ? PIER_ETIMEDOUT
           : reason == PIER__REASON_CLOSE ? PIER_ECLOSED
                                          : PIER_ECANCELED;
}

/* Moves an op from one state to the next. */
static PIER__EXPRESSION void pier__op_move(struct pier_op *op, enum pier__state to)
{
    PIER_ASSERT(to <= PIER__DONE);
    /* Row: from; bit: to. */
    PIER_ASSERT(
        ((const uint8_t[]){/* IDLE */ 1 << PIER__QUEUED | 1 << PIER__ACTIVE | 1 << PIER__REMOTE |
                               1 << PIER__DONE,
                           /* QUEUED */ 1 << PIER__ACTIVE | 1 << PIER__DONE,
                           /* ACTIVE */ 1 << PIER__DONE | 1 << PIER__IDLE | 1 << PIER__QUEUED,
                           /* REMOTE */ 1 << PIER__IDLE | 1 << PIER__DONE,
                           /* DONE */ 1 << PIER__IDLE}[op->state_] >>
         to) &
        1);
    op->state_ = (uint8_t)to;
}

/* kind_, state_ and bits_ of an op as one number, to be compared at once: an op that equals such a
 * number has no reason to end, no time limit, nothing held, and isn't paused. */
static PIER__EXPRESSION uint32_t pier__op_word(const struct pier_op *op)
{
    uint32_t word;
    memcpy(&word, &op->kind_, sizeof(word));
    return word;
}

static_assert(offsetof(struct pier_op, bits_) == offsetof(struct pier_op, kind_) + 2 &&
                  offsetof(struct pier_op, state_) == offsetof(struct pier_op, kind_) + 1,
              "kind, state and bits are one word");

static PIER__EXPRESSION uint32_t pier__word_of(unsigned kind, unsigned state, unsigned bits)
{
    const struct {
        uint8_t kind, state;
        uint16_t bits;
    } parts = {(uint8_t)kind, (uint8_t)state, (uint16_t)bits};
    uint32_t word;
    memcpy(&word, &parts, sizeof(word));
    return word;
}

/* pier__op_move() with what else is in the word. */
static PIER__EXPRESSION void pier__op_set_word(struct pier_op *op, enum pier__state to,
                                               uint32_t word)
{
    pier__op_move(op, to);
    memcpy(&op->kind_, &word, sizeof(word));
}

static_assert(offsetof(struct pier_op, os_error) == offsetof(struct pier_op, flags) + 4,
              "flags and os_error are cleared at once");

/* What begins has no flags but PIER_BACKGROUND, and no error. True when it has that one. */
static PIER__EXPRESSION bool pier__op_clear_flags(struct pier_op *op)
{
    const struct {
        uint32_t flags;
        int32_t os_error;
    } kept = {PIER_BACKGROUND, 0};
    uint64_t both, mask;
    memcpy(&both, &op->flags, sizeof(both));
    memcpy(&mask, &kept, sizeof(mask));
    both &= mask;
    memcpy(&op->flags, &both, sizeof(both));
    return both != 0;
}

/* Whether the op stands in the wheel by its own deadline, not by a time limit. */
static PIER__EXPRESSION bool pier__op_is_timer(const struct pier_op *op)
{
    return op->kind_ == PIER__OP_TIMER || op->kind_ == PIER__OP_TIMER_ON;
}

static PIER__EXPRESSION bool pier__op_is_send(const struct pier_op *op)
{
    return op->kind_ == PIER__OP_SEND || op->kind_ == PIER__OP_SEND_VECTORED;
}

static PIER__EXPRESSION unsigned pier__op_direction(const struct pier_op *op)
{
    return pier__kind_of(op)->direction;
}

static PIER__EXPRESSION bool pier__op_has_handle(const struct pier_op *op)
{
    return pier__kind_of(op)->has_handle;
}

static PIER__EXPRESSION struct pier_loop *pier__op_loop(const struct pier_op *op)
{
    return pier__op_has_handle(op) ? ((struct pier_handle *)op->owner_)->loop_ : op->owner_;
}

/* Whether a started multishot op takes more events now. */
static PIER__EXPRESSION bool pier__op_goes_on(const struct pier_op *op)
{
    return op->state_ == PIER__ACTIVE && (op->bits_ & (PIER__REASON | PIER__PAUSED)) == 0;
}

#endif
