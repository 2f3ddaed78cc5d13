/* SPDX-License-Identifier: MIT */
/* command.h - running the `pier` command from a test: start it, read what it says, end it.
 *
 * The program is the one that PIER_TEST_TOOL names; it may be one of another system, to be run
 * under the emulator that PIER_EMULATOR names. PIER_TEST_BACKEND is the backend that the tests are
 * for; tests that need one are skipped when this machine doesn't have it. */

#ifndef PIER_TESTS_COMMAND_H
#define PIER_TESTS_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { COMMAND_OUTPUT_MAX = 16 * 1024, COMMAND_TIME_MS = 20 * 1000 };

struct command {
    pid_t id;
    int out, err; /* pipes from its stdout and stderr */
    char output[COMMAND_OUTPUT_MAX], errors[COMMAND_OUTPUT_MAX]; /* filled by command_finish() */
    int exit_code;
};

/* Starts `pier` with arguments, ended by NULL. */
void command_start(struct command *command, const char *const *arguments);

/* Starts it likewise; `prepare` is called in its process first, with descriptors 0 to 2 as it will
 * have them. */
void command_start_with(struct command *command, void (*prepare)(void),
                        const char *const *arguments);

/* Whether the command is a program for Windows. */
bool command_is_windows(void);

/* Sends it SIGINT or SIGTERM. Of the two Wine knows SIGINT only, as Ctrl-C. */
void command_signal(const struct command *command, int number);

/* Reads a line of its stdout, without the line end. Fails the test when none comes. */
void command_read_line(struct command *command, char *line, size_t size);

/* Waits for its end and collects what it wrote; kills it and fails the test when it takes longer
 * than time_ms. */
void command_finish(struct command *command, int time_ms);

/* Has a process that the test started killed when the test program ends, or no longer. */
void command_track(pid_t id, bool runs);

/* Runs it from start to end. */
void command_run(struct command *command, const char *const *arguments);

/* The number behind "name": in its JSON output, or -1. */
int64_t command_number(const struct command *command, const char *name);

/* The backend to test; skips the test when it can't be used here. */
const char *command_backend(void);

/* ---- sockets of the test's own ---- */

/* Connects to 127.0.0.1:port, with buffers of about `buffer` bytes if not 0. */
int command_connect(unsigned port, int buffer);

/* Writes or reads all of it, or fails the test. */
void command_write(int socket, const void *data, size_t size);
void command_read(int socket, void *data, size_t size);

/* Whether the stream ends now. */
bool command_reads_end(int socket);

/* Fills memory with bytes that differ by position and seed. */
void command_fill(unsigned char *data, size_t size, unsigned seed);

uint64_t command_now_ms(void);

#endif
