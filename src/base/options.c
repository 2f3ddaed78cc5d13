/* options.c - options of a caller who was compiled with another version of their struct. Each
 * option means its default when it is zero, and new ones are added at the end. */

#include "base/options.h"

#include <string.h>

#include "base/error.h"

int pier__take_options(void *chosen, size_t known, const void *options, size_t size,
                       const char *what)
{
    const unsigned char *bytes = options;
    if (options == NULL) {
        return 0;
    }
    for (size_t i = known; i < size; i++) {
        if (bytes[i] != 0) {
            return pier__fail(PIER_ENOTSUP,
                              "a %s option is set that version " PIER_VERSION_STRING
                              " of the library doesn't know",
                              what);
        }
    }
    memcpy(chosen, options, size < known ? size : known);
    return 0;
}
