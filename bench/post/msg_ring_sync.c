/*
 * Posts by hand: io_uring again, but the sender needs no ring. It posts with the register call
 * IORING_REGISTER_SEND_MSG_RING (Linux 6.13), at the price of a system call of its own.
 *
 * liburing 2.3 has no name for it, hence the number.
 */
#include "post.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <liburing.h>

const char post_name[] = "io_uring register msg_ring";

enum { ENTRIES = 8, POSTED = 1, REGISTER_SEND_MSG_RING = 31 };

static struct side {
    struct io_uring ring;
    bool left;
} sides[2];

static int send_message(int ring_fd, unsigned long long data)
{
    struct io_uring_sqe entry;
    memset(&entry, 0, sizeof entry);
    io_uring_prep_msg_ring(&entry, ring_fd, 0, data, 0);
    return (int)syscall(__NR_io_uring_register, -1, REGISTER_SEND_MSG_RING, &entry, 1);
}

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
    /* An unknown register call answers EINVAL; this harmless post is dropped in post_run(). */
    if (send_message(sides[side].ring.ring_fd, 0) < 0) {
        fprintf(stderr, "IORING_REGISTER_SEND_MSG_RING: %s: needs Linux 6.13 or later\n",
                strerror(errno));
        return -1;
    }
    io_uring_register_ring_fd(&sides[side].ring);
    return 0;
}

void post_send(int side)
{
    if (send_message(sides[side].ring.ring_fd, POSTED) < 0)
        abort();
}

void post_run(int side)
{
    struct io_uring *ring = &sides[side].ring;
    while (!sides[side].left) {
        struct io_uring_cqe *completion;
        io_uring_submit_and_wait(ring, 1);
        while (!sides[side].left && io_uring_peek_cqe(ring, &completion) == 0) {
            bool posted = completion->user_data == POSTED;
            io_uring_cqe_seen(ring, completion);
            if (posted)
                post_arrived(side);
        }
    }
}

void post_leave(int side)
{
    sides[side].left = true;
}
