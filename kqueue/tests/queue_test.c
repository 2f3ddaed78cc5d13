/* The queue as a descriptor: polled, nested, copied, closed, forked; closing what it watches. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void polled(void)
{
    int queue = new_queue(), ends[2], foreign = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    fd_set set;
    struct timeval now = {0};

    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(epoll_ctl(foreign, EPOLL_CTL_ADD, queue, &event), 0);
    CHECK_EQ(add(queue, (uintptr_t)ends[0], EVFILT_READ, EV_CLEAR), 0);
    CHECK(!is_readable(queue));
    CHECK_EQ(epoll_wait(foreign, &event, 1, 0), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK(is_readable(queue));
    CHECK_EQ(epoll_wait(foreign, &event, 1, 0), 1);
    FD_ZERO(&set);
    FD_SET(queue, &set);
    CHECK_EQ(select(queue + 1, &set, NULL, NULL, &now), 1);
    get_one(queue);
    CHECK(!is_readable(queue));
    CHECK_EQ(epoll_wait(foreign, &event, 1, 0), 0);
    close(foreign);
    close(ends[0]);
    close(ends[1]);
    close(queue);
}

/* Each kind of event makes the queue readable, and getting it makes it quiet. */
static void readable_for_every_filter(void)
{
    int queue = new_queue(), pair[2];
    struct pollfd poll_fd = {.fd = queue, .events = POLLIN};

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, EV_CLEAR), 0);
    CHECK(is_readable(queue));
    CHECK_EQ(get_one(queue).filter, EVFILT_WRITE);
    CHECK(!is_readable(queue));
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ADD | EV_ONESHOT, 0, 1, NULL), 0);
    CHECK_EQ(poll(&poll_fd, 1, LONG_MS), 1);
    CHECK_EQ(get_one(queue).filter, EVFILT_TIMER);
    CHECK(!is_readable(queue));
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL), 0);
    CHECK(is_readable(queue));
    CHECK_EQ(get_one(queue).filter, EVFILT_USER);
    CHECK(!is_readable(queue));
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void nested(void)
{
    int inner = new_queue(), middle = new_queue(), outer = new_queue();
    struct kevent event;

    CHECK_EQ(add(inner, 1, EVFILT_USER, EV_CLEAR), 0);
    CHECK_EQ(add(middle, (uintptr_t)inner, EVFILT_READ, 0), 0);
    CHECK_EQ(add(outer, (uintptr_t)middle, EVFILT_READ, EV_CLEAR), 0);
    CHECK(is_quiet(outer));
    CHECK_EQ(change(inner, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), 0);
    event = get_one(outer);
    CHECK_EQ(event.ident, middle);
    CHECK_EQ(event.filter, EVFILT_READ);
    CHECK_EQ(event.data, 1);
    CHECK_EQ(get_one(middle).ident, inner);
    CHECK_EQ(get_one(middle).ident, inner);
    CHECK_EQ(get_one(inner).filter, EVFILT_USER);
    CHECK(is_quiet(middle));
    CHECK_EQ(add(inner, (uintptr_t)inner, EVFILT_READ, 0), EINVAL);
    CHECK_EQ(add(outer, (uintptr_t)inner, EVFILT_WRITE, 0), EINVAL);
    CHECK_EQ(add(inner, (uintptr_t)outer, EVFILT_READ, 0), ELOOP);
    close(inner);
    CHECK(is_quiet(middle));
    close(middle);
    close(outer);
}

/* Linux's limit, in docs/kqueue.md: epolls five deep, of which a queue with EVFILT_WRITE is two. */
static int depth_of_nest(bool writes)
{
    int queues[8], depth = 1, error = 0, ends[2];

    REQUIRE(pipe(ends) == 0);
    for (int i = 0; i < COUNT(queues); i++)
        queues[i] = new_queue();
    if (writes)
        CHECK_EQ(add(queues[0], (uintptr_t)ends[1], EVFILT_WRITE, 0), 0);
    while (depth < COUNT(queues) && error == 0) {
        error = add(queues[depth], (uintptr_t)queues[depth - 1], EVFILT_READ, 0);
        depth += error == 0;
    }
    CHECK_EQ(error, ELOOP);
    for (int i = 0; i < COUNT(queues); i++)
        close(queues[i]);
    close(ends[0]);
    close(ends[1]);
    return depth;
}

static void nested_as_deep_as_linux_allows(void)
{
    CHECK_EQ(depth_of_nest(false), 5);
    CHECK_EQ(depth_of_nest(true), 4);
}

static void duplicated(void)
{
    int queue = new_queue(), copy, again;

    CHECK_EQ(add(queue, 1, EVFILT_USER, EV_CLEAR), 0);
    copy = dup(queue);
    CHECK_EQ(change(copy, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(get_one(queue).ident, 1);
    close(queue);
    pier_kqueue_reclaim();
    CHECK_EQ(change(copy, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(get_one(copy).ident, 1);
    again = new_queue();
    CHECK_EQ(change(again, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), ENOENT);
    close(copy);
    close(again);
}

static void closed_is_bad(void)
{
    int queue = new_queue(), pair[2];
    struct kevent event;

    CHECK_EQ(add(queue, 1, EVFILT_USER, 0), 0);
    close(queue);
    CHECK_EQ(change(queue, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), EBADF);
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ADD, 0, 1, NULL), EBADF);
    CHECK_EQ(get(queue, &event, 1, 0), -1);
    CHECK_EQ(errno, EBADF);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(pair[0], queue); /* The number is something else now. */
    CHECK_EQ(get(queue, &event, 1, 0), -1);
    CHECK_EQ(errno, EBADF);
    CHECK_EQ(add(queue, 1, EVFILT_TIMER, 0), EBADF);
    close(pair[0]);
    close(pair[1]);
}

/* The next queue under the number knows nothing of the last, and nothing is left behind. */
static void nothing_is_left_behind(void)
{
    int before, pair[2], file = open(scratch(), O_RDONLY | O_CLOEXEC);

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pier_kqueue_reclaim();
    before = count_descriptors();
    for (int i = 0; i < 50; i++) {
        int queue = new_queue();

        CHECK_EQ(change(queue, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), ENOENT);
        CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
        CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL), 0);
        CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ADD, 0, 1000, NULL), 0);
        CHECK_EQ(change(queue, 2, EVFILT_TIMER, EV_ADD, NOTE_ABSTIME, 1, NULL), 0);
        change(queue, (uintptr_t)getpid(), EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);
        CHECK_EQ(change(queue, (uintptr_t)file, EVFILT_VNODE, EV_ADD, NOTE_WRITE, 0, NULL), 0);
        close(queue);
        CHECK(count_descriptors() - before < 10);
    }
    pier_kqueue_reclaim();
    CHECK_EQ(count_descriptors(), before);
    close(file);
    close(pair[0]);
    close(pair[1]);
}

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

/* A child has no queues, and nothing it does reaches the parent's. */
static void not_inherited_by_fork(void)
{
    int queue = new_queue(), ends[2], status = -1;
    pid_t child;

    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(add(queue, (uintptr_t)ends[0], EVFILT_READ, EV_CLEAR), 0);
    CHECK_EQ(add(queue, (uintptr_t)ends[1], EVFILT_WRITE, EV_CLEAR), 0);
    CHECK_EQ(add(queue, 1, EVFILT_USER, EV_CLEAR), 0);
    get_one(queue);
    CHECK_EQ(change(queue, 2, EVFILT_TIMER, EV_ADD | EV_ONESHOT, 0, 50, NULL), 0);
    child = fork();
    if (child == 0) {
        struct kevent event;
        int fresh, failed = 0;

        failed += fcntl(queue, F_GETFD) != -1;
        failed += change(queue, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL) != EBADF;
        fresh = kqueue();
        failed += fresh == -1;
        failed += add(fresh, (uintptr_t)ends[0], EVFILT_READ, 0) != 0;
        failed += write(ends[1], "x", 1) != 1;
        failed += get(fresh, &event, 1, LONG_MS) != 1;
        failed += event.data != 1;
        failed += read(ends[0], &event, 1) != 1;
        close(fresh);
        _exit(failed);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    /* The byte's edge may have been seen; the timer must still come. */
    for (;;) {
        struct kevent event;

        if (!CHECK_EQ(get(queue, &event, 1, LONG_MS), 1) || event.filter == EVFILT_TIMER)
            break;
        CHECK_EQ(event.filter, EVFILT_READ);
    }
    is_quiet(queue);
    CHECK_EQ(change(queue, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(get_one(queue).filter, EVFILT_USER);
    CHECK_EQ(write(ends[1], "y", 1), 1);
    CHECK_EQ(get_one(queue).filter, EVFILT_READ);
    close(ends[0]);
    close(ends[1]);
    close(queue);
}

/* Daemons close all they don't know. What they open then must survive the next queue. */
static void after_closing_all_descriptors(void)
{
    enum { FIRST = 3, LAST = 100, FILES = 40 };
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        int queue = kqueue(), files[FILES], failed = 0, pair[2];
        struct kevent event;

        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0);
        change(queue, 1, EVFILT_TIMER, EV_ADD, NOTE_SECONDS, 1, NULL);
        change(queue, (uintptr_t)getpid(), EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);
        for (int fd = FIRST; fd < LAST; fd++)
            close(fd);
        for (int i = 0; i < FILES; i++)
            files[i] = open("/dev/null", O_RDONLY);
        queue = kqueue();
        for (int i = 0; i < FILES; i++)
            failed += fcntl(files[i], F_GETFD) == -1;
        failed += change(queue, 1, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL) != 0;
        failed += get(queue, &event, 1, LONG_MS) != 1;
        _exit(failed);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(polled),
        TEST(readable_for_every_filter),
        TEST(nested),
        TEST(nested_as_deep_as_linux_allows),
        TEST(duplicated),
        TEST(closed_is_bad),
        TEST(nothing_is_left_behind),
        TEST(closing_a_descriptor_removes_its_events),
        TEST(reused_number_starts_afresh),
        TEST(adding_on_a_reused_number_forgets_the_rest),
        TEST(forgotten_events_of_a_duplicate_stay_away),
        TEST(closed_while_a_duplicate_lives),
        TEST(reused_while_a_duplicate_lives),
        TEST(not_inherited_by_fork),
        TEST(after_closing_all_descriptors),
    };

    return check_main(tests, COUNT(tests));
}
