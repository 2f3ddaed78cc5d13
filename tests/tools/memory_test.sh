#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Refuses memory to the `pier` command, one request after the other: it has to end with one line
# that says what is wrong, once.
#
# usage: tests/tools/memory_test.sh PIER-COMMAND REFUSING-LIBRARY
#
# The library is refuse_memory.c. Each command below fails also with all the memory it wants, so
# that whatever is refused it ends by itself. Exit code 0 when all is well, 1 when not, 77 when
# programs can't be run with that library.
set -u

pier=${1:?usage: memory_test.sh PIER-COMMAND REFUSING-LIBRARY}
library=${2:?usage: memory_test.sh PIER-COMMAND REFUSING-LIBRARY}
directory=$(mktemp -d) || exit 1
trap 'rm -rf "$directory"' EXIT
trap 'exit 1' INT TERM
out=$directory/out err=$directory/err
passed=0 failed=0 skipped=0
unset PIER_BACKEND

# refused NUMBER ARGUMENT...: what doesn't end is ended.
refused()
{
    number_refused=$1
    shift
    timeout -s KILL 30 env PIER_TEST_REFUSE="$number_refused" LD_PRELOAD="$library" "$pier" "$@"
}

refused 1+ doctor >"$out" 2>&1
if [ $? -eq 0 ] || ! refused 0 --version >"$out" 2>&1; then
    echo 'skip memory: this build of the command takes no such library'
    echo '0 passed, 0 failed, 1 skipped'
    exit 77
fi

# check NAME OUTPUT COMMAND...: refuses each request in turn, alone and with all behind it.
check()
{
    name=$1 output=$2
    shift 2
    PIER_TEST_REQUESTS=$directory/requests
    export PIER_TEST_REQUESTS
    refused 0 "$@" >"$output" 2>"$err"
    unset PIER_TEST_REQUESTS
    requests=$(cat "$directory/requests")
    for more in '' +; do
        number=1
        while [ $number -le "$requests" ]; do
            refused "$number$more" "$@" >"$output" 2>"$err"
            status=$?
            if [ $status -ne 1 ] || [ "$(wc -l <"$err")" -ne 1 ]; then
                failed=$((failed + 1))
                echo "not ok $name-$number$more: exit code $status: $(cat "$err")"
                return
            fi
            if [ "$(grep -o 'out of memory\|Cannot allocate memory\|no memory' "$err" |
                wc -l)" -gt 1 ] || grep -q ': *$' "$err"; then
                failed=$((failed + 1))
                echo "not ok $name-$number$more: says it twice, or nothing: $(cat "$err")"
                return
            fi
            number=$((number + 1))
        done
        passed=$((passed + 1))
        echo "ok $name$more: $requests requests"
    done
}

nobody=unix:$directory/nobody
for backend in uring epoll poll select; do
    check "load-$backend" "$out" load --connect "$nobody" --connections 3 --threads 2 \
        --backend "$backend"
    check "echo-$backend" "$out" echo --listen "$nobody/none" --threads 3 --backend "$backend"
    # Not for uring: there its threads may not hear that they are to stop before they have begun,
    # memory or not. What is refused to such a loop the cases above try.
    if [ -c /dev/full ] && [ $backend != uring ]; then
        check "echo-full-$backend" /dev/full echo --threads 3 --backend "$backend"
        check "echo-path-$backend" /dev/full echo --threads 3 --listen "unix:$directory/path" \
            --backend "$backend"
    fi
done
if [ -c /dev/full ]; then
    check echo-processes /dev/full echo --processes 2 --backend poll
    check doctor /dev/full doctor
    check doctor-json /dev/full doctor --json
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
