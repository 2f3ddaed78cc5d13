"""Counting what a server does: system calls, user-space instructions, heap allocations.

System calls are counted by the kernel's raw_syscalls tracepoint through perf_event_open, which
costs the server little and so leaves its batches as they are. Where there are no tracepoints,
strace counts; it slows the server down, whose batches then grow.

Instructions are counted by callgrind. Those of a server between two commands to it, so that neither
start-up nor connecting is in the count, and so that it doesn't matter how the program ends; those
of a program that ends by itself in its whole run, or in parts that callgrind's options name.
"""

import ctypes
import glob
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile

from .servers import Failure

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "s390x": 331}
PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_INHERIT = 1 << 1
EVENT = "events/raw_syscalls/sys_enter/id"

libc = ctypes.CDLL(None, use_errno=True)


def tracepoint_id():
    """The number of the tracepoint, or None. Looks at a mount of its own where there is none."""
    for place in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.access(os.path.join(place, EVENT), os.R_OK):
            with open(os.path.join(place, EVENT), encoding="ascii") as file:
                return int(file.read())
    with tempfile.TemporaryDirectory() as place:
        if libc.mount(b"none", place.encode(), b"tracefs", 0, None) != 0:
            return None
        try:
            with open(os.path.join(place, EVENT), encoding="ascii") as file:
                return int(file.read())
        except OSError:
            return None
        finally:
            libc.umount2(place.encode(), 0)


def open_counter(event, tid):
    attributes = struct.pack("=IIQQQQQIIQ", PERF_TYPE_TRACEPOINT, 64, event, 0, 0, 0,
                             PERF_FLAG_INHERIT, 0, 0, 0)
    number = PERF_EVENT_OPEN.get(os.uname().machine)
    return -1 if number is None else libc.syscall(number, attributes, tid, -1, -1, 0)


class SystemCalls:
    """Counts the system calls of a server inside a `with`; then `count` has them."""

    event = None
    source = None      # how they are counted, for the report

    def __init__(self, server):
        self.server = server
        self.counters = []
        self.strace = None
        self.count = None
        if SystemCalls.source is None:
            SystemCalls.event = tracepoint_id()
            probe = -1 if self.event is None else open_counter(self.event, 0)
            SystemCalls.source = "tracepoint raw_syscalls" if probe >= 0 else "strace"
            if probe >= 0:
                os.close(probe)

    def __enter__(self):
        if self.source == "strace":
            self.attach_strace()
            return self
        for _, tid in self.server.threads():
            counter = open_counter(self.event, tid)
            if counter < 0:
                raise Failure("perf_event_open: " + os.strerror(ctypes.get_errno()))
            self.counters.append(counter)
        return self

    def __exit__(self, *exception):
        if self.source == "strace":
            self.detach_strace()
            return
        self.count = 0
        for counter in self.counters:
            self.count += int.from_bytes(os.read(counter, 8), "little")
            os.close(counter)

    def attach_strace(self):
        if shutil.which("strace") is None:
            raise Failure("neither tracepoints nor strace to count system calls with")
        self.strace = subprocess.Popen(
            ["strace", "-f", "-c", "-p", str(self.server.process.pid)], stderr=subprocess.PIPE,
            text=True)
        if not select.select([self.strace.stderr], [], [], 10)[0]:
            raise Failure("strace did not attach")
        if "attached" not in self.strace.stderr.readline():
            raise Failure("strace could not attach")

    def detach_strace(self):
        self.strace.send_signal(signal.SIGINT)
        # The columns are share, seconds, microseconds per call, calls, and errors where any are.
        total = re.search(r"^100\.00\s+\S+\s+\S+\s+(\d+)\b.* total$",
                          self.strace.communicate()[1], re.M)
        if not total:
            raise Failure("strace printed no total")
        self.count = int(total.group(1))


def total_in(path):
    """The instructions in a file of callgrind's, or None."""
    with open(path, encoding="utf-8", errors="replace") as file:
        match = re.search(r"^(?:summary|totals): (\d+)", file.read(), re.M)
    return int(match.group(1)) if match else None


def count_run(command, *options, environment=None, seconds=300):
    """Runs a program to its end. The completed process, and the instructions of each part that
    callgrind's options make, in order; the last is what was left, or the whole without such."""
    if shutil.which("valgrind") is None:
        raise Failure("no valgrind to count instructions with")
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        output, log = os.path.join(folder, "out"), os.path.join(folder, "log")
        wrapper = ["valgrind", "--tool=callgrind", f"--log-file={log}",
                   f"--callgrind-out-file={output}", *options]
        try:
            done = subprocess.run(
                [*wrapper, *command], capture_output=True, text=True, timeout=seconds, check=False,
                env=None if environment is None else {**os.environ, **environment})
        except subprocess.TimeoutExpired:
            raise Failure(f"not over after {seconds} seconds under callgrind") from None
        parts = sorted(glob.glob(output + ".*"), key=lambda name: int(name.rpartition(".")[2]))
        return done, [total_in(name) for name in [*parts, *glob.glob(output)]]


class Callgrind:
    """Counts instructions of a server that was started with `wrapper`."""

    def __init__(self):
        if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
            raise Failure("no valgrind to count instructions with")
        self.folder = tempfile.mkdtemp(prefix="callgrind-")
        self.output = os.path.join(self.folder, "out")
        self.prefix = f"--vgdb-prefix={self.folder}/vgdb"
        self.wrapper = ["valgrind", "--tool=callgrind", "--vgdb-poll=100000", self.prefix,
                        f"--callgrind-out-file={self.output}"]

    def command(self, server, word):
        try:
            subprocess.run(["vgdb", self.prefix, f"--pid={server.process.pid}", word],
                           capture_output=True, timeout=30, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise Failure("callgrind does not answer") from None

    def begin(self, server):
        self.command(server, "zero")

    def end(self, server):
        """Instructions since begin()."""
        self.command(server, "dump")
        for name in sorted(glob.glob(self.output + ".*")):
            total = total_in(name)
            os.unlink(name)
            if total is not None:
                return total
        raise Failure("callgrind wrote no count")

    def clean(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def preload(build):
    """The environment that counts a program's heap allocations, or None without the counter."""
    library = os.path.join(build, "bench", "heap_count.so")
    return {"LD_PRELOAD": library} if os.path.exists(library) else None


def allocations_in(text):
    match = re.search(r"heap_allocations\"?[=:](\d+)", text)
    if not match:
        raise Failure("no count of heap allocations came back")
    return int(match.group(1))
