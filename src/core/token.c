/* token.c - tokens: names for ops that other threads may use when the op may be gone.
 *
 * An address could be another op's by then. A token is an index and a generation; tokens live in
 * chunks that never move, so that another thread may look at one while the loop makes more. A
 * cancel by token is a note in the token, and the token in a list that the loop takes whole. */

#include "core/engine.h"
#include "core/remote.h"

#define FIRST_CHUNK 64u

struct pier__token {
    struct pier_op *op;
    uint32_t generation;
    uint32_t next_free;
    uint32_t requested; /* generation that another thread wants cancelled, 0 none */
    struct pier__token *next;
};

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
    struct pier__token *tokens = pier__atomic_load(&loop->core.tokens[chunk]);
    return tokens != NULL ? &tokens[index] : NULL;
}

static bool make_chunk(struct pier_loop *loop)
{
    uint32_t chunk = 0;
    while (chunk < PIER__TOKEN_CHUNKS && loop->core.tokens[chunk] != NULL) {
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
    pier__atomic_store(&loop->core.tokens[chunk], tokens);
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
        uint32_t index = loop->core.tokens_free;
        if (index == UINT32_MAX) {
            index = loop->core.tokens_used;
            if (find_token(loop, index) == NULL && !make_chunk(loop)) {
                return 0;
            }
            loop->core.tokens_used++;
            find_token(loop, index)->generation = 1;
        } else {
            loop->core.tokens_free = find_token(loop, index)->next_free;
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
    token->next_free = loop->core.tokens_free;
    loop->core.tokens_free = op->token_;
    pier__op_clear(op, PIER__TOKEN);
}

static void list_cancel(struct pier_loop *loop, struct pier__token *token)
{
    struct pier__token *head = pier__atomic_load_relaxed(&loop->core.remote_cancels);
    do {
        token->next = head;
    } while (!pier__atomic_compare_exchange(&loop->core.remote_cancels, &head, token));
}

static void ask_to_cancel(struct pier_loop *loop, uint64_t number)
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
        list_cancel(loop, token);
    }
    pier__remote_ask(loop, PIER__ASKED_CANCELS);
}

/* The op may have ended by itself, and the loop be about to be freed. */
void pier_cancel_remote(struct pier_loop *loop, uint64_t number)
{
    pier__atomic_add(&loop->core.waking, 1);
    ask_to_cancel(loop, number);
    pier__atomic_add(&loop->core.waking, UINT32_MAX); /* one less */
}

void pier__tokens_after_fork(struct pier_loop *loop)
{
    pier__atomic_store(&loop->core.remote_cancels, NULL);
    for (uint32_t index = 0; index < loop->core.tokens_used; index++) {
        struct pier__token *token = find_token(loop, index);
        if (pier__atomic_load(&token->requested) != 0) {
            list_cancel(loop, token);
            pier__atomic_or(&loop->core.asked, PIER__ASKED_CANCELS);
        }
    }
}

void pier__tokens_free(struct pier_loop *loop)
{
    for (uint32_t chunk = 0; chunk < PIER__TOKEN_CHUNKS && loop->core.tokens[chunk] != NULL;
         chunk++) {
        pier__free(loop, loop->core.tokens[chunk],
                   ((size_t)FIRST_CHUNK << chunk) * sizeof(struct pier__token));
        loop->core.tokens[chunk] = NULL;
    }
}

void pier__tokens_deliver(struct pier_loop *loop)
{
    /* First the bit, then the list: what comes between is found here, and again for nothing. */
    pier__atomic_and(&loop->core.asked, ~(uint32_t)PIER__ASKED_CANCELS);
    struct pier__token *token = pier__atomic_exchange(&loop->core.remote_cancels, NULL);
    while (token != NULL) {
        struct pier__token *next = token->next;
        uint32_t generation = pier__atomic_exchange(&token->requested, 0);
        if (token->op != NULL && token->generation == generation) {
            pier__op_cancel(loop, token->op, PIER__REASON_CALLER);
        }
        token = next;
    }
}
