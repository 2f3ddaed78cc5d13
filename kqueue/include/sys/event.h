/*
 * <sys/event.h>: kqueue(2) and kevent(2) for Linux, in the shape that FreeBSD gives them.
 *
 * A program written for kqueue compiles against this header unchanged and links with
 * -lpier-kqueue. Names, numbers and the layout of struct kevent are FreeBSD's (64-bit `data`, four
 * `ext` words). What Linux can't serve has its name all the same, because programs list such names
 * without using them; kevent() refuses it. It is marked "refused".
 *
 * The library also defines sigaction(), signal(), siginterrupt(), sigignore() and the other names
 * of signal(), to be told of what EVFILT_SIGNAL must know. They do what the C library's do.
 *
 * The words below are the reference for what this library does; docs/kqueue.md lists where that
 * differs from a BSD and why.
 */
#ifndef PIER_KQUEUE_SYS_EVENT_H
#define PIER_KQUEUE_SYS_EVENT_H

#include <sched.h> /* struct timespec, also where <time.h> hides it, as in -std=c99 */
#include <stdint.h>
#include <time.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PIER_KQUEUE_API __attribute__((visibility("default")))
#else
#define PIER_KQUEUE_API
#endif

/* Filters: what `ident` names, and what is watched. */

/*
 * A descriptor that can be read. `data` on return:
 *   stream sockets, pipes, FIFOs, terminals: the bytes that can be read now
 *   datagram sockets: the bytes of the first datagram (BSD: of all of them)
 *   listening sockets: the connections waiting to be accepted
 *   regular files: the bytes from the file offset to the end, which may be negative; there is no
 *     event at the end itself
 *   a kqueue: 1 (BSD: the number of events)
 * EV_EOF: the peer will send no more (there may still be `data` bytes), or a pipe has lost its last
 * writer. If a socket died of an error, `fflags` is that error; it stays on the socket, so that
 * read() or SO_ERROR say it too.
 */
#define EVFILT_READ (-1)
/*
 * A descriptor that can be written. `data` on return: for sockets and pipes, the bytes that fit
 * without blocking; for files 0, always ready. EV_EOF: the reader is gone; for sockets `fflags` is
 * the error, if there was one.
 */
#define EVFILT_WRITE (-2)
/*
 * A file or directory, named by a descriptor. `fflags` says which NOTE_* are wanted, and on return
 * which happened.
 */
#define EVFILT_VNODE (-4)
/*
 * A process, named by its id. `fflags` is NOTE_EXIT, NOTE_FORK, NOTE_EXEC or several of them.
 * EV_CLEAR is implied.
 */
#define EVFILT_PROC (-5)
/*
 * A signal, named by its number. `data` on return: the deliveries since the last return. Handlers
 * and SIG_IGN keep their effect, and a signal whose default action ends the process still does.
 * EV_CLEAR is implied.
 */
#define EVFILT_SIGNAL (-6)
/*
 * A timer, named by any number. `data` is the period (unit by NOTE_*, else milliseconds), and on
 * return the expirations since the last return. It repeats unless EV_ONESHOT or NOTE_ABSTIME is
 * given. EV_CLEAR is implied, except with NOTE_ABSTIME.
 */
#define EVFILT_TIMER (-7)
/* An event that the program makes itself, named by any number; see NOTE_TRIGGER. */
#define EVFILT_USER (-11)

/* Refused, with EINVAL. */
#define EVFILT_AIO (-3)
#define EVFILT_PROCDESC (-8)
#define EVFILT_FS (-9)
#define EVFILT_LIO (-10)
#define EVFILT_SENDFILE (-12)
#define EVFILT_EMPTY (-13)
/* How many filters there are, as FreeBSD numbers them. */
#define EVFILT_SYSCOUNT 13

/* A change to make, or an event that happened. A kqueue holds at most one per (ident, filter). */
struct kevent {
    uintptr_t ident;      /* what is watched: descriptor, process, signal, or a number */
    short filter;         /* EVFILT_* */
    unsigned short flags; /* EV_* */
    unsigned int fflags;  /* NOTE_* of the filter */
    int64_t data;         /* a number of the filter */
    void *udata;          /* the program's own, handed back untouched */
    uint64_t ext[4];      /* the program's own too, handed back untouched */
};

/* Fills in the struct kevent at `kevp`. Arguments are evaluated once. */
#define EV_SET(kevp, a, b, c, d, e, f) \
    do { \
        struct kevent *kevp_ev_set = (kevp); \
        kevp_ev_set->ident = PIER_KQUEUE_IDENT(a); \
        kevp_ev_set->filter = PIER_KQUEUE_CAST(short, b); \
        kevp_ev_set->flags = PIER_KQUEUE_CAST(unsigned short, c); \
        kevp_ev_set->fflags = PIER_KQUEUE_CAST(unsigned int, d); \
        kevp_ev_set->data = PIER_KQUEUE_CAST(int64_t, e); \
        kevp_ev_set->udata = (f); \
        kevp_ev_set->ext[0] = 0; \
        kevp_ev_set->ext[1] = 0; \
        kevp_ev_set->ext[2] = 0; \
        kevp_ev_set->ext[3] = 0; \
    } while (0)

/* C++ has its own casts, and warns of C's. The identifier may be a pointer. */
#ifdef __cplusplus
#define PIER_KQUEUE_CAST(type, value) static_cast<type>(value)
#define PIER_KQUEUE_IDENT(value) pier_kqueue_ident(value)
#else
#define PIER_KQUEUE_CAST(type, value) ((type)(value))
#define PIER_KQUEUE_IDENT(value) ((uintptr_t)(value))
#endif

/* `flags`: what to do. */

/* Watch it, and enable it. If it is watched already: with these parameters from now on. */
#define EV_ADD 0x0001
/* Stop watching it. ENOENT: it isn't watched. */
#define EV_DELETE 0x0002
/* Let it be returned again. */
#define EV_ENABLE 0x0004
/* Keep it, but return nothing of it. */
#define EV_DISABLE 0x0008
/* Change an existing event, but not its udata. */
#define EV_KEEPUDATA 0x0200

/* Return it once, then delete it. */
#define EV_ONESHOT 0x0010
/* Return it once per change of state, not for as long as the state lasts. */
#define EV_CLEAR 0x0020
/* Answer this change with EV_ERROR and its outcome (0: done), and return no events. */
#define EV_RECEIPT 0x0040
/* Return it once, then disable it: one thread at a time handles it. */
#define EV_DISPATCH 0x0080

/* Returned: the other side is gone; see the filter. */
#define EV_EOF 0x8000
/* Returned: this change failed, `data` is the errno. */
#define EV_ERROR 0x4000

/* Refused, with EINVAL: to return an event that hasn't happened. */
#define EV_FORCEONESHOT 0x0100
/* The system's own bits. In a change they mean nothing, as on FreeBSD. */
#define EV_SYSFLAGS 0xf000
#define EV_DROP 0x1000
#define EV_FLAG1 0x2000
#define EV_FLAG2 0x4000

/* `fflags`: EVFILT_READ, EVFILT_WRITE. */

/* Read: not before `data` bytes are there. Write: accepted, without effect. */
#define NOTE_LOWAT 0x0001
/* Read, regular files: always ready, also at the end, as poll() has it. */
#define NOTE_FILE_POLL 0x0002

/* `fflags`: EVFILT_VNODE. */

#define NOTE_DELETE 0x0001      /* it lost a name: unlink(), rmdir(), another renamed over it */
#define NOTE_WRITE 0x0002       /* written or truncated; a directory's entries changed */
#define NOTE_EXTEND 0x0004      /* it grew; a directory entry came or went by rename() */
#define NOTE_ATTRIB 0x0008      /* mode, owner, times or extended attributes changed */
#define NOTE_LINK 0x0010        /* its link count changed */
#define NOTE_RENAME 0x0020      /* it was renamed */
#define NOTE_REVOKE 0x0040      /* its file system was unmounted */
#define NOTE_OPEN 0x0080        /* it was opened */
#define NOTE_CLOSE 0x0100       /* a descriptor that could not write was closed */
#define NOTE_CLOSE_WRITE 0x0200 /* a descriptor that could write was closed */
#define NOTE_READ 0x0400        /* it was read */

/* `fflags`: EVFILT_PROC. */

/* It ended: `data` is its status as wait() gives it, EV_EOF is set, the event deletes itself. */
#define NOTE_EXIT 0x80000000U
/* It called fork(). Needs the kernel's process connector, else EPERM or ENOTSUP. */
#define NOTE_FORK 0x40000000U
/* It called execve(). Needs the process connector too. */
#define NOTE_EXEC 0x20000000U
/* The bits of these, and of what FreeBSD returns beside them. */
#define NOTE_PCTRLMASK 0xf0000000U
#define NOTE_PDATAMASK 0x000fffffU
/* Refused, with EINVAL: to follow the children. Never returned: the other two. */
#define NOTE_TRACK 0x00000001U
#define NOTE_TRACKERR 0x00000002U
#define NOTE_CHILD 0x00000004U

/* `fflags`: EVFILT_TIMER. */

#define NOTE_SECONDS 0x00000001  /* `data` is in seconds */
#define NOTE_MSECONDS 0x00000002 /* in milliseconds, as without any of these */
#define NOTE_USECONDS 0x00000004 /* in microseconds */
#define NOTE_NSECONDS 0x00000008 /* in nanoseconds */
#define NOTE_ABSTIME 0x00000010  /* `data` is a time of the wall clock since 1970; fires once */

/* `fflags`: EVFILT_USER. */

#define NOTE_FFNOP 0x00000000U      /* leave the stored flags */
#define NOTE_FFAND 0x40000000U      /* stored flags &= these */
#define NOTE_FFOR 0x80000000U       /* stored flags |= these */
#define NOTE_FFCOPY 0xc0000000U     /* stored flags = these */
#define NOTE_FFCTRLMASK 0xc0000000U /* the four operations */
#define NOTE_FFLAGSMASK 0x00ffffffU /* the program's flags, returned in fflags */
#define NOTE_TRIGGER 0x01000000U    /* make the event happen */

/* Functions. */

/*
 * Makes a queue and returns its descriptor, or -1 with errno EMFILE, ENFILE or ENOMEM. The
 * descriptor is closed with close(), can be given to poll(), select(), epoll and other kqueues
 * (readable: there are events), is close-on-exec, and doesn't exist in a child made by fork().
 * What the library keeps for a closed queue is freed by the next kqueue(), or by one of the next
 * if many queues are open: each looks at the next few of them.
 */
PIER_KQUEUE_API int kqueue(void);

/*
 * kqueue() with O_CLOEXEC and O_NONBLOCK in `flags`, as NetBSD and OpenBSD have it. EINVAL: there
 * was another flag.
 */
PIER_KQUEUE_API int kqueue1(int flags);

/*
 * Makes `nchanges` changes, in order, then returns up to `nevents` events that happened, waiting
 * for the first of them at most `timeout` (NULL: for ever; zero: not at all). Returns how many were
 * stored, 0 when time ran out, at once 0 when nevents is 0.
 *
 * A change that fails is returned as an event with EV_ERROR and the errno in `data` while there is
 * room, and then this call returns no other events; without room kevent() returns -1 with that
 * errno and leaves the later changes undone. The two arrays may be the same one. All threads may
 * call it at once on one queue; with EV_CLEAR, EV_ONESHOT or EV_DISPATCH exactly one of them gets
 * an event.
 *
 * errno: EBADF (kq isn't a kqueue, or a descriptor named by a change isn't open), EINVAL (unknown
 * filter, bad time, negative count, a filter that doesn't apply to this kind of descriptor), ENOENT
 * (nothing to change or delete), ESRCH (no such process), EINTR (a signal handler of the program
 * ran; never restarted), EFAULT, ENOMEM, ENOSPC (limit of epoll or inotify watches), EMFILE, ELOOP
 * (kqueues nested deeper than Linux allows), EPERM and ENOTSUP (see NOTE_FORK).
 */
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" /* The structure has the same name, as on every BSD. */
#endif
PIER_KQUEUE_API int kevent(int kq, const struct kevent *changelist, int nchanges,
                           struct kevent *eventlist, int nevents, const struct timespec *timeout);
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/*
 * Not of BSD: frees at once what the library keeps for all closed queues, its hidden descriptors
 * among it. For programs that count their descriptors.
 */
PIER_KQUEUE_API void pier_kqueue_reclaim(void);

#ifdef __cplusplus
}

/* Not with the functions above: a template has no C linkage. */
extern "C++" {
template <class Integer> inline uintptr_t pier_kqueue_ident(Integer value)
{
    return static_cast<uintptr_t>(value);
}

template <class Object> inline uintptr_t pier_kqueue_ident(Object *value)
{
    return reinterpret_cast<uintptr_t>(value);
}
}
#endif

#endif
