/* events.c - an event of a multishot op stays whole until its callback returns: result, flags, data
 * and size, also when the callback has cancelled the op or closed its handle, which ends the op
 * right then on some backends.
 *
 * Each kind of multishot op is tried with each thing that its callback may do, with a time limit
 * and without, in the background and not, and with the op submitted before the first turn or set in
 * the kernel already. What follows is its one terminal completion, with the right result and
 * without data. tracked.c compares each event of the whole suite before and after its callback;
 * here it is also used after the cancel. */

#include "suite.h"

enum deed {
    DO_NOTHING,
    CANCEL,
    CLOSE,
    CANCEL_THEN_CLOSE,
    CLOSE_GRACEFULLY,
    PAUSE_THEN_CANCEL,
    DEEDS
};

struct variant {
    enum deed deed;
    bool timed, background, in_kernel;
};

/* Counts through all variants; false after the last. */
static bool next_variant(struct variant *variant, unsigned *number)
{
    variant->deed = (enum deed)(*number / 8);
    variant->timed = (*number & 1) != 0;
    variant->background = (*number & 2) != 0;
    variant->in_kernel = (*number & 4) != 0;
    return (*number)++ < 8 * DEEDS;
}

struct guest {
    struct tracked_handle handle; /* the op's, or none */
    struct tracked each;
    struct variant variant;
    /* of a receive */
    struct tracked_handle other;
    struct tracked forward;
    struct pier_buffer *kept;
    /* of an accept */
    struct tracked_handle taken;
};

static void prepare(struct guest *guest, const struct variant *variant)
{
    memset(guest, 0, sizeof(*guest));
    guest->variant = *variant;
    guest->each.op.timeout_ns = variant->timed ? 3600 * PIER_SECOND : 0;
    guest->each.op.flags = variant->background ? PIER_BACKGROUND : 0;
}

/* Has the op set going, where the variant wants that. */
static void settle(struct pier_loop *loop, const struct variant *variant)
{
    for (int i = 0; variant->in_kernel && i < 3; i++) {
        run(loop, PIER_RUN_NO_WAIT);
    }
}

/* What the callback does. An op without a handle is only cancelled. */
static void act(struct guest *guest)
{
    struct tracked *each = &guest->each;
    const bool has_handle = each->owner != NULL;
    switch (guest->variant.deed) {
    case DO_NOTHING:
    case DEEDS: break;
    case CANCEL: tracked_cancel(each); break;
    case CLOSE:
    case CANCEL_THEN_CLOSE:
        if (!has_handle || guest->variant.deed == CANCEL_THEN_CLOSE) {
            tracked_cancel(each);
        }
        if (has_handle) {
            tracked_close(each->owner, NULL);
        }
        break;
    case CLOSE_GRACEFULLY:
        if (has_handle) {
            tracked_close_gracefully(each->owner, 3600 * PIER_SECOND, NULL);
        } else {
            tracked_cancel(each);
        }
        break;
    case PAUSE_THEN_CANCEL:
        tracked_pause(each);
        tracked_cancel(each);
        break;
    }
    CHECK_INT(each->op.flags & PIER_BACKGROUND, ==,
              guest->variant.background ? PIER_BACKGROUND : 0);
}

/* What the op must end with. */
static int64_t expected_end(const struct guest *guest)
{
    const bool has_handle = guest->each.owner != NULL;
    switch (guest->variant.deed) {
    case CLOSE:
    case CLOSE_GRACEFULLY: return has_handle ? PIER_ECLOSED : PIER_ECANCELED;
    default: return PIER_ECANCELED;
    }
}

/* The op ends once, after its event, by what the callback did or, if that was nothing, by a cancel
 * now. */
static void check_end(struct guest *guest)
{
    if (guest->variant.deed == DO_NOTHING) {
        CHECK(guest->each.in_flight);
        tracked_cancel(&guest->each);
    }
    RUN_UNTIL(guest->each.loop, !guest->each.in_flight);
    CHECK_INT(guest->each.completions, ==, 1);
    CHECK_INT(guest->each.result, ==, expected_end(guest));
    CHECK_INT(guest->each.flags & ~(unsigned)PIER_BACKGROUND, ==, 0);
    CHECK_INT(guest->each.os_error, ==, 0);
    CHECK(pier_buffer_keep(&guest->each.op) == NULL);
}

/* A background op keeps nothing running, so this isn't RUN_UNTIL(). */
static void run_until_event(struct guest *guest)
{
    SPIN_UNTIL(guest->each.loop, guest->each.events > 0, {});
    CHECK_INT(guest->each.events, ==, 1);
}

/* ---- receives -------------------------------------------------------------------------------- */

static void use_data(struct tracked *tracked)
{
    struct guest *guest = PIER_OWNER(tracked, struct guest, each);
    if ((tracked->flags & PIER_MORE) == 0) {
        return;
    }
    const void *data = tracked->op.data;
    act(guest);
    CHECK_INT(tracked->op.result, ==, 5);
    CHECK_INT(tracked->op.size, ==, 5);
    CHECK(tracked->op.data == data);
    CHECK_BYTES(data, "hello", 5);
    tracked_send(&guest->other, &guest->forward, tracked->op.data, tracked->op.size, NULL);
    guest->kept = pier_buffer_keep(&tracked->op);
    CHECK(guest->kept != NULL);
    CHECK(pier_buffer_data(guest->kept) == data);
    CHECK_INT(pier_buffer_size(guest->kept), ==, 5);
}

static void receives(enum stream stream)
{
    struct pier_loop *loop = test_loop();
    struct variant variant;
    for (unsigned number = 0; next_variant(&variant, &number);) {
        struct guest guest;
        char got[5];
        prepare(&guest, &variant);
        const pier_descriptor peer = tracked_raw_pair(loop, stream, &guest.handle);
        const pier_descriptor far = tracked_raw_pair(loop, STREAM_PAIR, &guest.other);
        tracked_receive_each(&guest.handle, &guest.each, use_data);
        settle(loop, &variant);
        raw_send(peer, "hello", 5);
        run_until_event(&guest);
        check_end(&guest);
        CHECK_INT(wait_for(&guest.forward), ==, 5);
        raw_receive(far, got, 5);
        CHECK_BYTES(got, "hello", 5);
        CHECK_BYTES(pier_buffer_data(guest.kept), "hello", 5);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 1);
        pier_buffer_release(guest.kept);
        CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
        raw_close(peer);
        if (!guest.handle.closing) {
            tracked_close(&guest.handle, NULL);
        }
        RUN_UNTIL(loop, guest.handle.closes == 1);
        close_and_wait(&guest.other);
        raw_close(far);
    }
}

static void receive_tcp(void)
{
    receives(STREAM_TCP4);
}

static void receive_pair(void)
{
    receives(STREAM_PAIR);
}

/* Nothing follows before the time limit, which has no data either. */
static void receive_that_times_out_later(void)
{
    struct pier_loop *loop = test_loop();
    struct guest guest;
    const struct variant variant = {.deed = DO_NOTHING};
    prepare(&guest, &variant);
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &guest.handle);
    const pier_descriptor far = tracked_raw_pair(loop, STREAM_PAIR, &guest.other);
    raw_send(peer, "hello", 5);
    guest.each.op.timeout_ns = 200 * PIER_MILLISECOND * test_slowness();
    tracked_receive_each(&guest.handle, &guest.each, use_data);
    CHECK_INT(wait_for(&guest.each), ==, PIER_ETIMEDOUT);
    CHECK_INT(guest.each.events, ==, 1);
    CHECK_INT(guest.each.done, ==, 5);
    CHECK_INT(guest.each.flags, ==, 0);
    CHECK(pier_buffer_keep(&guest.each.op) == NULL);
    CHECK_BYTES(pier_buffer_data(guest.kept), "hello", 5);
    pier_buffer_release(guest.kept);
    close_and_wait(&guest.handle);
    close_and_wait(&guest.other);
    raw_close(peer);
    raw_close(far);
}

/* ---- accepts --------------------------------------------------------------------------------- */

static void take_after(struct tracked *tracked)
{
    struct guest *guest = PIER_OWNER(tracked, struct guest, each);
    if ((tracked->flags & PIER_MORE) == 0) {
        struct pier_handle none = {0};
        CHECK_REFUSED(pier_accept_take(&tracked->op, NULL, &none), PIER_EINVAL);
        return;
    }
    act(guest);
    CHECK_INT(tracked->op.result, ==, 1);
    tracked_take(tracked, &guest->taken);
}

static void detach_after(struct tracked *tracked)
{
    struct guest *guest = PIER_OWNER(tracked, struct guest, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        struct pier_handle detached = {0};
        act(guest);
        CHECK_OK(pier_accept_detach(&tracked->op, &detached));
        memset(&guest->taken, 0, sizeof(guest->taken));
        guest->taken.handle = detached;
        guest->taken.loop = tracked->loop;
        CHECK_OK(pier_attach(&guest->taken.handle, tracked->loop));
    }
}

static void accepting(void)
{
    struct pier_loop *loop = test_loop();
    struct variant variant;
    for (int stream = STREAM_TCP4; stream <= STREAM_UNIX; stream++) {
        if (!stream_available((enum stream)stream)) {
            continue;
        }
        for (unsigned number = 0; next_variant(&variant, &number);) {
            struct guest guest;
            prepare(&guest, &variant);
            const struct pier_address address = tracked_listen(loop, &guest.handle,
                                                               (enum stream)stream, NULL);
            tracked_accept_each(&guest.handle, &guest.each,
                                number % 2 == 0 ? take_after : detach_after);
            settle(loop, &variant);
            const pier_descriptor client = raw_connect(&address);
            run_until_event(&guest);
            check_end(&guest);
            check_usable(&guest.taken, client);
            close_and_wait(&guest.taken);
            if (!guest.handle.closing) {
                tracked_close(&guest.handle, NULL);
            }
            RUN_UNTIL(loop, guest.handle.closes == 1);
            raw_close(client);
            forget_address(&address);
        }
    }
}

/* ---- ops of no handle ------------------------------------------------------------------------ */

static void act_on_poll(struct tracked *tracked)
{
    struct guest *guest = PIER_OWNER(tracked, struct guest, each);
    if ((tracked->flags & PIER_MORE) != 0 && tracked->events == 1) {
        act(guest);
        CHECK_INT(tracked->op.result, ==, PIER_READABLE | PIER_WRITABLE);
    }
}

/* The callback drains nothing, so the descriptor stays ready: that is told of again unless the op
 * was ended, and never after that. */
static void polling(void)
{
    struct pier_loop *loop = test_loop();
    struct variant variant;
    if (!test_can(PIER_CAN_POLL)) {
        test_skip("the backend has no pier_poll()");
        return;
    }
    for (unsigned number = 0; next_variant(&variant, &number);) {
        struct guest guest;
        pier_descriptor ends[2];
        raw_pair(ends);
        prepare(&guest, &variant);
        raw_send(ends[1], "stays", 5);
        tracked_poll_each(loop, &guest.each, ends[0], PIER_READABLE | PIER_WRITABLE, act_on_poll);
        SPIN_UNTIL(loop, guest.each.events > 0, {});
        if (variant.deed == DO_NOTHING) {
            SPIN_UNTIL(loop, guest.each.events >= 4, {});
        } else {
            run_quietly(loop, 1);
            CHECK_INT(guest.each.events, ==, 1);
        }
        check_end(&guest);
        raw_close(ends[0]);
        raw_close(ends[1]);
    }
}

static void act_on_timer(struct tracked *tracked)
{
    struct guest *guest = PIER_OWNER(tracked, struct guest, each);
    if ((tracked->flags & PIER_MORE) != 0 && tracked->events == 1) {
        const int64_t expiries = tracked->op.result;
        CHECK_INT(expiries, >=, 1);
        act(guest);
        CHECK_INT(tracked->op.result, ==, expiries);
    }
}

static void repeating_timer(void)
{
    struct pier_loop *loop = test_loop();
    struct variant variant;
    for (unsigned number = 0; next_variant(&variant, &number);) {
        struct guest guest;
        prepare(&guest, &variant);
        tracked_timer_each(loop, &guest.each, variant.in_kernel ? PIER_MILLISECOND : 0,
                           3600 * PIER_SECOND, act_on_timer);
        settle(loop, &variant);
        run_until_event(&guest);
        check_end(&guest);
    }
}

static void act_on_notification(struct tracked *tracked)
{
    struct guest *guest = PIER_OWNER(tracked, struct guest, each);
    if ((tracked->flags & PIER_MORE) != 0) {
        act(guest);
        CHECK_INT(tracked->op.result, ==, 3);
    }
}

static void notification(void)
{
    struct pier_loop *loop = test_loop();
    struct variant variant;
    for (unsigned number = 0; next_variant(&variant, &number);) {
        struct guest guest;
        prepare(&guest, &variant);
        tracked_notify_each(loop, &guest.each, act_on_notification);
        settle(loop, &variant);
        for (int i = 0; i < 3; i++) {
            pier_notify(&guest.each.op);
        }
        run_until_event(&guest);
        check_end(&guest);
    }
}

const struct test events_tests[] = {
    TEST(events, receive_tcp),
    TEST(events, receive_pair),
    TEST(events, receive_that_times_out_later),
    TEST(events, accepting),
    TEST(events, polling),
    TEST(events, repeating_timer),
    TEST(events, notification),
    TEST_END,
};
