"""Whether cores are idle, but for what this process does itself and the one that started it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from pytest_avo.evaluation.linux import processes

STAT = Path("/proc/stat")
WINDOW_S = 0.15
"""How long to look: Linux tells in hundredths of a second how long a core was idle."""
MOST_OF_OTHERS = 0.3
"""Cores' worth of work of others that leaves the machine idle: clocks, and whatever wakes up now and then."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def are_idle(number: int, *, window_s: float = WINDOW_S, stat: Path = STAT) -> bool:
    """Whether nobody else uses so many of the cores that this process may use; not where Linux does not tell.

    Takes `window_s`.
    """
    cores, own = os.sched_getaffinity(0), (os.getpid(), os.getppid())
    try:
        idle_s, own_s, begun = _idle_s(cores, stat), sum(map(processes.used_s, own)), time.perf_counter()
        time.sleep(window_s)
        idle_s, own_s = _idle_s(cores, stat) - idle_s, sum(map(processes.used_s, own)) - own_s
    except (OSError, ValueError, IndexError):
        return False
    free = (idle_s + own_s) / (time.perf_counter() - begun)
    return free > number - MOST_OF_OTHERS


def _idle_s(cores: Collection[int], stat: Path) -> float:
    """Seconds that cores were idle since the machine started, waiting for a disk included."""
    rows = dict(line.partition(" ")[::2] for line in stat.read_text().splitlines())
    # user, nice, system, idle, iowait (proc_stat(5))
    ticks = [int(ticks) for core in cores if (row := rows.get(f"cpu{core}")) for ticks in row.split()[3:5]]
    if len(ticks) < 2 * len(cores):
        raise ValueError(f"{stat}: expected a line of each core")
    return sum(ticks) / _TICKS_PER_SECOND
