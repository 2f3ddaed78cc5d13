# libevent: configure finds kqueue() in the library and tries whether it works. EVENT_NO...
# variables leave the other backends out at run time.
package=libevent
needs='make gcc'

build()
{
    # Debian's patches make these look out of date, and automake would be needed.
    touch aclocal.m4 configure config.h.in Makefile.in
    ./configure CPPFLAGS="-I$include" LIBS="$library -pthread" --disable-shared --disable-openssl \
        --disable-mbedtls --disable-samples
    grep '^#define HAVE_WORKING_KQUEUE 1' config.h
    make -j "$jobs"
    make -j "$jobs" -C . test/regress test/test-init test/test-eof test/test-closed test/test-weof \
        test/test-time test/test-changelist test/test-fdleak
}

check()
{
    for other in EVPORT EPOLL DEVPOLL POLL SELECT WIN32; do
        export "EVENT_NO$other=yes"
    done
    EVENT_SHOW_METHOD=1 test/test-init
    EVENT_SHOW_METHOD=1 test/test-init 2>&1 | grep 'using: kqueue'
    for program in test-eof test-closed test-weof test-time test-changelist test-fdleak; do
        echo "$program"
        "test/$program"
    done
    test/regress --quiet
    echo 'libevent is using: kqueue; test-eof, -weof, -time, -changelist, -fdleak; all' \
        'of' \
        'its regression tests (signals, threads, bufferevents, HTTP, DNS)'
}
