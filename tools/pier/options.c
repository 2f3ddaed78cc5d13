/* SPDX-License-Identifier: MIT */
/* options.c - reading the command line, strictly; see options.h.
 *
 * Numbers are read by hand rather than by strtoull(), which takes blanks, signs and hexadecimal,
 * turns "-1" into 18446744073709551615 and depends on the locale. */

#include "options.h"

#include <stdio.h>
#include <string.h>

/* Reads digits from *text on and moves it behind them; false when there are none or too many. */
static bool read_digits(const char **text, uint64_t *number)
{
    const char *at = *text;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    if (at == *text) {
        return false;
    }
    *text = at;
    *number = value;
    return true;
}

bool tool_parse_number(const char *text, uint64_t *number)
{
    return read_digits(&text, number) && *text == '\0';
}

bool tool_parse_size(const char *text, uint64_t *size)
{
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"", 0},   {"k", 10},   {"K", 10}, {"KiB", 10}, {"m", 20},
                 {"M", 20}, {"MiB", 20}, {"g", 30}, {"G", 30},   {"GiB", 30}};
    uint64_t value;
    if (!read_digits(&text, &value)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(text, units[i].name) == 0) {
            *size = value << units[i].shift;
            return value <= UINT64_MAX >> units[i].shift;
        }
    }
    return false;
}

bool tool_parse_duration(const char *text, uint64_t *time_ns)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {{"", PIER_SECOND},        {"s", PIER_SECOND}, {"ms", PIER_MILLISECOND},
                 {"us", PIER_MICROSECOND}, {"ns", 1},          {"m", 60 * PIER_SECOND},
                 {"h", 3600 * PIER_SECOND}};
    uint64_t whole, fraction = 0, scale = 1;
    if (!read_digits(&text, &whole)) {
        return false;
    }
    if (*text == '.') {
        const char *start = ++text;
        if (!read_digits(&text, &fraction) || text - start > 9) {
            return false;
        }
        for (; start < text; start++) {
            scale *= 10;
        }
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(text, units[i].name) == 0) {
            if (whole > UINT64_MAX / 2 / units[i].ns) {
                return false;
            }
            /* At most 9 digits of fraction times 3.6e12 ns stay below 2^64. */
            *time_ns = whole * units[i].ns + fraction * units[i].ns / scale;
            return true;
        }
    }
    return false;
}

bool tool_check_loops(uint64_t threads, uint64_t processes)
{
    if (threads * processes <= TOOL_LOOPS_MAX) {
        return true;
    }
    tool_say("--threads %llu times --processes %llu is more than %d loops: with so many "
             "--processes use --threads up to %llu",
             (unsigned long long)threads, (unsigned long long)processes, TOOL_LOOPS_MAX,
             (unsigned long long)(TOOL_LOOPS_MAX / processes));
    return false;
}

static char *format_limit(char text[TOOL_TEXT_MAX], enum tool_option_kind kind, uint64_t limit)
{
    if (kind == TOOL_OPTION_DURATION) {
        bool coarse = limit >= PIER_SECOND;
        uint64_t unit = limit % (3600 * PIER_SECOND) == 0 && coarse ? 3600 * PIER_SECOND
                        : coarse                                    ? PIER_SECOND
                                                                    : PIER_MILLISECOND;
        snprintf(text, TOOL_TEXT_MAX, "%llu%s", (unsigned long long)(limit / unit),
                 unit == PIER_MILLISECOND && limit != 0 ? "ms"
                 : unit == 3600 * PIER_SECOND           ? "h"
                                                        : "s");
    } else if (kind == TOOL_OPTION_SIZE && limit >= 1 << 20 && limit % (1 << 20) == 0) {
        snprintf(text, TOOL_TEXT_MAX, "%lluM", (unsigned long long)(limit >> 20));
    } else {
        snprintf(text, TOOL_TEXT_MAX, "%llu", (unsigned long long)limit);
    }
    return text;
}

static int refuse_number(const struct tool_option *option, const char *text)
{
    char low[TOOL_TEXT_MAX], high[TOOL_TEXT_MAX];
    format_limit(low, option->kind, option->min);
    format_limit(high, option->kind, option->max);
    const char *what = option->kind == TOOL_OPTION_DURATION ? "time"
                       : option->kind == TOOL_OPTION_SIZE   ? "size"
                                                            : "whole number";
    const char *example = option->kind == TOOL_OPTION_DURATION ? ", such as 10, 0.5 or 500ms"
                          : option->kind == TOOL_OPTION_SIZE   ? " bytes, such as 64 or 16k"
                                                               : "";
    tool_say("%s takes a %s from %s to %s%s, not \"%s\"", option->name, what, low, high, example,
             text);
    return TOOL_USAGE;
}

/* Writes names as `a, b or c`; " or " is `last`. */
static void join_names(char *text, size_t size, const char *last,
                       const char *(*name_at)(const void *, size_t), const void *context)
{
    text[0] = '\0';
    for (size_t i = 0; name_at(context, i) != NULL; i++) {
        size_t used = strlen(text);
        const char *between = i == 0 ? "" : name_at(context, i + 1) == NULL ? last : ", ";
        snprintf(text + used, size - used, "%s%s", between, name_at(context, i));
    }
}

static const char *choice_at(const void *context, size_t index)
{
    return ((const char *const *)context)[index];
}

static const char *backend_at(const void *context, size_t index)
{
    (void)context;
    return pier_backend_name(index);
}

static int store_choice(const struct tool_option *option, const char *text)
{
    for (int i = 0; option->choices[i] != NULL; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *option->value.choice = i;
            return TOOL_GO_ON;
        }
    }
    char names[256];
    join_names(names, sizeof(names), " or ", choice_at, option->choices);
    tool_say("%s takes %s, not \"%s\"", option->name, names, text);
    return TOOL_USAGE;
}

static int store_backend(const struct tool_option *option, const char *text)
{
    for (size_t i = 0; pier_backend_name(i) != NULL; i++) {
        if (strcmp(pier_backend_name(i), text) == 0) {
            *option->value.text = text;
            return TOOL_GO_ON;
        }
    }
    char names[256];
    join_names(names, sizeof(names), " and ", backend_at, NULL);
    tool_say("unknown backend \"%s\": this build has %s", text, names);
    return TOOL_USAGE;
}

static int store_value(const struct tool_option *option, const char *text)
{
    uint64_t number = 0;
    bool understood = false;
    switch (option->kind) {
    case TOOL_OPTION_NUMBER: understood = tool_parse_number(text, &number); break;
    case TOOL_OPTION_SIZE: understood = tool_parse_size(text, &number); break;
    case TOOL_OPTION_DURATION: understood = tool_parse_duration(text, &number); break;
    case TOOL_OPTION_CHOICE: return store_choice(option, text);
    case TOOL_OPTION_BACKEND: return store_backend(option, text);
    case TOOL_OPTION_TEXT: *option->value.text = text; return TOOL_GO_ON;
    case TOOL_OPTION_ADDRESS:
        if (pier_address_parse(&option->value.address->address, text) < 0) {
            tool_say("%s: %s", option->name, pier_error_detail());
            return TOOL_USAGE;
        }
        option->value.address->text = text;
        return TOOL_GO_ON;
    case TOOL_OPTION_END:
    case TOOL_OPTION_FLAG: break;
    }
    if (!understood || number < option->min || number > option->max) {
        return refuse_number(option, text);
    }
    *option->value.number = number;
    return TOOL_GO_ON;
}

/* How many letters have to be added, dropped or replaced to turn one name into the other; names
 * here are short. */
static size_t distance(const char *a, const char *b)
{
    enum { LENGTH_MAX = 32 };
    size_t row[LENGTH_MAX + 1];
    size_t a_length = strlen(a), b_length = strlen(b);
    if (a_length > LENGTH_MAX || b_length > LENGTH_MAX) {
        return LENGTH_MAX;
    }
    for (size_t j = 0; j <= b_length; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t change = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = replace < change ? replace : change;
        }
    }
    return row[b_length];
}

static int refuse_option(const struct tool_option *options, const char *name)
{
    const char *nearest = NULL;
    size_t nearest_distance = 3;
    for (; options->kind != TOOL_OPTION_END; options++) {
        size_t letters = distance(options->name, name);
        if (letters < nearest_distance) {
            nearest_distance = letters;
            nearest = options->name;
        }
    }
    if (nearest != NULL) {
        tool_say("unknown option \"%s\": did you mean %s? See pier %s --help", name, nearest,
                 tool_command());
    } else if (strncmp(name, "-", 1) != 0) {
        tool_say("takes no argument \"%s\": options begin with --, see pier %s --help", name,
                 tool_command());
    } else {
        tool_say("unknown option \"%s\": see pier %s --help", name, tool_command());
    }
    return TOOL_USAGE;
}

/* The option of an argument, with *value set to what follows its "=", or NULL. */
static const struct tool_option *find_option(const struct tool_option *options,
                                             const char *argument, const char **value)
{
    const char *equals = strchr(argument, '=');
    size_t length = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
    *value = equals != NULL ? equals + 1 : NULL;
    for (; options->kind != TOOL_OPTION_END; options++) {
        if (strlen(options->name) == length && memcmp(options->name, argument, length) == 0) {
            return options;
        }
    }
    return NULL;
}

int tool_options_parse(const struct tool_option *options, const char *help, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return TOOL_DONE;
        }
    }
    for (int i = 1; i < argc; i++) {
        const char *value;
        const struct tool_option *option = find_option(options, argv[i], &value);
        if (option == NULL) {
            return refuse_option(options, argv[i]);
        }
        if (option->kind == TOOL_OPTION_FLAG) {
            if (value != NULL) {
                tool_say("%s takes no value, not \"%s\"", option->name, value);
                return TOOL_USAGE;
            }
            *option->value.flag = true;
            continue;
        }
        if (value == NULL) {
            if (i + 1 == argc) {
                tool_say("%s needs a value: see pier %s --help", option->name, tool_command());
                return TOOL_USAGE;
            }
            value = argv[++i];
        }
        int status = store_value(option, value);
        if (status != TOOL_GO_ON) {
            return status;
        }
    }
    return TOOL_GO_ON;
}
