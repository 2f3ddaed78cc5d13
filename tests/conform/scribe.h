/* scribe.h - a writer on a handle whose peer is a raw socket, and counts of its callbacks. */

#ifndef CONFORM_SCRIBE_H
#define CONFORM_SCRIBE_H

#include "suite.h"

struct scribe {
    struct pier_writer writer;
    struct tracked_handle handle;
    pier_descriptor peer;
    struct pier_loop *loop;
    unsigned highs, lows, errors, drains;
    void (*then)(struct scribe *scribe); /* in each callback */
};

static inline void check_inside_run(struct scribe *scribe)
{
    CHECK(test_running() == scribe->loop);
}

static inline void scribe_go_on(struct scribe *scribe)
{
    if (scribe->then != NULL) {
        scribe->then(scribe);
    }
}

static inline void on_high(struct pier_writer *writer)
{
    struct scribe *scribe = PIER_OWNER(writer, struct scribe, writer);
    check_inside_run(scribe);
    scribe->highs++;
    scribe_go_on(scribe);
}

static inline void on_low(struct pier_writer *writer)
{
    struct scribe *scribe = PIER_OWNER(writer, struct scribe, writer);
    check_inside_run(scribe);
    scribe->lows++;
    scribe_go_on(scribe);
}

static inline void on_error(struct pier_writer *writer)
{
    struct scribe *scribe = PIER_OWNER(writer, struct scribe, writer);
    check_inside_run(scribe);
    CHECK_INT(writer->error, <, 0);
    scribe->errors++;
    scribe_go_on(scribe);
}

static inline void on_drained(struct pier_writer *writer)
{
    struct scribe *scribe = PIER_OWNER(writer, struct scribe, writer);
    check_inside_run(scribe);
    CHECK_INT(pier_writer_queued(writer), ==, 0);
    scribe->drains++;
    scribe_go_on(scribe);
}

/* With all of the callbacks. */
static inline void open_scribe_with(struct scribe *scribe, struct pier_loop *loop,
                                    const struct pier_writer_options *given)
{
    struct pier_writer_options options = *given;
    options.on_high = on_high;
    options.on_low = on_low;
    options.on_error = on_error;
    options.on_drained = on_drained;
    scribe->loop = loop;
    scribe->peer = tracked_raw_pair(scribe->loop, STREAM_PAIR, &scribe->handle);
    CHECK_OK(pier_writer_open(&scribe->writer, &scribe->handle.handle, &options));
}

static inline void open_scribe(struct scribe *scribe, size_t limit, size_t high, size_t low)
{
    const struct pier_writer_options options = {.limit = limit, .high = high, .low = low};
    open_scribe_with(scribe, test_loop(), &options);
}

static inline void close_scribe(struct scribe *scribe)
{
    close_and_wait(&scribe->handle);
    CHECK_INT(pier_writer_write(&scribe->writer, "x", 1), <, 0);
    pier_writer_free(&scribe->writer);
    raw_close(scribe->peer);
}

/* Reads what the writer sends until `size` bytes have come. */
static inline void read_pattern(struct scribe *scribe, uint64_t offset, size_t size)
{
    static unsigned char got[1 << 20];
    size_t read = 0;
    SPIN_UNTIL(scribe->loop, read == size, {
        const int64_t now = raw_receive_now(scribe->peer, got + read, size - read);
        CHECK(now > 0 || now == RAW_AGAIN);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_PATTERN(got, size, 101, offset);
}

static inline void write_letters(struct scribe *scribe, const char *letters)
{
    for (; *letters != '\0'; letters++) {
        CHECK_OK(pier_writer_write(&scribe->writer, letters, 1));
    }
}

static inline void read_text(struct scribe *scribe, const char *text)
{
    char got[256];
    size_t read = 0;
    const size_t size = strlen(text);
    SPIN_UNTIL(scribe->loop, read == size, {
        const int64_t now = raw_receive_now(scribe->peer, got + read, size - read);
        CHECK(now > 0 || now == RAW_AGAIN);
        read += now > 0 ? (size_t)now : 0;
    });
    CHECK_BYTES(got, text, size);
}

/* Runs turns until all is taken; the peer's kernel has room for it. */
static inline void flush(struct scribe *scribe)
{
    RUN_UNTIL(scribe->loop, pier_writer_queued(&scribe->writer) == 0);
}

#endif
