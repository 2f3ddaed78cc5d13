/* A million timers on libevent: events without a descriptor, in its binary heap. */
#include "timers.h"

#include <stdio.h>
#include <stdlib.h>

#include <event2/event.h>
#include <event2/event_struct.h>

const char timers_name[] = "libevent";

static struct event_base *base;
static struct event *timers;

static void on_timer(evutil_socket_t fd, short events, void *argument)
{
    (void)fd;
    (void)events;
    timers_fired((size_t)((struct event *)argument - timers));
}

void timers_open(size_t count)
{
    struct event_config *config = event_config_new();
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV);
    base = event_base_new_with_config(config);
    event_config_free(config);
    timers = calloc(count, sizeof *timers);
    if (base == NULL || timers == NULL) {
        fprintf(stderr, "libevent: cannot make the loop and its timers\n");
        exit(1);
    }
    for (size_t i = 0; i < count; i++)
        evtimer_assign(&timers[i], base, on_timer, &timers[i]);
}

static void on_inside(evutil_socket_t fd, short events, void *work)
{
    (void)fd;
    (void)events;
    (*(void (**)(void))work)();
    event_base_loopbreak(base);
}

void timers_inside(void (*work)(void))
{
    event_base_once(base, -1, EV_TIMEOUT, on_inside, &work, &(struct timeval){0});
    event_base_dispatch(base);
}

void timers_insert(size_t index, uint64_t delay_ns)
{
    struct timeval delay = {.tv_sec = (time_t)(delay_ns / 1000000000u),
                            .tv_usec = (suseconds_t)(delay_ns % 1000000000u / 1000u)};
    evtimer_add(&timers[index], &delay);
}

void timers_cancel(size_t index)
{
    evtimer_del(&timers[index]);
}

void timers_run(void)
{
    event_base_dispatch(base);
}
