"""Processes below a process, read from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SCHED_CLOCK = 2
"""Linux's CPUCLOCK_SCHED: with a process's number, complemented, the clock that clock_getcpuclockid(3) gives."""
_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""Whether Linux names a process's children (CONFIG_PROC_CHILDREN): far faster than reading all of /proc."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat, as far as it matters here."""

    pid: int
    parent: int
    state: str
    cpu_s: float
    """Of it, and of children that ended and that it waited for."""


def tree(root: int) -> list[Process]:
    """`root` and all its descendants, parents before children; empty when it is gone.

    A process that forks meanwhile may be missed, never one that is stopped.
    """
    found: dict[int, Process] = {}
    pending = [root]
    for pid in pending:
        process = find(pid) if pid not in found else None
        if process is not None:
            found[pid] = process
            pending += children(pid)
    return list(found.values())


def children(pid: int) -> list[int]:
    """Direct children of a process, zombies too."""
    if not _LISTS_CHILDREN:
        return [process.pid for process in _everyone() if process.parent == pid]
    return [int(child) for _, text in _of_threads(pid, "children") for child in text.split()]


def used_s(pid: int) -> float:
    """Seconds of processor time of all threads that a process ever had, to the nanosecond; 0 where it is gone."""
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | _SCHED_CLOCK)
    return 0.0


def thread_s(pid: int) -> float:
    """Seconds of processor time that a process's first thread has used; 0 where it is gone."""
    try:
        return int(_read(f"/proc/{pid}/task/{pid}/schedstat").split()[0]) * 1e-9
    except (OSError, IndexError):
        return 0.0


def threads(pid: int) -> dict[int, float]:
    """The threads that a process has, and the seconds of processor time that each has used."""
    return {thread: int(text.split()[0]) * 1e-9 for thread, text in _of_threads(pid, "schedstat")}


def thread_states(pid: int) -> set[str]:
    """The states of all threads of a process, in the letters of /proc/PID/stat."""
    return {text.rpartition(b")")[2].split(None, 1)[0].decode() for _, text in _of_threads(pid, "stat")}


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; a zombie has."""
    process = find(pid)
    return process is not None and process.state != "Z"


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A signal to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def of_session(session: int) -> list[int]:
    """All processes of a session, named by its first process, which may be gone."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(name)) == session:
                found.append(int(name))
    return found


def kill_group(pid: int) -> None:
    """SIGKILL to a process and its group; a PID namespace of which it is the first dies with it."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _everyone() -> list[Process]:
    found = [find(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [process for process in found if process is not None]


def find(pid: int) -> Process | None:
    """A process as it is now, or None where there is none."""
    try:
        # The command in parentheses may hold anything, so fields are counted from its end.
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    cpu_s = sum(map(int, fields[11:15])) / _TICKS_PER_SECOND  # utime, stime, and both of children that it waited for
    return Process(pid=pid, parent=int(fields[1]), state=fields[0].decode(), cpu_s=cpu_s)


def _of_threads(pid: int, name: str) -> Iterator[tuple[int, bytes]]:
    """A file of /proc for each thread of a process, without those that end meanwhile."""
    with contextlib.suppress(OSError):  # the process ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                text = _read(f"/proc/{pid}/task/{thread}/{name}")
            except OSError:
                continue
            yield int(thread), text


def _read(path: str) -> bytes:
    """A file of /proc. Asked for around every timed slice, so without the layers of a text file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
