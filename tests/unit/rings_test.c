/* rings_test.c - the memory that a loop keeps for writers: what is allocated, what goes back. */

#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "core/loop.h"
#include "core/rings.h"

static int64_t held;
static bool refuse;

static void *allocate(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    held += (int64_t)new_size - (int64_t)old_size;
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    if (refuse) {
        held -= (int64_t)new_size - (int64_t)old_size;
        return NULL;
    }
    return realloc(memory, new_size);
}

static struct pier_loop *open_loop(void)
{
    struct pier_loop *loop = NULL;
    const struct pier_loop_options options = {.allocate = allocate};
    refuse = false;
    held = 0;
    REQUIRE(pier_loop_new(&loop, &options) == 0);
    return loop;
}

/* Lets the time pass after which the loop looks what nobody needed. */
static void pass_time(struct pier_loop *loop)
{
    struct pier_timer_link *link = &loop->core.own_timers[PIER__OWN_TRIM];
    if (pier__timer_armed(link)) {
        pier__timers_remove(&loop->core.timers, link);
        pier__timers_insert(&loop->core.timers, link, 0);
    }
    while (pier__timers_count(&loop->core.timers) != 0 && link->deadline_ns == 0) {
        CHECK_GE(pier_loop_run(loop, PIER_RUN_NO_WAIT), 0);
        if (!pier__timer_armed(link)) {
            break;
        }
    }
}

TEST(classes_are_powers_of_two)
{
    CHECK_EQ(pier__ring_class(0), 0);
    CHECK_EQ(pier__ring_class(4096), 0);
    CHECK_EQ(pier__ring_class(4097), 1);
    CHECK_EQ(pier__ring_class(1 << 20), 8);
    CHECK_EQ(pier__ring_class((1 << 20) + 1), 9);
    CHECK_EQ(pier__ring_class(SIZE_MAX), PIER__RING_CLASSES);
    CHECK_GT(pier__ring_size(PIER__RING_CLASSES - 1), 0);
    struct pier_loop *loop = open_loop();
    CHECK(pier__rings_take(loop, PIER__RING_CLASSES) == NULL);
    refuse = true;
    CHECK(pier__rings_take(loop, 0) == NULL);
    refuse = false;
    pier_loop_free(loop);
    CHECK_EQ(held, 0);
}

TEST(what_was_given_back_is_taken_again)
{
    struct pier_loop *loop = open_loop();
    void *rings[10];
    for (unsigned i = 0; i < 10; i++) {
        REQUIRE((rings[i] = pier__rings_take(loop, i % 3)) != NULL);
        memset(rings[i], 0xee, pier__ring_size(i % 3));
    }
    const int64_t most = held;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 10; i++) {
            pier__rings_put(loop, rings[i], i % 3);
        }
        for (unsigned i = 0; i < 10; i++) {
            REQUIRE((rings[i] = pier__rings_take(loop, i % 3)) != NULL);
        }
        CHECK_EQ(held, most);
    }
    for (unsigned i = 0; i < 10; i++) {
        pier__rings_put(loop, rings[i], i % 3);
    }
    pier_loop_free(loop);
    CHECK_EQ(held, 0);
}

TEST(large_ones_that_nobody_needs_go_back)
{
    struct pier_loop *loop = open_loop();
    const int64_t before = held;
    void *rings[8], *small = pier__rings_take(loop, 0);
    REQUIRE(small != NULL);
    pier__rings_put(loop, small, 0);
    CHECK(!pier__timer_armed(&loop->core.own_timers[PIER__OWN_TRIM])); /* small ones stay */
    for (unsigned i = 0; i < 8; i++) {
        REQUIRE((rings[i] = pier__rings_take(loop, 8)) != NULL);
    }
    for (unsigned i = 0; i < 8; i++) {
        pier__rings_put(loop, rings[i], 8);
    }
    CHECK(pier__timer_armed(&loop->core.own_timers[PIER__OWN_TRIM]));
    CHECK_EQ(held, before + 4096 + (8 << 20));
    pass_time(loop); /* there was one when the time began, and the others came later or stayed */
    const int64_t first = held;
    CHECK_LT(first, before + 4096 + (8 << 20));
    /* Three are needed in the next period, one after the other. */
    for (unsigned i = 0; i < 3; i++) {
        rings[i] = pier__rings_take(loop, 8);
        REQUIRE(rings[i] != NULL);
    }
    for (unsigned i = 0; i < 3; i++) {
        pier__rings_put(loop, rings[i], 8);
    }
    pass_time(loop);
    CHECK_EQ(held, before + 4096 + (3 << 20));
    pass_time(loop);
    pass_time(loop);
    CHECK_EQ(held, before + 4096);
    CHECK(!pier__timer_armed(&loop->core.own_timers[PIER__OWN_TRIM]));
    CHECK_EQ(pier_loop_next_timeout(loop), PIER_FOREVER);
    pier_loop_free(loop);
    CHECK_EQ(held, 0);
}
