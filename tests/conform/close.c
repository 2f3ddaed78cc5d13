/* close.c - pier_close() with everything in flight, from everywhere, and the descriptor numbers
 * that come back.
 *
 * tracked.c checks in every close of the suite: all ops of the handle have completed before the
 * close function, which is called once, inside the run, and no event with PIER_MORE comes after
 * the call of pier_close(). */

#include "suite.h"

static unsigned char big[4 << 20];

static void close_full_handle(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked receives[3] = {0}, sends[3] = {0}, shutdown = {0}, each = {0};
    char bytes[3];
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    const struct pier_address address = stream_address(stream);
    const bool is_pipe = raw_is_pipe_address(&address);
    tracked_pair(loop, stream, &a, &b);
    for (int turns = 0; turns < 3; turns++) {
        if (turns > 0) {
            tracked_pair(loop, stream, &a, &b);
        }
        if (!is_pipe) {
            CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 65536));
            CHECK_OK(pier_set_buffer_sizes(&b.handle, 65536, 0));
        }
        for (int i = 0; i < 3; i++) {
            tracked_receive(&a, &receives[i], &bytes[i], 1, NULL);
            tracked_send(&a, &sends[i], big, sizeof(big), NULL);
        }
        tracked_receive_each(&a, &each, NULL);
        tracked_shutdown(&a, &shutdown, NULL);
        for (int i = 0; i < turns; i++) {
            run_quietly(loop, 5);
        }
        tracked_close(&a, NULL);
        CHECK_INT(a.closes, ==, 0);
        RUN_UNTIL(loop, a.closes == 1);
        for (int i = 0; i < 3; i++) {
            CHECK_INT(receives[i].result, ==, PIER_ECLOSED);
            CHECK_INT(sends[i].result, ==, PIER_ECLOSED);
        }
        CHECK_INT(each.result, ==, PIER_ECLOSED);
        CHECK_INT(shutdown.result, ==, PIER_ECLOSED);
        close_and_wait(&b);
    }
}

static void everything_in_flight_tcp(void)
{
    close_full_handle(STREAM_TCP4);
}

static void everything_in_flight_unix(void)
{
    close_full_handle(STREAM_UNIX);
}

static void everything_in_flight_pair(void)
{
    close_full_handle(STREAM_PAIR);
}

static void pipe_ends_in_flight(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked receive = {0}, send = {0}, queued = {0};
    char byte;
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    tracked_receive(&reader, &receive, &byte, 1, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    close_and_wait(&reader);
    CHECK_INT(receive.result, ==, PIER_ECLOSED);
    close_and_wait(&writer);
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    tracked_send(&writer, &send, big, sizeof(big), NULL);
    tracked_send(&writer, &queued, big, sizeof(big), NULL);
    run_quietly(loop, 5);
    close_and_wait(&writer);
    CHECK_INT(send.result, ==, PIER_ECLOSED);
    CHECK_INT(send.done, >, 0);
    CHECK_INT(queued.result, ==, PIER_ECLOSED);
    CHECK_INT(queued.done, ==, 0);
    close_and_wait(&reader);
}

static void listener_with_accept_in_flight(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    struct tracked each = {0}, single = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept_each(&listener, &each, NULL);
    tracked_accept(&listener, &single, NULL);
    run_quietly(loop, 5);
    close_and_wait(&listener);
    CHECK_INT(each.result, ==, PIER_ECLOSED);
    CHECK_INT(single.result, ==, PIER_ECLOSED);
    /* The port is free again. */
    struct tracked_handle again = {0};
    again.loop = loop;
    CHECK_OK(pier_listen(loop, &again.handle, &address, NULL));
    close_and_wait(&again);
}

static void run_until_idle_waits_for_closes(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handles[20] = {0};
    for (int i = 0; i < 20; i += 2) {
        tracked_pair(loop, STREAM_PAIR, &handles[i], &handles[i + 1]);
    }
    CHECK_INT(stats_of(loop).handles_open, ==, 20);
    for (int i = 0; i < 20; i++) {
        tracked_close(&handles[i], NULL);
    }
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(handles[i].closes, ==, 1);
    }
    CHECK_INT(stats_of(loop).handles_open, ==, 0);
}

static void submitting_to_a_closing_handle(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, listener = {0}, socket = {0};
    struct tracked ops[9] = {0};
    const struct pier_vector vector = {"x", 1};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_open_socket(loop, &socket, &address);
    raw_send(peer, "data that waits", 15);
    tracked_close(&a, NULL);
    tracked_close(&listener, NULL);
    tracked_close(&socket, NULL);
    CHECK(!pier_handle_is_open(&a.handle));
    tracked_receive(&a, &ops[0], &byte, 1, NULL);
    tracked_receive_lent(&a, &ops[1], NULL);
    tracked_receive_each(&a, &ops[2], NULL);
    tracked_send(&a, &ops[3], "x", 1, NULL);
    tracked_send_vectored(&a, &ops[4], &vector, 1, NULL);
    tracked_shutdown(&a, &ops[5], NULL);
    tracked_accept(&listener, &ops[6], NULL);
    tracked_accept_each(&listener, &ops[7], NULL);
    tracked_connect(&socket, &ops[8], &address, NULL);
    RUN_UNTIL(loop, a.closes + listener.closes + socket.closes == 3);
    for (size_t i = 0; i < COUNT_OF(ops); i++) {
        CHECK_INT(ops[i].completions, ==, 1);
        CHECK_INT(ops[i].result, ==, PIER_ECLOSED);
        CHECK_INT(ops[i].events, ==, 0);
    }
    raw_close(peer);
}

static void second_close_does_nothing(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0};
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &byte, 1, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    tracked_close(&a, NULL);
    tracked_close(&a, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    if (a.closes == 0) {
        tracked_close(&a, NULL);
    }
    RUN_UNTIL(loop, a.closes == 1);
    run_quietly(loop, 10);
    CHECK_INT(a.closes, ==, 1);
    raw_close(peer);
}

static void close_without_function(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle a = {0}, b = {0};
    CHECK_OK(pier_socket_pair(loop, &a, &b));
    pier_close(&a, NULL);
    pier_close(&b, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(stats_of(loop).handles_open, ==, 0);
    CHECK_INT(stats_of(loop).closes, ==, 2);
}

struct reopened {
    struct tracked_handle handle;
    pier_descriptor next[2];
    bool done;
};

static void reopen_in_close(struct tracked_handle *handle)
{
    struct reopened *reopened = PIER_OWNER(handle, struct reopened, handle);
    struct pier_loop *loop = handle->loop;
    memset(&handle->handle, 0, sizeof(handle->handle));
    CHECK_OK(tracked_adopt(loop, handle, reopened->next[0]));
    reopened->done = true;
}

/* In the close function the handle's memory is the caller's. */
static void reopen_inside_the_close_function(void)
{
    struct pier_loop *loop = test_loop();
    struct reopened reopened = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &reopened.handle);
    raw_pair(reopened.next);
    tracked_close(&reopened.handle, reopen_in_close);
    RUN_UNTIL(loop, reopened.done);
    check_usable(&reopened.handle, reopened.next[1]);
    close_and_wait(&reopened.handle);
    raw_close(peer);
    raw_close(reopened.next[1]);
}

static void close_context(struct tracked *tracked)
{
    struct tracked_handle *handle = tracked->context;
    if (tracked->owner == NULL && (tracked->flags & PIER_MORE) != 0) {
        tracked_cancel(tracked);
    }
    tracked_close(handle, NULL);
}

/* One case per kind of op: its callback closes a handle (its own where it has one) that has
 * other ops in flight. */
static void inside_callbacks_of_every_kind(void)
{
    struct pier_loop *loop = test_loop();
    for (int kind = TRACKED_TIMER; kind <= TRACKED_SHUTDOWN; kind++) {
        struct tracked_handle a = {0}, listener = {0}, socket = {0};
        struct tracked op = {.context = &a}, receive = {0}, each = {0}, send = {0};
        struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
        const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
        pier_descriptor client = -1;
        char byte, other;
        switch ((enum tracked_kind)kind) {
        case TRACKED_TIMER: tracked_timer(loop, &op, 0, close_context); break;
        case TRACKED_TIMER_EACH:
            tracked_timer_each(loop, &op, 0, PIER_SECOND, close_context);
            break;
        case TRACKED_POST: tracked_post(loop, &op, close_context); break;
        case TRACKED_NOTIFY_EACH:
            tracked_notify_each(loop, &op, close_context);
            pier_notify(&op.op);
            break;
        case TRACKED_PREPARE_EACH: tracked_prepare_each(loop, &op, close_context); break;
        case TRACKED_CHECK_EACH: tracked_check_each(loop, &op, close_context); break;
        case TRACKED_POLL: tracked_poll(loop, &op, peer, PIER_WRITABLE, close_context); break;
        case TRACKED_POLL_EACH:
            tracked_poll_each(loop, &op, peer, PIER_WRITABLE, close_context);
            break;
        case TRACKED_ACCEPT:
            op.context = &listener;
            tracked_accept(&listener, &op, close_context);
            client = raw_connect(&address);
            break;
        case TRACKED_ACCEPT_EACH:
            op.context = &listener;
            tracked_accept_each(&listener, &op, close_context);
            client = raw_connect(&address);
            break;
        case TRACKED_CONNECT:
            op.context = &socket;
            tracked_open_socket(loop, &socket, &address);
            tracked_connect(&socket, &op, &address, close_context);
            break;
        case TRACKED_RECEIVE: tracked_receive(&a, &op, &byte, 1, close_context); break;
        case TRACKED_RECEIVE_LENT: tracked_receive_lent(&a, &op, close_context); break;
        case TRACKED_RECEIVE_EACH: tracked_receive_each(&a, &op, close_context); break;
        case TRACKED_SEND: tracked_send(&a, &op, "x", 1, close_context); break;
        case TRACKED_SHUTDOWN: tracked_shutdown(&a, &op, close_context); break;
        }
        tracked_receive(&a, &receive, &other, 1, NULL);
        tracked_receive_each(&a, &each, NULL);
        tracked_send(&a, &send, big, 1000, NULL);
        raw_send(peer, "x", 1);
        RUN_UNTIL(loop, !op.in_flight);
        tracked_close(&a, NULL);
        RUN_UNTIL(loop, a.closes == 1);
        CHECK(!receive.in_flight && !each.in_flight && !send.in_flight);
        tracked_close(&listener, NULL);
        RUN_UNTIL(loop, listener.closes == 1);
        if (kind == TRACKED_CONNECT) {
            RUN_UNTIL(loop, socket.closes == 1);
        }
        if (client != -1) {
            raw_close(client);
        }
        raw_close(peer);
    }
}

static void close_the_other(struct tracked *tracked)
{
    struct tracked_handle *other = tracked->context;
    if (tracked->result == 1) {
        tracked_close(other, NULL);
    }
}

/* Both are readable in one turn, and whichever comes first closes the other. */
static void other_handle_of_the_same_turn(void)
{
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 100; i++) {
        struct tracked_handle a = {0}, b = {0};
        struct tracked one = {.context = &b}, two = {.context = &a};
        char bytes[2];
        const pier_descriptor peer_a = tracked_raw_pair(loop, STREAM_PAIR, &a);
        const pier_descriptor peer_b = tracked_raw_pair(loop, STREAM_PAIR, &b);
        tracked_receive(&a, &one, &bytes[0], 1, close_the_other);
        tracked_receive(&b, &two, &bytes[1], 1, close_the_other);
        run(loop, PIER_RUN_NO_WAIT);
        raw_send(peer_a, "x", 1);
        raw_send(peer_b, "x", 1);
        RUN_UNTIL(loop, !one.in_flight && !two.in_flight);
        CHECK(one.result == 1 || two.result == 1);
        CHECK(one.result == 1 || one.result == PIER_ECLOSED);
        CHECK(two.result == 1 || two.result == PIER_ECLOSED);
        tracked_close(&a, NULL);
        tracked_close(&b, NULL);
        RUN_UNTIL(loop, a.closes == 1 && b.closes == 1);
        raw_close(peer_a);
        raw_close(peer_b);
    }
}

struct reuse {
    struct tracked_handle old[2], fresh;
    struct tracked receives[2], fresh_receive;
    pier_descriptor fresh_ends[2], old_number;
    char bytes[2], fresh_byte;
    bool opened;
};

static void open_fresh(struct tracked_handle *handle)
{
    struct reuse *reuse = handle->context;
    raw_pair(reuse->fresh_ends);
    CHECK_OK(tracked_adopt(handle->loop, &reuse->fresh, reuse->fresh_ends[0]));
    tracked_receive(&reuse->fresh, &reuse->fresh_receive, &reuse->fresh_byte, 1, NULL);
    reuse->opened = true;
}

static void close_the_later(struct tracked *tracked)
{
    struct reuse *reuse = tracked->context;
    const int other = tracked == &reuse->receives[0];
    if (!reuse->old[other].closing && !reuse->old[!other].closing) {
        reuse->old[other].context = reuse;
        reuse->old_number = pier_handle_descriptor(&reuse->old[other].handle);
        tracked_close(&reuse->old[other], open_fresh);
    }
}

/* Two descriptors have an event in one turn; the first closes the second, whose number the
 * system then gives to a fresh one: the event that was under way must not reach that. */
static void reused_number_gets_no_stale_event(void)
{
    struct pier_loop *loop = test_loop();
    unsigned reused = 0;
    for (int i = 0; i < 200; i++) {
        struct reuse reuse = {0};
        pier_descriptor peers[2];
        for (int j = 0; j < 2; j++) {
            peers[j] = tracked_raw_pair(loop, STREAM_PAIR, &reuse.old[j]);
            reuse.receives[j].context = &reuse;
            tracked_receive(&reuse.old[j], &reuse.receives[j], &reuse.bytes[j], 1, close_the_later);
        }
        run(loop, PIER_RUN_NO_WAIT);
        raw_send(peers[0], "old", 3);
        raw_send(peers[1], "old", 3);
        RUN_UNTIL(loop, reuse.opened);
        reused += reuse.fresh_ends[0] == reuse.old_number ||
                  reuse.fresh_ends[1] == reuse.old_number;
        for (int j = 0; j < 3; j++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        CHECK(reuse.fresh_receive.in_flight);
        raw_send(reuse.fresh_ends[1], "n", 1);
        CHECK_INT(wait_for(&reuse.fresh_receive), ==, 1);
        CHECK_INT(reuse.fresh_byte, ==, 'n');
        close_and_wait(&reuse.fresh);
        for (int j = 0; j < 2; j++) {
            if (reuse.old[j].closes == 0) {
                close_and_wait(&reuse.old[j]);
            }
            raw_close(peers[j]);
        }
        raw_close(reuse.fresh_ends[1]);
    }
    CHECK_INT(reused, >, 0);
}

static void completed_sends_are_delivered(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    static unsigned char got[60000];
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        pattern_fill(big, sizeof(got), 5, 0);
        send_all(&a, big, sizeof(got));
        close_and_wait(&a);
        raw_receive(peer, got, sizeof(got));
        CHECK_PATTERN(got, sizeof(got), 5, 0);
        raw_receive_end(peer);
        raw_close(peer);
    }
}

static void backlog_of_a_closed_listener(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    const pier_descriptor peer = raw_connect(&address);
    close_and_wait(&listener);
    CHECK_INT(raw_receive_rest(peer), ==, 0);
    raw_close(peer);
}

const struct test close_tests[] = {
    TEST(close, everything_in_flight_tcp),
    TEST(close, everything_in_flight_unix),
    TEST(close, everything_in_flight_pair),
    TEST(close, pipe_ends_in_flight),
    TEST(close, listener_with_accept_in_flight),
    TEST(close, run_until_idle_waits_for_closes),
    TEST(close, submitting_to_a_closing_handle),
    TEST(close, second_close_does_nothing),
    TEST(close, close_without_function),
    TEST(close, reopen_inside_the_close_function),
    TEST(close, inside_callbacks_of_every_kind),
    TEST(close, other_handle_of_the_same_turn),
    TEST(close, reused_number_gets_no_stale_event),
    TEST(close, completed_sends_are_delivered),
    TEST(close, backlog_of_a_closed_listener),
    TEST_END,
};
