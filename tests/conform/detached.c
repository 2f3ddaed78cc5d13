/* detached.c - pier_detach() in the callback of a lent receive of one shot, where the op is over
 * and the handle has nothing in flight: its data outlives the handle only if it was kept before.
 *
 * A send of the data on another handle, which can't go at once, must not lead back to the memory of
 * the handle that has gone: it's freed here, so that a sanitizer notices. */

#include "suite.h"

#include <stdlib.h>

struct mover {
    struct pier_handle *handle; /* memory of its own, to be freed */
    struct pier_op receive;
    struct tracked_handle out;
    struct tracked send;
    struct pier_buffer *kept;
    pier_descriptor peer, far;
    bool keeps, sends_before, sends_after, done;
};

static void leave(struct mover *mover)
{
    pier_handle_discard(mover->handle);
    memset(mover->handle, 0xa5, sizeof(*mover->handle));
    free(mover->handle);
    mover->handle = NULL;
}

static void detach_and_send(struct pier_op *op)
{
    struct mover *mover = PIER_OWNER(op, struct mover, receive);
    CHECK_INT(op->result, ==, 5);
    CHECK_BYTES(op->data, "hello", 5);
    if (mover->keeps) {
        mover->kept = pier_buffer_keep(op);
        CHECK(mover->kept != NULL);
    }
    if (mover->sends_before) {
        tracked_send(&mover->out, &mover->send, op->data, op->size, NULL);
    }
    CHECK_OK(pier_detach(mover->handle));
    CHECK(pier_buffer_keep(op) == NULL);
    if (mover->sends_after) {
        tracked_send(&mover->out, &mover->send, op->data, op->size, NULL);
    }
    leave(mover);
    mover->done = true;
}

static void open_mover(struct pier_loop *loop, struct mover *mover, enum stream stream)
{
    struct tracked_handle in = {0};
    mover->peer = tracked_raw_pair(loop, stream, &in);
    mover->far = tracked_raw_pair(loop, STREAM_PAIR, &mover->out);
    raw_fill(pier_handle_descriptor(&mover->out.handle));
    CHECK_OK(pier_detach(&in.handle));
    mover->handle = malloc(sizeof(*mover->handle));
    CHECK(mover->handle != NULL);
    *mover->handle = in.handle;
    CHECK_OK(pier_attach(mover->handle, loop));
}

/* Reads what filled the far end, and returns with the last five bytes. */
static void read_last(struct pier_loop *loop, struct mover *mover, char last[5])
{
    static char got[1 << 16];
    size_t tail = 0;
    SPIN_UNTIL(loop, !mover->send.in_flight && raw_available(mover->far) == 0, {
        const int64_t now = raw_receive_now(mover->far, got + 5, sizeof(got) - 5);
        CHECK(now > 0 || now == RAW_AGAIN);
        if (now > 0) {
            memmove(got, got + now, 5);
            tail += (size_t)now;
        }
    });
    CHECK_INT(tail, >=, 5);
    memcpy(last, got, 5);
}

static void in_the_callback(void)
{
    struct pier_loop *loop = test_loop();
    for (unsigned i = 0; i < 2 * 8; i++) {
        struct mover mover = {
            .keeps = (i & 1) != 0, .sends_before = (i & 6) == 2, .sends_after = (i & 6) == 4};
        char last[5];
        open_mover(loop, &mover, i < 8 ? STREAM_TCP4 : STREAM_PAIR);
        if (i % 4 < 2) {
            raw_send(mover.peer, "hello", 5);
        }
        pier_receive_lent(mover.handle, &mover.receive, detach_and_send);
        if (i % 4 >= 2) {
            run(loop, PIER_RUN_NO_WAIT);
            raw_send(mover.peer, "hello", 5);
        }
        RUN_UNTIL(loop, mover.done);
        raw_receive_end(mover.peer);
        /* Other handles use the pool meanwhile. */
        struct tracked_handle other = {0};
        struct tracked lent = {0};
        const pier_descriptor other_peer = tracked_raw_pair(loop, STREAM_TCP4, &other);
        for (int k = 0; k < 3; k++) {
            tracked_receive_lent(&other, &lent, NULL);
            raw_send(other_peer, "OTHER", 5);
            CHECK_INT(wait_for(&lent), ==, 5);
        }
        close_and_wait(&other);
        raw_close(other_peer);
        if (mover.sends_before || mover.sends_after) {
            CHECK(mover.send.in_flight);
            read_last(loop, &mover, last);
            CHECK_INT(mover.send.result, ==, 5);
            /* Who neither kept it nor sent it before has lost the data, as the header says. */
            if (mover.sends_before || mover.keeps) {
                CHECK_BYTES(last, "hello", 5);
            }
        }
        if (mover.kept != NULL) {
            CHECK_BYTES(pier_buffer_data(mover.kept), "hello", 5);
            pier_buffer_release(mover.kept);
        }
        CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
        close_and_wait(&mover.out);
        raw_close(mover.peer);
        raw_close(mover.far);
    }
}

struct keeper {
    struct pier_handle *handle;
    struct tracked_handle out;
    struct pier_op receive;
    struct tracked send;
    bool done;
};

/* Detaches, gives the buffer back, and still sends out of it: the event stays whole. */
static void keep_detach_release_send(struct pier_op *op)
{
    struct keeper *keeper = PIER_OWNER(op, struct keeper, receive);
    struct pier_buffer *kept = pier_buffer_keep(op);
    CHECK(kept != NULL);
    CHECK_OK(pier_detach(keeper->handle));
    pier_buffer_release(kept);
    tracked_send(&keeper->out, &keeper->send, op->data, op->size, NULL);
    keeper->done = true;
}

static void kept_and_released_in_the_callback(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle in = {0};
    struct keeper keeper = {.handle = &in};
    pier_descriptor ends[2];
    char got[5];
    raw_pair(ends);
    const pier_descriptor far = tracked_raw_pair(loop, STREAM_TCP4, &keeper.out);
    CHECK_OK(pier_adopt(loop, &in, ends[0]));
    pier_receive_lent(&in, &keeper.receive, keep_detach_release_send);
    raw_send(ends[1], "hello", 5);
    RUN_UNTIL(loop, keeper.done);
    CHECK_INT(wait_for(&keeper.send), ==, 5);
    raw_receive(far, got, 5);
    CHECK_BYTES(got, "hello", 5);
    CHECK_INT(stats_of(loop).buffers_lent, ==, 0);
    close_and_wait(&keeper.out);
    pier_handle_discard(&in);
    raw_close(ends[1]);
    raw_close(far);
}

/* In an event of a multishot op the op is in flight, so the handle can't go. */
static void try_to_detach(struct tracked *tracked)
{
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_REFUSED(pier_detach(&tracked->owner->handle), PIER_EBUSY);
        tracked_cancel(tracked);
        CHECK_REFUSED(pier_detach(&tracked->owner->handle), PIER_EBUSY);
    }
}

static void not_in_an_event(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle a = {0};
    struct tracked each = {0};
    const pier_descriptor peer = tracked_raw_pair(loop, STREAM_TCP4, &a);
    tracked_receive_each(&a, &each, try_to_detach);
    raw_send(peer, "x", 1);
    CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    check_usable(&a, peer);
    close_and_wait(&a);
    raw_close(peer);
}

const struct test detached_tests[] = {
    TEST(detached, in_the_callback),
    TEST(detached, kept_and_released_in_the_callback),
    TEST(detached, not_in_an_event),
    TEST_END,
};
