/* EVFILT_TIMER: units, one-shots, wall-clock times, counts, changes; none is early. */
#include "check.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int start(int queue, uintptr_t ident, int flags, unsigned int unit, int64_t time)
{
    return change(queue, ident, EVFILT_TIMER, EV_ADD | flags, unit, time, NULL);
}

/* Lets time pass without a look at any queue. */
static void pass(int ms)
{
    struct timespec time = {.tv_nsec = ms * 1000000L};

    nanosleep(&time, NULL);
}

static int64_t wall_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void oneshot_fires_once(void)
{
    int queue = new_queue();
    int64_t began = now_ms();
    struct kevent event;

    CHECK_EQ(start(queue, 7, EV_ONESHOT, 0, 30), 0);
    event = get_one(queue);
    CHECK(now_ms() - began >= 29);
    CHECK_EQ(event.ident, 7);
    CHECK_EQ(event.filter, EVFILT_TIMER);
    CHECK_EQ(event.flags, EV_ONESHOT | EV_CLEAR);
    CHECK_EQ(event.fflags, 0);
    CHECK_EQ(event.data, 1);
    CHECK_EQ(change(queue, 7, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), ENOENT);
    close(queue);
}

static void units(void)
{
    static const struct {
        unsigned int unit;
        int64_t time;
    } same[] = {{0, 20}, {NOTE_MSECONDS, 20}, {NOTE_USECONDS, 20000}, {NOTE_NSECONDS, 20000000}};
    int queue = new_queue();
    int64_t began;

    for (int i = 0; i < COUNT(same); i++) {
        began = now_ms();

        CHECK_EQ(start(queue, 1, EV_ONESHOT, same[i].unit, same[i].time), 0);
        get_one(queue);
        CHECK(now_ms() - began >= 19);
        CHECK(now_ms() - began < 10000);
    }
    began = now_ms();
    CHECK_EQ(start(queue, 1, EV_ONESHOT, NOTE_SECONDS, 1), 0);
    CHECK_EQ(get_one(queue).data, 1);
    CHECK(now_ms() - began >= 999);
    close(queue);
}

static void periods_are_counted(void)
{
    int queue = new_queue();
    int64_t began = now_ms(), seen = 0;

    CHECK_EQ(start(queue, 1, 0, NOTE_MSECONDS, 5), 0);
    pass(52);
    seen = get_one(queue).data;
    CHECK(seen >= 10);
    while (seen < 20) {
        struct kevent event = get_one(queue);

        CHECK_EQ(event.flags, EV_CLEAR);
        seen += event.data;
    }
    /* Neither early nor drifting: so many periods have passed. */
    CHECK(now_ms() - began >= seen * 5 - 1);
    CHECK(seen <= (now_ms() - began) / 5 + 1);
    close(queue);
}

static void wall_clock_times(void)
{
    int queue = new_queue();
    int64_t until = wall_us() + 30000;
    struct kevent event;

    CHECK_EQ(start(queue, 1, EV_ONESHOT, NOTE_ABSTIME | NOTE_USECONDS, until), 0);
    event = get_one(queue);
    CHECK(wall_us() >= until);
    CHECK_EQ(event.flags, EV_ONESHOT);
    CHECK_EQ(event.data, 1);
    /* In the past: at once. It fires once; without EV_ONESHOT it stays, and stays expired. */
    CHECK_EQ(start(queue, 2, 0, NOTE_ABSTIME | NOTE_SECONDS, 1000), 0);
    CHECK_EQ(get_one(queue).data, 1);
    CHECK_EQ(get_one(queue).data, 1);
    CHECK_EQ(start(queue, 3, EV_CLEAR, NOTE_ABSTIME | NOTE_SECONDS, 1000), 0);
    CHECK_EQ(change(queue, 2, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).ident, 3);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, 3, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), 0);
    close(queue);
}

static void starting_anew_forgets(void)
{
    int queue = new_queue();
    int64_t began;

    CHECK_EQ(start(queue, 1, EV_ONESHOT, 0, 1), 0);
    pass(5);
    CHECK(is_readable(queue));
    began = now_ms();
    CHECK_EQ(start(queue, 1, EV_ONESHOT, 0, 25), 0);
    CHECK_EQ(get_one(queue).data, 1);
    CHECK(now_ms() - began >= 24);
    CHECK(is_quiet(queue));
    /* From long to short. */
    CHECK_EQ(start(queue, 1, EV_ONESHOT, NOTE_SECONDS, 3600), 0);
    CHECK_EQ(start(queue, 1, EV_ONESHOT, NOTE_MSECONDS, 1), 0);
    CHECK_EQ(get_one(queue).data, 1);
    close(queue);
}

static void disabled_timers_run_on(void)
{
    int queue = new_queue();
    struct kevent event;

    CHECK_EQ(start(queue, 1, 0, NOTE_MSECONDS, 4), 0);
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_DISABLE, 0, 0, NULL), 0);
    pass(21);
    CHECK(!is_readable(queue));
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ENABLE, 0, 0, NULL), 0);
    event = get_one(queue);
    CHECK(event.data >= 5);
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ADD | EV_DISPATCH, NOTE_MSECONDS, 1, NULL), 0);
    get_one(queue);
    pass(3);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_ENABLE, 0, 0, NULL), 0);
    CHECK(get_one(queue).data >= 2);
    close(queue);
}

static void bad_times(void)
{
    int queue = new_queue();

    CHECK_EQ(start(queue, 1, 0, 0, -1), EINVAL);
    CHECK_EQ(start(queue, 1, 0, NOTE_SECONDS | NOTE_USECONDS, 1), EINVAL);
    CHECK_EQ(start(queue, 1, 0, 0x40, 1), EINVAL);
    CHECK_EQ(change(queue, 1, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), ENOENT);
    /* Longer than any clock: accepted, never over. */
    CHECK_EQ(start(queue, 1, 0, NOTE_SECONDS, INT64_MAX), 0);
    CHECK_EQ(start(queue, 2, EV_ONESHOT, NOTE_NSECONDS, INT64_MAX), 0);
    CHECK_EQ(start(queue, 3, 0, NOTE_ABSTIME | NOTE_SECONDS, INT64_MAX), 0);
    CHECK(is_quiet(queue));
    /* 0 is at once. */
    CHECK_EQ(start(queue, 4, EV_ONESHOT, NOTE_SECONDS, 0), 0);
    CHECK_EQ(get_one(queue).ident, 4);
    close(queue);
}

/* Many timers, in the order of their times, through few places, beside a reference. */
static void many_timers(void)
{
    enum { TIMERS = 2000, ROOM = 7 };
    int queue = new_queue(), left = TIMERS, descriptors;
    static int64_t due[TIMERS];
    static bool gone[TIMERS];
    int64_t began = now_ms();

    srand(42);
    CHECK_EQ(start(queue, 0, EV_ONESHOT, NOTE_MSECONDS, 1), 0);
    descriptors = count_descriptors();
    for (int i = 0; i < TIMERS; i++) {
        due[i] = rand() % 200;
        gone[i] = false;
        CHECK_EQ(start(queue, (uintptr_t)i, EV_ONESHOT, NOTE_MSECONDS, due[i]), 0);
    }
    CHECK_EQ(count_descriptors(), descriptors);
    for (int i = 0; i < TIMERS; i += 3) {
        CHECK_EQ(change(queue, (uintptr_t)i, EVFILT_TIMER, EV_DELETE, 0, 0, NULL), 0);
        gone[i] = true;
        left--;
    }
    while (left > 0) {
        struct kevent events[ROOM];
        int count = get(queue, events, ROOM, LONG_MS);

        if (!CHECK(count > 0))
            break;
        for (int i = 0; i < count; i++) {
            int ident = (int)events[i].ident;

            CHECK(!gone[ident]);
            CHECK(now_ms() - began >= due[ident] - 1);
            gone[ident] = true;
            left--;
        }
    }
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    close(queue);
}

static void timeouts_of_kevent(void)
{
    int queue = new_queue();
    struct kevent event;
    struct timespec bad = {.tv_nsec = 1000000000}, negative = {.tv_sec = -1}, short_time = {0};
    struct timespec endless = {.tv_sec = LONG_MAX, .tv_nsec = 999999999};
    int64_t began = now_ms();

    CHECK_EQ(kevent(queue, NULL, 0, &event, 1, &bad), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(kevent(queue, NULL, 0, &event, 1, &negative), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(kevent(queue, NULL, 0, NULL, 0, &negative), 0); /* not looked at */
    CHECK_EQ(kevent(queue, NULL, 0, NULL, 0, NULL), 0);      /* no wait either */
    CHECK_EQ(get(queue, &event, 1, 20), 0);
    CHECK(now_ms() - began >= 19);
    short_time.tv_nsec = 1; /* rounds up, never to "not at all" or "for ever" */
    CHECK_EQ(kevent(queue, NULL, 0, &event, 1, &short_time), 0);
    CHECK_EQ(start(queue, 1, EV_ONESHOT, 0, 5), 0);
    CHECK_EQ(kevent(queue, NULL, 0, &event, 1, &endless), 1);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(oneshot_fires_once),
        TEST(units),
        TEST(periods_are_counted),
        TEST(wall_clock_times),
        TEST(starting_anew_forgets),
        TEST(disabled_timers_run_on),
        TEST(bad_times),
        TEST(many_timers),
        TEST(timeouts_of_kevent),
    };

    return check_main(tests, COUNT(tests));
}
