/* EVFILT_USER, and the flags that are the same for all filters. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int trigger(int queue, uintptr_t ident, unsigned int fflags, int64_t data)
{
    return change(queue, ident, EVFILT_USER, 0, NOTE_TRIGGER | fflags, data, NULL);
}

static void triggered_event_comes(void)
{
    int queue = new_queue(), mark;
    struct kevent event;

    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, &mark), 0);
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_KEEPUDATA, NOTE_TRIGGER, 5, NULL), 0);
    CHECK(is_readable(queue));
    event = get_one(queue);
    CHECK_EQ(event.ident, 1);
    CHECK_EQ(event.flags, EV_CLEAR);
    CHECK_EQ(event.fflags, 0);
    CHECK_EQ(event.data, 5);
    CHECK(event.udata == &mark);
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    /* Triggers coalesce. */
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK(get_one(queue).udata == NULL);
    CHECK(is_quiet(queue));
    close(queue);
}

static void without_clear_it_stays(void)
{
    int queue = new_queue();

    CHECK_EQ(add(queue, 1, EVFILT_USER, 0), 0);
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    for (int i = 0; i < 3; i++) {
        CHECK(is_readable(queue));
        CHECK_EQ(get_one(queue).ident, 1);
    }
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_DELETE, 0, 0, NULL), 0);
    CHECK(is_quiet(queue));
    close(queue);
}

static void flag_operations(void)
{
    int queue = new_queue();

    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_FFCOPY | 0x0f, 0, NULL), 0);
    CHECK_EQ(trigger(queue, 1, NOTE_FFNOP | 0xff, 0), 0);
    CHECK_EQ(get_one(queue).fflags, 0x0f);
    CHECK_EQ(trigger(queue, 1, NOTE_FFOR | 0x30, 0), 0);
    CHECK_EQ(get_one(queue).fflags, 0x3f);
    CHECK_EQ(trigger(queue, 1, NOTE_FFAND | 0x33, 0), 0);
    CHECK_EQ(get_one(queue).fflags, 0x33);
    CHECK_EQ(trigger(queue, 1, NOTE_FFCOPY | 0xabcdef, 0), 0);
    CHECK_EQ(get_one(queue).fflags, 0xabcdef);
    /* Without a trigger the flags change, and nothing happens. */
    CHECK_EQ(change(queue, 1, EVFILT_USER, 0, NOTE_FFCOPY | 1, 0, NULL), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK_EQ(get_one(queue).fflags, 1);
    close(queue);
}

static void added_and_triggered_at_once(void)
{
    int queue = new_queue();

    CHECK_EQ(change(queue, 9, EVFILT_USER, EV_ADD | EV_ONESHOT, NOTE_TRIGGER | 3, 0, NULL), 0);
    CHECK_EQ(get_one(queue).fflags, 3);
    CHECK_EQ(trigger(queue, 9, 0, 0), ENOENT);
    close(queue);
}

static void disable_keeps_the_trigger(void)
{
    int queue = new_queue();

    CHECK_EQ(add(queue, 1, EVFILT_USER, EV_CLEAR | EV_DISABLE), 0);
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).ident, 1);
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_DISABLE, 0, 0, NULL), 0);
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    close(queue);
}

static void dispatch_disables(void)
{
    int queue = new_queue();

    CHECK_EQ(add(queue, 1, EVFILT_USER, EV_DISPATCH), 0);
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK_EQ(get_one(queue).flags, EV_DISPATCH);
    CHECK(is_quiet(queue));
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ENABLE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).ident, 1);
    close(queue);
}

static void receipts(void)
{
    int queue = new_queue();
    struct kevent changes[3], results[4];

    EV_SET(&changes[0], 1, EVFILT_USER, EV_ADD | EV_RECEIPT, NOTE_TRIGGER, 0, NULL);
    EV_SET(&changes[1], 2, EVFILT_USER, EV_DELETE, 0, 0, NULL);
    EV_SET(&changes[2], 3, EVFILT_USER, EV_ADD | EV_RECEIPT, 0, 0, &queue);
    CHECK_EQ(kevent(queue, changes, 3, results, 4, NULL), 3);
    CHECK_EQ(results[0].flags, EV_ERROR);
    CHECK_EQ(results[0].ident, 1);
    CHECK_EQ(results[0].data, 0);
    CHECK_EQ(results[1].flags, EV_ERROR);
    CHECK_EQ(results[1].ident, 2);
    CHECK_EQ(results[1].data, ENOENT);
    CHECK_EQ(results[2].data, 0);
    CHECK(results[2].udata == &queue);
    /* The events come with the next call. */
    CHECK_EQ(get_one(queue).ident, 1);
    close(queue);
}

/* Errors go where the change was, or before it, so that one array can be both. */
static void one_array_for_both(void)
{
    int queue = new_queue();
    struct kevent both[4];
    struct timespec now = {0};

    EV_SET(&both[0], 1, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL);
    EV_SET(&both[1], 77, EVFILT_USER, EV_DELETE, 0, 0, NULL);
    EV_SET(&both[2], 2, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL);
    EV_SET(&both[3], 3, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL);
    CHECK_EQ(kevent(queue, both, 4, both, 4, &now), 1);
    CHECK_EQ(both[0].ident, 77);
    CHECK_EQ(both[0].flags, EV_ERROR);
    CHECK_EQ(both[0].data, ENOENT);
    EV_SET(&both[0], 1, EVFILT_USER, EV_ENABLE, 0, 0, NULL);
    CHECK_EQ(kevent(queue, both, 1, both, 4, &now), 3);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(both[i].ident, i + 1);
    close(queue);
}

static void errors_without_room(void)
{
    int queue = new_queue();
    struct kevent changes[3];

    EV_SET(&changes[0], 1, EVFILT_USER, EV_ADD, 0, 0, NULL);
    EV_SET(&changes[1], 1, -99, EV_ADD, 0, 0, NULL);
    EV_SET(&changes[2], 2, EVFILT_USER, EV_ADD, 0, 0, NULL);
    CHECK_EQ(kevent(queue, changes, 3, NULL, 0, NULL), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(trigger(queue, 1, 0, 0), 0);      /* done before the error */
    CHECK_EQ(trigger(queue, 2, 0, 0), ENOENT); /* not done after it */
    close(queue);
}

static void arguments(void)
{
    int queue = new_queue();
    struct kevent event;
    struct timespec now = {0};

    memset(&event, 0, sizeof(event));
    CHECK_EQ(kevent(-1, NULL, 0, &event, 1, &now), -1);
    CHECK_EQ(errno, EBADF);
    CHECK_EQ(kevent(STDOUT_FILENO, NULL, 0, &event, 1, &now), -1);
    CHECK_EQ(errno, EBADF);
    CHECK_EQ(kevent(queue, NULL, 1, NULL, 0, &now), -1);
    CHECK_EQ(errno, EFAULT);
    CHECK_EQ(kevent(queue, NULL, 0, NULL, 1, &now), -1);
    CHECK_EQ(errno, EFAULT);
    CHECK_EQ(kevent(queue, &event, -1, NULL, 0, &now), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(kevent(queue, NULL, 0, &event, -1, &now), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(kevent(queue, &event, 1, &event, 1, &now), 0); /* filter 0 is skipped */
    CHECK_EQ(kqueue1(O_RDWR), -1);
    CHECK_EQ(errno, EINVAL);
    close(queue);
}

static void kqueue1_flags(void)
{
    int queue = kqueue1(O_CLOEXEC | O_NONBLOCK);

    REQUIRE(queue >= 0);
    CHECK(fcntl(queue, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(queue, F_GETFD) & FD_CLOEXEC);
    close(queue);
}

static void ext_and_udata_come_back(void)
{
    int queue = new_queue();
    struct kevent event;

    EV_SET(&event, 1, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, &queue);
    for (int i = 0; i < 4; i++)
        event.ext[i] = 1000U + (unsigned int)i;
    CHECK_EQ(kevent(queue, &event, 1, NULL, 0, NULL), 0);
    event = get_one(queue);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(event.ext[i], 1000 + i);
    CHECK(event.udata == &queue);
    close(queue);
}

/* EV_ADD again changes the event there is, mode included. */
static void adding_again_changes(void)
{
    int queue = new_queue(), mark;

    CHECK_EQ(add(queue, 1, EVFILT_USER, 0), 0);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, &mark), 0);
    CHECK(get_one(queue).udata == &mark);
    CHECK(is_quiet(queue));
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_DISABLE, 0, 0, NULL), 0);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL), 0); /* enables */
    CHECK_EQ(get_one(queue).ident, 1);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_DELETE, 0, 0, NULL), 0);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_DELETE, 0, 0, NULL), ENOENT);
    close(queue);
}

/* The same number means something else to each filter. */
static void filters_have_their_own_numbers(void)
{
    int queue = new_queue(), ends[2];
    struct kevent events[4];

    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(add(queue, (uintptr_t)ends[0], EVFILT_READ, 0), 0);
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_TIMER, EV_ADD, NOTE_SECONDS, 100, NULL), 0);
    CHECK_EQ(get(queue, events, 4, LONG_MS), 2);
    CHECK_EQ(change(queue, (uintptr_t)ends[0], EVFILT_USER, EV_DELETE, 0, 0, NULL), 0);
    CHECK_EQ(get_one(queue).filter, EVFILT_READ);
    close(ends[0]);
    close(ends[1]);
    close(queue);
}

/* More events than fit come with the next calls, each once. */
static void many_through_few_places(void)
{
    enum { EVENTS = 3000 };
    int queue = new_queue(), left = EVENTS;
    static bool seen[EVENTS];

    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < EVENTS; i++)
        CHECK_EQ(change(queue, (uintptr_t)i, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL),
                 0);
    while (left > 0) {
        struct kevent events[7];
        int count = get(queue, events, 1 + left % 7, LONG_MS);

        if (!CHECK(count > 0))
            break;
        for (int i = 0; i < count; i++) {
            CHECK(!seen[events[i].ident]);
            seen[events[i].ident] = true;
        }
        left -= count;
    }
    CHECK(is_quiet(queue));
    for (int i = 0; i < EVENTS; i++)
        CHECK_EQ(change(queue, (uintptr_t)i, EVFILT_USER, EV_DELETE, 0, 0, NULL), 0);
    close(queue);
}

/* Names that are there for porting only. */
static void what_cannot_be_had_is_refused(void)
{
    static const short filters[] = {
        EVFILT_AIO,   EVFILT_PROCDESC,        EVFILT_FS, EVFILT_LIO, EVFILT_SENDFILE,
        EVFILT_EMPTY, -(EVFILT_SYSCOUNT + 1), 1};
    int queue = new_queue();

    for (int i = 0; i < COUNT(filters); i++)
        CHECK_EQ(add(queue, 0, filters[i], 0), EINVAL);
    CHECK_EQ(add(queue, 1, EVFILT_USER, EV_FORCEONESHOT), EINVAL);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_DELETE, 0, 0, NULL), ENOENT);
    /* The system's own bits are masked out. */
    CHECK_EQ(add(queue, 1, EVFILT_USER, EV_SYSFLAGS | EV_DROP | EV_FLAG1 | EV_FLAG2), 0);
    CHECK_EQ(change(queue, 1, EVFILT_USER, EV_ENABLE | EV_SYSFLAGS, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(get_one(queue).flags, 0);
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(triggered_event_comes),
        TEST(without_clear_it_stays),
        TEST(flag_operations),
        TEST(added_and_triggered_at_once),
        TEST(disable_keeps_the_trigger),
        TEST(dispatch_disables),
        TEST(receipts),
        TEST(one_array_for_both),
        TEST(errors_without_room),
        TEST(arguments),
        TEST(kqueue1_flags),
        TEST(ext_and_udata_come_back),
        TEST(adding_again_changes),
        TEST(filters_have_their_own_numbers),
        TEST(many_through_few_places),
        TEST(what_cannot_be_had_is_refused),
    };

    return check_main(tests, COUNT(tests));
}
