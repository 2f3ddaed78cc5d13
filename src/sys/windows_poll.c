/* windows_poll.c - readiness of sockets on Windows, by the driver below Winsock (AFD).
 *
 * Windows has no documented way to be told by a completion port that a socket is ready. This one is
 * that of wepoll, libuv and mio, and of Winsock's own select(); Wine has it too. A request answers
 * once; it's level-triggered, and any number of them may be in flight on one socket. */

#include "sys/windows.h"

#include <string.h>
#include <winternl.h>

#define IOCTL_AFD_POLL 0x00012024

#ifndef SIO_BSP_HANDLE_POLL
#define SIO_BSP_HANDLE_POLL 0x4800001d
#endif

pier_descriptor pier__sys_afd_open(bool synchronous)
{
    typedef NTSTATUS NTAPI create_fn(HANDLE *, ACCESS_MASK, OBJECT_ATTRIBUTES *, IO_STATUS_BLOCK *,
                                     LARGE_INTEGER *, ULONG, ULONG, ULONG, ULONG, void *, ULONG);
    create_fn *create = (create_fn *)(void *)pier__sys_native("NtCreateFile");
    wchar_t name[] =
        L"\\Device\\Afd\\pier"; /* older Wine wants a last part, whichever (mio, issue 1444) */
    UNICODE_STRING text = {
        .Length = sizeof(name) - sizeof(wchar_t), .MaximumLength = sizeof(name), .Buffer = name};
    OBJECT_ATTRIBUTES attributes;
    IO_STATUS_BLOCK status;
    HANDLE afd;
    if (create == NULL) {
        return pier__sys_map(ERROR_NOT_SUPPORTED);
    }
    InitializeObjectAttributes(&attributes, &text, 0, NULL, NULL);
    NTSTATUS result = create(&afd, SYNCHRONIZE, &attributes, &status, NULL, 0,
                             FILE_SHARE_READ | FILE_SHARE_WRITE, FILE_OPEN,
                             synchronous ? FILE_SYNCHRONOUS_IO_NONALERT : 0, NULL, 0);
    return result >= 0 ? (pier_descriptor)afd : pier__sys_map(pier__sys_status_code(result));
}

static NTSTATUS poll_driver(pier_descriptor afd, void *context, IO_STATUS_BLOCK *status,
                            struct pier__afd_poll *in, struct pier__afd_poll *out)
{
    typedef NTSTATUS NTAPI control_fn(HANDLE, HANDLE, PIO_APC_ROUTINE, void *, IO_STATUS_BLOCK *,
                                      ULONG, void *, ULONG, void *, ULONG);
    static control_fn *control;
    if (control == NULL) {
        control = (control_fn *)(void *)pier__sys_native("NtDeviceIoControlFile");
    }
    return control(pier__sys_handle(afd), NULL, NULL, context, status, IOCTL_AFD_POLL, in,
                   sizeof(*in), out, sizeof(*out));
}

static bool ask_provider(SOCKET socket, DWORD question, SOCKET *answer)
{
    DWORD bytes;
    return WSAIoctl(socket, question, NULL, 0, answer, sizeof(*answer), &bytes, NULL, NULL) == 0;
}

/* The socket that the driver knows: layered providers make sockets of their own on top. No provider
 * may answer SIO_BASE_HANDLE for itself, but some that filter traffic (Komodia's) do, wrongly; they
 * let SIO_BSP_HANDLE_POLL through, which leads one layer down (wepoll 8dc6115, mio #1131). False
 * when it's no socket. */
static bool find_base(SOCKET socket, SOCKET *base)
{
    for (int layer = 0; layer < 16; layer++) {
        SOCKET below;
        if (ask_provider(socket, SIO_BASE_HANDLE, base)) {
            return true;
        }
        if (WSAGetLastError() == WSAENOTSOCK ||
            !ask_provider(socket, SIO_BSP_HANDLE_POLL, &below) || below == socket) {
            return false;
        }
        socket = below;
    }
    return false;
}

int pier__sys_afd_poll(pier_descriptor afd, pier_descriptor socket, unsigned events,
                       struct pier__afd_request *request)
{
    PIER__FAULT(POLL);
    SOCKET base;
    if (!find_base((SOCKET)socket, &base)) {
        pier__sys_socket_error();
        return PIER_ENOTSUP; /* open, but not a socket */
    }
    memset(request, 0, sizeof(*request));
    request->in.timeout.QuadPart = INT64_MAX;
    request->in.count = 1;
    request->in.handles[0].handle = (HANDLE)base;
    request->in.handles[0].events = events;
    NTSTATUS result = poll_driver(afd, request, (IO_STATUS_BLOCK *)(void *)&request->overlapped,
                                  &request->in, &request->out);
    if (result >= 0) {
        return 0;
    }
    const ULONG wrong_type = 0xc0000024; /* Wine takes any handle up to here */
    int error = pier__sys_map(pier__sys_status_code(result));
    return (ULONG)result == wrong_type ? PIER_ENOTSUP : error;
}

bool pier__sys_was_reset(pier_descriptor afd, pier_descriptor socket)
{
    struct pier__afd_poll in = {.count = 1}, out = {.count = 0}; /* time-out 0: answers at once */
    IO_STATUS_BLOCK status;
    in.handles[0].handle = (HANDLE)socket;
    in.handles[0].events = PIER__AFD_ABORT;
    return afd >= 0 && poll_driver(afd, NULL, &status, &in, &out) == 0 && out.count == 1 &&
           (out.handles[0].events & PIER__AFD_ABORT) != 0;
}
