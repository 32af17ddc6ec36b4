"""--avo-compile: what kernels compile to, on a machine without their GPU."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.evaluation.diagnosis.compile import LaunchReport, Record, ShapeError, ShapeUnknown
from pytest_avo.evaluation.diagnosis.report import compiled_records
from pytest_avo.report.terminal import compiled
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.run.meeting import confinement
from pytest_avo.run.settings import Settings
from pytest_avo.session.items.carried import Carried
from pytest_avo.session.kernel_run import KernelRun
from pytest_avo.session.selection import Selection

LAUNCHES = Carried("avo_launches", list[LaunchReport])
"""What a kernel launches on a shape."""


class CompileFile(pytest.File):
    """A kernel file; its host code is run against a driver that compiles but does not launch."""

    kernel: Kernel
    compilation: Compilation

    def collect(self) -> Iterator[pytest.Item]:
        self.kernel = self.compilation.selection.kernel(self.path)
        for index, shape in enumerate(self.compilation.selection.shapes(self.kernel)):
            item: CompileItem = CompileItem.from_parent(self, name=shape.id)
            item.index = index
            yield item


class CompileItem(pytest.Item):
    """What one kernel compiles to for one shape."""

    parent: CompileFile
    index: int
    launches: list[LaunchReport]

    def setup(self) -> None:
        self.launches = []
        if reason := self.parent.compilation.why_not_here(self.parent.kernel):
            pytest.skip(reason)

    def runtest(self) -> None:
        """Fail with what the compiler reports: an error, spills, serialised wgmma, too much shared memory."""
        try:
            self.parent.compilation.start(_kernels_to_start(self))
            records = self.parent.compilation.records(self.parent.kernel)
        except EvaluatorError as error:
            pytest.fail(str(error), pytrace=False)
        mine = [record for record in records if record.shape == self.index]
        self.launches = [record for record in mine if isinstance(record, LaunchReport)]
        for launch in self.launches:
            values = msgspec.to_builtins(launch)
            chosen = ("registers", "spill_stores", "shared_bytes", "wgmma_count")
            self.user_properties += [(f"avo.{launch.kernel}.{key}", values[key]) for key in chosen]
        for record in mine:
            if isinstance(record, ShapeUnknown):
                pytest.skip(record.reason)
        failures = [record.error for record in mine if isinstance(record, ShapeError)]
        failures += [f"{launch.kernel}: {failure}" for launch in self.launches for failure in launch.failures]
        if failures:
            pytest.fail("; ".join(failures), pytrace=False)

    def reportinfo(self) -> tuple[os.PathLike[str], None, str]:
        return self.path, None, self.name


class Compilation(KernelRun):
    """A run that compiles kernels and runs none."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        confinement(settings.sandbox)  # refuses to compile unconfined where the user requires it
        self.settings = settings
        self.selection = Selection(config, settings)
        self._reports: dict[Path, Future[list[Record]]] = {}
        self._rows: list[compiled.CompiledRow] = []

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        file: CompileFile = CompileFile.from_parent(parent, path=path)
        file.compilation = self
        return file

    def header(self) -> str:
        return f"avo: compile report for {self.settings.target}; no kernel is launched"

    def why_not_here(self, kernel: Kernel) -> str:
        """Why a kernel is not compiled, or ""."""
        if kernel.fault or kernel.claim is None or kernel.claim.target == self.settings.target:
            return ""
        return f"is for {kernel.claim.target}, the report is for {self.settings.target}"

    def start(self, kernels: Sequence[Kernel]) -> None:
        """Begin to compile kernels, as many at a time as there are cores, each in a confined process of its own."""
        missing = [kernel for kernel in kernels if kernel.path not in self._reports]
        if missing:
            executor = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="avo-compile")
            for kernel in missing:
                self._reports[kernel.path] = executor.submit(self._compiled, kernel)
            executor.shutdown(wait=False)

    def records(self, kernel: Kernel) -> list[Record]:
        """All launches of a kernel that was started, on its shapes.

        EvaluatorError when its process ends without a report.
        """
        return self._reports[kernel.path].result()

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if isinstance(item, CompileItem) and report.when == "call":
            LAUNCHES.put(report, item.launches)

    def keep(self, report: pytest.TestReport) -> None:
        launches = LAUNCHES.of(report) or []
        self._rows += [compiled.CompiledRow(report.nodeid, launch) for launch in launches]

    def table(self) -> Iterable[Line]:
        return compiled.tables(self._rows)

    def _compiled(self, kernel: Kernel) -> list[Record]:
        if kernel.fault:
            return [ShapeError(index, kernel.fault) for index, _ in enumerate(self.selection.shapes(kernel))]
        confined = self.settings.sandbox != "off"
        return compiled_records(kernel, self.selection.shapes(kernel), target=self.settings.target, confined=confined)


def _kernels_to_start(item: CompileItem) -> list[Kernel]:
    """The kernels of the session's items, in their order; the item's own where xdist deals the items to workers."""
    if hasattr(item.config, "workerinput"):
        return [item.parent.kernel]
    files = dict.fromkeys(each.parent for each in item.session.items if isinstance(each, CompileItem))
    return [file.kernel for file in files if not file.compilation.why_not_here(file.kernel)]
