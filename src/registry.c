/* registry.c - which backends there are, best first, and which one a loop gets.
 *
 * The choice is: the option, else PIER_BACKEND from the environment, else the first whose probe
 * succeeds. A probe tries for real: what a kernel or sandbox refuses (EPERM, ENOSYS, ENOMEM,
 * EINVAL) is stepped over, and only an explicit wish fails. */

#include <stdio.h>
#include <string.h>

#include "core/engine.h"

extern const struct pier__engine pier__uring_engine;
extern const struct pier__engine pier__epoll_engine;
extern const struct pier__engine pier__kqueue_engine;
extern const struct pier__engine pier__iocp_engine;
extern const struct pier__engine pier__poll_engine;
extern const struct pier__engine pier__select_engine;

static const struct pier__engine *const engines[] = {
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

#define COUNT (sizeof(engines) / sizeof(engines[0]))

const char *pier_backend_name(size_t index)
{
    return index < COUNT ? engines[index]->name : NULL;
}

static const struct pier__engine *find_engine(const char *name)
{
    for (size_t i = 0; i < COUNT; i++) {
        if (strcmp(engines[i]->name, name) == 0) {
            return engines[i];
        }
    }
    return NULL;
}

static int unknown(const char *name, const char *source)
{
    char known[96] = "";
    for (size_t i = 0; i < COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", engines[i]->name);
    }
    return pier__fail(PIER_EINVAL, "backend %s%s is unknown here: use one of %s",
                      PIER__QUOTE_TEXT(name), source, known);
}

int pier_backend_probe(const char *name)
{
    const struct pier__engine *engine = find_engine(name);
    return engine != NULL ? engine->probe() : unknown(name, "");
}

/* Sets the engine and its capabilities. */
static int choose_engine(const char *name, const struct pier__engine **chosen)
{
    const char *source = "";
    if (name == NULL || name[0] == '\0') {
        name = pier__sys_environment("PIER_BACKEND");
        source = " (from PIER_BACKEND)";
    }
    if (name != NULL && name[0] != '\0') {
        *chosen = find_engine(name);
        return *chosen != NULL ? (*chosen)->probe() : unknown(name, source);
    }
    int bits = PIER_ENOTSUP;
    for (size_t i = 0; i < COUNT && bits < 0; i++) {
        *chosen = engines[i];
        bits = engines[i]->probe();
    }
    return bits;
}

/* ---- making a loop */

static int check_abi(const struct pier_abi *abi)
{
    if (abi->size != sizeof(struct pier_abi) || abi->op_size != sizeof(struct pier_op) ||
        abi->handle_size != sizeof(struct pier_handle) ||
        abi->options_size != sizeof(struct pier_loop_options) ||
        abi->version / 1000 != PIER_VERSION_MAJOR) {
        return pier__fail(
            PIER_EINVAL,
            "the program was compiled for another pier (op %lu, handle %lu bytes; the library "
            "has %lu, %lu): "
            "compile it against the headers of version " PIER_VERSION_STRING,
            (unsigned long)abi->op_size, (unsigned long)abi->handle_size,
            (unsigned long)sizeof(struct pier_op), (unsigned long)sizeof(struct pier_handle));
    }
    return 0;
}

int pier_loop_new_for(struct pier_loop **loop, const struct pier_loop_options *given,
                      const struct pier_abi *abi)
{
    struct pier_loop_options options = {0};
    const struct pier__engine *engine;
    int result = check_abi(abi);
    if (result == 0 && given != NULL) {
        options = *given;
    }
    if (result < 0 || (result = pier__loop_check_options(&options)) < 0 ||
        (result = choose_engine(options.backend, &engine)) < 0) {
        return result;
    }
    return pier__loop_make(loop, &options, engine, (unsigned)result);
}

const char *pier_version(void)
{
    return PIER_VERSION_STRING;
}
