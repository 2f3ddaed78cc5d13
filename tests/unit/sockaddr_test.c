/* sockaddr_test.c - addresses from and to struct sockaddr: every family, there and back, and what
 * no system would hand out: lengths that are too short or too long, paths without an end, families
 * that pier doesn't know, memory that isn't aligned. */

#include "unit.h"

#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
struct sockaddr_un { /* <afunix.h>, which not every set of headers has */
    ADDRESS_FAMILY sun_family;
    char sun_path[108];
};
#else
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#endif

#include "pier/pier.h"

#ifdef __linux__
enum { HAS_ABSTRACT = 1 };
#else
enum { HAS_ABSTRACT = 0 };
#endif

#define PATH_AT offsetof(struct sockaddr_un, sun_path)

static struct pier_address parse(const char *text)
{
    struct pier_address address;
    REQUIRE(pier_address_parse(&address, text) == 0);
    return address;
}

/* There and back, from memory that just fits and isn't aligned. */
static void check_round_trip(const struct pier_address *address)
{
    unsigned char native[PIER_SOCKADDR_MAX];
    struct pier_address back;
    const int length = pier_address_to_sockaddr(address, native, sizeof(native));
    REQUIRE(length > 0);
    unsigned char *tight = malloc((size_t)length + 1);
    REQUIRE(tight != NULL);
    memcpy(tight + 1, native, (size_t)length);
    CHECK_EQ(pier_address_from_sockaddr(&back, tight + 1, (size_t)length), 0);
    CHECK(pier_address_equal(address, &back));
    /* Exactly enough room will do, a byte less won't, and then nothing is written. */
    memset(tight, 0x5a, (size_t)length + 1);
    CHECK_EQ(pier_address_to_sockaddr(address, tight + 1, (size_t)length), length);
    CHECK_MEM(tight + 1, native, (size_t)length);
    memset(tight, 0x5a, (size_t)length + 1);
    CHECK_EQ(pier_address_to_sockaddr(address, tight + 1, (size_t)length - 1), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "room") != NULL);
    for (int i = 0; i <= length; i++) {
        CHECK_EQ(tight[i], 0x5a);
    }
    free(tight);
}

TEST(every_family_there_and_back)
{
    static const char *const texts[] = {
        "127.0.0.1:8080",    "0.0.0.0:0",      "255.255.255.255:65535",   "[::]:0",
        "[2001:db8::1]:443", "[fe80::1%7]:80", "[fe80::1%4294967295]:80", "[::ffff:1.2.3.4]:80",
        "unix:/run/a.sock",  "unix:relative",  "unix:\\x40not\\x41bs",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        const struct pier_address address = parse(texts[i]);
        check_round_trip(&address);
    }
    const struct pier_address unnamed = {.family = PIER_ADDRESS_UNIX};
    check_round_trip(&unnamed);
}

TEST(abstract_names)
{
    unsigned char native[PIER_SOCKADDR_MAX];
    const struct pier_address name = parse("unix:@name"), zero = parse("unix:@a\\x00b");
    if (!HAS_ABSTRACT) {
        CHECK_EQ(pier_address_to_sockaddr(&name, native, sizeof(native)), PIER_EAFNOSUPPORT);
        CHECK(strstr(pier_error_detail(), "abstract") != NULL);
        return;
    }
    check_round_trip(&name);
    check_round_trip(&zero);
    /* Each byte up to the length counts. */
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct pier_address back;
    memcpy(un.sun_path, "\0abc", 4);
    CHECK_EQ(pier_address_from_sockaddr(&back, &un, PATH_AT + 6), 0);
    CHECK_EQ(back.path_length, 6);
    CHECK_EQ(pier_address_from_sockaddr(&back, &un, PATH_AT + 1), 0);
    CHECK_EQ(back.path_length, 1);
    CHECK_EQ(pier_address_from_sockaddr(&back, &un, PATH_AT + PIER_PATH_MAX), 0);
    CHECK_EQ(pier_address_from_sockaddr(&back, &un, sizeof(un)), PIER_ENAMETOOLONG);
    CHECK(strstr(pier_error_detail(), "not that of the memory") != NULL);
}

TEST(fields_are_the_systems)
{
    const struct pier_address four = parse("10.20.30.40:5000"), six = parse("[fe80::a%7]:5001");
    const struct pier_address path = parse("unix:/tmp/a");
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
    REQUIRE(pier_address_to_sockaddr(&four, &in, sizeof(in)) == (int)sizeof(in));
    CHECK_EQ(in.sin_family, AF_INET);
    CHECK_MEM(&in.sin_port, "\x13\x88", 2);
    CHECK_MEM(&in.sin_addr, "\x0a\x14\x1e\x28", 4);
    REQUIRE(pier_address_to_sockaddr(&six, &in6, sizeof(in6)) == (int)sizeof(in6));
    CHECK_EQ(in6.sin6_family, AF_INET6);
    CHECK_EQ(in6.sin6_scope_id, 7);
    CHECK_EQ(in6.sin6_flowinfo, 0);
    CHECK_MEM(&in6.sin6_port, "\x13\x89", 2);
    REQUIRE(pier_address_to_sockaddr(&path, &un, sizeof(un)) > (int)PATH_AT);
    CHECK_EQ(un.sun_family, AF_UNIX);
    CHECK_STR(un.sun_path, "/tmp/a");
}

TEST(paths_end_at_a_zero_or_with_the_length)
{
    struct {
        struct sockaddr_un un;
        char more[64];
    } memory;
    struct pier_address address;
    memset(&memory, 'x', sizeof(memory));
    memory.un.sun_family = AF_UNIX;
    memcpy(memory.un.sun_path, "/tmp/abc", 8);
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, PATH_AT + 8), 0);
    CHECK_EQ(address.path_length, 8);
    CHECK_STR(address.u.path, "/tmp/abc");
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, PATH_AT + 4), 0);
    CHECK_STR(address.u.path, "/tmp");
    /* No end at all, in a struct of any size. */
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, PATH_AT + PIER_PATH_MAX + 1),
             PIER_ENAMETOOLONG);
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, sizeof(memory)), PIER_ENAMETOOLONG);
    CHECK_STR(address.u.path, "/tmp"); /* left as it was */
    /* A zero, and whatever behind it. */
    memory.un.sun_path[8] = '\0';
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, sizeof(memory.un)), 0);
    CHECK_EQ(address.path_length, 8);
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, sizeof(memory)), 0);
    CHECK_EQ(address.path_length, 8);
    CHECK_EQ(pier_address_from_sockaddr(&address, &memory, PATH_AT), 0);
    CHECK_EQ(address.path_length, 0);
}

TEST(storage_of_any_size_holds_an_ip_address)
{
    struct sockaddr_storage storage;
    struct pier_address address;
    const struct pier_address four = parse("10.20.30.40:5000");
    memset(&storage, 0xee, sizeof(storage));
    REQUIRE(pier_address_to_sockaddr(&four, &storage, sizeof(storage)) > 0);
    CHECK_EQ(pier_address_from_sockaddr(&address, &storage, sizeof(storage)), 0);
    CHECK(pier_address_equal(&address, &four));
}

TEST(too_short_for_the_family)
{
    static const char *const texts[] = {"10.20.30.40:5000", "[2001:db8::1]:443"};
    for (size_t i = 0; i < 2; i++) {
        unsigned char native[PIER_SOCKADDR_MAX];
        const struct pier_address address = parse(texts[i]);
        struct pier_address before = {.family = 77, .port = 7}, got = before;
        const int length = pier_address_to_sockaddr(&address, native, sizeof(native));
        for (int cut = 0; cut < length; cut++) {
            unsigned char *tight = malloc((size_t)cut + 1);
            memcpy(tight, native, (size_t)cut);
            CHECK_EQ(pier_address_from_sockaddr(&got, tight, (size_t)cut), PIER_EINVAL);
            CHECK(strstr(pier_error_detail(), "too short") != NULL);
            CHECK_MEM(&got, &before, sizeof(got));
            free(tight);
        }
    }
    struct pier_address got;
    CHECK_EQ(pier_address_from_sockaddr(&got, NULL, 16), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "NULL") != NULL);
}

TEST(families_that_pier_does_not_know)
{
    struct sockaddr_storage storage;
    struct pier_address got;
    memset(&storage, 0, sizeof(storage));
    CHECK_EQ(pier_address_from_sockaddr(&got, &storage, sizeof(storage)), PIER_EAFNOSUPPORT);
    storage.ss_family = 199;
    CHECK_EQ(pier_address_from_sockaddr(&got, &storage, sizeof(storage)), PIER_EAFNOSUPPORT);
    CHECK(strstr(pier_error_detail(), "199") != NULL);
}

TEST(addresses_that_no_system_takes)
{
    unsigned char native[PIER_SOCKADDR_MAX];
    const struct pier_address none = {.family = PIER_ADDRESS_NONE}, other = {.family = 200};
    struct pier_address longest = {.family = PIER_ADDRESS_UNIX, .path_length = 255};
    CHECK_EQ(pier_address_to_sockaddr(&none, native, sizeof(native)), PIER_EINVAL);
    CHECK_EQ(pier_address_to_sockaddr(&other, native, sizeof(native)), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "200") != NULL);
    memset(longest.u.path, 'a', sizeof(longest.u.path));
    CHECK_EQ(pier_address_to_sockaddr(&longest, native, sizeof(native)), PIER_ENAMETOOLONG);
    const struct pier_address four = parse("10.20.30.40:5000");
    CHECK_EQ(pier_address_to_sockaddr(&four, NULL, sizeof(native)), PIER_EINVAL);
}

static uint32_t random_state = 4711;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % limit;
}

/* Whatever is read lasts: it can be written, and is the same address again; and it has a text. */
TEST(any_bytes_are_refused_or_read_to_something_that_lasts)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, 77};
    for (int i = 0; i < 100000; i++) {
        const size_t length = random_below(160);
        unsigned char *native = malloc(length + 1); /* sanitizers see a byte too far */
        REQUIRE(native != NULL);
        for (size_t k = 0; k < length; k++) {
            native[k] = (unsigned char)(random_below(4) == 0 ? 0 : random_below(256));
        }
        struct sockaddr any = {.sa_family = (unsigned char)families[random_below(5)]};
        memcpy(native, &any, length < PATH_AT ? length : PATH_AT);
        struct pier_address address, again;
        memset(&address, 0xee, sizeof(address));
        const int error = pier_address_from_sockaddr(&address, native, length);
        free(native);
        if (error != 0) {
            CHECK(error == PIER_EINVAL || error == PIER_EAFNOSUPPORT || error == PIER_ENAMETOOLONG);
            CHECK_EQ(address.family, 0xee);
            continue;
        }
        unsigned char out[PIER_SOCKADDR_MAX];
        const int made = pier_address_to_sockaddr(&address, out, sizeof(out));
        if (made == PIER_ENAMETOOLONG && sizeof(struct sockaddr_un) < PATH_AT + 108) {
            continue; /* a path without an end that fills all of a shorter struct */
        }
        REQUIRE(made > 0);
        CHECK_EQ(pier_address_from_sockaddr(&again, out, (size_t)made), 0);
        CHECK(pier_address_equal(&address, &again));
        char text[PIER_ADDRESS_TEXT_MAX];
        CHECK_LT(pier_address_format(&address, text, sizeof(text)), sizeof(text));
    }
}
