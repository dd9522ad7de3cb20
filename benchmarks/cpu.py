"""CPU time of this process and of all that it started: a busy machine hardly changes it."""

import os
import resource
import time
from pathlib import Path


def cpu_seconds() -> float:
    """Give the CPU seconds used so far: ours, those of dead children and of live descendants."""
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + dead.ru_utime + dead.ru_stime + sum(map(_used, _descendants()))


def _descendants() -> list[list[str]]:
    """List the `stat` fields of live descendants, counted from the state on; Linux only."""
    rows: dict[int, tuple[int, list[str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        rows[int(path.parent.name)] = int(fields[1]), fields
    ours, found = {os.getpid()}, []
    for number, (parent, fields) in sorted(rows.items()):
        if parent in ours:
            ours.add(number)
            found.append(fields)
    return found


def _used(fields: list[str]) -> float:
    # User and system time, its own and of its dead children, in clock ticks.
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
