/* recovery_test.c - what a run that failed, or a submission queue that stayed full, leaves behind:
 * failures of a wait at moments that the scenario of fault_test.c doesn't come to.
 *
 *   recovery-test BACKEND
 *
 * Exit code 0: passed, 1: failed, 77: the backend isn't to be had here. A hang is ended by a
 * signal. */

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pier/pier.h"
#include "sys/sys.h"

static const char *backend;
static unsigned failed;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("not ok %s: %s:%d: %s\n", backend, __FILE__, __LINE__, #condition); \
            failed++; \
        } \
    } while (0)

static enum pier__sys_call wait_call(void)
{
    return strcmp(backend, "uring") == 0    ? PIER__CALL_URING_ENTER
           : strcmp(backend, "epoll") == 0  ? PIER__CALL_EPOLL_WAIT
           : strcmp(backend, "select") == 0 ? PIER__CALL_SELECT
                                            : PIER__CALL_POLL;
}

static void ignore(struct pier_op *op)
{
    (void)op;
}

static void run_for(struct pier_loop *loop, uint64_t time_ns)
{
    struct pier_op timer = {0};
    pier_timer(loop, &timer, time_ns, ignore);
    while (pier_op_pending(&timer)) {
        CHECK(pier_loop_run(loop, PIER_RUN_ONCE) >= 0);
    }
}

static struct pier_loop *make_loop(uint32_t queue_size)
{
    struct pier_loop *loop = NULL;
    const struct pier_loop_options options = {.backend = backend, .queue_size = queue_size};
    if (pier_loop_new(&loop, &options) < 0) {
        printf("not ok %s: %s\n", backend, pier_error_detail());
        failed++;
    }
    return loop;
}

struct receiver {
    struct pier_handle handle;
    struct pier_op each;
    uint64_t received;
    int ends[2];
};

static void count(struct pier_op *op)
{
    struct receiver *receiver = PIER_OWNER(op, struct receiver, each);
    if (op->flags & PIER_MORE) {
        receiver->received += op->size;
    }
}

static void send_byte(int descriptor)
{
    CHECK(send(descriptor, "x", 1, 0) == 1);
}

/* A resumed handle waits to be served when the wait fails; then another one is resumed. */
static void handles_to_be_served(void)
{
    struct pier_loop *loop = make_loop(0);
    struct receiver receivers[2] = {{.received = 0}};
    if (loop == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, receivers[i].ends) == 0);
        CHECK(pier_adopt(loop, &receivers[i].handle, receivers[i].ends[0]) == 0);
        pier_receive_each(&receivers[i].handle, &receivers[i].each, count);
    }
    run_for(loop, PIER_MILLISECOND);
    for (int i = 0; i < 2; i++) {
        pier_pause(&receivers[i].each);
        send_byte(receivers[i].ends[1]);
    }
    run_for(loop, 5 * PIER_MILLISECOND);
    pier_resume(&receivers[0].each);
    pier__fault_set(wait_call(), 1, PIER_EINVAL, false);
    CHECK(pier_loop_run(loop, PIER_RUN_NO_WAIT) == PIER_EINVAL);
    pier_resume(&receivers[1].each);
    for (int i = 0; i < 100 && receivers[0].received + receivers[1].received < 2; i++) {
        run_for(loop, PIER_MILLISECOND);
    }
    CHECK(receivers[0].received == 1);
    CHECK(receivers[1].received == 1);
    CHECK(pier_loop_drain(loop, PIER_SECOND) == 0);
    close(receivers[0].ends[1]);
    close(receivers[1].ends[1]);
    pier_loop_free(loop);
}

struct poller {
    struct pier_loop *loop;
    struct pier_op each, other;
    int ends[2];
    unsigned events;
};

static void resume_with_the_queue_full(struct pier_op *op)
{
    struct poller *poller = PIER_OWNER(op, struct poller, each);
    if ((op->flags & PIER_MORE) && poller->events++ == 0) {
        pier_poll(poller->loop, &poller->other, poller->ends[1], PIER_PRIORITY, ignore);
        pier__fault_set(wait_call(), 1, PIER_EAGAIN, true);
        pier_pause(op);
        pier_resume(op);
    }
}

/* A poll that is resumed in its own callback, when nothing can be submitted, is armed once. */
static void poll_resumed_in_its_callback(void)
{
    struct poller poller = {.loop = make_loop(1)};
    if (poller.loop == NULL) {
        return;
    }
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, poller.ends) == 0);
    pier_poll_each(poller.loop, &poller.each, poller.ends[0], PIER_READABLE,
                   resume_with_the_queue_full);
    send_byte(poller.ends[1]);
    while (poller.events == 0) {
        CHECK(pier_loop_run(poller.loop, PIER_RUN_ONCE) >= 0);
    }
    pier__fault_reset();
    for (int i = 0; i < 100 && poller.events < 3; i++) {
        run_for(poller.loop, PIER_MILLISECOND);
    }
    CHECK(poller.events >= 3);
    CHECK(pier_loop_drain(poller.loop, PIER_SECOND) == 0);
    close(poller.ends[0]);
    close(poller.ends[1]);
    pier_loop_free(poller.loop);
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 2) {
        fprintf(stderr, "usage: recovery-test BACKEND\n");
        return 1;
    }
    backend = arguments[1];
    if (pier_backend_probe(backend) < 0) {
        printf("SKIPPED %s: %s\n0 passed, 0 failed, 1 skipped\n", backend, pier_error_detail());
        return 77;
    }
    alarm(60);
    handles_to_be_served();
    poll_resumed_in_its_callback();
    printf("%d passed, %d failed, 0 skipped\n", failed == 0, failed != 0);
    return failed != 0;
}
