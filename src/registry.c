/* registry.c - which backends there are, best first, and which one a loop gets.
 *
 * The choice is: the option, else PIER_BACKEND from the environment, else the first whose probe
 * succeeds. A probe tries for real: what a kernel or sandbox refuses (EPERM, ENOSYS, ENOMEM,
 * EINVAL) is stepped over, and only an explicit wish fails. */

#include <stdio.h>
#include <string.h>

#include "core/engine.h"
#include "base/error.h"
#include "sys/sys.h"

static const struct pier__engine *const backends[] = {
#ifdef PIER_HAVE_URING
    &pier__uring_engine,
#endif
#ifdef __linux__
    &pier__epoll_engine,
#endif
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || \
    defined(PIER_HAVE_KQUEUE_EMULATION)
    &pier__kqueue_engine,
#endif
#ifdef _WIN32
    &pier__iocp_engine,
#else
    &pier__poll_engine,
    &pier__select_engine,
#endif
};

#define COUNT (sizeof(backends) / sizeof(backends[0]))

const char *pier_backend_name(size_t index)
{
    return index < COUNT ? backends[index]->name : NULL;
}

const struct pier__engine *pier__engine_find(const char *name)
{
    for (size_t i = 0; i < COUNT; i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            return backends[i];
        }
    }
    return NULL;
}

static int unknown(const char *name, const char *source)
{
    char known[96] = "";
    for (size_t i = 0; i < COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", backends[i]->name);
    }
    return pier__fail(PIER_EINVAL, "backend %s%s is unknown here: use one of %s",
                      PIER__QUOTE_TEXT(name), source, known);
}

int pier_backend_probe(const char *name)
{
    const struct pier__engine *backend = pier__engine_find(name);
    return backend != NULL ? backend->probe() : unknown(name, "");
}

int pier__engine_choose(const char *name, const struct pier__engine **chosen)
{
    const char *source = "";
    if (name == NULL) {
        name = pier__sys_environment("PIER_BACKEND");
        source = " (from PIER_BACKEND)";
    }
    if (name != NULL && name[0] != '\0') {
        *chosen = pier__engine_find(name);
        if (*chosen == NULL) {
            return unknown(name, source);
        }
        int bits = (*chosen)->probe();
        return bits < 0 ? bits : 0;
    }
    int error = PIER_ENOTSUP;
    for (size_t i = 0; i < COUNT; i++) {
        error = backends[i]->probe();
        if (error >= 0) {
            *chosen = backends[i];
            return 0;
        }
    }
    return error;
}
