/*
 * Posts by hand: an eventfd that epoll watches, edge-triggered, so that each write wakes the loop
 * and nobody has to read.
 */
#include "post.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

const char post_name[] = "eventfd";

static struct side {
    int epoll, event;
    bool left;
} sides[2];

int post_open(int side)
{
    struct side *self = &sides[side];
    struct epoll_event interest = {.events = EPOLLIN | EPOLLET};
    self->epoll = epoll_create1(0);
    self->event = eventfd(0, EFD_NONBLOCK);
    if (self->epoll < 0 || self->event < 0 ||
        epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->event, &interest) < 0) {
        fprintf(stderr, "eventfd: %s\n", strerror(errno));
        return -1;
    }
    return 0;
}

void post_send(int side)
{
    uint64_t one = 1;
    if (write(sides[side].event, &one, sizeof one) != sizeof one)
        abort();
}

void post_run(int side)
{
    struct epoll_event event;
    while (!sides[side].left) {
        if (epoll_wait(sides[side].epoll, &event, 1, -1) > 0)
            post_arrived(side);
    }
}

void post_leave(int side)
{
    sides[side].left = true;
}
