/* EVFILT_SIGNAL beside handlers, SIG_IGN, defaults, masks and threads. */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t handled;
static volatile sig_atomic_t handled_value;

static void on_signal(int number)
{
    handled = handled + 1;
    (void)number;
}

static void on_signal_with_info(int number, siginfo_t *info, void *context)
{
    handled_value = info->si_value.sival_int;
    (void)number;
    (void)context;
}

static int watch(int queue, int number)
{
    return add(queue, (uintptr_t)number, EVFILT_SIGNAL, 0);
}

/* Sends to this thread and returns after delivery. */
static void send_times(int number, int times)
{
    for (int i = 0; i < times; i++)
        raise(number);
}

static void ignored_signals_are_counted(void)
{
    int queue = new_queue();
    struct kevent event;

    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    CHECK(is_quiet(queue));
    send_times(SIGUSR1, 3);
    CHECK(is_readable(queue));
    event = get_one(queue);
    CHECK_EQ(event.ident, SIGUSR1);
    CHECK_EQ(event.filter, EVFILT_SIGNAL);
    CHECK_EQ(event.flags, EV_CLEAR);
    CHECK_EQ(event.data, 3);
    CHECK(!is_readable(queue));
    CHECK(is_quiet(queue));
    send_times(SIGUSR1, 1);
    CHECK_EQ(get_one(queue).data, 1);
    /* The program's own wish is back when nobody watches. */
    CHECK_EQ(change(queue, SIGUSR1, EVFILT_SIGNAL, EV_DELETE, 0, 0, NULL), 0);
    CHECK(signal(SIGUSR1, SIG_IGN) == SIG_IGN);
    send_times(SIGUSR1, 1);
    CHECK(is_quiet(queue));
    close(queue);
}

static void handlers_still_run(void)
{
    int queue = new_queue();
    struct sigaction action, old;

    memset(&action, 0, sizeof(action));
    handled = 0;
    signal(SIGUSR1, on_signal);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    send_times(SIGUSR1, 2);
    CHECK_EQ(handled, 2);
    CHECK_EQ(get_one(queue).data, 2);
    action.sa_sigaction = on_signal_with_info;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGUSR1, &action, NULL);
    CHECK(is_quiet(queue)); /* kevent() notices the new handler */
    sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 99});
    CHECK_EQ(get_one(queue).data, 1);
    CHECK_EQ(handled_value, 99);
    CHECK_EQ(handled, 2);
    CHECK_EQ(change(queue, SIGUSR1, EVFILT_SIGNAL, EV_DELETE, 0, 0, NULL), 0);
    sigaction(SIGUSR1, NULL, &old);
    CHECK(old.sa_sigaction == on_signal_with_info);
    close(queue);
}

/* As many tutorials have it: first EV_ADD, then SIG_IGN. */
static void ignored_after_watching(void)
{
    int queue = new_queue();

    signal(SIGTERM, SIG_DFL);
    CHECK_EQ(watch(queue, SIGTERM), 0);
    signal(SIGTERM, SIG_IGN);
    CHECK(is_quiet(queue));
    send_times(SIGTERM, 1);
    CHECK_EQ(get_one(queue).ident, SIGTERM);
    close(queue);
    pier_kqueue_reclaim();
    CHECK(signal(SIGTERM, SIG_DFL) == SIG_IGN);
}

static void handler_that_resets_itself(void)
{
    int queue = new_queue();
    struct sigaction action, old;

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    action.sa_flags = (int)SA_RESETHAND;
    handled = 0;
    sigaction(SIGUSR1, &action, NULL);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    send_times(SIGUSR1, 1);
    CHECK_EQ(handled, 1);
    CHECK_EQ(get_one(queue).data, 1);
    sigaction(SIGUSR1, NULL, &old);
    CHECK(old.sa_handler == SIG_DFL);
    signal(SIGUSR1, SIG_IGN);
    close(queue);
}

/* A signal whose default is to end the process does so. */
static void default_still_kills(void)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        int queue = kqueue();

        signal(SIGTERM, SIG_DFL);
        watch(queue, SIGTERM);
        raise(SIGTERM);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), SIGTERM);
}

static void child_signal_by_default(void)
{
    int queue = new_queue(), status;
    pid_t child;

    signal(SIGCHLD, SIG_DFL);
    CHECK_EQ(watch(queue, SIGCHLD), 0);
    child = fork();
    if (child == 0)
        _exit(3);
    CHECK_EQ(get_one(queue).ident, SIGCHLD);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WEXITSTATUS(status), 3);
    close(queue);
    pier_kqueue_reclaim();
}

/* Blocked signals come by signalfd: each time, and several of one kind as one. */
static void blocked_signals(void)
{
    int queue = new_queue();
    sigset_t set, old;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    signal(SIGUSR2, SIG_DFL);
    CHECK_EQ(watch(queue, SIGUSR2), 0);
    for (int i = 0; i < 3; i++) {
        CHECK(is_quiet(queue));
        kill(getpid(), SIGUSR2);
        CHECK(is_readable(queue));
        CHECK_EQ(get_one(queue).data, 1);
    }
    send_times(SIGUSR2, 2);
    CHECK_EQ(get_one(queue).data, 1);
    CHECK(is_quiet(queue));
    close(queue);
    pier_kqueue_reclaim();
    signal(SIGUSR2, SIG_IGN);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Blocked, and the program has a handler for when it isn't: the signal is left to it. */
static void blocked_signal_with_handler(void)
{
    int queue = new_queue();
    sigset_t set, old;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    signal(SIGUSR2, on_signal);
    handled = 0;
    CHECK_EQ(watch(queue, SIGUSR2), 0);
    send_times(SIGUSR2, 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(handled, 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    CHECK_EQ(handled, 1);
    CHECK_EQ(get_one(queue).data, 1);
    signal(SIGUSR2, SIG_IGN);
    close(queue);
    pier_kqueue_reclaim();
}

static void real_time_signals_queue(void)
{
    int queue = new_queue(), number = SIGRTMIN + 2;
    sigset_t set, old;

    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    CHECK_EQ(watch(queue, number), 0);
    for (int i = 0; i < 20; i++)
        sigqueue(getpid(), number, (union sigval){.sival_int = i});
    CHECK_EQ(get_one(queue).data, 20);
    close(queue);
    pier_kqueue_reclaim();
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void every_queue_hears(void)
{
    int first = new_queue(), second = new_queue();

    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(watch(first, SIGUSR1), 0);
    CHECK_EQ(watch(second, SIGUSR1), 0);
    send_times(SIGUSR1, 2);
    CHECK_EQ(get_one(first).data, 2);
    CHECK_EQ(get_one(second).data, 2);
    close(first);
    pier_kqueue_reclaim();
    send_times(SIGUSR1, 1);
    CHECK_EQ(get_one(second).data, 1);
    close(second);
    pier_kqueue_reclaim();
    CHECK(signal(SIGUSR1, SIG_IGN) == SIG_IGN);
}

static void *wait_for_signal(void *argument)
{
    struct kevent event;

    /* Only an ignored signal comes: kevent() isn't interrupted by it. */
    if (kevent(*(int *)argument, NULL, 0, &event, 1, NULL) != 1)
        return NULL;
    return (void *)event.ident;
}

/*
 * The thread sanitizer holds back a signal that comes outside of the calls it knows to wait, until
 * the next such call, and a thread that is just going to wait then doesn't see it.
 */
static bool may_miss_signals(void)
{
#ifdef __SANITIZE_THREAD__
    check_skip("the thread sanitizer holds signals back");
    return true;
#else
    return false;
#endif
}

static void waiting_thread_is_woken(void)
{
    int queue;
    pthread_t thread;
    void *result;

    if (may_miss_signals())
        return;
    queue = new_queue();
    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    REQUIRE(pthread_create(&thread, NULL, wait_for_signal, &queue) == 0);
    kill(getpid(), SIGUSR1);
    pthread_join(thread, &result);
    CHECK_EQ((uintptr_t)result, SIGUSR1);
    REQUIRE(pthread_create(&thread, NULL, wait_for_signal, &queue) == 0);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, &result);
    CHECK_EQ((uintptr_t)result, SIGUSR1);
    close(queue);
    pier_kqueue_reclaim();
}

/* Nor is a wait in a queue that doesn't watch the signal. */
static void ignored_signal_interrupts_no_other_queue(void)
{
    int queue, other;
    pthread_t thread;
    void *result;

    if (may_miss_signals())
        return;
    queue = new_queue();
    other = new_queue();
    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(watch(queue, SIGUSR1), 0);
    CHECK_EQ(add(other, 77, EVFILT_USER, 0), 0);
    REQUIRE(pthread_create(&thread, NULL, wait_for_signal, &other) == 0);
    for (int i = 0; i < 200; i++) {
        pthread_kill(thread, SIGUSR1);
        get_one(queue);
    }
    CHECK_EQ(change(other, 77, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), 0);
    pthread_join(thread, &result);
    CHECK_EQ((uintptr_t)result, 77);
    close(queue);
    close(other);
    pier_kqueue_reclaim();
}

/* A handler of the program interrupts kevent(), with SA_RESTART too. */
static void handler_interrupts(void)
{
    int queue = new_queue();
    struct kevent event;
    struct timespec time = {.tv_sec = 20};
    struct sigaction action;
    pid_t child, parent = getpid();

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    handled = 0;
    child = fork();
    if (child == 0) {
        /* Again and again: the first may come before the wait. */
        for (int i = 0; i < 1000 && kill(parent, SIGUSR2) == 0; i++)
            usleep(10000);
        _exit(0);
    }
    CHECK_EQ(kevent(queue, NULL, 0, &event, 1, &time), -1);
    CHECK_EQ(errno, EINTR);
    CHECK(handled > 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    signal(SIGUSR2, SIG_IGN);
    close(queue);
}

static void bad_signals(void)
{
    int queue = new_queue();

    CHECK_EQ(watch(queue, 0), EINVAL);
    CHECK_EQ(watch(queue, SIGKILL), EINVAL);
    CHECK_EQ(add(queue, 65, EVFILT_SIGNAL, 0), EINVAL);
    CHECK_EQ(add(queue, 1000000, EVFILT_SIGNAL, 0), EINVAL);
    CHECK_EQ(change(queue, SIGUSR1, EVFILT_SIGNAL, EV_DELETE, 0, 0, NULL), ENOENT);
    close(queue);
}

static void modes(void)
{
    int queue = new_queue();

    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(add(queue, SIGUSR1, EVFILT_SIGNAL, EV_DISABLE), 0);
    send_times(SIGUSR1, 2);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, SIGUSR1, EVFILT_SIGNAL, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).data, 2);
    CHECK_EQ(add(queue, SIGUSR1, EVFILT_SIGNAL, EV_ONESHOT), 0);
    send_times(SIGUSR1, 1);
    CHECK_EQ(get_one(queue).flags, EV_ONESHOT | EV_CLEAR);
    CHECK(signal(SIGUSR1, SIG_IGN) == SIG_IGN);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(ignored_signals_are_counted),
        TEST(handlers_still_run),
        TEST(ignored_after_watching),
        TEST(handler_that_resets_itself),
        TEST(default_still_kills),
        TEST(child_signal_by_default),
        TEST(blocked_signals),
        TEST(blocked_signal_with_handler),
        TEST(real_time_signals_queue),
        TEST(every_queue_hears),
        TEST(waiting_thread_is_woken),
        TEST(ignored_signal_interrupts_no_other_queue),
        TEST(handler_interrupts),
        TEST(bad_signals),
        TEST(modes),
    };

    return check_main(tests, COUNT(tests));
}
