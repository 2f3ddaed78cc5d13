/* A number that is closed and given to something else, and duplicates of what was closed. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static void closing_a_descriptor_removes_its_events(void)
{
    int queue = new_queue(), ends[2], other[2], mark;

    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_READ, EV_ADD, 0, 0, &mark), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK(is_readable(queue));
    close(ends[0]);
    CHECK(!is_readable(queue));
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_READ, EV_DELETE, 0, 0, NULL), EBADF);
    /* The number for another file: the old event isn't its. */
    REQUIRE(pipe(other) == 0);
    CHECK_EQ(other[0], ends[0]);
    CHECK_EQ(write(other[1], "xy", 2), 2);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)other[0], EVFILT_READ, EV_DELETE, 0, 0, NULL), ENOENT);
    CHECK_EQ(add(queue, (uintptr_t)other[0], EVFILT_READ, 0), 0);
    CHECK_EQ(get_one(queue).data, 2);
    CHECK(get_one(queue).udata == NULL);
    close(other[0]);
    close(other[1]);
    close(ends[1]);
    close(queue);
}

/* Whatever the old event's state was, the new file doesn't inherit it. */
static void reused_number_starts_afresh(void)
{
    static const int modes[] = {0, EV_CLEAR, EV_DISABLE, EV_DISPATCH, EV_ONESHOT};
    int queue = new_queue(), pair[2], mark;

    for (int i = 0; i < COUNT(modes) * 2; i++) {
        int mode = modes[i / 2];
        uintptr_t fd;

        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        fd = (uintptr_t)pair[0];
        CHECK_EQ(change(queue, fd, EVFILT_READ, EV_ADD | mode, 0, 0, &mark), 0);
        CHECK_EQ(change(queue, fd, EVFILT_WRITE, EV_ADD | mode, 0, 0, &mark), 0);
        if (i % 2) {
            struct kevent event;

            get(queue, &event, 1, 0);
        }
        close(pair[0]);
        close(pair[1]);
        CHECK(is_quiet(queue));
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        CHECK_EQ(pair[0], fd);
        CHECK_EQ(write(pair[1], "x", 1), 1);
        CHECK(is_quiet(queue));
        CHECK_EQ(change(queue, fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), ENOENT);
        CHECK_EQ(add(queue, fd, EVFILT_READ, EV_CLEAR), 0);
        CHECK(get_one(queue).udata == NULL);
        CHECK_EQ(change(queue, fd, EVFILT_WRITE, EV_ENABLE, 0, 0, NULL), ENOENT);
        close(pair[0]);
        close(pair[1]);
    }
    close(queue);
}

/* EV_ADD for one filter on a reused number: the other filter's old event is gone with it. */
static void adding_on_a_reused_number_forgets_the_rest(void)
{
    int queue = new_queue(), pair[2];
    uintptr_t fd;

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    fd = (uintptr_t)pair[0];
    CHECK_EQ(add(queue, fd, EVFILT_READ, 0), 0);
    CHECK_EQ(add(queue, fd, EVFILT_WRITE, 0), 0);
    close(pair[0]);
    close(pair[1]);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(add(queue, fd, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, fd, EVFILT_WRITE, EV_DELETE, 0, 0, NULL), ENOENT);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* The same with a duplicate of the old file, which is writable all the time. */
static void forgotten_events_of_a_duplicate_stay_away(void)
{
    int queue = new_queue(), pair[2], fresh[2], copy;
    uintptr_t fd;

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    fd = (uintptr_t)pair[0];
    copy = fcntl(pair[0], F_DUPFD_CLOEXEC, 100);
    CHECK_EQ(add(queue, fd, EVFILT_READ, 0), 0);
    CHECK_EQ(add(queue, fd, EVFILT_WRITE, 0), 0);
    close(pair[0]);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fresh) == 0);
    CHECK_EQ(fresh[0], fd);
    CHECK_EQ(add(queue, fd, EVFILT_READ, 0), 0);
    for (int i = 0; i < 10; i++)
        CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    CHECK_EQ(write(fresh[1], "x", 1), 1);
    CHECK_EQ(get_one(queue).filter, EVFILT_READ);
    close(copy);
    close(pair[1]);
    close(fresh[0]);
    close(fresh[1]);
    close(queue);
}

/* A duplicate keeps the file, and epoll's interest in it, alive; kevent() gets rid of it. */
static void closed_while_a_duplicate_lives(void)
{
    int queue = new_queue(), ends[2], copy, other[2], outer = new_queue();

    REQUIRE(pipe(ends) == 0);
    REQUIRE(pipe(other) == 0);
    copy = fcntl(ends[0], F_DUPFD_CLOEXEC, 100);
    CHECK_EQ(add(outer, (uintptr_t)queue, EVFILT_READ, 0), 0);
    CHECK_EQ(add(queue, (uintptr_t)ends[0], EVFILT_READ, 0), 0);
    CHECK_EQ(add(queue, (uintptr_t)ends[1], EVFILT_WRITE, EV_CLEAR), 0);
    CHECK_EQ(add(queue, (uintptr_t)other[0], EVFILT_READ, 0), 0);
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ADD, 0, 5, NULL), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    close(ends[0]);
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).filter, EVFILT_WRITE);
    for (int i = 0; i < 10; i++)
        is_quiet(queue); /* the edge of EVFILT_WRITE may come twice */
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    /* Everything else is still watched, from outside as well. */
    CHECK_EQ(write(other[1], "ab", 2), 2);
    CHECK_EQ(get_one(outer).ident, queue);
    CHECK_EQ(get_one(queue).data, 2);
    CHECK_EQ(change(queue, 2, EVFILT_USER, EV_ADD | EV_ONESHOT, NOTE_TRIGGER, 0, NULL), 0);
    set_nonblocking(copy);
    CHECK_EQ(drain(copy), 1);
    close(copy);
    close(ends[1]);
    close(other[0]);
    close(other[1]);
    close(outer);
    close(queue);
}

/* The number is another file's by then, which has nothing to read. */
static void reused_while_a_duplicate_lives(void)
{
    static const int modes[] = {0, EV_CLEAR, EV_DISPATCH, EV_ONESHOT};

    for (int i = 0; i < COUNT(modes); i++) {
        int queue = new_queue(), old[2], fresh[2], copy, mark;

        REQUIRE(pipe(old) == 0);
        copy = fcntl(old[0], F_DUPFD_CLOEXEC, 100);
        CHECK_EQ(change(queue, (uintptr_t)old[0], EVFILT_READ, EV_ADD | modes[i], 0, 0, &mark), 0);
        close(old[0]);
        REQUIRE(pipe(fresh) == 0);
        CHECK_EQ(fresh[0], old[0]);
        CHECK_EQ(write(old[1], "x", 1), 1);
        for (int n = 0; n < 3; n++)
            CHECK(is_quiet(queue));
        CHECK(!is_readable(queue));
        CHECK_EQ(write(fresh[1], "ab", 2), 2);
        CHECK(is_quiet(queue));
        CHECK_EQ(change(queue, (uintptr_t)fresh[0], EVFILT_READ, EV_DELETE, 0, 0, NULL), ENOENT);
        close(copy);
        close(old[1]);
        close(fresh[0]);
        close(fresh[1]);
        close(queue);
    }
}

/* Descriptors of every kind that a number can be used for again. */
enum kind { SOCKET, PIPE, FILE_AT_START, OTHER_FILE, DIRECTORY, NULL_DEVICE, EVENT, EPOLL, KINDS };

static int open_kind(int kind)
{
    int pair[2], fd = -1;

    switch (kind) {
    case SOCKET:
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        close(pair[1]);
        return pair[0];
    case PIPE:
        REQUIRE(pipe(pair) == 0);
        close(pair[1]);
        return pair[0];
    case FILE_AT_START:
    case OTHER_FILE:
        fd = open(scratch_file(kind == OTHER_FILE ? "other" : "file"),
                  O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        REQUIRE(fd >= 0 && pwrite(fd, "abc", 3, 0) == 3);
        return fd;
    case DIRECTORY: return open(scratch(), O_RDONLY | O_CLOEXEC);
    case NULL_DEVICE: return open("/dev/null", O_RDWR | O_CLOEXEC);
    case EVENT: return eventfd(1, EFD_CLOEXEC);
    default: return epoll_create1(EPOLL_CLOEXEC);
    }
}

/* Closes `fd` and gives its number to something of `kind`. */
static void reuse(int fd, int kind)
{
    int other = open_kind(kind);

    if (other != fd) {
        REQUIRE(dup2(other, fd) == fd);
        close(other);
    }
}

/* What is asked of the number concerns the new file, which isn't watched. */
static void unknown_after_reuse(int queue, short filter, int before, int after)
{
    static const int flags[] = {EV_DELETE, EV_ENABLE, EV_DISABLE};

    for (int i = 0; i < COUNT(flags); i++) {
        int fd = open_kind(before), error;

        CHECK_EQ(add(queue, (uintptr_t)fd, filter, 0), 0);
        reuse(fd, after);
        error = change(queue, (uintptr_t)fd, filter, flags[i], 0, 0, NULL);
        if (error != ENOENT)
            printf("# filter %d, kind %d then %d, flags %#x\n", filter, before, after, flags[i]);
        CHECK_EQ(error, ENOENT);
        CHECK(is_quiet(queue));
        close(fd);
    }
}

/* EV_ADD watches the new file, with the new udata; of the old one's other filter nothing is left */
static void added_after_reuse(int queue, short filter, int before, int after)
{
    short other_filter = filter == EVFILT_READ ? EVFILT_WRITE : EVFILT_READ;
    int fd = open_kind(before), mark, error;
    struct kevent event = {0};

    CHECK_EQ(change(queue, (uintptr_t)fd, filter, EV_ADD, 0, 0, &mark), 0);
    CHECK_EQ(change(queue, (uintptr_t)fd, other_filter, EV_ADD, 0, 0, &mark), 0);
    reuse(fd, after);
    error = add(queue, (uintptr_t)fd, filter, 0);
    if (error != 0)
        printf("# filter %d, kind %d then %d\n", filter, before, after);
    CHECK_EQ(error, 0);
    for (int i = 0; i < 4; i++) {
        if (get(queue, &event, 1, 0) == 1) {
            CHECK_EQ(event.filter, filter);
            CHECK(event.udata == NULL);
        }
    }
    CHECK_EQ(change(queue, (uintptr_t)fd, other_filter, EV_DELETE, 0, 0, NULL), ENOENT);
    CHECK_EQ(change(queue, (uintptr_t)fd, filter, EV_DELETE, 0, 0, NULL), 0);
    close(fd);
}

static void every_kind_after_every_other(void)
{
    static const short filters[] = {EVFILT_READ, EVFILT_WRITE};
    int queue = new_queue();

    for (int before = 0; before < KINDS; before++) {
        for (int after = 0; after < KINDS; after++) {
            for (int i = 0; i < COUNT(filters); i++) {
                /* The same file under the same number can't be told from one never closed. */
                bool is_same = before == after && before >= FILE_AT_START && before <= NULL_DEVICE;

                if (!is_same) {
                    unknown_after_reuse(queue, filters[i], before, after);
                    added_after_reuse(queue, filters[i], before, after);
                }
            }
        }
    }
    close(queue);
}

static void closed_file_is_a_bad_descriptor(void)
{
    int queue = new_queue();

    for (int kind = 0; kind < KINDS; kind++) {
        int fd = open_kind(kind);

        CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), 0);
        close(fd);
        CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), EBADF);
        fd = open_kind(kind);
        CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_WRITE, 0), 0);
        close(fd);
        CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_WRITE, EV_DELETE, 0, 0, NULL), EBADF);
    }
    close(queue);
}

/* The number is the queue's own, by dup2(). */
static void number_of_the_queue_itself(void)
{
    int queue = new_queue(), fd = open_kind(PIPE);

    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), 0);
    REQUIRE(dup2(queue, fd) == fd);
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, 0, NULL), ENOENT);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), EINVAL);
    close(fd);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(closing_a_descriptor_removes_its_events),
        TEST(reused_number_starts_afresh),
        TEST(adding_on_a_reused_number_forgets_the_rest),
        TEST(forgotten_events_of_a_duplicate_stay_away),
        TEST(closed_while_a_duplicate_lives),
        TEST(reused_while_a_duplicate_lives),
        TEST(every_kind_after_every_other),
        TEST(closed_file_is_a_bad_descriptor),
        TEST(number_of_the_queue_itself),
    };

    return check_main(tests, COUNT(tests));
}
