/* windows_file.c - files, pipes, and what an adopted handle is, on Windows.
 *
 * A pipe is a named one with a name of its own, since the anonymous pipes of Windows know no
 * requests. Handles that were opened without FILE_FLAG_OVERLAPPED know none either: files of that
 * sort are read and written by calls that wait for the disk, pipes of that sort and consoles are
 * refused. */

#include "sys/windows.h"

#include <stdio.h>
#include <winternl.h>

#include "base/atomic.h"

#define PIPE_BYTES 65536

/* Of FILE_INFORMATION_CLASS, of which the header has a part. */
enum { ACCESS_INFORMATION = 8, MODE_INFORMATION = 16 };

/* One number about an open handle; 0 when it can't be had. */
static ULONG query_handle(pier_descriptor descriptor, int class)
{
    typedef NTSTATUS NTAPI query_fn(HANDLE, IO_STATUS_BLOCK *, void *, ULONG, int);
    query_fn *query = (query_fn *)(void *)pier__sys_native("NtQueryInformationFile");
    IO_STATUS_BLOCK status;
    ULONG value = 0;
    if (query == NULL ||
        query(pier__sys_handle(descriptor), &status, &value, sizeof(value), class) < 0) {
        return 0;
    }
    return value;
}

bool pier__sys_is_synchronous(pier_descriptor descriptor)
{
    return (query_handle(descriptor, MODE_INFORMATION) &
            (FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT)) != 0;
}

bool pier__sys_is_same(pier_descriptor a, pier_descriptor b)
{
    typedef NTSTATUS NTAPI compare_fn(HANDLE, HANDLE);
    compare_fn *compare = (compare_fn *)(void *)pier__sys_native("NtCompareObjects");
    return compare != NULL && compare(pier__sys_handle(a), pier__sys_handle(b)) == 0;
}

uint64_t pier__sys_file_position(pier_descriptor descriptor)
{
    LARGE_INTEGER none = {.QuadPart = 0}, position;
    return SetFilePointerEx(pier__sys_handle(descriptor), none, &position, FILE_CURRENT)
               ? (uint64_t)position.QuadPart
               : 0;
}

int pier__sys_close(pier_descriptor descriptor)
{
    int fault = pier__fault(PIER__CALL_CLOSE);
    int result = 0;
    /* Winsock has to know of the end of its sockets; anything else it refuses. */
    if (closesocket((SOCKET)descriptor) != 0 && !CloseHandle(pier__sys_handle(descriptor))) {
        result = pier__sys_last_error();
    }
    return fault != 0 ? fault : result;
}

static void name_pipe(char *name, size_t size)
{
    static unsigned serial;
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now); /* names are of no use to others, they only must not collide */
    snprintf(name, size, "\\\\.\\pipe\\pier.%lx.%x.%llx", (unsigned long)GetCurrentProcessId(),
             pier__atomic_add(&serial, 1), (unsigned long long)now.QuadPart);
}

int pier__sys_pipe(pier_descriptor pair[2], bool nonblocking)
{
    PIER__FAULT(PIPE);
    char name[80];
    (void)nonblocking; /* each request says whether it waits */
    name_pipe(name, sizeof(name));
    HANDLE reader = CreateNamedPipeA(
        name, PIPE_ACCESS_INBOUND | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE,
        PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS, 1, PIPE_BYTES,
        PIPE_BYTES, 0, NULL);
    if (reader == INVALID_HANDLE_VALUE) {
        return pier__sys_last_error();
    }
    HANDLE writer = CreateFileA(
        name, GENERIC_WRITE | FILE_READ_ATTRIBUTES, 0, NULL, OPEN_EXISTING,
        FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION, NULL);
    if (writer == INVALID_HANDLE_VALUE) {
        int error = pier__sys_last_error();
        CloseHandle(reader);
        return error;
    }
    pair[0] = (pier_descriptor)reader;
    pair[1] = (pier_descriptor)writer;
    return 0;
}

int pier__sys_is_file(pier_descriptor descriptor)
{
    SetLastError(0);
    DWORD type = GetFileType(pier__sys_handle(descriptor));
    if (descriptor < 0 || (type == FILE_TYPE_UNKNOWN && GetLastError() != 0)) {
        return pier__sys_map(ERROR_INVALID_HANDLE);
    }
    return type == FILE_TYPE_DISK;
}

bool pier__sys_tells_changes(pier_descriptor file)
{
    (void)file;
    return false;
}

bool pier__sys_has_changed(pier_descriptor file)
{
    (void)file;
    return false;
}

static int describe_socket(pier_descriptor socket, int type,
                           struct pier__sys_description *description)
{
    union pier__native_address native;
    DWORD listens = 0;
    int size = sizeof(listens);
    if (type != SOCK_STREAM) {
        return pier__sys_map(WSAEINVAL);
    }
    if (getsockopt((SOCKET)socket, SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens, &size) != 0) {
        listens = 0;
    }
    size = sizeof(native);
    if (getsockname((SOCKET)socket, &native.any, &size) == 0) {
        description->family = native.any.sa_family == AF_INET    ? PIER_ADDRESS_IPV4
                              : native.any.sa_family == AF_INET6 ? PIER_ADDRESS_IPV6
                              : native.any.sa_family == AF_UNIX  ? PIER_ADDRESS_UNIX
                                                                 : PIER_ADDRESS_NONE;
    }
    description->kind = listens != 0 ? PIER__KIND_LISTENER : PIER__KIND_STREAM;
    description->delays = listens != 0 && description->family != PIER_ADDRESS_UNIX &&
                          !pier__sys_has_no_delay(socket);
    return 0;
}

static int describe_pipe(pier_descriptor descriptor, struct pier__sys_description *description)
{
    int type = 0, size = sizeof(type);
    int error = pier__sys_start_winsock();
    if (error == 0 &&
        getsockopt((SOCKET)descriptor, SOL_SOCKET, SO_TYPE, (char *)&type, &size) == 0) {
        return describe_socket(descriptor, type, description);
    }
    description->kind = PIER__KIND_PIPE;
    /* Without requests every read would have to wait in a thread of its own. */
    return pier__sys_is_synchronous(descriptor) ? pier__sys_map(ERROR_NOT_SUPPORTED) : 0;
}

int pier__sys_describe(pier_descriptor descriptor, struct pier__sys_description *description)
{
    PIER__FAULT(DESCRIBE);
    *description = (struct pier__sys_description){.kind = PIER__KIND_NONE, .nonblocking = true};
    int is_file = pier__sys_is_file(descriptor);
    if (is_file < 0) {
        return is_file;
    }
    ULONG rights = query_handle(descriptor, ACCESS_INFORMATION);
    if (rights != 0) {
        description->read_only = (rights & (FILE_WRITE_DATA | FILE_APPEND_DATA)) == 0;
        description->write_only = (rights & FILE_READ_DATA) == 0;
    }
    BY_HANDLE_FILE_INFORMATION information;
    switch (GetFileType(pier__sys_handle(descriptor))) {
    case FILE_TYPE_PIPE: return describe_pipe(descriptor, description);
    case FILE_TYPE_DISK:
        if (!GetFileInformationByHandle(pier__sys_handle(descriptor), &information)) {
            return pier__sys_last_error();
        }
        description->kind = information.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY
                                ? PIER__KIND_NONE
                                : PIER__KIND_FILE;
        return 0;
    default: return pier__sys_map(ERROR_NOT_SUPPORTED); /* consoles and devices */
    }
}
