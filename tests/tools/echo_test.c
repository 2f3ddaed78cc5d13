/* SPDX-License-Identifier: MIT */
/* echo_test.c - `pier echo` as its peers see it, over plain blocking sockets of the test's own.
 *
 * Run once per backend, see command.h. What needs many connections and messages is in
 * echo_load_test.sh. */

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
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct command server;

/* Starts `pier echo` with the backend under test and more options; returns the port. */
static unsigned start_server(const char *const *more)
{
    const char *arguments[32] = {"echo", "--json", "--backend", command_backend()};
    for (int i = 0; more != NULL && more[i] != NULL; i++) {
        arguments[4 + i] = more[i];
    }
    command_start(&server, arguments);
    char line[200], backend[32];
    unsigned port = 0, threads = 0;
    int length = 0;
    command_read_line(&server, line, sizeof(line));
    if (strncmp(line, "listening on unix:", 18) != 0) {
        int fields = sscanf(line, "listening on 127.0.0.1:%u backend=%31s threads=%u%n", &port,
                            backend, &threads, &length);
        if (!CHECK_EQ(fields, 3) || !CHECK_EQ(line[length], '\0')) {
            FAIL("the first line is \"%s\"", line);
        }
        CHECK_STR(backend, command_backend());
        CHECK_GT(port, 0);
    }
    return port;
}

static void stop_server(int signal_number)
{
    command_signal(&server, signal_number);
    command_finish(&server, 8000);
    CHECK_EQ(server.exit_code, 0);
    CHECK_STR(server.errors, "");
}

static void exchange(int file, size_t size, unsigned seed)
{
    unsigned char *sent = malloc(size), *received = malloc(size);
    REQUIRE(sent != NULL && received != NULL);
    command_fill(sent, size, seed);
    command_write(file, sent, size);
    command_read(file, received, size);
    CHECK_MEM(sent, received, size);
    free(sent);
    free(received);
}

/* Writes until nothing more goes for a while, and returns how much went. */
static size_t write_until_full(int file, const unsigned char *data, size_t size)
{
    size_t written = 0;
    fcntl(file, F_SETFL, O_NONBLOCK);
    while (written < size) {
        ssize_t now = send(file, data + written, size - written, MSG_NOSIGNAL);
        if (now > 0) {
            written += (size_t)now;
            continue;
        }
        REQUIRE(errno == EAGAIN);
        struct pollfd watched = {.fd = file, .events = POLLOUT};
        if (poll(&watched, 1, 30) == 0) {
            break;
        }
    }
    fcntl(file, F_SETFL, 0);
    return written;
}

static void check_counters(int64_t connections, int64_t bytes)
{
    CHECK_EQ(command_number(&server, "connections"), connections);
    CHECK_EQ(command_number(&server, "received_bytes"), bytes);
    CHECK_EQ(command_number(&server, "sent_bytes"), bytes);
    CHECK_GT(command_number(&server, "turns"), 0);
    CHECK_GT(command_number(&server, "system_calls"), 0);
}

TEST(echo_returns_what_it_gets)
{
    unsigned port = start_server(NULL);
    int peer = command_connect(port, 0);
    exchange(peer, 1, 1);
    exchange(peer, 100, 2);
    exchange(peer, 100000, 3);
    close(peer);
    stop_server(SIGTERM);
    check_counters(1, 100101);
}

/* Without IPv6 these are all IPv4 addresses; see unit/listen_test.c. */
TEST(echo_listens_on_all_addresses)
{
    char line[200];
    unsigned port = 0;
    command_start(&server, (const char *[]){"echo", "--json", "--backend", command_backend(),
                                            "--listen", ":0", NULL});
    command_read_line(&server, line, sizeof(line));
    bool has_ipv6 = strncmp(line, "listening on [::]:", 18) == 0;
    REQUIRE(sscanf(line, has_ipv6 ? "listening on [::]:%u" : "listening on 0.0.0.0:%u", &port) ==
            1);
    int peer = command_connect(port, 0);
    exchange(peer, 100, 6);
    close(peer);
    int64_t peers = 1;
    struct sockaddr_in6 loopback = {.sin6_family = AF_INET6,
                                    .sin6_port = htons((uint16_t)port),
                                    .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    peer = socket(AF_INET6, SOCK_STREAM, 0);
    /* Where IPv6 is switched off there is the socket, and no way to the address. */
    if (peer >= 0 &&
        connect(peer, (const struct sockaddr *)(const void *)&loopback, sizeof(loopback)) == 0) {
        CHECK(has_ipv6);
        exchange(peer, 100, 7);
        peers++;
    }
    close(peer);
    stop_server(SIGTERM);
    check_counters(peers, 100 * peers);
}

TEST(echo_takes_bytes_one_at_a_time)
{
    unsigned port = start_server(NULL);
    int peer = command_connect(port, 0);
    for (unsigned i = 0; i < 500; i++) {
        unsigned char byte = (unsigned char)i, back = 0;
        command_write(peer, &byte, 1);
        command_read(peer, &back, 1);
        CHECK_EQ(byte, back);
    }
    close(peer);
    stop_server(SIGINT);
    check_counters(1, 500);
}

/* The peer ends its stream with the answer still under way, and gets all of it, then our end. */
static void half_close(const char *const *options)
{
    enum { SIZE = 32 * 1024 * 1024 };
    unsigned port = start_server(options);
    unsigned char *sent = malloc(SIZE), *received = malloc(SIZE);
    REQUIRE(sent != NULL && received != NULL);
    command_fill(sent, SIZE, 4);
    int peer = command_connect(port, 0);
    size_t size = write_until_full(peer, sent, SIZE);
    shutdown(peer, SHUT_WR);
    command_read(peer, received, size);
    CHECK_MEM(sent, received, size);
    CHECK(command_reads_end(peer));
    close(peer);
    free(sent);
    free(received);
    stop_server(SIGTERM);
    check_counters(1, (int64_t)size);
}

TEST(echo_sends_the_rest_after_a_half_close)
{
    half_close(NULL);
}

TEST(echo_sends_the_rest_after_a_half_close_from_memory)
{
    half_close((const char *[]){"--receive", "memory", NULL});
}

TEST(echo_sends_the_rest_after_a_half_close_with_one_receive_at_a_time)
{
    half_close((const char *[]){"--receive", "lent", NULL});
}

TEST(echo_answers_an_empty_stream_with_its_end)
{
    unsigned port = start_server(NULL);
    int peer = command_connect(port, 0);
    shutdown(peer, SHUT_WR);
    CHECK(command_reads_end(peer));
    close(peer);
    stop_server(SIGTERM);
    check_counters(1, 0);
}

TEST(echo_is_not_held_back_by_peers_that_do_not_read)
{
    enum { PEERS = 100, SIZE = 16 * 1024 * 1024 };
    static int peers[PEERS];
    static size_t sizes[PEERS];
    unsigned port = start_server(NULL);
    unsigned char *sent = malloc(SIZE), *received = malloc(SIZE);
    REQUIRE(sent != NULL && received != NULL);
    command_fill(sent, SIZE, 5);
    int64_t bytes = 0;
    for (int i = 0; i < PEERS; i++) {
        peers[i] = command_connect(port, 8192);
        sizes[i] = write_until_full(peers[i], sent, SIZE);
        CHECK_LT(sizes[i], SIZE); /* the server took a bounded part of it */
        bytes += (int64_t)sizes[i];
    }
    int other = command_connect(port, 0);
    uint64_t start = command_now_ms();
    for (unsigned i = 0; i < 200; i++) {
        exchange(other, 1000, i);
    }
    CHECK_LT(command_now_ms() - start, 2000);
    close(other);
    for (int i = 0; i < PEERS; i++) {
        shutdown(peers[i], SHUT_WR);
        command_read(peers[i], received, sizes[i]);
        CHECK_MEM(sent, received, sizes[i]);
        CHECK(command_reads_end(peers[i]));
        close(peers[i]);
    }
    free(sent);
    free(received);
    stop_server(SIGTERM);
    check_counters(PEERS + 1, bytes + 200 * 1000);
}

TEST(echo_survives_peers_that_reset)
{
    unsigned port = start_server(NULL);
    unsigned char data[65536];
    command_fill(data, sizeof(data), 6);
    for (int i = 0; i < 50; i++) {
        int peer = command_connect(port, 0);
        command_write(peer, data, i % 2 == 0 ? sizeof(data) : 1);
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        close(peer);
    }
    int peer = command_connect(port, 0);
    exchange(peer, 1000, 7);
    close(peer);
    stop_server(SIGTERM);
}

TEST(echo_finishes_what_is_in_flight_when_it_is_told_to_stop)
{
    enum { SIZE = 32 * 1024 * 1024 };
    unsigned port = start_server(NULL);
    unsigned char *sent = malloc(SIZE), *received = malloc(SIZE);
    REQUIRE(sent != NULL && received != NULL);
    command_fill(sent, SIZE, 8);
    int peer = command_connect(port, 0);
    int idle = command_connect(port, 0);
    exchange(idle, 1, 8); /* so that it is accepted before the stop */
    size_t size = write_until_full(peer, sent, SIZE);
    command_signal(&server, SIGTERM);
    command_read(peer, received, size);
    CHECK_MEM(sent, received, size);
    stop_server(SIGTERM);
    check_counters(2, (int64_t)size + 1);
    CHECK(command_reads_end(peer));
    CHECK(command_reads_end(idle));
    close(peer);
    close(idle);
    free(sent);
    free(received);
}

TEST(echo_stops_in_time_though_a_peer_does_not_read)
{
    enum { SIZE = 32 * 1024 * 1024 };
    unsigned port = start_server(NULL);
    unsigned char *sent = malloc(SIZE);
    REQUIRE(sent != NULL);
    command_fill(sent, SIZE, 9);
    int peer = command_connect(port, 8192);
    write_until_full(peer, sent, SIZE);
    uint64_t start = command_now_ms();
    stop_server(SIGTERM);
    CHECK_LT(command_now_ms() - start, 7000);
    close(peer);
    free(sent);
}

TEST(echo_no_longer_accepts_once_it_is_told_to_stop)
{
    unsigned port = start_server(NULL);
    int peer = command_connect(port, 0);
    exchange(peer, 10, 10);
    stop_server(SIGTERM);
    CHECK(command_reads_end(peer));
    close(peer);
    struct command again;
    char address[32];
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    command_run(&again, (const char *[]){"load", "--connect", address, "--connections", "1", NULL});
    CHECK_EQ(again.exit_code, 1);
    CHECK(strstr(again.errors, "connection refused") != NULL);
}

TEST(echo_serves_with_several_threads)
{
    unsigned port = start_server((const char *[]){"--threads", "4", NULL});
    int peers[40];
    for (unsigned i = 0; i < 40; i++) {
        peers[i] = command_connect(port, 0);
    }
    for (unsigned i = 0; i < 40; i++) {
        exchange(peers[i], 1000, i);
        close(peers[i]);
    }
    stop_server(SIGTERM);
    check_counters(40, 40 * 1000);
}

TEST(echo_serves_with_several_processes)
{
    if (command_is_windows()) {
        SKIP("Windows can't copy a running process");
    }
    unsigned port = start_server((const char *[]){"--processes", "3", "--threads", "2", NULL});
    int peers[40];
    for (unsigned i = 0; i < 40; i++) {
        peers[i] = command_connect(port, 0);
    }
    for (unsigned i = 0; i < 40; i++) {
        exchange(peers[i], 1000, i);
        close(peers[i]);
    }
    stop_server(SIGINT);
    check_counters(40, 40 * 1000);
}

/* Threads can't share a Unix-domain address: the first accepts and hands over to the others. */
TEST(echo_hands_connections_over_and_removes_its_path)
{
    char path[64], address[80];
    snprintf(path, sizeof(path), "/tmp/pier-echo-test-%d", (int)getpid());
    unlink(path);
    snprintf(address, sizeof(address), "unix:%s", path);
    start_server((const char *[]){"--threads", "3", "--listen", address, NULL});
    if (command_is_windows()) {
        /* Out of reach for this program. */
        struct command load;
        command_run(&load, (const char *[]){"load", "--connect", address, "--connections", "20",
                                            "--messages", "200", "--size", "1000", NULL});
        CHECK_EQ(load.exit_code, 0);
        stop_server(SIGTERM);
        check_counters(20, 200 * 1000);
        return;
    }
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, path, strlen(path) + 1);
    int peers[20];
    for (int i = 0; i < 20; i++) {
        peers[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        REQUIRE(connect(peers[i], (const struct sockaddr *)(const void *)&name, sizeof(name)) == 0);
    }
    for (unsigned i = 0; i < 20; i++) {
        exchange(peers[i], 1000, i);
        close(peers[i]);
    }
    stop_server(SIGTERM);
    check_counters(20, 20 * 1000);
    CHECK_NE(access(path, F_OK), 0);
}

TEST(echo_says_when_its_port_is_in_use)
{
    unsigned port = start_server(NULL);
    char address[32];
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    struct command second;
    command_run(&second, (const char *[]){"echo", "--listen", address, "--backend",
                                          command_backend(), NULL});
    CHECK_EQ(second.exit_code, 1);
    CHECK_STR(second.output, "");
    CHECK(strstr(second.errors, address) != NULL);
    CHECK(strstr(second.errors, "address already in use") != NULL);
    CHECK(strchr(second.errors, '\n') == second.errors + strlen(second.errors) - 1);
    stop_server(SIGTERM);
}
