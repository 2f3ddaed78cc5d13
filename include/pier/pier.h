/* pier.h - one completion port for every system.
 *
 * pier runs input and output as operations. A program fills a `struct pier_op`, submits it to a
 * loop, and is called back once it has completed, on io_uring, epoll, kqueue, IOCP, poll or select
 * alike. This header is the reference; the other headers of the folder (stream.h, buffer.h,
 * writer.h, address.h, error.h) are included by it.
 *
 * Words: a *loop* runs operations, one loop per thread; an *operation* (op) is one thing asked of
 * the system; a *handle* is an open socket, pipe, file or terminal attached to one loop; a
 * *completion* is the callback of an op.
 *
 * The rules that hold for every operation:
 *   - It completes exactly once, by a call of its function, inside pier_loop_run() and on the
 *     loop's thread. Multishot ops (the `_each` forms) are called for each event with PIER_MORE
 *     set, then exactly once without it and without data.
 *   - From submit until its terminal callback starts, the op and the memory it names belong to
 *     pier. From then on they are the caller's: free them, reuse them, resubmit from inside the
 *     callback.
 *   - Each outcome arrives in the completion: op->result >= 0, or one of the PIER_E* numbers;
 *     op->done has the bytes moved, also after an error, a cancel or a time-out.
 *   - In a callback with PIER_MORE the program may cancel or pause the op, close its handle and
 *     submit other ops; it may not free or submit this one. Whatever it does, the event it was
 *     called for stays whole until it returns: result, flags, data and size.
 *   - Misuse (submitting an op in flight, a null callback where one is required, a handle that was
 *     never opened or is closed, opening one that is open, a call from another thread, a nested
 *     run, freeing a loop with ops in flight) stops the program with one line that names the
 *     function and the rule. A handle that is closing is no misuse: ops on it complete with
 *     PIER_ECLOSED. What can't be detected: an op or handle that was not zeroed before first use,
 *     memory freed while pier owns it, a descriptor closed behind pier's back, calls from a second
 *     thread before the first run, and calls from another thread of functions that only set or ask
 *     for something (a socket's options and addresses, pier_loop_now(), pier_op_then() and the
 *     like).
 *
 * Unless a comment says otherwise, a function may only be called on the loop's own thread. From any
 * thread: what takes no loop, op or handle, making a loop, pier_loop_backend() and
 * pier_loop_capabilities().
 *
 * What pier does to the process: descriptors that it opens are close-on-exec. Sockets and pipes
 * that it opens are non-blocking, but for the sockets of uring, on which a read or an accept of the
 * program's own would wait. No call raises SIGPIPE. Signal handlers, signal masks and the standard
 * descriptors are left alone. */

#ifndef PIER_H
#define PIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(PIER_STATIC) || !(defined(_WIN32) || defined(__CYGWIN__))
#if defined(__GNUC__)
#define PIER_API __attribute__((visibility("default")))
#else
#define PIER_API
#endif
#elif defined(PIER_BUILDING)
#define PIER_API __declspec(dllexport)
#else
#define PIER_API __declspec(dllimport)
#endif

#define PIER_VERSION_MAJOR 0
#define PIER_VERSION_MINOR 1
#define PIER_VERSION_PATCH 0
#define PIER_VERSION_STRING "0.1.0"

struct pier_loop;
struct pier_op;
struct pier_handle;
struct pier_buffer;
struct pier_handle_calls;

/* An open descriptor of the system: a file descriptor, or on Windows a SOCKET or HANDLE. */
typedef intptr_t pier_descriptor;

/* The completion of an op. Runs inside pier_loop_run(), never nested in another callback. */
typedef void pier_op_fn(struct pier_op *op);

/* Called once a handle is closed; the handle's memory is the caller's again. */
typedef void pier_handle_fn(struct pier_handle *handle);

/* The struct that holds an op or handle as member: PIER_OWNER(op, struct connection, receive). */
#define PIER_OWNER(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* A duration or time that never comes. */
#define PIER_FOREVER UINT64_MAX

#define PIER_MICROSECOND UINT64_C(1000)
#define PIER_MILLISECOND UINT64_C(1000000)
#define PIER_SECOND UINT64_C(1000000000)

/* Bits of op->flags. */
enum {
    PIER_BACKGROUND =
        1 << 0,         /* set by the caller before submit: does not keep pier_loop_run() running */
    PIER_MORE = 1 << 1, /* set by pier: the op stays in flight, more completions follow */
    PIER_EOF = 1 << 2,  /* set by pier: the peer has ended the stream; op->result is 0 */
    PIER_LENT = 1 << 3  /* set by pier: op->data is a lent buffer, see buffer.h */
};

/* A place in the timer wheel. Private to pier. */
struct pier_timer_link {
    struct pier_timer_link *next;
    struct pier_timer_link **back;
    uint64_t deadline_ns;
};

/* One operation. The caller's memory, usually a member of the caller's own struct; all zero before
 * first use. The fields whose name ends in an underscore are pier's own. At most 112 bytes on LP64
 * and 144 on 64-bit Windows. */
struct pier_op {
    pier_op_fn *fn; /* the completion, set by the submitting function */
    int64_t result; /* the outcome: >= 0, or a negative PIER_E* */
    void *data;     /* the memory of a transfer; in a lent receive the data that arrived, if flags
                     * has PIER_LENT, else nothing that means anything */
    size_t size;    /* its size in bytes, or the number of vectors */
    uint64_t done;  /* bytes moved, valid in every completion; on multishot ops the sum so far */
    uint64_t timeout_ns; /* set before submit to limit the op's time, counted from submit; read and
                          * cleared there. On a multishot op it limits the time between two events,
                          * and a pause suspends it. 0 means no limit. Timers, posts and
                          * notifications have none: theirs is cleared unread. */
    uint32_t flags;      /* PIER_BACKGROUND in; PIER_MORE, PIER_EOF, PIER_LENT out */
    int32_t os_error;    /* the system's own code behind a negative result, 0 where there is none */

    struct pier_timer_link timer_;
    /* These together, since they are what another thread touches in a notification. */
    struct pier_op *next_;
    void *owner_; /* the handle, or for ops without one the loop */
    uint8_t kind_, state_;
    uint16_t bits_;
    uint32_t token_;
    union {                         /* each used by some kinds of op only */
        uint64_t idle_limit_ns;     /* of a multishot op with a time limit */
        uint64_t interval_ns;       /* of a repeating timer */
        uint64_t notifications;     /* not yet delivered */
        void *address;              /* of a connect */
        struct pier_buffer *buffer; /* that a send or a lent receive has a reference on */
        pier_descriptor socket;     /* accepted */
        struct {
            uint32_t vectors, offset; /* of a vectored send: gone, and how much of the next */
        } sent;
        struct pier_op **before; /* in the list of a handle's ops without a direction */
    } use_;
#ifdef _WIN32
    void *overlapped_[4];
#endif
};

/* An open socket, pipe, file or terminal that belongs to one loop. The caller's memory, all zero
 * before it is opened; from the opening call until its close callback it must stay where it is. At
 * most 112 bytes. */
struct pier_handle {
    struct pier_loop *loop_;
    pier_descriptor descriptor_;
    struct pier_op *head_[2]; /* by direction: receiving, sending */
    struct pier_op *tail_[2];
    struct pier_op *unordered_; /* ops without a direction */
    pier_handle_fn *closed_;
    struct pier_handle *next_; /* in the loop's list of ready, starved or closing handles */
    const struct pier_handle_calls *calls_;
    union { /* what the loop's engine knows of it */
        struct {
            unsigned char interest; /* what the poller watches for */
        } ready;
        struct {
            void *held;              /* the last of what has come and waits to be delivered */
            uint16_t turn, receives; /* receives in that turn */
            unsigned char requests;  /* what is in the kernel */
            unsigned char ahead;     /* buffers that a receive may bring */
        } uring;
        struct {
            union {
                void *listener;
                void *wait;      /* for a pipe to connect to */
                uint64_t offset; /* of a file: where the next transfer goes */
            } of;
            uint16_t turn, receives; /* receives in that turn */
            uint16_t port;           /* whose port it can't leave, while it is detached */
            unsigned char requests;  /* what is in the system */
            unsigned char pipe;      /* what is known of a named pipe */
        } iocp;
    } engine_;
    uint32_t slot_;
    uint32_t bits_;
    uint16_t lent_; /* buffers of the pool that this handle holds */
    uint8_t kind_, family_;
};

/* ---- the loop */

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
static inline int pier_loop_new(struct pier_loop **loop, const struct pier_loop_options *options)
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
 * with work left to do the descriptor is readable again or the next time-out is 0. */
PIER_API pier_descriptor pier_loop_descriptor(struct pier_loop *loop);

/* Nanoseconds until the loop wants to run though nothing happens: 0 for now, PIER_FOREVER for no
 * timer. */
PIER_API uint64_t pier_loop_next_timeout(struct pier_loop *loop);

/* In the child of a fork, before anything else is done with the loop: gives it kernel objects of
 * its own, so that parent and child don't disturb each other. Receives, accepts, polls and timers
 * go on in both; sends, connects and shutdowns in flight complete in the child with PIER_ECANCELED,
 * since the parent carries them out. Returns 0, PIER_EINVAL when this isn't the child of a fork,
 * PIER_ENOTSUP where the backend can't (PIER_CAN_FORK), or why the objects couldn't be made; after
 * those two the child can only exit.
 * A child that doesn't want the loop need not call anything: it just must not use it. */
PIER_API int pier_loop_after_fork(struct pier_loop *loop);

/* Counters since the loop was made, see pier_loop_stats(). */
struct pier_loop_counters {
    uint64_t turns;     /* passes of the loop */
    uint64_t waits;     /* of which slept or could have slept in the kernel */
    uint64_t events;    /* events or completion entries taken from the kernel */
    uint64_t callbacks; /* completions and close functions called, those of the ops included that
                         * pier_close_gracefully() submits */
    uint64_t accepts;   /* connections accepted */
    uint64_t connects;  /* connections made */
    uint64_t receives;  /* receive completions with data */
    uint64_t received_bytes;
    uint64_t sends; /* completed sends */
    uint64_t sent_bytes;
    uint64_t timers;          /* timers and time-outs that fired */
    uint64_t posts;           /* posts and notifications delivered */
    uint64_t cancels;         /* ops that ended with PIER_ECANCELED, PIER_ECLOSED, or PIER_ETIMEDOUT
                                 by their time limit */
    uint64_t closes;          /* handles closed */
    uint64_t system_calls;    /* made by the loop's thread for its handles and waits */
    uint64_t registrations;   /* changes of the kernel's interest set */
    uint64_t wakeups;         /* times that other threads woke the loop from its sleep */
    uint64_t stale_events;    /* events for handles closed meanwhile, dropped */
    uint64_t rearms;          /* multishot requests ended early by the kernel and asked again */
    uint64_t accept_pauses;   /* accepting paused: out of descriptors or memory */
    uint64_t buffer_pauses;   /* receiving paused: no buffer to be had, or the share used up */
    uint64_t queue_full;      /* the submission queue was full */
    uint64_t queue_overflows; /* the completion queue was full */
    uint64_t timer_skips;     /* expiries of repeating timers that were skipped, being late */
    uint64_t slow_callbacks;  /* callbacks longer than options.slow_callback_ns */
    uint64_t longest_callback_ns; /* 0 unless callbacks are timed */
    uint64_t allocations;         /* calls of the allocator for new memory */
    uint64_t ops_in_flight;       /* right now: also pier's own of graceful closes, but no post that
                                     is still on its way */
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
static inline void pier_loop_stats(struct pier_loop *loop, struct pier_loop_counters *counters)
{
    pier_loop_stats_for(loop, counters, sizeof(struct pier_loop_counters));
}

/* Takes one line (without line end) of pier_loop_dump(). */
typedef void pier_dump_fn(void *context, const char *line);

/* Describes what is pending, a line per open handle and per op: kind, state, handle, bytes done,
 * deadline. For people. */
PIER_API void pier_loop_dump(struct pier_loop *loop, pier_dump_fn *fn, void *context);

/* The version of the library that runs, as "0.1.0". */
PIER_API const char *pier_version(void);

/* The n-th backend compiled in, best first, or NULL past the last. */
PIER_API const char *pier_backend_name(size_t index);

/* Whether a backend can run here and now, by trying. Returns its PIER_CAN_* bits (>= 0), or
 * PIER_EINVAL for a name that isn't compiled in, or another negative PIER_E* with the reason in
 * pier_error_detail(): "io_uring is switched off: kernel.io_uring_disabled = 2". */
PIER_API int pier_backend_probe(const char *name);

/* ---- operations */

/* Whether the op is in flight: submitted, and its terminal completion not yet begun. */
static inline bool pier_op_pending(const struct pier_op *op)
{
    return op->state_ != 0;
}

/* Gives an op in flight that was submitted without a completion function (a silent send) one after
 * all. With this a sender that usually succeeds at once pays for a callback only when it has to
 * wait:
 *
 *     pier_send(&c->socket, &c->send, data, size, NULL);
 *     if (pier_op_pending(&c->send)) {
 *         pier_op_then(&c->send, on_sent);
 *         pier_pause(&c->receive);
 *     }
 */
static inline void pier_op_then(struct pier_op *op, pier_op_fn *fn)
{
    if (op->state_ != 0) {
        op->fn = fn;
    }
}

/* Asks for the op to end soon. It completes once, with PIER_ECANCELED or with its real outcome if
 * that came first; `done` says what had moved by then. Not a barrier: the completion comes later,
 * inside pier_loop_run(). On an op that isn't in flight it does nothing. In a callback of the op
 * itself, with PIER_MORE, the event stays whole until the callback returns: its data can still be
 * read, sent and kept. */
PIER_API void pier_cancel(struct pier_op *op);

/* Holds a multishot op: its events wait in the kernel (or in held buffers up to the handle's share)
 * until pier_resume(). Its time limit is suspended too. An end that the program brings about, by
 * cancel or close, isn't held, nor what was received before a cancel: that comes before the end. So
 * an op whose cancel was asked for can't be paused. That the peer has ended or reset the stream may
 * be noticed only after the resume. Notifications are counted meanwhile. Does nothing on an op that
 * isn't in flight, isn't multishot, or is paused already. */
PIER_API void pier_pause(struct pier_op *op);

/* Lets a held op go on. Its time limit begins anew, in full. A repeating timer that has missed
 * expiries reports them as one. Does nothing on an op that isn't held. */
PIER_API void pier_resume(struct pier_op *op);

/* A number by which other threads can name this op while it is in flight; never reused for another
 * op. 0 when there is nothing to cancel (the op isn't in flight, or its outcome is known and only
 * its completion is still to come), for a post, or when there is no memory. */
PIER_API uint64_t pier_op_token(struct pier_op *op);

/* pier_cancel() from any thread: if the op behind the token is still in flight it is cancelled on
 * the loop's thread. */
PIER_API void pier_cancel_remote(struct pier_loop *loop, uint64_t token);

/* Completes once, delay_ns from now: never early, at most one tick (4.096 us) and the scheduler's
 * delay late. result 0; PIER_ECANCELED when it was cancelled, by the program or by
 * pier_loop_drain(). "Now" is a clock read since the running callback began (pier_loop_now()): what
 * a callback does between that reading and this call counts as time that has passed. */
PIER_API void pier_timer(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns,
                         pier_op_fn *fn);

/* Completes with PIER_MORE after delay_ns and then every interval_ns (at least 1), on the grid that
 * the first expiry set. op->result is the number of expiries since the last call: more than 1 when
 * the loop was late and skipped some. It ends with PIER_ECANCELED, or at once with PIER_EINVAL when
 * the interval is 0. */
PIER_API void pier_timer_each(struct pier_loop *loop, struct pier_op *op, uint64_t delay_ns,
                              uint64_t interval_ns, pier_op_fn *fn);

/* Moves the next expiry of a timer in flight to delay_ns from now; a repeating timer has its grid
 * from there on, one that is paused at its resume. Does nothing on a timer that isn't in flight, or
 * whose cancel is on its way. */
PIER_API void pier_timer_reset(struct pier_op *op, uint64_t delay_ns);

/* Takes a timer out of flight without a completion. True: it is the caller's again on return, to be
 * freed or submitted, and its function isn't called any more. False, and nothing is done: it isn't
 * in flight, or its cancel is on its way and its completion comes. Unlike pier_cancel(), it is a
 * barrier; and with many timers that are nearly all stopped before they expire it spares a call for
 * each. Allowed in the timer's own callback too. (Modelled on Go's Timer.Stop().) */
PIER_API bool pier_timer_stop(struct pier_op *op);

/* What pier_poll() watches for; PIER_HANGUP is always reported. */
enum {
    PIER_READABLE = 1 << 0,
    PIER_PRIORITY = 1 << 1,
    PIER_WRITABLE = 1 << 2,
    PIER_HANGUP = 1 << 3 /* hung up or in error: reading or writing won't block */
};

/* Waits until a descriptor that pier doesn't own is ready: for libraries that do their own input
 * and output (libpq, curl, c-ares). result: the PIER_READABLE... bits seen. Level-triggered on
 * every backend. Several ops may watch one descriptor. Once the op has completed, or pier_cancel()
 * has returned, the owner may close the descriptor. A regular file is ready at once, to be read and
 * written. Errors: PIER_EINVAL no event asked for, PIER_EBADF not open, PIER_EBUSY it belongs to a
 * handle of this loop, PIER_ENOTSUP what can't be waited for (on epoll also devices like /dev/null,
 * which are ready at once elsewhere). */
PIER_API void pier_poll(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                        unsigned events, pier_op_fn *fn);

/* pier_poll() as a multishot op: called each turn while the descriptor is ready. PIER_ENOTSUP on a
 * regular file. */
PIER_API void pier_poll_each(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                             unsigned events, pier_op_fn *fn);

/* Completes the op on the loop's thread with result 0. From any thread and from signal handlers;
 * posts of one thread complete in the order made. The op may not be in flight. It doesn't keep the
 * loop running until it has arrived: a loop that should wait for posts needs an op in flight, such
 * as pier_notify_each(). Once the op has completed the loop may be freed, also while this hasn't
 * returned yet: pier_loop_free() waits for it. */
PIER_API void pier_post(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* Arms an op that other threads can fire with pier_notify(). Each completion has PIER_MORE and
 * result = the number of notifications since the last, at least 1. Ends by pier_cancel(), which
 * first delivers what has come. */
PIER_API void pier_notify_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* Fires an op armed with pier_notify_each(). From any thread and from signal handlers.
 * Notifications coalesce. The caller sees to it that no thread calls this once the op's terminal
 * completion may have come. */
PIER_API void pier_notify(struct pier_op *op);

/* Ends the loop's present or next wait, so that its turn goes round once. From any thread and from
 * signal handlers. */
PIER_API void pier_wake(struct pier_loop *loop);

#ifdef __cplusplus
}
#endif

#include "pier/error.h"

#include "pier/address.h"
#include "pier/stream.h"

#include "pier/buffer.h"
#include "pier/writer.h"

#endif
