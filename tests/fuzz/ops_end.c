/* ops_end.c - the end of each run of the fuzzer of ops: nothing lost, nothing left. */

#include "ops_fuzz.h"

/* What is still on its way to a lane must arrive, all of it. */
static void receive_rest(struct lane *lane)
{
    struct tracked receive = {0};
    static unsigned char rest[65536];
    if ((lane->kind != LANE_STREAM && lane->kind != LANE_READER) || lane->handle.closing ||
        lane->peer_broken) {
        return;
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        if (fuzz.slots[i].lane == lane && fuzz.slots[i].tracked.in_flight) {
            tracked_cancel(&fuzz.slots[i].tracked);
            RUN_UNTIL(fuzz.loop, !fuzz.slots[i].tracked.in_flight);
        }
    }
    while (lane->received < lane->peer_sent) {
        tracked_receive(&lane->handle, &receive, rest, sizeof(rest), NULL);
        CHECK_INT(wait_for(&receive), >, 0);
        CHECK_PATTERN(rest, (size_t)receive.result, lane->seed, lane->received);
        lane->received += (uint64_t)receive.result;
    }
}

/* The peer has read, send after send, what `done` says. */
static void check_sent(struct lane *lane)
{
    size_t at = 0;
    while (lane->peer != -1 && lane->kind != LANE_READER && lane->log_size + 65536 < LOG_MAX) {
        const int64_t got = raw_receive_now(lane->peer, lane->log + lane->log_size, 65536);
        if (got <= 0) {
            break;
        }
        lane->log_size += (size_t)got;
    }
    for (unsigned i = 0; i < lane->record_count; i++) {
        const struct record *record = &lane->records[i];
        const size_t left = lane->log_size - at;
        const size_t size = record->done < left ? (size_t)record->done : left;
        CHECK_PATTERN(lane->log + at, size, record->seed, record->offset);
        at += size;
        if (size < record->done) {
            /* TCP may still be at it, or have dropped the rest with a reset. */
            CHECK(lane->peer == -1 || lane->data_dropped || lane->peer_broken ||
                  lane->handle.closes == 0 || lane->log_size + 65536 >= LOG_MAX ||
                  lane->peer_ended);
        }
    }
    CHECK_INT(at, ==, lane->log_size);
}

void fuzz_finish(void)
{
    fuzz.inside = 0;
    for (unsigned i = 0; i < KEPT; i++) {
        fuzz_release(i);
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        if (fuzz.slots[i].tracked.in_flight && fuzz.slots[i].tracked.paused) {
            tracked_resume(&fuzz.slots[i].tracked);
        }
    }
    fuzz.keep_next = fuzz.forward_next = false;
    for (unsigned i = 0; i < LANES; i++) {
        receive_rest(&fuzz.lanes[i]);
    }
    CHECK_INT(drain(fuzz.loop, 30 * PIER_SECOND), ==, 0);
    CHECK_INT(stats_of(fuzz.loop).buffers_lent, ==, 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        CHECK(!fuzz.slots[i].tracked.in_flight);
    }
    for (unsigned i = 0; i < LANES; i++) {
        check_sent(&fuzz.lanes[i]);
        if (fuzz.lanes[i].kind != LANE_FREE && fuzz.lanes[i].peer != -1) {
            raw_close(fuzz.lanes[i].peer);
        }
    }
    for (unsigned i = 0; i < fuzz.client_count; i++) {
        raw_close(fuzz.clients[i]);
    }
    raw_close(fuzz.polled[0]);
    raw_close(fuzz.polled[1]);
}
