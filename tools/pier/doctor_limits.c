/* doctor_limits.c - the limits that decide how many connections fit: what each one is called on
 * each system, what it means, and how to raise it.
 *
 * One table. A row says where its value comes from and has a function that explains it; a row whose
 * setting this system doesn't have is left out. The estimates count what a connection takes at the
 * least, and say so: they are for seeing which limit comes first, not for promises. */

#include "doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Descriptors that a server needs beside those of its connections. */
enum { SPARE_DESCRIPTORS = 32 };

struct row;

typedef bool read_fn(const struct row *row, struct doctor_limit *limit);
typedef void explain_fn(struct doctor_limit *limit);

struct row {
    const char *name; /* of the setting, or words for what is none */
    const char *title, *unit;
    read_fn *read;
    explain_fn *explain;
    const char *remedy; /* NULL: sysctl -w NAME=NUMBER */
};

/* ---- reading ---- */

static bool read_setting(const struct row *row, struct doctor_limit *limit)
{
    limit->numbers_count = doctor_read_setting(row->name, limit->numbers);
    return limit->numbers_count > 0;
}

static bool read_resource(enum doctor_resource resource, bool hard, struct doctor_limit *limit)
{
    uint64_t values[2];
    limit->numbers_count = 1;
    if (!doctor_read_resource(resource, &values[0], &values[1])) {
        return false;
    }
    limit->numbers[0] = values[hard ? 1 : 0];
    return true;
}

static bool read_files_soft(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_OPEN_FILES, false, limit);
}

static bool read_files_hard(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_OPEN_FILES, true, limit);
}

static bool read_locked(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_LOCKED_MEMORY, false, limit);
}

static bool read_processes(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    return read_resource(DOCTOR_PROCESSES, false, limit);
}

static bool read_memory(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    limit->numbers_count = 1;
    return doctor_read_memory(false, &limit->numbers[0]);
}

static bool read_group_memory(const struct row *row, struct doctor_limit *limit)
{
    (void)row;
    limit->numbers_count = 1;
    return doctor_read_memory(true, &limit->numbers[0]);
}

/* macOS and the BSDs have the ends of the port range as settings of their own; the row names the
 * first. */
static bool read_port_pair(const struct row *row, struct doctor_limit *limit)
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
        return false;
    }
    limit->numbers[1] = values[0];
    limit->numbers_count = 2;
    return true;
}

/* ---- text ---- */

TOOL_PRINTF(2, 3) static void mean(struct doctor_limit *limit, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(limit->meaning, sizeof(limit->meaning), format, arguments);
    va_end(arguments);
}

static char *format_number(char text[TOOL_TEXT_MAX], uint64_t number)
{
    if (number >= UINT64_MAX / 4) {
        snprintf(text, TOOL_TEXT_MAX, "unlimited");
        return text;
    }
    return tool_format_count(text, number);
}

static char *format_bytes(char text[TOOL_TEXT_MAX], uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    if (bytes >= UINT64_MAX / 4) {
        snprintf(text, TOOL_TEXT_MAX, "unlimited");
    } else {
        snprintf(text, TOOL_TEXT_MAX, "%.*f %s",
                 value >= 100 || value == (double)(uint64_t)value ? 0 : 1, value, units[unit]);
    }
    return text;
}

/* The numbers with their unit. */
static void format_value(struct doctor_limit *limit)
{
    bool bytes = strcmp(limit->unit, "bytes") == 0;
    char text[TOOL_TEXT_MAX];
    size_t used = 0;
    for (size_t i = 0; i < limit->numbers_count && used < sizeof(limit->value); i++) {
        used += (size_t)snprintf(
            limit->value + used, sizeof(limit->value) - used, "%s%s", i > 0 ? ", " : "",
            bytes ? format_bytes(text, limit->numbers[i]) : format_number(text, limit->numbers[i]));
    }
    if (!bytes && limit->unit[0] != '\0' && used < sizeof(limit->value) &&
        limit->numbers[0] < UINT64_MAX / 4) {
        snprintf(limit->value + used, sizeof(limit->value) - used, " %s", limit->unit);
    }
}

static uint64_t minus(uint64_t number, uint64_t less)
{
    return number >= UINT64_MAX / 4 ? UINT64_MAX : number > less ? number - less : 0;
}

static void count(struct doctor_limit *limit, enum doctor_scope scope, uint64_t connections)
{
    limit->scope = scope;
    limit->connections = connections;
}

/* ---- what each one means ---- */

static void explain_files_soft(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit,
         "about %s connections in a process that leaves it as it is; `pier echo` and `pier "
         "load` raise it to the hard limit themselves",
         format_number(text, limit->connections));
}

static void explain_files_hard(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit, "about %s connections in a process at the most, one descriptor for each",
         format_number(text, limit->connections));
}

static void explain_files_most(struct doctor_limit *limit)
{
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit, "the most that the hard limit of open files can be raised to, for any process");
}

static void explain_files_all(struct doctor_limit *limit)
{
    uint64_t used[3] = {0, 0, 0};
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    doctor_read_setting("fs.file-nr", used);
    count(limit, DOCTOR_MACHINE, minus(limit->numbers[0], used[0]));
    mean(limit,
         "open files of all processes together, %s of them in use: about %s more connections",
         format_number(text, used[0]), format_number(more, limit->connections));
}

static void explain_backlog(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    mean(limit,
         "a longer backlog of a listener is cut to this: when %s connections wait to be "
         "accepted, more are dropped and the clients try again after a second",
         format_number(text, limit->numbers[0]));
}

static void explain_half_open(struct doctor_limit *limit)
{
    mean(limit, "half-open connections of a listener; beyond them the kernel answers with SYN "
                "cookies, or drops when net.ipv4.tcp_syncookies is 0");
}

static void explain_tcp_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    uint64_t pages = limit->numbers[2];
    count(limit, DOCTOR_MACHINE, pages >= UINT64_MAX / 4 ? UINT64_MAX : pages / 2);
    mean(limit,
         "buffers of all TCP sockets: %s at the most, then connections are reset; idle ones "
         "hold none, with a page in flight each way about %s connections fit",
         format_bytes(text, pages * doctor_page_size()), format_number(more, limit->connections));
}

static void explain_receive_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    size_t last = limit->numbers_count - 1;
    mean(limit,
         "a socket's receive buffer begins at %s and grows to %s when the peer is fast and "
         "the reader slow: so much may a slow reader hold",
         format_bytes(text, limit->numbers[last > 0 ? 1 : 0]),
         format_bytes(more, limit->numbers[last]));
}

static void explain_send_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    size_t last = limit->numbers_count - 1;
    mean(limit,
         "a socket's send buffer begins at %s and grows to %s: so much may a peer that "
         "does not read hold",
         format_bytes(text, limit->numbers[last > 0 ? 1 : 0]),
         format_bytes(more, limit->numbers[last]));
}

static void explain_ports(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    uint64_t first = limit->numbers[0], last = limit->numbers[1];
    count(limit, DOCTOR_CLIENT, last >= first ? last - first + 1 : 0);
    mean(limit,
         "a client opens about %s connections from one local address to one server; servers "
         "need one port for all. `pier load` uses more local addresses on loopback",
         format_number(text, limit->connections));
}

static void explain_time_wait(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    mean(limit,
         "closed connections that are remembered for a minute: above about %s closes per "
         "second some are forgotten early",
         format_number(text, limit->numbers[0] / 60));
}

static void explain_watches(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_MACHINE, limit->numbers[0]);
    mean(limit,
         "registrations with epoll of one user, one for each connection: about %s "
         "connections on the epoll backend",
         format_number(text, limit->connections));
}

static void explain_locked(struct doctor_limit *limit)
{
    mean(limit, "memory that a user may lock; before Linux 5.12 the rings of io_uring counted, "
                "about 64 KiB for each loop");
}

static void explain_processes(struct doctor_limit *limit)
{
    mean(limit, "processes and threads of one user together; a server needs one thread for each "
                "loop, about one loop for each CPU");
}

static void explain_threads(struct doctor_limit *limit)
{
    mean(limit, "threads of all processes together");
}

static void explain_process_numbers(struct doctor_limit *limit)
{
    mean(limit, "process numbers, of which each thread takes one");
}

static void explain_tracking(struct doctor_limit *limit)
{
    uint64_t used[3] = {0, 0, 0};
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    doctor_read_setting("net.netfilter.nf_conntrack_count", used);
    count(limit, DOCTOR_MACHINE, minus(limit->numbers[0], used[0]));
    mean(limit,
         "connections that the packet filter keeps track of, %s now: about %s more, then new "
         "ones are dropped (\"table full\" in the kernel's log)",
         format_number(text, used[0]), format_number(more, limit->connections));
}

static void explain_sockets(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_MACHINE, limit->numbers[0]);
    mean(limit, "sockets of all processes together: about %s connections",
         format_number(text, limit->connections));
}

static void explain_files_process(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit, "open files of a process whatever its own limit says: about %s connections",
         format_number(text, limit->connections));
}

static void explain_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], each[TOOL_TEXT_MAX];
    uint64_t memory = doctor_connection_memory();
    if (memory == 0) {
        mean(limit,
             "connections take memory of the kernel and of the process; how much hasn't been "
             "measured on this system, so that no number is derived from it");
        return;
    }
    count(limit, DOCTOR_MACHINE, limit->numbers[0] / memory);
    mean(limit,
         "an idle connection costs about %s in kernel and process: about %s of them if "
         "nothing else needed memory",
         format_bytes(each, memory), format_number(text, limit->connections));
}

/* ---- Windows ---- */

static void explain_handles(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit,
         "the size of a process's table of handles: about %s connections, one handle for each",
         format_number(text, limit->connections));
}

static void explain_commit(struct doctor_limit *limit)
{
    uint64_t used[3] = {0, 0, 0};
    char text[TOOL_TEXT_MAX];
    doctor_read_setting("committed memory", used);
    mean(limit,
         "memory and page files together, %s of it promised to programs: beyond the limit nobody "
         "gets any more",
         format_bytes(text, used[0]));
}

/* ---- the table ---- */

static const char remedy_hard[] =
    "limits.conf (nofile), LimitNOFILE= of a systemd service, docker run --ulimit nofile=NUMBER";

static const struct row rows[] = {
    {"soft limit of open files", "open files of a process, soft limit", "descriptors",
     read_files_soft, explain_files_soft, "ulimit -n NUMBER, up to the hard limit"},
    {"hard limit of open files", "open files of a process, hard limit", "descriptors",
     read_files_hard, explain_files_hard, remedy_hard},
    {"fs.nr_open", "bound of the hard limit", "descriptors", read_setting, explain_files_most,
     NULL},
    {"kern.maxfilesperproc", "open files of a process", "descriptors", read_setting,
     explain_files_process, NULL},
    {"fs.file-max", "open files of the machine", "descriptors", read_setting, explain_files_all,
     NULL},
    {"kern.maxfiles", "open files of the machine", "descriptors", read_setting, explain_files_all,
     NULL},
    {"net.core.somaxconn", "connections waiting to be accepted", "per listener", read_setting,
     explain_backlog, NULL},
    {"kern.ipc.soacceptqueue", "connections waiting to be accepted", "per listener", read_setting,
     explain_backlog, NULL},
    {"kern.ipc.somaxconn", "connections waiting to be accepted", "per listener", read_setting,
     explain_backlog, NULL},
    {"net.ipv4.tcp_max_syn_backlog", "half-open connections", "per listener", read_setting,
     explain_half_open, NULL},
    {"net.ipv4.tcp_mem", "memory of all TCP buffers", "pages (low, pressure, limit)", read_setting,
     explain_tcp_memory, "sysctl -w net.ipv4.tcp_mem='LOW PRESSURE LIMIT' (in pages)"},
    {"net.ipv4.tcp_rmem", "receive buffer of a connection", "bytes", read_setting,
     explain_receive_memory, "sysctl -w net.ipv4.tcp_rmem='LEAST BEGIN MOST' (bytes)"},
    {"net.ipv4.tcp_wmem", "send buffer of a connection", "bytes", read_setting, explain_send_memory,
     "sysctl -w net.ipv4.tcp_wmem='LEAST BEGIN MOST' (bytes)"},
    {"net.inet.tcp.recvspace", "receive buffer of a connection", "bytes", read_setting,
     explain_receive_memory, NULL},
    {"net.inet.tcp.sendspace", "send buffer of a connection", "bytes", read_setting,
     explain_send_memory, NULL},
    {"kern.ipc.maxsockets", "sockets of the machine", "sockets", read_setting, explain_sockets,
     NULL},
    {"net.ipv4.ip_local_port_range", "local ports of clients", "(first, last)", read_setting,
     explain_ports, "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or more local addresses"},
    {"net.inet.ip.portrange.first", "local ports of clients", "(first, last)", read_port_pair,
     explain_ports, NULL},
    {"net.inet.ip.anonportmin", "local ports of clients", "(first, last)", read_port_pair,
     explain_ports, NULL},
    {"net.ipv4.tcp_max_tw_buckets", "connections in TIME_WAIT", "connections", read_setting,
     explain_time_wait, NULL},
    {"fs.epoll.max_user_watches", "registrations with epoll", "per user", read_setting,
     explain_watches, NULL},
    {"limit of locked memory", "locked memory", "bytes", read_locked, explain_locked,
     "ulimit -l KIBIBYTES, limits.conf (memlock), LimitMEMLOCK= of a systemd service"},
    {"limit of processes", "processes and threads of a user", "", read_processes, explain_processes,
     "ulimit -u NUMBER, limits.conf (nproc), TasksMax= of a systemd service"},
    {"kernel.threads-max", "threads of the machine", "", read_setting, explain_threads, NULL},
    {"kernel.pid_max", "process numbers", "", read_setting, explain_process_numbers, NULL},
    {"kern.maxproc", "processes of the machine", "", read_setting, explain_threads, NULL},
    {"net.netfilter.nf_conntrack_max", "tracked connections", "connections", read_setting,
     explain_tracking, NULL},
    {"memory of the machine", "memory of the machine", "bytes", read_memory, explain_memory,
     "more memory, or connections spread over machines"},
    {"memory of the control group", "memory limit of the control group", "bytes", read_group_memory,
     explain_memory,
     "MemoryMax= of a systemd service, docker run --memory SIZE, the container's memory limit"},
    {"limit of handles", "handles of a process", "handles", read_setting, explain_handles,
     "it's fixed; more processes"},
    {"default of local ports", "local ports of clients, by default", "(first, last)", read_setting,
     explain_ports,
     "netsh int ipv4 set dynamicport tcp start=10000 num=55536 (show for set: what holds)"},
    {"limit of committed memory", "committed memory of the machine", "bytes", read_setting,
     explain_commit, "a larger page file, or more memory"},
    {"memory of the job", "memory limit of the job", "bytes", read_setting, explain_memory,
     "the limit of the job object or container that this process was started in"},
};

size_t doctor_limits(struct doctor_limit limits[DOCTOR_LIMITS_MAX])
{
    size_t found = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && found < DOCTOR_LIMITS_MAX; i++) {
        const struct row *row = &rows[i];
        struct doctor_limit *limit = &limits[found];
        memset(limit, 0, sizeof(*limit));
        limit->name = row->name;
        limit->title = row->title;
        limit->unit = row->unit;
        if (!row->read(row, limit)) {
            continue;
        }
        format_value(limit);
        row->explain(limit);
        if (row->remedy != NULL) {
            snprintf(limit->remedy, sizeof(limit->remedy), "%s", row->remedy);
        } else {
            snprintf(limit->remedy, sizeof(limit->remedy), "sysctl -w %s=NUMBER", row->name);
        }
        found++;
    }
    return found;
}
