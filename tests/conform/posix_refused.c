/* posix_refused.c - what a sandbox or a limit refuses: wake-ups, system calls one by one, threads
 * of the kernel's own.
 *
 * Filters and limits are put on a child process, or on the one thread that they are about. */

#include "suite.h"

#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* Refuses up to two system calls of this thread, and of those it makes. False where filters aren't
 * allowed. */
static bool refuse(long first, long second, unsigned code)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)first, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)second, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = COUNT_OF(rules), .filter = rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

enum { CHILD_SKIPS = 77 };

/* Runs `body` in a child. False, and the test is skipped with `why`, when the child says so. */
static bool in_child(void (*body)(void *), void *context, const char *why)
{
    int status = 0;
    fflush(NULL);
    const pid_t child = fork();
    CHECK_INT(child, >=, 0);
    if (child == 0) {
        alarm(60);
        body(context);
        _exit(0);
    }
    CHECK_INT(waitpid(child, &status, 0), ==, child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIPS) {
        test_skip("%s", why);
        return false;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        FAIL("the child ended with status %#x", (unsigned)status);
    }
    return true;
}

/* ---- wake-ups */

struct sleeper {
    struct pier_loop *loop;
    struct tracked notify, posts[200];
    unsigned posted;
    _Atomic unsigned arrived;
    _Atomic bool no_filter;
};

static void count_post(struct tracked *tracked)
{
    struct sleeper *sleeper = tracked->context;
    atomic_fetch_add(&sleeper->arrived, 1);
}

/* Posts one after the other, each when the one before has arrived and the loop sleeps again. */
static void post_refused(void *context)
{
    struct sleeper *sleeper = context;
    sleeper->no_filter = !refuse(SYS_io_uring_register, SYS_io_uring_register, ENOMEM);
    for (unsigned i = 0; i < COUNT_OF(sleeper->posts); i++) {
        while (atomic_load(&sleeper->arrived) < i) {
            platform_yield();
        }
        sleeper->posts[i].context = sleeper;
        tracked_post(sleeper->loop, &sleeper->posts[i], count_post);
    }
}

/* The loop sleeps without a time limit: a wake-up that is lost leaves it there for the watchdog. */
static void a_refused_wake_up_arrives(void)
{
    static struct sleeper sleeper;
    struct platform_thread thread;
    sleeper.loop = test_loop();
    tracked_notify_each(sleeper.loop, &sleeper.notify, NULL);
    run_quietly(sleeper.loop, 5);
    platform_thread_start(&thread, post_refused, &sleeper);
    RUN_UNTIL(sleeper.loop, atomic_load(&sleeper.arrived) == COUNT_OF(sleeper.posts));
    platform_thread_join(&thread);
    tracked_cancel(&sleeper.notify);
    CHECK_INT(wait_for(&sleeper.notify), ==, PIER_ECANCELED);
    if (sleeper.no_filter) {
        test_skip("this kernel or sandbox refuses a filter");
    }
}

/* ---- system calls */

static struct filter {
    const char *name;
    long first, second;
    unsigned code;
} filters[] = {
    {"io_uring_setup", SYS_io_uring_setup, SYS_io_uring_setup, EPERM},
    {"io_uring_enter", SYS_io_uring_enter, SYS_io_uring_enter, EPERM},
    {"io_uring_enter", SYS_io_uring_enter, SYS_io_uring_enter, ENOSYS},
    {"io_uring_register", SYS_io_uring_register, SYS_io_uring_register, EPERM},
    {"io_uring_register", SYS_io_uring_register, SYS_io_uring_register, EACCES},
    {"io_uring_setup, eventfd2", SYS_io_uring_setup, SYS_eventfd2, EPERM},
    {"eventfd2", SYS_eventfd2, SYS_eventfd2, EPERM},
    {"epoll_create1", SYS_io_uring_setup, SYS_epoll_create1, ENOSYS},
    {"epoll_pwait2", SYS_io_uring_setup, SYS_epoll_pwait2, EPERM},
    {"pwritev2", SYS_pwritev2, SYS_pwritev2, EPERM},
    {"pwritev2", SYS_pwritev2, SYS_pwritev2, EACCES},
};

/* What a program does, on a loop of which nothing is known beforehand. */
static void use_loop(const char *backend)
{
    struct pier_loop_options options = test_options();
    struct tracked_handle a = {0}, file = {0}, reader = {0}, writer = {0};
    struct tracked timer = {0}, post = {0}, send = {0}, write = {0}, broken = {0};
    pier_descriptor pipe[2];
    char path[PIER_PATH_MAX], byte;
    options.backend = backend;
    struct pier_loop *loop = test_loop_with(&options);
    tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    tracked_post(loop, &post, NULL);
    CHECK_INT(wait_for(&post), ==, 0);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    check_usable(&a, peer);
    tracked_shutdown(&a, &send, NULL);
    CHECK_INT(wait_for(&send), ==, 0);
    raw_receive_end(peer);
    platform_temporary_path(path, sizeof(path));
    CHECK_OK(tracked_adopt(loop, &file, platform_open(path, PLATFORM_CREATE, 0)));
    tracked_send(&file, &write, "file", 4, NULL);
    CHECK_INT(wait_for(&write), ==, 4);
    raw_pipe(pipe);
    CHECK_OK(tracked_adopt(loop, &reader, pipe[0]));
    CHECK_OK(tracked_adopt(loop, &writer, pipe[1]));
    send_all(&writer, "p", 1);
    receive_all(&reader, &byte, 1);
    close_and_wait(&reader);
    tracked_send(&writer, &broken, "q", 1, NULL); /* and no signal */
    CHECK_INT(wait_for(&broken), ==, PIER_EPIPE);
    close_and_wait(&writer);
    close_and_wait(&file);
    close_and_wait(&a);
    raw_close(peer);
    platform_remove(path);
    test_loop_free(loop);
}

static void use_refused(void *context)
{
    const struct filter *filter = context;
    if (!refuse(filter->first, filter->second, filter->code)) {
        _exit(CHILD_SKIPS);
    }
    /* The one under test works, or says that it can't; another one is found without a wish. */
    const int probed = pier_backend_probe(test_backend());
    if (probed >= 0) {
        use_loop(test_backend());
    } else {
        test_check_detail(__FILE__, __LINE__, filter->name);
        struct pier_loop_options options = test_options();
        struct pier_loop *loop;
        CHECK_INT(pier_loop_new(&loop, &options), ==, probed);
    }
    platform_set_environment("PIER_BACKEND", "");
    use_loop(NULL);
}

static void each_system_call_refused(void)
{
    if (test_backend_is("kqueue")) {
        test_skip("the emulated kqueue makes calls of its own");
        return;
    }
    for (size_t i = 0; i < COUNT_OF(filters); i++) {
        if (!in_child(use_refused, &filters[i], "this kernel or sandbox refuses a filter")) {
            return;
        }
    }
}

/* ---- no more threads */

/* A file system that wants its files flushed when they are closed, for which io_uring takes a
 * thread: the root of most containers. Elsewhere this is a file like any other. */
static void without_threads(void *context)
{
    (void)context;
    struct tracked_handle a = {0}, file = {0};
    struct tracked shut = {0}, write = {0};
    const struct rlimit none = {0, 0};
    char path[] = "/var/tmp/pier-refused-XXXXXX";
    const int descriptor = mkstemp(path);
    if (descriptor < 0 || unlink(path) != 0 || setgroups(0, NULL) != 0 || setgid(65534) != 0 ||
        setuid(65534) != 0 || setrlimit(RLIMIT_NPROC, &none) != 0) {
        _exit(CHILD_SKIPS);
    }
    struct pier_loop *loop = test_loop();
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    check_usable(&a, peer);
    tracked_shutdown(&a, &shut, NULL);
    CHECK_INT(wait_for(&shut), ==, 0);
    raw_receive_end(peer);
    CHECK_OK(tracked_adopt(loop, &file, descriptor));
    tracked_send(&file, &write, "file", 4, NULL);
    CHECK_INT(wait_for(&write), ==, 4);
    close_and_wait(&file);
    CHECK_INT(fcntl(descriptor, F_GETFD), <, 0);
    close_and_wait(&a);
    raw_close(peer);
    test_loop_free(loop);
}

static void without_threads_for_the_kernel(void)
{
    in_child(without_threads, NULL, "needs the right to become another user");
}

#else

static void a_refused_wake_up_arrives(void)
{
    test_skip("the filters are Linux's");
}

static void each_system_call_refused(void)
{
    test_skip("the filters are Linux's");
}

static void without_threads_for_the_kernel(void)
{
    test_skip("no other kernel makes threads for it");
}

#endif

const struct test refused_tests[] = {
    TEST(refused, a_refused_wake_up_arrives),
    TEST(refused, each_system_call_refused),
    TEST(refused, without_threads_for_the_kernel),
    TEST_END,
};
