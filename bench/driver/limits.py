"""How many instructions pier may take, counted where nothing depends on timing.

The tables of the report show what servers take under load, and so depend on how many connections
each wait finds ready. Here bench/limits_pier.c makes them all ready each time: the counts are the
same in each run, and on a busy machine. So a limit needs room for other compilers and C libraries
only, and a usual case that has lost its short way is found.
"""

import json
import os

from .counters import count_run
from .measures import count_trip_instructions
from .report import TARGETS
from .servers import Failure

SKIPPED = 77               # the exit code of what can't run here
DEPTH = 16

# Name of the row -> arguments of limits_pier, and the most instructions at depth 1, or None where
# the report has a target for the row. Behind each is what gcc 12 makes of it on x86-64, and clang
# 14 where that's more. Limits below that are still to be reached; others of our own are less than
# a tenth above. At depth 16 a turn finds as many receives, of 16 messages each, so that the limit
# for a message is the 16th part. For posts the second figure is for each of 16 in one turn.
COUNTED = {
    "pier uring": (("uring", "each"), 235, 15),                         # 235, clang 281; 14.9
    "pier epoll": (("epoll", "each"), 150),                             # 158, clang 161
    "pier poll": (("poll", "each"), 165),                               # 171, clang 174
    "pier select": (("select", "each"), 230),                           # 211
    "pier uring, own memory": (("uring", "memory"), 415),               # 364, clang 405
    "pier epoll, own memory": (("epoll", "memory"), None),              # 246
    "pier poll, own memory": (("poll", "memory"), 280),                 # 260
    "pier uring, one receive at a time": (("uring", "lent"), 330),      # 492, clang 524
    "pier epoll, one receive at a time": (("epoll", "lent"), 240),      # 424
    "pier poll, one receive at a time": (("poll", "lent"), 240),        # 438
    "pier uring, posts": (("uring", "post"), 370, 67),      # 339, clang 342; 60, clang 63
    "pier epoll, posts": (("epoll", "post"), 325, 64),      # 289, clang 307; 57, clang 60
}
# For a notification to the loop of another thread and one back, both asleep: 648 to 667, clang 675
# to 681. Which of the threads runs is up to the system, so the least of a few counts.
TRIPS = ("pier epoll, posts between threads", {"PIER_BACKEND": "epoll"}, 700)
TRIPS_ROUNDS = 3

# Counted inside pier_loop_run(), apart for each call of count_messages().
PARTS = ("--collect-atstart=no", "--toggle-collect=pier_loop_run",
         "--zero-before=count_messages", "--dump-after=count_messages")


class Skip(Exception):
    """What can't be counted here; the text says why."""


def probe(program):
    """Valgrind may be missing, not be for this machine, or not understand the program's file."""
    try:
        done, _ = count_run([program])
    except (Failure, OSError) as failure:
        raise Skip(str(failure)) from None
    if done.returncode != 2:       # the program's usage
        raise Skip(f"valgrind can't run {program}: exit code {done.returncode}")


def target(name):
    return next(limit for key, pier, limit, peer in TARGETS
                if key == "instructions_plain" and pier == name and peer is None)


def count_messages(program, arguments):
    """Instructions for a message or post, at depth 1 and at DEPTH. Nothing makes a part smaller
    than it is, so the least of several is the one that was disturbed least."""
    done, parts = count_run([program, *arguments], *PARTS)
    if done.returncode == SKIPPED:
        raise Skip(done.stderr.strip())
    if done.returncode != 0:
        raise Failure(done.stderr.strip() or f"exit code {done.returncode} under callgrind")
    facts = json.loads(done.stdout)
    messages, windows = facts["messages"], facts["windows"]
    if len(parts) != 2 * windows + 2 or None in parts:      # one to warm up, and what was left
        raise Failure(f"callgrind wrote {len(parts)} parts")
    return min(parts[1:windows + 1]) / messages, min(parts[windows + 1:-1]) / messages / DEPTH


def limits_of(name, plain, deep=None):
    plain = plain or target(name)
    return plain, deep or plain / DEPTH


def counts_of(build, name):
    """What is counted under a name: for each count its limit and what it is per."""
    folder = os.path.join(build, "bench")
    if name == TRIPS[0]:
        program = (os.path.join(folder, "post_pier"), TRIPS[1])
        least = min(count_trip_instructions(None, program)["trip_instructions"]
                    for _ in range(TRIPS_ROUNDS))
        return [(least, TRIPS[2], "round trip")]
    arguments, *limits = COUNTED[name]
    counts = count_messages(os.path.join(folder, "limits_pier"), arguments)
    what = "post" if arguments[1] == "post" else "message"
    return [(count, limit, f"{what} at depth {depth}")
            for count, limit, depth in zip(counts, limits_of(name, *limits), (1, DEPTH))]


def check_limits(build, words):
    """Prints a line for each row, and says whether all are within their limits: the exit code."""
    counts = {"ok": 0, "not ok": 0, "SKIPPED": 0}

    def say(verdict, text):
        counts[verdict] += 1
        print(f"{verdict} {text}", flush=True)

    try:
        probe(os.path.join(build, "bench", "limits_pier"))
    except Skip as skip:
        print(skip)
        return SKIPPED
    for name in [*COUNTED, TRIPS[0]]:
        if words and not any(word in name for word in words):
            continue
        try:
            for count, limit, what in counts_of(build, name):
                say("ok" if count <= limit else "not ok",
                    f"{name}: {count:.1f} instructions per {what}, at most {limit:.1f}")
        except Skip as skip:
            say("SKIPPED", f"{name}: {skip}")
        except Failure as failure:
            say("not ok", f"{name}: {failure}")
    print("{} passed, {} failed, {} skipped".format(*counts.values()))
    return 1 if counts["not ok"] or not counts["ok"] else 0
