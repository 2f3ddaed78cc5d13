/*
 * A queue's tables: its knotes, the active list with the bell, and the library's own descriptors.
 *
 * Knotes live in chunks that are never moved or given back, so that an index from an old epoll tag
 * always leads to a knote, whose generation then says whether it is still the one that was meant.
 * They are found by (filter, ident) in a hash table, by tag in one step.
 *
 * The active list holds the knotes whose events are known here and not in the kernel. While it has
 * any, the bell rings: an eventfd that is always readable, one for the whole process, is armed in
 * the queue's epoll with EPOLLONESHOT. Ringing is one epoll_ctl, and the wait that hears it needs
 * no read to silence it.
 */
#include "kq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHUNK 64U
#define NO_INDEX UINT32_MAX
#define SOURCE_TAG 0xffffff00U

/* The table. */

static uint32_t hash_of(const struct pier__kq_filter *filter, uintptr_t ident)
{
    uint64_t key = (uint64_t)ident * 0x9e3779b97f4a7c15U + (uint64_t)(uintptr_t)filter;

    return (uint32_t)(key >> 32) ^ (uint32_t)key;
}

struct knote *pier__kq_at(struct kq *q, uint32_t index)
{
    return index / CHUNK < q->chunk_count ? &q->chunks[index / CHUNK][index % CHUNK] : NULL;
}

uint64_t pier__kq_tag(const struct knote *note)
{
    return (uint64_t)note->generation << 32 | note->index;
}

struct knote *pier__kq_by_tag(struct kq *q, uint64_t tag)
{
    struct knote *note = pier__kq_at(q, (uint32_t)tag);

    return note && note->in_use && note->generation == (uint32_t)(tag >> 32) ? note : NULL;
}

struct knote *pier__kq_find(struct kq *q, const struct pier__kq_filter *filter, uintptr_t ident)
{
    struct knote *note;

    if (q->bucket_count == 0)
        return NULL;
    note = q->buckets[hash_of(filter, ident) & (q->bucket_count - 1)];
    while (note && (note->filter != filter || note->event.ident != ident))
        note = note->hash_next;
    return note;
}

static int grow_buckets(struct kq *q)
{
    uint32_t count = q->bucket_count ? q->bucket_count * 2 : 32;
    struct knote **buckets = calloc(count, sizeof(*buckets));

    if (!buckets)
        return ENOMEM;
    for (uint32_t i = 0; i < q->bucket_count; i++) {
        struct knote *note = q->buckets[i];

        while (note) {
            struct knote *next = note->hash_next;
            struct knote **head = &buckets[hash_of(note->filter, note->event.ident) & (count - 1)];

            note->hash_next = *head;
            *head = note;
            note = next;
        }
    }
    free(q->buckets);
    q->buckets = buckets;
    q->bucket_count = count;
    return 0;
}

static int grow_chunks(struct kq *q)
{
    struct knote **chunks = realloc(q->chunks, (q->chunk_count + 1) * sizeof(*chunks));
    struct knote *chunk;

    if (!chunks)
        return ENOMEM;
    q->chunks = chunks;
    chunk = calloc(CHUNK, sizeof(*chunk));
    if (!chunk)
        return ENOMEM;
    for (uint32_t i = 0; i < CHUNK; i++) {
        chunk[i].index = q->chunk_count * CHUNK + i;
        chunk[i].u.timer.place = i + 1 < CHUNK ? chunk[i].index + 1 : NO_INDEX;
    }
    q->free_index = q->chunk_count * CHUNK;
    chunks[q->chunk_count++] = chunk;
    return 0;
}

struct knote *pier__kq_note_new(struct kq *q, const struct pier__kq_filter *filter,
                                const struct kevent *change)
{
    struct knote *note, **head;
    uint32_t index, generation;

    if (q->chunk_count == 0)
        q->free_index = NO_INDEX;
    if (q->note_count >= q->bucket_count && grow_buckets(q) != 0)
        return NULL;
    if (q->free_index == NO_INDEX && grow_chunks(q) != 0)
        return NULL;
    note = pier__kq_at(q, q->free_index);
    q->free_index = note->u.timer.place;

    index = note->index;
    generation = note->generation;
    memset(note, 0, sizeof(*note));
    note->index = index;
    note->generation = generation;
    note->in_use = true;
    note->event = *change;
    note->filter = filter;
    note->watch = -1;

    head = &q->buckets[hash_of(filter, change->ident) & (q->bucket_count - 1)];
    note->hash_next = *head;
    *head = note;
    q->note_count++;
    return note;
}

void pier__kq_note_free(struct kq *q, struct knote *note)
{
    struct knote **link;

    pier__kq_deactivate(q, note);
    link = &q->buckets[hash_of(note->filter, note->event.ident) & (q->bucket_count - 1)];
    while (*link != note)
        link = &(*link)->hash_next;
    *link = note->hash_next;
    q->note_count--;
    note->in_use = false;
    note->generation++;
    note->u.timer.place = q->free_index;
    q->free_index = note->index;
}

int pier__kq_drop(struct kq *q, struct knote *note, bool spent)
{
    int error = note->filter->detach(q, note, spent);

    pier__kq_note_free(q, note);
    return error;
}

/* The active list and the bell. */

int pier__kq_ring(struct kq *q)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};

    if (q->bell_rung || q->is_collecting)
        return 0;
    event.data.u64 = pier__kq_source_tag(SOURCE_BELL);
    if (pier__kq_epoll_ctl(q->fd, EPOLL_CTL_MOD, q->sources[SOURCE_BELL].fd, &event) == -1)
        return EBADF; /* The number isn't this queue any more: it has been closed. */
    q->bell_rung = true;
    return 0;
}

void pier__kq_silence_bell(struct kq *q)
{
    struct epoll_event event = {.events = EPOLLET | EPOLLONESHOT};

    if (!q->bell_rung)
        return;
    event.data.u64 = pier__kq_source_tag(SOURCE_BELL);
    pier__kq_epoll_ctl(q->fd, EPOLL_CTL_MOD, q->sources[SOURCE_BELL].fd, &event);
    q->bell_rung = false;
}

int pier__kq_activate(struct kq *q, struct knote *note)
{
    if (note->active || note->disabled)
        return 0;
    note->active = true;
    note->active_next = NULL;
    note->active_previous = q->active_last;
    if (q->active_last)
        q->active_last->active_next = note;
    else
        q->active_first = note;
    q->active_last = note;
    q->active_count++;
    return pier__kq_ring(q);
}

void pier__kq_deactivate(struct kq *q, struct knote *note)
{
    if (!note->active)
        return;
    note->active = false;
    if (note->active_next)
        note->active_next->active_previous = note->active_previous;
    else
        q->active_last = note->active_previous;
    if (note->active_previous)
        note->active_previous->active_next = note->active_next;
    else
        q->active_first = note->active_next;
    q->active_count--;
}

/* The library's own descriptors. */

/*
 * Not through the C library, where the thread sanitizer would listen: it holds a call that meets
 * another thread's close() for a mistake. Here that is expected, and the kernel's answer is used.
 */
int pier__kq_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

int pier__kq_stat(int fd, struct stat *status)
{
    return fstatat(fd, "", status, AT_EMPTY_PATH); /* not fstat(), for the same reason */
}

bool pier__kq_is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

uint64_t pier__kq_source_tag(enum pier__kq_source source)
{
    return SOURCE_TAG + (uint64_t)source;
}

int pier__kq_source_add(struct kq *q, enum pier__kq_source source, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};

    event.data.u64 = pier__kq_source_tag(source);
    if (pier__kq_epoll_ctl(q->fd, EPOLL_CTL_ADD, fd, &event) == -1)
        return errno;
    q->sources[source].fd = fd;
    q->sources[source].events = events;
    return 0;
}

/*
 * A program may close all descriptors it doesn't know (a daemon that starts) and open others under
 * their numbers. Without /proc it is believed not to have done so.
 */
bool pier__kq_is_kind(int fd, const char *kind)
{
    char path[32], target[64];
    ssize_t size;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    size = readlink(path, target, sizeof(target) - 1);
    if (size == -1)
        return pier__kq_is_open(fd);
    target[size] = '\0';
    return strstr(target, kind) != NULL;
}

void pier__kq_close(int fd, const char *kind)
{
    if (fd != -1 && pier__kq_is_kind(fd, kind))
        close(fd);
}

void pier__kq_source_close(struct kq *q, enum pier__kq_source source)
{
    static const char *const kinds[SOURCE_COUNT] = {
        [SOURCE_BELL] = "[eventfd]",
        [SOURCE_SIDE] = "[eventpoll]",
        [SOURCE_TIMER] = "[timerfd]",
        [SOURCE_WALL_TIMER] = "[timerfd]",
        [SOURCE_INOTIFY] = "inotify",
        [SOURCE_SIGNAL] = "[eventfd]",
        [SOURCE_SIGNAL_BLOCKED] = "[signalfd]",
        [SOURCE_CONNECTOR] = "socket:",
    };

    pier__kq_close(q->sources[source].fd, kinds[source]);
    q->sources[source].fd = -1;
}
