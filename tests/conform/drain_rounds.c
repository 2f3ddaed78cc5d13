/* drain_rounds.c - pier_loop_drain() with programs that have much to end, or don't want to: what
 * counts as a round of it. What it does with each kind of op is in loop.c. */

#include "suite.h"

struct many {
    struct tracked_handle a, b;
    struct tracked receive;
    unsigned submits;
};

static unsigned closed_by_completions;

static void note_closed(struct tracked_handle *handle)
{
    (void)handle;
    closed_by_completions++;
}

/* As programs do: what was begun is ended first, then the handle is closed by the completion. */
static void answer_and_close(struct tracked *tracked)
{
    struct many *many = PIER_OWNER(tracked, struct many, receive);
    if (many->submits++ < 3) {
        tracked_receive_each(&many->a, tracked, answer_and_close);
    } else {
        tracked_close(&many->a, note_closed);
        tracked_close(&many->b, note_closed);
    }
}

/* Turns that are too short for all completions aren't rounds: each handle is closed by the
 * program's own completion, with its function. */
static void leaves_closing_to_completions(void)
{
    enum { MANY = 100 };
    static struct many many[MANY];
    memset(many, 0, sizeof many);
    closed_by_completions = 0;
    struct pier_loop_options options = test_options();
    options.callbacks_max = 4;
    struct pier_loop *loop = test_loop_with(&options);
    for (unsigned i = 0; i < MANY; i++) {
        tracked_pair(loop, STREAM_PAIR, &many[i].a, &many[i].b);
        tracked_receive_each(&many[i].a, &many[i].receive, answer_and_close);
    }
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(closed_by_completions, ==, 2 * MANY);
}

struct stubborn {
    struct tracked_handle a, b;
    struct tracked receive;
};

static void receive_again(struct tracked *tracked)
{
    struct stubborn *stubborn = PIER_OWNER(tracked, struct stubborn, receive);
    if (tracked->result != PIER_ECLOSED) {
        tracked_receive_each(&stubborn->a, tracked, receive_again);
    }
}

/* One that answers each cancel with another receive has its handle closed. */
static void closes_what_goes_on(void)
{
    struct pier_loop *loop = test_loop();
    struct stubborn stubborn = {.receive.in_flight = false};
    tracked_pair(loop, STREAM_PAIR, &stubborn.a, &stubborn.b);
    tracked_receive_each(&stubborn.a, &stubborn.receive, receive_again);
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(stubborn.receive.result, ==, PIER_ECLOSED);
}

const struct test drain_rounds_tests[] = {
    TEST(drain_rounds, leaves_closing_to_completions),
    TEST(drain_rounds, closes_what_goes_on),
    TEST_END,
};
