/* adopted.c - adopted descriptors: files, listeners, sockets and pipes with and without O_NONBLOCK;
 * and what pier sets on those that it opens itself.
 *
 * What pier adopts may be shared with other processes, so its O_NONBLOCK stays as it was, and
 * the loop never blocks on it all the same. */

#include "suite.h"

static unsigned char data[1 << 20];

static void use_file(struct pier_loop *loop, int kind)
{
    struct tracked_handle handle = {0};
    struct tracked sends[3] = {0}, receive = {0}, wrong = {0};
    static unsigned char got[sizeof(data)];
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    pattern_fill(data, sizeof(data), 42, 0);
    CHECK_OK(tracked_adopt(loop, &handle, platform_open(path, PLATFORM_CREATE, kind)));
    tracked_send(&handle, &sends[0], data, 10, NULL);
    tracked_send(&handle, &sends[1], data + 10, 500000, NULL);
    tracked_send(&handle, &sends[2], data + 500010, sizeof(data) - 500010, NULL);
    CHECK_INT(wait_for(&sends[2]), ==, sizeof(data) - 500010);
    CHECK(sends[0].sequence < sends[1].sequence);
    CHECK(sends[1].sequence < sends[2].sequence);
    receive_end(&handle);
    close_and_wait(&handle);
    const pier_descriptor again = platform_open(path, PLATFORM_READ, kind);
    const size_t skipped = kind == 0 ? 5 : 0;
    if (skipped > 0) {
        platform_seek(again, (int64_t)skipped);
    }
    CHECK_OK(tracked_adopt(loop, &handle, again));
    receive_all(&handle, got + skipped, sizeof(got) - skipped);
    CHECK_PATTERN(got + skipped, sizeof(got) - skipped, 42, skipped);
    tracked_receive_lent(&handle, &receive, NULL);
    CHECK_INT(wait_for(&receive), ==, 0);
    tracked_send(&handle, &wrong, "x", 1, NULL);
    CHECK_INT(wait_for(&wrong), ==, PIER_EBADF);
    close_and_wait(&handle);
    platform_remove(path);
}

static void regular_file(void)
{
    struct pier_loop *loop = test_loop();
    for (int kind = 0; kind < platform_file_kinds(); kind++) {
        use_file(loop, kind);
    }
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

static void read_file_in_pieces(struct pier_loop *loop, int kind)
{
    struct file_reader reader = {0};
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    pattern_fill(data, sizeof(data), 43, 0);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK_INT(fwrite(data, 1, sizeof(data), file), ==, sizeof(data));
    CHECK_INT(fclose(file), ==, 0);
    CHECK_OK(tracked_adopt(loop, &reader.handle, platform_open(path, PLATFORM_READ, kind)));
    tracked_receive_each(&reader.handle, &reader.each, read_file_on);
    CHECK_INT(wait_for(&reader.each), ==, 0);
    CHECK_INT(reader.received, ==, sizeof(data));
    close_and_wait(&reader.handle);
    platform_remove(path);
}

static void regular_file_with_receive_each(void)
{
    struct pier_loop *loop = test_loop();
    for (int kind = 0; kind < platform_file_kinds(); kind++) {
        read_file_in_pieces(loop, kind);
    }
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

/* A send that finds the socket full, and is given up before the loop hears of that. */
static void given_up_on_a_full_socket(void)
{
    struct pier_loop *loop = test_loop();
    for (int how = 0; how < 4; how++) {
        struct tracked_handle writer = {0};
        struct tracked sends[3] = {0};
        pier_descriptor ends[2];
        raw_pair(ends);
        raw_set_nonblocking(ends[0], true);
        for (size_t size = sizeof(data); size > 0; size /= 2) {
            while (raw_send_now(ends[0], data, size) > 0) {}
        }
        CHECK_OK(tracked_adopt(loop, &writer, ends[0]));
        if (how == 2) {
            sends[0].op.timeout_ns = 1;
        }
        for (int i = 0; i < 3; i++) {
            tracked_send(&writer, &sends[i], data, 100, NULL);
        }
        if (how == 1) {
            run(loop, PIER_RUN_NO_WAIT);
        }
        if (how < 2) {
            tracked_cancel(&sends[0]);
        }
        if (how < 3) {
            CHECK_INT(wait_for(&sends[0]), ==, how < 2 ? PIER_ECANCELED : PIER_ETIMEDOUT);
            CHECK(sends[1].in_flight && sends[2].in_flight);
            tracked_cancel(&sends[2]); /* one that may be merged with another */
            CHECK_INT(wait_for(&sends[2]), ==, PIER_ECANCELED);
        }
        close_and_wait(&writer);
        CHECK_INT(sends[1].result, ==, PIER_ECLOSED);
        raw_close(ends[1]);
    }
}

static void blocking_pipe(void)
{
    use_shared_descriptor(false, true);
}

static void nonblocking_pipe(void)
{
    use_shared_descriptor(true, true);
}

static void listener(void)
{
    struct pier_loop *loop = test_loop();
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        struct tracked_handle handle = {0};
        struct tracked accept = {0};
        struct pier_address address = address_of("127.0.0.1:0");
        const pier_descriptor raw = raw_listen(&address, 16);
        raw_set_nonblocking(raw, nonblocking != 0);
        const pier_descriptor shared = raw_duplicate(raw);
        CHECK_OK(tracked_adopt(loop, &handle, raw));
        tracked_accept(&handle, &accept, NULL);
        run_quietly(loop, 5);
        CHECK(accept.in_flight);
        const pier_descriptor peer = raw_connect(&address);
        CHECK_INT(wait_for(&accept), ==, 1);
        CHECK_INT(raw_is_nonblocking(shared), ==, nonblocking);
        close_and_wait(&handle);
        raw_close(shared);
        raw_close(peer);
    }
}

/* Of the calls that find nothing more, none may wait. */
static void listener_with_accept_each(void)
{
    struct pier_loop *loop = test_loop();
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        struct tracked_handle handle = {0};
        struct tracked accept = {0};
        struct pier_address address = address_of("127.0.0.1:0");
        pier_descriptor peers[4];
        const pier_descriptor raw = raw_listen(&address, 16);
        raw_set_nonblocking(raw, nonblocking != 0);
        CHECK_OK(tracked_adopt(loop, &handle, raw));
        tracked_accept_each(&handle, &accept, NULL);
        for (unsigned i = 0; i < 4; i++) {
            peers[i] = raw_connect(&address);
            RUN_UNTIL(loop, accept.events == i + 1);
            run_quietly(loop, 2);
        }
        close_and_wait(&handle);
        for (unsigned i = 0; i < 4; i++) {
            raw_close(peers[i]);
        }
    }
}

static void what_cannot_be_adopted(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle handle = {0};
    CHECK_REFUSED(pier_adopt(loop, &handle, -1), PIER_EBADF);
    const pier_descriptor closed = raw_socket(PIER_ADDRESS_IPV4);
    raw_close(closed);
    CHECK_REFUSED(pier_adopt(loop, &handle, closed), PIER_EBADF);
    const pier_descriptor datagram = raw_datagram_socket();
    CHECK_REFUSED(pier_adopt(loop, &handle, datagram), PIER_EINVAL);
    raw_close(datagram); /* fails the test if pier has closed it */
    const pier_descriptor directory = platform_open_directory();
    CHECK_REFUSED(pier_adopt(loop, &handle, directory), PIER_ENOTSUP);
    raw_close(directory);
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

static void take_into_context(struct tracked *tracked)
{
    if (tracked->result == 1) {
        tracked_take(tracked, tracked->context);
    }
}

static bool has(const struct tracked_handle *handle, enum raw_option option)
{
    return raw_has_option(pier_handle_descriptor(&handle->handle), option);
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
        CHECK(has(&client, RAW_NO_DELAY));
        CHECK_INT(has(&server, RAW_NO_DELAY), ==, delay == 0);
        CHECK(has(&listener, RAW_CAN_BIND_AGAIN));
        CHECK_OK(pier_set_keep_alive(&client.handle, 30, 10, 3));
        CHECK(has(&client, RAW_KEEP_ALIVE));
        CHECK_OK(pier_set_keep_alive(&client.handle, 0, 0, 0));
        CHECK(!has(&client, RAW_KEEP_ALIVE));
        CHECK_OK(pier_set_no_delay(&client.handle, false));
        CHECK(!has(&client, RAW_NO_DELAY));
        struct tracked_handle *all[] = {&listener, &client,   &server,  &pairs[0],
                                        &pairs[1], &pairs[2], &pairs[3]};
        for (size_t i = 0; i < COUNT_OF(all); i++) {
            CHECK(!raw_is_inherited(pier_handle_descriptor(&all[i]->handle)));
            tracked_close(all[i], NULL);
        }
        for (size_t i = 0; i < COUNT_OF(all); i++) {
            RUN_UNTIL(loop, all[i]->closes == 1);
        }
    }
}

/* A listener that somebody else has made, without TCP_NODELAY; what it accepts is as if pier had
 * made it. The listener itself stays as it is, since others may share it. */
static void no_delay_of_what_a_listener_accepts(void)
{
    struct pier_loop *loop = test_loop();
    for (int how = 0; how < 4; how++) {
        struct tracked_handle listener = {0}, server = {0};
        struct tracked accept = {.context = &server};
        struct pier_address address = address_of("127.0.0.1:0");
        const pier_descriptor made = raw_listen(&address, 4);
        CHECK(!raw_has_option(made, RAW_NO_DELAY));
        CHECK_OK(tracked_adopt(loop, &listener, made));
        if (how == 1) {
            CHECK_OK(pier_set_no_delay(&listener.handle, false));
        } else if (how == 2) {
            CHECK_OK(pier_set_no_delay(&listener.handle, true));
        } else if (how == 3) {
            CHECK_OK(pier_detach(&listener.handle));
            CHECK_OK(pier_attach(&listener.handle, loop));
        }
        tracked_accept(&listener, &accept, take_into_context);
        const pier_descriptor peer = raw_connect(&address);
        CHECK_INT(wait_for(&accept), ==, 1);
        CHECK_INT(has(&server, RAW_NO_DELAY), ==, how != 1);
        CHECK_INT(has(&listener, RAW_NO_DELAY), ==, how == 2);
        check_usable(&server, peer);
        close_and_wait(&server);
        close_and_wait(&listener);
        raw_close(peer);
    }
}

const struct test adopted_tests[] = {
    TEST(adopted, regular_file),
    TEST(adopted, regular_file_with_receive_each),
    TEST(adopted, blocking_socket),
    TEST(adopted, nonblocking_socket),
    TEST(adopted, given_up_on_a_full_socket),
    TEST(adopted, blocking_pipe),
    TEST(adopted, nonblocking_pipe),
    TEST(adopted, listener),
    TEST(adopted, listener_with_accept_each),
    TEST(adopted, what_cannot_be_adopted),
    TEST(adopted, same_object_under_two_numbers),
    TEST(adopted, flags_of_what_pier_opens),
    TEST(adopted, no_delay_of_what_a_listener_accepts),
    TEST_END,
};
