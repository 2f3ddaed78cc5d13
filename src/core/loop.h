/* loop.h - the loop's own state, and what the parts of the core share.
 *
 * Invariants:
 *   - Callbacks run only below pier_loop_run(): from pier__loop_deliver() (completed ops and closed
 * handles), from the backend's wait() (direct delivery of events) and from expired timers. Nothing
 * that a callback can call runs another callback.
 *   - An op is in exactly one place: its handle's queue (QUEUED, or ACTIVE at its head), the
 * backend (ACTIVE without handle), the remote stack (REMOTE), or the completed or the posted queue
 * (DONE).
 *   - handle->next_ is used by one list at a time; PIER__LISTED says that some list has it. */

#ifndef PIER_CORE_LOOP_H
#define PIER_CORE_LOOP_H

#include <assert.h>
#include <string.h>

#include "pier/pier.h"

#include "core/engine.h"
#include "base/atomic.h"
#include "core/pool.h"
#include "base/check.h"
#include "base/error.h"
#include "base/queue.h"
#include "base/timer.h"
#include "sys/sys.h"

/* The state of an op. One function moves it: pier__op_move(). */
enum pier__state {
    PIER__IDLE,   /* the caller's */
    PIER__QUEUED, /* waiting in its handle's queue */
    PIER__ACTIVE, /* started */
    PIER__REMOTE, /* posted, not yet seen by the loop */
    PIER__DONE    /* outcome known, in the completed or the posted queue */
};

enum pier__op_kind {
    PIER__OP_NONE,
    PIER__OP_ACCEPT,
    PIER__OP_CONNECT,
    PIER__OP_RECEIVE,
    PIER__OP_RECEIVE_LENT,
    PIER__OP_SEND,
    PIER__OP_SEND_VECTORED,
    PIER__OP_SHUTDOWN,
    PIER__OP_POLL,
    PIER__OP_TIMER,
    PIER__OP_POST,
    PIER__OP_NOTIFY
};

enum pier__reason {
    PIER__REASON_NONE,
    PIER__REASON_CALLER,
    PIER__REASON_TIMEOUT,
    PIER__REASON_CLOSE
};

/* op->bits_ */
enum {
    PIER__MULTISHOT = 0x01,
    PIER__PAUSED = 0x02,
    PIER__COUNTED_BACKGROUND = 0x04,
    PIER__TIMED = 0x08,   /* timer_ may be armed with the op's time limit */
    PIER__TOKEN = 0x10,   /* token_ names a token */
    PIER__HOLDS = 0x20,   /* a send that holds references on lent buffers */
    PIER__ADDRESS = 0x40, /* extra_.pointer is a struct pier__address_block */
    PIER__WANTED = 0x80,  /* backend: a cancel is on its way (uring) */
    PIER__INTERNAL =
        0x100, /* only passed to submit: an op of pier's own, let in while closing gracefully */
    PIER__CLEAN_UP = PIER__TIMED | PIER__TOKEN | PIER__HOLDS | PIER__ADDRESS
};

/* handle->bits_. The low ones make a submit take the slow path. */
enum {
    PIER__CLOSING = 0x0001,  /* pier_close() was called */
    PIER__GRACEFUL = 0x0002, /* pier_close_gracefully() was called: only its own ops are let in */
    PIER__CLOSED_TO_USER = PIER__CLOSING | PIER__GRACEFUL,
    PIER__LISTED = 0x0004, /* in the still-ready, starved or closing list */
    PIER__CONNECTING =
        0x0008,            /* receiving ops wait for the connect at the head of the sending queue */
    PIER__FAILED = 0x0010, /* its connect failed: only close helps */
    PIER__ADOPTED = 0x0020,    /* the descriptor may be shared with others */
    PIER__CAUTIOUS = 0x0040,   /* not a socket, and without O_NONBLOCK */
    PIER__BLOCKED = 0x0080,    /* readiness: a send would block */
    PIER__REGISTERED = 0x0100, /* readiness: the poller knows it */
    PIER__ALWAYS = 0x0200,     /* readiness: the poller can't watch it, it's always ready */
    PIER__HUNG_UP = 0x0400, /* readiness: an event said hang-up or end: short reads prove nothing */
    PIER__IS_TCP = 0x0800,
    PIER__SHARED = 0x1000,       /* exclusive wake-up wanted */
    PIER__STARVED = 0x2000,      /* in the starved list */
    PIER__ENGINE_BUSY = 0x4000, /* the backend has something of its own in flight on it */
    PIER__UNCONNECTED = 0x8000,  /* opened by pier_open_socket() and not yet connected */
    PIER__PLAIN_SENDS = 0x40000, /* the backend's send() may be used */
    PIER__QUICK = 0x80000,       /* readiness: receives of the usual kind take the short way */
    PIER__READ_ONLY = 0x100000,  /* opened without the right to write, or to read */
    PIER__WRITE_ONLY = 0x200000,
    PIER__RESTRICTED = 0x400000, /* one of these, or a listener: not every op is for it */
    PIER__LEVELED = 0x800000,    /* readiness: what is left unread is told of again */
    PIER__STARTING = 0x10000     /* and twice that: start_direction() is at work on the direction */
};

/* handle->kind_ has the enum pier__sys_kind values, and one more: */
enum { PIER__KIND_FOREIGN = 100 /* readiness: what stands for a descriptor of pier_poll() */ };

struct pier__slot {
    struct pier_handle *handle; /* NULL: free */
    uint64_t key; /* generation << 32 | index. Free: the generation is the next handle's, which no
                     key has yet, the index that of the next free slot. */
};

/* A list of handles through handle->next_. */
struct pier__handles {
    struct pier_handle *head, *tail;
};

struct pier__address_block {
    struct pier__address_block *next;
    struct pier_address address;
};

struct pier__token;
#define PIER__TOKEN_CHUNKS 26

/* In loop->remote: no op is there, and the loop sleeps. Who replaces it wakes the loop. */
#define PIER__ASLEEP ((struct pier_op *)1)

/* loop->asked */
enum {
    PIER__ASKED_STOP = 1,   /* pier_loop_stop() */
    PIER__ASKED_WAKE = 2,   /* pier_wake() */
    PIER__ASKED_CANCELS = 4 /* there is something in remote_cancels */
};

/* What other threads write is this far from what the loop writes: two cache lines, since processors
 * fetch them in pairs. */
#define PIER__APART 128

struct pier_loop {
    /* Hot: used for every op, and by every turn. After a sleep each cache line has to come from
     * afar, so what a turn looks at is together, and the rest is behind. */
    const void *thread; /* pier__thread() of the thread it's bound to, NULL before the first run */
    const struct pier__engine *engine;
    void *engine_data;
    struct pier__queue completed;
    int32_t budget;      /* callbacks left in this turn, <= 0 when it is used up */
    int32_t budget_full; /* options.callbacks_max */
    uint64_t now;        /* see pier__loop_clock() and pier__loop_clock_about() */
    bool now_is_old;     /* the last turn didn't read the clock */
    bool running;
    bool asleep; /* others find PIER__ASLEEP, or have replaced it */
    bool retry_now;
    bool others_owed;     /* the last turn's events left nothing of the budget for timers, posts and
                             completed ops */
    uint8_t first_served; /* of these three */
    bool embedded;        /* pier_loop_descriptor() was asked for */
    bool callbacks_timed; /* options.slow_callback_ns isn't 0 */

    uint64_t in_flight;           /* ops between submit and terminal callback */
    uint64_t background;          /* of which don't keep the loop running */
    struct pier__handles ready;   /* to be served in the next turn though no event comes */
    struct pier__handles closing; /* nothing left in flight: to be closed */
    struct pier__queue posted;    /* taken from `remote`, to be called back */

    struct pier__handles serving; /* taken from `ready` or `starved`, being gone through */
    struct pier__slot *slots;
    uint64_t sleep_most_ns; /* bounds the next wait */
    int32_t clock_budget;   /* budget when `now` was read: equal means it is fresh enough */
    int failure;            /* why the backend can't go on, 0 while it can */
    uint64_t quick_sends, quick_receives; /* each one also a system call: added to the counters when
                                             those are asked for */
    uint64_t handles_closing;             /* between pier_close() and its callback */

    struct pier_loop_stats stats;
    struct pier__pool pool;

    uint32_t slots_size, slots_used, slots_free;
    uint32_t *by_descriptor; /* slot + 1 of the handle with this descriptor, 0 none */
    size_t by_descriptor_size;

    struct pier__handles starved; /* waiting for buffers, descriptors or memory */
    struct pier_timer_link retry_link;
    struct pier__timers timers;
    struct pier_timer_link *others; /* polls and notifies without a time limit */

    /* In an accept callback: the socket, until it is taken. */
    struct pier_op *accepted_op;
    pier_descriptor accepted;

    struct pier__address_block *addresses_free;
    void *memory; /* what the allocator gave for the loop, which is aligned in it */

    /* All that other threads write or read in a post, in one cache line. */
    _Alignas(PIER__APART) struct pier_op *remote; /* a stack, or PIER__ASLEEP */
    struct pier__token *remote_cancels;
    uint32_t asked;                       /* PIER__ASKED_* */
    void (*wake)(struct pier_loop *loop); /* the backend's, or a shorter way to it */
    pier_descriptor wake_descriptor;      /* what that needs, if it is just this */

    _Alignas(PIER__APART) struct pier__token *tokens[PIER__TOKEN_CHUNKS];
    uint32_t tokens_used, tokens_free;

    uint64_t forks;
    struct pier_loop_options options;
};

/* ---- loop.c */

/* An address that only this thread has. */
const void *pier__thread(void);
void *pier__allocate(struct pier_loop *loop, size_t size);
/* Like realloc; on failure the old memory stays. */
void *pier__reallocate(struct pier_loop *loop, void *memory, size_t old_size, size_t new_size);
void pier__free(struct pier_loop *loop, void *memory, size_t size);
/* Reads the clock, which stays fresh enough for as long as `budget` callbacks are left. */
static inline void pier__loop_read_clock(struct pier_loop *loop, int32_t budget)
{
    loop->clock_budget = budget;
    loop->now = pier__sys_clock();
    loop->now_is_old = false;
}
/* The clock, read again only if a callback has begun since it was read. */
static inline uint64_t pier__loop_clock(struct pier_loop *loop)
{
    if (loop->clock_budget != loop->budget || !loop->running) {
        pier__loop_read_clock(loop, loop->budget);
    }
    return loop->now;
}
/* The time for an op to remember when it was submitted: as of this turn, or, where that didn't read
 * the clock, of the last op that wanted to know. */
static inline uint64_t pier__loop_clock_about(struct pier_loop *loop)
{
    if (PIER__UNLIKELY(loop->now_is_old)) {
        pier__loop_read_clock(loop, loop->budget);
    }
    return loop->now;
}
/* Makes other threads wake the loop. False when something is there already. */
static inline bool pier__loop_fall_asleep(struct pier_loop *loop)
{
    struct pier_op *none = NULL;
    PIER_ASSERT(!loop->asleep);
    loop->asleep = pier__atomic_compare_exchange(&loop->remote, &none, PIER__ASLEEP);
    /* In this order, and both sequentially consistent: see ask_of_loop(). */
    return loop->asleep && pier__atomic_load(&loop->asked) == 0;
}
/* The opposite: for a backend, as soon as it's back from the system. */
static inline void pier__loop_awake(struct pier_loop *loop)
{
    if (loop->asleep) {
        struct pier_op *asleep = PIER__ASLEEP;
        loop->asleep = false;
        if (pier__atomic_load_relaxed(&loop->remote) != PIER__ASLEEP ||
            !pier__atomic_compare_exchange(&loop->remote, &asleep, NULL)) {
            loop->stats.wakeups++;
        }
    }
}
/* Runs the callbacks of what has completed up to now. False when the turn's budget ran out. */
bool pier__loop_deliver(struct pier_loop *loop);
/* A starved handle, to be tried again after retry_ns, a release or a close. */
void pier__loop_starve(struct pier_loop *loop, struct pier_handle *handle);
/* Something was released that starved handles may be waiting for. */
static inline void pier__loop_retry(struct pier_loop *loop)
{
    loop->retry_now = loop->starved.head != NULL;
}
PIER__COLD void pier__loop_call_slow(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn);

/* Runs a callback. The only place that does, for ops. */
static inline void pier__loop_call(struct pier_loop *loop, struct pier_op *op)
{
    PIER_ASSERT(op->fn != NULL);
    loop->budget--;
    if (PIER__UNLIKELY(loop->callbacks_timed)) {
        pier__loop_call_slow(loop, op, op->fn);
    } else {
        op->fn(op);
    }
}

static inline bool pier__loop_on_thread(const struct pier_loop *loop)
{
    return loop->thread == NULL || loop->thread == pier__thread();
}

/* ---- op.c, cancel.c */

/* Moves an op from one state to the next; the only writer of op->state_. */
static inline void pier__op_move(struct pier_op *op, enum pier__state to)
{
    PIER_ASSERT(to <= PIER__DONE);
    /* Row: from; bit: to. */
    PIER_ASSERT(
        ((const uint8_t[]){/* IDLE */ 1 << PIER__QUEUED | 1 << PIER__ACTIVE | 1 << PIER__REMOTE |
                               1 << PIER__DONE,
                           /* QUEUED */ 1 << PIER__ACTIVE | 1 << PIER__DONE,
                           /* ACTIVE */ 1 << PIER__DONE | 1 << PIER__IDLE | 1 << PIER__QUEUED,
                           /* REMOTE */ 1 << PIER__IDLE | 1 << PIER__DONE,
                           /* DONE */ 1 << PIER__IDLE}[op->state_] >>
         to) &
        1);
    op->state_ = (uint8_t)to;
}

/* What every submit notes in the op, after pier__loop_clock_about(), or a look whether it has
 * something to do: that call alone would cost the short ways ten instructions. */
static inline void pier__op_set_up(struct pier_loop *loop, struct pier_op *op, unsigned kind,
                                   unsigned bits, pier_op_fn *fn, void *owner)
{
    op->fn = fn;
    op->result = 0;
    op->done = 0;
    op->flags &= PIER_BACKGROUND;
    op->os_error = 0;
    op->owner_ = owner;
    op->kind_ = (uint8_t)kind;
    op->reason_ = 0;
    op->bits_ = (uint8_t)bits;
    op->token_ = 0;
    /* Since when, for the dump, unless a time limit replaces it. */
    PIER_ASSERT(!loop->now_is_old);
    op->timer_.deadline_ns = loop->now;
    loop->in_flight++;
    if (PIER__UNLIKELY(op->flags != 0)) {
        op->bits_ |= PIER__COUNTED_BACKGROUND;
        loop->background++;
    }
}

/* Makes a send that the backend was given by its `send` call the started head of the queue. fn,
 * data and size are in the op. */
static inline void pier__op_begin_send(struct pier_loop *loop, struct pier_handle *handle,
                                       struct pier_op *op)
{
    pier__loop_clock_about(loop);
    pier__op_set_up(loop, op, PIER__OP_SEND, 0, op->fn, handle);
    op->next_ = NULL;
    handle->head_[PIER__SENDING] = handle->tail_[PIER__SENDING] = op;
    pier__op_move(op, PIER__ACTIVE);
}

/* kind_, state_, reason_ and bits_ of an op as one number, to be compared at once. */
static inline uint32_t pier__op_word(const struct pier_op *op)
{
    uint32_t word;
    memcpy(&word, &op->kind_, sizeof(word));
    return word;
}

static inline uint32_t pier__word_of(unsigned kind, unsigned state, unsigned bits)
{
    const uint8_t bytes[4] = {(uint8_t)kind, (uint8_t)state, PIER__REASON_NONE, (uint8_t)bits};
    uint32_t word;
    memcpy(&word, bytes, sizeof(word));
    return word;
}

/* pier__op_move() with what else is in the word. */
static inline void pier__op_set_word(struct pier_op *op, enum pier__state to, uint32_t word)
{
    pier__op_move(op, to);
    memcpy(&op->kind_, &word, sizeof(word));
}

/* Submits on a handle: checks, queues, starts when it's the first. */
void pier__op_submit(struct pier_handle *handle, struct pier_op *op, unsigned kind, unsigned bits,
                     pier_op_fn *fn, const char *function);
/* Starts an op that has no handle; the caller sets it going afterwards. */
void pier__op_begin(struct pier_loop *loop, struct pier_op *op, unsigned kind, unsigned bits,
                    pier_op_fn *fn, const char *function);
/* The op's outcome is known: queues its terminal completion and starts the next op of its
 * direction. */
void pier__op_finish(struct pier_loop *loop, struct pier_op *op, int64_t result);
/* The same, for a backend inside wait(): calls back at once if nothing else is waiting to be
 * delivered. Touch neither op nor handle afterwards without pier__slot_is(). */
void pier__op_finish_now(struct pier_loop *loop, struct pier_op *op, int64_t result);
/* Starts what waits at the head of a direction. */
void pier__op_start_direction(struct pier_loop *loop, struct pier_handle *handle,
                              unsigned direction);
/* Ends an op for a reason, the first of which wins. */
void pier__op_cancel(struct pier_loop *loop, struct pier_op *op, enum pier__reason reason);
void pier__op_abandon(struct pier_loop *loop, struct pier_op *op, enum pier__reason reason);
/* The result of a cancelled op. */
int pier__op_reason(const struct pier_op *op);
/* Pushes the idle limit of a multishot op back, to be counted from now. */
void pier__op_refresh(struct pier_loop *loop, struct pier_op *op, uint64_t now);
/* Ops of no handle that aren't in the timer wheel are listed, so that they can be found by drain
 * and dump: those without a deadline, those paused, and those whose time limit has passed but whose
 * cancel is still under way. The links are those of the wheel. */
void pier__op_list_other(struct pier_loop *loop, struct pier_op *op);
/* Takes an op's link out of the wheel, or out of loop->others. */
void pier__op_unlink(struct pier_loop *loop, struct pier_op *op);
/* The op's time limit has passed. */
void pier__op_timed_out(struct pier_loop *loop, struct pier_op *op);
/* Delivers a terminal completion. */
void pier__op_deliver(struct pier_loop *loop, struct pier_op *op);

static inline bool pier__op_is_send(const struct pier_op *op)
{
    return op->kind_ == PIER__OP_SEND || op->kind_ == PIER__OP_SEND_VECTORED;
}

static inline unsigned pier__op_direction(const struct pier_op *op)
{
    return op->kind_ == PIER__OP_CONNECT || op->kind_ >= PIER__OP_SEND ? PIER__SENDING
                                                                       : PIER__RECEIVING;
}

static inline bool pier__op_has_handle(const struct pier_op *op)
{
    return op->kind_ <= PIER__OP_SHUTDOWN;
}

static inline struct pier_loop *pier__op_loop(const struct pier_op *op)
{
    return pier__op_has_handle(op) ? ((struct pier_handle *)op->owner_)->loop_ : op->owner_;
}

/* The clock for a callback that is about to begin: what the one before has read may be old. */
static inline uint64_t pier__loop_clock_next(struct pier_loop *loop)
{
    pier__loop_read_clock(loop, loop->budget - 1);
    return loop->now;
}

/* Delivers one event of a multishot op, inside wait(). The op and its handle's memory stay valid;
 * whether the op is still to go on is op->reason_ == 0 && state ACTIVE && not PAUSED. */
static inline void pier__op_event(struct pier_loop *loop, struct pier_op *op, int64_t result,
                                  uint32_t flags)
{
    op->result = result;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_MORE | flags;
    if (PIER__UNLIKELY(op->bits_ & PIER__TIMED)) {
        pier__op_refresh(loop, op, pier__loop_clock_next(loop));
    }
    pier__loop_call(loop, op);
}

/* Whether a started multishot op takes more events now. */
static inline bool pier__op_goes_on(const struct pier_op *op)
{
    return op->state_ == PIER__ACTIVE && op->reason_ == PIER__REASON_NONE &&
           (op->bits_ & PIER__PAUSED) == 0;
}

/* Delivers data that was received, inside wait(), into the buffer at the top of the pool: lent for
 * as long as the callback of a multishot receive runs, or taken out of the pool by a one-shot. */
void pier__op_received_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                            uint32_t index, size_t bytes);
/* Delivers an accepted socket with PIER_MORE and closes it if it isn't taken. */
void pier__op_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket);
/* Finishes an op with an accepted socket. */
void pier__op_finish_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket);

/* ---- gather.c */

/* Bytes of a send in all. */
uint64_t pier__send_total(const struct pier_op *op);
/* What is still to be sent by the handle's sends, from the head on, as at most `most` vectors.
 * Returns how many; *last is the last op that is part of it. */
size_t pier__send_gather(const struct pier_handle *handle, struct pier_vector *vectors, size_t most,
                         struct pier_op **last);
/* The system took `bytes` of what was gathered: finishes the sends that are complete. Starts none.
 */
void pier__send_advance(struct pier_loop *loop, struct pier_handle *handle, uint64_t bytes);

/* ---- accepting */

/* Errors of accept that belong to the connection that failed, not to the listener: Linux hands on
 * what is pending on the new socket (accept(2)); ECONNABORTED is the classic one. */
static inline bool pier__accept_passes(int64_t error)
{
    return error == PIER_ECONNABORTED || error == PIER_EPROTO || error == PIER_ENETDOWN ||
           error == PIER_ENETUNREACH || error == PIER_EHOSTUNREACH || error == PIER_ETIMEDOUT ||
           error == PIER_ECONNRESET || error == PIER_EPERM || error == PIER_EINTR;
}

/* Errors that go away when something is released. */
static inline bool pier__accept_starves(int64_t error)
{
    return error == PIER_EMFILE || error == PIER_ENFILE || error == PIER_ENOBUFS ||
           error == PIER_ENOMEM;
}

/* ---- handle.c */

int pier__handle_open(struct pier_loop *loop, struct pier_handle *handle,
                      pier_descriptor descriptor, unsigned kind, uint8_t family, uint32_t bits);
/* The backend has closed the descriptor: frees the slot and calls back. */
void pier__handle_closed(struct pier_handle *handle);
/* If the handle is closing and nothing is in flight, has it closed. */
void pier__handle_try_close(struct pier_handle *handle);
/* Cancels everything and closes; handles_closing and closed_ are set already. */
void pier__handle_close_now(struct pier_handle *handle);
static inline bool pier__handle_listens(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_LISTENER || handle->kind_ == PIER__KIND_PIPE_LISTENER;
}
/* Whether a stream's two directions end one at a time. */
static inline bool pier__handle_has_half_close(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_STREAM || handle->kind_ == PIER__KIND_PIPE_STREAM;
}
/* Misuse unless it is open. */
void pier__handle_require_open(const struct pier_handle *handle, const char *function);

static inline uint64_t pier__slot_key(const struct pier_loop *loop, uint32_t slot)
{
    return loop->slots[slot].key;
}

/* The handle of a key, NULL when it's gone. */
static inline struct pier_handle *pier__slot_handle(const struct pier_loop *loop, uint64_t key)
{
    const struct pier__slot *slot = &loop->slots[(uint32_t)key];
    return PIER__LIKELY(slot->key == key) ? slot->handle : NULL;
}

int pier__slot_take(struct pier_loop *loop, struct pier_handle *handle);
void pier__slot_release(struct pier_loop *loop, struct pier_handle *handle);
int pier__descriptor_note(struct pier_loop *loop, pier_descriptor descriptor, uint32_t slot);
/* The number doesn't lead to this handle any more. */
void pier__descriptor_forget(struct pier_loop *loop, const struct pier_handle *handle);
struct pier_handle *pier__descriptor_handle(const struct pier_loop *loop,
                                            pier_descriptor descriptor);

static inline void pier__handles_push(struct pier__handles *list, struct pier_handle *handle)
{
    PIER_ASSERT((handle->bits_ & PIER__LISTED) == 0);
    handle->bits_ |= PIER__LISTED;
    handle->next_ = NULL;
    if (list->head == NULL) {
        list->head = handle;
    } else {
        list->tail->next_ = handle;
    }
    list->tail = handle;
}

static inline struct pier_handle *pier__handles_pop(struct pier__handles *list)
{
    struct pier_handle *handle = list->head;
    if (handle != NULL) {
        list->head = handle->next_;
        handle->bits_ &= ~(uint32_t)(PIER__LISTED | PIER__STARVED);
    }
    return handle;
}

/* Puts what is left of loop->serving in front of loop->ready: it has waited for longer than what
 * was served in this turn and is to be again. */
static inline void pier__handles_put_back(struct pier_loop *loop)
{
    if (loop->serving.head != NULL) {
        loop->serving.tail->next_ = loop->ready.head;
        loop->ready.tail = loop->ready.head != NULL ? loop->ready.tail : loop->serving.tail;
        loop->ready.head = loop->serving.head;
        loop->serving.head = NULL;
    }
}

/* Hands a handle to the next turn. */
static inline void pier__handle_serve_later(struct pier_loop *loop, struct pier_handle *handle)
{
    if (!(handle->bits_ & PIER__LISTED)) {
        pier__handles_push(&loop->ready, handle);
    }
}

/* ---- stats.c */

/* Calls fn for each timer, poll and notify op in flight; it may end that op. */
void pier__loop_visit(struct pier_loop *loop,
                      void (*fn)(struct pier_loop *, struct pier_op *, void *), void *context);

/* ---- post.c */

/* Delivers what other threads have posted, notified and cancelled. */
void pier__remote_deliver(struct pier_loop *loop);
static inline bool pier__remote_pending(const struct pier_loop *loop)
{
    return loop->posted.head != NULL ||
           (uintptr_t)pier__atomic_load_relaxed(&loop->remote) > (uintptr_t)PIER__ASLEEP ||
           (pier__atomic_load_relaxed(&loop->asked) & PIER__ASKED_CANCELS) != 0;
}
/* Delivers what came while the op was paused. */
void pier__notify_resume(struct pier_op *op);
/* Ends an armed notify op; false when a notification in flight will end it. */
bool pier__notify_disarm(struct pier_op *op);
void pier__token_release(struct pier_loop *loop, struct pier_op *op);
void pier__tokens_free(struct pier_loop *loop);

#endif
