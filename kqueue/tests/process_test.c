/* EVFILT_PROC: the end of children and strangers, fork() and execve(). */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int watch(int queue, pid_t pid, unsigned int notes)
{
    return change(queue, (uintptr_t)pid, EVFILT_PROC, EV_ADD, notes, 0, NULL);
}

/* A child that waits for a byte or the end of the pipe, then exits with `status`. */
static pid_t start_child(int *go, int status)
{
    int ends[2];
    pid_t child;
    char byte;

    REQUIRE(pipe(ends) == 0);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        close(ends[1]);
        while (read(ends[0], &byte, 1) == -1 && errno == EINTR) {}
        _exit(status);
    }
    close(ends[0]);
    *go = ends[1];
    return child;
}

static void end_with_status(void)
{
    int queue = new_queue(), go, status;
    pid_t child = start_child(&go, 42);
    struct kevent event;

    CHECK_EQ(watch(queue, child, NOTE_EXIT), 0);
    CHECK(is_quiet(queue));
    close(go);
    event = get_one(queue);
    CHECK_EQ(event.ident, child);
    CHECK_EQ(event.filter, EVFILT_PROC);
    CHECK_EQ(event.fflags, NOTE_EXIT);
    CHECK(event.flags & EV_EOF);
    CHECK(event.flags & EV_ONESHOT);
    CHECK(WIFEXITED((int)event.data));
    CHECK_EQ(WEXITSTATUS((int)event.data), 42);
    /* It isn't reaped by that, and the event is gone. */
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)child, EVFILT_PROC, EV_DELETE, 0, 0, NULL), ENOENT);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, event.data);
    close(queue);
}

static void end_by_signal(void)
{
    int queue = new_queue(), go;
    pid_t child = start_child(&go, 0);
    struct kevent event;

    CHECK_EQ(watch(queue, child, NOTE_EXIT), 0);
    kill(child, SIGKILL);
    event = get_one(queue);
    CHECK(WIFSIGNALED((int)event.data));
    CHECK_EQ(WTERMSIG((int)event.data), SIGKILL);
    waitpid(child, NULL, 0);
    close(go);
    close(queue);
}

/* Dead, but not reaped: the end is there at once. Reaped: ESRCH. */
static void already_dead(void)
{
    int queue = new_queue(), go;
    pid_t child = start_child(&go, 7);
    siginfo_t info;

    close(go);
    CHECK_EQ(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    CHECK_EQ(watch(queue, child, NOTE_EXIT), 0);
    CHECK_EQ(WEXITSTATUS((int)get_one(queue).data), 7);
    waitpid(child, NULL, 0);
    CHECK_EQ(watch(queue, child, NOTE_EXIT), ESRCH);
    CHECK_EQ(watch(queue, 0, NOTE_EXIT), ESRCH);
    CHECK_EQ(add(queue, (uintptr_t)-5, EVFILT_PROC, 0), ESRCH);
    close(queue);
}

/* Not our child: the status is in /proc while it is a zombie. */
static void end_of_a_stranger(void)
{
    int queue = new_queue(), numbers[2], release[2];
    pid_t child, grandchild = 0;
    struct kevent event;

    REQUIRE(pipe(numbers) == 0);
    REQUIRE(pipe(release) == 0);
    child = fork();
    if (child == 0) {
        int go;
        char byte;

        close(release[1]);
        grandchild = start_child(&go, 9);
        if (write(numbers[1], &grandchild, sizeof(grandchild)) < 0 ||
            read(release[0], &byte, 1) < 0)
            _exit(1);
        close(go); /* It ends, and stays a zombie until we are let go. */
        if (read(release[0], &byte, 1) < 0)
            _exit(1);
        waitpid(grandchild, NULL, 0);
        _exit(0);
    }
    close(release[0]);
    CHECK_EQ(read(numbers[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
    CHECK_EQ(watch(queue, grandchild, NOTE_EXIT), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(release[1], "x", 1), 1);
    event = get_one(queue);
    CHECK_EQ(event.ident, grandchild);
    CHECK_EQ(WEXITSTATUS((int)event.data), 9);
    close(release[1]);
    waitpid(child, NULL, 0);
    close(numbers[0]);
    close(numbers[1]);
    close(queue);
}

static void disabled_until_later(void)
{
    int queue = new_queue(), go;
    pid_t child = start_child(&go, 5);
    siginfo_t info;

    CHECK_EQ(watch(queue, child, NOTE_EXIT), 0);
    CHECK_EQ(change(queue, (uintptr_t)child, EVFILT_PROC, EV_DISABLE, 0, 0, NULL), 0);
    close(go);
    CHECK_EQ(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)child, EVFILT_PROC, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(WEXITSTATUS((int)get_one(queue).data), 5);
    waitpid(child, NULL, 0);
    close(queue);
}

/* A descriptor and a process with the same number are two things. */
static void same_number_as_a_descriptor(void)
{
    int queue = new_queue(), go, ends[2];
    pid_t child = start_child(&go, 0);
    struct kevent event;

    REQUIRE(pipe(ends) == 0);
    REQUIRE(dup2(ends[0], (int)child) == (int)child || errno == EBADF);
    if (write(ends[1], "x", 1) == 1 && add(queue, (uintptr_t)child, EVFILT_READ, 0) == 0) {
        CHECK_EQ(watch(queue, child, NOTE_EXIT), 0);
        CHECK_EQ(get_one(queue).filter, EVFILT_READ);
        close((int)child);
        close(ends[0]);
        CHECK(is_quiet(queue));
        kill(child, SIGKILL);
        event = get_one(queue);
        CHECK_EQ(event.filter, EVFILT_PROC);
        CHECK_EQ(event.ident, child);
    } else {
        check_skip("the child's number is beyond the limit of descriptors");
        kill(child, SIGKILL);
        close(ends[0]);
    }
    waitpid(child, NULL, 0);
    close(ends[1]);
    close(go);
    close(queue);
}

/* The same where no child's number can be a descriptor's: with the first process of all. */
static void process_1_and_descriptor_1(void)
{
    int queue = new_queue(), ends[2], deleted, gone;
    struct kevent event = {0};
    bool quiet;

    fflush(stdout);
    REQUIRE(pipe(ends) == 0);
    int output = dup(1);
    REQUIRE(dup2(ends[0], 1) == 1);
    bool added = write(ends[1], "x", 1) == 1 && add(queue, 1, EVFILT_READ, 0) == 0 &&
                 watch(queue, 1, NOTE_EXIT) == 0;
    if (added)
        event = get_one(queue);
    close(1);
    close(ends[0]);
    quiet = is_quiet(queue);
    deleted = change(queue, 1, EVFILT_PROC, EV_DELETE, 0, 0, NULL);
    gone = change(queue, 1, EVFILT_READ, EV_DELETE, 0, 0, NULL);
    dup2(output, 1);
    CHECK(added);
    CHECK_EQ(event.filter, EVFILT_READ);
    CHECK(quiet);
    CHECK_EQ(deleted, 0);
    CHECK(gone != 0);
    close(output);
    close(ends[1]);
    close(queue);
}

static void *do_nothing(void *argument)
{
    return argument;
}

static void fork_and_exec(void)
{
    int queue = new_queue(), error = watch(queue, getpid(), NOTE_FORK), go, ends[2];
    pid_t child;
    struct kevent event;
    pthread_t thread;
    unsigned int seen = 0;

    if (error == EPERM || error == ENOTSUP) {
        check_skip("the kernel's process connector isn't for us");
        close(queue);
        return;
    }
    CHECK_EQ(error, 0);
    CHECK(is_quiet(queue));
    REQUIRE(pthread_create(&thread, NULL, do_nothing, NULL) == 0); /* no fork */
    pthread_join(thread, NULL);
    CHECK(is_quiet(queue));
    child = start_child(&go, 0);
    event = get_one(queue);
    CHECK_EQ(event.fflags, NOTE_FORK);
    CHECK_EQ(event.ident, getpid());
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)getpid(), EVFILT_PROC, EV_DELETE, 0, 0, NULL), 0);
    close(go);
    waitpid(child, NULL, 0);

    REQUIRE(pipe(ends) == 0);
    child = fork();
    if (child == 0) {
        char byte;

        close(ends[1]);
        if (read(ends[0], &byte, 1) < 0)
            _exit(1);
        execl("/bin/sh", "sh", "-c", "exit 6", (char *)NULL);
        _exit(1);
    }
    CHECK_EQ(watch(queue, child, NOTE_EXEC | NOTE_EXIT), 0);
    close(ends[1]);
    close(ends[0]);
    /* They come one by one or together. */
    while (!(seen & NOTE_EXIT) && get(queue, &event, 1, LONG_MS) == 1)
        seen |= event.fflags;
    CHECK_EQ(seen, NOTE_EXEC | NOTE_EXIT);
    CHECK_EQ(WEXITSTATUS((int)event.data), 6);
    waitpid(child, NULL, 0);
    close(queue);
}

/* An end that nobody asked for isn't told, and the event is gone with the process. */
static void end_not_asked_for(void)
{
    static const unsigned int notes[] = {0, NOTE_FORK, NOTE_EXEC, NOTE_FORK | NOTE_EXEC};
    int queue = new_queue();

    for (int i = 0; i < COUNT(notes); i++) {
        int go, error;
        pid_t child = start_child(&go, 3);
        siginfo_t info;

        error = watch(queue, child, notes[i]);
        close(go);
        CHECK_EQ(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
        if (error == 0) {
            CHECK(is_quiet(queue));
            CHECK(!is_readable(queue));
            CHECK_EQ(change(queue, (uintptr_t)child, EVFILT_PROC, EV_DELETE, 0, 0, NULL), ENOENT);
        } else {
            CHECK(notes[i] != 0 && (error == EPERM || error == ENOTSUP));
        }
        /* Asked for later, it is told. */
        CHECK_EQ(watch(queue, child, NOTE_EXIT), 0);
        CHECK_EQ(WEXITSTATUS((int)get_one(queue).data), 3);
        waitpid(child, NULL, 0);
    }
    close(queue);
}

/* What was asked for and came before the end isn't lost by the end. */
static void fork_before_an_end_not_asked_for(void)
{
    int queue = new_queue(), ends[2], error;
    struct kevent event;
    siginfo_t info;
    pid_t child;

    REQUIRE(pipe(ends) == 0);
    child = fork();
    if (child == 0) {
        char byte;

        close(ends[1]);
        if (read(ends[0], &byte, 1) < 0)
            _exit(1);
        _exit(fork() == 0 ? 0 : 5);
    }
    error = watch(queue, child, NOTE_FORK);
    close(ends[1]);
    close(ends[0]);
    CHECK_EQ(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    if (error == 0) {
        event = get_one(queue);
        CHECK_EQ(event.fflags, NOTE_FORK);
        CHECK_EQ(event.data, 0);
        CHECK(is_quiet(queue));
    } else {
        check_skip("the kernel's process connector isn't for us");
    }
    waitpid(child, NULL, 0);
    close(queue);
}

static void no_pidfd(void)
{
    CHECK(!can_watch_processes());
}

/* What can't be had is refused, not ignored. */
static void unknown_notes(void)
{
    int queue = new_queue();

    CHECK_EQ(watch(queue, getpid(), NOTE_TRACK), EINVAL);
    CHECK_EQ(watch(queue, getpid(), NOTE_EXIT | NOTE_TRACK), EINVAL);
    CHECK_EQ(watch(queue, getpid(), NOTE_EXIT), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)getpid(), EVFILT_PROC, EV_DELETE, 0, 0, NULL), 0);
    close(queue);
}

/* A process without the right to listen gets an errno. */
static void connector_refused(void)
{
    pid_t child;
    int status = 0;

    if (getuid() != 0) {
        check_skip("only root can give up root");
        return;
    }
    child = fork();
    if (child == 0) {
        int queue, error;

        if (setuid(65534) != 0)
            _exit(9);
        queue = kqueue();
        error = watch(queue, getpid(), NOTE_FORK);
        /* Linux 6.6 and later let everybody listen. */
        _exit(error == 0 || error == EPERM || error == ENOTSUP ? 0 : error);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

int main(void)
{
    static const struct test none[] = {TEST(no_pidfd)};
    static const struct test tests[] = {
        TEST(end_with_status),
        TEST(end_by_signal),
        TEST(already_dead),
        TEST(end_of_a_stranger),
        TEST(disabled_until_later),
        TEST(same_number_as_a_descriptor),
        TEST(process_1_and_descriptor_1),
        TEST(fork_and_exec),
        TEST(end_not_asked_for),
        TEST(fork_before_an_end_not_asked_for),
        TEST(unknown_notes),
        TEST(connector_refused),
    };

    int queue = kqueue();

    /* Linux before 5.3, and valgrind 3.19. */
    if (watch(queue, getpid(), NOTE_EXIT) == ENOTSUP)
        return check_main(none, COUNT(none));
    close(queue);
    return check_main(tests, COUNT(tests));
}
