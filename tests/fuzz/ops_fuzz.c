/* ops_fuzz.c - random ops, cancels, closes and peer actions, checked against the contract.
 *
 * Each byte of the input is an instruction, the next ones its arguments; an instruction may also be
 * carried out inside the next callbacks. The checks of tests/conform/tracked.c run in every
 * completion. Besides, the bytes are followed: what the peer sent arrives once and in order, and
 * what the peer reads is, send after send, as much as `done` of each says. At the end nothing may
 * be in flight, allocated or open (ops_end.c). */

#include "ops_fuzz.h"
#include "standalone.h"

#include <stdlib.h>

const char *const fuzz_name = "ops";
const int fuzz_needs_backend = 1;

struct fuzz fuzz;

static void step(bool inside);

static unsigned next_byte(void)
{
    return fuzz.input < fuzz.end ? *fuzz.input++ : 0;
}

/* ---- callbacks */

static void maybe_step_inside(void)
{
    while (fuzz.inside > 0 && fuzz.input < fuzz.end) {
        fuzz.inside--;
        step(true);
    }
}

static void on_other(struct tracked *tracked)
{
    (void)tracked;
    maybe_step_inside();
}

static void on_sent(struct tracked *tracked)
{
    struct slot *slot = PIER_OWNER(tracked, struct slot, tracked);
    slot->record->done = tracked->done;
    maybe_step_inside();
}

static struct slot *free_slot(void)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (!fuzz.slots[i].tracked.in_flight) {
            memset(&fuzz.slots[i].tracked, 0, sizeof(fuzz.slots[i].tracked));
            fuzz.slots[i].tracked.op.timeout_ns = fuzz.timeout_ns;
            fuzz.timeout_ns = 0;
            return &fuzz.slots[i];
        }
    }
    return NULL;
}

static struct record *new_record(struct lane *lane, unsigned seed, uint64_t offset)
{
    struct record *record = &lane->records[lane->record_count++];
    record->seed = seed;
    record->offset = offset;
    record->done = 0;
    return record;
}

/* Sends what was received on, while it is lent, without keeping it. */
static void forward(const struct lane *from, const void *data, size_t size, uint64_t offset)
{
    struct lane *lane = &fuzz.lanes[next_byte() % LANES];
    if ((lane->kind != LANE_STREAM && lane->kind != LANE_WRITER) || lane->record_count == RECORDS ||
        lane->handle.closes > 0) {
        return;
    }
    struct slot *slot = free_slot();
    if (slot != NULL) {
        slot->lane = lane;
        slot->record = new_record(lane, from->seed, offset);
        tracked_send(&lane->handle, &slot->tracked, data, size, on_sent);
    }
}

static void keep(struct tracked *tracked, const struct lane *lane, uint64_t offset)
{
    for (unsigned i = 0; i < KEPT; i++) {
        if (fuzz.kept[i].buffer == NULL) {
            fuzz.kept[i].buffer = pier_buffer_keep(&tracked->op);
            fuzz.kept[i].seed = lane->seed;
            fuzz.kept[i].offset = offset;
            CHECK(fuzz.kept[i].buffer != NULL);
            return;
        }
    }
}

void fuzz_release(unsigned index)
{
    struct pier_buffer *buffer = fuzz.kept[index].buffer;
    if (buffer != NULL) {
        CHECK_PATTERN(pier_buffer_data(buffer), pier_buffer_size(buffer), fuzz.kept[index].seed,
                      fuzz.kept[index].offset);
        fuzz.kept[index].buffer = NULL;
        pier_buffer_release(buffer);
    }
}

static void on_data(struct tracked *tracked)
{
    const struct slot *slot = PIER_OWNER(tracked, struct slot, tracked);
    struct lane *lane = slot->lane;
    if (tracked->result > 0) {
        const size_t size = (size_t)tracked->result;
        const uint64_t offset = lane->received;
        CHECK_PATTERN(tracked->op.data, size, lane->seed, offset);
        lane->received += size;
        CHECK_INT(lane->received, <=, lane->peer_sent);
        if (fuzz.keep_next && (tracked->flags & PIER_LENT) != 0) {
            fuzz.keep_next = false;
            keep(tracked, lane, offset);
        }
        if (fuzz.forward_next && (tracked->flags & PIER_LENT) != 0) {
            fuzz.forward_next = false;
            forward(lane, tracked->op.data, size, offset);
        }
    } else if (tracked->result == 0 && (tracked->flags & PIER_EOF) != 0 && !lane->peer_broken) {
        CHECK(lane->peer_ended);
        CHECK_INT(lane->received, ==, lane->peer_sent);
    }
    maybe_step_inside();
}

/* Takes the socket in one of the ways there are, and has no further use for it. */
static void on_accepted(struct tracked *tracked)
{
    struct pier_handle detached = {0};
    if (tracked->result == 1 && next_byte() % 2 == 0) {
        CHECK_OK(pier_accept_detach(&tracked->op, &detached));
        pier_handle_discard(&detached);
    }
    maybe_step_inside();
}

/* ---- instructions on lanes */

/* Where the stream of an abstract name is a named pipe, connecting succeeds at once: so the peer
 * can be accepted without running the loop. */
static bool open_named_pipe(struct lane *lane)
{
    struct slot *slot = free_slot();
    struct pier_address address = stream_address(STREAM_ABSTRACT);
    if (slot == NULL || !raw_is_pipe_address(&address)) {
        return false;
    }
    const pier_descriptor listener = raw_listen(&address, 0);
    lane->kind = LANE_STREAM;
    slot->lane = lane;
    tracked_open_socket(fuzz.loop, &lane->handle, &address);
    tracked_connect(&lane->handle, &slot->tracked, &address, on_other);
    lane->peer = raw_accept(listener);
    raw_close(listener);
    return true;
}

static void open_lane(struct lane *lane, unsigned kind)
{
    pier_descriptor ends[2];
    const bool keeps_log = lane->log != NULL;
    if (lane->kind != LANE_FREE || !keeps_log) {
        return;
    }
    unsigned char *log = lane->log;
    memset(lane, 0, sizeof(*lane));
    lane->log = log;
    lane->peer = -1;
    lane->seed = ++fuzz.seeds;
    switch (kind % 8) {
    case 0:
        lane->kind = LANE_LISTENER;
        lane->address = tracked_listen(fuzz.loop, &lane->handle, STREAM_TCP4, NULL);
        return;
    case 1:
        lane->kind = LANE_READER;
        raw_pipe(ends);
        CHECK_OK(tracked_adopt(fuzz.loop, &lane->handle, ends[0]));
        lane->peer = ends[1];
        return;
    case 2:
        lane->kind = LANE_WRITER;
        raw_pipe(ends);
        CHECK_OK(tracked_adopt(fuzz.loop, &lane->handle, ends[1]));
        lane->peer = ends[0];
        return;
    case 3: {
        struct pier_address address = address_of("127.0.0.1:0");
        const pier_descriptor listener = raw_listen(&address, 4);
        lane->kind = LANE_STREAM;
        lane->peer = raw_connect(&address);
        CHECK_OK(tracked_adopt(fuzz.loop, &lane->handle, raw_accept(listener)));
        raw_close(listener);
        return;
    }
    default:
        if (kind % 8 == 4 && open_named_pipe(lane)) {
            return;
        }
        lane->kind = LANE_STREAM;
        raw_pair(ends);
        raw_set_nonblocking(ends[0], kind % 2 == 0);
        CHECK_OK(tracked_adopt(fuzz.loop, &lane->handle, ends[0]));
        lane->peer = ends[1];
    }
}

static void submit_receive(struct lane *lane, unsigned how)
{
    struct slot *slot;
    if ((lane->kind != LANE_STREAM && lane->kind != LANE_READER) || lane->handle.closes > 0 ||
        (slot = free_slot()) == NULL) {
        return;
    }
    slot->lane = lane;
    switch (how % 4) {
    case 0: tracked_receive_each(&lane->handle, &slot->tracked, on_data); break;
    case 1: tracked_receive_lent(&lane->handle, &slot->tracked, on_data); break;
    case 2:
        tracked_receive(&lane->handle, &slot->tracked, slot->memory, 1 + how / 4, on_data);
        break;
    default:
        tracked_receive(&lane->handle, &slot->tracked, slot->memory, (how / 4) * 300u, on_data);
    }
}

static void submit_send(struct lane *lane, unsigned how)
{
    struct slot *slot;
    if ((lane->kind != LANE_STREAM && lane->kind != LANE_WRITER) || lane->handle.closes > 0 ||
        lane->record_count == RECORDS || (slot = free_slot()) == NULL) {
        return;
    }
    const size_t size = how % 4 == 3 ? (how / 4) * (SEND_MAX / 64) : how / 4;
    slot->lane = lane;
    slot->record = new_record(lane, ++fuzz.seeds, 0);
    pattern_fill(slot->memory, size, slot->record->seed, 0);
    if (how % 4 == 1) {
        const size_t cut = size / 3;
        slot->vectors[0] = (struct pier_vector){slot->memory, cut};
        slot->vectors[1] = (struct pier_vector){NULL, 0};
        slot->vectors[2] = (struct pier_vector){slot->memory + cut, size - cut};
        tracked_send_vectored(&lane->handle, &slot->tracked, slot->vectors, 3, on_sent);
    } else {
        tracked_send(&lane->handle, &slot->tracked, slot->memory, size, on_sent);
    }
}

static void submit_accept(struct lane *lane, unsigned how)
{
    struct slot *slot;
    if (lane->kind != LANE_LISTENER || lane->handle.closes > 0 || (slot = free_slot()) == NULL) {
        return;
    }
    slot->lane = lane;
    if (how % 2 == 0) {
        tracked_accept(&lane->handle, &slot->tracked, on_accepted);
    } else {
        tracked_accept_each(&lane->handle, &slot->tracked, on_accepted);
    }
}

static void submit_shutdown(struct lane *lane)
{
    struct slot *slot;
    if (lane->kind != LANE_STREAM || lane->handle.closes > 0 || (slot = free_slot()) == NULL) {
        return;
    }
    slot->lane = lane;
    tracked_shutdown(&lane->handle, &slot->tracked, on_other);
}

static void close_lane(struct lane *lane, unsigned how)
{
    if (lane->kind == LANE_FREE || lane->handle.closes > 0) {
        return;
    }
    /* Closing with data unread makes the system drop what it has still to deliver (TCP). */
    lane->data_dropped = lane->data_dropped || lane->received != lane->peer_sent;
    if (how % 3 == 0 && !lane->handle.closing) {
        tracked_close_gracefully(&lane->handle, (how / 3) * PIER_MILLISECOND / 8 + 1, NULL);
    } else {
        tracked_close(&lane->handle, NULL);
    }
}

/* ---- instructions on peers */

static void peer_sends(struct lane *lane, unsigned how)
{
    static unsigned char data[16384];
    if (lane->peer == -1 || lane->peer_ended || lane->kind == LANE_WRITER) {
        return;
    }
    const size_t size = how % 4 == 0 ? 64u * how : how / 4;
    pattern_fill(data, size, lane->seed, lane->peer_sent);
    const int64_t sent = raw_send_now(lane->peer, data, size);
    lane->peer_sent += sent > 0 ? (uint64_t)sent : 0;
    /* It may come before the close is carried out, which drops it and with it what is to be sent.
     */
    lane->data_dropped = lane->data_dropped || (sent > 0 && lane->handle.closing);
}

static void peer_reads(struct lane *lane, size_t size)
{
    if (lane->peer == -1 || lane->kind == LANE_READER || lane->log_size + size > LOG_MAX) {
        return;
    }
    const int64_t got = raw_receive_now(lane->peer, lane->log + lane->log_size, size);
    lane->log_size += got > 0 ? (size_t)got : 0;
}

static void peer_ends(struct lane *lane, unsigned how)
{
    if (lane->peer == -1 || lane->kind == LANE_LISTENER) {
        return;
    }
    lane->peer_ended = true;
    if (how % 3 == 0 && lane->kind == LANE_STREAM) {
        if (!lane->handle.closing) {
            raw_shutdown(lane->peer);
        }
        return;
    }
    lane->peer_broken = lane->kind == LANE_STREAM; /* unread data turn this into a reset */
    if (how % 3 == 1 && lane->kind == LANE_STREAM) {
        raw_reset(lane->peer);
    } else {
        raw_close(lane->peer);
    }
    lane->peer = -1;
}

static void client_connects(struct lane *lane)
{
    if (lane->kind == LANE_LISTENER && !lane->handle.closing && fuzz.client_count < CLIENTS) {
        fuzz.clients[fuzz.client_count++] = raw_connect_begin(&lane->address);
    }
}

/* ---- instructions on ops */

static void submit_other(struct lane *lane, unsigned how)
{
    struct slot *slot = free_slot();
    if (slot == NULL) {
        return;
    }
    struct tracked *tracked = &slot->tracked;
    const unsigned events = how / 16 % 2 == 0 ? PIER_READABLE : PIER_READABLE | PIER_WRITABLE;
    slot->lane = NULL;
    switch (how % 9) {
    case 0: tracked_timer(fuzz.loop, tracked, (how / 9) * 50 * PIER_MICROSECOND, on_other); break;
    case 1:
        tracked_timer_each(fuzz.loop, tracked, 0, (how / 9 + 1) * PIER_MILLISECOND, on_other);
        break;
    case 2: tracked_post(fuzz.loop, tracked, on_other); break;
    case 3: tracked_notify_each(fuzz.loop, tracked, on_other); break;
    case 4: tracked_poll(fuzz.loop, tracked, fuzz.polled[0], events, on_other); break;
    case 5: tracked_prepare_each(fuzz.loop, tracked, on_other); break;
    case 6: tracked_check_each(fuzz.loop, tracked, on_other); break;
    case 7:
        if (lane->kind != LANE_FREE && lane->handle.closes == 0) {
            slot->lane = lane;
            tracked_timer_on(&lane->handle, tracked, (how / 9) * 50 * PIER_MICROSECOND, on_other);
        }
        break;
    default: tracked_poll_each(fuzz.loop, tracked, fuzz.polled[0], events, on_other);
    }
}

static void change_op(unsigned how)
{
    struct slot *slot = &fuzz.slots[how % SLOTS];
    struct tracked *tracked = &slot->tracked;
    switch (next_byte() % 8) {
    case 0:
    case 1: tracked_cancel(tracked); break;
    case 2:
        tracked->ending = true;
        pier_cancel_remote(fuzz.loop, pier_op_token(&tracked->op));
        break;
    case 3:
        if (tracked->in_flight && tracked->paused) {
            tracked_resume(tracked);
        } else if (tracked->in_flight) {
            tracked_pause(tracked);
        }
        break;
    case 4:
        if (tracked->in_flight && tracked->kind == TRACKED_NOTIFY_EACH) {
            pier_notify(&tracked->op);
        }
        break;
    case 5:
        if (tracked->in_flight && tracked->kind >= TRACKED_POLL &&
            tracked->kind <= TRACKED_POLL_EACH) {
            tracked_poll_change(tracked, how / SLOTS);
        }
        break;
    case 6: pier_timer_reset(&tracked->op, (how / SLOTS) * PIER_MILLISECOND); break;
    default: tracked_timer_stop(tracked); break;
    }
}

static void run_some(unsigned how)
{
    for (unsigned i = 0; i <= how % 4; i++) {
        run(fuzz.loop, PIER_RUN_NO_WAIT);
    }
    if (how >= 224) {
        run_quietly(fuzz.loop, 1);
    }
}

static void step(bool inside)
{
    const unsigned instruction = next_byte();
    struct lane *lane = &fuzz.lanes[instruction / 24 % LANES];
    switch (instruction % 24) {
    case 0:
    case 1: open_lane(lane, next_byte()); break;
    case 2:
    case 3:
    case 4: submit_receive(lane, next_byte()); break;
    case 5:
    case 6:
    case 7: submit_send(lane, next_byte()); break;
    case 8:
        submit_accept(lane, next_byte());
        client_connects(lane);
        break;
    case 9: submit_shutdown(lane); break;
    case 10: close_lane(lane, next_byte()); break;
    case 11:
    case 12: peer_sends(lane, next_byte()); break;
    case 13: peer_reads(lane, 1 + next_byte() * 200u); break;
    case 14:
        if (next_byte() % 3 == 0) {
            peer_ends(lane, next_byte());
        }
        break;
    case 15: submit_other(lane, next_byte()); break;
    case 16:
    case 17: change_op(next_byte()); break;
    case 18: fuzz.timeout_ns = next_byte() * 20 * PIER_MICROSECOND; break;
    case 19: fuzz.inside += next_byte() % 4; break;
    case 20: fuzz.keep_next = next_byte() % 2 == 0; break;
    case 21: fuzz.forward_next = next_byte() % 2 == 0; break;
    case 22: fuzz_release(next_byte() % KEPT); break;
    default:
        if (!inside) {
            run_some(next_byte());
        }
    }
}

static struct pier_loop *loop_of_input(void)
{
    struct pier_loop_options options = test_options();
    const unsigned how = next_byte();
    options.trigger = (enum pier_trigger)(how % 3);
    options.queue_size = how / 3 % 2 == 0 ? 4 : 0;
    options.retry_ns = PIER_MILLISECOND;
    if (how / 6 % 2 == 0) {
        options.buffer_size = 128;
        options.buffers_min = 2;
        options.buffers_max = 8;
        options.buffer_share = 1 + how / 12 % 4;
        options.callbacks_max = 1 + how / 48 * 3;
        options.receives_max = 1 + how / 64;
    }
    return test_loop_with(&options);
}

static void run_input(void)
{
    fuzz.client_count = fuzz.seeds = fuzz.inside = 0;
    fuzz.timeout_ns = 0;
    fuzz.keep_next = fuzz.forward_next = false;
    for (unsigned i = 0; i < LANES; i++) {
        unsigned char *log = fuzz.lanes[i].log;
        memset(&fuzz.lanes[i], 0, sizeof(fuzz.lanes[i]));
        fuzz.lanes[i].log = log;
        fuzz.lanes[i].peer = -1;
    }
    raw_pair(fuzz.polled);
    fuzz.loop = loop_of_input();
    for (unsigned i = 0; i < 3; i++) {
        open_lane(&fuzz.lanes[i], next_byte());
    }
    while (fuzz.input < fuzz.end) {
        step(false);
    }
    fuzz_finish();
}

static void prepare(void)
{
    static struct suite suite = {.aborts = true, .watchdog_s = 60, .slowness = 1};
    if (fuzz.lanes[0].log != NULL) {
        return;
    }
    suite.backend = fuzz_backend();
    if (suite.backend == NULL) {
        struct pier_loop *loop = NULL;
        test_configure(&suite);
        CHECK_OK(pier_loop_new(&loop, NULL));
        suite.backend = pier_loop_backend(loop);
        pier_loop_free(loop);
    }
    test_configure(&suite);
    for (unsigned i = 0; i < LANES; i++) {
        fuzz.lanes[i].log = malloc(LOG_MAX);
        CHECK(fuzz.lanes[i].log != NULL);
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        fuzz.slots[i].memory = malloc(SEND_MAX);
        CHECK(fuzz.slots[i].memory != NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct test test = {"ops", run_input};
    struct outcome outcome;
    prepare();
    fuzz.input = data;
    fuzz.end = data + size;
    test_perform(&test, &outcome);
    return 0;
}

size_t fuzz_make_input(uint8_t *data, size_t size_max, uint64_t *state)
{
    const size_t size = 8 +
                        fuzz_random(state, (uint32_t)size_max - 8) / (1 + fuzz_random(state, 8));
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)fuzz_random(state, 256);
    }
    return size;
}
