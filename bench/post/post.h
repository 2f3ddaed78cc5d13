/*
 * What a library provides to be measured posting between threads. Two sides, 0 and 1, each a thread
 * with a loop; main.c has the threads, the count and the clock, a library's file these functions.
 */
#ifndef BENCH_POST_H
#define BENCH_POST_H

/* The name in the report. */
extern const char post_name[];

/* Makes the loop of a side; called on that side's thread. Returns 0, or -1 with a line on standard
 * error when this machine can't. */
int post_open(int side);

/* Makes the loop of the other side call post_arrived(side) on its own thread. Called on the thread
 * of the other side, from inside post_arrived(); for the first time, before that loop runs. */
void post_send(int side);

/* Runs the loop of a side until post_leave(side); called on that side's thread. */
void post_run(int side);

/* Makes post_run() return; called from inside post_arrived(side). */
void post_leave(int side);

/* Called by a side's callback for each post. In main.c. */
void post_arrived(int side);

#endif
