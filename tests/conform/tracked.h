/* tracked.h - ops and handles that check the completion contract in every callback.
 *
 * Tests submit through the functions here, which have the names of pier's own with `tracked_`
 * before them. Each completion is then checked against section 3 of the design: inside a run of
 * its loop, on that thread, not nested and not inside a submitting call; one terminal
 * completion per submit; PIER_MORE, PIER_EOF and PIER_LENT where they belong; result and done
 * consistent; nothing with PIER_MORE after close or pause; an event unchanged until its callback
 * returns, whatever that did; every op of a handle completed
 * before the handle's close callback. What a completion brought stays in the struct for the
 * test to look at. */

#ifndef CONFORM_TRACKED_H
#define CONFORM_TRACKED_H

#include "harness.h"

struct tracked;
struct tracked_handle;

typedef void tracked_fn(struct tracked *tracked);
typedef void tracked_handle_fn(struct tracked_handle *handle);

enum tracked_kind {
    TRACKED_TIMER,
    TRACKED_TIMER_EACH,
    TRACKED_POST,
    TRACKED_NOTIFY_EACH,
    TRACKED_PREPARE_EACH,
    TRACKED_CHECK_EACH,
    TRACKED_POLL,
    TRACKED_POLL_EACH,
    TRACKED_ACCEPT,
    TRACKED_ACCEPT_EACH,
    TRACKED_CONNECT,
    TRACKED_RECEIVE,
    TRACKED_RECEIVE_LENT,
    TRACKED_RECEIVE_EACH,
    TRACKED_SEND,
    TRACKED_SHUTDOWN
};

struct tracked {
    struct pier_op op;
    void *context; /* the test's */
    tracked_fn *then;
    struct tracked_handle *owner;
    struct pier_loop *loop;
    enum tracked_kind kind;
    unsigned asked; /* events of a poll */
    size_t size;    /* bytes asked for */
    bool in_flight, paused;
    bool ending; /* its cancel was asked for: what the system had delivered before still comes */
    bool timed;  /* has a time limit, which may have done the same */
    bool limit_stays; /* in the op until it ends: one of progress */
    bool late; /* an event came while paused, so the limit must have passed before the pause */
    unsigned events, completions; /* with PIER_MORE; terminal ones */
    /* Of the last completion. */
    int64_t result;
    uint64_t done;
    uint32_t flags;
    int32_t os_error;
    uint64_t sequence; /* grows from one completion to the next, over all ops and closes */
};

struct tracked_handle {
    struct pier_handle handle;
    void *context; /* the test's */
    struct pier_loop *loop;
    tracked_handle_fn *then;
    unsigned in_flight; /* tracked ops on it */
    bool closing, graceful;
    unsigned closes; /* close callbacks */
    uint64_t sequence;
};

/* Over all loops and threads. */
int64_t tracked_in_flight(void);

/* ---- handles --------------------------------------------------------------------------------- */

enum stream { STREAM_TCP4, STREAM_TCP6, STREAM_UNIX, STREAM_ABSTRACT, STREAM_PAIR, STREAM_PIPE };

const char *stream_name(enum stream stream);
/* Whether system and backend have it. */
bool stream_available(enum stream stream);
/* An address to listen at; a Unix-domain one has a path that isn't used yet. */
struct pier_address stream_address(enum stream stream);
/* Removes the path of a Unix-domain address. */
void forget_address(const struct pier_address *address);

/* Listens and returns the address with its real port. */
struct pier_address tracked_listen(struct pier_loop *loop, struct tracked_handle *listener,
                                   enum stream stream, const struct pier_listen_options *options);
void tracked_open_socket(struct pier_loop *loop, struct tracked_handle *handle,
                         const struct pier_address *address);
int tracked_adopt(struct pier_loop *loop, struct tracked_handle *handle,
                  pier_descriptor descriptor);
/* Two connected handles of one loop; of a pipe, a receives and b sends. Runs the loop. */
void tracked_pair(struct pier_loop *loop, enum stream stream, struct tracked_handle *a,
                  struct tracked_handle *b);
/* A handle connected to a raw peer. Runs the loop. */
pier_descriptor tracked_raw_pair(struct pier_loop *loop, enum stream stream,
                                 struct tracked_handle *handle);
/* In an accept callback. */
void tracked_take(struct tracked *accept, struct tracked_handle *handle);

void tracked_close(struct tracked_handle *handle, tracked_handle_fn *then);
void tracked_close_gracefully(struct tracked_handle *handle, uint64_t timeout_ns,
                              tracked_handle_fn *then);

/* ---- ops ------------------------------------------------------------------------------------- */

/* `then` may be NULL; it may free, reuse or resubmit the op when the completion is terminal. */
void tracked_timer(struct pier_loop *loop, struct tracked *tracked, uint64_t delay_ns,
                   tracked_fn *then);
void tracked_timer_each(struct pier_loop *loop, struct tracked *tracked, uint64_t delay_ns,
                        uint64_t interval_ns, tracked_fn *then);
void tracked_timer_on(struct tracked_handle *handle, struct tracked *tracked, uint64_t delay_ns,
                      tracked_fn *then);
void tracked_post(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then);
void tracked_notify_each(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then);
void tracked_prepare_each(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then);
void tracked_check_each(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then);
void tracked_poll(struct pier_loop *loop, struct tracked *tracked, pier_descriptor descriptor,
                  unsigned events, tracked_fn *then);
void tracked_poll_each(struct pier_loop *loop, struct tracked *tracked, pier_descriptor descriptor,
                       unsigned events, tracked_fn *then);
/* pier_poll_change(): events are checked against what is asked for from now on. */
void tracked_poll_change(struct tracked *tracked, unsigned events);
void tracked_accept(struct tracked_handle *listener, struct tracked *tracked, tracked_fn *then);
void tracked_accept_each(struct tracked_handle *listener, struct tracked *tracked,
                         tracked_fn *then);
void tracked_connect(struct tracked_handle *handle, struct tracked *tracked,
                     const struct pier_address *address, tracked_fn *then);
void tracked_receive(struct tracked_handle *handle, struct tracked *tracked, void *memory,
                     size_t size, tracked_fn *then);
void tracked_receive_lent(struct tracked_handle *handle, struct tracked *tracked, tracked_fn *then);
void tracked_receive_each(struct tracked_handle *handle, struct tracked *tracked, tracked_fn *then);
void tracked_send(struct tracked_handle *handle, struct tracked *tracked, const void *memory,
                  size_t size, tracked_fn *then);
void tracked_send_vectored(struct tracked_handle *handle, struct tracked *tracked,
                           const struct pier_vector *vectors, size_t count, tracked_fn *then);
void tracked_shutdown(struct tracked_handle *handle, struct tracked *tracked, tracked_fn *then);

void tracked_cancel(struct tracked *tracked);
void tracked_pause(struct tracked *tracked);
void tracked_resume(struct tracked *tracked);
/* pier_timer_stop(): when true, no completion is expected any more. */
bool tracked_timer_stop(struct tracked *tracked);

/* The macros below name the line of the test that waits. */

/* Runs until the op has completed; returns its result. */
#define wait_for(tracked) wait_for_at(__FILE__, __LINE__, tracked)
/* Send or receive this much and wait for it. */
#define send_all(handle, memory, size) send_all_at(__FILE__, __LINE__, handle, memory, size)
#define receive_all(handle, memory, size) receive_all_at(__FILE__, __LINE__, handle, memory, size)
/* Receives once more and checks that the stream has ended. */
#define receive_end(handle) receive_end_at(__FILE__, __LINE__, handle)
/* Closes and runs until it is closed. */
#define close_and_wait(handle) close_and_wait_at(__FILE__, __LINE__, handle)
/* Sends one byte each way between a handle and its raw peer. */
#define check_usable(handle, peer) check_usable_at(__FILE__, __LINE__, handle, peer)

int64_t wait_for_at(const char *file, int line, struct tracked *tracked);
void send_all_at(const char *file, int line, struct tracked_handle *handle, const void *memory,
                 size_t size);
void receive_all_at(const char *file, int line, struct tracked_handle *handle, void *memory,
                    size_t size);
void receive_end_at(const char *file, int line, struct tracked_handle *handle);
void close_and_wait_at(const char *file, int line, struct tracked_handle *handle);
void check_usable_at(const char *file, int line, struct tracked_handle *handle,
                     pier_descriptor peer);

#endif
