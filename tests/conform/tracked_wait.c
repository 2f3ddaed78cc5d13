/* tracked_wait.c - the simple cases of a test: submit one op of tracked.h and run until it is over.
 * They name the line of the test that waits. */

#include "tracked.h"

static void check_at(const char *file, int line, const char *what, int64_t value, int64_t expected)
{
    if (value != expected) {
        test_fail_values(file, line, what, value, expected);
    }
}

int64_t wait_for_at(const char *file, int line, struct tracked *tracked)
{
    RUN_UNTIL_AT(file, line, tracked->loop, !tracked->in_flight);
    return tracked->result;
}

void send_all_at(const char *file, int line, struct tracked_handle *handle, const void *memory,
                 size_t size)
{
    struct tracked send = {0};
    tracked_send(handle, &send, memory, size, NULL);
    check_at(file, line, "result of send_all()", wait_for_at(file, line, &send), (int64_t)size);
}

void receive_all_at(const char *file, int line, struct tracked_handle *handle, void *memory,
                    size_t size)
{
    struct tracked receive = {0};
    for (size_t got = 0; got < size; got += (size_t)receive.result) {
        tracked_receive(handle, &receive, (char *)memory + got, size - got, NULL);
        if (wait_for_at(file, line, &receive) <= 0) {
            test_fail_values(file, line, "receive_all(): result after so many bytes",
                             receive.result, (int64_t)got);
        }
    }
}

void receive_end_at(const char *file, int line, struct tracked_handle *handle)
{
    struct tracked receive = {0};
    char byte;
    tracked_receive(handle, &receive, &byte, 1, NULL);
    check_at(file, line, "result of receive_end()", wait_for_at(file, line, &receive), 0);
}

void close_and_wait_at(const char *file, int line, struct tracked_handle *handle)
{
    tracked_close(handle, NULL);
    RUN_UNTIL_AT(file, line, handle->loop, handle->closes == 1);
}

void check_usable_at(const char *file, int line, struct tracked_handle *handle,
                     pier_descriptor peer)
{
    char byte = 0;
    send_all_at(file, line, handle, "?", 1);
    raw_receive(peer, &byte, 1);
    check_at(file, line, "byte to the peer of check_usable()", byte, '?');
    raw_send(peer, "!", 1);
    receive_all_at(file, line, handle, &byte, 1);
    check_at(file, line, "byte from the peer of check_usable()", byte, '!');
}
