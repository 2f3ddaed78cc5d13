/* posix_descriptors.c - adopted descriptors of kinds that only POSIX has: FIFOs, terminals,
 * devices; and sends of more than 2 GiB, to one of those. */

#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/inotify.h>
#endif
#include <sys/mman.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/timerfd.h>
#endif
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

#ifdef __linux__

static void count_expiries(struct tracked *tracked)
{
    uint64_t *expiries = tracked->context, read;
    if (tracked->result == (int64_t)sizeof(read)) {
        memcpy(&read, tracked->op.data, sizeof(read));
        *expiries += read;
    }
}

/* What read(2) gives of them comes as it happens. */
static void events_and_timers_of_linux(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle event = {0}, timer = {0};
    uint64_t expiries = 0, number = 7, got = 0;
    struct tracked receive = {0}, each = {.context = &expiries};
    const struct itimerspec times = {.it_value = {.tv_nsec = 1000000},
                                     .it_interval = {.tv_nsec = 1000000}};
    const int counter = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    CHECK_OK(tracked_adopt(loop, &event, counter));
    CHECK_OK(tracked_adopt(loop, &timer, clock));
    tracked_receive(&event, &receive, &got, sizeof(got), NULL);
    run_quietly(loop, 5);
    CHECK(receive.in_flight);
    CHECK_INT(write(counter, &number, sizeof(number)), ==, sizeof(number));
    CHECK_INT(wait_for(&receive), ==, sizeof(got));
    CHECK_INT(got, ==, 7);
    tracked_receive_each(&timer, &each, count_expiries);
    CHECK_INT(timerfd_settime(clock, 0, &times, NULL), ==, 0);
    RUN_UNTIL(loop, expiries >= 5);
    close_and_wait(&event);
    close_and_wait(&timer);
}

static void changes_of_files_of_linux(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked receive = {0};
    char path[PIER_PATH_MAX];
    union {
        struct inotify_event event;
        char bytes[sizeof(struct inotify_event) + 256];
    } got;
    const int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    platform_temporary_path(path, sizeof(path));
    const int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK_INT(inotify_add_watch(watch, path, IN_MODIFY), >, 0);
    CHECK_OK(tracked_adopt(loop, &handle, watch));
    tracked_receive(&handle, &receive, &got, sizeof(got), NULL);
    run_quietly(loop, 5);
    CHECK(receive.in_flight);
    raw_send(file, "x", 1);
    CHECK_INT(wait_for(&receive), >=, sizeof(got.event));
    CHECK_INT(got.event.mask & IN_MODIFY, ==, IN_MODIFY);
    close(file);
    close_and_wait(&handle);
    platform_remove(path);
}

#else

static void not_of_linux(void)
{
    test_skip("such descriptors are Linux's");
}

#define events_and_timers_of_linux not_of_linux
#define changes_of_files_of_linux not_of_linux

#endif

/* docs/semantics.md, devices that can't be waited for: an error or an answer, never a wait. */
static void polled_device(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    tracked_poll(loop, &poll, null, PIER_READABLE | PIER_WRITABLE, NULL);
    wait_for(&poll);
    if (test_backend_is("epoll")) {
        CHECK_INT(poll.result, ==, PIER_ENOTSUP);
    } else if (!test_backend_is("kqueue")) {
        CHECK_INT(poll.result, ==, PIER_READABLE | PIER_WRITABLE);
    }
    close(null);
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

const struct test descriptors_tests[] = {
    TEST(descriptors, fifo),
    TEST(descriptors, terminal),
    TEST(descriptors, devices),
    TEST(descriptors, polled_device),
    TEST(descriptors, events_and_timers_of_linux),
    TEST(descriptors, changes_of_files_of_linux),
    TEST(descriptors, send_above_two_gigabytes),
    TEST_END,
};
