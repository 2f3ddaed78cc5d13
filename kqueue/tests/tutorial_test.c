/*
 * Runs the tutorial programs, which know nothing of Linux, and looks at what they print.
 *
 * usage: tutorial_test DIRECTORY-OF-THE-PROGRAMS
 *
 * Programs of another processor are started under the emulator that PIER_EMULATOR names.
 *
 * Each has a terminal for its output, so that the lines come at once without a word about it in the
 * program. What a program has printed says when it is ready for the next step.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static const char *programs;

struct run {
    pid_t pid;
    int terminal;
    char pending[512];
    size_t size;
};

static void start(struct run *run, const char *program, const char *argument)
{
    const char *emulator = getenv("PIER_EMULATOR");
    struct termios settings;
    char path[512];
    int slave;

    memset(run, 0, sizeof(*run));
    snprintf(path, sizeof(path), "%s/%s", programs, program);
    run->terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    REQUIRE(run->terminal >= 0);
    REQUIRE(grantpt(run->terminal) == 0);
    REQUIRE(unlockpt(run->terminal) == 0);
    slave = open(ptsname(run->terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    REQUIRE(slave >= 0);
    tcgetattr(slave, &settings);
    settings.c_oflag &= ~(tcflag_t)OPOST;
    tcsetattr(slave, TCSANOW, &settings);
    run->pid = fork();
    REQUIRE(run->pid >= 0);
    if (run->pid == 0) {
        dup2(slave, STDOUT_FILENO);
        if (emulator)
            execl(emulator, emulator, path, argument, (char *)NULL);
        else
            execl(path, program, argument, (char *)NULL);
        _exit(127);
    }
    close(slave);
}

/* The next line the program prints, without its end; "" when there are no more. */
static const char *next_line(struct run *run)
{
    static char line[512];
    char *end;

    while (!(end = memchr(run->pending, '\n', run->size))) {
        ssize_t size = read(run->terminal, &run->pending[run->size],
                            sizeof(run->pending) - run->size);

        if (size <= 0)
            return "";
        run->size += (size_t)size;
    }
    memcpy(line, run->pending, (size_t)(end - run->pending));
    line[end - run->pending] = '\0';
    run->size -= (size_t)(end - run->pending) + 1;
    memmove(run->pending, end + 1, run->size);
    return line;
}

static void expect(struct run *run, const char *text)
{
    const char *line = next_line(run);

    if (strcmp(line, text) != 0) {
        printf("# expected \"%s\", got \"%s\"\n", text, line);
        CHECK(false);
    }
}

static void expect_exit(struct run *run, int status)
{
    int outcome = -1;

    CHECK_EQ(waitpid(run->pid, &outcome, 0), run->pid);
    CHECK_EQ(outcome, status << 8);
    close(run->terminal);
}

static void echo_server(void)
{
    struct run run;
    uint16_t port;
    char number[8], bytes[8];
    int client;

    close(tcp_listen(&port));
    snprintf(number, sizeof(number), "%u", port);
    start(&run, "tutorial_echo", number);
    expect(&run, "waiting for connections");
    for (int i = 0; i < 3; i++) {
        client = socket(AF_INET, SOCK_STREAM, 0);
        CHECK_EQ(tcp_connect(client, port), 0);
        expect(&run, "got connection!");
        CHECK_EQ(send(client, "hello", 5, 0), 5);
        expect(&run, "read 5 bytes");
        CHECK_EQ(recv(client, bytes, 5, MSG_WAITALL), 5);
        CHECK(memcmp(bytes, "hello", 5) == 0);
        close(client);
        expect(&run, "disconnect");
    }
    kill(run.pid, SIGKILL);
    waitpid(run.pid, NULL, 0);
    close(run.terminal);
}

static void file_monitor(void)
{
    struct run run;
    char line[256];
    int fd = open(scratch_file("watched"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    snprintf(line, sizeof(line), "watching %s", scratch_file("watched"));
    start(&run, "tutorial_monitor", scratch_file("watched"));
    expect(&run, line);
    CHECK_EQ(write(fd, "abc", 3), 3);
    expect(&run, "File extended");
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    expect(&run, "File modified");
    CHECK_EQ(fchmod(fd, 0644), 0);
    expect(&run, "File attributes modified");
    CHECK_EQ(rename(scratch_file("watched"), scratch_file("moved")), 0);
    expect(&run, "File renamed");
    CHECK_EQ(unlink(scratch_file("moved")), 0);
    expect(&run, "File deleted");
    expect_exit(&run, 0);
    close(fd);
}

static void timer_of_a_second(void)
{
    struct run run;
    int64_t began = now_ms();

    start(&run, "tutorial_timer", NULL);
    for (int i = 0; i < 3; i++)
        expect(&run, "timer 1 fired");
    CHECK(now_ms() - began >= 2999);
    expect_exit(&run, 0);
}

/*
 * The thread sanitizer of gcc 12 seems to lose a signal that comes while its first blocking call
 * makes ready for signals: 9 of 600 programs never heard of their first, of 1,000 that slept none.
 */
static void await_sleep(const struct run *run)
{
#ifdef __SANITIZE_THREAD__
    char path[64], text[512];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)run->pid);
    for (int looks = 0, asleep = 0; looks < 500 && asleep < 10; looks++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t size = read(fd, text, sizeof(text) - 1);
        const char *state;

        close(fd);
        text[size > 0 ? size : 0] = '\0';
        state = strrchr(text, ')');
        asleep = state && state[1] == ' ' && state[2] == 'S' ? asleep + 1 : 0;
        usleep(10000);
    }
#else
    (void)run;
#endif
}

static void interrupt_and_terminate(void)
{
    struct run run;
    char line[64];

    start(&run, "tutorial_signal", NULL);
    snprintf(line, sizeof(line), "my pid is %d", (int)run.pid);
    expect(&run, line);
    await_sleep(&run);
    kill(run.pid, SIGINT);
    expect(&run, "SIGINT");
    kill(run.pid, SIGINT);
    expect(&run, "SIGINT");
    kill(run.pid, SIGTERM);
    expect(&run, "SIGTERM, bye");
    expect_exit(&run, 0);
}

static void end_of_a_child(void)
{
    struct run run;

    start(&run, "tutorial_child", NULL);
    expect(&run, "watching the child");
    expect(&run, "the child exited with status 23");
    expect_exit(&run, 0);
}

int main(int argc, char **argv)
{
    static const struct test tests[] = {
        TEST(echo_server),       TEST(file_monitor),
        TEST(timer_of_a_second), TEST(interrupt_and_terminate),
        TEST(end_of_a_child),
    };

    if (argc != 2) {
        fprintf(stderr, "usage: tutorial_test DIRECTORY-OF-THE-PROGRAMS\n");
        return 1;
    }
    programs = argv[1];
    return check_main(tests, COUNT(tests));
}
