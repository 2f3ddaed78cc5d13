/* posix_descriptors.c - adopted descriptors: FIFOs, terminals, files, devices, sockets with and
 * without O_NONBLOCK.
 *
 * What pier adopts may be shared with other processes, so its O_NONBLOCK stays as it was, and
 * the loop never blocks on it all the same. */

#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0 /* Linux; elsewhere untouched memory is not counted anyway */
#endif

static unsigned char data[1 << 20];

static void fifo(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked receive = {0}, send = {0};
    static unsigned char got[200000];
    char path[PIER_PATH_MAX], byte;
    platform_temporary_path(path, sizeof(path));
    CHECK_INT(mkfifo(path, 0600), ==, 0);
    /* For reading and writing, so that neither open waits for the other. */
    const int both = open(path, O_RDWR);
    CHECK_OK(tracked_adopt(loop, &reader, open(path, O_RDONLY)));
    CHECK_OK(tracked_adopt(loop, &writer, open(path, O_WRONLY)));
    close(both);
    tracked_receive(&reader, &receive, &byte, 1, NULL);
    run_quietly(loop, 5);
    CHECK(receive.in_flight);
    pattern_fill(data, sizeof(got), 41, 0);
    tracked_send(&writer, &send, data, sizeof(got), NULL);
    CHECK_INT(wait_for(&receive), ==, 1);
    got[0] = (unsigned char)byte;
    receive_all(&reader, got + 1, sizeof(got) - 1);
    CHECK_PATTERN(got, sizeof(got), 41, 0);
    CHECK_INT(wait_for(&send), ==, sizeof(got));
    close_and_wait(&writer);
    receive_end(&reader);
    close_and_wait(&reader);
    platform_remove(path);
}

static int open_terminal(int *master)
{
    struct termios mode;
    *master = posix_openpt(O_RDWR | O_NOCTTY);
    if (*master < 0 || grantpt(*master) != 0 || unlockpt(*master) != 0) {
        return -1;
    }
    const int slave = open(ptsname(*master), O_RDWR | O_NOCTTY);
    if (slave >= 0 && tcgetattr(slave, &mode) == 0) {
        mode.c_lflag &= ~(tcflag_t)(ECHO | ICANON);
        mode.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(slave, TCSANOW, &mode);
    }
    return slave;
}

static void terminal(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked receive = {0}, each = {0};
    char got[5];
    int master;
    const int slave = open_terminal(&master);
    if (slave < 0) {
        if (master >= 0) {
            close(master);
        }
        test_skip("no pseudo-terminals here: %s", strerror(errno));
        return;
    }
    CHECK_OK(tracked_adopt(loop, &handle, slave));
    tracked_receive(&handle, &receive, got, 5, NULL);
    run_quietly(loop, 5);
    CHECK(receive.in_flight);
    raw_send(master, "typed", 5);
    CHECK_INT(wait_for(&receive), >, 0);
    CHECK_BYTES(got, "typed", (size_t)receive.result);
    if (receive.result < 5) {
        receive_all(&handle, got, 5 - (size_t)receive.result);
    }
    send_all(&handle, "shown", 5);
    raw_receive(master, got, 5);
    CHECK_BYTES(got, "shown", 5);
    tracked_receive_each(&handle, &each, NULL);
    run_quietly(loop, 5);
    close(master);
    /* A terminal that was hung up reads as ended or as an error, depending on the system. */
    CHECK_INT(wait_for(&each), <=, 0);
    close_and_wait(&handle);
}

static void regular_file(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked sends[3] = {0}, receive = {0}, wrong = {0};
    static unsigned char got[sizeof(data)];
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    pattern_fill(data, sizeof(data), 42, 0);
    CHECK_OK(tracked_adopt(loop, &handle, open(path, O_RDWR | O_CREAT | O_EXCL, 0600)));
    tracked_send(&handle, &sends[0], data, 10, NULL);
    tracked_send(&handle, &sends[1], data + 10, 500000, NULL);
    tracked_send(&handle, &sends[2], data + 500010, sizeof(data) - 500010, NULL);
    CHECK_INT(wait_for(&sends[2]), ==, sizeof(data) - 500010);
    CHECK(sends[0].sequence < sends[1].sequence);
    CHECK(sends[1].sequence < sends[2].sequence);
    receive_end(&handle);
    close_and_wait(&handle);
    CHECK_OK(tracked_adopt(loop, &handle, open(path, O_RDONLY)));
    CHECK_INT(lseek((int)pier_handle_descriptor(&handle.handle), 5, SEEK_SET), ==, 5);
    receive_all(&handle, got + 5, sizeof(got) - 5);
    CHECK_PATTERN(got + 5, sizeof(got) - 5, 42, 5);
    tracked_receive_lent(&handle, &receive, NULL);
    CHECK_INT(wait_for(&receive), ==, 0);
    tracked_send(&handle, &wrong, "x", 1, NULL);
    CHECK_INT(wait_for(&wrong), ==, PIER_EBADF);
    close_and_wait(&handle);
    platform_remove(path);
}

struct file_reader {
    struct tracked_handle handle;
    struct tracked each;
    uint64_t received;
};

static void read_file_on(struct tracked *tracked)
{
    struct file_reader *reader = PIER_OWNER(tracked, struct file_reader, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_PATTERN(tracked->op.data, tracked->op.size, 43, reader->received);
        reader->received += tracked->op.size;
    }
}

static void regular_file_with_receive_each(void)
{
    struct pier_loop *loop = test_loop();
    struct file_reader reader = {0};
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    pattern_fill(data, sizeof(data), 43, 0);
    const int file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK_INT(write(file, data, sizeof(data)), ==, sizeof(data));
    CHECK_INT(lseek(file, 0, SEEK_SET), ==, 0);
    CHECK_OK(tracked_adopt(loop, &reader.handle, file));
    tracked_receive_each(&reader.handle, &reader.each, read_file_on);
    CHECK_INT(wait_for(&reader.each), ==, 0);
    CHECK_INT(reader.received, ==, sizeof(data));
    close_and_wait(&reader.handle);
    platform_remove(path);
}

static void devices(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked send = {0};
    char got[100];
    CHECK_OK(tracked_adopt(loop, &handle, open("/dev/null", O_RDWR)));
    send_all(&handle, data, sizeof(data));
    receive_end(&handle);
    close_and_wait(&handle);
    CHECK_OK(tracked_adopt(loop, &handle, open("/dev/zero", O_RDONLY)));
    memset(got, 1, sizeof(got));
    receive_all(&handle, got, sizeof(got));
    CHECK_INT(got[99], ==, 0);
    close_and_wait(&handle);
    const int full = open("/dev/full", O_WRONLY);
    if (full >= 0) {
        CHECK_OK(tracked_adopt(loop, &handle, full));
        tracked_send(&handle, &send, "x", 1, NULL);
        CHECK_INT(wait_for(&send), ==, PIER_ENOSPC);
        CHECK_INT(send.os_error, ==, ENOSPC);
        close_and_wait(&handle);
    }
}

/* The memory is never touched: /dev/null takes it unread, 2 GiB at a call. */
static void send_above_two_gigabytes(void)
{
    if (sizeof(size_t) < 8) {
        test_skip("no such sizes here");
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked send = {0}, vectored = {0};
    const size_t size = ((size_t)2 << 30) + 4097;
    void *huge = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (huge == MAP_FAILED) {
        test_skip("no 2 GiB of address space: %s", strerror(errno));
        return;
    }
    const struct pier_vector vectors[3] = {{huge, size}, {huge, size}, {huge, 1}};
    CHECK_OK(tracked_adopt(loop, &handle, open("/dev/null", O_WRONLY | O_NONBLOCK)));
    tracked_send(&handle, &send, huge, size, NULL);
    CHECK_INT(wait_for(&send), ==, size);
    tracked_send_vectored(&handle, &vectored, vectors, 3, NULL);
    CHECK_INT(wait_for(&vectored), ==, 2 * size + 1);
    CHECK_INT(stats_of(loop).sent_bytes, ==, 3 * size + 1);
    close_and_wait(&handle);
    munmap(huge, size);
}

static void count_expiry(struct tracked *tracked)
{
    unsigned *expiries = tracked->context;
    (*expiries)++;
}

/* Runs everything that could block on a descriptor, beside a timer that shows that the loop
 * lives. */
static void use_shared_descriptor(bool nonblocking, bool pipe_ends)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked receive = {0}, send = {0};
    static unsigned char got[sizeof(data)];
    unsigned expiries = 0;
    struct tracked timer = {.context = &expiries};
    pier_descriptor ends[2];
    if (pipe_ends) {
        raw_pipe(ends);
    } else {
        raw_pair(ends);
    }
    raw_set_nonblocking(ends[0], nonblocking);
    raw_set_nonblocking(ends[1], nonblocking);
    const pier_descriptor shared[2] = {raw_duplicate(ends[0]), raw_duplicate(ends[1])};
    CHECK_OK(tracked_adopt(loop, &reader, ends[0]));
    CHECK_OK(tracked_adopt(loop, &writer, ends[1]));
    tracked_receive(&reader, &receive, got, 1, NULL);
    tracked_timer(loop, &timer, PIER_MILLISECOND, count_expiry);
    RUN_UNTIL(loop, expiries == 1);
    CHECK(receive.in_flight);
    CHECK_INT(raw_is_nonblocking(shared[0]), ==, nonblocking);
    pattern_fill(data, sizeof(data), 44, 0);
    tracked_send(&writer, &send, data, sizeof(data), NULL);
    CHECK_INT(wait_for(&receive), ==, 1);
    tracked_timer(loop, &timer, PIER_MILLISECOND, count_expiry);
    RUN_UNTIL(loop, expiries == 2);
    CHECK(send.in_flight);
    CHECK_INT(raw_is_nonblocking(shared[1]), ==, nonblocking);
    receive_all(&reader, got + 1, sizeof(got) - 1);
    CHECK_INT(wait_for(&send), ==, sizeof(data));
    CHECK_PATTERN(got, sizeof(got), 44, 0);
    tracked_receive_lent(&reader, &receive, NULL);
    run_quietly(loop, 5);
    tracked_cancel(&receive);
    CHECK_INT(wait_for(&receive), ==, PIER_ECANCELED);
    close_and_wait(&reader);
    close_and_wait(&writer);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(raw_is_nonblocking(shared[i]), ==, nonblocking);
        raw_close(shared[i]);
    }
}

static void blocking_socket(void)
{
    use_shared_descriptor(false, false);
}

static void nonblocking_socket(void)
{
    use_shared_descriptor(true, false);
}

static void blocking_pipe(void)
{
    use_shared_descriptor(false, true);
}

static void nonblocking_pipe(void)
{
    use_shared_descriptor(true, true);
}

static void adopted_listener(void)
{
    struct pier_loop *loop = test_loop();
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        struct tracked_handle listener = {0};
        struct tracked accept = {0};
        struct pier_address address = address_of("127.0.0.1:0");
        const pier_descriptor raw = raw_listen(&address, 16);
        const pier_descriptor shared = raw_duplicate(raw);
        raw_set_nonblocking(raw, nonblocking != 0);
        CHECK_OK(tracked_adopt(loop, &listener, raw));
        tracked_accept(&listener, &accept, NULL);
        run_quietly(loop, 5);
        CHECK(accept.in_flight);
        const pier_descriptor peer = raw_connect(&address);
        CHECK_INT(wait_for(&accept), ==, 1);
        CHECK_INT(raw_is_nonblocking(shared), ==, nonblocking);
        close_and_wait(&listener);
        raw_close(shared);
        raw_close(peer);
    }
}

static void what_cannot_be_adopted(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle handle = {0};
    CHECK_REFUSED(pier_adopt(loop, &handle, -1), PIER_EBADF);
    const int closed = open("/dev/null", O_RDONLY);
    close(closed);
    CHECK_REFUSED(pier_adopt(loop, &handle, closed), PIER_EBADF);
    const pier_descriptor datagram = raw_datagram_socket();
    CHECK_REFUSED(pier_adopt(loop, &handle, datagram), PIER_EINVAL);
    CHECK(fcntl((int)datagram, F_GETFD) >= 0);
    raw_close(datagram);
    const int directory = open("/", O_RDONLY);
    CHECK_REFUSED(pier_adopt(loop, &handle, directory), PIER_ENOTSUP);
    CHECK(fcntl(directory, F_GETFD) >= 0);
    close(directory);
    CHECK(!pier_handle_is_open(&handle));
    CHECK_INT(pier_handle_descriptor(&handle), ==, -1);
}

static void same_object_under_two_numbers(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle one = {0}, two = {0};
    char byte = 0;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &one);
    CHECK_OK(tracked_adopt(loop, &two, raw_duplicate(pier_handle_descriptor(&one.handle))));
    check_usable(&one, peer);
    check_usable(&two, peer);
    close_and_wait(&one);
    /* The object lives on under its other number. */
    check_usable(&two, peer);
    close_and_wait(&two);
    CHECK_INT(raw_receive_now(peer, &byte, 1), ==, 0);
    raw_close(peer);
}

static int option_of(const struct tracked_handle *handle, int level, int option)
{
    int value = -1;
    socklen_t size = sizeof(value);
    CHECK_INT(
        getsockopt((int)pier_handle_descriptor(&handle->handle), level, option, &value, &size), ==,
        0);
    return value;
}

static void take_into_context(struct tracked *tracked)
{
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
    }
}

static void check_private(const struct tracked_handle *handle)
{
    const int flags = fcntl((int)pier_handle_descriptor(&handle->handle), F_GETFD);
    CHECK_INT(flags & FD_CLOEXEC, ==, FD_CLOEXEC);
}

/* What pier opens isn't inherited by programs started, and TCP sockets have TCP_NODELAY unless
 * told otherwise. */
static void flags_of_what_pier_opens(void)
{
    struct pier_loop *loop = test_loop();
    for (int delay = 0; delay < 2; delay++) {
        const struct pier_listen_options options = {.delay = delay != 0};
        struct tracked_handle listener = {0}, client = {0}, server = {0}, pairs[4] = {0};
        struct tracked accept = {.context = &server}, connect = {0};
        const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, &options);
        tracked_open_socket(loop, &client, &address);
        tracked_accept(&listener, &accept, take_into_context);
        tracked_connect(&client, &connect, &address, NULL);
        CHECK_INT(wait_for(&connect), ==, 0);
        CHECK_INT(wait_for(&accept), ==, 1);
        tracked_pair(loop, STREAM_PAIR, &pairs[0], &pairs[1]);
        tracked_pair(loop, STREAM_PIPE, &pairs[2], &pairs[3]);
        CHECK_INT(option_of(&client, IPPROTO_TCP, TCP_NODELAY) != 0, ==, 1);
        CHECK_INT(option_of(&server, IPPROTO_TCP, TCP_NODELAY) != 0, ==, delay == 0);
        CHECK_INT(option_of(&listener, SOL_SOCKET, SO_REUSEADDR) != 0, ==, 1);
        CHECK_OK(pier_set_keep_alive(&client.handle, 30, 10, 3));
        CHECK_INT(option_of(&client, SOL_SOCKET, SO_KEEPALIVE) != 0, ==, 1);
        CHECK_OK(pier_set_keep_alive(&client.handle, 0, 0, 0));
        CHECK_INT(option_of(&client, SOL_SOCKET, SO_KEEPALIVE), ==, 0);
        CHECK_OK(pier_set_no_delay(&client.handle, false));
        CHECK_INT(option_of(&client, IPPROTO_TCP, TCP_NODELAY), ==, 0);
        struct tracked_handle *all[] = {&listener, &client,   &server,  &pairs[0],
                                        &pairs[1], &pairs[2], &pairs[3]};
        for (size_t i = 0; i < COUNT_OF(all); i++) {
            check_private(all[i]);
            tracked_close(all[i], NULL);
        }
        for (size_t i = 0; i < COUNT_OF(all); i++) {
            RUN_UNTIL(loop, all[i]->closes == 1);
        }
    }
}

static void urgent_data_is_polled(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    struct pier_address address = address_of("127.0.0.1:0");
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return;
    }
    const pier_descriptor listener = raw_listen(&address, 4);
    const pier_descriptor client = raw_connect(&address), server = raw_accept(listener);
    tracked_poll(loop, &poll, server, PIER_PRIORITY, NULL);
    run_quietly(loop, 5);
    raw_send(client, "x", 1);
    run_quietly(loop, 5);
    CHECK(poll.in_flight);
    CHECK_INT(send((int)client, "!", 1, MSG_OOB), ==, 1);
    CHECK_INT(wait_for(&poll), ==, PIER_PRIORITY);
    raw_close(client);
    raw_close(server);
    raw_close(listener);
}

const struct test descriptors_tests[] = {
    TEST(descriptors, fifo),
    TEST(descriptors, terminal),
    TEST(descriptors, regular_file),
    TEST(descriptors, regular_file_with_receive_each),
    TEST(descriptors, devices),
    TEST(descriptors, send_above_two_gigabytes),
    TEST(descriptors, blocking_socket),
    TEST(descriptors, nonblocking_socket),
    TEST(descriptors, blocking_pipe),
    TEST(descriptors, nonblocking_pipe),
    TEST(descriptors, adopted_listener),
    TEST(descriptors, what_cannot_be_adopted),
    TEST(descriptors, same_object_under_two_numbers),
    TEST(descriptors, flags_of_what_pier_opens),
    TEST(descriptors, urgent_data_is_polled),
    TEST_END,
};
