/* Before Modules/selectmodule.c: what configure would have found. */
#include "Python.h"

#undef HAVE_EPOLL
#undef HAVE_EPOLL_CREATE1
#undef HAVE_SYS_EPOLL_H
#define HAVE_KQUEUE 1
#define HAVE_SYS_EVENT_H 1

#include <sys/event.h>
