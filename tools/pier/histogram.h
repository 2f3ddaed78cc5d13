/* SPDX-License-Identifier: MIT */
/* histogram.h - counts of times, log-linear: exact below 256 ns, from there 128 steps per
 * doubling, so that a value is kept to better than 0.8 percent whatever its size, in 58 KiB.
 * Adding is a few instructions; histograms of several threads or processes add up without loss.
 * Plain data: all zero is an empty one, and it may lie in shared memory. */

#ifndef PIER_TOOL_HISTOGRAM_H
#define PIER_TOOL_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 128, HISTOGRAM_SIZE = 57 * HISTOGRAM_STEPS + HISTOGRAM_STEPS };

struct histogram {
    uint64_t total, sum, max;
    uint64_t counts[HISTOGRAM_SIZE];
};

void histogram_add(struct histogram *histogram, uint64_t value);

void histogram_merge(struct histogram *into, const struct histogram *from);

/* The value that the given part of all values (0.99) does not exceed; 0 when there are none. */
uint64_t histogram_quantile(const struct histogram *histogram, double part);

#endif
