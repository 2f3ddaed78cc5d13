/*
 * Measures a library's timers: nanoseconds to start, stop and fire each of a million.
 *
 *   timers_NAME [COUNT]
 *
 * Start: all timers, with delays that a fixed random sequence spreads over ten minutes. Stop: all
 * of them, in another random order. Both are done in a callback of the loop, where programs do most
 * of it. Fire: all are started again with delays of up to 200 ms; the program sleeps until the last
 * is due, so that nothing but firing is left to do, and then lets the loop run. The figures are CPU
 * time of the process. Each timer must fire once. How many fired after one that was due later is
 * reported, with the tolerance that is due to a tick of a millisecond and to the time that starting
 * them all took: some libraries count a delay from the loop's idea of the time, some from the
 * clock.
 */
#include "timers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const uint64_t long_delay_ns = UINT64_C(600000000000), short_delay_ns = 200000000;
static const uint64_t tick_ns = 2000000; /* a deadline rounded down after one rounded up */

static uint64_t *delays;
static uint64_t latest_ns, tolerance_ns, disordered;
static size_t fired;
static unsigned char *has_fired;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t next_random(void)
{
    static uint64_t state = UINT64_C(88172645463325252);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

void timers_fired(size_t index)
{
    fired++;
    if (has_fired[index]++ != 0) {
        fprintf(stderr, "%s: timer %zu fired twice\n", timers_name, index);
        exit(1);
    }
    if (delays[index] + tolerance_ns < latest_ns)
        disordered++;
    else if (delays[index] > latest_ns)
        latest_ns = delays[index];
}

static void fill_delays(size_t count, uint64_t range_ns)
{
    for (size_t i = 0; i < count; i++)
        delays[i] = 1000000 + next_random() % range_ns;
}

static size_t timer_count;
static const uint32_t *stop_order;
static double insert_ns, cancel_ns;

static void insert_all(void)
{
    uint64_t begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (size_t i = 0; i < timer_count; i++)
        timers_insert(i, delays[i]);
    insert_ns = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin) / (double)timer_count;
}

/* In one go, so that none is due in between. */
static void insert_and_cancel_all(void)
{
    insert_all();
    uint64_t begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (size_t i = 0; i < timer_count; i++)
        timers_cancel(stop_order[i]);
    cancel_ns = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin) / (double)timer_count;
}

static double fire_all(size_t count)
{
    uint64_t started = clock_ns(CLOCK_MONOTONIC);
    timers_inside(insert_all);
    uint64_t due = clock_ns(CLOCK_MONOTONIC) + short_delay_ns + 10 * tick_ns;
    tolerance_ns = due - started - short_delay_ns;
    while (clock_ns(CLOCK_MONOTONIC) < due)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    uint64_t begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    timers_run();
    uint64_t end = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (fired != count) {
        fprintf(stderr, "%s: %zu of %zu timers fired\n", timers_name, fired, count);
        exit(1);
    }
    return (double)(end - begin) / (double)count;
}

int main(int argc, char **argv)
{
    char *rest = NULL;
    size_t count = argc > 1 ? strtoul(argv[1], &rest, 10) : 1000000;
    if (argc > 2 || (rest != NULL && *rest != '\0') || count < 1 || count > 100000000) {
        fprintf(stderr, "usage: %s [COUNT]\n", argv[0]);
        return 2;
    }
    uint32_t *order = malloc(count * sizeof *order);
    delays = malloc(count * sizeof *delays);
    has_fired = calloc(count, 1);
    if (order == NULL || delays == NULL || has_fired == NULL) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = next_random() % (i + 1);
        uint32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    timers_open(count);
    fill_delays(count, long_delay_ns);
    timer_count = count;
    stop_order = order;
    timers_inside(insert_and_cancel_all);
    double stopped_insert_ns = insert_ns;
    fill_delays(count, short_delay_ns);
    double fire_ns = fire_all(count);
    printf("{\"name\":\"%s\",\"count\":%zu,\"insert_ns\":%.1f,\"cancel_ns\":%.1f,\"fire_ns\":%.1f,"
           "\"disordered\":%" PRIu64 "}\n",
           timers_name, count, stopped_insert_ns, cancel_ns, fire_ns, disordered);
    return 0;
}
