"""Files that the user asked for: written whole or not at all."""

from __future__ import annotations

import os
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


def write_atomically(path: Path, content: str) -> None:
    """Replace the file at `path` in one step; a link is followed. InvalidInput when it cannot be written."""
    prepare(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _unwritable(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(f"{path}: cannot be written: {reason}; expected the path of a file")
