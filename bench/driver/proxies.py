"""Proxies: examples/tcp_proxy.c as it is, on each backend of note, and HAProxy beside it.

All pass bytes on from one connection to another in one thread, each with its own defaults. HAProxy
gets a listening socket that is open already, so that no port has to be guessed; tcp_proxy says on
which it listens. The bytes come from one thread of the driver and end in another, both on the
client's processor: sent from a file in memory, and dropped by the kernel on arrival, so that the
proxy has most of the work.
"""

import os
import shutil
import socket
import struct
import tempfile
import threading
import time
from dataclasses import dataclass

from .servers import CLIENT_PROCESSOR, Failure, Service, connect, pin

PIECE = 1 << 20
SECONDS_MAX = 30          # without a byte

# One thread, as tcp_proxy has. What else is here has no default: HAProxy warns without time-outs.
HAPROXY_FILE = """global
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen proxy
    bind fd@{descriptor}
    server target {target}
"""


@dataclass
class ProxyProgram:
    name: str
    path: str
    backend: str = ""        # pier's; HAProxy's is its own affair


def proxy_programs(build):
    """The proxies that are there, and the names of the others."""
    example = os.path.join(build, "bench", "tcp_proxy")
    haproxy = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    there, missing = [], []
    if os.access(example, os.X_OK):
        there = [ProxyProgram(f"pier {name}", example, name) for name in ("uring", "epoll")]
    else:
        missing.append("pier")
    if haproxy:
        there.append(ProxyProgram("HAProxy", haproxy))
    else:
        missing.append("HAProxy")
    return there, missing


class Proxy(Service):
    """A running proxy to `target`, an address."""

    def __init__(self, program, target):
        self.folder = None
        if program.backend:
            super().__init__([program.path, target, "127.0.0.1:0"],
                             {"PIER_BACKEND": program.backend})
            self.read_address(program.name)
        else:
            self.start_haproxy(program, target)

    def start_haproxy(self, program, target):
        self.folder = tempfile.TemporaryDirectory(prefix="haproxy-")
        name = os.path.join(self.folder.name, "haproxy.cfg")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with open(name, "w", encoding="ascii") as file:
                file.write(HAPROXY_FILE.format(descriptor=listener.fileno(), target=target))
            super().__init__([program.path, "-db", "-f", name], pass_fds=(listener.fileno(),))
            self.address = "{}:{}".format(*listener.getsockname())

    def kill(self):
        super().kill()
        if self.folder is not None:
            self.folder.cleanup()


class Target:
    """What a proxy connects to: one connection, served by a function in a thread. Use in `with`."""

    def __init__(self, serve):
        self.serve = serve
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(SECONDS_MAX)
        self.address = "{}:{}".format(*self.listener.getsockname())
        self.failure = None

    def accept(self):
        """Starts the thread for the next connection."""
        thread = threading.Thread(target=self.run)
        thread.start()
        return thread

    def run(self):
        try:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(SECONDS_MAX)
                self.serve(connection)
        except OSError as failure:
            self.failure = failure

    def give_up(self, thread):
        """Nobody connects any more: accept() ends."""
        self.listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    def finish(self, thread):
        thread.join()
        if self.failure is not None:
            raise Failure(f"the target of the proxy: {self.failure}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.listener.close()


class Sink:
    """Takes all that comes, and forgets it unseen: of TCP the kernel drops it for MSG_TRUNC."""

    def __init__(self):
        self.size = 0
        self.end = 0.0

    def __call__(self, connection):
        pin(CLIENT_PROCESSOR)()
        piece = bytearray(PIECE)
        self.size = 0
        while True:
            count = connection.recv_into(piece, PIECE, socket.MSG_TRUNC)
            if count == 0:
                break
            self.size += count
        self.end = time.monotonic()


def connect_through(proxy):
    try:
        connection = connect(proxy)
    except OSError as failure:
        if proxy.process.poll() is None:
            raise Failure(f"the proxy: {failure}") from None
        raise Failure(proxy.explanation("")) from None
    connection.setblocking(True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                          struct.pack("@ll", SECONDS_MAX, 0))
    return connection


def send_file(connection, file, size):
    """In a thread of its own, since it's pinned."""
    def run():
        pin(CLIENT_PROCESSOR)()
        try:
            left = size
            while left > 0:
                left -= os.sendfile(connection.fileno(), file, 0, min(left, PIECE))
            connection.shutdown(socket.SHUT_WR)
        except OSError as failure:
            failures.append(failure)

    failures = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise Failure(f"the proxy does not take what is sent: {failures[0]}")


def pass_through(proxy, target, sink, size):
    """Seconds that it takes to pass `size` bytes on."""
    file = os.memfd_create("bytes")
    try:
        os.write(file, os.urandom(PIECE))
        thread = target.accept()
        try:
            with connect_through(proxy) as connection:
                begin = time.monotonic()
                send_file(connection, file, size)
                target.finish(thread)
        except Failure:
            target.give_up(thread)
            raise
    finally:
        os.close(file)
    if sink.size != size:
        raise Failure(f"{sink.size} of {size} bytes came through the proxy")
    return sink.end - begin


def measure_proxy(bench, program):
    size = bench.scale.proxied
    sink = Sink()
    with Target(sink) as target, Proxy(program, target.address) as proxy:
        pass_through(proxy, target, sink, 16 * PIECE)        # to warm up
        before = proxy.cpu_ns()
        seconds = pass_through(proxy, target, sink, size)
        used = proxy.cpu_ns() - before
    return {"rate_proxy": size / seconds / 1e6, "cpu_proxy": used / 1e9 * (1 << 30) / size}
