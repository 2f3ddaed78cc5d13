/* posix.c - clock, memory, and descriptors that aren't sockets, on POSIX systems.
 *
 * Sockets are in posix_socket.c, errors in posix_error.c, waits in posix_wait.c. A read or write of
 * this file never blocks, also on descriptors whose O_NONBLOCK is off because pier doesn't own them
 * alone: those are asked with poll() first, and a write is cut to the size that a writable pipe
 * (PIPE_BUF) or terminal takes without waiting. */

#include "sys/posix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "base/atomic.h"
#include "base/check.h"

/* Linux promises 256 bytes of room when a terminal polls writable; other systems at least as much.
 */
#define TERMINAL_CHUNK 256

static uint64_t forks;
static pthread_once_t forks_once = PTHREAD_ONCE_INIT;

uint64_t pier__sys_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * PIER_SECOND + (uint64_t)now.tv_nsec;
}

static void count_fork(void)
{
    forks++;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

void pier__sys_watch_forks(void)
{
    pthread_once(&forks_once, watch_forks);
}

uint64_t pier__sys_forks(void)
{
    return forks;
}

void pier__sys_yield(void)
{
    sched_yield();
}

const char *pier__sys_environment(const char *name)
{
    return getenv(name);
}

void *pier__sys_allocate(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, new_size);
}

int pier__sys_close(pier_descriptor descriptor)
{
    /* Not restarted on EINTR: on Linux and the BSDs the descriptor is gone by then, and may be
     * somebody else's. An injected failure still closes, as the kernel does. */
    int fault = pier__fault(PIER__CALL_CLOSE);
    int result = close((int)descriptor) == 0 || errno == EINTR ? 0 : pier__sys_errno();
    return fault != 0 ? fault : result;
}

int pier__sys_set_nonblocking(pier_descriptor descriptor)
{
    int flags = fcntl((int)descriptor, F_GETFL);
    if (flags < 0 || fcntl((int)descriptor, F_SETFL, flags | O_NONBLOCK) < 0) {
        return pier__sys_errno();
    }
    return 0;
}

static int set_close_on_exec(int descriptor)
{
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0 ? pier__sys_errno() : 0;
}

int pier__sys_pipe(pier_descriptor pair[2], bool nonblocking)
{
    PIER__FAULT(PIPE);
    int descriptors[2];
#ifndef __APPLE__
    /* Born close-on-exec: a child that another thread starts meanwhile would inherit them. */
    if (pipe2(descriptors, O_CLOEXEC | (nonblocking ? O_NONBLOCK : 0)) == 0) {
        pair[0] = descriptors[0];
        pair[1] = descriptors[1];
        return 0;
    }
    if (errno != ENOSYS && errno != EPERM /* a sandbox that doesn't know it */) {
        return pier__sys_errno();
    }
#endif
    if (pipe(descriptors) < 0) {
        return pier__sys_errno();
    }
    for (int i = 0; i < 2; i++) {
        int error = set_close_on_exec(descriptors[i]);
        if (error == 0 && nonblocking) {
            error = pier__sys_set_nonblocking(descriptors[i]);
        }
        if (error != 0) {
            close(descriptors[0]);
            close(descriptors[1]);
            return error;
        }
        pair[i] = descriptors[i];
    }
    return 0;
}

int pier__sys_is_file(pier_descriptor descriptor)
{
    struct stat status;
    if (descriptor < 0 || descriptor > INT_MAX) {
        return pier__sys_map(EBADF);
    }
    if (fstat((int)descriptor, &status) < 0) {
        return pier__sys_errno();
    }
    return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) || S_ISBLK(status.st_mode);
}

#ifndef __linux__
bool pier__sys_tells_changes(pier_descriptor file)
{
    (void)file;
    return false;
}

bool pier__sys_has_changed(pier_descriptor file)
{
    (void)file;
    return false;
}
#endif

int64_t pier__sys_read(pier_descriptor descriptor, void *memory, size_t size, bool cautious)
{
    PIER__FAULT(READ);
    if (cautious && !pier__sys_can_read(descriptor)) {
        return pier__sys_map(EAGAIN);
    }
    for (;;) {
        ssize_t result = read((int)descriptor, memory, size);
        if (result >= 0 || errno != EINTR) {
            /* A pseudo-terminal whose other side is gone answers EIO: its end of stream. */
            return result < 0 && errno == EIO && isatty((int)descriptor) ? 0
                                                                         : pier__sys_result(result);
        }
    }
}

/* How many bytes a cautious write may try. */
static size_t cautious_size(pier_descriptor descriptor, size_t size)
{
    struct stat status;
    size_t most = PIPE_BUF;
    if (fstat((int)descriptor, &status) == 0 && S_ISCHR(status.st_mode)) {
        most = isatty((int)descriptor) ? TERMINAL_CHUNK
                                       : size; /* devices like /dev/null take all */
    }
    return size < most ? size : most;
}

#ifdef __linux__
/* Whether pwritev2() may have failed because the kernel doesn't know the flag, or a sandbox the
 * call. */
static bool may_lack_flag(int error)
{
    return error == EOPNOTSUPP || error == EINVAL || error == ENOSYS || error == EPERM ||
           error == EACCES;
}
#endif

/* writev() that doesn't raise SIGPIPE where the caller hasn't turned the signal off. Linux 6.18 has
 * a flag for it; else the signal is blocked for the call and, if the call raised it, taken. */
static ssize_t write_quietly(int descriptor, const struct iovec *pieces, int count)
{
#ifdef __linux__
    static int flag_missing;
    int refused = 0;
    if (!pier__atomic_load_relaxed(&flag_missing)) {
        /* musl before 1.2.5 has no function for it. */
        ssize_t result = syscall(SYS_pwritev2, descriptor, pieces, count, -1L, -1L,
                                 0x100 /* RWF_NOSIGNAL */);
        if (result >= 0 || !may_lack_flag(errno)) {
            return result;
        }
        refused = errno;
    }
#endif
    sigset_t pipe_signal, before, pending;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    ssize_t result = writev(descriptor, pieces, count);
    int error = errno;
#ifdef __linux__
    /* The file itself may refuse a write with EPERM, and nothing is learnt of the flag then. */
    if (refused != 0 && (result >= 0 || error != refused)) {
        pier__atomic_store(&flag_missing, 1);
    }
#endif
    if (result < 0 && error == EPIPE && !was_pending && sigpending(&pending) == 0 &&
        sigismember(&pending, SIGPIPE) == 1) {
        int taken;
        sigwait(&pipe_signal, &taken);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return result;
}

static int64_t write_pieces(pier_descriptor descriptor, const struct iovec *pieces, int count)
{
    for (;;) {
        ssize_t result = write_quietly((int)descriptor, pieces, count);
        if (result >= 0 || errno != EINTR) {
            return pier__sys_result(result);
        }
    }
}

int64_t pier__sys_write(pier_descriptor descriptor, const void *memory, size_t size, bool cautious)
{
    PIER__FAULT(WRITE);
    if (cautious) {
        if (!pier__sys_can_write(descriptor)) {
            return pier__sys_map(EAGAIN);
        }
        size = cautious_size(descriptor, size);
    }
    struct iovec piece = {.iov_base = (void *)(uintptr_t)memory, .iov_len = size};
    return write_pieces(descriptor, &piece, 1);
}

int64_t pier__sys_write_vectored(pier_descriptor descriptor, const struct pier_vector *vectors,
                                 size_t count, bool cautious)
{
    if (cautious) {
        return pier__sys_write(descriptor, vectors[0].data, vectors[0].size, true);
    }
    PIER__FAULT(WRITE);
    struct iovec pieces[PIER__VECTORS_MAX];
    for (size_t i = 0; i < count; i++) {
        pieces[i].iov_base = (void *)(uintptr_t)vectors[i].data;
        pieces[i].iov_len = vectors[i].size;
    }
    return write_pieces(descriptor, pieces, (int)count);
}

int pier__sys_socket_capabilities(void)
{
#if defined(__linux__)
    return PIER_CAN_ABSTRACT | PIER_CAN_SHARE_PORT;
#elif defined(SO_REUSEPORT_LB)
    return PIER_CAN_SHARE_PORT;
#else
    return 0;
#endif
}

static int describe_socket(int descriptor, struct pier__sys_description *description)
{
    int type = 0;
    socklen_t size = sizeof(type);
    if (getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &size) < 0) {
        return pier__sys_errno();
    }
    if (type != SOCK_STREAM) {
        return pier__sys_map(EINVAL);
    }
    int listening = 0;
    size = sizeof(listening);
    /* Systems without SO_ACCEPTCONN have only the socket's owner to tell. */
    if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0) {
        listening = 0;
    }
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    size = sizeof(address);
    description->family = PIER_ADDRESS_NONE;
    if (getsockname(descriptor, (struct sockaddr *)&address, &size) == 0) {
        description->family = address.ss_family == AF_INET    ? PIER_ADDRESS_IPV4
                              : address.ss_family == AF_INET6 ? PIER_ADDRESS_IPV6
                              : address.ss_family == AF_UNIX  ? PIER_ADDRESS_UNIX
                                                              : PIER_ADDRESS_NONE;
    }
    description->kind = listening ? PIER__KIND_LISTENER : PIER__KIND_STREAM;
    int no_delay = 0;
    size = sizeof(no_delay);
    description->delays = listening &&
                          (description->family == PIER_ADDRESS_IPV4 ||
                           description->family == PIER_ADDRESS_IPV6) &&
                          getsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size) == 0 &&
                          no_delay == 0;
    return 0;
}

int pier__sys_describe(pier_descriptor descriptor, struct pier__sys_description *description)
{
    PIER__FAULT(DESCRIBE);
    struct stat status;
    int flags;
    memset(description, 0, sizeof(*description));
    if (descriptor < 0 || descriptor > INT_MAX) {
        return pier__sys_map(EBADF);
    }
    if (fstat((int)descriptor, &status) < 0 || (flags = fcntl((int)descriptor, F_GETFL)) < 0) {
        return pier__sys_errno();
    }
    description->nonblocking = (flags & O_NONBLOCK) != 0;
    description->read_only = (flags & O_ACCMODE) == O_RDONLY;
    description->write_only = (flags & O_ACCMODE) == O_WRONLY;
    if (S_ISSOCK(status.st_mode)) {
        return describe_socket((int)descriptor, description);
    }
    if (S_ISFIFO(status.st_mode)) {
        description->kind = PIER__KIND_PIPE;
    } else if (S_ISCHR(status.st_mode)) {
        description->kind = PIER__KIND_TERMINAL;
    } else if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)) {
        description->kind = PIER__KIND_FILE;
    } else {
        /* Event descriptors and the like: whatever reads and writes and can be waited for. */
        description->kind = S_ISDIR(status.st_mode) ? PIER__KIND_NONE : PIER__KIND_TERMINAL;
    }
    return 0;
}
