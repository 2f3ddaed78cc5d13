/* EVFILT_VNODE on files and directories, EVFILT_READ and EVFILT_WRITE on regular files. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVERYTHING (NOTE_DELETE | NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_LINK | NOTE_RENAME)

static int create(const char *name)
{
    int fd = open(scratch_file(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    REQUIRE(fd >= 0);
    return fd;
}

static int watch(int queue, int fd, unsigned int notes)
{
    return change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, notes, 0, NULL);
}

static void what_happens_to_a_file(void)
{
    int queue = new_queue(), fd = create("file");

    CHECK_EQ(watch(queue, fd, EVERYTHING), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(fd, "abc", 3), 3);
    CHECK(is_readable(queue));
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_EXTEND);
    CHECK(!is_readable(queue));
    CHECK(is_quiet(queue));
    CHECK_EQ(pwrite(fd, "ABC", 3, 0), 3);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    CHECK_EQ(ftruncate(fd, 1), 0);
    /* As if a byte had been written to the empty file, which looks the same. */
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_ATTRIB | NOTE_EXTEND);
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_ATTRIB);
    CHECK_EQ(fchmod(fd, 0640), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB);
    CHECK_EQ(link(scratch_file("file"), scratch_file("second")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_LINK);
    CHECK_EQ(unlink(scratch_file("second")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_LINK | NOTE_DELETE);
    CHECK_EQ(rename(scratch_file("file"), scratch_file("renamed")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_RENAME);
    CHECK_EQ(unlink(scratch_file("renamed")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_LINK | NOTE_DELETE);
    /* A file without a name lives on. */
    CHECK_EQ(write(fd, "more", 4), 4);
    CHECK(get_one(queue).fflags & NOTE_WRITE);
    CHECK(is_quiet(queue));
    close(fd);
    close(queue);
}

static void only_what_was_asked_for(void)
{
    int queue = new_queue(), fd = create("file");

    CHECK_EQ(watch(queue, fd, NOTE_EXTEND), 0);
    CHECK_EQ(fchmod(fd, 0644), 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(get_one(queue).fflags, NOTE_EXTEND);
    CHECK_EQ(pwrite(fd, "y", 1, 0), 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(watch(queue, fd, NOTE_ATTRIB), 0);
    CHECK_EQ(pwrite(fd, "z", 1, 0), 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(fchmod(fd, 0600), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB);
    close(fd);
    close(queue);
}

static void what_happened_adds_up(void)
{
    int queue = new_queue(), fd = create("file");
    struct kevent event;

    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ADD, EVERYTHING, 0, NULL), 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(fchmod(fd, 0644), 0);
    event = get_one(queue);
    CHECK_EQ(event.fflags, NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB);
    CHECK_EQ(event.flags, 0);
    /* Without EV_CLEAR it is never forgotten. */
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB);
    CHECK(is_readable(queue));
    close(fd);
    close(queue);
}

static void renamed_over(void)
{
    int queue = new_queue(), fd = create("victim");

    close(create("other"));
    CHECK_EQ(watch(queue, fd, EVERYTHING), 0);
    CHECK_EQ(rename(scratch_file("other"), scratch_file("victim")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_DELETE | NOTE_LINK);
    unlink(scratch_file("victim"));
    close(fd);
    close(queue);
}

static void opened_read_and_closed(void)
{
    int queue = new_queue(), fd = create("file"), again;
    char byte;

    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(watch(queue, fd, NOTE_OPEN | NOTE_READ | NOTE_CLOSE | NOTE_CLOSE_WRITE), 0);
    again = open(scratch_file("file"), O_RDONLY);
    CHECK_EQ(get_one(queue).fflags, NOTE_OPEN);
    CHECK_EQ(read(again, &byte, 1), 1);
    CHECK_EQ(get_one(queue).fflags, NOTE_READ);
    close(again);
    CHECK_EQ(get_one(queue).fflags, NOTE_CLOSE);
    close(open(scratch_file("file"), O_WRONLY));
    CHECK_EQ(get_one(queue).fflags, NOTE_OPEN | NOTE_CLOSE_WRITE);
    close(fd);
    close(queue);
}

static void what_happens_to_a_directory(void)
{
    int queue = new_queue(), fd;
    unsigned int notes;

    REQUIRE(mkdir(scratch_file("directory"), 0700) == 0);
    fd = open(scratch_file("directory"), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(watch(queue, fd, EVERYTHING), 0);
    CHECK(is_quiet(queue));
    close(create("directory/file"));
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    CHECK_EQ(rename(scratch_file("directory/file"), scratch_file("directory/same")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    CHECK_EQ(rename(scratch_file("directory/same"), scratch_file("outside")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_EXTEND);
    CHECK_EQ(rename(scratch_file("outside"), scratch_file("directory/file")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_EXTEND);
    CHECK_EQ(unlink(scratch_file("directory/file")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    CHECK_EQ(mkdir(scratch_file("directory/inner"), 0700), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_LINK);
    CHECK_EQ(rmdir(scratch_file("directory/inner")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_LINK);
    CHECK_EQ(chmod(scratch_file("directory"), 0755), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB);
    CHECK_EQ(rename(scratch_file("directory"), scratch_file("moved")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_RENAME);
    /* inotify says nothing to the directory itself. */
    CHECK_EQ(rmdir(scratch_file("moved")), 0);
    notes = get_one(queue).fflags;
    CHECK_EQ(notes, NOTE_DELETE);
    CHECK(is_quiet(queue));
    close(fd);
    close(queue);
}

static void directory_removed(void)
{
    int queue = new_queue(), fd;

    REQUIRE(mkdir(scratch_file("short"), 0700) == 0);
    fd = open(scratch_file("short"), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(watch(queue, fd, NOTE_DELETE), 0);
    CHECK_EQ(rmdir(scratch_file("short")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_DELETE);
    close(fd);
    close(queue);
}

static void directory_moved_elsewhere_and_removed(void)
{
    int queue = new_queue(), fd;

    REQUIRE(mkdir(scratch_file("one"), 0700) == 0);
    REQUIRE(mkdir(scratch_file("one/inner"), 0700) == 0);
    REQUIRE(mkdir(scratch_file("two"), 0700) == 0);
    fd = open(scratch_file("one/inner"), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(watch(queue, fd, NOTE_DELETE | NOTE_RENAME), 0);
    CHECK_EQ(rename(scratch_file("one/inner"), scratch_file("two/inner")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_RENAME);
    CHECK_EQ(mkdir(scratch_file("two/sibling"), 0700), 0);
    CHECK_EQ(rmdir(scratch_file("two/sibling")), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(rmdir(scratch_file("two/inner")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_DELETE);
    close(fd);
    close(queue);
}

static void one_file_by_two_descriptors(void)
{
    int queue = new_queue(), first = create("file"), second = open(scratch_file("file"), O_RDWR);
    struct kevent events[4];

    CHECK_EQ(watch(queue, first, NOTE_WRITE), 0);
    CHECK_EQ(watch(queue, second, NOTE_ATTRIB), 0);
    CHECK_EQ(write(first, "x", 1), 1);
    CHECK_EQ(get_one(queue).ident, first);
    CHECK_EQ(fchmod(first, 0644), 0);
    CHECK_EQ(get_one(queue).ident, second);
    CHECK_EQ(change(queue, (uintptr_t)second, EVFILT_VNODE, EV_DELETE, 0, 0, NULL), 0);
    CHECK_EQ(write(first, "x", 1), 1);
    CHECK_EQ(get(queue, events, 4, LONG_MS), 1);
    CHECK_EQ(events[0].ident, first);
    close(first);
    close(second);
    close(queue);
}

static void closed_file_is_forgotten(void)
{
    int queue = new_queue(), fd = create("file"), other, again;

    CHECK_EQ(watch(queue, fd, EVERYTHING), 0);
    close(fd);
    other = create("other");
    CHECK_EQ(other, fd); /* the number is given away */
    again = open(scratch_file("file"), O_RDWR);
    CHECK_EQ(write(again, "x", 1), 1);
    CHECK_EQ(write(other, "x", 1), 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)other, EVFILT_VNODE, EV_ENABLE, 0, 0, NULL), ENOENT);
    CHECK_EQ(watch(queue, other, NOTE_WRITE), 0);
    CHECK_EQ(write(other, "x", 1), 1);
    CHECK_EQ(get_one(queue).ident, other);
    /* EV_ADD on a number that means another file now watches that one. */
    close(other);
    other = create("third");
    CHECK_EQ(other, fd);
    CHECK_EQ(watch(queue, other, NOTE_WRITE), 0);
    CHECK_EQ(write(again, "x", 1), 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(other, "x", 1), 1);
    CHECK_EQ(get_one(queue).ident, other);
    close(other);
    close(again);
    close(queue);
}

/* EINVAL for all that was never a file: sockets, pipes, and what only Linux has. */
static void only_for_files(void)
{
    int queue = new_queue(), pair[2], fifo, others[5];

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(watch(queue, pair[0], NOTE_WRITE), EINVAL);
    CHECK_EQ(watch(queue, 999999, NOTE_WRITE), EBADF);
    close(pair[0]);
    close(pair[1]);
    REQUIRE(pipe(pair) == 0);
    CHECK_EQ(watch(queue, pair[0], NOTE_WRITE), EINVAL);
    CHECK_EQ(watch(queue, pair[1], NOTE_WRITE), EINVAL);
    close(pair[0]);
    close(pair[1]);
    others[0] = eventfd(0, EFD_CLOEXEC);
    others[1] = epoll_create1(EPOLL_CLOEXEC);
    others[2] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    others[3] = inotify_init1(IN_CLOEXEC);
    others[4] = (int)syscall(SYS_pidfd_open, getpid(), 0);
    for (int i = 0; i < COUNT(others); i++) {
        if (others[i] != -1)
            CHECK_EQ(watch(queue, others[i], NOTE_WRITE), EINVAL);
        close(others[i]);
    }
    CHECK_EQ(watch(queue, queue, NOTE_WRITE), EINVAL);
    /* A pipe with a name is a file. */
    REQUIRE(mkfifo(scratch_file("fifo"), 0600) == 0);
    fifo = open(scratch_file("fifo"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK_EQ(watch(queue, fifo, NOTE_ATTRIB), 0);
    CHECK_EQ(fchmod(fifo, 0640), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB);
    close(fifo);
    close(queue);
}

static void disabled_and_enabled(void)
{
    int queue = new_queue(), fd = create("file");

    CHECK_EQ(watch(queue, fd, NOTE_WRITE), 0);
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_DISABLE, 0, 0, NULL), 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    CHECK(is_quiet(queue));
    close(fd);
    close(queue);
}

static void file_is_readable_until_its_end(void)
{
    int queue = new_queue(), fd = create("file");
    char bytes[8];

    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue)); /* at the end */
    CHECK_EQ(lseek(fd, 4, SEEK_SET), 4);
    CHECK_EQ(get_one(queue).data, 6);
    CHECK_EQ(read(fd, bytes, 4), 4);
    CHECK_EQ(get_one(queue).data, 2);
    CHECK_EQ(read(fd, bytes, 8), 2);
    CHECK(is_quiet(queue));
    CHECK_EQ(pwrite(fd, "more", 4, 10), 4);
    CHECK(is_readable(queue));
    CHECK_EQ(get_one(queue).data, 4);
    CHECK_EQ(lseek(fd, 100, SEEK_SET), 100);
    CHECK_EQ(get_one(queue).data, -86);
    close(fd);
    close(queue);
}

static void file_with_clear(void)
{
    int queue = new_queue(), fd = create("file");

    CHECK_EQ(pwrite(fd, "01234", 5, 0), 5);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, EV_CLEAR), 0);
    CHECK_EQ(get_one(queue).data, 5);
    CHECK(is_quiet(queue));
    CHECK_EQ(pwrite(fd, "5", 1, 5), 1);
    CHECK_EQ(get_one(queue).data, 6);
    CHECK(is_quiet(queue));
    close(fd);
    close(queue);
}

static void file_modes(void)
{
    int queue = new_queue(), fd = create("file");

    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_ADD, NOTE_FILE_POLL, 0, NULL), 0);
    CHECK_EQ(get_one(queue).data, 0); /* ready at the end, too */
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, 0, NULL), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(pwrite(fd, "01234", 5, 0), 5);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, EV_DISPATCH), 0);
    CHECK_EQ(get_one(queue).data, 5);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).data, 5);
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_ADD | EV_ONESHOT, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).data, 5);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, 0, NULL), ENOENT);
    close(fd);
    close(queue);
}

static void file_is_always_writable(void)
{
    int queue = new_queue(), fd = create("file"), null = open("/dev/null", O_RDWR | O_CLOEXEC);

    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_WRITE, 0), 0);
    CHECK_EQ(get_one(queue).filter, EVFILT_WRITE);
    CHECK_EQ(get_one(queue).data, 0);
    close(fd);
    CHECK(is_quiet(queue)); /* closed: forgotten */
    CHECK_EQ(add(queue, (uintptr_t)null, EVFILT_WRITE, EV_ONESHOT), 0);
    CHECK_EQ(get_one(queue).ident, null);
    CHECK_EQ(add(queue, (uintptr_t)null, EVFILT_READ, EV_ONESHOT), 0);
    CHECK_EQ(get_one(queue).ident, null);
    close(null);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(what_happens_to_a_file),
        TEST(only_what_was_asked_for),
        TEST(what_happened_adds_up),
        TEST(renamed_over),
        TEST(opened_read_and_closed),
        TEST(what_happens_to_a_directory),
        TEST(directory_removed),
        TEST(directory_moved_elsewhere_and_removed),
        TEST(one_file_by_two_descriptors),
        TEST(closed_file_is_forgotten),
        TEST(only_for_files),
        TEST(disabled_and_enabled),
        TEST(file_is_readable_until_its_end),
        TEST(file_with_clear),
        TEST(file_modes),
        TEST(file_is_always_writable),
    };

    return check_main(tests, COUNT(tests));
}
