/* SPDX-License-Identifier: MIT */
/* platform.c - POSIX: what the `pier` command asks of the operating system besides the library;
 * see platform.h.
 *
 * Processes are made with fork(), always before the first loop and the first thread, so that a
 * child inherits nothing but memory and open files. */

#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#define MAP_ANONYMOUS MAP_ANON
#endif

/* open() takes the lowest number that is free. Where there is no /dev/null the root directory will
 * do, of which nothing can be read or written. */
static void open_standard(int number, int flags)
{
    if (fcntl(number, F_GETFD) >= 0 || errno != EBADF) {
        return;
    }
    if (open("/dev/null", flags) < 0 && open("/", O_RDONLY) < 0) {
        _exit(1); /* nothing could be said either */
    }
}

void platform_start(void)
{
    signal(SIGPIPE, SIG_IGN);
    open_standard(STDIN_FILENO, O_RDONLY);
    open_standard(STDOUT_FILENO, O_RDONLY); /* so that output which nobody gets is an error */
    open_standard(STDERR_FILENO, O_WRONLY);
}

bool platform_flush_output(void)
{
    return fflush(stdout) == 0 && !ferror(stdout);
}

bool platform_is_terminal(FILE *file)
{
    return isatty(fileno(file)) == 1;
}

unsigned platform_terminal_width(FILE *file)
{
    struct winsize size;
    return ioctl(fileno(file), TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

const char *platform_error_text(int error)
{
    return strerror(error);
}

uint64_t platform_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void platform_sleep_ns(uint64_t time_ns)
{
    struct timespec time = {.tv_sec = (time_t)(time_ns / 1000000000),
                            .tv_nsec = (long)(time_ns % 1000000000)};
    nanosleep(&time, NULL);
}

static uint64_t time_of(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_usec * 1000;
}

static void add_usage(struct platform_usage *usage, int who)
{
    struct rusage used;
    if (getrusage(who, &used) != 0) {
        return;
    }
    usage->user_ns += time_of(&used.ru_utime);
    usage->system_ns += time_of(&used.ru_stime);
#ifdef __APPLE__
    uint64_t resident = (uint64_t)used.ru_maxrss;
#else
    uint64_t resident = (uint64_t)used.ru_maxrss * 1024;
#endif
    if (usage->resident_max < resident) {
        usage->resident_max = resident;
    }
}

void platform_usage(struct platform_usage *usage, bool children)
{
    memset(usage, 0, sizeof(*usage));
    add_usage(usage, RUSAGE_SELF);
    if (children) {
        add_usage(usage, RUSAGE_CHILDREN);
    }
}

static void *run_thread(void *argument)
{
    struct platform_thread *thread = argument;
    thread->run(thread->argument);
    return NULL;
}

int platform_thread_start(struct platform_thread *thread, platform_run_fn *run, void *argument)
{
    pthread_t *handle = malloc(sizeof(*handle));
    if (handle == NULL) {
        return ENOMEM;
    }
    thread->run = run;
    thread->argument = argument;
    thread->handle_ = handle;
    int error = pthread_create(handle, NULL, run_thread, thread);
    if (error != 0) {
        free(handle);
        thread->handle_ = NULL;
    }
    return error;
}

void platform_thread_join(struct platform_thread *thread)
{
    if (thread->handle_ != NULL) {
        pthread_join(*(pthread_t *)thread->handle_, NULL);
        free(thread->handle_);
        thread->handle_ = NULL;
    }
}

int platform_mutex_init(struct platform_mutex *mutex)
{
    pthread_mutex_t *made = malloc(sizeof(*made));
    int error = made != NULL ? pthread_mutex_init(made, NULL) : ENOMEM;
    if (error != 0) {
        free(made);
        return error;
    }
    mutex->mutex_ = made;
    return 0;
}

void platform_mutex_lock(struct platform_mutex *mutex)
{
    pthread_mutex_lock(mutex->mutex_);
}

void platform_mutex_unlock(struct platform_mutex *mutex)
{
    pthread_mutex_unlock(mutex->mutex_);
}

void platform_mutex_free(struct platform_mutex *mutex)
{
    if (mutex->mutex_ != NULL) {
        pthread_mutex_destroy(mutex->mutex_);
        free(mutex->mutex_);
        mutex->mutex_ = NULL;
    }
}

void *platform_shared_memory(uint64_t size)
{
    size_t bytes = (size_t)size;
    if (bytes != size) {
        return NULL; /* a process of 32 bits has no room for it */
    }
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory != MAP_FAILED ? memory : NULL;
}

static pid_t parent;

int platform_process_start(struct platform_process *process, platform_main_fn *run, void *argument)
{
    pid_t starter = getpid();
    fflush(stdout);
    pid_t id = fork();
    if (id < 0) {
        return errno;
    }
    if (id == 0) {
        parent = starter;
        int status = run(argument);
        fflush(stdout);
        _exit(status);
    }
    process->id_ = id;
    return 0;
}

void platform_process_interrupt(const struct platform_process *process)
{
    kill((pid_t)process->id_, SIGTERM);
}

void platform_process_kill(const struct platform_process *process)
{
    kill((pid_t)process->id_, SIGKILL);
}

bool platform_process_ended(const struct platform_process *process, int *status)
{
    int code;
    pid_t ended = waitpid((pid_t)process->id_, &code, WNOHANG);
    if (ended == 0 || (ended < 0 && errno == EINTR)) {
        return false;
    }
    *status = ended < 0 ? 1 : WIFEXITED(code) ? WEXITSTATUS(code) : -WTERMSIG(code);
    return true;
}

/* Those that end a process; C has no function for their names. */
static const char *signal_name(int number)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {{SIGHUP, "SIGHUP"},   {SIGINT, "SIGINT"},   {SIGQUIT, "SIGQUIT"},
                 {SIGILL, "SIGILL"},   {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"},
                 {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},   {SIGKILL, "SIGKILL"},
                 {SIGUSR1, "SIGUSR1"}, {SIGSEGV, "SIGSEGV"}, {SIGUSR2, "SIGUSR2"},
                 {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"}, {SIGTERM, "SIGTERM"},
                 {SIGXCPU, "SIGXCPU"}, {SIGXFSZ, "SIGXFSZ"}, {SIGSYS, "SIGSYS"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].number == number) {
            return names[i].name;
        }
    }
    return NULL;
}

char *platform_status_text(char text[PLATFORM_STATUS_MAX], int status)
{
    const char *name = status < 0 ? signal_name(-status) : NULL;
    if (name != NULL) {
        snprintf(text, PLATFORM_STATUS_MAX, "was ended by %s", name);
    } else {
        snprintf(text, PLATFORM_STATUS_MAX, "%s %d",
                 status < 0 ? "was ended by signal" : "ended with exit code",
                 status < 0 ? -status : status);
    }
    return text;
}

bool platform_process_is_orphan(void)
{
    return parent != 0 && getppid() != parent;
}

static void (*_Atomic interrupt_fn)(void);

static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    void (*interrupt)(void) = atomic_load(&interrupt_fn);
    if (interrupt != NULL) {
        interrupt();
    }
    errno = saved;
}

/* Whoever started this process may have had it ignore the signal, for good reason. */
static bool is_ignored(int number)
{
    struct sigaction before;
    return sigaction(number, NULL, &before) == 0 && (before.sa_flags & SA_SIGINFO) == 0 &&
           before.sa_handler == SIG_IGN;
}

int platform_on_interrupt(void (*interrupt)(void))
{
    static const int numbers[] = {SIGINT, SIGHUP, SIGTERM};
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    atomic_store(&interrupt_fn, interrupt);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (numbers[i] != SIGTERM && is_ignored(numbers[i])) {
            continue;
        }
        if (sigaction(numbers[i], &action, NULL) != 0) {
            return errno;
        }
    }
    return 0;
}

void platform_file_identify(const char *path, struct platform_file *file)
{
    struct stat about;
    memset(file, 0, sizeof(*file));
    if (lstat(path, &about) == 0) {
        *file = (struct platform_file){(uint64_t)about.st_dev, (uint64_t)about.st_ino, true};
    }
}

void platform_file_remove(const char *path, const struct platform_file *file)
{
    struct platform_file now;
    platform_file_identify(path, &now);
    if (file->known && now.known && now.device == file->device && now.number == file->number) {
        unlink(path);
    }
}

int platform_share_port(intptr_t socket)
{
#if defined(__linux__)
    const int on = 1;
    return setsockopt((int)socket, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0 ? 0 : errno;
#else
    (void)socket;
    return ENOTSUP;
#endif
}

uint64_t platform_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return UINT64_MAX;
    }
    rlim_t soft = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (soft < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        /* macOS refuses more than OPEN_MAX though the hard limit says unlimited. */
        limit.rlim_cur = soft;
    }
    return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit.rlim_cur;
}

const char *platform_descriptor_remedy(void)
{
    return "raise it with `ulimit -n` (the hard limit: limits.conf, or the service's LimitNOFILE)";
}
