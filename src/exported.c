/* exported.c - what programs in other languages need of the library: the short functions of the
 * public headers under names that a linker finds, and the sizes of the structs.
 *
 * C programs have those functions inline, from the headers. Here the headers are read with another
 * PIER_INLINE, which makes each of them a function of the library, so that none can be forgotten or
 * differ. So this file isn't joined with others: they have them inline. */

#define PIER_INLINE PIER_API

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* their only declarations */
#endif

#include <string.h>

#include "pier/pier.h"

#define SIZE_OF(name) \
    { \
#name, sizeof(struct name) \
    }

static const struct {
    const char *name;
    size_t size;
} structs[] = {
    SIZE_OF(pier_abi),
    SIZE_OF(pier_address),
    SIZE_OF(pier_handle),
    SIZE_OF(pier_listen_options),
    SIZE_OF(pier_loop_counters),
    SIZE_OF(pier_loop_options),
    SIZE_OF(pier_op),
    SIZE_OF(pier_timer_link),
    SIZE_OF(pier_turn_link),
    SIZE_OF(pier_vector),
    SIZE_OF(pier_writer),
    SIZE_OF(pier_writer_options),
};

size_t pier_struct_size(const char *name)
{
    for (size_t i = 0; name != NULL && i < sizeof(structs) / sizeof(structs[0]); i++) {
        if (strcmp(structs[i].name, name) == 0) {
            return structs[i].size;
        }
    }
    return 0;
}
