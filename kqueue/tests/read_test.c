/* EVFILT_READ: sockets, listeners, pipes, terminals; bytes, end of file, errors, modes. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void bytes_readable(void)
{
    int queue = new_queue(), pair[2], mark;
    struct kevent event;

    tcp_pair(pair);
    CHECK_EQ(change(queue, (uintptr_t)pair[0], EVFILT_READ, EV_ADD, 0, 0, &mark), 0);
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    CHECK_EQ(write(pair[1], "hello", 5), 5);
    event = get_one(queue);
    CHECK_EQ(event.ident, pair[0]);
    CHECK_EQ(event.filter, EVFILT_READ);
    CHECK_EQ(event.flags, 0);
    CHECK_EQ(event.fflags, 0);
    CHECK_EQ(event.data, 5);
    CHECK(event.udata == &mark);
    CHECK(is_readable(queue));
    /* Level-triggered: again until it is read. */
    CHECK_EQ(get_one(queue).data, 5);
    CHECK_EQ(drain(pair[0]), 5);
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void clear_returns_each_arrival_once(void)
{
    int queue = new_queue(), pair[2];
    struct kevent event;

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, EV_CLEAR), 0);
    CHECK_EQ(write(pair[1], "abc", 3), 3);
    event = get_one(queue);
    CHECK_EQ(event.data, 3);
    CHECK_EQ(event.flags, EV_CLEAR);
    CHECK(is_quiet(queue));
    /* More arrives while the old bytes are still there. */
    CHECK_EQ(write(pair[1], "de", 2), 2);
    CHECK_EQ(get_one(queue).data, 5);
    CHECK(is_quiet(queue));
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void data_before_the_end(void)
{
    int queue = new_queue(), pair[2];
    struct kevent event;

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    CHECK_EQ(write(pair[1], "last", 4), 4);
    shutdown(pair[1], SHUT_WR);
    do
        event = get_one(queue);
    while (event.ident && !(event.flags & EV_EOF));
    CHECK_EQ(event.data, 4);
    CHECK_EQ(event.fflags, 0);
    CHECK_EQ(drain(pair[0]), 4);
    event = get_one(queue);
    CHECK_EQ(event.data, 0);
    CHECK_EQ(event.flags, EV_EOF);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void clear_returns_the_end_once(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, EV_CLEAR), 0);
    close(pair[1]);
    CHECK_EQ(get_one(queue).flags, EV_CLEAR | EV_EOF);
    CHECK(is_quiet(queue));
    close(pair[0]);
    close(queue);
}

/* fflags has the error, and it is left on the socket: read() fails with it, too. */
static void reset_is_in_fflags_and_stays(void)
{
    int queue = new_queue(), pair[2];
    struct kevent event;
    char byte;

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    reset(pair[1]);
    event = get_one(queue);
    CHECK(event.flags & EV_EOF);
    CHECK_EQ(event.fflags, ECONNRESET);
    CHECK_EQ(get_one(queue).fflags, ECONNRESET);
    CHECK_EQ(read(pair[0], &byte, 1), -1);
    CHECK_EQ(errno, ECONNRESET);
    close(pair[0]);
    close(queue);
}

static void unix_reset_is_in_fflags(void)
{
    int queue = new_queue(), pair[2];
    struct kevent event;

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    CHECK_EQ(write(pair[0], "x", 1), 1);
    close(pair[1]); /* with a byte that nobody read */
    event = get_one(queue);
    CHECK(event.flags & EV_EOF);
    CHECK_EQ(event.fflags, ECONNRESET);
    close(pair[0]);
    close(queue);
}

/* What the kernel doesn't tell is 1: there is somebody. */
static void backlog_of_tcp(void)
{
    uint16_t port;
    int queue = new_queue(), listener = tcp_listen(&port), clients[3];
    bool is_told = has_tcp_info();

    CHECK_EQ(add(queue, (uintptr_t)listener, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    for (int i = 0; i < 3; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK_EQ(tcp_connect(clients[i], port), 0);
        CHECK_EQ(get_one(queue).data, is_told ? i + 1 : 1);
    }
    for (int i = 3; i > 0; i--) {
        CHECK_EQ(get_one(queue).data, is_told ? i : 1);
        close(accept(listener, NULL, NULL));
    }
    CHECK(is_quiet(queue));
    for (int i = 0; i < 3; i++)
        close(clients[i]);
    close(listener);
    close(queue);
}

static void backlog_of_unix_sockets(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int queue = new_queue(), listener = socket(AF_UNIX, SOCK_STREAM, 0), clients[3];

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", scratch_file("socket"));
    REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    REQUIRE(listen(listener, 8) == 0);
    CHECK_EQ(add(queue, (uintptr_t)listener, EVFILT_READ, EV_CLEAR), 0);
    for (int i = 0; i < 3; i++) {
        clients[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK_EQ(connect(clients[i], (struct sockaddr *)&address, sizeof(address)), 0);
    }
    CHECK_EQ(get_one(queue).data, has_socket_statistics() ? 3 : 1);
    for (int i = 0; i < 3; i++)
        close(clients[i]);
    close(listener);
    close(queue);
}

/* poll() calls a socket that isn't connected hung up; a BSD filter waits for it. */
static void unconnected_socket_waits(void)
{
    uint16_t port;
    int queue = new_queue(), listener = tcp_listen(&port), fd = socket(AF_INET, SOCK_STREAM, 0);
    int server;
    struct kevent event;

    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(tcp_connect(fd, port), 0);
    CHECK(is_quiet(queue));
    server = accept(listener, NULL, NULL);
    CHECK_EQ(write(server, "xy", 2), 2);
    CHECK_EQ(get_one(queue).data, 2);
    CHECK_EQ(get_one(queue).data, 2); /* level-triggered again */
    close(server);
    event = get_one(queue);
    CHECK(event.flags & EV_EOF || event.data == 2);
    close(fd);
    close(listener);
    close(queue);
}

static void socket_that_listens_later(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    int queue = new_queue(), listener = socket(AF_INET, SOCK_STREAM, 0);
    int client = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(add(queue, (uintptr_t)listener, EVFILT_READ, EV_DISPATCH), 0);
    CHECK(is_quiet(queue));
    REQUIRE(bind(listener, (struct sockaddr *)&address, size) == 0);
    REQUIRE(listen(listener, 4) == 0);
    REQUIRE(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    CHECK_EQ(connect(client, (struct sockaddr *)&address, size), 0);
    CHECK_EQ(get_one(queue).data, 1);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, (uintptr_t)listener, EVFILT_READ, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).data, 1);
    close(client);
    close(listener);
    close(queue);
}

/* One event, and then silence for pollers, too: the kernel has disarmed it. */
static void once_and_then_silence(void)
{
    int queue = new_queue(), pair[2];
    uintptr_t fd;

    tcp_pair(pair);
    fd = (uintptr_t)pair[0];
    CHECK_EQ(write(pair[1], "abc", 3), 3);
    CHECK_EQ(add(queue, fd, EVFILT_READ, EV_ONESHOT), 0);
    CHECK_EQ(get_one(queue).flags, EV_ONESHOT);
    CHECK(!is_readable(queue));
    CHECK_EQ(change(queue, fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), ENOENT);
    CHECK_EQ(add(queue, fd, EVFILT_READ, EV_DISPATCH), 0);
    CHECK_EQ(get_one(queue).flags, EV_DISPATCH);
    CHECK(!is_readable(queue));
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).data, 3);
    CHECK_EQ(add(queue, fd, EVFILT_READ, EV_DISABLE), 0);
    CHECK(!is_readable(queue));
    CHECK_EQ(change(queue, fd, EVFILT_READ, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).flags, 0);
    CHECK_EQ(get_one(queue).flags, 0);
    CHECK_EQ(change(queue, fd, EVFILT_READ, EV_DISABLE, 0, 0, NULL), 0);
    CHECK(!is_readable(queue));
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void datagrams(void)
{
    int queue = new_queue(), pair[2];
    char byte;

    REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(send(pair[1], "abcd", 4, 0), 4);
    CHECK_EQ(get_one(queue).data, 4);
    CHECK_EQ(recv(pair[0], &byte, 1, 0), 1);
    CHECK(is_quiet(queue));
    /* One without any bytes is an event too. */
    CHECK_EQ(send(pair[1], "", 0, 0), 0);
    CHECK_EQ(get_one(queue).data, 0);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void pipe_bytes_and_end(void)
{
    int queue = new_queue(), ends[2];
    struct kevent event;

    REQUIRE(pipe(ends) == 0);
    set_nonblocking(ends[0]);
    CHECK_EQ(add(queue, (uintptr_t)ends[0], EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(ends[1], "1234567", 7), 7);
    CHECK_EQ(get_one(queue).data, 7);
    close(ends[1]);
    event = get_one(queue);
    CHECK_EQ(event.data, 7);
    CHECK_EQ(event.flags, EV_EOF);
    CHECK_EQ(drain(ends[0]), 7);
    event = get_one(queue);
    CHECK_EQ(event.data, 0);
    CHECK_EQ(event.flags, EV_EOF);
    close(ends[0]);
    close(queue);
}

/* A new writer takes the end back. */
static void fifo_comes_back(void)
{
    int queue = new_queue(), reader, writer;
    const char *path = scratch_file("fifo");

    REQUIRE(mkfifo(path, 0600) == 0);
    reader = open(path, O_RDONLY | O_NONBLOCK);
    REQUIRE(reader >= 0);
    CHECK_EQ(add(queue, (uintptr_t)reader, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    writer = open(path, O_WRONLY);
    close(writer);
    CHECK_EQ(get_one(queue).flags, EV_EOF);
    writer = open(path, O_WRONLY);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(writer, "ab", 2), 2);
    CHECK_EQ(get_one(queue).data, 2);
    close(writer);
    close(reader);
    close(queue);
}

static void low_water_mark(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(change(queue, (uintptr_t)pair[0], EVFILT_READ, EV_ADD, NOTE_LOWAT, 10, NULL), 0);
    CHECK_EQ(write(pair[1], "12345", 5), 5);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(pair[1], "67890", 5), 5);
    CHECK_EQ(get_one(queue).data, 10);
    CHECK_EQ(get_one(queue).data, 10);
    CHECK_EQ(drain(pair[0]), 10);
    CHECK_EQ(write(pair[1], "1", 1), 1);
    CHECK(is_quiet(queue));
    /* The end doesn't wait for the mark. */
    shutdown(pair[1], SHUT_WR);
    CHECK_EQ(get_one(queue).flags, EV_EOF);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void terminal_bytes(void)
{
    int queue = new_queue(), master = posix_openpt(O_RDWR | O_NOCTTY), slave;

    if (master == -1 || grantpt(master) != 0 || unlockpt(master) != 0) {
        check_skip("no pseudo-terminals here");
        return;
    }
    slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK);
    CHECK_EQ(add(queue, (uintptr_t)slave, EVFILT_READ, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(write(master, "line\n", 5), 5);
    CHECK_EQ(get_one(queue).data, 5);
    CHECK_EQ(drain(slave), 5);
    close(master);
    CHECK(get_one(queue).flags & EV_EOF);
    close(slave);
    close(queue);
}

static void bad_descriptors(void)
{
    int queue = new_queue(), ends[2];

    CHECK_EQ(add(queue, 999999, EVFILT_READ, 0), EBADF);
    CHECK_EQ(add(queue, (uintptr_t)-1, EVFILT_READ, 0), EBADF);
    CHECK_EQ(change(queue, 999999, EVFILT_READ, EV_DELETE, 0, 0, NULL), EBADF);
    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_READ, EV_DELETE, 0, 0, NULL), ENOENT);
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_READ, EV_ENABLE, 0, 0, NULL), ENOENT);
    close(ends[0]);
    close(ends[1]);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(bytes_readable),
        TEST(clear_returns_each_arrival_once),
        TEST(data_before_the_end),
        TEST(clear_returns_the_end_once),
        TEST(reset_is_in_fflags_and_stays),
        TEST(unix_reset_is_in_fflags),
        TEST(backlog_of_tcp),
        TEST(backlog_of_unix_sockets),
        TEST(unconnected_socket_waits),
        TEST(socket_that_listens_later),
        TEST(once_and_then_silence),
        TEST(datagrams),
        TEST(pipe_bytes_and_end),
        TEST(fifo_comes_back),
        TEST(low_water_mark),
        TEST(terminal_bytes),
        TEST(bad_descriptors),
    };

    return check_main(tests, COUNT(tests));
}
