/* posix_sandbox.c - a sandbox that refuses single system calls: pier steps down, waits, or says at
 * set-up what is missing.
 *
 * A filter holds for the thread that installs it alone, so each test has a thread that is refused,
 * and the rest of the process isn't. Where there are no filters (other systems, qemu-user) the
 * tests are skipped. */

#include "suite.h"

#ifdef __linux__
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CALLS_MAX = 8 };

/* The system call `number` ends with EPERM on this thread from now on. False without filters. */
static bool refuse(unsigned number)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = COUNT_OF(rules), .filter = rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

struct sandbox {
    unsigned calls[CALLS_MAX];
    unsigned count;
    void (*body)(void);
    bool has_filters;
};

static void enter_sandbox(void *context)
{
    struct sandbox *sandbox = context;
    sandbox->has_filters = true;
    for (unsigned i = 0; i < sandbox->count; i++) {
        sandbox->has_filters = sandbox->has_filters && refuse(sandbox->calls[i]);
    }
    if (sandbox->has_filters) {
        sandbox->body();
    }
}

static void run_in(struct sandbox *sandbox)
{
    struct platform_thread thread;
    platform_thread_start(&thread, enter_sandbox, sandbox);
    platform_thread_join(&thread);
    if (!sandbox->has_filters) {
        test_skip("no filters of system calls here");
    }
}

static void accept_refused(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    struct tracked accept = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept_each(&listener, &accept, NULL);
    const pier_descriptor client = raw_connect(&address);
    run_quietly(loop, 60);
    /* A kernel that runs the operations itself asks no filter. */
    if (stats_of(loop).accepts == 0) {
        CHECK(accept.in_flight);
        CHECK_INT(stats_of(loop).accept_pauses, >=, 1);
        CHECK_INT(stats_of(loop).turns, <, 200);
    }
    close_and_wait(&listener);
    raw_close(client);
    test_loop_free(loop);
}

/* The connection stays, and so does its readiness: to accept again at once would spin. */
static void refused_accepts_pause(void)
{
    struct sandbox sandbox = {.body = accept_refused};
    sandbox.calls[sandbox.count++] = SYS_accept4;
#ifdef SYS_accept
    sandbox.calls[sandbox.count++] = SYS_accept;
#endif
    run_in(&sandbox);
}

static void write_refused(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked receive = {0}, send = {0};
    char got[5];
    tracked_pair(loop, STREAM_PIPE, &a, &b);
    tracked_receive(&a, &receive, got, sizeof(got), NULL);
    tracked_send(&b, &send, "hello", 5, NULL);
    CHECK_INT(wait_for(&send), ==, 5);
    CHECK_INT(wait_for(&receive), ==, 5);
    close_and_wait(&a);
    /* Without the flag of that call, too, no signal ends the program. */
    tracked_send(&b, &send, "hello", 5, NULL);
    CHECK_INT(wait_for(&send), ==, PIER_EPIPE);
    close_and_wait(&b);
    test_loop_free(loop);
}

static void refused_writes_step_down(void)
{
#ifdef SYS_pwritev2
    struct sandbox sandbox = {.calls = {SYS_pwritev2}, .count = 1, .body = write_refused};
    run_in(&sandbox);
#else
    test_skip("the system has no pwritev2()");
#endif
}

static void waits_refused(void)
{
    const struct pier_loop_options options = test_options();
    struct pier_loop *loop = NULL;
    CHECK_REFUSED(pier_backend_probe(test_backend()), PIER_ENOTSUP);
    CHECK_REFUSED(pier_loop_new(&loop, &options), PIER_ENOTSUP);
    CHECK(strstr(pier_error_detail(), test_backend()) != NULL);
}

/* Said at set-up, where another backend can be taken instead, and not by the first run. */
static void refused_waits_show_at_set_up(void)
{
    const char *backend = test_backend();
    if (strcmp(backend, "epoll") != 0 && strcmp(backend, "poll") != 0 &&
        strcmp(backend, "select") != 0) {
        test_skip("%s waits by another call", backend);
        return;
    }
    struct sandbox sandbox = {.body = waits_refused};
#ifdef SYS_epoll_wait
    sandbox.calls[sandbox.count++] = SYS_epoll_wait;
#endif
#ifdef SYS_ppoll_time64
    sandbox.calls[sandbox.count++] = SYS_ppoll_time64;
    sandbox.calls[sandbox.count++] = SYS_pselect6_time64;
#endif
#ifdef SYS_ppoll
    sandbox.calls[sandbox.count++] = SYS_ppoll;
    sandbox.calls[sandbox.count++] = SYS_pselect6;
#endif
    sandbox.calls[sandbox.count++] = SYS_epoll_pwait;
    run_in(&sandbox);
}

const struct test sandbox_tests[] = {
    TEST(sandbox, refused_accepts_pause),
    TEST(sandbox, refused_writes_step_down),
    TEST(sandbox, refused_waits_show_at_set_up),
    TEST_END,
};

#else

static void filters(void)
{
    test_skip("filters of system calls are Linux's");
}

const struct test sandbox_tests[] = {
    TEST(sandbox, filters),
    TEST_END,
};

#endif
