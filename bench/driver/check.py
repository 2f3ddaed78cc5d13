"""What each server must do before its figures count: the same as all the others.

The client of the bench verifies every byte of every load; here is what it doesn't try: half-closing
with much under way, readers that don't read, and connections that are reset. Of servers with
several loops: that all of them serve. Of proxies: that what goes in comes out, both ways. And each
measure that isn't a load is tried with little.
"""

import os
import socket
import struct
import threading
import time

from .measures import CONNECTIONS, LOOPS, Bench, TRIAL, measure_memory, time_loops
from .proxies import Proxy, Target, connect_through, measure_proxy
from .servers import SERVER_PAIR, Failure, Server, connect, drive

SLOW_READERS = 20
SLOW_MEMORY_MAX = 1 << 20          # for each slow reader


def receive_all(connection):
    received = bytearray()
    while True:
        piece = connection.recv(1 << 16)
        if not piece:
            return bytes(received)
        received += piece


def check_half_close(server, what="half-close"):
    data = os.urandom(3_000_000)

    def send():
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    with connect(server) as connection:
        sender = threading.Thread(target=send)
        sender.start()
        received = receive_all(connection)
        sender.join()
    if received != data:
        raise Failure(f"{what}: {len(received)} of {len(data)} bytes came back")


def fill(connections):
    """Sends until nothing more is taken for a while; the bytes sent on each."""
    sent = [0] * len(connections)
    for connection in connections:
        connection.setblocking(False)
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.3:
        for i, connection in enumerate(connections):
            try:
                sent[i] += connection.send(b"y" * 65536)
                quiet_since = time.monotonic()
            except BlockingIOError:
                pass
    return sent


def check_slow_readers(build, server):
    before = server.memory_bytes()
    connections = [connect(server) for _ in range(SLOW_READERS)]
    sent = fill(connections)
    used = (server.memory_bytes() - before) // SLOW_READERS
    if used > SLOW_MEMORY_MAX:
        raise Failure(f"a slow reader costs {used} bytes")
    spent = server.cpu_ns()
    time.sleep(0.3)
    if server.cpu_ns() - spent > 100_000_000:
        raise Failure("the server spins while readers are slow")
    drive(build, server, "--messages", 5000)
    for connection, size in zip(connections[:SLOW_READERS // 2], sent):
        connection.setblocking(True)
        connection.settimeout(20)
        connection.shutdown(socket.SHUT_WR)
        if receive_all(connection) != b"y" * size:
            raise Failure("bytes were lost or changed for a slow reader")
    for connection in connections:
        connection.close()


def check_resets(build, server):
    for size in (0, 3, 200000):
        connection = connect(server)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.setblocking(False)
        try:
            connection.send(b"z" * size)
        except BlockingIOError:
            pass
        connection.close()
    drive(build, server, "--messages", 2000)


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def descriptors_at_rest(server):
    """The number of open descriptors, once it hasn't changed for a while."""
    count = -1
    while count != descriptors(server):
        count = descriptors(server)
        time.sleep(0.2)
    return count


def check_descriptors(server, before):
    deadline = time.monotonic() + 5
    while descriptors(server) > before:
        if time.monotonic() > deadline:
            raise Failure("descriptors are left over after all peers have gone")
        time.sleep(0.05)


def check_program(build, program):
    with Server(program) as server:
        drive(build, server, "--messages", 100)
        before = descriptors_at_rest(server)
        for options in (("--messages", 20000, "--connections", 200, "--size", 1, "--depth", 64),
                        ("--messages", 100, "--connections", 10, "--size", 1000000),
                        ("--messages", 1000, "--connections", 30, "--size", 20000, "--depth", 20),
                        ("--messages", 2000, "--churn")):
            drive(build, server, *options)
        check_half_close(server)
        check_slow_readers(build, server)
        check_resets(build, server)
        check_descriptors(server, before)
        server.stop()


def check_memory(build, program):
    """Pages are counted, so a few may come and go."""
    for key, value in measure_memory(Bench(build, TRIAL), program).items():
        if not -100 < value < 50000:
            raise Failure(f"{key} of {TRIAL.idle} connections is {value:.0f} bytes")


def check_loops(build, program):
    """The port is shared by chance, but that a loop of 4 has none of 200 isn't to be seen."""
    options = ("--connections", CONNECTIONS * LOOPS, "--messages", TRIAL.loops)
    with Server(program, options=("--threads", str(LOOPS)), processors=SERVER_PAIR) as server:
        before = server.cpu_ns_of_threads()
        drive(build, server, *options)
        after = server.cpu_ns_of_threads()
        busy = sum(time > before.get(thread, 0) for thread, time in after.items())
        server.stop()
    if busy < LOOPS:
        raise Failure(f"{busy} of {LOOPS} loops did something")
    check_values(time_loops(Bench(build, TRIAL), program))


def check_proxy(build, program):
    def send_back(connection):
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)

    with Target(send_back) as target, Proxy(program, target.address) as proxy:
        thread = target.accept()
        try:
            connect_through(proxy).close()      # a proxy that has ended says why
            target.finish(thread)
            thread = target.accept()
            check_half_close(proxy, "both ways through the proxy")
        except (Failure, OSError):
            target.give_up(thread)
            raise
        target.finish(thread)
    check_values(measure_proxy(Bench(build, TRIAL), program))


def check_values(values):
    for key, value in values.items():
        if value <= 0:
            raise Failure(f"{key} is {value}")
