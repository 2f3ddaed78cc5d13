/*
 * Posts by hand: each side has an io_uring of its own and posts with IORING_OP_MSG_RING, which goes
 * to the kernel in the same call that waits for the next completion.
 */
#include "post.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <liburing.h>

const char post_name[] = "io_uring msg_ring";

enum { ENTRIES = 8, POSTED = 1 };

static struct side {
    struct io_uring ring;
    bool left;
} sides[2];

int post_open(int side)
{
    struct io_uring_params parameters = {.flags = IORING_SETUP_SINGLE_ISSUER |
                                                  IORING_SETUP_DEFER_TASKRUN};
    int error = io_uring_queue_init_params(ENTRIES, &sides[side].ring, &parameters);
    if (error < 0) {
        fprintf(stderr, "io_uring: %s: needs Linux 6.1 or later, and io_uring allowed\n",
                strerror(-error));
        return -1;
    }
    io_uring_register_ring_fd(&sides[side].ring);
    return 0;
}

void post_send(int side)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&sides[1 - side].ring);
    io_uring_prep_msg_ring(entry, sides[side].ring.ring_fd, 0, POSTED, 0);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    entry->user_data = 0;
}

void post_run(int side)
{
    struct io_uring *ring = &sides[side].ring;
    while (!sides[side].left) {
        struct io_uring_cqe *completion;
        io_uring_submit_and_wait(ring, 1);
        while (!sides[side].left && io_uring_peek_cqe(ring, &completion) == 0) {
            bool posted = completion->user_data == POSTED;
            int result = completion->res;
            io_uring_cqe_seen(ring, completion);
            if (posted)
                post_arrived(side);
            else
                fprintf(stderr, "msg_ring: %s\n", strerror(-result));
        }
    }
    io_uring_submit(ring); /* the last post to the other side */
}

void post_leave(int side)
{
    sides[side].left = true;
}
