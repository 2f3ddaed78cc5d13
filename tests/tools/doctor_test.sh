#!/bin/sh
# SPDX-License-Identifier: MIT
#
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
unset PIER_BACKEND COLUMNS

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

# check_width NAME COLUMNS: no line of the output is longer.
check_width()
{
    longest=$(awk '{ if (length($0) > longest) longest = length($0) } END { print longest }' "$out")
    [ "$longest" -le "$2" ] && pass "$1" || fail "$1" "a line of $longest columns"
}

# works BACKEND: whether the doctor says so in $out.
works() { grep -q "^  $1 *works" "$out"; }

# json EXPRESSION: evaluates it with the report in `d`; true when it is.
json()
{
    if command -v python3 >/dev/null; then
        python3 -c "import json, sys
d = json.loads(open('$out', 'rb').read().decode('utf-8'))
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
    check_width text-width 100
    blanks=$(grep -c ' $' "$out")
    [ "$blanks" -eq 0 ] && pass text-blanks || fail text-blanks "$blanks lines end in blanks"
fi
for columns in 40 60 80; do
    COLUMNS=$columns
    export COLUMNS
    expect "columns-$columns" 0 "$pier" doctor && check_width "columns-$columns" "$columns"
    grep -q ' $' "$out" && fail "columns-$columns-blanks" "$(grep ' $' "$out")"
done
unset COLUMNS
if [ $windows -eq 1 ] || ! command -v python3 >/dev/null; then
    skip terminal-width "no terminal of our own"
elif python3 -c "
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 66, 0, 0))
    os.execv(sys.argv[1], ['pier', 'doctor'])
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    sys.stdout.buffer.write(data.replace(b'\r', b''))
" "$pier" >"$out" 2>"$err" && [ -s "$out" ]; then
    check_width terminal-width 66
    longest=$(awk '{ if (length($0) > longest) longest = length($0) } END { print longest }' "$out")
    [ "$longest" -gt 60 ] || fail terminal-width "only $longest columns are used"
else
    fail terminal-width "$(cat "$err")"
fi
"$pier" doctor >"$out" 2>"$err"
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
        'locked memory' 'memory of the machine' '^  swap space of the machine: ' \
        '^  how memory is promised: [012]$'
    if [ -e /proc/sys/kernel/io_uring_disabled ]; then
        has text-uring '^  who may use io_uring: [012]$' '^  group that may use io_uring: '
    fi
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
        (len(l['values']) > 0) == l['known'] for l in d['limits'])"
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
# Whoever asks for what there isn't hears of it.
PIER_BACKEND=nonsense
expect environment-unknown 1 "$pier" doctor &&
    has environment-unknown 'names none fails: .*nonsense'
[ "$(grep -c 'nonsense' "$err")" -eq 1 ] && [ "$(wc -l <"$err")" -eq 1 ] ||
    fail environment-unknown-said "$(cat "$err")"
expect environment-unknown-json 1 "$pier" doctor --json &&
    check_json environment-unknown-json "d['default_backend'] is None and d['default_reason']"
# JSON is UTF-8 whatever the environment has: é and a sign of four bytes stay, what is none doesn't.
if [ $windows -eq 0 ]; then
    number=0
    for bytes in '\377' '\303' '\303\251x\360\237\230\200' '\355\240\200' '\300\200' 'a\342\202'; do
        # shellcheck disable=SC2059
        PIER_BACKEND=$(printf "$bytes")
        number=$((number + 1))
        expect "environment-bytes-$number" 1 "$pier" doctor --json &&
            check_json "environment-bytes-$number" "
                d['environment_backend'].replace('\ufffd', '') ==
                    b'$bytes'.decode('utf-8', 'ignore') and
                ('\ufffd' in d['environment_backend']) ==
                    ('\ufffd' in b'$bytes'.decode('utf-8', 'replace'))"
    done
fi
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

# ---- what can't be read, and what a container allows ----

# A mount namespace of our own shows the command another system than this one. in_namespace NAME
# STATUS SCRIPT ARGUMENT...: the script makes it, $1 being a directory; then `pier doctor` runs.
in_namespace()
{
    name=$1 want=$2 script=$3'
        shift
        exec "$@"'
    shift 3
    if ! $unshare sh -c "$script" sh "$directory" "$pier" --version >"$out" 2>"$err"; then
        skip "$name" "can't be had here: $(head -n 1 "$err")"
        return 1
    fi
    COLUMNS=200
    export COLUMNS
    expect "$name" "$want" $unshare sh -c "$script" sh "$directory" "$pier" doctor "$@"
    status=$?
    unset COLUMNS
    return $status
}

unshare='unshare -m'
[ "$(id -u)" -eq 0 ] || unshare='unshare -rm'
if [ $windows -eq 1 ] || [ "$(uname -s)" != Linux ]; then
    :
elif ! $unshare mount -t tmpfs none "$directory" 2>"$err"; then
    skip namespace "no mount namespace of our own: $(cat "$err")"
else
    # Without /proc nothing is left out, and no number of connections is promised.
    hide='mount -t tmpfs none /proc || exit 99'
    in_namespace no-proc 0 "$hide" &&
        has no-proc 'open files of the machine: unknown' 'local ports of clients: unknown' \
            'memory limit of the control group: unknown' 'control group: unknown' \
            'all processes of the machine  *unknown, at most' \
            'a client with one address  *unknown: net.ipv4.ip_local_port_range' \
            'a server of one process  *about [0-9,]* connections'
    in_namespace no-proc-json 0 "$hide" --json &&
        check_json no-proc-json "d['connections_of_machine'] is None and
            d['connections_of_client'] is None and d['connections_per_process'] > 0 and
            {l['name'] for l in d['limits'] if not l['known']} >=
                {'fs.file-max', 'net.ipv4.tcp_mem', 'kernel.pid_max'}"
    # Where only the control groups can't be seen, only what they limit is unknown.
    in_namespace no-groups 0 'mount -t tmpfs none /sys || exit 99' &&
        has no-groups 'memory limit of the control group: unknown' \
            'open files of the machine: [0-9,]' \
            "at most [0-9,]* connections, .*; can't be read here: memory of the control group\$"

    # Both versions of control groups have these files; which one counts /proc/self/cgroup says.
    groups='(cd "$1" && mkdir -p groups && mount -t tmpfs none groups && cd groups &&
        mkdir pids memory && for place in . pids memory; do
            echo 77 >$place/pids.max && echo 5 >$place/pids.current &&
                echo 64000000 >$place/memory.max && echo 8000000 >$place/memory.swap.max &&
                echo 64000000 >$place/memory.limit_in_bytes &&
                echo 72000000 >$place/memory.memsw.limit_in_bytes || exit 99
        done && mount --bind . /sys/fs/cgroup) || exit 99'
    in_namespace groups 0 "$groups" &&
        has groups '^  processes and threads of the control group: 77$' \
            'may have together, 5 of them now' \
            '^  memory limit of the control group: 61.0 MiB$' \
            '^  swap limit of the control group: 7.6 MiB$' \
            'all processes of the machine .*about 13,888 connections, limited by: memory limit'

    # What the kernel says of itself.
    settings='set_to() { echo "$2" >"$3/value-$1" && mount --bind "$3/value-$1" "/proc/sys/$4"; }
        set_to overcommit 2 "$1" vm/overcommit_memory || exit 99
        if [ -e /proc/sys/kernel/io_uring_disabled ]; then
            set_to disabled 1 "$1" kernel/io_uring_disabled &&
                set_to group 54321 "$1" kernel/io_uring_group || exit 99
        fi'
    if in_namespace settings 0 "$settings"; then
        has settings '^  how memory is promised: 2$' 'no more than the limit of committed memory' \
            '^  committed memory of the machine: [0-9.]* [GM]iB$' 'of it promised: beyond'
        if [ -e /proc/sys/kernel/io_uring_disabled ]; then
            has settings-uring '^  who may use io_uring: 1$' 'only processes with CAP_SYS_ADMIN' \
                '^  group that may use io_uring: 54,321$' 'this one is not of it'
        fi
    fi
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
