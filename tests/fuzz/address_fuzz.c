/* address_fuzz.c - pier_address_parse() on any text, pier_address_format() on any address.
 *
 * What parses must format to a text that parses to the same address, whose text is the same
 * again; what doesn't must say why in one line. A buffer of any size is filled up to its end and
 * no further (the sanitizers see to that), and the length returned doesn't depend on it. */

#include "standalone.h"

#include "pier/pier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const fuzz_name = "address";
const int fuzz_needs_backend = 0;

static void demand(bool condition, const char *what, const char *text)
{
    if (!condition) {
        fprintf(stderr, "fuzz-address: %s: \"%s\"\n", what, text);
        abort();
    }
}

static void check_format(const struct pier_address *address, bool parses)
{
    char text[PIER_ADDRESS_TEXT_MAX], again[PIER_ADDRESS_TEXT_MAX];
    struct pier_address back;
    const size_t length = pier_address_format(address, text, sizeof(text));
    demand(length < sizeof(text), "PIER_ADDRESS_TEXT_MAX is too small", text);
    demand(strlen(text) == length, "the length isn't that of the text", text);
    for (size_t size = 0; size <= length + 1; size += 1 + size / 4) {
        char *cut = malloc(size + 1);
        memset(cut, 0x5a, size + 1);
        demand(pier_address_format(address, cut, size) == length, "the length varies", text);
        demand(cut[size] == 0x5a, "written beyond the end", text);
        demand(size == 0 || strlen(cut) == (length < size ? length : size - 1), "badly cut", text);
        demand(size == 0 || strncmp(cut, text, size - 1) == 0, "cut text differs", text);
        free(cut);
    }
    if (!parses) {
        return;
    }
    demand(pier_address_parse(&back, text) == 0, "its own text isn't read", text);
    demand(pier_address_equal(address, &back), "reads back to another address", text);
    demand(pier_address_equal(&back, address), "equality is one-sided", text);
    pier_address_format(&back, again, sizeof(again));
    demand(strcmp(text, again) == 0, "has another text the second time", text);
}

static void check_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    struct pier_address address;
    memcpy(text, data, size);
    text[size] = '\0';
    memset(&address, 0x5a, sizeof(address));
    const int result = pier_address_parse(&address, text);
    demand(result == 0 || result == PIER_EINVAL || result == PIER_ENAMETOOLONG,
           "an unexpected result of pier_address_parse()", text);
    if (result == 0) {
        demand(address.path_length <= PIER_PATH_MAX, "too long a path", text);
        check_format(&address, true);
    } else {
        const char *detail = pier_error_detail();
        demand(strlen(detail) > 0 && strchr(detail, '\n') == NULL, "no line of detail", text);
    }
    free(text);
}

/* An address from the system or the program: any bytes in a sound layout. */
static void check_address(const uint8_t *data, size_t size)
{
    struct pier_address address;
    memset(&address, 0, sizeof(address));
    memcpy(&address, data, size < sizeof(address) ? size : sizeof(address));
    address.family = (uint8_t)(address.family % 4);
    address.path_length %= PIER_PATH_MAX + 1;
    bool parses = address.family != PIER_ADDRESS_NONE;
    if (address.family == PIER_ADDRESS_UNIX) {
        address.u.path[address.path_length] = '\0';
        const bool is_abstract = address.u.path[0] == '\0';
        const bool has_zero = strlen(address.u.path) != address.path_length;
        parses = address.path_length > (is_abstract ? 1 : 0) && (is_abstract || !has_zero);
    } else {
        address.path_length = 0;
        if (address.family == PIER_ADDRESS_IPV4) {
            memset(address.u.ip + 4, 0, 12);
            address.scope = 0;
        }
    }
    check_format(&address, parses);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_text(data, size);
    if (size > 0) {
        check_address(data, size);
    }
    return 0;
}

/* Texts near sound ones reach further into the parser than noise does. */
size_t fuzz_make_input(uint8_t *data, size_t size_max, uint64_t *state)
{
    static const char *const seeds[] = {
        "127.0.0.1:8080",
        "0.0.0.0:0",
        "255.255.255.255:65535",
        "[::1]:0",
        "[fe80::1%2]:80",
        "[::]:65535",
        "[1:2:3:4:5:6:7:8]:9",
        "[::ffff:1.2.3.4]:5",
        ":8080",
        "*:8080",
        "unix:/tmp/socket",
        "unix:@abstract",
        "unix:relative",
        "unix:\\x00\\\\a",
        "[1::8]:1",
        "[2001:db8::%4294967295]:1",
        "1.2.3.4:0005",
        "[::1.2.3.4]:1",
        "unix:@\\x01\\xff",
        "localhost:80",
    };
    static const char alphabet[] = "0123456789abcdef:.[]%@/\\x*u-+ ";
    const char *seed = seeds[fuzz_random(state, sizeof(seeds) / sizeof(seeds[0]))];
    size_t size = strlen(seed);
    memcpy(data, seed, size);
    if (fuzz_random(state, 8) == 0) {
        size = fuzz_random(state, 200);
        for (size_t i = 0; i < size; i++) {
            data[i] = (uint8_t)fuzz_random(state, 256);
        }
    }
    for (uint32_t changes = fuzz_random(state, 6); changes > 0; changes--) {
        const size_t at = fuzz_random(state, (uint32_t)size + 1);
        const uint32_t times = fuzz_random(state, 20) == 0 ? fuzz_random(state, 120) : 1;
        const uint8_t byte = fuzz_random(state, 4) == 0
                                 ? (uint8_t)fuzz_random(state, 256)
                                 : (uint8_t)alphabet[fuzz_random(state, sizeof(alphabet) - 1)];
        switch (fuzz_random(state, 3)) {
        case 0:
            if (at < size) {
                data[at] = byte;
            }
            break;
        case 1:
            if (at < size) {
                memmove(data + at, data + at + 1, size - at - 1);
                size--;
            }
            break;
        default:
            if (size + times < size_max) {
                memmove(data + at + times, data + at, size - at);
                memset(data + at, byte, times);
                size += times;
            }
        }
    }
    return size;
}
