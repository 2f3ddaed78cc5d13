/*
 * Which descriptors are queues: birth, look-up, duplicates, fork, and finding out that one closed.
 *
 * The program closes a queue with close(), of which Linux tells nobody. So the table from numbers
 * to queues may be out of date, and is brought up to date when a queue is made, and when the kernel
 * answers that a number isn't what it was. Whether a number still is an open queue is asked with
 * epoll_ctl(ADD) of the bell, which every queue has: EEXIST is yes, and nothing changes. kqueue()
 * asks about the next few queues, and goes on while it finds one that has been closed. So it costs
 * the same however many are open, and each that closes is paid for once. It also knows of the one
 * whose number the kernel has just given to the new queue.
 *
 * A struct kq is never freed, only reused with a new `life`: kevent() may look a queue up and lock
 * it without holding anything that keeps it alive, because the worst it can find is another life.
 */
#include "kq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FIRST_QUEUES 8
/* How many queues in a row may be found open before kqueue() asks about no more. */
#define PROBES 8

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kq *all_queues;   /* open or not; only ever grows */
static struct kq *open_queues;  /* a ring; the one that is asked about next */
static struct kq *spare_queues; /* the rest */
static struct kq first_queues[FIRST_QUEUES];
static int first_count;
static int bell = -1;
static bool fork_is_handled;

/* The ring of open queues. With list_lock held. */

static void enter_ring(struct kq *q)
{
    struct kq *after = open_queues ? open_queues : q;

    q->ring_next = after;
    q->ring_previous = open_queues ? after->ring_previous : q;
    q->ring_previous->ring_next = q;
    after->ring_previous = q;
    open_queues = after;
}

static void leave_ring(struct kq *q)
{
    q->ring_previous->ring_next = q->ring_next;
    q->ring_next->ring_previous = q->ring_previous;
    if (open_queues == q)
        open_queues = q->ring_next == q ? NULL : q->ring_next;
    q->ring_next = spare_queues;
    spare_queues = q;
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

/* With list_lock held. */
static void close_queue(struct kq *q)
{
    q->fd = -1;
    end_queue(q);
    leave_ring(q);
}

/* With list_lock held: ends the queue if the program has closed it, and says so. */
static bool end_if_closed(struct kq *q)
{
    bool is_closed;
    int next;

    pthread_mutex_lock(&q->lock);
    for (int fd = q->first_number; fd != -1; fd = next) {
        next = pier__kq_next_number(fd);
        if (is_open_queue(fd))
            q->fd = fd;
        else
            pier__kq_remove_number(q, fd);
    }
    is_closed = q->first_number == -1;
    if (is_closed)
        close_queue(q);
    pthread_mutex_unlock(&q->lock);
    return is_closed;
}

/* With list_lock held: `fd` was just born, so the queue that had the number hasn't got it now. */
static void take_number_away(int fd)
{
    struct kq *q = pier__kq_queue_at(fd);

    if (!q)
        return;
    pthread_mutex_lock(&q->lock);
    pier__kq_remove_number(q, fd);
    if (q->first_number == -1)
        close_queue(q);
    pthread_mutex_unlock(&q->lock);
}

/* With list_lock held: looks at the next of the open queues, until `probes` in a row are open. */
static void reclaim(uint32_t probes)
{
    struct kq *last = open_queues ? open_queues->ring_previous : NULL;
    bool is_round = false;

    for (uint32_t left = probes; open_queues && !is_round && left > 0;) {
        struct kq *q = open_queues;

        is_round = q == last;
        open_queues = q->ring_next;
        left = end_if_closed(q) ? probes : left - 1;
    }
}

void pier_kqueue_reclaim(void)
{
    int saved_errno = errno;

    pthread_mutex_lock(&list_lock);
    if (bell != -1)
        reclaim(UINT32_MAX);
    if (bell != -1 && !open_queues) {
        pier__kq_close(bell, "[eventfd]");
        bell = -1;
    }
    pthread_mutex_unlock(&list_lock);
    errno = saved_errno;
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
    int saved_errno = errno;

    pier__kq_signals_after_fork();
    pier__kq_signals_forget_descriptors();
    while (open_queues) {
        struct kq *q = open_queues;

        while (q->first_number != -1) {
            if (is_open_queue(q->first_number))
                close(q->first_number);
            pier__kq_remove_number(q, q->first_number);
        }
        close_queue(q);
    }
    pier__kq_close(bell, "[eventfd]");
    bell = -1;
    unlock_after_fork();
    errno = saved_errno;
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
    struct kq *q = spare_queues;

    if (q) {
        spare_queues = q->ring_next;
        return q;
    }
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
    q->first_number = -1;
    q->life++;
    q->active_first = q->active_last = NULL;
    q->active_count = q->signal_count = q->connector_count = q->parent_count = 0;
    q->stale_streak = 0;
    memset(q->owed, 0, sizeof(q->owed));
    q->bell_rung = q->is_collecting = false;
    q->needs_look = false;
    q->files = NULL;
    for (int i = 0; i < SOURCE_COUNT; i++)
        q->sources[i].fd = -1;
    for (int i = 0; i < 2; i++)
        q->heaps[i] = (struct pier__kq_heap){.timerfd = -1};
    error = pier__kq_source_add(q, SOURCE_BELL, bell, EPOLLET | EPOLLONESHOT);
    if (error == 0)
        error = pier__kq_add_number(q, fd);
    q->open = error == 0;
    enter_ring(q);
    if (!q->open)
        leave_ring(q);
    pthread_mutex_unlock(&q->lock);
    return error;
}

int kqueue1(int flags)
{
    int fd = -1, error, saved_errno = errno;

    if (flags & ~(O_CLOEXEC | O_NONBLOCK)) {
        errno = EINVAL;
        return -1;
    }
    pthread_mutex_lock(&list_lock);
    error = prepare_process();
    if (error == 0) {
        reclaim(PROBES);
        fd = epoll_create1(EPOLL_CLOEXEC);
        error = fd == -1 ? errno : 0;
    }
    if (error == 0) {
        take_number_away(fd);
        error = begin_queue(fd);
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
    errno = saved_errno;
    return fd;
}

int kqueue(void)
{
    return kqueue1(0);
}

/* Look-up. */

/* With its lock held. */
static bool has_number_for(const struct kq *q, int fd)
{
    for (int number = q->first_number; number != -1; number = pier__kq_next_number(number)) {
        if (pier__kq_is_same_open_file(fd, number))
            return true;
    }
    return false;
}

/* `fd` may be a duplicate of a queue's descriptor that nobody has told us of. */
static void adopt_duplicate(int fd)
{
    struct kq *q;
    bool is_found = false;

    pthread_mutex_lock(&list_lock);
    q = open_queues;
    if (q && !pier__kq_queue_at(fd) && is_open_queue(fd)) {
        do {
            pthread_mutex_lock(&q->lock);
            is_found = has_number_for(q, fd);
            if (is_found)
                pier__kq_add_number(q, fd);
            pthread_mutex_unlock(&q->lock);
            q = q->ring_next;
        } while (!is_found && q != open_queues);
    }
    pthread_mutex_unlock(&list_lock);
}

struct kq *pier__kq_lock(int fd)
{
    struct kq *q = pier__kq_queue_at(fd);

    if (!q) {
        adopt_duplicate(fd);
        q = pier__kq_queue_at(fd);
    }
    if (!q)
        return NULL;
    pthread_mutex_lock(&q->lock);
    if (!q->open || pier__kq_queue_at(fd) != q) {
        pthread_mutex_unlock(&q->lock);
        return NULL;
    }
    q->fd = fd;
    return q;
}

uint64_t pier__kq_peek(int fd)
{
    struct kq *q = pier__kq_queue_at(fd);

    if (!q || atomic_load_explicit(&q->needs_look, memory_order_relaxed))
        return 0;
    return atomic_load_explicit(&q->life, memory_order_relaxed);
}

void pier__kq_unlock(struct kq *q)
{
    bool needs_look = q->signal_count > 0 || q->files || pier__kq_owes(q);

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
    return pier__kq_queue_at(fd) && is_open_queue(fd);
}

/* A new epoll under the old numbers. */

int pier__kq_replace_epoll(struct kq *q, int epoll)
{
    for (int fd = q->first_number; fd != -1; fd = pier__kq_next_number(fd)) {
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
