# The library's files, one by one. A new file is added here, or it isn't part of the library.
#
#   PIER_SOURCES         everything that this system's library is made of
#   PIER_POLLER_SOURCES  those of them that stay compilation units of their own when the rest is
#                        compiled as one: the pollers have the same static function names
#   PIER_KQUEUE_SOURCES  the kqueue poller; on Linux only the tests' library has it
#
# Paths start at the project's root, since this file is included there.

set(core_sources
  src/core/address.c
  src/core/buffers.c
  src/core/cancel.c
  src/core/error.c
  src/core/fault.c
  src/core/gather.c
  src/core/handle.c
  src/core/loop.c
  src/core/op.c
  src/core/post.c
  src/core/stats.c
  src/core/stream.c
  src/core/timed.c
  src/core/timer.c
  src/core/writer.c)

set(PIER_KQUEUE_SOURCES src/backend/kqueue.c src/sys/bsd.c)

set(backend_sources src/backend/registry.c)
set(PIER_POLLER_SOURCES "")
if(WIN32)
  list(APPEND backend_sources
    src/backend/iocp.c
    src/backend/iocp_accept.c
    src/backend/iocp_ops.c
    src/backend/iocp_pipe.c
    src/backend/iocp_poll.c
    src/backend/iocp_receive.c)
  set(sys_sources
    src/sys/windows.c
    src/sys/windows_file.c
    src/sys/windows_pipe.c
    src/sys/windows_poll.c
    src/sys/windows_port.c
    src/sys/windows_socket.c)
else()
  list(APPEND backend_sources
    src/backend/ready.c
    src/backend/ready_poll.c
    src/backend/ready_receive.c
    src/backend/ready_send.c)
  list(APPEND PIER_POLLER_SOURCES src/backend/poll.c src/backend/select.c)
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    list(APPEND PIER_POLLER_SOURCES src/backend/epoll.c)
    set(sys_sources src/sys/posix.c src/sys/posix_socket.c src/sys/linux.c)
  else()
    list(APPEND PIER_POLLER_SOURCES ${PIER_KQUEUE_SOURCES})
    set(sys_sources src/sys/posix.c src/sys/posix_socket.c)
  endif()
  if(PIER_HAVE_URING)
    list(APPEND backend_sources
      src/backend/uring.c
      src/backend/uring_accept.c
      src/backend/uring_ops.c
      src/backend/uring_poll.c
      src/backend/uring_receive.c
      src/backend/uring_usual.c)
    list(APPEND sys_sources src/sys/linux_uring.c)
  endif()
endif()

set(PIER_SOURCES ${core_sources} ${backend_sources} ${PIER_POLLER_SOURCES} ${sys_sources})
