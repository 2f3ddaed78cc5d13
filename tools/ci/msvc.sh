#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Compiles the library, the command and the examples for Windows with clang in MSVC's mode, warnings
# as errors: with the flags that CMake chooses for MSVC, and without the extensions that gcc and
# clang share. MSVC itself isn't to be had outside Windows, and what it alone rejects passes here.
#
# usage: tools/ci/msvc.sh [-B BUILD-DIRECTORY]
#
# Debug compiles each file alone, Release the library as one unit, and as a DLL. The headers are
# Wine's, and nothing is linked or run; tools/ci/msvc.h has more. Exit code: 0, 1, or 77 skipped,
# with the reason.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build-msvc
if [ "${1:-}" = -B ]; then
    [ $# -ge 2 ] || { echo 'msvc: -B needs a directory' >&2; exit 2; }
    build=$2
    shift 2
fi
mkdir -p "$build"
build=$(cd "$build" && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}

find_tools()
{
    command -v clang >/dev/null 2>&1 && [ -e /usr/include/wine/wine/windows/winsock2.h ]
}

if ! find_tools; then
    sh "$root/tools/install-deps" msvc || true
    find_tools || {
        echo 'SKIPPED msvc: needs Debian packages clang and libwine-dev'
        exit 77
    }
fi

# clang goes by its name, which Debian gives only to one with a version in it.
mkdir -p "$build/tools"
ln -sf "$(readlink -f "$(command -v clang)")" "$build/tools/clang-cl"
cat >"$build/tools/nolink" <<'END'
#!/bin/sh
# Stands for an archiver and a linker: the file that was asked for is there, and empty.
for word; do
    case $word in /out:*) : >"${word#/out:}" ;; esac
done
END
chmod +x "$build/tools/nolink"

# The library makes do without C11's atomics, which are an experiment in MSVC; the command doesn't.
if grep -rnE '^#include <stdatomic' "$root"/src "$root"/include/pier; then
    echo 'msvc: the library has to use base/atomic.h' >&2
    exit 1
fi

for type in Debug Release; do
    shared=OFF
    [ $type != Release ] || shared=ON
    cmake -S "$root" -B "$build/$type" -DCMAKE_BUILD_TYPE=$type -DPIER_WERROR=ON \
        -DPIER_SHARED=$shared -DPIER_EXAMPLES=ON -DPIER_INSTALL=OFF \
        -DCMAKE_TOOLCHAIN_FILE="$root/cmake/toolchain-msvc.cmake" -DPIER_MSVC_TOOLS="$build/tools"
    cmake --build "$build/$type" -j "$jobs"
done
