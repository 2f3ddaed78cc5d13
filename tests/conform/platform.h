/* platform.h - what the conformance suite needs of the system besides pier itself.
 *
 * The other side of a connection is played by plain blocking sockets ("raw" ones), so that a
 * fault of pier can't hide behind the same fault at its peer. Processes, threads and the count
 * of open descriptors are here too. The tests include this header and no system header; those
 * that need more than it offers are named posix_*.c. One file per system implements it
 * (platform_posix.c).
 *
 * A raw call that fails where it can't on a sound system ends the test with a line that says
 * so; the failures that tests are about are values. Nothing here waits without end: the
 * watchdog of platform_isolate() ends a test that does. */

#ifndef CONFORM_PLATFORM_H
#define CONFORM_PLATFORM_H

#include "pier/pier.h"

#include <stdio.h>

enum verdict { VERDICT_PASSED, VERDICT_FAILED, VERDICT_SKIPPED };

struct outcome {
    enum verdict verdict;
    char text[1024]; /* why it failed or was skipped */
};

/* Whether this system can run each test in a process of its own. */
bool platform_can_isolate(void);

/* Runs `body` in a process of its own and waits for its outcome; a crash or the watchdog is a
 * failure. */
void platform_isolate(void (*body)(void), unsigned watchdog_s, struct outcome *outcome);

/* In a process made by platform_isolate(): ends it at once with this outcome. From any thread. */
_Noreturn void platform_conclude(const struct outcome *outcome);

/* Starts the watchdog in this process: after that many seconds it ends with `explain()` as the
 * reason. 0 stops it. */
void platform_watchdog(unsigned seconds, const char *(*explain)(void));

/* Which of several, for an action that is tried with each: it has the same value in its process. */
extern unsigned platform_variant;

/* Runs `action`, which is expected to abort, in a process of its own. Returns whether it did,
 * with what it wrote to standard error in `text`. */
bool platform_aborts(void (*action)(void), char *text, size_t size);

struct platform_thread {
    void *state_;
};

void platform_thread_start(struct platform_thread *thread, void (*body)(void *), void *context);
void platform_thread_join(struct platform_thread *thread);
void platform_yield(void);

/* Monotonic nanoseconds, as pier_loop_now() but of a clock of their own. */
uint64_t platform_now(void);

/* Nanoseconds of processor time that this process has used, of all threads. Windows counts in steps
 * of some 16 ms. */
uint64_t platform_processor_time(void);

/* Sets a variable of the environment; NULL removes it. */
void platform_set_environment(const char *name, const char *value);

/* Open descriptors of this process, as far as pier could have opened them. */
int platform_descriptor_count(void);

/* How many more descriptors this process may open, once it has asked for as many as it's
 * allowed. */
unsigned platform_descriptor_room(void);

/* A path that doesn't exist yet, short enough for a Unix-domain address. */
void platform_temporary_path(char *text, size_t size);
void platform_remove(const char *path);
bool platform_path_exists(const char *path);
/* The descriptor behind an open file. */
pier_descriptor platform_descriptor_of(FILE *file);

/* Opens a file for reading, or makes one for reading and writing. A system may have several kinds
 * of open files, counted from 0; those of kind 0 have a current place. */
enum platform_how { PLATFORM_READ, PLATFORM_CREATE };
pier_descriptor platform_open(const char *path, enum platform_how how, int kind);
int platform_file_kinds(void);
void platform_seek(pier_descriptor descriptor, int64_t offset);
pier_descriptor platform_open_directory(void);

/* Waits until the descriptor is readable. Returns whether it is, false after timeout_ns. */
bool platform_wait_readable(pier_descriptor descriptor, uint64_t timeout_ns);

/* ---- the raw peer ---------------------------------------------------------------------------- */

/* Results of raw_send_now() and raw_receive_now() besides the number of bytes; 0 is the end of
 * the stream. */
enum { RAW_AGAIN = -1, RAW_RESET = -2, RAW_PIPE = -3, RAW_FAILED = -4 };

/* Whether raw sockets of this family can be had: IPv6 may be switched off. */
bool raw_has_family(int family);

/* Whether streams of this address are named pipes: those are left over nowhere, and have no buffer
 * sizes to set. */
bool raw_is_pipe_address(const struct pier_address *address);

/* Listens; a port 0 is replaced by the one that the system chose. */
pier_descriptor raw_listen(struct pier_address *address, int backlog);

/* Connects and waits until that is done. */
pier_descriptor raw_connect(const struct pier_address *address);

/* Begins to connect without waiting for it. */
pier_descriptor raw_connect_begin(const struct pier_address *address);

/* Waits for one connection. */
pier_descriptor raw_accept(pier_descriptor listener);

/* A stream socket that is bound nowhere and connected to nothing; a datagram socket. */
pier_descriptor raw_socket(int family);
pier_descriptor raw_datagram_socket(void);

/* Two connected sockets, in blocking mode. */
void raw_pair(pier_descriptor ends[2]);

/* A pipe, in blocking mode: [0] reads. */
void raw_pipe(pier_descriptor ends[2]);

/* What goes without waiting. Both work on sockets and on pipes. */
int64_t raw_send_now(pier_descriptor descriptor, const void *memory, size_t size);
int64_t raw_receive_now(pier_descriptor descriptor, void *memory, size_t size);

/* Sends until nothing more goes, nor will before the peer receives. */
void raw_fill(pier_descriptor descriptor);

/* All of it, however long it takes. */
void raw_send(pier_descriptor descriptor, const void *memory, size_t size);
void raw_receive(pier_descriptor descriptor, void *memory, size_t size);
/* A byte of TCP's urgent data. */
void raw_send_urgent(pier_descriptor socket, char byte);
/* Waits for the end of the stream, which must be the next thing to come. */
void raw_receive_end(pier_descriptor descriptor);
/* Receives and drops everything up to the end of the stream or a reset; returns the number of
 * bytes. */
uint64_t raw_receive_rest(pier_descriptor descriptor);

/* Bytes that can be received at once. */
size_t raw_available(pier_descriptor descriptor);

void raw_shutdown(pier_descriptor descriptor);
void raw_close(pier_descriptor descriptor);
/* Closes with SO_LINGER 0, so that the peer sees a reset. */
void raw_reset(pier_descriptor descriptor);

/* Another descriptor for the same open object. */
pier_descriptor raw_duplicate(pier_descriptor descriptor);

void raw_set_nonblocking(pier_descriptor descriptor, bool on);
/* Where the system can't tell, what it was set to last. */
bool raw_is_nonblocking(pier_descriptor descriptor);

enum raw_option {
    RAW_NO_DELAY,
    RAW_KEEP_ALIVE,
    RAW_CAN_BIND_AGAIN /* while old connections linger, and nobody else while this one is open */
};
bool raw_has_option(pier_descriptor socket, enum raw_option option);
/* Whether programs that this one starts get the descriptor. */
bool raw_is_inherited(pier_descriptor descriptor);

void raw_local_address(pier_descriptor descriptor, struct pier_address *address);

/* An address at which nobody listens, nor can until the descriptor that is returned is closed. */
pier_descriptor raw_refusing_address(struct pier_address *address);

/* An address on the loopback at which connecting neither succeeds nor fails: a listener whose
 * backlog is full. */
struct raw_black_hole {
    struct pier_address address;
    pier_descriptor listener, fillers[16];
    int count;
};

bool raw_black_hole_open(struct raw_black_hole *hole, int family);
void raw_black_hole_close(struct raw_black_hole *hole);

#endif
