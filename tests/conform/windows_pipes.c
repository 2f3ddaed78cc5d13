/* windows_pipes.c - pipes as only Windows has them: of messages, without requests, on a port of
 * somebody else. */

#include "suite.h"

#include <windows.h>

/* Two ends of a named pipe; the reader's has these flags besides. */
static void open_pipe(HANDLE *reader, HANDLE *writer, DWORD open_flags, DWORD mode)
{
    static unsigned serial;
    char name[80];
    snprintf(name, sizeof(name), "\\\\.\\pipe\\pier-windows.%lx.%u",
             (unsigned long)GetCurrentProcessId(), ++serial);
    *reader = CreateNamedPipeA(name, PIPE_ACCESS_INBOUND | open_flags, mode | PIPE_WAIT, 1, 65536,
                               65536, 0, NULL);
    *writer = CreateFileA(name, GENERIC_WRITE | FILE_READ_ATTRIBUTES, 0, NULL, OPEN_EXISTING, 0,
                          NULL);
    CHECK(*reader != INVALID_HANDLE_VALUE);
    CHECK(*writer != INVALID_HANDLE_VALUE);
}

static void check_lent_message(struct tracked *tracked)
{
    CHECK_PATTERN(tracked->op.data, tracked->op.size, 62, 0);
}

/* With a buffer that holds a message, and a request that waits for one. */
static void receive_lent_messages(struct pier_loop *loop, struct tracked_handle *handle,
                                  HANDLE writer)
{
    struct tracked receive = {0};
    unsigned char sent[1000];
    DWORD written;
    pattern_fill(sent, sizeof(sent), 62, 0);
    for (int waits = 0; waits < 2; waits++) {
        tracked_receive_lent(handle, &receive, check_lent_message);
        if (waits) {
            run_quietly(loop, 5);
            CHECK(receive.in_flight);
        }
        CHECK(WriteFile(writer, sent, sizeof(sent), &written, NULL));
        CHECK_INT(wait_for(&receive), ==, sizeof(sent));
    }
}

/* A read that is shorter than the message fails, and its packet comes all the same. */
static void messages_are_read_in_parts(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked receive = {0};
    unsigned char sent[1000], got[1000];
    HANDLE reader, writer;
    DWORD written;
    pattern_fill(sent, sizeof(sent), 61, 0);
    open_pipe(&reader, &writer, FILE_FLAG_OVERLAPPED, PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE);
    CHECK_OK(tracked_adopt(loop, &handle, (pier_descriptor)reader));
    for (int waits = 0; waits < 2; waits++) {
        if (waits) { /* the request is in the system before the message */
            tracked_receive(&handle, &receive, got, 70, NULL);
            run_quietly(loop, 5);
            CHECK(receive.in_flight);
        }
        CHECK(WriteFile(writer, sent, sizeof(sent), &written, NULL));
        CHECK_INT(written, ==, sizeof(sent));
        size_t size = 0;
        if (waits) {
            CHECK_INT(wait_for(&receive), ==, 70);
            size = 70;
        }
        while (size < sizeof(sent)) {
            const size_t left = sizeof(sent) - size;
            tracked_receive(&handle, &receive, got + size, left < 70 ? left : 70, NULL);
            CHECK_INT(wait_for(&receive), >, 0);
            size += (size_t)receive.result;
        }
        CHECK_PATTERN(got, sizeof(got), 61, 0);
    }
    receive_lent_messages(loop, &handle, writer);
    CloseHandle(writer);
    receive_end(&handle);
    close_and_wait(&handle);
}

static void without_requests_is_refused(void)
{
    struct pier_loop *loop = test_loop();
    struct pier_handle handle = {0};
    HANDLE reader, writer;
    CHECK(CreatePipe(&reader, &writer, NULL, 0));
    CHECK_REFUSED(pier_adopt(loop, &handle, (pier_descriptor)reader), PIER_ENOTSUP);
    CHECK_REFUSED(pier_adopt(loop, &handle, (pier_descriptor)writer), PIER_ENOTSUP);
    CHECK(CloseHandle(reader)); /* pier left them alone */
    CHECK(CloseHandle(writer));
}

/* Its packets would go to the other port: ops say so, rather than never to end. */
static void with_a_port_already_fails(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle handle = {0};
    struct tracked receive = {0};
    HANDLE reader, writer;
    char byte;
    HANDLE port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    CHECK(port != NULL);
    open_pipe(&reader, &writer, FILE_FLAG_OVERLAPPED, PIPE_TYPE_BYTE);
    CHECK(CreateIoCompletionPort(reader, port, 0, 0) != NULL);
    CHECK_OK(tracked_adopt(loop, &handle, (pier_descriptor)reader));
    tracked_receive(&handle, &receive, &byte, 1, NULL);
    CHECK_INT(wait_for(&receive), ==, PIER_EINVAL);
    CHECK_INT(receive.os_error, ==, ERROR_INVALID_PARAMETER);
    tracked_receive_lent(&handle, &receive, NULL);
    CHECK_INT(wait_for(&receive), ==, PIER_EINVAL);
    close_and_wait(&handle);
    CloseHandle(writer);
    CloseHandle(port);
}

const struct test windows_tests[] = {
    TEST(windows, messages_are_read_in_parts),
    TEST(windows, without_requests_is_refused),
    TEST(windows, with_a_port_already_fails),
    TEST_END,
};
