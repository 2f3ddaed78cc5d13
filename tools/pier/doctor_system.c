/* SPDX-License-Identifier: MIT */
/* doctor_system.c - reads what a POSIX system says about itself, for `pier doctor`.
 *
 * Linux has its settings as files below /proc/sys, whose names are the setting's with slashes for
 * dots; macOS, FreeBSD, NetBSD and DragonFly have sysctlbyname(). On a system with neither only the
 * limits of POSIX are known, and the rows of other settings are left out by the caller. */

#include "doctor.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#include <sys/sysinfo.h>
#elif !defined(__OpenBSD__)
#include <sys/types.h>
#include <sys/sysctl.h>
#define HAVE_SYSCTL_BY_NAME 1
#endif

/* ---- settings ---- */

#if defined(__linux__)

static bool read_file(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    size_t length = fread(text, 1, size - 1, file);
    fclose(file);
    text[length] = '\0';
    return length > 0;
}

/* Numbers separated by blanks; "max" is one without bound. */
static size_t parse_numbers(const char *text, uint64_t values[3])
{
    size_t count = 0;
    while (count < 3) {
        text += strspn(text, " \t\n");
        if (strncmp(text, "max", 3) == 0) {
            values[count++] = UINT64_MAX;
            text += 3;
            continue;
        }
        char *end;
        unsigned long long value = strtoull(text, &end, 10);
        if (end == text) {
            break;
        }
        values[count++] = value;
        text = end;
    }
    return count;
}

/* What stands behind "name" and a colon in a file such as /proc/cpuinfo. */
static bool read_entry(const char *path, const char *name, char *text, size_t size)
{
    char line[512];
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        char *colon = strchr(line, ':');
        if (colon != NULL && strncmp(line, name, strlen(name)) == 0) {
            colon += 1 + strspn(colon + 1, " \t");
            colon[strcspn(colon, "\n")] = '\0';
            snprintf(text, size, "%s", colon);
            found = true;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* What has no file of its own. Returns like doctor_read_setting(), or SIZE_MAX for other names. */
static size_t read_words(const char *name, uint64_t values[3])
{
    char text[64];
    uint64_t mode[3];
    struct sysinfo about;
    if (strcmp(name, "swap space") == 0) {
        if (sysinfo(&about) != 0) {
            return 0;
        }
        values[0] = (uint64_t)about.totalswap * about.mem_unit;
        return 1;
    }
    /* Only then it is one: else more is promised. */
    bool limit = strcmp(name, "limit of committed memory") == 0;
    if (limit && (doctor_read_setting("vm.overcommit_memory", mode) == 0 || mode[0] != 2)) {
        return 0;
    }
    if (limit || strcmp(name, "committed memory") == 0) {
        if (!read_entry("/proc/meminfo", limit ? "CommitLimit:" : "Committed_AS:", text,
                        sizeof(text))) {
            return 0;
        }
        values[0] = strtoull(text, NULL, 10) * 1024;
        return 1;
    }
    return SIZE_MAX;
}

bool doctor_settings_readable(void)
{
    return access("/proc/sys/kernel/ostype", R_OK) == 0;
}

size_t doctor_read_setting(const char *name, uint64_t values[3])
{
    char path[DOCTOR_TEXT_MAX], text[256];
    size_t words = read_words(name, values);
    if (words != SIZE_MAX) {
        return words;
    }
    size_t used = (size_t)snprintf(path, sizeof(path), "/proc/sys/%s", name);
    for (char *at = path; *at != '\0' && used < sizeof(path); at++) {
        *at = *at == '.' ? '/' : *at;
    }
    return read_file(path, text, sizeof(text)) ? parse_numbers(text, values) : 0;
}

#elif defined(HAVE_SYSCTL_BY_NAME)

bool doctor_settings_readable(void)
{
    return true;
}

size_t doctor_read_setting(const char *name, uint64_t values[3])
{
    union {
        int32_t number;
        int64_t wide;
    } value;
    size_t size = sizeof(value);
    if (sysctlbyname(name, &value, &size, NULL, 0) != 0) {
        return 0;
    }
    int64_t number = size == sizeof(value.number) ? value.number : value.wide;
    values[0] = number < 0 ? UINT64_MAX : (uint64_t)number;
    return 1;
}

#else

bool doctor_settings_readable(void)
{
    return true;
}

size_t doctor_read_setting(const char *name, uint64_t values[3])
{
    (void)name;
    (void)values;
    return 0;
}

#endif

/* ---- limits of the process ---- */

static uint64_t number_of(rlim_t limit)
{
    return limit == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit;
}

bool doctor_read_resource(enum doctor_resource resource, uint64_t *soft, uint64_t *hard)
{
    struct rlimit limit;
    int status = -1;
    switch (resource) {
    case DOCTOR_OPEN_FILES: status = getrlimit(RLIMIT_NOFILE, &limit); break;
#ifdef RLIMIT_MEMLOCK
    case DOCTOR_LOCKED_MEMORY: status = getrlimit(RLIMIT_MEMLOCK, &limit); break;
#endif
#ifdef RLIMIT_NPROC
    case DOCTOR_PROCESSES: status = getrlimit(RLIMIT_NPROC, &limit); break;
#endif
    default: break;
    }
    if (status != 0) {
        return false;
    }
    *soft = number_of(limit.rlim_cur);
    *hard = number_of(limit.rlim_max);
    return true;
}

/* ---- memory ---- */

uint64_t doctor_page_size(void)
{
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (uint64_t)size : 4096;
}

static uint64_t machine_memory(void)
{
#if defined(_SC_PHYS_PAGES)
    long pages = sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? (uint64_t)pages * doctor_page_size() : 0;
#else
    return 0;
#endif
}

bool doctor_read_memory(uint64_t *bytes)
{
    *bytes = machine_memory();
    return *bytes > 0;
}

bool doctor_is_in_group(uint64_t group)
{
    enum { GROUPS_MAX = 1024 };
    gid_t groups[GROUPS_MAX];
    int count = getgroups(GROUPS_MAX, groups);
    for (int i = 0; i < count; i++) {
        if (groups[i] == group) {
            return true;
        }
    }
    return getegid() == group;
}

#if defined(__linux__)

/* The files of control groups, of version 2 and of version 1, where the controller has a directory
 * of its own. Version 1 counts swap together with memory. */
static const struct {
    const char *second, *controller, *first;
    bool upwards; /* the groups above count too */
} group_files[] = {
    [DOCTOR_GROUP_MEMORY] = {"memory.max", "memory", "memory.limit_in_bytes", true},
    [DOCTOR_GROUP_SWAP] = {"memory.swap.max", "memory", "memory.memsw.limit_in_bytes", true},
    [DOCTOR_GROUP_PROCESSES] = {"pids.max", "pids", "pids.max", true},
    [DOCTOR_GROUP_PROCESSES_USED] = {"pids.current", "pids", "pids.current", false},
};

/* The least number of such a file on the way from a control group up to the root, or the first when
 * `upwards` is false. `path` is changed. */
static uint64_t least_limit(const char *mount, char *path, const char *file, bool upwards)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        char name[1024], text[64];
        uint64_t values[3];
        int length = snprintf(name, sizeof(name), "%s%s/%s", mount, path, file);
        if (length > 0 && (size_t)length < sizeof(name) && read_file(name, text, sizeof(text)) &&
            parse_numbers(text, values) == 1 && values[0] < least) {
            least = values[0];
        }
        char *slash = strrchr(path, '/');
        if (slash == NULL || (!upwards && least < UINT64_MAX)) {
            return least;
        }
        *slash = '\0';
    }
}

static bool has_controller(const char *list, const char *name)
{
    for (size_t length; *list != '\0'; list += length + (list[length] == ',' ? 1 : 0)) {
        length = strcspn(list, ",");
        if (strlen(name) == length && memcmp(list, name, length) == 0) {
            return true;
        }
    }
    return false;
}

/* The lines of /proc/self/cgroup are NUMBER:CONTROLLERS:PATH; version 2 is the one without
 * controllers. Inside a container the path may be that of the host, and the group is the root of
 * what is mounted: the way up ends there too. UINT64_MAX: no limit. *is_first: the number is one of
 * version 1. */
static enum doctor_reading read_group_file(enum doctor_group_value value, uint64_t *number,
                                           bool *is_first)
{
    char text[4096], path[1024], mount[64];
    *number = UINT64_MAX;
    *is_first = false;
    if (!read_file("/proc/self/cgroup", text, sizeof(text))) {
        /* A kernel without control groups has a /proc without this file. */
        return access("/proc/self/status", F_OK) == 0 ? DOCTOR_NONE : DOCTOR_UNKNOWN;
    }
    bool seen = false;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char *controllers = strchr(line, ':');
        char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL) {
            continue;
        }
        *group++ = '\0';
        controllers++;
        bool second = controllers[0] == '\0';
        if (!second && !has_controller(controllers, group_files[value].controller)) {
            continue;
        }
        snprintf(path, sizeof(path), "%s", strcmp(group, "/") == 0 ? "" : group);
        snprintf(mount, sizeof(mount), "/sys/fs/cgroup%s%s", second ? "" : "/",
                 second ? "" : group_files[value].controller);
        seen = seen || access(mount, R_OK) == 0;
        uint64_t limit = least_limit(mount, path,
                                     second ? group_files[value].second : group_files[value].first,
                                     group_files[value].upwards);
        if (limit < *number) {
            *number = limit;
            *is_first = !second;
        }
    }
    return seen ? DOCTOR_FOUND : DOCTOR_UNKNOWN;
}

enum doctor_reading doctor_read_group(enum doctor_group_value value, uint64_t *number)
{
    uint64_t memory = 0, most = UINT64_MAX / 4; /* version 1 says "no limit" as about 2^63 */
    bool is_first, other;
    enum doctor_reading reading = read_group_file(value, number, &is_first);
    if (reading != DOCTOR_FOUND || *number >= most) {
        return reading == DOCTOR_FOUND ? DOCTOR_NONE : reading;
    }
    if (value == DOCTOR_GROUP_MEMORY && machine_memory() != 0 && *number >= machine_memory()) {
        return DOCTOR_NONE;
    }
    /* The swap space is what memory and swap may have together, less memory. */
    if (value == DOCTOR_GROUP_SWAP && is_first &&
        read_group_file(DOCTOR_GROUP_MEMORY, &memory, &other) == DOCTOR_FOUND) {
        *number = *number > memory ? *number - memory : 0;
    }
    return DOCTOR_FOUND;
}

#else

enum doctor_reading doctor_read_group(enum doctor_group_value value, uint64_t *number)
{
    (void)value;
    (void)number;
    return DOCTOR_NONE;
}

#endif

/* One end of an idle TCP connection: socket, inode, file. Measured on Linux 6.18 as 3.9 KB of slab,
 * with pier's own share added. */
uint64_t doctor_connection_memory(void)
{
    return 4608;
}

const char *doctor_unix_form(void)
{
    return "addresses that begin with unix:";
}

/* ---- the machine ---- */

#if defined(__linux__)

static void describe_sandbox(struct doctor_system *system)
{
    char text[DOCTOR_VALUE_MAX];
    if (read_entry("/proc/self/status", "Seccomp_filters:", text, sizeof(text))) {
        system->seccomp = (int)strtol(text, NULL, 10);
    } else if (read_entry("/proc/self/status", "Seccomp:", text, sizeof(text))) {
        system->seccomp = strcmp(text, "0") == 0 ? 0 : 1;
    }
    const char *variable = getenv("container");
    if (access("/.dockerenv", F_OK) == 0) {
        snprintf(system->container, sizeof(system->container), "docker");
    } else if (access("/run/.containerenv", F_OK) == 0) {
        snprintf(system->container, sizeof(system->container), "podman");
    } else if (variable != NULL && variable[0] != '\0') {
        snprintf(system->container, sizeof(system->container), "%s", variable);
    }
}

#endif

void doctor_system_describe(struct doctor_system *system)
{
    memset(system, 0, sizeof(*system));
    system->seccomp = -1;
    struct utsname names;
    if (uname(&names) >= 0) {
        /* Each name can be longer than what people need of it. */
        snprintf(system->name, sizeof(system->name), "%.24s %.40s %.24s", names.sysname,
                 names.release, names.machine);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    system->processors = online > 0 ? (unsigned)online : 1;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) {
        system->processors = (unsigned)CPU_COUNT(&set);
    }
    read_entry("/proc/cpuinfo", "model name", system->processor, sizeof(system->processor));
    describe_sandbox(system);
#elif defined(HAVE_SYSCTL_BY_NAME)
#ifdef __APPLE__
    const char *name = "machdep.cpu.brand_string";
#else
    const char *name = "hw.model";
#endif
    size_t size = sizeof(system->processor) - 1;
    if (sysctlbyname(name, system->processor, &size, NULL, 0) != 0) {
        system->processor[0] = '\0';
    }
#endif
}
