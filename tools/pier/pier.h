/* SPDX-License-Identifier: MIT */
/* pier.h - what the files of the `pier` command share: the subcommands, exit codes, messages.
 *
 * Each subcommand is a function with the arguments that follow its name, argv[0] being the name
 * itself; it returns the exit code of the process. Whatever depends on the operating system is in
 * platform.h, reading the command line in options.h. The command uses the public headers of the
 * library and nothing else of it. */

#ifndef PIER_TOOL_H
#define PIER_TOOL_H

#include "pier/pier.h"

#include <stddef.h>
#include <stdint.h>

/* Loops that a subcommand runs at the most, over all threads of all processes. More of them only
 * keep each other from running. */
enum { TOOL_LOOPS_MAX = 4096 };

enum {
    TOOL_DONE = 0,
    TOOL_FAILED = 1,
    TOOL_USAGE = 2 /* the command line was wrong; nothing was done */
};

int pier_tool_echo(int argc, char **argv);
int pier_tool_load(int argc, char **argv);
int pier_tool_bench(int argc, char **argv);
int pier_tool_doctor(int argc, char **argv);

#if defined(__GNUC__)
#define TOOL_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define TOOL_PRINTF(text, first)
#endif

/* Says on stderr what went wrong, as one line that opens with "pier " and the subcommand's name. */
TOOL_PRINTF(1, 2) void tool_say(const char *format, ...);

/* Zeroed memory for so many things of this size; NULL when there is none, or more than a size_t can
 * say. */
void *tool_allocate(uint64_t count, size_t size);

/* The name of the subcommand that runs. */
const char *tool_command(void);

/* What makes a word plural behind this number: "s", or nothing. */
const char *tool_plural(uint64_t count);

/* Text for people. Each writes into `text` and returns it. */
enum { TOOL_TEXT_MAX = 32 };
char *tool_format_count(char text[TOOL_TEXT_MAX], uint64_t count); /* 1234567 as "1,234,567" */
char *tool_format_time(char text[TOOL_TEXT_MAX],
                       uint64_t time_ns); /* "831 ns", "12.4 us", "3.20 s" */

#endif
