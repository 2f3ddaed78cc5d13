/*
 * EVFILT_READ and EVFILT_WRITE on what epoll refuses: regular files, directories, some devices.
 *
 * A file can be read while its offset isn't its end, and `data` is the way to go. That is looked up
 * when events are fetched; a file at its end leaves the active list, and comes back when inotify
 * tells of a write, or when kevent() is called and the program has moved the offset meanwhile. A
 * file can always be written (FreeBSD: an event at every call), and so can a device be read and
 * written that has no poll, such as /dev/zero.
 */
#include "kq.h"

#include <errno.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

static bool has_end(mode_t mode)
{
    return S_ISREG(mode) || S_ISDIR(mode) || S_ISBLK(mode);
}

bool pier__kq_file_is_same(const struct knote *note)
{
    struct stat status;

    return note->kind == KIND_FILE && pier__kq_stat((int)note->event.ident, &status) == 0 &&
           status.st_dev == note->u.file.device && status.st_ino == note->u.file.inode;
}

int pier__kq_file_attach(struct kq *q, struct knote *note)
{
    struct stat status;

    if (pier__kq_stat((int)note->event.ident, &status) == -1)
        return errno;
    note->kind = KIND_FILE;
    note->u.file.device = status.st_dev;
    note->u.file.inode = status.st_ino;
    if (note->filter == &pier__kq_read && has_end(status.st_mode)) {
        note->u.file.next = q->files;
        q->files = note;
        /* Without inotify (no /proc, limits) growth is still seen, by the next kevent(). */
        pier__kq_watch_add(q, note, IN_MODIFY);
    }
    return pier__kq_activate(q, note);
}

void pier__kq_file_detach(struct kq *q, struct knote *note)
{
    struct knote **link = &q->files;

    if (note->kind != KIND_FILE)
        return;
    note->kind = KIND_UNKNOWN;
    while (*link && *link != note)
        link = &(*link)->u.file.next;
    if (*link)
        *link = note->u.file.next;
    pier__kq_watch_remove(q, note);
    pier__kq_deactivate(q, note);
}

/* Whether there is something to read. Drops the knote if its number is another file's now. */
static bool read_file(struct kq *q, struct knote *note, int64_t *data)
{
    int fd = (int)note->event.ident;
    struct stat status;
    off_t offset;

    if (pier__kq_stat(fd, &status) == -1 || status.st_dev != note->u.file.device ||
        status.st_ino != note->u.file.inode) {
        pier__kq_drop(q, note, false);
        return false;
    }
    if (note->filter == &pier__kq_write) {
        *data = 0;
        return true;
    }
    offset = has_end(status.st_mode) ? lseek(fd, 0, SEEK_CUR) : -1;
    if (offset == -1) {
        *data = 0;
        return true;
    }
    *data = status.st_size - offset;
    return *data != 0 || note->event.fflags & NOTE_FILE_POLL;
}

bool pier__kq_file_report(struct kq *q, struct knote *note, struct kevent *out)
{
    return read_file(q, note, &out->data);
}

void pier__kq_files_check(struct kq *q)
{
    struct knote *next;

    for (struct knote *note = q->files; note; note = next) {
        int64_t data;

        next = note->u.file.next;
        if (!note->active && !note->disabled && !(note->event.flags & EV_CLEAR) &&
            read_file(q, note, &data))
            pier__kq_activate(q, note);
    }
}
