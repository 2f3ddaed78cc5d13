/*
 * sigaction(), signal() and their kin, in front of the C library's.
 *
 * A signal that is watched must be noticed from the moment on that the program changes what it
 * does, also while every thread waits in kevent(): libevent, for one, ignores a signal after it has
 * added the event. Linux tells nobody of such a change, so the library has these functions itself.
 * They are what the C library's are, and disposition.c gets to know. Programs that are linked with
 * the library find them first. A call that doesn't come here (the C library's own, a system call
 * made by hand, a program that loads the library later) is noticed by the next kevent().
 *
 * They may be called in signal handlers, and so allocate nothing. They are weak: a program that has
 * a function of the name keeps it.
 */
#include "kq.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>

#define EXPORTED __attribute__((weak, visibility("default")))

typedef int sigaction_function(int, const struct sigaction *, struct sigaction *);
typedef void handler_function(int);

/* A sanitizer's; it must see handlers that are set. */
extern sigaction_function __interceptor_sigaction __attribute__((weak));
/* What glibc, and musl when it is linked statically, call their own. */
extern sigaction_function __sigaction __attribute__((weak));
/* In a library of its own before glibc 2.34, and of no use in a static program. */
#pragma weak dlsym

EXPORTED sigaction_function sigaction;

static sigaction_function *find_real(void)
{
    /* A union, because ISO C has no conversion from an object pointer to a function pointer. */
    union {
        void *object;
        sigaction_function *function;
    } found = {NULL};

    if (__interceptor_sigaction)
        return __interceptor_sigaction;
    if (dlsym)
        found.object = dlsym(RTLD_NEXT, "sigaction");
    return found.object ? found.function : __sigaction;
}

int pier__kq_real_sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    static _Atomic(sigaction_function *) real;
    sigaction_function *function = atomic_load_explicit(&real, memory_order_relaxed);

    if (!function) {
        function = find_real();
        atomic_store_explicit(&real, function, memory_order_relaxed);
    }
    if (!function) {
        errno = ENOSYS;
        return -1;
    }
    return function(number, action, old);
}

/* Before anything can call it in a signal handler: dlsym() may not be called there. */
__attribute__((constructor)) static void find_early(void)
{
    struct sigaction action;

    pier__kq_real_sigaction(SIGCHLD, NULL, &action);
}

EXPORTED int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    int error = pier__kq_disposition(number, action, old);

    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

/* The signals that interrupt calls by siginterrupt(), a bit each. */
static _Atomic uint64_t interrupting;

static uint64_t bit_of(int number)
{
    return number >= 1 && number <= 64 ? UINT64_C(1) << (number - 1) : 0;
}

static handler_function *set_handler(int number, handler_function *handler, int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags}, old;

    sigemptyset(&action.sa_mask);
    if (handler == SIG_ERR || number < 1) {
        errno = EINVAL;
        return SIG_ERR;
    }
    if (!(flags & SA_NODEFER))
        sigaddset(&action.sa_mask, number);
    return sigaction(number, &action, &old) == -1 ? SIG_ERR : old.sa_handler;
}

static handler_function *set_as_bsd(int number, handler_function *handler)
{
    bool interrupts = (atomic_load(&interrupting) & bit_of(number)) != 0;

    return set_handler(number, handler, interrupts ? 0 : SA_RESTART);
}

EXPORTED handler_function *signal(int number, handler_function *handler)
{
    return set_as_bsd(number, handler);
}

EXPORTED int siginterrupt(int number, int interrupts)
{
    struct sigaction action;

    if (sigaction(number, NULL, &action) == -1)
        return -1;
    if (interrupts) {
        atomic_fetch_or(&interrupting, bit_of(number));
        action.sa_flags &= ~SA_RESTART;
    } else {
        atomic_fetch_and(&interrupting, ~bit_of(number));
        action.sa_flags |= SA_RESTART;
    }
    return sigaction(number, &action, NULL);
}

#ifdef __GLIBC__

/* As System V had it, which signal() is in strictly standard C. */
static handler_function *set_as_system_v(int number, handler_function *handler)
{
    return set_handler(number, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

extern handler_function *__sysv_signal(int number, handler_function *handler);

EXPORTED handler_function *__sysv_signal(int number, handler_function *handler)
{
    return set_as_system_v(number, handler);
}

EXPORTED handler_function *sysv_signal(int number, handler_function *handler)
{
    return set_as_system_v(number, handler);
}

extern handler_function *bsd_signal(int number, handler_function *handler);

EXPORTED handler_function *bsd_signal(int number, handler_function *handler)
{
    return set_as_bsd(number, handler);
}

EXPORTED handler_function *ssignal(int number, handler_function *handler)
{
    return set_as_bsd(number, handler);
}

extern int sigignore(int number);

EXPORTED int sigignore(int number)
{
    return set_handler(number, SIG_IGN, 0) == SIG_ERR ? -1 : 0;
}

#endif
