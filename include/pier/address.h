/* address.h - addresses of sockets, and their text form.
 *
 * An address is plain data in one layout on every system: copy it, compare it, keep it. */

#ifndef PIER_H
#include "pier/pier.h" /* includes this file in its turn */
#endif

#ifndef PIER_ADDRESS_H
#define PIER_ADDRESS_H

#ifdef __cplusplus
extern "C" {
#endif

enum { PIER_ADDRESS_NONE, PIER_ADDRESS_IPV4, PIER_ADDRESS_IPV6, PIER_ADDRESS_UNIX };

#define PIER_PATH_MAX 107 /* bytes of a Unix-domain path at the most */

/* Room for the longest text that pier_address_format() makes, with its final zero. */
#define PIER_ADDRESS_TEXT_MAX 448

/* Room for any struct sockaddr that pier_address_to_sockaddr() makes. */
#define PIER_SOCKADDR_MAX 256

/* The address of a socket, as plain data. */
struct pier_address {
    uint8_t family;      /* PIER_ADDRESS_* */
    uint8_t path_length; /* Unix: bytes of path; an abstract one starts with a zero byte */
    uint16_t port;       /* IP: in host order */
    uint32_t scope;      /* IPv6: interface index of a link-local address, else 0 */
    union {
        uint8_t ip[16]; /* network order; IPv4 uses the first 4 */
        char path[PIER_PATH_MAX + 1];
    } u;
};

/* Reads "127.0.0.1:8080", "[::1]:0", "[fe80::1%2]:80", ":8080" (every IPv4 and IPv6 address of the
 * machine), "*:8080" (the same), "unix:/path" or "unix:@abstract" (where \\ and \xHH stand for a
 * backslash and any byte; a path may be relative). A zone is a number. Host names aren't looked up.
 * Returns 0, or PIER_EINVAL or PIER_ENAMETOOLONG with the reason in pier_error_detail(). */
PIER_API int pier_address_parse(struct pier_address *address, const char *text);

/* Writes the text form into `text` of `size` bytes, always zero-terminated when size > 0, and
 * returns the length that it has in full. What it writes pier_address_parse() reads back to the
 * same address; except "none" for PIER_ADDRESS_NONE, "unix:" for a Unix-domain socket without a
 * name, and "unix:@" for an abstract name without a byte, which are for people only. */
PIER_API size_t pier_address_format(const struct pier_address *address, char *text, size_t size);

/* Whether two addresses are the same. */
PIER_API bool pier_address_equal(const struct pier_address *a, const struct pier_address *b);

/* Reads a struct sockaddr of the system (struct sockaddr_in, _in6, _un, _storage), as getaddrinfo()
 * and recvfrom() give it: `length` bytes, of which no more is looked at, anywhere in memory. A
 * Unix-domain path ends at its first zero byte, or with the length; what begins with a zero byte is
 * an abstract name on Linux, of which each byte up to the length counts, and no name elsewhere. The
 * flow information of IPv6 is dropped. Returns 0; or, with the reason in pier_error_detail() and
 * *address as it was: PIER_EINVAL (NULL, or too short for its family), PIER_EAFNOSUPPORT (a family
 * that pier hasn't), PIER_ENAMETOOLONG (a name of more than PIER_PATH_MAX bytes). */
PIER_API int pier_address_from_sockaddr(struct pier_address *address, const void *sockaddr,
                                        size_t length);

/* Writes the struct sockaddr of an address into memory of `size` bytes, for bind(), sendto() and
 * the like; PIER_SOCKADDR_MAX is enough for any. Returns its length; or a negative PIER_E* with
 * nothing written: PIER_EINVAL (an address that wasn't filled, or too little room),
 * PIER_EAFNOSUPPORT (abstract names elsewhere than on Linux), PIER_ENAMETOOLONG (a path that is too
 * long for this system). Unix-domain addresses without a name have one too. */
PIER_API int pier_address_to_sockaddr(const struct pier_address *address, void *sockaddr,
                                      size_t size);

#ifdef __cplusplus
}
#endif

#endif
