/* posix_wait.c - waiting with poll and select, and the pipe that ends a wait, on POSIX systems. */

#include "sys/posix.h"

#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

/* How long a wait in pieces takes at the most. */
#define PIECES_PACE (10 * PIER_MILLISECOND)

/* Whether the descriptor is ready for `events` this instant, or not open: a call tells which. */
static bool is_ready(pier_descriptor descriptor, short events)
{
    struct pollfd entry = {.fd = (int)descriptor, .events = events};
    return poll(&entry, 1, 0) > 0;
}

bool pier__sys_can_read(pier_descriptor descriptor)
{
    return is_ready(descriptor, POLLIN);
}

bool pier__sys_can_write(pier_descriptor descriptor)
{
    return is_ready(descriptor, POLLOUT);
}

/* A time-out that every kernel takes: Darwin refuses long ones. */
static struct timespec to_timespec(uint64_t timeout_ns)
{
    uint64_t seconds = timeout_ns / PIER_SECOND;
    return (struct timespec){.tv_sec = seconds > 1000000 ? 1000000 : (time_t)seconds,
                             .tv_nsec = (long)(timeout_ns % PIER_SECOND)};
}

static int wait_for(struct pollfd *entries, size_t count, uint64_t timeout_ns)
{
#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__)
    struct timespec limit = to_timespec(timeout_ns);
    return ppoll(entries, (nfds_t)count, timeout_ns == PIER_FOREVER ? NULL : &limit, NULL);
#else
    uint64_t milliseconds = timeout_ns / PIER_MILLISECOND + (timeout_ns % PIER_MILLISECOND != 0);
    return poll(entries, (nfds_t)count,
                timeout_ns == PIER_FOREVER ? -1
                : milliseconds > 1000000   ? 1000000
                                           : (int)milliseconds);
#endif
}

/* poll() takes no more entries than the process may have descriptors, and says EINVAL: so it is
 * when a program lowers its limit (RLIMIT_NOFILE) below what it has open. Then the entries are
 * asked in pieces. Only the first one, in which the loop's own pipe is, waits, and not for long. */
PIER__COLD static int wait_in_pieces(struct pollfd *entries, size_t count, uint64_t timeout_ns)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == 0 ||
        (uint64_t)limit.rlim_cur >= count) {
        return pier__sys_map(EINVAL);
    }
    size_t most = (size_t)limit.rlim_cur;
    int ready = 0;
    for (size_t at = most; at < count; at += most) {
        int found = wait_for(entries + at, count - at < most ? count - at : most, 0);
        if (found < 0 && errno != EINTR) {
            return pier__sys_errno();
        }
        ready += found > 0 ? found : 0;
    }
    uint64_t left = timeout_ns < PIECES_PACE ? timeout_ns : PIECES_PACE;
    int found = wait_for(entries, most, ready > 0 ? 0 : left);
    if (found < 0 && errno != EINTR) {
        return pier__sys_errno();
    }
    return ready + (found > 0 ? found : 0);
}

int pier__sys_poll(struct pollfd *entries, size_t count, uint64_t timeout_ns)
{
    PIER__FAULT(POLL);
    int result = wait_for(entries, count, timeout_ns);
    if (PIER__LIKELY(result >= 0)) {
        return result;
    }
    return errno == EINTR    ? 0
           : errno == EINVAL ? wait_in_pieces(entries, count, timeout_ns)
                             : pier__sys_errno();
}

unsigned pier__sys_poll_now(pier_descriptor descriptor, unsigned events)
{
    struct pollfd entry = {.fd = (int)descriptor, .events = (short)events};
    int count;
    do {
        count = poll(&entry, 1, 0);
    } while (count < 0 && errno == EINTR);
    return count > 0 ? (unsigned short)entry.revents & (events | POLLERR | POLLHUP) : 0;
}

int pier__sys_select(int width, unsigned long *read_set, unsigned long *write_set,
                     unsigned long *priority_set, uint64_t timeout_ns)
{
    PIER__FAULT(SELECT);
    struct timespec limit = to_timespec(timeout_ns);
    int result = pselect(width, (fd_set *)(void *)read_set, (fd_set *)(void *)write_set,
                         (fd_set *)(void *)priority_set, timeout_ns == PIER_FOREVER ? NULL : &limit,
                         NULL);
    return result >= 0 ? result : errno == EINTR ? 0 : pier__sys_errno();
}

void pier__sys_signal_pipe(pier_descriptor descriptor)
{
    int saved = errno;
    ssize_t written = write((int)descriptor, "", 1); /* a full pipe is a signal already */
    (void)written;
    errno = saved;
}

void pier__sys_drain_pipe(pier_descriptor descriptor)
{
    char bytes[256];
    while (read((int)descriptor, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes)) {}
}
