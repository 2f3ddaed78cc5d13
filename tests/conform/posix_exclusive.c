/* posix_exclusive.c - an exclusive listener shared by two processes, one of which doesn't accept:
 * it has paused its op, cancelled it, closed its handle, never submitted one, or is out of
 * descriptors. Each connection goes to the other, since a wake-up that goes to one who doesn't
 * accept is lost.
 *
 * The test's process is the worker that doesn't accept, and it must sleep in its wait: a kernel may
 * pass over a waiter that is awake. So all else is done by the child, whose loop accepts, and by a
 * thread of the child, which connects. */

#include "suite.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS = 6, FILLERS_MAX = 512 };

enum idleness { PAUSED, CANCELLED, CLOSED, NEVER_SUBMITTED, SINGLE_IS_OVER, OUT_OF_DESCRIPTORS };

struct workers {
    struct pier_loop *loop;
    struct tracked_handle listener;
    struct tracked each;
    pier_descriptor to_child[2], from_child[2];
    struct pier_address address;
    pid_t child;
    enum idleness idleness;
};

/* The first connection may meet a worker that can't know yet that it can't accept it: what a
 * completion kernel had taken already for that worker is held; and a wake-up that finds a worker
 * without descriptors can't be handed on, so that this connection waits for the next one. */
static bool may_hold_one(const struct workers *workers)
{
    return test_can(PIER_CAN_COMPLETE) || workers->idleness == OUT_OF_DESCRIPTORS;
}

/* ---- no descriptors -------------------------------------------------------------------------- */

static int fillers[FILLERS_MAX], fillers_count;
static struct rlimit limit_before;

/* Also those that have become free since the limit was lowered. */
static void use_up_descriptors(void)
{
    if (fillers_count == 0) {
        CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit_before), ==, 0);
        const int top = dup(0);
        struct rlimit lowered = limit_before;
        CHECK_INT(top, >=, 0);
        close(top);
        lowered.rlim_cur = (rlim_t)top + 40;
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &lowered), ==, 0);
    }
    for (int filler = dup(0); filler >= 0; filler = dup(0)) {
        CHECK_INT(fillers_count, <, FILLERS_MAX);
        fillers[fillers_count++] = filler;
    }
}

static void give_descriptors_back(void)
{
    if (fillers_count > 0) {
        while (fillers_count > 0) {
            close(fillers[--fillers_count]);
        }
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit_before), ==, 0);
    }
}

/* ---- the child, which accepts and connects --------------------------------------------------- */

static struct pier_op child_accept, child_post;
static bool child_is_done;

static void answer(struct pier_op *op)
{
    struct pier_handle handle = {0};
    if (pier_accept_detach(op, &handle) == 0) {
        raw_send_now(pier_handle_descriptor(&handle), "C", 1);
        pier_handle_discard(&handle);
    }
}

static void end_child_loop(struct pier_op *op)
{
    (void)op;
    child_is_done = true;
}

/* One after the other, since a lost wake-up shows at the next wait only. Tells the parent how many
 * the child's loop has answered. */
static void connect_all(void *context)
{
    struct workers *workers = context;
    char answered = '0', go;
    raw_receive(workers->to_child[0], &go, 1);
    for (int i = 0; i < CLIENTS; i++) {
        char letter = '?';
        const pier_descriptor client = raw_connect(&workers->address);
        const bool may_be_held = i == 0 && may_hold_one(workers); /* nobody waits long for that */
        if (platform_wait_readable(client, may_be_held ? PIER_SECOND / 2 : 20 * PIER_SECOND)) {
            raw_receive_now(client, &letter, 1);
        }
        answered = (char)(answered + (letter == 'C'));
        raw_close(client);
    }
    raw_send(workers->from_child[1], &answered, 1);
    pier_post(workers->loop, &child_post, end_child_loop);
}

_Noreturn static void be_the_child(struct workers *workers)
{
    struct platform_thread thread;
    alarm(60);
    give_descriptors_back();
    CHECK_OK(pier_loop_after_fork(workers->loop));
    if (workers->each.in_flight) {
        workers->each.op.fn = answer; /* the parent's op goes on here */
    } else {
        pier_accept_each(&workers->listener.handle, &child_accept, answer);
    }
    for (int i = 0; i < 3; i++) {
        pier_loop_run(workers->loop, PIER_RUN_NO_WAIT);
    }
    raw_send(workers->from_child[1], "r", 1);
    platform_thread_start(&thread, connect_all, workers);
    while (!child_is_done) {
        pier_loop_run(workers->loop, PIER_RUN_ONCE);
    }
    platform_thread_join(&thread);
    _exit(0);
}

/* Returns once the child accepts. */
static void begin_child(struct workers *workers)
{
    char ready;
    fflush(NULL);
    workers->child = fork();
    CHECK_INT(workers->child, >=, 0);
    if (workers->child == 0) {
        be_the_child(workers);
    }
    raw_receive(workers->from_child[0], &ready, 1);
}

static void end_child(struct workers *workers)
{
    int status = 0;
    CHECK_INT(waitpid(workers->child, &status, 0), ==, workers->child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        FAIL("the child ended with status %#x", (unsigned)status);
    }
    raw_close(workers->to_child[0]);
    raw_close(workers->to_child[1]);
    raw_close(workers->from_child[1]);
}

/* ---- the worker that doesn't accept ---------------------------------------------------------- */

static void begin_accept(struct workers *workers, enum idleness idleness)
{
    if (idleness == SINGLE_IS_OVER) {
        tracked_accept(&workers->listener, &workers->each, NULL);
        const pier_descriptor client = raw_connect(&workers->address);
        CHECK_INT(wait_for(&workers->each), ==, 1);
        raw_receive_end(client);
        raw_close(client);
    } else if (idleness != NEVER_SUBMITTED) {
        tracked_accept_each(&workers->listener, &workers->each, NULL);
    }
    run_quietly(workers->loop, 1);
}

static void become_idle(struct workers *workers, enum idleness idleness)
{
    switch (idleness) {
    case PAUSED: tracked_pause(&workers->each); break;
    case CANCELLED:
        tracked_cancel(&workers->each);
        CHECK_INT(wait_for(&workers->each), ==, PIER_ECANCELED);
        break;
    case CLOSED: close_and_wait(&workers->listener); break;
    case OUT_OF_DESCRIPTORS: use_up_descriptors(); break;
    case NEVER_SUBMITTED:
    case SINGLE_IS_OVER: break;
    }
    for (int i = 0; i < 3; i++) {
        run(workers->loop, PIER_RUN_NO_WAIT);
    }
}

/* It begins to accept before the child does, or after it: the kernel wakes the one or the other
 * first. */
static void other_worker_accepts(enum idleness idleness, bool parent_first)
{
    struct workers workers = {.child = -1, .idleness = idleness};
    const struct pier_listen_options options = {.exclusive = true};
    struct pier_loop_options loop_options = test_options();
    struct tracked_handle pipe = {0};
    struct tracked receive = {0};
    char answered = 0;
    loop_options.retry_ns = 3600 * PIER_SECOND;
    workers.loop = test_loop_with(&loop_options);
    raw_pipe(workers.to_child);
    raw_pipe(workers.from_child);
    workers.address = tracked_listen(workers.loop, &workers.listener, STREAM_TCP4, &options);
    if (idleness == OUT_OF_DESCRIPTORS) {
        use_up_descriptors(); /* before the accept: io_uring notes the limit at the submit */
    }
    if (parent_first) {
        begin_accept(&workers, idleness);
    }
    begin_child(&workers);
    if (!parent_first) {
        begin_accept(&workers, idleness);
    }
    become_idle(&workers, idleness);
    CHECK_OK(tracked_adopt(workers.loop, &pipe, workers.from_child[0]));
    tracked_receive(&pipe, &receive, &answered, 1, NULL);
    raw_send(workers.to_child[1], "g", 1);
    CHECK_INT(wait_for(&receive), ==, 1); /* asleep, unless it's woken for nothing */
    CHECK_INT(answered - '0', >=, CLIENTS - may_hold_one(&workers));
    end_child(&workers);
    give_descriptors_back();
    if (idleness == PAUSED) {
        /* More than one, since what a dead child's ring had asked for goes on for a moment. */
        tracked_resume(&workers.each);
        test_wait_begin(__FILE__, __LINE__, "a connection after the resume");
        while (workers.each.events == 0) {
            const pier_descriptor client = raw_connect(&workers.address);
            run_quietly(workers.loop, 2);
            raw_close(client);
        }
        test_wait_end();
    }
    close_and_wait(&pipe);
    if (idleness != CLOSED) {
        close_and_wait(&workers.listener);
    }
    test_loop_free(workers.loop);
}

static void try_both_orders(enum idleness idleness)
{
    if (!test_can(PIER_CAN_FORK)) {
        test_skip("the backend has no pier_loop_after_fork()");
        return;
    }
    other_worker_accepts(idleness, true);
    if (idleness != SINGLE_IS_OVER) { /* its one connection would be the child's */
        other_worker_accepts(idleness, false);
    }
}

static void paused(void)
{
    try_both_orders(PAUSED);
}

static void cancelled(void)
{
    try_both_orders(CANCELLED);
}

static void closed(void)
{
    try_both_orders(CLOSED);
}

static void never_submitted(void)
{
    try_both_orders(NEVER_SUBMITTED);
}

static void single_accept_is_over(void)
{
    try_both_orders(SINGLE_IS_OVER);
}

static void out_of_descriptors(void)
{
    try_both_orders(OUT_OF_DESCRIPTORS);
}

const struct test exclusive_tests[] = {
    TEST(exclusive, paused),
    TEST(exclusive, cancelled),
    TEST(exclusive, closed),
    TEST(exclusive, never_submitted),
    TEST(exclusive, single_accept_is_over),
    TEST(exclusive, out_of_descriptors),
    TEST_END,
};
