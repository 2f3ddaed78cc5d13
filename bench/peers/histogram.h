/*
 * Latencies in nanoseconds, counted in 64 steps for each power of two: 1.6 % resolution over the
 * whole range in a fixed table, cheap to add to and to merge.
 */
#ifndef BENCH_PEERS_HISTOGRAM_H
#define BENCH_PEERS_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 64, HISTOGRAM_STEP_BITS = 6, HISTOGRAM_SIZE = 59 * HISTOGRAM_STEPS };

struct histogram {
    uint64_t counts[HISTOGRAM_SIZE];
    uint64_t total, max;
};

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
    int shift = value < HISTOGRAM_STEPS ? 0 : 63 - HISTOGRAM_STEP_BITS - __builtin_clzll(value);
    uint64_t row = value < HISTOGRAM_STEPS ? 0 : (uint64_t)shift + 1;
    histogram->counts[row * HISTOGRAM_STEPS + ((value >> shift) & (HISTOGRAM_STEPS - 1))]++;
    histogram->total++;
    if (value > histogram->max)
        histogram->max = value;
}

static inline void histogram_merge(struct histogram *to, const struct histogram *from)
{
    for (int i = 0; i < HISTOGRAM_SIZE; i++)
        to->counts[i] += from->counts[i];
    to->total += from->total;
    if (from->max > to->max)
        to->max = from->max;
}

/* The lower edge of the step that holds the given fraction of all values; 0 if there are none. */
static inline uint64_t histogram_percentile(const struct histogram *histogram, double fraction)
{
    uint64_t rank = (uint64_t)((double)histogram->total * fraction), seen = 0;
    for (uint64_t i = 0; i < HISTOGRAM_SIZE; i++) {
        seen += histogram->counts[i];
        if (seen > rank) {
            uint64_t row = i / HISTOGRAM_STEPS, step = i % HISTOGRAM_STEPS;
            return row == 0 ? step : (HISTOGRAM_STEPS + step) << (row - 1);
        }
    }
    return histogram->max;
}

#endif
