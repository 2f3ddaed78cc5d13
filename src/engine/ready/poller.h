/* poller.h - the contract between the readiness engine and a poller.
 *
 * A poller tells which descriptors are ready, through pier__ready_event(); all else is the
 * engine's. Pollers (epoll.c, kqueue.c, poll.c, select.c) have the same functions in the same
 * order, so that two can be read side by side. */

#ifndef PIER_ENGINE_READY_POLLER_H
#define PIER_ENGINE_READY_POLLER_H

#include "core/handle.h"

/* How a poller tells of changes, and what may be asked of it. */
enum pier__poller_mode {
    PIER__POLLER_EDGE,  /* told once per change; interest is only ever added */
    PIER__POLLER_LEVEL, /* told as long as it holds; interest is taken back when nobody wants it */
    PIER__POLLER_ONE_SHOT /* told once, then the interest is gone until set again */
};

/* Interest and readiness. The values are those of Linux' poll and epoll, so that those two
 * translate nothing. */
enum {
    PIER__READ = 0x001,
    PIER__PRIORITY = 0x002,
    PIER__WRITE = 0x004,
    PIER__ERROR = 0x008,
    PIER__HANGUP = 0x010,
    PIER__QUIET = 0x008,     /* in interest only: told of changes, or at a slow pace, whatever the
                              * loop's mode: an error that stays would be told of for ever */
    PIER__INVALID = 0x020,   /* in events only: not an open descriptor */
    PIER__EXCLUSIVE = 0x020, /* in interest only: wake one of the waiters of a shared descriptor */
    PIER__LEVEL = 0x040,     /* in interest only: level-triggered whatever the loop's mode */
    PIER__ONCE = 0x080,      /* in interest only, with that: may be told of once, and then is told
                                again */
    PIER__PEER_ENDED = 0x2000
};

/* How often a poller that knows levels only asks for what it can't wait for. */
#define PIER__PACE (10 * PIER_MILLISECOND)

/* A readiness kernel. Keys are (generation << 32 | slot); wait() calls pier__ready_event() for each
 * event. Its backend struct, made by PIER__READY_ENGINE (ready.h), stands at the end of its file.
 */
struct pier__poller {
    bool close_removes; /* closing a descriptor that nobody shares takes it out of the interest set
                         */
    bool hides_errors;  /* tells of an error as of readiness */
    int (*open)(struct pier_loop *loop, const struct pier_loop_options *options);
    void (*close)(struct pier_loop *loop);
    enum pier__poller_mode (*mode)(enum pier_trigger trigger);
    /* Changes what the descriptor is watched for, from `old` to `interest` (0: not at all). Returns
     * 0, PIER_EPERM when the descriptor can't be watched because it's always ready, or another
     * PIER_E*. */
    int (*set)(struct pier_loop *loop, pier_descriptor descriptor, uint64_t key, unsigned old,
               unsigned interest);
    void (*wait)(struct pier_loop *loop, uint64_t timeout_ns);
    void (*wake)(struct pier_loop *loop);
    /* Hands collected changes to the kernel: a foreign loop is going to wait. May be NULL. */
    void (*flush)(struct pier_loop *loop);
    pier_descriptor (*descriptor)(struct pier_loop *loop);
    int (*after_fork)(struct pier_loop *loop);
};

/* A key for a kernel that keeps a pointer. Where that has 32 bits, the low ones of the generation
 * stand above 22 of the slot: enough to tell 1,024 handles that had the slot apart, within one
 * batch of events. */
#define PIER__PACKED_SLOT_BITS 22
#define PIER__NO_KEY UINTPTR_MAX /* what no key is packed to */

/* PIER__NO_KEY when the slot doesn't fit. */
static inline uintptr_t pier__key_pack(uint64_t key)
{
    if (sizeof(uintptr_t) == sizeof(key)) {
        return (uintptr_t)key;
    }
    const uint32_t slots = (1u << PIER__PACKED_SLOT_BITS) - 1;
    return (uint32_t)key < slots ? (uintptr_t)(key >> 32 << PIER__PACKED_SLOT_BITS | (uint32_t)key)
                                 : PIER__NO_KEY;
}

/* The key again; one that no handle has if the handle is gone. */
static inline uint64_t pier__key_unpack(const struct pier_loop *loop, uintptr_t packed)
{
    if (sizeof(packed) == sizeof(uint64_t)) {
        return packed;
    }
    uint32_t slot = (uint32_t)packed & ((1u << PIER__PACKED_SLOT_BITS) - 1);
    uint64_t key = pier__slot_key(loop, slot);
    return pier__key_pack(key) == packed ? key : ((key >> 32) + 1) << 32 | slot;
}

/* What a probe returns that has tried to wait: `bits`, or PIER_ENOTSUP where the kernel or a
 * sandbox refuses that call. What else may go wrong, as memory that is short, is the first run's to
 * report. */
int pier__poller_probed(const char *call, int error, int bits);

#endif
