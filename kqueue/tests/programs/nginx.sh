# nginx: configure finds kqueue() in the library; "use kqueue" chooses it at run time.
package=nginx
needs='make gcc python3 curl'

build()
{
    # Only the BSDs' files include the header. It comes first here, and so must what nginx defines.
    ./configure --prefix="$scratch" --with-cc-opt="-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 \
        -I$include -include sys/event.h" --with-ld-opt="$library -pthread" \
        --without-http_rewrite_module --without-http_gzip_module
    # With kqueue there is no name for an exclusive event of epoll.
    sed -i '/^#ifndef NGX_HAVE_EPOLLEXCLUSIVE/,/^#endif/d' objs/ngx_auto_config.h
    make -j "$jobs"
}

check()
{
    port=$(python3 "$here/free_port.py" 2)
    mkdir -p "$scratch/html" "$scratch/logs"
    head -c 300000 /dev/urandom >"$scratch/html/large"
    head -c 100 /dev/urandom >"$scratch/html/small"
    cat >"$scratch/nginx.conf" <<END
worker_processes 2;
error_log $scratch/logs/error.log info;
pid $scratch/logs/nginx.pid;
events { use kqueue; worker_connections 200; }
http {
    access_log off;
    server { listen 127.0.0.1:$port; location / { root $scratch/html; } }
    server {
        listen 127.0.0.1:$((port + 1));
        location / { proxy_pass http://127.0.0.1:$port; proxy_buffers 4 4k; }
    }
}
END
    [ "$(id -u)" -ne 0 ] || sed -i "1i user $(id -un) $(id -gn);" "$scratch/nginx.conf"
    objs/nginx -p "$scratch" -c "$scratch/nginx.conf" -g 'daemon off;' &
    server=$!
    trap 'kill "$server" 2>/dev/null' EXIT
    for _ in $(seq 100); do
        curl -sf "http://127.0.0.1:$port/small" >/dev/null && break
        sleep 0.1
    done
    grep 'using the "kqueue" event method' "$scratch/logs/error.log"
    python3 "$here/exercise.py" "$port" /small "$scratch/html/small" 2000 20
    python3 "$here/exercise.py" "$port" /large "$scratch/html/large" 400 20
    python3 "$here/exercise.py" $((port + 1)) /large "$scratch/html/large" 400 20
    # A slow reader: the server waits for room.
    curl -sf --limit-rate 600k "http://127.0.0.1:$((port + 1))/large" | cmp - "$scratch/html/large"
    # Signals, to the master and from it to the workers.
    kill -HUP "$server"
    python3 "$here/exercise.py" "$port" /small "$scratch/html/small" 500 10
    kill -QUIT "$server"
    wait "$server"
    trap - EXIT
    ! grep -E '\[(alert|emerg|crit)\]' "$scratch/logs/error.log"
    echo '"use kqueue", two workers: files of 100 B and 300 kB, proxied as well, 20 connections;' \
        'a slow reader; HUP under load, QUIT'
}
