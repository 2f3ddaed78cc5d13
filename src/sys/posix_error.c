/* posix_error.c - errno and pier's numbers for it, on POSIX systems. It is read here, and by the
 * functions of src/sys that tell one error from others. */

#include "sys/posix.h"

#include <errno.h>

#include "base/check.h"

static PIER__THREAD_LOCAL int native_code;

int pier__sys_code(void)
{
    return native_code;
}

int pier__sys_map(int code)
{
    native_code = code;
    switch (code) {
    case 0: return 0;
    case EAGAIN: return PIER_EAGAIN;
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK: return PIER_EAGAIN;
#endif
    case ECANCELED: return PIER_ECANCELED;
    case ETIMEDOUT: return PIER_ETIMEDOUT;
    case EINVAL: return PIER_EINVAL;
    case ENOSYS:
    case EOPNOTSUPP:
#if defined(ENOTSUP) && ENOTSUP != EOPNOTSUPP
    case ENOTSUP:
#endif
    case EPROTONOSUPPORT: return PIER_ENOTSUP;
    case ENOMEM: return PIER_ENOMEM;
    case EMFILE: return PIER_EMFILE;
    case ENFILE: return PIER_ENFILE;
    case ENOBUFS: return PIER_ENOBUFS;
    case ECONNREFUSED: return PIER_ECONNREFUSED;
    case ECONNRESET: return PIER_ECONNRESET;
    case ECONNABORTED: return PIER_ECONNABORTED;
    case EPIPE: return PIER_EPIPE;
    case EADDRINUSE: return PIER_EADDRINUSE;
    case EADDRNOTAVAIL: return PIER_EADDRNOTAVAIL;
    case EACCES: return PIER_EACCES;
    case EPERM: return PIER_EPERM;
    case ENETUNREACH: return PIER_ENETUNREACH;
    case EHOSTUNREACH: return PIER_EHOSTUNREACH;
    case ENETDOWN: return PIER_ENETDOWN;
    case ENOTCONN: return PIER_ENOTCONN;
    case EISCONN: return PIER_EISCONN;
    case EAFNOSUPPORT: return PIER_EAFNOSUPPORT;
    case EBADF: return PIER_EBADF;
    case ENOTSOCK: return PIER_ENOTSOCK;
    case ENXIO:
    case ENODEV: return PIER_ENODEV;
    case ENOENT: return PIER_ENOENT;
    case ENAMETOOLONG: return PIER_ENAMETOOLONG;
    case EMSGSIZE: return PIER_EMSGSIZE;
    case EIO: return PIER_EIO;
    case EDQUOT: return PIER_EDQUOT;
    case ENOSPC: return PIER_ENOSPC;
    case EBUSY: return PIER_EBUSY;
    case EEXIST: return PIER_EEXIST;
    case ENOTDIR: return PIER_ENOTDIR;
    case EISDIR: return PIER_EISDIR;
    case ELOOP: return PIER_ELOOP;
    case EPROTO: return PIER_EPROTO;
    case EFBIG: return PIER_EFBIG;
    case ESPIPE: return PIER_ESPIPE;
    case EROFS: return PIER_EROFS;
    case EFAULT: return PIER_EFAULT;
    case EINTR: return PIER_EINTR;
#if ENOTEMPTY != EEXIST
    case ENOTEMPTY: return PIER_ENOTEMPTY;
#endif
    case EXDEV: return PIER_EXDEV;
    case ENOEXEC: return PIER_ENOEXEC;
    case E2BIG: return PIER_E2BIG;
    case ECHILD: return PIER_ECHILD;
    case ESRCH: return PIER_ESRCH;
    case ETXTBSY: return PIER_ETXTBSY;
    case EMLINK: return PIER_EMLINK;
    default: return PIER_EOTHER;
    }
}

PIER__COLD int pier__sys_errno(void)
{
    return pier__sys_map(errno);
}
