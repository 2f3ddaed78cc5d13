/* iocp_turn_test.c - what a turn of the iocp engine owes to handles that have something to do
 * though no packet says so. Files are such: there is always more to read, as far as pier knows. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

#include "pier/pier.h"
#include "sys/sys.h"

enum { PIECE = 64 };

struct fixture {
    struct pier_loop *loop;
    struct pier_handle file;
    struct pier_op each;
    int events, completed;
};

static void on_piece(struct pier_op *op)
{
    struct fixture *f = PIER_OWNER(op, struct fixture, each);
    if (op->flags & PIER_MORE) {
        f->events++;
    } else {
        f->completed++;
    }
}

/* A file of so many pieces, which goes when it's closed. */
static HANDLE make_file(int pieces)
{
    static const unsigned char piece[PIECE];
    char folder[MAX_PATH] = "", path[MAX_PATH] = "";
    DWORD written = 0;
    REQUIRE(GetTempPathA(sizeof(folder), folder) != 0);
    REQUIRE(GetTempFileNameA(folder, "pier", 0, path) != 0);
    HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                              FILE_FLAG_DELETE_ON_CLOSE, NULL);
    REQUIRE(file != INVALID_HANDLE_VALUE);
    for (int i = 0; i < pieces; i++) {
        CHECK(WriteFile(file, piece, PIECE, &written, NULL) && written == PIECE);
    }
    CHECK_EQ(SetFilePointer(file, 0, NULL, FILE_BEGIN), 0);
    return file;
}

static struct fixture *open_file(int pieces, uint32_t receives_max)
{
    struct fixture *f = calloc(1, sizeof *f);
    REQUIRE(f != NULL);
    struct pier_loop_options options = {
        .backend = "iocp", .buffer_size = PIECE, .receives_max = receives_max};
    REQUIRE(pier_loop_new(&f->loop, &options) == 0);
    REQUIRE(pier_adopt(f->loop, &f->file, (pier_descriptor)make_file(pieces)) == 0);
    pier_receive_each(&f->file, &f->each, on_piece);
    return f;
}

static void close_file(struct fixture *f)
{
    pier_close(&f->file, NULL);
    CHECK_EQ(pier_loop_run(f->loop, PIER_RUN_UNTIL_IDLE), 0);
    CHECK_EQ(f->completed, 1);
    pier_loop_free(f->loop);
    free(f);
}

TEST(listed_handles_outlive_a_wait_that_fails)
{
    struct fixture *f = open_file(100, 16);
    struct fixture other = {0};
    pier__fault_reset();
    pier__fault_set(PIER__CALL_EPOLL_WAIT, 1, PIER_ENOMEM, false);
    CHECK_EQ(pier_loop_run(f->loop, PIER_RUN_NO_WAIT), PIER_ENOMEM);
    CHECK_EQ(f->events, 0);
    pier__fault_reset();
    REQUIRE(pier_adopt(f->loop, &other.file, (pier_descriptor)make_file(100)) == 0);
    pier_receive_each(&other.file, &other.each, on_piece); /* listed too, beside the first */
    CHECK_GT(pier_loop_run(f->loop, PIER_RUN_NO_WAIT), 0);
    CHECK_EQ(f->events, 16);
    CHECK_EQ(other.events, 16);
    pier_close(&other.file, NULL);
    close_file(f);
}

TEST(receives_per_turn_are_as_many_as_was_said)
{
    static const uint32_t limits[] = {1, 250, 256, 300, 1000};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        int limit = (int)limits[i];
        struct fixture *f = open_file(2 * limit + 1, limits[i]);
        for (int turn = 1; turn <= 2; turn++) {
            CHECK_GT(pier_loop_run(f->loop, PIER_RUN_NO_WAIT), 0);
            CHECK_EQ(f->events, turn * limit);
        }
        close_file(f);
    }
}
