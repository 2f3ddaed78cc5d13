/* standalone.h - the two ways to run a fuzz target: under libFuzzer, or by a main() of its own.
 *
 * A target defines LLVMFuzzerTestOneInput() and fuzz_name, and takes the backend from
 * fuzz_backend(): --backend of the standalone program, PIER_FUZZ_BACKEND in the environment of
 * both. A finding aborts, after a line that says what was broken. */

#ifndef FUZZ_STANDALONE_H
#define FUZZ_STANDALONE_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern const char *const fuzz_name;

/* Whether the target needs a backend; the program exits with 77 when that isn't to be had. */
extern const int fuzz_needs_backend;

/* Fills an input for the standalone program; `state` is that of random numbers. Returns its
 * size. */
size_t fuzz_make_input(uint8_t *data, size_t size_max, uint64_t *state);

/* NULL when none was named: the best there is. */
const char *fuzz_backend(void);

/* A generator of numbers, the same on every machine. */
uint32_t fuzz_random(uint64_t *state, uint32_t limit);

#endif
