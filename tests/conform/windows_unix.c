/* windows_unix.c - named pipes that stand for Unix-domain sockets: their names, and programs at the
 * other end that know nothing of pier. */

#include "suite.h"

#include <windows.h>

/* Calls of a foreign program on a pipe: opened without FILE_FLAG_OVERLAPPED, so that they wait. */
static HANDLE open_foreign(const char *name)
{
    wchar_t wide[300];
    char whole[300];
    snprintf(whole, sizeof(whole), "\\\\.\\pipe\\%s", name);
    CHECK(MultiByteToWideChar(CP_UTF8, 0, whole, -1, wide, 300) > 0);
    return CreateFileW(wide, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
}

static HANDLE make_foreign(const char *name, DWORD mode)
{
    char whole[300];
    snprintf(whole, sizeof(whole), "\\\\.\\pipe\\%s", name);
    HANDLE made = CreateNamedPipeA(whole, PIPE_ACCESS_DUPLEX, mode, 2, 4096, 4096, 0, NULL);
    CHECK(made != INVALID_HANDLE_VALUE);
    return made;
}

static void write_foreign(HANDLE pipe, const char *text, DWORD size)
{
    DWORD written;
    CHECK(WriteFile(pipe, text, size, &written, NULL));
    CHECK_INT(written, ==, size);
}

/* Puts something of this process's own in the place of each #. */
static const char *with_id(const char *text, char *out, size_t size)
{
    size_t used = 0;
    for (; *text != '\0' && used + 10 < size; text++) {
        if (*text == '#') {
            used += (size_t)snprintf(out + used, size - used, "%lx",
                                     (unsigned long)GetCurrentProcessId());
        } else {
            out[used++] = *text;
        }
    }
    out[used] = '\0';
    return out;
}

static struct pier_address address_with_id(const char *text)
{
    char out[300];
    return address_of(with_id(text, out, sizeof(out)));
}

static void check_name(struct pier_loop *loop, const char *text, const char *name)
{
    struct tracked_handle listener = {.loop = loop};
    struct pier_handle second = {0};
    struct pier_address address = address_with_id(text), bound;
    char expected[300];
    CHECK_OK(pier_listen(loop, &listener.handle, &address, NULL));
    CHECK_OK(pier_local_address(&listener.handle, &bound));
    if (!pier_address_equal(&bound, &address)) {
        FAIL("%s comes back as another address", text);
    }
    CHECK(!raw_is_inherited(pier_handle_descriptor(&listener.handle)));
    CHECK_REFUSED(pier_listen(loop, &second, &address, NULL), PIER_EADDRINUSE);
    HANDLE client = open_foreign(with_id(name, expected, sizeof(expected)));
    if (client == INVALID_HANDLE_VALUE) {
        FAIL("%s isn't the pipe %s: error %lu", text, expected, (unsigned long)GetLastError());
    }
    CloseHandle(client);
    close_and_wait(&listener);
}

/* As docs/semantics.md says: the name of the pipe that an address stands for. */
struct name {
    const char *address, *pipe;
};

static const struct name abstract_names[] = {
    {"unix:@pier-#.x", "pier-#.x"},         {"unix:@dir-#\\\\x y", "dir-#\\x y"},
    {"unix:@a-#/%?", "a-#%2F%25%3F"},       {"unix:@#.", "#%2E"},
    {"unix:@#\\\\..\\\\x", "#\\.%2E\\x"},   {"unix:@\\\\#\\\\\\\\x\\\\", "%5C#\\%5Cx%5C"},
    {"unix:@Unix!#", "%55nix!#"},           {"unix:@#\\x00\\x1f!", "#%00%1F!"},
    {"unix:@caf\xc3\xa9#", "caf\xc3\xa9#"},
};

static const struct name path_names[] = {
    {"unix:/run/#.sock", "unix!!run!#.sock"},       {"unix:relative-#", "unix!relative-#"},
    {"unix:C:\\\\Temp\\\\#", "unix!C:%5CTemp%5C#"}, {"unix:/#!%.", "unix!!#%21%25%2E"},
    {"unix:/caf\xc3\xa9/#", "unix!!caf\xc3\xa9!#"},
};

static void check_names(const struct name *names, size_t count)
{
    struct pier_loop *loop = test_loop();
    for (size_t i = 0; i < count; i++) {
        check_name(loop, names[i].address, names[i].pipe);
    }
}

static void abstract_names_are_pipes(void)
{
    check_names(abstract_names, sizeof(abstract_names) / sizeof(abstract_names[0]));
}

static void paths_are_pipes(void)
{
    const struct pier_address address = address_of("unix:/run/x");
    if (!raw_is_pipe_address(&address)) {
        test_skip("paths are AF_UNIX here");
        return;
    }
    check_names(path_names, sizeof(path_names) / sizeof(path_names[0]));
}

static void names_that_cant_be(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle handle = {0};
    struct pier_address address = {.family = PIER_ADDRESS_UNIX, .path_length = PIER_PATH_MAX};
    memset(address.u.path + 1, '/', PIER_PATH_MAX - 1); /* three characters each */
    CHECK_REFUSED(pier_listen(loop, &handle, &address, NULL), PIER_ENAMETOOLONG);
    CHECK_REFUSED(pier_open_socket(loop, &handle, &address), PIER_ENAMETOOLONG);
    address = address_of("unix:@\xff");
    CHECK_REFUSED(pier_listen(loop, &handle, &address, NULL), PIER_EINVAL);
    address = address_of("unix:@x");
    const struct pier_listen_options shared = {.reuse_port = true};
    CHECK_REFUSED(pier_listen(loop, &handle, &address, &shared), PIER_ENOTSUP);
    CHECK_OK(pier_open_socket(loop, &handle, &address));
    CHECK_REFUSED(pier_bind(&handle, &address), PIER_ENOTSUP);
    CHECK_REFUSED(pier_set_no_delay(&handle, true), PIER_ENOTSUP);
    CHECK_REFUSED(pier_set_buffer_sizes(&handle, 4096, 0), PIER_ENOTSUP);
    pier_close(&handle, NULL);
    run_quietly(loop, 1);
}

static void name_of_a_foreign_pipe_is_taken(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle handle = {0};
    char name[100];
    const struct pier_address address = address_with_id("unix:@pier-foreign-#");
    HANDLE foreign = make_foreign(with_id("pier-foreign-#", name, sizeof(name)), PIPE_TYPE_BYTE);
    CHECK_REFUSED(pier_listen(loop, &handle, &address, NULL), PIER_EADDRINUSE);
    CloseHandle(foreign);
}

static void connect_to(struct pier_loop *loop, struct tracked_handle *client,
                       const struct pier_address *address, int64_t result)
{
    struct tracked connect = {0};
    tracked_open_socket(loop, client, address);
    tracked_connect(client, &connect, address, NULL);
    CHECK_INT(wait_for(&connect), ==, result);
}

/* It has no half-close, and writes of nothing mean nothing. */
static void foreign_server_of_bytes(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked send = {0}, receive = {0}, shutdown = {0};
    char name[100], got[8];
    DWORD moved;
    const struct pier_address address = address_with_id("unix:@pier-bytes-#");
    HANDLE server = make_foreign(with_id("pier-bytes-#", name, sizeof(name)), PIPE_TYPE_BYTE);
    connect_to(loop, &client, &address, 0);
    tracked_send(&client, &send, "hello", 5, NULL);
    CHECK_INT(wait_for(&send), ==, 5);
    CHECK(ReadFile(server, got, sizeof(got), &moved, NULL));
    CHECK_INT(moved, ==, 5);
    for (int lent = 0; lent < 2; lent++) {
        if (lent) {
            tracked_receive_lent(&client, &receive, NULL);
        } else {
            tracked_receive(&client, &receive, got, sizeof(got), NULL);
        }
        run_quietly(loop, 5);
        write_foreign(server, "", 0);
        run_quietly(loop, 5);
        CHECK(receive.in_flight);
        write_foreign(server, "data", 4);
        CHECK_INT(wait_for(&receive), ==, 4);
    }
    tracked_shutdown(&client, &shutdown, NULL);
    CHECK_INT(wait_for(&shutdown), ==, PIER_ENOTSUP);
    write_foreign(server, "last", 4);
    CloseHandle(server);
    tracked_receive(&client, &receive, got, sizeof(got), NULL);
    CHECK_INT(wait_for(&receive), ==, 4);
    receive_end(&client);
    close_and_wait(&client);
}

/* As go-winio's servers in message mode: an empty message is the end, and what they read of pier's
 * shutdown is one. */
static void foreign_server_of_messages(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked send = {0}, shutdown = {0};
    char name[100], got[8];
    DWORD moved = 1;
    const struct pier_address address = address_with_id("unix:@pier-messages-#");
    HANDLE server = make_foreign(with_id("pier-messages-#", name, sizeof(name)),
                                 PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE);
    connect_to(loop, &client, &address, 0);
    tracked_send(&client, &send, "hello", 5, NULL);
    tracked_shutdown(&client, &shutdown, NULL);
    CHECK_INT(wait_for(&shutdown), ==, 0);
    CHECK(ReadFile(server, got, sizeof(got), &moved, NULL));
    CHECK_INT(moved, ==, 5);
    CHECK(ReadFile(server, got, sizeof(got), &moved, NULL));
    CHECK_INT(moved, ==, 0);
    write_foreign(server, "", 0);
    receive_end(&client);
    receive_end(&client); /* it stays at the end */
    tracked_send(&client, &send, "more", 4, NULL);
    CHECK_INT(wait_for(&send), ==, PIER_EPIPE);
    close_and_wait(&client);
    CloseHandle(server);
}

static void take_into_context(struct tracked *accept)
{
    CHECK_INT(accept->result, ==, 1);
    tracked_take(accept, accept->context);
}

/* ConnectNamedPipe() fails for it; what it wrote is there all the same. */
static void client_that_came_and_went(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {0}, server = {0};
    struct tracked accept = {.context = &server}, receive = {0};
    char name[100], got[8];
    const struct pier_address address = address_with_id("unix:@pier-gone-#");
    listener.loop = loop;
    CHECK_OK(pier_listen(loop, &listener.handle, &address, NULL));
    HANDLE client = open_foreign(with_id("pier-gone-#", name, sizeof(name)));
    CHECK(client != INVALID_HANDLE_VALUE);
    write_foreign(client, "gone", 4);
    CloseHandle(client);
    tracked_accept(&listener, &accept, take_into_context);
    CHECK_INT(wait_for(&accept), ==, 1);
    tracked_receive(&server, &receive, got, sizeof(got), NULL);
    CHECK_INT(wait_for(&receive), ==, 4);
    receive_end(&server);
    close_and_wait(&server);
    close_and_wait(&listener);
}

/* op->done says how much the peer will read, though it has read parts of messages before. */
static void cancelled_send_is_exact(void)
{
    static unsigned char data[300000], got[300000];
    struct pier_loop *loop = test_loop();
    struct tracked_handle client = {0};
    struct tracked send = {0};
    struct pier_address address = stream_address(STREAM_ABSTRACT);
    const pier_descriptor listener = raw_listen(&address, 0);
    size_t sent = 0, read = 0;
    pattern_fill(data, sizeof(data), 63, 0);
    connect_to(loop, &client, &address, 0);
    const pier_descriptor peer = raw_accept(listener);
    for (int i = 0; i < 8; i++) {
        tracked_send(&client, &send, data + sent, sizeof(data) - sent, NULL);
        run_quietly(loop, 3);
        raw_receive(peer, got + read, 5000);
        read += 5000;
        if (i % 2 == 0) {
            run_quietly(loop, 3);
        }
        tracked_cancel(&send);
        CHECK_INT(wait_for(&send), ==, PIER_ECANCELED);
        sent += send.done;
        CHECK_INT(sent, >=, read);
        CHECK_INT(sent, <, sizeof(data));
    }
    raw_receive(peer, got + read, sent - read);
    CHECK_PATTERN(got, sent, 63, 0);
    close_and_wait(&client);
    raw_receive_end(peer);
    raw_close(peer);
    raw_close(listener);
}

/* Those that find no end listening wait until there is one. */
static void more_clients_than_ends(void)
{
    enum { CLIENTS = 30 };
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {.loop = loop}, clients[CLIENTS] = {0};
    struct tracked connects[CLIENTS] = {0}, each = {0};
    const struct pier_address address = address_with_id("unix:@pier-many-#");
    CHECK_OK(pier_listen(loop, &listener.handle, &address, NULL));
    for (int i = 0; i < CLIENTS; i++) {
        tracked_open_socket(loop, &clients[i], &address);
        tracked_connect(&clients[i], &connects[i], &address, NULL);
    }
    run_quietly(loop, 5);
    CHECK(!connects[0].in_flight);
    CHECK(connects[CLIENTS - 1].in_flight);
    tracked_accept_each(&listener, &each, NULL); /* what isn't taken is closed */
    for (int i = 0; i < CLIENTS; i++) {
        CHECK_INT(wait_for(&connects[i]), ==, 0);
        receive_end(&clients[i]);
        close_and_wait(&clients[i]);
    }
    close_and_wait(&listener);
    CHECK_INT(each.result, ==, PIER_ECLOSED);
}

/* A connection that it has accepted holds the name. */
static void connect_waits_until_the_name_goes(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle listener = {.loop = loop}, server = {0}, clients[12] = {0};
    struct tracked accept = {.context = &server}, connects[12] = {0};
    struct pier_handle again = {0};
    const struct pier_address address = address_with_id("unix:@pier-leaves-#");
    CHECK_OK(pier_listen(loop, &listener.handle, &address, NULL));
    for (int i = 0; i < 12; i++) {
        tracked_open_socket(loop, &clients[i], &address);
        tracked_connect(&clients[i], &connects[i], &address, NULL);
    }
    run_quietly(loop, 5);
    CHECK(connects[11].in_flight);
    tracked_accept(&listener, &accept, take_into_context);
    CHECK_INT(wait_for(&accept), ==, 1);
    close_and_wait(&listener);
    run_quietly(loop, 5);
    CHECK(connects[11].in_flight);
    CHECK_REFUSED(pier_listen(loop, &again, &address, NULL), PIER_EADDRINUSE);
    close_and_wait(&server);
    for (int i = 0; i < 8; i++) {
        CHECK_INT(connects[i].result, ==, 0);
        close_and_wait(&clients[i]);
    }
    for (int i = 8; i < 12; i++) {
        CHECK_INT(wait_for(&connects[i]), ==, PIER_ECONNREFUSED);
        close_and_wait(&clients[i]);
    }
}

/* With its ends waiting for clients: no port has them, so that a system which can't take a handle
 * off its port can move it too. */
static void listener_moves_between_loops(void)
{
    struct pier_loop *loops[2] = {test_loop(), test_loop()};
    struct tracked_handle listener = {0};
    struct tracked accept = {0};
    const struct pier_address address = tracked_listen(loops[0], &listener, STREAM_ABSTRACT, NULL);
    struct pier_handle second = {0};
    for (int i = 0; i < 2; i++) {
        tracked_accept(&listener, &accept, NULL);
        const pier_descriptor client = raw_connect(&address);
        CHECK_INT(wait_for(&accept), ==, 1);
        raw_receive_end(client); /* nobody took it */
        raw_close(client);
        if (i == 0) {
            CHECK_OK(pier_detach(&listener.handle));
            test_loop_free(loops[0]);
            CHECK_REFUSED(pier_listen(loops[1], &second, &address, NULL), PIER_EADDRINUSE);
            CHECK_OK(pier_attach(&listener.handle, loops[1]));
            listener.loop = loops[1];
        }
    }
    close_and_wait(&listener);
}

const struct test windows_unix_tests[] = {
    TEST(windows, abstract_names_are_pipes),     TEST(windows, paths_are_pipes),
    TEST(windows, names_that_cant_be),           TEST(windows, name_of_a_foreign_pipe_is_taken),
    TEST(windows, foreign_server_of_bytes),      TEST(windows, foreign_server_of_messages),
    TEST(windows, client_that_came_and_went),    TEST(windows, cancelled_send_is_exact),
    TEST(windows, more_clients_than_ends),       TEST(windows, connect_waits_until_the_name_goes),
    TEST(windows, listener_moves_between_loops), TEST_END,
};
