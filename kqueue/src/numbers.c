/*
 * The table of numbers: which descriptor leads to which queue.
 *
 * It is read without a lock, by each kevent(). A page of it is made when the first queue has a
 * number there, and stays. The numbers of one queue, which are several if it was duplicated, are a
 * list through the table.
 */
#include "kq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027 /* Linux 6.10 */
#endif

#define PAGE_SLOTS 1024
#define PAGES 4096

struct slot {
    _Atomic(struct kq *) queue;
    int next; /* the queue's next number, or -1; its lock guards this */
};

static _Atomic(struct slot *) pages[PAGES];
/* What nearly all programs need, so that no heap block stays behind when all queues are closed. */
static struct slot first_page[PAGE_SLOTS];

static struct slot *slot_of(int fd)
{
    struct slot *page;

    if (fd < 0 || fd >= PAGE_SLOTS * PAGES)
        return NULL;
    page = atomic_load_explicit(&pages[fd / PAGE_SLOTS], memory_order_acquire);
    return page ? &page[fd % PAGE_SLOTS] : NULL;
}

struct kq *pier__kq_queue_at(int fd)
{
    struct slot *slot = slot_of(fd);

    return slot ? atomic_load_explicit(&slot->queue, memory_order_acquire) : NULL;
}

int pier__kq_next_number(int fd)
{
    return slot_of(fd)->next;
}

int pier__kq_add_number(struct kq *q, int fd)
{
    _Atomic(struct slot *) *page;
    struct slot *slot;

    if (fd < 0 || fd >= PAGE_SLOTS * PAGES)
        return EMFILE;
    page = &pages[fd / PAGE_SLOTS];
    if (!atomic_load_explicit(page, memory_order_relaxed)) {
        struct slot *fresh = fd < PAGE_SLOTS ? first_page : calloc(PAGE_SLOTS, sizeof(*fresh));

        if (!fresh)
            return ENOMEM;
        atomic_store_explicit(page, fresh, memory_order_release);
    }
    slot = slot_of(fd);
    slot->next = q->first_number;
    q->first_number = fd;
    atomic_store_explicit(&slot->queue, q, memory_order_release);
    return 0;
}

void pier__kq_remove_number(struct kq *q, int fd)
{
    int *link = &q->first_number;

    while (*link != fd)
        link = &slot_of(*link)->next;
    *link = slot_of(fd)->next;
    atomic_store_explicit(&slot_of(fd)->queue, NULL, memory_order_release);
}

bool pier__kq_is_same_open_file(int a, int b)
{
    int answer = fcntl(a, F_DUPFD_QUERY, b);

    if (answer >= 0)
        return answer == 1;
    return syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, a, b) == 0;
}
