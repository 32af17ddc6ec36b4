"""Files written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from pytest_avo.core.errors import InvalidInput


def prepare(path: Path) -> None:
    """Make the folder of `path`; InvalidInput when a file cannot be written there. Cheap: ask before a long run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    if os.path.exists(path) and not os.path.isfile(path):  # unlike Path.exists these never raise
        raise _unwritable(path, "it is no regular file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission to write into {path.parent}")


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """A file's content, of one that is larger the first `most_bytes` and one more; OSError, also for what is no file.

    Nothing is waited for: a pipe or a device, or a link to one, could be read for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(most_bytes + 1)


def write_atomically(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Replace the file at `path` in one step; a link is followed, and the mode of a file that was there is kept.

    With `mode` it has that, from the first moment on.

    Whoever reads it sees the old text or the new one, also after a power cut. InvalidInput when it cannot be written.
    """
    prepare(path)
    target = Path(os.path.realpath(path))
    try:
        _remove_leftovers(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
        try:
            with temporary.open("xb") as file:
                file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            if mode is None and target.exists():
                mode = target.stat().st_mode
            if mode is not None:
                temporary.chmod(mode)
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
        _sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None


def write_command(path: Path, script: str) -> None:
    """Write a new file that can be run. It has its mode from the first moment: chmod is refused to confined processes.

    FileExistsError where one is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(script)


def _remove_leftovers(target: Path) -> None:
    """Remove what writers left that were killed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.*.new"):
        pid = left.name.split(".")[-3]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(f"{path}: cannot be written: {reason}; expected the path of a file")
