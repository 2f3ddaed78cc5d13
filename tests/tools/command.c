/* SPDX-License-Identifier: MIT */
/* command.c - running the `pier` command from a test; see command.h. */

#include "command.h"

#include "../unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 40, RUNNING_MAX = 16 };

/* A test that is abandoned leaves its processes behind; they go with this one. */
static pid_t running[RUNNING_MAX];

static void kill_running(void)
{
    for (int i = 0; i < RUNNING_MAX; i++) {
        if (running[i] > 0) {
            kill(running[i], SIGKILL);
        }
    }
}

void command_track(pid_t id, bool runs)
{
    static bool registered;
    if (!registered) {
        registered = true;
        atexit(kill_running);
    }
    pid_t from = runs ? 0 : id;
    for (int i = 0; i < RUNNING_MAX; i++) {
        if (running[i] == from) {
            running[i] = runs ? id : 0;
            return;
        }
    }
}

static const char *tool_path(void)
{
    const char *path = getenv("PIER_TEST_TOOL");
    if (path == NULL) {
        SKIP("PIER_TEST_TOOL does not name the pier command");
    }
    return path;
}

bool command_is_windows(void)
{
    const char *path = tool_path(), *end = strrchr(path, '.');
    return end != NULL && strcmp(end, ".exe") == 0;
}

void command_signal(const struct command *command, int number)
{
    kill(command->id, command_is_windows() ? SIGINT : number);
}

void command_start(struct command *command, const char *const *arguments)
{
    command_start_with(command, NULL, arguments);
}

void command_start_with(struct command *command, void (*prepare)(void),
                        const char *const *arguments)
{
    const char *words[2] = {getenv("PIER_EMULATOR"), tool_path()};
    char *argv[ARGUMENTS_MAX + 3] = {NULL};
    int count = 0;
    for (int i = words[0] != NULL ? 0 : 1; i < 2; i++) {
        argv[count++] = (char *)(uintptr_t)words[i];
    }
    for (int i = 0; i < ARGUMENTS_MAX && arguments[i] != NULL; i++) {
        argv[count++] = (char *)(uintptr_t)arguments[i];
    }
    int out[2], err[2];
    memset(command, 0, sizeof(*command));
    REQUIRE(pipe(out) == 0);
    REQUIRE(pipe(err) == 0);
    command->id = fork();
    REQUIRE(command->id >= 0);
    if (command->id == 0) {
        dup2(out[1], 1);
        dup2(err[1], 2);
        for (int i = 3; i < 256; i++) {
            close(i);
        }
        if (prepare != NULL) {
            prepare();
        }
        execv(argv[0], argv);
        _exit(127);
    }
    command_track(command->id, true);
    close(out[1]);
    close(err[1]);
    command->out = out[0];
    command->err = err[0];
}

uint64_t command_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool wait_readable(int file, int time_ms)
{
    struct pollfd watched = {.fd = file, .events = POLLIN};
    int result;
    do {
        result = poll(&watched, 1, time_ms);
    } while (result < 0 && errno == EINTR);
    return result > 0;
}

void command_read_line(struct command *command, char *line, size_t size)
{
    size_t length = 0;
    for (;;) {
        char byte;
        if (!wait_readable(command->out, COMMAND_TIME_MS) || read(command->out, &byte, 1) != 1) {
            line[length] = '\0';
            command_finish(command, 1000);
            FAIL("no line from pier, only \"%s\" and \"%s\"", line, command->errors);
            unit_abandon();
        }
        if (byte == '\n' || length + 1 == size) {
            break;
        }
        line[length++] = byte;
    }
    line[length] = '\0';
}

static void collect(int *file, char *text, size_t *length)
{
    ssize_t got = read(*file, text + *length, COMMAND_OUTPUT_MAX - 1 - *length);
    if (got <= 0) {
        close(*file);
        *file = -1;
    } else {
        *length += (size_t)got;
    }
}

void command_finish(struct command *command, int time_ms)
{
    uint64_t deadline = command_now_ms() + (uint64_t)time_ms;
    size_t out_length = 0, err_length = 0;
    bool late = false;
    while (command->out >= 0 || command->err >= 0) {
        struct pollfd watched[2] = {{.fd = command->out, .events = POLLIN},
                                    {.fd = command->err, .events = POLLIN}};
        uint64_t now = command_now_ms();
        if (now >= deadline && !late) {
            late = true;
            kill(command->id, SIGKILL);
        }
        poll(watched, 2, late ? 1000 : (int)(deadline - now));
        if (watched[0].revents != 0) {
            collect(&command->out, command->output, &out_length);
        }
        if (watched[1].revents != 0) {
            collect(&command->err, command->errors, &err_length);
        }
    }
    int status = 0;
    while (waitpid(command->id, &status, 0) < 0 && errno == EINTR) {}
    command_track(command->id, false);
    command->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (late) {
        FAIL("pier did not end within %d ms; it said \"%s\" and \"%s\"", time_ms, command->output,
             command->errors);
    }
}

void command_run(struct command *command, const char *const *arguments)
{
    command_start(command, arguments);
    command_finish(command, COMMAND_TIME_MS);
}

int64_t command_number(const struct command *command, const char *name)
{
    char key[64];
    snprintf(key, sizeof(key), "\"%s\":", name);
    const char *at = strstr(command->output, key);
    return at != NULL ? strtoll(at + strlen(key), NULL, 10) : -1;
}

const char *command_backend(void)
{
    const char *backend = getenv("PIER_TEST_BACKEND");
    if (backend == NULL) {
        SKIP("PIER_TEST_BACKEND does not name a backend");
    }
    /* A load that finds nobody tells whether its loop could be made. */
    static struct command probe;
    command_run(&probe, (const char *[]){"load", "--connect", "unix:/nonexistent/socket",
                                         "--backend", backend, "--connections", "1", NULL});
    if (strstr(probe.errors, "cannot make a loop") != NULL ||
        strstr(probe.errors, "unknown backend") != NULL) {
        SKIP(probe.errors);
    }
    return backend;
}

/* ---- sockets ---- */

int command_connect(unsigned port, int buffer)
{
    int file = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(file >= 0);
    if (buffer > 0) {
        setsockopt(file, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
        setsockopt(file, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(connect(file, (const struct sockaddr *)(const void *)&address, sizeof(address)) == 0);
    return file;
}

void command_write(int file, const void *data, size_t size)
{
    while (size > 0) {
        ssize_t written = send(file, data, size, MSG_NOSIGNAL);
        REQUIRE(written > 0);
        data = (const char *)data + written;
        size -= (size_t)written;
    }
}

void command_read(int file, void *data, size_t size)
{
    while (size > 0) {
        REQUIRE(wait_readable(file, COMMAND_TIME_MS));
        ssize_t got = read(file, data, size);
        REQUIRE(got > 0);
        data = (char *)data + got;
        size -= (size_t)got;
    }
}

bool command_reads_end(int file)
{
    char byte;
    return wait_readable(file, COMMAND_TIME_MS) && read(file, &byte, 1) == 0;
}

void command_fill(unsigned char *data, size_t size, unsigned seed)
{
    uint32_t state = seed * 2654435761U + 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525U + 1013904223U;
        data[i] = (unsigned char)(state >> 24);
    }
}
