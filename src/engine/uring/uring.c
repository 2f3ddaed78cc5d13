/* uring.c - the io_uring backend: the ring, waiting and waking.
 *
 * One enter per turn submits what the callbacks asked for and waits. The ring has a single issuer
 * and deferred task work where the kernel knows them, and is made disabled, so that the thread of
 * the first run becomes the issuer: any other gets EEXIST. Time-outs come from the loop's wheel
 * with an asynchronous cancel.
 *
 * Other threads wake the loop by a message to the ring (Linux 6.13) or through an eventfd that the
 * ring polls. It doesn't read it: since Linux 6.15.4 such a read waits for more than there is
 * (libxev, pull request 171). */

#include "engine/uring/uring.h"

#include <poll.h>

static int probe(void)
{
    struct io_uring ring;
    struct pier__uring_features features;
    int error = pier__sys_uring_open(&ring, 4, 8, &features);
    if (error < 0) {
        return error;
    }
    pier__sys_uring_close(&ring);
    return PIER_CAN_COMPLETE | (features.buffer_ring ? PIER_CAN_BIND_LATE : 0) | PIER_CAN_UNIX |
           PIER_CAN_ABSTRACT | PIER_CAN_SHARE_PORT | PIER_CAN_EXCLUSIVE | PIER_CAN_POLL |
           PIER_CAN_EMBED | PIER_CAN_FORK;
}

/* ---- the submission queue */

/* A send that fits into the socket's buffer completes while it's submitted, so a wait for one
 * completion would return with just that, to be followed by another for what the loop really waits
 * for. So as many more are waited for as requests of that sort are being submitted; in case one of
 * them doesn't complete at once, for this long at most. Closes, which are quick as well, aren't
 * counted: a loop with many of them has other work on its way, and going to sleep for it cost an
 * eighth of the processor's time for a connection. */
#define LEAST_WAIT_US 50

static PIER__INLINE int enter(struct pier_loop *loop, struct pier__uring *uring, unsigned wait,
                              bool get_events, uint64_t timeout_ns)
{
    unsigned least_us = 0;
    loop->counters.system_calls++;
    if (wait != 0 && uring->quick != 0 && uring->features.least_wait) {
        wait += uring->quick < uring->ring.sq.ring_entries ? uring->quick
                                                           : uring->ring.sq.ring_entries;
        least_us = LEAST_WAIT_US;
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
    return result;
}

PIER__COLD static int enter_without_wait(struct pier_loop *loop, bool get_events)
{
    return enter(loop, pier__uring_of(loop), 0, get_events, 0);
}

void pier__uring_submit(struct pier_loop *loop)
{
    enter_without_wait(loop, true);
}

PIER__COLD bool pier__uring_make_room(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    loop->counters.queue_full++;
    /* Completions may come of it; they wait in their queue for the turn that takes them. */
    return uring->enabled && loop->running && enter_without_wait(loop, false) >= 0 &&
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

bool pier__uring_cancel_request(struct pier_loop *loop, uint64_t key)
{
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        return false;
    }
    entry->opcode = IORING_OP_ASYNC_CANCEL;
    entry->fd = -1;
    entry->addr = key;
    entry->user_data = PIER__TAG_IGNORE;
    return true;
}

bool pier__uring_wait_ready(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                            unsigned events)
{
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry == NULL) {
        return false;
    }
    entry->opcode = IORING_OP_POLL_ADD;
    entry->fd = (int)descriptor;
    entry->poll32_events = events;
    if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) {
        entry->poll32_events = events << 16 | events >> 16; /* the kernel's layout of the field */
    }
    entry->user_data = pier__uring_key(op,
                                       op->kind_ == PIER__OP_POLL ? PIER__TAG_OP : PIER__TAG_READY);
    return true;
}

/* ---- waiting */

static void arm_eventfd(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct io_uring_sqe *entry = pier__uring_entry(loop);
    if (entry != NULL) {
        entry->opcode = IORING_OP_POLL_ADD;
        entry->fd = (int)uring->wake;
        entry->poll32_events = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? (unsigned)POLLIN << 16
                                                                      : (unsigned)POLLIN;
        entry->user_data = PIER__TAG_EVENTFD;
        uring->eventfd_armed = true;
    }
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
            pier__uring_polled(loop, op, result);
        } else {
            pier__uring_completed(loop, op, result, flags);
        }
        break;
    case PIER__TAG_READY: pier__uring_ready(loop, op, result); break;
    case PIER__TAG_CLOSED: pier__handle_closed(pointer); break;
    case PIER__TAG_EVENTFD:
        pier__sys_eventfd_drain(uring->wake);
        uring->eventfd_armed = false;
        break;
    default: break;
    }
}

static bool has_completions(const struct pier__uring *uring)
{
    return *uring->ring.cq.khead != __atomic_load_n(uring->ring.cq.ktail, __ATOMIC_ACQUIRE);
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
    if (uring->wake >= 0 && !uring->eventfd_armed) {
        arm_eventfd(loop);
    }
    if (uring->embed >= 0) {
        pier__sys_eventfd_drain(uring->embed);
    }
    uring->plain = uring->wake < 0 && uring->embed < 0;
    return uring->polls_unsent == NULL && !uring->cancels_unsent;
}

static void wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier__uring *uring = pier__uring_of(loop);
    /* Where completions are there already, the loop doesn't want to sleep: it has asked busy(). */
    bool sleep = timeout_ns != 0;
    if (PIER__UNLIKELY(!uring->plain || uring->polls_unsent != NULL || uring->cancels_unsent)) {
        sleep = prepare(loop) && sleep;
        if (loop->failure != 0) {
            pier__loop_awake(loop);
            return;
        }
    }
    pier__loop_take_ready(loop);
    uring->share.turn = (uint16_t)loop->counters.turns;
    if (PIER__UNLIKELY(*uring->ring.sq.kflags & IORING_SQ_CQ_OVERFLOW)) {
        loop->counters.queue_overflows++;
    }
    int result = enter(loop, uring, sleep, true, timeout_ns);
    pier__loop_awake(loop);
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
    return has_completions(pier__uring_of(loop));
}

static void flush(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->enabled && pier__uring_unsubmitted(uring) != 0) {
        enter_without_wait(loop, true);
    }
    if (PIER__UNLIKELY(uring->polls_unsent != NULL || uring->cancels_unsent) && uring->embed >= 0) {
        pier__sys_eventfd_signal(uring->embed); /* the next run sees to them */
    }
}

static void wake_by_eventfd(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (uring->wake >= 0) {
        pier__sys_eventfd_signal(uring->wake);
    }
    if (uring->embed >= 0) {
        pier__sys_eventfd_signal(uring->embed); /* the ring may not have been enabled yet */
    }
}

static void wake_by_message(struct pier_loop *loop)
{
    if (PIER__UNLIKELY(
            pier__sys_uring_message((int)pier__loop_wake_descriptor(loop), PIER__TAG_WAKE) < 0)) {
        wake_by_eventfd(loop);
    }
}

/* ---- opening and closing */

/* Messages to a ring from threads without one, and limits of multishot receives, can't be probed by
 * number: tries on a ring of its own. */
static void try_features(struct pier__uring_features *features)
{
    struct io_uring ring;
    struct pier__uring_features known;
    if (pier__sys_uring_open(&ring, 4, 8, &known) < 0) {
        return;
    }
    if (pier__sys_uring_enable(&ring) == 0) {
        features->receive_limit = pier__sys_uring_can_limit(&ring);
        features->message = pier__sys_uring_message(ring.ring_fd, PIER__TAG_WAKE) == 0;
    }
    pier__sys_uring_close(&ring);
}

static int open_ring(struct pier_loop *loop, struct pier__uring *uring)
{
    unsigned entries = loop->options.queue_size;
    unsigned completions = entries * 8 < 1024 ? 1024 : entries * 8 > 65536 ? 65536 : entries * 8;
    int error = pier__sys_uring_open(&uring->ring, entries, completions, &uring->features);
    if (error < 0) {
        return error;
    }
    uring->room = uring->ring.sq.ring_entries;
    try_features(&uring->features);
    if (uring->features.message) {
        pier__loop_wake_by(loop, wake_by_message, uring->ring.ring_fd);
    } else {
        pier__loop_wake_by(loop, wake_by_eventfd, -1);
        uring->wake = pier__sys_eventfd();
        if (uring->wake < 0) {
            pier__sys_uring_close(&uring->ring);
            return pier__fail((int)uring->wake, "the eventfd that wakes the uring backend: %s",
                              pier_error_text(uring->wake));
        }
    }
    return 0;
}

static int open_uring(struct pier_loop *loop, const struct pier_loop_options *options)
{
    struct pier__uring *uring = pier__allocate(loop, sizeof(*uring));
    if (uring == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the uring backend");
    }
    memset(uring, 0, sizeof(*uring));
    uring->wake = uring->embed = -1;
    uring->receives_max = (uint16_t)options->receives_max;
    uring->share.receives = 1;
    int error = open_ring(loop, uring);
    if (error < 0) {
        pier__free(loop, uring, sizeof(*uring));
        return error;
    }
    loop->engine_data = uring;
    return 0;
}

static void close_descriptors(struct pier__uring *uring)
{
    if (uring->wake >= 0) {
        pier__sys_close(uring->wake);
    }
    if (uring->embed >= 0) {
        pier__sys_close(uring->embed);
    }
    uring->wake = uring->embed = -1;
}

static void close_uring(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    unsigned entries = uring->ring.sq.ring_entries;
    pier__sys_uring_close(&uring->ring);
    pier__uring_buffers_close(loop);
    pier__uring_names_free(loop);
    close_descriptors(uring);
    pier__free(loop, uring->scratch, entries * sizeof(*uring->scratch));
    while (uring->accepted_free != NULL) {
        struct pier__uring_accepted *next = uring->accepted_free->next;
        pier__free(loop, uring->accepted_free, sizeof(*uring->accepted_free));
        uring->accepted_free = next;
    }
    pier__free(loop, uring, sizeof(*uring));
}

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
    struct io_uring_sqe *entry = pier__uring_entry(loop);
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

static int after_fork(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    unsigned entries = uring->ring.sq.ring_entries;
    close_descriptors(uring);
    pier__sys_uring_close(&uring->ring);
    pier__free(loop, uring->scratch, entries * sizeof(*uring->scratch));
    uring->scratch = NULL;
    uring->enabled = uring->plain = uring->eventfd_armed = false;
    uring->polls_unsent = NULL;
    pier__loop_unembed(loop);
    int error = open_ring(loop, uring);
    if (error < 0) {
        return error;
    }
    pier__uring_buffers_after_fork(loop);
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = pier__slot_at(loop, i);
        if (handle != NULL) {
            handle->engine_.uring.requests &= PIER__ENDED;
            pier__uring_postpone(loop, handle);
        }
    }
    pier__loop_visit(loop, pier__uring_poll_in_child, NULL);
    return 0;
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
    .probe = probe,
    .open = open_uring,
    .close = close_uring,
    .wait = wait,
    .serve = pier__uring_serve,
    .wake = wake_by_eventfd,
    .busy = busy,
    .flush = flush,
    .poll_start = pier__uring_poll_start,
    .poll_cancel = pier__uring_poll_cancel,
    .poll_pause = pier__uring_poll_pause,
    .poll_resume = pier__uring_poll_resume,
    .buffer_returned = pier__uring_buffer_returned,
    .descriptor = descriptor,
    .after_fork = after_fork,
};
