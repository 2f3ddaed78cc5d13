/* SPDX-License-Identifier: MIT */
/* options.h - reading the command line, strictly.
 *
 * A subcommand describes its options in a table that ends with a row of zeros; each row says where
 * the value goes and what is allowed. "--name VALUE" and "--name=VALUE" mean the same. Whatever
 * isn't understood in full is refused with one line that names the option, the value and what
 * would be right: nothing is guessed, cut off or rounded. */

#ifndef PIER_TOOL_OPTIONS_H
#define PIER_TOOL_OPTIONS_H

#include "pier.h"

enum tool_option_kind {
    TOOL_OPTION_END,
    TOOL_OPTION_FLAG,     /* takes no value */
    TOOL_OPTION_NUMBER,   /* a whole number from min to max */
    TOOL_OPTION_SIZE,     /* bytes from min to max: 512, 16k, 1M (powers of 1024) */
    TOOL_OPTION_DURATION, /* from min to max nanoseconds: 10, 0.5, 500ms, 2m */
    TOOL_OPTION_ADDRESS,
    TOOL_OPTION_CHOICE,  /* one of `choices`; its index is stored */
    TOOL_OPTION_BACKEND, /* the name of a backend that the library has */
    TOOL_OPTION_TEXT
};

/* An address together with the text it was given as. */
struct tool_address {
    const char *text; /* NULL: not given */
    struct pier_address address;
};

struct tool_option {
    const char *name; /* with its dashes */
    enum tool_option_kind kind;
    union {
        bool *flag;
        uint64_t *number;
        int *choice;
        const char **text;
        struct tool_address *address;
    } value;
    uint64_t min, max;
    const char *const *choices; /* ends with NULL */
};

/* What tool_options_parse() returns when the subcommand should run. */
enum { TOOL_GO_ON = -1 };

/* Reads argv[1] up to argv[argc - 1]. Returns TOOL_GO_ON, or the exit code of the command:
 * TOOL_DONE after --help, for which `help` is printed, TOOL_USAGE after a line on what is wrong. */
int tool_options_parse(const struct tool_option *options, const char *help, int argc, char **argv);

/* Whether so many threads in each of so many processes are few enough; says so if not. */
bool tool_check_loops(uint64_t threads, uint64_t processes);

/* Reads a whole number without sign, blanks or suffix. */
bool tool_parse_number(const char *text, uint64_t *number);

/* Reads a size: a whole number, optionally with k, M or G (also KiB, MiB, GiB). */
bool tool_parse_size(const char *text, uint64_t *size);

/* Reads a duration: a number, optionally with a fraction and one of ns, us, ms, s (the default),
 * m, h. */
bool tool_parse_duration(const char *text, uint64_t *time_ns);

#endif
