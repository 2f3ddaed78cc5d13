# libev: configure finds kqueue() in the library; EVBACKEND_KQUEUE chooses it at run time.
package=libev
needs='make gcc'

build()
{
    ./configure CPPFLAGS="-I$include" LIBS="$library -pthread" --disable-shared
    grep '^#define HAVE_KQUEUE 1' config.h
    grep '^#define HAVE_SYS_EVENT_H 1' config.h
    make -j "$jobs" libev.la
}

check()
{
    gcc -O2 -Wall -I. -o "$scratch/program" "$here/libev_program.c" .libs/libev.a "$library" -lm \
        -pthread
    "$scratch/program"
    echo 'EVBACKEND_KQUEUE: 100 socket pairs, 20,000 messages, timers, a periodic, signals,' \
        'children, async from a thread, fork'
}
