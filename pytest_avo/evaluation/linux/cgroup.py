"""What the control groups of this process, a container's say, leave it of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    limits = [float(len(os.sched_getaffinity(0)))]
    for text in _read(root, own, "cpu.max", ""):
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) / int(period))
    quotas, periods = (_read(root, own, f"cpu.cfs_{name}_us", "cpu") for name in ("quota", "period"))
    for quota, period in zip(quotas, periods, strict=False):
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) / int(period))
    return max(1, int(min(limits)))


def _read(root: Path, own: Path, name: str, controller: str) -> Iterator[str]:
    """What a file says in the process's own group and in those around it; controller: "" for version 2."""
    for folder in _groups(root, own, controller):
        try:
            yield (folder / name).read_text().strip()
        except OSError:
            continue


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    base = root / controller
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    inside = next((path for _, names, path in lines if controller in names.split(",")), "/")
    group = base / inside.strip("/")
    yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))
