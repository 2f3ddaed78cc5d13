/* ops.h - what the rows of src/kinds.c name of the files in this folder. */

#ifndef PIER_OPS_OPS_H
#define PIER_OPS_OPS_H

#include "core/op.h"

/* ---- poll.c */
void pier__poll_start(struct pier_loop *loop, struct pier_op *op);
void pier__poll_cancel(struct pier_loop *loop, struct pier_op *op);
void pier__poll_pause(struct pier_loop *loop, struct pier_op *op);
void pier__poll_resume(struct pier_loop *loop, struct pier_op *op);

/* ---- timer.c */
void pier__timer_cancel(struct pier_loop *loop, struct pier_op *op);
void pier__timer_resume(struct pier_loop *loop, struct pier_op *op);
/* Takes a timer out of flight, also one whose completion is still to come: its function isn't
 * called any more. */
void pier__timer_withdraw(struct pier_op *op);

/* ---- post.c */
void pier__notify_cancel(struct pier_loop *loop, struct pier_op *op);
void pier__notify_resume(struct pier_loop *loop, struct pier_op *op);

/* ---- hook.c */
void pier__hook_cancel(struct pier_loop *loop, struct pier_op *op);

#endif
