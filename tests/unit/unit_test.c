/* unit_test.c - the harness tests itself: that its checks, counts and guards can fail.
 *
 * What must fail runs in a child process, made of the same program, whose report is read. The child
 * picks its case by the environment, since the failing tests must not run in the parent. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TEST(integers_compare_by_their_values)
{
    CHECK_EQ(-1, (signed char)-1);
    CHECK_NE(-1, UINT32_MAX);
    CHECK_LT(-1, 0u);
    CHECK_GT(UINT64_MAX, INT64_MAX);
    CHECK_EQ(true, 1);
    CHECK_LE(INT64_MIN, INT64_MIN + 1);
    CHECK_GE((unsigned char)255, 255L);
}

TEST(pointers_compare_by_their_addresses)
{
    const char text[2] = "a";
    const char *second = text + 1;
    CHECK_EQ(&text[1], second);
    CHECK_NE(second, NULL);
    CHECK_EQ((void *)0, NULL);
}

TEST(texts_and_memory_compare_by_content)
{
    char copy[] = "one";
    CHECK_STR(copy, "one");
    CHECK_STR(NULL, NULL);
    CHECK_MEM(copy, "one", 4);
}

TEST(heap_blocks_are_counted)
{
    if (!unit_allocations_counted())
        SKIP("this linker can't wrap malloc()");
    uint64_t calls = unit_allocation_count();
    size_t live = unit_live_blocks();
    void *volatile blocks[3000];
    for (size_t i = 0; i < 3000; i++)
        blocks[i] = malloc(i + 1);
    blocks[7] = realloc(blocks[7], 100000);
    CHECK_EQ(unit_allocation_count() - calls, 3001);
    CHECK_EQ(unit_live_blocks() - live, 3000);
    for (size_t i = 0; i < 3000; i++)
        free(blocks[i]);
    CHECK_EQ(unit_live_blocks(), live);
}

#ifndef _WIN32

#include <sys/wait.h>
#include <unistd.h>

static const char *chosen_case(void)
{
    const char *chosen = getenv("PIER_UNIT_CASE");
    return chosen != NULL ? chosen : "";
}

/* The test that the child runs; in the parent there is nothing to do. */
TEST(child_of_the_harness_test)
{
    const char *chosen = chosen_case();
    if (strcmp(chosen, "check") == 0) {
        CHECK_EQ(1 + 1, 3);
        CHECK(strcmp(chosen, "") == 0);
    } else if (strcmp(chosen, "require") == 0) {
        REQUIRE(strcmp(chosen, "") == 0);
        FAIL("REQUIRE went on");
    } else if (strcmp(chosen, "descriptor") == 0) {
        CHECK_GE(dup(STDOUT_FILENO), 0);
    } else if (strcmp(chosen, "memory") == 0) {
        void *volatile lost = malloc(12345);
        CHECK_NE(lost, NULL);
    } else if (strcmp(chosen, "crash") == 0) {
        abort();
    } else if (strcmp(chosen, "hang") == 0) {
        for (;;)
            pause();
    } else if (strcmp(chosen, "skip") == 0) {
        SKIP("asked to");
    }
}

/* Runs the child and leaves what it printed in `output`. Returns its wait status. */
static int run_child(const char *name, char *output, size_t size)
{
    int pipe_ends[2];
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0)
        SKIP("needs /proc/self/exe");
    program[length] = '\0';
    REQUIRE(pipe(pipe_ends) == 0);
    fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        dup2(pipe_ends[1], STDOUT_FILENO);
        close(pipe_ends[0]);
        close(pipe_ends[1]);
        setenv("PIER_UNIT_CASE", name, 1);
        /* The leak is the harness's to find, not the leak sanitizer's. */
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
        const char *seconds = strcmp(name, "hang") == 0 ? "1" : "60";
        const char *test = "child_of_the_harness_test";
        const char *emulator = getenv("PIER_EMULATOR");
        if (emulator != NULL)
            execl(emulator, emulator, program, "--timeout", seconds, test, (char *)NULL);
        else
            execl(program, program, "--timeout", seconds, test, (char *)NULL);
        _exit(127);
    }
    close(pipe_ends[1]);
    size_t used = 0;
    for (ssize_t got; used < size - 1; used += (size_t)got) {
        got = read(pipe_ends[0], output + used, size - 1 - used);
        if (got <= 0)
            break;
    }
    output[used] = '\0';
    close(pipe_ends[0]);
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status;
}

static void expect_failure(const char *name, const char *report, const char *closing_line)
{
    char output[8192];
    int status = run_child(name, output, sizeof output);
    if (!CHECK(strstr(output, report) != NULL) || !CHECK(strstr(output, closing_line) != NULL))
        printf("# the child printed:\n%s# (end)\n", output);
    CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 1);
}

TEST(a_failed_check_prints_both_values_and_goes_on)
{
    expect_failure("check", "1 + 1 == 3: 2 and 3\n# ", "0 passed, 1 failed, 0 skipped\n");
}

TEST(a_failed_requirement_ends_the_test)
{
    char output[8192];
    int status = run_child("require", output, sizeof output);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    CHECK(strstr(output, "REQUIRE(strcmp") != NULL);
    CHECK(strstr(output, "went on") == NULL);
}

TEST(a_lost_descriptor_fails_the_test)
{
    expect_failure("descriptor", "is still open", "0 passed, 1 failed, 0 skipped\n");
}

TEST(a_lost_heap_block_fails_the_test)
{
    if (!unit_allocations_counted())
        SKIP("this linker can't wrap malloc()");
    expect_failure("memory", "12345 bytes at", "0 passed, 1 failed, 0 skipped\n");
}

TEST(a_crash_names_the_test)
{
    expect_failure("crash", "not ok child_of_the_harness_test: stopped by SIGABRT", "");
}

TEST(a_hang_names_the_test)
{
    expect_failure("hang", "not ok child_of_the_harness_test: takes too long",
                   "0 passed, 1 failed, 0 skipped\n");
}

TEST(a_program_whose_tests_all_skip_exits_with_77)
{
    char output[8192];
    int status = run_child("skip", output, sizeof output);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 77);
    CHECK(strstr(output, "skip child_of_the_harness_test: asked to\n") != NULL);
}

#endif
