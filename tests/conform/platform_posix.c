/* platform_posix.c - processes, threads, time and files of platform.h on POSIX systems.
 *
 * A process made by platform_isolate() hands its outcome over in one write to a pipe, which is
 * atomic, so that a second thread or the watchdog's signal handler can do it as well. */

#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Counting ends after so many closed numbers in a row: the lowest free one is always used first. */
#define CLOSED_IN_A_ROW 512

static int outcome_pipe = -1;
static const char *(*watchdog_explain)(void);

_Noreturn static void system_failed(const char *what)
{
    FAIL("%s: %s", what, strerror(errno));
}

/* ---- processes ------------------------------------------------------------------------------- */

bool platform_can_isolate(void)
{
    return true;
}

static void read_outcome(int descriptor, int status, unsigned watchdog_s, struct outcome *outcome)
{
    const ssize_t size = read(descriptor, outcome, sizeof(*outcome));
    if (WIFSIGNALED(status)) {
        outcome->verdict = VERDICT_FAILED;
        snprintf(outcome->text, sizeof(outcome->text), "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    } else if (size != (ssize_t)sizeof(*outcome)) {
        outcome->verdict = VERDICT_FAILED;
        snprintf(outcome->text, sizeof(outcome->text),
                 "ended with status %d without an outcome (watchdog: %u s)", WEXITSTATUS(status),
                 watchdog_s);
    } else if (outcome->verdict != VERDICT_FAILED && WEXITSTATUS(status) != 0) {
        outcome->verdict = VERDICT_FAILED;
        snprintf(outcome->text, sizeof(outcome->text), "ended with status %d after its outcome",
                 WEXITSTATUS(status));
    }
}

void platform_isolate(void (*body)(void), unsigned watchdog_s, struct outcome *outcome)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0) {
        system_failed("pipe");
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0) {
        system_failed("fork");
    }
    if (child == 0) {
        close(ends[0]);
        outcome_pipe = ends[1];
        body();
        _exit(99);
    }
    close(ends[1]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    read_outcome(ends[0], status, watchdog_s, outcome);
    close(ends[0]);
}

_Noreturn void platform_conclude(const struct outcome *outcome)
{
    if (write(outcome_pipe, outcome, sizeof(*outcome)) < 0) {
        _exit(98);
    }
    if (outcome->verdict == VERDICT_FAILED) {
        fflush(NULL);
        _exit(1);
    }
#ifdef TEST_LEAK_CHECKED
    _exit(0); /* A leak check takes a second: there is one at the end, of all with --no-fork. */
#else
    exit(0); /* Coverage is written out, and races that were found make another exit code. */
#endif
}

static void on_watchdog(int number)
{
    (void)number;
    struct outcome outcome = {.verdict = VERDICT_FAILED};
    const char *reason = watchdog_explain();
    strncpy(outcome.text, reason, sizeof(outcome.text) - 1);
    if (outcome_pipe >= 0) {
        if (write(outcome_pipe, &outcome, sizeof(outcome)) < 0) {
            _exit(98);
        }
    } else if (write(2, "watchdog: ", 10) < 0 || write(2, reason, strlen(reason)) < 0 ||
               write(2, "\n", 1) < 0) {
        _exit(98);
    }
    _exit(1);
}

void platform_watchdog(unsigned seconds, const char *(*explain)(void))
{
    if (seconds > 0) {
        watchdog_explain = explain;
        signal(SIGALRM, on_watchdog);
    }
    alarm(seconds);
}

_Noreturn static void run_until_abort(void (*action)(void), int errors)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGALRM, SIG_DFL);
    alarm(60);
    dup2(errors, 2);
    outcome_pipe = -1;
    action();
    _exit(0);
}

/* qemu-user has a line of its own about a program that aborts, after all that the program wrote. */
static void cut_emulator_line(char *text)
{
    char *line = strstr(text, "qemu: uncaught target signal 6 ");
    if (line != NULL && (line == text || line[-1] == '\n')) {
        *line = '\0';
    }
}

unsigned platform_variant;

bool platform_aborts(void (*action)(void), char *text, size_t size)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0) {
        system_failed("pipe");
    }
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0) {
        system_failed("fork");
    }
    if (child == 0) {
        run_until_abort(action, ends[1]);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t got;
    while ((got = read(ends[0], text + length, size - 1 - length)) > 0) {
        length += (size_t)got;
    }
    text[length] = '\0';
    cut_emulator_line(text);
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/* ---- threads, time, environment, files ------------------------------------------------------- */

struct thread {
    pthread_t id;
    void (*body)(void *);
    void *context;
};

static void *run_thread(void *state)
{
    struct thread *thread = state;
    thread->body(thread->context);
    return NULL;
}

void platform_thread_start(struct platform_thread *platform_thread, void (*body)(void *),
                           void *context)
{
    struct thread *thread = calloc(1, sizeof(*thread));
    CHECK(thread != NULL);
    thread->body = body;
    thread->context = context;
    platform_thread->state_ = thread;
    CHECK_INT(pthread_create(&thread->id, NULL, run_thread, thread), ==, 0);
}

void platform_thread_join(struct platform_thread *platform_thread)
{
    struct thread *thread = platform_thread->state_;
    CHECK_INT(pthread_join(thread->id, NULL), ==, 0);
    free(thread);
    platform_thread->state_ = NULL;
}

void platform_yield(void)
{
    sched_yield();
}

uint64_t platform_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * PIER_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t platform_processor_time(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * PIER_SECOND + (uint64_t)used.tv_nsec;
}

void platform_set_environment(const char *name, const char *value)
{
    CHECK_INT(value == NULL ? unsetenv(name) : setenv(name, value, 1), ==, 0);
}

int platform_descriptor_count(void)
{
    int count = 0, closed = 0;
    for (int descriptor = 0; closed < CLOSED_IN_A_ROW; descriptor++) {
        const bool is_open = fcntl(descriptor, F_GETFD) >= 0;
        count += is_open;
        closed = is_open ? 0 : closed + 1;
    }
    return count;
}

unsigned platform_descriptor_room(void)
{
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    if (limit.rlim_cur < limit.rlim_max) {
        const struct rlimit raised = {limit.rlim_max, limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) { /* macOS refuses what it calls unlimited */
            limit = raised;
        }
    }
    const rlim_t used = (rlim_t)platform_descriptor_count(), most = 1 << 20;
    const rlim_t allowed = limit.rlim_cur < most ? limit.rlim_cur : most;
    return allowed > used ? (unsigned)(allowed - used) : 0;
}

void platform_temporary_path(char *text, size_t size)
{
    static unsigned serial;
    snprintf(text, size, "/tmp/pier-conform-%ld-%u", (long)getpid(), ++serial);
    /* A process of that number that was killed may have left it. */
    if (unlink(text) != 0 && errno != ENOENT) {
        rmdir(text);
    }
}

void platform_remove(const char *path)
{
    unlink(path);
}

bool platform_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

pier_descriptor platform_descriptor_of(FILE *file)
{
    return fileno(file);
}

pier_descriptor platform_open(const char *path, enum platform_how how, int kind)
{
    (void)kind;
    const int descriptor = how == PLATFORM_CREATE ? open(path, O_RDWR | O_CREAT | O_EXCL, 0600)
                                                  : open(path, O_RDONLY);
    CHECK_INT(descriptor, >=, 0);
    return descriptor;
}

int platform_file_kinds(void)
{
    return 1;
}

void platform_seek(pier_descriptor descriptor, int64_t offset)
{
    CHECK_INT(lseek((int)descriptor, (off_t)offset, SEEK_SET), ==, offset);
}

pier_descriptor platform_open_directory(void)
{
    const int descriptor = open("/", O_RDONLY);
    CHECK_INT(descriptor, >=, 0);
    return descriptor;
}

bool platform_wait_readable(pier_descriptor descriptor, uint64_t timeout_ns)
{
    struct pollfd waited = {.fd = (int)descriptor, .events = POLLIN};
    const uint64_t limit_ms = 3600000;
    const uint64_t wanted_ms = timeout_ns / PIER_MILLISECOND + (timeout_ns % PIER_MILLISECOND != 0);
    int ready;
    do {
        ready = poll(&waited, 1, (int)(wanted_ms < limit_ms ? wanted_ms : limit_ms));
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}
