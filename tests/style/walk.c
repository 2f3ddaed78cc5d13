/*
 * Runs echoes and accepts on a pier whose functions report when they are entered and left, and
 * prints the way of each through the library, for tests/style/walk.
 *
 *   walk ENGINE lent|each
 *
 * One line per event: `accept` or `echo`, then the address of the function that is executed, each
 * time that it becomes another one; with a ~ before it when it is returned to. It begins with the
 * end of the wait that found the event, and ends with the wait before which it was over: a 64-byte
 * message has come back, a connection has been accepted. A 0 stands for a wait in between.
 *
 * Nothing depends on timing: the client is part of the system calls that wait, which the linker's
 * --wrap replaces. Before each real wait it looks whether the event is over, and makes the next. So
 * this program needs no name inside pier. The library is compiled with -finstrument-functions, this
 * file isn't: what the program's own callbacks do belongs to nobody.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include <pier/pier.h>

enum { CLIENTS = 4, ECHOES = 4, SIZE = 64, DEPTH_MAX = 256, STEPS_MAX = 1 << 16 };

enum { ENTER_GETEVENTS = 1 }; /* IORING_ENTER_GETEVENTS: liburing may be missing */

static struct connection {
    struct pier_handle socket;
    struct pier_op receive, send;
} connections[CLIENTS];

static struct pier_loop *loop;
static void (*start)(struct connection *c);
static struct sockaddr_in server_name = {.sin_family = AF_INET};
static int accepted, client_count, echo_count, client = -1;

static const char *event; /* the one under way */
static uintptr_t stack[DEPTH_MAX];
static struct step {
    uintptr_t function;
    bool is_return;
} steps[STEPS_MAX];
static size_t depth, step_count;
static bool recording;

static void fail(const char *what)
{
    fprintf(stderr, "walk: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- the record */

static void note(uintptr_t function, bool is_return)
{
    if (step_count > 0 && steps[step_count - 1].function == function)
        return;
    if (step_count == STEPS_MAX)
        fail("the way is too long");
    steps[step_count++] = (struct step){function, is_return};
}

static void note_top(bool is_return)
{
    if (recording && depth > 0)
        note(stack[depth - 1], is_return);
}

void __cyg_profile_func_enter(void *function, void *caller);
void __cyg_profile_func_exit(void *function, void *caller);

void __cyg_profile_func_enter(void *function, void *caller)
{
    (void)caller;
    if (depth == DEPTH_MAX)
        fail("the calls are too deep");
    stack[depth++] = (uintptr_t)function;
    note_top(false);
}

void __cyg_profile_func_exit(void *function, void *caller)
{
    (void)function;
    (void)caller;
    depth--;
    note_top(true);
}

static void end_event(void)
{
    printf("%s", event);
    for (size_t i = 0; i < step_count; i++)
        printf(" %s%jx", steps[i].is_return ? "~" : "", (uintmax_t)steps[i].function);
    putchar('\n');
    event = NULL;
    step_count = 0;
}

/* ---- the client */

static bool is_over(void)
{
    static size_t received;
    char in[SIZE];
    if (strcmp(event, "accept") == 0)
        return accepted == client_count;
    ssize_t n = recv(client, in, SIZE - received, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        fail("the client can't receive");
    received += n > 0 ? (size_t)n : 0;
    if (received < SIZE)
        return false;
    received = 0;
    return true;
}

static void begin_event(void)
{
    static const char out[SIZE] = "message";
    if (client >= 0 && echo_count < ECHOES) {
        event = "echo";
        echo_count++;
        if (send(client, out, SIZE, 0) != SIZE)
            fail("the client can't send");
    } else if (client_count < CLIENTS) {
        event = "accept";
        client_count++;
        echo_count = 0;
        client = socket(AF_INET, SOCK_STREAM, 0); /* those before stay open until the end */
        if (client < 0 || connect(client, (struct sockaddr *)&server_name, sizeof server_name) < 0)
            fail("a client can't connect");
    } else {
        pier_loop_stop(loop);
    }
}

static void before_wait(void)
{
    recording = false;
    if (event != NULL && !is_over()) {
        note(0, false);
        return;
    }
    if (event != NULL)
        end_event();
    begin_event();
}

static void after_wait(void)
{
    recording = event != NULL;
    note_top(true);
}

/* ---- the system calls that wait, in the linker's names for them */

long __wrap_syscall(long number, ...);
long __real_syscall(long number, ...);
int __wrap_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *limit,
                 const sigset_t *mask);
int __real_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *limit,
                 const sigset_t *mask);
int __wrap_poll(struct pollfd *entries, nfds_t count, int limit);
int __real_poll(struct pollfd *entries, nfds_t count, int limit);
int __wrap_pselect(int width, fd_set *in, fd_set *out, fd_set *priority,
                   const struct timespec *limit, const sigset_t *mask);
int __real_pselect(int width, fd_set *in, fd_set *out, fd_set *priority,
                   const struct timespec *limit, const sigset_t *mask);
int __wrap_select(int width, fd_set *in, fd_set *out, fd_set *priority, struct timeval *limit);
int __real_select(int width, fd_set *in, fd_set *out, fd_set *priority, struct timeval *limit);

/* The loop itself waits; what probes and set-up calls ask for comes before it runs. */
#define WAIT(call) \
    do { \
        if (start == NULL) \
            return call; \
        before_wait(); \
        int result_ = call, error_ = errno; \
        after_wait(); \
        errno = error_; \
        return result_; \
    } while (0)

static bool is_wait(long number, long flags)
{
    switch (number) {
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
    case SYS_epoll_pwait:
#ifdef SYS_epoll_pwait2
    case SYS_epoll_pwait2:
#endif
        return true;
#ifdef SYS_io_uring_enter
    case SYS_io_uring_enter: return (flags & ENTER_GETEVENTS) != 0;
#endif
    default: return false;
    }
}

long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (!is_wait(number, a[3]))
        return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    WAIT((int)__real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

int __wrap_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *limit,
                 const sigset_t *mask)
{
    WAIT(__real_ppoll(entries, count, limit, mask));
}

int __wrap_poll(struct pollfd *entries, nfds_t count, int limit)
{
    WAIT(__real_poll(entries, count, limit));
}

int __wrap_pselect(int width, fd_set *in, fd_set *out, fd_set *priority,
                   const struct timespec *limit, const sigset_t *mask)
{
    WAIT(__real_pselect(width, in, out, priority, limit, mask));
}

int __wrap_select(int width, fd_set *in, fd_set *out, fd_set *priority, struct timeval *limit)
{
    WAIT(__real_select(width, in, out, priority, limit));
}

/* ---- the server: that of README.md, and the one that receives each */

static void lent_received(struct pier_op *op);

static void start_lent(struct connection *c)
{
    pier_receive_lent(&c->socket, &c->receive, lent_received);
}

static void lent_sent(struct pier_op *op)
{
    if (op->result < 0)
        fail("a send has failed");
    start_lent(PIER_OWNER(op, struct connection, send));
}

static void lent_received(struct pier_op *op)
{
    struct connection *c = PIER_OWNER(op, struct connection, receive);
    if (op->result <= 0)
        fail("a receive has failed");
    pier_send(&c->socket, &c->send, op->data, op->size, lent_sent);
}

static void each_received(struct pier_op *op)
{
    struct connection *c = PIER_OWNER(op, struct connection, receive);
    if (op->result <= 0 || pier_op_pending(&c->send))
        fail("a receive has ended, or came before the send of the one before was done");
    pier_send(&c->socket, &c->send, op->data, op->size, NULL);
}

static void start_each(struct connection *c)
{
    pier_receive_each(&c->socket, &c->receive, each_received);
}

static void on_accepted(struct pier_op *op)
{
    struct connection *c = &connections[accepted];
    if (op->result != 1 || pier_accept_take(op, NULL, &c->socket) < 0)
        fail("a connection can't be accepted");
    accepted++;
    start(c);
}

int main(int argc, char **argv)
{
    struct pier_address address;
    struct pier_handle listener = {0};
    struct pier_op accept = {0};
    char text[PIER_ADDRESS_TEXT_MAX];
    if (argc != 3 || (strcmp(argv[2], "lent") != 0 && strcmp(argv[2], "each") != 0)) {
        fprintf(stderr, "usage: walk ENGINE lent|each\n");
        return 2;
    }
    const struct pier_loop_options options = {.backend = argv[1]};
    if (pier_loop_new(&loop, &options) < 0) {
        printf("skip walk: %s\n", pier_error_detail());
        return 77;
    }
    if (pier_address_parse(&address, "127.0.0.1:0") < 0 ||
        pier_listen(loop, &listener, &address, NULL) < 0 ||
        pier_local_address(&listener, &address) < 0)
        fail(pier_error_detail());
    pier_address_format(&address, text, sizeof text);
    server_name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server_name.sin_port = htons((uint16_t)atoi(strrchr(text, ':') + 1));

    pier_accept_each(&listener, &accept, on_accepted);
    start = strcmp(argv[2], "lent") == 0 ? start_lent : start_each;
    if (pier_loop_run(loop, PIER_RUN_UNTIL_IDLE) < 0)
        fail(pier_error_detail());
    return 0;
}
