/*
 * The queue's inotify instance: what it watches, and who hears of what it tells.
 *
 * A watch is set on the file itself, through /proc/self/fd, so it follows renames and works for
 * files without a name. inotify has one watch for a file, however many knotes want it; they are
 * found by its number. Two kinds of knote are here: EVFILT_VNODE (vnode.c), and EVFILT_READ on a
 * regular file, which only wants to know that there is more (file.c).
 *
 * What one read brings is gone through twice: first each knote notes what it hears, then each that
 * heard something looks at its file, once.
 */
#include "kq.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

/* What an overflow may have swallowed. */
#define ANYTHING \
    (IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_OPEN | IN_CLOSE_NOWRITE | IN_CLOSE_WRITE | \
     IN_ACCESS | PIER__KQ_HEARD_OF_END)

/* Watches. */

static int prepare_inotify(struct kq *q)
{
    int fd, error;

    if (q->sources[SOURCE_INOTIFY].fd != -1)
        return 0;
    fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd == -1)
        return errno;
    error = pier__kq_source_add(q, SOURCE_INOTIFY, fd, EPOLLIN);
    if (error != 0)
        close(fd);
    return error;
}

static struct knote **bucket_of(struct kq *q, int watch)
{
    return &q->watches[(unsigned int)watch % PIER__KQ_WATCH_BUCKETS];
}

static bool watches_parent(const struct knote *note, int watch)
{
    return note->in_use && note->filter == &pier__kq_vnode && note->u.vnode.is_directory &&
           note->u.vnode.parent_watch == watch;
}

/* Parents are looked for one by one: few directories are watched for their own end. */
static struct knote *next_child(struct kq *q, int watch, uint32_t *index)
{
    struct knote *note;

    if (q->parent_count == 0)
        return NULL;
    while ((note = pier__kq_at(q, *index)) != NULL) {
        ++*index;
        if (watches_parent(note, watch))
            return note;
    }
    return NULL;
}

static bool is_needed(struct kq *q, int watch, const struct knote *except)
{
    uint32_t index = 0;

    for (struct knote *note = *bucket_of(q, watch); note; note = note->watch_next) {
        if (note != except && note->watch == watch)
            return true;
    }
    return next_child(q, watch, &index) != NULL;
}

/* Removes inotify's watch when no knote needs it any more. */
static void release_watch(struct kq *q, int watch)
{
    if (!is_needed(q, watch, NULL))
        inotify_rm_watch(q->sources[SOURCE_INOTIFY].fd, watch);
}

/* A file that is watched twice has one number; its interests grow until the last knote goes. */
static int add_watch(struct kq *q, const char *path, uint32_t mask, int *watch)
{
    int error = prepare_inotify(q), number;

    if (error != 0)
        return error;
    number = inotify_add_watch(q->sources[SOURCE_INOTIFY].fd, path, mask);
    if (number == -1)
        return errno;
    *watch = number;
    return 0;
}

/*
 * For a knote that has a watch already, the mask is changed under the same number: news that is on
 * its way under that number still finds the knote.
 */
int pier__kq_watch_add(struct kq *q, struct knote *note, uint32_t mask)
{
    bool is_new = note->watch == -1;
    char path[32];
    int error;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", (int)note->event.ident);
    if (is_new || is_needed(q, note->watch, note))
        mask |= IN_MASK_ADD;
    error = add_watch(q, path, mask, &note->watch);
    if (error == 0 && is_new) {
        note->watch_next = *bucket_of(q, note->watch);
        *bucket_of(q, note->watch) = note;
    }
    return error;
}

void pier__kq_watch_remove(struct kq *q, struct knote *note)
{
    int watch = note->watch;
    struct knote **link;

    if (watch == -1)
        return;
    link = bucket_of(q, watch);
    while (*link != note)
        link = &(*link)->watch_next;
    *link = note->watch_next;
    note->watch = -1;
    release_watch(q, watch);
}

int pier__kq_watch_parent(struct kq *q, struct knote *note)
{
    char path[48];
    int old = note->u.vnode.parent_watch, error;

    snprintf(path, sizeof(path), "/proc/self/fd/%d/..", (int)note->event.ident);
    error = add_watch(q, path, IN_DELETE | IN_MOVED_TO | IN_MASK_ADD, &note->u.vnode.parent_watch);
    if (old == -1 && error == 0)
        q->parent_count++;
    if (old != -1 && old != note->u.vnode.parent_watch)
        release_watch(q, old);
    return error;
}

void pier__kq_unwatch_parent(struct kq *q, struct knote *note)
{
    int parent = note->u.vnode.parent_watch;

    if (parent == -1)
        return;
    note->u.vnode.parent_watch = -1;
    q->parent_count--;
    release_watch(q, parent);
}

/* News. */

static void hear(struct kq *q, struct knote *note, uint32_t mask, bool is_inside)
{
    if (note->filter != &pier__kq_vnode) {
        pier__kq_activate(q, note); /* A file at its end has grown: file.c. */
        return;
    }
    note->u.vnode.heard |= mask;
    if (mask & PIER__KQ_DIRECTORY_ENTRIES && note->u.vnode.is_directory)
        note->u.vnode.entries |= pier__kq_vnode_entries_changed(mask, is_inside);
}

static void hear_event(struct kq *q, const struct inotify_event *event, bool is_inside)
{
    uint32_t index = 0;

    if (event->mask & IN_IGNORED)
        return;
    for (struct knote *note = *bucket_of(q, event->wd); note; note = note->watch_next) {
        if (note->watch == event->wd)
            hear(q, note, event->mask, is_inside);
    }
    /* Something was deleted beside or instead of a directory. */
    if (event->mask & (IN_DELETE | IN_MOVED_TO)) {
        for (struct knote *note; (note = next_child(q, event->wd, &index)) != NULL;)
            note->u.vnode.heard |= PIER__KQ_HEARD_OF_END;
    }
}

/* Events were lost: any of them may have happened, and some are found by looking. */
static void hear_everything(struct kq *q)
{
    struct knote *note;

    for (uint32_t index = 0; (note = pier__kq_at(q, index)) != NULL; index++) {
        if (note->in_use && note->watch != -1)
            hear(q, note, ANYTHING | PIER__KQ_DIRECTORY_ENTRIES, false);
    }
}

static void look_if_heard(struct kq *q, struct knote *note)
{
    if (note->in_use && note->filter == &pier__kq_vnode && note->u.vnode.heard != 0)
        pier__kq_vnode_look(q, note);
}

static void look(struct kq *q, const struct inotify_event *event)
{
    struct knote *next;
    uint32_t index = 0;

    for (struct knote *note = *bucket_of(q, event->wd); note; note = next) {
        next = note->watch_next;
        if (note->watch == event->wd)
            look_if_heard(q, note);
    }
    if (event->mask & (IN_DELETE | IN_MOVED_TO)) {
        for (struct knote *note; (note = next_child(q, event->wd, &index)) != NULL;)
            look_if_heard(q, note);
    }
}

static void look_everywhere(struct kq *q)
{
    struct knote *note;

    for (uint32_t index = 0; (note = pier__kq_at(q, index)) != NULL; index++)
        look_if_heard(q, note);
}

static const struct inotify_event *event_at(const char *buffer, ssize_t at)
{
    return (const void *)&buffer[at];
}

static ssize_t after(const char *buffer, ssize_t at)
{
    return at + (ssize_t)sizeof(struct inotify_event) + (ssize_t)event_at(buffer, at)->len;
}

/* Whether this half of a rename() has its other half in the same directory, and next to it. */
static bool is_pair(const struct inotify_event *from, const struct inotify_event *to)
{
    return from->mask & IN_MOVED_FROM && to->mask & IN_MOVED_TO && from->wd == to->wd &&
           from->cookie == to->cookie;
}

void pier__kq_inotify_read(struct kq *q)
{
    char buffer[4096 + NAME_MAX] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t size = read(q->sources[SOURCE_INOTIFY].fd, buffer, sizeof(buffer));
    const struct inotify_event *previous = NULL;
    bool has_overflowed = false;

    /* One buffer per call: what is left keeps inotify readable. */
    for (ssize_t at = 0; at < size; at = after(buffer, at)) {
        const struct inotify_event *event = event_at(buffer, at);
        ssize_t next = after(buffer, at);

        if (event->mask & IN_Q_OVERFLOW)
            has_overflowed = true;
        else
            hear_event(q, event,
                       (previous && is_pair(previous, event)) ||
                           (next < size && is_pair(event, event_at(buffer, next))));
        previous = event;
    }
    if (has_overflowed) {
        hear_everything(q);
        look_everywhere(q);
        return;
    }
    for (ssize_t at = 0; at < size; at = after(buffer, at))
        look(q, event_at(buffer, at));
}
