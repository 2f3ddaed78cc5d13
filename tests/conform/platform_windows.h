/* platform_windows.h - what the files of platform_windows_*.c share. */

#ifndef CONFORM_PLATFORM_WINDOWS_H
#define CONFORM_PLATFORM_WINDOWS_H

#include "harness.h"

/* RAW_* for a code of Winsock or Windows. */
int64_t raw_failure(int code);

/* ---- platform_windows_pipes.c: raw peers that are named pipes, in either mode */

pier_descriptor raw_pipe_listen(const struct pier_address *address, int backlog);
bool raw_pipe_listens(pier_descriptor descriptor);
pier_descriptor raw_pipe_accept(pier_descriptor listener);
pier_descriptor raw_pipe_connect(const struct pier_address *address);
/* A piece, or RAW_AGAIN if it may not wait and would have to. */
int64_t raw_pipe_write(pier_descriptor pipe, const void *memory, size_t size, bool may_wait);
int64_t raw_pipe_read(pier_descriptor pipe, void *memory, size_t size, bool may_wait);
void raw_pipe_shutdown(pier_descriptor pipe);
/* If it is a listener, closes all of it but the descriptor. */
void raw_pipe_forget(pier_descriptor descriptor);

#endif
