/* fault_test.c - makes each system call of pier fail, one at a time.
 *
 *   fault-test --backend NAME [--trigger edge|level|oneshot] [--address ADDRESS] [--call NAME]
 *              [--all|--few]
 *
 * A first pass of the scenario counts the calls of each kind. Then, for each kind, each plausible
 * error and the Nth call for N from 1 to that count, a pass fails that call, and another one that
 * call and all after it. Beyond the first 40 N only some are tried, unless --all is given;
 * with --few, for systems that are slow to start a process, beyond the first 4. Each
 * pass has a process of its own, so that a crash or a hang is told with the call, N and error.
 *
 * Exit code 0: all passed, 1: one failed or the command line is wrong, 77: the backend isn't to be
 * had here. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario.h"
#include "sys/sys.h"
#include "system.h"

enum { WATCHDOG_S = 30 };

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
static uint64_t first_tried = 40, growth = 4;
static unsigned passed, failed, skipped;

static void end_fault(void)
{
    pier__fault_reset();
}

/* A call that says "not yet" while there is data is told apart from the truth by no one: an
 * edge-triggered loop waits for an edge that never comes. Everything else must end by itself, and a
 * completion port asks again. */
static bool must_finish(const struct fault *fault)
{
    return !fault->for_good &&
           (fault->error != PIER_EAGAIN || strcmp(scenario.backend, "iocp") == 0);
}

static void tell_problem(int result)
{
    if (result != 0) {
        printf("# %s\n", scenario_problem());
        system_exit(1);
    }
}

/* In a process of its own. */
static void run_pass(void *context)
{
    const struct fault *fault = context;
    pier__fault_reset();
    pier__fault_set(fault->call, fault->number, fault->error, fault->for_good);
    scenario.must_finish = must_finish(fault);
    scenario.patience_ns = (scenario.must_finish ? 10000 : 40) * PIER_MILLISECOND;
    scenario.drain_early = fault->for_good && fault->number % 2 == 0;
    scenario.recover = end_fault;
    tell_problem(scenario_run(&scenario));
}

static int run_fault(struct fault *fault)
{
    char why[100];
    int code = system_run(run_pass, fault, sizeof(*fault), WATCHDOG_S, why, sizeof(why));
    if (code == 0) {
        passed++;
        return 0;
    }
    failed++;
    printf("not ok %s %s: call %llu fails %s with %s%s%s\n", scenario.backend,
           kinds[fault->call].name, (unsigned long long)fault->number,
           fault->for_good ? "for good" : "once", pier_error_name(fault->error),
           code < 0 ? ": " : "", code < 0 ? why : "");
    return 1;
}

/* The Nth calls worth trying: the first ones, then in growing steps. */
static uint64_t next_number(uint64_t number)
{
    return try_all || number < first_tried ? number + 1 : number + 1 + number / growth;
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

/* A pass in which nothing fails, in a process of its own: counts the calls. */
static void count_in_pass(void *context)
{
    uint64_t *counts = context;
    pier__fault_reset();
    scenario.must_finish = scenario.must_succeed = true;
    scenario.patience_ns = 10 * PIER_SECOND;
    tell_problem(scenario_run(&scenario));
    for (int i = 0; i < PIER__CALL_COUNT; i++) {
        counts[i] = pier__fault_count((enum pier__sys_call)i);
    }
}

static bool parse(int count, char **words)
{
    static const char *const triggers[] = {"edge", "level", "oneshot"};
    for (int i = 1; i < count; i++) {
        const char *value = i + 1 < count ? words[i + 1] : "";
        bool right = false;
        if (strcmp(words[i], "--all") == 0) {
            try_all = right = true;
        } else if (strcmp(words[i], "--few") == 0) {
            first_tried = 4;
            growth = 1;
            right = true;
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
        } else if (strcmp(words[i], "--address") == 0) {
            scenario.address = value;
            right = true;
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
                        "[--address ADDRESS] [--call NAME] [--all|--few]\n");
        return 1;
    }
    system_continue();
    if (pier_backend_probe(scenario.backend) < 0) {
        printf("SKIPPED fault: %s\n0 passed, 0 failed, 1 skipped\n", pier_error_detail());
        return 77;
    }
    char why[100] = "";
    if (system_run(count_in_pass, counts, sizeof(counts), WATCHDOG_S, why, sizeof(why)) != 0) {
        printf("not ok %s without a fault%s%s\n0 passed, 1 failed, 0 skipped\n", scenario.backend,
               why[0] != '\0' ? ": " : "", why);
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
