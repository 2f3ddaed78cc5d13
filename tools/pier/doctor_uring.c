/* SPDX-License-Identifier: MIT */
/* doctor_uring.c - asks the kernel which features of io_uring it has, for `pier doctor`.
 *
 * Rings are made for real, with the flags in question, and thrown away: what a kernel or sandbox
 * allows can't be told from its version. Multishot requests alone have no probe; they came in the
 * same release as an opcode that does. The system calls are made by number and the constants given
 * here, so that the answer doesn't depend on the headers that pier was built with. */

#include "doctor.h"

#if defined(__linux__)

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_register 427
#endif

enum {
    SETUP_COOPERATIVE = 1 << 8,
    SETUP_SINGLE_ISSUER = 1 << 12,
    SETUP_DEFER = 1 << 13,
    REGISTER_PROBE = 8,
    REGISTER_BUFFER_RING = 22,
    REGISTER_RING_DESCRIPTORS = 20,
    REGISTER_SEND_MESSAGE = 31,
    OPCODE_MESSAGE = 40,
    OPCODE_SOCKET = 45,
    OPCODE_SEND_ZERO_COPY = 47,
    PAGE = 4096
};

/* struct io_uring_params of the kernel. */
struct parameters {
    uint32_t submissions, completions, flags, thread_cpu, thread_idle, features, queue, reserved[3];
    uint64_t offsets[10];
};

static int make_ring(uint32_t flags)
{
    struct parameters parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.flags = flags;
    return (int)syscall(SYS_io_uring_setup, 4, &parameters);
}

static bool allows_setup(uint32_t flags)
{
    int ring = make_ring(flags);
    if (ring >= 0) {
        close(ring);
    }
    return ring >= 0;
}

/* The highest opcode that the kernel knows. */
static unsigned last_opcode(int ring)
{
    struct {
        uint8_t last, count;
        uint16_t reserved[7];
        struct {
            uint8_t opcode, reserved;
            uint16_t flags;
            uint32_t more;
        } opcodes[64];
    } probe;
    memset(&probe, 0, sizeof(probe));
    return syscall(SYS_io_uring_register, ring, REGISTER_PROBE, &probe, 64) == 0 ? probe.last : 0;
}

static bool allows_buffer_ring(int ring)
{
    struct {
        uint64_t address;
        uint32_t entries;
        uint16_t group, flags;
        uint64_t reserved[3];
    } registration;
    void *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return false;
    }
    memset(&registration, 0, sizeof(registration));
    registration.address = (uint64_t)(uintptr_t)memory;
    registration.entries = 8;
    bool works = syscall(SYS_io_uring_register, ring, REGISTER_BUFFER_RING, &registration, 1) == 0;
    munmap(memory, PAGE);
    return works;
}

static bool allows_ring_descriptor(int ring)
{
    struct {
        uint32_t offset, reserved;
        uint64_t descriptor;
    } update = {.offset = UINT32_MAX, .descriptor = (uint64_t)ring};
    return syscall(SYS_io_uring_register, ring, REGISTER_RING_DESCRIPTORS, &update, 1) == 1;
}

/* A message to a ring from a thread that has none. */
static bool allows_message(int ring)
{
    struct {
        uint8_t opcode, flags;
        uint16_t priority;
        int32_t descriptor;
        uint64_t user_data;
        uint64_t rest[6];
    } request;
    memset(&request, 0, sizeof(request));
    request.opcode = OPCODE_MESSAGE;
    request.descriptor = ring;
    return syscall(SYS_io_uring_register, -1, REGISTER_SEND_MESSAGE, &request, 1) >= 0;
}

size_t doctor_uring_features(struct doctor_feature *features, size_t features_max)
{
    int ring = make_ring(0);
    if (ring < 0) {
        return 0;
    }
    unsigned last = last_opcode(ring);
    const struct doctor_feature found[] = {
        {"multishot accept", last >= OPCODE_SOCKET, false,
         "one request for many connections, from Linux 5.19; else one for each"},
        {"multishot receive", last >= OPCODE_SEND_ZERO_COPY, false,
         "one request for all that a peer sends, from 6.0; else one for each"},
        {"provided buffer ring", allows_buffer_ring(ring), false,
         "memory is bound when data arrives, from 5.19"},
        {"deferred task work", allows_setup(SETUP_SINGLE_ISSUER | SETUP_DEFER), false,
         "completions come in batches, when the loop asks, from 6.1"},
        {"cooperative task work", allows_setup(SETUP_COOPERATIVE), false,
         "the step below deferred, from 5.19"},
        {"registered ring", allows_ring_descriptor(ring), false,
         "spares looking up the ring in each system call, from 5.18"},
        {"message from any thread", allows_message(ring), false,
         "wakes a loop, from 6.13; else an eventfd does"},
    };
    close(ring);
    size_t count = sizeof(found) / sizeof(found[0]);
    count = count < features_max ? count : features_max;
    memcpy(features, found, count * sizeof(found[0]));
    return count;
}

#else

size_t doctor_uring_features(struct doctor_feature *features, size_t features_max)
{
    (void)features;
    (void)features_max;
    return 0;
}

#endif
