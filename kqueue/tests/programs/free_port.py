"""Prints a TCP port of 127.0.0.1 that is free, and so are the next N (argument; none)."""
import random
import socket
import sys

count = int(sys.argv[1]) if len(sys.argv) > 1 else 1


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


while True:
    first = random.randrange(12000, 30000)
    if all(is_free(port) for port in range(first, first + count, max(1, count // 50))):
        print(first)
        break
