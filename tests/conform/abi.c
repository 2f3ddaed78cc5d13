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
    TEST(abi, other_version),
    TEST_END,
};
