/* account.c - what the scenario has found wrong, and what memory it
 * holds. */

#include "account.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "scenario.h"

static char problem[256];
static size_t blocks;

void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (problem[0] == '\0') {
        vsnprintf(problem, sizeof(problem), format, arguments);
    }
    va_end(arguments);
}

const char *scenario_problem(void)
{
    return problem;
}

/* ---- memory */

union header {
    size_t size;
    max_align_t align;
};

void *account_allocate(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    union header *header = memory != NULL ? (union header *)memory - 1 : NULL;
    if ((header != NULL ? header->size : 0) != old_size) {
        complain("the allocator was told %zu bytes of a block of %zu", old_size,
                 header != NULL ? header->size : 0);
    }
    if (new_size == 0) {
        blocks -= header != NULL;
        free(header);
        return NULL;
    }
    union header *made = realloc(header, sizeof(*header) + new_size);
    if (made == NULL) {
        return NULL;
    }
    blocks += header == NULL;
    made->size = new_size;
    return made + 1;
}

size_t account_blocks(void)
{
    return blocks;
}
