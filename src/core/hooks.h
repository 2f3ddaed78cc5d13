/* hooks.h - ops that are called around each wait of the loop. How is told in hooks.c. */

#ifndef PIER_CORE_HOOKS_H
#define PIER_CORE_HOOKS_H

#include "core/loop.h"

/* Puts an op that has begun at the end of those of its sort. */
void pier__hook_list(struct pier_loop *loop, struct pier_op *op, enum pier__hook which);
/* Takes it out, also in the middle of a pass. */
void pier__hook_unlist(struct pier_loop *loop, struct pier_op *op, enum pier__hook which);
/* Calls all of one sort once, in the order in which they were submitted. */
void pier__hooks_call(struct pier_loop *loop, enum pier__hook which);

#endif
