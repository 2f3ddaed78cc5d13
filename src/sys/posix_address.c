/* posix_address.c - the system's own form of addresses, struct sockaddr, on POSIX systems.
 *
 * What comes from the kernel is trusted to be whole; what comes from a program isn't: nothing
 * beyond the length that it gives is looked at, and its memory need not be aligned. */

#include "sys/posix_address.h"

#include <assert.h>
#include <string.h>

/* The bytes in front of a Unix-domain path. */
#define PATH_AT offsetof(struct sockaddr_un, sun_path)

static_assert(sizeof(union pier__native_address) <= PIER_SOCKADDR_MAX,
              "PIER_SOCKADDR_MAX has room for each");

#ifdef __linux__
enum { HAS_ABSTRACT = 1 };
#else
enum { HAS_ABSTRACT = 0 };
#endif

static int path_to_native(const struct pier_address *address, union pier__native_address *native)
{
    size_t length = address->path_length;
    bool abstract = length > 0 && address->u.path[0] == '\0';
    native->unix_domain.sun_family = AF_UNIX;
    if (abstract && !HAS_ABSTRACT) {
        return PIER_EAFNOSUPPORT;
    }
    if (length > PIER_PATH_MAX || length + 1 > sizeof(native->unix_domain.sun_path)) {
        return PIER_ENAMETOOLONG;
    }
    memcpy(native->unix_domain.sun_path, address->u.path, length);
    return (int)(PATH_AT + length + (abstract || length == 0 ? 0 : 1));
}

static int to_native(const struct pier_address *address, union pier__native_address *native)
{
    memset(native, 0, sizeof(*native));
    switch (address->family) {
    case PIER_ADDRESS_IPV4:
        native->ipv4.sin_family = AF_INET;
        native->ipv4.sin_port = htons(address->port);
        memcpy(&native->ipv4.sin_addr, address->u.ip, 4);
        return sizeof(native->ipv4);
    case PIER_ADDRESS_IPV6:
        native->ipv6.sin6_family = AF_INET6;
        native->ipv6.sin6_port = htons(address->port);
        native->ipv6.sin6_scope_id = address->scope;
        memcpy(&native->ipv6.sin6_addr, address->u.ip, 16);
        return sizeof(native->ipv6);
    case PIER_ADDRESS_UNIX: return path_to_native(address, native);
    default: return PIER_EINVAL;
    }
}

socklen_t pier__address_to_native(const struct pier_address *address,
                                  union pier__native_address *native)
{
    int size = to_native(address, native);
    bool has_name = address->family != PIER_ADDRESS_UNIX || address->path_length != 0;
    return size < 0 || !has_name ? 0 : (socklen_t)size;
}

static int path_from_native(struct pier_address *address, const union pier__native_address *native,
                            size_t size)
{
    const char *path = native->unix_domain.sun_path;
    size_t most = sizeof(native->unix_domain.sun_path);
    size_t length = size > PATH_AT ? size - PATH_AT : 0;
    address->family = PIER_ADDRESS_UNIX;
    if (length > 0 && path[0] != '\0') {
        length = strnlen(path, length < most ? length : most);
    } else if (!HAS_ABSTRACT) {
        length = 0; /* zeros are what some systems give as the name of a socket without one */
    }
    address->path_length = (uint8_t)(length > PIER_PATH_MAX ? PIER_PATH_MAX : length);
    memcpy(address->u.path, path, address->path_length);
    return length > PIER_PATH_MAX ? PIER_ENAMETOOLONG : 0;
}

int pier__address_from_native(struct pier_address *address,
                              const union pier__native_address *native, size_t size)
{
    memset(address, 0, sizeof(*address));
    if (size < offsetof(struct sockaddr, sa_data)) {
        return PIER_EINVAL;
    }
    switch (native->any.sa_family) {
    case AF_INET:
        if (size < sizeof(native->ipv4)) {
            return PIER_EINVAL;
        }
        address->family = PIER_ADDRESS_IPV4;
        address->port = ntohs(native->ipv4.sin_port);
        memcpy(address->u.ip, &native->ipv4.sin_addr, 4);
        return 0;
    case AF_INET6:
        if (size < sizeof(native->ipv6)) {
            return PIER_EINVAL;
        }
        address->family = PIER_ADDRESS_IPV6;
        address->port = ntohs(native->ipv6.sin6_port);
        address->scope = native->ipv6.sin6_scope_id;
        memcpy(address->u.ip, &native->ipv6.sin6_addr, 16);
        return 0;
    case AF_UNIX: return path_from_native(address, native, size);
    default: return PIER_EAFNOSUPPORT;
    }
}

#ifdef __linux__
/* For io_uring: in linux_uring.h, whose other needs this file doesn't have. */
unsigned pier__sys_native_address(const struct pier_address *address, void *memory);

unsigned pier__sys_native_address(const struct pier_address *address, void *memory)
{
    union pier__native_address native;
    socklen_t size = pier__address_to_native(address, &native);
    memcpy(memory, &native, sizeof(native) < 128 ? sizeof(native) : 128);
    return size;
}
#endif

int pier__sys_address_from(struct pier_address *address, const void *native, size_t size,
                           int *family)
{
    union pier__native_address copy;
    struct pier_address result;
    memset(&copy, 0, sizeof(copy));
    memcpy(&copy, native, size < sizeof(copy) ? size : sizeof(copy));
    *family = copy.any.sa_family;
    int error = pier__address_from_native(&result, &copy, size);
    if (error == 0) {
        *address = result;
    }
    return error;
}

int pier__sys_address_to(const struct pier_address *address, void *native)
{
    union pier__native_address made;
    int size = to_native(address, &made);
    if (size > 0) {
#ifdef SIN6_LEN /* where struct sockaddr knows its length */
        made.any.sa_len = (uint8_t)size;
#endif
        memcpy(native, &made, (size_t)size);
    }
    return size;
}
