/* windows_process.h - what test programs on Windows ask of their process. */
#ifndef PIER_TESTS_WINDOWS_PROCESS_H
#define PIER_TESTS_WINDOWS_PROCESS_H

#include <windows.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Windows counts handles of any kind, and some of them are the runtime's and come as they please:
 * so files, pipes and sockets are counted one by one. Numbers are given out from below: 256 in a
 * row of which none is one of these are the end. Under Wine each costs 90 us, and this is asked
 * twice in each test. */
static int open_files_and_sockets(void)
{
    int count = 0;
    uintptr_t last = 0;
    for (uintptr_t value = 4; value - last <= (uintptr_t)4 * 256; value += 4) {
        const DWORD type = GetFileType((HANDLE)value);
        if (type == FILE_TYPE_DISK || type == FILE_TYPE_PIPE) {
            count++;
            last = value;
        }
    }
    return count;
}

/* Starts this program once more, with the same arguments; what is inheritable is inherited. Wine 8
 * fails a start now and then with an internal error, on a busy machine. */
static bool start_this_program(STARTUPINFOA *start, PROCESS_INFORMATION *process)
{
    char path[MAX_PATH], command[4096];
    if (GetModuleFileNameA(NULL, path, sizeof(path)) == 0) {
        return false;
    }
    for (int attempt = 0; attempt < 5; attempt++) {
        snprintf(command, sizeof(command), "%s", GetCommandLineA());
        if (CreateProcessA(path, command, NULL, NULL, TRUE, 0, NULL, NULL, start, process)) {
            return true;
        }
        if (GetLastError() != ERROR_INTERNAL_ERROR) {
            return false;
        }
        Sleep(200);
    }
    return false;
}

#endif
