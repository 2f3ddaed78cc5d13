/* unit_memory.c - counts the heap blocks of the test's and pier's own code.
 *
 * The tests' build links with --wrap, so that each call of malloc() and its kin in the objects of
 * the program (the static libpier among them) arrives here first. What the C library allocates for
 * itself never does, which keeps lazily made buffers of stdio or the resolver out of the balance.
 *
 * Live blocks are in a hash table by address, with the number of their allocation. Freeing an
 * address that isn't there is normal: strdup() and its kin allocate unseen. The lock is a spin lock
 * because tests allocate on several threads, and the table's own memory comes from the real
 * allocator. Without --wrap (Mach-O linkers have none, nor has zig) only the queries at the end are
 * built. */

#include "unit.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PIER_UNIT_WRAPS_MALLOC

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);

/* address 0: never used; address 1: its block was freed. */
struct block {
    uintptr_t address;
    size_t size;
    uint64_t number;
};

static atomic_flag table_lock = ATOMIC_FLAG_INIT;
static struct block *table;
static size_t table_size; /* a power of two, or 0 before the first block */
static size_t table_used; /* live and freed entries */
static size_t live_blocks;
static uint64_t allocations;

static void lock_table(void)
{
    while (atomic_flag_test_and_set_explicit(&table_lock, memory_order_acquire)) {}
}

static void unlock_table(void)
{
    atomic_flag_clear_explicit(&table_lock, memory_order_release);
}

static size_t first_place(uintptr_t address)
{
    uint64_t mixed = (uint64_t)address * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 20) & (table_size - 1);
}

/* The entry of an address, or the free one where it belongs. */
static struct block *find_block(uintptr_t address)
{
    size_t place = first_place(address);
    while (table[place].address != 0 && table[place].address != address)
        place = (place + 1) & (table_size - 1);
    return &table[place];
}

/* Makes room: twice the live blocks at least, freed entries forgotten. */
static void rebuild_table(void)
{
    struct block *old = table;
    size_t old_size = table_size;
    size_t size = 1024;
    while (size < live_blocks * 4)
        size *= 2;
    table = __real_calloc(size, sizeof *table);
    if (table == NULL) {
        fprintf(stderr, "no memory for the harness's table of %zu blocks\n", size);
        abort();
    }
    table_size = size;
    table_used = live_blocks;
    for (size_t i = 0; i < old_size; i++) {
        if (old[i].address > 1)
            *find_block(old[i].address) = old[i];
    }
    __real_free(old);
}

static void *add_block(void *memory, size_t size)
{
    if (memory == NULL)
        return NULL;
    lock_table();
    allocations++;
    if ((table_used + 1) * 2 > table_size)
        rebuild_table();
    struct block *block = find_block((uintptr_t)memory);
    if (block->address == 0)
        table_used++;
    *block = (struct block){(uintptr_t)memory, size, allocations};
    live_blocks++;
    unlock_table();
    return memory;
}

static void remove_block(const void *memory)
{
    if (memory == NULL)
        return;
    lock_table();
    if (table_size > 0) {
        struct block *block = find_block((uintptr_t)memory);
        if (block->address != 0) {
            block->address = 1;
            live_blocks--;
        }
    }
    unlock_table();
}

void *__wrap_malloc(size_t size)
{
    return add_block(__real_malloc(size), size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return add_block(__real_calloc(count, size), count * size);
}

/* The old block leaves the table before it is given back, since another thread may be given its
 * address at once. When realloc() fails it returns as a new one. */
void *__wrap_realloc(void *memory, size_t size)
{
    uintptr_t kept = (uintptr_t)memory;
    remove_block(memory);
    void *moved = __real_realloc(memory, size);
    if (moved != NULL)
        return add_block(moved, size);
    if (size > 0 && kept != 0)
        add_block((void *)kept, size);
    return NULL;
}

void __wrap_free(void *memory)
{
    remove_block(memory);
    __real_free(memory);
}

bool unit_allocations_counted(void)
{
    return true;
}

uint64_t unit_allocation_count(void)
{
    lock_table();
    uint64_t count = allocations;
    unlock_table();
    return count;
}

size_t unit_live_blocks(void)
{
    lock_table();
    size_t count = live_blocks;
    unlock_table();
    return count;
}

void unit_report_blocks(uint64_t mark)
{
    int printed = 0;
    lock_table();
    for (size_t i = 0; i < table_size && printed < 10; i++) {
        if (table[i].address > 1 && table[i].number > mark) {
            printf("# %zu bytes at %#" PRIxPTR " are still allocated (allocation %" PRIu64
                   " of the test)\n",
                   table[i].size, table[i].address, table[i].number - mark);
            printed++;
        }
    }
    unlock_table();
}

#else

bool unit_allocations_counted(void)
{
    return false;
}

uint64_t unit_allocation_count(void)
{
    return 0;
}

size_t unit_live_blocks(void)
{
    return 0;
}

void unit_report_blocks(uint64_t mark)
{
    (void)mark;
}

#endif
