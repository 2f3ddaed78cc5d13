#!/bin/sh
# <sys/event.h> compiles by itself, without a warning, in every standard of C and C++.
#
# usage: header_test.sh C-COMPILER
#
# C++ is tried with the C++ compiler of the same family, if there is one. Exit code: 0 passed, 1
# failed.
set -u

here=$(cd "$(dirname "$0")" && pwd)
compiler=$1
failed=0

# try LANGUAGE COMPILER OPTION...
try()
{
    language=$1
    shift
    if "$@" -x "$language" -fsyntax-only -Werror -Wall -Wextra -Wshadow -Wconversion \
        -Wsign-conversion -Wundef -pedantic -I"$here/../include" "$here/header_use.c"; then
        echo "ok $*"
    else
        echo "not ok $*"
        failed=1
    fi
}

for standard in c90 c99 c11 c17 gnu90 gnu99 gnu11; do
    # C of 1990 has no // and no long long, which the system's headers use.
    try c "$compiler" -std=$standard -Wno-long-long -Wstrict-prototypes
done
for feature in _POSIX_C_SOURCE=200112L _POSIX_C_SOURCE=200809L _XOPEN_SOURCE=700 _GNU_SOURCE; do
    try c "$compiler" -std=c99 -D$feature
done

case $compiler in
*clang*) plus=$(echo "$compiler" | sed 's/clang\([^/]*\)$/clang++\1/') ;;
*gcc*) plus=$(echo "$compiler" | sed 's/gcc\([^/]*\)$/g++\1/') ;;
*) plus=c++ ;;
esac
if command -v "$plus" >/dev/null 2>&1; then
    for standard in c++98 c++11 c++14 c++17 c++20; do
        try c++ "$plus" -std=$standard -Wold-style-cast -Wno-long-long
    done
else
    echo "skip C++: no $plus"
fi
exit $failed
