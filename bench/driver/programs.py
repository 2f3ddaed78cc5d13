"""The programs under comparison, and which of them this build has.

A program is an echo server with a command line; timers and posts are programs of their own kind and
listed separately. Names are what the report shows. Everything is looked for in the build directory:
pier's command at its root, the peers in its bench/.
"""

import os
from dataclasses import dataclass, field

PIER_BACKENDS = ("uring", "epoll", "poll", "select")


@dataclass
class Program:
    name: str
    command: list
    is_pier: bool = False
    counts_only: bool = False    # measured where a count is exact, left out where time is measured
    can_fork: bool = True        # has --processes
    is_go: bool = False          # has a heap of its own, and doesn't run under valgrind
    reason: str = field(default="")    # why it is missing

    def is_there(self):
        return os.access(self.command[0], os.X_OK)


def pier_programs(build):
    command = [os.path.join(build, "pier"), "echo"]
    for backend in PIER_BACKENDS:
        yield Program(f"pier {backend}", command + ["--backend", backend], is_pier=True)
    for name, options in (
            ("pier uring, own memory", ["--backend", "uring", "--receive", "memory"]),
            ("pier epoll, own memory", ["--backend", "epoll", "--receive", "memory"]),
            ("pier uring, one receive at a time", ["--backend", "uring", "--receive", "lent"]),
            ("pier epoll, one receive at a time", ["--backend", "epoll", "--receive", "lent"]),
            ("pier poll, one receive at a time", ["--backend", "poll", "--receive", "lent"]),
            ("pier epoll, level", ["--backend", "epoll", "--trigger", "level"]),
            ("pier epoll, one-shot", ["--backend", "epoll", "--trigger", "oneshot"])):
        yield Program(name, command + options, is_pier=True, counts_only=True)


def peer_programs(build):
    def peer(name, *command, **more):
        return Program(name, [os.path.join(build, "bench", command[0]), *command[1:]], **more)

    yield peer("io_uring by hand", "uring_echo")
    yield peer("epoll by hand", "epoll_echo")
    yield peer("poll by hand", "poll_echo")
    yield peer("libev", "libev_echo")
    yield peer("libuv", "libuv_echo")
    yield peer("libevent", "libevent_echo")
    yield peer("libevent buffered", "libevent_echo", "--buffered")
    yield peer("Boost.Asio", "asio_echo")
    yield peer("Boost.Asio waiting", "asio_echo", "--wait")
    yield peer("Go net", "go_echo", can_fork=False, is_go=True)


def echo_programs(build):
    """All servers of this build, and the names of those that are missing."""
    there, missing = [], []
    for program in [*pier_programs(build), *peer_programs(build)]:
        if program.is_there():
            there.append(program)
        else:
            missing.append("pier" if program.is_pier else program.name)
    return there, list(dict.fromkeys(missing))


LOOPS_PROGRAMS = ("pier uring", "pier epoll", "libuv")


def plain_programs(build, kind):
    """The timer or post programs: name of the library -> path."""
    folder = os.path.join(build, "bench")
    order = ("pier", "eventfd", "msg_ring", "msg_ring_sync", "libev", "libuv", "libevent")
    paths = {name: os.path.join(folder, f"{kind}_{name}") for name in order}
    return {name: path for name, path in paths.items() if os.access(path, os.X_OK)}
