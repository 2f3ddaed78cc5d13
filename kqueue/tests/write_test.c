/* EVFILT_WRITE: room, connecting, readers that go; beside EVFILT_READ on the same descriptor. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void full_socket_waits_for_room(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
    CHECK(get_one(queue).data > 1000);
    CHECK_EQ(get_one(queue).flags, 0);
    fill(pair[0]);
    CHECK(is_quiet(queue));
    drain(pair[1]);
    CHECK(get_one(queue).data > 1000);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void clear_returns_room_once(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, EV_CLEAR), 0);
    CHECK_EQ(get_one(queue).flags, EV_CLEAR);
    CHECK(is_quiet(queue));
    fill(pair[0]);
    CHECK(is_quiet(queue));
    drain(pair[1]);
    CHECK_EQ(get_one(queue).flags, EV_CLEAR);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* `data` is a promise: so much is taken in one write. */
static void promised_room_is_there(int fd, int peer, int queue)
{
    static char bytes[8 << 20];

    for (int round = 0; round < 6; round++) {
        struct kevent event = get_one(queue);
        size_t size = event.data < (int64_t)sizeof(bytes) ? (size_t)event.data : sizeof(bytes);

        CHECK(event.data > 0);
        if (round % 2 == 0)
            size = size / 3 + 1;
        CHECK_EQ(write(fd, bytes, size), size);
        if (round == 3)
            drain(peer);
        /* The full buffer isn't writable until somebody reads. */
        while (!is_readable(queue) && drain(peer) == 0) {}
    }
}

static void promised_room_is_there_on_sockets(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
    promised_room_is_there(pair[0], pair[1], queue);
    close(pair[0]);
    close(pair[1]);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
    promised_room_is_there(pair[0], pair[1], queue);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

static void pipe_room_and_end(void)
{
    int queue = new_queue(), ends[2];
    struct kevent event;

    REQUIRE(pipe(ends) == 0);
    set_nonblocking(ends[0]);
    set_nonblocking(ends[1]);
    CHECK_EQ(add(queue, (uintptr_t)ends[1], EVFILT_WRITE, 0), 0);
    CHECK_EQ(get_one(queue).data, fcntl(ends[1], F_GETPIPE_SZ));
    fill(ends[1]);
    CHECK(is_quiet(queue));
    drain(ends[0]);
    CHECK_EQ(write(ends[1], "abc", 3), 3);
    CHECK_EQ(get_one(queue).data, fcntl(ends[1], F_GETPIPE_SZ) - 3);
    close(ends[0]);
    event = get_one(queue);
    CHECK_EQ(event.flags, EV_EOF);
    close(ends[1]);
    close(queue);
}

/* Nothing fits when there is nobody to read it, whether the buffer is full or empty. */
static void nothing_fits_without_a_reader(void)
{
    for (int is_full = 0; is_full < 2; is_full++) {
        int queue = new_queue(), ends[2];
        struct kevent event;

        REQUIRE(pipe(ends) == 0);
        set_nonblocking(ends[1]);
        if (is_full)
            fill(ends[1]);
        CHECK_EQ(add(queue, (uintptr_t)ends[1], EVFILT_WRITE, 0), 0);
        close(ends[0]);
        event = get_one(queue);
        CHECK_EQ(event.flags, EV_EOF);
        CHECK_EQ(event.data, 0);
        close(ends[1]);
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
        if (is_full)
            fill(ends[1]);
        CHECK_EQ(add(queue, (uintptr_t)ends[1], EVFILT_WRITE, 0), 0);
        close(ends[0]);
        event = get_one(queue);
        CHECK(event.flags & EV_EOF);
        CHECK(event.data >= 0);
        close(ends[1]);
        close(queue);
    }
}

/* A terminal whose other side has gone. */
static void terminal_hung_up(void)
{
    int queue = new_queue(), master = posix_openpt(O_RDWR | O_NOCTTY), slave;

    if (master == -1 || grantpt(master) != 0 || unlockpt(master) != 0) {
        check_skip("no pseudo-terminals here");
        return;
    }
    slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK);
    CHECK_EQ(add(queue, (uintptr_t)slave, EVFILT_WRITE, 0), 0);
    CHECK_EQ(get_one(queue).flags, 0);
    close(master);
    CHECK_EQ(get_one(queue).flags, EV_EOF);
    close(slave);
    close(queue);
}

static void connecting_ends_writable(void)
{
    uint16_t port;
    int queue = new_queue(), listener = tcp_listen(&port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = -1;
    socklen_t size = sizeof(error);
    struct kevent event;

    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_WRITE, EV_ONESHOT), 0);
    CHECK(is_quiet(queue)); /* not connected */
    CHECK_EQ(tcp_connect(fd, port), -1);
    CHECK_EQ(errno, EINPROGRESS);
    event = get_one(queue);
    CHECK_EQ(event.flags, EV_ONESHOT);
    CHECK_EQ(event.fflags, 0);
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    CHECK_EQ(error, 0);
    close(fd);
    close(listener);
    close(queue);
}

/*
 * The error is in fflags, and SO_ERROR has it still: that is where most programs look. Which error
 * it is has to be inferred; where nothing is told, fflags says reset.
 */
static void refused_connection(void)
{
    uint16_t port;
    int queue = new_queue(), fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = -1;
    socklen_t size = sizeof(error);
    struct kevent event;

    close(tcp_listen(&port));
    CHECK_EQ(tcp_connect(fd, port), -1);
    CHECK_EQ(errno, EINPROGRESS);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_WRITE, 0), 0);
    event = get_one(queue);
    CHECK(event.flags & EV_EOF);
    CHECK_EQ(event.fflags, has_tcp_info() ? ECONNREFUSED : ECONNRESET);
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    CHECK_EQ(error, ECONNREFUSED);
    close(fd);
    close(queue);
}

static void connection_that_times_out(void)
{
    uint16_t port;
    int listener = tcp_listen(&port), queue = new_queue(), blockers[4], fd, attempts = 1;
    struct kevent event;

    /* A full backlog drops the SYN. */
    REQUIRE(listen(listener, 0) == 0);
    for (int i = 0; i < 4; i++) {
        blockers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        tcp_connect(blockers[i], port);
    }
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    REQUIRE(setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &attempts, sizeof(attempts)) == 0);
    CHECK_EQ(tcp_connect(fd, port), -1);
    CHECK_EQ(add(queue, (uintptr_t)fd, EVFILT_WRITE, 0), 0);
    event = get_one(queue);
    CHECK(event.flags & EV_EOF);
    CHECK_EQ(event.fflags, has_tcp_info() ? ETIMEDOUT : ECONNRESET);
    for (int i = 0; i < 4; i++)
        close(blockers[i]);
    close(fd);
    close(listener);
    close(queue);
}

static void peer_that_resets(void)
{
    int queue = new_queue(), pair[2];
    struct kevent event;

    tcp_pair(pair);
    reset(pair[1]);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, EV_CLEAR), 0);
    event = get_one(queue);
    CHECK_EQ(event.flags, EV_CLEAR | EV_EOF);
    CHECK_EQ(event.fflags, ECONNRESET);
    close(pair[0]);
    close(queue);
}

/* The peer's half-close is no matter of the writing side. */
static void half_close_is_not_the_end(void)
{
    int queue = new_queue(), pair[2];

    tcp_pair(pair);
    shutdown(pair[1], SHUT_WR);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
    CHECK_EQ(get_one(queue).flags, 0);
    fill(pair[0]);
    CHECK(is_quiet(queue));
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* Each filter has its own mode, edges, one-shots and udata. */
static void read_and_write_side_by_side(void)
{
    int queue = new_queue(), pair[2], reading, writing;
    uintptr_t fd;
    struct kevent events[4];

    tcp_pair(pair);
    fd = (uintptr_t)pair[0];
    CHECK_EQ(change(queue, fd, EVFILT_READ, EV_ADD, 0, 0, &reading), 0);
    CHECK_EQ(change(queue, fd, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, &writing), 0);
    CHECK_EQ(get(queue, events, 4, LONG_MS), 1);
    CHECK_EQ(events[0].filter, EVFILT_WRITE);
    CHECK(events[0].udata == &writing);
    for (int i = 0; i < 3; i++) {
        /* Bytes that arrive make no new event for writing. */
        CHECK_EQ(write(pair[1], "x", 1), 1);
        CHECK_EQ(get(queue, events, 4, LONG_MS), 1);
        CHECK_EQ(events[0].filter, EVFILT_READ);
        CHECK_EQ(events[0].data, i + 1);
        CHECK(events[0].udata == &reading);
    }
    CHECK_EQ(change(queue, fd, EVFILT_WRITE, EV_ADD, 0, 0, NULL), 0);
    CHECK_EQ(get(queue, events, 4, LONG_MS), 2);
    CHECK_EQ(change(queue, fd, EVFILT_READ, EV_DELETE, 0, 0, NULL), 0);
    CHECK_EQ(get(queue, events, 4, LONG_MS), 1);
    CHECK_EQ(events[0].filter, EVFILT_WRITE);
    CHECK_EQ(change(queue, fd, EVFILT_WRITE, EV_DELETE, 0, 0, NULL), 0);
    CHECK(is_quiet(queue));
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

/* One event per call is enough for both to get through. */
static void nobody_starves_in_small_steps(void)
{
    int queue = new_queue(), pair[2], seen[2] = {0, 0};

    tcp_pair(pair);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_READ, 0), 0);
    CHECK_EQ(add(queue, (uintptr_t)pair[0], EVFILT_WRITE, 0), 0);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    for (int i = 0; i < 20; i++) {
        struct kevent event;

        CHECK_EQ(get(queue, &event, 1, LONG_MS), 1);
        seen[event.filter == EVFILT_READ]++;
    }
    CHECK(seen[0] > 0);
    CHECK(seen[1] > 0);
    close(pair[0]);
    close(pair[1]);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(full_socket_waits_for_room),        TEST(clear_returns_room_once),
        TEST(promised_room_is_there_on_sockets), TEST(pipe_room_and_end),
        TEST(nothing_fits_without_a_reader),     TEST(terminal_hung_up),
        TEST(connecting_ends_writable),          TEST(refused_connection),
        TEST(connection_that_times_out),         TEST(peer_that_resets),
        TEST(half_close_is_not_the_end),         TEST(read_and_write_side_by_side),
        TEST(nobody_starves_in_small_steps),
    };

    return check_main(tests, COUNT(tests));
}
