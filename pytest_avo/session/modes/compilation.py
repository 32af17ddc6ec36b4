"""--avo-compile: what kernels compile to, on a machine without their GPU."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.fingerprint import installed_version
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.compile import TRITON_OF_LIMITS, LaunchReport, Record, ShapeError, ShapeUnknown
from pytest_avo.evaluation.diagnosis.report import compiled_records
from pytest_avo.gate.refs import PREFIX, GitBaseline, at_ref, parse_fault
from pytest_avo.report.terminal.compiled import CompiledItem, failures, tables
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.run.assessors import confinement
from pytest_avo.run.settings import Settings
from pytest_avo.session.items.kernel_file import FileItem, file_of
from pytest_avo.session.items.report_values import ReportValue
from pytest_avo.session.kernel_run import KernelRun
from pytest_avo.session.screen import columns
from pytest_avo.session.selection import Selection

COMPILED = ReportValue("avo_compiled", CompiledItem)
"""What a kernel compiles to on a shape."""
Records = Mapping[str, Sequence[Record]]
"""What was compiled, by the id of the shape."""


class CompileFile(pytest.File):
    """A kernel file; its host code is run against a driver that compiles but does not launch."""

    kernel: Kernel
    compilation: Compilation

    def collect(self) -> Iterator[pytest.Item]:
        self.kernel = self.compilation.selection.kernel(self.path)
        for shape in self.compilation.selection.shapes(self.kernel):
            item: CompileItem = CompileItem.from_parent(self, name=shape.id)
            item.shape = shape
            yield item


class CompileItem(FileItem):
    """What one kernel compiles to for one shape."""

    parent: CompileFile
    shape: Shape
    found: CompiledItem

    def runtest(self) -> None:
        """Fail with what the compiler reports: an error, spills, serialised wgmma, too much shared memory."""
        self.found = CompiledItem(self.nodeid)
        compilation, kernel = self.parent.compilation, self.parent.kernel
        if reason := compilation.why_not_here(kernel):
            self._skip(reason)
        try:
            compilation.start(_selected(self))
            mine = compilation.records(kernel)[self.shape.id]
        except EvaluatorError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        for record in mine:
            if isinstance(record, ShapeUnknown):
                self._skip(record.reason)
        launches = tuple(record for record in mine if isinstance(record, LaunchReport))
        before, note = compilation.before(kernel, self.shape)
        self.found = CompiledItem(self.nodeid, launches, before, note)
        self.user_properties += properties(launches)
        errors = [record for record in mine if isinstance(record, ShapeError)]
        if any(error.refused for error in errors) and not compilation.selection.is_claimed(kernel, self.shape):
            self._skip(f"refuses shapes that it does not claim: {errors[0].error}")
        wrong = [error.error for error in errors] + failures(launches)
        if wrong:
            pytest.fail("; ".join(wrong), pytrace=False)

    def _skip(self, reason: str) -> None:
        self.found = CompiledItem(self.nodeid, skipped=reason)
        pytest.skip(reason)


class Compilation(KernelRun):
    """A run that compiles kernels and runs none."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        confinement(settings.sandbox)  # refuses to compile unconfined where the user requires it
        self.settings = settings
        self.selection = Selection(config, settings)
        self.ref = _ref(settings)
        self._config = config
        self._reports: dict[Path, Future[Records]] = {}
        self._earlier: dict[Path, Future[Records]] = {}
        self._executors: list[ThreadPoolExecutor] = []
        self._items: list[CompiledItem] = []

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        file = file_of(CompileFile, parent, path)
        file.compilation = self
        return file

    def header(self) -> str:
        triton = installed_version("triton")
        parts = [f"compile report for {self.settings.target}; no kernel is launched", f"triton {triton}"]
        if not f"{triton}.".startswith(f"{TRITON_OF_LIMITS}."):
            parts.append(f"limits on spills were set with {TRITON_OF_LIMITS}, another ptxas may spill elsewhere")
        parts += [f"compared with {self.ref.describe()}"] if self.ref else []
        return f"avo: {'; '.join(parts)}"

    def why_not_here(self, kernel: Kernel) -> str:
        """Why a kernel is not compiled, or ""."""
        if kernel.fault or kernel.claim is None or kernel.claim.target == self.settings.target:
            return ""
        return f"is for {kernel.claim.target}, the report is for {self.settings.target}"

    def start(self, chosen: Mapping[Path, tuple[Kernel, Sequence[Shape]]]) -> None:
        """Begin to compile kernels, as many at a time as there are cores, each in a confined process of its own."""
        missing = [each for path, each in chosen.items() if path not in self._reports]
        if missing:
            executor = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="avo-compile")
            for kernel, shapes in missing:
                self._reports[kernel.path] = executor.submit(self._compiled, kernel, shapes)
                if earlier := self._at_ref(kernel):
                    self._earlier[kernel.path] = executor.submit(self._compiled, earlier, shapes)
            executor.shutdown(wait=False)
            self._executors.append(executor)

    def close(self) -> None:
        """Leave what is still to be compiled: after -x nobody asks for it."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)

    def records(self, kernel: Kernel) -> Records:
        """What a kernel that was started compiles to, on the shapes that it was started for.

        EvaluatorError when its process ends without a report.
        """
        return self._reports[kernel.path].result()

    def before(self, kernel: Kernel, shape: Shape) -> tuple[tuple[LaunchReport, ...] | None, str]:
        """What the kernel's version at the git ref launches on a shape; None, and why, where there is nothing."""
        if self.ref is None:
            return None, ""
        if kernel.path not in self._earlier:
            missing = self.ref.source(kernel) is None
            return None, f"no such file at {self.ref.name}" if missing else "unchanged"
        try:
            records = self._earlier[kernel.path].result()[shape.id]
        except EvaluatorError as error:
            return None, str(error)
        wrong = [
            each.error if isinstance(each, ShapeError) else each.reason
            for each in records
            if not isinstance(each, LaunchReport)
        ]
        if wrong:
            return None, f"{self.ref.name} fails here: {wrong[0]}"
        return tuple(each for each in records if isinstance(each, LaunchReport)), ""

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if isinstance(item, CompileItem) and report.when == "call":
            COMPILED.put(report, item.found)

    def keep(self, report: pytest.TestReport) -> None:
        found = COMPILED.of(report)
        self._items += [found] if found else []

    def table(self) -> Iterable[Line]:
        details, ref = self._config.get_verbosity() > 0, self.ref.name if self.ref else ""
        return tables(self._items, width=columns(self._config), details=details, ref=ref)

    def _compiled(self, kernel: Kernel, shapes: Sequence[Shape]) -> Records:
        found: dict[str, list[Record]] = {shape.id: [] for shape in shapes}
        if kernel.fault:
            return {shape.id: [ShapeError(index, kernel.fault)] for index, shape in enumerate(shapes)}
        confined = self.settings.sandbox != "off"
        for record in compiled_records(kernel, shapes, target=self.settings.target, confined=confined):
            found[shapes[record.shape].id].append(record)
        return found

    def _at_ref(self, kernel: Kernel) -> Kernel | None:
        """The kernel as it is at the git ref; None where there is none or it is the same."""
        if self.ref is None or self.ref.is_same(kernel) or (source := self.ref.source(kernel)) is None:
            return None
        return msgspec.structs.replace(kernel, source=source, fault=parse_fault(source))


def properties(launches: Sequence[LaunchReport]) -> list[tuple[str, object]]:
    """Figures for JUnit: `avo.attend.registers`, and `avo.attend.2.registers` of a second launch of that name."""
    seen: Counter[str] = Counter()
    found: list[tuple[str, object]] = []
    for launch in launches:
        seen[launch.kernel] += 1
        name = launch.kernel if seen[launch.kernel] == 1 else f"{launch.kernel}.{seen[launch.kernel]}"
        chosen = ("registers", "spill_stores", "shared_bytes", "wgmma_count")
        found += [(f"avo.{name}.{key}", getattr(launch, key)) for key in chosen]
    return found


def _ref(settings: Settings) -> GitBaseline | None:
    name = settings.gate.compare
    return None if name is None else at_ref(name.removeprefix(PREFIX), settings.rootdir)


def _selected(item: CompileItem) -> dict[Path, tuple[Kernel, list[Shape]]]:
    """The kernels and shapes of the session's items; the item's own kernel where xdist deals items to workers."""
    chosen: dict[Path, tuple[Kernel, list[Shape]]] = {}
    for each in item.session.items:
        if not isinstance(each, CompileItem) or each.parent.compilation.why_not_here(each.parent.kernel):
            continue
        if each.parent is item.parent or not hasattr(item.config, "workerinput"):
            chosen.setdefault(each.parent.path, (each.parent.kernel, []))[1].append(each.shape)
    return chosen
