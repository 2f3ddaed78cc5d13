/*
 * What a library provides to be measured with a million timers. main.c has the times, the order and
 * the clock; a library's file has these functions and nothing else. Timers are known by number,
 * from 0 to count - 1; their memory is made in timers_open(), before the clock starts.
 */
#ifndef BENCH_TIMERS_H
#define BENCH_TIMERS_H

#include <stddef.h>
#include <stdint.h>

/* The name in the report. */
extern const char timers_name[];

/* Makes a loop and `count` timers, initialised as far as the library allows without starting them.
 * Stops the program if it can't. */
void timers_open(size_t count);

/* Calls `work` from a callback of the loop, where programs start and stop most of their timers, and
 * returns when it is done. The loop's idea of the time is that of the callback. */
void timers_inside(void (*work)(void));

/* Starts timer `index`, to fire once. */
void timers_insert(size_t index, uint64_t delay_ns);

/* Stops timer `index`. */
void timers_cancel(size_t index);

/* Runs the loop until all timers that were started have fired, and each has called timers_fired. */
void timers_run(void);

/* Called by the library's callback, with the number of the timer. In main.c. */
void timers_fired(size_t index);

#endif
