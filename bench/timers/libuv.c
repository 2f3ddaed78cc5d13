/* A million timers on libuv: uv_timer_t, in its binary heap. Its tick is a millisecond. */
#include "timers.h"

#include <stdio.h>
#include <stdlib.h>

#include <uv.h>

const char timers_name[] = "libuv";

static uv_loop_t loop;
static uv_timer_t *timers;

static void on_timer(uv_timer_t *timer)
{
    timers_fired((size_t)(timer - timers));
}

void timers_open(size_t count)
{
    timers = calloc(count, sizeof *timers);
    if (timers == NULL || uv_loop_init(&loop) < 0) {
        fprintf(stderr, "libuv: cannot make the loop and its timers\n");
        exit(1);
    }
    for (size_t i = 0; i < count; i++)
        uv_timer_init(&loop, &timers[i]);
}

static void on_inside(uv_timer_t *timer)
{
    (*(void (**)(void))timer->data)();
    uv_stop(&loop);
}

void timers_inside(void (*work)(void))
{
    static uv_timer_t timer;
    uv_timer_init(&loop, &timer);
    timer.data = &work;
    uv_timer_start(&timer, on_inside, 0, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
}

void timers_insert(size_t index, uint64_t delay_ns)
{
    uv_timer_start(&timers[index], on_timer, (delay_ns + 999999) / 1000000, 0);
}

void timers_cancel(size_t index)
{
    uv_timer_stop(&timers[index]);
}

void timers_run(void)
{
    uv_run(&loop, UV_RUN_DEFAULT);
}
