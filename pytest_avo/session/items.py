"""Kernels as pytest sees them: a file, and an item for every shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict
from pytest_avo.report.rows import ResultRow, encode_row, result_row
from pytest_avo.session.letters import REJECTED_PROPERTY

if TYPE_CHECKING:
    from pytest_avo.session.modes.bench import Bench

ROW = "avo_row"
"""Attribute of a report that carries the item's result; a string, because it may cross from an xdist worker."""


class Rejected(Exception):
    """A candidate of an evolution is no good: the normal fate of a variant, not a failure of the run."""


class KernelFile(pytest.File):
    """A kernel file. Read with ast, never imported."""

    kernel: Kernel
    bench: Bench

    @classmethod
    def from_kernel(cls, parent: pytest.Collector, *, path: Path, bench: Bench) -> KernelFile:
        file: KernelFile = cls.from_parent(parent, path=path)
        file.bench = bench
        return file

    def collect(self) -> Iterator[pytest.Item]:
        self.kernel = self.bench.selection.kernel(self.path)
        label = "gen0000-" if self.bench.settings.mode == "evolve" else ""
        yield from self.items(self.kernel, self.bench.selection.shapes(self.kernel), label=label)

    def items(self, kernel: Kernel, shapes: Sequence[Shape], *, label: str) -> list[KernelItem]:
        """An item per shape for this file's kernel or, with a label, for a variant of it."""
        return [KernelItem.from_shape(self, f"{label}{shape.id}", kernel=kernel, shape=shape) for shape in shapes]


class KernelItem(pytest.Item):
    """One kernel on one shape. setup waits for the evaluation, runtest judges it."""

    parent: KernelFile
    kernel: Kernel
    shape: Shape
    evaluation: Evaluation | None
    pending: Future[Evaluation] | None
    """Of an evaluation that is under way; None: it is asked for when the item is set up."""
    verdict: Verdict | None
    lost: str
    """Why the evaluator itself failed on it; "" where it did not."""
    variant: bool

    @classmethod
    def from_shape(cls, parent: KernelFile, name: str, *, kernel: Kernel, shape: Shape) -> KernelItem:
        item: KernelItem = cls.from_parent(parent, name=name)
        item.kernel = kernel
        item.shape = shape
        item.evaluation = None
        item.pending = None
        item.verdict = None
        item.lost = ""
        item.variant = kernel is not parent.kernel
        return item

    def setup(self) -> None:
        """Wait for the evaluation. What fails here is the machine, so it is an error, not the kernel's failure."""
        bench = self.parent.bench
        if reason := bench.why_not_here(self.kernel):
            self._judged(Verdict(self.shape.id, "unsupported", reason))
            pytest.skip(reason)
        if reason := bench.why_not_measured(self):
            self.user_properties.append(("avo.reason", reason))
            pytest.skip(reason)
        try:
            self.evaluation = bench.evaluation(self)
            self._judged(bench.verdict(self, self.evaluation))
        except EvaluatorError as error:
            self.lost = str(error)
            pytest.fail(f"evaluator: {error}", pytrace=False)
        if self.evaluation.unfit:
            pytest.skip(self.evaluation.reason)
        if self.evaluation.log:
            self.add_report_section("call", "kernel", self.evaluation.log)

    def runtest(self) -> None:
        """Fail with the verdict's reason unless the kernel is right, and as fast as the gate wants it."""
        verdict = self.verdict
        assert verdict is not None
        if verdict.passes:
            return
        if verdict.regressed:
            pytest.fail(verdict.reason, pytrace=False)
        reason = f"{verdict.kind}: {verdict.reason}"
        if self.variant:
            raise Rejected(reason)
        if verdict.kind == "unsupported" and not self.parent.bench.selection.is_claimed(self.kernel, self.shape):
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)

    def reportinfo(self) -> tuple[os.PathLike[str], None, str]:
        return self.path, None, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Rejected):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    @property
    def kernel_name(self) -> str:
        """Path of the kernel's file as node ids have it."""
        return Path(self.nodeid.partition("::")[0]).as_posix()

    def row(self) -> ResultRow | None:
        """The item's result for tables and files, once it is judged."""
        if self.verdict is None:
            return None
        target = self.kernel.claim.target if self.kernel.claim else self.parent.bench.device.target
        evaluation = self.evaluation or Evaluation(shape=self.shape.id, outcome="unsupported")
        return result_row(
            evaluation,
            self.verdict,
            node_id=self.nodeid,
            kernel=self.kernel_name,
            target=target,
            shape=self.shape,
            digest=self.kernel.digest,
        )

    def _judged(self, verdict: Verdict) -> None:
        self.verdict = verdict
        values: dict[str, object] = {"verdict": verdict.kind, "reason": verdict.reason, "median_us": verdict.median_us}
        values |= {"tflops": verdict.tflops, "gbps": verdict.gbps}
        values |= {f"ratio.{name}": comparison.ratio for name, comparison in verdict.peers.items()}
        if verdict.baseline:
            values["ratio.baseline"] = verdict.baseline.ratio
        if self.evaluation:
            values |= {"seed": self.evaluation.seed, "worker": self.evaluation.worker}
        self.user_properties += [(f"avo.{key}", value) for key, value in values.items() if value not in (None, "")]


def attach_row(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put an item's result on the report of the phase in which it is known."""
    if not isinstance(item, KernelItem) or report.when == "teardown":
        return
    row = item.row()
    if row is not None and (report.when == "call" or report.outcome == "skipped"):
        setattr(report, ROW, encode_row(msgspec.structs.replace(row, failed=report.failed)))
    if report.when == "call" and item.variant and item.verdict and not item.verdict.is_good:
        # Reported like an expected failure: it must trip neither -x nor the exit status.
        report.outcome = "skipped"
        report.wasxfail = str(report.longrepr)
        report.user_properties.append((REJECTED_PROPERTY, True))
