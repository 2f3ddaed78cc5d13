#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds the library, the tools and the tests for Windows with MinGW-w64, warnings as errors, and
# runs the tests under Wine.
#
# usage: tools/ci/windows.sh [-B BUILD-DIRECTORY] [CTEST-ARGUMENT...]
#
# The command and the examples are tested from outside, by programs of this machine: those are built
# in the directory native/ below. What ships has to pass the conformance suite as well: release/.
#
# The build directory (build-windows) holds everything, the Wine prefix too, so that Wine's settings
# of the person who runs this are never touched. It also gets `wine-run`, which runs any of the
# programs by hand: build-windows/wine-run build-windows/pier.exe doctor. Stop a server that runs so
# with `kill -INT`: Wine makes Ctrl-C of it, but ends the program without a word on SIGTERM.
#
# Exit code: 0 all passed, 1 something failed, 77 skipped, with the reason on a line of its own.
# JOBS and TEST_JOBS in the environment are how many compilers and tests run at a time.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build-windows
if [ "${1:-}" = -B ]; then
    [ $# -ge 2 ] || { echo 'windows: -B needs a directory' >&2; exit 2; }
    mkdir -p "$2"
    build=$(cd "$2" && pwd)
    shift 2
fi
mkdir -p "$build"

find_tools()
{
    command -v x86_64-w64-mingw32-gcc >/dev/null 2>&1 || return 1
    # Debian's wine64 package alone puts nothing into PATH.
    for wine in wine64 /usr/lib/wine/wine64; do
        wine=$(command -v $wine 2>/dev/null) && break
    done
    [ -n "$wine" ] || return 1
    for server in wineserver64 wineserver "$(dirname "$wine")/wineserver64"; do
        server=$(command -v "$server" 2>/dev/null) && break
    done
    [ -n "$server" ]
}

if ! find_tools; then
    sh "$root/tools/install-deps" windows || true
    find_tools || {
        echo 'SKIPPED windows: needs Debian packages gcc-mingw-w64-x86-64 and wine64'
        exit 77
    }
fi

# ---- the prefix ---------------------------------------------------------------------------------

# WINEDLLOVERRIDES: no offer to download .NET or a browser engine, no menu entries.
cat >"$build/wine-run.new" <<END
#!/bin/sh
# Runs a Windows program in this build directory's Wine prefix; made by tools/ci/windows.sh.
export WINEPREFIX='$build/wine' WINEARCH=win64 WINEPATH='Z:$build'
export WINEDEBUG="\${WINEDEBUG:--all}" WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe='
exec '$wine' "\$@"
END
chmod +x "$build/wine-run.new"
mv "$build/wine-run.new" "$build/wine-run"
run=$build/wine-run

# What a killed test started goes with the server, and the prefix is not left busy.
stop_server()
{
    WINEPREFIX="$build/wine" timeout 30 "$server" -k 2>/dev/null || true
    WINEPREFIX="$build/wine" timeout 30 "$server" -w 2>/dev/null || true
}

create_prefix()
{
    rm -rf "$build/wine"
    # Wine 8 says Windows 7 by default; pier is for Windows 10 and later.
    timeout 180 "$run" wineboot --init &&
        timeout 60 "$run" reg add 'HKCU\Software\Wine' /v Version /d win10 /f &&
        WINEPREFIX="$build/wine" timeout 60 "$server" -w &&
        touch "$build/wine/is-complete"
}

# The tests run beside this shell, so that it hears of a signal at once.
runner=
finish()
{
    [ -z "$runner" ] || kill "$runner" 2>/dev/null || true
    stop_server
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

if [ ! -e "$build/wine/is-complete" ]; then
    echo 'windows: creating a Wine prefix'
    # A first attempt can fail on a machine that is busy with other things.
    for attempt in 1 2; do
        if create_prefix >"$build/wine.log" 2>&1 </dev/null; then
            break
        fi
        stop_server
        if [ $attempt -eq 2 ]; then
            cat "$build/wine.log" >&2
            echo 'windows: Wine could not create a prefix' >&2
            exit 1
        fi
    done
fi

# ---- build and run ------------------------------------------------------------------------------

jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
cmake -S "$root" -B "$build/native" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-Og -g' \
    -DPIER_TESTS=ON -DPIER_EXAMPLES=ON -DPIER_SHARED=OFF
cmake --build "$build/native" -j "$jobs" --target test-tool-echo test-tool-load test-examples

# This machine's libraries are of no use to Windows.
export PKG_CONFIG_LIBDIR=/nonexistent
configure()
{
    directory=$1
    shift
    cmake -S "$root" -B "$directory" -DPIER_TESTS=ON -DPIER_WERROR=ON \
        -DCMAKE_TOOLCHAIN_FILE="$root/cmake/toolchain-mingw64.cmake" \
        -DCMAKE_CROSSCOMPILING_EMULATOR="$run" "$@"
}

configure "$build/release" -DCMAKE_BUILD_TYPE=Release
cmake --build "$build/release" -j "$jobs" --target conform-shipped
configure "$build" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-Og -g' -DPIER_EXAMPLES=ON \
    -DPIER_NATIVE_BUILD="$build/native" -DPIER_RELEASE_BUILD="$build/release"
cmake --build "$build" -j "$jobs"

# The first program in a prefix starts Wine's services: 3 s, and they would hold the pipe of the
# test that happened to come first. The server stays until stop_server, and should nobody get that
# far, for some minutes.
WINEPREFIX="$build/wine" timeout 30 "$server" -p600 >/dev/null 2>&1 || true
timeout 60 "$run" wineboot >/dev/null 2>&1 </dev/null || true

# For tests that start programs of their own: the pier command, the examples.
export PIER_EMULATOR="$run"
sh "$root/tests/runner/run" "$build" "$@" &
runner=$!
status=0
wait $runner || status=$?
runner=
exit $status
