/* linux_uring.c - io_uring's system calls.
 *
 * liburing maps the rings; entering is in linux_uring.h, so that one call both submits and waits
 * and the tests can make it fail. Names that Debian 12's liburing (2.3) doesn't have yet are given
 * by number. */

#include "sys/linux_uring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/error.h"
#include "sys/linux.h"
#include "sys/posix.h"

#define REGISTER_SEND_MSG_RING 31 /* IORING_REGISTER_SEND_MSG_RING, Linux 6.13 */
#define FEATURE_EXT_ARG (1u << 8)
#define FEATURE_NODROP (1u << 1)
#define FEATURE_FAST_POLL (1u << 5)
#define FEATURE_LEAST_WAIT (1u << 15) /* IORING_FEAT_MIN_TIMEOUT */

static int explain_setup(int error, int code)
{
    int64_t disabled = pier__sys_read_number("/proc/sys/kernel/io_uring_disabled");
    if (code == EPERM && disabled > 0) {
        return pier__fail(PIER_ENOTSUP,
                          "io_uring is switched off: kernel.io_uring_disabled = %d (sysctl -w "
                          "kernel.io_uring_disabled=0 allows it)",
                          (int)disabled);
    }
    if (code == EPERM) {
        return pier__fail(
            PIER_ENOTSUP,
            "io_uring is forbidden here (EPERM): a seccomp filter or security policy of the "
            "container");
    }
    if (code == ENOSYS) {
        return pier__fail(PIER_ENOTSUP,
                          "this kernel has no io_uring, or a sandbox hides it (ENOSYS)");
    }
    if (code == ENOMEM) {
        return pier__fail(
            PIER_ENOMEM,
            "no memory for an io_uring: the limit on locked memory (ulimit -l) may be too low");
    }
    return pier__fail(error, "io_uring_setup: %s (code %d)", pier_error_text(error), code);
}

static int try_setup(struct io_uring *ring, unsigned entries, unsigned completions, unsigned flags)
{
    int fault = pier__fault(PIER__CALL_URING_SETUP);
    if (fault != 0) {
        return fault;
    }
    struct io_uring_params parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
    parameters.cq_entries = completions;
    int result = io_uring_queue_init_params(entries, ring, &parameters);
    if (result < 0) {
        return pier__sys_map(-result);
    }
    if ((parameters.features & (FEATURE_EXT_ARG | FEATURE_NODROP | FEATURE_FAST_POLL)) !=
        (FEATURE_EXT_ARG | FEATURE_NODROP | FEATURE_FAST_POLL)) {
        io_uring_queue_exit(ring);
        return pier__sys_map(ENOSYS);
    }
    return 0;
}

/* Rings of several threads may be mapped at one address, one after the other. The thread sanitizer
 * sees no order in that, since liburing unmaps them by a system call of its own; in this it does.
 */
static uint64_t rings_closed;

/* Flags from the best down; a kernel refuses those it doesn't know with EINVAL. */
static const unsigned ladder[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    0,
};

static void find_features(struct io_uring *ring, struct pier__uring_features *features)
{
    _Alignas(struct io_uring_probe) unsigned char
        memory[sizeof(struct io_uring_probe) + 64 * sizeof(struct io_uring_probe_op)] = {0};
    struct io_uring_probe *probe = (void *)memory;
    unsigned last = io_uring_register_probe(ring, probe, 64) == 0 ? probe->last_op : 0;
    /* Multishot requests have no probe of their own: they came with the opcodes next to them. */
    features->multishot_accept = last >= IORING_OP_SOCKET;   /* 5.19 */
    features->multishot_receive = last >= IORING_OP_SEND_ZC; /* 6.0 */
    features->deferred = (ring->flags & IORING_SETUP_DEFER_TASKRUN) != 0;
    features->single_issuer = (ring->flags & IORING_SETUP_SINGLE_ISSUER) != 0;
    features->buffer_ring = features->multishot_accept;
    features->least_wait = (ring->features & FEATURE_LEAST_WAIT) != 0;
}

int pier__sys_uring_open(struct io_uring *ring, unsigned entries, unsigned completions,
                         struct pier__uring_features *features)
{
    int error = PIER_EINVAL;
    for (;;) {
        for (size_t i = 0; i < sizeof(ladder) / sizeof(ladder[0]); i++) {
            error = try_setup(ring, entries, completions, ladder[i]);
            if (error != PIER_EINVAL) {
                break;
            }
        }
        if (error != PIER_ENOMEM || entries <= 4) {
            break;
        }
        entries /= 2;
        completions /= 2;
    }
    if (error < 0) {
        return explain_setup(error, pier__sys_code());
    }
    (void)pier__atomic_load(&rings_closed);
    for (unsigned i = 0; i < ring->sq.ring_entries; i++) {
        ring->sq.array[i] = i;
    }
    io_uring_ring_dontfork(ring); /* a child that touched the rings would corrupt them */
    find_features(ring, features);
    return 0;
}

void pier__sys_uring_close(struct io_uring *ring)
{
    pier__atomic_add(&rings_closed, 1);
    io_uring_queue_exit(ring);
}

void pier__sys_uring_disown(struct io_uring *ring)
{
    ring->int_flags &= (uint8_t)~PIER__RING_IS_REGISTERED;
    ring->enter_ring_fd = ring->ring_fd;
}

int pier__sys_uring_enable(struct io_uring *ring)
{
    PIER__FAULT(URING_REGISTER);
    /* Not io_uring_enable_rings(): Debian 12's liburing declares it but doesn't export it. */
    if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
        return pier__sys_errno();
    }
    io_uring_register_ring_fd(ring); /* saves a look-up per enter; works without */
    return 0;
}

void pier__sys_uring_limit(struct io_uring_sqe *entry, uint32_t bytes)
{
    entry->file_index = bytes; /* sqe->optlen: newer than Debian 12's header, in the same place */
}

/* A receive on no descriptor: kernels without the limit refuse the field before they look at the
 * descriptor. */
bool pier__sys_uring_can_limit(struct io_uring *ring)
{
    struct io_uring_sqe *entry = &ring->sq.sqes[0];
    memset(entry, 0, sizeof(*entry));
    entry->opcode = IORING_OP_RECV;
    entry->fd = -1;
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->ioprio = IORING_RECV_MULTISHOT;
    pier__sys_uring_limit(entry, 1);
    __atomic_store_n(ring->sq.ktail, *ring->sq.ktail + 1, __ATOMIC_RELEASE);
    if (pier__sys_uring_enter(ring, 1, 1, true, PIER_SECOND, 0) != 1 ||
        *ring->cq.khead == __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE)) {
        return false;
    }
    return ring->cq.cqes[*ring->cq.khead & ring->cq.ring_mask].res == -EBADF;
}

void *pier__sys_pages(size_t size)
{
    if (pier__fault(PIER__CALL_ALLOCATE) != 0) {
        return NULL;
    }
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void pier__sys_free_pages(void *memory, size_t size)
{
    if (memory != NULL) {
        munmap(memory, size);
    }
}

int pier__sys_uring_register_buffers(struct io_uring *ring, void *memory, unsigned entries)
{
    PIER__FAULT(URING_REGISTER);
    struct io_uring_buf_reg registration;
    memset(&registration, 0, sizeof(registration));
    registration.ring_addr = (uint64_t)(uintptr_t)memory;
    registration.ring_entries = entries;
    int result = io_uring_register_buf_ring(ring, &registration, 0);
    return result < 0 ? pier__sys_map(-result) : 0;
}

int pier__sys_uring_message(int ring_descriptor, uint64_t user_data)
{
    int saved = errno;
    struct io_uring_sqe request;
    memset(&request, 0, sizeof(request));
    request.opcode = IORING_OP_MSG_RING;
    request.fd = ring_descriptor;
    request.off = user_data;
    int result = (int)syscall(SYS_io_uring_register, -1, REGISTER_SEND_MSG_RING, &request, 1);
    int error = result < 0 ? errno : 0;
    errno = saved;
    return error == 0 ? 0 : error == EINVAL || error == ENOSYS ? PIER_ENOTSUP : PIER_EOTHER;
}

int pier__sys_uring_register_eventfd(struct io_uring *ring, pier_descriptor eventfd)
{
    PIER__FAULT(URING_REGISTER);
    int result = io_uring_register_eventfd(ring, (int)eventfd);
    return result < 0 ? pier__sys_map(-result) : 0;
}
