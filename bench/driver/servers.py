"""Starting servers and clients, and reading the system's accounts of a server.

A server is pinned to one processor and the client to another, or to two each for servers of several
loops, as far as there are so many. The client (bench/peers/load.c) goes
step by step: it connects, waits for the word, measures, prints, and holds its connections until it
is let go, so that the accounts can be read right before and after the measured part.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess

START_SECONDS = 20
CLIENT_SECONDS = 300


class Failure(Exception):
    """A program that can't be measured; the text says why."""


def read_line(stream, seconds, what):
    if not select.select([stream], [], [], seconds)[0]:
        raise Failure(f"{what} said nothing for {seconds} seconds")
    return stream.readline()


def pin(*processors):
    return lambda: os.sched_setaffinity(0, processors)


PROCESSORS = sorted(os.sched_getaffinity(0))
SERVER_PROCESSOR, CLIENT_PROCESSOR = PROCESSORS[0], PROCESSORS[1 % len(PROCESSORS)]
# Two for the server and two for the client, which are the same ones where there are no more.
SERVER_PAIR = PROCESSORS[:2]
CLIENT_PAIR = PROCESSORS[2:4] if len(PROCESSORS) >= 4 else SERVER_PAIR


class Service:
    """A running program that listens, and the system's accounts of it. Use it in a `with`."""

    def __init__(self, command, environment=None, processors=(SERVER_PROCESSOR,), pass_fds=()):
        self.address = None
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=pin(*processors), pass_fds=pass_fds,
            env=None if environment is None else {**os.environ, **environment})

    def read_address(self, name):
        """The address from the first line of what the program prints."""
        try:
            line = read_line(self.process.stdout, START_SECONDS, name)
        except Failure:
            self.kill()
            raise
        match = re.fullmatch(r"listening on (\S+)( backend=\S+ threads=\d+)?\n", line)
        if not match:
            raise Failure(self.explanation(line))
        self.address = match.group(1)

    def explanation(self, line):
        """Why the server did not start: what it said last, if it ended by itself and said why."""
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"its first line was {line!r}"
        said = (line + self.process.stderr.read()).strip().splitlines()
        if code < 0:
            return f"ended by signal {signal.Signals(-code).name} when it was started"
        return said[-1] if said else f"exit code {code} when it was started"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            for pid in self.pids()[1:]:
                os.kill(pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends the server in the orderly way; its output and its errors."""
        self.process.terminate()
        try:
            output, errors = self.process.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure("did not stop on SIGTERM") from None
        if self.process.returncode != 0:
            raise Failure(f"ended with exit code {self.process.returncode} on SIGTERM")
        return output, errors

    # ---- accounts

    def pids(self):
        """The server's process and its children."""
        found = [self.process.pid]
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stat:
                        parent = int(stat.read().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if parent == self.process.pid:
                    found.append(int(entry))
        return found

    def threads(self):
        return [(pid, int(tid)) for pid in self.pids() for tid in os.listdir(f"/proc/{pid}/task")]

    def cpu_ns(self):
        """Time on a processor so far, user and system, of all threads: the scheduler's own account,
        which is exact where the division between user and system is sampled."""
        return sum(self.cpu_ns_of_threads().values())

    def cpu_ns_of_threads(self):
        times = {}
        for pid, tid in self.threads():
            with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as account:
                times[tid] = int(account.read().split()[0])
        return times

    def memory_bytes(self):
        """Anonymous memory in use, whatever it is for."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/status", encoding="ascii") as status:
                total += int(re.search(r"RssAnon:\s+(\d+) kB", status.read()).group(1)) * 1024
        return total


class Server(Service):
    """A running echo server."""

    def __init__(self, program, wrapper=(), options=(), environment=None,
                 processors=(SERVER_PROCESSOR,)):
        super().__init__([*wrapper, *program.command, "--listen", "127.0.0.1:0", *options],
                         environment, processors)
        self.program = program
        self.read_address(program.name)


class Client:
    """The load generator, connected and waiting for the word. Use it in a `with`."""

    def __init__(self, build, server, *options, processors=(CLIENT_PROCESSOR,)):
        command = [os.path.join(build, "bench", "load"), "--connect", server.address, "--step"]
        self.process = subprocess.Popen(
            [*command, *(str(option) for option in options)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=pin(*processors))
        self.expect("connected\n")

    def expect(self, wanted=None):
        try:
            line = read_line(self.process.stdout, CLIENT_SECONDS, "the client")
        except Failure:
            self.process.kill()
            raise
        if (wanted is not None and line != wanted) or not line:
            self.process.kill()
            said = self.process.stderr.read().strip() or "the client ended without a word"
            raise Failure(said.splitlines()[0])
        return line

    def measure(self):
        """Runs the load; the client's own result."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.expect())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def drive(build, server, *options):
    """Runs a load from start to end."""
    with Client(build, server, *options) as client:
        return client.measure()


def connect(server):
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=10)
