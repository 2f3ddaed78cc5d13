/*
 * The neutral client of the bench: a closed loop on raw epoll that verifies every byte, so that no
 * server under comparison is driven by a client of its own kind.
 *
 *   load --connect ADDRESS [--connections N] [--idle N] [--size S] [--depth P]
 *        [--messages M | --duration SECONDS] [--churn] [--processes N] [--step]
 *
 * Each connection keeps up to P messages of S bytes under way. The byte at offset k of connection c
 * is pattern[(k + 17 c) mod PERIOD], so that lost, repeated, reordered and foreign bytes are seen.
 * With --churn a message is a life: connect, send, receive, close. Idle connections are opened
 * first and say nothing. The result is one line of JSON.
 *
 * With --step the program prints "connected" once all connections are open, waits for a line on
 * standard input, measures, prints the result, and holds its connections until standard input ends:
 * so a driver can read the server's accounts right before and after the measured part. The work is
 * done in child processes, which the parent steers through a pipe.
 *
 * Source addresses rotate through 127.0.1.1-250 where the target is 127.x, since one address has
 * only some 28,000 ports.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

enum {
    PERIOD = 4093, /* prime, so that no usual message size divides it */
    CHUNK = 64 * 1024,
    EVENTS_MAX = 512,
    CONNECTS_UNCHECKED =
        1000, /* connections opened before the server must have answered one of them */
    PROCESSES_MAX = 64,
    SILENCE_SECONDS = 30
};

struct options {
    struct sockaddr_storage address;
    socklen_t address_size;
    uint64_t connections, idle, size, depth, messages, processes;
    double duration;
    bool churn, step;
};

struct result {
    struct histogram latency;
    uint64_t messages, begin_ns, end_ns;
};

struct connection {
    int fd;
    bool ended;                         /* counted as ended already */
    uint64_t quota, started, completed; /* messages */
    uint64_t sent, received;            /* bytes of this life of the connection */
    uint64_t life_first;                /* messages completed before this life */
    uint64_t *begin_ns;                 /* of the messages under way, a ring of `depth` */
};

struct worker {
    const struct options *options;
    struct result *result;
    struct connection *connections;
    int epoll;
    uint64_t deadline_ns, running;
    bool stopping;
};

static unsigned char pattern[PERIOD + CHUNK];
static int report_fd = -1;
static uint64_t next_source;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    if (report_fd >= 0 && write(report_fd, "x", 1) < 0)
        perror("load: write");
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int open_socket(const struct options *options, bool blocking)
{
    int one = 1;
    int fd = socket(options->address.ss_family, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0)
        fail("socket: %s: raise `ulimit -n` or spread the connections with --processes",
             strerror(errno));
    const struct sockaddr_in *target = (const struct sockaddr_in *)&options->address;
    if (target->sin_family == AF_INET && ntohl(target->sin_addr.s_addr) >> 24 == 127) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(0x7f000101u + (uint32_t)(next_source++ % 250));
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
            fail("bind: %s", strerror(errno));
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (const struct sockaddr *)&options->address, options->address_size) < 0 &&
        errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    return fd;
}

/* The server has accepted everything before this connection once it has echoed a byte of it. */
static void check_answer(int fd)
{
    char byte = 'x';
    if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
        fail("no answer from the server: %s", strerror(errno));
}

static void open_idle(const struct options *options, uint64_t count)
{
    for (uint64_t i = 1; i <= count; i++) {
        int fd = open_socket(options, true);
        if (i % CONNECTS_UNCHECKED == 0 || i == count)
            check_answer(fd);
    }
}

static void send_allowed(struct worker *worker, struct connection *connection)
{
    const struct options *options = worker->options;
    uint64_t index = (uint64_t)(connection - worker->connections);
    while (!worker->stopping && connection->started < connection->quota &&
           connection->started - connection->completed < options->depth)
        connection->begin_ns[connection->started++ % options->depth] = now_ns();
    uint64_t limit = (connection->started - connection->life_first) * options->size;
    while (connection->sent < limit) {
        uint64_t size = limit - connection->sent < CHUNK ? limit - connection->sent : CHUNK;
        ssize_t n = send(connection->fd, pattern + (connection->sent + index * 17) % PERIOD, size,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN)
                return;
            fail("send: %s", strerror(errno));
        }
        connection->sent += (uint64_t)n;
    }
}

static void begin_life(struct worker *worker, struct connection *connection)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
    bool churn = worker->options->churn;
    connection->sent = connection->received = 0;
    connection->life_first = connection->completed;
    if (churn) /* the life begins with the connect */
        connection->begin_ns[connection->started++ % worker->options->depth] = now_ns();
    connection->fd = open_socket(worker->options, !churn);
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void note_received(struct worker *worker, struct connection *connection,
                          const unsigned char *data, size_t size)
{
    const struct options *options = worker->options;
    uint64_t index = (uint64_t)(connection - worker->connections);
    if (connection->received + size > connection->sent)
        fail("connection %" PRIu64 ": more bytes came back than were sent", index);
    if (memcmp(data, pattern + (connection->received + index * 17) % PERIOD, size) != 0)
        fail("connection %" PRIu64 ": bytes after offset %" PRIu64 " differ from what was sent",
             index, connection->received);
    connection->received += size;
    uint64_t completed = connection->life_first + connection->received / options->size;
    if (completed == connection->completed)
        return;
    uint64_t now = now_ns();
    for (; connection->completed < completed; connection->completed++) {
        histogram_add(&worker->result->latency,
                      now - connection->begin_ns[connection->completed % options->depth]);
        worker->result->messages++;
    }
    if (worker->deadline_ns != 0 && now >= worker->deadline_ns)
        worker->stopping = true;
}

static void end_if_done(struct worker *worker, struct connection *connection)
{
    if (connection->ended || connection->completed < connection->started)
        return;
    if (connection->started == connection->quota || worker->stopping) {
        connection->ended = true;
        worker->running--;
    }
}

static void drive(struct worker *worker, struct connection *connection)
{
    static unsigned char buffer[CHUNK];
    ssize_t n;
    do {
        n = recv(connection->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n > 0)
            note_received(worker, connection, buffer, (size_t)n);
        else if (n == 0)
            fail("the server closed a connection");
        else if (errno != EAGAIN)
            fail("receive: %s", strerror(errno));
    } while (n == (ssize_t)sizeof buffer);
    if (worker->options->churn && connection->completed > connection->life_first) {
        close(connection->fd);
        connection->fd = -1;
        end_if_done(worker, connection);
        if (!connection->ended)
            begin_life(worker, connection);
    }
    if (connection->fd >= 0)
        send_allowed(worker, connection);
    end_if_done(worker, connection);
}

static void measure(struct worker *worker)
{
    const struct options *options = worker->options;
    static struct epoll_event events[EVENTS_MAX];
    uint64_t last = now_ns();
    worker->result->begin_ns = last;
    if (options->duration > 0)
        worker->deadline_ns = last + (uint64_t)(options->duration * 1e9);
    for (uint64_t i = 0; i < options->connections; i++) {
        if (options->churn && worker->connections[i].quota > 0)
            begin_life(worker, &worker->connections[i]);
        else if (!options->churn)
            send_allowed(worker, &worker->connections[i]);
        end_if_done(worker, &worker->connections[i]);
    }
    while (worker->running > 0) {
        int count = epoll_wait(worker->epoll, events, EVENTS_MAX, SILENCE_SECONDS * 1000);
        if (count == 0)
            fail("no answer from the server for %d seconds", SILENCE_SECONDS);
        for (int i = 0; i < count; i++)
            drive(worker, events[i].data.ptr);
    }
    worker->result->end_ns = now_ns();
}

/* A share of `total` for child `number`, so that the shares add up. */
static uint64_t share(uint64_t total, uint64_t count, uint64_t number)
{
    return total / count + (number < total % count);
}

static void run_child(struct options options, uint64_t number, struct result *result, int steer)
{
    char byte;
    options.idle = share(options.idle, options.processes, number);
    options.messages = share(options.messages, options.processes, number);
    options.connections = share(options.connections, options.processes, number);
    next_source = number * 31;
    struct worker worker = {.options = &options,
                            .result = result,
                            .epoll = epoll_create1(0),
                            .running = options.connections};
    worker.connections = calloc(options.connections + 1, sizeof *worker.connections);
    uint64_t *rings = calloc(options.connections * options.depth + 1, sizeof *rings);
    if (worker.connections == NULL || rings == NULL || worker.epoll < 0)
        fail("out of memory");
    open_idle(&options, options.idle);
    for (uint64_t i = 0; i < options.connections; i++) {
        struct connection *connection = &worker.connections[i];
        connection->fd = -1;
        connection->begin_ns = rings + i * options.depth;
        connection->quota = options.duration > 0 ? UINT64_MAX
                                                 : share(options.messages, options.connections, i);
        if (!options.churn)
            begin_life(&worker, connection);
    }
    if (write(report_fd, "c", 1) != 1 || read(steer, &byte, 1) != 1)
        exit(1);
    measure(&worker);
    if (write(report_fd, "d", 1) != 1)
        exit(1);
    while (read(steer, &byte, 1) > 0)
        continue;
    exit(0);
}

static void await_children(int reports, uint64_t count)
{
    char byte;
    for (uint64_t i = 0; i < count; i++) {
        if (read(reports, &byte, 1) != 1 || byte == 'x')
            exit(1); /* the child has said why; the others die with this process */
    }
}

static void print_result(const struct options *options, const struct result *results)
{
    static struct histogram latency;
    uint64_t messages = 0, begin = UINT64_MAX, end = 0;
    for (uint64_t i = 0; i < options->processes; i++) {
        histogram_merge(&latency, &results[i].latency);
        messages += results[i].messages;
        begin = results[i].begin_ns < begin ? results[i].begin_ns : begin;
        end = results[i].end_ns > end ? results[i].end_ns : end;
    }
    double seconds = (double)(end - begin) / 1e9;
    printf("{\"messages\":%" PRIu64
           ",\"seconds\":%.6f,\"messages_per_second\":%.1f,\"megabytes_per_second\":%.3f,"
           "\"p50_ns\":%" PRIu64 ",\"p90_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64
           ",\"p999_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64 ",\"errors\":0}\n",
           messages, seconds, (double)messages / seconds,
           (double)(messages * options->size) / seconds / 1e6, histogram_percentile(&latency, 0.5),
           histogram_percentile(&latency, 0.9), histogram_percentile(&latency, 0.99),
           histogram_percentile(&latency, 0.999), latency.max);
    fflush(stdout);
}

static void parse_address(const char *text, struct options *options)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    struct sockaddr_in *v4 = (struct sockaddr_in *)&options->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&options->address;
    size_t length = colon != NULL ? (size_t)(colon - text) : 0;
    int port = colon != NULL ? atoi(colon + 1) : 0;
    if (length > 0 && length < sizeof host && port > 0 && port < 65536) {
        bool bracketed = text[0] == '[' && text[length - 1] == ']';
        memcpy(host, text + bracketed, length - 2 * bracketed);
        host[length - 2 * bracketed] = '\0';
        v4->sin_family = bracketed ? AF_INET6 : AF_INET;
        v4->sin_port = htons((uint16_t)port); /* at the same place in both */
        options->address_size = bracketed ? sizeof *v6 : sizeof *v4;
        if (inet_pton(v4->sin_family, host,
                      bracketed ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr) == 1)
            return;
    }
    fail("bad address '%s': write it as 127.0.0.1:7000 or [::1]:7000", text);
}

static uint64_t parse_number(const char *option, const char *text, uint64_t min, uint64_t max)
{
    char *end = NULL;
    unsigned long long value = text != NULL ? strtoull(text, &end, 10) : 0;
    if (text == NULL || *end != '\0' || end == text || text[0] == '-' || value < min || value > max)
        fail("%s needs a number from %" PRIu64 " to %" PRIu64 ", not '%s'", option, min, max,
             text != NULL ? text : "");
    return value;
}

static void parse_options(int argc, char **argv, struct options *options)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool flag = false;
        if (strcmp(name, "--churn") == 0)
            flag = options->churn = true;
        else if (strcmp(name, "--step") == 0)
            flag = options->step = true;
        else if (strcmp(name, "--json") == 0)
            flag = true;
        else if (strcmp(name, "--connect") == 0 && value != NULL)
            parse_address(value, options);
        else if (strcmp(name, "--connections") == 0)
            options->connections = parse_number(name, value, 0, 1000000);
        else if (strcmp(name, "--idle") == 0)
            options->idle = parse_number(name, value, 0, 1000000);
        else if (strcmp(name, "--size") == 0)
            options->size = parse_number(name, value, 1, 1 << 24);
        else if (strcmp(name, "--depth") == 0)
            options->depth = parse_number(name, value, 1, 1024);
        else if (strcmp(name, "--messages") == 0)
            options->messages = parse_number(name, value, 0, UINT64_MAX / 2);
        else if (strcmp(name, "--processes") == 0)
            options->processes = parse_number(name, value, 1, PROCESSES_MAX);
        else if (strcmp(name, "--duration") == 0 && value != NULL && atof(value) > 0)
            options->duration = atof(value);
        else
            fail("cannot use '%s'; the options are at the top of load.c", name);
        i += !flag;
    }
    if (options->address_size == 0)
        fail("--connect ADDRESS is missing");
    if (options->churn && options->depth != 1)
        fail("--churn sends one message for each connection: leave --depth at 1");
}

int main(int argc, char **argv)
{
    struct options options = {
        .connections = 50, .size = 64, .depth = 1, .messages = 100000, .processes = 1};
    parse_options(argc, argv, &options);
    uint32_t random = 2463534242u;
    for (size_t i = 0; i < PERIOD; i++) {
        random = random * 1664525u + 1013904223u;
        pattern[i] = (unsigned char)(random >> 24);
    }
    for (size_t i = PERIOD; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PERIOD];
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int reports[2], steer[2];
    struct result *results = mmap(NULL, sizeof *results * options.processes, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED || pipe(reports) < 0 || pipe(steer) < 0)
        fail("cannot start: %s", strerror(errno));
    for (uint64_t i = 0; i < options.processes; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork: %s", strerror(errno));
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(steer[1]);
            close(reports[0]);
            report_fd = reports[1];
            run_child(options, i, &results[i], steer[0]);
        }
    }
    close(reports[1]);
    await_children(reports[0], options.processes);
    if (options.step) {
        puts("connected");
        fflush(stdout);
        if (getchar() == EOF)
            return 1;
    }
    for (uint64_t i = 0; i < options.processes; i++) {
        if (write(steer[1], "g", 1) != 1)
            fail("a child has gone");
    }
    await_children(reports[0], options.processes);
    print_result(&options, results);
    while (options.step && getchar() != EOF)
        continue;
    return 0;
}
