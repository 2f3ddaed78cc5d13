/* The queue as a descriptor: polled, nested, copied, closed, forked; what calls leave alone. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
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

static int64_t thread_time_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The least that a hundred queues took, made and closed, in five attempts. */
static int64_t cost_of_queues(void)
{
    int64_t least = INT64_MAX;

    for (int round = 0; round < 5; round++) {
        int64_t start = thread_time_us(), took;

        for (int i = 0; i < 100; i++)
            close(new_queue());
        took = thread_time_us() - start;
        if (took < least)
            least = took;
    }
    return least;
}

/* How many are open makes no difference. Ten times is far from what each being asked would cost. */
static void as_cheap_with_many_open(void)
{
    enum { MANY = 2000, SPARE = 50 };
    static int queues[MANY];
    struct rlimit limit, raised;
    int64_t few, many;

    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    raised = limit;
    if (raised.rlim_cur < MANY + SPARE)
        raised.rlim_cur = MANY + SPARE < raised.rlim_max ? MANY + SPARE : raised.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &raised) != 0 || raised.rlim_cur < MANY + SPARE) {
        check_skip("the limit of descriptors is too low");
        return;
    }
    for (int i = 0; i < 10; i++)
        queues[i] = new_queue();
    few = cost_of_queues();
    for (int i = 10; i < MANY; i++)
        queues[i] = new_queue();
    many = cost_of_queues();
    if (!CHECK(many < 10 * few))
        printf("# %jd us with 10 open, %jd us with %d\n", (intmax_t)few, (intmax_t)many, MANY);
    for (int i = 0; i < MANY; i++)
        close(queues[i]);
    pier_kqueue_reclaim();
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Of many that are open, those that close are found all the same: some by each kqueue(). */
static void closed_among_many_are_found(void)
{
    enum { MANY = 200 };
    static int queues[MANY];
    int before, others[MANY / 2];

    pier_kqueue_reclaim();
    before = count_descriptors();
    for (int i = 0; i < MANY; i++) {
        queues[i] = new_queue();
        CHECK_EQ(change(queues[i], 1, EVFILT_TIMER, EV_ADD, 0, 100000, NULL), 0);
    }
    /* Half are closed, and their numbers become something else. */
    for (int i = 0; i < MANY; i += 2)
        close(queues[i]);
    for (int i = 0; i < MANY / 2; i++)
        others[i] = dup(STDIN_FILENO);
    for (int i = 0; i < MANY; i++)
        close(new_queue());
    CHECK(count_descriptors() - before < MANY / 2 * 2 + MANY / 2 + 10);
    for (int i = 0; i < MANY / 2; i++)
        close(others[i]);
    for (int i = 1; i < MANY; i += 2) {
        CHECK_EQ(change(queues[i], 1, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), 0);
        close(queues[i]);
    }
    pier_kqueue_reclaim();
    CHECK_EQ(count_descriptors(), before);
}

/* However many were closed, and nothing else is open: the next kqueue() frees all they had. */
static void next_queue_frees_all_closed_ones(void)
{
    enum { MANY = 50 };
    int queues[MANY], before, one = new_queue();

    pier_kqueue_reclaim();
    before = count_descriptors();
    for (int i = 0; i < MANY; i++) {
        queues[i] = new_queue();
        CHECK_EQ(change(queues[i], 1, EVFILT_TIMER, EV_ADD, 0, 100000, NULL), 0);
    }
    for (int i = 0; i < MANY; i++)
        close(queues[i]);
    close(new_queue());
    CHECK_EQ(count_descriptors(), before);
    close(one);
}

/* What a successful call tries on its way and fails at shows nowhere. */
static void success_leaves_errno_alone(void)
{
    int pair[2], listener, ends[2], file = open(scratch_file("file"), O_RDWR | O_CREAT, 0600);
    uint16_t port;
    int queue, extra;
    struct kevent event;

    errno = ENOTTY;
    queue = kqueue();
    CHECK_EQ(errno, ENOTTY);
    listener = tcp_listen(&port);
    tcp_pair(pair);
    REQUIRE(pipe(ends) == 0);
    extra = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    tcp_connect(extra, port);
    struct kevent changes[6];
    EV_SET(&changes[0], listener, EVFILT_READ, EV_ADD, 0, 0, NULL); /* FIONREAD fails on these */
    EV_SET(&changes[1], file, EVFILT_READ, EV_ADD, NOTE_FILE_POLL, 0, NULL); /* epoll does */
    EV_SET(&changes[2], file, EVFILT_WRITE, EV_ADD, 0, 0, NULL);
    EV_SET(&changes[3], pair[0], EVFILT_WRITE, EV_ADD, 0, 0, NULL);
    EV_SET(&changes[4], ends[0], EVFILT_READ, EV_ADD | EV_ONESHOT, 0, 0, NULL);
    EV_SET(&changes[5], 999999, EVFILT_READ, EV_DELETE, 0, 0, NULL); /* told as an event */
    for (int i = 0; i < COUNT(changes); i++) {
        errno = ENOTTY;
        CHECK(kevent(queue, &changes[i], 1, &event, 1, NULL) >= 0);
        CHECK_EQ(errno, ENOTTY);
    }
    close(ends[0]);
    close(ends[1]);
    for (int i = 0; i < 10; i++) {
        errno = ENOTTY;
        CHECK(get(queue, &event, 1, 0) >= 0);
        CHECK_EQ(errno, ENOTTY);
    }
    close(queue);
    errno = ENOTTY;
    pier_kqueue_reclaim();
    CHECK_EQ(errno, ENOTTY);
    queue = kqueue1(O_NONBLOCK);
    CHECK(queue >= 0);
    CHECK_EQ(errno, ENOTTY);
    pid_t child = fork();
    if (child == 0)
        _exit(errno);
    CHECK_EQ(errno, ENOTTY);
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WEXITSTATUS(status), ENOTTY);
    close(queue);
    close(extra);
    close(listener);
    close(file);
    close(pair[0]);
    close(pair[1]);
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
        TEST(next_queue_frees_all_closed_ones),
        TEST(success_leaves_errno_alone),
        TEST(not_inherited_by_fork),
        TEST(after_closing_all_descriptors),
        /* After the last fork(), which locks all that ever were: tsan counts to 64. */
        TEST(as_cheap_with_many_open),
        TEST(closed_among_many_are_found),
    };

    return check_main(tests, COUNT(tests));
}
