/* bsd.c - kqueue: macOS, FreeBSD, NetBSD, OpenBSD. */

#include "sys/bsd.h"

#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/event.h>
#include <time.h>
#include <unistd.h>

#include "sys/posix.h"

#ifdef __NetBSD__
typedef size_t event_number;
#else
typedef int event_number;
#endif

pier_descriptor pier__sys_kqueue_create(void)
{
    PIER__FAULT(KQUEUE);
    int descriptor = kqueue();
    if (descriptor < 0) {
        return pier__sys_errno();
    }
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    return descriptor;
}

int pier__sys_kevent(pier_descriptor queue, const struct kevent *changes, size_t change_count,
                     struct kevent *events, size_t event_count, uint64_t timeout_ns)
{
    PIER__FAULT(KEVENT);
    /* Darwin refuses large time-outs with EINVAL (traps 43); a wait that ends too soon is just
     * another turn. */
    uint64_t seconds = timeout_ns / PIER_SECOND;
    struct timespec limit = {.tv_sec = seconds > 1000000 ? 1000000 : (time_t)seconds,
                             .tv_nsec = (long)(timeout_ns % PIER_SECOND)};
    int result = kevent((int)queue, changes, (event_number)change_count, events,
                        (event_number)event_count, timeout_ns == PIER_FOREVER ? NULL : &limit);
    return result >= 0 ? result : errno == EINTR ? 0 : pier__sys_errno();
}
