/* unit_system.c - the harness's view of the operating system: open descriptors, crashes, hangs.
 *
 * On POSIX systems the descriptors are listed by number, so that a leak can be named; the watchdog
 * is alarm() and reports from the signal handler with write() only. On Windows there is a count of
 * handles and no more; the watchdog is a thread.
 *
 * Crash handlers are installed only where the default one stands: the sanitizers' own say more. */

#include "unit_system.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

size_t unit_open_descriptors(void)
{
    static struct unit_descriptors list;
    unit_list_descriptors(&list);
    return list.count;
}

#ifndef _WIN32

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#ifdef __linux__
#include <dirent.h>
#endif

static const char *volatile guarded_test;
static pid_t harness_process;

static void write_text(const char *text)
{
    ssize_t ignored = write(STDOUT_FILENO, text, strlen(text));
    (void)ignored;
}

static void write_verdict(const char *why)
{
    if (getpid() != harness_process || guarded_test == NULL)
        return;
    write_text("not ok ");
    write_text(guarded_test);
    write_text(why);
}

static void on_crash(int number)
{
    switch (number) {
    case SIGSEGV: write_verdict(": stopped by SIGSEGV\n"); break;
    case SIGBUS: write_verdict(": stopped by SIGBUS\n"); break;
    case SIGFPE: write_verdict(": stopped by SIGFPE\n"); break;
    case SIGILL: write_verdict(": stopped by SIGILL\n"); break;
    default: write_verdict(": stopped by SIGABRT\n"); break;
    }
    /* SA_RESETHAND has put the default action back; on return the fault strikes again. */
}

static void on_alarm(int number)
{
    (void)number;
    write_verdict(": takes too long\n0 passed, 1 failed, 0 skipped\n");
    _exit(1);
}

void unit_system_start(void)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    harness_process = getpid();
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
        struct sigaction present;
        struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
        if (sigaction(crashes[i], NULL, &present) == 0 && present.sa_handler == SIG_DFL)
            sigaction(crashes[i], &action, NULL);
    }
}

void unit_guard_start(const char *test_name, unsigned seconds)
{
    struct sigaction action = {.sa_handler = on_alarm};
    guarded_test = test_name;
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
}

void unit_guard_stop(void)
{
    alarm(0);
    guarded_test = NULL;
}

static void note_descriptor(struct unit_descriptors *list, int descriptor)
{
    list->count++;
    if (descriptor < UNIT_DESCRIPTORS_MAX)
        list->open[descriptor / 8] |= (unsigned char)(1u << (descriptor % 8));
}

#ifdef __linux__

void unit_list_descriptors(struct unit_descriptors *list)
{
    memset(list, 0, sizeof *list);
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        perror("/proc/self/fd");
        abort();
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        int descriptor = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && descriptor != dirfd(directory))
            note_descriptor(list, descriptor);
    }
    closedir(directory);
}

#else

void unit_list_descriptors(struct unit_descriptors *list)
{
    memset(list, 0, sizeof *list);
    long limit = sysconf(_SC_OPEN_MAX);
    if (limit < 0 || limit > UNIT_DESCRIPTORS_MAX)
        limit = UNIT_DESCRIPTORS_MAX;
    for (int descriptor = 0; descriptor < (int)limit; descriptor++) {
        if (fcntl(descriptor, F_GETFD) != -1)
            note_descriptor(list, descriptor);
    }
}

#endif

bool unit_descriptors_grew(const struct unit_descriptors *before,
                           const struct unit_descriptors *after)
{
    for (size_t i = 0; i < sizeof after->open; i++) {
        if ((after->open[i] & ~before->open[i]) != 0)
            return true;
    }
    return false;
}

void unit_report_descriptors(const struct unit_descriptors *before,
                             const struct unit_descriptors *after)
{
    for (int i = 0; i < UNIT_DESCRIPTORS_MAX; i++) {
        if (((after->open[i / 8] & ~before->open[i / 8]) >> (i % 8) & 1) == 0)
            continue;
        char path[64], target[128] = "?";
        snprintf(path, sizeof path, "/proc/self/fd/%d", i);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length > 0)
            target[length] = '\0';
        printf("# descriptor %d is still open: %s\n", i, target);
    }
}

#else

#include <windows.h>

static HANDLE watchdog_event;
static const char *volatile guarded_test;
static volatile LONG guarded_seconds;

/* Sleeps until a test starts or ends; a wait that times out while a test runs is a hang. */
static DWORD WINAPI watch(LPVOID unused)
{
    (void)unused;
    for (;;) {
        LONG seconds = guarded_seconds;
        DWORD wait = seconds > 0 ? (DWORD)seconds * 1000u : INFINITE;
        if (WaitForSingleObject(watchdog_event, wait) == WAIT_TIMEOUT && guarded_test != NULL) {
            printf("not ok %s: takes too long\n0 passed, 1 failed, 0 skipped\n", guarded_test);
            fflush(stdout);
            TerminateProcess(GetCurrentProcess(), 1);
        }
    }
    return 0;
}

static LONG WINAPI on_exception(EXCEPTION_POINTERS *exception)
{
    printf("not ok %s: stopped by exception 0x%08lx\n", guarded_test != NULL ? guarded_test : "?",
           exception->ExceptionRecord->ExceptionCode);
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), 3);
    return EXCEPTION_EXECUTE_HANDLER;
}

void unit_system_start(void)
{
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    SetUnhandledExceptionFilter(on_exception);
    watchdog_event = CreateEventA(NULL, FALSE, FALSE, NULL);
    HANDLE thread = CreateThread(NULL, 0, watch, NULL, 0, NULL);
    if (watchdog_event == NULL || thread == NULL) {
        fprintf(stderr, "the harness can't start its watchdog\n");
        abort();
    }
    CloseHandle(thread);
}

void unit_guard_start(const char *test_name, unsigned seconds)
{
    guarded_test = test_name;
    InterlockedExchange(&guarded_seconds, (LONG)seconds);
    SetEvent(watchdog_event);
}

void unit_guard_stop(void)
{
    guarded_test = NULL;
    InterlockedExchange(&guarded_seconds, 0);
    SetEvent(watchdog_event);
}

void unit_list_descriptors(struct unit_descriptors *list)
{
    DWORD count = 0;
    GetProcessHandleCount(GetCurrentProcess(), &count);
    memset(list, 0, sizeof *list);
    list->count = count;
}

bool unit_descriptors_grew(const struct unit_descriptors *before,
                           const struct unit_descriptors *after)
{
    return after->count > before->count;
}

void unit_report_descriptors(const struct unit_descriptors *before,
                             const struct unit_descriptors *after)
{
    (void)before;
    (void)after;
}

#endif
