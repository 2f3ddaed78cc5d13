#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs `pier load` against `pier echo` over every backend of this machine, and feeds both bad input.
#
# usage: tests/tools/echo_load_test.sh PIER-COMMAND [PART...]
#
# A part is the name of a backend, or `triggers` (the modes of epoll), `input` (bad command lines)
# or `help`; without any, all of them.
#
# Every byte is checked by `pier load`, and the server's counters have to agree with what the client
# sent. Exit code 0 when all is well, 1 when not, 77 when no backend works. Prints a line for each
# case and a closing line, as all tests do.
set -u

pier=${1:?usage: echo_load_test.sh PIER-COMMAND [PART...]}
shift
directory=$(mktemp -d) || exit 1
passed=0 failed=0 skipped=0
server=

finish()
{
    [ -n "$server" ] && kill -9 "$server" 2>/dev/null
    rm -rf "$directory"
}
trap finish EXIT
trap 'exit 1' INT TERM

. "$(dirname "$0")/emulated.sh"
"$pier" --version >/dev/null || { echo "not ok pier: $pier doesn't run"; exit 1; }

pass() { passed=$((passed + 1)); echo "ok $1"; }
fail() { failed=$((failed + 1)); echo "not ok $1: $2"; }
skip() { skipped=$((skipped + 1)); echo "skip $1: $2"; }

# The number behind "name": in a line of JSON.
number()
{
    sed -n 's/.*"'"$2"'":\([0-9]*\)[,}].*/\1/p' "$1"
}

# start_server OPTION...: sets $server and $address; false when it doesn't come up.
start_server()
{
    # What the server before left must not be taken for this one's.
    rm -f "$directory/server"
    "$pier" echo --json "$@" >"$directory/server" 2>"$directory/server.err" &
    server=$!
    tries=0
    while ! grep -q '^listening on ' "$directory/server" 2>/dev/null; do
        if ! kill -0 "$server" 2>/dev/null || [ $tries -ge 200 ]; then
            return 1
        fi
        tries=$((tries + 1))
        sleep 0.05
    done
    address=$(sed -n 's/^listening on \([^ ]*\) .*/\1/p' "$directory/server")
}

# stop_server: false when it doesn't end well.
stop_server()
{
    kill -$stop_signal "$server"
    wait "$server"
    status=$?
    server=
    [ $status -eq 0 ] && [ ! -s "$directory/server.err" ]
}

# round NAME SERVER-OPTIONS LOAD-OPTIONS: one server, one load; options are lists without quotes.
round()
{
    name=$1
    # shellcheck disable=SC2086
    if ! start_server $2; then
        fail "$name" "no server: $(cat "$directory/server.err")"
        return
    fi
    # shellcheck disable=SC2086
    "$pier" load --json --connect "$address" $3 >"$directory/load" 2>"$directory/load.err"
    load_status=$?
    stop_server
    server_status=$?
    if [ $load_status -ne 0 ]; then
        fail "$name" "load ended with $load_status: $(cat "$directory/load" "$directory/load.err")"
        return
    fi
    if [ $server_status -ne 0 ]; then
        fail "$name" "echo ended with $status: $(cat "$directory/server.err")"
        return
    fi
    sent=$(($(number "$directory/load" messages) * $(number "$directory/load" size)))
    received=$(number "$directory/server" received_bytes)
    echoed=$(number "$directory/server" sent_bytes)
    if [ "$received" != "$echoed" ]; then
        fail "$name" "echo received $received bytes and sent $echoed"
    elif [ "$received" -lt "$sent" ] || [ "$sent" -eq 0 ]; then
        fail "$name" "load counts $sent bytes, echo $received"
    else
        pass "$name"
    fi
}

test_backend()
{
    backend=$1
    client=$2
    round "$backend-small" "--backend $backend" "--backend $client --messages 5000"
    round "$backend-one-byte" "--backend $backend" \
        "--backend $client --messages 5000 --size 1 --depth 7 --connections 3"
    round "$backend-deep" "--backend $backend" "--backend $client --messages 50000 --depth 100"
    round "$backend-large" "--backend $backend" \
        "--backend $client --messages 400 --size 100000 --depth 3 --connections 7"
    round "$backend-huge" "--backend $backend" \
        "--backend $client --messages 12 --size 9M --connections 4"
    round "$backend-lent" "--backend $backend --receive lent" \
        "--backend $client --messages 3000 --size 50000 --depth 10 --connections 20"
    round "$backend-memory" "--backend $backend --receive memory" \
        "--backend $client --messages 3000 --size 5000 --depth 10 --connections 20"
    round "$backend-idle" "--backend $backend" \
        "--backend $client --messages 5000 --connections 10 --idle 500"
    round "$backend-churn" "--backend $backend" \
        "--backend $client --churn --messages 1000 --connections 20"
    round "$backend-rate" "--backend $backend" \
        "--backend $client --rate 2000 --duration 1 --connections 20"
    round "$backend-threads" "--backend $backend --threads 3" \
        "--backend $client --messages 5000 --threads 2 --connections 40"
    if [ $windows -eq 1 ]; then
        skip "$backend-processes" "Windows can't copy a running process"
    else
        round "$backend-processes" "--backend $backend --processes 2" \
            "--backend $client --messages 5000 --processes 2 --connections 40 --idle 20"
    fi
    round "$backend-unix" "--backend $backend --threads 2 --listen unix:$directory/socket" \
        "--backend $client --messages 5000 --connections 20"
    round "$backend-unix-large" "--backend $backend --listen unix:$directory/socket" \
        "--backend $client --messages 40 --size 1M --connections 4"
    round "$backend-ipv6" "--backend $backend --listen [::1]:0" "--backend $client --messages 2000"
}

# refuse NAME STATUS TEXT COMMAND...: the command has to end with the status, say one line that has
# the text, and print nothing else.
refuse()
{
    name=$1 want=$2 text=$3
    shift 3
    "$pier" "$@" >"$directory/out" 2>"$directory/err" </dev/null
    status=$?
    # Wine itself ends so, without a word, when it can't start a program on a busy machine.
    if [ $windows -eq 1 ] && [ $status -eq 1 ] && ! [ -s "$directory/err" ]; then
        "$pier" "$@" >"$directory/out" 2>"$directory/err" </dev/null
        status=$?
    fi
    if [ $status -ne "$want" ]; then
        fail "$name" "exit code $status instead of $want: $(cat "$directory/err")"
    elif [ "$(wc -l <"$directory/err")" -ne 1 ] || [ -s "$directory/out" ]; then
        fail "$name" "not one line: $(cat "$directory/out" "$directory/err")"
    elif ! grep -qF -- "$text" "$directory/err"; then
        fail "$name" "no \"$text\" in: $(cat "$directory/err")"
    else
        pass "$name"
    fi
}

# Nothing is said twice, nor a remedy that is none.
test_read_only()
{
    mkdir -p "$directory/fixed"
    real=$pier
    pier=$directory/read-only
    cat >"$pier" <<END
#!/bin/sh
exec unshare -m sh -c 'mount -t tmpfs -o ro none "\$0" && exec "\$@"' \\
    '$directory/fixed' '$real' "\$@"
END
    chmod +x "$pier"
    if "$pier" --version >"$directory/out" 2>&1; then
        refuse bad-path-read-only 1 \
            'socket: read-only file system: choose a folder that can be written to' \
            echo --listen "unix:$directory/fixed/socket"
    else
        skip bad-path-read-only "no mount of our own: $(head -1 "$directory/out")"
    fi
    pier=$real
}

test_bad_input()
{
    refuse bad-command 2 '"frob"' frob
    refuse bad-option 2 'did you mean --threads' echo --thread 3
    refuse bad-option-far 2 '"--xyzzyx": see pier echo --help' echo --xyzzyx
    refuse bad-argument 2 '"extra"' load extra
    refuse bad-value-missing 2 '--threads needs a value' echo --threads
    refuse bad-number 2 'from 1 to 1024, not "x"' echo --threads x
    refuse bad-number-zero 2 'not "0"' echo --threads 0
    refuse bad-number-sign 2 'not "-1"' echo --processes -1
    refuse bad-number-rest 2 'not "3x"' echo --threads=3x
    refuse bad-number-blank 2 'not " 3"' echo --threads ' 3'
    refuse bad-number-overflow 2 'not "99999999999999999999999"' \
        load --depth 99999999999999999999999
    refuse bad-size 2 'not "1q"' load --size 1q
    refuse bad-size-large 2 'from 1 to 64M' load --size 1G
    refuse bad-duration 2 'such as 10, 0.5 or 500ms, not "soon"' load --duration soon
    refuse bad-duration-zero 2 'not "0"' load --duration 0
    refuse bad-choice 2 'edge, level or oneshot, not "both"' echo --trigger both
    refuse bad-receive 2 'each, lent or memory, not "lend"' echo --receive lend
    refuse bad-flag 2 'takes no value' echo --json=yes
    refuse bad-backend 2 'unknown backend "iouring"' echo --backend iouring
    refuse bad-address 2 '--listen' echo --listen nonsense
    refuse bad-address-port 2 '70000' echo --listen 127.0.0.1:70000
    refuse bad-address-host 2 '300.0.0.1' echo --listen 300.0.0.1:80
    long=$(printf 'x%.0s' $(seq 200))
    refuse bad-path-long 2 '107' echo --listen "unix:/tmp/$long"
    if [ $windows -eq 1 ]; then
        skip bad-path-missing "the name of a pipe needs no folder"
        refuse bad-processes 1 'process' echo --processes 2
    else
        refuse bad-path-missing 1 'no such file or directory' echo --listen unix:/nonexistent/socket
    fi
    if [ $windows -eq 1 ]; then
        skip bad-path-taken "the name of a pipe is no file"
    else
        test_read_only
        : >"$directory/file"
        refuse bad-path-taken 1 'a file that is no socket' echo --listen "unix:$directory/file"
        [ -f "$directory/file" ] || fail bad-path-taken-kept "the file is gone"
    fi
    refuse bad-address-foreign 1 'address not available' echo --listen 192.0.2.1:7000
    refuse bad-connect-missing 2 '--connect ADDRESS is needed' load
    refuse bad-connect-port 2 'port 0' load --connect 127.0.0.1:0
    refuse bad-churn-depth 2 '--churn' load --connect 127.0.0.1:1 --churn --depth 2
    refuse bad-in-flight 2 'use a --depth up to 16' \
        load --connect 127.0.0.1:1 --size 64M --depth 17
    refuse bad-clients 2 "can't share" load --connect 127.0.0.1:1 --threads 3 --connections 2
    refuse bad-loops 2 'use --threads up to 4' echo --threads 1024 --processes 1024
    refuse bad-loops-load 2 'use --threads up to 4' \
        load --connect 127.0.0.1:1 --threads 1024 --processes 1024 --connections 1000000
    refuse bad-connect-refused 1 'is the server running' load --connect 127.0.0.1:1
    if [ $windows -eq 1 ]; then
        skip bad-descriptors "Windows has no limit of descriptors to lower"
        skip bad-port-privileged "Windows has no ports for the few"
        return
    fi
    (
        failed=0
        ulimit -n 100
        refuse bad-descriptors 1 'limit is 100: use --processes 8, or raise' \
            load --connect 127.0.0.1:1 --connections 500
        # What is given already doesn't help, nor more clients than connections or than allowed.
        ulimit -n 32
        refuse bad-descriptors-processes 1 'limit is 32: raise' \
            load --connect 127.0.0.1:1 --connections 3 --processes 3
        refuse bad-descriptors-threads 1 'limit is 32: raise' \
            load --connect 127.0.0.1:1 --connections 40 --processes 2 --threads 20
        [ $failed -eq 0 ]
    ) && passed=$((passed + 3)) || failed=$((failed + 1))
    (
        failed=0
        ulimit -n 40
        refuse bad-descriptors-many 1 'limit is 40: raise' \
            load --connect 127.0.0.1:1 --connections 100 --idle 20000
        refuse bad-descriptors-fewer 1 'limit is 40: use fewer --threads, or raise' \
            load --connect 127.0.0.1:1 --connections 4 --threads 3
        [ $failed -eq 0 ]
    ) && passed=$((passed + 2)) || failed=$((failed + 1))
    if [ "$(id -u)" -ne 0 ]; then
        refuse bad-port-privileged 1 'from 1024 up' echo --listen 127.0.0.1:80
    elif command -v setpriv >/dev/null; then
        # Without the right to reserved ports, however low the system sets their bound.
        bound=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo 1024)
        if [ "$bound" -gt 81 ]; then
            real=$pier
            pier=$directory/unprivileged
            printf '#!/bin/sh\nexec setpriv --bounding-set=-net_bind_service "%s" "$@"\n' \
                "$real" >"$pier"
            chmod +x "$pier"
            refuse bad-port-privileged 1 'from 1024 up' echo --listen 127.0.0.1:81
            pier=$real
        else
            skip bad-port-privileged "this system lets everybody have port 81"
        fi
    else
        skip bad-port-privileged "running as root, without setpriv"
    fi
}

# What was printed and didn't arrive is a failure, said in one line.
test_output()
{
    if [ ! -c /dev/full ]; then
        skip output "no /dev/full here"
        return
    fi
    for arguments in --help --version 'help' 'echo --help' doctor 'doctor --json'; do
        # shellcheck disable=SC2086
        "$pier" $arguments >/dev/full 2>"$directory/err"
        status=$?
        if [ $status -eq 1 ] && [ "$(wc -l <"$directory/err")" -eq 1 ] &&
            grep -q 'cannot write the output' "$directory/err"; then
            pass "output: $arguments"
        else
            fail "output: $arguments" "exit code $status: $(cat "$directory/err")"
        fi
    done
}

# A measurement without a message has no latency, and nouns agree with their numbers.
test_report()
{
    if [ $windows -eq 1 ]; then
        skip report "Wine can't stop a process for a while"
        return
    fi
    start_server || { fail report "no server: $(cat "$directory/server.err")"; return; }
    round_of_one="--connect $address --connections 1 --size 1 --messages 1"
    # shellcheck disable=SC2086
    if "$pier" load $round_of_one >"$directory/load" 2>"$directory/load.err" &&
        grep -q '^1 connection, 1 byte, ' "$directory/load" &&
        "$pier" load --churn $round_of_one >"$directory/load" 2>"$directory/load.err" &&
        grep -q '^1 connection at a time, 1 byte, ' "$directory/load"; then
        pass report-singular
    else
        fail report-singular "$(cat "$directory/load" "$directory/load.err")"
    fi
    for form in '' --json; do
        # A warm-up that takes the one message there is leaves none to be measured.
        # shellcheck disable=SC2086
        "$pier" load $form --connect "$address" --connections 1 --rate 1 --warmup 500ms \
            --duration 100ms >"$directory/load" 2>"$directory/load.err"
        if [ -z "$form" ] && grep -q '^  messages  *0$' "$directory/load" &&
            grep -q '^  p50  *-$' "$directory/load" && grep -q '^  max  *-$' "$directory/load"; then
            pass report-without-messages
        elif [ -n "$form" ] && grep -q '"messages":0,' "$directory/load" &&
            grep -q '"p50_ns":null,.*"max_ns":null,"mean_ns":null,' "$directory/load"; then
            pass report-without-messages-json
        else
            fail report-without-messages "$(cat "$directory/load" "$directory/load.err")"
        fi
    done
    stop_server || fail report "echo ended badly: $(cat "$directory/server.err")"
}

# Answers that don't come are waited for after the first interrupt, and not after the second.
test_interrupts()
{
    if [ $windows -eq 1 ]; then
        skip interrupts "Wine can't stop a process for a while"
        return
    fi
    if ! start_server; then
        fail interrupts "no server: $(cat "$directory/server.err")"
        return
    fi
    kill -STOP "$server"
    "$pier" load --connect "$address" --connections 3 --duration 60 >"$directory/load" \
        2>"$directory/load.err" &
    load=$!
    began=$(date +%s)
    load_status=0
    for _ in 1 2 3 4 5 6; do # the first ones may come before it is connected
        sleep 0.5
        kill -TERM "$load" 2>/dev/null || break
    done
    wait "$load" || load_status=$?
    took=$(($(date +%s) - began))
    kill -CONT "$server"
    stop_server || true
    if [ $load_status -eq 1 ] && [ $took -lt 5 ] && grep -q "unanswered  *3" "$directory/load"; then
        pass interrupts
    else
        fail interrupts "exit code $load_status after $took s: $(cat "$directory/load" \
            "$directory/load.err")"
    fi
}

test_help()
{
    for arguments in --help help --version 'echo --help' 'load --help' 'help echo'; do
        # shellcheck disable=SC2086
        if "$pier" $arguments >"$directory/out" 2>"$directory/err" && [ -s "$directory/out" ] &&
            [ ! -s "$directory/err" ]; then
            pass "help: $arguments"
        else
            fail "help: $arguments" "$(cat "$directory/err")"
        fi
    done
    "$pier" >"$directory/out" 2>"$directory/err"
    if [ $? -eq 2 ] && [ ! -s "$directory/out" ] && grep -q '^usage:' "$directory/err"; then
        pass "help: no command"
    else
        fail "help: no command" "$(cat "$directory/out" "$directory/err")"
    fi
}

# works BACKEND: whether its loop can be made here; what it said instead is in $directory/err.
works()
{
    "$pier" load --connect "unix:$directory/nobody" --backend "$1" --connections 1 \
        >"$directory/out" 2>"$directory/err"
    ! grep -q 'cannot make a loop\|unknown backend' "$directory/err"
}

test_triggers()
{
    for trigger in level oneshot; do
        round "epoll-$trigger" "--backend epoll --trigger $trigger" "--messages 20000 --depth 4"
        round "epoll-$trigger-memory" "--backend epoll --trigger $trigger --receive memory" \
            "--messages 2000 --size 100000 --connections 4"
        round "epoll-$trigger-lent" "--backend epoll --trigger $trigger --receive lent" \
            "--messages 20000 --depth 4"
    done
}

if [ $# -eq 0 ] && [ $windows -eq 1 ]; then
    set -- iocp input help
elif [ $# -eq 0 ] && [ "$(uname -s)" = Linux ]; then
    set -- uring epoll poll select triggers input help
elif [ $# -eq 0 ]; then
    set -- kqueue poll select input help
fi
for part; do
    backend=$part
    [ "$part" = triggers ] && backend=epoll
    case $part in
    input)
        test_bad_input
        test_output
        test_report
        test_interrupts
        ;;
    help) test_help ;;
    *)
        if ! works "$backend"; then
            skip "$part" "$(cat "$directory/err")"
        elif [ "$part" = triggers ]; then
            test_triggers
        else
            test_backend "$part" "$part"
        fi
        ;;
    esac
done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] || exit 1
[ $passed -gt 0 ] || exit 77
