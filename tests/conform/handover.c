/* handover.c - a loop whose thread has ended, drained and freed by whoever joined that thread. */

#include "suite.h"

struct estate {
    struct pier_loop *loop;
    struct tracked_handle listener, lines[4], sender, held, guests[64];
    struct tracked accept, receive, lent, each, paused, poll, poll_each, timer, timer_each, notify;
    struct tracked post, sends[3], behind;
    pier_descriptor peers[6], pipe[2], callers[3];
    struct pier_address address;
    char got[64];
    uint64_t received;
    unsigned guests_count;
    bool late; /* things happen that the loop's thread doesn't see any more */
};

static void count_estate(struct tracked *tracked)
{
    struct estate *estate = tracked->context;
    if ((tracked->flags & PIER_MORE) != 0) {
        estate->received += tracked->op.size;
    }
}

static void take_guest(struct tracked *tracked)
{
    struct estate *estate = tracked->context;
    if ((tracked->flags & PIER_MORE) != 0) {
        CHECK_INT(estate->guests_count, <, COUNT_OF(estate->guests));
        tracked_take(tracked, &estate->guests[estate->guests_count++]);
    }
}

static unsigned char bequest[64 << 20]; /* more than the kernel ever takes at once */

static void put_in_flight(struct estate *estate)
{
    struct pier_loop *loop = estate->loop;
    estate->address = tracked_listen(loop, &estate->listener, STREAM_TCP4, NULL);
    for (int i = 0; i < 4; i++) {
        estate->peers[i] = tracked_raw_pair(loop, STREAM_TCP4, &estate->lines[i]);
    }
    estate->peers[4] = tracked_raw_pair(loop, STREAM_TCP4, &estate->sender);
    estate->peers[5] = tracked_raw_pair(loop, STREAM_TCP4, &estate->held);
    raw_pipe(estate->pipe);
    estate->each.context = estate->accept.context = estate->paused.context = estate;
    tracked_accept_each(&estate->listener, &estate->accept, take_guest);
    tracked_receive(&estate->lines[0], &estate->receive, estate->got, sizeof(estate->got), NULL);
    tracked_receive_lent(&estate->lines[1], &estate->lent, NULL);
    tracked_receive_each(&estate->lines[2], &estate->each, count_estate);
    tracked_receive_each(&estate->held, &estate->paused, count_estate);
    tracked_poll(loop, &estate->poll, estate->pipe[0], PIER_READABLE, NULL);
    tracked_poll_each(loop, &estate->poll_each, estate->pipe[0], PIER_READABLE, NULL);
    tracked_timer(loop, &estate->timer, 3600 * PIER_SECOND, NULL);
    tracked_timer_each(loop, &estate->timer_each, 3600 * PIER_SECOND, 3600 * PIER_SECOND, NULL);
    tracked_notify_each(loop, &estate->notify, NULL);
    for (int i = 0; i < 3; i++) {
        tracked_send(&estate->sender, &estate->sends[i], bequest, sizeof(bequest), NULL);
    }
}

static void run_and_end(void *context)
{
    struct estate *estate = context;
    put_in_flight(estate);
    run_quietly(estate->loop, 5);
    tracked_pause(&estate->paused);
    if (estate->late) {
        /* Nobody looks at the loop any more: the kernel may have answers ready, and things that
         * were asked for may not have reached it. */
        tracked_receive(&estate->lines[3], &estate->behind, estate->got, 1, NULL);
        tracked_cancel(&estate->lent);
        for (int i = 0; i < 6; i++) {
            raw_send_now(estate->peers[i], "late", 4);
        }
        run(estate->loop, PIER_RUN_NO_WAIT);
        tracked_close(&estate->lines[3], NULL);
        raw_send_now(estate->peers[2], "later", 5);
        for (int i = 0; i < 3; i++) {
            estate->callers[i] = raw_connect(&estate->address);
        }
    }
    pier_loop_stop(estate->loop);
    run(estate->loop, PIER_RUN_UNTIL_IDLE);
}

static void finish_estate(struct estate *estate)
{
    estate->paused.ending = true; /* the drain cancels it, and hands out what is held for it */
    CHECK_INT(drain(estate->loop, 30 * PIER_SECOND), ==, 0);
    /* What was being sent hasn't gone, as far as anybody knows. */
    for (int i = 0; i < 3; i++) {
        CHECK(!estate->sends[i].in_flight);
        CHECK_INT(estate->sends[i].result, ==, PIER_ECANCELED);
    }
    CHECK(!estate->each.in_flight);
    CHECK(!estate->poll_each.in_flight);
    CHECK_INT(estate->timer.result, ==, PIER_ECANCELED);
    CHECK_INT(estate->notify.result, ==, PIER_ECANCELED);
    test_loop_free(estate->loop);
    for (int i = 0; i < 6; i++) {
        raw_receive_rest(estate->peers[i]); /* to the end: nobody has kept it open */
        raw_close(estate->peers[i]);
    }
    for (int i = 0; i < 3 && estate->late; i++) {
        raw_close(estate->callers[i]);
    }
    raw_close(estate->pipe[0]);
    raw_close(estate->pipe[1]);
}

/* Whoever has joined a loop's thread drains and frees the loop, with whatever there was in flight;
 * and what that thread has of its own is left alone. */
static void taken_over_with_all_in_flight(void)
{
    struct pier_loop *own = test_loop();
    struct tracked_handle a = {0};
    const pier_descriptor peer = tracked_raw_pair(own, STREAM_TCP4, &a);
    static struct estate estate;
    check_usable(&a, peer);
    for (int round = 0; round < 6; round++) {
        struct platform_thread thread;
        memset(&estate, 0, sizeof(estate));
        estate.loop = test_loop();
        estate.late = round % 2 != 0;
        platform_thread_start(&thread, run_and_end, &estate);
        platform_thread_join(&thread);
        finish_estate(&estate);
        check_usable(&a, peer);
    }
    close_and_wait(&a);
    raw_close(peer);
}

struct heir {
    struct pier_loop *loop;
    struct tracked post;
};

static void post_to_heir(void *context)
{
    struct heir *heir = context;
    tracked_post(heir->loop, &heir->post, NULL);
}

static void run_once_and_end(void *context)
{
    struct pier_loop *loop = context;
    struct tracked timer = {0};
    tracked_timer(loop, &timer, PIER_MILLISECOND, NULL);
    CHECK_INT(wait_for(&timer), ==, 0);
}

/* Others go on posting to a loop while it changes hands. */
static void posts_while_a_loop_changes_hands(void)
{
    for (int i = 0; i < 50; i++) {
        struct platform_thread thread, poster;
        struct heir heir = {.loop = test_loop()};
        platform_thread_start(&thread, run_once_and_end, heir.loop);
        platform_thread_join(&thread);
        platform_thread_start(&poster, post_to_heir, &heir);
        CHECK_INT(drain(heir.loop, 30 * PIER_SECOND), ==, 0);
        platform_thread_join(&poster);
        CHECK_INT(drain(heir.loop, 30 * PIER_SECOND), ==, 0);
        CHECK_INT(heir.post.completions, ==, 1);
        test_loop_free(heir.loop);
    }
}

const struct test handover_tests[] = {
    TEST(handover, taken_over_with_all_in_flight),
    TEST(handover, posts_while_a_loop_changes_hands),
    TEST_END,
};
