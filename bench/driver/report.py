"""The report: tables in Markdown, aligned so that they read well as plain text too."""

from statistics import median, quantiles

# Key -> heading, how to print a value. A column is left out where no program has a value.
COLUMNS = {
    "instructions_plain": ("instructions, depth 1", "{:.0f}"),
    "instructions_deep": ("instructions, depth 16", "{:.1f}"),
    "calls_plain": ("system calls, depth 1", "{:.2f}"),
    "calls_deep": ("system calls, depth 16", "{:.3f}"),
    "calls_life": ("system calls per connection", "{:.2f}"),
    "heap_message": ("allocations per message", "{:.3f}"),
    "heap_connection": ("allocations per connection", "{:.2f}"),
    "memory_idle": ("bytes per idle connection", "{:.0f}"),
    "memory_used": ("bytes after one message", "{:.0f}"),
    "cpu_plain": ("CPU ns, depth 1", "{:.0f}"),
    "cpu_deep": ("CPU ns, depth 16", "{:.0f}"),
    "cpu_large": ("CPU ns, 16 KiB", "{:.0f}"),
    "cpu_life": ("CPU ns, connection", "{:.0f}"),
    "rate_plain": ("messages/s, depth 1", "{:.0f}"),
    "rate_deep": ("messages/s, depth 16", "{:.0f}"),
    "rate_large": ("messages/s, 16 KiB", "{:.0f}"),
    "rate_life": ("connections/s", "{:.0f}"),
    "p99_plain": ("p99 us, depth 1", "{:.0f}"),
    "p99_deep": ("p99 us, depth 16", "{:.0f}"),
    "p99_large": ("p99 us, 16 KiB", "{:.0f}"),
    "p99_life": ("p99 us, connection", "{:.0f}"),
    "cpu_loops": ("CPU us per message", "{:.2f}"),
    "rate_loops": ("messages/s, four loops", "{:.0f}"),
    "cpu_proxy": ("CPU s per GiB", "{:.3f}"),
    "rate_proxy": ("MB/s through a proxy", "{:.0f}"),
    "insert_ns": ("insert ns", "{:.0f}"),
    "cancel_ns": ("cancel ns", "{:.0f}"),
    "fire_ns": ("fire ns", "{:.0f}"),
    "heap_timer": ("allocations per timer", "{:.3f}"),
    "trips": ("round trips/s", "{:.0f}"),
    "trip_cpu": ("CPU us per round trip", "{:.1f}"),
    "trip_instructions": ("instructions per round trip", "{:.0f}"),
    "cpu_many": ("CPU ns, many connections", "{:.0f}"),
    "rate_many": ("messages/s", "{:.0f}"),
    "p99_many": ("p99 us", "{:.0f}"),
    "memory_many": ("bytes per connection", "{:.0f}"),
}

# Title, what is above the table, keys.
TABLES = (
    ("Work for each message",
     "TCP echo of 64 bytes over {connections} connections, one server thread: user-space "
     "instructions by callgrind, system calls by {calls_source}. Instructions hardly vary; system "
     "calls depend on how many connections one wait finds ready.",
     ("instructions_plain", "instructions_deep", "calls_plain", "calls_deep", "calls_life")),
    ("Memory",
     "Heap allocations of the whole server in steady state, and its anonymous memory for each of "
     "{idle} connections: accepted and silent, and after one message on each.",
     ("heap_message", "heap_connection", "memory_idle", "memory_used")),
    ("Server CPU time",
     "For each message of 64 bytes at depth 1 and 16, of 16 KiB, and for each connection "
     "(connect, echo, close), all threads, user and system, from the scheduler's account of the "
     "process.",
     ("cpu_plain", "cpu_deep", "cpu_large", "cpu_life")),
    ("Throughput", "Server and client on one processor each, so that the client may be the limit.",
     ("rate_plain", "rate_deep", "rate_large", "rate_life")),
    ("Latency", "99th percentile of the closed loop.",
     ("p99_plain", "p99_deep", "p99_large", "p99_life")),
    ("Four loops on two processors",
     "TCP echo of 64 bytes at depth 1 over {loop_connections} connections; the four loops of a "
     "server are threads that share the port, and {client_place}.",
     ("cpu_loops", "rate_loops")),
    ("Proxy",
     "{proxied} from one connection to another, in one thread on a processor of its own: "
     "`examples/tcp_proxy.c` as it is, and HAProxy in tcp mode, each with its defaults.",
     ("cpu_proxy", "rate_proxy")),
    ("Timers", "1,000,000 timers, CPU time for each.",
     ("insert_ns", "cancel_ns", "fire_ns", "heap_timer")),
    ("Posts between threads",
     "From one loop to the other and back, both asleep when a post comes; CPU and user-space "
     "instructions of both threads.",
     ("trips", "trip_cpu", "trip_instructions")),
    ("Many connections",
     "{many} connections in {processes} processes on one processor, 100 of them active at depth 1.",
     ("cpu_many", "rate_many", "p99_many", "memory_many")),
)

RATIOS = ("instructions_plain", "instructions_deep", "calls_plain", "cpu_plain", "cpu_deep",
          "cpu_large", "cpu_life", "rate_plain", "p99_plain", "memory_idle", "insert_ns",
          "cancel_ns", "fire_ns", "trips", "trip_cpu", "trip_instructions", "cpu_many", "cpu_loops",
          "rate_loops", "cpu_proxy", "rate_proxy")

# What pier must reach. The last item names what the figure is divided by, where it is a ratio.
TARGETS = (
    ("instructions_plain", "pier uring", 260, None),
    ("instructions_plain", "pier epoll", 180, None),
    ("instructions_plain", "pier poll", 180, None),
    ("instructions_plain", "pier epoll, own memory", 260, None),
    ("instructions_deep", "pier uring", 17, None),
    ("instructions_deep", "pier epoll", 12, None),
    ("calls_plain", "pier uring", 0.40, None),
    ("calls_plain", "pier epoll", 2.1, None),
    *((key, f"pier {backend}", 1.05, peer)
      for key in ("cpu_plain", "cpu_life", "cpu_large")
      for backend, peer in (("uring", "io_uring by hand"), ("epoll", "epoll by hand"),
                            ("poll", "poll by hand"))),
    *((key, f"pier {backend}", 384, None) for key in ("memory_idle", "memory_used")
      for backend in ("uring", "epoll", "poll", "select")),
    ("memory_used", "pier uring, one receive at a time", 384, None),
    ("cpu_loops", "pier uring", 1.1, "pier epoll"),
    ("insert_ns", "pier", 1 / 1.5, "libev"),
    ("cancel_ns", "pier", 1 / 1.5, "libev"),
    ("fire_ns", "pier", 1 / 1.5, "libev"),
    ("trip_cpu", "pier uring", 1.05, "io_uring msg_ring"),
    ("trip_cpu", "pier epoll", 1.05, "eventfd"),
    ("heap_message", "pier uring", 0, None),
    ("heap_message", "pier epoll", 0, None),
    ("heap_connection", "pier uring", 0, None),
    ("heap_connection", "pier epoll", 0, None),
    ("heap_timer", "pier", 0, None),
)


def spread(values):
    """Half the distance between the quartiles, as a share of the median; None for one value."""
    middle = median(values)
    if len(values) < 2 or middle == 0:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / abs(middle)


def show(key, values):
    text = COLUMNS[key][1].format(median(values))
    if not text.strip("-0."):
        text = text.lstrip("-")
    share = spread(values)
    return text if share is None or share < 0.0005 else f"{text} ±{share * 100:.1f} %"


def ratio(values, to):
    """Round by round where both have the same rounds, since one round's noise is in both."""
    if median(to) == 0:
        return None
    if len(values) == len(to) and all(to):
        return median(one / other for one, other in zip(values, to))
    return median(values) / median(to)


def table(head, rows):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells):
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


class Results:
    """Values by measure and program, a list each, and what was left out."""

    def __init__(self):
        self.values = {}
        self.programs = []
        self.skipped = []

    def add(self, program, found):
        if program not in self.programs:
            self.programs.append(program)
        for key, value in found.items():
            self.values.setdefault(key, {}).setdefault(program, []).append(value)

    def skip(self, what, program, reason):
        self.skipped.append((what, program, reason))

    def get(self, key, program):
        return self.values.get(key, {}).get(program)


def value_table(results, order, keys):
    keys = [key for key in keys if key in results.values]
    rows = []
    for program in order:
        cells = [results.get(key, program) for key in keys]
        if any(cells):
            rows.append([program, *(show(key, cell) if cell else "" for key, cell in
                                    zip(keys, cells))])
    return table(["", *(COLUMNS[key][0] for key in keys)], rows) if rows else None


def ratio_table(results, order, pier):
    """pier divided by each other program, in the measures that both have."""
    keys = [key for key in RATIOS if results.get(key, pier)]
    rows = []
    for program in order:
        if program.startswith("pier"):
            continue
        cells = []
        for key in keys:
            other = results.get(key, program)
            value = ratio(results.get(key, pier), other) if other else None
            cells.append("" if value is None else f"{value:.2f}")
        if any(cells):
            rows.append([program, *cells])
    return table(["", *(COLUMNS[key][0] for key in keys)], rows) if rows else None


def target_table(results):
    rows = []
    for key, pier, limit, peer in TARGETS:
        values, other = results.get(key, pier), results.get(key, peer) if peer else None
        if not values or (peer and not other):
            continue
        value = ratio(values, other) if peer else median(values)
        if value is None:
            continue
        form = "{:.2f}" if peer else COLUMNS[key][1]
        # A count per message may have a few requests of start-up in it.
        reached = value <= limit + (0.005 if limit == 0 else 0)
        rows.append([COLUMNS[key][0], pier, f"of {peer}" if peer else "", form.format(value),
                     ("{:.2f}" if peer or limit < 10 else "{:.0f}").format(limit),
                     "reached" if reached else "missed"])
    return table(["measure", "program", "", "measured", "at most", ""], rows) if rows else None


def report(results, order, facts, settings):
    """The whole report; `facts` are groups of names and values, `settings` fills the texts."""
    parts = ["# Benchmark results",
             "Made by `make bench` in its {form} form. Values are medians of {rounds} interleaved "
             "rounds, of {few} for instructions and memory, and single ones for allocations and "
             "many connections; ± is half the distance between the quartiles, left out where it "
             "is nothing. All programs were measured in one run, the server on one processor and "
             "the client on another.".format(
                 **settings)]
    parts.append("\n".join(f"- {name}: {value}" for group in facts for name, value in
                           group.items()))
    for title, text, keys in TABLES:
        body = value_table(results, order, keys)
        if body:
            parts += [f"## {title}", text.format(**settings), body]
    piers = [name for name in order if name.startswith("pier") and "," not in name]
    for pier in piers:
        body = ratio_table(results, order, pier)
        if body:
            parts += [f"## {pier}, divided by each", body]
    body = target_table(results)
    if body:
        parts += ["## Targets", body]
    if results.skipped:
        parts += ["## Left out", "\n".join(f"- {program}, {what}: {reason}" for
                                           what, program, reason in results.skipped)]
    return "\n\n".join(parts) + "\n"
