/* options.h - options of a caller who was compiled with another version of their struct. */

#ifndef PIER_BASE_OPTIONS_H
#define PIER_BASE_OPTIONS_H

#include <stddef.h>

/* Copies `size` bytes of options into the struct of this version, which is all zero and has `known`
 * bytes. Returns 0, or PIER_ENOTSUP when one is set that this version doesn't know; `what` is the
 * kind of option, "writer" for one. `options` may be NULL. */
int pier__take_options(void *chosen, size_t known, const void *options, size_t size,
                       const char *what);

#endif
