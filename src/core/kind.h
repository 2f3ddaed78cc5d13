/* kind.h - kinds of op, and the row that says what is special about each.
 *
 * The rows stand in src/kinds.c, on top of everything, since they name functions of src/ops: core
 * knows only their type and that there is a table. A new kind of op is a row there and a file in
 * src/ops. Nothing may be concluded from the order of the kinds. */

#ifndef PIER_CORE_KIND_H
#define PIER_CORE_KIND_H

#include "pier/pier.h"

#include "base/check.h"

enum pier__op_kind {
    PIER__OP_NONE,
    PIER__OP_ACCEPT,
    PIER__OP_CONNECT,
    PIER__OP_RECEIVE,
    PIER__OP_RECEIVE_LENT,
    PIER__OP_SEND,
    PIER__OP_SEND_VECTORED,
    PIER__OP_SHUTDOWN,
    PIER__OP_POLL,
    PIER__OP_TIMER,
    PIER__OP_TIMER_ON, /* tied to a handle */
    PIER__OP_POST,
    PIER__OP_NOTIFY,
    PIER__OP_PREPARE,
    PIER__OP_CHECK,
    PIER__OP_KINDS /* how many */
};

/* An op with a direction waits in that queue of its handle, and its kind is ordered: at most one
 * request for each handle and direction is in the kernel. One of a handle without a direction is in
 * the handle's list of those, any number of them started. One without a handle belongs to the loop
 * alone. */
enum pier__direction { PIER__RECEIVING, PIER__SENDING, PIER__NO_DIRECTION };

struct pier__kind {
    const char *name; /* in the dump */
    bool has_handle;
    uint8_t direction; /* enum pier__direction */
    /* Of an op whose submit reads no clock, the dump can't say the age. */
    bool has_age;
    /* Runs an op of a handle that has just become PIER__ACTIVE. NULL: the submitting function does
     * what is to be done. */
    void (*start)(struct pier_loop *loop, struct pier_op *op);
    /* Has an active op end soon; its reason is noted already. */
    void (*cancel)(struct pier_loop *loop, struct pier_op *op);
    /* What pausing and resuming a multishot op takes besides the bit. NULL: nothing. */
    void (*pause)(struct pier_loop *loop, struct pier_op *op);
    void (*resume)(struct pier_loop *loop, struct pier_op *op);
    /* Why a handle of this sort can't run the op: a negative PIER_E*, or 0. Asked where the handle
     * is restricted; NULL for an op without a handle. */
    int (*refusal)(const struct pier_handle *handle, const struct pier_op *op);
};

/* By enum pier__op_kind. */
extern const struct pier__kind pier__kinds[PIER__OP_KINDS];

static PIER__EXPRESSION const struct pier__kind *pier__kind_of(const struct pier_op *op)
{
    return &pier__kinds[op->kind_];
}

#endif
