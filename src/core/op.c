/* op.c - the life of an operation: submit, start, finish, deliver. Cancelling is in cancel.c.
 *
 * An op on a handle is appended to its direction's queue; the head is started by handing it to
 * handle->calls_->start, the others wait. pier__op_finish() takes the op out, queues its terminal
 * completion, and starts the next one. So at most one request per handle and direction is in the
 * kernel, on every backend.
 *
 * Notions that are kept apart: *finish* is when the outcome is known (exactly once per op),
 * *deliver* is when the callback runs (exactly once, later), *cancel* only asks for a finish. The
 * first reason to cancel wins, and a real outcome that is known before wins over all. An op
 * cancelled while it waits in the queue finishes at once, ahead of those before it: waiting for a
 * stranger's slow receive is what the canceller wanted to avoid. */

#include "core/loop.h"

int pier__op_reason(const struct pier_op *op)
{
    return op->reason_ == PIER__REASON_TIMEOUT ? PIER_ETIMEDOUT
           : op->reason_ == PIER__REASON_CLOSE ? PIER_ECLOSED
                                               : PIER_ECANCELED;
}

/* What an op may have attached to it besides its queue. */
PIER__COLD static void clean_up(struct pier_loop *loop, struct pier_op *op)
{
    if (op->bits_ & PIER__TIMED) {
        pier__op_unlink(loop, op);
    }
    if (op->bits_ & PIER__TOKEN) {
        pier__token_release(loop, op);
    }
    if (op->bits_ & PIER__HOLDS) {
        pier__pool_unhold(loop, op);
    }
    if (op->bits_ & PIER__ADDRESS) {
        struct pier__address_block *block = op->extra_.pointer;
        block->next = loop->addresses_free;
        loop->addresses_free = block;
    }
    op->bits_ &= (uint8_t)~PIER__CLEAN_UP;
}

/* Everything of a finish but the delivery. */
static inline void conclude(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    op->result = result;
    if (PIER__LIKELY((op->bits_ & PIER__MULTISHOT) == 0)) {
        op->flags &= PIER_BACKGROUND | PIER_EOF | PIER_LENT;
    } else {
        op->flags &= PIER_BACKGROUND | PIER_EOF; /* those of the last event go */
        op->data = NULL;
        op->size = 0;
    }
    if (PIER__UNLIKELY(result < 0)) {
        if (op->reason_ != PIER__REASON_NONE && result == pier__op_reason(op)) {
            op->os_error = 0;
            loop->stats.cancels++;
        }
    }
    if (PIER__UNLIKELY(op->bits_ & PIER__CLEAN_UP)) {
        clean_up(loop, op);
    }
}

/* ---- submit */

static void arm_time_limit(struct pier_loop *loop, struct pier_op *op)
{
    uint64_t limit = op->timeout_ns;
    uint64_t now = pier__loop_clock(loop);
    op->timeout_ns = 0;
    op->bits_ |= PIER__TIMED;
    if (op->bits_ & PIER__MULTISHOT) {
        op->extra_.number = limit;
    }
    pier__timers_insert(&loop->timers, &op->timer_,
                        limit > UINT64_MAX - now ? UINT64_MAX : now + limit);
}

PIER__COLD static void check_submit(const struct pier_handle *handle, const struct pier_op *op,
                                    const char *function)
{
    pier__handle_require_open(handle, function);
    PIER_REQUIRE(pier__loop_on_thread(handle->loop_), function,
                 "called from another thread than the loop's");
    PIER_REQUIRE(op->state_ == PIER__IDLE, function, "the op is in flight already");
}

/* A transfer of nothing completes with 0, in its turn. */
static bool is_empty(struct pier_op *op)
{
    return op->kind_ == PIER__OP_SEND || op->kind_ == PIER__OP_RECEIVE ||
           (op->kind_ == PIER__OP_SEND_VECTORED && pier__send_total(op) == 0);
}

/* What a handle of this kind can't do, which not every backend would find out: 0 if it can. */
PIER__COLD static int refusal(const struct pier_handle *handle, const struct pier_op *op)
{
    bool listens = pier__handle_listens(handle);
    if (op->kind_ == PIER__OP_ACCEPT) {
        return listens ? 0 : PIER_EINVAL;
    }
    if (listens) {
        return op->kind_ == PIER__OP_CONNECT ? PIER_EISCONN : PIER_ENOTCONN;
    }
    if ((handle->bits_ & PIER__UNCONNECTED) && op->kind_ != PIER__OP_CONNECT) {
        return PIER_ENOTCONN; /* kqueue would wait for ever */
    }
    uint32_t lacks = pier__op_direction(op) == PIER__RECEIVING ? PIER__WRITE_ONLY : PIER__READ_ONLY;
    return handle->bits_ & lacks ? PIER_EBADF : 0;
}

static inline void start(struct pier_handle *handle, struct pier_op *op)
{
    pier__op_move(op, PIER__ACTIVE);
    if (PIER__UNLIKELY((handle->bits_ & PIER__RESTRICTED) || op->kind_ == PIER__OP_ACCEPT)) {
        int error = refusal(handle, op);
        if (error < 0) {
            pier__op_finish(handle->loop_, op, error);
            return;
        }
    }
    if (PIER__UNLIKELY(op->size == 0 || op->kind_ == PIER__OP_SEND_VECTORED) && is_empty(op)) {
        pier__op_finish(handle->loop_, op, 0);
        return;
    }
    handle->calls_->start(handle, op);
}

/* Starts the head of a direction, and those behind it for as long as they finish at once: a loop
 * rather than a recursion through pier__op_finish(), since thousands may wait. */
void pier__op_start_direction(struct pier_loop *loop, struct pier_handle *handle,
                              unsigned direction)
{
    uint32_t starting = (uint32_t)PIER__STARTING << direction;
    if (handle->bits_ & starting) {
        return;
    }
    handle->bits_ |= starting;
    struct pier_op *op;
    while ((op = handle->head_[direction]) != NULL && op->state_ == PIER__QUEUED) {
        if (handle->bits_ & PIER__FAILED) {
            pier__op_finish(loop, op, PIER_ENOTCONN);
        } else if ((handle->bits_ & PIER__CONNECTING) && direction == PIER__RECEIVING) {
            break; /* the connect's end starts it */
        } else {
            start(handle, op);
        }
    }
    handle->bits_ &= ~starting;
}

/* Puts an op that can't even be queued straight among the completed. */
PIER__COLD static void refuse(struct pier_loop *loop, struct pier_op *op, int error)
{
    op->timeout_ns = 0;
    conclude(loop, op, error);
    pier__op_move(op, PIER__DONE);
    pier__queue_push(&loop->completed, op);
}

void pier__op_submit(struct pier_handle *handle, struct pier_op *op, unsigned kind, unsigned bits,
                     pier_op_fn *fn, const char *function)
{
    struct pier_loop *loop = handle->loop_;
    /* One test for everything that isn't the usual case. */
    if (PIER__UNLIKELY(loop == NULL || op->state_ != PIER__IDLE ||
                       loop->thread != pier__thread())) {
        check_submit(handle, op, function);
        PIER__TAKE_FOR_GRANTED(loop != NULL); /* static analysers don't see that it's checked */
    }
    pier__loop_clock_about(loop);
    pier__op_set_up(loop, op, kind, bits, fn, handle);
    if (PIER__UNLIKELY((handle->bits_ & PIER__CLOSED_TO_USER) &&
                       !((handle->bits_ & PIER__GRACEFUL) && (bits & PIER__INTERNAL)))) {
        refuse(loop, op, PIER_ECLOSED);
        return;
    }
    if (PIER__UNLIKELY(op->timeout_ns != 0)) {
        arm_time_limit(loop, op);
    }
    unsigned direction = pier__op_direction(op);
    op->next_ = NULL;
    if (handle->head_[direction] != NULL) {
        pier__op_move(op, PIER__QUEUED);
        if (pier__op_is_send(op)) {
            pier__pool_hold(loop, op);
        }
        handle->tail_[direction]->next_ = op;
        handle->tail_[direction] = op;
        return;
    }
    handle->head_[direction] = handle->tail_[direction] = op;
    if (PIER__UNLIKELY(handle->bits_ & (PIER__FAILED | PIER__CONNECTING))) {
        pier__op_move(op, PIER__QUEUED);
        if (pier__op_is_send(op)) {
            pier__pool_hold(loop, op);
        }
        pier__op_start_direction(loop, handle, direction);
        return;
    }
    start(handle, op);
}

PIER__COLD static void send_by_queue(struct pier_handle *handle, struct pier_op *op,
                                     const void *memory, size_t size, pier_op_fn *fn)
{
    if (op->state_ == PIER__IDLE) {
        op->data = (void *)(uintptr_t)memory;
        op->size = size;
    }
    pier__op_submit(handle, op, PIER__OP_SEND, 0, fn, "pier_send");
}

/* Here rather than in stream.c for its usual case: a send into an empty queue, which the backend
 * runs without further checks. Of the 200 instructions by way of the queue that leaves 60 where the
 * send is over at once: no state is moved and nothing counted for an op that nobody could see in
 * flight. The arguments wait in the op, not in saved registers. */
void pier_send(struct pier_handle *handle, struct pier_op *op, const void *memory, size_t size,
               pier_op_fn *fn)
{
    const uint32_t plain = PIER__CLOSED_TO_USER | PIER__CONNECTING | PIER__FAILED | PIER__BLOCKED |
                           PIER__STARTING << PIER__SENDING | PIER__PLAIN_SENDS;
    if (PIER__UNLIKELY((handle->bits_ & plain) != PIER__PLAIN_SENDS ||
                       handle->head_[PIER__SENDING] != NULL ||
                       handle->loop_->thread != pier__thread() || op->state_ != PIER__IDLE ||
                       size == 0 || op->timeout_ns != 0)) {
        send_by_queue(handle, op, memory, size, fn);
        return;
    }
    op->fn = fn;
    op->data = (void *)(uintptr_t)memory;
    op->size = size;
    handle->calls_->send(handle, op);
}

/* Data and size of a receive into the caller's memory are in the op, unless that is in flight
 * already. */
PIER__COLD static void receive_by_queue(struct pier_handle *handle, struct pier_op *op,
                                        unsigned kind, pier_op_fn *fn)
{
    const char *function = kind == PIER__OP_RECEIVE ? "pier_receive" : "pier_receive_lent";
    PIER_REQUIRE(fn != NULL, function, "the completion function is NULL");
    pier__op_submit(handle, op, kind, 0, fn, function);
}

static inline void begin_receive(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                                 pier_op_fn *fn)
{
    pier__op_set_up(handle->loop_, op, kind, 0, fn, handle);
    op->next_ = NULL;
    handle->head_[PIER__RECEIVING] = handle->tail_[PIER__RECEIVING] = op;
    pier__op_move(op, PIER__ACTIVE);
}

static void receive_with_clock(struct pier_handle *handle, struct pier_op *op, unsigned kind,
                               pier_op_fn *fn);

/* The usual case where there is something to start. */
PIER__NOINLINE static void receive_and_start(struct pier_handle *handle, struct pier_op *op,
                                             unsigned kind, pier_op_fn *fn)
{
    const uint32_t odd = PIER__CLOSED_TO_USER | PIER__CONNECTING | PIER__FAILED | PIER__RESTRICTED;
    if (PIER__UNLIKELY((handle->bits_ & odd) != 0 || handle->head_[PIER__RECEIVING] != NULL ||
                       handle->loop_->thread != pier__thread() || op->state_ != PIER__IDLE ||
                       (kind == PIER__OP_RECEIVE && op->size == 0) || fn == NULL ||
                       op->timeout_ns != 0)) {
        receive_by_queue(handle, op, kind, fn);
        return;
    }
    if (PIER__UNLIKELY(handle->loop_->now_is_old)) {
        receive_with_clock(handle, op, kind, fn);
        return;
    }
    begin_receive(handle, op, kind, fn);
    handle->calls_->start(handle, op);
}

/* Whether a readiness backend watches the handle already, has nothing to read now, and this is the
 * first receive. Then there is nothing to start: the op only becomes the head. */
static inline bool is_watched(const struct pier_handle *handle, const struct pier_op *op,
                              pier_op_fn *fn)
{
    const uint32_t quick = PIER__CLOSED_TO_USER | PIER__CONNECTING | PIER__FAILED | PIER__LISTED |
                           PIER__STARTING << PIER__RECEIVING | PIER__RESTRICTED | PIER__QUICK;
    return PIER__LIKELY(
        (handle->bits_ & quick) == PIER__QUICK && handle->head_[PIER__RECEIVING] == NULL &&
        handle->loop_->thread == pier__thread() && op->state_ == PIER__IDLE &&
        (handle->ready_ & PIER__READ) == 0 && (handle->interest_ & PIER__READ) != 0 && fn != NULL &&
        op->timeout_ns == 0 && (op->flags & PIER_BACKGROUND) == 0 && !handle->loop_->now_is_old);
}

/* What passed the checks of receive_and_start(), first in its turn to want the time. */
PIER__COLD static void receive_with_clock(struct pier_handle *handle, struct pier_op *op,
                                          unsigned kind, pier_op_fn *fn)
{
    pier__loop_clock_about(handle->loop_);
    if (is_watched(handle, op, fn)) {
        begin_receive(handle, op, kind, fn);
    } else {
        receive_and_start(handle, op, kind, fn);
    }
}

void pier_receive(struct pier_handle *handle, struct pier_op *op, void *memory, size_t size,
                  pier_op_fn *fn)
{
    if (PIER__LIKELY(op->state_ == PIER__IDLE)) {
        op->data = memory;
        op->size = size;
    }
    if (is_watched(handle, op, fn) && size != 0) {
        begin_receive(handle, op, PIER__OP_RECEIVE, fn);
    } else {
        receive_and_start(handle, op, PIER__OP_RECEIVE, fn);
    }
}

void pier_receive_lent(struct pier_handle *handle, struct pier_op *op, pier_op_fn *fn)
{
    if (is_watched(handle, op, fn)) {
        begin_receive(handle, op, PIER__OP_RECEIVE_LENT, fn);
    } else {
        receive_and_start(handle, op, PIER__OP_RECEIVE_LENT, fn);
    }
}

void pier__op_begin(struct pier_loop *loop, struct pier_op *op, unsigned kind, unsigned bits,
                    pier_op_fn *fn, const char *function)
{
    PIER_REQUIRE(pier__loop_on_thread(loop), function,
                 "called from another thread than the loop's");
    PIER_REQUIRE(op->state_ == PIER__IDLE, function, "the op is in flight already");
    PIER_REQUIRE(fn != NULL, function, "the completion function is NULL");
    pier__loop_clock_about(loop);
    pier__op_set_up(loop, op, kind, bits, fn, loop);
    pier__op_move(op, PIER__ACTIVE);
    if (op->timeout_ns != 0 && kind != PIER__OP_TIMER) {
        arm_time_limit(loop, op);
    }
    op->timeout_ns = 0;
    if ((kind == PIER__OP_POLL || kind == PIER__OP_NOTIFY) && !(op->bits_ & PIER__TIMED)) {
        pier__op_list_other(loop, op);
    }
}

/* ---- finish */

/* Takes the op out of its handle's queue. Returns the op that became head, if another did. */
static inline struct pier_op *leave_queue(struct pier_handle *handle, struct pier_op *op,
                                          unsigned direction)
{
    if (PIER__LIKELY(handle->head_[direction] == op)) {
        handle->head_[direction] = op->next_;
        return op->next_;
    }
    struct pier_op *before = handle->head_[direction];
    while (before->next_ != op) {
        before = before->next_;
    }
    before->next_ = op->next_;
    if (handle->tail_[direction] == op) {
        handle->tail_[direction] = before;
    }
    return NULL;
}

/* The connect's outcome decides about everything that waited for it. */
static void connect_finished(struct pier_loop *loop, struct pier_handle *handle, int64_t result)
{
    handle->bits_ &= ~(uint32_t)PIER__CONNECTING;
    if (result < 0) {
        handle->bits_ |= PIER__FAILED;
    } else {
        handle->bits_ &= ~(uint32_t)(PIER__UNCONNECTED | PIER__RESTRICTED);
        loop->stats.connects++;
    }
    pier__op_start_direction(loop, handle, PIER__RECEIVING);
}

/* An op has left the queue: the next one's turn, or a close's if there is none. */
static inline void continue_queue(struct pier_loop *loop, struct pier_handle *handle,
                                  unsigned direction, struct pier_op *next)
{
    if (next != NULL) {
        pier__op_start_direction(loop, handle, direction);
    } else if (PIER__UNLIKELY(handle->bits_ & PIER__CLOSED_TO_USER)) {
        pier__handle_try_close(handle);
    }
}

void pier__op_finish(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    conclude(loop, op, result);
    pier__op_move(op, PIER__DONE);
    if (!pier__op_has_handle(op)) {
        if (op->kind_ != PIER__OP_POST) {
            pier__op_unlink(loop, op);
        }
        pier__queue_push(&loop->completed, op);
        return;
    }
    struct pier_handle *handle = op->owner_;
    unsigned direction = pier__op_direction(op);
    struct pier_op *next = leave_queue(handle, op, direction);
    if (PIER__UNLIKELY(op->kind_ == PIER__OP_CONNECT)) {
        connect_finished(loop, handle, result);
    }
    if (PIER__LIKELY(op->fn != NULL)) {
        pier__queue_push(&loop->completed, op);
    } else {
        pier__op_deliver(loop, op); /* silent: nobody is called, the op is the caller's at once */
    }
    continue_queue(loop, handle, direction, next);
}

void pier__op_finish_now(struct pier_loop *loop, struct pier_op *op, int64_t result)
{
    if (PIER__UNLIKELY(loop->completed.head != NULL || loop->budget <= 0 || op->fn == NULL)) {
        pier__op_finish(loop, op, result);
        return;
    }
    conclude(loop, op, result);
    struct pier_handle *handle = op->owner_;
    unsigned direction = pier__op_direction(op);
    struct pier_op *next = leave_queue(handle, op, direction);
    pier__op_move(op, PIER__DONE);
    if (PIER__UNLIKELY(op->kind_ == PIER__OP_CONNECT)) {
        connect_finished(loop, handle, result);
    }
    continue_queue(loop, handle, direction, next);
    pier__op_deliver(loop, op);
}

/* ---- deliver */

static void close_if_not_taken(struct pier_loop *loop)
{
    if (loop->accepted >= 0) {
        loop->stats.system_calls++;
        pier__sys_close(loop->accepted);
        pier__loop_retry(loop);
    }
    loop->accepted_op = NULL;
    loop->accepted = -1;
}

void pier__op_deliver(struct pier_loop *loop, struct pier_op *op)
{
    pier__op_move(op, PIER__IDLE);
    loop->in_flight--;
    if (PIER__UNLIKELY(op->bits_ & PIER__COUNTED_BACKGROUND)) {
        loop->background--;
    }
    if (PIER__UNLIKELY(op->kind_ == PIER__OP_ACCEPT && op->result > 0)) {
        loop->accepted_op = op;
        loop->accepted = op->extra_.descriptor;
        pier__loop_call(loop, op);
        close_if_not_taken(loop);
    } else if (PIER__UNLIKELY(op->kind_ == PIER__OP_RECEIVE_LENT && (op->flags & PIER_LENT) != 0)) {
        /* The buffer was taken when the data came; the op may be gone when its callback returns. */
        uint32_t index = (uint32_t)op->extra_.number;
        pier__loop_call(loop, op);
        pier__pool_drop(loop, index);
    } else if (PIER__LIKELY(op->fn != NULL)) {
        pier__loop_call(loop, op);
    }
}

void pier__op_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket)
{
    loop->stats.accepts++;
    loop->accepted_op = op;
    loop->accepted = socket;
    pier__op_event(loop, op, 1, 0);
    close_if_not_taken(loop);
}

void pier__op_finish_accepted(struct pier_loop *loop, struct pier_op *op, pier_descriptor socket)
{
    loop->stats.accepts++;
    op->extra_.descriptor = socket;
    pier__op_finish_now(loop, op, 1);
}

void pier__op_received_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                            uint32_t index, size_t bytes)
{
    struct pier__pool *pool = &loop->pool;
    loop->stats.receives++;
    loop->stats.received_bytes += bytes;
    op->done += bytes;
    op->data = pier__pool_memory(pool, index);
    op->size = bytes;
    if (PIER__UNLIKELY((op->bits_ & PIER__MULTISHOT) == 0)) {
        pier__pool_take(loop, index, handle);
        pool->buffers[index].size = (uint32_t)bytes;
        pool->buffers[index].offset = 0;
        op->extra_.number = index;
        op->flags = (op->flags & PIER_BACKGROUND) | PIER_LENT;
        pier__op_finish_now(loop, op, (int64_t)bytes);
        return;
    }
    pool->current = index;
    pool->current_size = (uint32_t)bytes;
    pool->current_handle = handle;
    pier__op_event(loop, op, (int64_t)bytes, PIER_LENT);
    pool->current = PIER__NO_BUFFER;
}

/* Finishes an op that its caller has taken out of the handle's queue already. */
void pier__op_abandon(struct pier_loop *loop, struct pier_op *op, enum pier__reason reason)
{
    op->reason_ = (uint8_t)reason;
    conclude(loop, op, pier__op_reason(op));
    pier__op_move(op, PIER__DONE);
    pier__queue_push(&loop->completed, op);
}
