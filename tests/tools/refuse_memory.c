/* SPDX-License-Identifier: MIT */
/* refuse_memory.c - for LD_PRELOAD: refuses memory to the program that it is loaded into.
 *
 * PIER_TEST_REFUSE=N refuses the request number N for new memory, counted from the start of the
 * process over all its threads; N+ refuses that one and all behind it. PIER_TEST_REQUESTS=FILE has
 * the number of all requests written there when the process ends. Needs glibc, whose functions have
 * a second name each. */

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static atomic_ulong requests;

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("PIER_TEST_REQUESTS");
    int file = path != NULL ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
    if (file >= 0) {
        dprintf(file, "%lu\n", atomic_load(&requests));
        close(file);
    }
}

static int refuses(void)
{
    unsigned long number = atomic_fetch_add(&requests, 1) + 1;
    const char *text = getenv("PIER_TEST_REFUSE"); /* allocates nothing */
    char *end;
    unsigned long from = text != NULL ? strtoul(text, &end, 10) : 0;
    if (from == 0 || number < from || (number > from && *end != '+')) {
        return 0;
    }
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return refuses() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return refuses() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return refuses() ? NULL : __libc_realloc(memory, size);
}
