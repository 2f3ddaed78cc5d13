/* account.h - the scenario's books: the first thing that was wrong, memory. */

#ifndef PIER_FAULT_ACCOUNT_H
#define PIER_FAULT_ACCOUNT_H

#include <stddef.h>

#if defined(__MINGW32__) && !defined(__clang__)
#define COMPLAINT __attribute__((format(gnu_printf, 1, 2)))
#else
#define COMPLAINT __attribute__((format(printf, 1, 2)))
#endif

/* Keeps the first complaint for scenario_problem(). */
COMPLAINT void complain(const char *format, ...);

/* A pier_allocate_fn that counts, and checks the sizes it is told. */
void *account_allocate(void *context, void *memory, size_t old_size, size_t new_size);
size_t account_blocks(void);

#endif
