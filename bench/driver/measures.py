"""The measures: for each, how one program gets its value.

A measure of an echo server is a function of (bench, program) that returns a dictionary of values,
keyed as in report.py. `bench` has the build directory and the scale: how many messages, at full
length or in the quick form. Failure is raised where a program can't be measured, with the reason.
"""

import json
import os
import resource
import subprocess
import time
from dataclasses import dataclass

from .counters import Callgrind, SystemCalls, allocations_in, count_run, preload
from .servers import (CLIENT_PAIR, SERVER_PAIR, SERVER_PROCESSOR, Client, Failure, Server, drive,
                      pin)

CONNECTIONS = 50
REST_SECONDS = 0.3
LOOPS = 4
TRIPS_COUNTED = (500, 2500)        # under callgrind; what they don't share is counted


@dataclass
class Scale:
    """How many messages each measure sends."""
    plain: int          # 64 bytes, depth 1
    deep: int           # 64 bytes, depth 16
    large: int          # 16 KiB
    lives: int          # connect, echo, close
    counted: int        # under callgrind
    trips: int          # posts
    many: int           # connections in the row with many
    many_messages: int
    idle: int           # connections of which memory is measured
    loops: int          # messages to several loops
    proxied: int        # bytes through a proxy


FULL = Scale(plain=80000, deep=1000000, large=30000, lives=16000, counted=100000, trips=20000,
             many=100000, many_messages=40000, idle=10000, loops=400000, proxied=1 << 30)
QUICK = Scale(plain=25000, deep=300000, large=10000, lives=5000, counted=100000, trips=5000,
              many=20000, many_messages=20000, idle=10000, loops=100000, proxied=1 << 28)
# So little that it only shows that a measure works: for --check.
TRIAL = Scale(plain=1000, deep=1000, large=100, lives=100, counted=1000, trips=100, many=200,
              many_messages=1000, idle=200, loops=4000, proxied=1 << 24)


@dataclass
class Bench:
    build: str
    scale: Scale


WARM_UP = ("--connections", 10, "--messages", 1000)


def idle_connections(scale):
    """How many of the idle connections this machine's limit of open files allows in one process."""
    return min(scale.idle, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)


def timed(bench, server, messages, *options):
    """CPU per message of the server, messages per second and 99th percentile, of one load."""
    options = ("--connections", CONNECTIONS, "--messages", messages, *options)
    with Client(bench.build, server, *options) as client:
        before = server.cpu_ns()
        result = client.measure()
        used = server.cpu_ns() - before
    return used / messages, result["messages_per_second"], result["p99_ns"] / 1000


def time_loads(bench, program):
    """Everything that is measured in time, on one run of the server."""
    scale, values = bench.scale, {}
    with Server(program) as server:
        drive(bench.build, server, *WARM_UP)
        for key, messages, options in (
                ("plain", scale.plain, ()),
                ("deep", scale.deep, ("--depth", 16)),
                ("large", scale.large, ("--size", 16384)),
                ("life", scale.lives, ("--churn",))):
            cpu, rate, p99 = timed(bench, server, messages, *options)
            values.update({f"cpu_{key}": cpu, f"rate_{key}": rate, f"p99_{key}": p99})
    return values


def count_system_calls(bench, program):
    scale, values = bench.scale, {}
    with Server(program) as server:
        drive(bench.build, server, *WARM_UP)
        for key, messages, options in (
                ("plain", scale.plain, ()),
                ("deep", scale.plain, ("--depth", 16)),
                ("life", scale.lives, ("--churn",))):
            options = ("--connections", CONNECTIONS, "--messages", messages, *options)
            with Client(bench.build, server, *options) as client:
                with SystemCalls(server) as calls:
                    client.measure()
            values[f"calls_{key}"] = calls.count / messages
    return values


def count_instructions(bench, program):
    if program.is_go:
        raise Failure("Go's runtime doesn't run under valgrind")
    values = {}
    counter = Callgrind()
    try:
        with Server(program, wrapper=counter.wrapper) as server:
            drive(bench.build, server, *WARM_UP)
            for key, depth in (("plain", 1), ("deep", 16)):
                options = ("--connections", CONNECTIONS, "--messages", bench.scale.counted,
                           "--depth", depth)
                with Client(bench.build, server, *options) as client:
                    counter.begin(server)
                    client.measure()
                    values[f"instructions_{key}"] = counter.end(server) / bench.scale.counted
    finally:
        counter.clean()
    return values


def measure_memory(bench, program):
    """User memory for each connection: accepted and idle, and after one message on each, when the
    server has had a moment to give back what it needed for that."""
    values, count = {}, idle_connections(bench.scale)
    for key, options in (("idle", ("--connections", 0, "--idle", count)),
                         ("used", ("--connections", count, "--messages", count))):
        with Server(program) as server:
            drive(bench.build, server, *WARM_UP)
            before = server.memory_bytes()
            with Client(bench.build, server, *options) as client:
                client.measure()
                time.sleep(REST_SECONDS)
                values[f"memory_{key}"] = (server.memory_bytes() - before) / count
    return values


def allocations_of(bench, program, environment, *options):
    with Server(program, environment=environment) as server:
        drive(bench.build, server, *options)
        output, errors = server.stop()
    return allocations_in(output if program.is_go else errors)


def count_allocations(bench, program):
    """Heap allocations for each message and for each connection: by the difference of two runs."""
    environment = preload(bench.build)
    if environment is None:
        raise Failure("heap_count.so was not built")
    values = {}
    for key, few, many, options in (("message", 10000, 40000, ()),
                                    ("connection", 1000, 4000, ("--churn",))):
        counts = [allocations_of(bench, program, environment, "--connections", CONNECTIONS,
                                 "--messages", messages, *options) for messages in (few, many)]
        values[f"heap_{key}"] = (counts[1] - counts[0]) / (many - few)
    return values


def time_loops(bench, program):
    """LOOPS loops on two processors, with as many connections each as one loop has elsewhere."""
    messages = bench.scale.loops
    options = ("--connections", CONNECTIONS * LOOPS, "--processes", 2)
    with Server(program, options=("--threads", str(LOOPS)), processors=SERVER_PAIR) as server:
        drive(bench.build, server, *options, "--messages", 4000)
        with Client(bench.build, server, *options, "--messages", messages,
                    processors=CLIENT_PAIR) as client:
            before = server.cpu_ns()
            result = client.measure()
            used = server.cpu_ns() - before
    return {"cpu_loops": used / messages / 1000, "rate_loops": result["messages_per_second"]}


def processes_for_many(count):
    """How many processes it takes to hold `count` connections, with a tenth to spare."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return -(-count * 11 // 10 // max(limit - 100, 1))


def reason_against_many(bench):
    """Why this machine can't hold the many connections, or None."""
    count = bench.scale.many
    processes = processes_for_many(count)
    if processes > 64:
        return f"{count} connections need {processes} processes at this limit of open files"
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if free * 1024 < count * 20000:
        return f"{count} connections need {count * 20000 >> 20} MiB of free memory"
    with open("/proc/sys/fs/file-max", encoding="ascii") as file:
        if int(file.read()) < count * 2.2:
            return f"{count} connections need more than fs.file-max allows"
    try:
        with open("/proc/sys/net/netfilter/nf_conntrack_max", encoding="ascii") as file:
            if int(file.read()) < count:
                return f"{count} connections need more than net.netfilter.nf_conntrack_max allows"
    except OSError:
        pass
    return None


def measure_many(bench, program):
    """Many connections, 100 of them active, spread over as few processes as the limits allow."""
    reason = reason_against_many(bench)
    if reason is None and not program.can_fork:
        reason = "has no --processes"
    if reason is not None:
        raise Failure(reason)
    scale, values = bench.scale, {}
    processes = processes_for_many(scale.many)
    options = ("--connections", 100, "--idle", scale.many - 100, "--processes", processes,
               "--messages", scale.many_messages)
    with Server(program, options=("--processes", str(processes))) as server:
        drive(bench.build, server, *WARM_UP)
        memory = server.memory_bytes()
        with Client(bench.build, server, *options) as client:
            before = server.cpu_ns()
            result = client.measure()
            used = server.cpu_ns() - before
            memory = server.memory_bytes() - memory
    values["cpu_many"] = used / scale.many_messages
    values["rate_many"] = result["messages_per_second"]
    values["p99_many"] = result["p99_ns"] / 1000
    values["memory_many"] = memory / scale.many
    return values


def run_plain(path, *arguments, processor=None, environment=None):
    """A timer or post program: its line of JSON, and what it wrote to its standard error."""
    done = subprocess.run(
        [path, *(str(argument) for argument in arguments)], capture_output=True, text=True,
        timeout=120, preexec_fn=None if processor is None else pin(processor),
        env=None if environment is None else {**os.environ, **environment}, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Failure(said[-1] if said else f"exit code {done.returncode}")
    return json.loads(done.stdout), done.stderr


def measure_timers(_, path):
    result, _ = run_plain(path, processor=SERVER_PROCESSOR)
    return {key: result[key] for key in ("insert_ns", "cancel_ns", "fire_ns")}


def count_timer_allocations(bench, path):
    """Heap allocations for each timer, by the difference of two counts of timers."""
    environment = preload(bench.build)
    if environment is None:
        raise Failure("heap_count.so was not built")
    few, many = 50000, 150000
    counts = [allocations_in(run_plain(path, count, processor=SERVER_PROCESSOR,
                                       environment=environment)[1]) for count in (few, many)]
    return {"heap_timer": (counts[1] - counts[0]) / (many - few)}


def measure_posts(bench, program):
    path, environment = program
    result, _ = run_plain(path, bench.scale.trips, environment=environment)
    return {"trips": result["round_trips_per_second"], "trip_cpu": result["cpu_ns"] / 1000}


def count_trip_instructions(_, program):
    """Instructions of both threads for each round trip, by the difference of two counts."""
    path, environment = program
    if "msg_ring" in path or environment.get("PIER_BACKEND") == "uring":
        raise Failure("valgrind hangs: it lets no other thread run while one waits in "
                      "io_uring_enter")
    if "libuv" in path:
        raise Failure("no count: its loop spins until the sender has left uv_async_send(), for as "
                      "long as valgrind lets no other thread run")
    totals = []
    for trips in TRIPS_COUNTED:
        done, parts = count_run([path, str(trips)], environment=environment)
        if done.returncode != 0 or parts[-1:] in ([], [None]):
            raise Failure(f"exit code {done.returncode} under callgrind")
        totals.append(parts[-1])
    few, many = TRIPS_COUNTED
    return {"trip_instructions": (totals[1] - totals[0]) / (many - few)}
