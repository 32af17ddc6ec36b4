"""A process and all below it, stopped and continued as one, and what gives away that it did not stand still.

A stop can be undone from within: a timer set beforehand sends SIGCONT. So the clocks of all processes are read once
they stand still and again before they are continued. A stopped process uses no processor time, not a nanosecond;
whatever ran meanwhile shows as time used, as a process that is new, or as one that is not stopped any more.

Linux enters what a thread used when it leaves its core, and where cores are taken away (a busy machine, one that is
itself a guest) that may be some milliseconds after it is called stopped. So a little time says something only of
processes that use it again and again: whoever works while others are timed does so nearly every time.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from pytest_avo.evaluation.linux import processes

SETTLE_S = 10.0
"""How long to wait until every thread is stopped: on a busy machine it needs a turn on a core for that."""
MOST_BEFORE_STOP_S = 0.25
"""Processor time that may pass until then: a system call is finished first."""
WAITING_S = 0.02
"""A thread that waits uninterruptibly for so long may wait for one that is stopped, as the parent of a vfork does."""
SLACK_S, WAITING_SLACK_S = 0.5e-3, 500e-6
"""Processor time of stopped processes that is let pass, and of each that waits: its system call may yet end. An H200's
host showed 0.1 ms for an honest process with a GPU's context, a CPU's with two workers 1.6 ms (2026-11-28)."""
OFTEN, RECENT_STOPS = 4, 20
"""Time used in more than OFTEN of the last RECENT_STOPS stops is no accident."""
MOST_ONCE_S = 0.25
"""Processor time of stopped processes that is no accident even once."""
POLL_S = 50e-6
_STOPPED, _ENDED, _UNINTERRUPTIBLE = frozenset("Tt"), frozenset("ZX"), "D"


@dataclass(frozen=True, slots=True)
class Movement:
    """What gives away that stopped processes did not stand still."""

    words: str
    is_certain: bool
    """Or whether a machine whose cores are taken away may be why, time and again."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """One process when all of them stood still."""

    used_s: float
    stopped: bool
    waits: bool = False


class ProcessTree:
    """The process `root` and all below it; running at first.

    orphans: asked while they are being stopped for processes that left them and belong to nobody else.
    """

    def __init__(self, root: int, *, orphans: Callable[[], list[int]] = list) -> None:
        self.root = root
        self._roots = [root]
        self._orphans = orphans
        self.is_stopped = False
        self._seen: list[processes.Process] = []
        """When it was looked at last."""
        self._below: list[int] = []
        self._standing: dict[int, _Standing] = {}
        self._restless: deque[bool] = deque(maxlen=RECENT_STOPS)
        """For each of the latest stops, whether time was used in it."""

    def stop(self, meanwhile: Callable[[], None] | None = None) -> float:
        """Stop all of them; the time (perf_counter) when all that was known of them had been told to.

        meanwhile: what is done between that and the time.
        """
        processes.send(self._below, signal.SIGSTOP)
        if meanwhile is not None:
            meanwhile()
        told_at = time.perf_counter()
        told = set(self._below)
        # Again until nothing new is found: what is not stopped yet may fork.
        while True:
            while new := [pid for pid in self._present() if pid not in told]:
                processes.send(new, signal.SIGSTOP)
                told.update(new)
            waiting = self._settle()
            if told.issuperset(self._present()):
                break
        found = self._stood(self._seen)
        self._standing = {pid: replace(x, waits=pid in waiting) for pid, x in found.items()}
        self._restless.append(False)
        self.is_stopped = True
        return told_at

    def resume(self) -> None:
        """Let all of them run."""
        processes.send(self._below, signal.SIGCONT)
        self.is_stopped = False

    def movement(self) -> Movement | None:
        """What gives away that stopped processes did not stand still, if anything does."""
        now = self._stood(self._tree())
        if self.root not in now:
            return None  # it ended, which is found out elsewhere
        if new := now.keys() - self._standing.keys():
            return Movement(f"started {len(new)} processes", is_certain=True)
        if any(was.stopped and (pid not in now or not now[pid].stopped) for pid, was in self._standing.items()):
            return Movement("was continued", is_certain=True)
        used_s = sum(now[pid].used_s - self._standing[pid].used_s for pid in now)
        self._restless[-1] = used_s > SLACK_S + WAITING_SLACK_S * sum(x.waits for x in self._standing.values())
        if used_s > MOST_ONCE_S or sum(self._restless) >= OFTEN:
            return Movement(f"used {used_s * 1e3:.1f} ms of processor time", is_certain=used_s > MOST_ONCE_S)
        return None

    def pids(self) -> list[int]:
        """Who belongs to it at the moment."""
        return [process.pid for process in self._tree()]

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        return sum(process.cpu_s for process in self._tree())

    def _present(self) -> list[int]:
        """The process and all below it, remembered instead of who was there before: numbers are used again."""
        self._roots += self._orphans()
        self._seen = self._tree()
        self._below = [process.pid for process in self._seen]
        return self._below

    def _tree(self) -> list[processes.Process]:
        return [process for root in self._roots for process in processes.tree(root)]

    @staticmethod
    def _stood(seen: list[processes.Process]) -> dict[int, _Standing]:
        """How processes stand that were looked at just now."""
        return {x.pid: _Standing(processes.used_s(x.pid), x.state in _STOPPED) for x in seen}

    def _settle(self) -> list[int]:
        """Wait until no thread of theirs can run; the processes with threads that wait in a system call."""
        since = time.monotonic()
        used_s = sum(map(processes.used_s, self._below))
        while True:
            states = {pid: processes.thread_states(pid) - _STOPPED - _ENDED for pid in self._below}
            moving: set[str] = set().union(*states.values())
            if not moving:
                return []
            waited_s = time.monotonic() - since
            spent_s = sum(map(processes.used_s, self._below)) - used_s
            waiting = moving == {_UNINTERRUPTIBLE} and waited_s > WAITING_S
            if waiting or waited_s > SETTLE_S or spent_s > MOST_BEFORE_STOP_S:
                return [pid for pid, found in states.items() if found]
            time.sleep(POLL_S)
