/* gather.c - merging the sends that wait on a handle into one vectored call.
 *
 * Several sends may have some progress, since one call can end in the middle of any. A vectored
 * send notes which vectors are gone and how much of the next one (op->use_.sent), so that its cost
 * grows with the number of its vectors and not with the square (conform: vectors). Only one with
 * vectors too long for that note is gone through from its start each time. */

#include "core/gather.h"

#include "core/progress.h"

/* Whether op->use_.sent can tell the progress. */
static bool is_noted(const struct pier_op *op)
{
    return (op->bits_ & PIER__LONG_VECTORS) == 0;
}

/* The first vector that isn't gone, and how much of it is. */
static size_t find_position(const struct pier_op *op, size_t *offset)
{
    if (is_noted(op)) {
        *offset = op->use_.sent.offset;
        return op->use_.sent.vectors;
    }
    const struct pier_vector *pieces = op->data;
    uint64_t skip = op->done;
    size_t index = 0;
    while (index < op->size && skip >= pieces[index].size) {
        skip -= pieces[index++].size;
    }
    *offset = (size_t)skip;
    return index;
}

bool pier__send_is_complete(const struct pier_op *op)
{
    if (op->kind_ == PIER__OP_SEND) {
        return op->done == op->size;
    }
    const struct pier_vector *pieces = op->data;
    size_t offset, index = find_position(op, &offset);
    while (index < op->size && pieces[index].size == offset) {
        index++;
        offset = 0;
    }
    return index == op->size;
}

/* Adds what is left of one send. Returns how many vectors that took. */
static size_t gather_one(const struct pier_op *op, struct pier_vector *vectors, size_t most)
{
    if (op->kind_ == PIER__OP_SEND) {
        /* NULL for a send of nothing, to which not even 0 may be added. */
        vectors[0].data = op->done == 0 ? op->data : (const char *)op->data + op->done;
        vectors[0].size = op->size - (size_t)op->done;
        return 1;
    }
    const struct pier_vector *pieces = op->data;
    size_t count = 0, offset;
    for (size_t i = find_position(op, &offset); i < op->size && count < most; i++) {
        if (pieces[i].size > offset) {
            vectors[count].data = (const char *)pieces[i].data + offset;
            vectors[count].size = pieces[i].size - offset;
            count++;
        }
        offset = 0;
    }
    return count;
}

size_t pier__send_gather(const struct pier_handle *handle, struct pier_vector *vectors, size_t most,
                         struct pier_op **last)
{
    size_t count = 0;
    for (struct pier_op *op = handle->head_[PIER__SENDING];
         op != NULL && pier__op_is_send(op) && count < most; op = op->next_) {
        count += gather_one(op, vectors + count, most - count);
        *last = op;
    }
    return count;
}

void pier__send_merged(struct pier_loop *loop, struct pier_handle *handle,
                       const struct pier_op *last)
{
    for (struct pier_op *op = handle->head_[PIER__SENDING];; op = op->next_) {
        if (op->state_ == PIER__QUEUED) {
            pier__op_move(op, PIER__ACTIVE);
        }
        pier__op_hold(loop, op);
        if (op == last) {
            break;
        }
    }
}

/* Takes up to `bytes` as sent. Returns how many of them were this send's. */
static uint64_t advance_one(struct pier_op *op, uint64_t bytes)
{
    if (op->kind_ == PIER__OP_SEND || !is_noted(op)) {
        uint64_t left = op->kind_ == PIER__OP_SEND ? op->size - op->done : bytes;
        uint64_t taken = left < bytes ? left : bytes;
        op->done += taken;
        return taken;
    }
    const struct pier_vector *pieces = op->data;
    uint64_t rest = bytes;
    size_t offset = op->use_.sent.offset, index = op->use_.sent.vectors;
    while (index < op->size && pieces[index].size - offset <= rest) {
        rest -= pieces[index++].size - offset;
        offset = 0;
    }
    if (index < op->size) {
        offset += (size_t)rest;
        rest = 0;
    }
    op->use_.sent.vectors = (uint32_t)index;
    op->use_.sent.offset = (uint32_t)offset;
    op->done += bytes - rest;
    return bytes - rest;
}

/* The same for one that isn't noted, whose bytes end somewhere in `bytes`. */
static uint64_t advance_long(struct pier_op *op, uint64_t bytes)
{
    const struct pier_vector *pieces = op->data;
    uint64_t total = 0;
    for (size_t i = 0; i < op->size; i++) {
        total += pieces[i].size;
    }
    uint64_t left = total - op->done;
    return advance_one(op, left < bytes ? left : bytes);
}

void pier__send_advance(struct pier_loop *loop, struct pier_handle *handle, uint64_t bytes)
{
    uint32_t before = pier__direction_hold(handle, PIER__SENDING);
    loop->counters.sent_bytes += bytes;
    pier__progress_note(handle);
    struct pier_op *op = handle->head_[PIER__SENDING];
    while (op != NULL && pier__op_is_send(op)) {
        bytes -= is_noted(op) ? advance_one(op, bytes) : advance_long(op, bytes);
        if (!pier__send_is_complete(op)) {
            break;
        }
        if (op->state_ == PIER__QUEUED) {
            pier__op_move(op, PIER__ACTIVE);
        }
        loop->counters.sends++;
        pier__op_finish(loop, op, (int64_t)op->done);
        op = handle->head_[PIER__SENDING];
        if (bytes == 0) {
            break;
        }
    }
    pier__direction_let_go(handle, PIER__SENDING, before);
}
