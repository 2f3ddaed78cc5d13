/* SPDX-License-Identifier: MIT */
/* histogram.c - counts of times, log-linear; see histogram.h. */

#include "histogram.h"

/* Floor of the binary logarithm; 0 for 0. */
static unsigned log2_floor(uint64_t value)
{
#if defined(__GNUC__)
    return 63U - (unsigned)__builtin_clzll(value | 1);
#else
    unsigned log = 0;
    while (value >>= 1) {
        log++;
    }
    return log;
#endif
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
    unsigned log = log2_floor(value);
    unsigned shift = log > 7 ? log - 7 : 0;
    histogram->counts[shift * HISTOGRAM_STEPS + (value >> shift)]++;
    histogram->total++;
    histogram->sum += value;
    if (histogram->max < value) {
        histogram->max = value;
    }
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    into->total += from->total;
    into->sum += from->sum;
    if (into->max < from->max) {
        into->max = from->max;
    }
    for (int i = 0; i < HISTOGRAM_SIZE; i++) {
        into->counts[i] += from->counts[i];
    }
}

/* The largest value that is counted at an index. */
static uint64_t value_at(unsigned index)
{
    if (index < 2 * HISTOGRAM_STEPS) {
        return index;
    }
    unsigned shift = index / HISTOGRAM_STEPS - 1;
    uint64_t step = index - shift * HISTOGRAM_STEPS;
    return ((step + 1) << shift) - 1;
}

uint64_t histogram_quantile(const struct histogram *histogram, double part)
{
    double exact = part * (double)histogram->total;
    uint64_t wanted = (uint64_t)exact;
    if ((double)wanted < exact || wanted == 0) {
        wanted++;
    }
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_SIZE; i++) {
        seen += histogram->counts[i];
        if (seen >= wanted) {
            uint64_t value = value_at(i);
            return value < histogram->max ? value : histogram->max;
        }
    }
    return histogram->max;
}
