"""A kernel's file as pytest collects it, and what its items have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_avo.core.kernel import spelled_out

FileKind = TypeVar("FileKind", bound=pytest.File)


def file_of(kind: type[FileKind], parent: pytest.Collector, path: Path) -> FileKind:
    """The collector of a kernel's file; a name that is no UTF-8 is spelled out in its node id: XML holds no other."""
    root = parent.config.rootpath
    name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    plain = spelled_out(name)
    given: dict[str, Any] = {} if plain == name else {"nodeid": plain}
    made: FileKind = kind.from_parent(parent, path=path, **given)
    return made


class FileItem(pytest.Item):
    """An item of a kernel's file: reports name the file and the item, no line."""

    def reportinfo(self) -> tuple[os.PathLike[str], int, str]:
        return self.path, 0, self.name
