/*
 * EVFILT_VNODE: what happens to a file or directory, by inotify.
 *
 * One inotify instance per queue. A watch is set on the file itself, through /proc/self/fd, so it
 * follows renames and works for files without a name. inotify says less than BSD in one place: all
 * changes of attributes, link count included, are IN_ATTRIB; what it was is found by comparing
 * with the last look. It also says nothing to an open directory that is removed, so for NOTE_DELETE
 * of a directory its parent is watched as well.
 *
 * The program may close the descriptor without a word. When an event comes, the number must still
 * lead to the same device and inode, or the knote goes.
 */
#include "kq.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECTORY_ENTRIES (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)

/* The inotify instance. */

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

/* A file that is watched twice has one number; its interests grow until the last knote goes. */
static int add_watch(struct kq *q, const char *path, uint32_t mask, int *watch)
{
    int error = prepare_inotify(q), number;

    if (error != 0)
        return error;
    number = inotify_add_watch(q->sources[SOURCE_INOTIFY].fd, path, mask | IN_MASK_ADD);
    if (number == -1)
        return errno;
    *watch = number;
    return 0;
}

int pier__kq_watch_add(struct kq *q, struct knote *note, uint32_t mask)
{
    char path[32];
    int error;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", (int)note->event.ident);
    error = add_watch(q, path, mask, &note->watch);
    if (error == 0) {
        note->watch_next = *bucket_of(q, note->watch);
        *bucket_of(q, note->watch) = note;
    }
    return error;
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

    while ((note = pier__kq_at(q, *index)) != NULL) {
        ++*index;
        if (watches_parent(note, watch))
            return note;
    }
    return NULL;
}

/* Removes inotify's watch when no knote needs it any more. */
static void release_watch(struct kq *q, int watch)
{
    uint32_t index = 0;

    for (struct knote *note = *bucket_of(q, watch); note; note = note->watch_next) {
        if (note->watch == watch)
            return;
    }
    if (!next_child(q, watch, &index))
        inotify_rm_watch(q->sources[SOURCE_INOTIFY].fd, watch);
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

/* What has changed. */

/* Times are left out: reading and writing change them without IN_ATTRIB. */
static uint64_t digest(const struct stat *status)
{
    return ((uint64_t)status->st_mode * 31 + status->st_uid) * 31 + status->st_gid;
}

static void remember(struct knote *note, const struct stat *status)
{
    note->u.vnode.size = (uint64_t)status->st_size;
    note->u.vnode.links = status->st_nlink;
    note->u.vnode.look = digest(status);
}

static bool is_same_file(const struct knote *note, const struct stat *status)
{
    return status->st_dev == note->u.vnode.device && status->st_ino == note->u.vnode.inode;
}

/* IN_ATTRIB: link count or other attributes? */
static uint32_t attributes_changed(const struct knote *note, const struct stat *status)
{
    uint32_t happened = 0;

    if (status->st_nlink != note->u.vnode.links && !note->u.vnode.is_directory)
        happened |= NOTE_LINK;
    if (status->st_nlink < note->u.vnode.links && !note->u.vnode.is_directory)
        happened |= NOTE_DELETE;
    if (happened == 0 || digest(status) != note->u.vnode.look)
        happened |= NOTE_ATTRIB;
    return happened;
}

static uint32_t contents_changed(const struct knote *note, const struct stat *status)
{
    uint64_t size = (uint64_t)status->st_size;

    if (size > note->u.vnode.size)
        return NOTE_WRITE | NOTE_EXTEND;
    /* Only ftruncate() shortens; BSD calls that a change of attributes. */
    return size < note->u.vnode.size ? NOTE_WRITE | NOTE_ATTRIB : NOTE_WRITE;
}

/* `is_inside` says that the entry was renamed within the directory. */
static uint32_t entries_changed(uint32_t mask, bool is_inside)
{
    uint32_t happened = NOTE_WRITE;

    if (is_inside)
        return happened;
    if (mask & IN_ISDIR)
        happened |= NOTE_LINK;
    if (mask & (IN_MOVED_FROM | IN_MOVED_TO))
        happened |= NOTE_EXTEND;
    return happened;
}

static uint32_t translate(const struct knote *note, uint32_t mask, bool is_inside,
                          const struct stat *status)
{
    uint32_t happened = 0;

    if (mask & IN_MODIFY)
        happened |= contents_changed(note, status);
    if (mask & IN_ATTRIB)
        happened |= attributes_changed(note, status);
    if (mask & DIRECTORY_ENTRIES && note->u.vnode.is_directory)
        happened |= entries_changed(mask, is_inside);
    if (mask & IN_MOVE_SELF)
        happened |= NOTE_RENAME;
    if (mask & IN_UNMOUNT)
        happened |= NOTE_REVOKE;
    if (mask & IN_OPEN)
        happened |= NOTE_OPEN;
    if (mask & IN_CLOSE_NOWRITE)
        happened |= NOTE_CLOSE;
    if (mask & IN_CLOSE_WRITE)
        happened |= NOTE_CLOSE_WRITE;
    if (mask & IN_ACCESS)
        happened |= NOTE_READ;
    return happened;
}

/* Adds to what the knote has to tell, if the program asked for it. */
static void tell(struct kq *q, struct knote *note, uint32_t happened)
{
    note->u.vnode.happened |= happened & note->event.fflags;
    if (note->u.vnode.happened != 0)
        pier__kq_activate(q, note);
}

static int watch_parent(struct kq *q, struct knote *note)
{
    char path[48];
    int old = note->u.vnode.parent_watch, error;

    if (!note->u.vnode.is_directory || !(note->event.fflags & NOTE_DELETE))
        return 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d/..", (int)note->event.ident);
    error = add_watch(q, path, IN_DELETE | IN_MOVED_TO, &note->u.vnode.parent_watch);
    if (old != -1 && old != note->u.vnode.parent_watch)
        release_watch(q, old);
    return error;
}

/* An event of inotify for this knote. */
static void look(struct kq *q, struct knote *note, uint32_t mask, bool is_inside)
{
    struct stat status;

    if (note->filter != &pier__kq_vnode) {
        pier__kq_activate(q, note); /* A file at its end has grown: file.c. */
        return;
    }
    if (pier__kq_stat((int)note->event.ident, &status) == -1 || !is_same_file(note, &status)) {
        pier__kq_drop(q, note, false);
        return;
    }
    tell(q, note, translate(note, mask, is_inside, &status));
    remember(note, &status);
    if (mask & IN_MOVE_SELF)
        watch_parent(q, note);
}

/* Something was deleted beside or instead of this directory. */
static void look_for_end(struct kq *q, struct knote *note)
{
    struct stat status;

    if (pier__kq_stat((int)note->event.ident, &status) == -1 || !is_same_file(note, &status)) {
        pier__kq_drop(q, note, false);
        return;
    }
    if (status.st_nlink == 0 && note->u.vnode.links != 0)
        tell(q, note, NOTE_DELETE);
    remember(note, &status);
}

static void dispatch(struct kq *q, const struct inotify_event *event, bool is_inside)
{
    struct knote *next;
    uint32_t index = 0;

    for (struct knote *note = *bucket_of(q, event->wd); note; note = next) {
        next = note->watch_next;
        if (note->watch == event->wd && !(event->mask & IN_IGNORED))
            look(q, note, event->mask, is_inside);
    }
    if (event->mask & (IN_DELETE | IN_MOVED_TO)) {
        for (struct knote *note; (note = next_child(q, event->wd, &index)) != NULL;)
            look_for_end(q, note);
    }
}

/* Events were lost: every knote looks for itself. */
static void look_at_all(struct kq *q)
{
    for (uint32_t index = 0;; index++) {
        struct knote *note = pier__kq_at(q, index);

        if (!note)
            return;
        if (note->in_use && note->watch != -1)
            look(q, note, IN_MODIFY | IN_ATTRIB | DIRECTORY_ENTRIES, false);
    }
}

void pier__kq_inotify_read(struct kq *q)
{
    char buffer[4096 + NAME_MAX] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t size = read(q->sources[SOURCE_INOTIFY].fd, buffer, sizeof(buffer));
    uint32_t from_cookie = 0;
    int from_watch = -1;

    /* One buffer per call: what is left keeps inotify readable. */
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const void *)&buffer[at];
        ssize_t next = at + (ssize_t)sizeof(*event) + (ssize_t)event->len;
        bool is_inside = false;

        if (event->mask & IN_Q_OVERFLOW) {
            look_at_all(q);
        } else if (event->mask & IN_MOVED_FROM && next < size) {
            const struct inotify_event *to = (const void *)&buffer[next];

            is_inside = (to->mask & IN_MOVED_TO) && to->wd == event->wd &&
                        to->cookie == event->cookie;
            from_cookie = is_inside ? event->cookie : 0;
            from_watch = event->wd;
        } else if (event->mask & IN_MOVED_TO) {
            is_inside = from_cookie == event->cookie && from_watch == event->wd;
        }
        if (event->wd >= 0)
            dispatch(q, event, is_inside);
        at = next;
    }
}

/* The filter. */

static uint32_t mask_of(const struct knote *note)
{
    uint32_t wanted = note->event.fflags, mask = IN_MOVE_SELF;

    if (wanted & (NOTE_WRITE | NOTE_EXTEND))
        mask |= IN_MODIFY;
    if (wanted & (NOTE_ATTRIB | NOTE_LINK | NOTE_DELETE))
        mask |= IN_ATTRIB;
    if (wanted & NOTE_ATTRIB)
        mask |= IN_MODIFY; /* For ftruncate(). */
    if (wanted & (NOTE_WRITE | NOTE_EXTEND | NOTE_LINK) && note->u.vnode.is_directory)
        mask |= DIRECTORY_ENTRIES;
    if (wanted & NOTE_OPEN)
        mask |= IN_OPEN;
    if (wanted & NOTE_CLOSE)
        mask |= IN_CLOSE_NOWRITE;
    if (wanted & NOTE_CLOSE_WRITE)
        mask |= IN_CLOSE_WRITE;
    if (wanted & NOTE_READ)
        mask |= IN_ACCESS;
    return mask;
}

static void unwatch(struct kq *q, struct knote *note)
{
    int parent = note->u.vnode.parent_watch;

    pier__kq_watch_remove(q, note);
    note->u.vnode.parent_watch = -1;
    if (parent != -1)
        release_watch(q, parent);
}

static int watch(struct kq *q, struct knote *note)
{
    int error;

    pier__kq_watch_remove(q, note);
    error = pier__kq_watch_add(q, note, mask_of(note));
    if (error == 0)
        error = watch_parent(q, note);
    if (error != 0)
        unwatch(q, note);
    return error;
}

static int attach(struct kq *q, struct knote *note)
{
    struct stat status;

    if (pier__kq_stat((int)note->event.ident, &status) == -1)
        return errno;
    note->u.vnode.parent_watch = -1;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode) && !S_ISFIFO(status.st_mode) &&
        !S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode))
        return EINVAL;
    note->u.vnode.is_directory = S_ISDIR(status.st_mode);
    note->u.vnode.device = status.st_dev;
    note->u.vnode.inode = status.st_ino;
    remember(note, &status);
    return watch(q, note);
}

static int detach(struct kq *q, struct knote *note, bool spent)
{
    struct stat status;

    unwatch(q, note);
    if (spent)
        return 0;
    if (pier__kq_stat((int)note->event.ident, &status) == -1)
        return EBADF;
    return is_same_file(note, &status) ? 0 : ENOENT;
}

/* EV_ADD on a number that means another file now begins anew; all else finds nothing there. */
static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    bool begins = (change->flags & EV_ADD) != 0;
    struct stat status;
    int error = 0;

    if (pier__kq_stat((int)note->event.ident, &status) == -1)
        error = EBADF;
    else if (!is_same_file(note, &status) && !begins)
        error = ENOENT;
    else if (begins) {
        note->event.fflags = change->fflags;
        note->event.data = change->data;
        note->u.vnode.happened &= change->fflags;
        if (is_same_file(note, &status)) {
            error = watch(q, note);
        } else {
            unwatch(q, note);
            pier__kq_deactivate(q, note);
            note->u.vnode.happened = 0;
            error = attach(q, note);
        }
    }
    if (error != 0)
        pier__kq_drop(q, note, true);
    else if (note->u.vnode.happened != 0)
        error = pier__kq_activate(q, note);
    return error;
}

static bool report(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    (void)q;
    (void)ready;
    if (note->u.vnode.happened == 0)
        return false;
    out->fflags = note->u.vnode.happened;
    if (note->event.flags & EV_CLEAR)
        note->u.vnode.happened = 0;
    return true;
}

static void silence(struct kq *q, struct knote *note)
{
    (void)q;
    (void)note;
}

const struct pier__kq_filter pier__kq_vnode = {
    .attach = attach,
    .modify = modify,
    .detach = detach,
    .report = report,
    .silence = silence,
    .is_descriptor = true,
};
