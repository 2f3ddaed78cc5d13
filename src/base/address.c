/* address.c - the text form of addresses, without the system's help.
 *
 * The same text means the same address on every system: no name is looked up, no interface is
 * resolved, and nothing is accepted that only some parsers accept (octal or hexadecimal IPv4 parts,
 * "127.1", a port with leading zeros).
 *
 *     IPv4       127.0.0.1:8080
 *     IPv6       [2001:db8::1]:8080   [fe80::1%2]:80 (the zone is the interface's index)
 *     any        :8080   *:8080       the IPv6 address ::, which listeners take dual-stack
 *     Unix       unix:/run/a.sock     a path, relative ones too
 *     abstract   unix:@name           an abstract name, without the zero byte in front
 *
 * After "unix:" a backslash escapes: \\ is a backslash and \xHH is the byte with that number, so
 * that each address has a text. pier_address_format() writes IPv6 as RFC 5952 asks, and escapes
 * every byte outside printable ASCII, since a peer chooses its own abstract name and it ends up in
 * logs. A path that starts with '@' is written \x40..., which tells it from an abstract name.
 *
 * Two kinds of address have a text that isn't read back, as there is nothing to listen on or to
 * connect to: PIER_ADDRESS_NONE ("none") and Unix sockets without a name ("unix:"). */

#include "base/error.h"

#include <string.h>

#include "pier/address.h"

/* The scanners take a cursor and the end of the text, and move the cursor past what they read. */

static int decimal_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : -1;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Reads decimal digits up to `max`, without leading zeros. */
static bool scan_decimal(const char **cursor, const char *end, uint32_t max, uint32_t *number)
{
    const char *p = *cursor;
    uint64_t value = 0;
    while (p < end && decimal_digit(*p) >= 0 && value <= max) {
        value = value * 10 + (uint64_t)decimal_digit(*p);
        p++;
    }
    size_t digits = (size_t)(p - *cursor);
    if (digits == 0 || value > max || (digits > 1 && **cursor == '0'))
        return false;
    *cursor = p;
    *number = (uint32_t)value;
    return true;
}

/* Reads four parts of 0 to 255 with points between them. */
static bool scan_ipv4(const char **cursor, const char *end, uint8_t ip[4])
{
    const char *p = *cursor;
    for (int i = 0; i < 4; i++) {
        uint32_t part;
        if (i > 0 && (p == end || *p++ != '.'))
            return false;
        if (!scan_decimal(&p, end, 255, &part))
            return false;
        ip[i] = (uint8_t)part;
    }
    *cursor = p;
    return true;
}

/* Reads one to four hexadecimal digits. */
static bool scan_group(const char **cursor, const char *end, uint8_t group[2])
{
    const char *p = *cursor;
    unsigned value = 0;
    while (p < end && p - *cursor < 4 && hex_digit(*p) >= 0)
        value = value << 4 | (unsigned)hex_digit(*p++);
    if (p == *cursor)
        return false;
    group[0] = (uint8_t)(value >> 8);
    group[1] = (uint8_t)value;
    *cursor = p;
    return true;
}

/* Reads an IPv6 address that takes the whole text, as RFC 4291, 2.2 has it. */
static bool scan_ipv6(const char *p, const char *end, uint8_t ip[16])
{
    int size = 0, gap = -1; /* bytes read, and how many of them are in front of "::" */
    if (end - p >= 2 && p[0] == ':' && p[1] == ':') {
        gap = 0;
        p += 2;
    }
    memset(ip, 0, 16);
    while (p < end) {
        /* An IPv4 address may stand for the last two groups. */
        if (size <= 12 && memchr(p, ':', (size_t)(end - p)) == NULL &&
            scan_ipv4(&p, end, ip + size)) {
            size += 4;
            break;
        }
        if (size == 16 || !scan_group(&p, end, ip + size))
            return false;
        size += 2;
        if (p == end)
            break;
        if (*p++ != ':' || p == end)
            return false;
        if (*p == ':') {
            if (gap >= 0)
                return false;
            gap = size;
            p++;
        }
    }
    if (p != end)
        return false;
    if (gap < 0)
        return size == 16;
    if (size == 16)
        return false; /* "::" stands for one group at least */
    memmove(ip + 16 - (size - gap), ip + gap, (size_t)(size - gap));
    memset(ip + gap, 0, (size_t)(16 - size));
    return true;
}

/* Reads ":PORT" to the end of the text. */
static int parse_port(struct pier_address *address, const char *text, const char *colon,
                      const char *end)
{
    const char *p = colon + 1;
    uint32_t port;
    if (scan_decimal(&p, end, UINT16_MAX, &port) && p == end) {
        address->port = (uint16_t)port;
        return 0;
    }
    return pier__fail(
        PIER_EINVAL, "address %s has port %s: write a number from 0 to 65535 without leading zeros",
        PIER__QUOTE_TEXT(text), PIER__QUOTE(colon + 1, (size_t)(end - colon - 1)));
}

/* "[ADDRESS]:PORT" or "[ADDRESS%ZONE]:PORT". */
static int parse_bracketed(struct pier_address *address, const char *text, const char *end)
{
    const char *close = memchr(text, ']', (size_t)(end - text));
    if (close == NULL)
        return pier__fail(PIER_EINVAL, "address %s lacks the closing bracket: write [::1]:8080",
                          PIER__QUOTE_TEXT(text));
    const char *first = text + 1;
    size_t size = (size_t)(close - first);
    const char *percent = memchr(first, '%', size);
    const char *last = percent != NULL ? percent : close;

    address->family = PIER_ADDRESS_IPV6;
    if (!scan_ipv6(first, last, address->u.ip))
        return pier__fail(PIER_EINVAL,
                          "address %s: %s in brackets is no IPv6 address: write [::1]:8080",
                          PIER__QUOTE_TEXT(text), PIER__QUOTE(first, (size_t)(last - first)));
    if (percent != NULL) {
        const char *p = percent + 1;
        if (!scan_decimal(&p, close, UINT32_MAX, &address->scope) || p != close ||
            address->scope == 0)
            return pier__fail(PIER_EINVAL,
                              "address %s: zone %s must be an interface's index, 1 or more: "
                              "write %%2, not %%eth0",
                              PIER__QUOTE_TEXT(text),
                              PIER__QUOTE(percent + 1, (size_t)(close - percent - 1)));
    }
    if (close + 1 == end || close[1] != ':')
        return pier__fail(PIER_EINVAL,
                          "address %s has no port behind the bracket: write [::1]:8080",
                          PIER__QUOTE_TEXT(text));
    return parse_port(address, text, close + 1, end);
}

/* Why a text that is in none of the forms isn't, guessing at what was meant. */
PIER__COLD static int refuse_host(const char *text, const char *end, const char *colon)
{
    struct pier__quoted room;
    const char *shown = pier__quote(&room, text, (size_t)(end - text));
    if (text == end)
        return pier__fail(PIER_EINVAL, "address is empty: write 127.0.0.1:8080, [::1]:8080, :8080, "
                                       "unix:/path or unix:@name");
    if (*text == '/' || *text == '.')
        return pier__fail(PIER_EINVAL, "address %s looks like a path: write unix: in front", shown);
    if (*text == '@')
        return pier__fail(PIER_EINVAL,
                          "address %s looks like an abstract name: write unix: in front", shown);
    if (colon == NULL)
        return pier__fail(PIER_EINVAL,
                          "address %s has no port: write 127.0.0.1:8080, or :8080 for "
                          "every address of the machine",
                          shown);
    if (strstr(text, "://") != NULL)
        return pier__fail(
            PIER_EINVAL, "address %s looks like a URL: write the numeric address and the port only",
            shown);
    if (memchr(text, ':', (size_t)(colon - text)) != NULL)
        return pier__fail(PIER_EINVAL,
                          "address %s has more than one colon: write an IPv6 address in "
                          "brackets, [::1]:8080",
                          shown);
    return pier__fail(PIER_EINVAL,
                      "address %s isn't numeric, and names aren't looked up: write four numbers "
                      "up to 255 and a port, 127.0.0.1:8080",
                      shown);
}

/* "ADDRESS:PORT", "*:PORT" or ":PORT". */
static int parse_ip(struct pier_address *address, const char *text, const char *end)
{
    if (text < end && *text == '[')
        return parse_bracketed(address, text, end);
    const char *colon = end;
    while (colon > text && *colon != ':')
        colon--;
    if (text == end || *colon != ':')
        return refuse_host(text, end, NULL);

    const char *p = text;
    if (colon == text || (colon == text + 1 && *text == '*')) {
        address->family = PIER_ADDRESS_IPV6;
    } else if (scan_ipv4(&p, colon, address->u.ip) && p == colon) {
        address->family = PIER_ADDRESS_IPV4;
    } else {
        return refuse_host(text, end, colon);
    }
    return parse_port(address, text, colon, end);
}

/* Reads one byte of a path, which may be escaped. */
static bool scan_path_byte(const char **cursor, const char *end, unsigned char *byte)
{
    const char *p = *cursor;
    if (*p != '\\') {
        *byte = (unsigned char)*p;
        *cursor = p + 1;
        return true;
    }
    if (end - p >= 2 && p[1] == '\\') {
        *byte = '\\';
        *cursor = p + 2;
        return true;
    }
    if (end - p < 4 || p[1] != 'x' || hex_digit(p[2]) < 0 || hex_digit(p[3]) < 0)
        return false;
    *byte = (unsigned char)(hex_digit(p[2]) << 4 | hex_digit(p[3]));
    *cursor = p + 4;
    return true;
}

/* What follows "unix:". */
static int parse_unix(struct pier_address *address, const char *text, const char *name,
                      const char *end)
{
    address->family = PIER_ADDRESS_UNIX;
    bool abstract = name < end && *name == '@';
    size_t length = abstract ? 1 : 0; /* an abstract name lies behind a zero byte */
    const char *p = abstract ? name + 1 : name;
    if (p == end)
        return pier__fail(
            PIER_EINVAL,
            "address %s has no name: write unix:/path, or unix:@name for an abstract one",
            PIER__QUOTE_TEXT(text));
    while (p < end) {
        unsigned char byte;
        if (!scan_path_byte(&p, end, &byte))
            return pier__fail(
                PIER_EINVAL,
                "address %s: a backslash must be followed by another, or by x and two "
                "hexadecimal digits, not %s",
                PIER__QUOTE_TEXT(text), PIER__QUOTE(p, end - p < 4 ? (size_t)(end - p) : 4));
        if (byte == 0 && !abstract)
            return pier__fail(PIER_EINVAL,
                              "address %s: a path can't hold a zero byte: write unix:@name for an "
                              "abstract name",
                              PIER__QUOTE_TEXT(text));
        if (length < PIER_PATH_MAX)
            address->u.path[length] = (char)byte;
        length++;
    }
    if (length > PIER_PATH_MAX)
        return pier__fail(
            PIER_ENAMETOOLONG,
            "address %s has a name of %zu bytes: a Unix socket's name has %d at the most",
            PIER__QUOTE_TEXT(text), abstract ? length - 1 : length,
            abstract ? PIER_PATH_MAX - 1 : PIER_PATH_MAX);
    address->path_length = (uint8_t)length;
    return 0;
}

int pier_address_parse(struct pier_address *address, const char *text)
{
    static const char prefix[] = "unix:";
    PIER_REQUIRE(address != NULL, "pier_address_parse", "address must not be NULL");
    if (text == NULL)
        return pier__fail(PIER_EINVAL, "address is NULL: pass a text such as 127.0.0.1:8080");

    struct pier_address result;
    memset(&result, 0, sizeof result);
    size_t length = strlen(text);
    int error;
    if (strncmp(text, prefix, sizeof prefix - 1) == 0) {
        error = parse_unix(&result, text, text + sizeof prefix - 1, text + length);
    } else {
        error = parse_ip(&result, text, text + length);
    }
    if (error == 0)
        *address = result;
    return error;
}

bool pier_address_equal(const struct pier_address *a, const struct pier_address *b)
{
    if (a->family != b->family)
        return false;
    switch (a->family) {
    case PIER_ADDRESS_IPV4: return a->port == b->port && memcmp(a->u.ip, b->u.ip, 4) == 0;
    case PIER_ADDRESS_IPV6:
        return a->port == b->port && a->scope == b->scope && memcmp(a->u.ip, b->u.ip, 16) == 0;
    case PIER_ADDRESS_UNIX:
        return a->path_length == b->path_length && a->path_length <= PIER_PATH_MAX &&
               memcmp(a->u.path, b->u.path, a->path_length) == 0;
    default: return true;
    }
}
