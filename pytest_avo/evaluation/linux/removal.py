"""Folders removed whatever kernels made of them: thousands of levels deep, without permissions, full of odd things."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove what is at a path as far as this user may, links as links; what cannot be removed stays, silently.

    Folders inside are first moved up, one level below the top: no path grows longer than the system allows, and nothing
    is as deep as a recursion.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            path.unlink()
            return
        os.chmod(path, stat.S_IRWXU)
        top = os.open(path, _FOLDER)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    """Remove all that is in an open folder."""
    number = 0
    pending = _unlinked(top)
    while pending:
        name = pending.pop()
        with contextlib.suppress(OSError):
            os.chmod(name, stat.S_IRWXU, dir_fd=top)  # a folder, as it was found to be: not followed
            folder = os.open(name, _FOLDER, dir_fd=top)
            try:
                for below in _unlinked(folder):
                    number += 1
                    moved = f".removed-{os.getpid()}-{number}"
                    with contextlib.suppress(OSError):
                        os.chmod(below, stat.S_IRWXU, dir_fd=folder)  # to be moved, ".." in it has to be written
                        os.rename(below, moved, src_dir_fd=folder, dst_dir_fd=top)
                        pending.append(moved)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)


def _unlinked(folder: int) -> list[str]:
    """Unlink what is in an open folder; the folders in it, which are left."""
    folders = []
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.name, dir_fd=folder)
    return folders
