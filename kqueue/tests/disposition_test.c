/*
 * EVFILT_SIGNAL when the program changes what a signal does after EV_ADD: no signal is lost, and
 * the program sees its own dispositions, never the library's.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t handled;

static void on_signal(int number)
{
    handled = handled + 1;
    (void)number;
}

static void on_signal_with_info(int number, siginfo_t *info, void *context)
{
    handled = handled + (info->si_signo == number);
    (void)context;
}

static int watch(int queue, int number)
{
    return add(queue, (uintptr_t)number, EVFILT_SIGNAL, 0);
}

/* A queue that watches SIGUSR1, which would end the process now. */
static int watch_before(void)
{
    int queue = new_queue();

    signal(SIGUSR1, SIG_DFL);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    return queue;
}

static void end(int queue)
{
    close(queue);
    pier_kqueue_reclaim();
    signal(SIGUSR1, SIG_IGN);
}

/* The order of libevent: no kevent() lies between SIG_IGN and the signal. */
static void ignored_after_watching(void)
{
    int queue = watch_before();

    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    CHECK_EQ(get_one(queue).data, 1);
    end(queue);
}

static void handled_after_watching(void)
{
    int queue = watch_before();

    handled = 0;
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    CHECK_EQ(handled, 1);
    CHECK_EQ(get_one(queue).data, 1);
    end(queue);
}

/* From any disposition to any other, and a signal after each change. */
static void through_all_dispositions(void)
{
    int queue = watch_before();
    struct sigaction action;

    handled = 0;
    for (int round = 0; round < 3; round++) {
        memset(&action, 0, sizeof(action));
        action.sa_handler = SIG_IGN;
        CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
        raise(SIGUSR1);
        action.sa_handler = on_signal;
        action.sa_flags = SA_RESTART;
        CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
        raise(SIGUSR1);
        action.sa_handler = SIG_DFL;
        CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
        action.sa_sigaction = on_signal_with_info;
        action.sa_flags = SA_SIGINFO;
        CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
        raise(SIGUSR1);
        CHECK_EQ(handled, 2 * (round + 1));
        CHECK_EQ(get_one(queue).data, 3);
    }
    end(queue);
}

static void set_by_signal(void)
{
    signal(SIGUSR1, on_signal);
}

static void set_by_ssignal(void)
{
    ssignal(SIGUSR1, on_signal);
}

#ifdef __GLIBC__
static void set_by_sysv_signal(void)
{
    sysv_signal(SIGUSR1, on_signal);
}

static void set_by_sigignore(void)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    sigignore(SIGUSR1);
#pragma GCC diagnostic pop
}
#endif

static void set_by_siginterrupt(void)
{
    signal(SIGUSR1, on_signal);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    siginterrupt(SIGUSR1, 1);
    siginterrupt(SIGUSR1, 0);
#pragma GCC diagnostic pop
}

static void every_function_that_sets_one(void)
{
    static void (*const ways[])(void) = {
        set_by_signal,       set_by_ssignal,
#ifdef __GLIBC__
        set_by_sysv_signal,  set_by_sigignore,
#endif
        set_by_siginterrupt,
    };

    for (int i = 0; i < COUNT(ways); i++) {
        int queue = watch_before();

        ways[i]();
        raise(SIGUSR1);
        CHECK_EQ(get_one(queue).data, 1);
        end(queue);
    }
}

/* What signal() means in C by itself: the handler runs once, then the default is back. */
static void handler_that_resets_itself_twice(void)
{
    int queue = new_queue();
    struct sigaction action, old;

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    action.sa_flags = (int)SA_RESETHAND;
    handled = 0;
    CHECK_EQ(watch(queue, SIGURG), 0);
    CHECK_EQ(sigaction(SIGURG, &action, NULL), 0);
    raise(SIGURG);
    raise(SIGURG); /* at its default, which is to do nothing: counted all the same */
    CHECK_EQ(handled, 1);
    CHECK_EQ(get_one(queue).data, 2);
    CHECK_EQ(sigaction(SIGURG, NULL, &old), 0);
    CHECK(old.sa_handler == SIG_DFL);
    end(queue);
}

/* The library's handler doesn't show, at no time. */
static void program_sees_its_own(void)
{
    int queue = new_queue();
    struct sigaction action, old;

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    action.sa_flags = SA_NODEFER;
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    for (int i = 0; i < 2; i++) {
        memset(&old, 0, sizeof(old));
        CHECK_EQ(sigaction(SIGUSR1, NULL, &old), 0);
        CHECK(old.sa_handler == on_signal);
        CHECK_EQ(old.sa_flags & ~0x04000000 /* SA_RESTORER of some systems */, SA_NODEFER);
        CHECK_EQ(sigismember(&old.sa_mask, SIGUSR2), 1);
        CHECK_EQ(sigismember(&old.sa_mask, SIGHUP), 0);
        CHECK(is_quiet(queue));
    }
    CHECK(signal(SIGUSR1, SIG_IGN) == on_signal);
    CHECK(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    CHECK(signal(SIGUSR1, SIG_IGN) == SIG_DFL);
    CHECK_EQ(sigaction(SIGUSR1, &action, &old), 0);
    CHECK(old.sa_handler == SIG_IGN);
    CHECK_EQ(change(queue, SIGUSR1, EVFILT_SIGNAL, EV_DELETE, 0, 0, NULL), 0);
    CHECK(signal(SIGUSR1, SIG_IGN) == on_signal);
    end(queue);
}

static void bad_arguments(void)
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    errno = 0;
    CHECK_EQ(sigaction(SIGKILL, &action, NULL), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(sigaction(0, &action, NULL), -1);
    CHECK_EQ(sigaction(1000, NULL, &action), -1);
    CHECK(signal(SIGSTOP, SIG_IGN) == SIG_ERR);
    CHECK(signal(-1, SIG_IGN) == SIG_ERR);
    CHECK_EQ(errno, EINVAL);
}

/* A thread that waits in kevent() already. */

struct waiter {
    int queue, count, error;
    atomic_int number; /* the kernel's, once it is about to wait */
    struct kevent event;
    bool hears_signals;
};

static void *wait_for_event(void *argument)
{
    struct waiter *waiter = argument;
    struct timespec time = {.tv_sec = LONG_MS / MS_PER_SECOND};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(waiter->hears_signals ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
    atomic_store(&waiter->number, (int)syscall(SYS_gettid));
    waiter->count = kevent(waiter->queue, NULL, 0, &waiter->event, 1, &time);
    waiter->error = errno;
    return NULL;
}

/* Returns when the thread sleeps, which it does nowhere but in the wait. */
static bool is_asleep(int thread)
{
    char path[64], state = '?';
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
    file = fopen(path, "r");
    if (!file)
        return true;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = '?';
    fclose(file);
    return state == 'S';
}

static pthread_t start_waiter(struct waiter *waiter)
{
    pthread_t thread;

    atomic_store(&waiter->number, 0);
    REQUIRE(pthread_create(&thread, NULL, wait_for_event, waiter) == 0);
    while (atomic_load(&waiter->number) == 0 || !is_asleep(atomic_load(&waiter->number)))
        sched_yield();
    return thread;
}

static void changed_while_a_thread_waits(void)
{
    for (int i = 0; i < 4; i++) {
        struct waiter waiter = {.queue = watch_before(), .hears_signals = i % 2 == 1};
        pthread_t thread = start_waiter(&waiter);
        sigset_t set, old;

        /* Where the signal goes to: the thread that waits, or this one. */
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        pthread_sigmask(waiter.hears_signals ? SIG_BLOCK : SIG_UNBLOCK, &set, &old);
        signal(SIGUSR1, i / 2 == 0 ? SIG_IGN : on_signal);
        kill(getpid(), SIGUSR1);
        pthread_join(thread, NULL);
        CHECK_EQ(waiter.count, 1);
        CHECK_EQ(waiter.event.ident, SIGUSR1);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        end(waiter.queue);
    }
}

/* Handlers may change dispositions, whatever they have interrupted. */

static atomic_bool is_over;

static void on_signal_that_changes_another(int number)
{
    handled = handled + 1;
    signal(SIGUSR2, handled % 2 ? SIG_IGN : on_signal);
    (void)number;
}

static void *send_again_and_again(void *argument)
{
    while (!atomic_load(&is_over))
        pthread_kill(*(pthread_t *)argument, SIGUSR1);
    return NULL;
}

static void changed_in_a_handler_at_any_moment(void)
{
    int queue = new_queue();
    pthread_t self = pthread_self(), thread;
    struct kevent event;

    signal(SIGUSR2, SIG_IGN);
    signal(SIGUSR1, on_signal_that_changes_another);
    handled = 0;
    atomic_store(&is_over, false);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    REQUIRE(pthread_create(&thread, NULL, send_again_and_again, &self) == 0);
    for (int i = 0; i < 300 || handled < 300; i++) {
        CHECK_EQ(watch(queue, SIGUSR2), 0);
        get(queue, &event, 1, 0);
        CHECK_EQ(change(queue, SIGUSR2, EVFILT_SIGNAL, EV_DELETE, 0, 0, NULL), 0);
    }
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
    signal(SIGUSR2, SIG_IGN);
    end(queue);
}

/* As subprocess modules do it: the child's memory is the parent's, its dispositions aren't. */
static void child_of_vfork_sets_its_own(void)
{
    int queue, status = -1;
    pid_t child;

#ifdef __SANITIZE_THREAD__
    check_skip("the thread sanitizer turns vfork() into fork()");
    return;
#endif
    queue = watch_before();
    signal(SIGUSR1, on_signal);
    handled = 0;
    child = vfork();
    if (child == 0) {
        signal(SIGUSR1, SIG_IGN);
        execl("/bin/sh", "sh", "-c", "kill -USR1 $$; exit 7", (char *)NULL);
        _exit(1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WEXITSTATUS(status), 7); /* ignored there */
    raise(SIGUSR1);
    CHECK_EQ(handled, 1); /* handled here */
    CHECK_EQ(get_one(queue).data, 1);
    end(queue);
}

/* A system call made by hand comes past the library; the next kevent() sees to it. */
static void set_behind_the_back(void)
{
    int queue = new_queue();
    sigset_t set;

    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    sigset(SIGUSR1, on_signal); /* the C library's own */
#pragma GCC diagnostic pop
    CHECK(is_quiet(queue));
    handled = 0;
    raise(SIGUSR1);
    CHECK_EQ(handled, 1);
    CHECK_EQ(get_one(queue).data, 1);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    end(queue);
}

/* clang's sanitizers have functions of these names in the program itself, which come first. */
static bool has_others_in_front(void)
{
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#endif
#endif
    return false;
}

static void not_in_front(void)
{
    check_skip("sigaction() is the sanitizer's here");
}

int main(void)
{
    static const struct test none[] = {TEST(not_in_front), TEST(set_behind_the_back)};
    static const struct test tests[] = {
        TEST(ignored_after_watching),
        TEST(handled_after_watching),
        TEST(through_all_dispositions),
        TEST(every_function_that_sets_one),
        TEST(handler_that_resets_itself_twice),
        TEST(program_sees_its_own),
        TEST(bad_arguments),
        TEST(changed_while_a_thread_waits),
        TEST(changed_in_a_handler_at_any_moment),
        TEST(child_of_vfork_sets_its_own),
        TEST(set_behind_the_back),
    };

    if (has_others_in_front())
        return check_main(none, COUNT(none));
    return check_main(tests, COUNT(tests));
}
