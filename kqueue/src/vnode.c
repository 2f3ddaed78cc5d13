/*
 * EVFILT_VNODE: what happens to a file or directory. inotify.c hears of it, this file says what it
 * means.
 *
 * inotify says less than BSD in two places: all changes of attributes, link count included, are
 * IN_ATTRIB, and writing, growing and shortening are IN_MODIFY. What it was is found by comparing
 * with the last look. Several changes may come before one look, and the kernel merges equal news.
 * So all that one read brought for a knote is compared at once, and IN_MODIFY renews only what
 * IN_MODIFY tells of: the news of the other kind may still be on its way.
 *
 * inotify also says nothing to an open directory that is removed, so for NOTE_DELETE of a directory
 * its parent is watched as well.
 *
 * The program may close the descriptor without a word. When news comes, the number must still lead
 * to the same device and inode, or the knote goes.
 */
#include "kq.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446 /* Linux 6.9: pidfds have a file system of their own */
#endif

#define ATTRIBUTES_SIZE_MAX 4096
#define NS_PER_SECOND 1000000000LL

/* What has changed. */

static uint64_t mix(uint64_t sum, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3U;
    return sum;
}

/*
 * A digest of the extended attributes, access lists among them. Of those that are too large, and
 * where they can't be read, the names and sizes have to do.
 */
static uint64_t digest_of_attributes(int fd)
{
    char names[ATTRIBUTES_SIZE_MAX], value[ATTRIBUTES_SIZE_MAX];
    ssize_t size = flistxattr(fd, names, sizeof(names));
    uint64_t sum = 0;

    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(&names[at]) + 1) {
        ssize_t length = fgetxattr(fd, &names[at], value, sizeof(value));

        sum = mix(sum, &names[at], strlen(&names[at]) + 1);
        sum = mix(sum, &length, sizeof(length));
        if (length > 0)
            sum = mix(sum, value, (size_t)length);
    }
    return sum;
}

static uint64_t digest_of_rights(const struct stat *status)
{
    return ((uint64_t)status->st_mode * 31 + status->st_uid) * 31 + status->st_gid;
}

static int64_t ns_of(struct timespec time)
{
    return time.tv_sec * NS_PER_SECOND + time.tv_nsec;
}

static bool wants_attributes(const struct knote *note)
{
    return (note->event.fflags & NOTE_ATTRIB) != 0;
}

static void remember_contents(struct knote *note, const struct stat *status)
{
    note->u.vnode.size = (uint64_t)status->st_size;
    note->u.vnode.modified_ns = ns_of(status->st_mtim);
}

static void remember_attributes(struct knote *note, const struct stat *status)
{
    note->u.vnode.links = status->st_nlink;
    note->u.vnode.rights = digest_of_rights(status);
    if (wants_attributes(note))
        note->u.vnode.attributes = digest_of_attributes((int)note->event.ident);
}

static bool is_same_file(const struct knote *note, const struct stat *status)
{
    return status->st_dev == note->u.vnode.device && status->st_ino == note->u.vnode.inode;
}

/*
 * IN_ATTRIB: link count or other attributes, or both? The access time is left out: reading changes
 * it without IN_ATTRIB. The time of change to the contents tells of utimes() if nobody wrote.
 */
static uint32_t attributes_changed(const struct knote *note, uint32_t heard,
                                   const struct stat *status)
{
    uint32_t happened = 0;

    if (status->st_nlink != note->u.vnode.links && !note->u.vnode.is_directory)
        happened |= NOTE_LINK;
    if (status->st_nlink < note->u.vnode.links && !note->u.vnode.is_directory)
        happened |= NOTE_DELETE;
    if (happened == 0 || digest_of_rights(status) != note->u.vnode.rights ||
        (!(heard & IN_MODIFY) && ns_of(status->st_mtim) != note->u.vnode.modified_ns) ||
        (wants_attributes(note) &&
         digest_of_attributes((int)note->event.ident) != note->u.vnode.attributes))
        happened |= NOTE_ATTRIB;
    return happened;
}

static uint32_t contents_changed(const struct knote *note, uint32_t heard,
                                 const struct stat *status)
{
    uint64_t size = (uint64_t)status->st_size;
    uint32_t happened = NOTE_WRITE;

    if (size > note->u.vnode.size)
        happened |= NOTE_EXTEND;
    /*
     * Only truncation shortens; BSD calls that a change of attributes. If something is left, it is
     * most likely what was written since: the kernel has merged the news of the two.
     */
    if (size < note->u.vnode.size)
        happened |= size > 0 ? NOTE_ATTRIB | NOTE_EXTEND : NOTE_ATTRIB;
    /* A write leaves both times equal: here utimes() came, which sets the one alone as IN_MODIFY */
    if (!(heard & IN_ATTRIB) && ns_of(status->st_mtim) != ns_of(status->st_ctim))
        happened |= NOTE_ATTRIB;
    return happened;
}

uint32_t pier__kq_vnode_entries_changed(uint32_t mask, bool is_inside)
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

static uint32_t translate(const struct knote *note, uint32_t heard, const struct stat *status)
{
    uint32_t happened = note->u.vnode.entries;

    if (heard & IN_MODIFY)
        happened |= contents_changed(note, heard, status);
    if (heard & IN_ATTRIB)
        happened |= attributes_changed(note, heard, status);
    /* Of this the directory itself hears nothing, its parent does. */
    if (note->u.vnode.is_directory && status->st_nlink == 0 && note->u.vnode.links != 0)
        happened |= NOTE_DELETE;
    if (heard & IN_MOVE_SELF)
        happened |= NOTE_RENAME;
    if (heard & IN_UNMOUNT)
        happened |= NOTE_REVOKE;
    if (heard & IN_OPEN)
        happened |= NOTE_OPEN;
    if (heard & IN_CLOSE_NOWRITE)
        happened |= NOTE_CLOSE;
    if (heard & IN_CLOSE_WRITE)
        happened |= NOTE_CLOSE_WRITE;
    if (heard & IN_ACCESS)
        happened |= NOTE_READ;
    return happened;
}

static int watch_parent(struct kq *q, struct knote *note)
{
    if (!note->u.vnode.is_directory || !(note->event.fflags & NOTE_DELETE))
        return 0;
    return pier__kq_watch_parent(q, note);
}

void pier__kq_vnode_look(struct kq *q, struct knote *note)
{
    uint32_t heard = note->u.vnode.heard;
    struct stat status;

    if (heard & IN_MOVE_SELF)
        watch_parent(q, note); /* First: it may have been removed from there already. */
    if (pier__kq_stat((int)note->event.ident, &status) == -1 || !is_same_file(note, &status)) {
        pier__kq_drop(q, note, false);
        return;
    }
    /* Adds to what the knote has to tell, if the program asked for it. */
    note->u.vnode.happened |= translate(note, heard, &status) & note->event.fflags;
    if (note->u.vnode.happened != 0)
        pier__kq_activate(q, note);
    if (heard & IN_MODIFY)
        remember_contents(note, &status);
    if (heard & (IN_ATTRIB | PIER__KQ_HEARD_OF_END)) {
        remember_attributes(note, &status);
        note->u.vnode.modified_ns = ns_of(status.st_mtim);
    }
    note->u.vnode.heard = 0;
    note->u.vnode.entries = 0;
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
        mask |= PIER__KQ_DIRECTORY_ENTRIES;
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
    pier__kq_watch_remove(q, note);
    pier__kq_unwatch_parent(q, note);
}

static int watch(struct kq *q, struct knote *note)
{
    int error = pier__kq_watch_add(q, note, mask_of(note));

    if (error == 0)
        error = watch_parent(q, note);
    if (error != 0)
        unwatch(q, note);
    return error;
}

/* Files that have or had a name. What the kernel made out of nothing isn't one. */
static bool is_vnode(int fd, const struct stat *status)
{
    struct statfs system;

    if (!S_ISREG(status->st_mode) && !S_ISDIR(status->st_mode) && !S_ISFIFO(status->st_mode) &&
        !S_ISCHR(status->st_mode) && !S_ISBLK(status->st_mode))
        return false;
    if (fstatfs(fd, &system) == -1)
        return true;
    return system.f_type != PIPEFS_MAGIC && system.f_type != SOCKFS_MAGIC &&
           system.f_type != ANON_INODE_FS_MAGIC && system.f_type != PID_FS_MAGIC;
}

static int attach(struct kq *q, struct knote *note)
{
    struct stat status;

    if (pier__kq_stat((int)note->event.ident, &status) == -1)
        return errno;
    note->u.vnode.parent_watch = -1;
    if (!is_vnode((int)note->event.ident, &status))
        return EINVAL;
    note->u.vnode.is_directory = S_ISDIR(status.st_mode);
    note->u.vnode.device = status.st_dev;
    note->u.vnode.inode = status.st_ino;
    remember_contents(note, &status);
    remember_attributes(note, &status);
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

/* Other notes for the same file. What was heard and isn't looked at yet must stay comparable. */
static int change_notes(struct kq *q, struct knote *note, const struct kevent *change,
                        const struct stat *status)
{
    bool had_attributes = wants_attributes(note);
    uint32_t old = mask_of(note), fresh;

    note->event.fflags = change->fflags;
    note->event.data = change->data;
    note->u.vnode.happened &= change->fflags;
    fresh = mask_of(note) & ~old;
    if (fresh & IN_MODIFY)
        remember_contents(note, status);
    if (fresh & IN_ATTRIB)
        remember_attributes(note, status);
    else if (wants_attributes(note) && !had_attributes)
        note->u.vnode.attributes = digest_of_attributes((int)note->event.ident);
    return watch(q, note);
}

/* Another file has the number now. */
static int begin_anew(struct kq *q, struct knote *note, const struct kevent *change)
{
    unwatch(q, note);
    pier__kq_deactivate(q, note);
    note->event.fflags = change->fflags;
    note->event.data = change->data;
    note->u.vnode.happened = note->u.vnode.heard = note->u.vnode.entries = 0;
    return attach(q, note);
}

/* EV_ADD on a number that means another file now begins anew; all else finds nothing there. */
static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    bool begins = (change->flags & EV_ADD) != 0;
    struct stat status;
    int error = 0;

    if (pier__kq_stat((int)note->event.ident, &status) == -1)
        error = EBADF;
    else if (!is_same_file(note, &status))
        error = begins ? begin_anew(q, note, change) : ENOENT;
    else if (begins)
        error = change_notes(q, note, change, &status);
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
