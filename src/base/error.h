/* error.h - how the library explains a failed set-up call.
 *
 * A set-up function that fails says why in one line, which pier_error_detail() hands to the
 * program:
 *
 *     return pier__fail(PIER_EINVAL, "backend %s is unknown: use uring, epoll, poll or select",
 *                       PIER__QUOTE_TEXT(name));
 *
 * The line names the value and the remedy. Values that come from outside go through the quoting
 * functions, so that a long or hostile one can neither flood a log nor steer a terminal. */

#ifndef PIER_BASE_ERROR_H
#define PIER_BASE_ERROR_H

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "pier/pier.h"

/* MinGW has two printf families, and says in stdio.h which one this build uses. */
#if defined(__GNUC__) && defined(__MINGW_PRINTF_FORMAT)
#define PIER__FORMATS __attribute__((format(__MINGW_PRINTF_FORMAT, 2, 3)))
#elif defined(__GNUC__)
#define PIER__FORMATS __attribute__((format(printf, 2, 3)))
#else
#define PIER__FORMATS
#endif

/* Room for the line of pier_error_detail(), with its final zero. It lives in each thread's static
 * block, of which a library loaded late gets little, so it must stay small. */
#define PIER__DETAIL_MAX 256

/* Sets this thread's detail line and returns `error`. A line that is too long ends in "...", and
 * bytes that don't print are shown as \xHH. */
PIER__COLD PIER__FORMATS int pier__fail(int error, const char *format, ...);

struct pier__quoted {
    char text[80];
};

/* Writes a value into `room` for a detail line: in double quotes, bytes that don't print shown as
 * \xHH, and cut with "..." when it is longer than some 70 characters. NULL is shown as (null). */
const char *pier__quote(struct pier__quoted *room, const char *value, size_t size);

/* A quoted value that lives as long as the block around the expression. */
#define PIER__QUOTE(value, size) pier__quote(&(struct pier__quoted){{0}}, (value), (size))
#define PIER__QUOTE_TEXT(value) PIER__QUOTE((value), (value) == NULL ? 0 : strlen(value))

#endif
