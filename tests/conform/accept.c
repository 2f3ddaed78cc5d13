/* accept.c - taking connections: singly and multishot, left untaken, handed to other threads,
 * from a full backlog. */

#include "suite.h"

static void take_into_context(struct tracked *tracked)
{
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
    }
}

static void one_at_a_time(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_ABSTRACT; stream++) {
        struct tracked_handle listener = {0}, first = {0}, second = {0};
        struct tracked one = {.context = &first}, two = {.context = &second};
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const struct pier_address address = tracked_listen(loop, &listener, (enum stream)stream,
                                                           NULL);
        tracked_accept(&listener, &one, take_into_context);
        tracked_accept(&listener, &two, take_into_context);
        run(loop, PIER_RUN_NO_WAIT);
        const pier_descriptor peer_one = raw_connect(&address);
        CHECK_INT(wait_for(&one), ==, 1);
        CHECK(two.in_flight);
        const pier_descriptor peer_two = raw_connect(&address);
        CHECK_INT(wait_for(&two), ==, 1);
        check_usable(&first, peer_one);
        check_usable(&second, peer_two);
        CHECK_INT(stats_of(loop).accepts, >=, 2);
        close_and_wait(&first);
        close_and_wait(&second);
        close_and_wait(&listener);
        raw_close(peer_one);
        raw_close(peer_two);
        forget_address(&address);
    }
}

struct crowd {
    struct tracked_handle listener, members[100];
    struct tracked each;
    unsigned taken, limit;
};

static void take_member(struct tracked *tracked)
{
    struct crowd *crowd = PIER_OWNER(tracked, struct crowd, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(crowd->taken, <, COUNT_OF(crowd->members));
        tracked_take(tracked, &crowd->members[crowd->taken++]);
        if (crowd->taken == crowd->limit) {
            tracked_cancel(tracked);
        }
    }
}

static void close_members(struct crowd *crowd)
{
    for (unsigned i = 0; i < crowd->taken; i++) {
        close_and_wait(&crowd->members[i]);
    }
}

static void many_with_one_op(void)
{
    struct pier_loop *loop = test_loop();
    struct crowd crowd = {0};
    pier_descriptor peers[100];
    const struct pier_address address = tracked_listen(loop, &crowd.listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 50; i++) {
        peers[i] = raw_connect(&address);
    }
    tracked_accept_each(&crowd.listener, &crowd.each, take_member);
    RUN_UNTIL(loop, crowd.taken == 50);
    for (int i = 50; i < 100; i++) {
        peers[i] = raw_connect(&address);
        run(loop, PIER_RUN_NO_WAIT);
    }
    RUN_UNTIL(loop, crowd.taken == 100);
    CHECK(crowd.each.in_flight);
    for (int i = 0; i < 100; i++) {
        check_usable(&crowd.members[i], peers[i]);
    }
    tracked_cancel(&crowd.each);
    CHECK_INT(wait_for(&crowd.each), ==, PIER_ECANCELED);
    close_members(&crowd);
    close_and_wait(&crowd.listener);
    for (int i = 0; i < 100; i++) {
        raw_close(peers[i]);
    }
}

/* Those that came too late for the cancelled op are there for the next. */
static void cancel_inside_its_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct crowd crowd = {0};
    pier_descriptor peers[20];
    const struct pier_address address = tracked_listen(loop, &crowd.listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 20; i++) {
        peers[i] = raw_connect(&address);
    }
    while (crowd.taken < 20) {
        crowd.limit = crowd.taken + 3;
        tracked_accept_each(&crowd.listener, &crowd.each, take_member);
        if (crowd.limit <= 20) {
            CHECK_INT(wait_for(&crowd.each), ==, PIER_ECANCELED);
        } else {
            RUN_UNTIL(loop, crowd.taken == 20);
        }
    }
    for (int i = 0; i < 20; i++) {
        check_usable(&crowd.members[i], peers[i]);
        raw_close(peers[i]);
    }
    close_members(&crowd);
    close_and_wait(&crowd.listener);
}

static void paused_leaves_them_waiting(void)
{
    struct pier_loop *loop = test_loop();
    struct crowd crowd = {0};
    const struct pier_address address = tracked_listen(loop, &crowd.listener, STREAM_TCP4, NULL);
    tracked_accept_each(&crowd.listener, &crowd.each, take_member);
    run_quietly(loop, 5);
    tracked_pause(&crowd.each);
    const pier_descriptor peer = raw_connect(&address);
    run_quietly(loop, 30);
    CHECK_INT(crowd.taken, ==, 0);
    tracked_resume(&crowd.each);
    RUN_UNTIL(loop, crowd.taken == 1);
    check_usable(&crowd.members[0], peer);
    close_members(&crowd);
    close_and_wait(&crowd.listener);
    raw_close(peer);
}

static void not_taken_is_closed(void)
{
    struct pier_loop *loop = test_loop();
    const int before = platform_descriptor_count();
    struct tracked_handle listener = {0};
    struct tracked accept = {0}, each = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept(&listener, &accept, NULL);
    tracked_accept_each(&listener, &each, NULL);
    for (int i = 0; i < 20; i++) {
        const pier_descriptor peer = raw_connect(&address);
        if (i == 0) {
            CHECK_INT(wait_for(&accept), ==, 1);
        } else {
            RUN_UNTIL(loop, each.events == (unsigned)i);
        }
        raw_receive_end(peer);
        raw_close(peer);
    }
    /* A listener of iocp has sockets in store, so that the count is right only when it's closed. */
    close_and_wait(&listener);
    CHECK_INT(platform_descriptor_count(), ==, before);
}

static void take_again(struct tracked *tracked)
{
    struct pier_handle second = {0};
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
        CHECK_REFUSED(pier_accept_take(&tracked->op, NULL, &second), PIER_EINVAL);
        CHECK_REFUSED(pier_accept_detach(&tracked->op, &second), PIER_EINVAL);
        CHECK(!pier_handle_is_open(&second));
    }
}

static void take_nothing(struct tracked *tracked)
{
    struct pier_handle handle = {0};
    CHECK_INT(tracked->result, ==, PIER_ECANCELED);
    CHECK_REFUSED(pier_accept_take(&tracked->op, NULL, &handle), PIER_EINVAL);
}

static void only_one_take(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, taken = {0};
    struct tracked accept = {.context = &taken}, cancelled = {0};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept(&listener, &accept, take_again);
    const pier_descriptor peer = raw_connect(&address);
    CHECK_INT(wait_for(&accept), ==, 1);
    check_usable(&taken, peer);
    tracked_accept(&listener, &cancelled, take_nothing);
    tracked_cancel(&cancelled);
    wait_for(&cancelled);
    close_and_wait(&taken);
    close_and_wait(&listener);
    raw_close(peer);
}

struct handover {
    struct tracked_handle handle;
    struct pier_loop *loop;
    pier_descriptor peer;
    bool done;
};

static void detach_into_context(struct tracked *tracked)
{
    struct tracked_handle *handle = tracked->context;
    CHECK_OK(pier_accept_detach(&tracked->op, &handle->handle));
    CHECK(pier_handle_loop(&handle->handle) == NULL);
}

static void serve_on_thread(void *context)
{
    struct handover *handover = context;
    struct pier_loop *loop = test_loop();
    CHECK_OK(pier_attach(&handover->handle.handle, loop));
    handover->handle.loop = loop;
    CHECK(pier_handle_loop(&handover->handle.handle) == loop);
    check_usable(&handover->handle, handover->peer);
    close_and_wait(&handover->handle);
    test_loop_free(loop);
    handover->done = true;
}

static void detached_to_another_thread(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_UNIX; stream++) {
        struct tracked_handle listener = {0};
        struct handover handover = {0};
        struct tracked accept = {.context = &handover.handle};
        struct platform_thread thread;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const struct pier_address address = tracked_listen(loop, &listener, (enum stream)stream,
                                                           NULL);
        tracked_accept(&listener, &accept, detach_into_context);
        handover.peer = raw_connect(&address);
        CHECK_INT(wait_for(&accept), ==, 1);
        platform_thread_start(&thread, serve_on_thread, &handover);
        platform_thread_join(&thread);
        CHECK(handover.done);
        raw_receive_end(handover.peer);
        raw_close(handover.peer);
        close_and_wait(&listener);
        forget_address(&address);
    }
}

static void detached_and_discarded(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, handle = {0};
    struct tracked accept = {.context = &handle};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept(&listener, &accept, detach_into_context);
    const pier_descriptor peer = raw_connect(&address);
    CHECK_INT(wait_for(&accept), ==, 1);
    pier_handle_discard(&handle.handle);
    raw_receive_end(peer);
    raw_close(peer);
    close_and_wait(&listener);
}

/* More clients than the backlog holds: each is served in the end, the last ones when their
 * system tries again. */
static void full_backlog(void)
{
    struct pier_loop *loop = test_loop();
    struct crowd crowd = {0};
    const struct pier_listen_options options = {.backlog = 2};
    pier_descriptor peers[5];
    const struct pier_address address = tracked_listen(loop, &crowd.listener, STREAM_TCP4,
                                                       &options);
    for (int i = 0; i < 5; i++) {
        peers[i] = raw_connect_begin(&address);
    }
    tracked_accept_each(&crowd.listener, &crowd.each, take_member);
    RUN_UNTIL(loop, crowd.taken == 5);
    for (int i = 0; i < 5; i++) {
        send_all(&crowd.members[i], "?", 1); /* they needn't come in the order of connecting */
    }
    for (int i = 0; i < 5; i++) {
        char byte = 0;
        raw_receive(peers[i], &byte, 1);
        CHECK_INT(byte, ==, '?');
    }
    close_members(&crowd);
    close_and_wait(&crowd.listener);
    for (int i = 0; i < 5; i++) {
        raw_close(peers[i]);
    }
}

static void count_accept(struct tracked *tracked)
{
    unsigned *count = tracked->context;
    if ((tracked->flags & PIER_MORE) != 0) {
        (*count)++;
    }
}

/* One listening socket in two loops: each connection goes to one of them. */
static void shared_listener(void)
{
    struct pier_loop *loops[2] = {test_loop(), test_loop()};
    struct tracked_handle listeners[2] = {0};
    unsigned counts[2] = {0, 0};
    struct tracked each[2] = {{.context = &counts[0]}, {.context = &counts[1]}};
    const struct pier_listen_options options = {.exclusive = true};
    pier_descriptor peers[50];
    const struct pier_address address = tracked_listen(loops[0], &listeners[0], STREAM_TCP4,
                                                       &options);
    CHECK_OK(tracked_adopt(loops[1], &listeners[1],
                           raw_duplicate(pier_handle_descriptor(&listeners[0].handle))));
    tracked_accept_each(&listeners[0], &each[0], count_accept);
    tracked_accept_each(&listeners[1], &each[1], count_accept);
    for (int i = 0; i < 50; i++) {
        peers[i] = raw_connect(&address);
        run(loops[i % 2], PIER_RUN_NO_WAIT);
    }
    CHECK(each[0].in_flight); /* an iocp loop may have refused the other one */
    SPIN_UNTIL(loops[0], counts[0] + counts[1] == 50, run(loops[1], PIER_RUN_NO_WAIT));
    for (int i = 0; i < 2; i++) {
        run_quietly(loops[i], 10);
    }
    CHECK_INT(counts[0] + counts[1], ==, 50);
    for (int i = 0; i < 50; i++) {
        raw_receive_end(peers[i]);
        raw_close(peers[i]);
    }
    close_and_wait(&listeners[0]);
    close_and_wait(&listeners[1]);
}

static void shared_port(void)
{
    struct pier_loop *loops[2] = {test_loop(), test_loop()};
    struct tracked_handle listeners[2] = {0};
    unsigned counts[2] = {0, 0};
    struct tracked each[2] = {{.context = &counts[0]}, {.context = &counts[1]}};
    const struct pier_listen_options options = {.reuse_port = true};
    if (!test_can(PIER_CAN_SHARE_PORT)) {
        test_skip("no SO_REUSEPORT that balances");
        return;
    }
    const struct pier_address address = tracked_listen(loops[0], &listeners[0], STREAM_TCP4,
                                                       &options);
    listeners[1].loop = loops[1];
    CHECK_OK(pier_listen(loops[1], &listeners[1].handle, &address, &options));
    tracked_accept_each(&listeners[0], &each[0], count_accept);
    tracked_accept_each(&listeners[1], &each[1], count_accept);
    pier_descriptor peers[64];
    for (int i = 0; i < 64; i++) {
        peers[i] = raw_connect(&address);
    }
    SPIN_UNTIL(loops[0], counts[0] + counts[1] == 64, run(loops[1], PIER_RUN_NO_WAIT));
    /* That all of 64 fall to one side has a chance of 1 in 2^63. */
    CHECK_INT(counts[0], >, 0);
    CHECK_INT(counts[1], >, 0);
    for (int i = 0; i < 64; i++) {
        raw_close(peers[i]);
    }
    close_and_wait(&listeners[0]);
    close_and_wait(&listeners[1]);
}

/* Connections that are gone before they are accepted stop nobody. */
static void reset_in_the_backlog(void)
{
    struct pier_loop *loop = test_loop();
    struct crowd crowd = {0};
    const struct pier_address address = tracked_listen(loop, &crowd.listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 10; i++) {
        raw_reset(raw_connect(&address));
    }
    tracked_accept_each(&crowd.listener, &crowd.each, take_member);
    const pier_descriptor peer = raw_connect(&address);
    struct pier_address mine, theirs;
    raw_local_address(peer, &mine);
    struct tracked_handle *last = NULL;
    while (last == NULL) {
        const unsigned before = crowd.taken;
        RUN_UNTIL(loop, crowd.taken > before);
        struct tracked_handle *newest = &crowd.members[crowd.taken - 1];
        if (pier_peer_address(&newest->handle, &theirs) == 0 &&
            pier_address_equal(&mine, &theirs)) {
            last = newest;
        }
    }
    check_usable(last, peer);
    CHECK(crowd.each.in_flight);
    close_members(&crowd);
    close_and_wait(&crowd.listener);
    raw_close(peer);
}

static void on_what_does_not_listen(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked accept = {0}, each = {0};
    tracked_pair(loop, STREAM_TCP4, &a, &b);
    tracked_accept(&a, &accept, NULL);
    tracked_accept_each(&b, &each, NULL);
    CHECK_INT(wait_for(&accept), <, 0);
    CHECK_INT(wait_for(&each), <, 0);
    close_and_wait(&a);
    close_and_wait(&b);
}

static void detach_and_take(struct tracked *tracked)
{
    struct tracked_handle *listener = tracked->context;
    struct pier_handle accepted = {0};
    CHECK_OK(pier_detach(&listener->handle));
    CHECK_REFUSED(pier_accept_detach(&tracked->op, &accepted), PIER_EINVAL);
    CHECK_REFUSED(pier_accept_take(&tracked->op, NULL, &accepted), PIER_EINVAL);
}

/* What was accepted goes with its listener. */
static void listener_detached_first(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    struct tracked accept = {.context = &listener};
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    const pier_descriptor peer = raw_connect(&address);
    tracked_accept(&listener, &accept, detach_and_take);
    CHECK_INT(wait_for(&accept), ==, 1);
    pier_handle_discard(&listener.handle);
    listener.loop = NULL;
    raw_receive_end(peer);
    raw_close(peer);
}

const struct test accept_tests[] = {
    TEST(accept, one_at_a_time),
    TEST(accept, many_with_one_op),
    TEST(accept, cancel_inside_its_callback),
    TEST(accept, paused_leaves_them_waiting),
    TEST(accept, not_taken_is_closed),
    TEST(accept, only_one_take),
    TEST(accept, listener_detached_first),
    TEST(accept, detached_to_another_thread),
    TEST(accept, detached_and_discarded),
    TEST(accept, full_backlog),
    TEST(accept, shared_listener),
    TEST(accept, shared_port),
    TEST(accept, reset_in_the_backlog),
    TEST(accept, on_what_does_not_listen),
    TEST_END,
};
