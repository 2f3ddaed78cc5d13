/* SPDX-License-Identifier: MIT */
/* platform_windows.c - Windows: what the `pier` command asks of the operating system besides the
 * library; see platform.h.
 *
 * Windows can't copy a running process, so `--processes` is refused; nothing is shared with
 * processes, and none ever ends. The interrupt function runs on a thread of the system's own. */

#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <process.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* psapi.h needs what windows.h declares. */
#include <windows.h>

#include <psapi.h>

void platform_start(void)
{
    _setmode(_fileno(stdout),
             _O_BINARY); /* lines end as on other systems, for programs that read them */
}

bool platform_flush_output(void)
{
    return fflush(stdout) == 0 && !ferror(stdout);
}

bool platform_is_terminal(FILE *file)
{
    return _isatty(_fileno(file)) != 0;
}

unsigned platform_terminal_width(FILE *file)
{
    CONSOLE_SCREEN_BUFFER_INFO about;
    HANDLE console = (HANDLE)_get_osfhandle(_fileno(file));
    return GetConsoleScreenBufferInfo(console, &about)
               ? (unsigned)(about.srWindow.Right - about.srWindow.Left + 1)
               : 0;
}

const char *platform_error_text(int error)
{
    return strerror(error);
}

uint64_t platform_now_ns(void)
{
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    uint64_t ticks = (uint64_t)count.QuadPart, rate = (uint64_t)frequency.QuadPart;
    return ticks / rate * 1000000000 + ticks % rate * 1000000000 / rate;
}

void platform_sleep_ns(uint64_t time_ns)
{
    Sleep((DWORD)((time_ns + 999999) / 1000000));
}

static uint64_t time_of(const FILETIME *time)
{
    return (((uint64_t)time->dwHighDateTime << 32) | time->dwLowDateTime) * 100;
}

void platform_usage(struct platform_usage *usage, bool children)
{
    FILETIME created, ended, kernel, user;
    PROCESS_MEMORY_COUNTERS memory;
    (void)children;
    memset(usage, 0, sizeof(*usage));
    if (GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user)) {
        usage->user_ns = time_of(&user);
        usage->system_ns = time_of(&kernel);
    }
    if (K32GetProcessMemoryInfo(GetCurrentProcess(), &memory, sizeof(memory))) {
        usage->resident_max = memory.PeakWorkingSetSize;
    }
}

static unsigned __stdcall run_thread(void *argument)
{
    struct platform_thread *thread = argument;
    thread->run(thread->argument);
    return 0;
}

int platform_thread_start(struct platform_thread *thread, platform_run_fn *run, void *argument)
{
    thread->run = run;
    thread->argument = argument;
    thread->handle_ = (HANDLE)_beginthreadex(NULL, 0, run_thread, thread, 0, NULL);
    return thread->handle_ != NULL ? 0 : errno;
}

void platform_thread_join(struct platform_thread *thread)
{
    if (thread->handle_ != NULL) {
        WaitForSingleObject(thread->handle_, INFINITE);
        CloseHandle(thread->handle_);
        thread->handle_ = NULL;
    }
}

int platform_mutex_init(struct platform_mutex *mutex)
{
    SRWLOCK *made = malloc(sizeof(*made));
    if (made == NULL) {
        return ENOMEM;
    }
    InitializeSRWLock(made);
    mutex->mutex_ = made;
    return 0;
}

void platform_mutex_lock(struct platform_mutex *mutex)
{
    AcquireSRWLockExclusive(mutex->mutex_);
}

void platform_mutex_unlock(struct platform_mutex *mutex)
{
    ReleaseSRWLockExclusive(mutex->mutex_);
}

void platform_mutex_free(struct platform_mutex *mutex)
{
    free(mutex->mutex_);
    mutex->mutex_ = NULL;
}

void *platform_shared_memory(uint64_t size)
{
    size_t bytes = (size_t)size;
    return bytes == size ? VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE)
                         : NULL;
}

int platform_process_start(struct platform_process *process, platform_main_fn *run, void *argument)
{
    (void)process;
    (void)run;
    (void)argument;
    return ENOTSUP;
}

void platform_process_interrupt(const struct platform_process *process)
{
    (void)process;
}

void platform_process_kill(const struct platform_process *process)
{
    (void)process;
}

bool platform_process_ended(const struct platform_process *process, int *status)
{
    (void)process;
    *status = 1;
    return true;
}

char *platform_status_text(char text[PLATFORM_STATUS_MAX], int status)
{
    snprintf(text, PLATFORM_STATUS_MAX, "ended with exit code %d", status);
    return text;
}

bool platform_process_is_orphan(void)
{
    return false;
}

static void (*_Atomic interrupt_fn)(void);

static BOOL WINAPI on_control(DWORD event)
{
    void (*interrupt)(void) = atomic_load(&interrupt_fn);
    if (interrupt != NULL) {
        interrupt();
    }
    if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT) {
        Sleep(INFINITE); /* the window is being closed: the process ends when this returns */
    }
    return TRUE;
}

int platform_on_interrupt(void (*interrupt)(void))
{
    atomic_store(&interrupt_fn, interrupt);
    return SetConsoleCtrlHandler(on_control, TRUE) ? 0 : EINVAL;
}

enum { WIDE_MAX = 1024 };

/* The file of a socket is a reparse point, which is opened as such: as a file it can't be. */
void platform_file_identify(const char *path, struct platform_file *file)
{
    BY_HANDLE_FILE_INFORMATION about;
    wchar_t wide[WIDE_MAX];
    memset(file, 0, sizeof(*file));
    if (MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, WIDE_MAX) <= 0) {
        return;
    }
    HANDLE handle = CreateFileW(wide, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                                NULL, OPEN_EXISTING,
                                FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        return;
    }
    if (GetFileInformationByHandle(handle, &about)) {
        *file = (struct platform_file){about.dwVolumeSerialNumber,
                                       ((uint64_t)about.nFileIndexHigh << 32) | about.nFileIndexLow,
                                       true};
    }
    CloseHandle(handle);
}

void platform_file_remove(const char *path, const struct platform_file *file)
{
    struct platform_file now;
    wchar_t wide[WIDE_MAX];
    platform_file_identify(path, &now);
    if (file->known && now.known && now.device == file->device && now.number == file->number &&
        MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, WIDE_MAX) > 0) {
        DeleteFileW(wide);
    }
}

int platform_share_port(intptr_t socket)
{
    (void)socket;
    return ENOTSUP;
}

uint64_t platform_raise_descriptor_limit(void)
{
    return UINT64_MAX; /* handles are limited by memory only */
}

const char *platform_descriptor_remedy(void)
{
    return "close other programs: Windows has no limit to raise";
}
