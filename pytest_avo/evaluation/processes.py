"""Processes below a process, read from /proc."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat, as far as it matters here."""

    pid: int
    parent: int
    state: str
    cpu_s: float


def tree(root: int) -> list[Process]:
    """`root` and all its descendants, parents before children; empty when it is gone."""
    everyone = _everyone()
    below: dict[int, list[Process]] = {}
    for process in everyone.values():
        below.setdefault(process.parent, []).append(process)
    found = [everyone[root]] if root in everyone else []
    for process in found:
        found += below.get(process.pid, [])
    return found


def children(pid: int) -> list[int]:
    """Direct children of a process, zombies too."""
    return [process.pid for process in _everyone().values() if process.parent == pid]


def send(pids: list[int], number: signal.Signals) -> None:
    """A signal to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _everyone() -> dict[int, Process]:
    found: dict[int, Process] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # The command in parentheses may hold anything, so fields are counted from its end.
            fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
        found[int(name)] = Process(pid=int(name), parent=int(fields[1]), state=fields[0], cpu_s=cpu_s)
    return found
