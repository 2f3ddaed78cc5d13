/* suite.h - every area of the suite; main.c runs them in the order of suite_areas. */

#ifndef CONFORM_SUITE_H
#define CONFORM_SUITE_H

#include "harness.h"
#include "tracked.h"

extern const struct test ops_tests[];
extern const struct test cancel_tests[];
extern const struct test timeouts_tests[];
extern const struct test close_tests[];
extern const struct test graceful_tests[];
extern const struct test order_tests[];
extern const struct test streams_tests[];
extern const struct test ends_tests[];
extern const struct test accept_tests[];
extern const struct test accept_address_tests[];
extern const struct test connect_tests[];
extern const struct test multishot_tests[];
extern const struct test buffers_tests[];
extern const struct test fairness_tests[];
extern const struct test timers_tests[];
extern const struct test threads_tests[];
extern const struct test handover_tests[];
extern const struct test poll_tests[];
extern const struct test poll_change_tests[];
extern const struct test lookups_tests[];
extern const struct test handle_timers_tests[];
extern const struct test hooks_tests[];
extern const struct test loop_tests[];
extern const struct test dump_tests[];
extern const struct test drain_rounds_tests[];
extern const struct test embed_tests[];
extern const struct test small_queue_tests[];
extern const struct test steady_tests[];
extern const struct test writer_tests[];
extern const struct test writer_turn_tests[];
extern const struct test writer_order_tests[];
extern const struct test writer_ends_tests[];
extern const struct test writer_stall_tests[];
extern const struct test adopted_tests[];
extern const struct test misuse_tests[];
extern const struct test events_tests[];
extern const struct test stalled_tests[];
extern const struct test streaming_tests[];
extern const struct test vectors_tests[];
extern const struct test unconnected_tests[];
extern const struct test unopened_tests[];
extern const struct test close_again_tests[];
extern const struct test drain_tests[];
extern const struct test elsewhere_tests[];
extern const struct test thread_ends_tests[];
extern const struct test notifications_tests[];
extern const struct test detached_tests[];
extern const struct test abi_tests[];
extern const struct test progress_tests[];
extern const struct test gaps_tests[];
extern const struct test counters_tests[];
extern const struct test held_ends_tests[];
extern const struct test misuse_threads_tests[];
extern const struct test promises_tests[];

/* posix_*.c */
extern const struct test changes_tests[];
extern const struct test descriptors_tests[];
extern const struct test files_tests[];
extern const struct test limits_tests[];
extern const struct test memory_tests[];
extern const struct test fork_tests[];
extern const struct test network_tests[];
extern const struct test noise_tests[];
extern const struct test refused_tests[];
extern const struct test reuse_tests[];
extern const struct test signals_tests[];
extern const struct test exclusive_tests[];
extern const struct test sandbox_tests[];
extern const struct test edges_tests[];

/* windows_*.c */
extern const struct test windows_tests[], windows_unix_tests[];

extern const struct test *const suite_areas[];

#endif
