/* stream.h - what the files of this folder share, and what the rows of src/kinds.c name of them. */

#ifndef PIER_OPS_STREAM_STREAM_H
#define PIER_OPS_STREAM_STREAM_H

#include "core/handle.h"

/* Whether a named pipe stands for a Unix-domain socket. */
static inline bool pier__is_pipe_for_unix(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_PIPE_STREAM || handle->kind_ == PIER__KIND_PIPE_LISTENER;
}

static inline void pier__require_fn(pier_op_fn *fn, const char *function)
{
    PIER_REQUIRE(fn != NULL, function, "the completion function is NULL");
}

/* ---- stream/transfer.c: ops that the handle's table of calls runs */
void pier__stream_start(struct pier_loop *loop, struct pier_op *op);
void pier__stream_cancel(struct pier_loop *loop, struct pier_op *op);
void pier__stream_pause(struct pier_loop *loop, struct pier_op *op);
void pier__stream_resume(struct pier_loop *loop, struct pier_op *op);
int pier__refuse_accept(const struct pier_handle *handle, const struct pier_op *op);
int pier__refuse_connect(const struct pier_handle *handle, const struct pier_op *op);
int pier__refuse_receive(const struct pier_handle *handle, const struct pier_op *op);
int pier__refuse_send(const struct pier_handle *handle, const struct pier_op *op);

#endif
