/* SPDX-License-Identifier: MIT */
/* bench_system.c - what `pier bench` asks of the operating system beyond platform.h: a command with
 * its output in a pipe, its CPU time and memory, which CPUs there are, directories.
 *
 * POSIX, with the parts that it leaves open for Linux and macOS; elsewhere those figures are not
 * known (NAN), and nothing is pinned. */

#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#elif defined(__APPLE__)
#include <libproc.h>
#include <mach-o/dyld.h>
#elif defined(__FreeBSD__) || defined(__DragonFly__) || defined(__NetBSD__)
#include <sys/types.h>
#include <sys/sysctl.h>
#endif

/* ---- commands ---- */

/* The file of this program; where the system doesn't tell, the command's name, for PATH. */
static void find_self(char *path, size_t size)
{
    snprintf(path, size, "pier");
#if defined(__linux__)
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    path[length > 0 ? length : 4] = '\0';
    /* Without /proc there is the name it was started by. */
    const char *started = (const char *)(uintptr_t)getauxval(AT_EXECFN);
    if (length <= 0 && started != NULL) {
        snprintf(path, size, "%s", started);
    }
#elif defined(__APPLE__)
    uint32_t room = (uint32_t)size;
    _NSGetExecutablePath(path, &room);
#elif defined(KERN_PROC_PATHNAME)
#if defined(__NetBSD__)
    int name[] = {CTL_KERN, KERN_PROC_ARGS, -1, KERN_PROC_PATHNAME};
#else
    int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PATHNAME, -1};
#endif
    if (sysctl(name, 4, path, &size, NULL, 0) != 0) {
        snprintf(path, 5, "pier");
    }
#endif
}

#if defined(__linux__)

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

#endif

/* In the child: never returns. */
static void become(char *const arguments[], int output, int cpu, pid_t starter)
{
    char path[1024];
#if defined(__linux__)
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (cpu >= 0) {
        pin(cpu);
    }
#else
    (void)cpu;
#endif
    if (getppid() != starter) {
        _exit(126);
    }
    /* Where there is no /dev/null the root directory will do, of which nothing can be read. */
    int nothing = open("/dev/null", O_RDONLY);
    nothing = nothing >= 0 ? nothing : open("/", O_RDONLY);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0) {
        dprintf(output, "cannot set up its descriptors: %s\n", strerror(errno));
        _exit(126);
    }
    find_self(path, sizeof(path));
    execvp(path, arguments);
    dprintf(STDOUT_FILENO, "cannot run %s: %s\n", path, strerror(errno));
    _exit(127);
}

int bench_command_start(struct bench_command *command, char *const arguments[], int cpu)
{
    int ends[2];
    pid_t starter = getpid();
    if (pipe(ends) != 0) {
        return errno;
    }
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    fflush(stdout);
    pid_t id = fork();
    int error = errno;
    if (id == 0) {
        become(arguments, ends[1], cpu, starter);
    }
    close(ends[1]);
    if (id < 0) {
        close(ends[0]);
        return error;
    }
    *command = (struct bench_command){.id = id, .output = ends[0]};
    return 0;
}

int bench_command_read(struct bench_command *command, char *text, size_t size, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now_ns = platform_now_ns();
        uint64_t left_ms = deadline_ns > now_ns ? (deadline_ns - now_ns) / PIER_MILLISECOND + 1 : 0;
        struct pollfd wait = {.fd = command->output, .events = POLLIN};
        int ready = poll(&wait, 1, left_ms < 100 ? (int)left_ms : 100);
        if (ready > 0) {
            return (int)read(command->output, text, size);
        }
        if (left_ms == 0 || bench_interrupted()) {
            return -1;
        }
    }
}

int bench_command_stop(struct bench_command *command, uint64_t deadline_ns)
{
    int status = 0;
    bool forced = false;
    kill((pid_t)command->id, SIGTERM);
    for (;;) {
        pid_t ended = waitpid((pid_t)command->id, &status, WNOHANG);
        if (ended == (pid_t)command->id) {
            break;
        }
        if (ended < 0 && errno != EINTR) {
            status = 0;
            break;
        }
        if (!forced && platform_now_ns() > deadline_ns) {
            forced = true;
            kill((pid_t)command->id, SIGKILL);
        }
        platform_sleep_ns(PIER_MILLISECOND / 2);
    }
    close(command->output);
    command->ended = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- what a process has used ---- */

#if defined(__linux__)

double bench_process_cpu_ns(const struct bench_command *command)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid((pid_t)command->id, &clock) != 0 || clock_gettime(clock, &used) != 0) {
        return NAN;
    }
    return (double)used.tv_sec * 1e9 + (double)used.tv_nsec;
}

/* What isn't backed by files: those pages are the program's code, which all processes share. */
double bench_process_memory(const struct bench_command *command)
{
    char path[64], line[256];
    double sum = NAN;
    snprintf(path, sizeof(path), "/proc/%ld/status", (long)command->id);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "RssAnon:", 8) == 0) {
            sum = strtod(line + 8, NULL) * 1024;
        } else if (strncmp(line, "RssShmem:", 9) == 0) {
            sum += strtod(line + 9, NULL) * 1024;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return sum;
}

#elif defined(__APPLE__)

static bool read_usage(const struct bench_command *command, struct rusage_info_v2 *usage)
{
    return proc_pid_rusage((int)command->id, RUSAGE_INFO_V2, (rusage_info_t *)usage) == 0;
}

double bench_process_cpu_ns(const struct bench_command *command)
{
    struct rusage_info_v2 usage;
    return read_usage(command, &usage) ? (double)(usage.ri_user_time + usage.ri_system_time) : NAN;
}

double bench_process_memory(const struct bench_command *command)
{
    struct rusage_info_v2 usage;
    return read_usage(command, &usage) ? (double)usage.ri_phys_footprint : NAN;
}

#else

double bench_process_cpu_ns(const struct bench_command *command)
{
    (void)command;
    return NAN;
}

double bench_process_memory(const struct bench_command *command)
{
    (void)command;
    return NAN;
}

#endif

/* ---- CPUs ---- */

#if defined(__linux__)

/* Whether two CPUs are threads of one core: the file is a list such as "0-1" or "0,8". */
static bool share_core(unsigned cpu, unsigned other)
{
    char path[128], text[256] = "";
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
             cpu);
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(text, sizeof(text), file) == NULL) {
        text[0] = '\0';
    }
    if (file != NULL) {
        fclose(file);
    }
    for (char *at = text; *at >= '0' && *at <= '9';) {
        unsigned long first = strtoul(at, &at, 10), last = first;
        if (*at == '-') {
            last = strtoul(at + 1, &at, 10);
        }
        if (other >= first && other <= last) {
            return true;
        }
        at += *at == ',' ? 1 : 0;
    }
    return false;
}

/* The CPUs left for clients: not the server's own core, unless nothing else is there. */
static void find_others(cpu_set_t *set, int server_cpu)
{
    cpu_set_t same_core;
    CPU_ZERO(&same_core);
    CPU_CLR((unsigned)server_cpu, set);
    for (unsigned i = 0; i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, set) && share_core((unsigned)server_cpu, i)) {
            CPU_CLR(i, set);
            CPU_SET(i, &same_core);
        }
    }
    if (CPU_COUNT(set) == 0) {
        *set = same_core;
    }
}

int bench_cpus_split(unsigned *left)
{
    cpu_set_t set;
    *left = 1;
    if (sched_getaffinity(0, sizeof(set), &set) != 0 || CPU_COUNT(&set) < 2) {
        return -1;
    }
    unsigned server_cpu = 0;
    while (!CPU_ISSET(server_cpu, &set)) {
        server_cpu++;
    }
    find_others(&set, (int)server_cpu);
    *left = (unsigned)CPU_COUNT(&set);
    return (int)server_cpu;
}

void bench_cpus_avoid(int server_cpu)
{
    cpu_set_t set;
    if (server_cpu >= 0 && sched_getaffinity(0, sizeof(set), &set) == 0) {
        find_others(&set, server_cpu);
        sched_setaffinity(0, sizeof(set), &set);
    }
}

#else

int bench_cpus_split(unsigned *left)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    *left = online > 1 ? (unsigned)online - 1 : 1;
    return -1;
}

void bench_cpus_avoid(int server_cpu)
{
    (void)server_cpu;
}

#endif

/* ---- files ---- */

int bench_make_directory(const char *path, size_t *kept)
{
    char part[1024];
    size_t length = strlen(path);
    *kept = length;
    if (length >= sizeof(part)) {
        return ENAMETOOLONG;
    }
    size_t before = 0;
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) == 0) {
            *kept = before < *kept ? before : *kept;
        } else if (errno != EEXIST) {
            return errno;
        }
        before = i;
    }
    struct stat about;
    if (stat(path, &about) != 0) {
        return errno;
    }
    return S_ISDIR(about.st_mode) ? 0 : ENOTDIR;
}

void bench_remove_directory(const char *path, size_t kept)
{
    char part[1024];
    size_t length = strlen(path);
    if (length >= sizeof(part)) {
        return;
    }
    memcpy(part, path, length + 1);
    while (length > kept) {
        part[length] = '\0';
        if (rmdir(part) != 0 && errno != ENOENT) {
            return;
        }
        while (length > kept && part[length - 1] != '/') {
            length--;
        }
        while (length > kept && part[length - 1] == '/') {
            length--;
        }
    }
}

bool bench_is_same_file(FILE *file, FILE *other)
{
    struct stat one, two;
    return fstat(fileno(file), &one) == 0 && fstat(fileno(other), &two) == 0 &&
           S_ISREG(one.st_mode) && one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

/* In a directory such as /tmp only the owner may. */
bool bench_may_replace(const char *path)
{
    char directory[1040];
    struct stat file, above;
    snprintf(directory, sizeof(directory), "%s", path);
    char *slash = strrchr(directory, '/');
    if (slash != NULL) {
        slash[1] = '\0';
    } else {
        snprintf(directory, sizeof(directory), ".");
    }
    uid_t user = geteuid();
    return lstat(path, &file) != 0 || stat(directory, &above) != 0 || user == 0 ||
           (above.st_mode & S_ISVTX) == 0 || file.st_uid == user || above.st_uid == user;
}

bool bench_is_special(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0 && !S_ISREG(about.st_mode);
}
