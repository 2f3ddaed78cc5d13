#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds the library, the tools and the tests for Linux on other processors, warnings as errors, and
# runs tests under qemu-user: little-endian aarch64 and riscv64, big-endian s390x.
#
# usage: tools/ci/qemu.sh [-B BUILD-DIRECTORY] [-a ARCHITECTURE]... [CTEST-ARGUMENT...]
#
# Without arguments for ctest these are the unit tests, the conformance suite and random ops, on
# each backend (kqueue on libpier-kqueue) and libpier-kqueue's own tests; on aarch64 also the tests
# of the command, and the conformance suite on select and in epoll's other modes.
#
# qemu-user answers ENOSYS to io_uring and epoll_pwait2, as old kernels do, so this also checks that
# pier steps down. For that the uring backend must be compiled in: liburing is fetched for aarch64
# and s390x from the machine's own Debian mirror, without adding an architecture to the machine.
# Debian 12 has none for riscv64, which is built without it.
#
# Each architecture has a directory below the build directory (build-qemu), with `qemu-run`, which
# runs any of its programs by hand. PIER_EMULATOR tells tests that start other programs about it:
# the kernel can't start them by itself.
#
# Optimised, because qemu translates each instruction: the conformance suite takes 8 s of CPU time
# instead of 13. JOBS and TEST_JOBS in the environment are how many compilers and tests run at a
# time.
#
# Exit code: 0 all passed, 1 something failed, 77 all skipped.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build-qemu
architectures=
while [ $# -gt 0 ]; do
    case $1 in
    -B) [ $# -ge 2 ] || { echo 'qemu: -B needs a directory' >&2; exit 2; }
        build=$2 ;;
    -a) case ${2:-} in
        aarch64 | riscv64 | s390x) architectures="$architectures $2" ;;
        *) echo "qemu: unknown architecture '${2:-}'; known are: aarch64 riscv64 s390x" >&2
            exit 2 ;;
        esac ;;
    *) break ;;
    esac
    shift 2
done
[ -n "$architectures" ] || architectures='aarch64 riscv64 s390x'
mkdir -p "$build"
build=$(cd "$build" && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}

# A program that crashes under qemu leaves two core files of 100 MB otherwise, its own and qemu's.
# shellcheck disable=SC3045 # where ulimit has no -c there is nothing to limit
ulimit -c 0 2>/dev/null || true

find_tools()
{
    qemu=$(command -v "qemu-$1-static" || command -v "qemu-$1") &&
        command -v "$1-linux-gnu-gcc" >/dev/null && [ -e "/usr/$1-linux-gnu/lib/libc.so.6" ]
}

# fetch_liburing ARCHITECTURE: unpacks liburing's packages into the build directory, with an apt
# state of its own. Fails where there is no apt, no network or no such package.
fetch_liburing()
{
    case $1 in
    aarch64) debian=arm64 ;;
    *) debian=$1 ;;
    esac
    apt=$build/apt-$1
    [ ! -e "$build/$1-root/is-complete" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/packages"
    : >"$apt/status"
    set -- "$build/$1-root" -qq -o "APT::Architecture=$debian" -o "APT::Architectures=$debian" \
        -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" \
        -o APT::Sandbox::User=root -o Acquire::Languages=none
    sysroot=$1
    shift
    apt-get "$@" update || true
    (cd "$apt/packages" && apt-get "$@" download liburing2 liburing-dev) || return 1
    for package in "$apt"/packages/*.deb; do
        dpkg-deb -x "$package" "$sysroot" || return 1
    done
    rm -rf "$apt"
    touch "$sysroot/is-complete"
}

# build_and_run ARCHITECTURE [CTEST-ARGUMENT...]
build_and_run()
{
    here=$build/$1
    mkdir -p "$here"
    cat >"$here/qemu-run.new" <<END
#!/bin/sh
# Runs a program of this build directory under qemu-user; made by tools/ci/qemu.sh.
exec '$qemu' -L '/usr/$1-linux-gnu' "\$@"
END
    chmod +x "$here/qemu-run.new"
    mv "$here/qemu-run.new" "$here/qemu-run"

    if fetch_liburing "$1" >"$build/liburing-$1.log" 2>&1; then
        PKG_CONFIG_LIBDIR=$build/$1-root/usr/lib/$1-linux-gnu/pkgconfig
        PKG_CONFIG_SYSROOT_DIR=$build/$1-root
    else
        echo "qemu: $1: no liburing for it, building without the uring backend"
        PKG_CONFIG_LIBDIR=/nonexistent
        PKG_CONFIG_SYSROOT_DIR=
    fi
    export PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR PIER_EMULATOR="$here/qemu-run"

    cmake -S "$root" -B "$here" -DCMAKE_TOOLCHAIN_FILE="$root/cmake/toolchain-linux.cmake" \
        -DPIER_ARCHITECTURE="$1" -DCMAKE_CROSSCOMPILING_EMULATOR="$here/qemu-run" \
        -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-O2 -g' \
        -DPIER_TESTS=ON -DPIER_EXAMPLES=ON -DPIER_KQUEUE_EMULATION=ON -DPIER_WERROR=ON &&
        cmake --build "$here" -j "$jobs" || return 1
    labels='unit|conform|fuzz|kqueue'
    left_out='^conform\.(epoll-|select)' # the same code as epoll and poll but for its last step
    [ "$1" != aarch64 ] || { labels="$labels|tool"; left_out='^$'; }
    shift
    [ $# -gt 0 ] || set -- -L "^($labels)\$" -E "$left_out"
    sh "$root/tests/runner/run" "$here" "$@"
}

asked_apt=no
ran=0
failed=
for architecture in $architectures; do
    if ! find_tools "$architecture" && [ $asked_apt = no ]; then
        asked_apt=yes
        sh "$root/tools/install-deps" qemu || true
    fi
    if ! find_tools "$architecture"; then
        echo "SKIPPED qemu $architecture: needs Debian packages qemu-user-static," \
            "gcc-$architecture-linux-gnu and the libc6-dev cross package for it"
        continue
    fi
    ran=$((ran + 1))
    echo "qemu: $architecture"
    build_and_run "$architecture" "$@" || failed="$failed $architecture"
done

[ $ran -gt 0 ] || exit 77
[ -z "$failed" ] || { echo "qemu: failed on$failed" >&2; exit 1; }
