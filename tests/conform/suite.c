/* suite.c - the areas of the suite, in the order they run. The posix_*.c ones exist on POSIX
 * systems only, the windows_*.c ones on Windows. */

#include "suite.h"

const struct test *const suite_areas[] = {
    ops_tests,
    cancel_tests,
    timeouts_tests,
    close_tests,
    graceful_tests,
    order_tests,
    streams_tests,
    ends_tests,
    accept_tests,
    connect_tests,
    multishot_tests,
    buffers_tests,
    fairness_tests,
    timers_tests,
    threads_tests,
    poll_tests,
    loop_tests,
    drain_tests,
    embed_tests,
    small_queue_tests,
    steady_tests,
    writer_tests,
    adopted_tests,
    misuse_tests,
#ifdef CONFORM_POSIX
    descriptors_tests,
    limits_tests,
    fork_tests,
    reuse_tests,
    signals_tests,
    sandbox_tests,
#else
    windows_tests,  windows_unix_tests,
#endif
    NULL,
};
