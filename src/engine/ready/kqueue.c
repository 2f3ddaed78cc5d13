/* kqueue.c - the poller for kqueue: macOS and the BSDs; on Linux, in the tests, on libpier-kqueue.
 *
 * Handles are registered with EV_CLEAR, once per handle and filter. Their changes are collected and
 * go in with the next wait; one that is refused comes back from there as an event with EV_ERROR,
 * and its handle tries again after a while. What must be known or gone at once (the descriptors of
 * pier_poll(), and removals) is changed by a call of its own. */

#include <sys/types.h>

#include <sys/event.h>

#include <poll.h>

#include "engine/ready/ready.h"
#include "sys/bsd.h"
#include "sys/posix.h"

/* Of the pipe that wakes: what no key is packed to. NetBSD's udata was an intptr_t before 10. */
#define WAKE_UDATA ((void *)UINTPTR_MAX)

struct poller {
    pier_descriptor queue, pipe[2];
    size_t size, change_count;
    struct kevent changes[PIER__KEVENT_CHANGES_MAX];
    struct kevent events[];
};

static struct poller *poller_of(const struct pier_loop *loop)
{
    return pier__ready_of(loop)->poller_data;
}

static int probe(void)
{
    pier_descriptor queue = pier__sys_kqueue_create();
    if (queue < 0) {
        return pier__fail(queue == PIER_EMFILE ? PIER_EMFILE : PIER_ENOTSUP,
                          "kqueue can't be used: %s", pier_error_text(queue));
    }
    pier__sys_close(queue);
    return PIER_CAN_BIND_LATE | PIER_CAN_UNIX | PIER_CAN_POLL | PIER_CAN_EMBED | PIER_CAN_FORK |
           pier__sys_socket_capabilities();
}

static size_t bytes_of(size_t size)
{
    return sizeof(struct poller) + size * sizeof(struct kevent);
}

/* A pipe wakes: it works on every system and from signal handlers, where EVFILT_USER is missing on
 * some (OpenBSD) and takes locks in the library that stands in for it on Linux. */
static int open_descriptors(struct poller *poller)
{
    poller->queue = pier__sys_kqueue_create();
    if (poller->queue < 0) {
        return pier__fail((int)poller->queue, "kqueue: %s", pier_error_text(poller->queue));
    }
    int error = pier__sys_pipe(poller->pipe, true);
    if (error == 0) {
        struct kevent change;
        EV_SET(&change, (uintptr_t)poller->pipe[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0,
               WAKE_UDATA);
        error = pier__sys_kevent(poller->queue, &change, 1, NULL, 0, 0);
        if (error < 0) {
            pier__sys_close(poller->pipe[0]);
            pier__sys_close(poller->pipe[1]);
        }
    }
    if (error < 0) {
        pier__sys_close(poller->queue);
        return pier__fail(error, "the pipe that wakes the kqueue backend: %s",
                          pier_error_text(error));
    }
    poller->change_count = 0;
    return 0;
}

static void close_descriptors(struct poller *poller)
{
    pier__sys_close(poller->pipe[0]);
    pier__sys_close(poller->pipe[1]);
    pier__sys_close(poller->queue);
}

static int open_poller(struct pier_loop *loop, const struct pier_loop_options *options)
{
    struct poller *poller = pier__allocate(loop, bytes_of(options->queue_size));
    if (poller == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the kqueue backend");
    }
    memset(poller, 0, sizeof(*poller));
    poller->size = options->queue_size;
    int error = open_descriptors(poller);
    if (error < 0) {
        pier__free(loop, poller, bytes_of(options->queue_size));
        return error;
    }
    pier__ready_of(loop)->poller_data = poller;
    return 0;
}

static void close_poller(struct pier_loop *loop)
{
    struct poller *poller = poller_of(loop);
    close_descriptors(poller);
    pier__free(loop, poller, bytes_of(poller->size));
}

static enum pier__poller_mode mode(enum pier_trigger trigger)
{
    (void)trigger;
    return PIER__POLLER_EDGE;
}

/* Errors of a removal that say that it's gone already; libevent's kqueue.c has the same. */
static int forgive(int error)
{
    return error == PIER_ENOENT || error == PIER_EBADF || error == PIER_EINVAL ||
                   error == PIER_EPERM
               ? 0
               : error;
}

/* Hands collected changes over now, one by one: without room for events the first error would stop
 * the rest. What is refused stays, for the next wait to tell of. */
static void flush_changes(struct pier_loop *loop, struct poller *poller)
{
    size_t kept = 0;
    for (size_t i = 0; i < poller->change_count; i++) {
        loop->counters.system_calls++;
        if (pier__sys_kevent(poller->queue, &poller->changes[i], 1, NULL, 0, 0) < 0) {
            poller->changes[kept++] = poller->changes[i];
        }
    }
    poller->change_count = kept;
}

/* A change that replaces all others of its descriptor and filter, at once. */
static int change_now(struct pier_loop *loop, struct poller *poller, const struct kevent *change)
{
    size_t kept = 0;
    for (size_t i = 0; i < poller->change_count; i++) {
        const struct kevent *earlier = &poller->changes[i];
        if (earlier->ident != change->ident || earlier->filter != change->filter) {
            poller->changes[kept++] = *earlier;
        }
    }
    poller->change_count = kept;
    loop->counters.system_calls++;
    int error = pier__sys_kevent(poller->queue, change, 1, NULL, 0, 0);
    if (change->flags & EV_DELETE) {
        return forgive(error);
    }
    /* The other end is gone: trying will say so. */
    return error == PIER_EPIPE ? 0 : error;
}

/* Each collected change may come back as an event that says why it was refused: no more of them
 * than there is room for. */
static int change_later(struct pier_loop *loop, struct poller *poller, const struct kevent *change)
{
    size_t most = poller->size < PIER__KEVENT_CHANGES_MAX ? poller->size : PIER__KEVENT_CHANGES_MAX;
    if (poller->change_count == most) {
        flush_changes(loop, poller);
        if (poller->change_count == most) {
            return PIER_ENOMEM;
        }
    }
    poller->changes[poller->change_count++] = *change;
    return 0;
}

static int set(struct pier_loop *loop, pier_descriptor descriptor, uint64_t key, unsigned old,
               unsigned interest)
{
    static const struct {
        unsigned bit;
        int filter;
        unsigned note;
    } filters[] = {
        {PIER__READ, EVFILT_READ, 0},
        {PIER__WRITE, EVFILT_WRITE, 0},
#ifdef EVFILT_EXCEPT /* macOS, OpenBSD */
        {PIER__PRIORITY, EVFILT_EXCEPT, NOTE_OOB},
#endif
    };
    struct poller *poller = poller_of(loop);
    uintptr_t packed = pier__key_pack(key);
    if (packed == PIER__NO_KEY) {
        return PIER_ENOMEM;
    }
    if ((interest & PIER__PRIORITY) && pier__sys_is_file(descriptor) > 0) {
        return PIER_EPERM; /* no filter for what files like /proc/mounts tell */
    }
    bool level = ((interest | old) & PIER__LEVEL) != 0;
    for (size_t i = 0; i < sizeof(filters) / sizeof(*filters); i++) {
        /* A poll for hang-up alone, or for writing, is told of the end of stream by the reading
         * filter: edge-triggered, since what there is to read doesn't interest it. */
        unsigned bits = filters[i].bit | (i == 0 ? PIER__LEVEL : 0);
        bool had = (old & bits) != 0, wants = (interest & bits) != 0;
        bool edge = !level || !(interest & filters[i].bit);
        /* A level registration is made again: the number may have been closed and reused meanwhile.
         */
        if (wants == had && !(wants && level)) {
            continue;
        }
        struct kevent change;
        unsigned flags = wants ? EV_ADD | EV_ENABLE | (edge ? (unsigned)EV_CLEAR : 0u) : EV_DELETE;
        EV_SET(&change, (uintptr_t)descriptor, (short)filters[i].filter, (unsigned short)flags,
               filters[i].note, 0, (void *)packed);
        int error = level || !wants ? change_now(loop, poller, &change)
                                    : change_later(loop, poller, &change);
        if (error < 0) {
            return error;
        }
    }
    return 0;
}

/* A registration that a wait tried to make was refused: its handle is to try again later, since no
 * event will tell it anything. */
static void refused(struct pier_loop *loop, uint64_t key)
{
    struct pier_handle *handle = pier__slot_handle(loop, key);
    if (handle != NULL) {
        pier__ready_note_interest(handle, 0);
        pier__loop_starve(loop, handle);
    }
}

/* What an event says, as pier's bits. */
static unsigned events_of(const struct pier_loop *loop, const struct kevent *event, uint64_t key)
{
    const struct pier_handle *handle = pier__slot_handle(loop, key);
    if (handle != NULL && handle->kind_ == PIER__KIND_FOREIGN) {
        /* pier_poll() tells hang-up from readable on every backend; kqueue's EV_EOF is either. */
        return pier__ready_ask(handle);
    }
    if (event->filter == EVFILT_WRITE) {
        return event->flags & EV_EOF ? PIER__WRITE | PIER__ERROR : PIER__WRITE;
    }
    /* End of stream comes with data still to be read (kqueue(2)), and may be all that a pipe's
     * writer is told (Go's netpoll_kqueue.go). */
    return event->flags & EV_EOF ? PIER__READ | PIER__PEER_ENDED | PIER__WRITE : PIER__READ;
}

static void wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct poller *poller = poller_of(loop);
    loop->counters.system_calls++;
    int count = pier__sys_kevent(poller->queue, poller->changes, poller->change_count,
                                 poller->events, poller->size, timeout_ns);
    if (PIER__LIKELY(count >= 0)) {
        poller->change_count = 0;
    }
    pier__loop_returned(loop);
    if (PIER__UNLIKELY(count < 0)) {
        loop->failure = pier__fail(count, "kevent: %s", pier_error_text(count));
        return;
    }
    pier__ready_of(loop)->taken = count;
    loop->counters.events += (uint64_t)count;
    for (int i = 0; i < count; i++) {
        const struct kevent *event = &poller->events[i];
        if (PIER__UNLIKELY((uintptr_t)event->udata == (uintptr_t)WAKE_UDATA)) {
            loop->counters.system_calls++;
            pier__sys_drain_pipe(poller->pipe[0]);
            continue;
        }
        uint64_t key = pier__key_unpack(loop, (uintptr_t)event->udata);
        if (PIER__UNLIKELY(event->flags & EV_ERROR)) {
            refused(loop, key);
            continue;
        }
        unsigned events = events_of(loop, event, key);
        if (events != 0) {
            pier__ready_event(loop, key, events);
        }
    }
}

static void wake(struct pier_loop *loop)
{
    pier__sys_signal_pipe(poller_of(loop)->pipe[1]);
}

static void flush_poller(struct pier_loop *loop)
{
    flush_changes(loop, poller_of(loop));
}

static pier_descriptor descriptor(struct pier_loop *loop)
{
    return poller_of(loop)->queue;
}

static int after_fork(struct pier_loop *loop)
{
    struct poller *poller = poller_of(loop);
    pier__sys_close(poller->pipe[0]);
    pier__sys_close(poller->pipe[1]);
    /* A kqueue isn't inherited: its number is free, or somebody else's by now (kqueue(2)). What
     * stands in for it on Linux sees to the same. */
    return open_descriptors(poller);
}

static const struct pier__poller kqueue_poller = {
    .close_removes = true,
    .open = open_poller,
    .close = close_poller,
    .mode = mode,
    .set = set,
    .wait = wait,
    .wake = wake,
    .flush = flush_poller,
    .descriptor = descriptor,
    .after_fork = after_fork,
};

PIER__READY_ENGINE(pier__kqueue_engine, kqueue);
