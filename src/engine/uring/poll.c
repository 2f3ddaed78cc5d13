/* poll.c - pier_poll() on io_uring.
 *
 * Each op is a poll request of its own, which the kernel completes once; a multishot op asks again
 * after its callback, which is what makes it level-triggered. In op->bits_ PIER__POLL_ASKED
 * says that the request is in the kernel, PIER__CANCEL_ASKED that it is being cancelled because the
 * op waits for other events now: once it's over the op asks again. Requests to change a poll's
 * events exist (Linux 5.13), but what they find completed has to be asked again all the same. */

#include "engine/uring/uring.h"

#include <poll.h>

static unsigned native_events(const struct pier_op *op)
{
    unsigned events = (unsigned)op->size;
    return (events & PIER_READABLE ? POLLIN : 0u) | (events & PIER_PRIORITY ? POLLPRI : 0u) |
           (events & PIER_WRITABLE ? POLLOUT : 0u);
}

/* What a completed request says, without what the op didn't ask for. Linux (seen on 6.18) leaves
 * POLLPRI out of what wakes a request up, and hands on the bits of the wake-up, in which sockets
 * claim urgent data with any data: so POLLRDBAND is there to be woken by, and then the descriptor
 * itself is asked (tests/conform: poll.urgent_data). */
static unsigned seen_events(struct pier_loop *loop, const struct pier_op *op, unsigned seen)
{
    unsigned native = native_events(op);
    if ((native & POLLPRI) && !(seen & (POLLERR | POLLHUP))) {
        loop->counters.system_calls++;
        /* Of a file the request took the news, and knows best. */
        return pier__sys_is_file((pier_descriptor)op->data) > 0
                   ? seen & native
                   : pier__sys_poll_now((pier_descriptor)op->data, native);
    }
    return seen & (native | POLLERR | POLLHUP);
}

/* The kernel tells of a peer that has ended its half whether asked or not, and so would complete
 * each new request at once: then one that tells of changes waits for what was asked for. */
#define PEER_ENDED 0x2000 /* POLLRDHUP */

static void arm_poll(struct pier_loop *loop, struct pier_op *op, bool edges)
{
    struct pier__uring *uring = pier__uring_of(loop);
    unsigned native = native_events(op);
    if (native & POLLPRI) {
        native |= POLLRDBAND; /* see seen_events() */
    }
    if (edges && uring->features.multishot_receive &&
        pier__uring_watch_edges(loop, op, (pier_descriptor)op->data, native)) {
        pier__op_set(op, PIER__POLL_ASKED);
        return;
    }
    if (pier__uring_wait_ready(loop, op, (pier_descriptor)op->data, native)) {
        pier__op_set(op, PIER__POLL_ASKED); /* in the kernel */
        return;
    }
    op->next_ = NULL;
    if (uring->polls_unsent == NULL) {
        uring->polls_unsent = op;
    } else {
        PIER__TAKE_FOR_GRANTED(uring->polls_unsent_last != NULL); /* where there's a first */
        uring->polls_unsent_last->next_ = op;
    }
    uring->polls_unsent_last = op;
}

void pier__uring_poll_start(struct pier_loop *loop, struct pier_op *op)
{
    arm_poll(loop, op, false);
}

static bool unlist_poll(struct pier__uring *uring, struct pier_op *op)
{
    struct pier_op *before = NULL;
    for (struct pier_op *at = uring->polls_unsent; at != NULL; before = at, at = at->next_) {
        if (at == op) {
            *(before == NULL ? &uring->polls_unsent : &before->next_) = at->next_;
            if (uring->polls_unsent_last == at) {
                uring->polls_unsent_last = before;
            }
            return true;
        }
    }
    return false;
}

/* Takes back a request that the kernel hasn't been given: by the time it is, the descriptor's
 * number may be another file's. */
static bool take_back(struct pier__uring *uring, const struct pier_op *op)
{
    const struct io_uring_sq *queue = &uring->ring.sq;
    for (unsigned left = pier__uring_unsubmitted(uring); left != 0; left--) {
        struct io_uring_sqe *entry = &queue->sqes[(queue->sqe_tail - left) & queue->ring_mask];
        if (entry->user_data == pier__uring_key(op, PIER__TAG_OP)) {
            memset(entry, 0, sizeof(*entry));
            entry->opcode = IORING_OP_NOP;
            entry->user_data = PIER__TAG_IGNORE;
            return true;
        }
    }
    return false;
}

void pier__uring_poll_cancel(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if ((op->bits_ & PIER__POLL_ASKED) && take_back(uring, op)) {
        pier__op_clear(op, PIER__POLL_ASKED);
    }
    if (!(op->bits_ & PIER__POLL_ASKED)) {
        unlist_poll(uring, op);
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    /* The owner may close the descriptor when this returns: submit now, and let the kernel drop its
     * reference. */
    if (uring->room == 0) {
        pier__uring_submit(loop);
    }
    if (!pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP), NULL, false)) {
        uring->cancels_unsent = true; /* the queue is full: resubmit() tries again */
        return;
    }
    pier__uring_submit(loop);
}

void pier__uring_poll_pause(struct pier_loop *loop, struct pier_op *op)
{
    (void)loop; /* if it fires, it isn't armed again before resume */
    (void)op;
}

void pier__uring_poll_resume(struct pier_loop *loop, struct pier_op *op)
{
    if (!(op->bits_ & PIER__POLL_ASKED)) {
        unlist_poll(pier__uring_of(loop), op);
        arm_poll(loop, op, false);
    }
}

void pier__uring_poll_change(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (!(op->bits_ & PIER__POLL_ASKED) || (op->bits_ & PIER__CANCEL_ASKED)) {
        return; /* whoever asks next asks for the new events */
    }
    if (take_back(uring, op)) {
        pier__op_clear(op, PIER__POLL_ASKED);
        if (!(op->bits_ & PIER__PAUSED)) {
            arm_poll(loop, op, false);
        }
        return;
    }
    pier__op_set(op, PIER__CANCEL_ASKED);
    if (!pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP), NULL, false)) {
        uring->cancels_unsent = true;
    }
}

/* A request that goes on has seen something. If it's what the op waits for, the request ends, and
 * another says what is there. */
PIER__COLD static void saw_change(struct pier_loop *loop, struct pier_op *op, int result)
{
    if (pier__op_is_ending(op) || (op->bits_ & PIER__CANCEL_ASKED) || result < 0 ||
        seen_events(loop, op, (unsigned)result) == 0) {
        return;
    }
    pier__op_set(op, PIER__CANCEL_ASKED);
    if (!pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP), NULL, false)) {
        pier__uring_of(loop)->cancels_unsent = true;
    }
}

void pier__uring_polled(struct pier_loop *loop, struct pier_op *op, int result, bool more)
{
    if (PIER__UNLIKELY(more)) {
        saw_change(loop, op, result);
        return;
    }
    bool changed = (op->bits_ & PIER__CANCEL_ASKED) != 0;
    pier__op_clear(op, PIER__POLL_ASKED | PIER__CANCEL_ASKED);
    bool ending = pier__op_is_ending(op);
    if (ending && (result < 0 || (op->bits_ & PIER__MULTISHOT))) {
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    if (changed && pier__uring_was_cancelled(result)) {
        result = 0; /* nothing was seen */
    }
    if (result < 0) {
        /* EINVAL: there is nothing to wait for, which some files of /proc let others wait for. */
        int error = pier__sys_map(-result);
        pier__op_finish(loop, op, error == PIER_EINVAL ? PIER_ENOTSUP : error);
        op->os_error = -result;
        return;
    }
    if (ending && (native_events(op) & POLLPRI)) {
        /* The descriptor can't be asked: it may be another's by now. */
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    unsigned seen = seen_events(loop, op, (unsigned)result);
    if (seen == 0 && ending) {
        pier__op_finish(loop, op, pier__op_reason(op));
        return;
    }
    if (seen == 0) {
        if (!(op->bits_ & PIER__PAUSED)) {
            arm_poll(loop, op, (result & PEER_ENDED) != 0);
        }
        return;
    }
    int64_t events = (seen & POLLIN ? PIER_READABLE : 0) | (seen & POLLPRI ? PIER_PRIORITY : 0) |
                     (seen & POLLOUT ? PIER_WRITABLE : 0) |
                     (seen & (POLLHUP | POLLERR) ? PIER_HANGUP : 0);
    if (!(op->bits_ & PIER__MULTISHOT)) {
        pier__op_finish(loop, op, events);
        return;
    }
    if (op->bits_ & PIER__PAUSED) {
        return; /* level-triggered: it shows again when resumed */
    }
    pier__op_event(loop, op, events, 0);
    if (pier__op_is_ending(op)) {
        return; /* cancelled in its callback: finished there, since it wasn't in the kernel */
    }
    if (!(op->bits_ & (PIER__PAUSED | PIER__POLL_ASKED))) {
        unlist_poll(pier__uring_of(loop), op); /* resumed in its callback, with the queue full */
        arm_poll(loop, op, false);
    }
}

static void cancel_poll_again(struct pier_loop *loop, struct pier_op *op, void *context)
{
    struct pier__uring *uring = context;
    if (op->kind_ == PIER__OP_POLL && (op->bits_ & PIER__POLL_ASKED) &&
        (pier__op_is_ending(op) || (op->bits_ & PIER__CANCEL_ASKED)) &&
        !pier__uring_cancel_request(loop, pier__uring_key(op, PIER__TAG_OP), NULL, false)) {
        uring->cancels_unsent = true;
    }
}

/* Polls and cancels that found the submission queue full. */
void pier__uring_poll_resubmit(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    struct pier_op *op = uring->polls_unsent;
    uring->polls_unsent = NULL;
    while (op != NULL) {
        struct pier_op *next = op->next_;
        arm_poll(loop, op, false);
        op = next;
    }
    if (uring->cancels_unsent) {
        uring->cancels_unsent = false;
        pier__loop_visit(loop, cancel_poll_again, uring);
    }
}

void pier__uring_poll_anew(struct pier_loop *loop, struct pier_op *op, void *context)
{
    (void)context;
    if (op->kind_ != PIER__OP_POLL) {
        return;
    }
    pier__op_clear(op, PIER__POLL_ASKED | PIER__CANCEL_ASKED);
    if (pier__op_is_ending(op)) {
        pier__op_finish(loop, op, pier__op_reason(op)); /* its cancel was the old ring's */
    } else if (!(op->bits_ & PIER__PAUSED)) {
        arm_poll(loop, op, false);
    }
}
