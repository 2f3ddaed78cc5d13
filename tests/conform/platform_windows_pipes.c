/* platform_windows_pipes.c - the raw peer of platform.h as a named pipe.
 *
 * A raw pipe is opened for overlapped calls, since pier can adopt no other; each call here waits
 * for its own event, marked so that no completion port hears of it. In place of a Unix-domain
 * socket a pipe has the name that docs/semantics.md gives, made here once more, and messages of
 * which an empty one is the end of the stream. A listener is a number and as many ends of the pipe
 * as clients may wait, each with a call that waits for one. */

#include "platform_windows.h"

#include <winsock2.h>
#include <windows.h>

#define PIPE_PIECE 4096
#define ENDS_MAX 8

struct end {
    HANDLE pipe;
    OVERLAPPED call; /* its event is set when a client has come */
};

static struct listener {
    HANDLE handle; /* NULL: free */
    char name[256];
    int count;
    struct end ends[ENDS_MAX];
} listeners[8];

_Noreturn static void system_failed(const char *what)
{
    FAIL("%s: error %lu", what, (unsigned long)GetLastError());
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* What an overlapped call on a pipe came to; one that would wait for the peer is taken back if it
 * may not. */
static int64_t finish_call(HANDLE handle, OVERLAPPED *call, bool done, bool may_wait)
{
    DWORD moved = 0;
    if (done || GetLastError() == ERROR_IO_PENDING) {
        if (!done && !may_wait) {
            CancelIoEx(handle, call);
        }
        done = GetOverlappedResult(handle, call, &moved, TRUE);
    }
    const DWORD code = done ? 0 : GetLastError();
    CloseHandle((HANDLE)((uintptr_t)call->hEvent & ~(uintptr_t)1));
    return code == 0                         ? (int64_t)moved
           : code == ERROR_MORE_DATA         ? (int64_t)call->InternalHigh /* of a message */
           : code == ERROR_OPERATION_ABORTED ? RAW_AGAIN
                                             : raw_failure((int)code);
}

static OVERLAPPED prepare_call(void)
{
    HANDLE event = CreateEventA(NULL, TRUE, FALSE, NULL);
    CHECK(event != NULL);
    return (OVERLAPPED){.hEvent = (HANDLE)((uintptr_t)event | 1)};
}

int64_t raw_pipe_write(pier_descriptor pipe, const void *memory, size_t size, bool may_wait)
{
    OVERLAPPED call = prepare_call();
    const DWORD piece = (DWORD)(size < PIPE_PIECE ? size : PIPE_PIECE);
    const bool done = WriteFile((HANDLE)pipe, memory, piece, NULL, &call);
    return finish_call((HANDLE)pipe, &call, done, may_wait);
}

int64_t raw_pipe_read(pier_descriptor pipe, void *memory, size_t size, bool may_wait)
{
    OVERLAPPED call = prepare_call();
    const bool done = ReadFile((HANDLE)pipe, memory, (DWORD)(size < 65536 ? size : 65536), NULL,
                               &call);
    const int64_t result = finish_call((HANDLE)pipe, &call, done, may_wait);
    return result == RAW_PIPE ? 0 : result;
}

void raw_pipe_shutdown(pier_descriptor pipe)
{
    CHECK_INT(raw_pipe_write(pipe, "", 0, true), ==, 0);
}

void raw_pipe(pier_descriptor ends[2])
{
    static unsigned serial;
    char name[80];
    snprintf(name, sizeof(name), "\\\\.\\pipe\\pier-conform.%lx.%u",
             (unsigned long)GetCurrentProcessId(), ++serial);
    HANDLE reader = CreateNamedPipeA(name, PIPE_ACCESS_INBOUND | FILE_FLAG_OVERLAPPED,
                                     PIPE_TYPE_BYTE | PIPE_WAIT, 1, 65536, 65536, 0, NULL);
    HANDLE writer = CreateFileA(name, GENERIC_WRITE | FILE_READ_ATTRIBUTES, 0, NULL, OPEN_EXISTING,
                                FILE_FLAG_OVERLAPPED, NULL);
    if (reader == INVALID_HANDLE_VALUE || writer == INVALID_HANDLE_VALUE) {
        FAIL("a pipe: error %lu", (unsigned long)GetLastError());
    }
    ends[0] = (pier_descriptor)reader;
    ends[1] = (pier_descriptor)writer;
}

/* ---- in place of Unix-domain sockets --------------------------------------------------------- */

/* Abstract names always are, and paths where there is no AF_UNIX. */
bool raw_is_pipe_address(const struct pier_address *address)
{
    if (address->family != PIER_ADDRESS_UNIX || address->u.path[0] == '\0') {
        return address->family == PIER_ADDRESS_UNIX;
    }
    const SOCKET made = socket(AF_UNIX, SOCK_STREAM, 0);
    if (made != INVALID_SOCKET) {
        closesocket(made);
    }
    return made == INVALID_SOCKET;
}

/* Of the bytes that stand for something else, the tests' names have slashes and backslashes. */
static void name_of(const struct pier_address *address, char *name, size_t size)
{
    const bool is_path = address->u.path[0] != '\0';
    size_t used = (size_t)snprintf(name, size, "\\\\.\\pipe\\%s", is_path ? "unix!" : "");
    for (size_t i = is_path ? 0 : 1; i < address->path_length; i++) {
        const char byte = address->u.path[i];
        const char *kept = byte == '/'               ? (is_path ? "!" : "%2F")
                           : byte == '\\' && is_path ? "%5C"
                                                     : NULL;
        used += (size_t)(kept != NULL ? snprintf(name + used, size - used, "%s", kept)
                                      : snprintf(name + used, size - used, "%c", byte));
    }
    CHECK(used < size);
}

static void open_end(struct listener *listener, struct end *end)
{
    end->pipe = CreateNamedPipeA(listener->name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                                 PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_WAIT,
                                 PIPE_UNLIMITED_INSTANCES, 65536, 65536, 0, NULL);
    if (end->pipe == INVALID_HANDLE_VALUE) {
        system_failed("CreateNamedPipe");
    }
    end->call = (OVERLAPPED){.hEvent = CreateEventA(NULL, TRUE, FALSE, NULL)};
    if (!ConnectNamedPipe(end->pipe, &end->call) && GetLastError() != ERROR_IO_PENDING) {
        SetEvent(end->call.hEvent); /* a client was faster */
    }
}

static struct listener *listener_of(pier_descriptor descriptor)
{
    for (size_t i = 0; i < COUNT_OF(listeners); i++) {
        if (listeners[i].handle == (HANDLE)descriptor) {
            return &listeners[i];
        }
    }
    return NULL;
}

bool raw_pipe_listens(pier_descriptor descriptor)
{
    return descriptor != 0 && listener_of(descriptor) != NULL;
}

pier_descriptor raw_pipe_listen(const struct pier_address *address, int backlog)
{
    struct listener *listener = listener_of(0);
    CHECK(listener != NULL);
    name_of(address, listener->name, sizeof(listener->name));
    listener->handle = CreateEventA(NULL, TRUE, FALSE, NULL);
    listener->count = backlog < ENDS_MAX ? backlog + 1 : ENDS_MAX;
    for (int i = 0; i < listener->count; i++) {
        open_end(listener, &listener->ends[i]);
    }
    return (pier_descriptor)listener->handle;
}

pier_descriptor raw_pipe_accept(pier_descriptor descriptor)
{
    struct listener *listener = listener_of(descriptor);
    HANDLE events[ENDS_MAX];
    for (int i = 0; i < listener->count; i++) {
        events[i] = listener->ends[i].call.hEvent;
    }
    const DWORD which = WaitForMultipleObjects((DWORD)listener->count, events, FALSE, INFINITE);
    CHECK(which < (DWORD)listener->count);
    const HANDLE accepted = listener->ends[which].pipe;
    CloseHandle(events[which]);
    open_end(listener, &listener->ends[which]);
    return (pier_descriptor)accepted;
}

void raw_pipe_forget(pier_descriptor descriptor)
{
    struct listener *listener = listener_of(descriptor);
    if (listener == NULL) {
        return;
    }
    for (int i = 0; i < listener->count; i++) {
        struct end *end = &listener->ends[i];
        DWORD unused;
        if (CancelIoEx(end->pipe, &end->call)) {
            GetOverlappedResult(end->pipe, &end->call, &unused, TRUE);
        }
        CloseHandle(end->pipe);
        CloseHandle(end->call.hEvent);
    }
    listener->handle = NULL;
}

pier_descriptor raw_pipe_connect(const struct pier_address *address)
{
    char name[256];
    DWORD mode = PIPE_READMODE_MESSAGE;
    HANDLE opened;
    name_of(address, name, sizeof(name));
    while ((opened = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                                 FILE_FLAG_OVERLAPPED, NULL)) == INVALID_HANDLE_VALUE) {
        if (GetLastError() != ERROR_PIPE_BUSY || !WaitNamedPipeA(name, NMPWAIT_WAIT_FOREVER)) {
            system_failed("a pipe");
        }
    }
    if (!SetNamedPipeHandleState(opened, &mode, NULL, NULL)) {
        system_failed("SetNamedPipeHandleState");
    }
    return (pier_descriptor)opened;
}
