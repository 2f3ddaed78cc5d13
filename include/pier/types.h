/* types.h - ops and handles as they lie in the program's memory, and the types of their functions.
 *
 * Fields that end in an underscore are pier's. A struct that is all zero is valid: an op that isn't
 * in flight, a handle that isn't open. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_TYPES_H
#define PIER_TYPES_H

#ifdef __cplusplus
extern "C" {
#endif

struct pier_loop;
struct pier_op;
struct pier_handle;
struct pier_buffer;
struct pier_handle_calls;

/* An open descriptor of the system: a file descriptor, or on Windows a SOCKET or HANDLE. */
typedef intptr_t pier_descriptor;

/* The completion of an op. Runs inside pier_loop_run(), never nested in another callback. */
typedef void pier_op_fn(struct pier_op *op);

/* Called once a handle is closed; the handle's memory is the caller's again. */
typedef void pier_handle_fn(struct pier_handle *handle);

/* The struct that holds an op or handle as member: PIER_OWNER(op, struct connection, receive). In
 * C++ also a class with bases, private members or virtual functions, which every compiler lays out
 * in a way that this works; not a virtual base. */
#if defined(__cplusplus) && __cplusplus >= 201103L && defined(__GNUC__)
/* A lambda, since a warning can be switched off between statements only. */
/* clang-format off */
#define PIER_OWNER(pointer, type, member) \
    (reinterpret_cast<type *>(const_cast<char *>(reinterpret_cast<const char *>(pointer)) - [] { \
        _Pragma("GCC diagnostic push") \
        _Pragma("GCC diagnostic ignored \"-Winvalid-offsetof\"") \
        return offsetof(type, member); \
        _Pragma("GCC diagnostic pop") \
    }()))
/* clang-format on */
#elif defined(__cplusplus)
#define PIER_OWNER(pointer, type, member) \
    (reinterpret_cast<type *>(const_cast<char *>(reinterpret_cast<const char *>(pointer)) - \
                              offsetof(type, member)))
#else
#define PIER_OWNER(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#endif

/* A duration or time that never comes. */
#define PIER_FOREVER UINT64_MAX

#define PIER_MICROSECOND UINT64_C(1000)
#define PIER_MILLISECOND UINT64_C(1000000)
#define PIER_SECOND UINT64_C(1000000000)

/* Bits of op->flags. */
enum {
    PIER_BACKGROUND =
        1 << 0,         /* set by the caller before submit: does not keep pier_loop_run() running */
    PIER_MORE = 1 << 1, /* set by pier: the op stays in flight, more completions follow */
    PIER_EOF = 1 << 2,  /* set by pier: the peer has ended the stream; op->result is 0 */
    PIER_LENT = 1 << 3, /* set by pier: op->data is a lent buffer, see buffer.h */
    PIER_PROGRESS = 1 << 4 /* set by the caller before the submit of a send, which clears it: see
                            * timeout_ns */
};

/* A place in the timer wheel. Private to pier. */
struct pier_timer_link {
    struct pier_timer_link *next;
    struct pier_timer_link **back;
    uint64_t deadline_ns;
};

/* A place in the list of what a turn does at its end. Private to pier. */
struct pier_turn_link {
    struct pier_turn_link *next;
    struct pier_turn_link **back;
    void (*fn)(struct pier_turn_link *link);
};

/* One operation. The caller's memory, usually a member of the caller's own struct; all zero before
 * first use. The fields whose name ends in an underscore are pier's own. At most 112 bytes on LP64
 * and 144 on 64-bit Windows. */
struct pier_op {
    pier_op_fn *fn; /* the completion, set by the submitting function */
    int64_t result; /* the outcome: >= 0, or a negative PIER_E* */
    void *data;     /* the memory of a transfer; in a lent receive the data that arrived, if flags
                     * has PIER_LENT, else nothing that means anything */
    size_t size;    /* its size in bytes, or the number of vectors */
    uint64_t done;  /* bytes moved, valid in every completion; on multishot ops the sum so far. On
                     * the loop's thread it may be read while the op is in flight: it never goes
                     * back. How soon it tells of a large send depends on the backend, unless
                     * PIER_PROGRESS is set. */
    uint64_t timeout_ns; /* set before submit to limit the op's time, counted from submit; read and
                          * cleared there. On a multishot op it limits the time between two events,
                          * and a pause suspends it. 0 means no limit. Timers, posts,
                          * notifications, prepares and checks have none: theirs is cleared unread.
                          *
                          * With PIER_PROGRESS in flags, a send, vectored send or write is limited
                          * in the time that nothing moves: it ends with PIER_ETIMEDOUT no sooner
                          * than timeout_ns after the last byte of the handle's sends did, and at
                          * most a quarter of it later. A byte has moved when the system has taken
                          * it, or the peer has taken it of the system (where that can be seen, see
                          * semantics.md). While it waits behind a send or connect without
                          * PIER_PROGRESS, its time stands still. This field keeps the limit until
                          * the op ends. With PIER_FOREVER the op has no limit, but `done` follows
                          * what the system takes. Other ops take no notice of the flag. */
    uint32_t flags;      /* PIER_BACKGROUND, PIER_PROGRESS in; PIER_MORE, PIER_EOF, PIER_LENT out */
    int32_t os_error;    /* the system's own code behind a negative result, 0 where there is none */

    struct pier_timer_link timer_;
    /* These together, since they are what another thread touches in a notification. */
    struct pier_op *next_;
    void *owner_; /* the handle, or for ops without one the loop */
    uint8_t kind_, state_;
    uint16_t bits_;
    uint32_t token_;
    union {                         /* each used by some kinds of op only */
        uint64_t idle_limit_ns;     /* of a multishot op with a time limit */
        uint64_t interval_ns;       /* of a repeating timer */
        uint64_t notifications;     /* not yet delivered */
        void *address;              /* of a connect */
        struct pier_buffer *buffer; /* that a send or a lent receive has a reference on */
        pier_descriptor socket;     /* accepted */
        struct {
            uint32_t vectors, offset; /* of a vectored send: gone, and how much of the next */
        } sent;
        struct pier_op **before; /* in the list of a handle's ops without a direction */
    } use_;
#ifdef _WIN32
    void *overlapped_[4];
#endif
};

/* An open socket, pipe, file or terminal that belongs to one loop. The caller's memory, all zero
 * before it is opened; from the opening call until its close callback it must stay where it is. At
 * most 112 bytes. */
struct pier_handle {
    struct pier_loop *loop_;
    pier_descriptor descriptor_;
    struct pier_op *head_[2]; /* by direction: receiving, sending */
    struct pier_op *tail_[2];
    struct pier_op *unordered_; /* ops without a direction */
    pier_handle_fn *closed_;
    struct pier_handle *next_; /* in the loop's list of ready, starved or closing handles */
    const struct pier_handle_calls *calls_;
    union { /* what the loop's engine knows of it */
        struct {
            unsigned char interest; /* what the poller watches for */
        } ready;
        struct {
            void *held;              /* the last of what has come and waits to be delivered */
            uint16_t turn, receives; /* receives in that turn */
            unsigned char requests;  /* what is in the kernel */
            unsigned char ahead;     /* buffers that a receive may bring */
        } uring;
        struct {
            union {
                void *listener;
                void *wait;      /* for a pipe to connect to */
                uint64_t offset; /* of a file: where the next transfer goes */
            } of;
            uint16_t turn, receives; /* receives in that turn */
            uint16_t port;           /* whose port it can't leave, while it is detached */
            unsigned char requests;  /* what is in the system */
            unsigned char pipe;      /* what is known of a named pipe */
        } iocp;
    } engine_;
    uint32_t slot_;
    uint32_t bits_;
    uint16_t lent_; /* buffers of the pool that this handle holds */
    uint8_t kind_, family_;
    uint16_t moved_;   /* counts how often its sends came on, for PIER_PROGRESS */
    uint8_t broken_;   /* the error, as a positive number, that ended a silent send */
    uint8_t listener_; /* of a listener: how it accepts */
};

#ifdef __cplusplus
}
#endif

#endif
