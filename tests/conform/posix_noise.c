/* posix_noise.c - sockets with something in their error queue, of which Linux tells for as long as
 * it's there: no spinning, and data comes all the same. The queue is the program's: pier takes
 * nothing out of it. */

#include "suite.h"

#ifdef __linux__

#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* Turns in 200 ms: with a pace of 10 ms some twenty and those that bring something; a loop that
 * spins makes a hundred thousand. */
enum { TURNS_MAX = 300 };

/* From now on each send puts its time into the error queue. */
static bool stamp_sends(pier_descriptor socket)
{
    const int flags = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
                      SOF_TIMESTAMPING_OPT_TSONLY;
    return setsockopt((int)socket, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)) == 0;
}

/* Takes all that is in the error queue. */
static int take_stamps(pier_descriptor socket)
{
    int count = 0;
    for (;;) {
        char control[512];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};
        if (recvmsg((int)socket, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            return count;
        }
        count++;
    }
}

static uint64_t turns_while_quiet(struct pier_loop *loop)
{
    const uint64_t before = stats_of(loop).turns;
    run_quietly(loop, 200);
    return stats_of(loop).turns - before;
}

struct noise {
    struct pier_loop *loop;
    struct tracked_handle a;
    struct tracked receive;
    pier_descriptor socket, peer;
};

/* A connection whose error queue holds something. */
static bool begin_noise(struct noise *noise)
{
    char byte;
    noise->loop = test_loop();
    noise->peer = tracked_raw_pair(noise->loop, STREAM_TCP4, &noise->a);
    noise->socket = pier_handle_descriptor(&noise->a.handle);
    if (!stamp_sends(noise->socket)) {
        close_and_wait(&noise->a);
        raw_close(noise->peer);
        test_skip("no time stamps of sends");
        return false;
    }
    send_all(&noise->a, "x", 1);
    raw_receive(noise->peer, &byte, 1);
    return true;
}

/* Whether there was something, which is taken. */
static void end_noise(struct noise *noise)
{
    const int stamps = take_stamps(noise->socket);
    close_and_wait(&noise->a);
    raw_close(noise->peer);
    CHECK_INT(stamps, >, 0);
}

static void receive_each_does_not_spin(void)
{
    struct noise noise = {0};
    if (!begin_noise(&noise)) {
        return;
    }
    tracked_receive_each(&noise.a, &noise.receive, NULL);
    CHECK_INT(turns_while_quiet(noise.loop), <, TURNS_MAX);
    for (int i = 1; i <= 20; i++) {
        raw_send(noise.peer, "data", 4);
        RUN_UNTIL(noise.loop, noise.receive.done == 4u * (unsigned)i);
        if (i % 4 == 0) {
            char byte;
            send_all(&noise.a, "y", 1); /* one more stamp */
            raw_receive(noise.peer, &byte, 1);
        }
    }
    CHECK_INT(turns_while_quiet(noise.loop), <, TURNS_MAX);
    /* The end comes too. */
    raw_shutdown(noise.peer);
    CHECK_INT(wait_for(&noise.receive), ==, 0);
    CHECK((noise.receive.flags & PIER_EOF) != 0);
    end_noise(&noise);
}

static void single_receive_does_not_spin(void)
{
    struct noise noise = {0};
    char got[8];
    if (!begin_noise(&noise)) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        tracked_receive(&noise.a, &noise.receive, got, sizeof(got), NULL);
        CHECK_INT(turns_while_quiet(noise.loop), <, TURNS_MAX);
        raw_send(noise.peer, "data", 4);
        CHECK_INT(wait_for(&noise.receive), ==, 4);
        CHECK_BYTES(got, "data", 4);
    }
    end_noise(&noise);
}

/* Once the program has emptied the queue all is as before. */
static void quiet_again(void)
{
    struct noise noise = {0};
    if (!begin_noise(&noise)) {
        return;
    }
    tracked_receive_each(&noise.a, &noise.receive, NULL);
    CHECK_INT(turns_while_quiet(noise.loop), <, TURNS_MAX);
    CHECK_INT(take_stamps(noise.socket), >, 0);
    raw_send(noise.peer, "data", 4);
    RUN_UNTIL(noise.loop, noise.receive.done == 4);
    run_quietly(noise.loop, 50);
    CHECK_INT(turns_while_quiet(noise.loop), <, 20);
    raw_send(noise.peer, "more", 4);
    RUN_UNTIL(noise.loop, noise.receive.done == 8);
    char byte;
    send_all(&noise.a, "y", 1);
    raw_receive(noise.peer, &byte, 1);
    CHECK_INT(turns_while_quiet(noise.loop), <, TURNS_MAX);
    end_noise(&noise);
}

/* A send that waits for room does not spin, and goes on. */
static void blocked_send_does_not_spin(void)
{
    static unsigned char big[8 << 20], got[65536];
    struct noise noise = {0};
    struct tracked send = {0};
    if (!begin_noise(&noise)) {
        return;
    }
    pattern_fill(big, sizeof(big), 5, 0);
    tracked_send(&noise.a, &send, big, sizeof(big), NULL);
    run_quietly(noise.loop, 50);
    CHECK(send.in_flight);
    CHECK_INT(turns_while_quiet(noise.loop), <, TURNS_MAX);
    size_t taken = 0;
    SPIN_UNTIL(noise.loop, taken == sizeof(big), {
        const int64_t some = raw_receive_now(noise.peer, got, sizeof(got));
        if (some > 0) {
            CHECK_PATTERN(got, (size_t)some, 5, taken);
            taken += (size_t)some;
        }
    });
    CHECK_INT(wait_for(&send), ==, sizeof(big));
    end_noise(&noise);
}

/* pier_poll() tells of it, as poll() does. */
static void polled_as_hang_up(void)
{
    if (test_backend_is("kqueue")) {
        test_skip("kqueue's filters know nothing of it");
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    struct pier_address address = address_of("127.0.0.1:0");
    const pier_descriptor listener = raw_listen(&address, 4);
    const pier_descriptor client = raw_connect(&address), server = raw_accept(listener);
    char byte;
    if (stamp_sends(client)) {
        raw_send(client, "x", 1);
        raw_receive(server, &byte, 1);
        tracked_poll(loop, &poll, client, PIER_READABLE, NULL);
        CHECK_INT(wait_for(&poll), ==, PIER_HANGUP);
        CHECK_INT(take_stamps(client), >, 0);
        tracked_poll(loop, &poll, client, PIER_READABLE, NULL);
        CHECK_INT(turns_while_quiet(loop), <, 20);
        raw_send(server, "x", 1);
        CHECK_INT(wait_for(&poll), ==, PIER_READABLE);
    } else {
        test_skip("no time stamps of sends");
    }
    raw_close(client);
    raw_close(server);
    raw_close(listener);
}

#else

static void not_here(void)
{
    test_skip("error queues are Linux's");
}

#define receive_each_does_not_spin not_here
#define single_receive_does_not_spin not_here
#define quiet_again not_here
#define blocked_send_does_not_spin not_here
#define polled_as_hang_up not_here

#endif

const struct test noise_tests[] = {
    TEST(noise, receive_each_does_not_spin),
    TEST(noise, single_receive_does_not_spin),
    TEST(noise, quiet_again),
    TEST(noise, blocked_send_does_not_spin),
    TEST(noise, polled_as_hang_up),
    TEST_END,
};
