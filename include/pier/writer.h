/* writer.h - a bounded byte queue in front of a handle's sends.
 *
 * Any number of small writes are copied into one ring of bytes and go out in merged, vectored sends on a single op, so that a chat or protocol server
 * allocates nothing per message and knows when a slow reader falls behind. */

#ifndef PIER_WRITER_H
#define PIER_WRITER_H

#include "pier/pier.h"
#include "pier/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pier_writer;

/* A watermark was crossed, or the writer failed or finished. */
typedef void pier_writer_fn(struct pier_writer *writer);

struct pier_writer_options {
    size_t limit;           /* bytes that may be queued; default 1 MiB */
    size_t high;            /* at this fill on_high is called once; default half the limit */
    size_t low;             /* having been high, at this fill on_low is called once; default a quarter of high */
    pier_writer_fn *on_high; /* called inside pier_loop_run() only, like every callback; may be NULL, as the others */
    pier_writer_fn *on_low;
    pier_writer_fn *on_error; /* a send failed (writer->error); what was queued is dropped and writes are refused */
};

/* The caller's memory. Fields ending in an underscore are pier's own. */
struct pier_writer {
    int64_t error;    /* 0, or why sending ended */
    uint64_t written; /* bytes the system has taken so far */
    struct pier_handle *handle_;
    struct pier_writer_options options_;
    struct pier_op op_, signal_;
    struct pier_vector vectors_[2];
    unsigned char *ring_;
    size_t capacity_, start_, queued_, sending_;
    struct pier_op *finish_;
    pier_op_fn *finish_fn_;
    bool above_high_, signalled_high_, ended_;
};

/* Sets up a writer on an open handle; no memory is taken before the first write that can't be sent at once. `options` may be NULL. Returns 0 or
 * PIER_EINVAL (low > high or high > limit). While a writer is in use, its handle's other sends interleave with its own in the order submitted. */
PIER_API int pier_writer_open(struct pier_writer *writer, struct pier_handle *handle,
                              const struct pier_writer_options *options);

/* Queues a copy of `size` bytes, all or nothing. Returns 0, PIER_ENOBUFS when they don't fit under the limit (nothing was taken: wait for
 * on_low), PIER_ENOMEM, PIER_ECLOSED after finish or close, or the error that ended the writer. */
PIER_API int pier_writer_write(struct pier_writer *writer, const void *data, size_t size);

/* Queues several pieces as one: all or nothing. */
PIER_API int pier_writer_write_vectored(struct pier_writer *writer, const struct pier_vector *vectors, size_t count);

/* Bytes queued and not yet taken by the system. */
PIER_API size_t pier_writer_queued(const struct pier_writer *writer);

/* Shuts the sending direction down once everything queued is sent; `op` completes like that of pier_shutdown(). */
PIER_API void pier_writer_finish(struct pier_writer *writer, struct pier_op *op, pier_op_fn *fn);

/* Frees the writer's memory. Call it when the handle is closed: in the function given to pier_close(). */
PIER_API void pier_writer_free(struct pier_writer *writer);

#ifdef __cplusplus
}
#endif

#endif
