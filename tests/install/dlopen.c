/* SPDX-License-Identifier: MIT */
/* dlopen.c - libpier.so, loaded late by a program whose room for thread-local variables of such
 * libraries is used up: it runs a loop in two threads.
 *
 *   dlopen LIBRARY */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include <pier/pier.h>

static void *library;

/* The address of a function of the library. */
static void *find(const char *name)
{
    void *address = dlsym(library, name);
    if (address == NULL) {
        fprintf(stderr, "dlopen: %s\n", dlerror());
    }
    return address;
}

static void on_timer(struct pier_op *op)
{
    *(int *)op->data += 1;
}

/* As a program does that has no declarations to link against: by pointers. */
static void *run_loop(void *result)
{
    int (*make)(struct pier_loop **, const struct pier_loop_options *, const struct pier_abi *);
    int (*run)(struct pier_loop *, enum pier_run);
    void (*free_loop)(struct pier_loop *);
    void (*timer)(struct pier_loop *, struct pier_op *, uint64_t, pier_op_fn *);
    const char *(*detail)(void);
    *(void **)&make = find("pier_loop_new_for");
    *(void **)&run = find("pier_loop_run");
    *(void **)&free_loop = find("pier_loop_free");
    *(void **)&timer = find("pier_timer");
    *(void **)&detail = find("pier_error_detail");
    if (make == NULL || run == NULL || free_loop == NULL || timer == NULL || detail == NULL) {
        return NULL;
    }
    const struct pier_abi abi = {
        sizeof(struct pier_abi), PIER_VERSION_MAJOR * 1000 + PIER_VERSION_MINOR,
        sizeof(struct pier_op), sizeof(struct pier_handle), sizeof(struct pier_loop_options)};
    struct pier_loop *loop;
    struct pier_op op = {.data = result};
    if (make(&loop, NULL, &abi) < 0) {
        fprintf(stderr, "dlopen: %s\n", detail());
        return NULL;
    }
    timer(loop, &op, PIER_MILLISECOND, on_timer);
    run(loop, PIER_RUN_UNTIL_IDLE);
    free_loop(loop);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int here = 0, there = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: dlopen LIBRARY\n");
        return 2;
    }
    library = dlopen(argv[1], RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "dlopen: %s\n", dlerror());
        return 1;
    }
    run_loop(&here);
    if (pthread_create(&thread, NULL, run_loop, &there) != 0) {
        return 1;
    }
    pthread_join(thread, NULL);
    printf("%s dlopen\n%d passed, %d failed, 0 skipped\n", here + there == 2 ? "ok" : "not ok",
           here + there == 2, here + there != 2);
    return here == 1 && there == 1 ? 0 : 1;
}
