/* A million timers on libev: ev_timer, in its four-ary heap. */
#include "timers.h"

#include <stdio.h>
#include <stdlib.h>

#define EV_COMPAT3 0
#include <ev.h>

const char timers_name[] = "libev";

static struct ev_loop *loop;
static ev_timer *timers;

static void on_timer(struct ev_loop *of, ev_timer *timer, int events)
{
    (void)of;
    (void)events;
    timers_fired((size_t)(timer - timers));
}

void timers_open(size_t count)
{
    loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    timers = calloc(count, sizeof *timers);
    if (loop == NULL || timers == NULL) {
        fprintf(stderr, "libev: cannot make the loop and its timers\n");
        exit(1);
    }
    for (size_t i = 0; i < count; i++)
        ev_timer_init(&timers[i], on_timer, 0, 0);
}

static void on_inside(int events, void *work)
{
    (void)events;
    (*(void (**)(void))work)();
    ev_break(loop, EVBREAK_ONE);
}

void timers_inside(void (*work)(void))
{
    ev_once(loop, -1, 0, 0., on_inside, &work);
    ev_run(loop, 0);
}

void timers_insert(size_t index, uint64_t delay_ns)
{
    ev_timer_set(&timers[index], (double)delay_ns / 1e9, 0);
    ev_timer_start(loop, &timers[index]);
}

void timers_cancel(size_t index)
{
    ev_timer_stop(loop, &timers[index]);
}

void timers_run(void)
{
    ev_run(loop, 0);
}
