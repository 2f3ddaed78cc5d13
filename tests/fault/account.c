/* account.c - what the scenario has found wrong, and what it holds: memory and descriptors. */

#include "account.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef PIER_HAVE_KQUEUE_EMULATION
#include <sys/types.h>

#include <sys/event.h>
#endif

#include "scenario.h"

enum { DESCRIPTORS = 256 };

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

/* ---- memory and descriptors */

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

int account_descriptors(void)
{
    int count = 0;
#ifdef PIER_HAVE_KQUEUE_EMULATION
    pier_kqueue_reclaim(); /* the library that stands in for kqueue doesn't notice a close */
#endif
    for (int i = 0; i < DESCRIPTORS; i++) {
        count += fcntl(i, F_GETFD) != -1;
    }
    return count;
}

size_t account_blocks(void)
{
    return blocks;
}
