/* tracked.c - see tracked.h. The checks of one completion are in check_completion() and the
 * functions after it.
 *
 * Once a terminal callback of the test has been called, its op may be freed or in flight again:
 * on_completion() doesn't look at it any more. */

#include "tracked.h"

#include <stdatomic.h>

static _Atomic int64_t in_flight;
static _Atomic uint64_t sequence;

static _Thread_local bool in_callback;
static _Thread_local bool in_call;                   /* inside a submit, cancel or close */
static _Thread_local const struct pier_op *in_event; /* in its callback with PIER_MORE */

int64_t tracked_in_flight(void)
{
    return atomic_load(&in_flight);
}

/* ---- checks of a completion ------------------------------------------------------------------ */

static bool is_multishot(enum tracked_kind kind)
{
    return kind == TRACKED_TIMER_EACH || kind == TRACKED_NOTIFY_EACH || kind == TRACKED_POLL_EACH ||
           kind == TRACKED_ACCEPT_EACH || kind == TRACKED_RECEIVE_EACH ||
           kind == TRACKED_PREPARE_EACH || kind == TRACKED_CHECK_EACH;
}

static bool is_receive(enum tracked_kind kind)
{
    return kind == TRACKED_RECEIVE || kind == TRACKED_RECEIVE_LENT || kind == TRACKED_RECEIVE_EACH;
}

static void check_event(const struct tracked *tracked)
{
    const struct pier_op *op = &tracked->op;
    CHECK(is_multishot(tracked->kind));
    CHECK(pier_op_pending(op));
    CHECK_INT(op->result, >=, 1);
    CHECK(!tracked->paused || tracked->ending || tracked->timed);
    if (tracked->owner != NULL) {
        CHECK(!tracked->owner->closing);
    }
    if (tracked->kind == TRACKED_RECEIVE_EACH) {
        CHECK((op->flags & PIER_LENT) != 0);
        CHECK(op->data != NULL);
        CHECK_INT(op->size, ==, op->result);
        CHECK_INT(op->done, ==, tracked->done + op->size);
    }
    if (tracked->kind == TRACKED_ACCEPT_EACH) {
        CHECK_INT(op->result, ==, 1);
    }
    if (tracked->kind == TRACKED_POLL_EACH) {
        CHECK_INT((unsigned)op->result & ~(tracked->asked | PIER_HANGUP), ==, 0);
    }
}

static void check_success(const struct tracked *tracked)
{
    const struct pier_op *op = &tracked->op;
    CHECK_INT(op->os_error, ==, 0);
    switch (tracked->kind) {
    case TRACKED_RECEIVE:
        CHECK_INT(op->result, <=, tracked->size);
        CHECK_INT(op->done, ==, op->result);
        break;
    case TRACKED_RECEIVE_LENT:
        CHECK_INT(op->done, ==, op->result);
        if (op->result > 0) {
            CHECK((op->flags & PIER_LENT) != 0);
            CHECK(op->data != NULL);
            CHECK_INT(op->size, ==, op->result);
        }
        break;
    case TRACKED_SEND:
        CHECK_INT(op->result, ==, tracked->size);
        CHECK_INT(op->done, ==, tracked->size);
        break;
    case TRACKED_ACCEPT: CHECK_INT(op->result, ==, 1); break;
    case TRACKED_POLL:
        CHECK_INT(op->result, >, 0);
        CHECK_INT((unsigned)op->result & ~(tracked->asked | PIER_HANGUP), ==, 0);
        break;
    default: CHECK_INT(op->result, ==, 0); break;
    }
}

static void check_failure(const struct tracked *tracked)
{
    const struct pier_op *op = &tracked->op;
    CHECK(strcmp(pier_error_name(op->result), "PIER_E?") != 0);
    if (tracked->kind == TRACKED_SEND && tracked->size > 0) {
        CHECK_INT(op->done, <, tracked->size);
    }
    if (tracked->kind == TRACKED_RECEIVE || tracked->kind == TRACKED_RECEIVE_LENT) {
        CHECK_INT(op->done, ==, 0);
    }
}

static void check_terminal(const struct tracked *tracked)
{
    const struct pier_op *op = &tracked->op;
    CHECK(!pier_op_pending(op));
    if (is_multishot(tracked->kind)) {
        CHECK_INT(op->result, <=, 0);
    }
    if (op->result <= 0) {
        CHECK((op->flags & PIER_LENT) == 0);
    }
    if (tracked->kind == TRACKED_RECEIVE_EACH) {
        CHECK_INT(op->done, ==, tracked->done);
    }
    if (tracked->late) {
        CHECK(op->result == PIER_ETIMEDOUT || (op->flags & PIER_EOF) != 0);
    }
    const bool at_end = is_receive(tracked->kind) && op->result == 0 &&
                        (tracked->kind != TRACKED_RECEIVE || tracked->size > 0);
    CHECK_INT((op->flags & PIER_EOF) != 0, ==, at_end);
    if (op->result >= 0) {
        check_success(tracked);
    } else {
        check_failure(tracked);
    }
}

/* Whatever its callback did, an event is what it was until that returns; unless the op was taken
 * out of flight, which only pier_timer_stop() does. */
static void check_still_whole(const struct pier_op *op, const struct pier_op *before)
{
    if (in_event == NULL) {
        return;
    }
    in_event = NULL;
    CHECK_INT(op->result, ==, before->result);
    CHECK_INT(op->flags, ==, before->flags);
    CHECK_INT(op->done, ==, before->done);
    if ((op->flags & PIER_LENT) != 0) {
        CHECK(op->data == before->data);
        CHECK_INT(op->size, ==, before->size);
    }
}

static void check_completion(const struct tracked *tracked)
{
    CHECK(!in_call);
    CHECK(!in_callback);
    CHECK(test_running() == tracked->loop);
    CHECK(tracked->in_flight);
    if ((tracked->op.flags & PIER_MORE) != 0) {
        check_event(tracked);
    } else {
        check_terminal(tracked);
    }
}

static void on_completion(struct pier_op *op)
{
    struct tracked *tracked = PIER_OWNER(op, struct tracked, op);
    check_completion(tracked);
    tracked->result = op->result;
    tracked->done = op->done;
    tracked->flags = op->flags;
    tracked->os_error = op->os_error;
    tracked->sequence = atomic_fetch_add(&sequence, 1) + 1;
    if ((op->flags & PIER_MORE) != 0) {
        tracked->events++;
        tracked->late = tracked->late || (tracked->paused && !tracked->ending);
    } else {
        tracked->completions++;
        tracked->in_flight = false;
        if (tracked->owner != NULL) {
            tracked->owner->in_flight--;
        }
        atomic_fetch_sub(&in_flight, 1);
    }
    const struct pier_op before = *op;
    in_event = (op->flags & PIER_MORE) != 0 ? op : NULL;
    in_callback = true;
    if (tracked->then != NULL) {
        tracked->then(tracked);
    }
    in_callback = false;
    check_still_whole(op, &before);
}

static void on_closed(struct pier_handle *pier_handle)
{
    struct tracked_handle *handle = PIER_OWNER(pier_handle, struct tracked_handle, handle);
    CHECK(!in_call);
    CHECK(!in_callback);
    CHECK(test_running() == handle->loop);
    CHECK(handle->closing);
    CHECK_INT(handle->closes, ==, 0);
    CHECK_INT(handle->in_flight, ==, 0);
    CHECK(!pier_handle_is_open(pier_handle));
    CHECK(pier_handle_loop(pier_handle) == NULL);
    CHECK_INT(pier_handle_descriptor(pier_handle), ==, -1);
    handle->closes++;
    handle->sequence = atomic_fetch_add(&sequence, 1) + 1;
    in_callback = true;
    if (handle->then != NULL) {
        handle->then(handle);
    }
    in_callback = false;
}

static void on_second_close(struct pier_handle *handle)
{
    (void)handle;
    FAIL("the function of a second pier_close() was called");
}

/* ---- handles --------------------------------------------------------------------------------- */

const char *stream_name(enum stream stream)
{
    static const char *const names[] = {"tcp4", "tcp6", "unix", "abstract", "pair", "pipe"};
    return names[stream];
}

bool stream_available(enum stream stream)
{
    switch (stream) {
    case STREAM_TCP6: return raw_has_family(PIER_ADDRESS_IPV6);
    case STREAM_UNIX: return test_can(PIER_CAN_UNIX);
    case STREAM_ABSTRACT: return test_can(PIER_CAN_ABSTRACT);
    default: return true;
    }
}

struct pier_address stream_address(enum stream stream)
{
    struct pier_address address = {.family = PIER_ADDRESS_UNIX};
    switch (stream) {
    case STREAM_TCP6: return address_of("[::1]:0");
    case STREAM_UNIX:
    case STREAM_ABSTRACT:
        platform_temporary_path(address.u.path, sizeof(address.u.path));
        address.path_length = (uint8_t)strlen(address.u.path);
        if (stream == STREAM_ABSTRACT) {
            address.u.path[0] = '\0';
        }
        return address;
    default: return address_of("127.0.0.1:0");
    }
}

void forget_address(const struct pier_address *address)
{
    if (address->family == PIER_ADDRESS_UNIX && address->u.path[0] != '\0') {
        platform_remove(address->u.path);
    }
}

static void begin_handle(struct pier_loop *loop, struct tracked_handle *handle)
{
    void *context = handle->context;
    CHECK_INT(handle->in_flight, ==, 0);
    memset(handle, 0, sizeof(*handle));
    handle->context = context;
    handle->loop = loop;
}

struct pier_address tracked_listen(struct pier_loop *loop, struct tracked_handle *listener,
                                   enum stream stream, const struct pier_listen_options *options)
{
    struct pier_address address = stream_address(stream);
    begin_handle(loop, listener);
    CHECK_OK(pier_listen(loop, &listener->handle, &address, options));
    CHECK_OK(pier_local_address(&listener->handle, &address));
    return address;
}

void tracked_open_socket(struct pier_loop *loop, struct tracked_handle *handle,
                         const struct pier_address *address)
{
    begin_handle(loop, handle);
    CHECK_OK(pier_open_socket(loop, &handle->handle, address));
}

int tracked_adopt(struct pier_loop *loop, struct tracked_handle *handle, pier_descriptor descriptor)
{
    begin_handle(loop, handle);
    return pier_adopt(loop, &handle->handle, descriptor);
}

static void take_into_context(struct tracked *accept)
{
    CHECK_INT(accept->result, ==, 1);
    tracked_take(accept, accept->context);
}

void tracked_pair(struct pier_loop *loop, enum stream stream, struct tracked_handle *a,
                  struct tracked_handle *b)
{
    if (stream == STREAM_PAIR || stream == STREAM_PIPE) {
        begin_handle(loop, a);
        begin_handle(loop, b);
        CHECK_OK(stream == STREAM_PIPE ? pier_pipe(loop, &a->handle, &b->handle)
                                       : pier_socket_pair(loop, &a->handle, &b->handle));
        return;
    }
    struct tracked_handle listener = {0};
    struct tracked accept = {.context = b}, connect = {0};
    const struct pier_address address = tracked_listen(loop, &listener, stream, NULL);
    tracked_open_socket(loop, a, &address);
    tracked_accept(&listener, &accept, take_into_context);
    tracked_connect(a, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    CHECK_INT(wait_for(&accept), ==, 1);
    close_and_wait(&listener);
    forget_address(&address);
}

pier_descriptor tracked_raw_pair(struct pier_loop *loop, enum stream stream,
                                 struct tracked_handle *handle)
{
    pier_descriptor ends[2];
    if (stream == STREAM_PAIR) {
        raw_pair(ends);
        CHECK_OK(tracked_adopt(loop, handle, ends[0]));
        return ends[1];
    }
    if (stream == STREAM_PIPE) {
        FAIL("a pipe has no other direction: adopt its ends");
    }
    struct tracked connect = {0};
    struct pier_address address = stream_address(stream);
    const pier_descriptor listener = raw_listen(&address, 16);
    tracked_open_socket(loop, handle, &address);
    tracked_connect(handle, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    const pier_descriptor peer = raw_accept(listener);
    raw_close(listener);
    forget_address(&address);
    return peer;
}

void tracked_take(struct tracked *accept, struct tracked_handle *handle)
{
    begin_handle(accept->loop, handle);
    CHECK_OK(pier_accept_take(&accept->op, accept->loop, &handle->handle));
}

void tracked_close(struct tracked_handle *handle, tracked_handle_fn *then)
{
    const bool was_in_call = in_call;
    in_call = true;
    if (handle->closing && !handle->graceful) {
        pier_close(&handle->handle, on_second_close);
    } else if (handle->closing) {
        /* A graceful close is being cut short: its own function is called, not this one. */
        pier_close(&handle->handle, on_second_close);
        handle->graceful = false;
    } else {
        handle->closing = true;
        handle->then = then;
        pier_close(&handle->handle, on_closed);
    }
    in_call = was_in_call;
}

void tracked_close_gracefully(struct tracked_handle *handle, uint64_t timeout_ns,
                              tracked_handle_fn *then)
{
    const bool was_in_call = in_call;
    CHECK(!handle->closing);
    in_call = true;
    handle->closing = true;
    handle->graceful = true;
    handle->then = then;
    pier_close_gracefully(&handle->handle, timeout_ns, on_closed);
    in_call = was_in_call;
}

/* ---- ops ------------------------------------------------------------------------------------- */

static struct pier_op *begin(struct tracked *tracked, enum tracked_kind kind,
                             struct pier_loop *loop, struct tracked_handle *owner, tracked_fn *then)
{
    CHECK(!tracked->in_flight);
    tracked->kind = kind;
    tracked->loop = loop;
    tracked->owner = owner;
    tracked->then = then;
    tracked->in_flight = true;
    tracked->paused = tracked->ending = tracked->late = false;
    tracked->timed = tracked->op.timeout_ns != 0;
    tracked->limit_stays = kind == TRACKED_SEND && (tracked->op.flags & PIER_PROGRESS) != 0;
    tracked->done = 0;
    if (owner != NULL) {
        owner->in_flight++;
    }
    atomic_fetch_add(&in_flight, 1);
    in_call = true;
    return &tracked->op;
}

static void end(struct tracked *tracked)
{
    in_call = false;
    CHECK(tracked->op.timeout_ns == 0 || tracked->limit_stays);
    CHECK(pier_op_pending(&tracked->op));
}

void tracked_timer(struct pier_loop *loop, struct tracked *tracked, uint64_t delay_ns,
                   tracked_fn *then)
{
    pier_timer(loop, begin(tracked, TRACKED_TIMER, loop, NULL, then), delay_ns, on_completion);
    end(tracked);
}

void tracked_timer_each(struct pier_loop *loop, struct tracked *tracked, uint64_t delay_ns,
                        uint64_t interval_ns, tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_TIMER_EACH, loop, NULL, then);
    pier_timer_each(loop, op, delay_ns, interval_ns, on_completion);
    end(tracked);
}

void tracked_timer_on(struct tracked_handle *handle, struct tracked *tracked, uint64_t delay_ns,
                      tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_TIMER, handle->loop, handle, then);
    pier_timer_on(&handle->handle, op, delay_ns, on_completion);
    end(tracked);
}

/* The op may complete on the loop's thread before this returns: nothing of it is looked at
 * afterwards. */
void tracked_post(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then)
{
    pier_post(loop, begin(tracked, TRACKED_POST, loop, NULL, then), on_completion);
    in_call = false;
}

void tracked_notify_each(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then)
{
    pier_notify_each(loop, begin(tracked, TRACKED_NOTIFY_EACH, loop, NULL, then), on_completion);
    end(tracked);
}

void tracked_prepare_each(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then)
{
    pier_prepare_each(loop, begin(tracked, TRACKED_PREPARE_EACH, loop, NULL, then), on_completion);
    end(tracked);
}

void tracked_check_each(struct pier_loop *loop, struct tracked *tracked, tracked_fn *then)
{
    pier_check_each(loop, begin(tracked, TRACKED_CHECK_EACH, loop, NULL, then), on_completion);
    end(tracked);
}

void tracked_poll(struct pier_loop *loop, struct tracked *tracked, pier_descriptor descriptor,
                  unsigned events, tracked_fn *then)
{
    tracked->asked = events;
    pier_poll(loop, begin(tracked, TRACKED_POLL, loop, NULL, then), descriptor, events,
              on_completion);
    end(tracked);
}

void tracked_poll_each(struct pier_loop *loop, struct tracked *tracked, pier_descriptor descriptor,
                       unsigned events, tracked_fn *then)
{
    tracked->asked = events;
    pier_poll_each(loop, begin(tracked, TRACKED_POLL_EACH, loop, NULL, then), descriptor, events,
                   on_completion);
    end(tracked);
}

void tracked_poll_change(struct tracked *tracked, unsigned events)
{
    const bool was_in_call = in_call;
    /* What ends, or has an outcome that only isn't delivered yet, isn't changed any more. */
    const bool late = tracked->ending || tracked->timed || pier_op_token(&tracked->op) == 0;
    tracked->asked = late ? tracked->asked | events : events;
    in_call = true;
    pier_poll_change(&tracked->op, events);
    in_call = was_in_call;
}

void tracked_accept(struct tracked_handle *listener, struct tracked *tracked, tracked_fn *then)
{
    pier_accept(&listener->handle, begin(tracked, TRACKED_ACCEPT, listener->loop, listener, then),
                on_completion);
    end(tracked);
}

void tracked_accept_each(struct tracked_handle *listener, struct tracked *tracked, tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_ACCEPT_EACH, listener->loop, listener, then);
    pier_accept_each(&listener->handle, op, on_completion);
    end(tracked);
}

void tracked_connect(struct tracked_handle *handle, struct tracked *tracked,
                     const struct pier_address *address, tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_CONNECT, handle->loop, handle, then);
    pier_connect(&handle->handle, op, address, on_completion);
    end(tracked);
}

void tracked_receive(struct tracked_handle *handle, struct tracked *tracked, void *memory,
                     size_t size, tracked_fn *then)
{
    tracked->size = size;
    struct pier_op *op = begin(tracked, TRACKED_RECEIVE, handle->loop, handle, then);
    pier_receive(&handle->handle, op, memory, size, on_completion);
    end(tracked);
}

void tracked_receive_lent(struct tracked_handle *handle, struct tracked *tracked, tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_RECEIVE_LENT, handle->loop, handle, then);
    pier_receive_lent(&handle->handle, op, on_completion);
    end(tracked);
}

void tracked_receive_each(struct tracked_handle *handle, struct tracked *tracked, tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_RECEIVE_EACH, handle->loop, handle, then);
    pier_receive_each(&handle->handle, op, on_completion);
    end(tracked);
}

void tracked_send(struct tracked_handle *handle, struct tracked *tracked, const void *memory,
                  size_t size, tracked_fn *then)
{
    tracked->size = size;
    struct pier_op *op = begin(tracked, TRACKED_SEND, handle->loop, handle, then);
    pier_send(&handle->handle, op, memory, size, on_completion);
    end(tracked);
}

void tracked_send_vectored(struct tracked_handle *handle, struct tracked *tracked,
                           const struct pier_vector *vectors, size_t count, tracked_fn *then)
{
    tracked->size = 0;
    for (size_t i = 0; i < count; i++) {
        tracked->size += vectors[i].size;
    }
    struct pier_op *op = begin(tracked, TRACKED_SEND, handle->loop, handle, then);
    pier_send_vectored(&handle->handle, op, vectors, count, on_completion);
    end(tracked);
}

void tracked_shutdown(struct tracked_handle *handle, struct tracked *tracked, tracked_fn *then)
{
    struct pier_op *op = begin(tracked, TRACKED_SHUTDOWN, handle->loop, handle, then);
    pier_shutdown(&handle->handle, op, on_completion);
    end(tracked);
}

void tracked_cancel(struct tracked *tracked)
{
    const bool was_in_call = in_call;
    in_call = true;
    tracked->ending = true;
    pier_cancel(&tracked->op);
    in_call = was_in_call;
}

void tracked_pause(struct tracked *tracked)
{
    pier_pause(&tracked->op);
    tracked->paused = true;
}

void tracked_resume(struct tracked *tracked)
{
    tracked->paused = false;
    in_call = true;
    pier_resume(&tracked->op);
    in_call = false;
}

bool tracked_timer_stop(struct tracked *tracked)
{
    const bool stopped = pier_timer_stop(&tracked->op);
    CHECK(!stopped || tracked->in_flight);
    CHECK(!stopped || !pier_op_pending(&tracked->op));
    if (stopped) {
        in_event = in_event == &tracked->op ? NULL : in_event;
        tracked->in_flight = false;
        if (tracked->owner != NULL) {
            tracked->owner->in_flight--;
        }
        atomic_fetch_sub(&in_flight, 1);
    }
    return stopped;
}
