/* EVFILT_VNODE when several changes come before one look at the queue: none of them is lost. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define EVERYTHING \
    (NOTE_DELETE | NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_LINK | NOTE_RENAME | NOTE_REVOKE)

static int file, queue;

static int watch(int fd, unsigned int notes)
{
    return change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, notes, 0, NULL);
}

/* A file of ten bytes that is watched. */
static void begin(unsigned int notes)
{
    queue = new_queue();
    file = open(scratch_file("file"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    REQUIRE(file >= 0);
    REQUIRE(write(file, "0123456789", 10) == 10);
    REQUIRE(watch(file, notes) == 0);
}

static void append(void)
{
    CHECK_EQ(lseek(file, 0, SEEK_END) >= 0, true);
    CHECK_EQ(write(file, "more", 4), 4);
}

/* All that the queue has to tell, and nothing else. */
static void expect(unsigned int notes)
{
    CHECK_EQ(get_one(queue).fflags, notes);
    CHECK(is_quiet(queue));
    unlink(scratch_file("file"));
    unlink(scratch_file("second"));
    close(file);
    close(queue);
}

static void written_and_removed(void)
{
    begin(EVERYTHING);
    append();
    CHECK_EQ(unlink(scratch_file("file")), 0);
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_LINK | NOTE_DELETE);
}

static void removed_and_written(void)
{
    begin(EVERYTHING);
    CHECK_EQ(unlink(scratch_file("file")), 0);
    append();
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_LINK | NOTE_DELETE);
}

static void mode_changed_and_appended(void)
{
    begin(EVERYTHING);
    CHECK_EQ(fchmod(file, 0640), 0);
    append();
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB);
}

static void appended_and_linked(void)
{
    begin(EVERYTHING);
    append();
    CHECK_EQ(link(scratch_file("file"), scratch_file("second")), 0);
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_LINK);
}

static void everything_at_once(void)
{
    begin(EVERYTHING);
    append();
    CHECK_EQ(fchmod(file, 0640), 0);
    append();
    CHECK_EQ(rename(scratch_file("file"), scratch_file("second")), 0);
    CHECK_EQ(unlink(scratch_file("second")), 0);
    expect(EVERYTHING & ~(unsigned int)NOTE_REVOKE);
}

/* The kernel merges the two into one "modified". */
static void truncated_and_written(void)
{
    begin(EVERYTHING);
    CHECK_EQ(ftruncate(file, 0), 0);
    CHECK_EQ(pwrite(file, "abc", 3, 0), 3);
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB);
}

/* Here it doesn't: the news of opening lies between. */
static void opened_truncating_and_written(void)
{
    int again;

    begin(EVERYTHING | NOTE_OPEN | NOTE_CLOSE_WRITE);
    again = open(scratch_file("file"), O_WRONLY | O_TRUNC | O_CLOEXEC);
    CHECK_EQ(write(again, "abc", 3), 3);
    close(again);
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_OPEN | NOTE_CLOSE_WRITE);
}

/* What utimes(), access lists and the like change isn't hidden by a change of the link count. */
static void times_set_and_linked(void)
{
    static const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

    begin(EVERYTHING);
    CHECK_EQ(futimens(file, times), 0);
    CHECK_EQ(link(scratch_file("file"), scratch_file("second")), 0);
    expect(NOTE_ATTRIB | NOTE_LINK);
}

static void attribute_set_and_linked(void)
{
    begin(EVERYTHING);
    if (fsetxattr(file, "user.colour", "red", 3, 0) == -1) {
        check_skip("no extended attributes in this file system");
        fchmod(file, 0640);
        expect(NOTE_ATTRIB);
        return;
    }
    CHECK_EQ(link(scratch_file("file"), scratch_file("second")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB | NOTE_LINK);
    /* Another value, of the same size. */
    CHECK_EQ(fsetxattr(file, "user.colour", "tan", 3, 0), 0);
    CHECK_EQ(unlink(scratch_file("second")), 0);
    expect(NOTE_ATTRIB | NOTE_LINK | NOTE_DELETE);
}

/* One time alone is "modified" to the kernel. BSD calls it a change of attributes. */
static void one_time_set(void)
{
    static const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};

    begin(NOTE_ATTRIB);
    CHECK_EQ(futimens(file, times), 0);
    expect(NOTE_ATTRIB);
}

/* The news is more than one read takes: what changed since the first part isn't taken for old. */
static void more_news_than_one_read_takes(void)
{
    unsigned int seen = 0;
    struct kevent event;
    char byte;

    begin(EVERYTHING | NOTE_READ | NOTE_OPEN | NOTE_CLOSE);
    append();
    for (int i = 0; i < 1000; i++) { /* three events each, none like the one before it */
        int again = open(scratch_file("file"), O_RDONLY | O_CLOEXEC);

        CHECK_EQ(read(again, &byte, 1), 1);
        close(again);
    }
    CHECK_EQ(unlink(scratch_file("file")), 0);
    while (get(queue, &event, 1, 0) == 1)
        seen |= event.fflags;
    /* When the first part is read, the times look as if they had been set. */
    CHECK_EQ(seen | NOTE_ATTRIB, NOTE_WRITE | NOTE_EXTEND | NOTE_LINK | NOTE_DELETE | NOTE_READ |
                                     NOTE_OPEN | NOTE_CLOSE | NOTE_ATTRIB);
    close(file);
    close(queue);
}

/* EV_ADD again, as many programs do after each event, loses nothing that is under way. */
static void added_again_in_between(void)
{
    begin(EVERYTHING);
    append();
    CHECK_EQ(watch(file, EVERYTHING | NOTE_READ), 0);
    CHECK_EQ(unlink(scratch_file("file")), 0);
    CHECK_EQ(watch(file, EVERYTHING), 0);
    expect(NOTE_WRITE | NOTE_EXTEND | NOTE_LINK | NOTE_DELETE);
}

/* What wasn't watched before isn't told afterwards. */
static void nothing_of_the_time_before(void)
{
    begin(NOTE_LINK);
    append();
    CHECK_EQ(fchmod(file, 0640), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(watch(file, EVERYTHING), 0);
    CHECK_EQ(pwrite(file, "x", 1, 0), 1);
    expect(NOTE_WRITE);
}

static void two_files_mixed(void)
{
    int other;
    unsigned int seen[2] = {0, 0};
    struct kevent event;

    begin(EVERYTHING);
    other = open(scratch_file("other"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK_EQ(watch(other, EVERYTHING), 0);
    append();
    CHECK_EQ(fchmod(other, 0640), 0);
    CHECK_EQ(unlink(scratch_file("file")), 0);
    CHECK_EQ(write(other, "x", 1), 1);
    for (int i = 0; i < 2 && get(queue, &event, 1, LONG_MS) == 1; i++)
        seen[event.ident == (uintptr_t)other] |= event.fflags;
    CHECK_EQ(seen[0], NOTE_WRITE | NOTE_EXTEND | NOTE_LINK | NOTE_DELETE);
    CHECK_EQ(seen[1], NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB);
    CHECK(is_quiet(queue));
    close(other);
    close(file);
    close(queue);
}

/* A directory's own news comes before its parent's. */
static void directory_changed_and_removed(void)
{
    int directory;

    queue = new_queue();
    REQUIRE(mkdir(scratch_file("directory"), 0700) == 0);
    directory = open(scratch_file("directory"), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(watch(directory, EVERYTHING), 0);
    CHECK_EQ(chmod(scratch_file("directory"), 0755), 0);
    CHECK_EQ(rmdir(scratch_file("directory")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB | NOTE_DELETE);
    CHECK(is_quiet(queue));
    close(directory);
    close(queue);
}

/* Its new parent isn't watched yet when it goes. */
static void directory_moved_and_removed(void)
{
    int directory;

    queue = new_queue();
    REQUIRE(mkdir(scratch_file("one"), 0700) == 0);
    REQUIRE(mkdir(scratch_file("two"), 0700) == 0);
    directory = open(scratch_file("one"), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(watch(directory, EVERYTHING), 0);
    CHECK_EQ(rename(scratch_file("one"), scratch_file("two/inner")), 0);
    CHECK_EQ(rmdir(scratch_file("two/inner")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_RENAME | NOTE_DELETE);
    CHECK(is_quiet(queue));
    rmdir(scratch_file("two"));
    close(directory);
    close(queue);
}

/* inotify's list is full: what happened meanwhile is found by looking. */
static void overflow_of_the_list(void)
{
    unsigned int seen[2] = {0, 0};
    struct kevent event;
    int directory;
    FILE *limit = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    int events = 0;

    if (!limit || fscanf(limit, "%d", &events) != 1 || events > 100000) {
        check_skip("the limit of inotify isn't known or too high");
        if (limit)
            fclose(limit);
        return;
    }
    fclose(limit);
    begin(EVERYTHING | NOTE_OPEN | NOTE_CLOSE);
    REQUIRE(mkdir(scratch_file("directory"), 0700) == 0);
    directory = open(scratch_file("directory"), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(watch(directory, NOTE_DELETE), 0);
    for (int i = 0; i < events / 2 + 1; i++)
        close(open(scratch_file("file"), O_RDONLY | O_CLOEXEC));
    append();
    CHECK_EQ(rename(scratch_file("file"), scratch_file("second")), 0);
    CHECK_EQ(unlink(scratch_file("second")), 0);
    CHECK_EQ(rmdir(scratch_file("directory")), 0);
    while (get(queue, &event, 1, 0) == 1)
        seen[event.ident == (uintptr_t)directory] |= event.fflags;
    CHECK_EQ(seen[0] & NOTE_REVOKE, 0);
    CHECK_EQ(seen[0] | NOTE_ATTRIB,
             (EVERYTHING & ~(unsigned int)NOTE_REVOKE) | NOTE_OPEN | NOTE_CLOSE);
    CHECK_EQ(seen[1], NOTE_DELETE);
    close(directory);
    close(file);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(written_and_removed),
        TEST(removed_and_written),
        TEST(mode_changed_and_appended),
        TEST(appended_and_linked),
        TEST(everything_at_once),
        TEST(truncated_and_written),
        TEST(opened_truncating_and_written),
        TEST(times_set_and_linked),
        TEST(attribute_set_and_linked),
        TEST(one_time_set),
        TEST(more_news_than_one_read_takes),
        TEST(added_again_in_between),
        TEST(nothing_of_the_time_before),
        TEST(two_files_mixed),
        TEST(directory_changed_and_removed),
        TEST(directory_moved_and_removed),
        TEST(overflow_of_the_list),
    };

    return check_main(tests, COUNT(tests));
}
