/* The harness: see check.h. */
#include "check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TEST_SECONDS_MAX 120

static const char *running;
static volatile bool has_failed;
static const char *skipped_because;
static char directory[64];

bool check_that(bool holds, const char *file, int line, const char *what)
{
    if (!holds) {
        has_failed = true;
        printf("not ok %s: %s:%d: %s (errno %d: %s)\n", running, file, line, what, errno,
               strerror(errno));
    }
    return holds;
}

bool check_equal(intmax_t left, intmax_t right, const char *file, int line, const char *what)
{
    if (left != right) {
        has_failed = true;
        printf("not ok %s: %s:%d: %s (%jd, %jd)\n", running, file, line, what, left, right);
    }
    return left == right;
}

void check_give_up(void)
{
    printf("0 passed, 1 failed, 0 skipped\n");
    fflush(NULL);
    _exit(1);
}

void check_skip(const char *why)
{
    skipped_because = why;
}

static void on_alarm(int signal)
{
    static const char message[] = "not ok: hangs\n0 passed, 1 failed, 0 skipped\n";
    ssize_t written = write(STDOUT_FILENO, message, sizeof(message) - 1);

    (void)signal;
    (void)written;
    _exit(1);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

int check_main(const struct test *tests, int count)
{
    int passed = 0, failed = 0, skipped = 0;

    signal(SIGALRM, on_alarm);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < count; i++) {
        running = tests[i].name;
        has_failed = false;
        skipped_because = NULL;
        alarm(TEST_SECONDS_MAX);
        tests[i].run();
        alarm(0);
        if (has_failed) {
            failed++;
        } else if (skipped_because) {
            printf("skip %s: %s\n", running, skipped_because);
            skipped++;
        } else {
            printf("ok %s\n", running);
            passed++;
        }
    }
    if (directory[0])
        nftw(directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    if (failed > 0)
        return 1;
    return passed == 0 && skipped > 0 ? 77 : 0;
}

int new_queue(void)
{
    int queue = kqueue();

    REQUIRE(queue >= 0);
    return queue;
}

int change(int queue, uintptr_t ident, short filter, int flags, unsigned int fflags, int64_t data,
           void *udata)
{
    struct kevent event;

    EV_SET(&event, ident, filter, flags, fflags, data, udata);
    return kevent(queue, &event, 1, NULL, 0, NULL) == -1 ? errno : 0;
}

int add(int queue, uintptr_t ident, short filter, int flags)
{
    return change(queue, ident, filter, EV_ADD | flags, 0, 0, NULL);
}

int get(int queue, struct kevent *events, int room, int ms)
{
    struct timespec timeout = {.tv_sec = ms / MS_PER_SECOND,
                               .tv_nsec = ms % MS_PER_SECOND * 1000000L};

    return kevent(queue, NULL, 0, events, room, &timeout);
}

struct kevent get_one(int queue)
{
    struct kevent events[8];
    int count;

    memset(events, 0, sizeof(events));
    count = get(queue, events, COUNT(events), LONG_MS);
    CHECK_EQ(count, 1);
    return events[0];
}

bool is_quiet(int queue)
{
    struct kevent event;
    int count = get(queue, &event, 1, 0);

    if (count > 0)
        printf("# unexpected: ident %ju filter %d flags %#x fflags %#x data %jd\n",
               (uintmax_t)event.ident, event.filter, event.flags, event.fflags,
               (intmax_t)event.data);
    return count == 0;
}

bool is_readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 1 && poll_fd.revents == POLLIN;
}

void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static struct sockaddr_in loopback(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int tcp_listen(uint16_t *port)
{
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    REQUIRE(fd >= 0);
    REQUIRE(bind(fd, (struct sockaddr *)&address, size) == 0);
    REQUIRE(listen(fd, 16) == 0);
    REQUIRE(getsockname(fd, (struct sockaddr *)&address, &size) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

int tcp_connect(int fd, uint16_t port)
{
    struct sockaddr_in address = loopback(port);

    return connect(fd, (struct sockaddr *)&address, sizeof(address));
}

void tcp_pair(int pair[2])
{
    uint16_t port;
    int listener = tcp_listen(&port);

    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(pair[0] >= 0);
    REQUIRE(tcp_connect(pair[0], port) == 0);
    pair[1] = accept(listener, NULL, NULL);
    REQUIRE(pair[1] >= 0);
    close(listener);
    set_nonblocking(pair[0]);
    set_nonblocking(pair[1]);
}

void reset(int fd)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd);
}

size_t fill(int fd)
{
    static const char block[4096];
    size_t total = 0;
    ssize_t count;

    while ((count = write(fd, block, sizeof(block))) > 0)
        total += (size_t)count;
    return total;
}

size_t drain(int fd)
{
    char block[65536];
    size_t total = 0;
    ssize_t count;

    while ((count = read(fd, block, sizeof(block))) > 0)
        total += (size_t)count;
    return total;
}

const char *scratch(void)
{
    if (!directory[0]) {
        snprintf(directory, sizeof(directory), "/tmp/pier-kqueue-XXXXXX");
        REQUIRE(mkdtemp(directory) != NULL);
    }
    return directory;
}

const char *scratch_file(const char *name)
{
    static char paths[2][128];
    static int turn;

    turn = !turn;
    snprintf(paths[turn], sizeof(paths[turn]), "%s/%s", scratch(), name);
    return paths[turn];
}

bool can_watch_processes(void)
{
    int queue = new_queue();
    int error = change(queue, (uintptr_t)getpid(), EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);

    close(queue);
    if (error == ENOTSUP)
        check_skip("no pidfd_open() here (Linux before 5.3, valgrind)");
    return error == 0;
}

bool has_tcp_info(void)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    int fd = socket(AF_INET, SOCK_STREAM, 0), result;

    result = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
    close(fd);
    return result == 0 && size > sizeof(int);
}

bool has_socket_statistics(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

    if (fd == -1)
        return false;
    close(fd);
    return true;
}

int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int count_descriptors(void)
{
    DIR *list = opendir("/proc/self/fd");
    int count = -3; /* ".", ".." and the list itself */

    REQUIRE(list != NULL);
    while (readdir(list))
        count++;
    closedir(list);
    return count;
}
