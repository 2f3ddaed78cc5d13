/* posix_network.c - what a network answers, in namespaces of the test's own: a child is one host,
 * its child the router. */

#include "suite.h"

#ifdef __linux__

#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_SKIPS = 77 };

/* Runs the commands of one host, which must all succeed. */
static void configure(const char *commands)
{
    char line[1024];
    snprintf(line, sizeof(line), "set -e; exec >/dev/null 2>&1; %s", commands);
    if (system(line) != 0) {
        _exit(CHILD_SKIPS);
    }
}

/* The router has no way to 10.99.0.0/16, and says so. */
static void be_router(int ready, int linked)
{
    char byte = 0;
    if (unshare(CLONE_NEWNET) != 0 || write(ready, &byte, 1) != 1 || read(linked, &byte, 1) != 1) {
        _exit(CHILD_SKIPS);
    }
    configure("ip addr add 10.77.0.2/24 dev pier-router; ip link set pier-router up;"
              "ip link set lo up;"
              "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit;"
              "ip route add unreachable 10.99.0.0/16");
    if (write(ready, &byte, 1) != 1) {
        _exit(CHILD_SKIPS);
    }
    pause();
}

static pid_t begin_router(void)
{
    int ready[2], linked[2];
    char byte = 0, line[256];
    if (unshare(CLONE_NEWNET) != 0 || pipe(ready) != 0 || pipe(linked) != 0) {
        _exit(CHILD_SKIPS);
    }
    const pid_t router = fork();
    if (router == 0) {
        alarm(60);
        be_router(ready[1], linked[0]);
        _exit(0);
    }
    close(ready[1]);
    close(linked[0]);
    if (read(ready[0], &byte, 1) != 1) {
        _exit(CHILD_SKIPS);
    }
    snprintf(line, sizeof(line),
             "ip link add pier-host type veth peer name pier-router netns %d;"
             "ip addr add 10.77.0.1/24 dev pier-host; ip link set pier-host up;"
             "ip link set lo up; ip route add default via 10.77.0.2",
             (int)router);
    configure(line);
    if (write(linked[1], &byte, 1) != 1 || read(ready[0], &byte, 1) != 1) {
        kill(router, SIGKILL);
        _exit(CHILD_SKIPS);
    }
    close(ready[0]);
    close(linked[1]);
    return router;
}

static void connect_to_nowhere(void)
{
    const pid_t router = begin_router();
    const struct pier_address nowhere = address_of("10.99.0.1:80");
    struct pier_loop *loop = test_loop();
    for (int i = 0; i < 5; i++) {
        struct tracked_handle a = {0};
        struct tracked connect = {0}, send = {0};
        tracked_open_socket(loop, &a, &nowhere);
        tracked_connect(&a, &connect, &nowhere, NULL);
        CHECK_INT(wait_for(&connect), ==, PIER_EHOSTUNREACH);
        tracked_send(&a, &send, "x", 1, NULL);
        CHECK_INT(wait_for(&send), ==, PIER_ENOTCONN);
        close_and_wait(&a);
    }
    test_loop_free(loop);
    kill(router, SIGKILL);
    waitpid(router, NULL, 0);
}

/* Runs a host in a process of its own. */
static void be_host(void (*body)(void))
{
    int status = 0;
    fflush(NULL);
    const pid_t child = fork();
    CHECK_INT(child, >=, 0);
    if (child == 0) {
        alarm(60);
        body();
        _exit(0);
    }
    CHECK_INT(waitpid(child, &status, 0), ==, child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIPS) {
        test_skip("needs root, network namespaces, and the command ip");
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        FAIL("the child ended with status %#x", (unsigned)status);
    }
}

static void unreachable_host(void)
{
    be_host(connect_to_nowhere);
}

enum { PORTS = 16, PEERS = 2 };

/* A host with few local ports, from which connections go to several others: each of them can be
 * reached from every port. */
static void connect_from_few_ports(const char *text)
{
    struct pier_loop *loop = test_loop();
    static struct tracked_handle listeners[PEERS], clients[PEERS][PORTS];
    for (int peer = 0; peer < PEERS; peer++) {
        struct pier_address address = address_of(text);
        address.port = (uint16_t)(50000 + peer);
        listeners[peer] = (struct tracked_handle){.loop = loop};
        CHECK_OK(pier_listen(loop, &listeners[peer].handle, &address, NULL));
        for (int i = 0; i < PORTS; i++) {
            struct tracked_handle *client = &clients[peer][i];
            struct tracked connect = {0};
            struct pier_address from = address_of(text), bound;
            *client = (struct tracked_handle){0};
            tracked_open_socket(loop, client, &address);
            CHECK_OK(pier_bind(&client->handle, &from));
            CHECK_OK(pier_local_address(&client->handle, &bound));
            CHECK_INT(bound.port, ==, 0);
            tracked_connect(client, &connect, &address, NULL);
            CHECK_INT(wait_for(&connect), ==, 0);
            CHECK_OK(pier_local_address(&client->handle, &bound));
            CHECK_INT(bound.port, >=, 40000);
            CHECK_INT(bound.port, <, 40000 + PORTS);
        }
    }
    for (int peer = 0; peer < PEERS; peer++) {
        for (int i = 0; i < PORTS; i++) {
            close_and_wait(&clients[peer][i]);
        }
        close_and_wait(&listeners[peer]);
    }
    test_loop_free(loop);
}

static void use_few_ports(void)
{
    if (unshare(CLONE_NEWNET) != 0) {
        _exit(CHILD_SKIPS);
    }
    configure("ip link set lo up;"
              "echo 40000 40015 >/proc/sys/net/ipv4/ip_local_port_range");
    connect_from_few_ports("127.0.0.1:0");
    if (raw_has_family(PIER_ADDRESS_IPV6)) {
        connect_from_few_ports("[::1]:0");
    }
}

/* Linux 4.2, and not known to emulators. */
static bool can_choose_ports_late(void)
{
    const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    CHECK_INT(probe, >=, 0);
    const int error = setsockopt(probe, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &on,
                                 sizeof(on));
    close(probe);
    return error == 0;
}

static void ports_of_bound_sockets(void)
{
    if (!can_choose_ports_late()) {
        test_skip("no IP_BIND_ADDRESS_NO_PORT");
        return;
    }
    be_host(use_few_ports);
}

#else

static void unreachable_host(void)
{
    test_skip("the namespaces are Linux's");
}

static void ports_of_bound_sockets(void)
{
    test_skip("the namespaces are Linux's");
}

#endif

const struct test network_tests[] = {
    TEST(network, unreachable_host),
    TEST(network, ports_of_bound_sockets),
    TEST_END,
};
