# HAProxy: the target "generic" has no poller but poll() and select(); USE_KQUEUE adds it.
package=haproxy
needs='make gcc python3 curl'

build()
{
    make -j "$jobs" TARGET=generic USE_KQUEUE=1 USE_THREAD=1 DEBUG_CFLAGS= \
        CPU_CFLAGS='-O2' ADDINC="-I$include" ADDLIB="$library -pthread"
}

check()
{
    ./haproxy -vv | grep 'kqueue : pref=300,  test result OK'
    port=$(python3 "$here/free_port.py" 2)
    mkdir -p "$scratch/html"
    head -c 300000 /dev/urandom >"$scratch/html/large"
    head -c 100 /dev/urandom >"$scratch/html/small"
    (cd "$scratch/html" && exec python3 -m http.server --bind 127.0.0.1 $((port + 1))) \
        >/dev/null 2>&1 &
    backend=$!
    cat >"$scratch/haproxy.cfg" <<END
global
    maxconn 200
    nbthread 2
    nopoll
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen proxy
    bind 127.0.0.1:$port
    http-reuse always
    server one 127.0.0.1:$((port + 1)) check inter 200ms
END
    ./haproxy -V -db -f "$scratch/haproxy.cfg" >"$scratch/log" 2>&1 &
    server=$!
    trap 'kill "$server" "$backend" 2>/dev/null' EXIT
    for _ in $(seq 100); do
        curl -sf "http://127.0.0.1:$port/small" >/dev/null && break
        sleep 0.1
    done
    grep 'Using kqueue() as the polling mechanism' "$scratch/log"
    python3 "$here/exercise.py" "$port" /small "$scratch/html/small" 1000 20
    python3 "$here/exercise.py" "$port" /large "$scratch/html/large" 200 20
    curl -sf --limit-rate 600k "http://127.0.0.1:$port/large" | cmp - "$scratch/html/large"
    kill -USR1 "$server" # no more connections, then the end
    wait "$server"
    kill "$backend"
    trap - EXIT
    echo '"Using kqueue() as the polling mechanism", two threads: proxied files of 100 B and' \
        '300 kB on 20 connections, a slow reader, health checks, the end by SIGUSR1'
}
