/*
 * A million timers on pier: pier_timer(), in its timer wheel. The backend is the one that
 * PIER_BACKEND names, or the best one.
 */
#include "timers.h"

#include <stdio.h>
#include <stdlib.h>

#include <pier/pier.h>

const char timers_name[] = "pier";

static struct pier_loop *loop;
static struct pier_op *timers;

static void on_timer(struct pier_op *op)
{
    timers_fired((size_t)(op - timers));
}

void timers_open(size_t count)
{
    int error = pier_loop_new(&loop, NULL);
    if (error < 0) {
        fprintf(stderr, "pier: %s\n", pier_error_detail());
        exit(1);
    }
    timers = calloc(count, sizeof *timers);
    if (timers == NULL) {
        fprintf(stderr, "pier: no memory for %zu timers\n", count);
        exit(1);
    }
    /* Makes the memory present: zeros alone would leave that to the first pier_timer(). */
    for (size_t i = 0; i < count; i++)
        timers[i].fn = on_timer;
}

struct inside {
    struct pier_op op;
    void (*work)(void);
};

static void on_inside(struct pier_op *op)
{
    PIER_OWNER(op, struct inside, op)->work();
    pier_loop_stop(loop);
}

void timers_inside(void (*work)(void))
{
    struct inside inside = {.work = work};
    pier_post(loop, &inside.op, on_inside);
    timers_run();
}

void timers_insert(size_t index, uint64_t delay_ns)
{
    pier_timer(loop, &timers[index], delay_ns, on_timer);
}

void timers_cancel(size_t index)
{
    pier_timer_stop(&timers[index]);
}

void timers_run(void)
{
    int error = pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    if (error < 0) {
        fprintf(stderr, "pier: the loop has failed: %s\n", pier_error_text(error));
        exit(1);
    }
}
