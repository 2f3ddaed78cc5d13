/* abi.c - programs built against other versions of the headers: structs that have grown or were
 * smaller. */

#include "suite.h"

/* Counters of a caller who knows fewer of them, or more. */
static void statistics_of_other_sizes(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked timer = {0};
    tracked_timer(loop, &timer, 0, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    const struct pier_loop_counters all = stats_of(loop);
    union {
        struct pier_loop_counters counters;
        unsigned char bytes[2 * sizeof(struct pier_loop_counters)];
    } mine;
    for (size_t size = 0; size <= sizeof(mine); size += 4) {
        memset(&mine, 0xee, sizeof(mine));
        pier_loop_stats_for(loop, &mine.counters, size);
        const size_t known = size < sizeof(all) ? size : sizeof(all);
        CHECK_BYTES(mine.bytes, (const unsigned char *)&all, known);
        for (size_t i = known; i < sizeof(mine); i++) {
            CHECK_INT(mine.bytes[i], ==, i < size ? 0 : 0xee);
        }
    }
    CHECK_INT(all.timers, ==, 1);
    CHECK_INT(all.callbacks, ==, 1);
}

/* The struct of sizes itself may have another size, which is looked at before the rest of it. */
static void sizes_of_another_header(void)
{
    struct pier_loop *loop = NULL;
    const struct pier_loop_options options = test_options();
    const uint32_t sizes[] = {0, 4, sizeof(struct pier_abi) - 4, sizeof(struct pier_abi) + 4,
                              UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct pier_abi abi;
        memset(&abi, 0xee, sizeof(abi));
        abi.size = sizes[i];
        CHECK_REFUSED(pier_loop_new_for(&loop, &options, &abi), PIER_EINVAL);
        CHECK(loop == NULL);
    }
}

/* A writer of a caller whose structs are larger, or smaller. */
static void writers_of_other_sizes(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_PAIR, &a);
    struct {
        struct pier_writer_options known;
        unsigned char more[32];
    } options = {.known = {.limit = 5000}};
    union {
        struct pier_writer writer;
        unsigned char bytes[sizeof(struct pier_writer) + 64];
    } mine;
    memset(&mine, 0xee, sizeof(mine));
    CHECK_OK(pier_writer_open_for(&mine.writer, sizeof(mine) - 8, &a.handle, &options.known,
                                  sizeof(options)));
    for (size_t i = sizeof(struct pier_writer); i < sizeof(mine); i++) {
        CHECK_INT(mine.bytes[i], ==, i < sizeof(mine) - 8 ? 0 : 0xee);
    }
    CHECK_INT(pier_writer_write(&mine.writer, "x", 5001), ==, PIER_EMSGSIZE);
    CHECK_OK(pier_writer_write(&mine.writer, "x", 1));
    RUN_UNTIL(loop, pier_writer_queued(&mine.writer) == 0);
    pier_writer_free(&mine.writer);
    options.more[20] = 1;
    CHECK_REFUSED(pier_writer_open_for(&mine.writer, sizeof(mine), &a.handle, &options.known,
                                       sizeof(options)),
                  PIER_ENOTSUP);
    options.more[20] = 0;
    CHECK_REFUSED(pier_writer_open_for(&mine.writer, sizeof(mine.writer) - 1, &a.handle, NULL, 0),
                  PIER_EINVAL);
    /* A caller that knows the limit alone: what follows it isn't read. */
    memset((char *)&options + sizeof(size_t), 0xee, sizeof(options) - sizeof(size_t));
    CHECK_OK(pier_writer_open_for(&mine.writer, sizeof(mine.writer), &a.handle, &options.known,
                                  sizeof(size_t)));
    CHECK_OK(pier_writer_write(&mine.writer, "y", 1));
    RUN_UNTIL(loop, pier_writer_queued(&mine.writer) == 0);
    close_and_wait(&a);
    pier_writer_free(&mine.writer);
    char got[2];
    raw_receive(peer, got, 2);
    CHECK_BYTES(got, "xy", 2);
    raw_close(peer);
}

/* A listener's options too: what the library doesn't know may be there, unset, and what the caller
 * doesn't know isn't read. */
static void listeners_of_other_sizes(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle handle = {0};
    const struct pier_address address = address_of("127.0.0.1:0");
    struct {
        struct pier_listen_options known;
        unsigned char more[32];
    } options = {.known = {.backlog = 5}};
    CHECK_OK(pier_listen_for(loop, &handle, &address, &options.known, sizeof(options)));
    pier_close(&handle, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    options.more[20] = 1;
    CHECK_REFUSED(pier_listen_for(loop, &handle, &address, &options.known, sizeof(options)),
                  PIER_ENOTSUP);
    CHECK_INT(pier_handle_descriptor(&handle), ==, -1);
    options.known.backlog = -5;
    CHECK_OK(pier_listen_for(loop, &handle, &address, &options.known, 0));
    pier_close(&handle, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
}

static void other_version(void)
{
    struct pier_loop *loop = NULL;
    const struct pier_loop_options options = test_options();
    struct pier_abi abi = {sizeof(struct pier_abi), PIER_VERSION_MAJOR * 1000 + PIER_VERSION_MINOR,
                           sizeof(struct pier_op), sizeof(struct pier_handle),
                           sizeof(struct pier_loop_options)};
    CHECK_OK(pier_loop_new_for(&loop, &options, &abi));
    pier_loop_free(loop);
    loop = NULL;
    abi.version += 1000;
    CHECK_REFUSED(pier_loop_new_for(&loop, &options, &abi), PIER_EINVAL);
    CHECK_REFUSED(pier_loop_new_for(&loop, NULL, &abi), PIER_EINVAL);
    CHECK(loop == NULL);
}

const struct test abi_tests[] = {
    TEST(abi, statistics_of_other_sizes),
    TEST(abi, sizes_of_another_header),
    TEST(abi, writers_of_other_sizes),
    TEST(abi, listeners_of_other_sizes),
    TEST(abi, other_version),
    TEST_END,
};
