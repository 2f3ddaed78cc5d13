/* poll.c - the poller for poll(2), for systems that have nothing better and for comparison.
 *
 * Level-triggered. Entries are a dense array; a table leads from a descriptor to its entry, the
 * loop's own table from a descriptor to its handle. The first entry is the pipe that wakes the
 * loop. Events are delivered while the array may change: a removed entry's place is taken by the
 * last, whose event, if it's passed over now, poll reports again next time.
 *
 * Nobody can wait for data and not for an error. So an entry with PIER__QUIET is left out of the
 * waits, by the complement of its descriptor, which is negative, and asked at a slow pace. */

#include <poll.h>

#include "engine/ready/ready.h"
#include "sys/posix.h"

static_assert(POLLIN == PIER__READ && POLLPRI == PIER__PRIORITY && POLLOUT == PIER__WRITE &&
                  POLLERR == PIER__ERROR && POLLHUP == PIER__HANGUP && POLLNVAL == PIER__INVALID,
              "pier's bits are those of poll");

#define SIZE_MIN 64

struct poller {
    struct pollfd *entries;
    uint32_t *places; /* by descriptor: entry + 1, 0 none */
    size_t count, size, places_size;
    size_t quiet; /* entries that are left out */
    pier_descriptor pipe[2];
};

static struct poller *poller_of(const struct pier_loop *loop)
{
    return pier__ready_of(loop)->poller_data;
}

static int descriptor_of(const struct pollfd *entry)
{
    return entry->fd < 0 ? ~entry->fd : entry->fd;
}

static int probe(void)
{
    return pier__poller_probed("poll", pier__sys_poll(NULL, 0, 0),
                               PIER_CAN_BIND_LATE | PIER_CAN_UNIX | PIER_CAN_POLL | PIER_CAN_FORK |
                                   pier__sys_socket_capabilities());
}

static int grow_entries(struct pier_loop *loop, struct poller *poller)
{
    size_t size = poller->size == 0 ? SIZE_MIN : poller->size * 2;
    struct pollfd *entries = pier__reallocate(
        loop, poller->entries, poller->size * sizeof(*entries), size * sizeof(*entries));
    if (entries == NULL) {
        return PIER_ENOMEM;
    }
    poller->entries = entries;
    poller->size = size;
    return 0;
}

static int grow_places(struct pier_loop *loop, struct poller *poller, size_t needed)
{
    size_t old_size = poller->places_size, size = old_size == 0 ? SIZE_MIN : old_size;
    while (size < needed) {
        size *= 2;
    }
    uint32_t *places = pier__reallocate(loop, poller->places, old_size * sizeof(*places),
                                        size * sizeof(*places));
    if (places == NULL) {
        return PIER_ENOMEM;
    }
    memset(places + old_size, 0, (size - old_size) * sizeof(*places));
    poller->places = places;
    poller->places_size = size;
    return 0;
}

static void free_arrays(struct pier_loop *loop, struct poller *poller)
{
    pier__free(loop, poller->entries, poller->size * sizeof(*poller->entries));
    pier__free(loop, poller->places, poller->places_size * sizeof(*poller->places));
}

static int add(struct pier_loop *loop, struct poller *poller, pier_descriptor descriptor,
               short events)
{
    int error = 0;
    if (poller->count == poller->size) {
        error = grow_entries(loop, poller);
    }
    if (error == 0 && (size_t)descriptor >= poller->places_size) {
        error = grow_places(loop, poller, (size_t)descriptor + 1);
    }
    if (error < 0) {
        return error;
    }
    poller->entries[poller->count] = (struct pollfd){.fd = (int)descriptor, .events = events};
    poller->places[descriptor] = (uint32_t)++poller->count;
    return 0;
}

static int open_pipe(struct poller *poller)
{
    int error = pier__sys_pipe(poller->pipe, true);
    if (error < 0) {
        return pier__fail(error, "the pipe that wakes the poll backend: %s",
                          pier_error_text(error));
    }
    poller->entries[0] = (struct pollfd){.fd = (int)poller->pipe[0], .events = POLLIN};
    return 0;
}

static int open_poller(struct pier_loop *loop, const struct pier_loop_options *options)
{
    (void)options;
    struct poller *poller = pier__allocate(loop, sizeof(*poller));
    if (poller == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the poll backend");
    }
    memset(poller, 0, sizeof(*poller));
    int error = grow_entries(loop, poller);
    if (error < 0) {
        pier__fail(error, "no memory for the poll backend");
    } else {
        poller->count = 1;
        error = open_pipe(poller);
    }
    if (error < 0) {
        free_arrays(loop, poller);
        pier__free(loop, poller, sizeof(*poller));
        return error;
    }
    pier__ready_of(loop)->poller_data = poller;
    return 0;
}

static void close_poller(struct pier_loop *loop)
{
    struct poller *poller = poller_of(loop);
    pier__sys_close(poller->pipe[0]);
    pier__sys_close(poller->pipe[1]);
    free_arrays(loop, poller);
    pier__free(loop, poller, sizeof(*poller));
}

static enum pier__poller_mode mode(enum pier_trigger trigger)
{
    (void)trigger;
    return PIER__POLLER_LEVEL;
}

static void remove_entry(struct poller *poller, pier_descriptor descriptor)
{
    size_t place = poller->places[descriptor] - 1;
    size_t last = --poller->count;
    poller->quiet -= poller->entries[place].fd < 0;
    poller->places[descriptor] = 0;
    if (place != last) {
        poller->entries[place] = poller->entries[last];
        poller->places[descriptor_of(&poller->entries[place])] = (uint32_t)place + 1;
    }
}

static int set(struct pier_loop *loop, pier_descriptor descriptor, uint64_t key, unsigned old,
               unsigned interest)
{
    struct poller *poller = poller_of(loop);
    short events = (short)(interest & (PIER__READ | PIER__PRIORITY | PIER__WRITE));
    size_t place = (size_t)descriptor < poller->places_size ? poller->places[descriptor] : 0;
    (void)key;
    (void)old;
    if (interest == 0) {
        if (place != 0) {
            remove_entry(poller, descriptor);
        }
        return 0;
    }
    if (place == 0) {
        int error = add(loop, poller, descriptor, events);
        if (error < 0) {
            return error;
        }
        place = poller->count;
    }
    struct pollfd *entry = &poller->entries[place - 1];
    bool quiet = (interest & PIER__QUIET) != 0;
    poller->quiet += quiet;
    poller->quiet -= entry->fd < 0;
    entry->fd = quiet ? ~(int)descriptor : (int)descriptor;
    entry->events = events;
    return 0;
}

/* Asks those that are left out. */
PIER__COLD static void ask_quiet(struct pier_loop *loop, struct poller *poller)
{
    for (size_t i = 1; i < poller->count; i++) {
        if (poller->entries[i].fd < 0) {
            int descriptor = descriptor_of(&poller->entries[i]);
            uint32_t slot = pier__descriptor_slot(loop, descriptor);
            loop->counters.system_calls++;
            unsigned events = pier__sys_poll_now(descriptor,
                                                 (unsigned short)poller->entries[i].events);
            if (slot != 0) {
                pier__ready_asked(loop, pier__slot_at(loop, slot - 1), events);
            }
        }
    }
}

static void wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct poller *poller = poller_of(loop);
    if (PIER__UNLIKELY(poller->quiet != 0)) {
        timeout_ns = timeout_ns < PIER__PACE ? timeout_ns : PIER__PACE;
    }
    loop->counters.system_calls++;
    int left = pier__sys_poll(poller->entries, poller->count, timeout_ns);
    pier__loop_returned(loop);
    if (PIER__UNLIKELY(left < 0)) {
        loop->failure = pier__fail(left, "poll: %s", pier_error_text(left));
        return;
    }
    loop->counters.events += (uint64_t)left;
    if (PIER__UNLIKELY(poller->entries[0].revents != 0)) {
        left--;
        loop->counters.system_calls++;
        pier__sys_drain_pipe(poller->pipe[0]);
    }
    for (size_t i = 1; left > 0 && i < poller->count; i++) {
        unsigned events = (unsigned short)poller->entries[i].revents;
        if (events == 0) {
            continue;
        }
        left--;
        /* Keys aren't kept: an entry is taken out before its descriptor is closed, and a number
         * that was closed by others and reused is its new handle's. */
        uint32_t slot = pier__descriptor_slot(loop, poller->entries[i].fd);
        if (PIER__UNLIKELY(slot == 0)) {
            loop->counters.stale_events++;
            remove_entry(poller, poller->entries[i--].fd);
            continue;
        }
        pier__ready_handle_event(loop, pier__slot_at(loop, slot - 1), events);
    }
    if (PIER__UNLIKELY(poller->quiet != 0)) {
        ask_quiet(loop, poller);
    }
}

static void wake(struct pier_loop *loop)
{
    pier__sys_signal_pipe(poller_of(loop)->pipe[1]);
}

static pier_descriptor descriptor(struct pier_loop *loop)
{
    (void)loop;
    return PIER_ENOTSUP;
}

static int after_fork(struct pier_loop *loop)
{
    struct poller *poller = poller_of(loop);
    pier__sys_close(poller->pipe[0]);
    pier__sys_close(poller->pipe[1]);
    return open_pipe(poller);
}

static const struct pier__poller poll_poller = {
    .close_removes = false,
    .open = open_poller,
    .close = close_poller,
    .mode = mode,
    .set = set,
    .wait = wait,
    .wake = wake,
    .descriptor = descriptor,
    .after_fork = after_fork,
};

PIER__READY_ENGINE(pier__poll_engine, poll);
