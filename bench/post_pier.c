/*
 * Posts on pier: an op armed with pier_notify_each() in each loop, fired by pier_notify(). The
 * backend is the one that PIER_BACKEND names, or the best one.
 *
 * The loops stay as they are until the program ends: the side that fired the last notification may
 * still be inside pier_notify() when the other has had it.
 */
#include "post.h"

#include <stdio.h>
#include <stdlib.h>

#include <pier/pier.h>

const char post_name[] = "pier";

static struct side {
    struct pier_loop *loop;
    struct pier_op notification;
} sides[2];

static void on_notification(struct pier_op *op)
{
    if (op->flags & PIER_MORE)
        post_arrived(op == &sides[1].notification);
}

int post_open(int side)
{
    struct side *self = &sides[side];
    if (pier_loop_new(&self->loop, NULL) < 0) {
        fprintf(stderr, "pier: %s\n", pier_error_detail());
        return -1;
    }
    pier_notify_each(self->loop, &self->notification, on_notification);
    return 0;
}

void post_send(int side)
{
    pier_notify(&sides[side].notification);
}

void post_run(int side)
{
    int error = pier_loop_run(sides[side].loop, PIER_RUN_UNTIL_IDLE);
    if (error < 0) {
        fprintf(stderr, "pier: the loop has failed: %s\n", pier_error_text(error));
        exit(1);
    }
}

void post_leave(int side)
{
    pier_loop_stop(sides[side].loop);
}
