# The library's files, one by one. A new file is added here, or it isn't part of the library.
#
#   PIER_SOURCES         everything that this system's library is made of
#   PIER_POLLER_SOURCES  those of them that stay compilation units of their own when the rest is
#                        compiled as one: the pollers have the same static function names
#   PIER_APART_SOURCES   those that do because they read the public headers in another way
#   PIER_KQUEUE_SOURCES  the kqueue poller; on Linux only the tests' library has it
#
# Paths start at the project's root, since this file is included there.

set(common_sources
  src/base/address.c
  src/base/address_text.c
  src/base/error.c
  src/base/options.c
  src/base/timer.c
  src/base/timer_sort.c
  src/sys/fault.c
  src/core/cancel.c
  src/core/close.c
  src/core/counters.c
  src/core/drain.c
  src/core/dump.c
  src/core/end.c
  src/core/fork.c
  src/core/gather.c
  src/core/handle.c
  src/core/hooks.c
  src/core/loop.c
  src/core/op.c
  src/core/pool.c
  src/core/progress.c
  src/core/remote.c
  src/core/rings.c
  src/core/token.c
  src/core/turn.c
  src/ops/address.c
  src/ops/graceful.c
  src/ops/hook.c
  src/ops/poll.c
  src/ops/post.c
  src/ops/stream/accept.c
  src/ops/stream/names.c
  src/ops/stream/open.c
  src/ops/stream/transfer.c
  src/ops/timer.c
  src/ops/writer.c
  src/ops/writer_ring.c
  src/exported.c
  src/kinds.c
  src/registry.c)

set(PIER_APART_SOURCES src/exported.c)
set(PIER_KQUEUE_SOURCES src/engine/ready/kqueue.c src/sys/bsd.c)

set(engine_sources "")
set(PIER_POLLER_SOURCES "")
if(WIN32)
  list(APPEND engine_sources
    src/engine/iocp/accept.c
    src/engine/iocp/fast.c
    src/engine/iocp/iocp.c
    src/engine/iocp/ops.c
    src/engine/iocp/pipe.c
    src/engine/iocp/poll.c
    src/engine/iocp/receive.c
    src/engine/iocp/send.c)
  set(sys_sources
    src/sys/windows.c
    src/sys/windows_file.c
    src/sys/windows_pipe.c
    src/sys/windows_poll.c
    src/sys/windows_port.c
    src/sys/windows_socket.c)
else()
  list(APPEND engine_sources
    src/engine/ready/fast.c
    src/engine/ready/foreign.c
    src/engine/ready/noise.c
    src/engine/ready/ready.c
    src/engine/ready/receive.c
    src/engine/ready/send.c)
  list(APPEND PIER_POLLER_SOURCES src/engine/ready/poll.c src/engine/ready/select.c)
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    list(APPEND PIER_POLLER_SOURCES src/engine/ready/epoll.c)
    set(sys_sources src/sys/posix.c src/sys/posix_address.c src/sys/posix_error.c
      src/sys/posix_socket.c src/sys/posix_wait.c src/sys/linux.c)
  else()
    list(APPEND PIER_POLLER_SOURCES ${PIER_KQUEUE_SOURCES})
    set(sys_sources src/sys/posix.c src/sys/posix_address.c src/sys/posix_error.c
      src/sys/posix_socket.c src/sys/posix_wait.c)
  endif()
  if(PIER_HAVE_URING)
    list(APPEND engine_sources
      src/engine/uring/accept.c
      src/engine/uring/buffers.c
      src/engine/uring/fast.c
      src/engine/uring/open.c
      src/engine/uring/ops.c
      src/engine/uring/poll.c
      src/engine/uring/receive.c
      src/engine/uring/send.c
      src/engine/uring/uring.c)
    list(APPEND sys_sources src/sys/linux_uring.c)
  endif()
endif()

set(PIER_SOURCES ${common_sources} ${engine_sources} ${PIER_POLLER_SOURCES} ${sys_sources})
