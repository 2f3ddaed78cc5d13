/* SPDX-License-Identifier: MIT */
/* msvc.h - put in front of each file by tools/ci/msvc.sh: the system's headers, and then a ban on
 * the words of gcc and clang that clang takes in MSVC's mode too, though MSVC doesn't know them. */

#include <intrin.h>

/* So that the headers and pier show their side for MSVC. */
#undef __clang__

#include <winsock2.h>

#include <ws2tcpip.h>

#include <mswsock.h>
#include <windows.h>

#include <mstcpip.h>
#include <winternl.h>

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <io.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Wine 8 lacks these of the Windows SDK. */
#ifndef FILE_SKIP_COMPLETION_PORT_ON_SUCCESS
#define FILE_SKIP_COMPLETION_PORT_ON_SUCCESS 0x1
#define FILE_SKIP_SET_EVENT_ON_HANDLE 0x2
#endif
#ifndef PIPE_REJECT_REMOTE_CLIENTS
#define PIPE_REJECT_REMOTE_CLIENTS 0x8
#endif
WINBASEAPI WORD WINAPI GetActiveProcessorGroupCount(void);

#pragma clang poison __attribute__ __attribute __extension__ __typeof__ __typeof typeof
#pragma clang poison __asm__ __asm asm __inline__ __restrict__ __thread _Thread_local
#pragma clang poison __int128 __auto_type __label__ __alignof__ __func __PRETTY_FUNCTION__
#pragma clang poison __builtin_expect __builtin_unreachable __builtin_prefetch __builtin_trap
#pragma clang poison __builtin_ctz __builtin_ctzl __builtin_ctzll __builtin_clz __builtin_clzl
#pragma clang poison __builtin_clzll __builtin_popcount __builtin_popcountll __builtin_memcpy
#pragma clang poison __builtin_add_overflow __builtin_sub_overflow __builtin_mul_overflow
#pragma clang poison __builtin_bswap16 __builtin_bswap32 __builtin_bswap64 __builtin_constant_p
#pragma clang poison __builtin_choose_expr __builtin_types_compatible_p __builtin_alloca
#pragma clang poison __builtin_return_address __builtin_frame_address __builtin_assume_aligned
#pragma clang poison __atomic_load_n __atomic_store_n __atomic_exchange_n __atomic_fetch_add
#pragma clang poison __atomic_add_fetch __atomic_fetch_sub __atomic_fetch_or __atomic_fetch_and
#pragma clang poison __atomic_compare_exchange_n __atomic_thread_fence __atomic_signal_fence
#pragma clang poison __sync_synchronize __sync_fetch_and_add __sync_bool_compare_and_swap
#pragma clang poison __sync_val_compare_and_swap __sync_lock_test_and_set
#pragma clang poison ssize_t usleep pthread_t pthread_create pthread_mutex_t clock_gettime
#pragma clang poison strcasecmp strncasecmp strdup gettimeofday
