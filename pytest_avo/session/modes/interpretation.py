"""--avo-interpret: whether plain Triton kernels are right, on a machine without their GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.interpret import Interpreter, Refused, check
from pytest_avo.run.assessors import confinement
from pytest_avo.run.settings import Settings
from pytest_avo.session.items.kernel_file import FileItem, file_of
from pytest_avo.session.kernel_run import KernelRun
from pytest_avo.session.selection import Selection

LIMIT_S = 120.0
"""Limit on one call in the interpreter."""


class InterpretFile(pytest.File):
    """A kernel file; its items share a process, in which the kernel is imported once."""

    kernel: Kernel
    interpretation: Interpretation
    _interpreter: Interpreter | None = None

    def collect(self) -> Iterator[pytest.Item]:
        selection = self.interpretation.selection
        self.kernel = selection.kernel(self.path)
        for shape in selection.shapes(self.kernel):
            item: InterpretItem = InterpretItem.from_parent(self, name=shape.id)
            item.shape = shape
            yield item

    def interpreter(self) -> Interpreter:
        """The process, a new one where the last did not survive its call; Refused where there can be none."""
        if self._interpreter is not None and not self._interpreter.is_alive:
            self.teardown()
        if self._interpreter is None:
            confined = self.interpretation.settings.sandbox != "off"
            self._interpreter = Interpreter(self.kernel, confined=confined, timeout_s=LIMIT_S)
        return self._interpreter

    def teardown(self) -> None:
        if self._interpreter is not None:
            self._interpreter.close()
            self._interpreter = None


class InterpretItem(FileItem):
    """One kernel on one shape, for correctness alone."""

    parent: InterpretFile
    shape: Shape

    def runtest(self) -> None:
        """Fail with what is wrong; skip what has no interpreter, and shapes that the kernel refuses."""
        if self.parent.kernel.fault:
            pytest.fail(self.parent.kernel.fault, pytrace=False)
        try:
            wrong = check(self.parent.interpreter(), self.shape)
        except Refused as refusal:
            pytest.skip(str(refusal))
        if wrong:
            pytest.fail(wrong, pytrace=False)


class Interpretation(KernelRun):
    """A run that interprets kernels and compiles none. Its items say all that it finds."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        confinement(settings.sandbox)  # refuses to interpret unconfined where the user requires it
        self.settings = settings
        self.selection = Selection(config, settings)

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        file = file_of(InterpretFile, parent, path)
        file.interpretation = self
        return file

    def header(self) -> str:
        return "avo: Triton kernels in Triton's interpreter, for correctness alone; nothing is timed"
