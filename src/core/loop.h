/* loop.h - the loop's own state, and the few functions that everything needs: memory, the clock,
 * falling asleep.
 *
 * Callbacks run only below pier_loop_run(): completed ops and closed handles (turn.c), events that
 * an engine delivers inside its wait(), and expired timers. Nothing that a callback can call runs
 * another callback.
 *
 * What stands before `core` an engine may read and use as engine.h says; `core` is for src/core and
 * src/ops alone (tests/style/check holds that). */

#ifndef PIER_CORE_LOOP_H
#define PIER_CORE_LOOP_H

#include <assert.h>
#include <string.h>

#include "pier/pier.h"

#include "base/atomic.h"
#include "base/check.h"
#include "base/error.h"
#include "base/queue.h"
#include "base/timer.h"
#include "core/pool.h"
#include "core/rings.h"
#include "sys/sys.h"

struct pier__engine;
struct pier__token;

struct pier__slot {
    struct pier_handle *handle; /* NULL: free */
    uint64_t key; /* generation << 32 | index. Free: the generation is the next handle's, which no
                     key has yet, the index that of the next free slot. */
};

/* A list of handles through handle->next_. */
struct pier__handles {
    struct pier_handle *head, *tail;
};

/* Memory that ops need while they are in flight, and that the loop keeps for the next one. */
struct pier__block {
    struct pier__block *next;
    size_t size;
};

struct pier__address_block {
    struct pier__block block; /* first */
    struct pier_address address;
};

#define PIER__TOKEN_CHUNKS 26

/* In core.remote: no op is there, and the loop sleeps. Who replaces it wakes the loop. */
#define PIER__ASLEEP ((struct pier_op *)1)

/* core.asked */
enum {
    PIER__ASKED_STOP = 1,   /* pier_loop_stop() */
    PIER__ASKED_WAKE = 2,   /* pier_wake() */
    PIER__ASKED_CANCELS = 4 /* there is something in remote_cancels */
};

/* core.own_timers */
enum {
    PIER__OWN_RETRY, /* starved handles try again */
    PIER__OWN_TRIM,  /* rings that nobody has used for a while are given back */
    PIER__OWN_TIMERS
};

/* What other threads write is this far from what the loop writes: two cache lines, since processors
 * fetch them in pairs. */
#define PIER__APART 128

/* In core.thread and core.fast_thread: no thread's number. */
#define PIER__NO_THREAD UINT64_MAX

/* The two sorts of ops that are called around a wait, see hooks.c. */
enum pier__hook { PIER__PREPARE, PIER__CHECK };

struct pier__hooks {
    struct pier__queue ops;
    struct pier_op *next, *last; /* of the pass under way */
};

/* core.owed: what a turn has to do before it waits. */
enum {
    PIER__OWES_OTHERS = 1,  /* the last turn's events left nothing of the budget for timers, posts
                              and completed ops */
    PIER__HAS_PREPARES = 2, /* there are ops of pier_prepare_each() */
    PIER__OWES_LINKS = 4    /* there is something in turn_links */
};

/* core.on_return: what an engine that is back from the system has to do. */
enum {
    PIER__WAS_ASLEEP = 1, /* others find PIER__ASLEEP, or have replaced it */
    PIER__HAS_CHECKS = 2  /* there are ops of pier_check_each() */
};

struct pier__core {
    /* Hot: looked at by each turn or each submit. */
    uint64_t thread; /* pier__thread_id of its thread, PIER__NO_THREAD before the first run */
    /* The same while `now` is fresh enough for a submit to note, PIER__NO_THREAD otherwise: one
     * comparison tells a submit that it may take the fast road. */
    uint64_t fast_thread;
    uint64_t in_flight;           /* ops between submit and terminal callback */
    uint64_t background;          /* of which don't keep the loop running */
    struct pier__handles closing; /* nothing left in flight: to be closed */
    struct pier__queue posted;    /* taken from `remote`, to be called back */
    int32_t budget_full;          /* options.callbacks_max */
    int32_t clock_budget;         /* budget when `now` was read: equal means it is fresh enough */
    uint8_t on_return;            /* PIER__WAS_ASLEEP... */
    bool retry_now;               /* starved handles are to try again in the next turn */
    uint8_t owed;                 /* PIER__OWES_OTHERS... */
    uint8_t first_served;         /* of timers, posts and completed ops */
    bool embedded;                /* pier_loop_descriptor() was asked for */
    bool callbacks_timed;         /* options.slow_callback_ns isn't 0 */

    uint64_t own_callbacks; /* of the graceful closes' ops: no callbacks of the program's */
    uint64_t own_ops;       /* of these ops, in flight */

    struct pier_turn_link *turn_links;   /* to be called at the end of the turn */
    struct pier_turn_link *links_called; /* of these, what is left while they are */

    uint64_t sleep_most_ns;   /* bounds the next wait */
    uint64_t handles_closing; /* between pier_close() and its callback */

    uint32_t slots_size, slots_free;
    uint32_t *by_descriptor; /* slot + 1 of the handle with this descriptor, 0 none */
    size_t by_descriptor_size;

    struct pier__handles starved; /* waiting for buffers, descriptors or memory */
    struct pier_timer_link own_timers[PIER__OWN_TIMERS]; /* which are no op's */
    struct pier__timers timers;
    struct pier_timer_link *others; /* ops of no handle that aren't in the wheel */

    /* In an accept callback: the socket, until it is taken. */
    struct pier_op *accepted_op;
    pier_descriptor accepted;
    const struct pier_address *accepted_peer; /* its address, if it came with it */

    struct pier__block *addresses_free;
    struct pier__block *graceful_free; /* what graceful closes have used */
    struct pier__rings rings;          /* what writers have used */
    void *memory; /* what the allocator gave for the loop, which is aligned in it */
    unsigned capabilities;

    /* All that other threads write or read in a post, in one cache line. */
    _Alignas(PIER__APART) struct pier_op *remote; /* a stack, or PIER__ASLEEP */
    struct pier__token *remote_cancels;
    uint32_t asked;  /* PIER__ASKED_* */
    uint32_t waking; /* other threads that are about to wake the loop, or are at it */
    void (*wake)(struct pier_loop *loop); /* the engine's, or a shorter way to it */
    pier_descriptor wake_descriptor;      /* what that needs, if it is just this */

    _Alignas(PIER__APART) struct pier__token *tokens[PIER__TOKEN_CHUNKS];
    uint32_t tokens_used, tokens_free;

    uint64_t forks;
    struct pier__hooks hooks[2]; /* by enum pier__hook */
    void *user;                  /* the program's: pier_loop_set_user() */
};

struct pier_loop {
    const struct pier__engine *engine;
    void *engine_data;
    struct pier__queue completed; /* ops whose terminal completion is still to be delivered */
    int32_t budget;               /* callbacks left in this turn, <= 0 when it is used up */
    int failure;                  /* why the engine can't go on, 0 while it can */
    bool running;                 /* inside pier_loop_run() */
    uint64_t now;                 /* see pier__loop_clock() */
    struct pier__handles ready;   /* to be served in the next turn though no event comes */
    struct pier__handles serving; /* taken from `ready` or `starved`, being gone through */
    struct pier__slot *slots;
    uint32_t slots_used;
    /* Sends and receives that were one system call each and over at once: added to the counters
     * when those are asked for. */
    uint64_t sends_at_once, receives_at_once;
    struct pier__pool pool;
    struct pier_loop_counters counters;
    struct pier_loop_options options;

    struct pier__core core;
};

/* A number that only this thread has, never reused; 0 until pier__thread() was called on it. */
extern PIER__THREAD_LOCAL uint64_t pier__thread_id;
uint64_t pier__thread(void);

void *pier__allocate(struct pier_loop *loop, size_t size);
/* Like realloc; on failure the old memory stays. */
void *pier__reallocate(struct pier_loop *loop, void *memory, size_t old_size, size_t new_size);
void pier__free(struct pier_loop *loop, void *memory, size_t size);

/* A block of `size` bytes, zeroed, out of a list or new; NULL when there is no memory. A struct
 * that begins with one is had and given back by its address. */
void *pier__block_take(struct pier_loop *loop, struct pier__block **list, size_t size);
static inline void pier__block_put(struct pier__block **list, struct pier__block *block)
{
    block->next = *list;
    *list = block;
}

/* 0, or PIER_EFORKED with a detail in a child that hasn't made the loop its own. */
int pier__loop_check_fork(const struct pier_loop *loop);

/* Makes a loop on an engine; `options` have passed pier__loop_check_options(). */
int pier__loop_make(struct pier_loop **result, const struct pier_loop_options *options,
                    const struct pier__engine *engine, unsigned capabilities);
/* Fills in defaults; PIER_EINVAL with a detail for an option that is out of range. */
int pier__loop_check_options(struct pier_loop_options *options);

/* The loop's thread has ended, and this one, which joined it, takes its place. Nothing is done
 * where the loop is this thread's already, or nobody's. */
void pier__loop_rebind(struct pier_loop *loop);

/* Whether this thread may use the loop. */
static PIER__EXPRESSION bool pier__loop_on_thread(const struct pier_loop *loop)
{
    return loop->core.thread == PIER__NO_THREAD || loop->core.thread == pier__thread_id;
}

#define PIER__REQUIRE_THREAD(loop, function) \
    PIER_REQUIRE(pier__loop_on_thread(loop), function, "called from another thread than the loop's")

/* Reads the clock, which stays fresh enough for as long as `budget` callbacks are left. */
static PIER__EXPRESSION void pier__loop_read_clock(struct pier_loop *loop, int32_t budget)
{
    loop->core.clock_budget = budget;
    loop->now = pier__sys_clock();
    loop->core.fast_thread = loop->core.thread;
}

/* The clock, read again only if a callback has begun since it was read. */
static inline uint64_t pier__loop_clock(struct pier_loop *loop)
{
    if (loop->core.clock_budget != loop->budget || !loop->running) {
        pier__loop_read_clock(loop, loop->budget);
    }
    return loop->now;
}

/* Sees to it that `now` is of this turn, for an op to note when it was submitted. */
static PIER__EXPRESSION void pier__loop_clock_of_turn(struct pier_loop *loop)
{
    if (PIER__UNLIKELY(loop->core.fast_thread == PIER__NO_THREAD)) {
        pier__loop_read_clock(loop, loop->budget);
    }
}

/* The clock for a callback that is about to begin: what the one before has read may be old. */
static inline uint64_t pier__loop_clock_next(struct pier_loop *loop)
{
    pier__loop_read_clock(loop, loop->budget - 1);
    return loop->now;
}

static PIER__EXPRESSION uint64_t pier__time_after(uint64_t now, uint64_t delay_ns)
{
    return delay_ns > UINT64_MAX - now ? UINT64_MAX : now + delay_ns;
}

/* Whether `now` is of this turn. */
static PIER__EXPRESSION bool pier__loop_clock_is_fresh(const struct pier_loop *loop)
{
    return loop->core.fast_thread != PIER__NO_THREAD;
}

/* Whether handles wait for something to be released. */
static PIER__EXPRESSION bool pier__loop_has_starved(const struct pier_loop *loop)
{
    return loop->core.starved.head != NULL;
}

/* Other threads needn't wake the loop any more, of which they think that it sleeps. */
static PIER__EXPRESSION void pier__loop_leave_sleep(struct pier_loop *loop)
{
    struct pier_op *asleep = PIER__ASLEEP;
    if (pier__atomic_load_relaxed(&loop->core.remote) != PIER__ASLEEP ||
        !pier__atomic_compare_exchange(&loop->core.remote, &asleep, NULL)) {
        loop->counters.wakeups++;
    }
}

/* The same where it may be awake already. */
static PIER__EXPRESSION void pier__loop_awake(struct pier_loop *loop)
{
    if (loop->core.on_return & PIER__WAS_ASLEEP) {
        loop->core.on_return = (uint8_t)(loop->core.on_return & ~PIER__WAS_ASLEEP);
        pier__loop_leave_sleep(loop);
    }
}

/* Whether a link of the wheel is one of the loop's own, and so no op's. */
static PIER__EXPRESSION bool pier__timer_is_own(const struct pier_loop *loop,
                                                const struct pier_timer_link *link)
{
    return (uintptr_t)link - (uintptr_t)loop->core.own_timers < sizeof(loop->core.own_timers);
}

/* Has link->fn called once, inside the run, when the callbacks of this turn have run and before the
 * loop waits; outside of a run in the next one. A link that waits for that already stays so. If it
 * calls the program, it takes one off the turn's budget. */
void pier__loop_at_turn_end(struct pier_loop *loop, struct pier_turn_link *link);
/* Calls those that wait. What is added meanwhile waits for the next time. */
void pier__links_call(struct pier_loop *loop);
/* It isn't called any more. */
static inline void pier__turn_link_remove(struct pier_turn_link *link)
{
    if (link->back != NULL) {
        *link->back = link->next;
        if (link->next != NULL) {
            link->next->back = link->back;
        }
        link->back = NULL;
    }
}

/* Runs the callbacks of what has completed up to now. False when the turn's budget ran out. */
bool pier__loop_deliver(struct pier_loop *loop);
/* Hands a handle that is short of something (buffers, descriptors, memory) to the next retry: after
 * retry_ns, a release or a close. */
void pier__loop_starve(struct pier_loop *loop, struct pier_handle *handle);
/* Something was released that starved handles may be waiting for. */
static PIER__EXPRESSION void pier__loop_retry(struct pier_loop *loop)
{
    loop->core.retry_now = loop->core.starved.head != NULL;
}
/* The starved handles try again in the next turn, whatever they wait for. */
static PIER__EXPRESSION void pier__loop_retry_soon(struct pier_loop *loop)
{
    loop->core.retry_now = true;
}

#endif
