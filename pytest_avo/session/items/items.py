"""Kernels as pytest sees them: a file, and an item for every shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict
from pytest_avo.report.rows import ResultRow, result_row
from pytest_avo.report.text import quoted
from pytest_avo.run.assessor import Assessor
from pytest_avo.session.items.kernel_file import FileItem, file_of
from pytest_avo.session.items.report_values import ROW
from pytest_avo.session.items.unmeasured import attach_unmeasured, fail
from pytest_avo.session.selection import Selection


class ItemRules(ABC):
    """What a mode makes of the items of its kernels."""

    def __init__(self, assessor: Assessor, selection: Selection) -> None:
        self.assessor = assessor
        self.selection = selection

    @abstractmethod
    def evaluation(self, item: KernelItem) -> Evaluation:
        """The facts about an item's kernel on its shape; blocks. EvaluatorError when the machine fails."""

    @abstractmethod
    def verdict(self, item: KernelItem, evaluation: Evaluation) -> Verdict:
        """The verdict on an item; may take another evaluation, as `evaluation` does."""

    def why_not_measured(self, item: KernelItem) -> str:
        """Why an item's kernel, which could be measured here, need not be; "" where it must."""
        return ""


class KernelFile(pytest.File):
    """A kernel file. Read with ast, never imported."""

    kernel: Kernel
    rules: ItemRules
    prefix: str

    @classmethod
    def under(cls, parent: pytest.Collector, *, path: Path, rules: ItemRules, prefix: str = "") -> KernelFile:
        """The file at `path`, its items judged by `rules`; their names begin with `prefix`."""
        file = file_of(cls, parent, path)
        file.rules = rules
        file.prefix = prefix
        return file

    def collect(self) -> Iterator[pytest.Item]:
        self.kernel = self.rules.selection.kernel(self.path)
        for shape in self.rules.selection.shapes(self.kernel):
            yield KernelItem.of(self, self.kernel, shape, prefix=self.prefix)


class KernelItem(FileItem):
    """One kernel on one shape. setup waits for the evaluation, runtest judges it."""

    parent: KernelFile
    kernel: Kernel
    shape: Shape
    evaluation: Evaluation | None
    verdict: Verdict | None

    @classmethod
    def of(cls, parent: KernelFile, kernel: Kernel, shape: Shape, *, prefix: str) -> Self:
        """The item of the file's kernel, or of a variant of it, on a shape."""
        item: Self = cls.from_parent(parent, name=f"{prefix}{shape.id}")
        item.kernel = kernel
        item.shape = shape
        item.evaluation = None
        item.verdict = None
        return item

    def setup(self) -> None:
        """Wait for the evaluation. What fails here is the machine, so it is an error, not the kernel's failure."""
        rules = self.parent.rules
        if reason := rules.assessor.why_not_here(self.kernel):
            self._judged(Verdict(self.shape.id, "unsupported", reason))
            pytest.skip(reason)
        try:
            if reason := rules.why_not_measured(self):
                self.user_properties.append(("avo.reason", reason))
                pytest.skip(reason)
            self.evaluation = rules.evaluation(self)
            self._judged(rules.verdict(self, self.evaluation))
        except (EvaluatorError, InvalidInput) as error:
            fail(self, error)
        assert self.evaluation is not None
        if self.evaluation.unfit:
            pytest.skip(self.evaluation.reason)
        if self.evaluation.log:
            self.add_report_section("call", "kernel", quoted(self.evaluation.log))

    def runtest(self) -> None:
        """Fail with the verdict's reason unless the kernel is right, and as fast as the gate wants it."""
        verdict = self.verdict
        assert verdict is not None
        if verdict.passes:
            return
        if verdict.regressed:
            hint = " (--avo-compare-lenient lets what has no baseline pass)" if verdict.unmatched else ""
            pytest.fail(f"{verdict.reason}{hint}", pytrace=False)
        reason = f"{verdict.kind}: {verdict.reason}"
        if verdict.kind == "unsupported" and not self.parent.rules.selection.is_claimed(self.kernel, self.shape):
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)

    @property
    def kernel_name(self) -> str:
        """Path of the kernel's file as node ids have it."""
        return Path(self.nodeid.partition("::")[0]).as_posix()

    def row(self) -> ResultRow | None:
        """The item's result for tables and files, once it is judged."""
        if self.verdict is None:
            return None
        target = self.kernel.claim.target if self.kernel.claim else self.parent.rules.assessor.device.target
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
    attach_unmeasured(item, report)
    if not isinstance(item, KernelItem) or report.when == "teardown":
        return
    row = item.row()
    if row is not None and (report.when == "call" or report.outcome == "skipped"):
        ROW.put(report, msgspec.structs.replace(row, failed=report.failed))
