#!/bin/sh
# System calls per message as the kernel sees them, beside what the loop says of itself.
#
# usage: syscalls_check.sh CONFORM BACKEND [TRIGGER]
#
# Runs the steady tests under strace, which follows the first thread only: that is the server's
# loop, the clients are on another. The tests themselves demand that the loop's own counter is
# low enough (steady.c); here that counter has to agree with strace's.
#
# Exit code 0: agrees, 1: doesn't, 77: no strace, or no such backend here.
set -u

conform=$1 backend=$2 trigger=${3:-edge}
calls='accept4,accept,connect,sendto,recvfrom,sendmsg,recvmsg,read,write,readv,writev,close'
calls="$calls,epoll_wait,epoll_pwait,epoll_pwait2,epoll_ctl,poll,ppoll,select,pselect6"
calls="$calls,io_uring_enter"

skip()
{
    echo "skip syscalls-$backend: $1"
    echo '0 passed, 0 failed, 1 skipped'
    exit 77
}

command -v strace >/dev/null 2>&1 || skip 'strace is not installed'
strace -o /dev/null true 2>/dev/null || skip 'strace may not trace here'

counts=$(mktemp) said=$(mktemp) || exit 1
trap 'rm -f "$counts" "$said"' EXIT INT TERM

failed=0 passed=0
for test in steady.echo_tcp steady.echo_tcp_one_shot steady.echo_unix steady.echo_unix_one_shot; do
    CONFORM_COUNTS=1 strace -c -e "trace=$calls" -o "$counts" "$conform" --no-fork --slowness 4 \
        --watchdog 120 --backend "$backend" --trigger "$trigger" "$test" >"$said"
    status=$?
    if [ $status -eq 77 ]; then
        skip "$(tail -n 1 "$said")"
    fi
    # The filter is a part of names, so that one run may hold several tests: sums of them all.
    tests=$(grep -c ' all_calls=' "$said")
    own=$(sed -n 's/.* all_calls=//p' "$said" | awk '{ sum += $1 } END { print sum + 0 }')
    messages=$(sed -n 's/.* messages=\([0-9]*\).*/\1/p' "$said" |
        awk '{ sum += $1 } END { print sum + 0 }')
    kernel=$(awk '$NF == "total" { print $4 }' "$counts")
    # Beside the loop's calls strace sees those of the raw peers that the first thread makes: one
    # connection is some five calls, and a test has fifty.
    if [ $status -ne 0 ]; then
        verdict="the test failed: $(grep '^not ok' "$said")"
    elif [ "$messages" -eq 0 ]; then
        verdict='it counted no messages'
    elif [ "$own" -gt "$kernel" ] || [ "$kernel" -gt $((own + own / 50 + 350 * tests)) ]; then
        verdict="the loop counted $own calls, strace $kernel"
    else
        verdict=''
    fi
    if [ -z "$verdict" ]; then
        passed=$((passed + 1))
        echo "ok $test: $messages messages, $own calls counted, $kernel seen"
    else
        failed=$((failed + 1))
        echo "not ok $test: $verdict"
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
