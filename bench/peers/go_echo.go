// Echo on Go's net package: one goroutine and one 16 KiB buffer for each connection, blocking-style
// Read and Write.
//
// Takes the options of the other peers. --threads sets GOMAXPROCS; --processes is not offered. The
// net package sets TCP_NODELAY on what it accepts, and takes its backlog from net.core.somaxconn
// (4096 since Linux 5.4); its keep-alive is turned off, because no other peer pays for it. The
// counters at the end include the runtime's own count of heap allocations: an allocation counter
// loaded into the process from outside sees nothing of Go.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
)

const bufferSize = 16 * 1024

var receives, bytes, connections uint64

func serve(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, bufferSize)
	for {
		n, err := connection.Read(buffer)
		if n > 0 {
			atomic.AddUint64(&receives, 1)
			atomic.AddUint64(&bytes, uint64(n))
			if _, err := connection.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func printCounters() {
	var usage syscall.Rusage
	var memory runtime.MemStats
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	runtime.ReadMemStats(&memory)
	fmt.Printf("{\"receives\":%d,\"bytes\":%d,\"connections\":%d,"+
		"\"user_cpu_ns\":%d,\"system_cpu_ns\":%d,\"heap_allocations\":%d}\n",
		atomic.LoadUint64(&receives), atomic.LoadUint64(&bytes), atomic.LoadUint64(&connections),
		usage.Utime.Nano(), usage.Stime.Nano(), memory.Mallocs)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	threads := flag.Int("threads", 1, "threads that run Go code (GOMAXPROCS)")
	flag.Parse()
	if *threads < 1 {
		fmt.Fprintf(os.Stderr, "--threads needs a number of at least 1, not %d\n", *threads)
		os.Exit(2)
	}
	runtime.GOMAXPROCS(*threads)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	configuration := net.ListenConfig{KeepAlive: -1}
	listener, err := configuration.Listen(context.Background(), "tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("listening on %s backend=go threads=%d\n", listener.Addr(), *threads)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				fmt.Fprintf(os.Stderr, "%v: raise `ulimit -n`\n", err)
				os.Exit(1)
			}
			atomic.AddUint64(&connections, 1)
			go serve(connection)
		}
	}()
	<-stop
	printCounters()
}
