#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs `pier bench` for a moment and checks what it prints and writes.
#
# usage: tests/tools/bench_test.sh PIER-COMMAND [NO-URING-COMMAND]
#
# The figures are checked against each other and against what no echo server can do; how good they
# are is not a matter of tests. Exit code 0 when all is well, 1 when not, 77 when no backend works.
set -u

pier=${1:?usage: bench_test.sh PIER-COMMAND [NO-URING-COMMAND]}
no_uring=${2:-}
"$pier" --version >/dev/null || { echo "not ok pier: $pier doesn't run"; exit 1; }
directory=$(mktemp -d) || exit 1
running=
finish()
{
    [ -n "$running" ] && kill "$running" 2>/dev/null
    rm -rf "$directory"
}
trap finish EXIT
trap 'exit 1' INT TERM
out=$directory/out err=$directory/err
passed=0 failed=0 skipped=0
unset PIER_BACKEND

pass() { passed=$((passed + 1)); echo "ok $1"; }
fail() { failed=$((failed + 1)); echo "not ok $1: $2"; }
skip() { skipped=$((skipped + 1)); echo "skip $1: $2"; }

# bench OPTION...: a short run; output in $out and $err. Under a sanitizer, on a busy machine, the
# first message can take most of a second.
bench()
{
    "$pier" bench --rounds 1 --duration 1 --output "$directory/report" "$@" \
        >"$out" 2>"$err" </dev/null
}

# column NAME: its number in the CSV file.
column()
{
    head -1 "$directory/report/report.csv" | tr ',' '\n' | grep -nx "$1" | cut -d: -f1
}

# Rows that were measured have figures that make sense: LEAST COLUMN MOST.
check_column()
{
    number=$(column "$2")
    if [ -z "$number" ]; then
        fail "csv-$2" "no such column: $(head -1 "$directory/report/report.csv")"
        return
    fi
    wrong=$(awk -F, -v n="$number" -v least="$1" -v most="$3" \
        'NR > 1 && /,measured,/ && !($n >= least && $n <= most)' "$directory/report/report.csv")
    if [ -n "$wrong" ]; then
        fail "csv-$2" "not from $1 to $3: $wrong"
    else
        pass "csv-$2"
    fi
}

# well_formed NAME FILE
well_formed()
{
    if command -v xmllint >/dev/null; then
        if xmllint --noout "$2" 2>"$err"; then
            pass "$1"
        else
            fail "$1" "$(head -3 "$err")"
        fi
    elif command -v python3 >/dev/null; then
        if python3 -c "import sys, xml.dom.minidom as m; m.parse(sys.argv[1])" "$2" 2>"$err"; then
            pass "$1"
        else
            fail "$1" "$(tail -1 "$err")"
        fi
    else
        skip "$1" "neither xmllint nor python3"
    fi
}

works()
{
    "$pier" doctor >"$directory/doctor" && grep -q "^  $1 *works" "$directory/doctor"
}

if ! works poll || ! works select; then
    echo "skip all: poll and select don't work here"
    exit 77
fi

# ---- a run over two backends ----

page=$directory/report/report.html csv=$directory/report/report.csv
if bench --backend poll,select --connections 7,150; then
    pass run
else
    fail run "$(cat "$out" "$err")"
fi
for text in '^7 connections, all busy' '^150 connections, all busy' \
    '^150 connections, 100 of them' 'per message' '^charts: .*report.html' \
    '^numbers: .*report.csv'; do
    if grep -q "$text" "$out"; then pass "text: $text"; else fail "text: $text" "$(cat "$out")"; fi
done
rows=$(grep -c ',measured,' "$csv")
[ "$rows" -eq 6 ] && pass csv-rows || fail csv-rows "$rows of 6 measured: $(cat "$csv")"
fields=$(awk -F, '{ print NF }' "$csv" | sort -u | wc -l)
[ "$fields" -eq 1 ] && pass csv-fields || fail csv-fields "rows of different length"
check_column 1 connections 150
check_column 64 message_bytes 64
check_column 10 messages_per_second 50000000
check_column 1 p50_us 10000000
check_column 1 p99_us 20000000
check_column 0.01 server_cpu_us_per_message 1000
check_column 0.01 server_cpu_percent 120
# Each message takes a receive and a send there, and at times a wait.
calls=$(column system_calls_per_message)
wrong=$(awk -F, -v n="$calls" 'NR > 1 && $4 == 7 && !($n >= 1.9 && $n <= 3.5)' "$csv")
[ -z "$wrong" ] && pass csv-calls || fail csv-calls "$wrong"

well_formed html "$page"
if grep -qE '(src|href|url\(|@import|<script)' "$page"; then
    fail html-alone "it needs something from outside: $(grep -nE 'src|href|url\(|@import' "$page")"
else
    pass html-alone
fi
if grep -q 'prefers-color-scheme:dark' "$page"; then pass html-dark; else fail html-dark ""; fi
charts=$(grep -c '<figure>' "$page")
[ "$charts" -eq 11 ] && pass html-charts || fail html-charts "$charts charts, not 11"
marks=$(grep -c '<title>poll, 7 connections: [0-9]' "$page")
[ "$marks" -eq 5 ] && pass html-marks || fail html-marks "$marks marks, not 5"
parts=$(ls "$directory/report")
case $parts in
*.part*) fail parts "left over: $parts" ;;
*) pass parts ;;
esac

if grep -q '<th scope="col">backend</th>' "$page" &&
    [ "$(grep -c '<tr><th scope="row">poll</th><td>' "$page")" -eq 3 ]; then
    pass html-headers
else
    fail html-headers "$(grep '<th' "$page" | head -3)"
fi
if grep -q '@media (max-width:' "$page"; then pass html-narrow; else fail html-narrow ""; fi

# check_notes NAME: there is a note for figures that say less than they seem to, and else there is
# none. Of a load that isn't busy, or whose rounds are apart, the CSV file has the numbers.
check_notes()
{
    busy=$(column server_cpu_percent) rate=$(column messages_per_second)
    idle=$(awk -F, -v n="$busy" 'NR > 1 && /,measured,/ && $n != "" && $n < 80' "$csv" | wc -l)
    apart=$(awk -F, -v n="$rate" 'NR > 1 && /,measured,/ && $10 > 1 &&
        ($(n + 2) - $(n + 1)) / $n * 50 > 10' "$csv" | wc -l)
    idle_notes=$(grep -c '^note: not every server was busy (' "$out")
    apart_notes=$(grep -c '^note: rounds are up to +- [0-9]* % apart (' "$out")
    if [ "$((idle > 0))" -eq "$idle_notes" ] && [ "$((apart > 0))" -eq "$apart_notes" ]; then
        pass "$1"
    else
        fail "$1" "$idle idle, $apart apart: $(cat "$out" "$csv")"
    fi
}

check_notes notes
# One connection keeps the server waiting for the client; many rounds of a moment differ.
bench --backend poll,select --connections 1 --active 0 --duration 50ms --rounds 12
check_notes notes-of-one
if grep -q '^note: not every server was busy (.* with 1 connection, all busy: ' "$out"; then
    pass notes-idle
else
    skip notes-idle "the server was busy with one connection"
fi
if grep -q '<title>poll, 1 connection: ' "$page"; then pass singular; else fail singular ""; fi

# ---- JSON, and the CSV file elsewhere ----

if bench --json --backend poll --connections 5 --active 0 --size 1k --depth 3 \
    --csv "$directory/other.csv" && [ "$(wc -l <"$out")" -eq 1 ]; then
    pass json
else
    fail json "$(cat "$out" "$err")"
fi
if ! command -v python3 >/dev/null; then
    skip json-content "no python3 to read JSON with"
elif python3 -c "
import json
d = json.load(open('$out'))
r, = d['results']
assert r['backend'] == 'poll' and r['connections'] == 5 and r['status'] == 'measured', r
assert r['messages_per_second'] > 10 and r['p50_us'] <= r['p99_us'], r
assert d['message_bytes'] == 1024 and d['depth'] == 3, d
assert r['trigger'] is None, r
assert d['csv'] == '$directory/other.csv', d
" 2>"$err"; then
    pass json-content
else
    fail json-content "$(tail -1 "$err")"
fi
[ "$(wc -l <"$directory/other.csv")" -eq 2 ] && pass csv-elsewhere || fail csv-elsewhere ""

# A device, a FIFO or a link is written to, and not replaced by a file.
mkfifo "$directory/fifo"
ln -s "$directory/target" "$directory/link"
cat "$directory/fifo" >"$directory/piped" &
running=$!
bench --backend poll --connections 5 --active 0 --csv "$directory/fifo"
status=$?
wait "$running"
running=
if [ $status -eq 0 ] && [ -p "$directory/fifo" ] && [ "$(wc -l <"$directory/piped")" -eq 2 ]; then
    pass csv-fifo
else
    fail csv-fifo "exit code $status: $(cat "$out" "$err"; ls -l "$directory")"
fi
bench --backend poll --connections 5 --active 0 --csv "$directory/link"
if [ -L "$directory/link" ] && [ "$(wc -l <"$directory/target")" -eq 2 ]; then
    pass csv-link
else
    fail csv-link "$(cat "$out" "$err"; ls -l "$directory")"
fi

# ---- modes of epoll ----

if works epoll; then
    bench --backend epoll --connections 4 --active 0
    modes=$(grep -c '^epoll-[a-z]*,epoll,[a-z]*,4,4,.*,measured,' "$csv")
    [ "$modes" -eq 3 ] && pass epoll-modes || fail epoll-modes "$(cat "$out" "$err")"
    bench --backend epoll-level --connections 4 --active 0
    modes=$(grep -c '^epoll-level,epoll,level,' "$csv")
    [ "$modes" -eq 1 ] && [ "$(wc -l <"$csv")" -eq 2 ] && pass epoll-one ||
        fail epoll-one "$(cat "$csv")"
fi

# ---- what isn't to be had ----

if works uring && [ -n "$no_uring" ] && "$no_uring" EPERM true 2>"$err"; then
    real=$pier
    pier=$directory/without
    printf '#!/bin/sh\nexec "%s" EPERM "%s" "$@"\n' "$no_uring" "$real" >"$pier"
    chmod +x "$pier"
    if bench --backend uring,poll --connections 5 --active 0 &&
        grep -q '^  uring *not available: .*EPERM' "$out" &&
        grep -q '^uring,uring,,5,5,64,1,not available,.*EPERM' "$csv"; then
        pass unavailable
    else
        fail unavailable "$(cat "$out" "$err")"
    fi
    bench --backend uring --connections 5
    status=$?
    if [ $status -eq 1 ] && grep -q 'no backend to measure: uring: .*EPERM' "$err"; then
        pass unavailable-all
    else
        fail unavailable-all "exit code $status: $(cat "$err")"
    fi
    pier=$real
else
    skip unavailable "io_uring or the filter that forbids it doesn't work here"
fi

# The numbers of connections are fitted to the limit of open files.
(ulimit -n 200 && bench --backend poll --connections 5000 --active 0)
status=$?
if [ $status -eq 0 ] && grep -q '^136 connections, all busy' "$out" &&
    grep -q '^note: 5,000 connections were asked for, 136 are measured' "$out"; then
    pass fitted
else
    fail fitted "exit code $status: $(cat "$out" "$err")"
fi

# ---- an interrupt ends it and what it started, and leaves the report before alone ----

cp "$page" "$directory/before.html"
"$pier" bench --rounds 9 --duration 5 --connections 20 --active 0 --backend poll \
    --output "$directory/report" >"$out" 2>"$err" &
running=$!
sleep 1
children=$(ps -o pid= --ppid "$running" 2>/dev/null)
kill -TERM "$running"
wait "$running"
status=$?
running=
if [ $status -eq 1 ] && grep -q interrupted "$err" &&
    cmp -s "$page" "$directory/before.html" && [ ! -e "$page.part" ]; then
    pass interrupt
else
    fail interrupt "exit code $status: $(cat "$err"; ls "$directory/report")"
fi
grep -q 'before the first round was complete' "$err" && pass interrupt-said ||
    fail interrupt-said "$(cat "$err")"
left=
for child in $children; do
    kill -0 "$child" 2>/dev/null && left="$left $child"
done
[ -z "$left" ] && pass interrupt-children || fail interrupt-children "still there:$left"

# interrupt SECONDS OPTION...: runs it, and interrupts it then.
interrupt()
{
    seconds=$1
    shift
    "$pier" bench "$@" >"$out" 2>"$err" &
    running=$!
    sleep "$seconds"
    kill -TERM "$running" 2>/dev/null
    wait "$running"
    status=$?
    running=
}

# No folder stays that was made for a report that there isn't.
mkdir "$directory/above"
interrupt 1 --rounds 9 --duration 5 --connections 20 --active 0 --backend poll \
    --output "$directory/above/made/for/it"
if [ $status -eq 1 ] && [ -d "$directory/above" ] && [ ! -e "$directory/above/made" ]; then
    pass interrupt-folder
else
    fail interrupt-folder "exit code $status: $(cat "$err"; find "$directory/above")"
fi

# Rounds that are complete are reported.
for seconds in 3 6 12 24; do
    interrupt $seconds --rounds 99 --duration 1 --connections 5 --active 0 --backend poll \
        --output "$directory/report"
    grep -q 'before the first round' "$err" || break
done
rounds=$(sed -n 's/.*those of the first \([0-9]*\) rounds* of 99$/\1/p' "$err")
if [ $status -eq 1 ] && [ -n "$rounds" ] && [ "$(wc -l <"$err")" -eq 1 ] &&
    grep -q "^note: interrupted after $rounds round" "$out" &&
    grep -q "^poll,poll,,5,5,64,1,measured,,$rounds," "$csv" &&
    grep -q "median of $rounds round" "$page" && [ ! -e "$page.part" ]; then
    pass interrupt-rounds
else
    fail interrupt-rounds "exit code $status: $(cat "$out" "$err" "$csv")"
fi

# ---- a bare system ----

unshare='unshare -m'
[ "$(id -u)" -eq 0 ] || unshare='unshare -rm'
# bare NAME DIRECTORY: a run without what is there.
bare()
{
    if ! $unshare sh -c 'mount -t tmpfs none "$0" && exec "$@"' "$2" "$pier" --version \
        >"$out" 2>"$err"; then
        skip "$1" "can't be had here: $(head -n 1 "$err")"
    elif $unshare sh -c 'mount -t tmpfs none "$0" && exec "$@"' "$2" "$pier" bench --rounds 1 \
        --duration 200ms --backend poll --connections 5 --active 0 --output "$directory/report" \
        >"$out" 2>"$err" </dev/null && grep -q ',measured,' "$csv"; then
        pass "$1"
    else
        fail "$1" "$(cat "$out" "$err")"
    fi
}
bare without-dev-null /dev
bare without-proc /proc

# ---- bad input ----

# refuse NAME STATUS TEXT OPTION...: one line that has the text, and nothing else.
refuse()
{
    name=$1 want=$2 text=$3
    shift 3
    "$pier" bench "$@" >"$out" 2>"$err" </dev/null
    status=$?
    if [ $status -ne "$want" ]; then
        fail "$name" "exit code $status instead of $want: $(cat "$err")"
    elif [ "$(wc -l <"$err")" -ne 1 ] || [ -s "$out" ]; then
        fail "$name" "not one line: $(cat "$out" "$err")"
    elif ! grep -qF -- "$text" "$err"; then
        fail "$name" "no \"$text\" in: $(cat "$err")"
    else
        pass "$name"
    fi
}
refuse bad-option 2 'did you mean --connections' --conections 5
refuse bad-backend 2 'not "iouring"' --backend poll,iouring
refuse bad-backend-empty 2 'not ""' --backend poll,
refuse bad-connections 2 'not "x"' --connections 10,x
refuse bad-connections-zero 2 'not "0"' --connections 0
refuse bad-connections-empty 2 'not ""' --connections ''
refuse bad-connections-large 2 'to 1000000' --connections 1000001
refuse bad-connections-many 2 '16 numbers' --connections "$(seq -s, 200 300)"
refuse bad-duration 2 'from 50ms to 1h, such as 10, 0.5 or 500ms, not "0"' --duration 0
refuse bad-rounds 2 'from 1 to 99' --rounds 0
refuse bad-size 2 'not "0"' --size 0
refuse bad-in-flight 2 'use a --depth up to 16' --size 64M --depth 17
refuse bad-output 1 '/dev/null/x' --output /dev/null/x
refuse bad-output-empty 1 'choose another with --output' --output ''
refuse bad-csv 1 'choose another with --csv' --output "$directory/report" --csv "$directory"
refuse bad-csv-empty 2 '--csv takes the name of a file, not ""' --csv ''
refuse bad-csv-same 1 'would both be' --output "$directory/report" --csv "$page"
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null && chmod 755 "$directory"; then
    mkdir -m 1777 "$directory/shared"
    : >"$directory/shared/root.csv"
    real=$pier
    cp "$real" "$directory/shared/pier"
    printf '#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups "%s" "$@"\n' \
        "$directory/shared/pier" >"$directory/as-nobody"
    chmod +x "$directory/as-nobody"
    pier=$directory/as-nobody
    refuse bad-csv-foreign 1 'a file of another user' --output "$directory/shared/out" \
        --csv "$directory/shared/root.csv"
    [ ! -e "$directory/shared/out" ] || fail bad-csv-foreign-folder 'it is left'
    pier=$real
else
    skip bad-csv-foreign "not root, or no setpriv"
fi
refuse bad-csv-missing 1 '/nonexistent/x.csv' --output "$directory/report" --csv /nonexistent/x.csv
if "$pier" bench --help | grep -q '^usage: pier bench'; then pass help; else fail help ""; fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
