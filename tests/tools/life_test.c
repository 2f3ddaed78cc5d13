/* SPDX-License-Identifier: MIT */
/* life_test.c - how `pier echo` begins and ends: what it needs, what it says when it doesn't get
 * it, which signals end it, and what it leaves behind.
 *
 * Run once per backend, see command.h. */

#include "command.h"

#include "../unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED true
#endif
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

static struct command server, other;
static char path[64], address[80];

static void choose_path(void)
{
    snprintf(path, sizeof(path), "/tmp/pier-life-test-%d", (int)getpid());
    unlink(path);
    snprintf(address, sizeof(address), "unix:%s", path);
}

/* Starts `pier echo --json` with the backend under test and more options. */
static void start(struct command *command, void (*prepare)(void), const char *const *more)
{
    const char *arguments[32] = {"echo", "--json", "--backend", command_backend()};
    for (int i = 0; more != NULL && more[i] != NULL; i++) {
        arguments[4 + i] = more[i];
    }
    command_start_with(command, prepare, arguments);
}

/* Waits until it says that it listens, and returns the port, 0 for a path. */
static unsigned await_listening(struct command *command)
{
    char line[200];
    unsigned port = 0;
    command_read_line(command, line, sizeof(line));
    CHECK(strncmp(line, "listening on ", 13) == 0);
    sscanf(line, "listening on 127.0.0.1:%u", &port);
    return port;
}

static void check_stops(struct command *command, int number)
{
    command_signal(command, number);
    command_finish(command, COMMAND_TIME_MS);
    CHECK_EQ(command->exit_code, 0);
    CHECK_STR(command->errors, "");
    CHECK_GT(command_number(command, "turns"), -1);
}

/* It has ended with 1, one line on stderr that has the text, and nothing on stdout. */
static void check_failed(struct command *command, const char *text)
{
    command_finish(command, COMMAND_TIME_MS);
    CHECK_EQ(command->exit_code, 1);
    CHECK_STR(command->output, "");
    const char *end = strchr(command->errors, '\n');
    if (strstr(command->errors, text) == NULL || end == NULL || end[1] != '\0') {
        FAIL("not one line with \"%s\": \"%s\"", text, command->errors);
    }
}

static int connect_to_path(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, path, strlen(path) + 1);
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(file >= 0);
    if (connect(file, (const struct sockaddr *)(const void *)&name, sizeof(name)) != 0) {
        close(file);
        return -1;
    }
    return file;
}

static void echo_a_byte(int file)
{
    char byte = 'x', back = 0;
    command_write(file, &byte, 1);
    command_read(file, &back, 1);
    CHECK_EQ(byte, back);
}

/* Sends until the server takes no more, so that it has something left to send. */
static void fill_up(int file)
{
    static char data[64 * 1024];
    int size = 8192;
    setsockopt(file, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    struct pollfd watched = {.fd = file, .events = POLLOUT};
    for (ssize_t sent = 0; sent >= 0 || poll(&watched, 1, 100) > 0;) {
        sent = send(file, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL);
        REQUIRE(sent >= 0 || errno == EAGAIN);
    }
}

/* Waits until nobody accepts at the path or port any more. */
static void await_refusal(unsigned port)
{
    for (;;) {
        int file;
        if (port == 0) {
            file = connect_to_path();
        } else {
            struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
            name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            file = socket(AF_INET, SOCK_STREAM, 0);
            REQUIRE(file >= 0);
            if (connect(file, (const struct sockaddr *)(const void *)&name, sizeof(name)) != 0) {
                close(file);
                file = -1;
            }
        }
        if (file < 0) {
            return;
        }
        close(file);
        poll(NULL, 0, 5);
    }
}

/* ---- what it leaves behind ---- */

TEST(echo_leaves_the_path_of_its_successor_alone)
{
    choose_path();
    start(&server, NULL, (const char *[]){"--listen", address, NULL});
    await_listening(&server);
    int peer = connect_to_path();
    REQUIRE(peer >= 0);
    fill_up(peer);
    command_signal(&server, SIGTERM);
    await_refusal(0);
    /* The old one is still busy with its peer when the new one takes the path. */
    start(&other, NULL, (const char *[]){"--listen", address, NULL});
    await_listening(&other);
    close(peer);
    command_finish(&server, COMMAND_TIME_MS);
    int next = connect_to_path();
    if (!CHECK_GE(next, 0)) {
        FAIL("the successor's path is gone");
    } else {
        echo_a_byte(next);
        close(next);
    }
    check_stops(&other, SIGTERM);
    CHECK_NE(access(path, F_OK), 0);
}

TEST(echo_leaves_a_path_that_another_has_taken)
{
    choose_path();
    start(&server, NULL, (const char *[]){"--listen", address, NULL});
    await_listening(&server);
    REQUIRE(unlink(path) == 0);
    start(&other, NULL, (const char *[]){"--listen", address, NULL});
    await_listening(&other);
    check_stops(&server, SIGTERM);
    int next = connect_to_path();
    CHECK_GE(next, 0);
    close(next);
    check_stops(&other, SIGTERM);
    CHECK_NE(access(path, F_OK), 0);
}

/* ---- what it needs ---- */

/* Room for a few stacks of 256 MiB. */
static void allow_few_threads(void)
{
#ifdef RLIMIT_AS
    struct rlimit stack = {256 << 20, 256 << 20}, memory = {1200 << 20, 1200 << 20};
    if (setrlimit(RLIMIT_STACK, &stack) == 0 && setrlimit(RLIMIT_AS, &memory) == 0) {
        return;
    }
#endif
    _exit(126); /* OpenBSD has no such limit */
}

static void require_few_threads(void)
{
    if (getenv("PIER_EMULATOR") != NULL) {
        SKIP("an emulator takes limits of memory for its own");
    }
    command_start_with(&other, allow_few_threads, (const char *[]){"--version", NULL});
    command_finish(&other, COMMAND_TIME_MS);
    if (other.exit_code != 0) {
        SKIP("this build doesn't run with little memory (a sanitizer, a system without the limit)");
    }
}

TEST(echo_says_that_it_listens_when_its_threads_run)
{
    command_backend();
    require_few_threads();
    choose_path();
    start(&server, allow_few_threads,
          (const char *[]){"--threads", "16", "--listen", address, NULL});
    check_failed(&server, "cannot start thread ");
    CHECK_NE(access(path, F_OK), 0);
    start(&server, allow_few_threads, (const char *[]){"--threads", "16", NULL});
    check_failed(&server, "cannot start thread ");
}

TEST(echo_of_several_processes_says_that_it_listens_when_its_threads_run)
{
    command_backend();
    require_few_threads();
    start(&server, allow_few_threads,
          (const char *[]){"--threads", "16", "--processes", "2", NULL});
    check_failed(&server, "cannot start thread ");
}

static void print_to_full(void)
{
    int full = open("/dev/full", O_WRONLY);
    if (full < 0 || dup2(full, 1) < 0) {
        _exit(126);
    }
    close(full);
}

TEST(echo_fails_when_nobody_learns_its_port)
{
    if (access("/dev/full", W_OK) != 0) {
        SKIP("there is no /dev/full");
    }
    choose_path();
    start(&server, print_to_full, NULL);
    check_failed(&server, "cannot write the output");
    start(&server, print_to_full, (const char *[]){"--threads", "3", "--listen", address, NULL});
    check_failed(&server, "cannot write the output");
    CHECK_NE(access(path, F_OK), 0);
    start(&server, print_to_full, (const char *[]){"--processes", "2", NULL});
    check_failed(&server, "cannot write the output");
}

static void close_input_and_errors(void)
{
    close(0);
    close(2);
}

static void close_output(void)
{
    close(1);
}

/* Else a socket would have the number, and get what is printed. */
TEST(echo_opens_standard_descriptors_that_are_closed)
{
    start(&server, close_input_and_errors, NULL);
    unsigned port = await_listening(&server);
    for (int i = 0; i <= 2; i += 2) {
        char name[64], target[64] = "";
        snprintf(name, sizeof(name), "/proc/%d/fd/%d", (int)server.id, i);
        ssize_t length = readlink(name, target, sizeof(target) - 1);
        if (length < 0) {
            continue; /* no /proc */
        }
        CHECK_STR(target, "/dev/null");
    }
    int peer = command_connect(port, 0);
    echo_a_byte(peer);
    close(peer);
    check_stops(&server, SIGTERM);

    start(&server, close_output, NULL);
    check_failed(&server, "cannot write the output");
}

/* ---- a port for itself ---- */

TEST(echo_does_not_share_the_port_of_another_server)
{
    static const char *const ways[][3] = {
        {NULL}, {"--threads", "2", NULL}, {"--processes", "2", NULL}};
    enum { WAYS = sizeof(ways) / sizeof(ways[0]) };
    for (int i = 0; i < WAYS; i++) {
        start(&server, NULL, ways[i]);
        unsigned port = await_listening(&server);
        char place[32];
        snprintf(place, sizeof(place), "127.0.0.1:%u", port);
        for (int j = 0; j < WAYS; j++) {
            start(&other, NULL, (const char *[]){"--listen", place, ways[j][0], ways[j][1], NULL});
            check_failed(&other, "address already in use");
        }
        check_stops(&server, SIGTERM);
        /* And the port is free at once for the next. */
        start(&other, NULL,
              (const char *[]){"--listen", place, "--threads", "3", "--processes", "2", NULL});
        CHECK_EQ(await_listening(&other), port);
        check_stops(&other, SIGTERM);
    }
}

/* The kernel balances by a hash of the addresses: of 200 connections each of 4 listeners gets some,
 * but for odds of 1 to 10^24. Which thread has a connection can't be seen from outside; which
 * process has one can. */
TEST(echo_of_several_processes_serves_with_each)
{
    enum { PEERS = 200, PROCESSES = 4 };
    static int peers[PEERS];
    start(&server, NULL, (const char *[]){"--processes", "4", NULL});
    unsigned port = await_listening(&server);
    char name[64], children[256] = "";
    snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)server.id, (int)server.id);
    FILE *file = fopen(name, "r");
    if (file == NULL || fgets(children, sizeof(children), file) == NULL) {
        command_signal(&server, SIGTERM);
        command_finish(&server, COMMAND_TIME_MS);
        SKIP("the system doesn't name the children of a process");
    }
    fclose(file);
    for (int i = 0; i < PEERS; i++) {
        peers[i] = command_connect(port, 0);
        echo_a_byte(peers[i]);
    }
    char *at = children;
    for (int i = 0; i < PROCESSES; i++) {
        long id = strtol(at, &at, 10);
        int open_files = 0;
        for (int number = 0; number < PEERS + 64; number++) {
            char target[64] = "";
            snprintf(name, sizeof(name), "/proc/%ld/fd/%d", id, number);
            open_files += readlink(name, target, sizeof(target) - 1) > 0 ? 1 : 0;
        }
        /* Beside its connections: a listener, the loop's own, what it has from its parent. */
        CHECK_GT(open_files, 12);
    }
    for (int i = 0; i < PEERS; i++) {
        close(peers[i]);
    }
    check_stops(&server, SIGTERM);
    CHECK_EQ(command_number(&server, "connections"), PEERS);
}

/* ---- signals ---- */

TEST(echo_ends_at_a_hangup)
{
    start(&server, NULL, NULL);
    await_listening(&server);
    check_stops(&server, SIGHUP);
    start(&server, NULL, (const char *[]){"--processes", "2", NULL});
    await_listening(&server);
    check_stops(&server, SIGHUP);
}

static void ignore_signals(void)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

/* As in a shell's background job, and under nohup. */
TEST(echo_ignores_signals_that_were_ignored_when_it_began)
{
    start(&server, ignore_signals, NULL);
    unsigned port = await_listening(&server);
    kill(server.id, SIGINT);
    kill(server.id, SIGHUP);
    for (int i = 0; i < 20; i++) {
        int peer = command_connect(port, 0);
        echo_a_byte(peer);
        close(peer);
    }
    check_stops(&server, SIGTERM);
    CHECK_EQ(command_number(&server, "connections"), 20);
}

/* A peer that reads nothing would hold it for 5 seconds. */
static void hurry(const char *const *options)
{
    start(&server, NULL, options);
    unsigned port = await_listening(&server);
    int peer = command_connect(port, 8192);
    fill_up(peer);
    command_signal(&server, SIGTERM);
    await_refusal(port);
    uint64_t from = command_now_ms();
    check_stops(&server, SIGTERM);
    CHECK_LT(command_now_ms() - from, 3500);
    close(peer);
}

TEST(echo_is_hurried_by_a_second_signal)
{
    hurry(NULL);
}

TEST(echo_of_several_processes_is_hurried_by_a_second_signal)
{
    hurry((const char *[]){"--processes", "2", "--threads", "2", NULL});
}

TEST(echo_names_the_signal_that_ended_a_process)
{
    start(&server, NULL, (const char *[]){"--processes", "2", NULL});
    await_listening(&server);
    char name[64];
    int child = 0;
    snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)server.id, (int)server.id);
    FILE *file = fopen(name, "r");
    if (file == NULL || fscanf(file, "%d", &child) != 1) {
        command_signal(&server, SIGTERM);
        command_finish(&server, COMMAND_TIME_MS);
        SKIP("the system doesn't name the children of a process");
    }
    fclose(file);
    kill(child, SIGKILL);
    command_finish(&server, COMMAND_TIME_MS);
    CHECK_EQ(server.exit_code, 1);
    CHECK_STR(server.errors, "pier echo: process 1 of 2 was ended by SIGKILL\n");
}

/* Threads that waited for the one that told them used most of the CPU's time at the end. */
TEST(echo_of_many_threads_ends_without_much_ado)
{
    if (SANITIZED || getenv("PIER_EMULATOR") != NULL) {
        SKIP("a sanitizer or an emulator has its own cost for each thread");
    }
    start(&server, NULL, (const char *[]){"--threads", "1000", NULL});
    struct pollfd watched = {.fd = server.out, .events = POLLIN};
    if (poll(&watched, 1, COMMAND_TIME_MS) != 1) {
        FAIL("it did not start");
    }
    char line[200] = "";
    ssize_t size = read(server.out, line, sizeof(line) - 1);
    if (size <= 0) {
        command_finish(&server, COMMAND_TIME_MS);
        SKIP("this machine doesn't have 1000 threads for it");
    }
    check_stops(&server, SIGTERM);
    int64_t cpu_ms = (command_number(&server, "user_cpu_ns") +
                      command_number(&server, "system_cpu_ns")) /
                     1000000;
    CHECK_LT(cpu_ms, 1500);
}

TEST(echo_is_interrupted_while_it_starts)
{
    if (SANITIZED) {
        SKIP("a sanitizer has its own cost for each thread");
    }
    start(&server, NULL, (const char *[]){"--threads", "60", "--processes", "60", NULL});
    /* The first child tells that the signals are handled. */
    char name[64];
    snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)server.id, (int)server.id);
    for (int i = 0; i < 1000; i++) {
        FILE *file = fopen(name, "r");
        int child = 0, fields = file != NULL ? fscanf(file, "%d", &child) : 1;
        if (file != NULL) {
            fclose(file);
        }
        if (fields == 1) {
            break;
        }
        poll(NULL, 0, 1);
    }
    command_signal(&server, SIGTERM);
    command_finish(&server, COMMAND_TIME_MS);
    CHECK_EQ(server.exit_code, 0);
    CHECK_STR(server.errors, "");
}
