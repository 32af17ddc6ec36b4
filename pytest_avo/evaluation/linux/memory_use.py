"""How much memory processes hold, also where a limit of theirs does not count it: memfds, shared mappings, children."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

_COUNTED = ("Pss_Anon:", "Pss_Shmem:", "Swap:")
_BLOCK_BYTES = 512
_MEMFD = "/memfd:"


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
