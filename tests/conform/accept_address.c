/* accept_address.c - the address of the peer in the callback of an accept: the same that the taken
 * handle tells, on every kind of stream, whether it came with the connection or was asked for. */

#include "suite.h"

enum { GUESTS = 6 };

struct door {
    struct tracked_handle listener, guests[GUESTS];
    struct tracked accept;
    struct pier_address seen[GUESTS];
    uint64_t calls[GUESTS]; /* of the system, that asking took */
    unsigned count;
};

static void ask_and_take(struct tracked *tracked)
{
    struct door *door = PIER_OWNER(tracked, struct door, accept);
    if (tracked->result != 1) {
        return;
    }
    const unsigned i = door->count++;
    struct pier_address again = {0};
    const uint64_t before = stats_of(tracked->loop).system_calls;
    CHECK_OK(pier_accept_address(&tracked->op, &door->seen[i]));
    door->calls[i] = stats_of(tracked->loop).system_calls - before;
    CHECK_OK(pier_accept_address(&tracked->op, &again));
    CHECK(pier_address_equal(&again, &door->seen[i]));
    tracked_take(tracked, &door->guests[i]);
    /* The socket is the caller's now, and is asked as any handle is. */
    CHECK_REFUSED(pier_accept_address(&tracked->op, &again), PIER_EINVAL);
}

static void check_guest(struct door *door, unsigned i, pier_descriptor peer)
{
    struct pier_address told = {0}, mine = {0};
    CHECK_OK(pier_peer_address(&door->guests[i].handle, &told));
    CHECK(pier_address_equal(&told, &door->seen[i]));
    if (told.family == PIER_ADDRESS_IPV4 || told.family == PIER_ADDRESS_IPV6) {
        raw_local_address(peer, &mine);
        CHECK(pier_address_equal(&mine, &door->seen[i]));
    }
    check_usable(&door->guests[i], peer);
    close_and_wait(&door->guests[i]);
    raw_close(peer);
}

static void told_of_every_stream(bool each)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_ABSTRACT; stream++) {
        struct door door = {0};
        pier_descriptor peers[GUESTS];
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const struct pier_address address = tracked_listen(loop, &door.listener,
                                                           (enum stream)stream, NULL);
        if (each) {
            tracked_accept_each(&door.listener, &door.accept, ask_and_take);
        }
        for (unsigned i = 0; i < GUESTS; i++) {
            if (!each) {
                tracked_accept(&door.listener, &door.accept, ask_and_take);
            }
            peers[i] = raw_connect(&address);
            RUN_UNTIL(loop, door.count == i + 1);
            /* Once it was asked for, it comes with the connection. */
            if (i > 0 && !test_backend_is("uring") && !raw_is_pipe_address(&address)) {
                CHECK_INT(door.calls[i], ==, 0);
            }
        }
        for (unsigned i = 0; i < GUESTS; i++) {
            check_guest(&door, i, peers[i]);
        }
        close_and_wait(&door.listener);
        forget_address(&address);
    }
}

static void told_by_single_accepts(void)
{
    told_of_every_stream(false);
}

static void told_by_each(void)
{
    told_of_every_stream(true);
}

/* Several at once: each completion has its own. */
static void told_of_a_crowd(void)
{
    struct pier_loop *loop = test_loop();
    struct door door = {0};
    pier_descriptor peers[GUESTS];
    const struct pier_address address = tracked_listen(loop, &door.listener, STREAM_TCP4, NULL);
    for (unsigned i = 0; i < GUESTS; i++) {
        peers[i] = raw_connect(&address);
    }
    tracked_accept_each(&door.listener, &door.accept, ask_and_take);
    RUN_UNTIL(loop, door.count == GUESTS);
    for (unsigned i = 0; i < GUESTS; i++) {
        check_guest(&door, i, peers[i]);
    }
    close_and_wait(&door.listener);
}

static void ask_in_vain(struct tracked *tracked)
{
    struct pier_address address = {.family = 77};
    CHECK_INT(tracked->result, ==, PIER_ECANCELED);
    CHECK_REFUSED(pier_accept_address(&tracked->op, &address), PIER_EINVAL);
    CHECK_INT(address.family, ==, 77);
}

static void nothing_to_tell(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    struct tracked accept = {0}, timer = {0};
    struct pier_address address;
    struct pier_op never = {0};
    CHECK_REFUSED(pier_accept_address(&never, &address), PIER_EINVAL);
    tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_accept(&listener, &accept, ask_in_vain);
    CHECK_REFUSED(pier_accept_address(&accept.op, &address), PIER_EINVAL);
    tracked_cancel(&accept);
    CHECK_INT(wait_for(&accept), ==, PIER_ECANCELED);
    tracked_timer(loop, &timer, 0, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_REFUSED(pier_accept_address(&timer.op, &address), PIER_EINVAL);
    close_and_wait(&listener);
}

const struct test accept_address_tests[] = {
    TEST(accept_address, told_by_single_accepts),
    TEST(accept_address, told_by_each),
    TEST(accept_address, told_of_a_crowd),
    TEST(accept_address, nothing_to_tell),
    TEST_END,
};
