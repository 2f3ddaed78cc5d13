/* pier.h - one completion port for every system.
 *
 * pier runs input and output as operations. A program fills a `struct pier_op`, submits it to a
 * loop, and is called back once it has completed, on io_uring, epoll, kqueue, IOCP, poll or select
 * alike. This header includes the others of the folder, which together are the reference: types.h,
 * loop.h, op.h, stream.h, buffer.h, writer.h, address.h and error.h.
 *
 * Words: a *loop* runs operations, one loop per thread; an *operation* (op) is one thing asked of
 * the system; a *handle* is an open socket, pipe, file or terminal attached to one loop; a
 * *completion* is the callback of an op.
 *
 * The rules that hold for every operation:
 *   - It completes exactly once, by a call of its function, inside pier_loop_run() and on the
 *     loop's thread. Multishot ops (the `_each` forms) are called for each event with PIER_MORE
 *     set, then exactly once without it and without data.
 *   - From submit until its terminal callback starts, the op and the memory it names belong to
 *     pier. From then on they are the caller's: free them, reuse them, resubmit from inside the
 *     callback.
 *   - Each outcome arrives in the completion: op->result >= 0, or one of the PIER_E* numbers;
 *     op->done has the bytes moved, also after an error, a cancel or a time-out.
 *   - In a callback with PIER_MORE the program may cancel or pause the op, close its handle and
 *     submit other ops; it may not free or submit this one. Whatever it does, the event it was
 *     called for stays whole until it returns: result, flags, data and size.
 *   - Misuse (submitting an op in flight, a null callback where one is required, a handle that was
 *     never opened or is closed, opening one that is open, a call from another thread, a nested
 *     run, freeing a loop with ops in flight) stops the program with one line that names the
 *     function and the rule. A handle that is closing is no misuse: ops on it complete with
 *     PIER_ECLOSED. What can't be detected: an op or handle that was not zeroed before first use,
 *     memory freed while pier owns it, a descriptor closed behind pier's back, calls from a second
 *     thread before the first run, and from another thread pier_op_pending(), pier_op_then(),
 *     pier_handle_loop(), pier_op_loop(), pier_loop_user(), pier_loop_set_user(),
 *     pier_handle_descriptor(), pier_buffer_keep(), pier_buffer_data(), pier_buffer_size(),
 *     pier_writer_queued(), and calls about an op that isn't in flight or a handle that isn't open.
 *
 * A function may only be called on the loop's own thread, but for these. From any thread and from
 * signal handlers: pier_post(), pier_notify(), pier_wake(), pier_loop_stop(), pier_cancel_remote().
 * From any thread: what takes no loop, op or handle, making a loop, pier_loop_backend(),
 * pier_loop_capabilities(), and pier_handle_discard() for a detached handle. Once the loop's thread
 * has ended, by whoever joined it: pier_loop_drain() and pier_loop_free().
 *
 * What pier does to the process: descriptors that it opens are close-on-exec. Sockets and pipes
 * that it opens are non-blocking, but for the sockets of uring, on which a read or an accept of the
 * program's own would wait. No call raises SIGPIPE. Signal handlers, signal masks and the standard
 * descriptors are left alone. */

#ifndef PIER_H
#define PIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(PIER_STATIC) || !(defined(_WIN32) || defined(__CYGWIN__))
#if defined(__GNUC__)
#define PIER_API __attribute__((visibility("default")))
#else
#define PIER_API
#endif
#elif defined(PIER_BUILDING)
#define PIER_API __declspec(dllexport)
#else
#define PIER_API __declspec(dllimport)
#endif

/* A short function, which stands in these headers whole. The library has each under its name too,
 * for programs that no C compiler compiles. */
#ifndef PIER_INLINE
#define PIER_INLINE static inline
#endif

#define PIER_VERSION_MAJOR 0
#define PIER_VERSION_MINOR 1
#define PIER_VERSION_PATCH 0
#define PIER_VERSION_STRING "0.1.0"

#include "pier/error.h"

#include "pier/types.h"

#include "pier/loop.h"

#include "pier/op.h"

#include "pier/address.h"
#include "pier/stream.h"

#include "pier/buffer.h"
#include "pier/writer.h"

#endif
