/* posix_changes.c - files that tell of changes by PIER_PRIORITY, as /proc/mounts does of mounts;
 * and files that don't. */

#include "suite.h"

#ifdef __linux__

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_SKIPS = 77 };

static char place[PIER_PATH_MAX];

static void change_mounts(void)
{
    CHECK_INT(mount("none", place, "tmpfs", 0, NULL), ==, 0);
    CHECK_INT(umount(place), ==, 0);
}

/* In namespaces of its own, so that nobody else's mounts count. */
static void watch_mounts(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked one = {0}, each = {0};
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        _exit(CHILD_SKIPS);
    }
    const int mounts = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC);
    if (mounts < 0 || mkdir(place, 0700) != 0) {
        _exit(CHILD_SKIPS);
    }
    tracked_poll(loop, &one, mounts, PIER_PRIORITY, NULL);
    run_quietly(loop, 20);
    if (!test_backend_is("kqueue")) {
        CHECK(one.in_flight);
        change_mounts();
        CHECK_INT(wait_for(&one) & PIER_PRIORITY, ==, PIER_PRIORITY);
        /* What happened between two polls is news as well. */
        change_mounts();
        tracked_poll(loop, &one, mounts, PIER_PRIORITY, NULL);
        CHECK_INT(wait_for(&one) & PIER_PRIORITY, ==, PIER_PRIORITY);
        tracked_poll_each(loop, &each, mounts, PIER_PRIORITY, NULL);
        run_quietly(loop, 20);
        const unsigned before = each.events;
        change_mounts();
        RUN_UNTIL(loop, each.events > before);
        const uint64_t turns = stats_of(loop).turns;
        run_quietly(loop, 100);
        CHECK_INT(stats_of(loop).turns - turns, <, 50);
        tracked_cancel(&each);
        CHECK_INT(wait_for(&each), ==, PIER_ECANCELED);
    } else {
        CHECK_INT(wait_for(&one), ==, PIER_ENOTSUP);
    }
    close(mounts);
    rmdir(place);
    test_loop_free(loop);
}

static void mounts(void)
{
    int status = 0;
    platform_temporary_path(place, sizeof(place));
    fflush(NULL);
    const pid_t child = fork();
    CHECK_INT(child, >=, 0);
    if (child == 0) {
        alarm(60);
        watch_mounts();
        _exit(0);
    }
    CHECK_INT(waitpid(child, &status, 0), ==, child);
    rmdir(place); /* when the child failed */
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIPS) {
        test_skip("needs root and a namespace of mounts");
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        FAIL("the child ended with status %#x", (unsigned)status);
    }
}

/* A trigger that never fires here, which can be waited for. */
static void pressure(void)
{
    static const char trigger[] = "full 9000000 10000000";
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0};
    const int file = open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || write(file, trigger, sizeof(trigger)) < 0) {
        if (file >= 0) {
            close(file);
        }
        test_skip("no pressure to be told of, or no right to it");
        return;
    }
    tracked_poll(loop, &poll, file, PIER_PRIORITY, NULL);
    if (test_backend_is("kqueue")) {
        CHECK_INT(wait_for(&poll), ==, PIER_ENOTSUP);
    } else {
        run_quietly(loop, 20);
        CHECK(poll.in_flight);
        tracked_cancel(&poll);
        CHECK_INT(wait_for(&poll), ==, PIER_ECANCELED);
    }
    close(file);
}

#else

static void not_here(void)
{
    test_skip("such files are Linux's");
}

#define mounts not_here
#define pressure not_here

#endif

/* Others tell of nothing, which is said on every backend. */
static void files_that_do_not_tell(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked poll = {0}, each = {0};
    char path[PIER_PATH_MAX];
    platform_temporary_path(path, sizeof(path));
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    const pier_descriptor descriptor = platform_descriptor_of(file);
    tracked_poll(loop, &poll, descriptor, PIER_PRIORITY, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_ENOTSUP);
    tracked_poll_each(loop, &each, descriptor, PIER_PRIORITY, NULL);
    CHECK_INT(wait_for(&each), ==, PIER_ENOTSUP);
    tracked_poll(loop, &poll, descriptor, PIER_PRIORITY | PIER_WRITABLE, NULL);
    CHECK_INT(wait_for(&poll), ==, PIER_WRITABLE);
    fclose(file);
    platform_remove(path);
}

const struct test changes_tests[] = {
    TEST(changes, mounts),
    TEST(changes, pressure),
    TEST(changes, files_that_do_not_tell),
    TEST_END,
};
