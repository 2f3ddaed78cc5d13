/* remote.c - what other threads and signal handlers may call: post, notify, wake, cancel by token.
 *
 * Ops arrive on a lock-free stack (loop->remote) that the loop takes whole and turns round, so that
 * posts of one thread complete in the order made. A loop that is going to sleep puts a mark into
 * the empty stack; whoever replaces it makes the system call that wakes, so that of many wakers one
 * calls, and none while the loop is awake. Nothing here allocates, locks, or leaves errno changed.
 *
 * A post to a sleeping loop is one atomic step for the poster and three for the loop (sleep, take,
 * and for notifications the count), all on two cache lines: loop->remote's, where all that the
 * waking needs is too, and the op's.
 *
 * A token names an op without its address, which another thread might use after the op's memory is
 * gone. Tokens live in chunks that never move, so that another thread may look at one while the
 * loop makes more. */

#include "core/loop.h"

#define FIRST_CHUNK 64u
#define DISARMED (UINT64_C(1) << 63) /* in a notify op's count: being cancelled, don't push */

struct pier__token {
    struct pier_op *op;
    uint32_t generation;
    uint32_t next_free;
    uint32_t requested; /* generation that another thread wants cancelled, 0 none */
    struct pier__token *next;
};

/* ---- waking */

/* Asks for something that isn't an op. The loop puts its mark there and then looks at `asked`; here
 * it's the other way round, and one of the two sees the other. All four are sequentially
 * consistent: with less, both could miss, on ARM first. */
static void ask_of_loop(struct pier_loop *loop, uint32_t bit)
{
    struct pier_op *asleep = PIER__ASLEEP;
    pier__atomic_or(&loop->asked, bit);
    if (pier__atomic_load(&loop->remote) == PIER__ASLEEP &&
        pier__atomic_compare_exchange(&loop->remote, &asleep, NULL)) {
        loop->wake(loop);
    }
}

void pier_wake(struct pier_loop *loop)
{
    ask_of_loop(loop, PIER__ASKED_WAKE);
}

void pier_loop_stop(struct pier_loop *loop)
{
    ask_of_loop(loop, PIER__ASKED_STOP);
}

/* The op may be gone as soon as it is in the stack. */
static inline void push(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_op *head = pier__atomic_load_relaxed(&loop->remote);
    do {
        op->next_ = head == PIER__ASLEEP ? NULL : head;
    } while (!pier__atomic_compare_exchange(&loop->remote, &head, op));
    if (head == PIER__ASLEEP) {
        loop->wake(loop);
    }
}

/* ---- post and notify */

void pier_post(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    PIER_REQUIRE(fn != NULL, "pier_post", "the completion function is NULL");
    PIER_REQUIRE(op->state_ == PIER__IDLE, "pier_post", "the op is in flight already");
    op->fn = fn;
    op->kind_ = PIER__OP_POST;
    op->owner_ = loop;
    op->timeout_ns = 0;
    op->reason_ = 0;
    op->bits_ = 0;
    op->done = 0;
    op->os_error = 0;
    op->flags &= PIER_BACKGROUND;
    pier__op_move(op, PIER__REMOTE);
    push(loop, op);
}

void pier_notify_each(struct pier_loop *loop, struct pier_op *op, pier_op_fn *fn)
{
    if (op->state_ == PIER__IDLE) {
        op->timeout_ns = 0; /* extra_ is the count here, so there is no idle limit */
        pier__atomic_store(&op->extra_.number, 0);
    }
    pier__op_begin(loop, op, PIER__OP_NOTIFY, PIER__MULTISHOT, fn, "pier_notify_each");
}

void pier_notify(struct pier_op *op)
{
    struct pier_loop *loop = op->owner_;
    if (pier__atomic_add(&op->extra_.number, 1) == 0) {
        push(loop, op);
    }
}

bool pier__notify_disarm(struct pier_op *op)
{
    uint64_t none = 0;
    return pier__atomic_compare_exchange(&op->extra_.number, &none, DISARMED) || none >= DISARMED;
}

PIER__NOINLINE static void deliver_notification(struct pier_loop *loop, struct pier_op *op)
{
    if (op->bits_ & PIER__PAUSED && op->reason_ == PIER__REASON_NONE) {
        pier__atomic_add(&op->extra_.number, DISARMED); /* the count stays, and nobody pushes */
        return;
    }
    uint64_t next = op->reason_ == PIER__REASON_NONE ? 0 : DISARMED;
    uint64_t count = pier__atomic_exchange(&op->extra_.number, next) & ~DISARMED;
    loop->stats.posts++;
    op->result = (int64_t)count;
    op->flags = (op->flags & PIER_BACKGROUND) | PIER_MORE;
    pier__loop_call(loop, op);
    if (next == DISARMED) {
        pier__op_finish(loop, op, pier__op_reason(op));
    }
}

void pier__notify_resume(struct pier_op *op)
{
    if (pier__atomic_load(&op->extra_.number) >= DISARMED) {
        pier__atomic_add(&op->extra_.number, -DISARMED);
        push(op->owner_, op);
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

PIER__COLD static void deliver_cancels(struct pier_loop *loop)
{
    /* First the bit, then the list: what comes between is found here, and again for nothing. */
    pier__atomic_and(&loop->asked, ~(uint32_t)PIER__ASKED_CANCELS);
    struct pier__token *token = pier__atomic_exchange(&loop->remote_cancels, NULL);
    while (token != NULL) {
        struct pier__token *next = token->next;
        uint32_t generation = pier__atomic_exchange(&token->requested, 0);
        if (token->op != NULL && token->generation == generation) {
            pier__op_cancel(loop, token->op, PIER__REASON_CALLER);
        }
        token = next;
    }
}

/* Posts have a queue of their own, since completed ops are delivered ahead of events: a storm of
 * posts would leave the handles no budget (tests/conform: more_posts_than_budget). Those made by
 * these callbacks wait for the next turn. */
static inline void deliver_posted(struct pier_loop *loop)
{
    struct pier_op *op;
    while (loop->budget > 0 && (op = pier__queue_pop(&loop->posted)) != NULL) {
        pier__op_deliver(loop, op);
    }
}

void pier__remote_deliver(struct pier_loop *loop)
{
    const uint32_t notification = pier__word_of(PIER__OP_NOTIFY, PIER__ACTIVE, PIER__MULTISHOT);
    struct pier_op *list = NULL;
    if (pier__atomic_load_relaxed(&loop->remote) != NULL) {
        list = in_order(pier__atomic_exchange(&loop->remote, NULL));
    }
    while (list != NULL) {
        struct pier_op *op = list;
        list = op->next_; /* read first: a notify op may be pushed again by now */
        if (PIER__LIKELY(pier__op_word(op) == notification)) {
            loop->stats.posts++;
            op->flags = PIER_MORE; /* background ops have another word */
            op->result = (int64_t)pier__atomic_exchange(&op->extra_.number, 0);
            pier__loop_call(loop, op);
            continue;
        }
        if (op->kind_ == PIER__OP_NOTIFY) {
            deliver_notification(loop, op);
            continue;
        }
        loop->in_flight++;
        if (op->flags & PIER_BACKGROUND) {
            op->bits_ |= PIER__COUNTED_BACKGROUND;
            loop->background++;
        }
        loop->stats.posts++;
        op->result = 0;
        pier__op_move(op, PIER__DONE);
        pier__queue_push(&loop->posted, op);
    }
    if (PIER__UNLIKELY(pier__atomic_load_relaxed(&loop->asked) & PIER__ASKED_CANCELS)) {
        deliver_cancels(loop);
    }
    deliver_posted(loop);
}

/* ---- tokens */

/* Chunk k holds FIRST_CHUNK << k tokens; index 0 of chunk k is token number FIRST_CHUNK * ((1 << k)
 * - 1). */
static struct pier__token *find_token(struct pier_loop *loop, uint32_t index)
{
    uint32_t chunk = 0, size = FIRST_CHUNK;
    while (index >= size) {
        index -= size;
        size *= 2;
        chunk++;
        if (chunk == PIER__TOKEN_CHUNKS) {
            return NULL;
        }
    }
    struct pier__token *tokens = pier__atomic_load(&loop->tokens[chunk]);
    return tokens != NULL ? &tokens[index] : NULL;
}

static bool make_chunk(struct pier_loop *loop)
{
    uint32_t chunk = 0;
    while (chunk < PIER__TOKEN_CHUNKS && loop->tokens[chunk] != NULL) {
        chunk++;
    }
    if (chunk == PIER__TOKEN_CHUNKS) {
        return false;
    }
    size_t size = ((size_t)FIRST_CHUNK << chunk) * sizeof(struct pier__token);
    struct pier__token *tokens = pier__allocate(loop, size);
    if (tokens == NULL) {
        return false;
    }
    memset(tokens, 0, size);
    pier__atomic_store(&loop->tokens[chunk], tokens);
    return true;
}

uint64_t pier_op_token(struct pier_op *op)
{
    if (op->state_ == PIER__IDLE || op->state_ == PIER__DONE || op->kind_ == PIER__OP_POST) {
        return 0;
    }
    struct pier_loop *loop = pier__op_loop(op);
    PIER_REQUIRE(pier__loop_on_thread(loop), "pier_op_token",
                 "called from another thread than the loop's");
    if (!(op->bits_ & PIER__TOKEN)) {
        uint32_t index = loop->tokens_free;
        if (index == UINT32_MAX) {
            index = loop->tokens_used;
            if (find_token(loop, index) == NULL && !make_chunk(loop)) {
                return 0;
            }
            loop->tokens_used++;
            find_token(loop, index)->generation = 1;
        } else {
            loop->tokens_free = find_token(loop, index)->next_free;
        }
        find_token(loop, index)->op = op;
        op->token_ = index;
        op->bits_ |= PIER__TOKEN;
    }
    return (uint64_t)find_token(loop, op->token_)->generation << 32 | op->token_;
}

void pier__token_release(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__token *token = find_token(loop, op->token_);
    token->op = NULL;
    token->generation++;
    if (token->generation == 0) {
        token->generation = 1;
    }
    token->next_free = loop->tokens_free;
    loop->tokens_free = op->token_;
    op->bits_ &= (uint8_t)~PIER__TOKEN;
}

void pier_cancel_remote(struct pier_loop *loop, uint64_t number)
{
    struct pier__token *token = find_token(loop, (uint32_t)number);
    uint32_t generation = (uint32_t)(number >> 32);
    if (token == NULL || generation == 0) {
        return;
    }
    uint32_t before = pier__atomic_load(&token->requested);
    do {
        /* The newer request stands: the older one's op is gone. */
        if (before != 0 && (int32_t)(generation - before) <= 0) {
            return;
        }
    } while (!pier__atomic_compare_exchange(&token->requested, &before, generation));
    if (before == 0) {
        struct pier__token *head = pier__atomic_load_relaxed(&loop->remote_cancels);
        do {
            token->next = head;
        } while (!pier__atomic_compare_exchange(&loop->remote_cancels, &head, token));
    }
    ask_of_loop(loop, PIER__ASKED_CANCELS);
}

void pier__tokens_free(struct pier_loop *loop)
{
    for (uint32_t chunk = 0; chunk < PIER__TOKEN_CHUNKS && loop->tokens[chunk] != NULL; chunk++) {
        pier__free(loop, loop->tokens[chunk],
                   ((size_t)FIRST_CHUNK << chunk) * sizeof(struct pier__token));
        loop->tokens[chunk] = NULL;
    }
}
