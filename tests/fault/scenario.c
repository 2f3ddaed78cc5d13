/* scenario.c - the program that runs while system calls fail.
 *
 * An echo server with two clients and its listener, over TCP unless told otherwise; a pair, a
 * writer and a pipe; timers, a post and notifications from another thread; readiness of a
 * descriptor that pier doesn't own; cancels, time-outs and both ways to close. Every part goes as
 * far as the failures let it and closes what it opened. Ops are counted when submitted and when
 * they end: at the end the numbers must be equal, descriptors and memory as before, and the loop
 * must have run one more exchange. */

#include "scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "system.h"

enum { CLIENTS = 2, VISITORS = 10, SERVED = 6, ECHOES = 24, PARCEL = 3000 };

struct task {
    struct pier_op op; /* first: a task is found by its op */
    unsigned submitted, ended;
    unsigned events;
    void *owner;
};

struct served {
    struct pier_handle handle;
    struct task receive, echoes[ECHOES];
    bool used;
};

struct client {
    struct pier_handle handle;
    struct task connect, send, receive, shutdown;
    char memory[512];
    size_t received;
};

struct visitor {
    struct pier_handle handle;
    struct task connect;
};

static const struct scenario *current;
static struct pier_loop *loop;
static unsigned tasks_count;
static struct task *tasks[SERVED * (ECHOES + 1) + 64];
static char parcel[PARCEL];

static struct pier_handle listener, pair[2], pipe_ends[2], adopted;
static struct served served[SERVED];
static struct client clients[CLIENTS];
static struct visitor visitors[VISITORS];
static struct task accept_task, guard, timer, ticker, post, notification, readiness, watch;
static struct task pair_receive, pair_late, pair_finish, pipe_write, pipe_read, check_timer;
static struct task check_send, check_receive, adopted_write;
static struct pier_writer writer;
static bool writer_open, gave_up, posted;

/* ---- ops */

static struct pier_op *submit(struct task *task)
{
    if (task->submitted == 0) {
        if (tasks_count == sizeof(tasks) / sizeof(tasks[0])) {
            complain("the scenario has more ops than it has room for");
            abort();
        }
        tasks[tasks_count++] = task;
    }
    task->submitted++;
    return &task->op;
}

static void tell_error(const char *what, int64_t error)
{
    if (strcmp(pier_error_name(error), "PIER_E?") == 0) {
        complain("%s: %lld is no error of pier's", what, (long long)error);
    }
    if (current->must_succeed) {
        complain("%s: %s, though nothing was made to fail", what, pier_error_name(error));
    }
}

/* Checks and counts a completion; returns whether the op has ended. */
static bool ended(struct pier_op *op, bool may_fail)
{
    struct task *task = (struct task *)(void *)op;
    if (op->flags & PIER_MORE) {
        task->events++;
        if (task->ended == task->submitted) {
            complain("an op had an event after its end");
        }
        return false;
    }
    if (++task->ended > task->submitted) {
        complain("an op completed twice");
    }
    if (op->result < 0 && !may_fail) {
        tell_error("an op", op->result);
    } else if (op->result < 0 && strcmp(pier_error_name(op->result), "PIER_E?") == 0) {
        complain("an op ended with %lld, which is no error of pier's", (long long)op->result);
    }
    return true;
}

static void on_end(struct pier_op *op)
{
    ended(op, false);
}

static void on_end_or_stop(struct pier_op *op)
{
    ended(op, true);
}

/* A set-up call: 0 or a negative error with a reason. */
static bool set_up(const char *what, int result)
{
    if (result < 0) {
        tell_error(what, result);
        if (pier_error_detail()[0] == '\0') {
            complain("%s: %s without a line of detail", what, pier_error_name(result));
        }
    }
    return result >= 0;
}

/* ---- the echo server */

static void on_served_closed(struct pier_handle *handle)
{
    struct served *self = PIER_OWNER(handle, struct served, handle);
    for (int i = 0; i < ECHOES; i++) {
        if (pier_op_pending(&self->echoes[i].op)) {
            complain("a handle was closed before its sends had completed");
        }
    }
    self->used = false;
}

static void on_echoed(struct pier_op *op)
{
    struct served *self = ((struct task *)(void *)op)->owner;
    ended(op, true);
    if (op->result < 0) {
        pier_close(&self->handle, on_served_closed);
    }
}

static void on_request(struct pier_op *op)
{
    struct served *self = ((struct task *)(void *)op)->owner;
    if (ended(op, true)) {
        if (op->result == 0) {
            pier_close_gracefully(&self->handle, 50 * PIER_MILLISECOND, on_served_closed);
        } else {
            pier_close(&self->handle, on_served_closed);
        }
        return;
    }
    for (int i = 0; i < ECHOES; i++) {
        if (!pier_op_pending(&self->echoes[i].op)) {
            self->echoes[i].owner = self;
            pier_send(&self->handle, submit(&self->echoes[i]), op->data, op->size, on_echoed);
            return;
        }
    }
    complain("more pieces of data than echoes");
}

static void on_accepted(struct pier_op *op)
{
    if (ended(op, true)) {
        if (op->result < 0) {
            pier_close(&listener, NULL); /* else who is in the backlog would wait for ever */
        }
        return;
    }
    for (int i = 0; i < SERVED; i++) {
        struct served *self = &served[i];
        if (self->used) {
            continue;
        }
        memset(&self->handle, 0, sizeof(self->handle));
        if (set_up("pier_accept_take", pier_accept_take(op, NULL, &self->handle))) {
            self->used = true;
            self->receive.owner = self;
            pier_receive_each(&self->handle, submit(&self->receive), on_request);
        }
        return;
    }
}

/* ---- its clients: the first is polite, the second closes as soon as it has its data */

static void on_client_end(struct pier_op *op)
{
    struct client *self = ((struct task *)(void *)op)->owner;
    ended(op, true);
    if (op->result < 0) {
        if (op->result != PIER_ECLOSED) {
            tell_error("a client's op", op->result);
        }
        pier_close(&self->handle, NULL);
    }
}

static void receive_some(struct client *self);

static void on_client_received(struct pier_op *op)
{
    struct client *self = ((struct task *)(void *)op)->owner;
    on_client_end(op);
    if (op->result <= 0) {
        if (op->result == 0 && self->received < PARCEL && current->must_succeed) {
            complain("the server ended after %zu of %d bytes", self->received, PARCEL);
        }
        pier_close_gracefully(&self->handle, 50 * PIER_MILLISECOND, NULL);
        return;
    }
    size_t size = (size_t)op->result;
    if (self->received + size > PARCEL || memcmp(op->data, parcel + self->received, size) != 0) {
        complain("what came back differs from what was sent");
    }
    self->received += size;
    if (self->received == PARCEL && self == &clients[1]) {
        pier_close(&self->handle, NULL);
        return;
    }
    receive_some(self);
}

static void receive_some(struct client *self)
{
    if (self == &clients[0]) {
        pier_receive(&self->handle, submit(&self->receive), self->memory, sizeof(self->memory),
                     on_client_received);
    } else {
        pier_receive_lent(&self->handle, submit(&self->receive), on_client_received);
    }
}

static void start_client(struct client *self, const struct pier_address *address)
{
    static struct pier_vector vectors[] = {
        {parcel, 1}, {parcel + 1, 1999}, {parcel + 2000, PARCEL - 2000}};
    if (!set_up("pier_open_socket", pier_open_socket(loop, &self->handle, address))) {
        return;
    }
    self->connect.owner = self->send.owner = self->receive.owner = self->shutdown.owner = self;
    if (address->family != PIER_ADDRESS_UNIX) {
        set_up("pier_set_no_delay", pier_set_no_delay(&self->handle, true));
        set_up("pier_set_keep_alive", pier_set_keep_alive(&self->handle, 60, 10, 3));
    }
    pier_connect(&self->handle, submit(&self->connect), address, on_client_end);
    if (self == &clients[0]) {
        pier_send_vectored(&self->handle, submit(&self->send), vectors, 3, on_client_end);
        pier_shutdown(&self->handle, submit(&self->shutdown), on_client_end);
    } else {
        pier_send(&self->handle, submit(&self->send), parcel, PARCEL, on_client_end);
    }
    receive_some(self);
}

/* Some that only connect: more at once than a named pipe has ends, so that the last ones wait. */

static void on_visited(struct pier_op *op)
{
    struct visitor *self = ((struct task *)(void *)op)->owner;
    ended(op, false);
    pier_close(&self->handle, NULL);
}

static void start_visitors(const struct pier_address *address)
{
    for (int i = 0; i < VISITORS; i++) {
        struct visitor *self = &visitors[i];
        if (set_up("pier_open_socket", pier_open_socket(loop, &self->handle, address))) {
            self->connect.owner = self;
            pier_connect(&self->handle, submit(&self->connect), address, on_visited);
        }
    }
}

static void start_echo(void)
{
    struct pier_address address;
    const char *text = current->address != NULL ? current->address : "127.0.0.1:0";
    if (pier_address_parse(&address, text) < 0 ||
        !set_up("pier_listen", pier_listen(loop, &listener, &address, NULL))) {
        return;
    }
    if (!set_up("pier_local_address", pier_local_address(&listener, &address))) {
        pier_close(&listener, NULL);
        return;
    }
    accept_task.op.flags = PIER_BACKGROUND;
    pier_accept_each(&listener, submit(&accept_task), on_accepted);
    for (int i = 0; i < CLIENTS; i++) {
        start_client(&clients[i], &address);
    }
    if (address.family == PIER_ADDRESS_UNIX) {
        start_visitors(&address);
    }
}

/* ---- the pair, the pipe and the rest */

static void on_pair_received(struct pier_op *op)
{
    ended(op, true);
    if (op->result > 0) {
        pier_receive_lent(&pair[1], submit(&pair_receive), on_pair_received);
    } else {
        pier_close(&pair[1], NULL);
    }
}

static void free_writer(struct pier_handle *handle)
{
    (void)handle;
    pier_writer_free(&writer);
    writer_open = false;
}

static void on_pair_finished(struct pier_op *op)
{
    ended(op, true);
    pier_close(&pair[0], free_writer);
}

static void start_pair(void)
{
    static char memory[16];
    if (!set_up("pier_socket_pair", pier_socket_pair(loop, &pair[0], &pair[1]))) {
        return;
    }
    pair_late.op.timeout_ns = 2 * PIER_MILLISECOND;
    pier_receive(&pair[0], submit(&pair_late), memory, sizeof(memory), on_end_or_stop);
    pier_receive(&pair[1], submit(&pair_receive), memory, sizeof(memory), on_pair_received);
    if (!set_up("pier_writer_open", pier_writer_open(&writer, &pair[0], NULL))) {
        pier_close(&pair[0], NULL);
        return;
    }
    writer_open = true;
    for (int i = 0; i < 3; i++) {
        int error = pier_writer_write(&writer, parcel, 700);
        if (error < 0) {
            tell_error("pier_writer_write", error);
        }
    }
    pier_writer_finish(&writer, submit(&pair_finish), on_pair_finished);
}

static void on_pipe_written(struct pier_op *op)
{
    ended(op, false);
    pier_close_gracefully(&pipe_ends[1], 50 * PIER_MILLISECOND, NULL);
}

static void on_pipe_read(struct pier_op *op)
{
    static char memory[64];
    ended(op, false);
    if (op->result > 0) {
        pier_read(&pipe_ends[0], submit(&pipe_read), memory, sizeof(memory), on_pipe_read);
    } else {
        pier_close(&pipe_ends[0], NULL);
    }
}

static void start_pipe(void)
{
    static char memory[64];
    if (set_up("pier_pipe", pier_pipe(loop, &pipe_ends[0], &pipe_ends[1]))) {
        pier_read(&pipe_ends[0], submit(&pipe_read), memory, sizeof(memory), on_pipe_read);
        pier_write(&pipe_ends[1], submit(&pipe_write), parcel, 200, on_pipe_written);
    }
}

static void on_adopted_written(struct pier_op *op)
{
    ended(op, false);
    pier_close(&adopted, NULL);
}

static void start_adopted(void)
{
    pier_descriptor descriptor = system_sink();
    if (!set_up("pier_adopt", pier_adopt(loop, &adopted, descriptor))) {
        system_close(descriptor);
        return;
    }
    if (set_up("pier_detach", pier_detach(&adopted)) &&
        !set_up("pier_attach", pier_attach(&adopted, loop))) {
        pier_handle_discard(&adopted);
        return;
    }
    pier_write(&adopted, submit(&adopted_write), parcel, 100, on_adopted_written);
}

static void on_tick(struct pier_op *op)
{
    if (!ended(op, true) && ((struct task *)(void *)op)->events == 3) {
        pier_cancel(op);
    }
}

static void on_guard(struct pier_op *op)
{
    ended(op, true);
    if (op->result == 0) {
        gave_up = true;
        pier_loop_stop(loop);
    }
}

static void on_watched(struct pier_op *op)
{
    if (!ended(op, true)) {
        pier_cancel(op);
    }
}

static void on_notified(struct pier_op *op)
{
    ended(op, true);
}

static void post_from_outside(void)
{
    system_doze();
    pier_post(loop, &post.op, on_end);
    pier_notify(&notification.op);
    pier_wake(loop);
}

static void start_others(const pier_descriptor raw[2])
{
    pier_timer(loop, submit(&timer), PIER_MILLISECOND, on_end);
    pier_timer_each(loop, submit(&ticker), PIER_MILLISECOND, PIER_MILLISECOND / 2, on_tick);
    notification.op.flags = PIER_BACKGROUND;
    pier_notify_each(loop, submit(&notification), on_notified);
    pier_poll(loop, submit(&readiness), raw[0], PIER_READABLE, on_end);
    pier_poll_each(loop, submit(&watch), raw[1], PIER_WRITABLE, on_watched);
    if (!system_send(raw[1])) {
        complain("the scenario can't write to its own pipe");
    }
    submit(&post);
    posted = system_thread_start(post_from_outside);
    if (!posted) {
        pier_post(loop, &post.op, on_end);
    }
}

/* ---- running it */

/* Runs until nothing is left or patience is at its end; a failed wait is tried again. */
static int run_for(uint64_t patience_ns)
{
    int error, failures = 0;
    gave_up = false;
    guard.op.flags = PIER_BACKGROUND;
    pier_timer(loop, submit(&guard), patience_ns, on_guard);
    do {
        error = pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    } while (error < 0 && !gave_up && ++failures < 200);
    if (pier_op_pending(&guard.op)) {
        pier_cancel(&guard.op);
        pier_loop_run(loop, PIER_RUN_NO_WAIT);
    }
    return error;
}

/* One more exchange, once the system works again. */
static void check_usable(void)
{
    static struct pier_handle ends[2];
    static char memory[8];
    memset(ends, 0, sizeof(ends));
    pier_timer(loop, submit(&check_timer), PIER_MILLISECOND, on_end);
    int error = pier_socket_pair(loop, &ends[0], &ends[1]);
    if (error < 0) {
        complain("the loop is unusable afterwards: pier_socket_pair: %s", pier_error_detail());
        return;
    }
    pier_receive(&ends[0], submit(&check_receive), memory, 4, on_end_or_stop);
    pier_send(&ends[1], submit(&check_send), "pier", 4, on_end_or_stop);
    /* Other ops may still be stuck: turns until these three have ended. */

    uint64_t begin = pier_loop_now(loop);
    while (check_timer.ended == 0 || check_receive.ended == 0 || check_send.ended == 0) {
        error = pier_loop_run(loop, PIER_RUN_ONCE);
        if (error < 0 || pier_loop_now(loop) - begin > 5 * PIER_SECOND) {
            complain("the loop is unusable afterwards: %s",
                     error < 0 ? pier_error_detail() : "an exchange took 5 s");
            return;
        }
    }
    if (check_receive.op.result != 4 || memcmp(memory, "pier", 4) != 0) {
        complain("the loop is unusable afterwards: received %s",
                 pier_error_name(check_receive.op.result));
    }
    pier_close(&ends[0], NULL);
    pier_close(&ends[1], NULL);
}

static void check_tasks(void)
{
    for (unsigned i = 0; i < tasks_count; i++) {
        if (tasks[i]->submitted != tasks[i]->ended) {
            complain("an op of kind %d was submitted %u times and completed %u times",
                     tasks[i]->op.kind_, tasks[i]->submitted, tasks[i]->ended);
        }
    }
}

static void print_pending(void *context, const char *line)
{
    (void)context;
    printf("#   %s\n", line);
}

static void run_loop(const pier_descriptor raw[2])
{
    start_echo();
    start_pair();
    start_pipe();
    start_adopted();
    start_others(raw);
    int error = run_for(current->patience_ns);
    if (posted) {
        system_thread_join();
    }
    if (gave_up && current->must_finish) {
        complain("ops were still in flight after %u ms",
                 (unsigned)(current->patience_ns / PIER_MILLISECOND));
        pier_loop_dump(loop, print_pending, NULL);
    }
    if (current->must_succeed && error < 0) {
        tell_error("pier_loop_run", error);
    }
    if (current->drain_early) {
        pier_loop_drain(loop, 20 * PIER_MILLISECOND);
    }
    if (current->recover != NULL) {
        current->recover();
    }
    check_usable();
    error = pier_loop_drain(loop, 5 * PIER_SECOND);
    if (error < 0) {
        complain("pier_loop_drain: %s: %s", pier_error_name(error), pier_error_detail());
        pier_loop_dump(loop, print_pending, NULL);
        return;
    }
    if (writer_open) {
        pier_writer_free(&writer);
    }
    check_tasks();
    pier_loop_free(loop);
}

int scenario_run(const struct scenario *scenario)
{
    pier_descriptor raw[2];
    current = scenario;
    for (size_t i = 0; i < PARCEL; i++) {
        parcel[i] = (char)(i * 7 + i / 251);
    }
    if (!system_pair(raw)) {
        complain("the scenario can't make a pipe");
        return 1;
    }
    int descriptors = system_descriptors();
    struct pier_loop_options options = {.backend = scenario->backend,
                                        .trigger = scenario->trigger,
                                        .queue_size = 16,
                                        .buffer_size = 1024,
                                        .buffers_min = 4,
                                        .buffers_max = 16,
                                        .buffer_share = 2,
                                        .retry_ns = PIER_MILLISECOND,
                                        .allocate = account_allocate};
    if (set_up("pier_loop_new", pier_loop_new(&loop, &options))) {
        run_loop(raw);
    }
    if (scenario_problem()[0] == '\0' && account_blocks() != 0) {
        complain("%zu blocks of memory are left", account_blocks());
    }
    if (scenario_problem()[0] == '\0' && system_descriptors() != descriptors) {
        complain("%d descriptors were open before, %d are now", descriptors, system_descriptors());
    }
    return scenario_problem()[0] != '\0';
}
