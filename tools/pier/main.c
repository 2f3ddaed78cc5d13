/* SPDX-License-Identifier: MIT */
/* main.c - the `pier` command: finds the subcommand and runs it.
 *
 * Exit codes are the same for every subcommand: 0 done, 1 failed, 2 the command line was wrong.
 * What a subcommand does and which options it takes is in its own file. */

#include "pier.h"

#include "platform.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static const struct subcommand subcommands[] = {
    {"echo", pier_tool_echo, "an echo server"},
    {"load", pier_tool_load, "a load generator that checks every byte of the echo"},
#ifndef PIER_TOOL_WITHOUT_BENCH
    {"bench", pier_tool_bench, "compares the backends of this machine under load"},
#endif
    {"doctor", pier_tool_doctor, "says what this kernel and sandbox allow, and which limits apply"},
};

enum { SUBCOMMANDS = sizeof(subcommands) / sizeof(subcommands[0]) };

static const char *command = "";

const char *tool_command(void)
{
    return command;
}

void tool_say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    /* One write per line: several processes may share stderr. */
    char line[1024];
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    fprintf(stderr, "pier%s%s: %s\n", command[0] != '\0' ? " " : "", command, line);
}

const char *tool_plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

void *tool_allocate(uint64_t count, size_t size)
{
    return (size_t)count == count ? calloc((size_t)count, size) : NULL;
}

char *tool_format_count(char text[TOOL_TEXT_MAX], uint64_t count)
{
    char digits[TOOL_TEXT_MAX];
    int length = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count);
    char *out = text;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            *out++ = ',';
        }
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

char *tool_format_time(char text[TOOL_TEXT_MAX], uint64_t time_ns)
{
    double value = (double)time_ns;
    const char *unit = "ns";
    if (time_ns >= PIER_SECOND) {
        value /= 1e9;
        unit = "s";
    } else if (time_ns >= PIER_MILLISECOND) {
        value /= 1e6;
        unit = "ms";
    } else if (time_ns >= PIER_MICROSECOND) {
        value /= 1e3;
        unit = "us";
    } else {
        snprintf(text, TOOL_TEXT_MAX, "%u ns", (unsigned)time_ns);
        return text;
    }
    snprintf(text, TOOL_TEXT_MAX, "%.*f %s", value < 10 ? 2 : value < 100 ? 1 : 0, value, unit);
    return text;
}

static void print_help(FILE *file)
{
    fputs("usage: pier COMMAND [OPTION...]\n\ncommands:\n", file);
    for (int i = 0; i < SUBCOMMANDS; i++) {
        fprintf(file, "  %-8s %s\n", subcommands[i].name, subcommands[i].summary);
    }
    fputs("\n`pier COMMAND --help` explains a command, `pier --version` prints the version.\n"
          "Exit codes: 0 done, 1 failed, 2 the command line was wrong.\n",
          file);
}

static const struct subcommand *find_subcommand(const char *name)
{
    for (int i = 0; i < SUBCOMMANDS; i++) {
        if (strcmp(subcommands[i].name, name) == 0) {
            return &subcommands[i];
        }
    }
    return NULL;
}

static int report_unknown(const char *name)
{
    char known[256] = "";
    for (int i = 0; i < SUBCOMMANDS; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s",
                 i == 0                 ? ""
                 : i == SUBCOMMANDS - 1 ? " and "
                                        : ", ",
                 subcommands[i].name);
    }
    tool_say("unknown command \"%s\": there are %s; see pier --help", name, known);
    return TOOL_USAGE;
}

/* What was printed and didn't arrive is a failure too. */
static int finish(int status)
{
    if (!platform_flush_output() && status == TOOL_DONE) {
        tool_say("cannot write the output: is the disk full, or the reader gone?");
        return TOOL_FAILED;
    }
    return status;
}

int main(int argc, char **argv)
{
    platform_start();
    if (argc < 2) {
        print_help(stderr);
        return TOOL_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
        (strcmp(name, "help") == 0 && argc == 2)) {
        print_help(stdout);
        return finish(TOOL_DONE);
    }
    if (strcmp(name, "--version") == 0) {
        printf("pier %s\n", pier_version());
        return finish(TOOL_DONE);
    }
    /* "pier help echo" is "pier echo --help". */
    char help_option[] = "--help";
    char *help_arguments[] = {argv[2], help_option, NULL};
    bool asks_help = strcmp(name, "help") == 0;
    const struct subcommand *subcommand = find_subcommand(asks_help ? argv[2] : name);
    if (subcommand == NULL) {
        return report_unknown(asks_help ? argv[2] : name);
    }
    command = subcommand->name;
    return finish(asks_help ? subcommand->run(2, help_arguments)
                            : subcommand->run(argc - 1, argv + 1));
}
