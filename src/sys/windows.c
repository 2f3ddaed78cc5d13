/* windows.c - errors, clock, memory and the end of the program on Windows.
 *
 * There are three families of codes: Winsock's from 10000 on, Win32's below, and the NTSTATUS of a
 * finished request, which is turned into one of the first two. GetLastError and WSAGetLastError are
 * read here and nowhere else. Sockets are in windows_socket.c, files and pipes in windows_file.c,
 * the completion port in windows_port.c. */

#include "sys/windows.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static PIER__THREAD_LOCAL int native_code;

int pier__sys_code(void)
{
    return native_code;
}

static int map_socket_code(int code)
{
    switch (code) {
    case WSAEWOULDBLOCK: return PIER_EAGAIN;
    case WSAEINTR: return PIER_EINTR;
    case WSAEBADF:
    case WSAENOTSOCK: return PIER_EBADF;
    case WSAEACCES: return PIER_EACCES;
    case WSAEFAULT: return PIER_EFAULT;
    case WSAEINVAL: return PIER_EINVAL;
    case WSAEMFILE: return PIER_EMFILE;
    case WSAEMSGSIZE: return PIER_EMSGSIZE;
    case WSAENOPROTOOPT:
    case WSAEPROTONOSUPPORT:
    case WSAESOCKTNOSUPPORT:
    case WSAEOPNOTSUPP: return PIER_ENOTSUP;
    case WSAEPFNOSUPPORT:
    case WSAEAFNOSUPPORT: return PIER_EAFNOSUPPORT;
    case WSAEADDRINUSE: return PIER_EADDRINUSE;
    case WSAEADDRNOTAVAIL: return PIER_EADDRNOTAVAIL;
    case WSAENETDOWN:
    case WSASYSNOTREADY: return PIER_ENETDOWN;
    case WSAENETUNREACH: return PIER_ENETUNREACH;
    case WSAEHOSTUNREACH:
    case WSAEHOSTDOWN: return PIER_EHOSTUNREACH;
    case WSAENETRESET:
    case WSAECONNRESET: return PIER_ECONNRESET;
    case WSAECONNABORTED: return PIER_ECONNABORTED;
    case WSAENOBUFS: return PIER_ENOBUFS;
    case WSAEISCONN: return PIER_EISCONN;
    case WSAENOTCONN: return PIER_ENOTCONN;
    case WSAESHUTDOWN: return PIER_EPIPE;
    case WSAETIMEDOUT: return PIER_ETIMEDOUT;
    case WSAECONNREFUSED: return PIER_ECONNREFUSED;
    default: return PIER_EOTHER;
    }
}

int pier__sys_map(int code)
{
    native_code = code;
    switch (code) {
    case ERROR_HANDLE_EOF: /* an answer, to a read */
    case 0: return 0;
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return PIER_ENOENT;
    case ERROR_TOO_MANY_OPEN_FILES: return PIER_EMFILE;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION: return PIER_EACCES;
    case ERROR_INVALID_HANDLE: return PIER_EBADF;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_COMMITMENT_LIMIT:
    case ERROR_OUTOFMEMORY: return PIER_ENOMEM;
    case ERROR_NO_SYSTEM_RESOURCES:
    case ERROR_WORKING_SET_QUOTA: return PIER_ENOBUFS;
    case ERROR_WRITE_PROTECT: return PIER_EROFS;
    case ERROR_CRC:
    case ERROR_IO_DEVICE:
    case ERROR_GEN_FAILURE: return PIER_EIO;
    case ERROR_NOT_SUPPORTED:
    case ERROR_CALL_NOT_IMPLEMENTED:
    case ERROR_INVALID_FUNCTION: return PIER_ENOTSUP;
    case ERROR_INVALID_PARAMETER: return PIER_EINVAL;
    case ERROR_BROKEN_PIPE:
    case ERROR_NO_DATA: return PIER_EPIPE;
    case ERROR_PIPE_NOT_CONNECTED:
    case ERROR_NETNAME_DELETED: return PIER_ECONNRESET;
    case ERROR_CONNECTION_REFUSED: return PIER_ECONNREFUSED;
    case ERROR_CONNECTION_ABORTED: return PIER_ECONNABORTED;
    case ERROR_NETWORK_UNREACHABLE: return PIER_ENETUNREACH;
    case ERROR_HOST_UNREACHABLE: return PIER_EHOSTUNREACH;
    case ERROR_PIPE_BUSY:
    case ERROR_BUSY: return PIER_EBUSY;
    case ERROR_HANDLE_DISK_FULL:
    case ERROR_DISK_FULL: return PIER_ENOSPC;
    case ERROR_DIR_NOT_EMPTY: return PIER_ENOTEMPTY;
    case ERROR_NOT_SAME_DEVICE: return PIER_EXDEV;
    case ERROR_BAD_EXE_FORMAT: return PIER_ENOEXEC;
    case ERROR_TOO_MANY_LINKS: return PIER_EMLINK;
    case 1295: return PIER_EDQUOT; /* ERROR_DISK_QUOTA_EXCEEDED, which MinGW lacks */
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS: return PIER_EEXIST;
    case ERROR_FILENAME_EXCED_RANGE: return PIER_ENAMETOOLONG;
    case ERROR_SEM_TIMEOUT:
    case WAIT_TIMEOUT: return PIER_ETIMEDOUT;
    case ERROR_OPERATION_ABORTED: return PIER_ECANCELED;
    case ERROR_NOACCESS: return PIER_EFAULT;
    default: return map_socket_code(code);
    }
}

/* Statuses that pier's requests end with, seen in tests most of them, where
 * RtlNtStatusToDosError() makes one code of several or gives one that says less. */
int pier__sys_status_code(long status)
{
    typedef ULONG NTAPI convert_fn(LONG);
    switch ((unsigned long)status) {
    case 0: return 0;
    case 0xc0000011: return ERROR_HANDLE_EOF;
    case 0x8000000a: /* closed under the request */
    case 0xc0000024:
    case 0xc0000120:
    case 0xc0000240: return ERROR_OPERATION_ABORTED;
    case 0xc000014b:
    case 0xc00000b1: return ERROR_BROKEN_PIPE;
    case 0xc00000b0: return ERROR_PIPE_NOT_CONNECTED;
    case 0xc0000008: return WSAENOTSOCK;
    case 0x80000005: return WSAEMSGSIZE;
    case 0xc0000007:
    case 0xc0000017:
    case 0xc0000044:
    case 0xc000009a:
    case 0xc00000a1:
    case 0xc000012d:
    case 0xc000013d: return WSAENOBUFS;
    case 0xc0000022: return ERROR_ACCESS_DENIED;
    case 0xc0000043:
    case 0xc0000209:
    case 0xc000020a: return WSAEADDRINUSE;
    case 0xc00000b5:
    case 0xc000013f: return WSAETIMEDOUT;
    case 0xc00000bb: return WSAEOPNOTSUPP;
    case 0xc0000140: return WSAECONNABORTED; /* a connection that was gone before it was accepted */
    case 0xc0000018:
    case 0xc0000141:
    case 0xc0000207: return WSAEADDRNOTAVAIL;
    case 0xc000013c:
    case 0xc000013e:
    case 0xc000020c:
    case 0xc000020d:
    case 0xc000023f: return WSAECONNRESET;
    case 0xc00000bc:
    case 0xc0000236: return WSAECONNREFUSED;
    case 0xc00000be:
    case 0xc000023c:
    case 0xc000023e: return WSAENETUNREACH;
    case 0xc000023d: return WSAEHOSTUNREACH;
    case 0xc000013b:
    case 0xc000020f:
    case 0xc0000241: return WSAECONNABORTED;
    case 0xc000007f: return ERROR_DISK_FULL;
    case 0xc0000185: return ERROR_IO_DEVICE;
    default: break;
    }
    convert_fn *convert = (convert_fn *)(void *)pier__sys_native("RtlNtStatusToDosError");
    ULONG code = convert != NULL ? convert(status) : ERROR_MR_MID_NOT_FOUND;
    return code != ERROR_MR_MID_NOT_FOUND ? (int)code : (int)status; /* unknown: kept as it is */
}

PIER__COLD int pier__sys_socket_error(void)
{
    return pier__sys_map(WSAGetLastError());
}

PIER__COLD int pier__sys_last_error(void)
{
    return pier__sys_map((int)GetLastError());
}

FARPROC pier__sys_native(const char *name)
{
    HMODULE library = GetModuleHandleW(L"ntdll.dll");
    return library != NULL ? GetProcAddress(library, name) : NULL;
}

/* The performance counter: the interrupt-time clocks go in steps of 15.6 ms. */
uint64_t pier__sys_clock(void)
{
    static uint64_t frequency;
    LARGE_INTEGER value;
    if (PIER__UNLIKELY(frequency == 0)) {
        QueryPerformanceFrequency(&value);
        frequency = (uint64_t)value.QuadPart;
    }
    QueryPerformanceCounter(&value);
    uint64_t count = (uint64_t)value.QuadPart;
    return count / frequency * PIER_SECOND + count % frequency * PIER_SECOND / frequency;
}

uint64_t pier__sys_forks(void)
{
    return 0;
}

void pier__sys_watch_forks(void) {}

void pier__sys_yield(void)
{
    SwitchToThread();
}

const char *pier__sys_environment(const char *name)
{
    return getenv(name);
}

void *pier__sys_allocate(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, new_size);
}

int pier__sys_socket_capabilities(void)
{
    return 0;
}
