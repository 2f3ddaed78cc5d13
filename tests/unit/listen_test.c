/* listen_test.c - listening on all addresses of a machine whose IPv6 can't serve IPv4, or that has
 * none.
 *
 * It may refuse the socket, its address, or dual stack. All are made up by failing calls, so that
 * the tests run anywhere. Dual stack itself is in tests/conform/streams.c. */

#include "unit.h"

#include "pier/stream.h"
#include "sys/sys.h"

static struct pier_address address_of(const char *text)
{
    struct pier_address address;
    REQUIRE(pier_address_parse(&address, text) == 0);
    return address;
}

static struct pier_loop *new_loop(void)
{
    struct pier_loop *loop;
    REQUIRE(pier_loop_new(&loop, NULL) == 0);
    return loop;
}

static void end_loop(struct pier_loop *loop, struct pier_handle *listener)
{
    if (pier_handle_is_open(listener)) {
        pier_close(listener, NULL);
    }
    CHECK_EQ(pier_loop_run(loop, PIER_RUN_UNTIL_IDLE), 0);
    pier_loop_free(loop);
    pier__fault_reset();
}

static bool has_ipv6(void)
{
    struct pier_loop *loop = new_loop();
    struct pier_handle listener = {0};
    const struct pier_address loopback = address_of("[::1]:0");
    bool has = pier_listen(loop, &listener, &loopback, NULL) == 0;
    end_loop(loop, &listener);
    return has;
}

static struct pier_loop *loop_of_accepted;
static struct pier_handle accepted;

static void on_accepted(struct pier_op *op)
{
    CHECK_EQ(op->result, 1);
    CHECK_EQ(pier_accept_take(op, loop_of_accepted, &accepted), 0);
}

static void on_connected(struct pier_op *op)
{
    CHECK_EQ(op->result, 0);
}

/* Listens on `text` with one call failing, and is spoken to by way of IPv4. */
static void serve_ipv4(const char *text, enum pier__sys_call call, uint64_t nth, int error)
{
    struct pier_loop *loop = new_loop();
    struct pier_handle listener = {0}, client = {0};
    struct pier_op accept = {0}, connect = {0};
    struct pier_address address = address_of(text);
    pier__fault_set(call, nth, error, false);
    REQUIRE(pier_listen(loop, &listener, &address, NULL) == 0);
    REQUIRE(pier_local_address(&listener, &address) == 0);
    CHECK_EQ(address.family, PIER_ADDRESS_IPV4);
    CHECK_EQ(address.u.ip[0], 0);
    CHECK_GT(address.port, 0);
    address.u.ip[0] = 127;
    address.u.ip[3] = 1;
    REQUIRE(pier_open_socket(loop, &client, &address) == 0);
    loop_of_accepted = loop;
    pier_accept(&listener, &accept, on_accepted);
    pier_connect(&client, &connect, &address, on_connected);
    CHECK_EQ(pier_loop_run(loop, PIER_RUN_UNTIL_IDLE), 0);
    CHECK(pier_handle_is_open(&accepted));
    pier_close(&client, NULL);
    pier_close(&accepted, NULL);
    end_loop(loop, &listener);
}

TEST(all_addresses_where_there_are_no_ipv6_sockets)
{
    serve_ipv4(":0", PIER__CALL_SOCKET, 1, PIER_EAFNOSUPPORT);
    serve_ipv4("[::]:0", PIER__CALL_SOCKET, 1, PIER_EAFNOSUPPORT);
}

TEST(all_addresses_where_ipv6_has_none)
{
    if (!has_ipv6()) {
        SKIP("no IPv6 here, so there is nothing to bind in vain");
    }
    serve_ipv4("*:0", PIER__CALL_BIND, 1, PIER_EADDRNOTAVAIL);
}

/* OpenBSD: of the options that a listener sets the second is dual stack. */
TEST(all_addresses_where_ipv6_is_apart)
{
    struct pier_handle listener = {0};
    struct pier_address loopback = address_of("[::1]:0");
    if (!has_ipv6()) {
        SKIP("no IPv6 here, so there is nothing that could be apart");
    }
    struct pier_loop *loop = new_loop();
    pier__fault_set(PIER__CALL_OPTION, 2, PIER_EINVAL, false);
    CHECK_EQ(pier_listen(loop, &listener, &loopback, NULL), 0);
    end_loop(loop, &listener);
    serve_ipv4(":0", PIER__CALL_OPTION, 2, PIER_EINVAL);
}

TEST(who_asked_for_ipv6_is_not_given_ipv4)
{
    struct pier_loop *loop = new_loop();
    struct pier_handle listener = {0};
    const struct pier_listen_options only = {.ipv6_only = true};
    const struct pier_address any = address_of(":0"), loopback = address_of("[::1]:0");
    pier__fault_set(PIER__CALL_SOCKET, 1, PIER_EAFNOSUPPORT, false);
    CHECK_EQ(pier_listen(loop, &listener, &any, &only), PIER_EAFNOSUPPORT);
    pier__fault_set(PIER__CALL_SOCKET, 1, PIER_EAFNOSUPPORT, false);
    CHECK_EQ(pier_listen(loop, &listener, &loopback, NULL), PIER_EAFNOSUPPORT);
    pier_loop_free(loop);
    pier__fault_reset();
}

/* Whatever else is wrong is no matter of the family. */
TEST(other_errors_are_not_taken_for_missing_ipv6)
{
    struct pier_loop *loop = new_loop();
    struct pier_handle listener = {0};
    const struct pier_address any = address_of(":0");
    pier__fault_set(PIER__CALL_SOCKET, 1, PIER_EMFILE, false);
    CHECK_EQ(pier_listen(loop, &listener, &any, NULL), PIER_EMFILE);
    pier__fault_set(PIER__CALL_LISTEN, 1, PIER_EADDRINUSE, false);
    CHECK_EQ(pier_listen(loop, &listener, &any, NULL), PIER_EADDRINUSE);
    pier_loop_free(loop);
    pier__fault_reset();
}
