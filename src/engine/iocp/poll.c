/* poll.c - pier_poll() on iocp: readiness of sockets that pier doesn't own.
 *
 * Each op has a request of its own in the driver, level-triggered and answered once; a multishot
 * op's is made anew after each event. The driver writes into memory that isn't the op's, so that a
 * cancelled op can end at once, while its packet is still to come. Other descriptors than sockets
 * can't be waited for in this way. */

#include "engine/iocp/iocp.h"

/* The request of an op in the system, NULL when there is none. */
static struct pier__iocp_poll *poll_of(const struct pier_op *op)
{
    return (struct pier__iocp_poll *)op->overlapped_[0];
}

static int open_driver(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    if (iocp->afd >= 0) {
        return 0;
    }
    pier_descriptor afd = pier__sys_afd_open(false);
    if (afd < 0) {
        return (int)afd;
    }
    int error = pier__sys_port_attach(iocp->port, afd, PIER__KEY_POLL);
    if (error < 0) {
        pier__sys_close(afd);
        return error;
    }
    iocp->afd = afd;
    return 0;
}

static struct pier__iocp_poll *take_poll(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    struct pier__iocp_poll *poll = iocp->polls_free;
    if (poll != NULL) {
        iocp->polls_free = poll->next;
    } else {
        poll = pier__allocate(loop, sizeof(*poll));
    }
    return poll;
}

static void free_poll(struct pier_loop *loop, struct pier__iocp_poll *poll)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    poll->op = NULL;
    poll->next = iocp->polls_free;
    iocp->polls_free = poll;
}

static unsigned events_of(const struct pier_op *op)
{
    unsigned wanted = (unsigned)op->size;
    /* A closed socket would never be heard of again. PIER__AFD_SEND says that a connect succeeded;
     * the driver's event for that one stays set for ever. */
    unsigned events = PIER__AFD_ABORT | PIER__AFD_CONNECT_FAILED | PIER__AFD_LOCAL_CLOSE;
    events |= wanted & PIER_READABLE ? PIER__AFD_RECEIVE | PIER__AFD_ACCEPT | PIER__AFD_DISCONNECT
                                     : 0u;
    events |= wanted & PIER_WRITABLE ? (unsigned)PIER__AFD_SEND : 0u;
    events |= wanted & PIER_PRIORITY ? (unsigned)PIER__AFD_URGENT : 0u;
    return events;
}

static void arm_poll(struct pier_loop *loop, struct pier_op *op)
{
    int error = open_driver(loop);
    struct pier__iocp_poll *poll = error == 0 ? take_poll(loop) : NULL;
    if (error == 0 && poll == NULL) {
        error = PIER_ENOMEM;
    }
    if (error == 0) {
        loop->counters.system_calls += 2;
        loop->counters.registrations++;
        error = pier__sys_afd_poll(pier__iocp_of(loop)->afd, (pier_descriptor)op->data,
                                   events_of(op), &poll->request);
    }
    if (error < 0) {
        if (poll != NULL) {
            free_poll(loop, poll);
        }
        pier__iocp_fail(loop, op, error);
        return;
    }
    poll->op = op;
    op->overlapped_[0] = poll;
}

void pier__iocp_poll_start(struct pier_loop *loop, struct pier_op *op)
{
    op->overlapped_[0] = NULL;
    arm_poll(loop, op);
}

/* Leaves the op without a request: the packet of the one that it had is nobody's. */
static void abandon_request(struct pier_loop *loop, struct pier_op *op)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    struct pier__iocp_poll *poll = poll_of(op);
    if (poll != NULL) {
        poll->op = NULL;
        op->overlapped_[0] = NULL;
        iocp->orphans++;
        loop->counters.system_calls++;
        pier__sys_cancel(iocp->afd, &poll->request.overlapped);
    }
}

void pier__iocp_poll_cancel(struct pier_loop *loop, struct pier_op *op)
{
    abandon_request(loop, op);
    pier__op_finish(loop, op, pier__op_reason(op));
}

void pier__iocp_poll_change(struct pier_loop *loop, struct pier_op *op)
{
    if (poll_of(op) != NULL) { /* else it is asked for after its event, or its pause */
        abandon_request(loop, op);
        if (!(op->bits_ & PIER__PAUSED)) {
            arm_poll(loop, op);
        }
    }
}

void pier__iocp_poll_pause(struct pier_loop *loop, struct pier_op *op)
{
    (void)loop; /* if it fires, it isn't armed again before resume */
    (void)op;
}

void pier__iocp_poll_resume(struct pier_loop *loop, struct pier_op *op)
{
    if (poll_of(op) == NULL) {
        arm_poll(loop, op);
    }
}

static int64_t translate(const struct pier_op *op, unsigned seen)
{
    unsigned events = 0;
    bool broken = (seen & (PIER__AFD_ABORT | PIER__AFD_CONNECT_FAILED)) != 0;
    if ((seen & (PIER__AFD_RECEIVE | PIER__AFD_ACCEPT | PIER__AFD_DISCONNECT)) != 0 || broken) {
        events |= PIER_READABLE;
    }
    if ((seen & PIER__AFD_SEND) != 0 || broken) {
        events |= PIER_WRITABLE;
    }
    events |= seen & PIER__AFD_URGENT ? (unsigned)PIER_PRIORITY : 0u;
    return (int64_t)((events & (unsigned)op->size) | (broken ? (unsigned)PIER_HANGUP : 0u));
}

void pier__iocp_polled(struct pier_loop *loop, OVERLAPPED *request)
{
    struct pier__iocp_poll *poll =
        (struct pier__iocp_poll *)(void *)((char *)request -
                                           offsetof(struct pier__iocp_poll, request));
    struct pier_op *op = poll->op;
    uint64_t bytes;
    int error = pier__sys_outcome(&poll->request.overlapped, &bytes);
    unsigned seen = error == 0 && poll->request.out.count > 0 ? poll->request.out.handles[0].events
                                                              : 0;
    free_poll(loop, poll);
    if (op == NULL) {
        pier__iocp_of(loop)->orphans--;
        return;
    }
    op->overlapped_[0] = NULL;
    if (error < 0 || (seen & PIER__AFD_LOCAL_CLOSE)) {
        pier__iocp_fail(loop, op, error < 0 ? error : PIER_EBADF);
        return;
    }
    int64_t events = translate(op, seen);
    if (!(op->bits_ & PIER__MULTISHOT)) {
        if (events == 0) {
            arm_poll(loop, op);
        } else {
            pier__op_finish(loop, op, events);
        }
        return;
    }
    if (op->bits_ & PIER__PAUSED) {
        return; /* level-triggered: it shows again when resumed */
    }
    if (events != 0) {
        pier__op_event(loop, op, events, 0);
    }
    /* Cancelled in its callback, it is over: nothing of it was in the system. So it is when it was
     * resumed there, and the system refused the request. */
    if (pier__op_goes_on(op) && poll_of(op) == NULL) {
        arm_poll(loop, op);
    }
}

void pier__iocp_polls_close(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    while (iocp->polls_free != NULL) {
        struct pier__iocp_poll *next = iocp->polls_free->next;
        pier__free(loop, iocp->polls_free, sizeof(*iocp->polls_free));
        iocp->polls_free = next;
    }
    if (iocp->afd >= 0) {
        pier__sys_close(iocp->afd);
    }
}
