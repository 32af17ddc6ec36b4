"""Whether cores are idle, but for what this process does itself and the one that started it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pytest_avo.evaluation.linux import cgroup, processes
from pytest_avo.evaluation.linux.cgroup import Quota

STAT = Path("/proc/stat")
WINDOW_S = 0.15
"""How long to look: Linux tells in hundredths of a second how long a core was idle."""
MOST_OF_OTHERS = 0.3
"""Cores' worth of work of others that leaves the machine idle: clocks, and whatever wakes up now and then."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def are_idle(
    number: int,
    *,
    window_s: float = WINDOW_S,
    stat: Path = STAT,
    quotas: Callable[[], Sequence[Quota]] = cgroup.quotas,
) -> bool:
    """Whether nobody else uses so many of the cores that this process may use; not where Linux does not tell.

    Takes `window_s`. What others in a container use of its quota is not left to kernels, however idle the cores are.
    """
    cores, own = os.sched_getaffinity(0), (os.getpid(), os.getppid())
    try:
        idle_s, before, own_s, begun = _idle_s(cores, stat), quotas(), _used_s(own), time.perf_counter()
        time.sleep(window_s)
        idle_s, after, own_s = _idle_s(cores, stat) - idle_s, quotas(), _used_s(own) - own_s
    except (OSError, ValueError, IndexError):
        return False
    took_s = time.perf_counter() - begun
    used = [(quota.cores, quota.used_s - earlier.used_s) for earlier, quota in zip(before, after, strict=False)]
    free = min([(idle_s + own_s) / took_s, *(allowed - (used_s - own_s) / took_s for allowed, used_s in used)])
    return free > number - MOST_OF_OTHERS


def _used_s(pids: Collection[int]) -> float:
    return sum(map(processes.used_s, pids))


def _idle_s(cores: Collection[int], stat: Path) -> float:
    """Seconds that cores were idle since the machine started, waiting for a disk included."""
    rows = dict(line.partition(" ")[::2] for line in stat.read_text().splitlines())
    # user, nice, system, idle, iowait (proc_stat(5))
    ticks = [int(ticks) for core in cores if (row := rows.get(f"cpu{core}")) for ticks in row.split()[3:5]]
    if len(ticks) < 2 * len(cores):
        raise ValueError(f"{stat}: expected a line of each core")
    return sum(ticks) / _TICKS_PER_SECOND
