"""Processes below a process, read from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""Whether Linux names a process's children (CONFIG_PROC_CHILDREN): far faster than reading all of /proc."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat, as far as it matters here."""

    pid: int
    parent: int
    state: str
    cpu_s: float


def tree(root: int) -> list[Process]:
    """`root` and all its descendants, parents before children; empty when it is gone.

    A process that forks meanwhile may be missed, never one that is stopped.
    """
    found: dict[int, Process] = {}
    pending = [root]
    for pid in pending:
        process = _process(pid) if pid not in found else None
        if process is not None:
            found[pid] = process
            pending += children(pid)
    return list(found.values())


def children(pid: int) -> list[int]:
    """Direct children of a process, zombies too."""
    if not _LISTS_CHILDREN:
        return [process.pid for process in _everyone() if process.parent == pid]
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread ended
            found += map(int, file.read_text().split())
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; a zombie has."""
    process = _process(pid)
    return process is not None and process.state != "Z"


def send(pids: list[int], number: signal.Signals) -> None:
    """A signal to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _everyone() -> list[Process]:
    found = [_process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [process for process in found if process is not None]


def _process(pid: int) -> Process | None:
    try:
        # The command in parentheses may hold anything, so fields are counted from its end.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return Process(pid=pid, parent=int(fields[1]), state=fields[0], cpu_s=cpu_s)
