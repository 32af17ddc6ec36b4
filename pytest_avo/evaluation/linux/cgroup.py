"""What the control groups of this process, a container's say, leave it of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def machine_bytes() -> int:
    """The memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_bytes(root: Path = ROOT, own: Path = OWN) -> int:
    """The memory that may be used: the machine's, or a group's limit."""
    limits = [machine_bytes()]
    for names in (("memory.max", ""), ("memory.limit_in_bytes", "memory")):
        limits += [int(text) for text in _read(root, own, *names) if text.isdecimal() and int(text)]
    return min(limits)


def memory_limit(root: Path = ROOT, own: Path = OWN) -> str:
    """`its control group allows 300 MB of memory`, where a group limits that; else ""."""
    room = memory_bytes(root, own)
    return f"its control group allows {room / 1e6:.0f} MB of memory" if room < machine_bytes() else ""


def cores(root: Path = ROOT, own: Path = OWN) -> int:
    """How many cores may be kept busy: those that the process may run on, or as many as a group's quota pays for."""
    limits = [float(len(os.sched_getaffinity(0))), *(quota.cores for quota in quotas(root, own))]
    return max(1, int(min(limits)))


@dataclass(frozen=True, slots=True)
class Quota:
    """Of a group's processor time."""

    cores: float
    used_s: float
    """By all that is in the group, since it was made; 0 where Linux does not tell."""


def quotas(root: Path = ROOT, own: Path = OWN) -> list[Quota]:
    """Those of the process's own group and of those around it."""
    found = []
    for folder in _groups(root, own, ""):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        used = dict(line.partition(" ")[::2] for line in _text(folder / "cpu.stat").splitlines())
        found.append((quota, period, used.get("usage_usec", ""), 1e-6))
    for folder in _groups(root, own, "cpu"):
        quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        found.append((quota, period, _text(folder / "cpuacct.usage"), 1e-9))
    return [
        Quota(int(quota) / int(period), int(used or 0) * unit_s)
        for quota, period, used, unit_s in found
        if quota.isdecimal() and period.isdecimal() and int(period)
    ]


def _read(root: Path, own: Path, name: str, controller: str) -> Iterator[str]:
    """What a file says in the process's own group and in those around it; controller: "" for version 2."""
    for folder in _groups(root, own, controller):
        if text := _text(folder / name):
            yield text


def _text(path: Path) -> str:
    """What a file says; "" where it is not there."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    base = root / controller
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    inside = next((path for _, names, path in lines if controller in names.split(",")), "/")
    group = base / inside.strip("/")
    yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))
