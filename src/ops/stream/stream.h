/* stream.h - what the files of this folder share. */

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

#endif
