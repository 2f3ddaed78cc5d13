/* linux.h - the calls that only Linux has, for the epoll and uring backends. Conventions as in
 * sys.h. */

#ifndef PIER_SYS_LINUX_H
#define PIER_SYS_LINUX_H

#include "sys/sys.h"

struct epoll_event;

pier_descriptor pier__sys_epoll_create(void);
enum pier__epoll_change { PIER__EPOLL_ADD, PIER__EPOLL_MODIFY, PIER__EPOLL_REMOVE };
int pier__sys_epoll_control(pier_descriptor epoll, enum pier__epoll_change change,
                            pier_descriptor descriptor, struct epoll_event *event);
/* Sleeps up to timeout_ns, rounded up to what the kernel can do (nanoseconds, or milliseconds
 * before 5.11). 0 when interrupted. */
int pier__sys_epoll_wait(pier_descriptor epoll, struct epoll_event *events, int most,
                         uint64_t timeout_ns);

/* An event descriptor, nonblocking; signal adds one to it and leaves errno alone; drain takes what
 * is there. */
pier_descriptor pier__sys_eventfd(void);
void pier__sys_eventfd_signal(pier_descriptor descriptor);
void pier__sys_eventfd_drain(pier_descriptor descriptor);

/* Gives the system back the pages that lie whole in this memory, whose content is lost. */
void pier__sys_discard(void *memory, size_t size);

/* A small file of /proc/sys as a number, or -1. */
int64_t pier__sys_read_number(const char *path);

#endif
