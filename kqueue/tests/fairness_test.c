/*
 * Many ready events and a short list: whatever their filters are, each gets its turn. A BSD keeps
 * one list of all; here they come from several places of the kernel and of the library.
 */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EACH_MAX 40
#define TIMES_MAX 12

/* What is ready all the time, in as many pieces as wanted. */
struct crowd {
    const char *name;
    short filter;
    unsigned int fflags;
    int (*open)(int queue, int number, uintptr_t *ident);
    void (*close)(uintptr_t ident);
};

static int ends[EACH_MAX][2];

static int open_reading(int queue, int number, uintptr_t *ident)
{
    REQUIRE(pipe(ends[number]) == 0);
    *ident = (uintptr_t)ends[number][0];
    CHECK_EQ(write(ends[number][1], "x", 1), 1);
    return add(queue, *ident, EVFILT_READ, 0);
}

static void close_reading(uintptr_t ident)
{
    for (int i = 0; i < EACH_MAX; i++) {
        if (ends[i][0] == (int)ident)
            close(ends[i][1]);
    }
    close((int)ident);
}

static int writing_ends[EACH_MAX][2];

static int open_writing(int queue, int number, uintptr_t *ident)
{
    REQUIRE(pipe(writing_ends[number]) == 0);
    *ident = (uintptr_t)writing_ends[number][1];
    return add(queue, *ident, EVFILT_WRITE, 0);
}

static void close_writing(uintptr_t ident)
{
    for (int i = 0; i < EACH_MAX; i++) {
        if (writing_ends[i][1] == (int)ident)
            close(writing_ends[i][0]);
    }
    close((int)ident);
}

static int open_user(int queue, int number, uintptr_t *ident)
{
    *ident = (uintptr_t)number;
    return change(queue, *ident, EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL);
}

/* A time of day that is over stays so. */
static int open_wall_timer(int queue, int number, uintptr_t *ident)
{
    *ident = (uintptr_t)number;
    return change(queue, *ident, EVFILT_TIMER, EV_ADD, NOTE_ABSTIME | NOTE_SECONDS, 1 + number % 7,
                  NULL);
}

/* It has expired again whenever one looks. */
static int open_timer(int queue, int number, uintptr_t *ident)
{
    *ident = (uintptr_t)number;
    return change(queue, *ident, EVFILT_TIMER, EV_ADD, NOTE_NSECONDS, 1, NULL);
}

static int open_file(int queue, int number, uintptr_t *ident)
{
    char name[16];
    int fd;

    snprintf(name, sizeof(name), "file%d", number);
    fd = open(scratch_file(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    *ident = (uintptr_t)fd;
    return add(queue, *ident, EVFILT_READ, 0);
}

static int open_vnode(int queue, int number, uintptr_t *ident)
{
    char name[16];
    int fd, error;

    snprintf(name, sizeof(name), "vnode%d", number);
    fd = open(scratch_file(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    *ident = (uintptr_t)fd;
    error = change(queue, *ident, EVFILT_VNODE, EV_ADD, NOTE_WRITE, 0, NULL);
    CHECK_EQ(write(fd, "x", 1), 1);
    return error;
}

static void close_number(uintptr_t ident)
{
    close((int)ident);
}

static void close_nothing(uintptr_t ident)
{
    (void)ident;
}

static const struct crowd crowds[] = {
    {"reading", EVFILT_READ, 0, open_reading, close_reading},
    {"writing", EVFILT_WRITE, 0, open_writing, close_writing},
    {"user", EVFILT_USER, 0, open_user, close_nothing},
    {"wall timer", EVFILT_TIMER, NOTE_ABSTIME, open_wall_timer, close_nothing},
    {"timer", EVFILT_TIMER, 0, open_timer, close_nothing},
    {"file", EVFILT_READ, 0, open_file, close_number},
    {"vnode", EVFILT_VNODE, 0, open_vnode, close_number},
};

/* Each is returned about as often as each other when `room` events are taken at a time. */
static void share(const struct crowd *first, int first_count, const struct crowd *second,
                  int second_count, int room)
{
    const struct crowd *both[2] = {first, second};
    int counts[2] = {first_count, second_count}, total = first_count + second_count;
    uintptr_t idents[2][EACH_MAX];
    int seen[2][EACH_MAX], least = INT32_MAX, most = 0, queue = new_queue();

    memset(seen, 0, sizeof(seen));
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < counts[c]; i++)
            CHECK_EQ(both[c]->open(queue, i, &idents[c][i]), 0);
    }
    for (int left = total * TIMES_MAX; left > 0;) {
        struct kevent events[EACH_MAX];
        int count = get(queue, events, room, LONG_MS);

        REQUIRE(count > 0);
        left -= count;
        for (int n = 0; n < count; n++) {
            for (int c = 0; c < 2; c++) {
                for (int i = 0; i < counts[c]; i++)
                    seen[c][i] += events[n].filter == both[c]->filter &&
                                  events[n].ident == idents[c][i];
            }
        }
    }
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < counts[c]; i++) {
            least = seen[c][i] < least ? seen[c][i] : least;
            most = seen[c][i] > most ? seen[c][i] : most;
        }
    }
    if (least < TIMES_MAX - 3 || most > TIMES_MAX + 3) {
        printf("# %d %s, %d %s, a list of %d: %d to %d times each\n", first_count, first->name,
               second_count, second->name, room, least, most);
        CHECK(false);
    }
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < counts[c]; i++)
            both[c]->close(idents[c][i]);
    }
    close(queue);
}

/* Two crowds whose events can't be told apart by filter and ident aren't put together. */
static bool are_distinct(const struct crowd *a, const struct crowd *b)
{
    return a->filter != b->filter || (a->filter == EVFILT_READ && a != b);
}

static void all_pairs(int first_count, int second_count, int room)
{
    for (int a = 0; a < COUNT(crowds); a++) {
        for (int b = 0; b < COUNT(crowds); b++) {
            if (are_distinct(&crowds[a], &crowds[b]))
                share(&crowds[a], first_count, &crowds[b], second_count, room);
        }
    }
}

static void as_many_of_each(void)
{
    all_pairs(40, 40, 2);
}

static void one_at_a_time(void)
{
    all_pairs(7, 7, 1);
}

static void few_among_many(void)
{
    all_pairs(40, 3, 2);
}

static void list_that_fits_neither(void)
{
    all_pairs(20, 13, 7);
}

static void one_alone_among_many(void)
{
    all_pairs(40, 1, 5);
}

/* What is owed is there for poll() as well, and nothing is once all has been returned. */
static void readable_until_the_last(void)
{
    int queue = new_queue();
    struct kevent event;

    for (uintptr_t i = 0; i < 10; i++)
        CHECK_EQ(change(queue, i, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL), 0);
    for (uintptr_t i = 0; i < 10; i++) {
        CHECK(is_readable(queue));
        CHECK_EQ(get(queue, &event, 1, 0), 1);
        CHECK_EQ(event.ident, i);
    }
    CHECK(!is_readable(queue));
    CHECK(is_quiet(queue));
    close(queue);
}

/* A list that is longer than one wait of the kernel brings is filled too, without repeats. */
static void long_list(void)
{
    enum { MANY = 600, ALL = 3 * MANY };
    static int fds[MANY], seen[3][MANY];
    static struct kevent events[ALL + 100];
    int queue = new_queue(), count;

    for (int i = 0; i < MANY; i++) {
        fds[i] = eventfd(1, EFD_CLOEXEC);
        REQUIRE(fds[i] >= 0);
        CHECK_EQ(change(queue, (uintptr_t)fds[i], EVFILT_READ, EV_ADD, 0, 0, NULL), 0);
        CHECK_EQ(change(queue, (uintptr_t)fds[i], EVFILT_WRITE, EV_ADD, 0, 0, NULL), 0);
        CHECK_EQ(change(queue, (uintptr_t)fds[i], EVFILT_USER, EV_ADD, NOTE_TRIGGER, 0, NULL), 0);
    }
    for (int round = 1; round <= 3; round++) {
        count = get(queue, events, COUNT(events), 0);
        CHECK_EQ(count, ALL);
        for (int i = 0; i < count; i++) {
            int filter = events[i].filter == EVFILT_READ    ? 0
                         : events[i].filter == EVFILT_WRITE ? 1
                                                            : 2;

            for (int n = 0; n < MANY; n++)
                seen[filter][n] += events[i].ident == (uintptr_t)fds[n];
        }
        for (int filter = 0; filter < 3; filter++) {
            for (int n = 0; n < MANY; n++)
                REQUIRE(seen[filter][n] == round);
        }
    }
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    close(queue);
}

/* The same with edges, which the kernel tells of once: a list that is too short loses none. */
static void edges_with_short_lists(void)
{
    enum { MANY = 600 };
    static int fds[MANY], seen[MANY];
    static struct kevent events[400];
    int queue = new_queue(), count;

    for (int i = 0; i < MANY; i++) {
        fds[i] = eventfd(1, EFD_CLOEXEC);
        CHECK_EQ(add(queue, (uintptr_t)fds[i], EVFILT_READ, i % 2 ? EV_CLEAR : EV_ONESHOT), 0);
    }
    while ((count = get(queue, events, COUNT(events), 0)) > 0) {
        for (int i = 0; i < count; i++) {
            for (int n = 0; n < MANY; n++)
                seen[n] += events[i].ident == (uintptr_t)fds[n];
        }
    }
    for (int n = 0; n < MANY; n++)
        REQUIRE(seen[n] == 1);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    close(queue);
}

/* What is deleted or disabled while it is owed isn't returned. */
static void owed_and_deleted(void)
{
    int queue = new_queue();
    struct kevent event;

    for (uintptr_t i = 0; i < 10; i++)
        CHECK_EQ(change(queue, i, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL), 0);
    CHECK_EQ(get(queue, &event, 1, 0), 1);
    for (uintptr_t i = 1; i < 9; i++)
        CHECK_EQ(change(queue, i, EVFILT_USER, i % 2 ? EV_DELETE : EV_DISABLE, 0, 0, NULL), 0);
    CHECK_EQ(get(queue, &event, 1, 0), 1);
    CHECK_EQ(event.ident, 9);
    CHECK(is_quiet(queue));
    CHECK(!is_readable(queue));
    close(queue);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(as_many_of_each),
        TEST(one_at_a_time),
        TEST(few_among_many),
        TEST(list_that_fits_neither),
        TEST(one_alone_among_many),
        TEST(readable_until_the_last),
        TEST(long_list),
        TEST(edges_with_short_lists),
        TEST(owed_and_deleted),
    };

    return check_main(tests, COUNT(tests));
}
