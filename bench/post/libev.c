/* Posts on libev: one ev_async in each loop. */
#include "post.h"

#include <stdio.h>

#define EV_COMPAT3 0
#include <ev.h>

const char post_name[] = "libev";

static struct side {
    struct ev_loop *loop;
    ev_async async;
} sides[2];

static void on_async(struct ev_loop *loop, ev_async *async, int events)
{
    (void)loop;
    (void)events;
    post_arrived(async == &sides[1].async);
}

int post_open(int side)
{
    sides[side].loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (sides[side].loop == NULL) {
        fprintf(stderr, "libev: cannot make a loop on epoll\n");
        return -1;
    }
    ev_async_init(&sides[side].async, on_async);
    ev_async_start(sides[side].loop, &sides[side].async);
    return 0;
}

void post_send(int side)
{
    ev_async_send(sides[side].loop, &sides[side].async);
}

void post_run(int side)
{
    ev_run(sides[side].loop, 0);
}

void post_leave(int side)
{
    ev_break(sides[side].loop, EVBREAK_ALL);
}
