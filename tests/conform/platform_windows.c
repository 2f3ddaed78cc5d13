/* platform_windows.c - processes, threads, time and files of platform.h on Windows.
 *
 * There is no fork: a test's own process is this program started again with the same arguments and,
 * in the environment, the number of the test. The new process goes through the same list and passes
 * over the tests before that one in silence; the outcome comes back through a file mapping that it
 * inherits. An action that is expected to abort is run the same way, found by its distance from the
 * start of the program in memory. */

#include "harness.h"

#include <winsock2.h>
#include <windows.h>

#include "../windows_process.h"

#include <io.h>
#include <process.h>
#include <signal.h>
#include <stdlib.h>

#define TEST_VARIABLE \
    "PIER_CONFORM_TEST" /* number of the test, and the mapping for its outcome \
                                           */
#define ACTION_VARIABLE "PIER_CONFORM_ACTION" /* distance of the action to run instead, variant */

unsigned platform_variant;
static struct outcome *outcome_shared;
static unsigned tests_seen;
static const char *(*watchdog_explain)(void);

_Noreturn static void system_failed(const char *what)
{
    FAIL("%s: error %lu", what, (unsigned long)GetLastError());
}

/* ---- processes ------------------------------------------------------------------------------- */

bool platform_can_isolate(void)
{
    return true;
}

static char *program_start(void)
{
    return (char *)GetModuleHandleA(NULL);
}

_Noreturn static void run_action(const char *text)
{
    void (*action)(void);
    char *end, *address = program_start() + strtoull(text, &end, 10);
    platform_variant = (unsigned)strtoul(end, NULL, 10);
    memcpy(&action, &address, sizeof(action));
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    action();
    TerminateProcess(GetCurrentProcess(), 0);
    abort();
}

/* In the process of one test: whether this is that test. */
static bool is_chosen(const char *chosen)
{
    char *end;
    const unsigned number = (unsigned)strtoul(chosen, &end, 10);
    if (number != tests_seen) {
        return false;
    }
    HANDLE mapping = (HANDLE)(uintptr_t)strtoull(end, NULL, 10);
    outcome_shared = MapViewOfFile(mapping, FILE_MAP_WRITE, 0, 0, sizeof(*outcome_shared));
    if (outcome_shared == NULL) {
        ExitProcess(98);
    }
    return true;
}

/* Starts this program again, waits for it, and returns its exit code. `errors` gets what it writes
 * to standard error. */
static DWORD run_again(const char *variable, const char *value, HANDLE errors, unsigned limit_s)
{
    SECURITY_ATTRIBUTES inherit = {.nLength = sizeof(inherit), .bInheritHandle = TRUE};
    HANDLE nowhere = CreateFileA("NUL", GENERIC_READ | GENERIC_WRITE,
                                 FILE_SHARE_READ | FILE_SHARE_WRITE, &inherit, OPEN_EXISTING, 0,
                                 NULL);
    STARTUPINFOA start = {.cb = sizeof(start), .dwFlags = STARTF_USESTDHANDLES};
    PROCESS_INFORMATION process;
    DWORD code = 97;
    start.hStdInput = start.hStdOutput = nowhere;
    start.hStdError = errors;
    platform_set_environment(variable, value);
    if (!start_this_program(&start, &process)) {
        system_failed("CreateProcess");
    }
    platform_set_environment(variable, NULL);
    CloseHandle(nowhere);
    if (WaitForSingleObject(process.hProcess, limit_s * 1000) != WAIT_OBJECT_0) {
        TerminateProcess(process.hProcess, 96);
        WaitForSingleObject(process.hProcess, INFINITE);
    }
    GetExitCodeProcess(process.hProcess, &code);
    CloseHandle(process.hProcess);
    CloseHandle(process.hThread);
    return code;
}

static void run_in_process(unsigned watchdog_s, struct outcome *outcome)
{
    SECURITY_ATTRIBUTES inherit = {.nLength = sizeof(inherit), .bInheritHandle = TRUE};
    HANDLE mapping = CreateFileMappingA(INVALID_HANDLE_VALUE, &inherit, PAGE_READWRITE, 0,
                                        sizeof(*outcome), NULL);
    struct outcome *shared = mapping != NULL
                                 ? MapViewOfFile(mapping, FILE_MAP_WRITE, 0, 0, sizeof(*outcome))
                                 : NULL;
    HANDLE errors = NULL;
    char value[64];
    if (shared == NULL ||
        !DuplicateHandle(GetCurrentProcess(), GetStdHandle(STD_ERROR_HANDLE), GetCurrentProcess(),
                         &errors, 0, TRUE, DUPLICATE_SAME_ACCESS)) {
        system_failed("CreateFileMapping");
    }
    shared->verdict = VERDICT_FAILED;
    snprintf(value, sizeof(value), "%u %llu", tests_seen, (unsigned long long)(uintptr_t)mapping);
    const DWORD code = run_again(TEST_VARIABLE, value, errors, watchdog_s + 30);
    *outcome = *shared;
    if (outcome->text[0] == '\0' && (code != 0 || outcome->verdict == VERDICT_FAILED)) {
        outcome->verdict = VERDICT_FAILED;
        snprintf(outcome->text, sizeof(outcome->text),
                 "ended with code 0x%lx without an outcome (watchdog: %u s)", (unsigned long)code,
                 watchdog_s);
    }
    UnmapViewOfFile(shared);
    CloseHandle(mapping);
    CloseHandle(errors);
}

static LONG WINAPI on_crash(EXCEPTION_POINTERS *crash)
{
    struct outcome outcome = {.verdict = VERDICT_FAILED};
    snprintf(outcome.text, sizeof(outcome.text), "exception 0x%lx at %p (the program starts at %p)",
             (unsigned long)crash->ExceptionRecord->ExceptionCode,
             crash->ExceptionRecord->ExceptionAddress, (void *)program_start());
    platform_conclude(&outcome);
}

void platform_isolate(void (*body)(void), unsigned watchdog_s, struct outcome *outcome)
{
    const char *action = getenv(ACTION_VARIABLE), *chosen = getenv(TEST_VARIABLE);
    if (action != NULL) {
        run_action(action);
    }
    tests_seen++;
    if (chosen == NULL) {
        run_in_process(watchdog_s, outcome);
    } else if (is_chosen(chosen)) {
        SetUnhandledExceptionFilter(on_crash);
        body();
        ExitProcess(99);
    } else {
        outcome->verdict = VERDICT_PASSED;
    }
}

_Noreturn void platform_conclude(const struct outcome *outcome)
{
    if (outcome_shared != NULL) {
        *outcome_shared = *outcome;
    } else {
        fprintf(stderr, "%s\n", outcome->text);
    }
    fflush(NULL);
    /* Not through the runtime's exit: another thread may be in the middle of something. */
    TerminateProcess(GetCurrentProcess(), outcome->verdict == VERDICT_FAILED);
    abort();
}

static HANDLE watchdog_change;
static volatile LONG watchdog_seconds;

static unsigned __stdcall watch(void *context)
{
    (void)context;
    for (;;) {
        const LONG seconds = watchdog_seconds;
        const DWORD limit = seconds > 0 ? (DWORD)seconds * 1000 : INFINITE;
        if (WaitForSingleObject(watchdog_change, limit) == WAIT_TIMEOUT) {
            struct outcome outcome = {.verdict = VERDICT_FAILED};
            strncpy(outcome.text, watchdog_explain(), sizeof(outcome.text) - 1);
            platform_conclude(&outcome);
        }
    }
    return 0;
}

void platform_watchdog(unsigned seconds, const char *(*explain)(void))
{
    watchdog_explain = explain != NULL ? explain : watchdog_explain;
    watchdog_seconds = (LONG)seconds;
    if (watchdog_change == NULL) {
        watchdog_change = CreateEventA(NULL, FALSE, FALSE, NULL);
        CloseHandle((HANDLE)_beginthreadex(NULL, 0, watch, NULL, 0, NULL));
    }
    SetEvent(watchdog_change);
}

bool platform_aborts(void (*action)(void), char *text, size_t size)
{
    SECURITY_ATTRIBUTES inherit = {.nLength = sizeof(inherit), .bInheritHandle = TRUE};
    HANDLE reader, writer;
    char value[48], *address;
    memcpy(&address, &action, sizeof(address));
    if (!CreatePipe(&reader, &writer, &inherit, 0)) {
        system_failed("CreatePipe");
    }
    snprintf(value, sizeof(value), "%llu %u", (unsigned long long)(address - program_start()),
             platform_variant);
    const DWORD code = run_again(ACTION_VARIABLE, value, writer, 60);
    CloseHandle(writer);
    size_t length = 0;
    DWORD got;
    while (ReadFile(reader, text + length, (DWORD)(size - 1 - length), &got, NULL) && got > 0) {
        length += got;
    }
    text[length] = '\0';
    CloseHandle(reader);
    return code == 3; /* of abort() */
}

/* ---- threads, time, environment, files ------------------------------------------------------- */

struct thread {
    HANDLE handle;
    void (*body)(void *);
    void *context;
};

static unsigned __stdcall run_thread(void *state)
{
    struct thread *thread = state;
    thread->body(thread->context);
    return 0;
}

void platform_thread_start(struct platform_thread *platform_thread, void (*body)(void *),
                           void *context)
{
    struct thread *thread = calloc(1, sizeof(*thread));
    CHECK(thread != NULL);
    thread->body = body;
    thread->context = context;
    platform_thread->state_ = thread;
    thread->handle = (HANDLE)_beginthreadex(NULL, 0, run_thread, thread, 0, NULL);
    CHECK(thread->handle != NULL);
}

void platform_thread_join(struct platform_thread *platform_thread)
{
    struct thread *thread = platform_thread->state_;
    CHECK_INT(WaitForSingleObject(thread->handle, INFINITE), ==, WAIT_OBJECT_0);
    CloseHandle(thread->handle);
    free(thread);
    platform_thread->state_ = NULL;
}

void platform_yield(void)
{
    if (!SwitchToThread()) {
        Sleep(0);
    }
}

uint64_t platform_now(void)
{
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    const uint64_t ticks = (uint64_t)count.QuadPart, rate = (uint64_t)frequency.QuadPart;
    return ticks / rate * PIER_SECOND + ticks % rate * PIER_SECOND / rate;
}

uint64_t platform_processor_time(void)
{
    FILETIME created, ended, kernel, user;
    CHECK(GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user));
    return 100 * (((uint64_t)kernel.dwHighDateTime << 32 | kernel.dwLowDateTime) +
                  ((uint64_t)user.dwHighDateTime << 32 | user.dwLowDateTime));
}

void platform_set_environment(const char *name, const char *value)
{
    char both[512];
    snprintf(both, sizeof(both), "%s=%s", name, value == NULL ? "" : value);
    CHECK_INT(_putenv(both), ==, 0);
}

int platform_descriptor_count(void)
{
    return open_files_and_sockets();
}

/* There is no limit of the process's own, only of memory. */
unsigned platform_descriptor_room(void)
{
    return 1 << 14;
}

void platform_temporary_path(char *text, size_t size)
{
    static unsigned serial;
    char directory[MAX_PATH] = "";
    GetTempPathA(sizeof(directory), directory);
    snprintf(text, size, "%spier-%lx-%u", directory, (unsigned long)GetCurrentProcessId(),
             ++serial);
}

void platform_remove(const char *path)
{
    DeleteFileA(path);
}

bool platform_path_exists(const char *path)
{
    return GetFileAttributesA(path) != INVALID_FILE_ATTRIBUTES;
}

pier_descriptor platform_descriptor_of(FILE *file)
{
    return (pier_descriptor)_get_osfhandle(_fileno(file));
}

/* Kinds: 0 opened as usual, 1 for overlapped requests. */
pier_descriptor platform_open(const char *path, enum platform_how how, int kind)
{
    const DWORD rights = how == PLATFORM_CREATE ? GENERIC_READ | GENERIC_WRITE : GENERIC_READ;
    const HANDLE handle = CreateFileA(
        path, rights, FILE_SHARE_READ, NULL, how == PLATFORM_CREATE ? CREATE_NEW : OPEN_EXISTING,
        kind == 1 ? FILE_FLAG_OVERLAPPED : FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        system_failed("CreateFile");
    }
    return (pier_descriptor)handle;
}

int platform_file_kinds(void)
{
    return 2;
}

void platform_seek(pier_descriptor descriptor, int64_t offset)
{
    const LARGE_INTEGER place = {.QuadPart = offset};
    CHECK(SetFilePointerEx((HANDLE)descriptor, place, NULL, FILE_BEGIN));
}

pier_descriptor platform_open_directory(void)
{
    const HANDLE handle = CreateFileA(".", FILE_LIST_DIRECTORY, FILE_SHARE_READ | FILE_SHARE_WRITE,
                                      NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        system_failed("CreateFile");
    }
    return (pier_descriptor)handle;
}

bool platform_wait_readable(pier_descriptor descriptor, uint64_t timeout_ns)
{
    WSAPOLLFD waited = {.fd = (SOCKET)descriptor, .events = POLLRDNORM};
    const uint64_t wanted_ms = timeout_ns / PIER_MILLISECOND + (timeout_ns % PIER_MILLISECOND != 0);
    return WSAPoll(&waited, 1, (INT)(wanted_ms < 3600000 ? wanted_ms : 3600000)) > 0;
}
