/* linux.c - epoll, event descriptors and /proc. */

#include "sys/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/atomic.h"
#include "sys/posix.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

pier_descriptor pier__sys_epoll_create(void)
{
    PIER__FAULT(EPOLL_CREATE);
    int descriptor = epoll_create1(EPOLL_CLOEXEC);
    return descriptor < 0 ? pier__sys_errno() : descriptor;
}

int pier__sys_epoll_control(pier_descriptor epoll, enum pier__epoll_change change,
                            pier_descriptor descriptor, struct epoll_event *event)
{
    static const int operations[] = {EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL};
    PIER__FAULT(EPOLL_CONTROL);
    return epoll_ctl((int)epoll, operations[change], (int)descriptor, event) < 0 ? pier__sys_errno()
                                                                                 : 0;
}

/* What the kernel takes in place of a struct timespec, whose fields have 32 bits in many 32-bit C
 * libraries: struct __kernel_timespec, which not every set of headers has. */
struct kernel_time {
    int64_t seconds, nanoseconds;
};

/* epoll_pwait2 came with 5.11; sandboxes and emulators may not know it still. */
static int pwait2_missing;

static int wait_nanoseconds(int epoll, struct epoll_event *events, int most, uint64_t timeout_ns)
{
    uint64_t seconds = timeout_ns / PIER_SECOND;
    struct kernel_time limit = {.seconds = seconds > 1000000 ? 1000000 : (int64_t)seconds,
                                .nanoseconds = (int64_t)(timeout_ns % PIER_SECOND)};
    return (int)syscall(SYS_epoll_pwait2, epoll, events, most, &limit, NULL, 0);
}

/* The C library's own is a cancellation point, which takes four atomic steps in a program with
 * threads, and cancelling a thread inside pier is not supported anyway. The newer kernel interfaces
 * (aarch64, riscv64) have only epoll_pwait. */
static int wait_milliseconds(int epoll, struct epoll_event *events, int most, int limit)
{
#ifdef SYS_epoll_wait
    return (int)syscall(SYS_epoll_wait, epoll, events, most, limit);
#else
    return (int)syscall(SYS_epoll_pwait, epoll, events, most, limit, NULL, 0);
#endif
}

static int to_milliseconds(uint64_t timeout_ns)
{
    /* Less than a millisecond must become one, never none: that would be a busy wait. */
    uint64_t milliseconds = timeout_ns / PIER_MILLISECOND + (timeout_ns % PIER_MILLISECOND != 0);
    return milliseconds > INT_MAX ? INT_MAX : (int)milliseconds;
}

int pier__sys_epoll_wait(pier_descriptor epoll, struct epoll_event *events, int most,
                         uint64_t timeout_ns)
{
    int fault = pier__fault(PIER__CALL_EPOLL_WAIT);
    if (fault != 0) {
        return fault == PIER_EINTR ? 0 : fault;
    }
    int result, limit = timeout_ns == PIER_FOREVER ? -1 : 0;
    if (timeout_ns != 0 && timeout_ns != PIER_FOREVER) {
        limit = to_milliseconds(timeout_ns);
    }
    if (limit > 0 && !pier__atomic_load_relaxed(&pwait2_missing)) {
        result = wait_nanoseconds((int)epoll, events, most, timeout_ns);
        if (result >= 0 || errno == EINTR) {
            return result >= 0 ? result : 0;
        }
        if (errno != ENOSYS && errno != EPERM) {
            return pier__sys_errno();
        }
        pier__atomic_store(&pwait2_missing, 1);
    }
    result = wait_milliseconds((int)epoll, events, most, limit);
    return PIER__LIKELY(result >= 0) ? result : errno == EINTR ? 0 : pier__sys_errno();
}

pier_descriptor pier__sys_eventfd(void)
{
    PIER__FAULT(EVENTFD);
    int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return descriptor < 0 ? pier__sys_errno() : descriptor;
}

void pier__sys_eventfd_signal(pier_descriptor descriptor)
{
    int saved = errno;
    uint64_t one = 1;
    /* A full counter is a signal already. Not write(), which is a cancellation point as well. */
    if (PIER__UNLIKELY(syscall(SYS_write, (int)descriptor, &one, sizeof(one)) < 0)) {
        errno = saved;
    }
}

void pier__sys_eventfd_drain(pier_descriptor descriptor)
{
    uint64_t count;
    ssize_t taken = read((int)descriptor, &count, sizeof(count));
    (void)taken;
}

bool pier__sys_tells_changes(pier_descriptor file)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", (int)file);
    int copy = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int epoll = copy < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLPRI};
    bool tells = epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, copy, &event) == 0;
    if (epoll >= 0) {
        close(epoll);
    }
    if (copy >= 0) {
        close(copy);
    }
    return tells;
}

bool pier__sys_has_changed(pier_descriptor file)
{
    return (pier__sys_poll_now(file, EPOLLPRI) & EPOLLPRI) != 0;
}

void pier__sys_discard(void *memory, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)memory + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)memory + size) & ~(page - 1);
    if (begin < end) {
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* else they stay: no harm */
    }
}

int64_t pier__sys_read_number(const char *path)
{
    char text[32];
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return -1;
    }
    ssize_t size = read(descriptor, text, sizeof(text) - 1);
    close(descriptor);
    if (size <= 0) {
        return -1;
    }
    text[size] = '\0';
    return strtoll(text, NULL, 10);
}
