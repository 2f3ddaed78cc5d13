/* posix_files.c - files at their current position: written in part, appended to, and shared by
 * several descriptors. */

#include "suite.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define LIMIT (256u << 10)

struct limited {
    struct pier_loop *loop;
    struct tracked_handle file;
    struct tracked write;
    struct rlimit before;
    int descriptor, reader;
    unsigned char *data, *got;
};

/* A file that takes LIMIT bytes. */
static void begin_limited(struct limited *limited, int flags)
{
    char path[PIER_PATH_MAX];
    struct rlimit limit;
    platform_temporary_path(path, sizeof(path));
    limited->loop = test_loop();
    limited->descriptor = open(path, O_CREAT | O_EXCL | O_RDWR | flags, 0600);
    limited->reader = open(path, O_RDONLY);
    CHECK_INT(limited->descriptor, >=, 0);
    CHECK_INT(limited->reader, >=, 0);
    CHECK_INT(unlink(path), ==, 0);
    limited->data = malloc(3 * LIMIT);
    limited->got = malloc(3 * LIMIT);
    CHECK(limited->data != NULL);
    CHECK(limited->got != NULL);
    pattern_fill(limited->data, 3 * LIMIT, 7, 0);
    signal(SIGXFSZ, SIG_IGN);
    CHECK_INT(getrlimit(RLIMIT_FSIZE, &limited->before), ==, 0);
    limit = limited->before;
    limit.rlim_cur = LIMIT;
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    CHECK_OK(tracked_adopt(limited->loop, &limited->file, limited->descriptor));
}

static void end_limited(struct limited *limited)
{
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &limited->before), ==, 0);
    signal(SIGXFSZ, SIG_DFL);
    const ssize_t size = read(limited->reader, limited->got, 3 * LIMIT);
    CHECK_INT(size, ==, LIMIT);
    CHECK_PATTERN(limited->got, LIMIT, 7, 0);
    close_and_wait(&limited->file);
    close(limited->reader);
    free(limited->data);
    free(limited->got);
}

static void write_in_part(int flags)
{
    struct limited limited = {0};
    begin_limited(&limited, flags);
    tracked_send(&limited.file, &limited.write, limited.data, 100, NULL);
    CHECK_INT(wait_for(&limited.write), ==, 100);
    tracked_send(&limited.file, &limited.write, limited.data + 100, 3 * LIMIT - 100, NULL);
    CHECK_INT(wait_for(&limited.write), ==, PIER_EFBIG);
    CHECK_INT(limited.write.done, ==, LIMIT - 100);
    CHECK_INT(lseek(limited.descriptor, 0, SEEK_CUR), ==, LIMIT);
    end_limited(&limited);
}

static void a_write_in_part_says_how_much(void)
{
    write_in_part(0);
}

static void an_appending_write_in_part(void)
{
    write_in_part(O_APPEND);
}

static void a_vectored_write_in_part(void)
{
    struct limited limited = {0};
    struct tracked behind = {0};
    struct pier_vector vectors[96];
    const size_t piece = 3 * LIMIT / 96;
    begin_limited(&limited, 0);
    for (size_t i = 0; i < COUNT_OF(vectors); i++) {
        vectors[i] = (struct pier_vector){limited.data + i * piece, piece};
    }
    tracked_send_vectored(&limited.file, &limited.write, vectors, COUNT_OF(vectors), NULL);
    tracked_send(&limited.file, &behind, "x", 1, NULL);
    CHECK_INT(wait_for(&limited.write), ==, PIER_EFBIG);
    CHECK_INT(limited.write.done, ==, LIMIT);
    CHECK_INT(wait_for(&behind), ==, PIER_EFBIG);
    end_limited(&limited);
}

#define SHARERS 4
#define ROUNDS 32
#define RECORD 3000

/* A file under several descriptors that share its position: each write goes behind the one before,
 * whosever it is, and each read takes what no other has had. */
static void shared_position(void)
{
    struct pier_loop *loop = test_loop();
    struct tracked_handle files[SHARERS] = {0};
    struct tracked ops[SHARERS] = {0};
    static unsigned char records[SHARERS][RECORD];
    char path[PIER_PATH_MAX];
    unsigned counts[SHARERS] = {0};
    platform_temporary_path(path, sizeof(path));
    const int descriptor = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
    CHECK_INT(descriptor, >=, 0);
    CHECK_INT(unlink(path), ==, 0);
    for (int i = 0; i < SHARERS; i++) {
        memset(records[i], 'a' + i, RECORD);
        CHECK_OK(tracked_adopt(loop, &files[i], dup(descriptor)));
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SHARERS; i++) {
            tracked_send(&files[i], &ops[i], records[i], RECORD, NULL);
        }
        for (int i = 0; i < SHARERS; i++) {
            CHECK_INT(wait_for(&ops[i]), ==, RECORD);
        }
    }
    CHECK_INT(lseek(descriptor, 0, SEEK_CUR), ==, SHARERS * ROUNDS * RECORD);
    CHECK_INT(lseek(descriptor, 0, SEEK_SET), ==, 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SHARERS; i++) {
            tracked_receive(&files[i], &ops[i], records[i], RECORD, NULL);
        }
        for (int i = 0; i < SHARERS; i++) {
            CHECK_INT(wait_for(&ops[i]), ==, RECORD);
            for (int j = 1; j < RECORD; j++) {
                CHECK_INT(records[i][j], ==, records[i][0]);
            }
            counts[records[i][0] - 'a']++;
        }
    }
    for (int i = 0; i < SHARERS; i++) {
        CHECK_INT(counts[i], ==, ROUNDS);
        close_and_wait(&files[i]);
    }
    close(descriptor);
}

const struct test files_tests[] = {
    TEST(files, a_write_in_part_says_how_much),
    TEST(files, an_appending_write_in_part),
    TEST(files, a_vectored_write_in_part),
    TEST(files, shared_position),
    TEST_END,
};
