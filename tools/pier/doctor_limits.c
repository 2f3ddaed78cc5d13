/* SPDX-License-Identifier: MIT */
/* doctor_limits.c - the limits that decide how many connections fit: what each one is called on
 * each system, and how to raise it.
 *
 * One table. A row says on which systems there is such a limit, where its value comes from, and has
 * a function of doctor_explain.c that explains it. A limit that should be there and can't be read
 * (no /proc, or a container that hides a part of it) is unknown, and so is whatever depends on it:
 * to leave it out would promise what can't be held. */

#include "doctor_limits.h"

#include <stdio.h>
#include <string.h>

/* Where there is such a setting. RARE: not on each version of the system, or only when something is
 * in use; it is unknown only where no setting can be read at all. */
enum { LINUX = 1, BSD = 2, WINDOWS = 4, EVERYWHERE = 7, RARE = 8 };

#if defined(__linux__)
static const unsigned here = LINUX;
#elif defined(_WIN32)
static const unsigned here = WINDOWS;
#else
static const unsigned here = BSD; /* and macOS */
#endif

struct row;

typedef enum doctor_reading read_fn(const struct row *row, struct doctor_limit *limit);
typedef void explain_fn(struct doctor_limit *limit);

struct row {
    const char *name; /* of the setting, or words for what is none */
    const char *title, *unit;
    read_fn *read;
    explain_fn *explain;
    const char *remedy; /* NULL: sysctl -w NAME=NUMBER */
    unsigned where;
    enum doctor_scope scope; /* whose number of connections is unknown with it */
};

/* ---- reading ---- */

static enum doctor_reading read_setting(const struct row *row, struct doctor_limit *limit)
{
    limit->numbers_count = doctor_read_setting(row->name, limit->numbers);
    return limit->numbers_count > 0 ? DOCTOR_FOUND : DOCTOR_NONE;
}

static enum doctor_reading read_resource(enum doctor_resource resource, bool hard,
                                         struct doctor_limit *limit)
{
    uint64_t values[2];
    limit->numbers_count = 1;
    if (!doctor_read_resource(resource, &values[0], &values[1])) {
        return DOCTOR_NONE;
    }
    limit->numbers[0] = values[hard ? 1 : 0];
    return DOCTOR_FOUND;
}

static enum doctor_reading read_files_soft(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_OPEN_FILES, false, limit);
}

static enum doctor_reading read_files_hard(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_OPEN_FILES, true, limit);
}

static enum doctor_reading read_locked(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_LOCKED_MEMORY, false, limit);
}

static enum doctor_reading read_processes(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_PROCESSES, false, limit);
}

static enum doctor_reading read_memory(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    limit->numbers_count = 1;
    return doctor_read_memory(&limit->numbers[0]) ? DOCTOR_FOUND : DOCTOR_UNKNOWN;
}

static enum doctor_reading read_group(enum doctor_group_value value, struct doctor_limit *limit)
{
    limit->numbers_count = 1;
    return doctor_read_group(value, &limit->numbers[0]);
}

static enum doctor_reading read_group_memory(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_group(DOCTOR_GROUP_MEMORY, limit);
}

static enum doctor_reading read_group_swap(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_group(DOCTOR_GROUP_SWAP, limit);
}

static enum doctor_reading read_group_processes(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_group(DOCTOR_GROUP_PROCESSES, limit);
}

static enum doctor_reading read_uring_group(const struct row *row, struct doctor_limit *limit)
{
    enum doctor_reading reading = read_setting(row, limit);
    if (reading == DOCTOR_FOUND && limit->numbers[0] > UINT32_MAX) { /* it says -1 */
        snprintf(limit->value, sizeof(limit->value), "none");
    }
    return reading;
}

/* macOS and the BSDs have the ends of the port range as settings of their own; the row names the
 * first. */
static enum doctor_reading read_port_pair(const struct row *row, struct doctor_limit *limit)
{
    char last[DOCTOR_VALUE_MAX];
    snprintf(last, sizeof(last), "%s", row->name);
    char *end = strstr(last, ".first");
    if (end != NULL) {
        snprintf(end, sizeof(last) - (size_t)(end - last), ".last");
    } else if ((end = strstr(last, "portmin")) != NULL) {
        snprintf(end, sizeof(last) - (size_t)(end - last), "portmax");
    }
    uint64_t values[3];
    if (end == NULL || doctor_read_setting(row->name, limit->numbers) == 0 ||
        doctor_read_setting(last, values) == 0) {
        return DOCTOR_NONE;
    }
    limit->numbers[1] = values[0];
    limit->numbers_count = 2;
    return DOCTOR_FOUND;
}

/* ---- text ---- */

/* The numbers with their unit. */
static void format_value(struct doctor_limit *limit)
{
    if (limit->value[0] != '\0') {
        return; /* by who has read it */
    }
    bool bytes = strcmp(limit->unit, "bytes") == 0;
    char text[TOOL_TEXT_MAX];
    size_t used = 0;
    for (size_t i = 0; i < limit->numbers_count && used < sizeof(limit->value); i++) {
        used += (size_t)snprintf(limit->value + used, sizeof(limit->value) - used, "%s%s",
                                 i > 0 ? ", " : "",
                                 bytes ? doctor_format_bytes(text, limit->numbers[i])
                                       : doctor_format_number(text, limit->numbers[i]));
    }
    if (!bytes && limit->unit[0] != '\0' && used < sizeof(limit->value) &&
        limit->numbers[0] < UINT64_MAX / 4) {
        snprintf(limit->value + used, sizeof(limit->value) - used, " %s", limit->unit);
    }
}

/* ---- the table ---- */

static const char remedy_hard[] =
    "limits.conf (nofile), LimitNOFILE= of a systemd service, docker run --ulimit nofile=NUMBER";

static const struct row rows[] = {
    {"soft limit of open files", "open files of a process, soft limit", "descriptors",
     read_files_soft, doctor_explain_files_soft, "ulimit -n NUMBER, up to the hard limit",
     LINUX | BSD, DOCTOR_NO_COUNT},
    {"hard limit of open files", "open files of a process, hard limit", "descriptors",
     read_files_hard, doctor_explain_files_hard, remedy_hard, LINUX | BSD, DOCTOR_PROCESS},
    {"fs.nr_open", "bound of the hard limit", "descriptors", read_setting,
     doctor_explain_files_most, NULL, LINUX, DOCTOR_NO_COUNT},
    {"kern.maxfilesperproc", "open files of a process", "descriptors", read_setting,
     doctor_explain_files_process, NULL, BSD | RARE, DOCTOR_PROCESS},
    {"fs.file-max", "open files of the machine", "descriptors", read_setting,
     doctor_explain_files_all, NULL, LINUX, DOCTOR_MACHINE},
    {"kern.maxfiles", "open files of the machine", "descriptors", read_setting,
     doctor_explain_files_all, NULL, BSD | RARE, DOCTOR_MACHINE},
    {"net.core.somaxconn", "connections waiting to be accepted", "per listener", read_setting,
     doctor_explain_backlog, NULL, LINUX, DOCTOR_NO_COUNT},
    {"kern.ipc.soacceptqueue", "connections waiting to be accepted", "per listener", read_setting,
     doctor_explain_backlog, NULL, BSD | RARE, DOCTOR_NO_COUNT},
    {"kern.ipc.somaxconn", "connections waiting to be accepted", "per listener", read_setting,
     doctor_explain_backlog, NULL, BSD | RARE, DOCTOR_NO_COUNT},
    {"net.ipv4.tcp_max_syn_backlog", "half-open connections", "per listener", read_setting,
     doctor_explain_half_open, NULL, LINUX, DOCTOR_NO_COUNT},
    {"net.ipv4.tcp_mem", "memory of all TCP buffers", "pages (low, pressure, limit)", read_setting,
     doctor_explain_tcp_memory, "sysctl -w net.ipv4.tcp_mem='LOW PRESSURE LIMIT' (in pages)", LINUX,
     DOCTOR_MACHINE},
    {"net.ipv4.tcp_rmem", "receive buffer of a connection", "bytes", read_setting,
     doctor_explain_receive_memory, "sysctl -w net.ipv4.tcp_rmem='LEAST BEGIN MOST' (bytes)", LINUX,
     DOCTOR_NO_COUNT},
    {"net.ipv4.tcp_wmem", "send buffer of a connection", "bytes", read_setting,
     doctor_explain_send_memory, "sysctl -w net.ipv4.tcp_wmem='LEAST BEGIN MOST' (bytes)", LINUX,
     DOCTOR_NO_COUNT},
    {"net.inet.tcp.recvspace", "receive buffer of a connection", "bytes", read_setting,
     doctor_explain_receive_memory, NULL, BSD | RARE, DOCTOR_NO_COUNT},
    {"net.inet.tcp.sendspace", "send buffer of a connection", "bytes", read_setting,
     doctor_explain_send_memory, NULL, BSD | RARE, DOCTOR_NO_COUNT},
    {"kern.ipc.maxsockets", "sockets of the machine", "sockets", read_setting,
     doctor_explain_sockets, NULL, BSD | RARE, DOCTOR_MACHINE},
    {"net.ipv4.ip_local_port_range", "local ports of clients", "(first, last)", read_setting,
     doctor_explain_ports,
     "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or more local addresses", LINUX,
     DOCTOR_CLIENT},
    {"net.inet.ip.portrange.first", "local ports of clients", "(first, last)", read_port_pair,
     doctor_explain_ports, NULL, BSD | RARE, DOCTOR_CLIENT},
    {"net.inet.ip.anonportmin", "local ports of clients", "(first, last)", read_port_pair,
     doctor_explain_ports, NULL, BSD | RARE, DOCTOR_CLIENT},
    {"net.ipv4.tcp_max_tw_buckets", "connections in TIME_WAIT", "connections", read_setting,
     doctor_explain_time_wait, NULL, LINUX, DOCTOR_NO_COUNT},
    {"fs.epoll.max_user_watches", "registrations with epoll", "per user", read_setting,
     doctor_explain_watches, NULL, LINUX, DOCTOR_MACHINE},
    {"kernel.io_uring_disabled", "who may use io_uring", "", read_setting,
     doctor_explain_uring_disabled, "sysctl -w kernel.io_uring_disabled=0", LINUX | RARE,
     DOCTOR_NO_COUNT},
    {"kernel.io_uring_group", "group that may use io_uring", "", read_uring_group,
     doctor_explain_uring_group,
     "sysctl -w kernel.io_uring_group=NUMBER, of a group that this user is in", LINUX | RARE,
     DOCTOR_NO_COUNT},
    {"limit of locked memory", "locked memory", "bytes", read_locked, doctor_explain_locked,
     "ulimit -l KIBIBYTES, limits.conf (memlock), LimitMEMLOCK= of a systemd service",
     LINUX | BSD | RARE, DOCTOR_NO_COUNT},
    {"limit of processes", "processes and threads of a user", "", read_processes,
     doctor_explain_processes,
     "ulimit -u NUMBER, limits.conf (nproc), LimitNPROC= of a systemd service", LINUX | BSD | RARE,
     DOCTOR_NO_COUNT},
    {"processes of the control group", "processes and threads of the control group", "",
     read_group_processes, doctor_explain_group_processes,
     "TasksMax= of a systemd service, docker run --pids-limit NUMBER, the container's pids limit",
     LINUX | RARE, DOCTOR_NO_COUNT},
    {"kernel.threads-max", "threads of the machine", "", read_setting, doctor_explain_threads, NULL,
     LINUX, DOCTOR_NO_COUNT},
    {"kernel.pid_max", "process numbers", "", read_setting, doctor_explain_process_numbers, NULL,
     LINUX, DOCTOR_NO_COUNT},
    {"kern.maxproc", "processes of the machine", "", read_setting, doctor_explain_threads, NULL,
     BSD | RARE, DOCTOR_NO_COUNT},
    {"net.netfilter.nf_conntrack_max", "tracked connections", "connections", read_setting,
     doctor_explain_tracking, NULL, LINUX | RARE, DOCTOR_MACHINE},
    {"memory of the machine", "memory of the machine", "bytes", read_memory, doctor_explain_memory,
     "more memory, or connections spread over machines", EVERYWHERE, DOCTOR_MACHINE},
    {"memory of the control group", "memory limit of the control group", "bytes", read_group_memory,
     doctor_explain_memory,
     "MemoryMax= of a systemd service, docker run --memory SIZE, the container's memory limit",
     LINUX | RARE, DOCTOR_MACHINE},
    {"swap space", "swap space of the machine", "bytes", read_setting, doctor_explain_swap,
     "mkswap and swapon, with a file or a partition", LINUX, DOCTOR_NO_COUNT},
    {"swap of the control group", "swap limit of the control group", "bytes", read_group_swap,
     doctor_explain_group_swap,
     "MemorySwapMax= of a systemd service, docker run --memory-swap SIZE", LINUX | RARE,
     DOCTOR_NO_COUNT},
    {"vm.overcommit_memory", "how memory is promised", "", read_setting, doctor_explain_overcommit,
     "sysctl -w vm.overcommit_memory=MODE, 0 by default", LINUX, DOCTOR_NO_COUNT},
    {"limit of committed memory", "committed memory of the machine", "bytes", read_setting,
     doctor_explain_commit,
     "more memory or swap space; on Linux vm.overcommit_ratio, on Windows a larger page file",
     LINUX | WINDOWS | RARE, DOCTOR_NO_COUNT},
    {"limit of handles", "handles of a process", "handles", read_setting, doctor_explain_handles,
     "it's fixed; more processes", WINDOWS, DOCTOR_PROCESS},
    {"default of local ports", "local ports of clients, by default", "(first, last)", read_setting,
     doctor_explain_ports,
     "netsh int ipv4 set dynamicport tcp start=10000 num=55536 (show for set: what holds)", WINDOWS,
     DOCTOR_CLIENT},
    {"memory of the job", "memory limit of the job", "bytes", read_setting, doctor_explain_memory,
     "the limit of the job object or container that this process was started in", WINDOWS | RARE,
     DOCTOR_MACHINE},
};

static void describe_unknown(const struct row *row, struct doctor_limit *limit)
{
    limit->unknown = true;
    limit->scope = row->scope;
    limit->numbers_count = 0;
    limit->connections = UINT64_MAX;
    snprintf(limit->value, sizeof(limit->value), "unknown");
    snprintf(limit->meaning, sizeof(limit->meaning),
             "it can't be read here: %s; %s holds nevertheless",
             doctor_settings_readable() ? "this container or sandbox doesn't show it"
                                        : "/proc isn't there, or is closed to this process",
             (row->where & RARE) != 0 ? "if there is such a limit it" : "the limit");
}

/* False when there is no such limit. */
static bool fill(const struct row *row, struct doctor_limit *limit)
{
    memset(limit, 0, sizeof(*limit));
    limit->name = row->name;
    limit->title = row->title;
    limit->unit = row->unit;
    if ((row->where & here) == 0) {
        return false;
    }
    enum doctor_reading reading = row->read(row, limit);
    if (reading == DOCTOR_NONE && ((row->where & RARE) == 0 || !doctor_settings_readable())) {
        reading = DOCTOR_UNKNOWN;
    }
    if (reading == DOCTOR_NONE) {
        return false;
    }
    if (reading == DOCTOR_UNKNOWN) {
        describe_unknown(row, limit);
    } else {
        format_value(limit);
        row->explain(limit);
    }
    if (row->remedy != NULL) {
        snprintf(limit->remedy, sizeof(limit->remedy), "%s", row->remedy);
    } else {
        snprintf(limit->remedy, sizeof(limit->remedy), "sysctl -w %s=NUMBER", row->name);
    }
    return true;
}

size_t doctor_limits(struct doctor_limit limits[DOCTOR_LIMITS_MAX])
{
    size_t found = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && found < DOCTOR_LIMITS_MAX; i++) {
        found += fill(&rows[i], &limits[found]) ? 1 : 0;
    }
    return found;
}
