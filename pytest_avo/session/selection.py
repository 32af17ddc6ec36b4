"""Which kernels a run is over, and on which shapes."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Kernel, declares_claim, read_kernel, spelled_out
from pytest_avo.core.shape import Shape
from pytest_avo.run.settings import Settings

UNREADABLE = Shape(
    batch=1, heads_q=1, heads_kv=1, seqlen_q=1, seqlen_kv=1, head_dim=1, causal=False, dtype="f32", source="none"
)
"""Stands for the shapes of a file that does not parse: it still is an item, and fails with its syntax error."""


class Selection:
    """The kernels and shapes that the user's paths and suites amount to."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._kernels: dict[Path, Kernel] = {}
        self.named: set[Path] = set()
        """Kernel files that the user names one by one, not by a folder."""
        self.mistakes: dict[Path, str] = {}
        """Files that cannot be measured as they are, and why."""
        self.is_empty = False
        """Whether no kernel was found below the paths, all of which are there."""

    def default_paths(self) -> list[str]:
        """What is collected where the command line names no path; InvalidInput where that is not there."""
        for path in self._settings.kernels:
            if not os.path.exists(path):  # unlike Path.exists it never raises
                expected = "expected a kernel file, or a folder of them, or the ini key avo_kernels that names one"
                raise InvalidInput(f"--avo-{self._settings.mode}: there is no {path}: {expected}")
        return [str(path) for path in self._settings.kernels]

    def check_paths(self, arguments: list[str]) -> None:
        """Read all kernels below the arguments before anything runs.

        A mistake in one is kept in `mistakes`, for that file to fail; InvalidInput where there is nothing but mistakes.
        """
        paths = list(dict.fromkeys(self._kernel_files(arguments)))
        self.is_empty = not paths and all(os.path.exists(argument.partition("::")[0]) for argument in arguments)
        refuse_unsendable(self._config, paths)
        for path in paths:
            try:
                self.shapes(self.kernel(path))
            except InvalidInput as error:
                self.mistakes[path] = str(error)
        if paths and len(self.mistakes) == len(paths):
            raise InvalidInput(next(iter(self.mistakes.values())))

    def is_kernel(self, path: Path, *, named: bool) -> bool:
        """Whether a file is to be collected: one the user names, or one in a folder that declares a claim."""
        return path.suffix == ".py" and (named or declares_claim(path))

    def kernel(self, path: Path) -> Kernel:
        """The kernel in a file."""
        if path not in self._kernels:
            self._kernels[path] = read_kernel(path)
        return self._kernels[path]

    def shapes(self, kernel: Kernel) -> list[Shape]:
        """Shapes on which a kernel is evaluated: the hook's, those of --avo-shapes, or those it claims.

        InvalidInput where the hook, a conftest.py's, gives something else.
        """
        chosen = self._config.hook.pytest_avo_shapes(config=self._config, kernel=kernel)
        shapes = list(chosen) if isinstance(chosen, Iterable) else [chosen]
        if wrong := [each for each in shapes if not isinstance(each, Shape)]:
            raise InvalidInput(f"{kernel.path}: the hook pytest_avo_shapes: expected Shapes, got {wrong[0]!r}")
        return list({shape.id: shape for shape in shapes}.values())

    def chosen_shapes(self, kernel: Kernel) -> list[Shape]:
        """The built-in choice of shapes."""
        suites = self.suites(kernel)
        if not suites:
            if kernel.fault:
                return [UNREADABLE]
            expected = 'expected AVO = {"target": ..., "shapes": [...]} in the file, or --avo-shapes'
            raise InvalidInput(f"{kernel.path}: claims no shapes: {expected}")
        option = "--avo-transfer" if self._settings.transfer else "--avo-shapes"
        named_by = option if self._settings.shapes else f"{kernel.path}: AVO, key shapes"
        return [shape for suite in suites for shape in self._settings.suites.shapes(suite, named_by=named_by)]

    def suites(self, kernel: Kernel) -> tuple[str, ...]:
        """Names of the suites on which a kernel is evaluated."""
        return self._settings.shapes or (kernel.claim.shapes if kernel.claim else ())

    def is_claimed(self, kernel: Kernel, shape: Shape) -> bool:
        """Whether the kernel itself promises to do the shape."""
        return bool(self._suites_with(shape, kernel.claim.shapes if kernel.claim else ()))

    def suites_of(self, kernel: Kernel, shape: Shape) -> tuple[str, ...]:
        """Names of the kernel's suites that hold the shape."""
        return self._suites_with(shape, self.suites(kernel))

    def _suites_with(self, shape: Shape, suites: tuple[str, ...]) -> tuple[str, ...]:
        held = {suite: {other.id for other in self._settings.suites.shapes(suite)} for suite in suites}
        return tuple(suite for suite, ids in held.items() if shape.id in ids)

    def _kernel_files(self, arguments: list[str]) -> Iterator[Path]:
        for argument in arguments:
            path = Path(os.path.abspath(argument.partition("::")[0]))
            if os.path.isdir(path):
                for found in sorted(self._python_files(path)):
                    # A pipe that nobody writes to would be read for ever.
                    if os.path.isfile(found) and self.is_kernel(found, named=False):
                        yield found
            elif os.path.isfile(path) and self.is_kernel(path, named=True):
                self.named.add(path)
                yield path

    def _python_files(self, folder: Path) -> Iterator[Path]:
        """The Python files below a folder that pytest would look at: not the thousands of a virtual environment."""
        left_out, seen = self._config.getini("norecursedirs"), set()
        for top, folders, files in os.walk(folder, followlinks=True):
            if (place := os.path.realpath(top)) in seen:
                folders.clear()
                continue
            seen.add(place)
            folders[:] = [
                name
                for name in folders
                if not any(fnmatch.fnmatch(name, pattern) for pattern in left_out)
                and not os.path.isfile(os.path.join(top, name, "pyvenv.cfg"))
            ]
            yield from (Path(top, name) for name in files if name.endswith(".py"))


def refuse_unsendable(config: pytest.Config, paths: Iterable[Path]) -> None:
    """InvalidInput for a name that is no UTF-8 where pytest-xdist would have to send it to its workers."""
    if getattr(config.option, "dist", "no") == "no" or hasattr(config, "workerinput"):
        return
    for path in paths:
        if str(path) != (plain := spelled_out(str(path))):
            raise InvalidInput(f"-n: pytest-xdist sends names as UTF-8, which {plain} is not: run without -n")
