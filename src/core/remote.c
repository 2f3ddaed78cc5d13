/* remote.c - what other threads and signal handlers hand to a loop.
 *
 * Ops arrive on a lock-free stack (core.remote) that the loop takes whole and turns round, so that
 * posts of one thread complete in the order made. A loop that is going to sleep puts a mark into
 * the empty stack; whoever replaces it makes the system call that wakes, so that of many wakers one
 * calls, and none while the loop is awake. Nothing here allocates, locks, or leaves errno changed.
 *
 * A post to a sleeping loop is one atomic step for the poster and three for the loop (sleep, take,
 * and for notifications the count), all on two cache lines: core.remote's, where all that the
 * waking needs is too, and the op's. */

#include "core/remote.h"

#include "core/engine.h"

/* Asks for something that isn't an op. The loop puts its mark there and then looks at `asked`; here
 * it's the other way round, and one of the two sees the other. All four are sequentially
 * consistent: with less, both could miss, on ARM first. */
void pier__remote_ask(struct pier_loop *loop, uint32_t bit)
{
    struct pier_op *asleep = PIER__ASLEEP;
    pier__atomic_add(&loop->core.waking, 1); /* whoever frees the loop waits for this call */
    pier__atomic_or(&loop->core.asked, bit);
    if (pier__atomic_load(&loop->core.remote) == PIER__ASLEEP &&
        pier__atomic_compare_exchange(&loop->core.remote, &asleep, NULL)) {
        loop->core.wake(loop);
    }
    pier__atomic_add(&loop->core.waking, UINT32_MAX); /* one less */
}

PIER__NOINLINE void pier__remote_push_and_wake(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_op *head = PIER__ASLEEP;
    pier__atomic_add(&loop->core.waking, 1);
    op->next_ = NULL;
    if (pier__atomic_compare_exchange(&loop->core.remote, &head, op)) {
        loop->core.wake(loop);
    } else {
        pier__remote_push(loop, op); /* it doesn't sleep after all */
    }
    pier__atomic_add(&loop->core.waking, UINT32_MAX); /* one less */
}

void pier__loop_settle(struct pier_loop *loop)
{
    pier__loop_awake(loop);
    while (pier__atomic_load(&loop->core.waking) != 0) {
        pier__sys_yield(); /* a post or notification that has begun is over soon */
    }
}

/* A notification is counted before it's pushed. */
static void push_if_counted(struct pier_loop *loop, struct pier_op *op, void *context)
{
    (void)context;
    if (op->kind_ == PIER__OP_NOTIFY) {
        uint64_t count = pier__atomic_load(&op->use_.notifications);
        if (count != 0 && count < PIER__DISARMED) {
            pier__remote_push(loop, op);
        }
    }
}

void pier__remote_after_fork(struct pier_loop *loop)
{
    pier__loop_awake(loop);
    pier__atomic_store(&loop->core.waking, 0);
    /* Notifications are pushed anew, so that each is there once; posts stay. */
    struct pier_op *posts = NULL, **end = &posts;
    struct pier_op *op = pier__atomic_exchange(&loop->core.remote, NULL);
    for (; op != NULL; op = op->next_) {
        if (op->kind_ != PIER__OP_NOTIFY) {
            *end = op;
            end = &op->next_;
        }
    }
    *end = NULL;
    pier__atomic_store(&loop->core.remote, posts);
    pier__loop_visit(loop, push_if_counted, NULL);
    pier__tokens_after_fork(loop);
}

PIER__NOINLINE static void deliver_notification(struct pier_loop *loop, struct pier_op *op)
{
    if (op->bits_ & PIER__PAUSED && !pier__op_is_ending(op)) {
        pier__atomic_add(&op->use_.notifications,
                         PIER__DISARMED); /* the count stays, and nobody pushes */
        return;
    }
    uint64_t next = !pier__op_is_ending(op) ? 0 : PIER__DISARMED;
    uint64_t count = pier__atomic_exchange(&op->use_.notifications, next) & ~PIER__DISARMED;
    loop->counters.posts++;
    op->result = (int64_t)count;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_MORE;
    pier__loop_call(loop, op);
    if (next == PIER__DISARMED) {
        pier__op_finish(loop, op, pier__op_reason(op));
    }
}

static inline struct pier_op *in_order(struct pier_op *stack)
{
    struct pier_op *list = NULL;
    while (stack != NULL) {
        struct pier_op *next = stack->next_;
        stack->next_ = list;
        list = stack;
        stack = next;
    }
    return list;
}

/* Posts have a queue of their own, since completed ops are delivered ahead of events: a storm of
 * posts would leave the handles no budget (tests/conform: more_posts_than_budget). Those made by
 * these callbacks wait for the next turn. */
static inline void deliver_posted(struct pier_loop *loop)
{
    struct pier_op *op;
    while (loop->budget > 0 && (op = pier__queue_pop(&loop->core.posted)) != NULL) {
        loop->counters.posts++;
        pier__op_deliver(loop, op);
    }
}

void pier__remote_deliver(struct pier_loop *loop)
{
    const uint32_t notification = pier__word_of(PIER__OP_NOTIFY, PIER__ACTIVE, PIER__MULTISHOT);
    struct pier_op *list = NULL;
    if (pier__atomic_load_relaxed(&loop->core.remote) != NULL) {
        list = in_order(pier__atomic_exchange(&loop->core.remote, NULL));
    }
    while (list != NULL) {
        struct pier_op *op = list;
        list = op->next_; /* read first: a notify op may be pushed again by now */
        if (PIER__LIKELY(pier__op_word(op) == notification)) {
            loop->counters.posts++;
            op->flags = PIER_MORE; /* background ops have another word */
            op->result = (int64_t)pier__atomic_exchange(&op->use_.notifications, 0);
            pier__loop_call(loop, op);
            continue;
        }
        if (op->kind_ == PIER__OP_NOTIFY) {
            deliver_notification(loop, op);
            continue;
        }
        pier__op_count(loop, op);
        op->result = 0;
        pier__op_move(op, PIER__DONE);
        pier__queue_push(&loop->core.posted, op);
    }
    if (PIER__UNLIKELY(pier__atomic_load_relaxed(&loop->core.asked) & PIER__ASKED_CANCELS)) {
        pier__tokens_deliver(loop);
    }
    deliver_posted(loop);
}
