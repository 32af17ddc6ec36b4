"""A lease on a device: checking shares it, timing has it alone, also across separate runs on one machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_avo.core.disk.places import cache_folder


def lease_path(device_id: str) -> Path:
    """The lock file of a device; one per user, so that all of a user's runs see it."""
    return cache_folder() / f"{device_id}.lock"


@contextlib.contextmanager
def lease(path: Path, *, exclusive: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lease; `waiting` is called once if another process has it.

    flock rather than filelock: the kernel drops it with the process, however that dies, and it can be shared.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)
