/* posix_address.h - addresses as POSIX' calls of sockets take them, for src/sys alone. */

#ifndef PIER_SYS_POSIX_ADDRESS_H
#define PIER_SYS_POSIX_ADDRESS_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "sys/sys.h"

union pier__native_address {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct sockaddr_un unix_domain;
    struct sockaddr_storage storage;
};

/* Returns the length, or 0 when there is nothing to bind or to connect to: no such address on this
 * system, or a Unix-domain one without a name. */
socklen_t pier__address_to_native(const struct pier_address *address,
                                  union pier__native_address *native);
/* 0, or why the address isn't one of pier's, or not whole: PIER_EINVAL (too short for its family),
 * PIER_EAFNOSUPPORT, PIER_ENAMETOOLONG. What can be told of it is in *address also then. */
int pier__address_from_native(struct pier_address *address,
                              const union pier__native_address *native, size_t size);

#endif
