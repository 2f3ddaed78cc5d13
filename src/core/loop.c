/* loop.c - the loop: making, freeing, turning.
 *
 * A turn is: wait in the backend (which delivers events directly), then timers, posts from other
 * threads, and whatever completed meanwhile. It waits without sleeping when something is to be
 * delivered already. A turn ends early once its budget of callbacks is used up, so that the kernel,
 * timers and posts are looked at again. */

#include "core/loop.h"

/* Its address tells threads apart, without a call. */
#if defined(__ELF__) && defined(__GNUC__)
static PIER__THREAD_LOCAL char thread_mark __attribute__((tls_model("initial-exec")));
#else
static PIER__THREAD_LOCAL char thread_mark;
#endif

/* With room for aligning it. */
#define LOOP_BYTES (sizeof(struct pier_loop) + PIER__APART - 1)

const void *pier__thread(void)
{
    return &thread_mark;
}

/* ---- memory */

void *pier__reallocate(struct pier_loop *loop, void *memory, size_t old_size, size_t new_size)
{
    if (pier__fault(PIER__CALL_ALLOCATE) != 0) {
        return NULL;
    }
    loop->stats.allocations++;
    return loop->options.allocate(loop->options.allocate_context, memory, old_size, new_size);
}

void *pier__allocate(struct pier_loop *loop, size_t size)
{
    return pier__reallocate(loop, NULL, 0, size);
}

void pier__free(struct pier_loop *loop, void *memory, size_t size)
{
    if (memory != NULL) {
        loop->options.allocate(loop->options.allocate_context, memory, size, 0);
    }
}

/* ---- making and freeing */

static int check_range(const char *name, uint32_t *value, uint32_t standard, uint32_t least,
                       uint32_t most)
{
    if (*value == 0) {
        *value = standard;
    }
    if (*value < least || *value > most) {
        return pier__fail(PIER_EINVAL,
                          "option %s is %lu: give 0 for the default (%lu), or %lu to %lu", name,
                          (unsigned long)*value, (unsigned long)standard, (unsigned long)least,
                          (unsigned long)most);
    }
    return 0;
}

static int check_options(struct pier_loop_options *options)
{
    int error;
    if ((error = check_range("queue_size", &options->queue_size, 256, 1, 32768)) < 0 ||
        (error = check_range("receives_max", &options->receives_max, 16, 1, 65535)) < 0 ||
        (error = check_range("callbacks_max", &options->callbacks_max, 1024, 1, 1 << 30)) < 0 ||
        (error = check_range("buffer_size", &options->buffer_size, 20480, 64, 16 << 20)) < 0 ||
        (error = check_range("buffers_max", &options->buffers_max, 1024, 1, 32768)) < 0 ||
        (error = check_range("buffers_min", &options->buffers_min,
                             options->buffers_max < 64 ? options->buffers_max : 64, 1,
                             options->buffers_max)) < 0 ||
        (error = check_range("buffer_share", &options->buffer_share, 8, 1, 32768)) < 0) {
        return error;
    }
    if (options->trigger > PIER_ONE_SHOT) {
        return pier__fail(
            PIER_EINVAL,
            "option trigger is %d: use PIER_EDGE_TRIGGERED, PIER_LEVEL_TRIGGERED or PIER_ONE_SHOT",
            (int)options->trigger);
    }
    if (options->retry_ns == 0) {
        options->retry_ns = 100 * PIER_MILLISECOND;
    }
    if (options->allocate == NULL) {
        options->allocate = pier__sys_allocate;
    }
    return 0;
}

static int check_abi(const struct pier_abi *abi)
{
    if (abi->op_size != sizeof(struct pier_op) || abi->handle_size != sizeof(struct pier_handle) ||
        abi->options_size != sizeof(struct pier_loop_options) ||
        abi->version / 1000 != PIER_VERSION_MAJOR) {
        return pier__fail(
            PIER_EINVAL,
            "the program was compiled for another pier (op %lu, handle %lu bytes; the library "
            "has %lu, %lu): "
            "compile it against the headers of version " PIER_VERSION_STRING,
            (unsigned long)abi->op_size, (unsigned long)abi->handle_size,
            (unsigned long)sizeof(struct pier_op), (unsigned long)sizeof(struct pier_handle));
    }
    return 0;
}

int pier_loop_new_for(struct pier_loop **result, const struct pier_loop_options *given,
                      const struct pier_abi *abi)
{
    struct pier_loop_options options = {0};
    const struct pier__engine *backend;
    int error = check_abi(abi);
    if (error == 0 && given != NULL) {
        options = *given;
    }
    if (error < 0 || (error = check_options(&options)) < 0 ||
        (error = pier__engine_choose(options.backend, &backend)) < 0) {
        return error;
    }
    void *memory = NULL;
    if (pier__fault(PIER__CALL_ALLOCATE) == 0) {
        memory = options.allocate(options.allocate_context, NULL, 0, LOOP_BYTES);
    }
    if (memory == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for a loop (%lu bytes)",
                          (unsigned long)LOOP_BYTES);
    }
    struct pier_loop *loop = (void *)(((uintptr_t)memory + PIER__APART - 1) &
                                      ~(uintptr_t)(PIER__APART - 1));
    memset(loop, 0, sizeof(*loop));
    loop->memory = memory;
    loop->options = options;
    loop->options.backend = backend->name;
    loop->engine = backend;
    loop->wake = backend->wake;
    loop->callbacks_timed = options.slow_callback_ns != 0;
    loop->budget_full = (int32_t)options.callbacks_max;
    loop->sleep_most_ns = PIER_FOREVER;
    loop->accepted = -1;
    loop->slots_free = UINT32_MAX;
    loop->tokens_free = UINT32_MAX;
    loop->stats.allocations = 1;
    loop->now = pier__sys_clock();
    pier__timers_open(&loop->timers, loop->now);
    pier__sys_watch_forks();
    loop->forks = pier__sys_forks();
    pier__pool_open(loop);
    error = backend->open(loop, &loop->options);
    if (error < 0) {
        options.allocate(options.allocate_context, memory, LOOP_BYTES, 0);
        return error;
    }
    *result = loop;
    return 0;
}

static void free_addresses(struct pier_loop *loop)
{
    while (loop->addresses_free != NULL) {
        struct pier__address_block *block = loop->addresses_free;
        loop->addresses_free = block->next;
        pier__free(loop, block, sizeof(*block));
    }
}

void pier_loop_free(struct pier_loop *loop)
{
    if (loop == NULL) {
        return;
    }
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_loop_free",
                 "called from another thread than the loop's");
    PIER_REQUIRE(!loop->running, "pier_loop_free", "called from inside a callback");
    bool forked = loop->forks != pier__sys_forks();
    PIER_REQUIRE(forked || (loop->in_flight == 0 && !pier__remote_pending(loop)), "pier_loop_free",
                 "the loop has ops in flight: run it until they complete, see pier_loop_drain()");
    PIER_REQUIRE(forked || loop->stats.handles_open == 0, "pier_loop_free",
                 "the loop has open handles: close or detach them first, see pier_loop_drain()");
    PIER_REQUIRE(forked || loop->pool.lent == 0, "pier_loop_free",
                 "lent buffers are still kept: release them first, see pier_buffer_release()");
    loop->engine->close(loop);
    pier__pool_close(loop);
    pier__tokens_free(loop);
    free_addresses(loop);
    pier__free(loop, loop->slots, loop->slots_size * sizeof(*loop->slots));
    pier__free(loop, loop->by_descriptor, loop->by_descriptor_size * sizeof(*loop->by_descriptor));
    struct pier_loop_options options = loop->options;
    options.allocate(options.allocate_context, loop->memory, LOOP_BYTES, 0);
}

/* ---- turning */

PIER__COLD void pier__loop_call_slow(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    uint64_t begin = pier__sys_clock();
    fn(op);
    uint64_t took = pier__sys_clock() - begin;
    if (took > loop->stats.longest_callback_ns) {
        loop->stats.longest_callback_ns = took;
    }
    if (took >= loop->options.slow_callback_ns) {
        loop->stats.slow_callbacks++;
        if (loop->options.slow_callback != NULL) {
            loop->options.slow_callback(loop->options.slow_context, loop, fn, took);
        }
    }
}

static bool deliver_completed(struct pier_loop *loop)
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

bool pier__loop_deliver(struct pier_loop *loop)
{
    return deliver_completed(loop);
}

/* Handles whose ops had all completed when this began: ops first, so that the close callback comes
 * last. */
static void deliver_closed(struct pier_loop *loop)
{
    struct pier__handles closing = loop->closing;
    loop->closing.head = NULL;
    deliver_completed(loop);
    while (closing.head != NULL) {
        /* A callback may have submitted on a handle that is closing: that op was refused, and
         * completes before the close too. */
        if (loop->completed.head != NULL) {
            deliver_completed(loop);
        }
        if (loop->completed.head != NULL) {
            closing.tail->next_ = loop->closing.head;
            loop->closing.tail = loop->closing.head != NULL ? loop->closing.tail : closing.tail;
            loop->closing.head = closing.head;
            return;
        }
        loop->engine->shut(pier__handles_pop(&closing));
    }
}

static void fire(struct pier_loop *loop, struct pier_op *op)
{
    loop->stats.timers++;
    if (op->kind_ != PIER__OP_TIMER) {
        pier__op_timed_out(loop, op);
        return;
    }
    if ((op->bits_ & PIER__MULTISHOT) == 0) {
        op->result = 0;
        op->flags &= PIER_BACKGROUND;
        if (PIER__UNLIKELY(op->bits_ & PIER__TOKEN)) {
            pier__token_release(loop, op);
        }
        if (PIER__UNLIKELY(op->bits_ & PIER__COUNTED_BACKGROUND)) {
            loop->background--;
        }
        loop->in_flight--;
        pier__op_move(op, PIER__IDLE);
        pier__loop_call(loop, op);
        return;
    }
    uint64_t interval = op->extra_.number;
    uint64_t deadline = op->timer_.deadline_ns;
    uint64_t count = (loop->now - deadline) / interval + 1;
    loop->stats.timer_skips += count - 1;
    uint64_t next = count * interval;
    pier__timers_insert(&loop->timers, &op->timer_,
                        next > UINT64_MAX - deadline ? UINT64_MAX : deadline + next);
    op->result = (int64_t)count;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_MORE;
    pier__loop_call(loop, op);
}

static void fire_timers(struct pier_loop *loop)
{
    uint64_t now = loop->now;
    struct pier_timer_link *link;
    while (loop->budget > 0 && (link = pier__timers_expire(&loop->timers, now)) != NULL) {
        if (link == &loop->retry_link) {
            loop->retry_now = true;
            continue;
        }
        loop->now = now; /* a callback may have read a later one: expiries count from the turn's */
        loop->clock_budget = loop->budget + 1;
        fire(loop, PIER_OWNER(link, struct pier_op, timer_));
    }
}

void pier__loop_starve(struct pier_loop *loop, struct pier_handle *handle)
{
    if (handle->bits_ & PIER__LISTED) {
        return;
    }
    pier__handles_push(&loop->starved, handle);
    handle->bits_ |= PIER__STARVED;
    if (!pier__timer_armed(&loop->retry_link)) {
        uint64_t now = pier__loop_clock(loop);
        uint64_t delay = loop->options.retry_ns;
        pier__timers_insert(&loop->timers, &loop->retry_link,
                            delay > UINT64_MAX - now ? UINT64_MAX : now + delay);
    }
}

static void retry_starved(struct pier_loop *loop)
{
    loop->retry_now = false;
    if (pier__timer_armed(&loop->retry_link)) {
        pier__timers_remove(&loop->timers, &loop->retry_link);
    }
    loop->serving = loop->starved;
    loop->starved.head = NULL;
    struct pier_handle *handle;
    while ((handle = pier__handles_pop(&loop->serving)) != NULL) {
        if ((handle->bits_ & PIER__CLOSING) && handle->head_[0] == NULL &&
            handle->head_[1] == NULL) {
            pier__handle_try_close(handle);
        } else {
            loop->engine->retry(handle); /* also for a cancel that found no room, while closing */
        }
    }
}

static bool is_alive(struct pier_loop *loop)
{
    return loop->in_flight > loop->background || loop->handles_closing > 0 ||
           pier__remote_pending(loop) || loop->completed.head != NULL;
}

/* How long the backend may sleep if nobody posts. */
static inline uint64_t sleep_time(struct pier_loop *loop)
{
    /* Together, since none is what one finds. */
    uintptr_t lists = (uintptr_t)loop->completed.head | (uintptr_t)loop->closing.head |
                      (uintptr_t)loop->ready.head | (uintptr_t)loop->posted.head;
    if (lists != 0 || loop->retry_now ||
        (loop->engine->busy != NULL && loop->engine->busy(loop))) {
        return 0;
    }
    uint64_t next = pier__timers_next(&loop->timers);
    uint64_t most = loop->sleep_most_ns;
    if (PIER__LIKELY(next == UINT64_MAX)) {
        return most;
    }
    uint64_t now = pier__sys_clock();
    uint64_t left = next > now ? next - now : 0;
    return left < most ? left : most;
}

static void serve_timers(struct pier_loop *loop)
{
    if (pier__timers_count(&loop->timers) != 0) {
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
    if (loop->completed.head != NULL || loop->closing.head != NULL) {
        deliver_closed(loop);
    }
}

/* What a turn serves besides the backend's events: timers, posts, completed ops. A small budget may
 * not do for all three, so the first to be served changes after a turn that ran out. */
PIER__NOINLINE static void serve_others(struct pier_loop *loop)
{
    unsigned first = loop->first_served;
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
    loop->first_served = (uint8_t)(loop->budget > 0 ? 0 : (first + 1) % 3);
}

/* The same in the usual case: no timers, and none of the three was left out in the turn before. */
static inline void serve_usual(struct pier_loop *loop)
{
    loop->now_is_old = true; /* perhaps nobody wants to know */
    serve_posts(loop);
    serve_completed(loop);
    if (PIER__UNLIKELY(loop->budget <= 0)) {
        loop->first_served = 1;
    }
}

/* What the turn before had to leave. */
PIER__COLD static void make_up(struct pier_loop *loop)
{
    if (loop->retry_now) {
        retry_starved(loop);
    }
    if (loop->others_owed) {
        serve_others(loop);
    }
}

static inline void turn(struct pier_loop *loop, bool may_sleep)
{
    loop->stats.turns++;
    loop->budget = loop->budget_full;
    loop->clock_budget = loop->budget + 1;
    if (PIER__UNLIKELY(loop->retry_now || loop->others_owed)) {
        may_sleep = may_sleep && !loop->others_owed;
        make_up(loop);
    }
    int32_t before = loop->budget;
    uint64_t timeout_ns = may_sleep ? sleep_time(loop) : 0;
    if (timeout_ns != 0) {
        loop->now_is_old = true;
        loop->stats.waits++;
        if (PIER__UNLIKELY(!pier__loop_fall_asleep(loop))) {
            timeout_ns = 0;
        }
    }
    loop->engine->wait(loop, timeout_ns);
    if (PIER__UNLIKELY(pier__atomic_load_relaxed(&loop->asked) & PIER__ASKED_WAKE)) {
        pier__atomic_and(&loop->asked, ~(uint32_t)PIER__ASKED_WAKE);
    }
    /* When the events took the rest of the budget, the others come first next time; when the
     * others left the events nothing, the events do. */
    loop->others_owed = false;
    if (PIER__UNLIKELY(loop->budget <= 0)) {
        loop->others_owed = before > 0;
    } else if (pier__timers_count(&loop->timers) != 0 || loop->first_served != 0) {
        serve_others(loop);
    } else {
        serve_usual(loop);
    }
    loop->stats.callbacks += (uint64_t)((int64_t)loop->budget_full - loop->budget);
}

static inline bool is_stopped(const struct pier_loop *loop)
{
    return (pier__atomic_load_relaxed(&loop->asked) & PIER__ASKED_STOP) != 0;
}

int pier_loop_run(struct pier_loop *loop, enum pier_run mode)
{
    PIER_REQUIRE(!loop->running, "pier_loop_run", "called from inside a callback of the same loop");
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_loop_run",
                 "called from another thread than that of the first run");
    if (loop->forks != pier__sys_forks()) {
        return pier__fail(
            PIER_EFORKED,
            "the loop belongs to the parent process: call pier_loop_after_fork() first");
    }
    loop->thread = pier__thread();
    loop->running = true;
    pier__loop_awake(loop);
    while (loop->failure == 0) {
        bool alive = is_alive(loop);
        if (!alive && mode == PIER_RUN_UNTIL_IDLE) {
            break;
        }
        /* When it's told to stop, it doesn't fall asleep. */
        turn(loop, mode != PIER_RUN_NO_WAIT && (alive || loop->background > 0));
        if (mode != PIER_RUN_UNTIL_IDLE || is_stopped(loop)) {
            break;
        }
    }
    if (is_stopped(loop)) {
        pier__atomic_and(&loop->asked, ~(uint32_t)PIER__ASKED_STOP);
    }
    loop->running = false;
    if (loop->embedded) {
        if (loop->engine->flush != NULL) {
            loop->engine->flush(loop);
        }
        pier__loop_fall_asleep(loop); /* what comes now must show at the descriptor */
    }
    /* The next run tries again: memory may only have been short, and ops in flight must be able to
     * complete (tests/fault). */
    int failure = loop->failure;
    loop->failure = 0;
    return failure != 0 ? failure : is_alive(loop);
}

uint64_t pier_loop_now(struct pier_loop *loop)
{
    return pier__loop_clock(loop);
}

const char *pier_loop_backend(const struct pier_loop *loop)
{
    return loop->engine->name;
}

uint64_t pier_loop_next_timeout(struct pier_loop *loop)
{
    if (loop->embedded && !loop->running && loop->engine->flush != NULL) {
        loop->engine->flush(loop); /* what was submitted outside of a run */
    }
    /* pier_wake() may have come when the run was nearly over. */
    return pier__remote_pending(loop) || pier__atomic_load_relaxed(&loop->asked) != 0
               ? 0
               : sleep_time(loop);
}

pier_descriptor pier_loop_descriptor(struct pier_loop *loop)
{
    pier_descriptor descriptor = loop->engine->descriptor(loop);
    if (descriptor < 0) {
        return pier__fail((int)descriptor,
                          "the %s backend has no descriptor that a foreign loop could watch",
                          loop->engine->name);
    }
    loop->embedded = true;
    if (!loop->running && !loop->asleep) {
        pier__loop_fall_asleep(loop);
    }
    return descriptor;
}

const char *pier_version(void)
{
    return PIER_VERSION_STRING;
}
