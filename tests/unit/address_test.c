/* address_test.c - the text form of addresses: what is read, what is refused
 * and why, what is written, and that one undoes the other. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pier/pier.h"

enum { TEXT_MAX = 512 };

struct accepted {
    const char *text;
    const char *canonical; /* NULL: the same */
};

static const struct accepted accepted_texts[] = {
    {"127.0.0.1:8080", NULL},
    {"0.0.0.0:0", NULL},
    {"255.255.255.255:65535", NULL},
    {"1.2.3.4:1", NULL},
    {":8080", "[::]:8080"},
    {"*:8080", "[::]:8080"},
    {":0", "[::]:0"},
    {"[::]:8080", NULL},
    {"[::1]:0", NULL},
    {"[1::]:9", NULL},
    {"[2001:db8::1]:443", NULL},
    {"[2001:DB8::ABCD]:443", "[2001:db8::abcd]:443"},
    {"[2001:0db8:0000:0000:0000:0000:0000:0001]:1", "[2001:db8::1]:1"},
    {"[1:2:3:4:5:6:7:8]:1", NULL},
    {"[1:2:3:4:5:6:7::]:1", "[1:2:3:4:5:6:7:0]:1"},
    {"[::2:3:4:5:6:7:8]:1", "[0:2:3:4:5:6:7:8]:1"},
    {"[1:0:0:4:0:0:0:8]:1", "[1:0:0:4::8]:1"},
    {"[1:0:0:4:5:0:0:8]:1", "[1::4:5:0:0:8]:1"},
    {"[0:0:0:4:5:6:0:0]:1", "[::4:5:6:0:0]:1"},
    {"[1:2:3:4:5:0:0:0]:1", "[1:2:3:4:5::]:1"},
    {"[0:0:0:0:0:0:0:0]:1", "[::]:1"},
    {"[::ffff:1.2.3.4]:80", NULL},
    {"[::ffff:102:304]:80", "[::ffff:1.2.3.4]:80"},
    {"[::FFFF:0.0.0.0]:80", "[::ffff:0.0.0.0]:80"},
    {"[::1.2.3.4]:80", "[::102:304]:80"},
    {"[64:ff9b::192.0.2.33]:80", "[64:ff9b::c000:221]:80"},
    {"[1:2:3:4:5:6:1.2.3.4]:80", "[1:2:3:4:5:6:102:304]:80"},
    {"[fe80::1%2]:80", NULL},
    {"[fe80::1%4294967295]:80", NULL},
    {"[fe80::1]:80", NULL},
    {"unix:/run/pier.sock", NULL},
    {"unix:/", NULL},
    {"unix:relative.sock", NULL},
    {"unix:./a b", NULL},
    {"unix:@name", NULL},
    {"unix:@a@b", NULL},
    {"unix:/a@b", NULL},
    {"unix:@/looks/like/a/path", NULL},
    {"unix:\\x40name", NULL},
    {"unix:/a\\x2fb", "unix:/a/b"},
    {"unix:/back\\\\slash", NULL},
    {"unix:/bell\\x07", NULL},
    {"unix:/delete\\x7f", NULL},
    {"unix:@zero\\x00inside", NULL},
    {"unix:/caf\xc3\xa9", "unix:/caf\\xc3\\xa9"},
    {"unix:/caf\\xC3\\xA9", "unix:/caf\\xc3\\xa9"},
    {"unix:127.0.0.1:80", NULL},
};

struct rejected {
    const char *text;
    const char *reason; /* part of the detail */
};

static const struct rejected rejected_texts[] = {
    {"", "address is empty"},
    {" ", "has no port"},
    {"127.0.0.1", "has no port"},
    {"8080", "has no port"},
    {"*", "has no port"},
    {"127.0.0.1:", "has port \"\""},
    {"127.0.0.1:65536", "has port \"65536\""},
    {"127.0.0.1:99999999999999999999", "from 0 to 65535"},
    {"127.0.0.1:-1", "has port \"-1\""},
    {"127.0.0.1:+1", "has port \"+1\""},
    {"127.0.0.1:080", "without leading zeros"},
    {"127.0.0.1:00", "without leading zeros"},
    {"127.0.0.1:80 ", "has port \"80 \""},
    {"127.0.0.1:http", "has port \"http\""},
    {"127.0.0.1:0x50", "has port"},
    {" 127.0.0.1:80", "isn't numeric"},
    {"127.1:80", "isn't numeric"},
    {"127.0.0.256:80", "isn't numeric"},
    {"127.0.0.01:80", "isn't numeric"},
    {"127.0.0.0x1:80", "isn't numeric"},
    {"127.0.0.1.1:80", "isn't numeric"},
    {"127.0.0.:80", "isn't numeric"},
    {"127..0.1:80", "isn't numeric"},
    {".1.2.3.4:80", "looks like a path"},
    {"2130706433:80", "isn't numeric"},
    {"999999999999.0.0.1:80", "isn't numeric"},
    {"localhost:80", "names aren't looked up"},
    {"**:80", "isn't numeric"},
    {"http://127.0.0.1:80", "looks like a URL"},
    {"::1:80", "more than one colon"},
    {"::", "more than one colon"},
    {"fe80::1", "more than one colon"},
    {"1:2:3", "more than one colon"},
    {"[::1", "lacks the closing bracket"},
    {"[", "lacks the closing bracket"},
    {"[]:80", "is no IPv6 address"},
    {"[::1]", "no port behind the bracket"},
    {"[::1]80", "no port behind the bracket"},
    {"[::1] :80", "no port behind the bracket"},
    {"[::1]:", "has port \"\""},
    {"[::1]:x", "has port \"x\""},
    {"[::1]:80:90", "has port \"80:90\""},
    {"[127.0.0.1]:80", "is no IPv6 address"},
    {"[:]:80", "is no IPv6 address"},
    {"[:::]:80", "is no IPv6 address"},
    {"[1:::2]:80", "is no IPv6 address"},
    {"[1::2::3]:80", "is no IPv6 address"},
    {"[::1::]:80", "is no IPv6 address"},
    {"[:1]:80", "is no IPv6 address"},
    {"[1:]:80", "is no IPv6 address"},
    {"[1:2:3:4:5:6:7]:80", "is no IPv6 address"},
    {"[1:2:3:4:5:6:7:8:9]:80", "is no IPv6 address"},
    {"[1:2:3:4:5:6:7:8::]:80", "is no IPv6 address"},
    {"[::1:2:3:4:5:6:7:8]:80", "is no IPv6 address"},
    {"[1:2:3:4::5:6:7:8]:80", "is no IPv6 address"},
    {"[12345::]:80", "is no IPv6 address"},
    {"[::g]:80", "is no IPv6 address"},
    {"[::1.2.3]:80", "is no IPv6 address"},
    {"[::1.2.3.4.5]:80", "is no IPv6 address"},
    {"[::1.2.3.4:5]:80", "is no IPv6 address"},
    {"[::1.2.3.256]:80", "is no IPv6 address"},
    {"[1:2:3:4:5:6:7:1.2.3.4]:80", "is no IPv6 address"},
    {"[1:2:3:4:5:1.2.3.4]:80", "is no IPv6 address"},
    {"[fe80::1%]:80", "zone \"\""},
    {"[fe80::1%0]:80", "zone \"0\""},
    {"[fe80::1%eth0]:80", "zone \"eth0\""},
    {"[fe80::1%4294967296]:80", "interface's index"},
    {"[fe80::1%02]:80", "interface's index"},
    {"[%2]:80", "is no IPv6 address"},
    {"unix:", "has no name"},
    {"unix:@", "has no name"},
    {"unix:/a\\", "backslash"},
    {"unix:/a\\n", "not \"\\\\n\""},
    {"unix:/a\\x1", "backslash"},
    {"unix:/a\\xg0", "backslash"},
    {"unix:/a\\x00b", "can't hold a zero byte"},
    {"unix:\\x00name", "can't hold a zero byte"},
    {"UNIX:/a", "isn't numeric"},
    {"unix/a:1", "isn't numeric"},
    {"/run/pier.sock", "write unix: in front"},
    {"./pier.sock", "write unix: in front"},
    {"@name", "write unix: in front"},
};

static const char *format(const struct pier_address *address)
{
    static char text[TEXT_MAX];
    size_t length = pier_address_format(address, text, sizeof text);
    CHECK_EQ(length, strlen(text));
    return text;
}

TEST(reads_and_writes_each_accepted_form)
{
    for (size_t i = 0; i < sizeof accepted_texts / sizeof accepted_texts[0]; i++) {
        const struct accepted *row = &accepted_texts[i];
        struct pier_address address, again;
        int error = pier_address_parse(&address, row->text);
        if (error != 0) {
            FAIL("\"%s\" is refused: %s", row->text, pier_error_detail());
            continue;
        }
        const char *text = format(&address);
        CHECK_STR(text, row->canonical != NULL ? row->canonical : row->text);
        CHECK_EQ(pier_address_parse(&again, text), 0);
        CHECK(pier_address_equal(&address, &again));
        CHECK_MEM(&address, &again, sizeof address);
    }
}

TEST(refuses_everything_else_and_says_why)
{
    for (size_t i = 0; i < sizeof rejected_texts / sizeof rejected_texts[0]; i++) {
        const struct rejected *row = &rejected_texts[i];
        struct pier_address address, before;
        memset(&address, 0x5a, sizeof address);
        before = address;
        int error = pier_address_parse(&address, row->text);
        if (error != PIER_EINVAL)
            FAIL("\"%s\" gives %s", row->text, pier_error_name(error));
        if (strstr(pier_error_detail(), row->reason) == NULL)
            FAIL("\"%s\" is refused with: %s", row->text, pier_error_detail());
        CHECK_MEM(&address, &before, sizeof address);
    }
    struct pier_address address;
    CHECK_EQ(pier_address_parse(&address, NULL), PIER_EINVAL);
    CHECK(strstr(pier_error_detail(), "NULL") != NULL);
}

TEST(refusals_always_end_with_the_remedy)
{
    char text[4096];
    static const char *const starts[] = {"",       "[",        "[::1]:",   "unix:/",
                                         "unix:@", "1.2.3.4:", "[fe80::1%"};
    static const char *const fillers[] = {"a", "\x1b", "1", "1:", ":", "\\", "\\x1b"};
    for (size_t s = 0; s < sizeof starts / sizeof starts[0]; s++) {
        for (size_t f = 0; f < sizeof fillers / sizeof fillers[0]; f++) {
            strcpy(text, starts[s]);
            while (strlen(text) + 8 < sizeof text)
                strcat(text, fillers[f]);
            struct pier_address address;
            int error = pier_address_parse(&address, text);
            CHECK(error == PIER_EINVAL || error == PIER_ENAMETOOLONG);
            const char *detail = pier_error_detail();
            size_t length = strlen(detail);
            CHECK_LT(length, 256);
            if (length < 3 || strcmp(detail + length - 3, "...") == 0)
                FAIL("remedy cut off: %s", detail);
            for (size_t i = 0; i < length; i++)
                CHECK(detail[i] >= 0x20 && detail[i] < 0x7f);
        }
    }
}

TEST(fields_hold_what_the_text_says)
{
    struct pier_address address;
    REQUIRE(pier_address_parse(&address, "10.20.30.40:5000") == 0);
    CHECK_EQ(address.family, PIER_ADDRESS_IPV4);
    CHECK_EQ(address.port, 5000);
    CHECK_MEM(address.u.ip, ((const uint8_t[]){10, 20, 30, 40}), 4);

    REQUIRE(pier_address_parse(&address, "[fe80::a:b%7]:65535") == 0);
    CHECK_EQ(address.family, PIER_ADDRESS_IPV6);
    CHECK_EQ(address.port, 65535);
    CHECK_EQ(address.scope, 7);
    CHECK_MEM(address.u.ip,
              ((const uint8_t[]){0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa, 0, 0xb}), 16);

    REQUIRE(pier_address_parse(&address, "unix:/tmp/a") == 0);
    CHECK_EQ(address.family, PIER_ADDRESS_UNIX);
    CHECK_EQ(address.path_length, 6);
    CHECK_STR(address.u.path, "/tmp/a");

    REQUIRE(pier_address_parse(&address, "unix:@a") == 0);
    CHECK_EQ(address.path_length, 2);
    CHECK_MEM(address.u.path, "\0a", 2);
}

TEST(unix_names_may_have_107_bytes)
{
    char text[TEXT_MAX] = "unix:/";
    struct pier_address address;
    memset(text + 6, 'a', 106);
    CHECK_EQ(pier_address_parse(&address, text), 0);
    CHECK_EQ(address.path_length, PIER_PATH_MAX);
    CHECK_STR(format(&address), text);
    text[6 + 106] = 'a';
    CHECK_EQ(pier_address_parse(&address, text), PIER_ENAMETOOLONG);
    CHECK(strstr(pier_error_detail(), "108 bytes") != NULL);

    /* That of the zero byte alone has a text, which is no name to be asked for. */
    memset(&address, 0, sizeof address);
    address.family = PIER_ADDRESS_UNIX;
    address.path_length = 1;
    CHECK_STR(format(&address), "unix:@");

    /* An abstract name lies behind a zero byte, which counts. */
    memset(text, 0, sizeof text);
    strcpy(text, "unix:@");
    memset(text + 6, 'a', 106);
    CHECK_EQ(pier_address_parse(&address, text), 0);
    CHECK_EQ(address.path_length, PIER_PATH_MAX);
    CHECK_STR(format(&address), text);
    text[6 + 106] = 'a';
    CHECK_EQ(pier_address_parse(&address, text), PIER_ENAMETOOLONG);
    CHECK(strstr(pier_error_detail(), "106 at the most") != NULL);
}

TEST(a_text_cut_short_is_terminated_and_its_length_known)
{
    struct pier_address address;
    REQUIRE(pier_address_parse(&address, "[2001:db8::1]:8080") == 0);
    for (size_t size = 0; size <= 20; size++) {
        char text[24];
        memset(text, '#', sizeof text);
        CHECK_EQ(pier_address_format(&address, text, size), 18);
        if (size > 0) {
            size_t kept = size - 1 < 18 ? size - 1 : 18;
            CHECK_EQ(strlen(text), kept);
            CHECK_MEM(text, "[2001:db8::1]:8080", kept);
        }
        CHECK_EQ(text[size < 19 ? size : 19], '#');
    }
    CHECK_EQ(pier_address_format(&address, NULL, 0), 18);
}

TEST(addresses_without_a_name_have_a_text_that_is_not_read_back)
{
    struct pier_address address;
    memset(&address, 0, sizeof address);
    CHECK_STR(format(&address), "none");
    CHECK_EQ(pier_address_parse(&address, "none"), PIER_EINVAL);
    address.family = PIER_ADDRESS_UNIX;
    CHECK_STR(format(&address), "unix:");
}

TEST(equal_compares_what_the_family_uses)
{
    struct pier_address a, b;
    memset(&a, 0xff, sizeof a);
    memset(&b, 0, sizeof b);
    a.family = b.family = PIER_ADDRESS_IPV4;
    a.port = b.port = 80;
    memset(a.u.ip, 7, 4);
    memset(b.u.ip, 7, 4);
    CHECK(pier_address_equal(&a, &b));
    b.port = 81;
    CHECK(!pier_address_equal(&a, &b));
    b.port = 80;
    b.u.ip[3] = 8;
    CHECK(!pier_address_equal(&a, &b));

    REQUIRE(pier_address_parse(&a, "[fe80::1%1]:80") == 0);
    REQUIRE(pier_address_parse(&b, "[fe80::1%2]:80") == 0);
    CHECK(!pier_address_equal(&a, &b));
    REQUIRE(pier_address_parse(&b, "[fe80::2%1]:80") == 0);
    CHECK(!pier_address_equal(&a, &b));

    REQUIRE(pier_address_parse(&a, "unix:@name") == 0);
    REQUIRE(pier_address_parse(&b, "unix:name") == 0);
    CHECK(!pier_address_equal(&a, &b));
    REQUIRE(pier_address_parse(&b, "unix:@name") == 0);
    CHECK(pier_address_equal(&a, &b));
    REQUIRE(pier_address_parse(&b, "127.0.0.1:80") == 0);
    CHECK(!pier_address_equal(&a, &b));
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    b.port = 9;
    CHECK(pier_address_equal(&a, &b));
}

static uint32_t random_state = 12345;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % limit;
}

static void make_address(struct pier_address *address)
{
    memset(address, 0, sizeof *address);
    address->family = (uint8_t)(PIER_ADDRESS_IPV4 + random_below(3));
    if (address->family == PIER_ADDRESS_UNIX) {
        bool abstract = random_below(2) == 0;
        address->path_length = (uint8_t)(abstract + 1 + random_below(PIER_PATH_MAX - abstract));
        for (int i = abstract; i < address->path_length; i++)
            address->u.path[i] = (char)(abstract ? random_below(256) : 1 + random_below(255));
        return;
    }
    address->port = (uint16_t)random_below(65536);
    int size = address->family == PIER_ADDRESS_IPV4 ? 4 : 16;
    for (int i = 0; i < size; i++)
        address->u.ip[i] = (uint8_t)(random_below(3) == 0 ? random_below(256) : 0);
    if (size == 16 && random_below(4) == 0)
        address->scope = 1 + random_below(1u << 24);
}

TEST(every_address_survives_its_text)
{
    for (int i = 0; i < 50000; i++) {
        struct pier_address address, again;
        make_address(&address);
        const char *text = format(&address);
        if (pier_address_parse(&again, text) != 0) {
            FAIL("\"%s\" isn't read back: %s", text, pier_error_detail());
            return;
        }
        if (!pier_address_equal(&address, &again)) {
            FAIL("\"%s\" reads back as another address", text);
            return;
        }
    }
}

TEST(any_bytes_are_refused_or_read_to_something_that_lasts)
{
    static const char alphabet[] = "0123456789abcfF:::..[]%*@/\\x unix\x01\xff";
    for (int i = 0; i < 200000; i++) {
        char text[64];
        uint32_t length = random_below(40);
        for (uint32_t k = 0; k < length; k++)
            text[k] = alphabet[random_below(sizeof alphabet - 1)];
        text[length] = '\0';
        if (random_below(3) == 0)
            memcpy(text, "unix:", length < 5 ? length : 5);
        struct pier_address address, again;
        if (pier_address_parse(&address, text) != 0)
            continue;
        if (pier_address_parse(&again, format(&address)) != 0 ||
            !pier_address_equal(&address, &again)) {
            FAIL("\"%s\" doesn't last", text);
            return;
        }
    }
}
