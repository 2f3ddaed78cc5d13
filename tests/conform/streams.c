/* streams.c - each kind of stream: transfers both ways, names, options, and what opening
 * refuses. */

#include "suite.h"

static unsigned char data[200000];

/* Random pieces both ways at once. */
static void both_ways(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0}, b = {0};
    struct tracked from_a = {0}, from_b = {0}, to_a = {0}, to_b = {0};
    static unsigned char got_a[sizeof(data)], got_b[sizeof(data)];
    size_t at_a = 0, at_b = 0;
    uint64_t state = 5;
    if (!stream_available(stream)) {
        test_skip("no %s here", stream_name(stream));
        return;
    }
    tracked_pair(loop, stream, &a, &b);
    pattern_fill(data, sizeof(data), 21, 0);
    tracked_send(&a, &from_a, data, sizeof(data), NULL);
    tracked_send(&b, &from_b, data, sizeof(data), NULL);
    while (at_a < sizeof(data) || at_b < sizeof(data)) {
        if (at_a < sizeof(data) && !to_a.in_flight) {
            const size_t left = sizeof(data) - at_a, size = 1 + random_below(&state, 5000);
            tracked_receive(&a, &to_a, got_a + at_a, size < left ? size : left, NULL);
        }
        if (at_b < sizeof(data) && !to_b.in_flight) {
            const size_t left = sizeof(data) - at_b, size = 1 + random_below(&state, 5000);
            tracked_receive(&b, &to_b, got_b + at_b, size < left ? size : left, NULL);
        }
        const bool wait_a = to_a.in_flight, wait_b = to_b.in_flight;
        RUN_UNTIL(loop, (wait_a && !to_a.in_flight) || (wait_b && !to_b.in_flight));
        at_a += wait_a && !to_a.in_flight ? (size_t)to_a.result : 0;
        at_b += wait_b && !to_b.in_flight ? (size_t)to_b.result : 0;
    }
    CHECK_PATTERN(got_a, sizeof(data), 21, 0);
    CHECK_PATTERN(got_b, sizeof(data), 21, 0);
    CHECK_INT(wait_for(&from_a), ==, sizeof(data));
    CHECK_INT(wait_for(&from_b), ==, sizeof(data));
    close_and_wait(&a);
    receive_end(&b);
    close_and_wait(&b);
}

static void tcp_over_ipv4(void)
{
    both_ways(STREAM_TCP4);
}

static void tcp_over_ipv6(void)
{
    both_ways(STREAM_TCP6);
}

static void unix_domain(void)
{
    both_ways(STREAM_UNIX);
}

static void unix_domain_abstract(void)
{
    both_ways(STREAM_ABSTRACT);
}

static void socket_pair(void)
{
    both_ways(STREAM_PAIR);
}

static void pipe_one_way(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle reader = {0}, writer = {0};
    struct tracked send = {0}, wrong = {0};
    static unsigned char got[sizeof(data)];
    char byte;
    tracked_pair(loop, STREAM_PIPE, &reader, &writer);
    pattern_fill(data, sizeof(data), 22, 0);
    tracked_send(&writer, &send, data, sizeof(data), NULL);
    receive_all(&reader, got, sizeof(got));
    CHECK_PATTERN(got, sizeof(got), 22, 0);
    CHECK_INT(wait_for(&send), ==, sizeof(data));
    /* The wrong direction is a result. */
    tracked_send(&reader, &wrong, "x", 1, NULL);
    CHECK_INT(wait_for(&wrong), <, 0);
    tracked_receive(&writer, &wrong, &byte, 1, NULL);
    CHECK_INT(wait_for(&wrong), <, 0);
    close_and_wait(&writer);
    receive_end(&reader);
    close_and_wait(&reader);
}

static struct pier_address with_port(const char *host, uint16_t port)
{
    char text[PIER_ADDRESS_TEXT_MAX];
    snprintf(text, sizeof(text), "%s:%u", host, port);
    return address_of(text);
}

static void connect_and_accept(struct tracked_handle *listener, const struct pier_address *address)
{
    struct tracked accept = {0};
    const pier_descriptor peer = raw_connect(address);
    tracked_accept(listener, &accept, NULL);
    CHECK_INT(wait_for(&accept), ==, 1);
    raw_receive_end(peer);
    raw_close(peer);
}

static void dual_stack(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, client = {0};
    struct tracked connect = {0}, accept = {0};
    static const char *const everywhere[] = {"[::]:0", ":0", "*:0"};
    if (!raw_has_family(PIER_ADDRESS_IPV6)) {
        test_skip("no IPv6 here");
        return;
    }
    for (size_t i = 0; i < COUNT_OF(everywhere); i++) {
        struct pier_address address = address_of(everywhere[i]);
        memset(&listener, 0, sizeof(listener));
        listener.loop = loop;
        CHECK_OK(pier_listen(loop, &listener.handle, &address, NULL));
        CHECK_OK(pier_local_address(&listener.handle, &address));
        CHECK_INT(address.port, !=, 0);
        const struct pier_address four = with_port("127.0.0.1", address.port);
        const struct pier_address six = with_port("[::1]", address.port);
        connect_and_accept(&listener, &four);
        connect_and_accept(&listener, &six);
        close_and_wait(&listener);
    }
    struct pier_address address = address_of("[::]:0");
    const struct pier_listen_options only = {.ipv6_only = true};
    memset(&listener, 0, sizeof(listener));
    listener.loop = loop;
    CHECK_OK(pier_listen(loop, &listener.handle, &address, &only));
    CHECK_OK(pier_local_address(&listener.handle, &address));
    const struct pier_address six = with_port("[::1]", address.port);
    connect_and_accept(&listener, &six);
    address = with_port("127.0.0.1", address.port);
    tracked_open_socket(loop, &client, &address);
    /* Refused, unless somebody else has the same port of the other family. */
    tracked_accept(&listener, &accept, NULL);
    tracked_connect(&client, &connect, &address, NULL);
    wait_for(&connect);
    run_quietly(loop, 10);
    CHECK(accept.in_flight);
    close_and_wait(&client);
    close_and_wait(&listener);
}

static void take_into_context(struct tracked *tracked)
{
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
    }
}

static void names(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_ABSTRACT; stream++) {
        struct tracked_handle listener = {0}, client = {0}, server = {0};
        struct tracked accept = {.context = &server}, connect = {0};
        struct pier_address local, peer, bound;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const struct pier_address address = tracked_listen(loop, &listener, (enum stream)stream,
                                                           NULL);
        tracked_open_socket(loop, &client, &address);
        CHECK_INT(pier_peer_address(&client.handle, &peer), ==, PIER_ENOTCONN);
        tracked_accept(&listener, &accept, take_into_context);
        tracked_connect(&client, &connect, &address, NULL);
        CHECK_INT(wait_for(&connect), ==, 0);
        CHECK_INT(wait_for(&accept), ==, 1);
        CHECK_OK(pier_local_address(&listener.handle, &bound));
        CHECK(pier_address_equal(&bound, &address));
        CHECK_OK(pier_peer_address(&client.handle, &peer));
        CHECK(pier_address_equal(&peer, &address));
        CHECK_OK(pier_local_address(&server.handle, &local));
        CHECK(pier_address_equal(&local, &address));
        if (stream <= STREAM_TCP6) {
            CHECK_OK(pier_peer_address(&server.handle, &peer));
            CHECK_OK(pier_local_address(&client.handle, &local));
            CHECK(pier_address_equal(&peer, &local));
        }
        close_and_wait(&client);
        close_and_wait(&server);
        close_and_wait(&listener);
        forget_address(&address);
    }
}

static void bound_before_connecting(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, client = {0}, server = {0};
    struct tracked accept = {.context = &server}, connect = {0};
    struct pier_address local = address_of("127.0.0.2:0"), seen;
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    tracked_open_socket(loop, &client, &address);
    if (pier_bind(&client.handle, &local) == PIER_EADDRNOTAVAIL) {
        local = address_of("127.0.0.1:0"); /* elsewhere than on Linux there is but one */
        CHECK_OK(pier_bind(&client.handle, &local));
    }
    const unsigned host = local.u.ip[3];
    tracked_accept(&listener, &accept, take_into_context);
    tracked_connect(&client, &connect, &address, NULL);
    CHECK_INT(wait_for(&connect), ==, 0);
    CHECK_INT(wait_for(&accept), ==, 1);
    /* The port may be chosen as late as that. */
    CHECK_OK(pier_local_address(&client.handle, &local));
    CHECK_INT(local.port, !=, 0);
    CHECK_OK(pier_peer_address(&server.handle, &seen));
    CHECK(pier_address_equal(&seen, &local));
    CHECK_INT(seen.u.ip[3], ==, host);
    close_and_wait(&client);
    close_and_wait(&server);
    close_and_wait(&listener);
}

static void one_byte_at_a_time(void)
{
    struct pier_loop *loop = test_loop();
    for (int stream = STREAM_TCP4; stream <= STREAM_PAIR; stream++) {
        struct tracked_handle a = {0};
        unsigned char got[300], out;
        size_t read = 0;
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        const pier_descriptor peer = tracked_raw_pair(loop, (enum stream)stream, &a);
        for (size_t i = 0; i < sizeof(got); i++) {
            struct tracked receive = {0};
            tracked_receive(&a, &receive, got + read, sizeof(got) - read, NULL);
            run(loop, PIER_RUN_NO_WAIT);
            pattern_fill(&out, 1, 23, i);
            raw_send(peer, &out, 1);
            CHECK_INT(wait_for(&receive), ==, 1);
            read++;
        }
        CHECK_PATTERN(got, sizeof(got), 23, 0);
        unsigned char back[sizeof(got)];
        for (size_t i = 0; i < sizeof(got); i++) {
            send_all(&a, got + i, 1);
            if (i % 50 == 49) {
                raw_receive(peer, back + i - 49, 50);
            }
        }
        CHECK_PATTERN(back, sizeof(back), 23, 0);
        close_and_wait(&a);
        raw_close(peer);
    }
}

/* A receive gives what there is, without waiting for all of its size. */
static void short_receive(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, lent = {0};
    char got[100];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, got, sizeof(got), NULL);
    run(loop, PIER_RUN_NO_WAIT);
    raw_send(peer, "hello", 5);
    CHECK_INT(wait_for(&receive), ==, 5);
    CHECK_BYTES(got, "hello", 5);
    raw_send(peer, "there", 5);
    tracked_receive_lent(&a, &lent, NULL);
    CHECK_INT(wait_for(&lent), ==, 5);
    close_and_wait(&a);
    raw_close(peer);
}

static void options_of_a_socket(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    CHECK_OK(pier_set_no_delay(&a.handle, false));
    CHECK_OK(pier_set_no_delay(&a.handle, true));
    CHECK_OK(pier_set_keep_alive(&a.handle, 30, 10, 3));
    CHECK_OK(pier_set_keep_alive(&a.handle, 0, 0, 0));
    CHECK_OK(pier_set_buffer_sizes(&a.handle, 0, 0));
    CHECK_OK(pier_set_buffer_sizes(&a.handle, 65536, 65536));
    CHECK_OK(pier_set_linger(&a.handle, -1));
    check_usable(&a, peer);
    CHECK_OK(pier_set_linger(&a.handle, 0));
    close_and_wait(&a);
    char byte;
    while (!platform_wait_readable(peer, PIER_SECOND)) {}
    CHECK_INT(raw_receive_now(peer, &byte, 1), ==, RAW_RESET);
    raw_close(peer);
}

static void listening_twice_is_refused(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0};
    struct pier_handle second = {0};
    char text[PIER_ADDRESS_TEXT_MAX];
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_TCP4, NULL);
    CHECK_REFUSED(pier_listen(loop, &second, &address, NULL), PIER_EADDRINUSE);
    pier_address_format(&address, text, sizeof(text));
    CHECK(strstr(pier_error_detail(), text) != NULL);
    CHECK(!pier_handle_is_open(&second));
    close_and_wait(&listener);
    const struct pier_address foreign = address_of("192.0.2.1:0");
    CHECK_REFUSED(pier_listen(loop, &second, &foreign, NULL), PIER_EADDRNOTAVAIL);
    CHECK(strstr(pier_error_detail(), "192.0.2.1") != NULL);
}

static void path_left_over(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, again = {0};
    const struct pier_listen_options unlink = {.unlink_path = true};
    struct pier_handle refused = {0};
    if (!stream_available(STREAM_UNIX)) {
        test_skip("no Unix-domain sockets here");
        return;
    }
    const struct pier_address address = tracked_listen(loop, &listener, STREAM_UNIX, NULL);
    /* Somebody listens: it isn't taken away. */
    CHECK_REFUSED(pier_listen(loop, &refused, &address, &unlink), PIER_EADDRINUSE);
    CHECK_REFUSED(pier_listen(loop, &refused, &address, NULL), PIER_EADDRINUSE);
    close_and_wait(&listener);
    if (!platform_path_exists(address.u.path)) {
        /* Closing removed it; leave one over by hand. */
        struct pier_address same = address;
        raw_close(raw_listen(&same, 1));
    }
    if (!raw_is_pipe_address(&address)) {
        CHECK_REFUSED(pier_listen(loop, &refused, &address, NULL), PIER_EADDRINUSE);
    }
    again.loop = loop;
    CHECK_OK(pier_listen(loop, &again.handle, &address, &unlink));
    connect_and_accept(&again, &address);
    close_and_wait(&again);
    forget_address(&address);
}

/* A read stops where the urgent byte was: what is behind it comes too, with no event of its own. */
static void urgent_data_inside(void)
{
    if (test_backend_is("kqueue")) {
        test_skip("docs/semantics.md, urgent data");
        return;
    }
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked receive = {0}, each = {0};
    char got[100];
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    for (int i = 0; i < 2; i++) {
        tracked_receive(&a, &receive, got, sizeof(got), NULL);
        run_quietly(loop, 2);
        raw_send(peer, "abc", 3);
        raw_send_urgent(peer, '!');
        raw_send(peer, "def", 3);
        CHECK_INT(wait_for(&receive), ==, 3);
        tracked_receive(&a, &receive, got, sizeof(got), NULL);
        CHECK_INT(wait_for(&receive), ==, 3);
        CHECK_BYTES(got, "def", 3);
    }
    tracked_receive_each(&a, &each, NULL);
    run_quietly(loop, 2);
    raw_send(peer, "abc", 3);
    raw_send_urgent(peer, '!');
    raw_send(peer, "def", 3);
    RUN_UNTIL(loop, each.done == 6);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test streams_tests[] = {
    TEST(streams, tcp_over_ipv4),
    TEST(streams, tcp_over_ipv6),
    TEST(streams, unix_domain),
    TEST(streams, unix_domain_abstract),
    TEST(streams, socket_pair),
    TEST(streams, pipe_one_way),
    TEST(streams, dual_stack),
    TEST(streams, names),
    TEST(streams, bound_before_connecting),
    TEST(streams, one_byte_at_a_time),
    TEST(streams, short_receive),
    TEST(streams, options_of_a_socket),
    TEST(streams, listening_twice_is_refused),
    TEST(streams, path_left_over),
    TEST(streams, urgent_data_inside),
    TEST_END,
};
