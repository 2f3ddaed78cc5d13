/* SPDX-License-Identifier: MIT */
/* bindings.c - the shared library as a program in another language has it: without the headers, by
 * dlopen() and names. Each function that C programs have inline is called, and the structs are
 * memory of sizes that the library tells.
 *
 *   bindings LIBRARY [struct NAME | function NAME]...   the names must be known to the library */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the documented part of struct pier_op: what stands first in it, in C's order. */
struct op_head {
    void (*fn)(void *op);
    int64_t result;
    void *data;
    size_t size;
    uint64_t done;
};

enum { UNTIL_IDLE, ONCE }; /* enum pier_run */

static void *library;
static int faults;

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "bindings: not so: %s\n", what);
        faults++;
    }
}

static void *find(const char *name)
{
    void *address = dlsym(library, name);
    if (address == NULL) {
        fprintf(stderr, "bindings: %s\n", dlerror());
        exit(1);
    }
    return address;
}

static size_t (*struct_size)(const char *name);

static void *make(const char *name)
{
    size_t size = struct_size(name);
    void *memory = calloc(1, size);
    check(size > 0 && size % sizeof(uint64_t) == 0, name);
    if (memory == NULL) {
        exit(1);
    }
    return memory;
}

static int completed, late;

static void on_completion(void *op)
{
    (void)op;
    completed++;
}

static void on_late(void *op)
{
    check(((struct op_head *)op)->result == 100000, "the whole send completes");
    late++;
}

/* What goes one way through a pair, by the short functions. */
static void transfer(void *loop)
{
    int (*pair)(void *, void *, void *);
    int (*run)(void *, int);
    void *(*handle_loop)(const void *);
    void (*read)(void *, void *, void *, size_t, void (*)(void *));
    void (*write)(void *, void *, const void *, size_t, void (*)(void *));
    _Bool (*pending)(const void *);
    void (*then)(void *, void (*)(void *));
    void (*close)(void *, void (*)(void *));
    *(void **)&pair = find("pier_socket_pair");
    *(void **)&run = find("pier_loop_run");
    *(void **)&handle_loop = find("pier_handle_loop");
    *(void **)&read = find("pier_read");
    *(void **)&write = find("pier_write");
    *(void **)&pending = find("pier_op_pending");
    *(void **)&then = find("pier_op_then");
    *(void **)&close = find("pier_close");
    static char sent[100000], got[100000];
    void *a = make("pier_handle"), *b = make("pier_handle");
    struct op_head *send = make("pier_op"), *receive = make("pier_op");
    size_t taken = 0;
    memset(sent, 'x', sizeof(sent));
    check(handle_loop(a) == NULL, "a handle that isn't open has no loop");
    check(pair(loop, a, b) == 0, "a pair can be made");
    check(handle_loop(a) == loop, "an open handle has one");
    check(!pending(receive), "an op that wasn't submitted isn't in flight");
    read(b, receive, got, 1, on_completion);
    check(pending(receive), "one that was is");
    write(a, send, sent, 1, NULL);
    run(loop, UNTIL_IDLE);
    check(completed == 1 && !pending(receive) && receive->result == 1, "a byte arrives");
    /* More than there is room for, so that it is in flight still, or over at once. */
    write(a, send, sent, sizeof(sent), NULL);
    if (pending(send)) {
        then(send, on_late);
    } else {
        late++;
    }
    while (taken < sizeof(got)) {
        read(b, receive, got + taken, sizeof(got) - taken, on_completion);
        while (pending(receive) && run(loop, ONCE) > 0) {}
        check(receive->result > 0, "more arrives");
        if (receive->result <= 0) {
            break;
        }
        taken += (size_t)receive->result;
    }
    run(loop, UNTIL_IDLE);
    check(late == 1, "the function that was given afterwards is called");
    check(memcmp(sent, got, sizeof(got)) == 0, "what arrives is what was sent");
    close(a, NULL);
    close(b, NULL);
    run(loop, UNTIL_IDLE);
    free(a);
    free(b);
    free(send);
    free(receive);
}

static void run_loop(void)
{
    int (*new_loop)(void **, const void *);
    void (*stats)(void *, void *);
    void (*free_loop)(void *);
    const char *(*detail)(void);
    *(void **)&new_loop = find("pier_loop_new");
    *(void **)&stats = find("pier_loop_stats");
    *(void **)&free_loop = find("pier_loop_free");
    *(void **)&detail = find("pier_error_detail");
    void *loop = NULL, *options = make("pier_loop_options");
    uint64_t *counters = make("pier_loop_counters");
    if (new_loop(&loop, options) < 0) {
        fprintf(stderr, "bindings: %s\n", detail());
        exit(1);
    }
    transfer(loop);
    stats(loop, counters);
    check(counters[0] > 0, "turns are counted");
    free_loop(loop);
    free(options);
    free(counters);
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc % 2 != 0) {
        fprintf(stderr, "usage: bindings LIBRARY [struct NAME | function NAME]...\n");
        return 2;
    }
    library = dlopen(argv[1], RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "bindings: %s\n", dlerror());
        return 1;
    }
    *(void **)&struct_size = find("pier_struct_size");
    check(struct_size("pier_nothing") == 0, "there is no struct pier_nothing");
    for (int i = 2; i < argc; i += 2) {
        if (strcmp(argv[i], "struct") == 0) {
            check(struct_size(argv[i + 1]) > 0, argv[i + 1]);
        } else {
            find(argv[i + 1]);
        }
    }
    run_loop();
    printf("%s bindings\n%d passed, %d failed, 0 skipped\n", faults == 0 ? "ok" : "not ok",
           faults == 0, faults != 0);
    return faults != 0;
}
