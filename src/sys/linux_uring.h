/* linux_uring.h - io_uring's system calls, and what this kernel has of it. Conventions as in sys.h.
 */

#ifndef PIER_SYS_LINUX_URING_H
#define PIER_SYS_LINUX_URING_H

#include <errno.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "sys/posix.h"
#include "sys/sys.h"

/* What is stepped down from where the kernel lacks it. */
struct pier__uring_features {
    bool single_issuer, deferred; /* 6.0, 6.1: task work runs only when the loop asks for it */
    bool buffer_ring;             /* 5.19 */
    bool multishot_accept;        /* 5.19 */
    bool multishot_receive;       /* 6.0 */
    bool least_wait;    /* 6.12: waiting for more than one with a short limit for the rest */
    bool message;       /* 6.13: another thread wakes the ring without a ring of its own */
    bool receive_limit; /* 6.17: a multishot receive ends after so many bytes (sqe->optlen) */
};

/* Makes a ring, disabled until pier__sys_uring_enable(), with what the kernel has; fewer entries
 * when memory is short. */
int pier__sys_uring_open(struct io_uring *ring, unsigned entries, unsigned completions,
                         struct pier__uring_features *features);
void pier__sys_uring_close(struct io_uring *ring);
/* The ring is left to another thread than the one that enabled it: without the entry in that
 * thread's table of rings, which is another ring's in this one's. */
void pier__sys_uring_disown(struct io_uring *ring);
/* Enables the ring for this thread. */
int pier__sys_uring_enable(struct io_uring *ring);
/* Whether multishot receives may have a limit: tried on an enabled ring that nobody uses. */
bool pier__sys_uring_can_limit(struct io_uring *ring);
/* Limits a multishot receive to `bytes`, and what else fits into the buffer that reaches them. */
void pier__sys_uring_limit(struct io_uring_sqe *entry, uint32_t bytes);
/* A ring of provided buffers with `entries` (a power of two) for buffer group 0, in page-aligned
 * memory. */
int pier__sys_uring_register_buffers(struct io_uring *ring, void *memory, unsigned entries);
/* Memory for it: page-aligned, zeroed; NULL when there is none. */
void *pier__sys_pages(size_t size);
void pier__sys_free_pages(void *memory, size_t size);
/* Posts a completion with this user_data to a ring, from any thread. */
int pier__sys_uring_message(int ring_descriptor, uint64_t user_data);
int pier__sys_uring_register_eventfd(struct io_uring *ring, pier_descriptor eventfd);
/* A native address in `memory` (128 bytes), for a connect. Returns its length, 0 when there is no
 * such address here. */
unsigned pier__sys_native_address(const struct pier_address *address, void *memory);

/* struct io_uring_getevents_arg, in which older headers call min_wait_usec a pad. */
struct pier__uring_wait {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t least_us;
    uint64_t limit;
};

#define PIER__ENTER_REGISTERED_RING (1u << 4)
#define PIER__RING_IS_REGISTERED 1 /* liburing's INT_FLAG_REG_RING in io_uring.int_flags */

/* io_uring_enter: submits, and with `get_events` runs task work and waits for `wait` completions up
 * to timeout_ns; with least_us, after so many microseconds any one will do. Returns the number
 * submitted; a time-out or an interruption is no error. Here, since half of its instructions are
 * about what the caller knows. */
static PIER__INLINE int pier__sys_uring_enter(const struct io_uring *ring, unsigned submit,
                                              unsigned wait, bool get_events, uint64_t timeout_ns,
                                              unsigned least_us)
{
    int fault = pier__fault(PIER__CALL_URING_ENTER);
    if (fault != 0) {
        return fault == PIER_EINTR ? 0 : fault;
    }
    struct __kernel_timespec limit;
    struct pier__uring_wait argument;
    unsigned flags = get_events ? IORING_ENTER_GETEVENTS : 0;
    void *extra = NULL;
    size_t size = 0;
    if (wait != 0 && (timeout_ns != PIER_FOREVER || least_us != 0)) {
        argument = (struct pier__uring_wait){.least_us = least_us};
        if (timeout_ns != PIER_FOREVER) {
            limit.tv_sec = (int64_t)(timeout_ns / PIER_SECOND);
            limit.tv_nsec = (long long)(timeout_ns % PIER_SECOND);
            argument.limit = (uint64_t)(uintptr_t)&limit;
        }
        flags |= IORING_ENTER_EXT_ARG;
        extra = &argument;
        size = sizeof(argument);
    }
    if (ring->int_flags & PIER__RING_IS_REGISTERED) {
        flags |= PIER__ENTER_REGISTERED_RING;
    }
    int result = (int)syscall(SYS_io_uring_enter, ring->enter_ring_fd, submit, wait, flags, extra,
                              size);
    if (PIER__LIKELY(result >= 0)) {
        return result;
    }
    return errno == ETIME || errno == EINTR ? 0 : pier__sys_errno();
}

#endif
