/* Posts on libevent: event_active() from the other thread, with the library's locks switched on. */
#include "post.h"

#include <pthread.h>
#include <stdio.h>

#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/thread.h>

const char post_name[] = "libevent";

static struct side {
    struct event_base *base;
    struct event event;
} sides[2];

static void use_threads(void)
{
    evthread_use_pthreads();
}

static void on_event(evutil_socket_t fd, short events, void *argument)
{
    (void)fd;
    (void)events;
    post_arrived(argument == &sides[1]);
}

int post_open(int side)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, use_threads);
    sides[side].base = event_base_new();
    if (sides[side].base == NULL) {
        fprintf(stderr, "libevent: cannot make a loop\n");
        return -1;
    }
    event_assign(&sides[side].event, sides[side].base, -1, EV_PERSIST, on_event, &sides[side]);
    event_add(&sides[side].event, NULL);
    return 0;
}

void post_send(int side)
{
    event_active(&sides[side].event, EV_WRITE, 0);
}

void post_run(int side)
{
    event_base_loop(sides[side].base, EVLOOP_NO_EXIT_ON_EMPTY);
}

void post_leave(int side)
{
    event_base_loopbreak(sides[side].base);
}
