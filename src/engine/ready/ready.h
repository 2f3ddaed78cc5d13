/* ready.h - what the files of the readiness engine share.
 *
 * ready.c owns events and interest; receive.c the receiving direction, send.c the sending one,
 * foreign.c the descriptors of pier_poll(), fast.c the fast roads of receive and send. A poller
 * (poller.h) sits below and reports through pier__ready_event(). */

#ifndef PIER_ENGINE_READY_READY_H
#define PIER_ENGINE_READY_READY_H

#include "core/engine.h"
#include "engine/ready/poller.h"

struct pier__foreign;

/* loop->engine_data of a readiness loop. */
struct pier__ready {
    const struct pier__poller *poller;
    void *poller_data;
    enum pier__poller_mode mode;
    int taken; /* events, of the last wait; only pollers with a descriptor say so */
    struct pier__foreign
        *foreign_changed; /* whose interest is to be settled before the next wait */
    struct pier__foreign *foreign_free;
    bool left_over; /* the last turn's budget didn't do for all handles: they come before events */
};

static PIER__EXPRESSION struct pier__ready *pier__ready_of(const struct pier_loop *loop)
{
    return loop->engine_data;
}

/* From the poller, for each event. In fast.c. */
void pier__ready_event(struct pier_loop *loop, uint64_t key, unsigned events);
/* What pier__ready_event() has no fast road for. */
void pier__ready_event_slow(struct pier_loop *loop, struct pier_handle *handle, unsigned events);
/* pier__ready_event() from a poller that has no keys, but knows the handle. */
void pier__ready_handle_event(struct pier_loop *loop, struct pier_handle *handle, unsigned events);
/* From a poller that asks at a slow pace, what holds this instant. */
void pier__ready_asked(struct pier_loop *loop, struct pier_handle *handle, unsigned events);
/* A send into an empty queue. In fast.c. */
void pier__ready_send_fast(struct pier_handle *handle, struct pier_op *op);

/* Notes what the poller watches a handle for. */
void pier__ready_note_interest(struct pier_handle *handle, unsigned interest);

/* What holds this instant of what a descriptor of pier_poll() is watched for. */
unsigned pier__ready_ask(const struct pier_handle *handle);

/* Makes the poller watch for what the handle's ops wait for. Returns 0 or an error for the op that
 * wanted it. */
int pier__ready_want(struct pier_loop *loop, struct pier_handle *handle);

/* After an event on a level or one-shot poller: interest follows what is still wanted, if the
 * handle is still there. */
void pier__ready_settle(struct pier_loop *loop, uint64_t key);

/* The poller has told of something, and there was nothing: finds out whether that goes on. */
void pier__ready_found_nothing(struct pier_loop *loop, struct pier_handle *handle);

/* receive.c */
/* Runs the receiving op at the head for as long as there is something, up to the turn's share of
 * one handle. `key` is the handle's: false when it was detached meanwhile. */
bool pier__ready_receive(struct pier_loop *loop, struct pier_handle *handle, uint64_t key);
/* A receive brought nothing: it would block, the stream has ended, or it failed. */
void pier__ready_no_data(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                         int64_t result);

/* send.c */
void pier__ready_start_send(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
/* Goes on with a send of which the system took `result` bytes, or none for an error. */
void pier__ready_tried(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op,
                       int64_t result);
void pier__ready_connect(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
void pier__ready_shutdown(struct pier_loop *loop, struct pier_handle *handle, struct pier_op *op);
void pier__ready_writable(struct pier_loop *loop, struct pier_handle *handle);

/* foreign.c */
void pier__foreign_event(struct pier_loop *loop, struct pier_handle *handle, unsigned events);
void pier__foreign_serve(struct pier_loop *loop, struct pier_handle *handle);
void pier__foreign_settle(struct pier_loop *loop);
void pier__foreign_close(struct pier_loop *loop);
void pier__foreign_start(struct pier_loop *loop, struct pier_op *op);
void pier__foreign_cancel(struct pier_loop *loop, struct pier_op *op);
/* What the op waits for has changed: it was paused or resumed, or asks for other events. */
void pier__foreign_change(struct pier_loop *loop, struct pier_op *op);

/* The functions of a readiness engine: everything but its name and poller. */
int pier__ready_open(struct pier_loop *loop, const struct pier_loop_options *options);
void pier__ready_close(struct pier_loop *loop);
int pier__ready_attach(struct pier_handle *handle);
void pier__ready_detach(struct pier_handle *handle);
void pier__ready_shut(struct pier_handle *handle);
void pier__ready_wait(struct pier_loop *loop, uint64_t timeout_ns);
void pier__ready_serve(struct pier_loop *loop, struct pier_handle *handle);
bool pier__ready_more(struct pier_loop *loop);
void pier__ready_flush(struct pier_loop *loop);
void pier__ready_retry(struct pier_handle *handle);
pier_descriptor pier__ready_descriptor(struct pier_loop *loop);
int pier__ready_after_fork(struct pier_loop *loop);
void pier__ready_start(struct pier_handle *handle, struct pier_op *op);
void pier__ready_cancel(struct pier_handle *handle, struct pier_op *op);
void pier__ready_pause(struct pier_handle *handle, struct pier_op *op);
void pier__ready_resume(struct pier_handle *handle, struct pier_op *op);

/* Defines the engine of a poller. */
#define PIER__READY_ENGINE(variable, its_poller) \
    extern const struct pier__engine variable; \
    const struct pier__engine variable = {.name = #its_poller, \
                                          .calls = {.start = pier__ready_start, \
                                                    .cancel = pier__ready_cancel, \
                                                    .send = pier__ready_send_fast, \
                                                    .pause = pier__ready_pause, \
                                                    .resume = pier__ready_resume, \
                                                    .retry = pier__ready_retry, \
                                                    .attach = pier__ready_attach, \
                                                    .detach = pier__ready_detach, \
                                                    .shut = pier__ready_shut}, \
                                          .nonblocking = true, \
                                          .poller = &its_poller##_poller, \
                                          .probe = probe, \
                                          .open = pier__ready_open, \
                                          .close = pier__ready_close, \
                                          .wait = pier__ready_wait, \
                                          .serve = pier__ready_serve, \
                                          .wake = wake, \
                                          .more = pier__ready_more, \
                                          .flush = pier__ready_flush, \
                                          .poll_start = pier__foreign_start, \
                                          .poll_cancel = pier__foreign_cancel, \
                                          .poll_pause = pier__foreign_change, \
                                          .poll_resume = pier__foreign_change, \
                                          .poll_change = pier__foreign_change, \
                                          .descriptor = pier__ready_descriptor, \
                                          .after_fork = pier__ready_after_fork}

#endif
