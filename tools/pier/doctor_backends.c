/* SPDX-License-Identifier: MIT */
/* doctor_backends.c - which backends work here, with which features, and why others don't.
 *
 * The library's probe decides, since a program that uses pier gets the same answer; what stands in
 * the way is explained from what the system says about itself. */

#include "doctor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    unsigned bit;
    const char *name, *text;
} capabilities[] = {
    {PIER_CAN_COMPLETE, "completion",
     "the kernel carries out operations; else pier, when told of readiness"},
    {PIER_CAN_BIND_LATE, "late binding", "an idle receive holds no buffer"},
    {PIER_CAN_UNIX, "unix sockets", NULL}, /* doctor_unix_form() */
    {PIER_CAN_ABSTRACT, "abstract names", "addresses that begin with unix:@"},
    {PIER_CAN_SHARE_PORT, "shared port", "the kernel balances listeners on one port"},
    {PIER_CAN_EXCLUSIVE, "exclusive wake-up",
     "of threads that share a listener one wakes; else all do"},
    {PIER_CAN_POLL, "foreign descriptors", "pier_poll(), for libraries with sockets of their own"},
    {PIER_CAN_EMBED, "embedding", "pier_loop_descriptor(): the loop runs inside another"},
    {PIER_CAN_FORK, "fork", "pier_loop_after_fork()"},
};

/* The backends that pier has, and where. */
static const struct {
    const char *name, *systems;
    bool here;
} known[] = {
#if defined(__linux__)
    {"uring", "Linux", true},
    {"epoll", "Linux", true},
#else
    {"uring", "Linux", false},
    {"epoll", "Linux", false},
#endif
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || \
    defined(__DragonFly__)
    {"kqueue", "macOS and the BSDs", true},
#else
    {"kqueue", "macOS and the BSDs", false},
#endif
#if defined(_WIN32)
    {"iocp", "Windows", true},
    {"poll", "POSIX systems", false},
    {"select", "POSIX systems", false},
#else
    {"iocp", "Windows", false},
    {"poll", "POSIX systems", true},
    {"select", "POSIX systems", true},
#endif
};

static void add_feature(struct doctor_backend *backend, const char *name, bool works,
                        const char *text)
{
    if (backend->features_count < DOCTOR_FEATURES_MAX) {
        backend->features[backend->features_count++] = (struct doctor_feature){name, works, true,
                                                                               text};
    }
}

static void add_remedy(struct doctor_backend *backend, const struct doctor_system *system)
{
    uint64_t values[3];
    if (strcmp(backend->name, "uring") != 0) {
        return;
    }
    if (doctor_read_setting("kernel.io_uring_disabled", values) > 0 && values[0] > 0) {
        snprintf(backend->remedy, sizeof(backend->remedy), "sysctl -w kernel.io_uring_disabled=0%s",
                 values[0] == 1 ? ", or join the group that kernel.io_uring_group names" : "");
    } else if (system->seccomp > 0) {
        snprintf(backend->remedy, sizeof(backend->remedy),
                 "this process runs under %d seccomp filter%s: one that allows io_uring_setup, "
                 "io_uring_enter and io_uring_register (docker: --security-opt seccomp=PROFILE)",
                 system->seccomp, system->seccomp > 1 ? "s" : "");
    }
}

static void examine(struct doctor_backend *backend, const struct doctor_system *system)
{
    int bits = pier_backend_probe(backend->name);
    backend->works = bits >= 0;
    if (!backend->works) {
        snprintf(backend->reason, sizeof(backend->reason), "%s", pier_error_detail());
        add_remedy(backend, system);
        return;
    }
    for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++) {
        bool is_unix = capabilities[i].bit == PIER_CAN_UNIX;
        add_feature(backend, capabilities[i].name, ((unsigned)bits & capabilities[i].bit) != 0,
                    is_unix ? doctor_unix_form() : capabilities[i].text);
    }
    add_feature(backend, "edge, level, one-shot", strcmp(backend->name, "epoll") == 0,
                "pier_loop_options.trigger chooses; others have one way");
    if (strcmp(backend->name, "uring") == 0) {
        backend->features_count += doctor_uring_features(
            backend->features + backend->features_count,
            DOCTOR_FEATURES_MAX - backend->features_count);
    }
}

static bool is_built_in(const char *name)
{
    for (size_t i = 0; pier_backend_name(i) != NULL; i++) {
        if (strcmp(pier_backend_name(i), name) == 0) {
            return true;
        }
    }
    return false;
}

size_t doctor_backends(struct doctor_backend backends[DOCTOR_BACKENDS_MAX],
                       const struct doctor_system *system)
{
    size_t count = 0;
    memset(backends, 0, DOCTOR_BACKENDS_MAX * sizeof(*backends));
    for (size_t i = 0; pier_backend_name(i) != NULL && count < DOCTOR_BACKENDS_MAX; i++) {
        backends[count].name = pier_backend_name(i);
        examine(&backends[count++], system);
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && count < DOCTOR_BACKENDS_MAX; i++) {
        if (is_built_in(known[i].name)) {
            continue;
        }
        struct doctor_backend *backend = &backends[count++];
        backend->name = known[i].name;
        snprintf(backend->reason, sizeof(backend->reason), "%s%s",
                 known[i].here ? "left out of this build" : "only on ",
                 known[i].here ? "" : known[i].systems);
        if (known[i].here && strcmp(known[i].name, "uring") == 0) {
            snprintf(backend->remedy, sizeof(backend->remedy),
                     "install liburing 2.3 or later and build pier again");
        }
    }
    return count;
}
