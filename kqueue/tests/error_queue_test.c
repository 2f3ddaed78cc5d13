/*
 * Sockets with something in their error queue, which BSD doesn't have: no event of it, neither for
 * reading nor for writing, and none that is real is missed because of it.
 */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CALLS 50

static const int modes[] = {0, EV_CLEAR, EV_ONESHOT, EV_DISPATCH};

static bool has_pending_error(int fd)
{
    struct pollfd poll_fd = {.fd = fd};

    return poll(&poll_fd, 1, LONG_MS) == 1 && (poll_fd.revents & POLLERR);
}

/* The kernel puts a time stamp into the error queue for each packet that it sends. */
static bool ask_for_time_stamps(int fd)
{
    int options = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
                  SOF_TIMESTAMPING_OPT_TSONLY;

    return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &options, sizeof(options)) == 0;
}

/* Whether there is one, after something was sent. */
static bool is_stamped(int fd)
{
    if (has_pending_error(fd))
        return true;
    check_skip("no time stamps here");
    return false;
}

static bool tells_kinds_of_error(void)
{
    uint32_t words[9];
    socklen_t size = sizeof(words);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), result;

    result = getsockopt(fd, SOL_SOCKET, SO_MEMINFO, words, &size);
    close(fd);
    if (result == 0 && size >= 8 * sizeof(words[0]) && has_tcp_info())
        return true;
    check_skip("this system doesn't tell an error queue from an error");
    return false;
}

static void udp_pair(int pair[2])
{
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET};

        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        pair[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        REQUIRE(pair[i] >= 0);
        REQUIRE(bind(pair[i], (struct sockaddr *)&address, sizeof(address)) == 0);
    }
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in address;
        socklen_t size = sizeof(address);

        REQUIRE(getsockname(pair[1 - i], (struct sockaddr *)&address, &size) == 0);
        REQUIRE(connect(pair[i], (struct sockaddr *)&address, size) == 0);
    }
}

/* Nothing comes while only the error queue has something; then the peer's bytes do. */
static void only_bytes_count(int fd, int peer)
{
    for (int i = 0; i < COUNT(modes); i++) {
        int queue = new_queue();
        char bytes[16];

        CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, modes[i]), 0);
        for (int n = 0; n < 3; n++)
            CHECK(is_quiet(queue));
        CHECK(!is_readable(queue));
        CHECK_EQ(send(peer, "reply", 5, 0), 5);
        CHECK_EQ(get_one(queue).data, 5);
        CHECK_EQ(recv(fd, bytes, sizeof(bytes), 0), 5);
        if (modes[i] == EV_ONESHOT)
            CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), 0);
        if (modes[i] == EV_DISPATCH)
            CHECK_EQ(change(queue, (uintptr_t)fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), 0);
        for (int n = 0; n < 3; n++)
            CHECK(is_quiet(queue));
        close(queue);
    }
}

static void time_stamps_of_udp(void)
{
    int pair[2];

    if (!tells_kinds_of_error())
        return;
    udp_pair(pair);
    if (ask_for_time_stamps(pair[0]) && send(pair[0], "x", 1, 0) == 1 && is_stamped(pair[0]))
        only_bytes_count(pair[0], pair[1]);
    close(pair[0]);
    close(pair[1]);
}

static void time_stamps_of_tcp(void)
{
    int pair[2];

    if (!tells_kinds_of_error())
        return;
    tcp_pair(pair);
    if (ask_for_time_stamps(pair[0]) && send(pair[0], "x", 1, 0) == 1 && is_stamped(pair[0]))
        only_bytes_count(pair[0], pair[1]);
    close(pair[0]);
    close(pair[1]);
}

/* A full socket isn't writable because of it. */
static void full_socket_with_time_stamps(void)
{
    if (!tells_kinds_of_error())
        return;
    for (int i = 0; i < COUNT(modes); i++) {
        int queue = new_queue(), pair[2];

        tcp_pair(pair);
        if (ask_for_time_stamps(pair[0]) && fill(pair[0]) > 0 && is_stamped(pair[0])) {
            CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, modes[i]), 0);
            for (int n = 0; n < 3; n++)
                CHECK(is_quiet(queue));
            while (!is_readable(queue))
                drain(pair[1]);
            CHECK(get_one(queue).data > 1000);
        }
        close(pair[0]);
        close(pair[1]);
        close(queue);
    }
}

/* The end of a connection comes through all the same. */
static void end_behind_time_stamps(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    if (ask_for_time_stamps(pair[0]) && send(pair[0], "x", 1, 0) == 1 && is_stamped(pair[0])) {
        CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
        is_quiet(queue);
        drain(pair[1]);
        close(pair[1]);
        CHECK(get_one(queue).flags & EV_EOF);
    } else {
        close(pair[1]);
    }
    close(pair[0]);
    close(queue);
}

/* A real error, with nothing in the error queue: read() is to be called, and says which. */
static void refused_datagram(void)
{
    for (int i = 0; i < COUNT(modes); i++) {
        int queue = new_queue(), pair[2];
        char byte;

        udp_pair(pair);
        CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, modes[i]), 0);
        CHECK(is_quiet(queue));
        close(pair[1]);
        CHECK_EQ(send(pair[0], "x", 1, 0), 1);
        CHECK_EQ(get_one(queue).data, 0);
        CHECK_EQ(recv(pair[0], &byte, 1, 0), -1);
        CHECK_EQ(errno, ECONNREFUSED);
        CHECK(is_quiet(queue));
        close(pair[0]);
        close(queue);
    }
}

/* In docs/kqueue.md: an error that comes on top of messages can't be told from them. */
static void refused_behind_time_stamps(void)
{
    int queue = new_queue(), pair[2];

    udp_pair(pair);
    if (tells_kinds_of_error() && ask_for_time_stamps(pair[0]) && send(pair[0], "x", 1, 0) == 1 &&
        is_stamped(pair[0])) {
        CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
        CHECK(is_quiet(queue));
        close(pair[1]);
        CHECK_EQ(send(pair[0], "x", 1, 0), 1);
        CHECK(is_quiet(queue));
    } else {
        close(pair[1]);
    }
    close(pair[0]);
    close(queue);
}

/* IP_RECVERR gives both an error and a message. Once it is told, not for ever. */
static void error_and_message(void)
{
    int queue = new_queue(), pair[2], on = 1, events = 0;
    struct kevent event;
    char bytes[16];

    udp_pair(pair);
    CHECK_EQ(setsockopt(pair[0], IPPROTO_IP, IP_RECVERR, &on, sizeof(on)), 0);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    close(pair[1]);
    CHECK_EQ(send(pair[0], "x", 1, 0), 1);
    CHECK_EQ(get_one(queue).data, 0);
    CHECK_EQ(recv(pair[0], bytes, sizeof(bytes), 0), -1);
    CHECK_EQ(errno, ECONNREFUSED);
    for (int i = 0; i < CALLS; i++)
        events += get(queue, &event, 1, 0);
    CHECK(events <= 2);
    CHECK(has_pending_error(pair[0]));
    close(pair[0]);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(time_stamps_of_udp),     TEST(time_stamps_of_tcp), TEST(full_socket_with_time_stamps),
        TEST(end_behind_time_stamps), TEST(refused_datagram),   TEST(refused_behind_time_stamps),
        TEST(error_and_message),
    };

    return check_main(tests, COUNT(tests));
}
