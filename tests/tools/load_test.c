/* SPDX-License-Identifier: MIT */
/* load_test.c - `pier load` against servers that lie, stall, or are not there: it must notice.
 *
 * The servers are processes of the test's own, for one connection, over blocking sockets. Run
 * once per backend, see command.h. */

#include "command.h"

#include "../unit/unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Serves one connection and returns how many connections it wants to serve yet. */
typedef void serve_fn(int socket);

static struct command client;
static pid_t server;
static char address[32];

static void sleep_ms(long time_ms)
{
    nanosleep(&(struct timespec){.tv_sec = time_ms / 1000, .tv_nsec = time_ms % 1000 * 1000000},
              NULL);
}

static void run_server(int listener, serve_fn *serve)
{
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) {
            _exit(1);
        }
        serve(peer);
        close(peer);
    }
}

static void start_server(serve_fn *serve)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in name = {.sin_family = AF_INET};
    socklen_t size = sizeof(name);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(listener, (const struct sockaddr *)(const void *)&name, size) == 0);
    REQUIRE(listen(listener, 100) == 0);
    REQUIRE(getsockname(listener, (struct sockaddr *)(void *)&name, &size) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%d", ntohs(name.sin_port));
    server = fork();
    REQUIRE(server >= 0);
    if (server == 0) {
        signal(SIGPIPE, SIG_IGN);
        run_server(listener, serve);
    }
    command_track(server, true);
    close(listener);
}

static void stop_server(void)
{
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    command_track(server, false);
}

/* Runs `pier load` against the server, over one connection. */
static void run_load(const char *const *more)
{
    const char *arguments[32] = {"load",      "--json", "--backend",     command_backend(),
                                 "--connect", address,  "--connections", "1"};
    for (int i = 0; more[i] != NULL; i++) {
        arguments[8 + i] = more[i];
    }
    command_run(&client, arguments);
}

/* ---- the servers ---- */

static void serve_honestly(int peer)
{
    char data[4096];
    ssize_t got;
    while ((got = read(peer, data, sizeof(data))) > 0) {
        if (write(peer, data, (size_t)got) != got) {
            return;
        }
    }
}

/* Tells the test through this pipe when the first bytes have come. */
static int news[2];

static void serve_and_tell(int peer)
{
    char byte;
    if (recv(peer, &byte, 1, MSG_PEEK) == 1 && write(news[1], &byte, 1) != 1) {
        return;
    }
    serve_honestly(peer);
}

static void serve_with_wrong_byte(int peer)
{
    char data[4096];
    ssize_t got;
    size_t total = 0;
    while ((got = read(peer, data, sizeof(data))) > 0) {
        if (total <= 1000 && 1000 < total + (size_t)got) {
            data[1000 - total] = (char)(data[1000 - total] ^ 1);
        }
        total += (size_t)got;
        if (write(peer, data, (size_t)got) != got) {
            return;
        }
    }
}

static void serve_swapped_messages(int peer)
{
    char data[128];
    for (int i = 0;; i++) {
        size_t have = 0;
        while (have < sizeof(data)) {
            ssize_t got = read(peer, data + have, sizeof(data) - have);
            if (got <= 0) {
                return;
            }
            have += (size_t)got;
        }
        size_t first = i == 3 ? 64 : 0;
        if (write(peer, data + first, 64) != 64 || write(peer, data + 64 - first, 64) != 64) {
            return;
        }
    }
}

static void serve_with_extra_byte(int peer)
{
    char data[65] = {0};
    ssize_t got;
    while ((got = read(peer, data, 64)) > 0) {
        if (write(peer, data, (size_t)got + 1) < 0) {
            return;
        }
    }
}

static void serve_ten_messages(int peer)
{
    char data[64];
    for (int i = 0; i < 10; i++) {
        ssize_t got = read(peer, data, sizeof(data));
        if (got <= 0 || write(peer, data, (size_t)got) != got) {
            return;
        }
    }
    /* With nothing unread closing would be no reset. */
    shutdown(peer, SHUT_WR);
    while (read(peer, data, sizeof(data)) > 0) {}
}

static void serve_nothing(int peer)
{
    char data[4096];
    while (read(peer, data, sizeof(data)) > 0) {}
}

static void serve_without_end(int peer)
{
    serve_honestly(peer);
    sleep_ms(60 * 1000);
}

static void serve_with_stall(int peer)
{
    char data[64];
    ssize_t got;
    for (int i = 0; (got = read(peer, data, sizeof(data))) > 0; i++) {
        if (i == 100) {
            sleep_ms(400);
        }
        if (write(peer, data, (size_t)got) != got) {
            return;
        }
    }
}

/* ---- the tests ---- */

TEST(load_counts_exactly_the_messages_asked_for)
{
    start_server(serve_honestly);
    run_load((const char *[]){"--messages", "1000", "--size", "100", NULL});
    CHECK_EQ(client.exit_code, 0);
    CHECK_EQ(command_number(&client, "messages"), 1000);
    CHECK_EQ(command_number(&client, "errors"), 0);
    CHECK_GT(command_number(&client, "p50_ns"), 0);
    CHECK_LE(command_number(&client, "p50_ns"), command_number(&client, "p99_ns"));
    CHECK_LE(command_number(&client, "p99_ns"), command_number(&client, "max_ns"));
    stop_server();
}

TEST(load_notices_a_wrong_byte)
{
    start_server(serve_with_wrong_byte);
    run_load((const char *[]){"--messages", "100", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "wrong_bytes"), 1);
    CHECK_EQ(command_number(&client, "errors"), 1);
    CHECK_EQ(command_number(&client, "messages"), 15);
    stop_server();
}

TEST(load_notices_messages_in_the_wrong_order)
{
    start_server(serve_swapped_messages);
    run_load((const char *[]){"--messages", "100", "--depth", "2", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "wrong_bytes"), 1);
    stop_server();
}

TEST(load_notices_bytes_that_were_never_sent)
{
    start_server(serve_with_extra_byte);
    run_load((const char *[]){"--messages", "100", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "extra_bytes"), 1);
    stop_server();
}

TEST(load_notices_an_early_end)
{
    start_server(serve_ten_messages);
    run_load((const char *[]){"--messages", "100", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "closed_early"), 1);
    CHECK_EQ(command_number(&client, "messages"), 10);
    stop_server();
}

TEST(load_notices_that_nobody_answers)
{
    start_server(serve_nothing);
    run_load((const char *[]){"--duration", "100ms", "--depth", "7", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "unanswered"), 7);
    CHECK_EQ(command_number(&client, "errors"), 7);
    CHECK_EQ(command_number(&client, "messages"), 0);
    /* The time they waited counts. */
    CHECK_GE(command_number(&client, "p50_ns"), 5000000000);
    stop_server();
}

TEST(load_notices_a_stream_that_does_not_end)
{
    start_server(serve_without_end);
    run_load((const char *[]){"--messages", "10", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "not_closed"), 1);
    CHECK_EQ(command_number(&client, "errors"), 1);
    stop_server();
}

/* 400 of 1,000 messages are due while the server stalls. In a closed loop one would have met it. */
TEST(load_at_a_fixed_rate_shows_a_stall_in_the_quantiles)
{
    start_server(serve_with_stall);
    run_load((const char *[]){"--rate", "1000", "--messages", "1000", NULL});
    CHECK_EQ(client.exit_code, 0);
    CHECK_EQ(command_number(&client, "messages"), 1000);
    CHECK_GE(command_number(&client, "p90_ns"), 250000000);
    CHECK_GE(command_number(&client, "max_ns"), 350000000);
    stop_server();
}

TEST(load_keeps_its_rate)
{
    start_server(serve_honestly);
    run_load((const char *[]){"--rate", "500", "--duration", "1", "--depth", "16", NULL});
    CHECK_EQ(client.exit_code, 0);
    CHECK_GE(command_number(&client, "messages"), 480);
    /* On a busy machine the measured time ends late, and the messages of that time are counted. */
    CHECK_LE(command_number(&client, "messages_per_second"), 505);
    stop_server();
}

TEST(load_counts_what_a_server_too_slow_left_unsent)
{
    start_server(serve_nothing);
    run_load((const char *[]){"--rate", "1000", "--duration", "500ms", NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_EQ(command_number(&client, "unanswered"), 1);
    CHECK_GE(command_number(&client, "unsent"), 400);
    stop_server();
}

TEST(load_stops_when_it_is_interrupted)
{
    char byte;
    REQUIRE(pipe(news) == 0);
    start_server(serve_and_tell);
    const char *const arguments[] = {
        "load",  "--json",        "--backend", command_backend(), "--connect",
        address, "--connections", "1",         "--duration",      "60",
        NULL};
    command_start(&client, arguments);
    CHECK_EQ(read(news[0], &byte, 1), 1);
    sleep_ms(100); /* for some messages to be answered */
    command_signal(&client, SIGINT);
    command_finish(&client, 3000);
    CHECK_EQ(client.exit_code, 0);
    CHECK_EQ(command_number(&client, "errors"), 0);
    CHECK_GT(command_number(&client, "messages"), 0);
    close(news[0]);
    close(news[1]);
    stop_server();
}

TEST(load_says_that_nobody_listens)
{
    start_server(serve_honestly);
    stop_server();
    run_load((const char *[]){NULL});
    CHECK_EQ(client.exit_code, 1);
    CHECK_STR(client.output, "");
    CHECK(strstr(client.errors, address) != NULL);
    CHECK(strstr(client.errors, "connection refused: is the server running") != NULL);
    CHECK(strchr(client.errors, '\n') == client.errors + strlen(client.errors) - 1);
}
