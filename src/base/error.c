/* error.c - names and texts of the error numbers, the line behind a failed set-up call, and the end
 * of a program that broke a rule.
 *
 * The detail line belongs to the thread whose call failed and stays until that thread's next
 * failing call; a success doesn't clear it, as with errno. It always is one line of printable
 * ASCII: what callers pass in may hold anything, and the line ends up in logs and on terminals. */

#include "base/error.h"

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static PIER__THREAD_LOCAL char error_detail[PIER__DETAIL_MAX];

const char *pier_error_name(int64_t error)
{
    if (error >= 0)
        return "PIER_OK";
    switch (error) {
#define ERROR_NAME(name, number, text) \
    case number: return #name;
        PIER_ERRORS(ERROR_NAME)
#undef ERROR_NAME
    default: return "PIER_E?";
    }
}

const char *pier_error_text(int64_t error)
{
    if (error >= 0)
        return "success";
    switch (error) {
#define ERROR_TEXT(name, number, text) \
    case number: return text;
        PIER_ERRORS(ERROR_TEXT)
#undef ERROR_TEXT
    default: return "not an error number of pier";
    }
}

const char *pier_error_detail(void)
{
    return error_detail;
}

static bool prints(unsigned char byte)
{
    return byte >= 0x20 && byte < 0x7f;
}

/* Writes one byte as it is shown and returns the characters that took, at most 4. */
static size_t show_byte(char *out, unsigned char byte, bool in_quotes)
{
    static const char digits[] = "0123456789abcdef";
    if (in_quotes && (byte == '"' || byte == '\\')) {
        out[0] = '\\';
        out[1] = (char)byte;
        return 2;
    }
    if (prints(byte)) {
        out[0] = (char)byte;
        return 1;
    }
    out[0] = '\\';
    out[1] = 'x';
    out[2] = digits[byte >> 4];
    out[3] = digits[byte & 15];
    return 4;
}

/* Shows `size` bytes in at most `room` characters, the last three of them "..." when not all fit.
 * Writes no final zero. */
static size_t show_bytes(char *out, size_t room, const char *bytes, size_t size, bool in_quotes)
{
    size_t length = 0, fits = 0; /* fits: where "..." still has room behind */
    for (size_t i = 0; i < size; i++) {
        char shown[4];
        size_t count = show_byte(shown, (unsigned char)bytes[i], in_quotes);
        if (length + count > room) {
            memcpy(out + fits, "...", 3);
            return fits + 3;
        }
        memcpy(out + length, shown, count);
        length += count;
        if (length + 3 <= room)
            fits = length;
    }
    return length;
}

const char *pier__quote(struct pier__quoted *room, const char *value, size_t size)
{
    if (value == NULL)
        return "(null)";
    char *out = room->text;
    *out++ = '"';
    out += show_bytes(out, sizeof room->text - 3, value, size, true);
    *out++ = '"';
    *out = '\0';
    return room->text;
}

int pier__fail(int error, const char *format, ...)
{
    /* A line that is longer than its room by one byte is known to be cut by that byte. Formatting
     * aside also allows the last detail to be part of the new one. */
    char line[PIER__DETAIL_MAX + 1];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0) {
        error_detail[0] = '\0';
        return error;
    }
    size_t size = (size_t)length < sizeof line ? (size_t)length : sizeof line - 1;
    size_t shown = show_bytes(error_detail, sizeof error_detail - 1, line, size, false);
    error_detail[shown] = '\0';
    return error;
}

/* Standard error is unbuffered, so the line is one write. Not abort(), which prints a line of its
 * own on Windows; a handler that returns changes nothing, as with abort(). */
PIER__NORETURN static void stop_program(const char *line)
{
    fputs(line, stderr);
    raise(SIGABRT);
    signal(SIGABRT, SIG_DFL);
    raise(SIGABRT);
    _Exit(3);
}

void pier__misuse(const char *function, const char *rule)
{
    char line[256];
    snprintf(line, sizeof line, "pier: %s: %s\n", function, rule);
    stop_program(line);
}

void pier__broken(const char *file, int line_number, const char *expression)
{
    char line[256];
    snprintf(line, sizeof line, "pier: broken invariant at %s:%d: %s\n", file, line_number,
             expression);
    stop_program(line);
}
