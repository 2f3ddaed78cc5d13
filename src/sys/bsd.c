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

#ifdef PIER_FAULTS
/* Changes that are to fail: takes them off the list, and puts what the kernel says of a change that
 * it refuses into `events`. Returns how many they are; the rest is in `rest`. */
static size_t refuse_changes(const struct kevent *changes, size_t *change_count,
                             struct kevent *events, size_t event_count, struct kevent *rest)
{
    size_t refused = 0, kept = 0;
    for (size_t i = 0; i < *change_count; i++) {
        if (refused == event_count || pier__fault(PIER__CALL_KEVENT_CHANGE) == 0) {
            rest[kept++] = changes[i];
            continue;
        }
        events[refused] = changes[i];
        events[refused].flags = EV_ERROR;
        events[refused++].data = ENOMEM;
    }
    *change_count = kept;
    return refused;
}
#endif

int pier__sys_kevent(pier_descriptor queue, const struct kevent *changes, size_t change_count,
                     struct kevent *events, size_t event_count, uint64_t timeout_ns)
{
    PIER__FAULT(KEVENT);
    size_t refused = 0;
#ifdef PIER_FAULTS
    struct kevent rest[PIER__KEVENT_CHANGES_MAX];
    refused = refuse_changes(changes, &change_count, events, event_count, rest);
    changes = rest;
    if (refused > 0) {
        events += refused;
        event_count -= refused;
        timeout_ns = 0;
    }
#endif
    /* Darwin refuses large time-outs with EINVAL (Go's netpoll_kqueue.go caps them at the
     * same number); a wait that ends too soon is just another turn. */
    uint64_t seconds = timeout_ns / PIER_SECOND;
    struct timespec limit = {.tv_sec = seconds > 1000000 ? 1000000 : (time_t)seconds,
                             .tv_nsec = (long)(timeout_ns % PIER_SECOND)};
    int result = kevent((int)queue, changes, (event_number)change_count, events,
                        (event_number)event_count, timeout_ns == PIER_FOREVER ? NULL : &limit);
    if (result < 0 && errno != EINTR) {
        return pier__sys_errno();
    }
    return (int)refused + (result > 0 ? result : 0);
}
