/* bsd.h - kqueue's calls, for the kqueue backend. Conventions as in sys.h. On Linux they are those
 * of libpier-kqueue, with which the tests run the backend there. */

#ifndef PIER_SYS_BSD_H
#define PIER_SYS_BSD_H

#include "sys/sys.h"

struct kevent;

pier_descriptor pier__sys_kqueue_create(void);
/* Changes that one call may make. */
#define PIER__KEVENT_CHANGES_MAX 64

/* Applies changes and waits for events. The two arrays are different ones, since a call
 * with one for both applies a change twice when events take its slots (libxev, issue 122). Returns
 * the number of events; an interruption is 0 events. */
int pier__sys_kevent(pier_descriptor queue, const struct kevent *changes, size_t change_count,
                     struct kevent *events, size_t event_count, uint64_t timeout_ns);

#endif
