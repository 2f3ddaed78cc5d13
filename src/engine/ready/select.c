/* select.c - the poller for select(2), the oldest interface there is.
 *
 * Level-triggered. The bit sets are pier's own and as wide as the highest descriptor needs: a
 * struct fd_set has room for FD_SETSIZE (1024) and a set bit beyond it is written past its end.
 * Kernels take any width. select can't tell hang-up from readability; for pier_poll(), which
 * reports it, the descriptor is asked again with poll(). What isn't watched for reading is asked
 * for hang-ups at a slow pace, since no other set shows them; what has PIER__QUIET in it stays
 * out of the sets, which would tell too often, and is asked for all at that pace. */

#include <poll.h>

#include "engine/ready/ready.h"
#include "sys/posix.h"

#define WORD_BITS (8 * sizeof(unsigned long))
#define SIZE_MIN 1024

enum { SET_READ, SET_WRITE, SET_PRIORITY, SETS };

struct poller {
    unsigned long *wanted[SETS], *seen[SETS]; /* one allocation, at wanted[0] */
    unsigned char *interests;                 /* by descriptor; in that allocation, too */
    uint64_t *keys;                           /* by descriptor */
    size_t size;                              /* descriptors that fit */
    int highest;                              /* watched descriptor, or more */
    unsigned asked;                           /* descriptors outside of the sets */
    pier_descriptor pipe[2];
};

static const unsigned set_bits[SETS] = {PIER__READ, PIER__WRITE, PIER__PRIORITY};

static struct poller *poller_of(const struct pier_loop *loop)
{
    return pier__ready_of(loop)->poller_data;
}

static int probe(void)
{
    return pier__poller_probed("select", pier__sys_select(0, NULL, NULL, NULL, 0),
                               PIER_CAN_BIND_LATE | PIER_CAN_UNIX | PIER_CAN_POLL | PIER_CAN_FORK |
                                   pier__sys_socket_capabilities());
}

static size_t sets_bytes(size_t size)
{
    return 2 * SETS * (size / 8) + size;
}

static int grow(struct pier_loop *loop, struct poller *poller, size_t needed)
{
    size_t old_size = poller->size, size = old_size == 0 ? SIZE_MIN : old_size;
    while (size < needed) {
        size *= 2;
    }
    unsigned long *words = pier__allocate(loop, sets_bytes(size));
    if (words == NULL) {
        return PIER_ENOMEM;
    }
    uint64_t *keys = pier__reallocate(loop, poller->keys, old_size * sizeof(*keys),
                                      size * sizeof(*keys));
    if (keys == NULL) {
        pier__free(loop, words, sets_bytes(size));
        return PIER_ENOMEM;
    }
    memset(words, 0, sets_bytes(size));
    unsigned long *old_words = poller->wanted[0];
    for (size_t i = 0; i < SETS; i++) {
        unsigned long *wanted = words + i * (size / WORD_BITS);
        if (old_size != 0) {
            memcpy(wanted, poller->wanted[i], old_size / 8);
        }
        poller->wanted[i] = wanted;
        poller->seen[i] = words + (SETS + i) * (size / WORD_BITS);
    }
    unsigned char *interests = (unsigned char *)(words + 2 * SETS * (size / WORD_BITS));
    if (old_size != 0) {
        memcpy(interests, poller->interests, old_size);
    }
    pier__free(loop, old_words, sets_bytes(old_size));
    poller->interests = interests;
    poller->keys = keys;
    poller->size = size;
    return 0;
}

static bool is_asked(unsigned interest)
{
    return (interest & PIER__QUIET) || ((interest & PIER__LEVEL) && !(interest & PIER__READ));
}

static void set_entry(struct poller *poller, pier_descriptor descriptor, uint64_t key,
                      unsigned interest)
{
    size_t word = (size_t)descriptor / WORD_BITS;
    unsigned long bit = 1UL << ((size_t)descriptor % WORD_BITS);
    poller->asked += is_asked(interest);
    poller->asked -= is_asked(poller->interests[descriptor]);
    poller->keys[descriptor] = key;
    poller->interests[descriptor] = (unsigned char)interest;
    for (size_t i = 0; i < SETS; i++) {
        if ((interest & set_bits[i]) && !(interest & PIER__QUIET)) {
            poller->wanted[i][word] |= bit;
        } else {
            poller->wanted[i][word] &= ~bit;
        }
        poller->seen[i][word] &= ~bit; /* what the last wait saw under this number is old news */
    }
    if (interest != 0 && descriptor > poller->highest) {
        poller->highest = (int)descriptor;
    }
    while (poller->highest >= 0 && poller->interests[poller->highest] == 0) {
        poller->highest--;
    }
}

static int open_pipe(struct pier_loop *loop, struct poller *poller)
{
    int error = pier__sys_pipe(poller->pipe, true);
    if (error < 0) {
        return pier__fail(error, "the pipe that wakes the select backend: %s",
                          pier_error_text(error));
    }
    if ((size_t)poller->pipe[0] >= poller->size &&
        (error = grow(loop, poller, (size_t)poller->pipe[0] + 1)) < 0) {
        pier__sys_close(poller->pipe[0]);
        pier__sys_close(poller->pipe[1]);
        return pier__fail(error, "no memory for the select backend");
    }
    set_entry(poller, poller->pipe[0], UINT64_MAX, PIER__READ);
    return 0;
}

static int open_poller(struct pier_loop *loop, const struct pier_loop_options *options)
{
    (void)options;
    struct poller *poller = pier__allocate(loop, sizeof(*poller));
    if (poller == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the select backend");
    }
    memset(poller, 0, sizeof(*poller));
    poller->highest = -1;
    int error = open_pipe(loop, poller);
    if (error < 0) {
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
    pier__free(loop, poller->wanted[0], sets_bytes(poller->size));
    pier__free(loop, poller->keys, poller->size * sizeof(*poller->keys));
    pier__free(loop, poller, sizeof(*poller));
}

static enum pier__poller_mode mode(enum pier_trigger trigger)
{
    (void)trigger;
    return PIER__POLLER_LEVEL;
}

static int set(struct pier_loop *loop, pier_descriptor descriptor, uint64_t key, unsigned old,
               unsigned interest)
{
    struct poller *poller = poller_of(loop);
    (void)old;
    if ((size_t)descriptor >= poller->size) {
        int error = interest == 0 ? 0 : grow(loop, poller, (size_t)descriptor + 1);
        if (error < 0 || interest == 0) {
            return error;
        }
    }
    set_entry(poller, descriptor, key, interest);
    return 0;
}

/* What select saw of one descriptor, as pier's bits. */
static unsigned events_of(const struct poller *poller, pier_descriptor descriptor)
{
    size_t word = (size_t)descriptor / WORD_BITS;
    unsigned long bit = 1UL << ((size_t)descriptor % WORD_BITS);
    unsigned events = 0;
    for (size_t i = 0; i < SETS; i++) {
        events |= poller->seen[i][word] & bit ? set_bits[i] : 0;
    }
    if (events != 0 && (poller->interests[descriptor] & PIER__LEVEL)) {
        struct pollfd entry = {.fd = (int)descriptor,
                               .events = (short)(poller->interests[descriptor] &
                                                 (PIER__READ | PIER__PRIORITY | PIER__WRITE))};
        if (pier__sys_poll(&entry, 1, 0) > 0) {
            events = (unsigned short)entry.revents &
                     (PIER__READ | PIER__PRIORITY | PIER__WRITE | PIER__ERROR | PIER__HANGUP);
        }
    }
    return events;
}

static void deliver(struct pier_loop *loop, struct poller *poller, pier_descriptor descriptor)
{
    uint64_t key = poller->keys[descriptor];
    if (descriptor == poller->pipe[0]) {
        loop->counters.system_calls++;
        pier__sys_drain_pipe(descriptor);
        return;
    }
    unsigned events = events_of(poller, descriptor);
    if (events != 0) {
        pier__ready_event(loop, key, events);
    }
}

/* A descriptor closed behind pier's back makes the whole select fail: finds which, and lets its ops
 * find out. */
PIER__COLD static void find_closed(struct pier_loop *loop, struct poller *poller)
{
    for (pier_descriptor descriptor = 0; descriptor <= poller->highest; descriptor++) {
        if (poller->interests[descriptor] != 0 && pier__sys_is_file(descriptor) < 0) {
            uint64_t key = poller->keys[descriptor];
            set_entry(poller, descriptor, key, 0);
            pier__ready_event(loop, key, PIER__ERROR | PIER__HANGUP | PIER__READ | PIER__WRITE);
        }
    }
}

/* Asks the descriptors outside of the sets. */
PIER__COLD static void ask_others(struct pier_loop *loop, struct poller *poller)
{
    for (pier_descriptor descriptor = 0; descriptor <= poller->highest; descriptor++) {
        unsigned interest = poller->interests[descriptor];
        if (is_asked(interest)) {
            struct pier_handle *handle = pier__slot_handle(loop, poller->keys[descriptor]);
            loop->counters.system_calls++;
            interest &= interest & PIER__QUIET ? PIER__READ | PIER__WRITE | PIER__PRIORITY : 0u;
            if (handle != NULL) {
                pier__ready_asked(loop, handle, pier__sys_poll_now(descriptor, interest));
            }
        }
    }
}

static void wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct poller *poller = poller_of(loop);
    if (PIER__UNLIKELY(poller->asked != 0)) {
        timeout_ns = timeout_ns < PIER__PACE ? timeout_ns : PIER__PACE;
    }
    size_t words = (size_t)poller->highest / WORD_BITS + 1;
    for (size_t i = 0; i < SETS; i++) {
        memcpy(poller->seen[i], poller->wanted[i], words * sizeof(unsigned long));
    }
    loop->counters.system_calls++;
    int left = pier__sys_select(poller->highest + 1, poller->seen[SET_READ],
                                poller->seen[SET_WRITE], poller->seen[SET_PRIORITY], timeout_ns);
    pier__loop_returned(loop);
    if (PIER__UNLIKELY(left == PIER_EBADF)) {
        find_closed(loop, poller);
        return;
    }
    if (PIER__UNLIKELY(left < 0)) {
        loop->failure = pier__fail(left, "select: %s", pier_error_text(left));
        return;
    }
    if (PIER__UNLIKELY(poller->asked != 0)) {
        ask_others(loop, poller);
    }
    loop->counters.events += (uint64_t)left;
    for (size_t word = 0; left > 0 && word < words; word++) {
        unsigned long bits;
        /* Read again after each event, since its callbacks may have changed the sets, or moved them
         * (then the rest of this round is reported again). */
        unsigned long done = 0;
        while ((bits = (poller->seen[SET_READ][word] | poller->seen[SET_WRITE][word] |
                        poller->seen[SET_PRIORITY][word]) &
                       ~done) != 0) {
            unsigned index = (unsigned)__builtin_ctzl(bits);
            done |= 1UL << index;
            deliver(loop, poller, (pier_descriptor)(word * WORD_BITS + index));
        }
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
    set_entry(poller, poller->pipe[0], 0, 0);
    pier__sys_close(poller->pipe[0]);
    pier__sys_close(poller->pipe[1]);
    return open_pipe(loop, poller);
}

static const struct pier__poller select_poller = {
    .close_removes = false,
    .hides_errors = true,
    .open = open_poller,
    .close = close_poller,
    .mode = mode,
    .set = set,
    .wait = wait,
    .wake = wake,
    .descriptor = descriptor,
    .after_fork = after_fork,
};

PIER__READY_ENGINE(pier__select_engine, select);
