/* system.h - what the fault-injection test needs of the system besides pier.
 *
 * One file per system implements it: system_posix.c, system_windows.c. */

#ifndef PIER_FAULT_SYSTEM_H
#define PIER_FAULT_SYSTEM_H

#include "pier/pier.h"

/* Runs body(context) in a process of its own for so many seconds at the most; `context` is copied
 * there, and back once the process has ended. Returns its exit code, -1 when it was ended by force,
 * with the reason in `why`. A body that returns exits with 0. */
int system_run(void (*body)(void *context), void *context, size_t size, unsigned limit_s, char *why,
               size_t why_size);
/* Called by main() once it knows its command line: a process of system_run() doesn't come back. */
void system_continue(void);

/* Ends the process at once. */
_Noreturn void system_exit(int code);

/* Two descriptors that pier_poll() takes: [0] reads what goes into [1]. */
bool system_pair(pier_descriptor ends[2]);
bool system_send(pier_descriptor end);

/* Something to write to, that takes everything. */
pier_descriptor system_sink(void);
void system_close(pier_descriptor descriptor);

/* Open descriptors, as far as pier could have opened them. */
int system_descriptors(void);

/* One thread at a time. */
bool system_thread_start(void (*body)(void));
void system_thread_join(void);
void system_doze(void);

#endif
