/* writer.h - a bounded byte queue in front of a handle's sends.
 *
 * Any number of small writes are copied into one ring of bytes and go out in merged, vectored sends
 * on a single op, so that a chat or protocol server allocates nothing per message and knows when a
 * slow reader falls behind.
 *
 * When it sends: what the callbacks of a turn have written goes out together, when they have run
 * and before the loop waits; what is written outside of pier_loop_run(), when the loop runs next. A
 * send is of an eighth of the limit, and of 64 KiB, at the most; what doesn't fit, or is written
 * while a send is in flight, goes with the next one.
 *
 * Order: a write takes its place among the sends, shutdowns and graceful closes of the handle when
 * the writer's send is submitted. That is at once if nothing was queued. A write that finds
 * something queued joins that send, if it waits for the end of the turn with nothing behind it and
 * has room. So what the program submits on the handle itself goes behind all that was written
 * before, if that was written since the queue was last empty, in this turn, with nothing of the
 * program's in between, and fits into one send. Otherwise it goes between two of the writer's
 * sends, and may split what was written together: to be sure, submit it when pier_writer_queued()
 * is 0, in on_drained for one, or write it to the writer as well. pier_writer_finish() ends the
 * stream behind everything.
 *
 * Memory: a writer has a ring only while something is queued. It comes from the loop, and is the
 * next writer's afterwards: its size is a power of two from 4 KiB on, and doubles when it is full,
 * up to the first that has room for the limit. So no call of the allocator is made as long as no
 * more rings of a size are in use at once than before. Of rings larger than 4 KiB, the loop gives
 * back to the allocator those that nobody needed for 10 s, 20 s after that they were last needed at
 * the latest, if it runs.
 *
 * The callbacks of a writer run inside pier_loop_run() only, never inside a call of the writer.
 * They may write, finish, and close the handle; they may not free the writer. Once the handle is
 * being closed, gracefully too, none of them can be relied on any more: an on_high that was called
 * then may be the last. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_WRITER_H
#define PIER_WRITER_H

#include "pier/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pier_writer;

/* A watermark was crossed, the queue is empty, or sending failed. */
typedef void pier_writer_fn(struct pier_writer *writer);

/* Set-up of a writer. All zero means the default of each field. It may grow in later versions:
 * pier_writer_open() passes the size that the program knows. */
struct pier_writer_options {
    size_t limit; /* bytes that may be queued; default 1 MiB */
    size_t high;  /* default half the limit */
    size_t low;   /* default a quarter of high */

    /* The reader falls behind: the queue has grown to `high` bytes, or a write was refused with
     * PIER_ENOBUFS. Called at the end of the turn, then not again before on_low. */
    pier_writer_fn *on_high;

    /* After on_high: the queue has shrunk to `low` bytes or less. Called for each on_high, also if
     * that function is NULL. */
    pier_writer_fn *on_low;

    /* A send failed, and writer->error says why. What was queued is dropped and writes are refused;
     * none of the others is called any more. Not called when the handle is being closed. */
    pier_writer_fn *on_error;

    /* The queue has become empty: the system has taken everything that was written. After on_low,
     * if that is due too and doesn't write. */
    pier_writer_fn *on_drained;

    /* The peer has stalled: something is queued, and for so long the system has taken no byte of
     * it. The writer ends with PIER_ETIMEDOUT and calls on_error. Bytes that go count, not the time
     * that a send takes. Never sooner than that, and at the latest half of it later. On iocp it may
     * be twice the time, since how far a send is that the system has begun is known there only once
     * it is over: it is cancelled, and what is left is sent anew, unless sends of the program's are
     * behind it. A slow reader makes room in steps, on TCP with seconds in between: below some 10 s
     * it may be taken for one that has stalled. While sends of the program's own are before the
     * writer's, the time doesn't count. 0, the default: no limit. */
    uint64_t stall_ns;
};

/* A writer. The caller's memory, often a member of a connection's struct. Fields that end in an
 * underscore are pier's own. */
struct pier_writer {
    int64_t error;    /* 0, or the negative PIER_E* that ended sending */
    uint64_t written; /* bytes the system has taken so far */

    struct pier_handle *handle_;
    struct pier_loop *loop_; /* NULL: it isn't open */
    struct pier_op op_;
    struct pier_op look_; /* a timer that looks for a stall */
    struct pier_turn_link turn_;
    struct pier_vector vectors_[2];
    unsigned char *ring_;
    unsigned char *retired_; /* the ring before the last growth, while a send in flight names it */
    size_t capacity_, start_, queued_, sending_;
    size_t most_;   /* bytes of a send */
    size_t peak_;   /* the most that was queued since the queue was empty */
    uint64_t seen_; /* bytes gone at the last look */
    struct pier_op *finish_;
    pier_op_fn *finish_fn_;
    uint8_t class_, retired_class_, usual_class_; /* sizes of rings; that of the last busy time */
    uint8_t level_;
    uint8_t quiet_; /* looks at which nothing had moved */
    bool fresh_;    /* what is queued was written since the last look */
    bool asks_;     /* the send was cancelled to see how far it is */
    bool ended_;
    void *reserved_[4];
    struct pier_writer_options options_; /* last, so that it can grow */
};

/* pier_writer_open() for a caller whose structs have these sizes. Returns what that does, and
 * PIER_EINVAL when the writer is too small, or PIER_ENOTSUP when an option is set that the library
 * doesn't know. */
PIER_API int pier_writer_open_for(struct pier_writer *writer, size_t writer_size,
                                  struct pier_handle *handle,
                                  const struct pier_writer_options *options, size_t options_size);

/* Sets up a writer on an open handle, whatever its memory held before; takes no memory. `options`
 * may be NULL. Returns 0, PIER_EINVAL (low > high or high > limit), or PIER_ECLOSED (the handle
 * isn't open). */
PIER_INLINE int pier_writer_open(struct pier_writer *writer, struct pier_handle *handle,
                                 const struct pier_writer_options *options)
{
    return pier_writer_open_for(writer, sizeof(struct pier_writer), handle, options,
                                sizeof(struct pier_writer_options));
}

/* Queues a copy of `size` bytes, all or nothing. Returns 0, or with nothing taken: PIER_ENOBUFS
 * when they don't fit under the limit now (on_low will be called), PIER_EMSGSIZE when they never
 * will, PIER_ENOMEM, PIER_ECLOSED after finish or close, or the error that ended the writer. Of
 * these only PIER_EMSGSIZE leaves a line in pier_error_detail(). */
PIER_API int pier_writer_write(struct pier_writer *writer, const void *data, size_t size);

/* Queues several pieces as one: all or nothing. */
PIER_API int pier_writer_write_vectored(struct pier_writer *writer,
                                        const struct pier_vector *vectors, size_t count);

/* Bytes queued and not yet known to be taken by the system. */
PIER_API size_t pier_writer_queued(const struct pier_writer *writer);

/* Ends writing: once everything queued is sent, the sending direction is shut down, and `op`
 * completes as pier_shutdown() does; then writer->error says whether all of it went out. Until the
 * shutdown is submitted the op isn't pending: its time-out counts from there, and pier_cancel()
 * does nothing; to give up on a reader that never reads, set stall_ns or close the handle. Once per
 * writer.
 *
 * pier_close_gracefully() knows nothing of a writer's queue, so finish first and call it in
 * `fn`. */
PIER_API void pier_writer_finish(struct pier_writer *writer, struct pier_op *op, pier_op_fn *fn);

/* Frees the writer: afterwards its memory is the caller's, and nothing of it is in the loop. Call
 * it once the handle is closed, in the function given to pier_close(), or before pier_detach(),
 * when nothing is queued. Does nothing on a writer that was freed before, or that is all zero. */
PIER_API void pier_writer_free(struct pier_writer *writer);

#ifdef __cplusplus
}
#endif

#endif
