/*
 * Which descriptors are queues: birth, look-up, duplicates, fork, and finding out that one closed.
 *
 * The program closes a queue with close(), of which Linux tells nobody. So the table from numbers
 * to queues may be out of date, and is brought up to date when a queue is made (reclaim), and when
 * the kernel answers that a number isn't what it was. Whether a number still is an open queue is
 * asked with epoll_ctl(ADD) of the bell, which every queue has: EEXIST is yes, and nothing changes.
 *
 * A struct kq is never freed, only reused with a new `life`: kevent() may look a queue up and lock
 * it without holding anything that keeps it alive, because the worst it can find is another life.
 */
#include "kq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027 /* Linux 6.10 */
#endif

#define PAGE_SLOTS 1024
#define PAGES 4096
#define FIRST_QUEUES 8

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kq *all_queues; /* open or not; only ever grows */
static _Atomic(_Atomic(struct kq *) *) pages[PAGES];
/* What nearly all programs need, so that no heap block stays behind when all queues are closed. */
static _Atomic(struct kq *) first_page[PAGE_SLOTS];
static struct kq first_queues[FIRST_QUEUES];
static int first_count;
static int bell = -1;
static bool fork_is_handled;

/* The table of numbers. */

static struct kq *queue_at(int fd)
{
    _Atomic(struct kq *) *page;

    if (fd < 0 || fd >= PAGE_SLOTS * PAGES)
        return NULL;
    page = atomic_load_explicit(&pages[fd / PAGE_SLOTS], memory_order_acquire);
    return page ? atomic_load_explicit(&page[fd % PAGE_SLOTS], memory_order_acquire) : NULL;
}

/* With list_lock held. */
static int set_queue_at(int fd, struct kq *q)
{
    _Atomic(struct kq *) *page;

    if (fd < 0 || fd >= PAGE_SLOTS * PAGES)
        return EMFILE;
    page = atomic_load_explicit(&pages[fd / PAGE_SLOTS], memory_order_relaxed);
    if (!page) {
        page = fd < PAGE_SLOTS ? first_page : calloc(PAGE_SLOTS, sizeof(*page));
        if (!page)
            return ENOMEM;
        atomic_store_explicit(&pages[fd / PAGE_SLOTS], page, memory_order_release);
    }
    atomic_store_explicit(&page[fd % PAGE_SLOTS], q, memory_order_release);
    return 0;
}

/* The next number from `fd` on that leads to `q`, or -1. */
static int next_number(const struct kq *q, int fd)
{
    for (; fd < PAGE_SLOTS * PAGES; fd++) {
        if (!atomic_load_explicit(&pages[fd / PAGE_SLOTS], memory_order_relaxed))
            fd |= PAGE_SLOTS - 1;
        else if (queue_at(fd) == q)
            return fd;
    }
    return -1;
}

static bool is_same_file(int a, int b)
{
    int answer = fcntl(a, F_DUPFD_QUERY, b);

    if (answer >= 0)
        return answer == 1;
    return syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, a, b) == 0;
}

/* Whether `fd` is an open queue. An epoll that isn't one is left as it was. */
static bool is_open_queue(int fd)
{
    struct epoll_event event = {.events = EPOLLET | EPOLLONESHOT};

    if (pier__kq_epoll_ctl(fd, EPOLL_CTL_ADD, bell, &event) == -1)
        return errno == EEXIST;
    pier__kq_epoll_ctl(fd, EPOLL_CTL_DEL, bell, NULL);
    return false;
}

/* The end. */

/*
 * Frees all that `q` has, its lock held. Its epoll is closed already, and the library's descriptors
 * are closed before the knotes go: after fork() they are the parent's as well, and a knote that
 * tidied up behind it in one of them would do so in the parent.
 */
static void end_queue(struct kq *q)
{
    q->open = false;
    q->life++;
    pier__kq_timers_close(q);
    pier__kq_source_close(q, SOURCE_SIDE);
    pier__kq_source_close(q, SOURCE_INOTIFY);
    pier__kq_source_close(q, SOURCE_CONNECTOR);
    for (uint32_t index = 0; q->note_count > 0; index++) {
        struct knote *note = pier__kq_at(q, index);

        if (note->in_use)
            pier__kq_drop(q, note, false);
    }
    for (int source = 0; source < SOURCE_COUNT; source++)
        q->sources[source].fd = -1;
    for (uint32_t i = 0; i < q->chunk_count; i++)
        free(q->chunks[i]);
    free(q->chunks);
    free(q->buckets);
    for (int i = 0; i < 2; i++) {
        free(q->heaps[i].notes);
        q->heaps[i] = (struct pier__kq_heap){.timerfd = -1};
    }
    q->chunks = NULL;
    q->buckets = NULL;
    q->chunk_count = q->bucket_count = 0;
}

/* With list_lock held: ends the queues that the program has closed. Whether others are open. */
static bool reclaim(void)
{
    bool any_alive = false;

    for (struct kq *q = all_queues; q; q = q->next) {
        bool alive = false;

        pthread_mutex_lock(&q->lock);
        if (q->open) {
            for (int fd = next_number(q, 0); fd != -1; fd = next_number(q, fd + 1)) {
                if (is_open_queue(fd)) {
                    alive = true;
                    q->fd = fd;
                } else {
                    set_queue_at(fd, NULL);
                }
            }
            if (!alive) {
                q->fd = -1;
                end_queue(q);
            }
        }
        any_alive = any_alive || q->open;
        pthread_mutex_unlock(&q->lock);
    }
    return any_alive;
}

void pier_kqueue_reclaim(void)
{
    pthread_mutex_lock(&list_lock);
    if (bell != -1 && !reclaim()) {
        pier__kq_close(bell, "[eventfd]");
        bell = -1;
    }
    pthread_mutex_unlock(&list_lock);
}

/* Fork: a child has no queues. */

static void before_fork(void)
{
    pthread_mutex_lock(&list_lock);
    for (struct kq *q = all_queues; q; q = q->next)
        pthread_mutex_lock(&q->lock);
    pier__kq_signals_before_fork();
}

static void unlock_after_fork(void)
{
    for (struct kq *q = all_queues; q; q = q->next)
        pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&list_lock);
}

static void after_fork_in_parent(void)
{
    pier__kq_signals_after_fork();
    unlock_after_fork();
}

/*
 * A kqueue isn't inherited. The epoll instance is the parent's too, so nothing may be changed in
 * it: the numbers are closed first, and what end_queue() then asks of it fails and is ignored.
 */
static void after_fork_in_child(void)
{
    pier__kq_signals_after_fork();
    pier__kq_signals_forget_descriptors();
    for (struct kq *q = all_queues; q; q = q->next) {
        if (!q->open)
            continue;
        for (int fd = next_number(q, 0); fd != -1; fd = next_number(q, fd + 1)) {
            if (is_open_queue(fd))
                close(fd);
            set_queue_at(fd, NULL);
        }
        q->fd = -1;
        end_queue(q);
    }
    pier__kq_close(bell, "[eventfd]");
    bell = -1;
    unlock_after_fork();
}

/* Birth. */

static int prepare_process(void)
{
    if (!fork_is_handled) {
        if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
            return ENOMEM;
        fork_is_handled = true;
    }
    if (bell != -1 && !pier__kq_is_kind(bell, "[eventfd]"))
        bell = -1; /* The program has closed all descriptors that it didn't know. */
    if (bell == -1)
        bell = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    return bell == -1 ? errno : 0;
}

static struct kq *take_memory(void)
{
    struct kq *q = all_queues;

    while (q && q->open)
        q = q->next;
    if (q)
        return q;
    q = first_count < FIRST_QUEUES ? &first_queues[first_count++] : calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    pthread_mutex_init(&q->lock, NULL);
    q->next = all_queues;
    all_queues = q;
    return q;
}

/* With list_lock held. */
static int begin_queue(int fd)
{
    struct kq *q = take_memory();
    int error;

    if (!q)
        return ENOMEM;
    pthread_mutex_lock(&q->lock);
    q->fd = fd;
    q->life++;
    q->active_first = q->active_last = NULL;
    q->active_count = q->signal_count = q->connector_count = q->parent_count = 0;
    q->stale_streak = 0;
    q->bell_rung = q->is_collecting = false;
    q->needs_look = false;
    q->files = NULL;
    for (int i = 0; i < SOURCE_COUNT; i++)
        q->sources[i].fd = -1;
    for (int i = 0; i < 2; i++)
        q->heaps[i] = (struct pier__kq_heap){.timerfd = -1};
    error = pier__kq_source_add(q, SOURCE_BELL, bell, EPOLLET | EPOLLONESHOT);
    if (error == 0)
        error = set_queue_at(fd, q);
    q->open = error == 0;
    pthread_mutex_unlock(&q->lock);
    return error;
}

int kqueue1(int flags)
{
    int fd = -1, error;

    if (flags & ~(O_CLOEXEC | O_NONBLOCK)) {
        errno = EINVAL;
        return -1;
    }
    pthread_mutex_lock(&list_lock);
    error = prepare_process();
    if (error == 0) {
        reclaim();
        fd = epoll_create1(EPOLL_CLOEXEC);
        error = fd == -1 ? errno : begin_queue(fd);
    }
    pthread_mutex_unlock(&list_lock);
    if (error == 0 && flags & O_NONBLOCK)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    if (error != 0) {
        if (fd != -1)
            close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int kqueue(void)
{
    return kqueue1(0);
}

/* Look-up. */

/* `fd` may be a duplicate of a queue's descriptor that nobody has told us of. */
static void adopt_duplicate(int fd)
{
    if (fcntl(fd, F_GETFD) == -1)
        return;
    pthread_mutex_lock(&list_lock);
    for (struct kq *q = all_queues; q; q = q->next) {
        pthread_mutex_lock(&q->lock);
        for (int number = q->open ? next_number(q, 0) : -1; number != -1;
             number = next_number(q, number + 1)) {
            if (is_same_file(fd, number)) {
                set_queue_at(fd, q);
                break;
            }
        }
        pthread_mutex_unlock(&q->lock);
    }
    pthread_mutex_unlock(&list_lock);
}

struct kq *pier__kq_lock(int fd)
{
    struct kq *q = queue_at(fd);

    if (!q) {
        adopt_duplicate(fd);
        q = queue_at(fd);
    }
    if (!q)
        return NULL;
    pthread_mutex_lock(&q->lock);
    if (!q->open || queue_at(fd) != q) {
        pthread_mutex_unlock(&q->lock);
        return NULL;
    }
    q->fd = fd;
    return q;
}

uint64_t pier__kq_peek(int fd)
{
    struct kq *q = queue_at(fd);

    if (!q || atomic_load_explicit(&q->needs_look, memory_order_relaxed))
        return 0;
    return atomic_load_explicit(&q->life, memory_order_relaxed);
}

void pier__kq_unlock(struct kq *q)
{
    bool needs_look = q->signal_count > 0 || q->files;

    if (needs_look != atomic_load_explicit(&q->needs_look, memory_order_relaxed))
        atomic_store_explicit(&q->needs_look, needs_look, memory_order_relaxed);
    pthread_mutex_unlock(&q->lock);
}

int pier__kq_verify(struct kq *q)
{
    return is_open_queue(q->fd) ? 0 : EBADF;
}

bool pier__kq_is_queue(int fd)
{
    return queue_at(fd) && is_open_queue(fd);
}

/* A new epoll under the old numbers. */

int pier__kq_replace_epoll(struct kq *q, int epoll)
{
    for (int fd = next_number(q, 0); fd != -1; fd = next_number(q, fd + 1)) {
        int flags = fcntl(fd, F_GETFD);

        if (is_open_queue(fd) && dup3(epoll, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0) == -1)
            return errno;
    }
    return 0;
}

void pier__kq_refresh_watchers(int fd)
{
    pthread_mutex_lock(&list_lock);
    for (struct kq *q = all_queues; q; q = q->next) {
        struct knote *note;

        pthread_mutex_lock(&q->lock);
        note = q->open ? pier__kq_find(q, &pier__kq_read, (uintptr_t)fd) : NULL;
        if (note && note->registered) {
            struct kevent change = note->event;

            change.flags = (unsigned short)(change.flags | EV_ADD);
            note->filter->modify(q, note, &change);
        }
        pthread_mutex_unlock(&q->lock);
    }
    pthread_mutex_unlock(&list_lock);
}
