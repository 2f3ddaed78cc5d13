/* gather.c - merging the sends that wait on a handle into one vectored call.
 *
 * A send's progress is op->done; several may have some, since one call can end in the middle of
 * any. */

#include "core/loop.h"

uint64_t pier__send_total(const struct pier_op *op)
{
    if (op->kind_ == PIER__OP_SEND) {
        return op->size;
    }
    const struct pier_vector *vectors = op->data;
    uint64_t total = 0;
    for (size_t i = 0; i < op->size; i++) {
        total += vectors[i].size;
    }
    return total;
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
    uint64_t skip = op->done;
    size_t count = 0;
    for (size_t i = 0; i < op->size && count < most; i++) {
        if (skip >= pieces[i].size) {
            skip -= pieces[i].size;
            continue;
        }
        vectors[count].data = (const char *)pieces[i].data + skip;
        vectors[count].size = pieces[i].size - (size_t)skip;
        skip = 0;
        count++;
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

void pier__send_advance(struct pier_loop *loop, struct pier_handle *handle, uint64_t bytes)
{
    uint32_t starting = (uint32_t)PIER__STARTING << PIER__SENDING;
    uint32_t before = handle->bits_ & starting;
    loop->stats.sent_bytes += bytes;
    handle->bits_ |= starting;
    struct pier_op *op = handle->head_[PIER__SENDING];
    while (op != NULL && pier__op_is_send(op)) {
        uint64_t left = pier__send_total(op) - op->done;
        if (left > bytes) {
            op->done += bytes;
            break;
        }
        bytes -= left;
        op->done += left;
        if (op->state_ == PIER__QUEUED) {
            pier__op_move(op, PIER__ACTIVE);
        }
        loop->stats.sends++;
        pier__op_finish(loop, op, (int64_t)op->done);
        op = handle->head_[PIER__SENDING];
        if (bytes == 0) {
            break;
        }
    }
    handle->bits_ = (handle->bits_ & ~starting) | before;
}
