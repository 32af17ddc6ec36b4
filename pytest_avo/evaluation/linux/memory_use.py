"""How much memory processes hold, also where a limit of theirs does not count it: memfds, shared mappings, children."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable

_COUNTED = ("Pss_Anon:", "Pss_Shmem:", "Swap:")
_BLOCK_BYTES = 512
_MEMFD = "/memfd:"
NOTICED_SHARE = 0.05
"""Memory is counted when so much of what is allowed is gone from the machine since the last count."""
COUNTED_S = 2.0
"""Memory is counted at least this often: a process may take what another frees at the same moment."""


class Allowance:
    """How much memory processes may hold together, looked at cheaply."""

    def __init__(self, limit_bytes: int, *, beside: int) -> None:
        """beside: bytes that they hold and that do not count."""
        self._limit_bytes = limit_bytes
        self._beside = beside
        self._free_bytes = free_bytes()
        self._counted = time.monotonic()

    def exceeded(self, pids: Callable[[], Iterable[int]]) -> str:
        """In words what they hold too much, or "": counted when as much as matters is gone, or in turn."""
        free, now = free_bytes(), time.monotonic()
        is_noticed = self._free_bytes - free >= self._limit_bytes * NOTICED_SHARE
        if not is_noticed and now - self._counted < COUNTED_S:
            self._free_bytes = max(self._free_bytes, free)
            return ""
        self._free_bytes, self._counted = free, now
        held = held_bytes(pids()) - self._beside
        if held <= self._limit_bytes:
            return ""
        gib = 1 << 30
        return f"held {held / gib:.1f} GiB of memory, the limit is {self._limit_bytes / gib:.1f} GiB"


def held_bytes(pids: Iterable[int]) -> int:
    """Bytes of anonymous and shared memory that processes hold together: mapped, or in files without a name."""
    unmapped: dict[tuple[int, int], int] = {}
    mapped = 0
    for pid in pids:
        mapped += _mapped_bytes(pid)
        unmapped |= _nameless_files(pid)
    return mapped + sum(unmapped.values())


def free_bytes() -> int:
    """Memory of this machine that nobody uses, not even as a cache; one system call."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _mapped_bytes(pid: int) -> int:
    """Of pages that several processes map, its share."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_COUNTED))
    return 0


def _nameless_files(pid: int) -> dict[tuple[int, int], int]:
    """Bytes of the memfds that it has open, by device and inode."""
    found = {}
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith(_MEMFD):
                    status = os.stat(f"{folder}/{name}")
                    found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
    return found
