/* iocp.h - what the files of the iocp engine share.
 *
 * iocp.c owns the completion port: packets, waiting, waking, attaching, closing. fast.c has the
 * fast roads of the ordinary packets and of a send into an empty queue. ops.c starts the ops of
 * handles and takes their other packets, send.c those of sends. receive.c owns lent receives,
 * accept.c what is outstanding on listeners, poll.c pier_poll(), pipe.c what is special about pipes
 * that stand for Unix-domain sockets. */

#ifndef PIER_ENGINE_IOCP_IOCP_H
#define PIER_ENGINE_IOCP_IOCP_H

#include "core/engine.h"
#include "sys/windows.h"

/* handle->engine_.iocp.requests */
enum {
    PIER__RECEIVE_BUSY = 1, /* a request of the receiving op is in the system */
    PIER__SEND_BUSY = 2,
    PIER__ASSOCIATED = 4,  /* with the port, from the first request on */
    PIER__SKIPS = 8,       /* success at once sends no packet */
    PIER__READABLE = 16,   /* there may be something to read without waiting */
    PIER__SYNCHRONOUS = 32 /* a file that knows no requests: calls wait for the disk */
};

/* handle->engine_.iocp.pipe: of a pipe that stands for a Unix-domain socket, once it's connected.
 * Stays when the handle is detached. */
enum {
    PIER__PIPE_MESSAGES = 1, /* an empty message ends the stream */
    PIER__PIPE_ENDED = 2,    /* the peer's has come */
    PIER__PIPE_SHUT = 4      /* ours was sent */
};

#define PIER__IOCP_ENTRIES 128
#define PIER__IOCP_ACCEPTS 8

struct pier__iocp_listener;

/* One AcceptEx. */
struct pier__iocp_accept {
    OVERLAPPED request;
    struct pier__iocp_listener *listener;
    pier_descriptor socket; /* -1: none */
    bool armed;
    struct pier__pipe_accept pipe; /* while armed, of a pipe */
    unsigned char storage[2 * PIER__ACCEPT_ADDRESS];
};

/* What is outstanding on a listener: engine_.iocp.of.listener. It outlives the handle until the
 * last packet. */
struct pier__iocp_listener {
    struct pier_handle *handle; /* NULL: detached */
    unsigned armed;
    unsigned ready, first; /* accepted and not delivered: a ring of indices, oldest first */
    uint8_t order[PIER__IOCP_ACCEPTS];
    struct pier__iocp_accept accepts[PIER__IOCP_ACCEPTS];
    bool shut;     /* the handle waits to be closed */
    bool no_delay; /* TCP_NODELAY, for what is accepted too */
};

/* A request of readiness, for one pier_poll(). */
struct pier__iocp_poll {
    struct pier__afd_request request; /* first: packets lead here */
    struct pier_op *op;               /* NULL: cancelled, its packet is still to come */
    struct pier__iocp_poll *next;     /* in the free list */
};

/* A wait for a pipe to be connectable, for one pier_connect(). */
struct pier__iocp_wait {
    OVERLAPPED request;           /* first: packets lead here */
    struct pier_op *op;           /* NULL: cancelled, its packet is still to come */
    struct pier__iocp_wait *next; /* in the free list */
};

struct pier__iocp {
    pier_descriptor port;
    pier_descriptor afd,
        afd_now;  /* for polls, and to be asked at once; -1 until needed, or when there is none */
    HANDLE event; /* for calls that wait */
    struct pier__iocp_poll *polls_free;
    struct pier__iocp_wait *waits_free;
    unsigned orphans;         /* requests in the system that belong to no op or handle any more */
    uint16_t id;              /* tells loops apart, never 0 */
    bool shares;              /* two handles were of the same object once */
    bool serves_first;        /* the last turn's budget left some listed handles nothing */
    unsigned count, position; /* of the packets taken: how many, and the next one */
    unsigned most;
    OVERLAPPED_ENTRY entries[PIER__IOCP_ENTRIES];
};

static inline struct pier__iocp *pier__iocp_of(const struct pier_loop *loop)
{
    return loop->engine_data;
}

static inline OVERLAPPED *pier__iocp_request(struct pier_op *op)
{
    return (OVERLAPPED *)(void *)op->overlapped_;
}

static inline bool pier__iocp_skips(const struct pier_handle *handle)
{
    return (handle->engine_.iocp.requests & PIER__SKIPS) != 0;
}

static inline bool pier__iocp_is_pipe(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_PIPE || handle->kind_ == PIER__KIND_PIPE_STREAM;
}

static inline void pier__iocp_pipe_note(struct pier_handle *handle, unsigned flag)
{
    handle->engine_.iocp.pipe = (unsigned char)(handle->engine_.iocp.pipe | flag);
}

/* Errors that go away when something is released. */
static inline bool pier__iocp_is_short(int64_t error)
{
    return error == PIER_ENOBUFS || error == PIER_ENOMEM || error == PIER_EAGAIN;
}

/* Where the next read or write of a file goes. */
static inline uint64_t pier__iocp_offset(const struct pier_handle *handle)
{
    return handle->kind_ == PIER__KIND_FILE ? handle->engine_.iocp.of.offset : 0;
}

static inline void pier__iocp_advance_file(struct pier_handle *handle, uint64_t bytes)
{
    if (handle->kind_ == PIER__KIND_FILE) {
        handle->engine_.iocp.of.offset += bytes;
    }
}

/* The error of the call before: ends an op with it, inside start. */
static inline void pier__iocp_fail(struct pier_loop *loop, struct pier_op *op, int64_t error)
{
    pier__op_fail(loop, op, error, pier__sys_code());
}

/* iocp.c. Sees to it that the handle's packets come here. 0 or an error. */
int pier__iocp_associate(struct pier_handle *handle);

/* fast.c */
/* A send into an empty queue. */
void pier__iocp_send(struct pier_handle *handle, struct pier_op *op);
/* The packet of an op's request. */
void pier__iocp_completed(struct pier_loop *loop, struct pier_op *op);

/* ops.c */
void pier__iocp_start(struct pier_handle *handle, struct pier_op *op);
void pier__iocp_cancel(struct pier_handle *handle, struct pier_op *op);
void pier__iocp_resume(struct pier_handle *handle, struct pier_op *op);
void pier__iocp_retry(struct pier_handle *handle);
void pier__iocp_serve(struct pier_loop *loop, struct pier_handle *handle);
/* The packet of an op's request: what became of it, and how many bytes moved. */
void pier__iocp_completed_slow(struct pier_loop *loop, struct pier_op *op, uint64_t bytes,
                               int error);
/* Whether the handle has had its receives of this turn; counts one more. */
bool pier__iocp_has_had_share(struct pier_loop *loop, struct pier_handle *handle);
/* What a read that ended or failed says: 0 at the end of the stream, or the error, with the code
 * kept. */
int64_t pier__iocp_read_end(struct pier_loop *loop, struct pier_handle *handle, int64_t result);

/* send.c */
void pier__iocp_start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
/* Goes on with a send that the system was asked for: its answer. */
void pier__iocp_tried(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                      int64_t result);
/* The packet of the head and of what was merged with it. */
void pier__iocp_sent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                     uint64_t bytes, int error);

/* receive.c */
void pier__iocp_start_lent(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
void pier__iocp_lent_completed(struct pier_loop *loop, struct pier_handle *handle,
                               struct pier_op *op, int error);
void pier__iocp_serve_lent(struct pier_loop *loop, struct pier_handle *handle);
/* A receive, inside wait(), brought nothing: it would block, the stream has ended, or it failed. */
void pier__iocp_no_data(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                        int64_t result);

/* accept.c */
/* Makes the handle's of.listener; false without memory for it. */
bool pier__iocp_make_listener(struct pier_loop *loop, struct pier_handle *handle);
void pier__iocp_start_accept(struct pier_loop *loop, struct pier_handle *handle,
                             struct pier_op *op);
void pier__iocp_serve_accept(struct pier_loop *loop, struct pier_handle *handle);
void pier__iocp_accepted(struct pier_loop *loop, OVERLAPPED *request);
/* Ends what is outstanding on a listener that leaves the loop, alive or not. */
void pier__iocp_detach_listener(struct pier_loop *loop, struct pier_handle *handle);
/* The same for one that is to be closed. False when packets have to be waited for. */
bool pier__iocp_shut_listener(struct pier_loop *loop, struct pier_handle *handle);

/* poll.c */
void pier__iocp_poll_start(struct pier_loop *loop, struct pier_op *op);
void pier__iocp_poll_cancel(struct pier_loop *loop, struct pier_op *op);
void pier__iocp_poll_pause(struct pier_loop *loop, struct pier_op *op);
void pier__iocp_poll_resume(struct pier_loop *loop, struct pier_op *op);
void pier__iocp_poll_change(struct pier_loop *loop, struct pier_op *op);
void pier__iocp_polled(struct pier_loop *loop, OVERLAPPED *request);
void pier__iocp_polls_close(struct pier_loop *loop);

/* pipe.c */
/* Makes the ends that clients find before anybody accepts. 0 or an error. */
int pier__iocp_pipe_listen(struct pier_loop *loop, struct pier_handle *handle);
/* One end to accept with. */
pier_descriptor pier__iocp_pipe_end(struct pier_loop *loop, struct pier_handle *handle);
/* The handle is a connection now: notes what sort of pipe it is. */
void pier__iocp_pipe_connected(struct pier_loop *loop, struct pier_handle *handle);
void pier__iocp_pipe_connect(struct pier_loop *loop, struct pier_handle *handle,
                             struct pier_op *op);
/* The connect is being ended: its wait, if there is one, is nobody's from now on. */
void pier__iocp_pipe_forget(struct pier_loop *loop, struct pier_handle *handle);
void pier__iocp_pipe_waited(struct pier_loop *loop, OVERLAPPED *request);
void pier__iocp_pipe_shutdown(struct pier_loop *loop, struct pier_handle *handle,
                              struct pier_op *op);
void pier__iocp_pipe_shut(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                          int error);
void pier__iocp_waits_close(struct pier_loop *loop);

#endif
