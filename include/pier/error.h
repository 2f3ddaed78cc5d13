/* error.h - pier's error numbers, the same on every system.
 *
 * A negative result is one of these; op->os_error keeps the system's own code. Numbers are stable
 * across releases. Those from PIER_ENOTEMPTY to PIER_ETRYAGAIN are for operations to come; nothing
 * reports them so far. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_ERROR_H
#define PIER_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, number, text) */
#define PIER_ERRORS(X) \
    X(PIER_ECANCELED, -1, "cancelled by the program") \
    X(PIER_ETIMEDOUT, -2, "timed out") \
    X(PIER_ECLOSED, -3, "handle is closing or closed") \
    X(PIER_EINVAL, -4, "invalid argument") \
    X(PIER_ENOTSUP, -5, "not supported here") \
    X(PIER_ENOMEM, -6, "out of memory") \
    X(PIER_EMFILE, -7, "too many open descriptors in this process") \
    X(PIER_ENFILE, -8, "too many open files in the system") \
    X(PIER_ENOBUFS, -9, "no buffer space available") \
    X(PIER_ECONNREFUSED, -10, "connection refused") \
    X(PIER_ECONNRESET, -11, "connection reset by peer") \
    X(PIER_ECONNABORTED, -12, "connection aborted") \
    X(PIER_EPIPE, -13, "broken pipe: the other end no longer reads") \
    X(PIER_EADDRINUSE, -14, "address already in use") \
    X(PIER_EADDRNOTAVAIL, -15, "address not available on this machine") \
    X(PIER_EACCES, -16, "permission denied") \
    X(PIER_EPERM, -17, "operation not permitted") \
    X(PIER_ENETUNREACH, -18, "network unreachable") \
    X(PIER_EHOSTUNREACH, -19, "host unreachable") \
    X(PIER_ENETDOWN, -20, "network is down") \
    X(PIER_ENOTCONN, -21, "not connected") \
    X(PIER_EISCONN, -22, "already connected") \
    X(PIER_EAFNOSUPPORT, -23, "address family not supported") \
    X(PIER_EBADF, -24, "not an open descriptor") \
    X(PIER_ENOTSOCK, -25, "not a socket") \
    X(PIER_ENOENT, -26, "no such file or directory") \
    X(PIER_ENAMETOOLONG, -27, "name too long") \
    X(PIER_EMSGSIZE, -28, "message too long") \
    X(PIER_EIO, -29, "input/output error") \
    X(PIER_ENOSPC, -30, "no space left") \
    X(PIER_EAGAIN, -31, "temporarily unavailable") \
    X(PIER_EFORKED, -32, "loop belongs to the parent process") \
    X(PIER_EBUSY, -33, "in use") \
    X(PIER_EEXIST, -34, "already exists") \
    X(PIER_ENOTDIR, -35, "not a directory") \
    X(PIER_EISDIR, -36, "is a directory") \
    X(PIER_ELOOP, -37, "too many symbolic links") \
    X(PIER_EPROTO, -38, "protocol error") \
    X(PIER_EFBIG, -39, "file too large") \
    X(PIER_ESPIPE, -40, "cannot seek") \
    X(PIER_EROFS, -41, "read-only file system") \
    X(PIER_ENODEV, -42, "no such device") \
    X(PIER_EFAULT, -43, "bad memory address") \
    X(PIER_EINTR, -44, "interrupted by a signal") \
    X(PIER_ENOTEMPTY, -45, "directory not empty") \
    X(PIER_EXDEV, -46, "on another file system") \
    X(PIER_ENOEXEC, -47, "not an executable format") \
    X(PIER_E2BIG, -48, "argument list too long") \
    X(PIER_ECHILD, -49, "no such child process") \
    X(PIER_ESRCH, -50, "no such process") \
    X(PIER_ETXTBSY, -51, "program file in use") \
    X(PIER_EDQUOT, -52, "disk quota exceeded") \
    X(PIER_EMLINK, -53, "too many links") \
    X(PIER_ENOHOST, -54, "no such host") \
    X(PIER_ETRYAGAIN, -55, "name server did not answer, try again") \
    X(PIER_EOTHER, -99, "another error of the system, see os_error")

enum pier_error {
#define PIER_ERROR_ENUM(name, number, text) name = number,
    PIER_ERRORS(PIER_ERROR_ENUM)
#undef PIER_ERROR_ENUM
        PIER_OK = 0
};

/* The name of an error number, "PIER_EPIPE"; "PIER_OK" for 0 and above; "PIER_E?" for a number that
 * isn't pier's. Static. */
PIER_API const char *pier_error_name(int64_t error);

/* One phrase for people, without full stop. Static. */
PIER_API const char *pier_error_text(int64_t error);

/* One line on the last set-up call (those that return int) that failed on this thread: what, with
 * which value, and what would be right. Empty when none has failed. Valid until the next failing
 * set-up call of the thread. A write that a writer refuses for now or for good (PIER_ENOBUFS,
 * PIER_ENOMEM, PIER_ECLOSED, the writer's error) leaves it as it was. */
PIER_API const char *pier_error_detail(void);

#ifdef __cplusplus
}
#endif

#endif
