/* system_posix.c - processes, threads and descriptors for the fault-injection test on POSIX. */

#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef PIER_HAVE_KQUEUE_EMULATION
#include <sys/types.h>

#include <sys/event.h>
#endif

#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { DESCRIPTORS = 256 };

static void (*thread_body)(void);
static pthread_t thread;

int system_run(void (*body)(void *context), void *context, size_t size, unsigned limit_s, char *why,
               size_t why_size)
{
    int status = 0, code = -1;
    void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        snprintf(why, why_size, "no memory to share: %s", strerror(errno));
        return -1;
    }
    memcpy(shared, context, size);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        alarm(limit_s);
        body(shared);
        system_exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        snprintf(why, why_size, "fork: %s", strerror(errno));
    } else if (WIFSIGNALED(status)) {
        snprintf(why, why_size, "%s",
                 WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
    } else {
        code = WEXITSTATUS(status);
    }
    memcpy(context, shared, size);
    munmap(shared, size);
    return code;
}

void system_continue(void) {}

_Noreturn void system_exit(int code)
{
    fflush(stdout);
    _exit(code);
}

bool system_pair(pier_descriptor ends[2])
{
    int pair[2];
    if (pipe(pair) != 0) {
        return false;
    }
    ends[0] = pair[0];
    ends[1] = pair[1];
    return true;
}

bool system_send(pier_descriptor end)
{
    return write((int)end, "x", 1) == 1;
}

pier_descriptor system_sink(void)
{
    return open("/dev/null", O_WRONLY | O_CLOEXEC);
}

void system_close(pier_descriptor descriptor)
{
    close((int)descriptor);
}

int system_descriptors(void)
{
    int count = 0;
#ifdef PIER_HAVE_KQUEUE_EMULATION
    pier_kqueue_reclaim(); /* the library that stands in for kqueue doesn't notice a close */
#endif
    for (int i = 0; i < DESCRIPTORS; i++) {
        count += fcntl(i, F_GETFD) != -1;
    }
    return count;
}

static void *run_thread(void *unused)
{
    (void)unused;
    thread_body();
    return NULL;
}

bool system_thread_start(void (*body)(void))
{
    thread_body = body;
    return pthread_create(&thread, NULL, run_thread, NULL) == 0;
}

void system_thread_join(void)
{
    pthread_join(thread, NULL);
}

void system_doze(void)
{
    usleep(500);
}
