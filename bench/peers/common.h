/*
 * What every echo server under comparison does alike, so that each peer's file shows only the work
 * of its library: the command line, the listening socket, threads and processes, stopping on
 * SIGTERM and SIGINT, and the line of counters at the end.
 *
 * A peer defines one function that serves a listening socket until `stop_fd` becomes readable, and
 * calls peer_main() with it. There is one worker per thread, with a listener of its own; more than
 * one share the port by SO_REUSEPORT. The stop descriptor is an eventfd that nobody reads, so that
 * it stays readable for every worker.
 *
 * TCP_NODELAY is set once, on the listener: Linux hands it on to the sockets it accepts, which
 * saves a system call for each connection. Compiles as C++ too (asio_echo.cpp). Linux only, like
 * everything in bench/.
 */
#ifndef BENCH_PEERS_COMMON_H
#define BENCH_PEERS_COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PEER_BUFFER_SIZE = 16 * 1024, PEER_BACKLOG = 4096, PEER_WORKERS_MAX = 64 };

struct peer_worker {
    int listener; /* non-blocking, listening */
    int stop_fd;  /* readable when the worker is to return */
    bool variant; /* the peer's own option was given */
    uint64_t receives, bytes, connections;
} __attribute__((aligned(64))); /* workers of several threads don't share a cache line */

typedef void peer_serve_fn(struct peer_worker *worker);

struct peer_program {
    const char *name,
        *variant_name; /* the variant's name is reported in place of the name when it is on */
    const char *variant_option; /* such as "--buffered", or NULL */
    peer_serve_fn *serve;
};

static int peer__stop_fd = -1;

__attribute__((noreturn, format(printf, 1, 2))) static inline void peer_fail(const char *format,
                                                                             ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* Tells a worker what a failed accept means: true if there are no more connections for now, false
 * to try the next. */
static inline bool peer_accept_is_drained(int error)
{
    if (error == EAGAIN)
        return true;
    if (error == EMFILE || error == ENFILE)
        peer_fail("accept: %s: raise `ulimit -n` or spread the connections with --processes",
                  strerror(error));
    if (error == ENOBUFS || error == ENOMEM || error == EBADF || error == EINVAL)
        peer_fail("accept: %s", strerror(error));
    return false;
}

static inline void peer__on_signal(int number)
{
    (void)number;
    int saved = errno;
    uint64_t one = 1;
    ssize_t written = write(peer__stop_fd, &one, sizeof one);
    (void)written;
    errno = saved;
}

static inline void peer__parse_address(const char *text, struct sockaddr_storage *address,
                                       socklen_t *size)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t length = colon != NULL ? (size_t)(colon - text) : sizeof host;
    char *end = NULL;
    unsigned long port = colon != NULL ? strtoul(colon + 1, &end, 10) : 0;
    if (length >= sizeof host || end == colon + 1 || *end != '\0' || port > 65535)
        peer_fail("bad address '%s': write it as 127.0.0.1:7000 or [::1]:7000", text);
    memcpy(host, text, length);
    host[length] = '\0';

    memset(address, 0, sizeof *address);
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    if (host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = '\0';
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *size = sizeof *v6;
        if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) == 1)
            return;
    } else {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *size = sizeof *v4;
        if (inet_pton(AF_INET, host, &v4->sin_addr) == 1)
            return;
    }
    peer_fail("bad address '%s': write it as 127.0.0.1:7000 or [::1]:7000", text);
}

/* A port of 0 in `address` is replaced by the one the system chose, so that others can share it. */
static inline int peer__listen(struct sockaddr_storage *address, socklen_t size, bool shared)
{
    int one = 1;
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        peer_fail("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0)
        peer_fail("SO_REUSEPORT: %s", strerror(errno));
    if (bind(fd, (struct sockaddr *)address, size) < 0)
        peer_fail("bind: %s", strerror(errno));
    getsockname(fd, (struct sockaddr *)address, &size);
    if (listen(fd, PEER_BACKLOG) < 0)
        peer_fail("listen: %s", strerror(errno));
    return fd;
}

static inline void peer__announce(const struct sockaddr_storage *address, const char *name,
                                  int workers)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    bool is_v6 = address->ss_family == AF_INET6;
    inet_ntop(address->ss_family,
              is_v6 ? (const void *)&v6->sin6_addr : (const void *)&v4->sin_addr, host,
              sizeof host);
    printf("listening on %s%s%s:%d backend=%s threads=%d\n", is_v6 ? "[" : "", host,
           is_v6 ? "]" : "", ntohs(is_v6 ? v6->sin6_port : v4->sin_port), name, workers);
    fflush(stdout);
}

static inline uint64_t peer__cpu_ns(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_usec * 1000u;
}

static inline void peer__print_counters(const struct peer_worker *workers, int count)
{
    struct rusage self, children;
    uint64_t receives = 0, bytes = 0, connections = 0;
    for (int i = 0; i < count; i++) {
        receives += workers[i].receives;
        bytes += workers[i].bytes;
        connections += workers[i].connections;
    }
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    printf("{\"receives\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"connections\":%" PRIu64
           ",\"user_cpu_ns\":%" PRIu64 ",\"system_cpu_ns\":%" PRIu64 "}\n",
           receives, bytes, connections,
           peer__cpu_ns(&self.ru_utime) + peer__cpu_ns(&children.ru_utime),
           peer__cpu_ns(&self.ru_stime) + peer__cpu_ns(&children.ru_stime));
    fflush(stdout);
}

struct peer__thread {
    pthread_t id;
    peer_serve_fn *serve;
    struct peer_worker *worker;
};

static inline void *peer__thread_main(void *argument)
{
    struct peer__thread *thread = (struct peer__thread *)argument;
    thread->serve(thread->worker);
    return NULL;
}

/* Runs the workers of one process: the first on the calling thread, so that one worker needs no
 * other thread. */
static inline void peer__run_threads(peer_serve_fn *serve, struct peer_worker *workers, int count)
{
    struct peer__thread threads[PEER_WORKERS_MAX];
    for (int i = 1; i < count; i++) {
        threads[i].serve = serve;
        threads[i].worker = &workers[i];
        if (pthread_create(&threads[i].id, NULL, peer__thread_main, &threads[i]) != 0)
            peer_fail("cannot start thread %d: lower --threads", i + 1);
    }
    serve(&workers[0]);
    for (int i = 1; i < count; i++)
        pthread_join(threads[i].id, NULL);
}

/* The signal that stops the parent is handed on to the children; their counters are in memory that
 * is shared. */
static inline int peer__run_processes(peer_serve_fn *serve, struct peer_worker *workers,
                                      int processes, int threads)
{
    pid_t children[PEER_WORKERS_MAX];
    int status, failed = 0;
    uint64_t ignored;
    for (int i = 0; i < processes; i++) {
        children[i] = fork();
        if (children[i] < 0)
            peer_fail("fork: %s: lower --processes", strerror(errno));
        if (children[i] == 0) {
            for (int j = 0; j < processes * threads; j++) {
                if (j / threads != i)
                    close(workers[j].listener);
            }
            peer__run_threads(serve, workers + i * threads, threads);
            _exit(0);
        }
    }
    for (int j = 0; j < processes * threads; j++)
        close(workers[j].listener);
    while (read(peer__stop_fd, &ignored, sizeof ignored) < 0)
        continue;
    for (int i = 0; i < processes; i++)
        kill(children[i], SIGTERM);
    for (int i = 0; i < processes; i++) {
        while (waitpid(children[i], &status, 0) < 0)
            continue;
        failed |= status != 0;
    }
    return failed;
}

static inline int peer__parse_count(const char *option, const char *text)
{
    char *end = NULL;
    long value = text != NULL ? strtol(text, &end, 10) : 0;
    if (text == NULL || *end != '\0' || value < 1 || value > PEER_WORKERS_MAX)
        peer_fail("%s needs a number from 1 to %d, not '%s'", option, PEER_WORKERS_MAX,
                  text != NULL ? text : "");
    return (int)value;
}

static inline int peer_main(int argc, char **argv, const struct peer_program *program)
{
    const char *listen_on = "127.0.0.1:0", *name = program->name;
    int threads = 1, processes = 1, failed = 0;
    bool variant = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--listen") == 0 && argv[i + 1] != NULL) {
            listen_on = argv[++i];
        } else if (strcmp(argv[i], "--threads") == 0) {
            threads = peer__parse_count("--threads", argv[i + 1]);
            i++;
        } else if (strcmp(argv[i], "--processes") == 0) {
            processes = peer__parse_count("--processes", argv[i + 1]);
            i++;
        } else if (program->variant_option != NULL &&
                   strcmp(argv[i], program->variant_option) == 0) {
            variant = true;
            name = program->variant_name;
        } else {
            fprintf(stderr, "usage: %s [--listen ADDRESS] [--threads N] [--processes N] %s\n",
                    argv[0], program->variant_option != NULL ? program->variant_option : "");
            return 2;
        }
    }
    int count = threads * processes;
    if (count > PEER_WORKERS_MAX)
        peer_fail("%d threads in %d processes are more than %d workers", threads, processes,
                  PEER_WORKERS_MAX);

    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sockaddr_storage address;
    socklen_t size;
    peer__parse_address(listen_on, &address, &size);
    struct peer_worker *workers = (struct peer_worker *)mmap(NULL, (size_t)count * sizeof *workers,
                                                             PROT_READ | PROT_WRITE,
                                                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = peer__on_signal;
    if (workers == MAP_FAILED)
        peer_fail("mmap: %s", strerror(errno));

    for (int i = 0; i < count; i++) {
        workers[i].listener = peer__listen(&address, size, count > 1);
        workers[i].variant = variant;
    }
    signal(SIGPIPE, SIG_IGN);
    peer__stop_fd = eventfd(0, EFD_CLOEXEC);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    for (int i = 0; i < count; i++)
        workers[i].stop_fd = peer__stop_fd;
    peer__announce(&address, name, count);
    if (processes == 1)
        peer__run_threads(program->serve, workers, threads);
    else
        failed = peer__run_processes(program->serve, workers, processes, threads);
    peer__print_counters(workers, count);
    return failed;
}

#endif
