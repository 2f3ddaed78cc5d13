/* linux_call.h - receive and send on Linux, without the C library's detour.
 *
 * recv() and send() of the C library are cancellation points: in a program with threads each takes
 * atomic steps before and after the call, to be ready for a pthread_cancel() that pier doesn't
 * support anyway. These two calls are made for each message, so they are made directly where the
 * processor's way to do that is known. Sanitizers want to see them and get the library's. */

#ifndef PIER_SYS_LINUX_CALL_H
#define PIER_SYS_LINUX_CALL_H

#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

#if defined(__linux__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__ILP32__)
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define PIER__SANITIZED 1
#endif
#endif
#if !defined(PIER__SANITIZED) && (defined(__x86_64__) || defined(__aarch64__))
#define PIER__DIRECT_CALLS 1
#endif
#endif

#ifdef PIER__DIRECT_CALLS

#include <sys/syscall.h>

/* A call with six arguments, the last two of which are 0, as recvfrom() and sendto() without an
 * address have them. Returns the system's answer: a negative errno is an error. */
static PIER__EXPRESSION int64_t pier__linux_call(long number, long descriptor, const void *memory,
                                                 size_t size, long flags)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = flags;
    register long r8 __asm__("r8") = 0;
    register long r9 __asm__("r9") = 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(descriptor), "S"(memory), "d"(size), "r"(r10), "r"(r8),
                       "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#else
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = descriptor;
    register const void *x1 __asm__("x1") = memory;
    register size_t x2 __asm__("x2") = size;
    register long x3 __asm__("x3") = flags;
    register long x4 __asm__("x4") = 0;
    register long x5 __asm__("x5") = 0;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#endif
}

#endif
#endif
