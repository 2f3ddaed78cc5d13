/* fault_test.c - makes each system call of pier fail, one at a time.
 *
 *   fault-test --backend NAME [--trigger edge|level|oneshot] [--call NAME] [--all]
 *
 * A first pass of the scenario counts the calls of each kind. Then, for each kind, each plausible
 * error and the Nth call for N from 1 to that count, a pass fails that call, and another one that
 * call and all after it. Beyond the first few N only some are tried, unless --all is given. Each
 * pass has a process of its own, so that a crash or a hang is told with the call, N and error.
 *
 * Exit code 0: all passed, 1: one failed or the command line is wrong, 77: the backend isn't to be
 * had here. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scenario.h"
#include "sys/sys.h"

enum { FIRST_TRIED = 40, WATCHDOG_S = 30 };

struct kind {
    const char *name;
    int errors[8];
};

static const struct kind kinds[] = {
#define FAULT_KIND(call, ...) {#call, {__VA_ARGS__}},
    PIER__SYS_CALLS(FAULT_KIND)
#undef FAULT_KIND
};

struct fault {
    enum pier__sys_call call;
    uint64_t number;
    int error;
    bool for_good;
};

static struct scenario scenario;
static const char *only;
static bool try_all;
static unsigned passed, failed, skipped;

static void end_fault(void)
{
    pier__fault_reset();
}

/* A call that says "not yet" while there is data is told apart from the truth by no one: an
 * edge-triggered loop waits for an edge that never comes. Everything else must end by itself. */
static bool must_finish(const struct fault *fault)
{
    return !fault->for_good && fault->error != PIER_EAGAIN;
}

/* In the child: exits with 0 or 1. */
static void run_child(const struct fault *fault)
{
    signal(SIGPIPE, SIG_DFL);
    alarm(WATCHDOG_S);
    pier__fault_reset();
    pier__fault_set(fault->call, fault->number, fault->error, fault->for_good);
    scenario.must_finish = must_finish(fault);
    scenario.patience_ns = (scenario.must_finish ? 10000 : 40) * PIER_MILLISECOND;
    scenario.drain_early = fault->for_good && fault->number % 2 == 0;
    scenario.recover = end_fault;
    int result = scenario_run(&scenario);
    if (result != 0) {
        printf("# %s\n", scenario_problem());
    }
    fflush(stdout);
    _exit(result);
}

static int run_fault(const struct fault *fault)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        run_child(fault);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("fault-test: fork");
        exit(1);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        passed++;
        return 0;
    }
    failed++;
    printf("not ok %s %s: call %llu fails %s with %s", scenario.backend, kinds[fault->call].name,
           (unsigned long long)fault->number, fault->for_good ? "for good" : "once",
           pier_error_name(fault->error));
    if (WIFSIGNALED(status)) {
        printf(": %s", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
    }
    printf("\n");
    return 1;
}

/* The Nth calls worth trying: the first ones, then in growing steps. */
static uint64_t next_number(uint64_t number)
{
    return try_all || number < FIRST_TRIED ? number + 1 : number + 1 + number / 4;
}

static void try_kind(enum pier__sys_call call, uint64_t count)
{
    const struct kind *kind = &kinds[call];
    unsigned tried = 0, wrong = 0;
    for (unsigned i = 0; i < sizeof(kind->errors) / sizeof(kind->errors[0]); i++) {
        for (uint64_t number = 1; kind->errors[i] != 0 && number <= count;
             number = next_number(number)) {
            struct fault fault = {.call = call, .number = number, .error = kind->errors[i]};
            wrong += (unsigned)run_fault(&fault);
            fault.for_good = true;
            wrong += (unsigned)run_fault(&fault);
            tried += 2;
        }
    }
    if (wrong == 0) {
        printf("ok %s %s (%llu calls, %u passes)\n", scenario.backend, kind->name,
               (unsigned long long)count, tried);
    }
}

/* Counts the calls of a pass in which nothing fails, in a child that hands them back in a pipe. */
static bool count_calls(uint64_t counts[PIER__CALL_COUNT])
{
    int ends[2];
    ssize_t size = (ssize_t)(PIER__CALL_COUNT * sizeof(counts[0]));
    if (pipe(ends) != 0) {
        return false;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(WATCHDOG_S);
        pier__fault_reset();
        scenario.must_finish = scenario.must_succeed = true;
        scenario.patience_ns = 10 * PIER_SECOND;
        int result = scenario_run(&scenario);
        for (int i = 0; i < PIER__CALL_COUNT; i++) {
            counts[i] = pier__fault_count((enum pier__sys_call)i);
        }
        if (result != 0) {
            printf("# %s\n", scenario_problem());
            fflush(stdout);
        }
        _exit(result != 0 || write(ends[1], counts, (size_t)size) != size);
    }
    int status = 1;
    close(ends[1]);
    bool counted = child > 0 && read(ends[0], counts, (size_t)size) == size &&
                   waitpid(child, &status, 0) == child && status == 0;
    close(ends[0]);
    return counted;
}

static bool parse(int count, char **words)
{
    static const char *const triggers[] = {"edge", "level", "oneshot"};
    for (int i = 1; i < count; i++) {
        const char *value = i + 1 < count ? words[i + 1] : "";
        bool right = false;
        if (strcmp(words[i], "--all") == 0) {
            try_all = right = true;
        } else if (strcmp(words[i], "--backend") == 0) {
            scenario.backend = value;
            right = true;
            i++;
        } else if (strcmp(words[i], "--call") == 0) {
            only = value;
            for (int call = 0; call < PIER__CALL_COUNT; call++) {
                right = right || strcmp(kinds[call].name, value) == 0;
            }
            i++;
        } else if (strcmp(words[i], "--trigger") == 0) {
            for (int trigger = 0; trigger < 3; trigger++) {
                if (strcmp(triggers[trigger], value) == 0) {
                    scenario.trigger = (enum pier_trigger)trigger;
                    right = true;
                }
            }
            i++;
        }
        if (!right) {
            fprintf(stderr, "fault-test: \"%s %s\" isn't understood\n",
                    words[i < count ? i : count - 1], value);
            return false;
        }
    }
    return scenario.backend != NULL;
}

int main(int count, char **words)
{
    uint64_t counts[PIER__CALL_COUNT] = {0};
    if (!parse(count, words)) {
        fprintf(stderr, "usage: fault-test --backend NAME [--trigger edge|level|oneshot] "
                        "[--call NAME] [--all]\n");
        return 1;
    }
    if (pier_backend_probe(scenario.backend) < 0) {
        printf("SKIPPED fault: %s\n0 passed, 0 failed, 1 skipped\n", pier_error_detail());
        return 77;
    }
    if (!count_calls(counts)) {
        printf("not ok %s without a fault\n0 passed, 1 failed, 0 skipped\n", scenario.backend);
        return 1;
    }
    passed++;
    for (int call = 0; call < PIER__CALL_COUNT; call++) {
        if (counts[call] != 0 && (only == NULL || strcmp(only, kinds[call].name) == 0)) {
            try_kind((enum pier__sys_call)call, counts[call]);
        }
    }
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed != 0;
}
