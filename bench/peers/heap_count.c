/*
 * Counts the heap allocations of a program it is loaded into with LD_PRELOAD, and adds a line
 * "heap_allocations=N" to the standard error at its end. Freeing isn't counted, nor is memory that
 * comes from mmap or from a library's own pages; Go programs, which have a heap of their own, are
 * not seen at all.
 *
 * dlsym() itself may allocate while the real functions are still unknown: such early requests are
 * served from a small static arena and never given back.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_memalign)(size_t, size_t);
static void (*real_free)(void *);

static atomic_ullong allocations;
static _Alignas(16) unsigned char arena[16 * 1024];
static size_t arena_used;

void *memalign(size_t alignment, size_t size);

static void *find_function(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void find_functions(void)
{
    *(void **)&real_calloc = find_function("calloc");
    *(void **)&real_realloc = find_function("realloc");
    *(void **)&real_aligned_alloc = find_function("aligned_alloc");
    *(void **)&real_posix_memalign = find_function("posix_memalign");
    *(void **)&real_memalign = find_function("memalign");
    *(void **)&real_free = find_function("free");
    *(void **)&real_malloc = find_function("malloc");
}

__attribute__((destructor)) static void print_count(void)
{
    char line[64];
    int length = snprintf(line, sizeof line, "heap_allocations=%llu\n",
                          (unsigned long long)atomic_load(&allocations));
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
}

static void count_one(void)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
}

static int is_in_arena(const void *memory)
{
    uintptr_t address = (uintptr_t)memory, begin = (uintptr_t)arena;
    return address >= begin && address < begin + sizeof arena;
}

/* Zeroed, since the arena is static and never reused. */
static void *allocate_early(size_t size)
{
    size_t rounded = (size + 15) & ~(size_t)15;
    if (rounded > sizeof arena - arena_used)
        return NULL;
    void *memory = arena + arena_used;
    arena_used += rounded;
    return memory;
}

void *malloc(size_t size)
{
    count_one();
    return real_malloc != NULL ? real_malloc(size) : allocate_early(size);
}

void *calloc(size_t count, size_t size)
{
    count_one();
    return real_calloc != NULL ? real_calloc(count, size) : allocate_early(count * size);
}

void *realloc(void *memory, size_t size)
{
    count_one();
    if (real_realloc != NULL && !is_in_arena(memory))
        return real_realloc(memory, size);
    void *moved = real_malloc != NULL ? real_malloc(size) : allocate_early(size);
    if (moved != NULL && memory != NULL) {
        size_t left = (size_t)(arena + sizeof arena - (unsigned char *)memory);
        memcpy(moved, memory, size < left ? size : left);
    }
    return moved;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count_one();
    return real_aligned_alloc != NULL ? real_aligned_alloc(alignment, size) : NULL;
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    count_one();
    return real_posix_memalign != NULL ? real_posix_memalign(memory, alignment, size) : ENOMEM;
}

void *memalign(size_t alignment, size_t size)
{
    count_one();
    return real_memalign != NULL ? real_memalign(alignment, size) : NULL;
}

void free(void *memory)
{
    if (real_free != NULL && !is_in_arena(memory))
        real_free(memory);
}
