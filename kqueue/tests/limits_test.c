/*
 * What docs/kqueue.md says Linux can't reproduce, row by row: each test shows what happens instead.
 * A test that fails here because things got better is a row to delete.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

/* BSD: the bytes of both. */
static void data_of_datagrams_is_the_first(void)
{
    int queue = new_queue(), pair[2];

    REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK_EQ(send(pair[1], "abc", 3, 0), 3);
    CHECK_EQ(send(pair[1], "defg", 4, 0), 4);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    CHECK_EQ(get_one(queue).data, 3);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* BSD: an edge when the peer has taken bytes. Linux: only after a write that didn't fit. */
static void tcp_room_has_an_edge_only_after_a_full_buffer(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, EV_CLEAR), 0);
    get_one(queue);
    CHECK_EQ(write(pair[0], "some", 4), 4);
    while (drain(pair[1]) == 0) {}
    CHECK(is_quiet(queue));
    fill(pair[0]);
    drain(pair[1]);
    CHECK_EQ(get_one(queue).filter, EVFILT_WRITE);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* BSD: EV_EOF. */
static void own_shutdown_is_not_the_end_of_writing(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    shutdown(pair[0], SHUT_WR);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
    CHECK_EQ(get_one(queue).flags, 0);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* BSD: not before there is so much room. */
static void low_water_mark_of_writing_is_not_heeded(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(change(queue, (uintptr_t)pair[0], EVFILT_WRITE, EV_ADD, NOTE_LOWAT, 1 << 30, NULL), 0);
    CHECK(get_one(queue).data < 1 << 30);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* BSD: 2. */
static void data_of_a_queue_is_one(void)
{
    int inner = new_queue(), outer = new_queue();

    for (uintptr_t i = 0; i < 2; i++)
        CHECK_EQ(change(inner, i, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(add(outer, (uintptr_t)inner, EVFILT_READ, 0), 0);
    CHECK_EQ(get_one(outer).data, 1);
    close(inner);
    close(outer);
}

/*
 * BSD: close() removes the event. Linux: while a duplicate lives, the old file's readiness is taken
 * for that of the number's new file, if that happens to have something to read at the time; EV_ADD
 * ends it. Else it is recognised, see queue_test.
 */
static void duplicate_of_a_closed_descriptor_is_mistaken(void)
{
    int queue = new_queue(), old[2], fresh[2], copy, mark;
    struct kevent event;

    REQUIRE(pipe(old) == 0);
    copy = fcntl(old[0], F_DUPFD_CLOEXEC, 100);
    CHECK_EQ(change(queue, (uintptr_t)old[0], EVFILT_READ, EV_ADD, 0, 0, &mark), 0);
    close(old[0]);
    REQUIRE(pipe(fresh) == 0);
    CHECK_EQ(fresh[0], old[0]);
    CHECK_EQ(write(old[1], "x", 1), 1);
    CHECK_EQ(write(fresh[1], "ab", 2), 2);
    event = get_one(queue);
    CHECK_EQ(event.data, 2);
    CHECK(event.udata == &mark);
    CHECK_EQ(add(queue, (uintptr_t)fresh[0], EVFILT_READ, 0), 0);
    CHECK(get_one(queue).udata == NULL);
    close(copy);
    close(old[1]);
    close(fresh[0]);
    close(fresh[1]);
    close(queue);
}

/* BSD: removed by close(). Here the number leads to the same file again. */
static void same_file_under_the_same_number_is_still_watched(void)
{
    int queue = new_queue(), fd = open(scratch_file("file"), O_RDWR | O_CREAT, 0600), again;

    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, NOTE_WRITE, 0, NULL), 0);
    close(fd);
    again = open(scratch_file("file"), O_RDWR);
    CHECK_EQ(again, fd);
    CHECK_EQ(write(again, "x", 1), 1);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    close(again);
    close(queue);
}

/* BSD: NOTE_LINK and NOTE_DELETE. inotify says "attributes" twice, and then nothing has changed. */
static void link_and_unlink_unseen_look_like_attributes(void)
{
    int queue = new_queue(), fd = open(scratch_file("file"), O_RDWR | O_CREAT, 0600);

    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ADD | EV_CLEAR,
                    NOTE_LINK | NOTE_DELETE | NOTE_ATTRIB, 0, NULL),
             0);
    CHECK_EQ(link(scratch_file("file"), scratch_file("second")), 0);
    CHECK_EQ(unlink(scratch_file("second")), 0);
    CHECK_EQ(get_one(queue).fflags, NOTE_ATTRIB);
    close(fd);
    close(queue);
}

/*
 * BSD: NOTE_ATTRIB, too. inotify says "modified" once, and the file is larger, or as it was. (If it
 * is smaller, all is told.)
 */
static void truncated_and_regrown_unseen_looks_written(void)
{
    int queue = new_queue(), fd = open(scratch_file("regrown"), O_RDWR | O_CREAT, 0600);
    unsigned int notes = NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB;

    CHECK_EQ(write(fd, "abc", 3), 3);
    CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, notes, 0, NULL), 0);
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(pwrite(fd, "defg", 4, 0), 4);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE | NOTE_EXTEND);
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(pwrite(fd, "hijk", 4, 0), 4);
    CHECK_EQ(get_one(queue).fflags, NOTE_WRITE);
    close(fd);
    close(queue);
}

/* BSD: the wait ends. */
static void *seek_back(void *argument)
{
    lseek(*(int *)argument, 0, SEEK_SET);
    return NULL;
}

static void seeking_does_not_end_a_wait(void)
{
    int queue = new_queue(), fd = open(scratch_file("seek"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    pthread_t thread;
    struct kevent event;
    int count;

    CHECK_EQ(write(fd, "abc", 3), 3);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    REQUIRE(pthread_create(&thread, NULL, seek_back, &fd) == 0);
    count = get(queue, &event, 1, 50); /* 1 if the thread was first */
    CHECK(count == 0 || count == 1);
    pthread_join(thread, NULL);
    CHECK_EQ(get_one(queue).data, 3); /* the next call sees it */
    close(fd);
    close(queue);
}

/* BSD: 2. Also true of a signal sent twice before the process runs. */
static void pending_signals_of_one_kind_count_once(void)
{
    int queue = new_queue();
    sigset_t set, old;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    signal(SIGUSR2, SIG_IGN);
    CHECK_EQ(add(queue, SIGUSR2, EVFILT_SIGNAL, 0), 0);
    kill(getpid(), SIGUSR2);
    kill(getpid(), SIGUSR2);
    CHECK_EQ(get_one(queue).data, 1);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(queue);
    pier_kqueue_reclaim();
}

/* BSD: SIG_IGN stays what it was, and exec() hands it on. */
static void ignored_signal_becomes_default_in_exec(void)
{
    int queue, status = 0;
    pid_t child;

#ifdef __SANITIZE_THREAD__
    check_skip("the thread sanitizer turns vfork() into fork()");
    return;
#endif
    queue = new_queue();
    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(add(queue, SIGUSR1, EVFILT_SIGNAL, 0), 0);
    child = vfork(); /* fork() gives the program's own back */
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "kill -USR1 $$; exit 0", (char *)NULL);
        _exit(1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status));
    child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "kill -USR1 $$; exit 0", (char *)NULL);
        _exit(1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    close(queue);
    pier_kqueue_reclaim();
}

/* BSD: kqueue() without flags survives exec(). */
static void always_close_on_exec(void)
{
    int queue = new_queue();

    CHECK(fcntl(queue, F_GETFD) & FD_CLOEXEC);
    close(queue);
}

/* BSD: EBADF at once. */
static int waiting_queue;
static int wait_result, wait_errno;

static void *wait_in_queue(void *argument)
{
    struct kevent event;

    wait_result = kevent(waiting_queue, NULL, 0, &event, 1, NULL);
    wait_errno = errno;
    return argument;
}

static void closing_does_not_end_a_wait(void)
{
    int ends[2];
    pthread_t thread;

#ifdef __SANITIZE_THREAD__
    check_skip("a race between close() and a wait is what this is about");
    return;
#endif
    REQUIRE(pipe(ends) == 0);
    waiting_queue = new_queue();
    CHECK_EQ(add(waiting_queue, (uintptr_t)ends[0], EVFILT_READ, 0), 0);
    REQUIRE(pthread_create(&thread, NULL, wait_in_queue, NULL) == 0);
    close(waiting_queue);
    CHECK_EQ(write(ends[1], "x", 1), 1); /* what ends it, if it had begun */
    pthread_join(thread, NULL);
    CHECK(wait_result == -1 ? wait_errno == EBADF : wait_result == 1);
    close(ends[0]);
    close(ends[1]);
}

/* qemu-user hands no ioctl to a pidfd. */
static bool answers_about_processes(void)
{
    char answer[64] = {0}; /* PIDFD_GET_INFO's first form */
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    bool answers = ioctl(pidfd, _IOWR(0xff, 11, answer), answer) == 0;

    close(pidfd);
    return answers;
}

/* BSD: always. Linux: our own children; others while they are zombies; all since 6.15. */
static void status_of_the_reaped(void)
{
    struct utsname system;
    int queue, ends[2], major = 0, minor = 0;
    bool is_new;
    pid_t child;
    char byte;

    if (!can_watch_processes())
        return;
    queue = new_queue();
    uname(&system);
    sscanf(system.release, "%d.%d", &major, &minor);
    REQUIRE(pipe(ends) == 0);
    child = fork();
    if (child == 0) {
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) == 0 ? 4 : 1);
    }
    CHECK_EQ(change(queue, (uintptr_t)child, EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL), 0);
    close(ends[1]);
    close(ends[0]);
    waitpid(child, NULL, 0);
    is_new = (major > 6 || (major == 6 && minor >= 15)) && answers_about_processes();
    CHECK_EQ(get_one(queue).data, is_new ? 4 << 8 : 0);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(data_of_datagrams_is_the_first),
        TEST(tcp_room_has_an_edge_only_after_a_full_buffer),
        TEST(own_shutdown_is_not_the_end_of_writing),
        TEST(low_water_mark_of_writing_is_not_heeded),
        TEST(data_of_a_queue_is_one),
        TEST(duplicate_of_a_closed_descriptor_is_mistaken),
        TEST(same_file_under_the_same_number_is_still_watched),
        TEST(link_and_unlink_unseen_look_like_attributes),
        TEST(truncated_and_regrown_unseen_looks_written),
        TEST(seeking_does_not_end_a_wait),
        TEST(pending_signals_of_one_kind_count_once),
        TEST(ignored_signal_becomes_default_in_exec),
        TEST(always_close_on_exec),
        TEST(closing_does_not_end_a_wait),
        TEST(status_of_the_reaped),
    };

    return check_main(tests, COUNT(tests));
}
