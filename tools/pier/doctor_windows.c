/* SPDX-License-Identifier: MIT */
/* doctor_windows.c - reads what Windows says about itself, for `pier doctor`.
 *
 * Windows keeps no numbered settings that decide how many connections fit: there are bounds fixed
 * in the kernel, memory, and the limits of the job object that a process was started in, which is
 * also how containers are bounded. They go by words here. */

#include "doctor.h"

#include <stdio.h>
#include <string.h>

#include <winsock2.h>
#include <windows.h>

/* ---- settings ---- */

/* Of a job object, UINT64_MAX when it bounds nothing. Without a job to name, Windows answers for
 * the one that this process is in, and fails when there is none. */
static uint64_t read_job_memory(void)
{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION job;
    uint64_t least = UINT64_MAX;
    if (!QueryInformationJobObject(NULL, JobObjectExtendedLimitInformation, &job, sizeof(job),
                                   NULL)) {
        return least;
    }
    if (job.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_JOB_MEMORY) {
        least = job.JobMemoryLimit;
    }
    if ((job.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_MEMORY) &&
        job.ProcessMemoryLimit < least) {
        least = job.ProcessMemoryLimit;
    }
    return least;
}

static bool read_status(MEMORYSTATUSEX *status)
{
    status->dwLength = sizeof(*status);
    return GlobalMemoryStatusEx(status) != 0;
}

size_t doctor_read_setting(const char *name, uint64_t values[3])
{
    MEMORYSTATUSEX status;
    if (strcmp(name, "limit of handles") == 0) {
        values[0] = 1 << 24; /* as documented by Microsoft ("Kernel Objects") */
        return 1;
    }
    if (strcmp(name, "default of local ports") == 0) {
        values[0] = 49152; /* since Windows Vista; what was set instead only netsh tells */
        values[1] = 65535;
        return 2;
    }
    if (strcmp(name, "limit of committed memory") == 0 && read_status(&status)) {
        values[0] = status.ullTotalPageFile;
        return 1;
    }
    if (strcmp(name, "committed memory") == 0 && read_status(&status)) {
        values[0] = status.ullTotalPageFile - status.ullAvailPageFile;
        return 1;
    }
    if (strcmp(name, "memory of the job") == 0) {
        values[0] = read_job_memory();
        return values[0] < UINT64_MAX ? 1 : 0;
    }
    return 0;
}

bool doctor_read_resource(enum doctor_resource resource, uint64_t *soft, uint64_t *hard)
{
    (void)resource;
    (void)soft;
    (void)hard;
    return false;
}

/* ---- memory ---- */

uint64_t doctor_page_size(void)
{
    SYSTEM_INFO information;
    GetSystemInfo(&information);
    return information.dwPageSize;
}

bool doctor_settings_readable(void)
{
    return true;
}

bool doctor_read_memory(uint64_t *bytes)
{
    MEMORYSTATUSEX status;
    if (!read_status(&status)) {
        return false;
    }
    *bytes = status.ullTotalPhys;
    return true;
}

enum doctor_reading doctor_read_group(enum doctor_group_value value, uint64_t *number)
{
    (void)value;
    (void)number;
    return DOCTOR_NONE;
}

bool doctor_is_in_group(uint64_t group)
{
    (void)group;
    return false;
}

uint64_t doctor_connection_memory(void)
{
    return 0;
}

/* Asked as pier itself does. */
const char *doctor_unix_form(void)
{
    WSADATA data;
    if (WSAStartup(MAKEWORD(2, 2), &data) != 0) {
        return "addresses that begin with unix:";
    }
    SOCKET made = socket(AF_UNIX, SOCK_STREAM, 0);
    if (made != INVALID_SOCKET) {
        closesocket(made);
    }
    WSACleanup();
    return made != INVALID_SOCKET
               ? "addresses that begin with unix:, AF_UNIX here, and named pipes with unix:@"
               : "addresses that begin with unix:, named pipes here, which has no AF_UNIX";
}

/* ---- the machine ---- */

static FARPROC find_native(const char *name)
{
    HMODULE library = GetModuleHandleW(L"ntdll.dll");
    return library != NULL ? GetProcAddress(library, name) : NULL;
}

/* The version that Windows tells without a manifest is an old one; this call says the real one. */
static void read_version(OSVERSIONINFOW *version)
{
    typedef LONG WINAPI version_fn(OSVERSIONINFOW *);
    version_fn *read = (version_fn *)(void *)find_native("RtlGetVersion");
    memset(version, 0, sizeof(*version));
    version->dwOSVersionInfoSize = sizeof(*version);
    if (read != NULL) {
        read(version);
    }
}

/* The CPU's, also when this program is translated for it. */
static const char *name_machine(void)
{
    SYSTEM_INFO information;
    GetNativeSystemInfo(&information);
    switch (information.wProcessorArchitecture) {
    case PROCESSOR_ARCHITECTURE_AMD64: return "x86_64";
    case PROCESSOR_ARCHITECTURE_ARM64: return "aarch64";
    default: return "unknown processor";
    }
}

static void name_system(char *text, size_t size)
{
    typedef const char *CDECL wine_fn(void);
    wine_fn *wine = (wine_fn *)(void *)find_native("wine_get_version");
    OSVERSIONINFOW version;
    read_version(&version);
    int used = snprintf(text, size, "Windows %lu.%lu.%lu %s", version.dwMajorVersion,
                        version.dwMinorVersion, version.dwBuildNumber, name_machine());
    if (wine != NULL && used > 0 && (size_t)used < size) {
        snprintf(text + used, size - (size_t)used, " (Wine %.24s)", wine());
    }
}

/* Those that this process may run on. Of more than 64, which are in several groups, the mask tells
 * of one group only. */
static unsigned count_processors(void)
{
    DWORD_PTR mask = 0, all = 0;
    unsigned count = 0;
    if (GetActiveProcessorGroupCount() > 1 ||
        !GetProcessAffinityMask(GetCurrentProcess(), &mask, &all)) {
        return GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    }
    for (; mask != 0; mask &= mask - 1) {
        count++;
    }
    return count > 0 ? count : 1;
}

static void name_processor(char *text, size_t size)
{
    DWORD length = (DWORD)size;
    if (RegGetValueA(HKEY_LOCAL_MACHINE, "HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                     "ProcessorNameString", RRF_RT_REG_SZ, NULL, text, &length) != ERROR_SUCCESS) {
        text[0] = '\0';
    }
}

void doctor_system_describe(struct doctor_system *system)
{
    memset(system, 0, sizeof(*system));
    system->seccomp = -1;
    name_system(system->name, sizeof(system->name));
    system->processors = count_processors();
    name_processor(system->processor, sizeof(system->processor));
}
