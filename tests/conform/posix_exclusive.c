/* posix_exclusive.c - an exclusive listener shared by two processes, one of which doesn't accept: it
 * has paused its op, cancelled it, closed its handle, never submitted one, or is out of descriptors.
 * Each connection goes to the other, since a wake-up that goes to one who doesn't accept is lost.
 *
 * The test is one worker, a child is the other. Its answer to a connection is a letter; nobody waits
 * for anything but letters. */

#include "suite.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS = 6, FILLERS_MAX = 512 };

enum idleness { PAUSED, CANCELLED, CLOSED, NEVER_SUBMITTED, OUT_OF_DESCRIPTORS };

struct workers {
    struct pier_loop *loop;
    struct tracked_handle listener;
    struct tracked each;
    pier_descriptor child_ready[2], child_ends[2];
    struct pier_address address;
    pid_t child;
};

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
    while (fillers_count > 0) {
        close(fillers[--fillers_count]);
    }
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit_before), ==, 0);
}

/* ---- the child, which accepts ---------------------------------------------------------------- */

static struct pier_op child_accept;

static void answer(struct pier_op *op)
{
    struct pier_handle handle = {0};
    if (pier_accept_detach(op, &handle) == 0) {
        raw_send_now(pier_handle_descriptor(&handle), "C", 1);
        pier_handle_discard(&handle);
    }
}

/* Until the parent closes its end of a pipe. */
_Noreturn static void be_the_child(struct workers *workers)
{
    char byte;
    alarm(60);
    if (fillers_count > 0) {
        give_descriptors_back();
    }
    raw_close(workers->child_ends[1]);
    CHECK_OK(pier_loop_after_fork(workers->loop));
    if (!workers->each.in_flight) {
        pier_accept_each(&workers->listener.handle, &child_accept, answer);
    } else {
        workers->each.op.fn = answer; /* the parent's op goes on here */
        pier_resume(&workers->each.op);
    }
    for (int i = 0; i < 3; i++) {
        pier_loop_run(workers->loop, PIER_RUN_NO_WAIT);
    }
    raw_send(workers->child_ready[1], "r", 1);
    while (raw_receive_now(workers->child_ends[0], &byte, 1) == RAW_AGAIN) {
        struct pier_op tick = {0};
        pier_timer(workers->loop, &tick, 10 * PIER_MILLISECOND, answer);
        while (pier_op_pending(&tick)) {
            pier_loop_run(workers->loop, PIER_RUN_ONCE);
        }
    }
    _exit(0);
}

static void begin_child(struct workers *workers)
{
    char ready;
    fflush(NULL);
    workers->child = fork();
    CHECK_INT(workers->child, >=, 0);
    if (workers->child == 0) {
        be_the_child(workers);
    }
    raw_close(workers->child_ends[0]);
    raw_receive(workers->child_ready[0], &ready, 1);
}

static void end_child(struct workers *workers)
{
    int status = 0;
    raw_close(workers->child_ends[1]);
    CHECK_INT(waitpid(workers->child, &status, 0), ==, workers->child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        FAIL("the child ended with status %#x", (unsigned)status);
    }
    raw_close(workers->child_ready[0]);
    raw_close(workers->child_ready[1]);
}

/* ---- the test -------------------------------------------------------------------------------- */

static void answer_too(struct tracked *tracked)
{
    struct pier_handle handle = {0};
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_OK(pier_accept_detach(&tracked->op, &handle));
        raw_send_now(pier_handle_descriptor(&handle), "P", 1);
        pier_handle_discard(&handle);
    }
}

/* One after the other, since a lost wake-up shows at the next wait only. Returns how many the child
 * answered. */
static unsigned connect_all(struct workers *workers, bool frees_one)
{
    unsigned answered = 0;
    pier_descriptor clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        char letter = '?';
        if (frees_one) {
            close(fillers[--fillers_count]); /* for the client's own socket */
        }
        clients[i] = raw_connect(&workers->address);
        /* What a completion kernel had taken already for the idle worker may be held: one at the
         * most, and semantics.md says so. Nobody waits for an answer to that one. */
        const bool may_be_held = i == 0 && test_can(PIER_CAN_COMPLETE);
        const uint64_t begun = platform_now(), patience = PIER_SECOND / 2;
        SPIN_UNTIL(workers->loop,
                   raw_receive_now(clients[i], &letter, 1) == 1 ||
                       (may_be_held && platform_now() - begun > patience),
                   {});
        answered += letter == 'C';
        CHECK(letter != '?' || may_be_held);
    }
    for (int i = 0; i < CLIENTS; i++) {
        raw_close(clients[i]);
    }
    return answered;
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
    case NEVER_SUBMITTED:
    case OUT_OF_DESCRIPTORS: break;
    }
    for (int i = 0; i < 3; i++) {
        run(workers->loop, PIER_RUN_NO_WAIT);
    }
}

/* The parent waits before the child does, or after it: the kernel wakes the one or the other. */
static void other_worker_accepts(enum idleness idleness, bool parent_first)
{
    struct workers workers = {.child = -1};
    const struct pier_listen_options options = {.exclusive = true};
    struct pier_loop_options loop_options = test_options();
    loop_options.retry_ns = 5 * PIER_MILLISECOND;
    workers.loop = test_loop_with(&loop_options);
    raw_pipe(workers.child_ready);
    raw_pipe(workers.child_ends);
    workers.address = tracked_listen(workers.loop, &workers.listener, STREAM_TCP4, &options);
    if (idleness == OUT_OF_DESCRIPTORS) {
        use_up_descriptors(); /* before the accept: io_uring notes the limit at the submit */
    }
    if (parent_first && idleness != NEVER_SUBMITTED) {
        tracked_accept_each(&workers.listener, &workers.each, answer_too);
        run_quietly(workers.loop, 1);
    }
    begin_child(&workers);
    if (!parent_first && idleness != NEVER_SUBMITTED) {
        tracked_accept_each(&workers.listener, &workers.each, answer_too);
        run_quietly(workers.loop, 1);
    }
    become_idle(&workers, idleness);
    if (idleness == OUT_OF_DESCRIPTORS) {
        use_up_descriptors();
    }
    const unsigned answered = connect_all(&workers, idleness == OUT_OF_DESCRIPTORS);
    if (idleness == OUT_OF_DESCRIPTORS) {
        give_descriptors_back();
    }
    CHECK_INT(answered, >=, test_can(PIER_CAN_COMPLETE) ? CLIENTS - 1 : CLIENTS);
    if (idleness == PAUSED) {
        /* It can come back. */
        tracked_resume(&workers.each);
        run_quietly(workers.loop, 2);
        CHECK(workers.each.in_flight);
    }
    end_child(&workers);
    if (idleness != CLOSED) {
        close_and_wait(&workers.listener);
    }
    test_loop_free(workers.loop);
}

static void try_it(enum idleness idleness)
{
    if (!test_can(PIER_CAN_FORK)) {
        test_skip("the backend has no pier_loop_after_fork()");
        return;
    }
    other_worker_accepts(idleness, true);
    other_worker_accepts(idleness, false);
}

static void paused(void)
{
    try_it(PAUSED);
}

static void cancelled(void)
{
    try_it(CANCELLED);
}

static void closed(void)
{
    try_it(CLOSED);
}

static void never_submitted(void)
{
    try_it(NEVER_SUBMITTED);
}

static void out_of_descriptors(void)
{
    try_it(OUT_OF_DESCRIPTORS);
}

/* A single accept that is over leaves the next connections to the other worker as well. */
static void single_accept_over(void)
{
    if (!test_can(PIER_CAN_FORK)) {
        test_skip("the backend has no pier_loop_after_fork()");
        return;
    }
    struct workers workers = {.child = -1};
    const struct pier_listen_options options = {.exclusive = true};
    struct tracked single = {0};
    char letter;
    workers.loop = test_loop();
    raw_pipe(workers.child_ready);
    raw_pipe(workers.child_ends);
    workers.address = tracked_listen(workers.loop, &workers.listener, STREAM_TCP4, &options);
    tracked_accept(&workers.listener, &single, NULL);
    const pier_descriptor client = raw_connect(&workers.address);
    CHECK_INT(wait_for(&single), ==, 1);
    raw_receive_end(client);
    raw_close(client);
    begin_child(&workers);
    for (int i = 0; i < CLIENTS; i++) {
        const pier_descriptor next = raw_connect(&workers.address);
        SPIN_UNTIL(workers.loop, raw_receive_now(next, &letter, 1) == 1, {});
        CHECK_INT(letter, ==, 'C');
        raw_close(next);
    }
    end_child(&workers);
    close_and_wait(&workers.listener);
}

const struct test exclusive_tests[] = {
    TEST(exclusive, paused),
    TEST(exclusive, cancelled),
    TEST(exclusive, closed),
    TEST(exclusive, never_submitted),
    TEST(exclusive, out_of_descriptors),
    TEST(exclusive, single_accept_over),
    TEST_END,
};
