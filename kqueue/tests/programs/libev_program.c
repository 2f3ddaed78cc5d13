/* What libev offers, on its kqueue backend. Exits 0 if all of it happened. */
#include "ev.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAIRS 100
#define ROUNDS 200

static struct pair {
    ev_io reader, writer;
    int ends[2], sent, received;
} pairs[PAIRS];
static int finished;

static void on_readable(EV_P_ ev_io *watcher, int events)
{
    struct pair *pair = watcher->data;
    char byte;

    (void)events;
    if (read(pair->ends[0], &byte, 1) == 1 && ++pair->received == ROUNDS) {
        ev_io_stop(EV_A_ watcher);
        if (++finished == PAIRS)
            ev_break(EV_A_ EVBREAK_ALL);
    }
    ev_io_start(EV_A_ & pair->writer);
}

static void on_writable(EV_P_ ev_io *watcher, int events)
{
    struct pair *pair = watcher->data;

    (void)events;
    if (pair->sent < ROUNDS && write(pair->ends[1], "x", 1) == 1)
        pair->sent++;
    ev_io_stop(EV_A_ watcher);
}

static int happened;

static void on_timer(EV_P_ ev_timer *watcher, int events)
{
    (void)events;
    if (++happened == 5) {
        ev_timer_stop(EV_A_ watcher);
        ev_break(EV_A_ EVBREAK_ALL);
    }
}

static void on_periodic(EV_P_ ev_periodic *watcher, int events)
{
    (void)events;
    happened++;
    ev_periodic_stop(EV_A_ watcher);
}

static void on_signal(EV_P_ ev_signal *watcher, int events)
{
    (void)events;
    (void)watcher;
    happened++;
    ev_break(EV_A_ EVBREAK_ALL);
}

static void on_child(EV_P_ ev_child *watcher, int events)
{
    (void)events;
    happened += WEXITSTATUS(watcher->rstatus);
    ev_child_stop(EV_A_ watcher);
    ev_break(EV_A_ EVBREAK_ALL);
}

static struct ev_loop *loop;
static ev_async async;

static void *send_async(void *argument)
{
    ev_async_send(loop, &async);
    return argument;
}

static void on_async(EV_P_ ev_async *watcher, int events)
{
    (void)events;
    (void)watcher;
    happened++;
    ev_break(EV_A_ EVBREAK_ALL);
}

static void require(int holds, const char *what)
{
    if (!holds) {
        printf("not so: %s\n", what);
        exit(1);
    }
    printf("ok %s\n", what);
}

static void exchange_bytes(void)
{
    finished = 0;
    for (int i = 0; i < PAIRS; i++) {
        struct pair *pair = &pairs[i];

        pair->sent = pair->received = 0;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair->ends) != 0)
            exit(1);
        ev_io_init(&pair->reader, on_readable, pair->ends[0], EV_READ);
        ev_io_init(&pair->writer, on_writable, pair->ends[1], EV_WRITE);
        pair->reader.data = pair->writer.data = pair;
        ev_io_start(loop, &pair->reader);
        ev_io_start(loop, &pair->writer);
    }
    ev_run(loop, 0);
    for (int i = 0; i < PAIRS; i++) {
        ev_io_stop(loop, &pairs[i].writer);
        close(pairs[i].ends[0]);
        close(pairs[i].ends[1]);
    }
}

int main(void)
{
    ev_timer timer;
    ev_periodic periodic;
    ev_signal on_usr1;
    ev_child child;
    pthread_t thread;
    pid_t pid;

    loop = ev_default_loop(EVBACKEND_KQUEUE);
    require(loop && ev_backend(loop) == EVBACKEND_KQUEUE, "backend");
    exchange_bytes();
    require(finished == PAIRS, "bytes");

    ev_timer_init(&timer, on_timer, 0.01, 0.01);
    ev_timer_start(loop, &timer);
    ev_periodic_init(&periodic, on_periodic, 0, 0.01, NULL);
    ev_periodic_start(loop, &periodic);
    ev_run(loop, 0);
    require(happened >= 5, "timers");

    happened = 0;
    ev_signal_init(&on_usr1, on_signal, SIGUSR1);
    ev_signal_start(loop, &on_usr1);
    kill(getpid(), SIGUSR1);
    ev_run(loop, 0);
    ev_signal_stop(loop, &on_usr1);
    require(happened == 1, "signal");

    happened = 0;
    pid = fork();
    if (pid == 0)
        _exit(7);
    ev_child_init(&child, on_child, pid, 0);
    ev_child_start(loop, &child);
    ev_run(loop, 0);
    require(happened == 7, "child");

    happened = 0;
    ev_async_init(&async, on_async);
    ev_async_start(loop, &async);
    pthread_create(&thread, NULL, send_async, NULL);
    ev_run(loop, 0);
    pthread_join(thread, NULL);
    ev_async_stop(loop, &async);
    require(happened == 1, "async");

    /* A child goes on with a queue of its own. */
    pid = fork();
    if (pid == 0) {
        ev_loop_fork(loop);
        exchange_bytes();
        _exit(finished == PAIRS ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    require(status == 0, "fork");
    exchange_bytes();
    require(finished == PAIRS, "bytes after fork");
    return 0;
}
