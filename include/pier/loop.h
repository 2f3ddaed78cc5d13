/* loop.h - the loop: making, running, stopping and freeing one, and what it can tell. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_LOOP_H
#define PIER_LOOP_H

#ifdef __cplusplus
extern "C" {
#endif

/* How a readiness backend watches its handles. Only epoll has all three; other backends ignore the
 * setting. */
enum pier_trigger {
    PIER_EDGE_TRIGGERED, /* registered once, told of changes: the default */
    PIER_LEVEL_TRIGGERED,
    PIER_ONE_SHOT
};

/* Memory for everything a loop allocates. Modelled on Lua's lua_Alloc: size 0 frees, memory NULL
 * allocates; returns NULL when there is none. Called on the loop's thread only. */
typedef void *pier_allocate_fn(void *context, void *memory, size_t old_size, size_t new_size);

/* Called after a completion that took options.slow_callback_ns or longer; `fn` is the completion
 * that was slow. Close functions aren't timed. */
typedef void pier_slow_fn(void *context, struct pier_loop *loop, pier_op_fn *fn, uint64_t took_ns);

/* Set-up of a loop. All zero means the default of each field. */
struct pier_loop_options {
    /* "uring", "epoll", "kqueue", "iocp", "poll", "select"; NULL or "": the environment's
     * PIER_BACKEND, else the best one that this kernel and sandbox allow. */
    const char *backend;
    enum pier_trigger trigger; /* readiness backends */
    uint32_t
        queue_size; /* entries of the submission queue or of one wait, 1 to 32768; default 256 */
    uint32_t receives_max;  /* receives per handle and turn before others have theirs, up to 65535;
                             * default 16 */
    uint32_t callbacks_max; /* callbacks per turn before the kernel is asked again, up to 2^30;
                             * default 1024 */
    /* Bytes of a lent buffer, 64 to 16 MiB, and so the most that one event of a lent receive
     * brings. Default 20480: room for 16 KiB, or for a whole TLS record, and then some, which shows
     * that it's all. Only with the default a stream that keeps its buffers full is lent larger
     * ones, of 163,840 bytes, each of which counts as eight; after a pause they are small again. */
    uint32_t buffer_size;
    /* Lent buffers that uring hands to the kernel in advance, from the first lent receive on: up to
     * buffers_max; default 64. When they are too few it hands over more. Other backends make
     * buffers as they need them. */
    uint32_t buffers_min;
    /* Lent buffers that may be out when a handle asks for its second or a further one: up to 32768;
     * default 1024. */
    uint32_t buffers_max;
    /* One handle may hold 1/share of buffers_max: up to 32768; default 8. Once less than half of
     * buffers_max is free, the share shrinks with it. */
    uint32_t buffer_share;
    /* Lent buffers at the most. A handle that holds none gets its first one also beyond
     * buffers_max, so that peers that stall don't keep others waiting. At least buffers_max; on
     * uring those that the kernel has in advance count as well. 0, the default: as many as
     * buffers_max and the open handles together. */
    uint32_t buffers_hard_max;
    uint64_t retry_ns; /* how long accept and receive pause when the system is out of descriptors or
                        * memory, unless something is released before; default 100 ms */
    pier_allocate_fn *allocate; /* NULL: malloc, realloc and free */
    void *allocate_context;
    uint64_t slow_callback_ns; /* 0: callbacks aren't timed */
    pier_slow_fn *slow_callback;
    void *slow_context;
};

/* What the caller was built against; pier_loop_new() passes it, so that a library with other sizes
 * says so. `size` is that of the struct itself. */
struct pier_abi {
    uint32_t size, version, op_size, handle_size, options_size;
};

/* Makes a loop as pier_loop_new() does, for a caller compiled with the sizes in `abi`; PIER_EINVAL
 * when they aren't the library's. */
PIER_API int pier_loop_new_for(struct pier_loop **loop, const struct pier_loop_options *options,
                               const struct pier_abi *abi);

/* Makes a loop. `options` may be NULL. Returns 0 and sets *loop, or a negative PIER_E*: PIER_EINVAL
 * (an option out of range, an unknown backend), PIER_ENOTSUP (the backend asked for isn't to be had
 * here), PIER_ENOMEM, PIER_EMFILE; pier_error_detail() has the reason in one line. A loop takes no
 * thread until its first run: it may be made and filled on one thread and run on another. */
PIER_INLINE int pier_loop_new(struct pier_loop **loop, const struct pier_loop_options *options)
{
    const struct pier_abi abi = {
        sizeof(struct pier_abi), PIER_VERSION_MAJOR * 1000 + PIER_VERSION_MINOR,
        sizeof(struct pier_op), sizeof(struct pier_handle), sizeof(struct pier_loop_options)};
    return pier_loop_new_for(loop, options, &abi);
}

/* Frees a loop. All its ops must have completed, all handles be closed or detached
 * (pier_loop_drain() does both), and all kept buffers be released; anything else is misuse. NULL is
 * allowed. On the loop's thread or, once that has ended, by whoever joined it. A post, notification
 * or wake-up of another thread that has begun is waited for; none may begin any more. */
PIER_API void pier_loop_free(struct pier_loop *loop);

enum pier_run {
    PIER_RUN_UNTIL_IDLE, /* until no op is in flight but background ones, or pier_loop_stop() */
    PIER_RUN_ONCE,       /* one turn; sleeps until something happens. That needn't be a completion:
                          * it may be pier_wake(), or an event that leads to none. */
    PIER_RUN_NO_WAIT     /* one turn; doesn't wait */
};

/* Runs completions on this thread, to which the first call binds the loop. Returns 1 when there is
 * more to run, 0 when nothing is in flight but background ops, PIER_EFORKED in the child of a fork
 * (see pier_loop_after_fork), or a negative PIER_E* when the backend itself failed. Nothing is lost
 * by that: where memory was short for a moment, another call goes on. Must not be called from a
 * callback. */
PIER_API int pier_loop_run(struct pier_loop *loop, enum pier_run mode);

/* Makes the current pier_loop_run() return after its turn; when none runs, the next one makes one
 * turn without sleeping. Everything is left as it is. From any thread and from signal handlers. */
PIER_API void pier_loop_stop(struct pier_loop *loop);

/* Ends everything: cancels ops, closes handles, and runs until nothing is left. Ops are cancelled
 * first, and complete with PIER_ECANCELED or their real outcome. So the program's own completions
 * run before any handle is closed for it: they may close theirs, with the functions that free them.
 * What is still open once nothing is in flight is closed then, without a function. Ops that
 * callbacks submit meanwhile are cancelled too; a program that goes on submitting has its handles
 * closed after some rounds. A graceful close that is under way is closed at once. Kept buffers stay
 * the program's to release.
 *
 * Returns 0; PIER_ETIMEDOUT after timeout_ns, with the rest still in flight; or what
 * pier_loop_run() failed with: call it again then, or report it. Must not be called from a
 * callback. On the loop's thread or, once that has ended, by whoever joined it: the loop is that
 * thread's from then on. */
PIER_API int pier_loop_drain(struct pier_loop *loop, uint64_t timeout_ns);

/* The loop's clock in nanoseconds: monotonic, its start unspecified, read no earlier than the start
 * of the running callback. */
PIER_API uint64_t pier_loop_now(struct pier_loop *loop);

/* Notes a pointer of the program's with the loop, for pier_loop_user(). pier doesn't look at it. */
PIER_API void pier_loop_set_user(struct pier_loop *loop, void *user);

/* What pier_loop_set_user() has noted last; NULL at first. */
PIER_API void *pier_loop_user(const struct pier_loop *loop);

/* Takes a handle of pier_loop_each_handle(). */
typedef void pier_each_handle_fn(void *context, struct pier_handle *handle);

/* Calls fn for each handle of the loop that is open and not closing, in no particular order, and
 * returns. The function may close or detach that handle and others; those aren't called for any
 * more. It may open handles: whether they are called for as well isn't said. A handle has no
 * pointer of the program's in it: PIER_OWNER() leads to the struct that it is in. */
PIER_API void pier_loop_each_handle(struct pier_loop *loop, pier_each_handle_fn *fn, void *context);

/* The backend in use: "uring", "epoll", and so on. The text is static. */
PIER_API const char *pier_loop_backend(const struct pier_loop *loop);

/* What the backend can do. */
enum {
    PIER_CAN_COMPLETE = 1 << 0,   /* the kernel runs operations itself (uring, iocp) */
    PIER_CAN_BIND_LATE = 1 << 1,  /* idle receives hold no buffer */
    PIER_CAN_UNIX = 1 << 2,       /* Unix-domain addresses; on Windows named pipes, perhaps */
    PIER_CAN_ABSTRACT = 1 << 3,   /* abstract Unix-domain addresses */
    PIER_CAN_SHARE_PORT = 1 << 4, /* SO_REUSEPORT balances connections between listeners */
    PIER_CAN_EXCLUSIVE = 1 << 5,  /* a shared listener wakes one waiter only */
    PIER_CAN_POLL = 1 << 6,       /* pier_poll() */
    PIER_CAN_EMBED = 1 << 7,      /* pier_loop_descriptor() */
    PIER_CAN_FORK = 1 << 8        /* pier_loop_after_fork() */
};

/* The PIER_CAN_* bits of the loop's backend. */
PIER_API unsigned pier_loop_capabilities(const struct pier_loop *loop);

/* For running this loop inside another: a descriptor that is readable when pier_loop_run(loop,
 * PIER_RUN_NO_WAIT) has something to do, or PIER_ENOTSUP where the backend has none (poll, select,
 * iocp). Also run it when pier_loop_next_timeout() has passed: ask for that before each wait, since
 * it also begins what was submitted outside of a run. The descriptor stays pier's. After each run
 * with work left to do the descriptor is readable again or the next time-out is 0. It's 0 whenever
 * no new edge would tell of that work, so that a foreign loop may watch for edges (EPOLLET). On
 * uring a wait of the same thread's own, as of the foreign loop, can end with EINTR when a loop was
 * made, run or freed before it. */
PIER_API pier_descriptor pier_loop_descriptor(struct pier_loop *loop);

/* Nanoseconds until the loop wants to run though nothing happens: 0 for now, PIER_FOREVER for no
 * timer. */
PIER_API uint64_t pier_loop_next_timeout(struct pier_loop *loop);

/* In the child of a fork, on its only thread, before anything else is done with the loop (not each
 * call notices that it is missing): gives it kernel objects of its own, so that parent and child
 * don't disturb each other. Receives, accepts, polls and timers go on in both; sends, connects and
 * shutdowns in flight complete in the child with PIER_ECANCELED, since the parent carries them out.
 * Returns 0, PIER_EINVAL when this isn't the child of a fork, PIER_ENOTSUP where the backend can't
 * (PIER_CAN_FORK), or why the objects couldn't be made; after those two the child can only exit.
 * pier_loop_descriptor() is another one afterwards: ask for it again, and give it to a foreign loop
 * anew.
 * A child that doesn't want the loop need not call anything: it just must not use it. */
PIER_API int pier_loop_after_fork(struct pier_loop *loop);

/* Counters since the loop was made, see pier_loop_stats(). Each counts what stands beside it and
 * nothing else, up to and with the callback that is running. What pier_close_gracefully() submits
 * itself is no op and no callback here; what a writer submits is. How often the kernel was asked,
 * woken and answered differs between backends; the rest doesn't, but for `receives`: how many
 * pieces a stream comes in. */
struct pier_loop_counters {
    uint64_t turns;     /* passes of the loop */
    uint64_t waits;     /* of which slept or could have slept in the kernel */
    uint64_t events;    /* events or completion entries taken from the kernel */
    uint64_t callbacks; /* functions called: of ops, for each event and for each end, and of closed
                         * handles; none for silent sends and closes without a function */
    uint64_t accepts;   /* connections accepted, taken or not */
    uint64_t connects;  /* connects that succeeded */
    uint64_t receives;  /* pieces of data received, also those that a graceful close throws away */
    uint64_t received_bytes; /* in these */
    uint64_t sends;         /* sends of which all bytes went, silent ones too, but none of size 0 */
    uint64_t sent_bytes;    /* taken by the system, also of sends that failed after that */
    uint64_t timers;        /* timers that fired, once for each call, and time limits that passed */
    uint64_t posts;         /* posts delivered, and events of notifications */
    uint64_t cancels;       /* ops that ended with PIER_ECANCELED, PIER_ECLOSED, or by their time
                             * limit with PIER_ETIMEDOUT; not those of pier_timer_stop() */
    uint64_t closes;        /* handles closed, with or without a function */
    uint64_t system_calls;  /* made by the loop's thread for its handles and waits */
    uint64_t registrations; /* changes of the kernel's interest set */
    uint64_t wakeups;       /* times that other threads woke the loop from its sleep */
    uint64_t stale_events;  /* events for handles closed meanwhile, dropped */
    uint64_t rearms;        /* multishot requests ended early by the kernel and asked again */
    uint64_t accept_pauses; /* accepting paused: out of descriptors or memory */
    uint64_t buffer_pauses; /* receiving paused: no buffer to be had, or the share used up */
    uint64_t queue_full;    /* the submission queue was full */
    uint64_t queue_overflows;     /* the completion queue was full */
    uint64_t timer_skips;         /* expiries of repeating timers that were skipped, being late */
    uint64_t slow_callbacks;      /* callbacks longer than options.slow_callback_ns */
    uint64_t longest_callback_ns; /* 0 unless callbacks are timed */
    uint64_t allocations;         /* calls of the allocator for new memory */
    uint64_t ops_in_flight;       /* right now: submitted and not yet completed, but no post that is
                                     still on its way */
    uint64_t handles_open;        /* right now */
    uint64_t buffers_total;       /* lent buffers made so far */
    uint64_t buffers_lent;        /* right now: held by the program, by sends, or with data that
                                     waits to be delivered */
};

/* pier_loop_stats() for a caller whose struct pier_loop_counters has `size` bytes: fills no more
 * than that, and with zeros what the library doesn't know. */
PIER_API void pier_loop_stats_for(struct pier_loop *loop, struct pier_loop_counters *counters,
                                  size_t size);

/* Counts what a loop has done: fills `counters`, up to this moment. */
PIER_INLINE void pier_loop_stats(struct pier_loop *loop, struct pier_loop_counters *counters)
{
    pier_loop_stats_for(loop, counters, sizeof(struct pier_loop_counters));
}

/* Takes one line (without line end) of pier_loop_dump(). */
typedef void pier_dump_fn(void *context, const char *line);

/* Describes what is pending, a line per open handle and per op: kind, state, handle, bytes done,
 * deadline. A post that the loop hasn't taken yet has a line too ("posted"), though ops_in_flight
 * doesn't count it. For people. */
PIER_API void pier_loop_dump(struct pier_loop *loop, pier_dump_fn *fn, void *context);

/* The version of the library that runs, as "0.1.0". */
PIER_API const char *pier_version(void);

/* The bytes of a struct of these headers as the library has it, by its name: "pier_op"; 0 for a
 * name that it doesn't know. Programs in other languages have no sizeof: they take so much memory,
 * aligned as uint64_t is, all zero, and it stays where it is. Each function of the headers can be
 * called through the shared library, the short ones that C programs have from the headers included.
 */
PIER_API size_t pier_struct_size(const char *name);

/* The n-th backend compiled in, best first, or NULL past the last. */
PIER_API const char *pier_backend_name(size_t index);

/* Whether a backend can run here and now, by trying. Returns its PIER_CAN_* bits (>= 0), or
 * PIER_EINVAL for a name that isn't compiled in, or another negative PIER_E* with the reason in
 * pier_error_detail(): "io_uring is switched off: kernel.io_uring_disabled = 2". */
PIER_API int pier_backend_probe(const char *name);

#ifdef __cplusplus
}
#endif

#endif
