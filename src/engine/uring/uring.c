/* uring.c - the io_uring backend: entering the ring, waiting and waking.
 *
 * One enter per turn submits what the callbacks asked for and waits. The ring has a single issuer
 * and deferred task work where the kernel knows them, and is made disabled, so that the thread of
 * the first run becomes the issuer: any other gets EEXIST. Time-outs come from the loop's wheel
 * with an asynchronous cancel.
 *
 * Other threads wake the loop by a message to the ring (Linux 6.13). Where that fails, for whatever
 * reason, they do by an eventfd: the ring polls it from before the first sleep on, with a request
 * that costs nothing as long as it isn't needed, and so no wake-up is lost. It doesn't read it:
 * since Linux 6.15.4 such a read waits for more than there is (libxev, pull request 171). */

#include "engine/uring/uring.h"

#include <poll.h>

/* ---- the submission queue */

/* A send that fits into the socket's buffer completes while it's submitted, so a wait for one
 * completion would return with just that, to be followed by another for what the loop really waits
 * for. So as many more are waited for as requests of that sort are being submitted; in case one of
 * them doesn't complete at once, for this long at most. Closes, which are quick as well, aren't
 * counted: a loop with many of them has other work on its way, and going to sleep for it cost an
 * eighth of the processor's time for a connection.
 *
 * A loop with little to do sees nothing more in that time, and has slept and been woken by a timer
 * for it, which costs more than the second wait: so after a vain one it does without for a while.
 * Of four loops on two processors each is such a loop. */
#define LEAST_WAIT_US 50
#define WAITS_WITHOUT 32

static PIER__INLINE int enter(struct pier_loop *loop, struct pier__uring *uring, unsigned wait,
                              bool get_events, uint64_t timeout_ns)
{
    unsigned least_us = 0, quick = 0;
    loop->counters.system_calls++;
    if (wait != 0 && uring->quick != 0) {
        if (uring->waits_without == 0) {
            quick = uring->quick < uring->ring.sq.ring_entries ? uring->quick
                                                               : uring->ring.sq.ring_entries;
            wait += quick;
            least_us = LEAST_WAIT_US;
        } else if (uring->features.least_wait) {
            uring->waits_without--;
        }
    }
    uring->quick = 0;
    /* Entries and buffers become visible to the kernel with this enter, made by the same thread: no
     * fence is needed without a polling thread. */
    *uring->ring.sq.ktail = uring->ring.sq.sqe_tail;
    if (PIER__LIKELY(uring->buffers != NULL)) {
        __atomic_store_n(&uring->buffers->tail, (uint16_t)uring->buffers_tail, __ATOMIC_RELEASE);
    }
    int result = pier__sys_uring_enter(&uring->ring, pier__uring_unsubmitted(uring), wait,
                                       get_events, timeout_ns, least_us);
    uring->room = uring->ring.sq.ring_entries - pier__uring_unsubmitted(uring);
    if (quick != 0 && pier__uring_completions(uring) <= quick) {
        uring->waits_without = WAITS_WITHOUT;
    }
    return result;
}

PIER__COLD static int enter_slow(struct pier_loop *loop, unsigned wait, bool get_events,
                                 uint64_t timeout_ns)
{
    return enter(loop, pier__uring_of(loop), wait, get_events, timeout_ns);
}

void pier__uring_submit(struct pier_loop *loop)
{
    enter_slow(loop, 0, true, 0);
}

PIER__COLD bool pier__uring_make_room(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    loop->counters.queue_full++;
    /* Completions may come of it; they wait in their queue for the turn that takes them. */
    return uring->enabled && loop->running && enter_slow(loop, 0, false, 0) >= 0 &&
           uring->room != 0;
}

struct pier__uring_scratch *pier__uring_scratch_of(struct pier_loop *loop,
                                                   const struct io_uring_sqe *entry)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->scratch == NULL) {
        size_t bytes = uring->ring.sq.ring_entries * sizeof(*uring->scratch);
        uring->scratch = pier__allocate(loop, bytes);
        if (uring->scratch == NULL) {
            return NULL;
        }
    }
    return &uring->scratch[entry - uring->ring.sq.sqes];
}

/* Asks to be told of `events` of a descriptor. */
static void fill_poll(struct io_uring_sqe *entry, pier_descriptor descriptor, unsigned events,
                      uint64_t key)
{
    entry->opcode = IORING_OP_POLL_ADD;
    entry->fd = (int)descriptor;
    entry->poll32_events = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
                               ? events << 16 | events >> 16 /* the kernel's layout of the field */
                               : events;
    entry->user_data = key;
}

bool pier__uring_wait_ready(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                            unsigned events)
{
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        return false;
    }
    fill_poll(entry, descriptor, events,
              pier__uring_key(op, op->kind_ == PIER__OP_POLL ? PIER__TAG_OP : PIER__TAG_READY));
    return true;
}

bool pier__uring_watch_edges(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                             unsigned events)
{
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        return false;
    }
    fill_poll(entry, descriptor, events, pier__uring_key(op, PIER__TAG_OP));
    entry->len = IORING_POLL_ADD_MULTI;
    return true;
}

/* ---- waiting */

static void arm_eventfd(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry != NULL) {
        fill_poll(entry, uring->wake, POLLIN, PIER__TAG_EVENTFD);
        uring->eventfd_armed = true;
    }
}

/* A close that wanted a thread of the kernel's, where there may be no more, was cancelled before it
 * began. */
static void closed(struct pier_loop *loop, struct pier_handle *handle, int result)
{
    if (PIER__UNLIKELY(result == -ECANCELED || result == -EAGAIN || result == -ENOMEM)) {
        loop->counters.system_calls++;
        pier__sys_close(handle->descriptor_);
    }
    pier__handle_closed(handle);
}

PIER__NOINLINE void pier__uring_completion_slow(struct pier_loop *loop, uint64_t key, int result,
                                                unsigned flags)
{
    struct pier__uring *uring = pier__uring_of(loop);
    void *pointer = (void *)(uintptr_t)(key & ~(uint64_t)PIER__TAG_MASK);
    struct pier_op *op = pointer;
    switch (key & PIER__TAG_MASK) {
    case PIER__TAG_OP:
        if (op->kind_ == PIER__OP_POLL) {
            pier__uring_polled(loop, op, result, (flags & IORING_CQE_F_MORE) != 0);
        } else {
            pier__uring_completed(loop, op, result, flags);
        }
        break;
    case PIER__TAG_READY: pier__uring_ready(loop, op, result); break;
    case PIER__TAG_CLOSED: closed(loop, pointer, result); break;
    case PIER__TAG_CANCEL: pier__uring_cancel_answered(loop, key, result); break;
    case PIER__TAG_EVENTFD:
        pier__sys_eventfd_drain(uring->wake);
        uring->eventfd_armed = uring->plain = false;
        break;
    default: break;
    }
}

PIER__COLD static void enable(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    int error = pier__sys_uring_enable(&uring->ring);
    if (error < 0) {
        loop->failure = pier__fail(error, "io_uring can't be enabled: %s", pier_error_text(error));
        return;
    }
    uring->enabled = true;
    uring->thread = pier__thread_id;
}

/* After an enter that failed: completions to be taken first, or memory short for the moment
 * (io_uring_enter(2), EBUSY and EAGAIN), and the next turn tries again. */
PIER__COLD static bool may_go_on(struct pier_loop *loop, int error)
{
    if (error == PIER_EBUSY || error == PIER_EAGAIN || error == PIER_ENOMEM) {
        return true;
    }
    loop->failure = pier__fail(error, "io_uring_enter: %s", pier_error_text(error));
    return false;
}

/* What a ring that isn't plain needs, or polls that found the queue full. False when the loop
 * mustn't sleep. */
PIER__NOINLINE static bool prepare(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (!uring->enabled) {
        enable(loop);
        if (loop->failure != 0) {
            return false;
        }
    }
    if (uring->polls_unsent != NULL || uring->cancels_unsent) {
        pier__uring_poll_resubmit(loop);
    }
    if (!uring->eventfd_armed) {
        arm_eventfd(loop);
    }
    if (uring->embed >= 0) {
        pier__sys_eventfd_drain(uring->embed);
    }
    uring->plain = uring->eventfd_armed && uring->embed < 0;
    return uring->eventfd_armed && uring->polls_unsent == NULL && !uring->cancels_unsent;
}

/* Many buffers have been handed out since the last look here. Where that was many at a time, there
 * was a crowd; the first wait after it that finds nothing for TRIM_AFTER_NS gives the memory back.
 * A wait with a time limit costs the kernel more, so TRIM_TRIES of them are made at the most. In a
 * loop that's busy, with a few messages at a time, the buffers go round, and are all needed. */
#define TRIM_AFTER_NS (100 * PIER_MILLISECOND)
#define TRIM_TRIES 256
#define TRIM_CROWD 4 /* buffers for a turn */

static void trim_look(const struct pier_loop *loop, struct pier__uring *uring)
{
    uring->trimmed_tail = uring->buffers_tail;
    uring->trim_turn = loop->counters.turns;
    uring->trim_tries = 0;
}

PIER__COLD static int enter_and_trim(struct pier_loop *loop, struct pier__uring *uring,
                                     uint64_t timeout_ns)
{
    unsigned handed_out = uring->buffers_tail - uring->trimmed_tail;
    if (uring->trim_tries == 0) {
        if (handed_out / TRIM_CROWD < loop->counters.turns - uring->trim_turn) {
            trim_look(loop, uring);
            return enter_slow(loop, 1, true, timeout_ns);
        }
        uring->trim_tries = TRIM_TRIES;
    }
    bool is_long = timeout_ns > TRIM_AFTER_NS;
    int result = enter_slow(loop, 1, true, is_long ? TRIM_AFTER_NS : timeout_ns);
    if (is_long && result >= 0 && pier__uring_completions(uring) == 0 &&
        !(*uring->ring.sq.kflags & IORING_SQ_CQ_OVERFLOW)) {
        pier__uring_trim(loop);
        trim_look(loop, uring);
    } else if (--uring->trim_tries == 0) {
        trim_look(loop, uring);
    }
    return result;
}

static void wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier__uring *uring = pier__uring_of(loop);
    /* Where completions are there already, the loop doesn't want to sleep: it has asked busy(). */
    bool sleep = timeout_ns != 0;
    if (PIER__UNLIKELY(!uring->plain || uring->polls_unsent != NULL || uring->cancels_unsent)) {
        if (PIER__UNLIKELY(uring->taken_over)) {
            pier__uring_take_over(loop);
            pier__loop_returned(loop);
            return;
        }
        sleep = prepare(loop) && sleep;
        if (loop->failure != 0) {
            pier__loop_returned(loop);
            return;
        }
    }
    pier__loop_take_ready(loop);
    uring->share.turn = (uint16_t)loop->counters.turns;
    if (PIER__UNLIKELY(*uring->ring.sq.kflags & IORING_SQ_CQ_OVERFLOW)) {
        loop->counters.queue_overflows++;
    }
    bool may_trim = sleep && uring->buffers_tail - uring->trimmed_tail > uring->trim_most;
    int result = PIER__UNLIKELY(may_trim) ? enter_and_trim(loop, uring, timeout_ns)
                                          : enter(loop, uring, sleep, true, timeout_ns);
    pier__loop_returned(loop);
    if (PIER__UNLIKELY(result < 0) && !may_go_on(loop, result)) {
        pier__handles_prepend(&loop->ready, &loop->serving); /* for the next run */
        return;
    }
    if (PIER__UNLIKELY(uring->serves_first)) {
        uring->serves_first = false;
        pier__loop_serve(loop);
        pier__uring_take_completions(loop);
    } else {
        pier__uring_take_completions(loop);
        if (loop->serving.head != NULL) {
            uring->serves_first = !pier__loop_serve(loop);
        }
    }
}

static bool busy(struct pier_loop *loop)
{
    return pier__uring_completions(pier__uring_of(loop)) != 0;
}

/* Completions beyond the queue, which an enter brings into it. */
static bool has_more(struct pier_loop *loop)
{
    return (*pier__uring_of(loop)->ring.sq.kflags & IORING_SQ_CQ_OVERFLOW) != 0;
}

static void flush(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->enabled && pier__uring_unsubmitted(uring) != 0) {
        enter_slow(loop, 0, true, 0);
    }
    if (PIER__UNLIKELY(uring->polls_unsent != NULL || uring->cancels_unsent) && uring->embed >= 0) {
        pier__sys_eventfd_signal(uring->embed); /* the next run sees to them */
    }
}

void pier__uring_wake_by_eventfd(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    pier__sys_eventfd_signal(uring->wake);
    if (uring->embed >= 0) {
        pier__sys_eventfd_signal(uring->embed); /* the ring may not have been enabled yet */
    }
}

void pier__uring_wake_by_message(struct pier_loop *loop)
{
    if (PIER__UNLIKELY(
            pier__sys_uring_message((int)pier__loop_wake_descriptor(loop), PIER__TAG_WAKE) < 0)) {
        pier__uring_wake_by_eventfd(loop);
    }
}

/* ---- handles */

static int attach(struct pier_handle *handle)
{
    memset(&handle->engine_, 0, sizeof(handle->engine_));
    return 0;
}

static void detach(struct pier_handle *handle)
{
    (void)handle; /* with nothing in flight the ring knows nothing of it */
}

static void shut(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    struct io_uring_sqe *entry = NULL;
    if (handle->descriptor_ < 0) { /* a ring that is gone had closed it: open.c */
        pier__handle_closed(handle);
        return;
    }
    /* Files and devices may have to be flushed, which the kernel leaves to a thread of its own. */
    if (handle->kind_ != PIER__KIND_FILE && handle->kind_ != PIER__KIND_TERMINAL) {
        entry = pier__uring_entry(loop);
    }
    /* The number is free for others as soon as the kernel has closed it, before this loop hears of
     * that. */
    pier__descriptor_forget(loop, handle);
    if (entry == NULL) {
        loop->counters.system_calls++;
        pier__sys_close(handle->descriptor_);
        pier__handle_closed(handle);
        return;
    }
    entry->opcode = IORING_OP_CLOSE;
    entry->fd = (int)handle->descriptor_;
    entry->user_data = pier__uring_key(handle, PIER__TAG_CLOSED);
    handle->engine_.uring.requests = PIER__SHUTTING;
    handle->engine_.uring.turn = (uint16_t)pier__uring_of(loop)->ring.sq.sqe_tail;
}

static pier_descriptor descriptor(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->embed >= 0) {
        return uring->embed;
    }
    /* The ring's own descriptor doesn't become readable for work that is deferred. */
    pier_descriptor eventfd = pier__sys_eventfd();
    if (eventfd < 0) {
        return eventfd;
    }
    int error = pier__sys_uring_register_eventfd(&uring->ring, eventfd);
    if (error < 0) {
        pier__sys_close(eventfd);
        return error;
    }
    uring->embed = eventfd;
    uring->plain = false;
    pier__sys_eventfd_signal(eventfd); /* the first run arms what was submitted before */
    return eventfd;
}

extern const struct pier__engine pier__uring_engine;
const struct pier__engine pier__uring_engine = {
    .name = "uring",
    .calls = {.start = pier__uring_start,
              .cancel = pier__uring_cancel,
              .send = pier__uring_send,
              .resume = pier__uring_resume,
              .retry = pier__uring_retry,
              .attach = attach,
              .detach = detach,
              .shut = shut},
    .nonblocking = false,
    .probe = pier__uring_probe,
    .open = pier__uring_open,
    .close = pier__uring_close,
    .wait = wait,
    .serve = pier__uring_serve,
    .wake = pier__uring_wake_by_eventfd,
    .busy = busy,
    .more = has_more,
    .flush = flush,
    .poll_start = pier__uring_poll_start,
    .poll_cancel = pier__uring_poll_cancel,
    .poll_pause = pier__uring_poll_pause,
    .poll_resume = pier__uring_poll_resume,
    .poll_change = pier__uring_poll_change,
    .buffer_returned = pier__uring_buffer_returned,
    .rebind = pier__uring_rebind,
    .descriptor = descriptor,
    .after_fork = pier__uring_after_fork,
};
