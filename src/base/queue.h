/* queue.h - first-in first-out queues of ops, linked through op->next_.
 *
 * An op is in at most one queue at a time: its handle's queue of one direction, or one of the
 * loop's queues of completed and of posted ops. */

#ifndef PIER_BASE_QUEUE_H
#define PIER_BASE_QUEUE_H

#include "pier/pier.h"

#include "base/check.h"

struct pier__queue {
    struct pier_op *head, *tail;
};

static PIER__EXPRESSION void pier__queue_push(struct pier__queue *queue, struct pier_op *op)
{
    op->next_ = NULL;
    if (queue->head == NULL) {
        queue->head = op;
    } else {
        queue->tail->next_ = op;
    }
    queue->tail = op;
}

static PIER__EXPRESSION struct pier_op *pier__queue_pop(struct pier__queue *queue)
{
    struct pier_op *op = queue->head;
    if (op != NULL) {
        queue->head = op->next_;
    }
    return op;
}

#endif
