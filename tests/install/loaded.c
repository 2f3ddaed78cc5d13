/* SPDX-License-Identifier: MIT */
/* loaded.c - runs the main function of a module that is loaded late, as what is written in another
 * language loads its extensions: the conformance suite, with libpier.so behind it.
 *
 *   loaded MODULE ARGUMENT... */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int (*module_main)(int, char **);
    if (argc < 2) {
        fprintf(stderr, "usage: loaded MODULE ARGUMENT...\n");
        return 2;
    }
    void *module = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    void *address = module != NULL ? dlsym(module, "main") : NULL;
    if (address == NULL) {
        fprintf(stderr, "loaded: %s\n", dlerror());
        return 1;
    }
    *(void **)&module_main = address;
    return module_main(argc - 1, argv + 1);
}
