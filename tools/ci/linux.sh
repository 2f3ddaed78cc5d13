#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the library, the tools and the tests for another sort of Linux that an x86-64 machine runs
# by itself, warnings as errors, and runs the unit tests and the conformance suite, once for each
# backend.
#
# usage: tools/ci/linux.sh [-B BUILD-DIRECTORY] m32|musl [CTEST-ARGUMENT...]
#
#   m32    programs of 32 bits, on Debian's cross compiler for i686 (gcc -m32 needs gcc-multilib,
#          which Debian lets nobody have beside the compilers of tools/ci/qemu.sh); the kqueue
#          backend on libpier-kqueue too
#   musl   on musl in place of glibc, with the kernel's headers of this machine
#
# Neither has liburing, so both are built without the uring backend. The build directory is
# build-m32 or build-musl. Optimised, with assertions. JOBS and TEST_JOBS in the environment are how
# many compilers and tests run at a time.
#
# Exit code: 0 all passed, 1 something failed, 77 skipped, with the reason on a line of its own.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=
if [ "${1:-}" = -B ]; then
    [ $# -ge 2 ] || { echo 'linux: -B needs a directory' >&2; exit 2; }
    build=$2
    shift 2
fi
case ${1:-} in
m32 | musl) sort=$1 ;;
*) echo 'usage: tools/ci/linux.sh [-B BUILD-DIRECTORY] m32|musl [CTEST-ARGUMENT...]' >&2; exit 2 ;;
esac
shift
build=${build:-$root/build-$sort}
mkdir -p "$build"
build=$(cd "$build" && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}

i686=/usr/i686-linux-gnu
# Debian keeps the kernel's headers for each processor in a folder of its own.
kernel=/usr/include/x86_64-linux-gnu
[ -d $kernel/asm ] || kernel=/usr/include
find_tools()
{
    case $sort in
    m32) command -v i686-linux-gnu-gcc >/dev/null && [ -e $i686/lib/ld-linux.so.2 ] ;;
    musl) command -v musl-gcc >/dev/null && [ -d $kernel/asm ] && [ -d /usr/include/linux ] ;;
    esac
}

skip()
{
    echo "SKIPPED $sort: $1"
    exit 77
}

if ! find_tools; then
    sh "$root/tools/install-deps" "$sort" || true
    case $sort in
    m32) find_tools || skip 'needs Debian packages gcc-i686-linux-gnu and libc6-dev-i386-cross' ;;
    musl) find_tools || skip 'needs Debian packages musl-tools and linux-libc-dev' ;;
    esac
fi

configure()
{
    cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-O2 -g' \
        -DPIER_TESTS=ON -DPIER_EXAMPLES=ON -DPIER_WERROR=ON -DPIER_URING=OFF "$@"
}

engines='epoll|poll|select'
case $sort in
m32)
    engines="$engines|kqueue"
    # The libraries stay where the cross compiler has them: none of 32 bits need be in /lib. Not
    # static, where the C library's own malloc() would be wrapped by the tests as well.
    loader="-Wl,--dynamic-linker=$i686/lib/ld-linux.so.2 -Wl,-rpath,$i686/lib"
    printf 'int main(void) { return 0; }\n' >"$build/probe.c"
    # shellcheck disable=SC2086 # two options
    i686-linux-gnu-gcc $loader -o "$build/probe" "$build/probe.c"
    "$build/probe" 2>/dev/null || skip 'this kernel runs no programs of 32 bits'
    configure "-DCMAKE_TOOLCHAIN_FILE=$root/cmake/toolchain-linux.cmake" -DPIER_ARCHITECTURE=i686 \
        "-DCMAKE_EXE_LINKER_FLAGS=$loader" -DPIER_KQUEUE_EMULATION=ON
    ;;
musl)
    # musl brings no headers of the kernel. Only these, since others beside them are glibc's.
    mkdir -p "$build/headers"
    ln -sfn /usr/include/linux "$build/headers/linux"
    ln -sfn /usr/include/asm-generic "$build/headers/asm-generic"
    ln -sfn $kernel/asm "$build/headers/asm"
    configure -DCMAKE_C_COMPILER=musl-gcc "-DCMAKE_C_FLAGS=-idirafter $build/headers" \
        -DPIER_KQUEUE_EMULATION=OFF
    ;;
esac
cmake --build "$build" -j "$jobs"
[ $# -gt 0 ] || set -- -R "^(unit\..*|install\.dlopen|conform\.($engines))\$"
sh "$root/tests/runner/run" "$build" "$@"
