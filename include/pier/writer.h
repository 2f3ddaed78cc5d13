/* writer.h - a bounded byte queue in front of a handle's sends.
 *
 * Any number of small writes are copied into one ring of bytes and go out in merged, vectored sends
 * on a single op, so that a chat or protocol server allocates nothing per message and knows when a
 * slow reader falls behind.
 *
 * The ring starts with the first write, doubles when it is full, up to the limit, and is kept until
 * pier_writer_free(): a writer takes memory as its fullest moment needed, and no more calls of the
 * allocator after that moment. A write that finds nothing in flight is submitted at once; what is
 * written until that send completes goes out together in the next.
 *
 * The callbacks of a writer run inside pier_loop_run() only, never inside a call of the writer.
 * They may write, finish, and close the handle; they may not free the writer. */

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
struct pier_writer_signal;

/* A watermark was crossed, or sending failed. */
typedef void pier_writer_fn(struct pier_writer *writer);

/* Set-up of a writer. All zero means the default of each field. */
struct pier_writer_options {
    size_t limit; /* bytes that may be queued; default 1 MiB */
    size_t high;  /* default half the limit */
    size_t low;   /* default a quarter of high */

    /* The reader falls behind: the queue has grown to `high` bytes, or a write was refused with
     * PIER_ENOBUFS. Called soon after, then not again before on_low. */
    pier_writer_fn *on_high;

    /* After on_high: the queue has shrunk to `low` bytes or less. Called for each on_high, also if
     * that function is NULL. */
    pier_writer_fn *on_low;

    /* A send failed, and writer->error says why. What was queued is dropped and writes are refused;
     * neither watermark is called any more. Not called when the handle is being closed. */
    pier_writer_fn *on_error;
};

/* A writer. The caller's memory, often a member of a connection's struct. Fields that end in an
 * underscore are pier's own. */
struct pier_writer {
    int64_t error;    /* 0, or the negative PIER_E* that ended sending */
    uint64_t written; /* bytes the system has taken so far */

    struct pier_handle *handle_;
    struct pier_loop *loop_;
    struct pier_writer_options options_;
    struct pier_op op_;
    struct pier_vector vectors_[2];
    unsigned char *ring_;
    unsigned char *retired_; /* the ring before the last growth, while a send in flight names it */
    size_t capacity_, retired_capacity_, start_, queued_, sending_;
    struct pier_writer_signal *signal_;
    struct pier_op *finish_;
    pier_op_fn *finish_fn_;
    uint8_t level_;
    bool ended_;
};

/* Sets up a writer on an open handle, whatever its memory held before; takes no memory. `options`
 * may be NULL. Returns 0, PIER_EINVAL (low > high or high > limit), or PIER_ECLOSED (the handle
 * isn't open). Sends that the program submits on the same handle itself go between the writer's, in
 * the order submitted, and so may split what was written together. */
PIER_API int pier_writer_open(struct pier_writer *writer, struct pier_handle *handle,
                              const struct pier_writer_options *options);

/* Queues a copy of `size` bytes, all or nothing. Returns 0, or with nothing taken: PIER_ENOBUFS
 * when they don't fit under the limit now (on_low will be called), PIER_EMSGSIZE when they never
 * will, PIER_ENOMEM, PIER_ECLOSED after finish or close, or the error that ended the writer. */
PIER_API int pier_writer_write(struct pier_writer *writer, const void *data, size_t size);

/* Queues several pieces as one: all or nothing. */
PIER_API int pier_writer_write_vectored(struct pier_writer *writer,
                                        const struct pier_vector *vectors, size_t count);

/* Bytes queued and not yet known to be taken by the system. */
PIER_API size_t pier_writer_queued(const struct pier_writer *writer);

/* Ends writing: once everything queued is sent, the sending direction is shut down, and `op`
 * completes as pier_shutdown() does; then writer->error says whether all of it went out. Until the
 * shutdown is submitted the op isn't pending: its time-out counts from there, and pier_cancel()
 * does nothing; to give up on a reader that never reads, close the handle. Once per writer.
 *
 * pier_close_gracefully() knows nothing of a writer's queue, so finish first and call it in
 * `fn`. */
PIER_API void pier_writer_finish(struct pier_writer *writer, struct pier_op *op, pier_op_fn *fn);

/* Frees the writer's memory. Call it once the handle is closed, in the function given to
 * pier_close(), or before pier_detach(), when nothing is queued. Does nothing on a writer that was
 * freed before, or that is all zero. */
PIER_API void pier_writer_free(struct pier_writer *writer);

#ifdef __cplusplus
}
#endif

#endif
