/* buffer.h - lent buffers: receive memory from the loop's pool, bound when data arrives.
 *
 * An idle connection holds no buffer. In the callback of pier_receive_lent() and
 * pier_receive_each(), op->data and op->size are a lent buffer (PIER_LENT is set). It goes back to
 * the pool when the callback returns, unless it was kept, or a send that names memory inside it is
 * in flight: sends hold a reference until their terminal completion.
 *
 * A handle that holds no buffer gets one as long as fewer than options.buffers_hard_max are out:
 * with the default each open handle can have its first. Peers that stall keep nobody else waiting.
 * Its second and further ones come out of buffers_max, up to the handle's share (buffer_share),
 * which shrinks as the pool empties. A handle that gets none pauses (counted in buffer_pauses) and
 * goes on after a release. A kept buffer counts for its handle until that is closed, then for the
 * pool alone. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_BUFFER_H
#define PIER_BUFFER_H

#ifdef __cplusplus
extern "C" {
#endif

/* Takes a reference on the buffer of a lent receive, in its callback, so that op->data stays valid
 * until pier_buffer_release(). Each call takes one more. Allowed after pier_cancel() and
 * pier_close() in the callback of a multishot receive. NULL when the op's data isn't lent, or when
 * its handle was detached in the callback. */
PIER_API struct pier_buffer *pier_buffer_keep(struct pier_op *op);

/* Gives a reference back. On the loop's thread; all must be given back before pier_loop_free(). */
PIER_API void pier_buffer_release(struct pier_buffer *buffer);

/* The memory of a kept buffer: its first byte, as op->data was. */
PIER_API void *pier_buffer_data(const struct pier_buffer *buffer);

/* Bytes received into a kept buffer. */
PIER_API size_t pier_buffer_size(const struct pier_buffer *buffer);

#ifdef __cplusplus
}
#endif

#endif
