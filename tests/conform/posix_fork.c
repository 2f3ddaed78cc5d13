/* posix_fork.c - the loop of a parent in its child: refused, or given kernel objects of its
 * own, the parent undisturbed. */

#include "suite.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs `body` in a child and waits for it. A failing check in the child is the outcome of the
 * test. */
static pid_t begin_child(void (*body)(void *), void *context)
{
    fflush(NULL);
    const pid_t child = fork();
    CHECK_INT(child, >=, 0);
    if (child == 0) {
        alarm(60);
        body(context);
        _exit(0);
    }
    return child;
}

static void end_child(pid_t child)
{
    int status = 0;
    CHECK_INT(waitpid(child, &status, 0), ==, child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        FAIL("the child ended with status %#x", (unsigned)status);
    }
}

/* Skips the test if so. */
static bool lacks_fork(void)
{
    if (test_can(PIER_CAN_FORK)) {
        return false;
    }
    test_skip("the backend has no pier_loop_after_fork()");
    return true;
}

struct family {
    struct pier_loop *loop;
    struct tracked_handle a;
    struct tracked each, timer, notify;
    pier_descriptor peer;
    uint64_t received;
};

static void count_received(struct tracked *tracked)
{
    struct family *family = PIER_OWNER(tracked, struct family, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        family->received += tracked->op.size;
    }
}

static void begin_family(struct family *family)
{
    family->loop = test_loop();
    family->peer = tracked_raw_pair(family->loop, STREAM_TCP4, &family->a);
    tracked_receive_each(&family->a, &family->each, count_received);
    tracked_timer(family->loop, &family->timer, 3600 * PIER_SECOND, NULL);
    tracked_notify_each(family->loop, &family->notify, NULL);
    run_quietly(family->loop, 5);
}

static void check_parent(struct family *family)
{
    const uint64_t before = family->received;
    raw_send(family->peer, "parent", 6);
    RUN_UNTIL(family->loop, family->received == before + 6);
    pier_notify(&family->notify.op);
    RUN_UNTIL(family->loop, family->notify.events > 0);
    CHECK(family->timer.in_flight);
}

static void end_family(struct family *family)
{
    tracked_cancel(&family->timer);
    tracked_cancel(&family->notify);
    tracked_close(&family->a, NULL);
    CHECK_INT(run(family->loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    raw_receive_end(family->peer);
    raw_close(family->peer);
}

static void run_without_leave(void *context)
{
    struct family *family = context;
    CHECK_INT(run(family->loop, PIER_RUN_NO_WAIT), ==, PIER_EFORKED);
    CHECK_INT(run(family->loop, PIER_RUN_UNTIL_IDLE), ==, PIER_EFORKED);
    CHECK_INT(pier_loop_drain(family->loop, PIER_SECOND), ==, PIER_EFORKED);
    CHECK_INT(family->received, ==, 0);
}

static void child_is_refused(void)
{
    struct family family = {0};
    begin_family(&family);
    raw_send(family.peer, "to the parent", 13);
    end_child(begin_child(run_without_leave, &family));
    RUN_UNTIL(family.loop, family.received == 13);
    check_parent(&family);
    end_family(&family);
}

static void loop_of_its_own(void *context)
{
    (void)context;
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    check_usable(&a, peer);
    close_and_wait(&a);
    test_loop_free(loop);
}

static void child_makes_its_own(void)
{
    struct family family = {0};
    begin_family(&family);
    const pid_t child = begin_child(loop_of_its_own, NULL);
    check_parent(&family);
    end_child(child);
    check_parent(&family);
    end_family(&family);
}

static void go_on_in_the_child(void *context)
{
    struct family *family = context;
    struct tracked timer = {0}, post = {0};
    CHECK_OK(pier_loop_after_fork(family->loop));
    tracked_timer(family->loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    tracked_post(family->loop, &post, NULL);
    CHECK_INT(wait_for(&post), ==, 0);
    CHECK(family->timer.in_flight);
    CHECK(family->each.in_flight);
    /* The receive goes on here as well. The parent waits for this child and takes nothing
     * meanwhile. */
    raw_send(family->peer, "child", 5);
    RUN_UNTIL(family->loop, family->received == 5);
    pier_notify(&family->notify.op);
    RUN_UNTIL(family->loop, family->notify.events == 1);
    tracked_cancel(&family->timer);
    tracked_cancel(&family->notify);
    tracked_close(&family->a, NULL);
    CHECK_INT(run(family->loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    test_loop_free(family->loop);
}

static void child_goes_on_after_fork(void)
{
    struct family family = {0};
    if (lacks_fork()) {
        return;
    }
    begin_family(&family);
    end_child(begin_child(go_on_in_the_child, &family));
    check_parent(&family);
    end_family(&family);
}

struct pending_send {
    struct pier_loop *loop;
    struct tracked_handle a, listener, taken;
    struct tracked send, accept;
    struct pier_address address;
};

static unsigned char big[1 << 20];

static void take_it(struct tracked *tracked)
{
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
    }
}

static void sends_are_the_parents(void *context)
{
    struct pending_send *pending = context;
    CHECK_OK(pier_loop_after_fork(pending->loop));
    CHECK_INT(wait_for(&pending->send), ==, PIER_ECANCELED);
    if (test_can(PIER_CAN_COMPLETE)) {
        /* The kernel gives the connection to the request that waits longest: the parent's. */
        CHECK_INT(drain(pending->loop, 20 * PIER_SECOND), ==, 0);
        return;
    }
    /* Accepts go on. */
    const pier_descriptor client = raw_connect(&pending->address);
    CHECK_INT(wait_for(&pending->accept), ==, 1);
    check_usable(&pending->taken, client);
    CHECK_INT(drain(pending->loop, 20 * PIER_SECOND), ==, 0);
}

static void sends_in_flight_stay_with_the_parent(void)
{
    struct pending_send pending = {.loop = test_loop(), .accept = {.context = NULL}};
    static unsigned char got[sizeof(big)];
    if (lacks_fork()) {
        return;
    }
    pattern_fill(big, sizeof(big), 81, 0);
    pending.accept.context = &pending.taken;
    pending.address = tracked_listen(pending.loop, &pending.listener, STREAM_TCP4, NULL);
    const pier_descriptor peer = tracked_raw_pair(pending.loop, STREAM_PAIR, &pending.a);
    tracked_accept(&pending.listener, &pending.accept, take_it);
    tracked_send(&pending.a, &pending.send, big, sizeof(big), NULL);
    run_quietly(pending.loop, 5);
    CHECK(pending.send.in_flight);
    end_child(begin_child(sends_are_the_parents, &pending));
    size_t read = 0;
    SPIN_UNTIL(pending.loop, read == sizeof(got), {
        const int64_t now = raw_receive_now(peer, got + read, sizeof(got) - read);
        CHECK(now > 0 || now == RAW_AGAIN);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_PATTERN(got, sizeof(got), 81, 0);
    CHECK_INT(wait_for(&pending.send), ==, sizeof(big));
    const pier_descriptor client = raw_connect(&pending.address);
    CHECK_INT(wait_for(&pending.accept), ==, 1);
    check_usable(&pending.taken, client);
    close_and_wait(&pending.a);
    close_and_wait(&pending.taken);
    close_and_wait(&pending.listener);
    raw_close(client);
    raw_close(peer);
}

struct watched {
    struct pier_loop *loop;
    struct tracked_handle a;
    struct tracked poll, each, cancelled, cancelled_each, receive;
    pier_descriptor peer, pipe[2];
    char got[4];
};

static void begin_watched(struct watched *watched)
{
    struct pier_loop *loop = watched->loop = test_loop();
    watched->peer = tracked_raw_pair(loop, STREAM_TCP4, &watched->a);
    raw_pipe(watched->pipe);
    tracked_poll(loop, &watched->poll, watched->pipe[0], PIER_READABLE, NULL);
    tracked_poll_each(loop, &watched->each, watched->pipe[0], PIER_READABLE, NULL);
    tracked_poll(loop, &watched->cancelled, watched->pipe[0], PIER_READABLE, NULL);
    tracked_poll_each(loop, &watched->cancelled_each, watched->pipe[0], PIER_READABLE, NULL);
    tracked_receive(&watched->a, &watched->receive, watched->got, sizeof(watched->got), NULL);
    run_quietly(loop, 5);
    tracked_cancel(&watched->cancelled);
    tracked_cancel(&watched->cancelled_each);
    tracked_cancel(&watched->receive);
}

static void end_watched(struct watched *watched)
{
    char byte;
    CHECK_INT(wait_for(&watched->cancelled), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&watched->cancelled_each), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&watched->receive), ==, PIER_ECANCELED);
    raw_send(watched->pipe[1], "x", 1);
    CHECK_INT(wait_for(&watched->poll), ==, PIER_READABLE);
    RUN_UNTIL(watched->loop, watched->each.events > 0);
    raw_receive(watched->pipe[0], &byte, 1);
    tracked_cancel(&watched->each);
    CHECK_INT(wait_for(&watched->each), ==, PIER_ECANCELED);
    close_and_wait(&watched->a);
}

static void watch_in_the_child(void *context)
{
    struct watched *watched = context;
    CHECK_OK(pier_loop_after_fork(watched->loop));
    run_quietly(watched->loop, 5);
    CHECK(watched->poll.in_flight);
    CHECK_INT(watched->each.events, ==, 0);
    end_watched(watched);
    test_loop_free(watched->loop);
}

/* Polls, and cancels that no turn has seen yet, are as good in the child as in the parent. The
 * parent's polls may see what comes and goes in the child. */
static void polls_and_cancels_in_both(void)
{
    struct watched watched = {0};
    if (lacks_fork()) {
        return;
    }
    begin_watched(&watched);
    end_child(begin_child(watch_in_the_child, &watched));
    end_watched(&watched);
    raw_close(watched.peer);
    raw_close(watched.pipe[0]);
    raw_close(watched.pipe[1]);
}

struct connecting {
    struct pier_loop *loop;
    struct tracked_handle a;
    struct tracked connect, receive, send;
    char byte;
};

static void give_up_in_the_child(void *context)
{
    struct connecting *c = context;
    CHECK_OK(pier_loop_after_fork(c->loop));
    CHECK_INT(wait_for(&c->connect), ==, PIER_ECANCELED);
    CHECK_INT(wait_for(&c->receive), ==, PIER_ENOTCONN);
    tracked_receive(&c->a, &c->receive, &c->byte, 1, NULL);
    CHECK_INT(wait_for(&c->receive), ==, PIER_ENOTCONN);
    tracked_send(&c->a, &c->send, "x", 1, NULL);
    CHECK_INT(wait_for(&c->send), ==, PIER_ENOTCONN);
    close_and_wait(&c->a);
    test_loop_free(c->loop);
}

/* In the child a connect in flight has not succeeded, which decides about all behind it. */
static void connect_in_flight_stays_with_the_parent(void)
{
    struct raw_black_hole hole;
    if (!test_can(PIER_CAN_FORK) || !raw_black_hole_open(&hole, PIER_ADDRESS_IPV4)) {
        test_skip("the backend has no pier_loop_after_fork(), or connects can't be held up");
        return;
    }
    struct connecting c = {.loop = test_loop()};
    tracked_open_socket(c.loop, &c.a, &hole.address);
    tracked_connect(&c.a, &c.connect, &hole.address, NULL);
    tracked_receive(&c.a, &c.receive, &c.byte, 1, NULL);
    run_quietly(c.loop, 5);
    end_child(begin_child(give_up_in_the_child, &c));
    run_quietly(c.loop, 5);
    CHECK(c.connect.in_flight);
    CHECK(c.receive.in_flight);
    close_and_wait(&c.a);
    raw_black_hole_close(&hole);
}

static void exit_at_once(void *context)
{
    (void)context;
}

/* A child that doesn't want the loop need not do anything. */
static void child_that_ignores_it(void)
{
    struct family family = {0};
    begin_family(&family);
    for (int i = 0; i < 10; i++) {
        end_child(begin_child(exit_at_once, NULL));
        check_parent(&family);
    }
    end_family(&family);
}

struct asked_for {
    struct pier_loop *loop;
    uint64_t token;
};

static void ask_and_free(void *context)
{
    struct asked_for *asked_for = context;
    pier_cancel_remote(asked_for->loop, asked_for->token);
    test_loop_free(asked_for->loop);
}

/* A cancel that the loop hasn't seen when it's freed in a child: what it watches is the
 * parent's. */
static void freed_with_a_cancel_asked_for(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    pier_descriptor pipe[2];
    if (lacks_fork()) {
        return;
    }
    raw_pipe(pipe);
    tracked_poll(loop, &poll, pipe[0], PIER_READABLE, NULL);
    run_quietly(loop, 5);
    struct asked_for asked_for = {loop, pier_op_token(&poll.op)};
    CHECK(asked_for.token != 0);
    end_child(begin_child(ask_and_free, &asked_for));
    run_quietly(loop, 5);
    CHECK(poll.in_flight);
    raw_send(pipe[1], "x", 1);
    CHECK_INT(wait_for(&poll), ==, PIER_READABLE);
    raw_close(pipe[0]);
    raw_close(pipe[1]);
}

/* What a child keeps where the parent's rings were: as much as it can get of each size that these
 * may have. */
#define MAPPINGS 64
#define MAPPING_BYTES 65536

struct mappings {
    unsigned char *at[MAPPINGS];
};

static void map_memory(struct mappings *mappings)
{
    for (int i = 0; i < MAPPINGS; i++) {
        const size_t bytes = MAPPING_BYTES >> i % 5;
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                            0);
        CHECK(memory != MAP_FAILED);
        mappings->at[i] = memory;
        memset(memory, i + 1, bytes);
    }
}

/* Touching what was unmapped ends the child. */
static void check_memory(const struct mappings *mappings)
{
    for (int i = 0; i < MAPPINGS; i++) {
        for (int j = 0; j < MAPPING_BYTES >> i % 5; j++) {
            CHECK_INT(mappings->at[i][j], ==, i + 1);
        }
    }
}

#define LOOPS 3

struct families {
    struct family each[LOOPS];
    unsigned order; /* of LOOPS! */
    bool frees;     /* without making the loops anew */
    bool maps;
};

static const unsigned char orders[][LOOPS] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                              {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

static void use_in_the_child(struct family *family)
{
    raw_send(family->peer, "child", 5);
    RUN_UNTIL(family->loop, family->received >= 5);
    pier_notify(&family->notify.op);
    RUN_UNTIL(family->loop, family->notify.events > 0);
}

static void several_in_the_child(void *context)
{
    struct families *families = context;
    const unsigned char *order = orders[families->order];
    struct mappings mappings;
    if (families->maps) {
        map_memory(&mappings);
    }
    for (int i = 0; i < LOOPS; i++) {
        struct family *family = &families->each[order[i]];
        if (families->frees) {
            test_loop_free(family->loop);
        } else {
            CHECK_OK(pier_loop_after_fork(family->loop));
        }
    }
    for (int i = 0; i < LOOPS && !families->frees; i++) {
        use_in_the_child(&families->each[i]);
    }
    for (int i = 0; i < LOOPS && !families->frees; i++) {
        struct family *family = &families->each[order[i]];
        CHECK_INT(drain(family->loop, 20 * PIER_SECOND), ==, 0);
        test_loop_free(family->loop);
    }
    if (families->maps) {
        check_memory(&mappings);
    }
}

/* Whatever the child has put where the parent's loops had something, it is the child's; and so are
 * its new loops, in whatever order they are made. */
static void several_loops_in_any_order(void)
{
    static struct families families;
    if (lacks_fork()) {
        return;
    }
    for (int i = 0; i < LOOPS; i++) {
        begin_family(&families.each[i]);
    }
    for (families.order = 0; families.order < COUNT_OF(orders); families.order++) {
        for (unsigned how = 0; how < 4; how++) {
            families.frees = (how & 1) != 0;
            families.maps = (how & 2) != 0;
            end_child(begin_child(several_in_the_child, &families));
        }
    }
    for (int i = 0; i < LOOPS; i++) {
        check_parent(&families.each[i]);
        end_family(&families.each[i]);
    }
}

static void resume_in_the_child(void *context)
{
    struct family *family = context;
    CHECK_OK(pier_loop_after_fork(family->loop));
    tracked_resume(&family->each);
    raw_send(family->peer, "child", 5);
    RUN_UNTIL(family->loop, family->received == 13);
    CHECK_INT(drain(family->loop, 20 * PIER_SECOND), ==, 0);
    test_loop_free(family->loop);
}

/* Data that a paused receive had from the kernel before the fork is delivered in both. */
static void data_held_back(void)
{
    struct family family = {0};
    if (lacks_fork()) {
        return;
    }
    begin_family(&family);
    raw_send(family.peer, "held", 4);
    RUN_UNTIL(family.loop, family.received == 4);
    tracked_pause(&family.each);
    raw_send(family.peer, "back", 4);
    run_quietly(family.loop, 10);
    /* Only what the kernel has handed over is held: the rest is for whoever reads it first. */
    if (raw_available(family.a.handle.descriptor_) == 0) {
        end_child(begin_child(resume_in_the_child, &family));
    }
    tracked_resume(&family.each);
    RUN_UNTIL(family.loop, family.received == 8);
    check_parent(&family);
    end_family(&family);
}

struct half_closed {
    struct pier_loop *loop;
    struct tracked_handle a;
};

static void close_in_the_child(void *context)
{
    struct half_closed *closing = context;
    CHECK_OK(pier_loop_after_fork(closing->loop));
    CHECK_INT(run(closing->loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(closing->a.closes, ==, 1);
    test_loop_free(closing->loop);
}

/* A handle whose close has begun is closed in both, at whichever turn the fork comes. */
static void between_close_and_its_callback(void)
{
    if (lacks_fork()) {
        return;
    }
    for (int turns = 0; turns < 4; turns++) {
        struct half_closed closing = {.loop = test_loop()};
        const pier_descriptor peer = tracked_raw_pair(closing.loop, STREAM_TCP4, &closing.a);
        run_quietly(closing.loop, 2);
        tracked_close(&closing.a, NULL);
        for (int i = 0; i < turns; i++) {
            run(closing.loop, PIER_RUN_NO_WAIT);
        }
        const pid_t child = begin_child(close_in_the_child, &closing);
        CHECK_INT(run(closing.loop, PIER_RUN_UNTIL_IDLE), ==, 0);
        CHECK_INT(closing.a.closes, ==, 1);
        end_child(child);
        raw_receive_end(peer); /* neither has kept it open */
        raw_close(peer);
    }
}

const struct test fork_tests[] = {
    TEST(fork, child_is_refused),
    TEST(fork, child_makes_its_own),
    TEST(fork, child_goes_on_after_fork),
    TEST(fork, sends_in_flight_stay_with_the_parent),
    TEST(fork, connect_in_flight_stays_with_the_parent),
    TEST(fork, polls_and_cancels_in_both),
    TEST(fork, child_that_ignores_it),
    TEST(fork, freed_with_a_cancel_asked_for),
    TEST(fork, several_loops_in_any_order),
    TEST(fork, data_held_back),
    TEST(fork, between_close_and_its_callback),
    TEST_END,
};
