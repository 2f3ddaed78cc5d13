/* address_text.c - addresses as text, which address.c reads back. */

#include <string.h>

#include "pier/address.h"
#include "pier/pier.h"

/* A text that counts all and keeps what fits. */
struct address_text {
    char *text;
    size_t size, length;
};

static void put_char(struct address_text *out, char c)
{
    if (out->length + 1 < out->size)
        out->text[out->length] = c;
    out->length++;
}

static void put_text(struct address_text *out, const char *text)
{
    while (*text != '\0')
        put_char(out, *text++);
}

/* Without leading zeros, in lower case. */
static void put_number(struct address_text *out, uint32_t number, uint32_t base)
{
    char digits[10];
    int count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0);
    while (count > 0)
        put_char(out, digits[--count]);
}

static void put_ipv4(struct address_text *out, const uint8_t ip[4])
{
    for (int i = 0; i < 4; i++) {
        if (i > 0)
            put_char(out, '.');
        put_number(out, ip[i], 10);
    }
}

static unsigned group_of(const uint8_t ip[16], int group)
{
    return (unsigned)ip[2 * group] << 8 | ip[2 * group + 1];
}

/* RFC 5952, section 4: the longest run of two or more zero groups becomes "::", the first of
 * equals; section 5: an IPv4-mapped address shows its IPv4 part as such. */
static void put_ipv6(struct address_text *out, const uint8_t ip[16])
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (memcmp(ip, mapped, sizeof mapped) == 0) {
        put_text(out, "::ffff:");
        put_ipv4(out, ip + 12);
        return;
    }
    int longest = 8, longest_size = 1;
    for (int start = 0, size; start < 8; start += size + 1) {
        size = 0;
        while (start + size < 8 && group_of(ip, start + size) == 0)
            size++;
        if (size > longest_size) {
            longest = start;
            longest_size = size;
        }
    }
    for (int group = 0; group < 8; group++) {
        if (group == longest) {
            put_text(out, "::");
            group += longest_size - 1;
            continue;
        }
        if (group > 0 && group != longest + longest_size)
            put_char(out, ':');
        put_number(out, group_of(ip, group), 16);
    }
}

static void put_path(struct address_text *out, const char *path, size_t length)
{
    bool abstract = length > 0 && path[0] == '\0';
    if (abstract)
        put_char(out, '@');
    for (size_t i = abstract ? 1 : 0; i < length; i++) {
        unsigned char byte = (unsigned char)path[i];
        if (byte == '\\') {
            put_text(out, "\\\\");
        } else if (byte < 0x20 || byte >= 0x7f || (byte == '@' && i == 0)) {
            put_text(out, "\\x");
            put_char(out, "0123456789abcdef"[byte >> 4]);
            put_char(out, "0123456789abcdef"[byte & 15]);
        } else {
            put_char(out, (char)byte);
        }
    }
}

size_t pier_address_format(const struct pier_address *address, char *text, size_t size)
{
    struct address_text out = {text, size, 0};
    switch (address->family) {
    case PIER_ADDRESS_IPV4:
        put_ipv4(&out, address->u.ip);
        put_char(&out, ':');
        put_number(&out, address->port, 10);
        break;
    case PIER_ADDRESS_IPV6:
        put_char(&out, '[');
        put_ipv6(&out, address->u.ip);
        if (address->scope != 0) {
            put_char(&out, '%');
            put_number(&out, address->scope, 10);
        }
        put_text(&out, "]:");
        put_number(&out, address->port, 10);
        break;
    case PIER_ADDRESS_UNIX: {
        size_t length = address->path_length;
        put_text(&out, "unix:");
        put_path(&out, address->u.path, length < PIER_PATH_MAX ? length : PIER_PATH_MAX);
        break;
    }
    default: put_text(&out, "none"); break;
    }
    if (size > 0)
        text[out.length < size ? out.length : size - 1] = '\0';
    return out.length;
}
