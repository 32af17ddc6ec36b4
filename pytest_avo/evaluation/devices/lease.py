"""A lease on a device: checking shares it, timing has it alone, also across separate runs on one machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_avo.core.disk.places import cache_folder
from pytest_avo.core.errors import InvalidInput


def lease_path(device_id: str) -> Path:
    """The lock file of a device; one per user, so that all of a user's runs see it."""
    return cache_folder() / f"{device_id}.lock"


def check_locks() -> None:
    """InvalidInput where files of the user's cache cannot be locked, as on some network file systems."""
    path = lease_path("check")
    with contextlib.ExitStack() as stack:
        try:
            fcntl.flock(_opened(stack, path), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # by somebody who checks too
        except OSError as error:
            advice = "set XDG_CACHE_HOME to a folder where files can be locked"
            raise InvalidInput(f"{path}: cannot be locked: {error.strerror}; {advice}") from None


@contextlib.contextmanager
def lease(path: Path, *, exclusive: bool, waiting: Callable[[str], None]) -> Iterator[float]:
    """Hold the lease; yields the seconds that it was waited for.

    waiting: called once if another process has it, with what is known of who has. Whoever comes stands in one queue, a
    second lock that is held until the lease is: one that wants the device alone waits for those before it, not for
    those after. flock rather than filelock: the kernel drops it with the process, however that dies, and it can be
    shared.
    """
    started, told = time.monotonic(), False

    def tell() -> None:
        nonlocal told
        if not told:
            told = True
            waiting(", ".join(holders(path)))

    with contextlib.ExitStack() as stack:
        queue = _opened(stack, path.with_name(f"{path.name}.queue"))
        descriptor = _opened(stack, path)
        _lock(queue, fcntl.LOCK_EX, tell)
        _lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, tell)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield time.monotonic() - started if told else 0.0


def holders(path: Path) -> list[str]:
    """The other processes that have a lock on a file, as far as /proc shows them here."""
    try:
        inode, lines = path.stat().st_ino, Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    found = []
    for fields in map(str.split, lines):
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            pid = fields[4]
            if not pid.isdecimal() or int(pid) in (0, os.getpid()):
                continue  # of another PID namespace, say
            with contextlib.suppress(OSError):
                found.append(f"process {pid} in {os.readlink(f'/proc/{pid}/cwd')}")
    return found


def _opened(stack: contextlib.ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def _lock(descriptor: int, mode: int, tell: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        tell()
        fcntl.flock(descriptor, mode)
