"""Which core each thread of a kernel's process runs on: decided by the judge, from outside, for the time of a race.

Left to the scheduler, two threads that wake each other thousands of times a second may share a core for milliseconds
while another one idles. Which they do is drawn anew with every process and lasts as long as it lives: the same kernel
differed by 10% and more from one process to the next, and by a quarter from slice to slice. OpenMP's own binding
(OMP_PROC_BIND) would need a system call that kernels are refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_avo.evaluation.linux import processes

LEAST_SHARE = 0.1
"""A thread that used less of the processor than this share of the busiest one's use is not placed."""
HARNESS_SHARE = 0.5
"""A kernel's main thread that used less than this share of the busiest one's use did what the harness asked of it."""
MOST_ENDED = 0.05
"""Share of the use that may be due to threads which ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Use:
    """Seconds of processor time: of every thread that a process has, and of all that it ever had."""

    threads: Mapping[int, float]
    total_s: float

    @classmethod
    def of(cls, pid: int) -> Use:
        """What a process has used so far; nothing where it is gone."""
        return cls(processes.threads(pid), processes.used_s(pid))

    def since(self, earlier: Use) -> Use:
        """What was used between two looks; a thread that is new counts from its start."""
        used = {thread: seconds - earlier.threads.get(thread, 0.0) for thread, seconds in self.threads.items()}
        return Use(used, self.total_s - earlier.total_s)


class Placement:
    """Threads of processes, free at first and watched, then each on a core of its own."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._pids = pids
        self.release()
        self._earlier = {pid: Use.of(pid) for pid in pids}

    def settle(self) -> None:
        """Place the threads that have been at work since the beginning; where that cannot be, they stay free."""
        for pid in self._pids:
            threads = busy_threads(Use.of(pid).since(self._earlier[pid]), main=pid, cores=len(self._cores))
            for thread, core in zip(threads, self._cores, strict=False):
                _allow(thread, [core])

    def release(self) -> None:
        """Let every thread run on any core."""
        for pid in self._pids:
            for thread in processes.threads(pid):
                _allow(thread, self._cores)


def uses_foreign_cores(pid: int) -> bool:
    """Whether a process, or one below it, may run on cores that this one may not: it had to ask for that."""
    own = os.sched_getaffinity(0)
    if len(own) == os.cpu_count():
        return False
    for process in processes.tree(pid):
        for thread in processes.threads(process.pid):
            with contextlib.suppress(OSError):  # it ended
                if not os.sched_getaffinity(thread) <= own:
                    return True
    return False


def busy_threads(used: Use, *, main: int, cores: int) -> list[int]:
    """The threads that do a kernel's work, oldest first; none where they cannot be placed one on a core.

    That is so where there are more of them than cores, and where they do not last: a thread inherits the core of the
    one that starts it, so those of a kernel that starts threads in every call would all come to lie on one. Where a
    kernel's own threads do its work the main one only copies results for the harness: it stays free if there is no core
    for it.
    """
    busiest = max(used.threads.values(), default=0.0)
    found = sorted(thread for thread, seconds in used.threads.items() if seconds > LEAST_SHARE * busiest)
    if len(found) > cores and used.threads.get(main, 0.0) < HARNESS_SHARE * busiest:
        found = [thread for thread in found if thread != main]
    ended_s = used.total_s - sum(used.threads.values())
    return found if len(found) <= cores and ended_s <= MOST_ENDED * used.total_s else []


def _allow(thread: int, cores: Sequence[int]) -> None:
    with contextlib.suppress(OSError):  # it ended, or this machine lets nobody decide for others
        os.sched_setaffinity(thread, cores)
