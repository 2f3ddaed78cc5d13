/* SPDX-License-Identifier: MIT */
/* doctor_explain.c - what each limit means, for `pier doctor`; see doctor_limits.h.
 *
 * The estimates count what a connection takes at the least, and say so: they are for seeing which
 * limit comes first, not for promises. */

#include "doctor_limits.h"

#include <stdarg.h>
#include <stdio.h>

/* Descriptors that a server needs beside those of its connections. */
enum { SPARE_DESCRIPTORS = 32 };

/* ---- text ---- */

TOOL_PRINTF(2, 3) static void mean(struct doctor_limit *limit, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(limit->meaning, sizeof(limit->meaning), format, arguments);
    va_end(arguments);
}

char *doctor_format_number(char text[TOOL_TEXT_MAX], uint64_t number)
{
    if (number >= UINT64_MAX / 4) {
        snprintf(text, TOOL_TEXT_MAX, "unlimited");
        return text;
    }
    return tool_format_count(text, number);
}

char *doctor_format_bytes(char text[TOOL_TEXT_MAX], uint64_t bytes)
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

void doctor_explain_files_soft(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit,
         "about %s connections in a process that leaves it as it is; `pier echo` and `pier "
         "load` raise it to the hard limit themselves",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_files_hard(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit, "about %s connections in a process at the most, one descriptor for each",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_files_most(struct doctor_limit *limit)
{
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit, "the most that the hard limit of open files can be raised to, for any process");
}

void doctor_explain_files_all(struct doctor_limit *limit)
{
    uint64_t used[3] = {0, 0, 0};
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    doctor_read_setting("fs.file-nr", used);
    count(limit, DOCTOR_MACHINE, minus(limit->numbers[0], used[0]));
    mean(limit,
         "open files of all processes together, %s of them in use: about %s more connections",
         doctor_format_number(text, used[0]), doctor_format_number(more, limit->connections));
}

void doctor_explain_backlog(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    mean(limit,
         "a longer backlog of a listener is cut to this: when %s connections wait to be "
         "accepted, more are dropped and the clients try again after a second",
         doctor_format_number(text, limit->numbers[0]));
}

void doctor_explain_half_open(struct doctor_limit *limit)
{
    mean(limit, "half-open connections of a listener; beyond them the kernel answers with SYN "
                "cookies, or drops when net.ipv4.tcp_syncookies is 0");
}

void doctor_explain_tcp_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    uint64_t pages = limit->numbers[2];
    count(limit, DOCTOR_MACHINE, pages >= UINT64_MAX / 4 ? UINT64_MAX : pages / 2);
    mean(limit,
         "buffers of all TCP sockets: %s at the most, then connections are reset; idle ones "
         "hold none, with a page in flight each way about %s connections fit",
         doctor_format_bytes(text, pages * doctor_page_size()),
         doctor_format_number(more, limit->connections));
}

void doctor_explain_receive_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    size_t last = limit->numbers_count - 1;
    mean(limit,
         "a socket's receive buffer begins at %s and grows to %s when the peer is fast and "
         "the reader slow: so much may a slow reader hold",
         doctor_format_bytes(text, limit->numbers[last > 0 ? 1 : 0]),
         doctor_format_bytes(more, limit->numbers[last]));
}

void doctor_explain_send_memory(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    size_t last = limit->numbers_count - 1;
    mean(limit,
         "a socket's send buffer begins at %s and grows to %s: so much may a peer that "
         "does not read hold",
         doctor_format_bytes(text, limit->numbers[last > 0 ? 1 : 0]),
         doctor_format_bytes(more, limit->numbers[last]));
}

void doctor_explain_ports(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    uint64_t first = limit->numbers[0], last = limit->numbers[1];
    count(limit, DOCTOR_CLIENT, last >= first ? last - first + 1 : 0);
    mean(limit,
         "a client opens about %s connections from one local address to one server; servers "
         "need one port for all. `pier load` uses more local addresses on loopback",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_time_wait(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    mean(limit,
         "closed connections that are remembered for a minute: above about %s closes per "
         "second some are forgotten early",
         doctor_format_number(text, limit->numbers[0] / 60));
}

void doctor_explain_watches(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_MACHINE, limit->numbers[0]);
    mean(limit,
         "registrations with epoll of one user, one for each connection: about %s "
         "connections on the epoll backend",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_locked(struct doctor_limit *limit)
{
    mean(limit, "memory that a user may lock; before Linux 5.12 the rings of io_uring counted, "
                "about 64 KiB for each loop");
}

void doctor_explain_processes(struct doctor_limit *limit)
{
    mean(limit, "processes and threads of one user together; a server needs one thread for each "
                "loop, about one loop for each CPU");
}

void doctor_explain_threads(struct doctor_limit *limit)
{
    mean(limit, "threads of all processes together");
}

void doctor_explain_process_numbers(struct doctor_limit *limit)
{
    mean(limit, "process numbers, of which each thread takes one");
}

void doctor_explain_tracking(struct doctor_limit *limit)
{
    uint64_t used[3] = {0, 0, 0};
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    doctor_read_setting("net.netfilter.nf_conntrack_count", used);
    count(limit, DOCTOR_MACHINE, minus(limit->numbers[0], used[0]));
    mean(limit,
         "connections that the packet filter keeps track of, %s now: about %s more, then new "
         "ones are dropped (\"table full\" in the kernel's log)",
         doctor_format_number(text, used[0]), doctor_format_number(more, limit->connections));
}

void doctor_explain_sockets(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_MACHINE, limit->numbers[0]);
    mean(limit, "sockets of all processes together: about %s connections",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_files_process(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit, "open files of a process whatever its own limit says: about %s connections",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_memory(struct doctor_limit *limit)
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
         doctor_format_bytes(each, memory), doctor_format_number(text, limit->connections));
}

/* ---- Linux ---- */

void doctor_explain_group_processes(struct doctor_limit *limit)
{
    uint64_t used = 0;
    char text[TOOL_TEXT_MAX];
    bool known = doctor_read_group(DOCTOR_GROUP_PROCESSES_USED, &used) == DOCTOR_FOUND;
    mean(limit,
         "processes and threads that the control group may have together, %s of them now; a server "
         "needs one thread for each loop, and beyond the limit none can be started",
         known ? doctor_format_number(text, used) : "an unknown number");
}

void doctor_explain_swap(struct doctor_limit *limit)
{
    mean(limit,
         "the kernel's own memory of a connection can't go there, only what the server keeps "
         "for it: the number of connections that fit doesn't count on it");
}

void doctor_explain_group_swap(struct doctor_limit *limit)
{
    mean(limit, "what processes of the control group may have in the swap space, beside their "
                "memory");
}

void doctor_explain_overcommit(struct doctor_limit *limit)
{
    static const char *const modes[] = {
        "the kernel promises more memory than there is, as long as it isn't obviously too much: "
        "when it comes to use, a server may be killed, and isn't told before",
        "the kernel promises any amount of memory: when it comes to use, a server may be killed, "
        "and isn't told before",
        "the kernel promises no more than the limit of committed memory: beyond it loops, buffers "
        "and threads are refused, though memory may be free",
    };
    mean(limit, "%s",
         limit->numbers[0] < 3 ? modes[limit->numbers[0]] : "a mode that pier doesn't know");
}

void doctor_explain_uring_disabled(struct doctor_limit *limit)
{
    static const char *const modes[] = {
        "every process may use io_uring, as far as its sandbox allows",
        "only processes with CAP_SYS_ADMIN and those of kernel.io_uring_group may use io_uring",
        "no process may use io_uring",
    };
    mean(limit, "%s",
         limit->numbers[0] < 3 ? modes[limit->numbers[0]] : "a mode that pier doesn't know");
}

void doctor_explain_uring_group(struct doctor_limit *limit)
{
    uint64_t mode[3] = {0, 0, 0};
    doctor_read_setting("kernel.io_uring_disabled", mode);
    if (mode[0] != 1) {
        mean(limit, "whose processes may use io_uring when kernel.io_uring_disabled is 1, which it "
                    "isn't");
    } else {
        mean(limit,
             "whose processes may use io_uring, while kernel.io_uring_disabled is 1: this "
             "one is%s of it",
             doctor_is_in_group(limit->numbers[0]) ? "" : " not");
    }
}

/* ---- Windows ---- */

void doctor_explain_handles(struct doctor_limit *limit)
{
    char text[TOOL_TEXT_MAX];
    count(limit, DOCTOR_PROCESS, minus(limit->numbers[0], SPARE_DESCRIPTORS));
    mean(limit,
         "the size of a process's table of handles: about %s connections, one handle for each",
         doctor_format_number(text, limit->connections));
}

void doctor_explain_commit(struct doctor_limit *limit)
{
    uint64_t used[3] = {0, 0, 0};
    char text[TOOL_TEXT_MAX];
    doctor_read_setting("committed memory", used);
    mean(limit,
         "memory and swap space that may be promised to programs together, %s of it promised: "
         "beyond the limit nobody gets any more",
         doctor_format_bytes(text, used[0]));
}
