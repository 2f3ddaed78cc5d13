/* Many threads on one queue: waking, who gets an event, and a storm of changes. */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STOP 999999 /* ident of the event that ends the waiting threads */

static int shared_queue;

static void start_threads(pthread_t *threads, int count, void *(*run)(void *))
{
    for (int i = 0; i < count; i++)
        REQUIRE(pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)i) == 0);
}

static void join_threads(const pthread_t *threads, int count)
{
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

/* Level-triggered, so that each thread sees it. */
static void stop_threads(void)
{
    CHECK_EQ(change(shared_queue, STOP, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL), 0);
}

/* A thread that waits is woken by what another one adds. */
static struct kevent waited;

static void *wait_once(void *argument)
{
    (void)argument;
    memset(&waited, 0, sizeof(waited));
    if (kevent(shared_queue, NULL, 0, &waited, 1, NULL) != 1)
        waited.ident = 0;
    return NULL;
}

static void adding_wakes_a_waiting_thread(void)
{
    int ends[2], pair[2];

    shared_queue = new_queue();
    REQUIRE(pipe(ends) == 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    for (int i = 0; i < 100; i++) {
        pthread_t thread;

        start_threads(&thread, 1, wait_once);
        switch (i % 4) {
        case 0: CHECK_EQ(add(shared_queue, (uintptr_t)ends[0], EVFILT_READ, EV_ONESHOT), 0); break;
        case 1: CHECK_EQ(add(shared_queue, (uintptr_t)pair[0], EVFILT_WRITE, EV_ONESHOT), 0); break;
        case 2:
            CHECK_EQ(
                change(shared_queue, 5, EVFILT_TIMER, EV_ADD | EV_ONESHOT, NOTE_USECONDS, 50, NULL),
                0);
            break;
        default:
            CHECK_EQ(
                change(shared_queue, 5, EVFILT_USER, EV_ADD | EV_ONESHOT, NOTE_TRIGGER, 0, NULL),
                0);
        }
        join_threads(&thread, 1);
        CHECK(waited.flags & EV_ONESHOT);
    }
    close(ends[0]);
    close(ends[1]);
    close(pair[0]);
    close(pair[1]);
    close(shared_queue);
}

/* Each trigger of an EV_CLEAR event is got by exactly one thread. */
static atomic_int got_count;

static void *count_until_stopped(void *argument)
{
    (void)argument;
    for (;;) {
        struct kevent event;

        if (kevent(shared_queue, NULL, 0, &event, 1, NULL) != 1 || event.ident == STOP)
            return NULL;
        if (event.filter == EVFILT_TIMER)
            atomic_fetch_add(&got_count, (int)event.data);
        else
            atomic_fetch_add(&got_count, 1);
    }
}

static void one_thread_gets_a_clear_event(void)
{
    enum { THREADS = 4, TRIGGERS = 2000 };
    pthread_t threads[THREADS];

    shared_queue = new_queue();
    atomic_store(&got_count, 0);
    CHECK_EQ(add(shared_queue, 1, EVFILT_USER, EV_CLEAR), 0);
    start_threads(threads, THREADS, count_until_stopped);
    for (int i = 0; i < TRIGGERS; i++) {
        CHECK_EQ(change(shared_queue, 1, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL), 0);
        while (atomic_load(&got_count) < i + 1)
            sched_yield();
    }
    stop_threads();
    join_threads(threads, THREADS);
    CHECK_EQ(atomic_load(&got_count), TRIGGERS);
    close(shared_queue);
}

/* With EV_DISPATCH a connection belongs to one thread until it is enabled again. */
enum { PAIRS = 16, BYTES = 400 };
static int pairs[PAIRS][2];
static atomic_int owner[PAIRS];
static atomic_int bytes_read, clashes;

static void *serve(void *argument)
{
    (void)argument;
    for (;;) {
        struct kevent events[4];
        int count = kevent(shared_queue, NULL, 0, events, 4, NULL);

        for (int i = 0; i < count; i++) {
            int which = (int)(uintptr_t)events[i].udata;
            char bytes[3];
            ssize_t size;

            if (events[i].ident == STOP)
                return NULL;
            if (atomic_exchange(&owner[which], 1) != 0)
                atomic_fetch_add(&clashes, 1);
            size = read(pairs[which][0], bytes, sizeof(bytes));
            if (size > 0)
                atomic_fetch_add(&bytes_read, (int)size);
            atomic_store(&owner[which], 0);
            change(shared_queue, (uintptr_t)pairs[which][0], EVFILT_READ, EV_ENABLE, 0, 0,
                   events[i].udata);
        }
        if (count == -1)
            return NULL;
    }
}

static void dispatch_gives_to_one_thread(void)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];

    shared_queue = new_queue();
    atomic_store(&bytes_read, 0);
    atomic_store(&clashes, 0);
    for (int i = 0; i < PAIRS; i++) {
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pairs[i]) == 0);
        CHECK_EQ(change(shared_queue, (uintptr_t)pairs[i][0], EVFILT_READ, EV_ADD | EV_DISPATCH, 0,
                        0, (void *)(uintptr_t)i),
                 0);
    }
    start_threads(threads, THREADS, serve);
    for (int n = 0; n < BYTES; n++) {
        for (int i = 0; i < PAIRS; i++) {
            while (write(pairs[i][1], "x", 1) == -1) /* full: the readers are slow */
                sched_yield();
        }
    }
    while (atomic_load(&bytes_read) < PAIRS * BYTES)
        sched_yield();
    stop_threads();
    join_threads(threads, THREADS);
    CHECK_EQ(atomic_load(&bytes_read), PAIRS * BYTES);
    CHECK_EQ(atomic_load(&clashes), 0);
    for (int i = 0; i < PAIRS; i++) {
        close(pairs[i][0]);
        close(pairs[i][1]);
    }
    close(shared_queue);
}

/* A one-shot goes to one thread, even if all wait for it. */
static void oneshot_goes_to_one_thread(void)
{
    enum { THREADS = 3, ROUNDS = 500 };
    pthread_t threads[THREADS];
    int ends[2];

    shared_queue = new_queue();
    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    atomic_store(&got_count, 0);
    start_threads(threads, THREADS, count_until_stopped);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(add(shared_queue, (uintptr_t)ends[0], EVFILT_READ, EV_ONESHOT), 0);
        while (atomic_load(&got_count) < i + 1)
            sched_yield();
    }
    stop_threads();
    join_threads(threads, THREADS);
    CHECK_EQ(atomic_load(&got_count), ROUNDS);
    close(ends[0]);
    close(ends[1]);
    close(shared_queue);
}

/* Everything at once, with descriptors closed and reused under the queue. */
enum { STORM_ROUNDS = 3000 };

static void stir(unsigned int *seed, int fd)
{
    static const short filters[] = {EVFILT_READ, EVFILT_WRITE, EVFILT_USER, EVFILT_TIMER};
    static const int modes[] = {0, EV_CLEAR, EV_ONESHOT, EV_DISPATCH, EV_DISABLE};
    short filter = filters[rand_r(seed) % COUNT(filters)];
    int mode = modes[rand_r(seed) % COUNT(modes)];
    bool is_number = filter == EVFILT_USER || filter == EVFILT_TIMER;
    uintptr_t ident = is_number ? (uintptr_t)(rand_r(seed) % 8) : (uintptr_t)fd;

    switch (rand_r(seed) % 4) {
    case 0: change(shared_queue, ident, filter, EV_DELETE, 0, 0, NULL); break;
    case 1: change(shared_queue, ident, filter, EV_ENABLE, NOTE_TRIGGER, 1, NULL); break;
    default:
        change(shared_queue, ident, filter, EV_ADD | mode,
               filter == EVFILT_TIMER ? NOTE_USECONDS : 0, 100, NULL);
    }
}

static void *storm(void *argument)
{
    unsigned int seed = (unsigned int)(uintptr_t)argument + 1;
    int pair[2] = {-1, -1};

    for (int i = 0; i < STORM_ROUNDS; i++) {
        if (i % 16 == 0) {
            if (pair[0] != -1) {
                close(pair[0]);
                close(pair[1]);
            }
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == -1)
                return NULL;
        }
        stir(&seed, pair[0]);
        if (write(pair[1], "x", 1) == -1 && errno != EAGAIN)
            return NULL;
    }
    close(pair[0]);
    close(pair[1]);
    return NULL;
}

static atomic_int bad_results;

static void *weather(void *argument)
{
    (void)argument;
    for (;;) {
        struct kevent events[8];
        struct timespec time = {.tv_nsec = 2000000};
        int count = kevent(shared_queue, NULL, 0, events, 8, &time);

        if (count == -1)
            atomic_fetch_add(&bad_results, 1);
        for (int i = 0; i < count; i++) {
            if (events[i].ident == STOP)
                return NULL;
            if (events[i].flags & EV_ERROR)
                atomic_fetch_add(&bad_results, 1);
        }
    }
}

static void storm_of_changes(void)
{
    enum { STIRRERS = 3, WAITERS = 3 };
    pthread_t stirrers[STIRRERS], waiters[WAITERS];

    shared_queue = new_queue();
    atomic_store(&bad_results, 0);
    start_threads(waiters, WAITERS, weather);
    start_threads(stirrers, STIRRERS, storm);
    join_threads(stirrers, STIRRERS);
    stop_threads();
    join_threads(waiters, WAITERS);
    CHECK_EQ(atomic_load(&bad_results), 0);
    change(shared_queue, STOP, EVFILT_USER, EV_DELETE, 0, 0, NULL);
    for (uintptr_t ident = 0; ident < 8; ident++) {
        change(shared_queue, ident, EVFILT_USER, EV_DELETE, 0, 0, NULL);
        change(shared_queue, ident, EVFILT_TIMER, EV_DELETE, 0, 0, NULL);
    }
    CHECK(is_quiet(shared_queue));
    close(shared_queue);
}

/* Queues that come and go in several threads at once. */
static void *make_and_close(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        int queue = kqueue();
        struct kevent event;
        struct timespec now = {0};

        EV_SET(&event, 1, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL);
        if (queue == -1 || kevent(queue, &event, 1, &event, 1, &now) != 1)
            atomic_fetch_add(&bad_results, 1);
        close(queue);
    }
    return NULL;
}

static void queues_come_and_go(void)
{
    pthread_t threads[3];

    atomic_store(&bad_results, 0);
    start_threads(threads, COUNT(threads), make_and_close);
    join_threads(threads, COUNT(threads));
    CHECK_EQ(atomic_load(&bad_results), 0);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(adding_wakes_a_waiting_thread),
        TEST(one_thread_gets_a_clear_event),
        TEST(dispatch_gives_to_one_thread),
        TEST(oneshot_goes_to_one_thread),
        TEST(storm_of_changes),
        TEST(queues_come_and_go),
    };

    return check_main(tests, COUNT(tests));
}
