/* loop.c - making and freeing a loop: memory, options, which thread it belongs to. */

#include "core/loop.h"

#include "core/engine.h"
#include "core/remote.h"

PIER__THREAD_LOCAL uint64_t pier__thread_id;

/* With room for aligning it. */
#define LOOP_BYTES (sizeof(struct pier_loop) + PIER__APART - 1)

uint64_t pier__thread(void)
{
    static uint64_t threads;
    if (pier__thread_id == 0) {
        pier__thread_id = pier__atomic_add(&threads, 1) + 1;
    }
    return pier__thread_id;
}

/* ---- memory */

void *pier__reallocate(struct pier_loop *loop, void *memory, size_t old_size, size_t new_size)
{
    if (pier__fault(PIER__CALL_ALLOCATE) != 0) {
        return NULL;
    }
    loop->counters.allocations++;
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

int pier__loop_check_options(struct pier_loop_options *options)
{
    uint32_t buffer_size = options->buffer_size; /* 0 says more than the default: see pool.h */
    int error;
    if ((error = check_range("queue_size", &options->queue_size, 256, 1, 32768)) < 0 ||
        (error = check_range("receives_max", &options->receives_max, 16, 1, 65535)) < 0 ||
        (error = check_range("callbacks_max", &options->callbacks_max, 1024, 1, 1 << 30)) < 0 ||
        (error = check_range("buffer_size", &buffer_size, PIER__BUFFER_SIZE, 64, 16 << 20)) < 0 ||
        (error = check_range("buffers_max", &options->buffers_max, 1024, 1, 32768)) < 0 ||
        (error = check_range("buffers_min", &options->buffers_min,
                             options->buffers_max < 64 ? options->buffers_max : 64, 1,
                             options->buffers_max)) < 0 ||
        (error = check_range("buffer_share", &options->buffer_share, 8, 1, 32768)) < 0) {
        return error;
    }
    if (options->buffers_hard_max != 0 && options->buffers_hard_max < options->buffers_max) {
        return pier__fail(PIER_EINVAL,
                          "option buffers_hard_max is %lu: give 0 for the default (buffers_max and "
                          "the open handles), or at least buffers_max (%lu)",
                          (unsigned long)options->buffers_hard_max,
                          (unsigned long)options->buffers_max);
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

int pier__loop_make(struct pier_loop **result, const struct pier_loop_options *options,
                    const struct pier__engine *engine, unsigned capabilities)
{
    void *memory = NULL;
    if (pier__fault(PIER__CALL_ALLOCATE) == 0) {
        memory = options->allocate(options->allocate_context, NULL, 0, LOOP_BYTES);
    }
    if (memory == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for a loop (%lu bytes)",
                          (unsigned long)LOOP_BYTES);
    }
    struct pier_loop *loop = (void *)(((uintptr_t)memory + PIER__APART - 1) &
                                      ~(uintptr_t)(PIER__APART - 1));
    memset(loop, 0, sizeof(*loop));
    loop->options = *options;
    loop->options.backend = engine->name;
    loop->engine = engine;
    loop->core.memory = memory;
    loop->core.capabilities = capabilities;
    loop->core.wake = engine->wake;
    loop->core.callbacks_timed = options->slow_callback_ns != 0;
    loop->core.budget_full = (int32_t)options->callbacks_max;
    loop->core.sleep_most_ns = PIER_FOREVER;
    loop->core.accepted = -1;
    loop->core.slots_free = UINT32_MAX;
    loop->core.tokens_free = UINT32_MAX;
    loop->core.thread = loop->core.fast_thread = PIER__NO_THREAD;
    loop->counters.allocations = 1;
    loop->now = pier__sys_clock();
    pier__timers_open(&loop->core.timers, loop->now);
    pier__sys_watch_forks();
    loop->core.forks = pier__sys_forks();
    pier__pool_open(loop);
    int error = engine->open(loop, &loop->options);
    if (error < 0) {
        options->allocate(options->allocate_context, memory, LOOP_BYTES, 0);
        return error;
    }
    *result = loop;
    return 0;
}

void *pier__block_take(struct pier_loop *loop, struct pier__block **list, size_t size)
{
    struct pier__block *block = *list;
    if (block != NULL) {
        *list = block->next;
    } else {
        block = pier__allocate(loop, size);
    }
    if (block != NULL) {
        memset(block, 0, size);
        block->size = size;
    }
    return block;
}

static void free_blocks(struct pier_loop *loop, struct pier__block *list)
{
    while (list != NULL) {
        struct pier__block *next = list->next;
        pier__free(loop, list, list->size);
        list = next;
    }
}

void pier_loop_free(struct pier_loop *loop)
{
    if (loop == NULL) {
        return;
    }
    PIER_REQUIRE(!loop->running, "pier_loop_free",
                 "the loop runs: called from inside a callback, or before its thread has ended");
    bool forked = loop->core.forks != pier__sys_forks();
    if (!forked) { /* in a child, cancels would be carried out on what is the parent's */
        pier__loop_settle(loop);
        if (pier__atomic_load(&loop->core.asked) & PIER__ASKED_CANCELS) {
            pier__tokens_deliver(loop); /* of ops that are over, if none is in flight */
        }
    }
    PIER_REQUIRE(forked || (loop->core.in_flight == 0 && !pier__remote_pending(loop)),
                 "pier_loop_free",
                 "the loop has ops in flight: run it until they complete, see pier_loop_drain()");
    PIER_REQUIRE(forked || loop->counters.handles_open == 0, "pier_loop_free",
                 "the loop has open handles: close or detach them first, see pier_loop_drain()");
    PIER_REQUIRE(forked || loop->pool.lent == 0, "pier_loop_free",
                 "lent buffers are still kept: release them first, see pier_buffer_release()");
    loop->engine->close(loop);
    pier__pool_close(loop);
    pier__tokens_free(loop);
    free_blocks(loop, loop->core.graceful_free);
    pier__rings_free(loop);
    free_blocks(loop, loop->core.addresses_free);
    pier__free(loop, loop->slots, loop->core.slots_size * sizeof(*loop->slots));
    pier__free(loop, loop->core.by_descriptor,
               loop->core.by_descriptor_size * sizeof(*loop->core.by_descriptor));
    struct pier_loop_options options = loop->options;
    options.allocate(options.allocate_context, loop->core.memory, LOOP_BYTES, 0);
}
