/* epoll.c - the poller for Linux' epoll.
 *
 * Edge-triggered unless the loop's options say otherwise. Keys carry a generation, so that events
 * of closed descriptors that somebody else still holds open are told from those of their successors
 * (epoll(7), on duplicated descriptors). An eventfd wakes: edge-triggered, so it never needs to be
 * read. */

#include <sys/epoll.h>

#include "engine/ready/ready.h"
#include "sys/linux.h"

static_assert((int)EPOLLIN == PIER__READ && (int)EPOLLPRI == PIER__PRIORITY &&
                  (int)EPOLLOUT == PIER__WRITE && (int)EPOLLERR == PIER__ERROR &&
                  (int)EPOLLHUP == PIER__HANGUP && (int)EPOLLRDHUP == PIER__PEER_ENDED,
              "pier's bits are those of epoll");

#define WAKE_KEY UINT64_MAX

struct poller {
    pier_descriptor epoll;
    int size;
    bool level, one_shot;
    struct epoll_event events[];
};

static struct poller *poller_of(const struct pier_loop *loop)
{
    return pier__ready_of(loop)->poller_data;
}

static int probe(void)
{
    pier_descriptor epoll = pier__sys_epoll_create();
    if (epoll < 0) {
        return pier__fail(epoll == PIER_EMFILE ? PIER_EMFILE : PIER_ENOTSUP,
                          "epoll can't be used: epoll_create1: %s", pier_error_text(epoll));
    }
    struct epoll_event event;
    int error = pier__sys_epoll_wait(epoll, &event, 1, 0);
    pier__sys_close(epoll);
    pier_descriptor eventfd = pier__sys_eventfd();
    if (eventfd < 0) {
        return pier__fail(eventfd == PIER_EMFILE ? PIER_EMFILE : PIER_ENOTSUP,
                          "epoll can't be used: eventfd2: %s", pier_error_text(eventfd));
    }
    pier__sys_close(eventfd);
    return pier__poller_probed("epoll_wait", error,
                               PIER_CAN_BIND_LATE | PIER_CAN_UNIX | PIER_CAN_ABSTRACT |
                                   PIER_CAN_SHARE_PORT | PIER_CAN_EXCLUSIVE | PIER_CAN_POLL |
                                   PIER_CAN_EMBED | PIER_CAN_FORK);
}

static int open_descriptors(struct pier_loop *loop, struct poller *poller)
{
    poller->epoll = pier__sys_epoll_create();
    if (poller->epoll < 0) {
        return pier__fail((int)poller->epoll, "epoll_create1: %s", pier_error_text(poller->epoll));
    }
    pier_descriptor eventfd = pier__sys_eventfd();
    int error = eventfd < 0 ? (int)eventfd : 0;
    if (error == 0) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = WAKE_KEY};
        error = pier__sys_epoll_control(poller->epoll, PIER__EPOLL_ADD, eventfd, &event);
        if (error < 0) {
            pier__sys_close(eventfd);
        }
    }
    if (error < 0) {
        pier__sys_close(poller->epoll);
        return pier__fail(error, "the epoll backend's eventfd: %s", pier_error_text(error));
    }
    pier__loop_wake_by(loop, loop->engine->wake, eventfd);
    return 0;
}

static int open_poller(struct pier_loop *loop, const struct pier_loop_options *options)
{
    size_t bytes = sizeof(struct poller) + options->queue_size * sizeof(struct epoll_event);
    struct poller *poller = pier__allocate(loop, bytes);
    if (poller == NULL) {
        return pier__fail(PIER_ENOMEM, "no memory for the epoll backend (%lu bytes)",
                          (unsigned long)bytes);
    }
    poller->size = (int)options->queue_size;
    poller->level = options->trigger == PIER_LEVEL_TRIGGERED;
    poller->one_shot = options->trigger == PIER_ONE_SHOT;
    int error = open_descriptors(loop, poller);
    if (error < 0) {
        pier__free(loop, poller, bytes);
        return error;
    }
    pier__ready_of(loop)->poller_data = poller;
    return 0;
}

static void close_poller(struct pier_loop *loop)
{
    struct poller *poller = poller_of(loop);
    pier__sys_close(pier__loop_wake_descriptor(loop));
    pier__sys_close(poller->epoll);
    pier__free(loop, poller, sizeof(*poller) + (size_t)poller->size * sizeof(struct epoll_event));
}

static enum pier__poller_mode mode(enum pier_trigger trigger)
{
    return trigger == PIER_LEVEL_TRIGGERED ? PIER__POLLER_LEVEL
           : trigger == PIER_ONE_SHOT      ? PIER__POLLER_ONE_SHOT
                                           : PIER__POLLER_EDGE;
}

static uint32_t to_epoll(const struct poller *poller, unsigned interest)
{
    uint32_t events = interest & (PIER__READ | PIER__WRITE | PIER__PRIORITY);
    bool quiet = (interest & PIER__QUIET) != 0;
    bool level = (interest & PIER__LEVEL) || (poller->level && !quiet);
    if (interest & PIER__EXCLUSIVE) {
        /* With this nothing goes but reading, writing and edges (epoll_ctl(2)). Not one-shot
         * either: then it's an edge, which stays until its interest is taken back. */
        return events | EPOLLEXCLUSIVE | (level ? 0u : (uint32_t)EPOLLET);
    }
    if (events & EPOLLIN) {
        events |= EPOLLRDHUP;
    }
    if ((interest & PIER__ONCE) || (!level && !quiet && poller->one_shot)) {
        events |= EPOLLONESHOT;
    } else if (!level) {
        /* A read stops at urgent data, and no edge tells of what is behind it. */
        events |= EPOLLET | (events & EPOLLIN ? (uint32_t)EPOLLPRI : 0u);
    }
    return events;
}

static int set(struct pier_loop *loop, pier_descriptor descriptor, uint64_t key, unsigned old,
               unsigned interest)
{
    struct poller *poller = poller_of(loop);
    struct epoll_event event = {.events = to_epoll(poller, interest), .data.u64 = key};
    loop->counters.system_calls++;
    if (interest == 0 || (interest & PIER__EXCLUSIVE)) {
        /* Exclusive interest can't be modified, only made anew. */
        int error = old == 0 && interest != 0 && !poller->one_shot
                        ? 0
                        : pier__sys_epoll_control(poller->epoll, PIER__EPOLL_REMOVE, descriptor,
                                                  &event);
        if (interest == 0) {
            return error == PIER_ENOENT || error == PIER_EBADF || error == PIER_EPERM ? 0 : error;
        }
        return pier__sys_epoll_control(poller->epoll, PIER__EPOLL_ADD, descriptor, &event);
    }
    /* One-shot: interest that has fired is still a registration. Whichever way it is, the kernel
     * knows, also of a number that was closed and opened anew (libevent's epoll.c). */
    enum pier__epoll_change first = old == 0 && !poller->one_shot ? PIER__EPOLL_ADD
                                                                  : PIER__EPOLL_MODIFY;
    int error = pier__sys_epoll_control(poller->epoll, first, descriptor, &event);
    if (error == PIER_ENOENT) {
        error = pier__sys_epoll_control(poller->epoll, PIER__EPOLL_ADD, descriptor, &event);
    } else if (error == PIER_EEXIST) {
        error = pier__sys_epoll_control(poller->epoll, PIER__EPOLL_MODIFY, descriptor, &event);
    }
    return error;
}

static void wait(struct pier_loop *loop, uint64_t timeout_ns)
{
    struct poller *poller = poller_of(loop);
    loop->counters.system_calls++;
    int count = pier__sys_epoll_wait(poller->epoll, poller->events, poller->size, timeout_ns);
    pier__loop_returned(loop);
    if (PIER__UNLIKELY(count < 0)) {
        loop->failure = pier__fail(count, "epoll_wait: %s", pier_error_text(count));
        return;
    }
    pier__ready_of(loop)->taken = count;
    loop->counters.events += (uint64_t)count;
    for (int i = 0; i < count; i++) {
        if (PIER__LIKELY(poller->events[i].data.u64 != WAKE_KEY)) {
            pier__ready_event(loop, poller->events[i].data.u64, poller->events[i].events);
        }
    }
}

static void wake(struct pier_loop *loop)
{
    pier__sys_eventfd_signal(pier__loop_wake_descriptor(loop));
}

static pier_descriptor descriptor(struct pier_loop *loop)
{
    return poller_of(loop)->epoll;
}

static int after_fork(struct pier_loop *loop)
{
    struct poller *poller = poller_of(loop);
    pier__sys_close(pier__loop_wake_descriptor(loop));
    pier__sys_close(poller->epoll);
    return open_descriptors(loop, poller);
}

static const struct pier__poller epoll_poller = {
    .close_removes = true,
    .open = open_poller,
    .close = close_poller,
    .mode = mode,
    .set = set,
    .wait = wait,
    .wake = wake,
    .descriptor = descriptor,
    .after_fork = after_fork,
};

PIER__READY_ENGINE(pier__epoll_engine, epoll);
