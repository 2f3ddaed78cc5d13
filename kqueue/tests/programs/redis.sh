# redis: ae.c takes the first of evport, epoll, kqueue that config.h offers.
package=redis
needs='make gcc'

build()
{
    sed -i 's/^#define HAVE_EPOLL 1/#define HAVE_KQUEUE 1/' src/config.h
    # The library is an object to the linker, so that it is linked wherever it stands.
    make -C src -j "$jobs" MALLOC=libc CFLAGS="-I$include" REDIS_LDFLAGS= \
        LDFLAGS="-Wl,--whole-archive $library -Wl,--no-whole-archive -pthread" \
        redis-server redis-cli redis-benchmark
}

check()
{
    socket=$scratch/socket
    src/redis-server --port 0 --unixsocket "$socket" --dir "$scratch" --save '' --hz 100 \
        >"$scratch/server.log" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null' EXIT
    for _ in $(seq 100); do
        src/redis-cli -s "$socket" ping 2>/dev/null | grep -q PONG && break
        sleep 0.1
    done
    src/redis-cli -s "$socket" info server | grep '^multiplexing_api:kqueue'
    src/redis-benchmark -s "$socket" -q -n 20000 -c 50 -t ping,set,get,lpush,mset
    src/redis-benchmark -s "$socket" -q -n 50000 -c 20 -P 16 -t set,get
    src/redis-benchmark -s "$socket" -q -n 200 -c 20 -d 1000000 -t set,get
    # A timer of the event loop: the key expires.
    src/redis-cli -s "$socket" set short-lived 1 px 50
    for _ in $(seq 100); do
        [ "$(src/redis-cli -s "$socket" dbsize)" != 0 ] || break
        [ -n "$(src/redis-cli -s "$socket" get short-lived)" ] || break
        sleep 0.1
    done
    [ -z "$(src/redis-cli -s "$socket" get short-lived)" ]
    # A signal, by a handler: SIGTERM shuts it down in order.
    kill -TERM "$server"
    wait "$server"
    trap - EXIT
    grep -q 'ready to exit' "$scratch/server.log"
    units=
    if command -v tclsh >/dev/null; then
        for unit in unit/type/string unit/type/list unit/pubsub unit/multi unit/expire \
            unit/protocol unit/other integration/block-repl; do
            units="$units --single $unit"
        done
        # shellcheck disable=SC2086 # the list is split on purpose
        ./runtest --clients 2 $units --baseport "$(python3 "$here/free_port.py" 2000)"
        units=', and its own tests of strings, lists, pubsub, multi, expiry, protocol, replication'
    fi
    echo "multiplexing_api:kqueue; redis-benchmark on 50 connections, pipelined, with 1 MB" \
        "values; expiry; SIGTERM$units"
}
