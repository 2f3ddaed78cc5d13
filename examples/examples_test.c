/* examples_test.c - runs the examples as a user would: as programs, over real sockets.
 *
 * Each case starts one or two of them on a free port, reads the address from the first line they
 * print, plays their clients with plain blocking sockets, and ends them. The backend is that of the
 * environment's PIER_BACKEND, which the examples see too.
 *
 * They may be examples for another system, in PIER_EXAMPLES_DIRECTORY and run by PIER_EMULATOR. For
 * Windows, whose programs end in .exe, those that need POSIX aren't built. */

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "pier/pier.h"

struct program {
    pid_t pid;
    FILE *output;
    struct pier_address address;
    char text[PIER_ADDRESS_TEXT_MAX];
};

static const char *emulator, *examples;
static bool for_windows;

static void need_backend(void)
{
    const char *name = getenv("PIER_BACKEND");
    examples = getenv("PIER_EXAMPLES_DIRECTORY");
    emulator = getenv("PIER_EMULATOR");
    for_windows = name != NULL && strcmp(name, "iocp") == 0;
    if (examples == NULL)
        examples = PIER_EXAMPLES_DIRECTORY;
    if (for_windows)
        return;
    if (name != NULL && pier_backend_probe(name) < 0) {
        static char why[300];
        snprintf(why, sizeof why, "%s: %s", name, pier_error_detail());
        SKIP(why);
    }
}

/* Starts an example with its standard output (and error) in a pipe. */
static void start_program(struct program *program, const char *name, const char *first,
                          const char *second)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s%s", examples, name, for_windows ? ".exe" : "");
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    program->pid = fork();
    REQUIRE(program->pid >= 0);
    if (program->pid == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a case that fails leaves nothing behind */
#endif
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (emulator != NULL)
            execl(emulator, emulator, path, first, second, (char *)NULL);
        else
            execl(path, name, first, second, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    program->output = fdopen(ends[0], "r");
    REQUIRE(program->output != NULL);
}

/* Reads a line of what the program prints, without its end. */
static bool read_line(struct program *program, char *line, int size)
{
    if (fgets(line, size, program->output) == NULL)
        return false;
    line[strcspn(line, "\r\n")] = '\0';
    return true;
}

/* Starts an example that is a server, and reads its first line. */
static void start_server(struct program *program, const char *name, const char *first,
                         const char *second)
{
    static const char prefix[] = "listening on ";
    char line[256] = "";
    start_program(program, name, first, second);
    if (!read_line(program, line, sizeof line) || strncmp(line, prefix, sizeof prefix - 1) != 0)
        FAIL("%s begins with: %s", name, line);
    snprintf(program->text, sizeof program->text, "%.127s", line + sizeof prefix - 1);
    REQUIRE(pier_address_parse(&program->address, program->text) == 0);
}

/* Waits for the program's end: its exit code, or -1 when a signal ended it. */
static int end_program(struct program *program, int signal_number)
{
    int status = 0;
    if (signal_number != 0)
        kill(program->pid, signal_number);
    while (waitpid(program->pid, &status, 0) < 0 && errno == EINTR) {}
    fclose(program->output);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Reads lines of the program until one has `part`. */
static bool wait_for_line(struct program *program, const char *part)
{
    char line[256];
    while (read_line(program, line, sizeof line)) {
        if (strstr(line, part) != NULL)
            return true;
    }
    return false;
}

static int connect_to(const struct program *program)
{
    const struct pier_address *address = &program->address;
    union {
        struct sockaddr any;
        struct sockaddr_in ip;
        struct sockaddr_un local;
    } name;
    socklen_t size;
    memset(&name, 0, sizeof name);
    if (address->family == PIER_ADDRESS_UNIX) {
        name.local.sun_family = AF_UNIX;
        memcpy(name.local.sun_path, address->u.path, address->path_length);
        size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + address->path_length);
    } else {
        name.ip.sin_family = AF_INET;
        name.ip.sin_port = htons(address->port);
        memcpy(&name.ip.sin_addr, address->u.ip, 4);
        size = sizeof name.ip;
    }
    int fd = socket(name.any.sa_family, SOCK_STREAM, 0);
    REQUIRE(fd >= 0);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    struct timeval limit = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    REQUIRE(connect(fd, &name.any, size) == 0);
    return fd;
}

/* recv() that isn't disturbed: taking down the ring of a probe makes the kernel interrupt a later
 * call once, and one on a socket with a time-out isn't restarted. */
static ssize_t receive(int fd, void *memory, size_t size, int flags)
{
    ssize_t count;
    do {
        count = recv(fd, memory, size, flags);
    } while (count < 0 && errno == EINTR);
    return count;
}

static ssize_t transmit(int fd, const void *memory, size_t size)
{
    ssize_t count;
    do {
        count = send(fd, memory, size, MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    return count;
}

/* Byte `offset` of the stream that client number `seed` sends. */
static unsigned char stream_byte(unsigned seed, size_t offset)
{
    return (unsigned char)((offset * 7 + offset / 251 + seed * 31) & 0xff);
}

static void send_stream(int fd, unsigned seed, size_t offset, size_t size)
{
    unsigned char data[4096];
    while (size > 0) {
        size_t part = size < sizeof data ? size : sizeof data;
        for (size_t i = 0; i < part; i++)
            data[i] = stream_byte(seed, offset + i);
        ssize_t sent = transmit(fd, data, part);
        REQUIRE(sent > 0);
        offset += (size_t)sent;
        size -= (size_t)sent;
    }
}

static void receive_stream(int fd, unsigned seed, size_t offset, size_t size)
{
    unsigned char data[4096];
    while (size > 0) {
        ssize_t got = receive(fd, data, size < sizeof data ? size : sizeof data, 0);
        REQUIRE(got > 0);
        for (ssize_t i = 0; i < got; i++)
            REQUIRE(data[i] == stream_byte(seed, offset + (size_t)i));
        offset += (size_t)got;
        size -= (size_t)got;
    }
}

static bool at_end(int fd)
{
    char byte;
    return receive(fd, &byte, 1, 0) == 0;
}

static void send_text(int fd, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t sent = transmit(fd, text, left);
        REQUIRE(sent > 0);
        text += sent;
        left -= (size_t)sent;
    }
}

static void expect_text(int fd, const char *text)
{
    char got[256] = "";
    size_t size = strlen(text), length = 0;
    REQUIRE(size < sizeof got);
    while (length < size) {
        ssize_t count = receive(fd, got + length, size - length, 0);
        if (count <= 0) {
            FAIL("%s in front of: %s", count == 0 ? "end of stream" : strerror(errno),
                 text + length);
            break;
        }
        length += (size_t)count;
    }
    CHECK_STR(got, text);
}

/* Sends until the other end doesn't take any more; returns the bytes. */
static size_t send_until_stuck(int fd, unsigned seed)
{
    size_t sent = 0;
    int full = 0;
    while (full < 20) {
        unsigned char data[4096];
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = stream_byte(seed, sent + i);
        ssize_t count = send(fd, data, sizeof data, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count > 0) {
            sent += (size_t)count;
            full = 0;
        } else {
            REQUIRE(errno == EAGAIN);
            full++;
            usleep(5000);
        }
    }
    return sent;
}

/* Three clients at once, then one that doesn't read, then the end of the stream. */
static void exercise_echo(const struct program *server)
{
    enum { CLIENTS = 3, ROUNDS = 50, PIECE = 7000 };
    int clients[CLIENTS];
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = connect_to(server);
    for (size_t round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CLIENTS; i++)
            send_stream(clients[i], i, round * PIECE, PIECE);
        for (unsigned i = 0; i < CLIENTS; i++)
            receive_stream(clients[i], i, round * PIECE, PIECE);
    }
    size_t start = (size_t)ROUNDS * PIECE;
    int slow = connect_to(server);
    size_t stuck = send_until_stuck(slow, 9);
    CHECK_GT(stuck, 0);

    /* The others don't notice. */
    send_stream(clients[0], 0, start, PIECE);
    receive_stream(clients[0], 0, start, PIECE);

    receive_stream(slow, 9, 0, stuck);
    for (unsigned i = 0; i < CLIENTS; i++) {
        size_t more = i == 0 ? start + PIECE : start;
        send_stream(clients[i], i, more, PIECE);
        shutdown(clients[i], SHUT_WR);
        receive_stream(clients[i], i, more, PIECE);
        CHECK(at_end(clients[i]));
        close(clients[i]);
    }
    close(slow);
}

TEST(echo_server_returns_what_it_is_sent)
{
    need_backend();
    struct program server;
    start_server(&server, "echo_server", "127.0.0.1:0", NULL);
    exercise_echo(&server);
    CHECK_EQ(end_program(&server, SIGTERM), -1);
}

TEST(echo_server_listens_on_a_path)
{
    need_backend();
    struct program server, proxy;
    char directory[] = "/tmp/pier-examples-XXXXXX", address[64];
    REQUIRE(mkdtemp(directory) != NULL);
    snprintf(address, sizeof address, "unix:%s/echo", directory);
    start_server(&server, "echo_server", address, NULL);
    CHECK_STR(server.text, address);
    if (for_windows) {
        /* Out of reach for this program: by way of one that connects to it there. */
        start_server(&proxy, "tcp_proxy", address, "127.0.0.1:0");
        exercise_echo(&proxy);
        end_program(&proxy, SIGTERM);
    } else {
        exercise_echo(&server);
    }
    end_program(&server, SIGTERM);
    unlink(address + 5);
    rmdir(directory);
}

TEST(a_bad_address_is_refused_in_one_line)
{
    need_backend();
    static const char *const names[] = {"echo_server", "chat_server", "worker_thread"};
    for (size_t i = 0; i < (for_windows ? 2 : 3); i++) {
        struct program server;
        start_program(&server, names[i], "localhost:80", NULL);
        CHECK(wait_for_line(&server, "names aren't looked up"));
        CHECK(!wait_for_line(&server, ""));
        CHECK_EQ(end_program(&server, 0), 1);
    }
}

TEST(a_port_in_use_is_refused_in_one_line)
{
    need_backend();
    struct program server, second;
    start_server(&server, "echo_server", "127.0.0.1:0", NULL);
    start_program(&second, "echo_server", server.text, NULL);
    CHECK(wait_for_line(&second, server.text));
    CHECK_EQ(end_program(&second, 0), 1);
    end_program(&server, SIGTERM);
}

TEST(chat_server_passes_lines_on)
{
    need_backend();
    struct program server;
    start_server(&server, "chat_server", "127.0.0.1:0", NULL);
    int a = connect_to(&server);
    CHECK(wait_for_line(&server, "guest 1 joined"));
    int b = connect_to(&server);
    CHECK(wait_for_line(&server, "guest 2 joined"));
    int c = connect_to(&server);
    CHECK(wait_for_line(&server, "guest 3 joined"));
    send_text(a, "hel");
    send_text(c, "me too\n");
    expect_text(a, "guest 3: me too\n");
    expect_text(b, "guest 3: me too\n");
    send_text(a, "lo\nworld\n");
    expect_text(b, "guest 1: hello\nguest 1: world\n");
    expect_text(c, "guest 1: hello\nguest 1: world\n");
    close(b);
    CHECK(wait_for_line(&server, "guest 2 left"));
    send_text(c, "\n");
    expect_text(a, "guest 3: \n");
    /* Of the two Wine passes SIGINT on, as Ctrl-C. */
    CHECK_EQ(end_program(&server, for_windows ? SIGINT : SIGTERM), 0);
    CHECK(at_end(a));
    CHECK(at_end(c));
    close(a);
    close(c);
}

TEST(chat_server_drops_who_does_not_read)
{
    need_backend();
    struct program server;
    start_server(&server, "chat_server", "127.0.0.1:0", NULL);
    int talker = connect_to(&server);
    CHECK(wait_for_line(&server, "guest 1 joined"));
    int sleeper = connect_to(&server);
    CHECK(wait_for_line(&server, "guest 2 joined"));
    char line[1001];
    memset(line, 'x', sizeof line - 2);
    line[999] = '\n';
    line[1000] = '\0';
    /* More than the socket buffers of both ends and the writer hold. */
    for (int i = 0; i < 20000; i++)
        send_text(talker, line);
    CHECK(wait_for_line(&server, "guest 2 falls behind"));
    CHECK(wait_for_line(&server, "guest 2 left: it reads too slowly"));

    close(talker);
    CHECK(wait_for_line(&server, "guest 1 left: end of stream"));

    int a = connect_to(&server), b = connect_to(&server);
    CHECK(wait_for_line(&server, "guest 4 joined"));
    send_text(a, "hello\n");
    expect_text(b, "guest 3: hello\n");
    close(a);
    close(b);
    close(sleeper);
    CHECK_EQ(end_program(&server, SIGINT), 0);
}

TEST(tcp_proxy_passes_bytes_and_ends_both_ways)
{
    need_backend();
    struct program target, proxy;
    start_server(&target, "echo_server", "127.0.0.1:0", NULL);
    start_server(&proxy, "tcp_proxy", target.text, "127.0.0.1:0");
    exercise_echo(&proxy);
    end_program(&proxy, SIGTERM);
    end_program(&target, SIGTERM);
}

TEST(tcp_proxy_closes_clients_of_a_dead_target)
{
    need_backend();
    /* Bound and not listening: nobody else gets the port, and who connects is refused. */
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof name;
    char target[32];
    int dead = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(dead >= 0 && bind(dead, (struct sockaddr *)&name, size) == 0);
    REQUIRE(getsockname(dead, (struct sockaddr *)&name, &size) == 0);
    snprintf(target, sizeof target, "127.0.0.1:%d", ntohs(name.sin_port));

    struct program proxy;
    start_server(&proxy, "tcp_proxy", target, "127.0.0.1:0");
    for (int i = 0; i < 3; i++) {
        int client = connect_to(&proxy);
        char byte;
        CHECK_LE(receive(client, &byte, 1, 0), 0);
        close(client);
        CHECK(wait_for_line(&proxy, "connection refused"));
    }
    end_program(&proxy, SIGTERM);
    close(dead);
}

TEST(timer_beats_and_barks)
{
    need_backend();
    struct program timer;
    start_program(&timer, "timer", "20", NULL);
    unsigned long ms, last_ms = 0;
    int beat = 0, number;
    char line[256];
    while (read_line(&timer, line, sizeof line) &&
           sscanf(line, "beat %d after %lu ms", &number, &ms) == 2) {
        CHECK_GT(number, beat);
        CHECK_GE(ms, 20ul * (unsigned)number);
        beat = number;
        last_ms = ms;
    }
    CHECK_GE(beat, 5);
    CHECK_STR(line, "heart stopped: cancelled by the program");
    REQUIRE(read_line(&timer, line, sizeof line));
    CHECK_EQ(sscanf(line, "watchdog barks after %lu ms", &ms), 1);
    CHECK_GE(ms + 1, last_ms + 60); /* each is rounded down */
    CHECK_EQ(end_program(&timer, 0), 0);

    start_program(&timer, "timer", "soon", NULL);
    CHECK(wait_for_line(&timer, "\"soon\" is no interval"));
    CHECK_EQ(end_program(&timer, 0), 2);
}

TEST(guide_is_right)
{
    need_backend();
    if (for_windows)
        SKIP("guide.c uses poll(), pipes and signals of POSIX");
    struct program guide;
    start_program(&guide, "guide", NULL, NULL);
    CHECK(wait_for_line(&guide, "all as the guide says"));
    CHECK_EQ(end_program(&guide, 0), 0);
}

TEST(worker_thread_answers_each_client)
{
    need_backend();
    if (for_windows)
        SKIP("worker_thread.c uses threads of POSIX");
    struct program server;
    start_server(&server, "worker_thread", "127.0.0.1:0", NULL);
    int a = connect_to(&server), b = connect_to(&server), gone = connect_to(&server);
    send_text(a, "200000\n");
    send_text(gone, "100\n");
    close(gone);
    send_text(b, "10");
    send_text(b, "0\n");
    expect_text(b, "25 primes up to 100\n");
    expect_text(a, "17984 primes up to 200000\n");
    send_text(a, "0\n");
    expect_text(a, "0 primes up to 0\n");
    send_text(b, "0123456789012345678901234567890123456789");
    char byte;
    CHECK_LE(receive(b, &byte, 1, 0), 0);
    close(a);
    close(b);
    end_program(&server, SIGTERM);
}
