/* turn.c - running a loop, turn by turn.
 *
 * A turn is: wait in the engine (which delivers events directly), then timers, posts from other
 * threads, and whatever completed meanwhile. It waits without sleeping when something is to be
 * delivered already. A turn ends early once its budget of callbacks is used up, so that the kernel,
 * timers and posts are looked at again.
 *
 * Between the timers and posts and what has completed come the links: what was put off to the end
 * of the turn, so that a send that is over at once is delivered in the same turn. What is put off
 * later than that is done before the next wait. */

#include "core/engine.h"
#include "core/remote.h"

PIER__COLD void pier__loop_call_slow(struct pier_loop *loop, struct pier_op *op)
{
    pier_op_fn *fn = op->fn;
    uint64_t begin = pier__sys_clock();
    fn(op);
    uint64_t took = pier__sys_clock() - begin;
    if (took > loop->counters.longest_callback_ns) {
        loop->counters.longest_callback_ns = took;
    }
    if (took >= loop->options.slow_callback_ns) {
        loop->counters.slow_callbacks++;
        if (loop->options.slow_callback != NULL) {
            loop->options.slow_callback(loop->options.slow_context, loop, fn, took);
        }
    }
}

bool pier__loop_deliver(struct pier_loop *loop)
{
    struct pier_op *last = loop->completed.tail;
    while (loop->completed.head != NULL) {
        if (PIER__UNLIKELY(loop->budget <= 0)) {
            return false;
        }
        struct pier_op *op = pier__queue_pop(&loop->completed);
        bool is_last = op == last;
        pier__op_deliver(loop, op);
        if (is_last) {
            break;
        }
    }
    return true;
}

/* Handles whose ops had all completed when this began: ops first, so that the close callback comes
 * last. */
static void deliver_closed(struct pier_loop *loop)
{
    struct pier__handles closing = loop->core.closing;
    loop->core.closing.head = NULL;
    pier__loop_deliver(loop);
    while (closing.head != NULL) {
        /* A callback may have submitted on a handle that is closing: that op was refused, and
         * completes before the close too. */
        if (loop->completed.head != NULL) {
            pier__loop_deliver(loop);
        }
        if (loop->completed.head != NULL) {
            pier__handles_prepend(&loop->core.closing, &closing);
            return;
        }
        pier__handle_require_kept(loop, closing.head);
        struct pier_handle *handle = pier__handles_pop(&closing);
        handle->calls_->shut(handle);
    }
}

static void fire(struct pier_loop *loop, struct pier_op *op)
{
    if (PIER__UNLIKELY(op->kind_ != PIER__OP_TIMER)) {
        if (op->kind_ != PIER__OP_TIMER_ON) {
            pier__op_timed_out(loop, op);
            return;
        }
        pier__op_unlist_unordered(op); /* its handle isn't closing: that would have ended it */
    }
    loop->counters.timers++;
    if ((op->bits_ & PIER__MULTISHOT) == 0) {
        op->result = 0;
        op->flags &= PIER_BACKGROUND;
        pier__op_finish_timer(loop, op);
        pier__loop_call(loop, op);
        return;
    }
    uint64_t interval = op->use_.interval_ns;
    uint64_t deadline = op->timer_.deadline_ns;
    uint64_t count = (loop->now - deadline) / interval + 1;
    loop->counters.timer_skips += count - 1;
    pier__timers_insert(&loop->core.timers, &op->timer_,
                        pier__time_after(deadline, count * interval));
    pier__op_event(loop, op, (int64_t)count, 0);
}

PIER__COLD static void fire_own(struct pier_loop *loop, const struct pier_timer_link *link)
{
    if (link == &loop->core.own_timers[PIER__OWN_RETRY]) {
        loop->core.retry_now = true;
    } else {
        pier__rings_trim(loop);
    }
}

static void fire_timers(struct pier_loop *loop)
{
    uint64_t now = loop->now;
    struct pier_timer_link *link;
    while (loop->budget > 0 && (link = pier__timers_expire(&loop->core.timers, now)) != NULL) {
        if (PIER__UNLIKELY(pier__timer_is_own(loop, link))) {
            fire_own(loop, link);
            continue;
        }
        loop->now = now; /* a callback may have read a later one: expiries count from the turn's */
        loop->core.clock_budget = loop->budget + 1;
        fire(loop, PIER_OWNER(link, struct pier_op, timer_));
    }
}

void pier__loop_starve(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->bits_ & PIER__LISTED) {
        return;
    }
    pier__handles_push(&loop->core.starved, handle);
    handle->bits_ |= PIER__STARVED;
    struct pier_timer_link *retry = &loop->core.own_timers[PIER__OWN_RETRY];
    if (!pier__timer_armed(retry)) {
        uint64_t now = pier__loop_clock(loop);
        pier__timers_insert(&loop->core.timers, retry,
                            pier__time_after(now, loop->options.retry_ns));
    }
}

static void retry_starved(struct pier_loop *loop)
{
    loop->core.retry_now = false;
    if (pier__timer_armed(&loop->core.own_timers[PIER__OWN_RETRY])) {
        pier__timers_remove(&loop->core.timers, &loop->core.own_timers[PIER__OWN_RETRY]);
    }
    loop->serving = loop->core.starved;
    loop->core.starved.head = NULL;
    struct pier_handle *handle;
    while ((handle = pier__handles_pop(&loop->serving)) != NULL) {
        if ((handle->bits_ & PIER__CLOSING) && pier__handle_is_idle(handle)) {
            pier__handle_try_close(handle);
        } else {
            handle->calls_->retry(handle); /* also for a cancel that found no room, in closing */
        }
    }
}

bool pier__loop_serve(struct pier_loop *loop)
{
    while (loop->serving.head != NULL) {
        if (loop->completed.head != NULL) {
            pier__loop_deliver(loop); /* may take handles off the list */
        }
        if (PIER__UNLIKELY(loop->budget <= 0)) {
            bool all = loop->serving.head == NULL;
            pier__handles_prepend(&loop->ready, &loop->serving);
            return all;
        }
        struct pier_handle *handle = pier__handles_pop(&loop->serving);
        if (handle == NULL) {
            break;
        }
        if ((handle->bits_ & PIER__CLOSING) && pier__handle_is_idle(handle)) {
            pier__handle_try_close(handle);
        } else {
            loop->engine->serve(loop, handle);
        }
    }
    return true;
}

static bool is_alive(struct pier_loop *loop)
{
    return loop->core.in_flight > loop->core.background || loop->core.handles_closing > 0 ||
           pier__remote_pending(loop) || loop->completed.head != NULL;
}

/* How long the backend may sleep if nobody posts. */
static inline uint64_t sleep_time(struct pier_loop *loop)
{
    /* Together, since none is what one finds. */
    uintptr_t lists = (uintptr_t)loop->completed.head | (uintptr_t)loop->core.closing.head |
                      (uintptr_t)loop->ready.head | (uintptr_t)loop->core.posted.head;
    if (lists != 0 || loop->core.retry_now ||
        (loop->engine->busy != NULL && loop->engine->busy(loop))) {
        return 0;
    }
    uint64_t next = pier__timers_next(&loop->core.timers);
    uint64_t most = loop->core.sleep_most_ns;
    if (PIER__LIKELY(next == UINT64_MAX)) {
        return most;
    }
    uint64_t now = pier__sys_clock();
    uint64_t left = next > now ? next - now : 0;
    return left < most ? left : most;
}

static void serve_timers(struct pier_loop *loop)
{
    if (pier__timers_count(&loop->core.timers) != 0) {
        fire_timers(loop);
    }
}

static inline void serve_posts(struct pier_loop *loop)
{
    if (pier__remote_pending(loop) && loop->budget > 0) {
        pier__remote_deliver(loop);
    }
}

static inline void serve_completed(struct pier_loop *loop)
{
    /* Together, since none is what one finds. */
    uintptr_t lists = (uintptr_t)loop->completed.head | (uintptr_t)loop->core.closing.head |
                      (uintptr_t)loop->core.turn_links;
    if (lists != 0) {
        if (loop->core.owed & PIER__OWES_LINKS) {
            pier__links_call(loop);
            if (loop->completed.head == NULL && loop->core.closing.head == NULL) {
                return;
            }
        }
        deliver_closed(loop);
    }
}

/* What a turn serves besides the backend's events: timers, posts, completed ops. A small budget may
 * not do for all three, so the first to be served changes after a turn that ran out. */
PIER__NOINLINE static void serve_others(struct pier_loop *loop)
{
    unsigned first = loop->core.first_served;
    pier__loop_read_clock(loop, loop->budget);
    for (unsigned i = 0, which = first; i < 3; i++, which = which == 2 ? 0 : which + 1) {
        if (which == 0) {
            serve_timers(loop);
        } else if (which == 1) {
            serve_posts(loop);
        } else {
            serve_completed(loop);
        }
    }
    loop->core.first_served = (uint8_t)(loop->budget > 0 ? 0 : (first + 1) % 3);
}

/* The same where there are no timers, and none of the three was left out in the turn before. */
static inline void serve_posts_and_completed(struct pier_loop *loop)
{
    serve_posts(loop);
    serve_completed(loop);
    if (PIER__UNLIKELY(loop->budget <= 0)) {
        loop->core.first_served = 1;
    }
}

/* What the turn before had to leave. */
PIER__COLD static void make_up(struct pier_loop *loop)
{
    if (loop->core.retry_now) {
        retry_starved(loop);
    }
    if (loop->core.owed & PIER__OWES_OTHERS) {
        serve_others(loop);
    }
}

/* Makes other threads wake the loop. False when something is there already. */
static inline bool fall_asleep(struct pier_loop *loop)
{
    struct pier_op *none = NULL;
    PIER_ASSERT(!(loop->core.on_return & PIER__WAS_ASLEEP));
    if (PIER__UNLIKELY(!pier__atomic_compare_exchange(&loop->core.remote, &none, PIER__ASLEEP))) {
        return false;
    }
    loop->core.on_return |= PIER__WAS_ASLEEP;
    /* In this order, and both sequentially consistent: see pier__remote_ask(). */
    return pier__atomic_load(&loop->core.asked) == 0;
}

static inline void turn(struct pier_loop *loop, bool may_sleep)
{
    loop->counters.turns++;
    loop->budget = loop->core.budget_full;
    loop->core.clock_budget = loop->budget + 1;
    if (PIER__UNLIKELY(loop->core.retry_now || loop->core.owed != 0)) {
        may_sleep = may_sleep && !(loop->core.owed & PIER__OWES_OTHERS);
        make_up(loop);
        pier__hooks_call(loop, PIER__PREPARE);
        /* Last, so that what they submit is seen by sleep_time() and by the wait. A callback may
         * have been what the caller of the run waits for. */
        int32_t left = loop->budget;
        if (loop->core.owed & PIER__OWES_LINKS) {
            pier__links_call(loop);
        }
        may_sleep = may_sleep && !(loop->core.owed & PIER__OWES_LINKS) && loop->budget == left;
    }
    int32_t before = loop->budget;
    uint64_t timeout_ns = may_sleep ? sleep_time(loop) : 0;
    loop->core.fast_thread = PIER__NO_THREAD; /* the clock is read when somebody wants to know */
    if (timeout_ns != 0) {
        loop->counters.waits++;
        if (PIER__UNLIKELY(!fall_asleep(loop))) {
            timeout_ns = 0;
        }
    }
    loop->engine->wait(loop, timeout_ns);
    if (PIER__UNLIKELY(pier__atomic_load_relaxed(&loop->core.asked) & PIER__ASKED_WAKE)) {
        pier__atomic_and(&loop->core.asked, ~(uint32_t)PIER__ASKED_WAKE);
    }
    /* When the events took the rest of the budget, the others come first next time; when the
     * others left the events nothing, the events do. */
    loop->core.owed &= PIER__HAS_PREPARES | PIER__OWES_LINKS;
    if (PIER__UNLIKELY(loop->budget <= 0)) {
        loop->core.owed |= before > 0 ? PIER__OWES_OTHERS : 0;
    } else if (pier__timers_count(&loop->core.timers) != 0 || loop->core.first_served != 0) {
        serve_others(loop);
    } else {
        serve_posts_and_completed(loop);
    }
    loop->counters.callbacks += (uint64_t)((int64_t)loop->core.budget_full - loop->budget);
}

static inline bool is_stopped(const struct pier_loop *loop)
{
    return (pier__atomic_load_relaxed(&loop->core.asked) & PIER__ASKED_STOP) != 0;
}

void pier__loop_rebind(struct pier_loop *loop)
{
    if (!pier__loop_on_thread(loop)) {
        loop->core.thread = pier__thread();
        if (loop->engine->rebind != NULL) {
            loop->engine->rebind(loop);
        }
    }
}

/* The end of a run inside another loop, which is going to wait. */
PIER__COLD static void leave_to_foreign(struct pier_loop *loop)
{
    loop->budget = loop->core.budget_full;
    pier__hooks_call(loop, PIER__PREPARE);
    if (loop->engine->flush != NULL) {
        loop->engine->flush(loop);
    }
    fall_asleep(loop); /* what comes now must show at the descriptor */
}

int pier__loop_check_fork(const struct pier_loop *loop)
{
    return loop->core.forks == pier__sys_forks()
               ? 0
               : pier__fail(PIER_EFORKED, "the loop belongs to the parent process: call "
                                          "pier_loop_after_fork() first");
}

int pier_loop_run(struct pier_loop *loop, enum pier_run mode)
{
    PIER_REQUIRE(!loop->running, "pier_loop_run", "called from inside a callback of the same loop");
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_loop_run",
                 "called from another thread than that of the first run");
    int error = pier__loop_check_fork(loop);
    if (error < 0) {
        return error;
    }
    loop->core.thread = pier__thread();
    loop->running = true;
    pier__loop_awake(loop);
    while (loop->failure == 0) {
        bool alive = is_alive(loop);
        if (!alive && mode == PIER_RUN_UNTIL_IDLE) {
            break;
        }
        /* When it's told to stop, it doesn't fall asleep. */
        turn(loop, mode != PIER_RUN_NO_WAIT && (alive || loop->core.background > 0));
        if (mode != PIER_RUN_UNTIL_IDLE || is_stopped(loop)) {
            break;
        }
    }
    if (is_stopped(loop)) {
        pier__atomic_and(&loop->core.asked, ~(uint32_t)PIER__ASKED_STOP);
    }
    if ((loop->core.owed & PIER__OWES_LINKS) && loop->failure == 0) {
        pier__links_call(loop);
    }
    if (PIER__UNLIKELY(loop->core.embedded)) {
        leave_to_foreign(loop);
    }
    loop->running = false;
    loop->core.fast_thread = PIER__NO_THREAD;
    /* The next run tries again: memory may only have been short, and ops in flight must be able to
     * complete (tests/fault). */
    int failure = loop->failure;
    loop->failure = 0;
    return failure != 0 ? failure : is_alive(loop);
}

uint64_t pier_loop_now(struct pier_loop *loop)
{
    PIER__REQUIRE_THREAD(loop, "pier_loop_now");
    return pier__loop_clock(loop);
}

const char *pier_loop_backend(const struct pier_loop *loop)
{
    return loop->engine->name;
}

uint64_t pier_loop_next_timeout(struct pier_loop *loop)
{
    PIER__REQUIRE_THREAD(loop, "pier_loop_next_timeout");
    if (loop->core.embedded && !loop->running && loop->engine->flush != NULL &&
        pier__loop_check_fork(loop) == 0) {
        loop->engine->flush(loop); /* what was submitted outside of a run */
    }
    /* pier_wake() may have come when the run was nearly over. What the last wait had no room for
     * is no news for who watches the descriptor for edges. */
    return pier__remote_pending(loop) || pier__atomic_load_relaxed(&loop->core.asked) != 0 ||
                   (loop->core.embedded && loop->engine->more != NULL &&
                    loop->engine->more(loop)) ||
                   ((loop->core.owed & PIER__OWES_LINKS) && !loop->running)
               ? 0
               : sleep_time(loop);
}

pier_descriptor pier_loop_descriptor(struct pier_loop *loop)
{
    PIER__REQUIRE_THREAD(loop, "pier_loop_descriptor");
    pier_descriptor descriptor = loop->engine->descriptor(loop);
    if (descriptor < 0) {
        return pier__fail((int)descriptor,
                          "the %s backend has no descriptor that a foreign loop could watch",
                          loop->engine->name);
    }
    loop->core.embedded = true;
    if (!loop->running && !(loop->core.on_return & PIER__WAS_ASLEEP)) {
        fall_asleep(loop);
    }
    return descriptor;
}
