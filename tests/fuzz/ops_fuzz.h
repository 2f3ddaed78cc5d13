/* ops_fuzz.h - the state of the fuzzer of ops: lanes, op slots, kept buffers.
 *
 * A lane is a handle with its raw peer. The bytes of each send are part of a pattern, so that a
 * record of (seed, offset, done) is enough to check them after the fact. */

#ifndef FUZZ_OPS_FUZZ_H
#define FUZZ_OPS_FUZZ_H

#include "tracked.h"

#define LANES 6
#define SLOTS 40
#define KEPT 12
#define CLIENTS 12
#define RECORDS 160
#define SEND_MAX 40000
#define LOG_MAX (1 << 20)

enum lane_kind { LANE_FREE, LANE_STREAM, LANE_READER, LANE_WRITER, LANE_LISTENER };

/* One send: which part of which pattern, and how much of it went. */
struct record {
    unsigned seed;
    uint64_t offset, done;
};

struct lane {
    struct tracked_handle handle;
    enum lane_kind kind;
    unsigned seed;
    pier_descriptor peer; /* -1: closed */
    bool peer_ended, peer_broken, data_dropped;
    uint64_t peer_sent, received;
    struct record records[RECORDS];
    unsigned record_count;
    unsigned char *log; /* what the peer has read */
    size_t log_size;
    struct pier_address address;
};

struct slot {
    struct tracked tracked;
    struct lane *lane;
    struct record *record;
    struct pier_vector vectors[4];
    unsigned char *memory;
};

struct kept {
    struct pier_buffer *buffer;
    unsigned seed;
    uint64_t offset;
};

struct fuzz {
    const uint8_t *input, *end;
    struct pier_loop *loop;
    struct lane lanes[LANES];
    struct slot slots[SLOTS];
    struct kept kept[KEPT];
    pier_descriptor clients[CLIENTS];
    pier_descriptor polled[2];
    unsigned client_count, seeds, inside;
    uint64_t timeout_ns;
    bool keep_next, forward_next;
};

extern struct fuzz fuzz;

/* Checks a kept buffer and gives it back. */
void fuzz_release(unsigned index);

/* Ends everything and checks what can be checked only then. */
void fuzz_finish(void);

#endif
