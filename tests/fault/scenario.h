/* scenario.h - one pass through everything a loop does, with each outcome checked against the
 * contract. What is allowed to fail is told by the caller; what isn't allowed ever (a second
 * completion, a leak, a result that is no PIER_E*) is a failure in any case. */

#ifndef PIER_FAULT_SCENARIO_H
#define PIER_FAULT_SCENARIO_H

#include "pier/pier.h"

struct scenario {
    const char *backend;
    enum pier_trigger trigger;
    const char *address;  /* of the echo server; NULL: 127.0.0.1:0 */
    uint64_t patience_ns; /* how long its ops may take before they are given up */
    bool must_finish;     /* running out of patience is a failure */
    bool must_succeed;    /* so is each error: nothing is made to fail */
    bool drain_early; /* the loop is drained, as far as it goes, before the system works again */
    void (*recover)(void); /* called when the system is to work again; may be NULL */
};

/* Returns 0, or 1 with what went wrong in scenario_problem(). */
int scenario_run(const struct scenario *scenario);
const char *scenario_problem(void);

#endif
