/* SPDX-License-Identifier: MIT */
/* platform.h - all that the `pier` command asks of the operating system besides the library:
 * clock, threads, processes, signals, terminal, limits.
 *
 * Functions that return int return 0, or an errno value that platform_error_text() explains. The
 * other files of the command are portable C11; a port to another system is another platform.c. */

#ifndef PIER_TOOL_PLATFORM_H
#define PIER_TOOL_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Called once, before anything else: makes writing to a closed pipe an error instead of a signal.
 * Where sockets are numbered as files are, standard descriptors that are closed are opened, since
 * the next socket would get their numbers and what is printed would go there: nothing can be read
 * from stdin then, or written to stdout, and what is written to stderr is lost. */
void platform_start(void);

/* Flushes stdout; false when not all of it could be written. */
bool platform_flush_output(void);

bool platform_is_terminal(FILE *file);

/* The columns of the terminal that a file is; 0 when it is none, or doesn't tell. */
unsigned platform_terminal_width(FILE *file);

const char *platform_error_text(int error);

/* ---- time ---- */

/* A monotonic clock that all processes of the machine share. */
uint64_t platform_now_ns(void);

void platform_sleep_ns(uint64_t time_ns);

struct platform_usage {
    uint64_t user_ns, system_ns; /* CPU time */
    uint64_t resident_max;       /* bytes of memory at the most, of the largest process */
};

/* What this process has used, and with `children` also the processes that it started and that have
 * ended. */
void platform_usage(struct platform_usage *usage, bool children);

/* ---- threads ---- */

typedef void platform_run_fn(void *argument);

struct platform_thread {
    platform_run_fn *run;
    void *argument;
    void *handle_;
};

int platform_thread_start(struct platform_thread *thread, platform_run_fn *run, void *argument);
void platform_thread_join(struct platform_thread *thread);

struct platform_mutex {
    void *mutex_;
};

int platform_mutex_init(struct platform_mutex *mutex);
void platform_mutex_lock(struct platform_mutex *mutex);
void platform_mutex_unlock(struct platform_mutex *mutex);
void platform_mutex_free(struct platform_mutex *mutex);

/* ---- processes ---- */

struct platform_process {
    intptr_t id_;
};

/* Zeroed memory that this process and those it starts later share; NULL when there is none. */
void *platform_shared_memory(uint64_t size);

typedef int platform_main_fn(void *argument);

/* Starts a copy of this process that runs main(argument) and exits with what it returns. ENOTSUP
 * where the system has no such thing. */
int platform_process_start(struct platform_process *process, platform_main_fn *run, void *argument);

/* Asks a process to stop, as SIGTERM does. Allowed in an interrupt function. */
void platform_process_interrupt(const struct platform_process *process);

/* Ends a process at once. */
void platform_process_kill(const struct platform_process *process);

/* Whether the process has ended; then *status is its exit code, or the number of the signal that
 * ended it with its sign turned. */
bool platform_process_ended(const struct platform_process *process, int *status);

/* Such a status in words, behind a subject: "ended with exit code 3", "was ended by SIGKILL".
 * Returns `text`. */
enum { PLATFORM_STATUS_MAX = 48 };
char *platform_status_text(char text[PLATFORM_STATUS_MAX], int status);

/* In a process that was started: whether the one that started it is gone. */
bool platform_process_is_orphan(void);

/* ---- signals ---- */

/* Has `interrupt` called when the user or the system asks the process to stop: SIGINT, SIGTERM and
 * SIGHUP, Ctrl-C. SIGINT and SIGHUP stay ignored where they are, as in a shell's background job and
 * under nohup. It may run at any time and on any thread, so it may do nothing but set atomics,
 * notify loops and interrupt processes. */
int platform_on_interrupt(void (*interrupt)(void));

/* ---- files and sockets ---- */

/* Which file a path leads to, so that it can be told from another of that name later. */
struct platform_file {
    uint64_t device, number;
    bool known;
};

/* Finds out; not known when there is no such file. Links are not followed. */
void platform_file_identify(const char *path, struct platform_file *file);

/* Removes the file at the path if it still is that one. */
void platform_file_remove(const char *path, const struct platform_file *file);

/* Lets further sockets listen on the port of one that listens already and found it free. ENOTSUP
 * where a socket has to say so before it has its port. */
int platform_share_port(intptr_t socket);

/* ---- limits ---- */

/* Raises the limit of open descriptors as far as the process may, and returns it. */
uint64_t platform_raise_descriptor_limit(void);

/* How a user raises that limit further: part of a sentence. */
const char *platform_descriptor_remedy(void);

#endif
