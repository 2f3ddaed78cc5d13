/* SPDX-License-Identifier: MIT */
/* doctor.h - what the parts of `pier doctor` share.
 *
 * doctor.c prints; doctor_backends.c asks the library which backends work; doctor_uring.c asks the
 * kernel what io_uring can do; doctor_limits.c has the table of limits, doctor_explain.c what each
 * of them means.
 * What differs from system to system is reading settings: doctor_system.c is for POSIX systems,
 * doctor_windows.c for Windows. */

#ifndef PIER_TOOL_DOCTOR_H
#define PIER_TOOL_DOCTOR_H

#include "pier.h"

enum {
    DOCTOR_VALUE_MAX = 96,
    DOCTOR_TEXT_MAX = 320,
    DOCTOR_FEATURES_MAX = 24,
    DOCTOR_BACKENDS_MAX = 8,
    DOCTOR_LIMITS_MAX = 48
};

/* ---- the system ---- */

struct doctor_system {
    char name[DOCTOR_VALUE_MAX];      /* "Linux 6.1.0 x86_64" */
    char processor[DOCTOR_VALUE_MAX]; /* empty: not known */
    unsigned processors;              /* that this process may run on */
    int seccomp;                      /* filters on this process: 0 none, -1 not known */
    char container[DOCTOR_VALUE_MAX]; /* what shows that this is a container, or empty */
};

void doctor_system_describe(struct doctor_system *system);

/* Up to 3 numbers of a setting, as the system keeps it; `name` is the system's own, with dots, or
 * words where the system has no names for such things. Returns how many there are: 0 when the
 * setting does not exist or can't be read. */
size_t doctor_read_setting(const char *name, uint64_t values[3]);

enum doctor_resource { DOCTOR_OPEN_FILES, DOCTOR_LOCKED_MEMORY, DOCTOR_PROCESSES };

/* A limit of this process; UINT64_MAX: unlimited. False where the system has none such. */
bool doctor_read_resource(enum doctor_resource resource, uint64_t *soft, uint64_t *hard);

/* Bytes of a page of memory. */
uint64_t doctor_page_size(void);

/* Whether this process can read settings at all. */
bool doctor_settings_readable(void);

/* What came of reading a limit: it has a value, there is no such limit here, or there may be one
 * but this process can't see it. */
enum doctor_reading { DOCTOR_FOUND, DOCTOR_NONE, DOCTOR_UNKNOWN };

/* The memory that the machine has, in bytes; false when that isn't known. */
bool doctor_read_memory(uint64_t *bytes);

/* What the control group of this process, and those it is part of, allow. DOCTOR_NONE: no limit, or
 * none below what the machine has. */
enum doctor_group_value {
    DOCTOR_GROUP_MEMORY,
    DOCTOR_GROUP_SWAP,
    DOCTOR_GROUP_PROCESSES,
    DOCTOR_GROUP_PROCESSES_USED /* of the group itself: how many there are */
};
enum doctor_reading doctor_read_group(enum doctor_group_value value, uint64_t *number);

/* Whether this process is in a group of users, by its number. */
bool doctor_is_in_group(uint64_t group);

/* Bytes of kernel and process that an idle connection takes, as measured on this system; 0 where
 * nobody has measured it. */
uint64_t doctor_connection_memory(void);

/* What addresses that begin with unix: are on this system. */
const char *doctor_unix_form(void);

/* ---- backends ---- */

struct doctor_feature {
    const char *name;
    bool works;
    bool is_common;   /* other backends may have it too: a PIER_CAN_* bit */
    const char *text; /* what it is, and what is done without it */
};

struct doctor_backend {
    const char *name;
    bool works;
    char reason[DOCTOR_TEXT_MAX]; /* why it doesn't work */
    char remedy[DOCTOR_TEXT_MAX]; /* and what would help, or empty */
    struct doctor_feature features[DOCTOR_FEATURES_MAX];
    size_t features_count;
};

/* Fills in all backends that pier has on any system, those of this build first, best first. */
size_t doctor_backends(struct doctor_backend backends[DOCTOR_BACKENDS_MAX],
                       const struct doctor_system *system);

/* The features of io_uring that pier builds on; none where there is no io_uring. */
size_t doctor_uring_features(struct doctor_feature *features, size_t features_max);

/* ---- limits ---- */

/* Whom a number of connections holds for. */
enum doctor_scope {
    DOCTOR_NO_COUNT, /* the limit is not one of connections */
    DOCTOR_PROCESS,
    DOCTOR_MACHINE, /* all processes together */
    DOCTOR_CLIENT   /* connections that are opened here, from one address to one server */
};

struct doctor_limit {
    const char *name;             /* as the system calls it */
    const char *title;            /* for people */
    char value[DOCTOR_VALUE_MAX]; /* for people, with its unit */
    uint64_t numbers[3];          /* UINT64_MAX: unlimited */
    size_t numbers_count;
    const char *unit;
    enum doctor_scope scope;
    uint64_t connections; /* about so many; UINT64_MAX: no limit */
    bool unknown;         /* it can't be read; has no numbers then */
    char meaning[DOCTOR_TEXT_MAX];
    char remedy[DOCTOR_TEXT_MAX];
};

size_t doctor_limits(struct doctor_limit limits[DOCTOR_LIMITS_MAX]);

#endif
