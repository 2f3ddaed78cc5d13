/* windows_test.c - what pier makes of the codes of Windows: Winsock's, Win32's and NTSTATUS. */

#include "unit.h"

#include "sys/windows.h"

TEST(statuses_of_requests_have_numbers_of_pier)
{
    static const struct {
        uint32_t status;
        int error, code; /* 0: whatever Windows makes of it */
    } known[] = {
        {0x00000000, 0, 0},
        {0xc0000011, 0, ERROR_HANDLE_EOF},                     /* the end of a file is no error */
        {0x8000000a, PIER_ECANCELED, ERROR_OPERATION_ABORTED}, /* Wine, closed under a receive */
        {0xc0000120, PIER_ECANCELED, ERROR_OPERATION_ABORTED},
        {0xc000014b, PIER_EPIPE, ERROR_BROKEN_PIPE},
        {0xc00000b0, PIER_ECONNRESET, ERROR_PIPE_NOT_CONNECTED},
        {0xc0000236, PIER_ECONNREFUSED, WSAECONNREFUSED},
        {0xc000020c, PIER_ECONNRESET, WSAECONNRESET},
        {0xc000020d, PIER_ECONNRESET, WSAECONNRESET},
        {0xc000013b, PIER_ECONNABORTED, WSAECONNABORTED},
        {0xc0000241, PIER_ECONNABORTED, WSAECONNABORTED},
        {0xc00000b5, PIER_ETIMEDOUT, WSAETIMEDOUT},
        {0xc000023c, PIER_ENETUNREACH, WSAENETUNREACH},
        {0xc000023d, PIER_EHOSTUNREACH, WSAEHOSTUNREACH},
        {0xc0000207, PIER_EADDRNOTAVAIL, WSAEADDRNOTAVAIL},
        {0xc000009a, PIER_ENOBUFS, WSAENOBUFS},
        {0xc0000017, PIER_ENOBUFS, WSAENOBUFS},
        {0xc0000022, PIER_EACCES, ERROR_ACCESS_DENIED},
        {0xc000007f, PIER_ENOSPC, ERROR_DISK_FULL},
        {0xc0000008, PIER_EBADF, WSAENOTSOCK},
        {0xc000003a, PIER_ENOENT, 0}, /* from here on Windows translates */
        {0xc000000d, PIER_EINVAL, 0},
        {0xc0000185, PIER_EIO, 0},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int code = pier__sys_status_code((long)known[i].status);
        if (!CHECK_EQ(pier__sys_map(code), known[i].error))
            FAIL("status 0x%lx, code %d", (unsigned long)known[i].status, code);
        CHECK_EQ(pier__sys_code(), code);
        if (known[i].code != 0)
            CHECK_EQ(code, known[i].code);
    }
}

TEST(a_status_that_nobody_knows_keeps_its_number)
{
    const long unknown = (long)0xe0123456u;
    CHECK_EQ(pier__sys_map(pier__sys_status_code(unknown)), PIER_EOTHER);
    CHECK_EQ(pier__sys_code(), (int)unknown);
}

TEST(codes_of_calls_have_numbers_of_pier)
{
    static const struct {
        int code, error;
    } known[] = {
        {WSAEWOULDBLOCK, PIER_EAGAIN},
        {WSAECONNRESET, PIER_ECONNRESET},
        {WSAEADDRINUSE, PIER_EADDRINUSE},
        {WSAENOTSOCK, PIER_EBADF},
        {WSAESHUTDOWN, PIER_EPIPE},
        {ERROR_NETNAME_DELETED, PIER_ECONNRESET},
        {ERROR_CONNECTION_REFUSED, PIER_ECONNREFUSED},
        {ERROR_CONNECTION_ABORTED, PIER_ECONNABORTED},
        {ERROR_SEM_TIMEOUT, PIER_ETIMEDOUT},
        {ERROR_NO_DATA, PIER_EPIPE},
        {ERROR_FILE_NOT_FOUND, PIER_ENOENT},
        {ERROR_INVALID_HANDLE, PIER_EBADF},
        {ERROR_NOT_ENOUGH_MEMORY, PIER_ENOMEM},
        {ERROR_TOO_MANY_OPEN_FILES, PIER_EMFILE},
        {123456, PIER_EOTHER},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!CHECK_EQ(pier__sys_map(known[i].code), known[i].error))
            FAIL("code %d", known[i].code);
        CHECK_EQ(pier__sys_code(), known[i].code);
    }
}
