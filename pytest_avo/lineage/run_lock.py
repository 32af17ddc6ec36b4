"""A lock on a run of the lineage: one process at a time continues it. The system drops it when the process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from pytest_avo.core.errors import InvalidInput

LOCKS = "runs.lock"
"""Name of the lock file beside the lineage; the byte with a run's number is that run's lock."""
FLOCK = "hhqqi4x"
"""Linux's struct flock: type, whence, start, length, process."""


def hold(lineage: Path, run: int) -> int:
    """Lock run `run` of a lineage until the descriptor is closed; InvalidInput where another process has it.

    Where files cannot be locked, nobody is kept out.
    """
    descriptor = os.open(lineage.with_name(LOCKS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, run, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(descriptor)
            expected = "expected one that has ended, or was killed"
            raise InvalidInput(f"--avo-resume: run {run} goes on in another process: {expected}") from None
    return descriptor
