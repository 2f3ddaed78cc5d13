#!/bin/sh
# Checks what `pier doctor` says, as text and as JSON, with io_uring and without.
#
# usage: tests/tools/doctor_test.sh PIER-COMMAND [NO-URING-COMMAND]
#
# The second is the wrapper that forbids io_uring to one command alone; without it, or where the
# kernel allows no filters, those cases are skipped. Exit code 0 when all is well, 1 when not.
set -u

pier=${1:?usage: doctor_test.sh PIER-COMMAND [NO-URING-COMMAND]}
no_uring=${2:-}
directory=$(mktemp -d) || exit 1
trap 'rm -rf "$directory"' EXIT
trap 'exit 1' INT TERM
. "$(dirname "$0")/emulated.sh"
"$pier" --version >/dev/null || { echo "not ok pier: $pier doesn't run"; exit 1; }
out=$directory/out err=$directory/err
passed=0 failed=0 skipped=0
unset PIER_BACKEND

pass() { passed=$((passed + 1)); echo "ok $1"; }
fail() { failed=$((failed + 1)); echo "not ok $1: $2"; }
skip() { skipped=$((skipped + 1)); echo "skip $1: $2"; }

# expect NAME STATUS COMMAND...: runs it, with the output in $out and $err.
expect()
{
    name=$1 want=$2
    shift 2
    "$@" >"$out" 2>"$err" </dev/null
    status=$?
    if [ $status -ne "$want" ]; then
        fail "$name" "exit code $status instead of $want: $(cat "$err")"
        return 1
    fi
}

# has NAME PATTERN...: the output has a line for each.
has()
{
    name=$1
    shift
    for pattern; do
        if ! grep -q -- "$pattern" "$out"; then
            fail "$name" "no \"$pattern\" in: $(cat "$out")"
            return
        fi
    done
    pass "$name"
}

# works BACKEND: whether the doctor says so in $out.
works() { grep -q "^  $1 *works" "$out"; }

# json EXPRESSION: evaluates it with the report in `d`; true when it is.
json()
{
    if command -v python3 >/dev/null; then
        python3 -c "import json, sys
d = json.load(open('$out'))
sys.exit(0 if ($1) else 1)" 2>"$err"
    else
        return 77
    fi
}

# check_json NAME EXPRESSION
check_json()
{
    json "$2"
    case $? in
    0) pass "$1" ;;
    77) skip "$1" "no python3 to read JSON with" ;;
    *) fail "$1" "not so: $2; $(tail -1 "$err")" ;;
    esac
}

if [ $windows -eq 1 ]; then
    backends=iocp limits='handles of a process'
else
    backends='poll select' limits='open files of a process, soft'
fi
if expect text 0 "$pier" doctor; then
    has text '^pier [0-9.]* on ' '^Backends' '^Features' '^Limits' "$limits" \
        '^How many connections fit' 'a server of one process  *about [0-9,]* connections'
    longest=$(awk '{ if (length($0) > longest) longest = length($0) } END { print longest }' "$out")
    [ "$longest" -le 110 ] && pass text-width || fail text-width "a line of $longest columns"
    blanks=$(grep -c ' $' "$out")
    [ "$blanks" -eq 0 ] && pass text-blanks || fail text-blanks "$blanks lines end in blanks"
fi
best=$(sed -n 's/^  \([a-z]*\) *works$/\1/p' "$out" | head -1)
if [ $windows -eq 1 ]; then
    has text-windows '^pier [0-9.]* on Windows 10\.0\.[0-9]* x86_64' '^  iocp *works' \
        '^  uring *no: only on Linux' 'memory of the machine: [0-9.]* GiB' \
        'committed memory of the machine: [0-9.]* GiB' 'local ports of clients'
    if [ -n "${PIER_EMULATOR:-}" ]; then
        has text-wine '(Wine [0-9.]*)' 'unix:, named pipes here'
    fi
    processors=$(sed -n 's/^pier .*, \([0-9]*\) CPUs\{0,1\}$/\1/p' "$out")
    if [ "$processors" = "$(nproc)" ]; then
        pass text-processors
    else
        fail text-processors "$processors, but nproc says $(nproc)"
    fi
elif [ "$(uname -s)" = Linux ]; then
    has text-linux 'fs.nr_open' 'net.core.somaxconn' 'net.ipv4.tcp_mem' 'ip_local_port_range' \
        'locked memory' 'memory of the machine'
fi

if expect json 0 "$pier" doctor --json; then
    if [ "$(wc -l <"$out")" -eq 1 ]; then
        pass json-line
    else
        fail json-line "not one line"
    fi
    check_json json-backends "{b['name'] for b in d['backends']} >= {'uring', 'epoll', 'kqueue',
        'iocp', 'poll', 'select'}"
    check_json json-reasons "all(b['works'] or b['reason'] for b in d['backends'])"
    check_json json-default "d['default_backend'] == '$best'"
    check_json json-limits "len(d['limits']) >= 3 and all(l['meaning'] and l['remedy'] and
        l['values'] for l in d['limits'])"
    check_json json-names "len({l['name'] for l in d['limits']}) == len(d['limits'])"
fi

# The soft limit is what the shell says, and decides how many connections fit.
[ $windows -eq 0 ] && (
    ulimit -S -n 200 && ulimit -H -n 300 && "$pier" doctor --json >"$out"
) && {
    check_json limit-values "{l['name']: l['values'] for l in d['limits']}[
        'soft limit of open files'] == [200]"
    check_json limit-connections "0 < d['connections_per_process'] < 300"
}

for backend in $backends; do
    PIER_BACKEND=$backend
    export PIER_BACKEND
    expect "environment-$backend" 0 "$pier" doctor &&
        has "environment-$backend" "names none gets $backend, from PIER_BACKEND"
done
PIER_BACKEND=nonsense
expect environment-unknown 0 "$pier" doctor &&
    has environment-unknown 'names none fails: .*nonsense'
unset PIER_BACKEND

# A machine whose io_uring works shows what a filter takes away.
"$pier" doctor >"$out" 2>"$err"
if [ $windows -eq 1 ]; then
    : # nothing to take away
elif ! works uring; then
    skip no-uring "io_uring doesn't work here: $(grep '^  uring' "$out")"
elif [ -z "$no_uring" ] || ! "$no_uring" EPERM true 2>"$err"; then
    skip no-uring "no filter: $(cat "$err")"
else
    has uring-features 'multishot receive' 'provided buffer ring'
    expect no-uring-eperm 0 "$no_uring" EPERM "$pier" doctor &&
        has no-uring-eperm '^  uring *no: .*EPERM' 'to allow it:.* seccomp filter' \
            '^  epoll *works' 'names none gets epoll'
    if grep -q 'Features of uring' "$out"; then
        fail no-uring-features "features of what does not work: $(cat "$out")"
    else
        pass no-uring-features
    fi
    expect no-uring-enosys 0 "$no_uring" ENOSYS "$pier" doctor &&
        has no-uring-enosys '^  uring *no: .*ENOSYS' '^  epoll *works'
    expect no-uring-json 0 "$no_uring" EPERM "$pier" doctor --json &&
        check_json no-uring-json "[b['works'] for b in d['backends'] if b['name'] == 'uring'] ==
            [False] and d['default_backend'] == 'epoll' and d['seccomp_filters'] != 0"
fi

# refuse NAME TEXT ARGUMENT...: exit code 2, one line with the text, no output.
refuse()
{
    name=$1 text=$2
    shift 2
    if expect "$name" 2 "$pier" doctor "$@"; then
        if [ "$(wc -l <"$err")" -ne 1 ] || [ -s "$out" ]; then
            fail "$name" "not one line: $(cat "$out" "$err")"
        elif ! grep -qF -- "$text" "$err"; then
            fail "$name" "no \"$text\" in: $(cat "$err")"
        else
            pass "$name"
        fi
    fi
}
refuse bad-option 'did you mean --json' --jsn
refuse bad-argument '"uring"' uring
refuse bad-flag 'takes no value' --json=1
expect help 0 "$pier" doctor --help && has help '^usage: pier doctor'
if [ -e /dev/full ] && [ $windows -eq 0 ]; then
    "$pier" doctor >/dev/full 2>"$err"
    status=$?
    if [ $status -eq 1 ] && grep -q 'cannot write' "$err"; then
        pass full
    else
        fail full "exit code $status: $(cat "$err")"
    fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
