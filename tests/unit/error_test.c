/* error_test.c - error names and texts, and the detail line of a failed set-up call. */

#include "unit.h"

#include <stdio.h>
#include <string.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <pthread.h>
#endif

#include "base/error.h"
#include "pier/pier.h"

TEST(each_error_has_its_own_number_name_and_text)
{
    static const struct {
        const char *name;
        int number;
        const char *text;
    } errors[] = {
#define ROW(name, number, text) {#name, number, text},
        PIER_ERRORS(ROW)
#undef ROW
    };
    enum { COUNT = sizeof errors / sizeof errors[0] };
    for (int i = 0; i < COUNT; i++) {
        CHECK_STR(pier_error_name(errors[i].number), errors[i].name);
        CHECK_STR(pier_error_text(errors[i].number), errors[i].text);
        CHECK_LT(errors[i].number, 0);
        size_t length = strlen(errors[i].text);
        CHECK(length > 0 && errors[i].text[length - 1] != '.');
        for (int k = 0; k < i; k++) {
            CHECK_NE(errors[i].number, errors[k].number);
            CHECK(strcmp(errors[i].text, errors[k].text) != 0);
        }
    }
}

TEST(numbers_that_are_no_errors_have_names_too)
{
    CHECK_STR(pier_error_name(0), "PIER_OK");
    CHECK_STR(pier_error_name(17), "PIER_OK");
    CHECK_STR(pier_error_name(INT64_MAX), "PIER_OK");
    CHECK_STR(pier_error_name(-98), "PIER_E?");
    CHECK_STR(pier_error_name(INT64_MIN), "PIER_E?");
    /* Not cut to 32 bits, which would make it PIER_ECANCELED. */
    CHECK_STR(pier_error_name(-1 - (INT64_C(1) << 32)), "PIER_E?");
    CHECK_STR(pier_error_text(5), "success");
    CHECK_STR(pier_error_text(-98), "not an error number of pier");
}

TEST(a_failure_returns_its_error_and_sets_the_line)
{
    CHECK_EQ(pier__fail(PIER_EBUSY, "port %d is taken by %s", 80, "somebody"), PIER_EBUSY);
    CHECK_STR(pier_error_detail(), "port 80 is taken by somebody");
    CHECK_EQ(pier__fail(PIER_EINVAL, "short"), PIER_EINVAL);
    CHECK_STR(pier_error_detail(), "short");
}

TEST(the_last_line_may_be_part_of_the_next)
{
    pier__fail(PIER_EINVAL, "no such thing");
    pier__fail(PIER_EINVAL, "first: %s", pier_error_detail());
    CHECK_STR(pier_error_detail(), "first: no such thing");
}

TEST(a_long_line_ends_in_dots)
{
    char expected[PIER__DETAIL_MAX];
    char text[1000];
    for (size_t length = PIER__DETAIL_MAX - 8; length < PIER__DETAIL_MAX + 8; length++) {
        memset(text, 'x', length);
        text[length] = '\0';
        pier__fail(PIER_EINVAL, "%s", text);
        if (length < PIER__DETAIL_MAX) {
            CHECK_STR(pier_error_detail(), text);
        } else {
            memset(expected, 'x', sizeof expected);
            strcpy(expected + PIER__DETAIL_MAX - 4, "...");
            CHECK_STR(pier_error_detail(), expected);
        }
    }
}

TEST(the_line_is_printable_whatever_goes_in)
{
    pier__fail(PIER_EINVAL, "a%sb%sc", "\n\r\x1b[31m", "\x7f\x80\xff");
    CHECK_STR(pier_error_detail(), "a\\x0a\\x0d\\x1b[31mb\\x7f\\x80\\xffc");
    char text[PIER__DETAIL_MAX];
    memset(text, '\n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    pier__fail(PIER_EINVAL, "%s", text);
    size_t length = strlen(pier_error_detail());
    CHECK_LT(length, PIER__DETAIL_MAX);
    CHECK_STR(pier_error_detail() + length - 7, "\\x0a...");
}

TEST(quoting_shows_escapes_and_cuts)
{
    CHECK_STR(PIER__QUOTE_TEXT("epoll"), "\"epoll\"");
    CHECK_STR(PIER__QUOTE_TEXT(""), "\"\"");
    CHECK_STR(PIER__QUOTE("abc", 2), "\"ab\"");
    CHECK_STR(PIER__QUOTE("a\0b", 3), "\"a\\x00b\"");
    CHECK_STR(PIER__QUOTE_TEXT("say \"hi\" \\o/"), "\"say \\\"hi\\\" \\\\o/\"");
    const char *nothing = NULL;
    CHECK_STR(PIER__QUOTE_TEXT(nothing), "(null)");

    char text[300], expected[81];
    for (size_t size = 70; size < 90; size++) {
        memset(text, 'y', sizeof text);
        const char *quoted = PIER__QUOTE(text, size);
        size_t kept = size <= 77 ? size : 77;
        CHECK_EQ(strlen(quoted), kept + 2);
        memset(expected, 'y', sizeof expected);
        expected[0] = '"';
        strcpy(expected + kept + 1, "\"");
        if (size > 77)
            memcpy(expected + kept - 2, "...", 3);
        CHECK_STR(quoted, expected);
    }
    memset(text, 1, sizeof text);
    CHECK_EQ(strlen(PIER__QUOTE(text, sizeof text)), 2 + 18 * 4 + 3);
}

static void fail_elsewhere(void)
{
    CHECK_STR(pier_error_detail(), "");
    pier__fail(PIER_EINVAL, "elsewhere");
    CHECK_STR(pier_error_detail(), "elsewhere");
}

#ifdef _WIN32

static DWORD WINAPI run_elsewhere(void *argument)
{
    (void)argument;
    fail_elsewhere();
    return 0;
}

static bool run_on_thread(void)
{
    HANDLE thread = CreateThread(NULL, 0, run_elsewhere, NULL, 0, NULL);
    return thread != NULL && WaitForSingleObject(thread, INFINITE) == 0 && CloseHandle(thread);
}

#else

static void *run_elsewhere(void *argument)
{
    (void)argument;
    fail_elsewhere();
    return NULL;
}

static bool run_on_thread(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, run_elsewhere, NULL) == 0 &&
           pthread_join(thread, NULL) == 0;
}

#endif

TEST(each_thread_has_its_own_line)
{
    pier__fail(PIER_EINVAL, "here");
    REQUIRE(run_on_thread());
    CHECK_STR(pier_error_detail(), "here");
}
