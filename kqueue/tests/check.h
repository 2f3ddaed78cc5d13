/*
 * The harness of the kqueue tests, and the few calls that nearly all of them make.
 *
 * A test program is a table of functions given to check_main(). Each prints `ok NAME`, `not ok
 * NAME` or `skip NAME: WHY`; the last line counts them. Exit status: 0, 1 when a test failed, 77
 * when all were skipped. A test that hangs is ended by SIGALRM.
 */
#ifndef PIER_KQUEUE_CHECK_H
#define PIER_KQUEUE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/event.h>

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(name) \
    { \
#name, name \
    }

/* Reports a failure and goes on. True if the condition holds. */
#define CHECK(condition) check_that((condition), __FILE__, __LINE__, #condition)
/* Two integers, printed if they differ. */
#define CHECK_EQ(left, right) \
    check_equal((intmax_t)(left), (intmax_t)(right), __FILE__, __LINE__, #left " == " #right)
/* Ends the program if it fails: nothing after it makes sense. */
#define REQUIRE(condition) \
    (check_that((condition), __FILE__, __LINE__, #condition) ? (void)0 : check_give_up())

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define MS_PER_SECOND 1000
#define LONG_MS 20000 /* for what must come: nobody waits that long unless it fails */

bool check_that(bool holds, const char *file, int line, const char *what);
bool check_equal(intmax_t left, intmax_t right, const char *file, int line, const char *what);
void check_give_up(void);
/* Marks the running test as skipped; return from it afterwards. */
void check_skip(const char *why);
int check_main(const struct test *tests, int count);

/* A new queue; the test closes it. */
int new_queue(void);
/* Applies one change; 0, or the errno. */
int change(int queue, uintptr_t ident, short filter, int flags, unsigned int fflags, int64_t data,
           void *udata);
int add(int queue, uintptr_t ident, short filter, int flags);
/* Waits at most `ms` for up to `room` events. */
int get(int queue, struct kevent *events, int room, int ms);
/* The one event that must come; a zeroed one if it doesn't. */
struct kevent get_one(int queue);
/* Whether there is nothing to get. */
bool is_quiet(int queue);
/* Whether poll() finds the descriptor readable. */
bool is_readable(int fd);

/* A connected pair of non-blocking TCP sockets on the loopback. */
void tcp_pair(int pair[2]);
/* A non-blocking listening socket; its port in *port. */
int tcp_listen(uint16_t *port);
/* Starts to connect; the result of connect(). */
int tcp_connect(int fd, uint16_t port);
/* Closes with a reset. */
void reset(int fd);
void set_nonblocking(int fd);
/* Writes until it would block; the bytes. */
size_t fill(int fd);
/* Reads until it would block or ends; the bytes. */
size_t drain(int fd);
/* A directory for this test program, removed at its end. */
const char *scratch(void);
/* scratch()/name, in a static buffer that the call after the next overwrites. */
const char *scratch_file(const char *name);
/* Whether EVFILT_PROC works here; else the running test is skipped. */
bool can_watch_processes(void);
/* Whether TCP_INFO is answered in full. qemu-user gives the first word alone. */
bool has_tcp_info(void);
/* Whether the kernel's socket statistics can be asked. qemu-user and some sandboxes forbid it. */
bool has_socket_statistics(void);
int64_t now_ms(void);
/* Open descriptors of this process. */
int count_descriptors(void);

#endif
