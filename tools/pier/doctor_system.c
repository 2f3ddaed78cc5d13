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

size_t doctor_read_setting(const char *name, uint64_t values[3])
{
    char path[DOCTOR_TEXT_MAX], text[256];
    size_t used = (size_t)snprintf(path, sizeof(path), "/proc/sys/%s", name);
    for (char *at = path; *at != '\0' && used < sizeof(path); at++) {
        *at = *at == '.' ? '/' : *at;
    }
    return read_file(path, text, sizeof(text)) ? parse_numbers(text, values) : 0;
}

#elif defined(HAVE_SYSCTL_BY_NAME)

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

#if defined(__linux__)

/* The least limit on the way from a control group up to the root. `path` is changed. */
static uint64_t least_limit(const char *mount, char *path, const char *file)
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
        if (slash == NULL) {
            return least;
        }
        *slash = '\0';
    }
}

/* The lines of /proc/self/cgroup are NUMBER:CONTROLLERS:PATH; version 2 is the one without
 * controllers. Inside a container the path may be that of the host, and the group is the root of
 * what is mounted: the way up ends there too. */
static uint64_t read_group_limit(void)
{
    char text[4096], path[1024];
    uint64_t least = UINT64_MAX;
    if (!read_file("/proc/self/cgroup", text, sizeof(text))) {
        return least;
    }
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char *controllers = strchr(line, ':');
        char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL) {
            continue;
        }
        *group++ = '\0';
        controllers++;
        bool second = controllers[0] == '\0';
        if (!second && strcmp(controllers, "memory") != 0) {
            continue;
        }
        snprintf(path, sizeof(path), "%s", strcmp(group, "/") == 0 ? "" : group);
        uint64_t limit = second
                             ? least_limit("/sys/fs/cgroup", path, "memory.max")
                             : least_limit("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
        least = limit < least ? limit : least;
    }
    return least;
}

#endif

bool doctor_read_memory(bool group, uint64_t *bytes)
{
    uint64_t machine = 0;
#if defined(_SC_PHYS_PAGES)
    long pages = sysconf(_SC_PHYS_PAGES);
    machine = pages > 0 ? (uint64_t)pages * doctor_page_size() : 0;
#endif
    if (!group) {
        *bytes = machine;
        return machine > 0;
    }
#if defined(__linux__)
    /* Version 1 says "no limit" as a number near 2^63. */
    *bytes = read_group_limit();
    return *bytes < UINT64_MAX / 4 && (machine == 0 || *bytes < machine);
#else
    return false;
#endif
}

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
