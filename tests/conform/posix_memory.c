/* posix_memory.c - memory that the loop doesn't need any more is the system's again. */

#include "suite.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#define CONNECTIONS 300
#define HELD_READY 64 /* buffers_min's default */

struct crowd {
    struct tracked_handle handles[CONNECTIONS];
    struct tracked receives[CONNECTIONS], sends[CONNECTIONS];
    pier_descriptor peers[CONNECTIONS];
    void *pages[CONNECTIONS]; /* where data came to lie, each once */
    unsigned pages_count, count;
};

static void note_page(struct crowd *crowd, void *page)
{
    unsigned i = 0;
    while (i < crowd->pages_count && crowd->pages[i] != page) {
        i++;
    }
    if (i == crowd->pages_count) {
        crowd->pages[crowd->pages_count++] = page;
    }
}

static void answer(struct tracked *tracked)
{
    struct crowd *crowd = tracked->context;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    CHECK_INT(crowd->count, <, CONNECTIONS);
    crowd->count++;
    note_page(crowd, (void *)((uintptr_t)tracked->op.data & ~(page - 1)));
    const size_t index = (size_t)(tracked - crowd->receives);
    tracked_send(&crowd->handles[index], &crowd->sends[index], tracked->op.data, tracked->op.size,
                 NULL);
}

/* How many of the pages that data came to lie in are in memory. Only uring needs to know. */
static unsigned count_resident(const struct crowd *crowd)
{
    unsigned count = 0;
#ifdef __linux__
    for (unsigned i = 0; i < crowd->pages_count; i++) {
        unsigned char resident = 0;
        CHECK_INT(mincore(crowd->pages[i], 1, &resident), ==, 0);
        count += resident & 1;
    }
#else
    (void)crowd;
#endif
    return count;
}

static bool is_before(unsigned major, unsigned minor)
{
    struct utsname names;
    unsigned has[2] = {0, 0};
    CHECK_INT(uname(&names), ==, 0);
    sscanf(names.release, "%u.%u", &has[0], &has[1]);
    return has[0] < major || (has[0] == major && has[1] < minor);
}

/* All of a crowd say something at once, and then nothing more. */
static void given_back_after_a_crowd(void)
{
    if (test_backend_is("uring") && is_before(6, 1)) {
        test_skip("without deferred task work (Linux 6.1) buffers may be filled at any time");
        return;
    }
    if (!test_backend_is("uring")) {
        test_skip("the backend receives into the same buffers again and again");
        return;
    }
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    CHECK(crowd != NULL);
    struct pier_loop_options options = test_options();
    options.buffers_max = 4096;
    struct pier_loop *loop = test_loop_with(&options);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        crowd->peers[i] = tracked_raw_pair(loop, STREAM_PAIR, &crowd->handles[i]);
        crowd->receives[i].context = crowd;
        tracked_receive_each(&crowd->handles[i], &crowd->receives[i], answer);
    }
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        raw_send(crowd->peers[i], "hello", 5);
    }
    RUN_UNTIL(loop, crowd->count == CONNECTIONS);
    CHECK_INT(crowd->pages_count, >, HELD_READY + 2);
    RUN_UNTIL(loop, count_resident(crowd) <= HELD_READY + 2);
    /* What comes then is whole. */
    crowd->count = crowd->pages_count = 0;
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        char got[10];
        raw_send(crowd->peers[i], "again", 5);
        RUN_UNTIL(loop, crowd->count == i + 1);
        RUN_UNTIL(loop, !crowd->sends[i].in_flight);
        raw_receive(crowd->peers[i], got, 10);
        CHECK(memcmp(got, "helloagain", 10) == 0);
    }
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        close_and_wait(&crowd->handles[i]);
        raw_close(crowd->peers[i]);
    }
    free(crowd);
}

const struct test memory_tests[] = {
    TEST(memory, given_back_after_a_crowd),
    TEST_END,
};
