/* fault.c - making system calls fail on purpose: only in the library that the tests link
 * (PIER_FAULTS).
 *
 * Counters are shared by all threads and atomic; a plan is set while no loop runs. */

#include "sys/sys.h"

#ifdef PIER_FAULTS

#include <string.h>

#include "base/atomic.h"

struct plan {
    uint64_t count; /* calls so far */
    uint64_t fail_at, until;
    int error;
};

static struct plan plans[PIER__CALL_COUNT];

int pier__fault(enum pier__sys_call call)
{
    struct plan *plan = &plans[call];
    uint64_t number = pier__atomic_add(&plan->count, 1) + 1;
    return plan->error != 0 && number >= plan->fail_at && number <= plan->until ? plan->error : 0;
}

void pier__fault_set(enum pier__sys_call call, uint64_t n, int error, bool for_good)
{
    struct plan *plan = &plans[call];
    uint64_t count = pier__atomic_load(&plan->count);
    plan->fail_at = count + n;
    plan->until = for_good ? UINT64_MAX : plan->fail_at;
    plan->error = n == 0 ? 0 : error;
}

uint64_t pier__fault_count(enum pier__sys_call call)
{
    return pier__atomic_load(&plans[call].count);
}

void pier__fault_reset(void)
{
    memset(plans, 0, sizeof(plans));
}

#endif
