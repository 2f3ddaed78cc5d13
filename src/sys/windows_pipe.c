/* windows_pipe.c - named pipes in place of Unix-domain sockets: names, and what is asked of pipes
 * besides reading and writing.
 *
 * A name in the abstract namespace is a pipe everywhere: unix:@name is \\.\pipe\name, which other
 * programs use too. A path is one where Winsock has no AF_UNIX: unix:/run/x is
 * \\.\pipe\unix!!run!x, with ! for each slash. Bytes that a pipe's name can't have, or that Windows
 * would change in it, stand there as %XX: see encode(). The pipes of one name are told apart by
 * nothing, and who may connect is the program's own user, the system and administrators.
 *
 * Pipes are of messages, of which an empty one ends the stream in its direction: a convention that
 * go-winio has as well. Which message a byte came in has no meaning otherwise.
 *
 * A listener's name is held by an end that had a client once, this function itself, and so is never
 * given another: what accepts are further ends, made as needed. Wine 8.0 knows no
 * FILE_FLAG_FIRST_PIPE_INSTANCE, so it is checked afterwards whether that end is the only one. */

#include "sys/windows.h"

#include <sddl.h>
#include <stdio.h>
#include <string.h>
#include <winioctl.h>
#include <winternl.h>

#include "base/atomic.h"

#define PIPE_BYTES 65536
#define PREFIX L"\\\\.\\pipe\\"
#define PREFIX_LENGTH 9
#define NAME_MAX 256 /* of all of it, says CreateNamedPipe() */
#define PATH_PREFIX "unix!"
#define PATH_PREFIX_LENGTH 5

#ifndef FSCTL_PIPE_WAIT
#define FSCTL_PIPE_WAIT CTL_CODE(FILE_DEVICE_NAMED_PIPE, 6, METHOD_BUFFERED, FILE_ANY_ACCESS)
#endif

/* ---- which addresses */

/* Whether Winsock has AF_UNIX. An answer that says nothing about that isn't kept. */
static bool has_unix_sockets(void)
{
    enum { UNKNOWN, YES, NO };
    static uint32_t known;
    uint32_t answer = pier__atomic_load(&known);
    if (answer != UNKNOWN || pier__sys_start_winsock() < 0) {
        return answer == YES;
    }
    SOCKET made = WSASocketW(AF_UNIX, SOCK_STREAM, 0, NULL, 0,
                             WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (made == INVALID_SOCKET) {
        int error = pier__sys_socket_error();
        if (error != PIER_EAFNOSUPPORT && error != PIER_ENOTSUP && error != PIER_EINVAL) {
            return true; /* making the socket will say what is wrong */
        }
        answer = NO;
    } else {
        closesocket(made);
        answer = YES;
    }
    pier__atomic_store(&known, answer);
    return answer == YES;
}

static bool is_abstract(const struct pier_address *address)
{
    return address->path_length > 0 && address->u.path[0] == '\0';
}

bool pier__sys_uses_pipe(const struct pier_address *address)
{
    return address->family == PIER_ADDRESS_UNIX && (is_abstract(address) || !has_unix_sockets());
}

/* ---- names */

/* Whether a byte stands for itself. A dot or space at the end of a component Windows would take
 * away; a slash it makes a backslash. Of paths a backslash isn't kept either:
 * it needn't be the name of a directory of pipes. */
static bool is_kept(const char *text, size_t length, size_t i, bool is_path)
{
    unsigned char byte = (unsigned char)text[i];
    bool is_last = i + 1 == length;
    if (byte < ' ' || byte == 0x7f || strchr("/%\"*<>?|", byte) != NULL) {
        return false;
    }
    switch (byte) {
    case '.':
    case ' ': return !is_last && text[i + 1] != '\\';
    case '\\': return !is_path && i > 0 && !is_last && text[i - 1] != '\\';
    case '!': return !is_path;
    default: return true;
    }
}

/* The name below \\.\pipe\ in UTF-8, with three bytes for one at the worst. Returns its length. */
static size_t encode(const struct pier_address *address,
                     char name[PATH_PREFIX_LENGTH + 3 * PIER_PATH_MAX + 1])
{
    bool is_path = !is_abstract(address);
    const char *text = address->u.path + (is_path ? 0 : 1);
    size_t length = address->path_length - (is_path ? 0u : 1u), used = 0;
    bool looks_like_path = !is_path && length >= PATH_PREFIX_LENGTH &&
                           _strnicmp(text, PATH_PREFIX, PATH_PREFIX_LENGTH) == 0;
    if (is_path) {
        memcpy(name, PATH_PREFIX, PATH_PREFIX_LENGTH);
        used = PATH_PREFIX_LENGTH;
    }
    for (size_t i = 0; i < length; i++) {
        if (is_path && text[i] == '/') {
            name[used++] = '!';
        } else if (is_kept(text, length, i, is_path) && !(looks_like_path && i == 0)) {
            name[used++] = text[i];
        } else {
            used += (size_t)snprintf(name + used, 4, "%%%02X", (unsigned char)text[i]);
        }
    }
    return used;
}

static int digit_of(char digit)
{
    return digit >= '0' && digit <= '9'   ? digit - '0'
           : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
           : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                          : -1;
}

/* The address of a name. One that is too long for an address, as others may make them, is no name.
 */
static void decode(const char *name, size_t length, struct pier_address *address)
{
    bool is_path = length > PATH_PREFIX_LENGTH &&
                   memcmp(name, PATH_PREFIX, PATH_PREFIX_LENGTH) == 0;
    size_t used = is_path ? 0 : 1;
    memset(address, 0, sizeof(*address));
    address->family = PIER_ADDRESS_UNIX;
    for (size_t i = is_path ? PATH_PREFIX_LENGTH : 0; i < length; i++) {
        int high = -1, low = -1;
        if (used == PIER_PATH_MAX) {
            memset(&address->u, 0, sizeof(address->u));
            return;
        }
        if (name[i] == '%' && i + 2 < length) {
            high = digit_of(name[i + 1]);
            low = digit_of(name[i + 2]);
        }
        if (high >= 0 && low >= 0) {
            address->u.path[used++] = (char)(high << 4 | low);
            i += 2;
        } else {
            address->u.path[used++] = is_path && name[i] == '!' ? '/' : name[i];
        }
    }
    address->path_length = (uint8_t)used;
}

/* All of the name, with a zero at its end. Returns its length, or a negative PIER_E*. */
static int native_name(const struct pier_address *address, wchar_t name[NAME_MAX + 1])
{
    char text[PATH_PREFIX_LENGTH + 3 * PIER_PATH_MAX + 1];
    if (address->path_length == (is_abstract(address) ? 1 : 0)) {
        return pier__sys_map(WSAEINVAL);
    }
    size_t length = encode(address, text);
    memcpy(name, PREFIX, PREFIX_LENGTH * sizeof(*name));
    int wide = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, (int)length,
                                   name + PREFIX_LENGTH, NAME_MAX - PREFIX_LENGTH);
    if (wide == 0) {
        return pier__sys_map(
            GetLastError() == ERROR_INSUFFICIENT_BUFFER ? ERROR_FILENAME_EXCED_RANGE : WSAEINVAL);
    }
    name[PREFIX_LENGTH + wide] = L'\0';
    return PREFIX_LENGTH + wide;
}

struct name_query {
    FILE_NAME_INFO info;
    wchar_t more[NAME_MAX];
};

/* The name of an open pipe, which begins with a backslash. Returns its length or an error. */
static int query_name(pier_descriptor pipe, struct name_query *query)
{
    if (!GetFileInformationByHandleEx(pier__sys_handle(pipe), FileNameInfo, query,
                                      sizeof(*query))) {
        return pier__sys_last_error();
    }
    size_t length = query->info.FileNameLength / sizeof(wchar_t);
    return length > 1 && length <= NAME_MAX ? (int)length : pier__sys_map(ERROR_INVALID_NAME);
}

int pier__sys_pipe_address(pier_descriptor pipe, bool of_peer, struct pier_address *address)
{
    PIER__FAULT(NAME);
    struct name_query query;
    char text[3 * NAME_MAX];
    DWORD flags = 0;
    int length = 0;
    *address = (struct pier_address){.family = PIER_ADDRESS_UNIX};
    if (!GetNamedPipeInfo(pier__sys_handle(pipe), &flags, NULL, NULL, NULL) ||
        of_peer != ((flags & PIPE_SERVER_END) == 0)) {
        return 0; /* the client's end has no name, nor what isn't connected yet */
    }
    int error = query_name(pipe, &query);
    if (error < 0) {
        return error;
    }
    length = WideCharToMultiByte(CP_UTF8, 0, query.info.FileName + 1, error - 1, text, sizeof(text),
                                 NULL, NULL);
    decode(text, (size_t)length, address);
    return 0;
}

/* ---- listening */

static pier_descriptor make_end(const wchar_t *name, bool first)
{
    SECURITY_ATTRIBUTES security = {.nLength = sizeof(security)};
    /* The system, administrators, the owner: the default would let everybody read. */
    if (!ConvertStringSecurityDescriptorToSecurityDescriptorA(
            "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;OW)", SDDL_REVISION_1,
            &security.lpSecurityDescriptor, NULL)) {
        return pier__sys_last_error();
    }
    HANDLE made = CreateNamedPipeW(
        name,
        PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | (first ? FILE_FLAG_FIRST_PIPE_INSTANCE : 0),
        PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
        PIPE_UNLIMITED_INSTANCES, PIPE_BYTES, PIPE_BYTES, 0, &security);
    int code = (int)GetLastError();
    LocalFree(security.lpSecurityDescriptor);
    return made != INVALID_HANDLE_VALUE ? (pier_descriptor)made : pier__sys_map(code);
}

static HANDLE open_client(const wchar_t *name)
{
    return CreateFileW(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                       FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION,
                       NULL);
}

static bool is_only_end(pier_descriptor pipe)
{
    DWORD ends = 0;
    return GetNamedPipeHandleStateW(pier__sys_handle(pipe), NULL, &ends, NULL, NULL, NULL, 0) &&
           ends == 1;
}

/* Takes the name, and a client that goes again: no other will be given this end then. Somebody
 * else's client may be faster, but hardly again and again. */
static pier_descriptor hold_name(const wchar_t *name)
{
    for (int tries = 0; tries < 8; tries++) {
        pier_descriptor holder = make_end(name, true);
        if (holder < 0 || !is_only_end(holder)) {
            int code = pier__sys_code();
            if (holder >= 0) {
                CloseHandle(pier__sys_handle(holder));
            } else if (code != ERROR_ACCESS_DENIED && code != ERROR_PIPE_BUSY) {
                return holder;
            }
            break;
        }
        HANDLE client = open_client(name);
        if (client != INVALID_HANDLE_VALUE) {
            CloseHandle(client);
            return holder;
        }
        CloseHandle(pier__sys_handle(holder));
    }
    return pier__sys_map(WSAEADDRINUSE);
}

/* A place for the client's end: the directory of pipes, which is also where one waits for them. */
static pier_descriptor open_place(void)
{
    HANDLE opened = CreateFileW(PREFIX, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                                OPEN_EXISTING, FILE_FLAG_OVERLAPPED, NULL);
    return opened != INVALID_HANDLE_VALUE ? (pier_descriptor)opened : pier__sys_last_error();
}

pier_descriptor pier__sys_pipe_open(const struct pier_address *address, bool listens)
{
    PIER__FAULT(SOCKET);
    wchar_t name[NAME_MAX + 1];
    int length = native_name(address, name);
    if (length < 0) {
        return length;
    }
    if (listens) {
        PIER__FAULT(BIND);
    }
    return listens ? hold_name(name) : open_place();
}

pier_descriptor pier__sys_pipe_instance(pier_descriptor listener)
{
    PIER__FAULT(SOCKET);
    struct name_query query;
    wchar_t name[NAME_MAX + PREFIX_LENGTH + 1];
    int length = query_name(listener, &query);
    if (length < 0) {
        return length;
    }
    memcpy(name, PREFIX, PREFIX_LENGTH * sizeof(*name));
    memcpy(name + PREFIX_LENGTH, query.info.FileName + 1, ((size_t)length - 1) * sizeof(*name));
    name[PREFIX_LENGTH + length - 1] = L'\0';
    return make_end(name, false);
}

/* In a thread of the system's. What the packet leads to may be gone once it has been posted. */
static void CALLBACK on_client(void *context, BOOLEAN timed_out)
{
    const struct pier__pipe_accept *accept = context;
    (void)timed_out;
    PostQueuedCompletionStatus(accept->port, 0, PIER__KEY_ACCEPT, accept->request);
}

/* The request is pending: has its end posted to the port. If that can't be, takes it back. */
static int64_t post_at_end(HANDLE pipe, struct pier__pipe_accept *accept)
{
    if (RegisterWaitForSingleObject(&accept->wait, accept->event, on_client, accept, INFINITE,
                                    WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE)) {
        return PIER__PACKET;
    }
    int code = (int)GetLastError();
    DWORD unused;
    CancelIoEx(pipe, accept->request);
    bool connected = GetOverlappedResult(pipe, accept->request, &unused, TRUE);
    accept->wait = NULL;
    return connected ? 0 : pier__sys_map(code);
}

int64_t pier__sys_start_pipe_accept(pier_descriptor instance, pier_descriptor port,
                                    struct pier__pipe_accept *accept, OVERLAPPED *request)
{
    PIER__FAULT(ACCEPT);
    HANDLE pipe = pier__sys_handle(instance);
    int64_t result;
    *accept = (struct pier__pipe_accept){.event = CreateEventW(NULL, TRUE, FALSE, NULL),
                                         .port = pier__sys_handle(port),
                                         .request = request};
    if (accept->event == NULL) {
        return pier__sys_last_error();
    }
    memset(request, 0, sizeof(*request));
    request->hEvent = accept->event;
    int code = ConnectNamedPipe(pipe, request) ? ERROR_IO_PENDING : (int)GetLastError();
    switch (code) {
    case ERROR_IO_PENDING: result = post_at_end(pipe, accept); break;
    case ERROR_PIPE_CONNECTED:             /* a client was faster */
    case ERROR_NO_DATA: result = 0; break; /* and has gone again; what it wrote can be read */
    default: result = pier__sys_map(code);
    }
    if (result != PIER__PACKET) {
        CloseHandle(accept->event);
        accept->event = NULL;
    }
    return result;
}

void pier__sys_finish_pipe_accept(struct pier__pipe_accept *accept)
{
    /* Its function may still be returning, which this call doesn't wait for. */
    UnregisterWaitEx(accept->wait, NULL);
    CloseHandle(accept->event);
    accept->wait = accept->event = NULL;
}

/* ---- connecting */

pier_descriptor pier__sys_pipe_connect(const struct pier_address *address)
{
    PIER__FAULT(CONNECT);
    wchar_t name[NAME_MAX + 1];
    DWORD mode = PIPE_READMODE_MESSAGE;
    int length = pier__sys_uses_pipe(address) ? native_name(address, name)
                                              : pier__sys_map(WSAEAFNOSUPPORT);
    if (length < 0) {
        return length;
    }
    HANDLE opened = open_client(name);
    if (opened == INVALID_HANDLE_VALUE) {
        int error = pier__sys_last_error();
        /* Of a name that isn't in the file system Unix says this. */
        return error == PIER_ENOENT && is_abstract(address) ? PIER_ECONNREFUSED : error;
    }
    SetNamedPipeHandleState(opened, &mode, NULL, NULL); /* pipes of bytes, of others, refuse */
    return (pier_descriptor)opened;
}

/* What WaitNamedPipe() does, but as a request. DeviceIoControl() would hand this code to the driver
 * as one of another sort. */
int64_t pier__sys_start_pipe_wait(pier_descriptor unconnected, const struct pier_address *address,
                                  uint64_t timeout_ns, OVERLAPPED *request)
{
    PIER__FAULT(CONNECT);
    /* FILE_PIPE_WAIT_FOR_BUFFER of the driver kit. */
    struct {
        LARGE_INTEGER timeout;
        ULONG length;
        BOOLEAN has_timeout;
        wchar_t name[NAME_MAX];
    } wait = {.has_timeout = TRUE};
    typedef NTSTATUS NTAPI control_fn(HANDLE, HANDLE, PIO_APC_ROUTINE, void *, IO_STATUS_BLOCK *,
                                      ULONG, void *, ULONG, void *, ULONG);
    control_fn *control = (control_fn *)(void *)pier__sys_native("NtFsControlFile");
    wchar_t name[NAME_MAX + 1];
    int length = control != NULL ? native_name(address, name) : pier__sys_map(ERROR_NOT_SUPPORTED);
    if (length < 0) {
        return length;
    }
    length -= PREFIX_LENGTH;
    wait.timeout.QuadPart = -(LONGLONG)(timeout_ns / 100); /* from now on, in steps of 100 ns */
    wait.length = (ULONG)((size_t)length * sizeof(*name));
    memcpy(wait.name, name + PREFIX_LENGTH, wait.length);
    memset(request, 0, sizeof(*request));
    NTSTATUS result = control(pier__sys_handle(unconnected), NULL, NULL, request,
                              (IO_STATUS_BLOCK *)(void *)request, FSCTL_PIPE_WAIT, &wait,
                              (ULONG)((char *)wait.name - (char *)&wait) + wait.length, NULL, 0);
    return result >= 0 ? PIER__PACKET : pier__sys_map(pier__sys_status_code(result));
}

/* ---- connections */

int64_t pier__sys_start_pipe_shutdown(pier_descriptor pipe, OVERLAPPED *request)
{
    PIER__FAULT(SHUTDOWN);
    memset(request, 0, sizeof(*request));
    if (WriteFile(pier__sys_handle(pipe), "", 0, NULL, request) ||
        GetLastError() == ERROR_IO_PENDING) {
        return PIER__PACKET;
    }
    return pier__sys_last_error();
}

bool pier__sys_pipe_is_empty(pier_descriptor pipe)
{
    DWORD available = 0;
    return !PeekNamedPipe(pier__sys_handle(pipe), NULL, 0, NULL, &available, NULL) ||
           available == 0;
}
