/* open.c - the life of the ring on io_uring: trying, opening and closing it, and making it anew.
 *
 * It's made anew in the child of a fork, and when another thread takes the loop over, since the
 * ring answers its issuer alone.
 *
 * In a child the old ring is the parent's. Its memory isn't mapped there (MADV_DONTFORK), and the
 * child may have put something else at those addresses, such as another loop's ring: nothing of it
 * is touched or unmapped. Of what was submitted the core tells (room) without a look at the ring.
 *
 * A thread that ends takes what it has asked the kernel for with it: what had completed by then is
 * in the ring, and is delivered; the rest doesn't complete. Receives, accepts and polls are asked
 * for again, which loses nothing, since deferred work takes no data unless its thread lets it. Of
 * what was being sent nobody knows how much went: that ends as cancelled. */

#include "engine/uring/uring.h"

#include <limits.h>

/* ---- what this system has */

/* A call that running needs didn't work. */
static int refused(int error, const char *call)
{
    bool is_short = error == PIER_EMFILE || error == PIER_ENFILE || error == PIER_ENOMEM;
    return pier__fail(is_short ? error : PIER_ENOTSUP, "io_uring can't be used: %s: %s%s", call,
                      pier_error_text(error),
                      error == PIER_EPERM ? " (a seccomp filter or security policy)" : "");
}

/* Tries on a ring of its own what can't be probed by number: that the calls which running needs are
 * allowed, messages to a ring from threads without one, and limits of multishot receives. */
static int try_ring(struct pier__uring_features *features)
{
    struct io_uring ring;
    int error = pier__sys_uring_open(&ring, 4, 8, features);
    if (error < 0) {
        return error;
    }
    const char *call = "io_uring_register";
    error = pier__sys_uring_enable(&ring);
    if (error == 0) {
        call = "io_uring_enter";
        error = pier__sys_uring_enter(&ring, 0, 0, true, 0, 0);
    }
    if (error == 0) {
        features->receive_limit = pier__sys_uring_can_limit(&ring);
        features->message = pier__sys_uring_message(ring.ring_fd, PIER__TAG_WAKE) == 0;
    }
    pier__sys_uring_close(&ring);
    return error < 0 ? refused(error, call) : 0;
}

int pier__uring_probe(void)
{
    struct pier__uring_features features;
    int error = try_ring(&features);
    if (error < 0) {
        return error;
    }
    pier_descriptor eventfd = pier__sys_eventfd();
    if (eventfd < 0) {
        return refused((int)eventfd, "eventfd2");
    }
    pier__sys_close(eventfd);
    return PIER_CAN_COMPLETE | (features.buffer_ring ? PIER_CAN_BIND_LATE : 0) | PIER_CAN_UNIX |
           PIER_CAN_ABSTRACT | PIER_CAN_SHARE_PORT | PIER_CAN_EXCLUSIVE | PIER_CAN_POLL |
           PIER_CAN_EMBED | PIER_CAN_FORK;
}

/* ---- opening and closing */

/* Makes the ring, and the eventfd for the wake-ups that can't be messages: the kernel has none, has
 * no memory for one, a filter on the waking thread refuses it, or the ring isn't enabled yet. Has
 * changed nothing when it fails. */
static int open_ring(struct pier_loop *loop, struct pier__uring *uring)
{
    struct io_uring ring;
    struct pier__uring_features features, tried;
    unsigned entries = loop->options.queue_size;
    unsigned completions = entries * 8 < 1024 ? 1024 : entries * 8 > 65536 ? 65536 : entries * 8;
    int error = pier__sys_uring_open(&ring, entries, completions, &features);
    if (error < 0) {
        return error;
    }
    pier_descriptor eventfd = pier__sys_eventfd();
    if (eventfd < 0) {
        pier__sys_uring_close(&ring);
        return pier__fail((int)eventfd, "the eventfd that wakes the uring backend: %s",
                          pier_error_text(eventfd));
    }
    if (try_ring(&tried) == 0) {
        features.message = tried.message;
        features.receive_limit = tried.receive_limit;
    }
    uring->ring = ring;
    uring->features = features;
    uring->wake = eventfd;
    uring->room = ring.sq.ring_entries;
    uring->waits_without = !features.least_wait;
    uring->forks = pier__sys_forks();
    if (features.message) {
        pier__loop_wake_by(loop, pier__uring_wake_by_message, ring.ring_fd);
    } else {
        pier__loop_wake_by(loop, pier__uring_wake_by_eventfd, -1);
    }
    return 0;
}

int pier__uring_open(struct pier_loop *loop, const struct pier_loop_options *options)
{
    struct pier__uring *uring = pier__allocate(loop, sizeof(*uring));
    if (uring == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the uring backend");
    }
    memset(uring, 0, sizeof(*uring));
    uring->wake = uring->embed = -1;
    uring->trim_most = UINT_MAX;
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

static bool is_parents(const struct pier__uring *uring)
{
    return uring->forks != pier__sys_forks();
}

static void close_ring(struct pier_loop *loop, struct pier__uring *uring)
{
    pier__free(loop, uring->scratch, uring->ring.sq.ring_entries * sizeof(*uring->scratch));
    uring->scratch = NULL;
    if (is_parents(uring)) {
        pier__sys_close(uring->ring.ring_fd);
        return;
    }
    if (uring->thread != pier__thread_id) {
        pier__sys_uring_disown(&uring->ring);
    }
    pier__sys_uring_close(&uring->ring);
}

void pier__uring_close(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    close_ring(loop, uring);
    pier__uring_buffers_close(loop);
    pier__uring_names_free(loop);
    pier__sys_close(uring->wake);
    if (uring->embed >= 0) {
        pier__sys_close(uring->embed);
    }
    while (uring->accepted_free != NULL) {
        struct pier__uring_accepted *next = uring->accepted_free->next;
        pier__free(loop, uring->accepted_free, sizeof(*uring->accepted_free));
        uring->accepted_free = next;
    }
    pier__free(loop, uring, sizeof(*uring));
}

/* ---- made anew */

/* How many requests the kernel hasn't been given. */
static unsigned count_unsubmitted(const struct pier__uring *uring)
{
    return uring->ring.sq.ring_entries - uring->room;
}

/* A handle whose descriptor was to be closed by the old ring. */
static void shut_again(const struct pier__uring *uring, struct pier_handle *handle)
{
    unsigned age = (uint16_t)(uring->ring.sq.sqe_tail - handle->engine_.uring.turn);
    if (age >= count_unsubmitted(uring)) {
        handle->descriptor_ = -1; /* the kernel has closed it */
    }
    handle->engine_.uring.requests = 0;
    pier__handle_try_close(handle);
}

/* What the kernel may have sent in part is over; the rest is asked for again. */
static void end_sending(struct pier_handle *handle)
{
    unsigned states = PIER__SEND_IN_KERNEL | PIER__SEND_POLLING | PIER__UNSUBMITTED;
    if ((handle->engine_.uring.requests & states) != PIER__SEND_IN_KERNEL) {
        return;
    }
    for (struct pier_op *op = handle->head_[PIER__SENDING];
         op != NULL && op->state_ == PIER__ACTIVE; op = op->next_) {
        if (!pier__op_is_ending(op)) {
            pier__op_set_reason(op, PIER__REASON_CALLER);
        }
    }
}

static void move_operations(struct pier_loop *loop, struct pier__uring *uring, bool send)
{
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        struct pier_handle *handle = pier__slot_at(loop, i);
        if (handle == NULL) {
            continue;
        }
        if (handle->engine_.uring.requests & PIER__SHUTTING) {
            shut_again(uring, handle);
            continue;
        }
        if (send) {
            end_sending(handle);
        }
        for (unsigned direction = 0; direction < 2; direction++) {
            struct pier_op *op = handle->head_[direction];
            for (; op != NULL && op->state_ == PIER__ACTIVE; op = op->next_) {
                pier__op_clear(op, PIER__CANCEL_ASKED);
            }
        }
        handle->engine_.uring.requests &= PIER__ENDED;
        pier__uring_postpone(loop, handle);
    }
}

/* A new ring in place of the old one. The loop isn't asleep. */
static int renew(struct pier_loop *loop, struct pier__uring *uring, bool send)
{
    struct pier__uring old = *uring;
    int error = open_ring(loop, uring);
    if (error < 0) {
        return error;
    }
    uring->scratch = NULL;
    uring->enabled = uring->plain = uring->eventfd_armed = uring->taken_over = false;
    uring->polls_unsent = NULL;
    uring->cancels_unsent = false;
    uring->quick = 0;
    close_ring(loop, &old);
    pier__sys_close(old.wake);
    pier__uring_buffers_anew(loop);
    move_operations(loop, &old, send);
    pier__loop_visit(loop, pier__uring_poll_anew, NULL);
    return 0;
}

int pier__uring_after_fork(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    int error = renew(loop, uring, false); /* sends are ended by the core */
    if (error < 0) {
        return error;
    }
    if (uring->embed >= 0) {
        pier__sys_close(uring->embed);
        uring->embed = -1;
    }
    pier__loop_unembed(loop);
    return 0;
}

/* ---- taken over by another thread */

void pier__uring_rebind(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (!uring->enabled) {
        return; /* enabling it makes this thread the issuer */
    }
    if (!uring->features.single_issuer) {
        pier__sys_uring_disown(&uring->ring);
        uring->thread = pier__thread_id;
        return;
    }
    uring->taken_over = true;
    uring->plain = false;
}

/* Notes in the handles what the old ring's kernel was never given. */
static void mark_unsubmitted(struct pier__uring *uring)
{
    const struct io_uring_sq *queue = &uring->ring.sq;
    for (unsigned left = count_unsubmitted(uring); left != 0; left--) {
        const struct io_uring_sqe *entry =
            &queue->sqes[(queue->sqe_tail - left) & queue->ring_mask];
        struct pier_op *op = (void *)(uintptr_t)(entry->user_data & ~(uint64_t)PIER__TAG_MASK);
        if ((entry->user_data & PIER__TAG_MASK) == PIER__TAG_OP && op != NULL &&
            pier__op_has_handle(op) && pier__op_direction(op) == PIER__SENDING) {
            struct pier_handle *handle = op->owner_;
            handle->engine_.uring.requests |= PIER__UNSUBMITTED;
        }
    }
}

/* The old ring's completions first, which need no call; then the new ring. */
void pier__uring_take_over(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    pier__loop_settle(loop); /* others must not wake by a ring that goes away */
    if (pier__uring_completions(uring) != 0) {
        pier__uring_take_completions(loop);
        return;
    }
    mark_unsubmitted(uring);
    int error = renew(loop, uring, true);
    if (error == 0 && uring->embed >= 0) {
        error = pier__sys_uring_register_eventfd(&uring->ring, uring->embed);
    }
    if (error < 0) {
        loop->failure = pier__fail(error, "io_uring can't be made anew for this thread: %s",
                                   pier_error_text(error));
    }
}
