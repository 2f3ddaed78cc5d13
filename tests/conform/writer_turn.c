/* writer_turn.c - when a writer sends: once for all that a turn's callbacks write, and no later
 * than a send of the program's own would go. */

#include "scribe.h"

static unsigned char data[1 << 20];

static void reply_16_times(struct tracked *receive)
{
    struct scribe *scribe = receive->context;
    for (unsigned i = 0; i < 4; i++) {
        write_letters(scribe, "abcd");
    }
}

static void pipelined_replies_are_one_send(void)
{
    struct scribe scribe = {0};
    struct tracked receive = {.context = &scribe};
    char request;
    open_scribe(&scribe, 0, 0, 0);
    tracked_receive(&scribe.handle, &receive, &request, 1, reply_16_times);
    raw_send(scribe.peer, "?", 1);
    CHECK_INT(wait_for(&receive), ==, 1);
    read_text(&scribe, "abcdabcdabcdabcd");
    flush(&scribe);
    CHECK_INT(stats_of(scribe.loop).sends, ==, 1);
    CHECK_INT(scribe.drains, ==, 1);
    close_scribe(&scribe);
}

static void write_one(struct tracked *post)
{
    write_letters(post->context, "x");
}

static void callbacks_of_a_turn_share_a_send(void)
{
    struct scribe scribe = {0};
    struct tracked posts[10] = {{.context = NULL}};
    open_scribe(&scribe, 0, 0, 0);
    for (unsigned i = 0; i < COUNT_OF(posts); i++) {
        posts[i].context = &scribe;
        tracked_post(scribe.loop, &posts[i], write_one);
    }
    run(scribe.loop, PIER_RUN_NO_WAIT);
    read_text(&scribe, "xxxxxxxxxx");
    flush(&scribe);
    CHECK_INT(stats_of(scribe.loop).sends, ==, 1);
    close_scribe(&scribe);
}

/* A request of a byte is answered with a byte. */
struct answers {
    struct scribe scribe;
    struct tracked receive, send;
    unsigned count;
    bool by_writer;
};

static void answer(struct tracked *receive)
{
    struct answers *answers = receive->context;
    if (receive->flags & PIER_MORE) {
        answers->count++;
        if (answers->by_writer) {
            write_letters(&answers->scribe, "!");
        } else {
            tracked_send(&answers->scribe.handle, &answers->send, "!", 1, NULL);
        }
    }
}

#define ANSWERS 100u

static uint64_t calls_for_answers(bool by_writer)
{
    struct answers answers = {.by_writer = by_writer};
    struct scribe *scribe = &answers.scribe;
    uint64_t before = 0;
    answers.receive.context = &answers;
    open_scribe(scribe, 0, 0, 0);
    tracked_receive_each(&scribe->handle, &answers.receive, answer);
    for (unsigned i = 0; i < 10 + ANSWERS; i++) {
        if (i == 10) {
            before = stats_of(scribe->loop).system_calls;
        }
        char got;
        raw_send(scribe->peer, "?", 1);
        RUN_UNTIL(scribe->loop, answers.count == i + 1 && !answers.send.in_flight &&
                                    pier_writer_queued(&scribe->writer) == 0);
        raw_receive(scribe->peer, &got, 1);
    }
    const uint64_t calls = stats_of(scribe->loop).system_calls - before;
    close_scribe(scribe);
    return calls;
}

/* An answer by a writer needs no turn, and so no system call, that one by pier_send() doesn't. */
static void a_lone_answer_costs_no_more_calls(void)
{
    const uint64_t by_send = calls_for_answers(false), by_writer = calls_for_answers(true);
    CHECK_INT(by_writer, <, by_send + ANSWERS / 2);
}

/* Where the system is asked inside the submit, it has the answer when the turn is over. */
static void a_lone_answer_goes_out_in_its_turn(void)
{
    struct scribe scribe = {0};
    struct tracked post = {.context = &scribe};
    char got;
    open_scribe(&scribe, 0, 0, 0);
    tracked_post(scribe.loop, &post, write_one);
    run(scribe.loop, PIER_RUN_NO_WAIT);
    CHECK_INT(post.completions, ==, 1);
    if (!test_can(PIER_CAN_COMPLETE)) {
        CHECK_INT(pier_writer_queued(&scribe.writer), ==, 0);
        CHECK_INT(raw_receive_now(scribe.peer, &got, 1), ==, 1);
    } else {
        read_text(&scribe, "x");
    }
    flush(&scribe);
    close_scribe(&scribe);
}

/* What a callback late in the turn writes, the completion of a send for one, goes out by itself. */
static void written_by_a_completion(void)
{
    struct scribe scribe = {0};
    struct tracked send = {.context = &scribe};
    open_scribe(&scribe, 0, 0, 0);
    tracked_send(&scribe.handle, &send, "1", 1, write_one);
    read_text(&scribe, "1x");
    flush(&scribe);
    close_scribe(&scribe);
}

static void outside_of_a_run(void)
{
    struct scribe scribe = {0};
    char got;
    open_scribe(&scribe, 0, 0, 0);
    write_letters(&scribe, "out");
    CHECK_INT(raw_receive_now(scribe.peer, &got, 1), ==, RAW_AGAIN);
    CHECK_INT(pier_loop_next_timeout(scribe.loop), ==, 0);
    CHECK_INT(stats_of(scribe.loop).ops_in_flight, ==, 1);
    CHECK_INT(run(scribe.loop, PIER_RUN_UNTIL_IDLE), ==, 0);
    CHECK_INT(pier_writer_queued(&scribe.writer), ==, 0);
    CHECK_INT(stats_of(scribe.loop).sends, ==, 1);
    read_text(&scribe, "out");
    close_scribe(&scribe);
}

static void more_than_a_send_has_room_for(void)
{
    struct scribe scribe = {0};
    open_scribe(&scribe, 0, 0, 0);
    pattern_fill(data, 700000, 101, 0);
    for (size_t at = 0; at < 700000; at += 1000) {
        CHECK_OK(pier_writer_write(&scribe.writer, data + at, 1000));
    }
    read_pattern(&scribe, 0, 700000);
    flush(&scribe);
    CHECK_INT(scribe.drains, ==, 1);
    close_scribe(&scribe);
}

const struct test writer_turn_tests[] = {
    TEST(writer_turn, pipelined_replies_are_one_send),
    TEST(writer_turn, callbacks_of_a_turn_share_a_send),
    TEST(writer_turn, a_lone_answer_costs_no_more_calls),
    TEST(writer_turn, a_lone_answer_goes_out_in_its_turn),
    TEST(writer_turn, written_by_a_completion),
    TEST(writer_turn, outside_of_a_run),
    TEST(writer_turn, more_than_a_send_has_room_for),
    TEST_END,
};
