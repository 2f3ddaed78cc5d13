/*
 * How EVFILT_SIGNAL notices signals without taking them away.
 *
 * BSD counts a signal when it is sent, whatever the process does with it. Linux tells only through
 * delivery, so a watched signal gets a handler of this library in front of what the program wants:
 *
 *   the program has     the kernel is given                          counted by
 *   a handler           ours, which calls the program's afterwards   ours
 *   SIG_IGN             ours, with SA_RESTART                        ours; if blocked, signalfd
 *   SIG_DFL, harmless   ours, with SA_RESTART                        ours; if blocked, signalfd
 *   SIG_DFL, else       left alone: the process ends, as on BSD      if blocked, signalfd
 *
 * SIGCHLD with SIG_IGN is left alone too: the kernel then reaps children, and BSD doesn't report it
 * either. If the program changes the disposition of a watched signal, interpose.c hears of it, and
 * the kernel goes from one row of the table to another. If it is done behind the library's back,
 * its handler is out until the next kevent() looks (pier__kq_signal_adapt). Signals that wait
 * because they are blocked are taken with signalfd when nobody would handle them; where the program
 * has a handler they are left for it. Nobody's signal mask is changed.
 *
 * The table is of the process. Our handler reads it without a lock, and all it calls is write(). A
 * handler of the program may change dispositions: so the lock is held with all signals blocked, and
 * nothing is allocated from the heap. A child of vfork() that sets dispositions, as one does before
 * exec(), sets its own in the kernel, but the table that it sees is its parent's, and stays.
 */
#include "kq.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIGNALS 65
#define FIRST_DISPOSITIONS 64
#define PAGE_SIZE 4096

/* What the program wants. Replaced as a whole and never freed: a handler may be reading it. */
struct disposition {
    struct sigaction action;
    struct disposition *older;
};

static struct {
    _Atomic uint64_t deliveries;
    _Atomic(struct disposition *) wanted;
    struct disposition *kept; /* all that were ever wanted */
    unsigned int watchers;
} signals[SIGNALS];

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static sigset_t mask_before_fork;
static _Atomic pid_t owner; /* the process whose table this is; 0: nothing was ever watched */
static struct disposition first_dispositions[FIRST_DISPOSITIONS];
static struct disposition *spare = first_dispositions;
static size_t spare_count = FIRST_DISPOSITIONS;
static atomic_int eventfd_number = -1;
static int blockedfd = -1;
static _Thread_local volatile sig_atomic_t swallowed __attribute__((tls_model("initial-exec")));

/* The handler. */

static void count_delivery(int signal)
{
    const uint64_t one = 1;
    ssize_t written;

    /* Between vfork() and exec() it was the child that got it. */
    if (getpid() != atomic_load_explicit(&owner, memory_order_relaxed))
        return;
    atomic_fetch_add_explicit(&signals[signal].deliveries, 1, memory_order_release);
    /* Queues have it edge-triggered and nobody reads it, so each write wakes each of them. */
    written = write(atomic_load_explicit(&eventfd_number, memory_order_relaxed), &one, sizeof(one));
    (void)written;
}

/* SA_RESETHAND: the kernel would have reset the program's handler before it called it. */
static void reset_disposition(int signal)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};

    pier__kq_disposition(signal, &standard, NULL);
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    struct disposition *wanted = atomic_load_explicit(&signals[signal].wanted,
                                                      memory_order_acquire);

    count_delivery(signal);
    if (!wanted || wanted->action.sa_handler == SIG_IGN || wanted->action.sa_handler == SIG_DFL) {
        swallowed = swallowed + 1;
        errno = saved_errno;
        return;
    }
    if (wanted->action.sa_flags & (int)SA_RESETHAND)
        reset_disposition(signal);
    errno = saved_errno;
    if (wanted->action.sa_flags & SA_SIGINFO)
        wanted->action.sa_sigaction(signal, info, context);
    else
        wanted->action.sa_handler(signal);
}

unsigned int pier__kq_signals_swallowed(void)
{
    return (unsigned int)swallowed;
}

/* The table. */

static bool is_ours(const struct sigaction *action)
{
    return action->sa_flags & SA_SIGINFO && action->sa_sigaction == on_signal;
}

static bool is_harmless_by_default(int signal)
{
    return signal == SIGCHLD || signal == SIGCONT || signal == SIGURG || signal == SIGWINCH;
}

static bool has_handler(const struct sigaction *action)
{
    return action->sa_handler != SIG_IGN && action->sa_handler != SIG_DFL;
}

/* Sets are compared by their members: C libraries leave the rest of sigset_t as it was. */
static bool is_same_action(const struct sigaction *a, const struct sigaction *b)
{
    if (a->sa_handler != b->sa_handler || a->sa_flags != b->sa_flags)
        return false;
    for (int signal = 1; signal < SIGNALS; signal++) {
        if (sigismember(&a->sa_mask, signal) != sigismember(&b->sa_mask, signal))
            return false;
    }
    return true;
}

static void lock_table(sigset_t *mask)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, mask);
    pthread_mutex_lock(&table_lock);
}

static void unlock_table(const sigset_t *mask)
{
    pthread_mutex_unlock(&table_lock);
    pthread_sigmask(SIG_SETMASK, mask, NULL);
}

static struct disposition *new_disposition(void)
{
    if (spare_count == 0) {
        void *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                          0);

        if (page == MAP_FAILED)
            return NULL;
        spare = page;
        spare_count = PAGE_SIZE / sizeof(*spare);
    }
    spare_count--;
    return spare++;
}

/* Makes `wanted` known to the handler; a program that alternates between few costs no more. */
static int keep(int signal, const struct sigaction *wanted)
{
    struct disposition *kept = signals[signal].kept;

    while (kept && !is_same_action(&kept->action, wanted))
        kept = kept->older;
    if (!kept) {
        kept = new_disposition();
        if (!kept)
            return ENOMEM;
        kept->action = *wanted;
        kept->older = signals[signal].kept;
        signals[signal].kept = kept;
    }
    atomic_store_explicit(&signals[signal].wanted, kept, memory_order_release);
    return 0;
}

/* Whether that is how this signal is noticed. */
static bool goes_in_front(int signal, const struct sigaction *wanted)
{
    if (wanted->sa_handler == SIG_DFL)
        return is_harmless_by_default(signal);
    return wanted->sa_handler != SIG_IGN || signal != SIGCHLD;
}

/* Puts our handler in front of `wanted`. */
static int install(int signal, const struct sigaction *wanted)
{
    struct sigaction ours = *wanted;

    if (keep(signal, wanted) != 0)
        return ENOMEM;
    ours.sa_sigaction = on_signal;
    ours.sa_flags = (int)((unsigned int)(ours.sa_flags | SA_SIGINFO) & ~SA_RESETHAND);
    if (!has_handler(wanted))
        ours.sa_flags |= SA_RESTART;
    return pier__kq_real_sigaction(signal, &ours, NULL) == -1 ? errno : 0;
}

/* What the program wants, when the kernel has `action`. */
static struct sigaction wanted_behind(int signal, const struct sigaction *action)
{
    if (!is_ours(action))
        return *action;
    return atomic_load_explicit(&signals[signal].wanted, memory_order_acquire)->action;
}

/* The blocked signals that signalfd may take: those that no handler of the program waits for. */
static void update_blockedfd(void)
{
    sigset_t set;

    if (blockedfd == -1)
        return; /* In a child of fork(): the parent's signalfd must not be changed. */
    sigemptyset(&set);
    for (int signal = 1; signal < SIGNALS; signal++) {
        struct sigaction action;

        if (signals[signal].watchers == 0 || pier__kq_real_sigaction(signal, NULL, &action) == -1)
            continue;
        action = wanted_behind(signal, &action);
        if (!has_handler(&action) && !(signal == SIGCHLD && action.sa_handler == SIG_IGN))
            sigaddset(&set, signal);
    }
    signalfd(blockedfd, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int adapt(int signal)
{
    struct sigaction action;
    int error = 0;

    if (pier__kq_real_sigaction(signal, NULL, &action) == -1)
        return errno;
    if (is_ours(&action))
        return 0;
    if (goes_in_front(signal, &action))
        error = install(signal, &action);
    update_blockedfd();
    return error;
}

/* Gives the program back what it wants. */
static void restore(int signal)
{
    struct sigaction action;

    if (pier__kq_real_sigaction(signal, NULL, &action) == 0 && is_ours(&action)) {
        action = wanted_behind(signal, &action);
        pier__kq_real_sigaction(signal, &action, NULL);
    }
}

static int set_disposition(int signal, const struct sigaction *wanted)
{
    int error;

    if (signals[signal].watchers > 0 && goes_in_front(signal, wanted))
        error = install(signal, wanted);
    else
        error = pier__kq_real_sigaction(signal, wanted, NULL) == -1 ? errno : 0;
    if (error == 0 && signals[signal].watchers > 0)
        update_blockedfd();
    return error;
}

int pier__kq_disposition(int signal, const struct sigaction *wanted, struct sigaction *old)
{
    struct sigaction fresh, before;
    sigset_t mask;
    int error = 0;

    if (signal < 1 || signal >= SIGNALS || getpid() != atomic_load(&owner)) {
        if (pier__kq_real_sigaction(signal, wanted, &before) == -1)
            return errno;
        if (old)
            *old = wanted_behind(signal, &before);
        return 0;
    }
    if (wanted)
        fresh = *wanted; /* It may be where `old` is. */
    lock_table(&mask);
    if (pier__kq_real_sigaction(signal, NULL, &before) == -1)
        error = errno;
    if (error == 0 && old)
        *old = wanted_behind(signal, &before);
    if (error == 0 && wanted)
        error = set_disposition(signal, &fresh);
    unlock_table(&mask);
    return error;
}

static int open_descriptors(void)
{
    sigset_t none;
    int fd = atomic_load_explicit(&eventfd_number, memory_order_relaxed);

    if (fd == -1) {
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd == -1)
            return errno;
        atomic_store_explicit(&eventfd_number, fd, memory_order_relaxed);
    }
    if (blockedfd == -1) {
        sigemptyset(&none);
        blockedfd = signalfd(-1, &none, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    return blockedfd == -1 ? errno : 0;
}

int pier__kq_signal_watch(int signal)
{
    sigset_t mask;
    int error;

    if (signal < 1 || signal >= SIGNALS || signal == SIGKILL || signal == SIGSTOP)
        return EINVAL;
    lock_table(&mask);
    atomic_store(&owner, getpid());
    error = open_descriptors();
    if (error == 0) {
        signals[signal].watchers++;
        error = adapt(signal);
        if (error != 0)
            signals[signal].watchers--;
        else
            update_blockedfd();
    }
    unlock_table(&mask);
    return error;
}

void pier__kq_signal_unwatch(int signal)
{
    sigset_t mask;

    lock_table(&mask);
    if (--signals[signal].watchers == 0) {
        restore(signal);
        update_blockedfd();
    }
    unlock_table(&mask);
}

void pier__kq_signal_adapt(int signal)
{
    struct sigaction action;
    sigset_t mask;

    if (pier__kq_real_sigaction(signal, NULL, &action) == 0 && is_ours(&action))
        return;
    lock_table(&mask);
    adapt(signal);
    unlock_table(&mask);
}

uint64_t pier__kq_signal_count(int signal)
{
    return atomic_load_explicit(&signals[signal].deliveries, memory_order_acquire);
}

void pier__kq_signal_take_blocked(void)
{
    struct signalfd_siginfo info[8];
    long size;

    /* Not read(), where the thread sanitizer would listen: another thread may be in signalfd(). */
    while ((size = syscall(SYS_read, blockedfd, info, sizeof(info))) > 0) {
        for (size_t i = 0; i < (size_t)size / sizeof(info[0]); i++)
            count_delivery((int)info[i].ssi_signo);
    }
}

int pier__kq_signal_eventfd(void)
{
    return atomic_load_explicit(&eventfd_number, memory_order_relaxed);
}

int pier__kq_signal_blockedfd(void)
{
    return blockedfd;
}

/* Fork. */

void pier__kq_signals_before_fork(void)
{
    sigset_t mask;

    lock_table(&mask);
    mask_before_fork = mask;
}

void pier__kq_signals_after_fork(void)
{
    sigset_t mask = mask_before_fork;

    if (atomic_load(&owner) != 0)
        atomic_store(&owner, getpid());
    unlock_table(&mask);
}

void pier__kq_signals_forget_descriptors(void)
{
    int fd = atomic_exchange_explicit(&eventfd_number, -1, memory_order_relaxed);

    if (fd != -1)
        close(fd);
    if (blockedfd != -1)
        close(blockedfd);
    blockedfd = -1;
}
