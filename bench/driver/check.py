"""What each server must do before its figures count: the same as all the others.

The client of the bench verifies every byte of every load; here is what it doesn't try: half-closing
with much under way, readers that don't read, and connections that are reset.
"""

import os
import socket
import struct
import threading
import time

from .servers import Failure, Server, connect, drive

SLOW_READERS = 20
SLOW_MEMORY_MAX = 1 << 20          # for each slow reader


def receive_all(connection):
    received = bytearray()
    while True:
        piece = connection.recv(1 << 16)
        if not piece:
            return bytes(received)
        received += piece


def check_half_close(server):
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
        raise Failure(f"half-close: {len(received)} of {len(data)} bytes came back")


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
