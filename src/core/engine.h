/* engine.h - the two contracts below the core.
 *
 * struct pier__engine is what the core calls: it runs operations to completion. uring and iocp
 * implement it on their kernels' own completions; ready.c implements it once for all readiness
 * kernels, on top of struct pier__poller.
 *
 * What a backend may rely on: per handle and direction it is given one op at a time, the head of
 * that direction's queue, in state PIER__ACTIVE; the next is started by pier__op_finish(). What it
 * owes: pier__op_finish() exactly once for each op started, also after cancel; never a callback
 * from inside start, cancel or close (they may call pier__op_finish(), which queues); in wait() it
 * may deliver directly with pier__op_event() and pier__op_finish_now().
 *
 * docs/porting.md walks through both contracts for somebody who adds a backend. */

#ifndef PIER_CORE_ENGINE_H
#define PIER_CORE_ENGINE_H

#include "pier/pier.h"

enum { PIER__RECEIVING, PIER__SENDING };

/* What runs the ops of a handle. A table per kind of handle, so that a filter can stand between a
 * handle and the backend. */
struct pier_handle_calls {
    /* `op` is the head of its direction: run it. */
    void (*start)(struct pier_handle *handle, struct pier_op *op);
    /* End the started op soon; op->reason_ says why, pier__op_reason() is the result unless the
     * real outcome was first. */
    void (*cancel)(struct pier_handle *handle, struct pier_op *op);
    /* A send into an empty queue of a handle that the backend has marked PIER__PLAIN_SENDS; fn,
     * data and size are in the op, which isn't in flight yet. Either the send is over on return and
     * silent, with its result in the op, or pier__op_begin_send() was called. */
    void (*send)(struct pier_handle *handle, struct pier_op *op);
    /* A started multishot op was resumed. Of a pause nobody is told: whoever has an event for an op
     * that is PIER__PAUSED holds it. */
    void (*resume)(struct pier_handle *handle, struct pier_op *op);
};

struct pier__poller;

struct pier__engine {
    const char *name;
    struct pier_handle_calls calls;
    bool nonblocking;                  /* wants O_NONBLOCK on the sockets it owns */
    const struct pier__poller *poller; /* of a readiness backend */

    /* PIER_CAN_* bits, or a negative PIER_E* with detail when it can't run here. Tries for real. */
    int (*probe)(void);
    int (*open)(struct pier_loop *loop, const struct pier_loop_options *options);
    void (*close)(struct pier_loop *loop);

    /* A descriptor became a handle of the loop, or is leaving it alive with nothing in flight.
     * attach may fail. */
    int (*attach)(struct pier_handle *handle);
    void (*detach)(struct pier_handle *handle);
    /* Nothing is in flight on the handle any more: close its descriptor, then call
     * pier__handle_closed(), now or later in wait(). */
    void (*shut)(struct pier_handle *handle);

    /* Runs what the kernel has, sleeping up to timeout_ns (0: not at all) if there is nothing. */
    void (*wait)(struct pier_loop *loop, uint64_t timeout_ns);
    /* Ends a sleep of wait(). From any thread and from signal handlers; called only when the loop
     * sleeps or is about to. open() may set loop->wake to something shorter, and
     * loop->wake_descriptor for it: all else in the loop is in cache lines that its thread writes.
     */
    void (*wake)(struct pier_loop *loop);
    /* Whether there is work that wait() must not sleep on, besides loop->ready. May be NULL. */
    bool (*busy)(struct pier_loop *loop);

    /* Hands over what is still on its way to the kernel: the loop won't wait, a foreign one does.
     * May be NULL. */
    void (*flush)(struct pier_loop *loop);

    /* pier_poll(). poll_cancel leaves nothing in the kernel and finishes the op. */
    void (*poll_start)(struct pier_loop *loop, struct pier_op *op);
    void (*poll_cancel)(struct pier_loop *loop, struct pier_op *op);
    void (*poll_pause)(struct pier_loop *loop, struct pier_op *op);
    void (*poll_resume)(struct pier_loop *loop, struct pier_op *op);

    /* A handle given to pier__loop_starve() may try again. */
    void (*retry)(struct pier_handle *handle);
    /* A lent buffer has no reference left; returns false to have the pool keep it. */
    bool (*buffer_returned)(struct pier_loop *loop, uint32_t index);

    pier_descriptor (*descriptor)(struct pier_loop *loop);
    int (*after_fork)(struct pier_loop *loop);
};

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
    PIER__INVALID = 0x020,   /* in events only: not an open descriptor */
    PIER__EXCLUSIVE = 0x020, /* in interest only: wake one of the waiters of a shared descriptor */
    PIER__LEVEL = 0x040,     /* in interest only: level-triggered whatever the loop's mode */
    PIER__ONCE = 0x080,      /* in interest only, with that: may be told of once, and then is told
                                again */
    PIER__PEER_ENDED = 0x2000
};

/* A readiness kernel. Keys are (generation << 32 | slot); wait() calls pier__ready_event() for each
 * event. Its backend struct, made by PIER__READY_ENGINE (ready.h), stands at the end of its file.
 */
struct pier__poller {
    bool close_removes; /* closing a descriptor that nobody shares takes it out of the interest set
                         */
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

extern const struct pier__engine pier__uring_engine;
extern const struct pier__engine pier__epoll_engine;
extern const struct pier__engine pier__kqueue_engine;
extern const struct pier__engine pier__iocp_engine;
extern const struct pier__engine pier__poll_engine;
extern const struct pier__engine pier__select_engine;

/* registry.c */
const struct pier__engine *pier__engine_find(const char *name);
int pier__engine_choose(const char *name, const struct pier__engine **chosen);

#endif
