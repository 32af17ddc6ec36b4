"""Where files are kept that are no project's: the user's cache, and scratch folders that programs can be run from.

A container may run as a user without an entry in the passwd file, without a home, with one that cannot be written,
or with a temporary folder from which nothing can be executed: then the next best place is taken.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs

from pytest_avo.core.errors import InvalidInput

NAME = "pytest-avo"


def home() -> Path | None:
    """The user's home folder; None where the system knows none."""
    found = os.path.expanduser("~")
    return Path(found) if os.path.isabs(found) else None


def cache_folder() -> Path:
    """The folder of what a user's runs share, made if need be: the user's cache, else one in the temporary folder.

    InvalidInput where neither can be written.
    """
    usual = _usual_cache()
    if usual is not None and _is_made(usual):
        return usual
    temporary = Path(_temporary()) / f"{NAME}-cache-{os.getuid()}"
    if _is_made(temporary) and _is_private(temporary):
        return temporary
    places = " nor ".join(str(place) for place in (usual, temporary) if place is not None)
    raise InvalidInput(f"no folder for locks: neither {places} can be written; set XDG_CACHE_HOME to one that can")


def cached(name: str) -> Path:
    """A file of the cache to read: the user's own where it has one, also where that cannot be written."""
    usual = _usual_cache()
    with suppress(OSError):
        if usual is not None and (usual / name).is_file():
            return usual / name
    return cache_folder() / name


def scratch_folder() -> Path:
    """A folder for temporary folders, from which libraries that kernels build can be loaded if there is any such."""
    first = Path(_temporary())
    return next((place for place in _scratch_places(first) if not is_noexec(place)), first)


def is_noexec(place: Path) -> bool:
    """Whether nothing can be executed from a folder."""
    try:
        return bool(os.statvfs(place).f_flag & os.ST_NOEXEC)
    except OSError:
        return True


def _scratch_places(first: Path) -> Iterator[Path]:
    yield first
    for place in (Path("/var/tmp"), Path("/dev/shm")):
        if os.access(place, os.W_OK | os.X_OK):
            yield place
    with suppress(InvalidInput):
        yield cache_folder()


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise InvalidInput(f"{error.strerror}; set TMPDIR to a folder that can be written") from None


def _usual_cache() -> Path | None:
    given = os.environ.get("XDG_CACHE_HOME", "")
    if home() is None and not os.path.isabs(given):
        return None
    found = platformdirs.user_cache_path(NAME)
    return found if found.is_absolute() else None


def _is_made(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _is_private(folder: Path) -> bool:
    """Whether a folder where anybody may make one is this user's own."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
