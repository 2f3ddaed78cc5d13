/* iocp.c - the iocp engine: the completion port, packets, attaching and closing.
 *
 * Packets are taken in batches; those that a turn's budget doesn't reach wait in the batch for the
 * next. A packet leads to its op by the address of the OVERLAPPED in it, which lives until its
 * terminal completion, and that comes after the packet. On listeners and for polls the OVERLAPPED
 * lies in memory of the backend's own; the key of the packet tells.
 *
 * A descriptor is associated with the port by its first request, so that an accepted socket can go
 * to another loop before. Windows before 8.1, and Wine, can't take that back: such a handle can be
 * attached to its old loop only. It's the object behind a descriptor that is associated, so that
 * one under two numbers is with both or not at all. */

#include "engine/iocp/iocp.h"

static_assert(sizeof(OVERLAPPED) <= sizeof(((struct pier_op *)NULL)->overlapped_),
              "an OVERLAPPED fits into an op");

static int probe_iocp(void)
{
    pier_descriptor port = pier__sys_port_open();
    if (port < 0) {
        return pier__fail((int)port, "a completion port can't be made: %s", pier_error_text(port));
    }
    pier__sys_close(port);
    pier_descriptor afd = pier__sys_afd_open(false);
    if (afd >= 0) {
        pier__sys_close(afd);
    }
    return PIER_CAN_COMPLETE | PIER_CAN_BIND_LATE | PIER_CAN_UNIX | PIER_CAN_ABSTRACT |
           PIER_CAN_EXCLUSIVE | (afd >= 0 ? PIER_CAN_POLL : 0);
}

static int open_iocp(struct pier_loop *loop, const struct pier_loop_options *options)
{
    static uint32_t ids;
    struct pier__iocp *iocp = pier__allocate(loop, sizeof(*iocp));
    if (iocp == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the iocp backend");
    }
    memset(iocp, 0, sizeof(*iocp));
    iocp->afd = -1;
    iocp->most = options->queue_size < PIER__IOCP_ENTRIES ? options->queue_size
                                                          : PIER__IOCP_ENTRIES;
    do {
        iocp->id = (uint16_t)(pier__atomic_add(&ids, 1) + 1);
    } while (iocp->id == 0);
    iocp->port = pier__sys_port_open();
    if (iocp->port < 0) {
        int error = pier__fail((int)iocp->port, "a completion port can't be made: %s",
                               pier_error_text(iocp->port));
        pier__free(loop, iocp, sizeof(*iocp));
        return error;
    }
    iocp->event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (iocp->event == NULL) {
        int error = pier__fail(pier__sys_last_error(),
                               "an event can't be made for the iocp backend");
        pier__sys_close(iocp->port);
        pier__free(loop, iocp, sizeof(*iocp));
        return error;
    }
    iocp->afd_now = pier__sys_afd_open(true);
    loop->engine_data = iocp;
    return 0;
}

/* ---- packets */

static void take_packet(struct pier_loop *loop, const OVERLAPPED_ENTRY *entry)
{
    switch (entry->lpCompletionKey) {
    case PIER__KEY_OP:
        pier__iocp_completed(loop,
                             (struct pier_op *)(void *)((char *)entry->lpOverlapped -
                                                        offsetof(struct pier_op, overlapped_)));
        break;
    case PIER__KEY_ACCEPT: pier__iocp_accepted(loop, entry->lpOverlapped); break;
    case PIER__KEY_POLL: pier__iocp_polled(loop, entry->lpOverlapped); break;
    case PIER__KEY_PIPE_WAIT: pier__iocp_pipe_waited(loop, entry->lpOverlapped); break;
    default: break; /* a wake-up */
    }
}

/* False when the budget ran out before the packets. */
static bool take_packets(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    while (iocp->position < iocp->count) {
        if (PIER__UNLIKELY(!pier__loop_before_event(loop))) {
            return false;
        }
        loop->counters.events++;
        take_packet(loop, &iocp->entries[iocp->position++]);
    }
    return true;
}

static int fetch_packets(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    loop->counters.system_calls++;
    int count = pier__sys_port_wait(iocp->port, iocp->entries, iocp->most, timeout_ns);
    iocp->position = 0;
    iocp->count = count > 0 ? (unsigned)count : 0;
    return count;
}

/* False when waiting failed. */
static bool wait_for_packets(struct pier_loop *loop, uint64_t timeout_ns)
{
    int count = fetch_packets(loop, timeout_ns);
    pier__loop_returned(loop);
    if (PIER__UNLIKELY(count < 0 && count != PIER_EINTR)) {
        loop->failure = pier__fail(count, "waiting for the completion port: %s",
                                   pier_error_text(count));
        pier__handles_prepend(&loop->ready, &loop->serving); /* for the next run */
        return false;
    }
    return true;
}

static void wait_iocp(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    pier__loop_take_ready(loop);
    /* Packets without end left listed handles nothing of the last turn's budget. */
    bool served = iocp->serves_first;
    if (PIER__UNLIKELY(served)) {
        iocp->serves_first = false;
        pier__loop_serve(loop);
        timeout_ns = 0;
    }
    /* What is left of the last batch is older than what the port has: first in, first out. */
    if (take_packets(loop)) {
        if (PIER__UNLIKELY(!wait_for_packets(loop, timeout_ns))) {
            return;
        }
        take_packets(loop);
    } else {
        pier__loop_returned(loop);
    }
    if (!served && loop->serving.head != NULL) {
        iocp->serves_first = !pier__loop_serve(loop);
    }
}

static bool is_busy_iocp(struct pier_loop *loop)
{
    const struct pier__iocp *iocp = pier__iocp_of(loop);
    return iocp->position < iocp->count;
}

static void wake_iocp(struct pier_loop *loop)
{
    pier__sys_port_wake(pier__iocp_of(loop)->port);
}

static void close_iocp(struct pier_loop *loop)
{
    struct pier__iocp *iocp = pier__iocp_of(loop);
    /* Requests that nobody waits for any more are cancelled, but the system has their memory until
     * their packets are taken. */
    while (iocp->orphans > 0 &&
           (iocp->position < iocp->count || fetch_packets(loop, PIER_FOREVER) >= 0)) {
        while (iocp->position < iocp->count) {
            take_packet(loop, &iocp->entries[iocp->position++]);
        }
    }
    pier__iocp_polls_close(loop);
    pier__iocp_waits_close(loop);
    if (iocp->afd_now >= 0) {
        pier__sys_close(iocp->afd_now);
    }
    CloseHandle(iocp->event);
    pier__sys_close(iocp->port);
    pier__free(loop, iocp, sizeof(*iocp));
}

/* ---- handles */

static void note_skips(struct pier_handle *handle)
{
    bool is_socket = handle->kind_ == PIER__KIND_STREAM || handle->kind_ == PIER__KIND_LISTENER;
    if (pier__sys_port_skip(handle->descriptor_, is_socket)) {
        handle->engine_.iocp.requests |= PIER__SKIPS;
    }
}

static int attach_iocp(struct pier_handle *handle)
{
    const struct pier__iocp *iocp = pier__iocp_of(handle->loop_);
    unsigned port = handle->engine_.iocp.port;
    /* Where detaching couldn't take a handle off its port it has left the id here. */
    if (port != 0 && port != iocp->id) {
        return PIER_ENOTSUP;
    }
    handle->engine_.iocp.port = 0;
    handle->engine_.iocp.turn = handle->engine_.iocp.receives = 0;
    handle->engine_.iocp.requests = port != 0 ? PIER__ASSOCIATED : 0;
    if (port != 0) {
        note_skips(handle);
    }
    if (handle->kind_ == PIER__KIND_FILE) {
        if (pier__sys_is_synchronous(handle->descriptor_)) {
            handle->engine_.iocp.requests |= PIER__SYNCHRONOUS;
            handle->engine_.iocp.of.offset = pier__sys_file_position(handle->descriptor_);
        }
        handle->engine_.iocp.requests |= PIER__READABLE;
    } else if (handle->kind_ == PIER__KIND_PIPE_LISTENER) {
        return pier__iocp_pipe_listen(handle->loop_, handle);
    } else if (handle->kind_ == PIER__KIND_PIPE_STREAM && !(handle->bits_ & PIER__UNCONNECTED)) {
        pier__iocp_pipe_connected(handle->loop_, handle);
    }
    return 0;
}

/* Whether another handle of the loop is of the same object and has it associated. */
static bool is_shared(const struct pier_loop *loop, const struct pier_handle *handle)
{
    for (uint32_t i = 0; i < loop->slots_used; i++) {
        const struct pier_handle *other = pier__slot_at(loop, i);
        if (other != NULL && other != handle && other->kind_ == handle->kind_ &&
            (other->engine_.iocp.requests & PIER__ASSOCIATED) &&
            pier__sys_is_same(handle->descriptor_, other->descriptor_)) {
            return true;
        }
    }
    return false;
}

int pier__iocp_associate(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    if (PIER__LIKELY(handle->engine_.iocp.requests & (PIER__ASSOCIATED | PIER__SYNCHRONOUS))) {
        return 0;
    }
    enum pier__port_key key = handle->kind_ == PIER__KIND_LISTENER ? PIER__KEY_ACCEPT
                                                                   : PIER__KEY_OP;
    loop->counters.system_calls++;
    loop->counters.registrations++;
    int error = pier__sys_port_attach(pier__iocp_of(loop)->port, handle->descriptor_, key);
    if (PIER__UNLIKELY(error < 0)) {
        if (error != PIER_EINVAL || !is_shared(loop, handle)) {
            return error;
        }
        pier__iocp_of(loop)->shares = true;
    }
    handle->engine_.iocp.requests |= PIER__ASSOCIATED;
    note_skips(handle);
    return 0;
}

static void detach_iocp(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    pier__iocp_detach_listener(loop, handle);
    bool stays = (handle->engine_.iocp.requests & PIER__ASSOCIATED) &&
                 ((pier__iocp_of(loop)->shares && is_shared(loop, handle)) ||
                  pier__sys_port_detach(handle->descriptor_) < 0);
    handle->engine_.iocp.port = stays ? pier__iocp_of(loop)->id : 0;
}

static void shut_iocp(struct pier_handle *handle)
{
    struct pier_loop *loop = handle->loop_;
    if (!pier__iocp_shut_listener(loop, handle)) {
        return; /* its last packet closes it */
    }
    loop->counters.system_calls++;
    pier__sys_close(handle->descriptor_);
    pier__handle_closed(handle);
}

static pier_descriptor get_descriptor(struct pier_loop *loop)
{
    (void)loop;
    return PIER_ENOTSUP;
}

static int refuse_fork(struct pier_loop *loop)
{
    (void)loop;
    return PIER_ENOTSUP;
}

extern const struct pier__engine pier__iocp_engine;
const struct pier__engine pier__iocp_engine = {
    .name = "iocp",
    .calls = {.start = pier__iocp_start,
              .cancel = pier__iocp_cancel,
              .send = pier__iocp_send,
              .resume = pier__iocp_resume,
              .retry = pier__iocp_retry,
              .attach = attach_iocp,
              .detach = detach_iocp,
              .shut = shut_iocp},
    .nonblocking = true,
    .probe = probe_iocp,
    .open = open_iocp,
    .close = close_iocp,
    .wait = wait_iocp,
    .serve = pier__iocp_serve,
    .wake = wake_iocp,
    .busy = is_busy_iocp,
    .poll_start = pier__iocp_poll_start,
    .poll_cancel = pier__iocp_poll_cancel,
    .poll_pause = pier__iocp_poll_pause,
    .poll_resume = pier__iocp_poll_resume,
    .poll_change = pier__iocp_poll_change,
    .descriptor = get_descriptor,
    .after_fork = refuse_fork,
};
