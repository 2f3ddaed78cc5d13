/* writer_ring.c - the bytes of a writer: a ring that is there while something is queued.
 *
 * The ring comes from the loop's rings (core/rings.h) with the first write into an empty queue, and
 * goes back when the queue is empty. The send in flight names the first `sending_` bytes, in one
 * vector or in two where they wrap, and these bytes stay put until it completes. So a ring that has
 * to grow meanwhile is copied and the old one retired, to be given back at the completion. Should
 * it grow again before that, the ring in between goes at once, since no send knows it. A send that
 * is only held (writer.c) is told of the new ring instead. */

#include "ops/writer.h"

#include <string.h>

/* The offset of a byte in the ring, `index` bytes behind the first queued one. */
static size_t writer_offset(const struct pier_writer *writer, size_t index)
{
    size_t until_end = writer->capacity_ - writer->start_;
    return index < until_end ? writer->start_ + index : index - until_end;
}

/* Where the bytes wrap, this is a vectored send, though of the same op. */
static unsigned writer_name_bytes(struct pier_writer *writer, size_t size)
{
    size_t until_end = writer->capacity_ - writer->start_;
    unsigned char *data = writer->ring_ + writer->start_;
    writer->sending_ = size;
    if (PIER__LIKELY(size <= until_end)) {
        writer->op_.data = data;
        writer->op_.size = size;
        return PIER__OP_SEND;
    }
    writer->vectors_[0] = (struct pier_vector){data, until_end};
    writer->vectors_[1] = (struct pier_vector){writer->ring_, size - until_end};
    writer->op_.data = writer->vectors_;
    writer->op_.size = 2;
    writer->op_.use_.sent.vectors = writer->op_.use_.sent.offset = 0;
    return PIER__OP_SEND_VECTORED;
}

unsigned pier__writer_name(struct pier_writer *writer)
{
    return writer_name_bytes(writer,
                             writer->queued_ < writer->most_ ? writer->queued_ : writer->most_);
}

static unsigned writer_class_for(const struct pier_writer *writer, size_t size)
{
    unsigned needed = pier__ring_class(size);
    /* What it needed last time it will need again, and growing there costs copies. */
    if (writer->ring_ == NULL && writer->usual_class_ > needed &&
        writer->loop_->core.rings.classes[writer->usual_class_].free != NULL) {
        return writer->usual_class_;
    }
    return needed;
}

int pier__writer_make_room(struct pier_writer *writer, size_t size)
{
    struct pier_loop *loop = writer->loop_;
    unsigned ring_class = writer_class_for(writer, size);
    unsigned char *ring = pier__rings_take(loop, ring_class);
    if (ring == NULL) {
        return PIER_ENOMEM;
    }
    unsigned char *old = writer->ring_;
    unsigned old_class = writer->class_;
    if (old != NULL) {
        size_t until_end = writer->capacity_ - writer->start_;
        size_t first = writer->queued_ < until_end ? writer->queued_ : until_end;
        memcpy(ring, old + writer->start_, first);
        memcpy(ring + first, old, writer->queued_ - first);
    }
    writer->ring_ = ring;
    writer->class_ = (uint8_t)ring_class;
    writer->capacity_ = pier__ring_size(ring_class);
    writer->start_ = 0;
    if (old == NULL) {
        return 0;
    }
    if (writer->sending_ > 0 && pier__writer_is_held(writer)) {
        writer->op_.kind_ = (uint8_t)writer_name_bytes(writer, writer->sending_);
    } else if (writer->sending_ > 0 && writer->retired_ == NULL) {
        writer->retired_ = old;
        writer->retired_class_ = (uint8_t)old_class;
        return 0;
    }
    pier__rings_put(loop, old, old_class);
    return 0;
}

void pier__writer_append(struct pier_writer *writer, const void *data, size_t size)
{
    size_t offset = writer_offset(writer, writer->queued_);
    size_t until_end = writer->capacity_ - offset;
    if (PIER__LIKELY(size <= until_end)) {
        if (size > 0) {
            memcpy(writer->ring_ + offset, data, size);
        }
    } else {
        memcpy(writer->ring_ + offset, data, until_end);
        memcpy(writer->ring_, (const unsigned char *)data + until_end, size - until_end);
    }
    writer->queued_ += size;
    if (writer->queued_ > writer->peak_) {
        writer->peak_ = writer->queued_;
    }
}

void pier__writer_consume(struct pier_writer *writer, size_t size)
{
    PIER_ASSERT(size <= writer->queued_);
    writer->start_ = writer_offset(writer, size);
    writer->queued_ -= size;
}

void pier__writer_drop_retired(struct pier_writer *writer)
{
    if (PIER__UNLIKELY(writer->retired_ != NULL)) {
        pier__rings_put(writer->loop_, writer->retired_, writer->retired_class_);
        writer->retired_ = NULL;
    }
}

void pier__writer_drop_ring(struct pier_writer *writer)
{
    PIER_ASSERT(writer->retired_ == NULL);
    if (writer->ring_ != NULL) {
        pier__rings_put(writer->loop_, writer->ring_, writer->class_);
        writer->usual_class_ = (uint8_t)pier__ring_class(writer->peak_);
    }
    writer->ring_ = NULL;
    writer->capacity_ = writer->start_ = writer->peak_ = 0;
}
