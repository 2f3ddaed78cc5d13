/* system_windows.c - processes, threads and descriptors for the fault-injection test on Windows.
 *
 * There is no fork: the process of its own is this program started again with the same command
 * line. It finds the body by its distance from the start of the program, and the context in memory
 * that it inherits; both are named in the environment. */

#include "system.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>

#include "../windows_process.h"

#include <process.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VARIABLE "PIER_FAULT_PROCESS" /* handle of the memory, its size, distance of the body */

static HANDLE thread;
static void (*thread_body)(void);

static char *program_start(void)
{
    return (char *)GetModuleHandleA(NULL);
}

/* Starts this program again and waits for it. */
static int run_again(unsigned limit_s, char *why, size_t why_size)
{
    STARTUPINFOA start = {.cb = sizeof(start)};
    PROCESS_INFORMATION process;
    DWORD code = 0;
    if (!start_this_program(&start, &process)) {
        snprintf(why, why_size, "CreateProcess: error %lu", GetLastError());
        return -1;
    }
    const bool hangs = WaitForSingleObject(process.hProcess, limit_s * 1000) != WAIT_OBJECT_0;
    if (hangs) {
        TerminateProcess(process.hProcess, 1);
        WaitForSingleObject(process.hProcess, INFINITE);
    }
    GetExitCodeProcess(process.hProcess, &code);
    CloseHandle(process.hProcess);
    CloseHandle(process.hThread);
    if (hangs || code > 2) { /* 3 is abort(), and exceptions are far above */
        snprintf(why, why_size, hangs ? "hangs" : "ended with code 0x%lx", code);
        return -1;
    }
    return (int)code;
}

int system_run(void (*body)(void *context), void *context, size_t size, unsigned limit_s, char *why,
               size_t why_size)
{
    SECURITY_ATTRIBUTES inherit = {.nLength = sizeof(inherit), .bInheritHandle = TRUE};
    HANDLE memory = CreateFileMappingA(INVALID_HANDLE_VALUE, &inherit, PAGE_READWRITE, 0,
                                       (DWORD)size, NULL);
    void *shared = memory != NULL ? MapViewOfFile(memory, FILE_MAP_WRITE, 0, 0, size) : NULL;
    char value[100], *address;
    if (shared == NULL) {
        snprintf(why, why_size, "no memory to share: error %lu", GetLastError());
        return -1;
    }
    memcpy(shared, context, size);
    memcpy(&address, &body, sizeof(address));
    snprintf(value, sizeof(value), VARIABLE "=%llu %llu %llu",
             (unsigned long long)(uintptr_t)memory, (unsigned long long)size,
             (unsigned long long)(address - program_start()));
    fflush(stdout);
    _putenv(value);
    int code = run_again(limit_s, why, why_size);
    _putenv(VARIABLE "=");
    memcpy(context, shared, size);
    UnmapViewOfFile(shared);
    CloseHandle(memory);
    return code;
}

void system_continue(void)
{
    const char *value = getenv(VARIABLE);
    char *next;
    void (*body)(void *context);
    if (value == NULL) {
        return;
    }
    HANDLE memory = (HANDLE)(uintptr_t)strtoull(value, &next, 10);
    size_t size = (size_t)strtoull(next, &next, 10);
    char *address = program_start() + strtoull(next, &next, 10);
    void *shared = MapViewOfFile(memory, FILE_MAP_WRITE, 0, 0, size);
    if (shared == NULL) {
        system_exit(2);
    }
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    memcpy(&body, &address, sizeof(body));
    body(shared);
    system_exit(0);
}

_Noreturn void system_exit(int code)
{
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), (UINT)code);
    abort();
}

bool system_pair(pier_descriptor ends[2])
{
    WSADATA data;
    struct sockaddr_in name = {.sin_family = AF_INET};
    int size = sizeof(name);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (WSAStartup(MAKEWORD(2, 2), &data) != 0) {
        return false;
    }
    SOCKET listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    bool made = bind(listener, (struct sockaddr *)&name, size) == 0 && listen(listener, 1) == 0 &&
                getsockname(listener, (struct sockaddr *)&name, &size) == 0 &&
                connect(client, (struct sockaddr *)&name, size) == 0;
    SOCKET server = made ? accept(listener, NULL, NULL) : INVALID_SOCKET;
    closesocket(listener);
    ends[0] = (pier_descriptor)server;
    ends[1] = (pier_descriptor)client;
    return server != INVALID_SOCKET;
}

bool system_send(pier_descriptor end)
{
    return send((SOCKET)end, "x", 1, 0) == 1;
}

/* Pier takes no device: a file that goes with its handle. */
pier_descriptor system_sink(void)
{
    char directory[MAX_PATH] = "", path[MAX_PATH + 64];
    GetTempPathA(sizeof(directory), directory);
    snprintf(path, sizeof(path), "%spier-fault-%lx", directory,
             (unsigned long)GetCurrentProcessId());
    return (pier_descriptor)CreateFileA(path, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                                        FILE_FLAG_OVERLAPPED | FILE_FLAG_DELETE_ON_CLOSE, NULL);
}

void system_close(pier_descriptor descriptor)
{
    CloseHandle((HANDLE)descriptor);
}

int system_descriptors(void)
{
    return open_files_and_sockets();
}

static unsigned __stdcall run_thread(void *unused)
{
    (void)unused;
    thread_body();
    return 0;
}

bool system_thread_start(void (*body)(void))
{
    thread_body = body;
    thread = (HANDLE)_beginthreadex(NULL, 0, run_thread, NULL, 0, NULL);
    return thread != NULL;
}

void system_thread_join(void)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

void system_doze(void)
{
    Sleep(1);
}
