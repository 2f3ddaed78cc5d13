/* address.c - addresses from and to the form that the system's own calls have, struct sockaddr. */

#include "base/check.h"
#include "base/error.h"
#include "sys/sys.h"

int pier_address_from_sockaddr(struct pier_address *address, const void *sockaddr, size_t length)
{
    int family = 0;
    PIER_REQUIRE(address != NULL, "pier_address_from_sockaddr", "address must not be NULL");
    if (sockaddr == NULL) {
        return pier__fail(PIER_EINVAL, "the struct sockaddr is NULL");
    }
    int error = pier__sys_address_from(address, sockaddr, length, &family);
    switch (error) {
    case 0: return 0;
    case PIER_EINVAL:
        return pier__fail(error,
                          "a struct sockaddr of %lu bytes is too short for its family (%d): give "
                          "the length that the system gave",
                          (unsigned long)length, family);
    case PIER_ENAMETOOLONG:
        return pier__fail(error,
                          "a struct sockaddr of %lu bytes has a Unix-domain name of more than %d: "
                          "give the length of the address, not that of the memory",
                          (unsigned long)length, PIER_PATH_MAX);
    default:
        return pier__fail(error,
                          "a struct sockaddr of family %d can't be an address of pier's: those are "
                          "IPv4, IPv6 and Unix-domain",
                          family);
    }
}

int pier_address_to_sockaddr(const struct pier_address *address, void *sockaddr, size_t size)
{
    unsigned char native[PIER_SOCKADDR_MAX];
    PIER_REQUIRE(address != NULL, "pier_address_to_sockaddr", "address must not be NULL");
    int length = pier__sys_address_to(address, native);
    switch (length) {
    case PIER_EINVAL:
        return pier__fail(length, "the address has family %d: fill it with pier_address_parse()",
                          address->family);
    case PIER_ENAMETOOLONG:
        return pier__fail(length, "a Unix-domain name of %d bytes is too long for this system",
                          address->path_length);
    case PIER_EAFNOSUPPORT:
        return pier__fail(length, "this system has no abstract Unix-domain names");
    default: break;
    }
    if (sockaddr == NULL || size < (size_t)length) {
        return pier__fail(PIER_EINVAL,
                          "the struct sockaddr takes %d bytes, and there is room for %lu: give it "
                          "PIER_SOCKADDR_MAX (%d)",
                          length, sockaddr == NULL ? 0 : (unsigned long)size, PIER_SOCKADDR_MAX);
    }
    memcpy(sockaddr, native, (size_t)length);
    return length;
}
