/*
 * Measures posts from one thread to the loop of another: round trips per second and CPU for each.
 *
 *   post_NAME [ROUND-TRIPS]
 *
 * Two threads run a loop each. Side 0 posts to side 1, whose callback posts back, whose callback
 * posts again: both loops are asleep when a post comes, which is the dear case. Where the process
 * may use two processors, each side has one of its own.
 */
#include "post.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const uint64_t warm_up = 200;

static uint64_t left, measured, begin_ns, begin_cpu_ns, end_ns, end_cpu_ns;
static atomic_bool leaving;
static pthread_barrier_t opened;
static bool failed;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void post_arrived(int side)
{
    if (atomic_load(&leaving)) {
        post_leave(side);
        return;
    }
    if (side == 0) {
        if (left == measured) {
            begin_ns = clock_ns(CLOCK_MONOTONIC);
            begin_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        }
        if (left-- == 0) {
            end_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
            end_ns = clock_ns(CLOCK_MONOTONIC);
            atomic_store(&leaving, true);
            post_send(1);
            post_leave(0);
            return;
        }
    }
    post_send(1 - side);
}

/* Gives the calling thread the first or the second processor that the process may use. */
static void pin_thread(int side)
{
    cpu_set_t allowed, one;
    int seen = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0 || CPU_COUNT(&allowed) < 2)
        return;
    for (size_t processor = 0; processor < CPU_SETSIZE; processor++) {
        if (CPU_ISSET(processor, &allowed) && seen++ == side) {
            CPU_ZERO(&one);
            CPU_SET(processor, &one);
            pthread_setaffinity_np(pthread_self(), sizeof one, &one);
            return;
        }
    }
}

static void *run_side(void *argument)
{
    int side = argument != NULL;
    pin_thread(side);
    if (post_open(side) < 0)
        failed = true;
    pthread_barrier_wait(&opened);
    if (failed)
        return NULL;
    if (side == 0)
        post_send(1);
    post_run(side);
    return NULL;
}

int main(int argc, char **argv)
{
    char *rest = NULL;
    pthread_t other;
    measured = argc > 1 ? strtoull(argv[1], &rest, 10) : 20000;
    if (argc > 2 || (rest != NULL && *rest != '\0') || measured < 1) {
        fprintf(stderr, "usage: %s [ROUND-TRIPS]\n", argv[0]);
        return 2;
    }
    left = measured + warm_up;
    pthread_barrier_init(&opened, NULL, 2);
    if (pthread_create(&other, NULL, run_side, &opened) != 0) {
        fprintf(stderr, "cannot start a thread\n");
        return 1;
    }
    run_side(NULL);
    pthread_join(other, NULL);
    if (failed)
        return 1;
    double seconds = (double)(end_ns - begin_ns) / 1e9, count = (double)measured;
    printf("{\"name\":\"%s\",\"round_trips\":%" PRIu64
           ",\"round_trips_per_second\":%.1f,\"cpu_ns\":%.1f}\n",
           post_name, measured, count / seconds, (double)(end_cpu_ns - begin_cpu_ns) / count);
    return 0;
}
