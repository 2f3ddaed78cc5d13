/* uring.h - what the files of the io_uring engine share.
 *
 * open.c makes and closes the ring, also anew after a fork; uring.c owns its entries, waiting and
 * waking. fast.c goes through the completions and has the fast roads of the ordinary ones. ops.c
 * starts the ops of handles and takes their other completions, send.c those of what goes out,
 * accept.c those of listeners. buffers.c owns the ring of provided buffers, receive.c lent receives
 * and what is held back. */

#ifndef PIER_ENGINE_URING_URING_H
#define PIER_ENGINE_URING_URING_H

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "core/engine.h"
#include "sys/linux.h"
#include "sys/linux_uring.h"

/* The low bits of user_data say what a completion belongs to; the rest is the address. An op's
 * address may be used as key since the op lives until its terminal completion, which comes after
 * this. */
enum pier__uring_tag {
    PIER__TAG_OP,    /* the request of an op */
    PIER__TAG_READY, /* the descriptor of an op is ready: do it by a system call */
    PIER__TAG_IGNORE,
    PIER__TAG_CLOSED,  /* a handle's descriptor is closed */
    PIER__TAG_WAKE,    /* a message from another thread */
    PIER__TAG_EVENTFD, /* the wake-up eventfd is ready */
    PIER__TAG_CANCEL, /* a cancel: what it cancels has its own completion, unless it wasn't found */
    PIER__TAG_MASK = 7
};

/* handle->engine_.uring.requests */
enum {
    PIER__RECEIVE_IN_KERNEL = 1,
    PIER__SEND_IN_KERNEL = 2,
    PIER__STOPPING = 4, /* the receive request is being cancelled to hold it, not to end the op */
    PIER__ENDED = 8, /* the multishot op's outcome is known and noted: in the last held buffer, or
                           without one, for an op that is paused, in its os_error */
    PIER__RECEIVE_POLLING = 16, /* what is in the kernel is a poll for PIER__TAG_READY */
    PIER__SEND_POLLING = 32,
    PIER__SHUTTING = 64, /* its close is under way; engine_.uring.turn is the queue's tail then */
    PIER__UNSUBMITTED = 128 /* what is sent hasn't reached the kernel: noted when a ring is left */
};

#define PIER__URING_VECTORS 64
#define PIER__URING_MOST (1u << 30) /* bytes of one request: lengths are 32 bits, results 31 */

/* What a request refers to while it is submitted: one beside each submission entry. The kernel
 * copies it at submission. */
struct pier__uring_scratch {
    struct msghdr message;
    union {
        struct iovec vectors[PIER__URING_VECTORS];
        char address[128];
    } u;
};

struct pier__uring_accepted {
    struct pier__uring_accepted *next;
    pier_descriptor socket;
};

struct pier__uring {
    struct io_uring ring;
    /* What each turn looks at, together. */
    unsigned room;  /* entries that the submission queue has room for */
    unsigned quick; /* unsubmitted ones that usually complete at once */
    /* When more buffers than trim_most have been handed out since the tail was trimmed_tail, a wait
     * sees whether their memory can be given back. UINT_MAX while there are few. */
    unsigned trimmed_tail, trim_most;
    unsigned waits_without; /* that many waits don't wait for those; not 0 where none can */
    bool enabled, eventfd_armed;
    bool plain;          /* nothing to be seen to before a wait: enabled, armed, not embedded */
    bool cancels_unsent; /* like polls_unsent, but cancels of polls */
    bool serves_first;   /* handles that the last turn's events left no budget come before events */
    struct {
        uint16_t turn, receives; /* its number, and 1: what a handle notes at its first receive */
    } share;
    uint16_t receives_max;             /* the option */
    pier_descriptor wake, embed;       /* eventfds; embed is -1 when not in use */
    struct pier_op *polls_unsent;      /* polls that found the queue full */
    struct io_uring_buf_ring *buffers; /* NULL before the first lent receive */
    struct pier_buffer **named;        /* by id: each buffer that was in the ring keeps its id */
    uint32_t named_count, named_size;
    unsigned buffers_tail;
    unsigned missing; /* of `target` */

    unsigned buffers_mask;       /* entries, a power of two, less 1 */
    unsigned target, target_max; /* buffers that the kernel should have */
    uint32_t ahead_max;          /* buffers that one receive may bring at the most */
    /* What is on its way can't be stopped any more: so a handle that has this many buffers, half of
     * its share, is asked for one piece at a time. */
    uint32_t lent_max;
    uint64_t grew;        /* the turn in which target grew last */
    uint64_t trim_turn;   /* the turn in which the tail was trimmed_tail */
    unsigned trim_tries;  /* waits with a time limit that are left */
    bool buffers_refused; /* the kernel has no buffer rings */
    struct pier__uring_features features;
    struct pier__uring_scratch *scratch;
    struct pier_op *polls_unsent_last;
    struct pier__uring_accepted *accepted_free;
    uint64_t thread; /* pier__thread_id of the ring's issuer */
    uint64_t forks;  /* pier__sys_forks() when the ring was made */
    bool taken_over; /* the issuer has ended: see open.c */
};

static PIER__EXPRESSION struct pier__uring *pier__uring_of(const struct pier_loop *loop)
{
    return loop->engine_data;
}

static PIER__EXPRESSION uint64_t pier__uring_key(const void *pointer, enum pier__uring_tag tag)
{
    return (uint64_t)(uintptr_t)pointer | (uint64_t)tag;
}

static PIER__EXPRESSION unsigned pier__uring_unsubmitted(const struct pier__uring *uring)
{
    const struct io_uring_sq *queue = &uring->ring.sq;
    return queue->sqe_tail - __atomic_load_n(queue->khead, __ATOMIC_ACQUIRE);
}

/* How many completions are there to be taken. */
static PIER__EXPRESSION unsigned pier__uring_completions(const struct pier__uring *uring)
{
    return __atomic_load_n(uring->ring.cq.ktail, __ATOMIC_ACQUIRE) - *uring->ring.cq.khead;
}

/* The submission queue is full: submits it. */
bool pier__uring_make_room(struct pier_loop *loop);

/* The next submission entry as it was left, where there is room. */
static inline struct io_uring_sqe *pier__uring_take_entry(struct pier__uring *uring)
{
    struct io_uring_sq *queue = &uring->ring.sq;
    uring->room--;
    return &queue->sqes[queue->sqe_tail++ & queue->ring_mask];
}

/* The next submission entry, cleared, or NULL when the queue is full and can't be submitted now. */
static inline struct io_uring_sqe *pier__uring_entry(struct pier_loop *loop)
{
    struct pier__uring *uring = pier__uring_of(loop);
    if (PIER__UNLIKELY(uring->room == 0) && !pier__uring_make_room(loop)) {
        return NULL;
    }
    struct io_uring_sqe *entry = pier__uring_take_entry(uring);
    memset(entry, 0, sizeof(*entry));
    return entry;
}

/* Opcode, flags and ioprio of an entry as one number. */
static PIER__EXPRESSION uint32_t pier__uring_head_of(uint8_t opcode, uint8_t flags)
{
    const struct {
        uint8_t opcode, flags;
        uint16_t ioprio;
    } parts = {opcode, flags, 0};
    uint32_t head;
    memcpy(&head, &parts, sizeof(head));
    return head;
}

/* Makes an entry a plain send, or a receive of one shot. One that was such a request before, as
 * most were, has zeros in all that isn't written here. */
static inline void pier__uring_fill(struct io_uring_sqe *entry, uint32_t head,
                                    const struct pier_handle *handle, struct pier_op *op,
                                    const void *memory, uint32_t size, uint32_t flags)
{
    const uint32_t either = pier__uring_head_of(IORING_OP_SEND ^ IORING_OP_RECV,
                                                IOSQE_BUFFER_SELECT);
    uint32_t before;
    memcpy(&before, entry, sizeof(before));
    if (before != head) {
        if (PIER__UNLIKELY((before & ~either) != pier__uring_head_of(IORING_OP_SEND, 0))) {
            memset(entry, 0, sizeof(*entry));
        }
        memcpy(entry, &head, sizeof(head));
        entry->msg_flags = flags;
    }
    entry->fd = (int)handle->descriptor_;
    entry->addr = (uint64_t)(uintptr_t)memory;
    entry->len = size;
    entry->user_data = pier__uring_key(op, PIER__TAG_OP);
}

static_assert((IORING_OP_SEND & (IORING_OP_SEND ^ IORING_OP_RECV)) == 0,
              "the opcodes of send and receive differ in a bit that send hasn't");

static inline void pier__uring_fill_send(struct io_uring_sqe *entry,
                                         const struct pier_handle *handle, struct pier_op *op,
                                         const void *memory, uint32_t size)
{
    pier__uring_fill(entry, pier__uring_head_of(IORING_OP_SEND, 0), handle, op, memory, size,
                     MSG_NOSIGNAL | MSG_WAITALL);
}

/* Into memory or, without any, into a provided buffer. */
static inline void pier__uring_fill_receive(struct io_uring_sqe *entry,
                                            const struct pier_handle *handle, struct pier_op *op,
                                            uint8_t flags, const void *memory, uint32_t size)
{
    pier__uring_fill(entry, pier__uring_head_of(IORING_OP_RECV, flags), handle, op, memory, size,
                     0);
}

/* The scratch beside an entry. */
struct pier__uring_scratch *pier__uring_scratch_of(struct pier_loop *loop,
                                                   const struct io_uring_sqe *entry);
/* Asks the kernel to cancel the request with this key, of a handle's direction or of a poll (no
 * handle). False when the queue is full. */
bool pier__uring_cancel_request(struct pier_loop *loop, uint64_t key,
                                const struct pier_handle *handle, bool sending);
void pier__uring_cancel_answered(struct pier_loop *loop, uint64_t key, int result);
/* Waits for a descriptor on behalf of an op, to go on with PIER__TAG_READY. False when the queue is
 * full. */
bool pier__uring_wait_ready(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                            unsigned events);
/* The same by a request that goes on, and tells of changes only. */
bool pier__uring_watch_edges(struct pier_loop *loop, struct pier_op *op, pier_descriptor descriptor,
                             unsigned events);

/* Hands a buffer that has an id to the kernel, which sees it when it's entered next. The length is
 * there since the ring was made. */
static inline void pier__uring_provide_one(struct pier__uring *uring, struct pier_buffer *buffer)
{
    struct io_uring_buf *entry = &uring->buffers->bufs[uring->buffers_tail++ & uring->buffers_mask];
    entry->addr = (uint64_t)(uintptr_t)buffer->memory;
    entry->bid = (uint16_t)(buffer->id - 1);
    uring->missing--;
}

/* Takes the buffer that a completion names out of the ring. */
static inline struct pier_buffer *pier__uring_take_buffer(struct pier__uring *uring, unsigned flags)
{
    uring->missing++;
    return uring->named[flags >> IORING_CQE_BUFFER_SHIFT];
}

/* Whether nothing may be delivered to the op any more but its end: its handle was closed, perhaps
 * after the op was cancelled. */
static PIER__EXPRESSION bool pier__uring_silenced(const struct pier_handle *handle,
                                                  const struct pier_op *op)
{
    return (handle->bits_ & PIER__CLOSED_TO_USER) &&
           (pier__op_is_ending(op) || (handle->bits_ & PIER__CLOSING));
}

/* fast.c */
void pier__uring_start(struct pier_handle *handle, struct pier_op *op);
void pier__uring_send(struct pier_handle *handle, struct pier_op *op);
/* Goes through what the kernel has completed. */
void pier__uring_take_completions(struct pier_loop *loop);
/* Counts `weight` receives; whether the handle had had those of this turn before. */
bool pier__uring_has_had_share(struct pier_loop *loop, struct pier_handle *handle, unsigned weight);

/* open.c */
int pier__uring_probe(void);
int pier__uring_open(struct pier_loop *loop, const struct pier_loop_options *options);
void pier__uring_close(struct pier_loop *loop);
int pier__uring_after_fork(struct pier_loop *loop);
void pier__uring_rebind(struct pier_loop *loop);
/* The wait of a loop whose issuer has ended. */
void pier__uring_take_over(struct pier_loop *loop);

/* uring.c */
void pier__uring_wake_by_eventfd(struct pier_loop *loop);
void pier__uring_wake_by_message(struct pier_loop *loop);
void pier__uring_completion_slow(struct pier_loop *loop, uint64_t key, int result, unsigned flags);

/* ops.c */
void pier__uring_start_slow(struct pier_handle *handle, struct pier_op *op);
void pier__uring_cancel(struct pier_handle *handle, struct pier_op *op);
void pier__uring_resume(struct pier_handle *handle, struct pier_op *op);
void pier__uring_retry(struct pier_handle *handle);
void pier__uring_completed(struct pier_loop *loop, struct pier_op *op, int result, unsigned flags);
void pier__uring_ready(struct pier_loop *loop, struct pier_op *op, int result);
void pier__uring_serve(struct pier_loop *loop, struct pier_handle *handle);
/* The queue is full: the handle's op is started again later. */
void pier__uring_postpone(struct pier_loop *loop, struct pier_handle *handle);

/* A request failed: ends its op. */
void pier__uring_fail(struct pier_loop *loop, struct pier_op *op, int code);
/* pier__uring_wait_ready() for an op of a handle, noted there. */
void pier__uring_wait_for_op(struct pier_loop *loop, struct pier_handle *handle,
                             struct pier_op *op);
/* Whether a request ended because it was cancelled, or interrupted by that. */
static PIER__EXPRESSION bool pier__uring_was_cancelled(int result)
{
    return result == -ECANCELED || result == -EINTR;
}

/* send.c */
void pier__uring_start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
void pier__uring_start_connect(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op);
void pier__uring_start_shutdown(struct pier_loop *loop, struct pier_handle *handle,
                                struct pier_op *op);
void pier__uring_sent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      int result);
void pier__uring_connected(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                           int result);
/* What isn't a socket is writable. */
void pier__uring_write_ready(struct pier_loop *loop, struct pier_handle *handle,
                             struct pier_op *op);
/* No request is in the kernel any more: ends what was cancelled, which may have been merged behind
 * what wasn't, and asks for what is left. */
void pier__uring_continue_sending(struct pier_loop *loop, struct pier_handle *handle);

/* accept.c */
void pier__uring_start_accept(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op);
void pier__uring_serve_accept(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op);
void pier__uring_accepted(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          int result, bool more);
void pier__uring_accept_ready(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op);
/* Closes what is held. */
void pier__uring_drop_accepted(struct pier_loop *loop, struct pier_handle *handle);

/* poll.c */
void pier__uring_poll_start(struct pier_loop *loop, struct pier_op *op);
void pier__uring_poll_cancel(struct pier_loop *loop, struct pier_op *op);
void pier__uring_poll_pause(struct pier_loop *loop, struct pier_op *op);
void pier__uring_poll_resume(struct pier_loop *loop, struct pier_op *op);
void pier__uring_poll_change(struct pier_loop *loop, struct pier_op *op);
void pier__uring_polled(struct pier_loop *loop, struct pier_op *op, int result, bool more);
/* Polls and cancels that found the submission queue full. */
void pier__uring_poll_resubmit(struct pier_loop *loop);
/* For pier__loop_visit(): asks a new ring. */
void pier__uring_poll_anew(struct pier_loop *loop, struct pier_op *op, void *context);
/* Submits now, and lets the kernel do what it has put off. */
void pier__uring_submit(struct pier_loop *loop);

/* receive.c */
void pier__uring_start_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
void pier__uring_received_lent(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, int result, unsigned flags);
/* Delivers held data, as far as the turn's share goes; then the outcome if it's known, or asks for
 * more. */
void pier__uring_serve_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
/* After a send that failed: has a multishot receive tell of an end that it may have missed. */
void pier__uring_ask_for_end(struct pier_loop *loop, struct pier_handle *handle);
void pier__uring_drop_held(struct pier_loop *loop, struct pier_handle *handle);
/* Data that was read into a buffer of the pool by a system call. */
void pier__uring_read_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);

/* buffers.c */
/* Makes the ring at the first lent receive; false when there is none. */
bool pier__uring_make_buffers(struct pier_loop *loop);
void pier__uring_buffers_close(struct pier_loop *loop);
void pier__uring_names_free(struct pier_loop *loop);
void pier__uring_buffers_anew(struct pier_loop *loop);
bool pier__uring_buffer_returned(struct pier_loop *loop, struct pier_buffer *buffer);
/* Gives the kernel what it should have. Whether it has a buffer to put data in. */
bool pier__uring_have_buffers(struct pier_loop *loop);
/* A wait has seen nothing for a while: gives the system back the memory of buffers that were needed
 * for a moment only. */
void pier__uring_trim(struct pier_loop *loop);
/* The kernel has run out of buffers, for one handle or for many: it gets more at a time from now
 * on. */
void pier__uring_provide_more(struct pier_loop *loop);

#endif
