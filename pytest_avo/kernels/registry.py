"""The kernels that can be chosen from: those that ship, and those of folders that the user named.

No file is executed before it is chosen, and none that lies in a folder which nobody named.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pytest_avo import PACKAGE
from pytest_avo.core.disk.folder import FOLDER
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Kernel, declares_claim, read_kernel
from pytest_avo.kernels import measured
from pytest_avo.kernels.measured import Measurement

LINEAGE = Path(FOLDER, "lineage.sqlite3")


@dataclass(frozen=True, slots=True)
class Winner:
    """A kernel's file with what was measured of it."""

    kernel: Kernel
    target: str
    measurements: tuple[Measurement, ...]

    @property
    def path(self) -> Path:
        return self.kernel.path

    def load(self) -> Any:
        """The module, executed in this process; what its file raises comes through."""
        return _module(self.path, self.kernel.digest)


_named: dict[Path, tuple[Winner, ...]] = {}


def add(folder: str | Path, *, results: Iterable[str | Path] = ()) -> int:
    """As `pytest_avo.kernels.use`."""
    place = Path(folder).resolve()
    if not place.is_dir():
        raise InvalidInput(f"{folder}: expected a folder of kernels")
    rows = [row for path in results for row in measured.of_results(Path(path))]
    lineage = next((up / LINEAGE for up in (place, *place.parents) if (up / LINEAGE).is_file()), None)
    if lineage is not None:
        rows += measured.of_lineage(lineage)
    _named[place] = _winners(place, rows)
    return sum(1 for winner in _named[place] if winner.measurements)


def winners(target: str) -> tuple[Winner, ...]:
    """The kernels for a target that were measured beside torch, the user's first."""
    every = [winner for folder in reversed(_named.values()) for winner in folder]
    return tuple(winner for winner in [*every, *_shipped()] if winner.target == target and winner.measurements)


@cache
def _shipped() -> tuple[Winner, ...]:
    places = (PACKAGE / "kernels" / "shipped", PACKAGE.parent / "kernels")  # in a wheel, in a checkout
    folder = next((place for place in places if place.is_dir()), None)
    return () if folder is None else _winners(folder, measured.shipped(), name="kernels")


def _winners(folder: Path, rows: Iterable[Measurement], name: str = "") -> tuple[Winner, ...]:
    """The kernels below a folder; `name` is what results call the folder, by default what its path ends with."""
    known = list(rows)
    found = []
    for path in sorted(folder.rglob("*.py")):
        if not declares_claim(path):
            continue
        kernel = read_kernel(path)
        if kernel.claim is None or kernel.fault:
            continue
        label = f"{name}/{path.relative_to(folder).as_posix()}" if name else path.as_posix()
        own = tuple(row for row in known if _is_of(row, label, kernel.digest))
        found.append(Winner(kernel, kernel.claim.target, own))
    return tuple(found)


def _is_of(row: Measurement, label: str, digest: str) -> bool:
    if row.digest:
        return row.digest == digest
    return label == row.kernel or label.endswith(f"/{row.kernel}")


@cache
def _module(path: Path, digest: str) -> Any:
    name = f"pytest_avo_kernel_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and Triton look their functions' modules up there
    spec.loader.exec_module(module)
    return module
