/* hooks.c - pier_prepare_each() and pier_check_each(): calls in each turn before the loop waits,
 * and when it is back. */

#include "suite.h"

/* ---- when */

struct log {
    char text[64];
    size_t size;
};

static struct log the_log;

static void note(char letter)
{
    CHECK(the_log.size + 1 < sizeof(the_log.text));
    the_log.text[the_log.size++] = letter;
    the_log.text[the_log.size] = '\0';
}

static void forget_log(void)
{
    memset(&the_log, 0, sizeof(the_log));
}

static void note_letter(struct tracked *tracked)
{
    if (tracked->result >= 0) {
        note(*(const char *)tracked->context);
    }
}

static struct tracked with_letter(const char *letter)
{
    struct tracked tracked = {0};
    tracked.context = (void *)(uintptr_t)letter;
    return tracked;
}

static void cancel_and_wait(struct tracked *tracked)
{
    tracked_cancel(tracked);
    CHECK_INT(wait_for(tracked), ==, PIER_ECANCELED);
}

static void in_every_turn(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked prepare = {0}, check = {0};
    tracked_prepare_each(loop, &prepare, NULL);
    tracked_check_each(loop, &check, NULL);
    for (unsigned i = 1; i <= 20; i++) {
        CHECK_INT(run(loop, PIER_RUN_NO_WAIT), ==, 1);
        CHECK_INT(prepare.events, ==, i);
        CHECK_INT(check.events, ==, i);
        CHECK_INT(prepare.result, ==, 1);
        CHECK_INT(check.result, ==, 1);
    }
    CHECK_INT(stats_of(loop).callbacks, ==, 40);
    tracked_cancel(&prepare);
    tracked_cancel(&check);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(prepare.result, ==, PIER_ECANCELED);
    CHECK_INT(check.result, ==, PIER_ECANCELED);
}

/* Data that waits, timers that are due and posts all come behind both. */
static void order_in_a_turn(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked prepare = with_letter("p"), check = with_letter("c"), timer = with_letter("t");
    struct tracked receive = with_letter("r"), post = with_letter("o");
    char byte;
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive(&a, &receive, &byte, 1, note_letter);
    run(loop, PIER_RUN_NO_WAIT);
    forget_log();
    tracked_check_each(loop, &check, note_letter);
    tracked_prepare_each(loop, &prepare, note_letter);
    tracked_timer(loop, &timer, 0, note_letter);
    tracked_post(loop, &post, note_letter);
    raw_send(peer, "x", 1);
    RUN_UNTIL(loop, !receive.in_flight && !timer.in_flight && !post.in_flight);
    /* Whichever turn brought the byte: each begins with the two. */
    bool prepared = false, checked = false;
    for (size_t i = 0; i < the_log.size; i++) {
        const char letter = the_log.text[i];
        if (letter == 'p') {
            prepared = true;
            checked = false;
        } else if (letter == 'c') {
            CHECK(prepared);
            CHECK(!checked);
            prepared = false;
            checked = true;
        } else {
            CHECK(checked);
        }
    }
    tracked_cancel(&check);
    cancel_and_wait(&prepare);
    close_and_wait(&a);
    raw_close(peer);
}

/* They don't keep it awake. */
static void the_loop_sleeps(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked prepare = {0}, check = {0}, timer = {0};
    tracked_prepare_each(loop, &prepare, NULL);
    tracked_check_each(loop, &check, NULL);
    tracked_timer(loop, &timer, 50 * PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
    CHECK_INT(prepare.events, <, 20);
    CHECK_INT(prepare.events, ==, check.events);
    tracked_cancel(&prepare);
    cancel_and_wait(&check);
}

/* ---- what is submitted in there */

enum act { ACT_TIMER, ACT_POST, ACT_SEND, ACT_CANCEL, ACT_CLOSE, ACT_NOTIFY, ACT_POLL, ACTS };

struct actor {
    enum act act;
    bool done;
    struct tracked_handle a, b;
    struct tracked receive, notify, other;
    pier_descriptor ends[2];
    char byte;
};

static void act_once(struct tracked *hook)
{
    struct actor *actor = hook->context;
    struct pier_loop *loop = hook->loop;
    if (actor->done || hook->result < 0) {
        return;
    }
    actor->done = true;
    switch (actor->act) {
    case ACT_TIMER: tracked_timer(loop, &actor->other, 0, NULL); break;
    case ACT_POST: tracked_post(loop, &actor->other, NULL); break;
    case ACT_SEND: tracked_send(&actor->a, &actor->other, "x", 1, NULL); break;
    case ACT_CANCEL: tracked_cancel(&actor->receive); break;
    case ACT_CLOSE: tracked_close(&actor->b, NULL); break;
    case ACT_NOTIFY: pier_notify(&actor->notify.op); break;
    default: tracked_poll(loop, &actor->other, actor->ends[0], PIER_WRITABLE, NULL); break;
    }
}

static bool has_acted(const struct actor *actor)
{
    switch (actor->act) {
    case ACT_CANCEL: return !actor->receive.in_flight;
    case ACT_CLOSE: return actor->b.closes == 1;
    case ACT_NOTIFY: return actor->notify.events == 1;
    default: return actor->other.completions == 1;
    }
}

/* A loop that slept over it would sleep for ever. */
static void is_not_slept_over(void)
{
    for (int which = 0; which < 2; which++) {
        for (int act = 0; act < ACTS; act++) {
            struct pier_loop *loop = test_loop();
            struct actor actor = {.act = (enum act)act};
            struct tracked hook = {.context = &actor};
            if (act == ACT_POLL && !test_can(PIER_CAN_POLL)) {
                continue;
            }
            raw_pair(actor.ends);
            tracked_pair(loop, STREAM_PAIR, &actor.a, &actor.b);
            tracked_receive(&actor.a, &actor.receive, &actor.byte, 1, NULL);
            tracked_notify_each(loop, &actor.notify, NULL);
            run_quietly(loop, 1);
            if (which == 0) {
                tracked_prepare_each(loop, &hook, act_once);
            } else {
                tracked_check_each(loop, &hook, act_once);
                pier_wake(loop); /* it has to be back from a wait first */
            }
            RUN_UNTIL(loop, has_acted(&actor));
            CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
            CHECK_INT(hook.result, ==, PIER_ECANCELED);
            raw_close(actor.ends[0]);
            raw_close(actor.ends[1]);
            test_loop_free(loop);
        }
    }
}

static void stop_or_wake(struct tracked *hook)
{
    const int *wakes = hook->context;
    if (hook->result < 0) {
        return;
    }
    if (*wakes) {
        pier_wake(hook->loop);
    } else {
        pier_loop_stop(hook->loop);
    }
}

static void stop_and_wake_inside(void)
{
    struct pier_loop *loop = test_loop();
    for (int wakes = 0; wakes < 2; wakes++) {
        struct tracked prepare = {.context = &wakes}, idle = {0};
        tracked_notify_each(loop, &idle, NULL);
        tracked_prepare_each(loop, &prepare, stop_or_wake);
        CHECK_INT(run(loop, wakes ? PIER_RUN_ONCE : PIER_RUN_UNTIL_IDLE), ==, 1);
        tracked_cancel(&idle);
        tracked_cancel(&prepare);
        CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    }
}

/* ---- several */

static void order_among_several(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked hooks[6];
    static const char letters[] = "abcABC";
    forget_log();
    for (int i = 0; i < 6; i++) {
        hooks[i] = with_letter(&letters[i]);
        if (i < 3) {
            tracked_prepare_each(loop, &hooks[i], note_letter);
        } else {
            tracked_check_each(loop, &hooks[i], note_letter);
        }
    }
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_TEXT(the_log.text, "abcABC");
    tracked_cancel(&hooks[1]);
    tracked_cancel(&hooks[5]);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_TEXT(the_log.text, "abcABCacAB");
    tracked_prepare_each(loop, &hooks[1], note_letter);
    tracked_check_each(loop, &hooks[5], note_letter);
    tracked_pause(&hooks[0]);
    tracked_pause(&hooks[4]);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_TEXT(the_log.text, "abcABCacABcbAC");
    tracked_resume(&hooks[0]);
    tracked_resume(&hooks[4]);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_TEXT(the_log.text, "abcABCacABcbACacbABC");
    for (int i = 0; i < 6; i++) {
        cancel_and_wait(&hooks[i]);
    }
}

static void submit_next(struct tracked *hook)
{
    struct tracked *next = hook->context;
    if (hook->result > 0 && !next->in_flight) {
        tracked_prepare_each(hook->loop, next, NULL);
    }
}

static void submitted_inside_is_called_next_turn(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked next = {0}, first = {.context = &next}, second = {0};
    tracked_prepare_each(loop, &first, submit_next);
    tracked_prepare_each(loop, &second, NULL);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_INT(next.events, ==, 0);
    run(loop, PIER_RUN_NO_WAIT);
    CHECK_INT(next.events, ==, 1);
    cancel_and_wait(&first);
    cancel_and_wait(&second);
    cancel_and_wait(&next);
}

static void cancel_itself(struct tracked *hook)
{
    if (hook->result > 0) {
        tracked_cancel(hook);
    }
}

static void cancelled_in_its_own_function(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked hooks[4] = {0};
    for (int i = 0; i < 4; i++) {
        if (i % 2 == 0) {
            tracked_prepare_each(loop, &hooks[i], cancel_itself);
        } else {
            tracked_check_each(loop, &hooks[i], cancel_itself);
        }
    }
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(hooks[i].events, ==, 1);
        CHECK_INT(hooks[i].result, ==, PIER_ECANCELED);
    }
}

enum { HOOKS = 10 };

struct company {
    struct tracked hooks[HOOKS];
    uint64_t turns[HOOKS]; /* of the last call */
    uint64_t state;
    bool ends;
};

static void do_anything(struct tracked *hook);

static void submit_hook(struct company *company, struct pier_loop *loop, unsigned which)
{
    struct tracked *hook = &company->hooks[which];
    hook->context = company;
    if (which % 2 == 0) {
        tracked_prepare_each(loop, hook, do_anything);
    } else {
        tracked_check_each(loop, hook, do_anything);
    }
}

/* Once a turn at the most, and never while it is paused or cancelled: tracked.c sees to that. */
static void do_anything(struct tracked *hook)
{
    struct company *company = hook->context;
    const unsigned self = (unsigned)(hook - company->hooks);
    const uint64_t turn = stats_of(hook->loop).turns;
    if (hook->result > 0) {
        CHECK_INT(company->turns[self], !=, turn);
        company->turns[self] = turn;
    }
    for (uint32_t i = random_below(&company->state, 4); i > 0 && !company->ends; i--) {
        const unsigned which = random_below(&company->state, HOOKS);
        struct tracked *other = &company->hooks[which];
        switch (random_below(&company->state, 4)) {
        case 0: tracked_cancel(other); break;
        case 1: tracked_pause(other); break;
        case 2:
            if (other->in_flight) {
                tracked_resume(other);
            }
            break;
        default:
            if (!other->in_flight && other != hook) {
                submit_hook(company, hook->loop, which);
            }
            break;
        }
    }
}

static void anything_inside(void)
{
    struct pier_loop *loop = test_loop();
    struct company company = {.state = 11};
    for (int round = 0; round < 300; round++) {
        for (unsigned i = 0; i < HOOKS; i++) {
            if (!company.hooks[i].in_flight) {
                submit_hook(&company, loop, i);
            }
        }
        for (int i = 0; i < 5; i++) {
            run(loop, PIER_RUN_NO_WAIT);
        }
    }
    company.ends = true;
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
}

/* ---- what else holds of ops */

static void in_the_background(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked prepare = {0}, check = {0}, timer = {0};
    prepare.op.flags = check.op.flags = PIER_BACKGROUND;
    tracked_prepare_each(loop, &prepare, NULL);
    tracked_check_each(loop, &check, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(prepare.events, ==, 0);
    tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(prepare.events, >, 0);
    CHECK((prepare.flags & PIER_BACKGROUND) != 0);
    CHECK_INT(drain(loop, 20 * PIER_SECOND), ==, 0);
    CHECK_INT(prepare.result, ==, PIER_ECANCELED);
    CHECK_INT(check.result, ==, PIER_ECANCELED);
}

struct flow {
    struct tracked_handle *handle;
    struct tracked receive;
    unsigned bytes;
    char byte;
};

static void receive_again(struct tracked *tracked)
{
    struct flow *flow = tracked->context;
    if (tracked->result == 1 && ++flow->bytes < 30) {
        tracked_receive(flow->handle, tracked, &flow->byte, 1, receive_again);
    }
}

/* A budget of one callback a turn is the others'. */
static void do_not_count_in_the_budget(void)
{
    struct pier_loop_options options = test_options();
    options.callbacks_max = 1;
    struct pier_loop *loop = test_loop_with(&options);
    struct tracked_handle a = {0};
    struct flow flow = {.handle = &a};
    struct tracked hooks[6] = {0}, each = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    flow.receive.context = &flow;
    for (int i = 0; i < 6; i++) {
        if (i < 3) {
            tracked_prepare_each(loop, &hooks[i], NULL);
        } else {
            tracked_check_each(loop, &hooks[i], NULL);
        }
    }
    for (int i = 0; i < 30; i++) {
        raw_send(peer, "x", 1);
    }
    tracked_receive(&a, &flow.receive, &flow.byte, 1, receive_again);
    tracked_timer_each(loop, &each, 0, PIER_MILLISECOND, NULL);
    RUN_UNTIL(loop, flow.bytes == 30 && each.events >= 5);
    tracked_cancel(&each);
    for (int i = 0; i < 6; i++) {
        tracked_cancel(&hooks[i]);
    }
    close_and_wait(&a);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    raw_close(peer);
}

struct gathering {
    unsigned gathered, flushed;
};

static void gather(struct tracked *tracked)
{
    struct gathering *gathering = tracked->context;
    gathering->gathered++;
}

static void flush(struct tracked *tracked)
{
    struct gathering *gathering = tracked->context;
    gathering->flushed = gathering->gathered;
}

/* What the last turn of a run has gathered doesn't wait for the next run. */
static void inside_another_loop(void)
{
    if (!test_can(PIER_CAN_EMBED)) {
        test_skip("the backend has no descriptor to watch");
        return;
    }
    struct pier_loop *loop = test_loop();
    struct gathering gathering = {0};
    struct tracked prepare = {.context = &gathering}, post = {.context = &gathering};
    tracked_prepare_each(loop, &prepare, flush);
    CHECK_INT(pier_loop_descriptor(loop), >=, 0);
    run(loop, PIER_RUN_NO_WAIT);
    for (unsigned i = 1; i <= 5; i++) {
        tracked_post(loop, &post, gather);
        run(loop, PIER_RUN_NO_WAIT);
        CHECK_INT(gathering.gathered, ==, i);
        CHECK_INT(gathering.flushed, ==, i);
    }
    tracked_cancel(&prepare);
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
}

struct clock {
    uint64_t told; /* by the call before */
    unsigned calls;
};

static void look_at_clock(struct tracked *hook)
{
    struct clock *clock = hook->context;
    if (hook->result > 0) {
        const uint64_t now = pier_loop_now(hook->loop), begin = platform_now();
        CHECK_INT(now, >=, clock->told + PIER_MILLISECOND);
        while (platform_now() - begin < 2 * PIER_MILLISECOND) {}
        clock->told = now;
        clock->calls++;
    }
}

/* Not that of the wait before, nor that of the function called before. */
static void the_clock_is_that_of_the_call(void)
{
    struct pier_loop *loop = test_loop();
    struct clock clock = {0};
    struct tracked hooks[4];
    for (int i = 0; i < 4; i++) {
        hooks[i] = (struct tracked){.context = &clock};
        if (i < 2) {
            tracked_prepare_each(loop, &hooks[i], look_at_clock);
        } else {
            tracked_check_each(loop, &hooks[i], look_at_clock);
        }
    }
    for (int i = 0; i < 5; i++) {
        run(loop, PIER_RUN_NO_WAIT);
    }
    CHECK_INT(clock.calls, ==, 20);
    for (int i = 0; i < 4; i++) {
        tracked_cancel(&hooks[i]);
    }
    CHECK_INT(run(loop, PIER_RUN_UNTIL_IDLE), ==, 0);
}

static unsigned dumped;

static void take_line(void *context, const char *line)
{
    (void)context;
    dumped += strncmp(line, "prepare each active", 19) == 0;
    dumped += strncmp(line, "check each active paused", 24) == 0;
}

static void in_the_dump(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked prepare = {0}, check = {0};
    dumped = 0;
    tracked_prepare_each(loop, &prepare, NULL);
    tracked_check_each(loop, &check, NULL);
    tracked_pause(&check);
    pier_loop_dump(loop, take_line, NULL);
    CHECK_INT(dumped, ==, 2);
    cancel_and_wait(&prepare);
    cancel_and_wait(&check);
}

static struct pier_loop *the_loop;
static struct pier_op the_op;

static void do_nothing(struct pier_op *op)
{
    (void)op;
}

static void make_loop(void)
{
    const struct pier_loop_options options = test_options();
    CHECK_OK(pier_loop_new(&the_loop, &options));
}

static void prepare_twice(void)
{
    make_loop();
    pier_prepare_each(the_loop, &the_op, do_nothing);
    pier_prepare_each(the_loop, &the_op, do_nothing);
}

static void check_without_function(void)
{
    make_loop();
    pier_check_each(the_loop, &the_op, NULL);
}

static void misuse_is_noticed(void)
{
    CHECK_ABORTS(prepare_twice, "pier_prepare_each", "in flight");
    CHECK_ABORTS(check_without_function, "pier_check_each", "NULL");
}

const struct test hooks_tests[] = {
    TEST(hooks, in_every_turn),
    TEST(hooks, order_in_a_turn),
    TEST(hooks, the_loop_sleeps),
    TEST(hooks, is_not_slept_over),
    TEST(hooks, stop_and_wake_inside),
    TEST(hooks, order_among_several),
    TEST(hooks, submitted_inside_is_called_next_turn),
    TEST(hooks, cancelled_in_its_own_function),
    TEST(hooks, anything_inside),
    TEST(hooks, in_the_background),
    TEST(hooks, do_not_count_in_the_budget),
    TEST(hooks, inside_another_loop),
    TEST(hooks, the_clock_is_that_of_the_call),
    TEST(hooks, in_the_dump),
    TEST(hooks, misuse_is_noticed),
    TEST_END,
};
