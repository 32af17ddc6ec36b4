"""--avo-aa: kernels beside themselves. What is found between them is the machine's noise, and is kept as its floor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.evaluation import BASELINE, Evaluation, EvaluationRequest
from pytest_avo.core.noise import Noise, noise_of, noise_path, store_noise
from pytest_avo.core.ranking import paired
from pytest_avo.core.stats import Launches
from pytest_avo.core.verdict import Verdict, judge_alone
from pytest_avo.report import text
from pytest_avo.report.terminal.noise import NoiseRow, table
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.session.header import header
from pytest_avo.session.items.asking import AskingRules
from pytest_avo.session.items.items import KernelFile, KernelItem
from pytest_avo.session.items.report_values import ReportValue
from pytest_avo.session.items.tally import Tally
from pytest_avo.session.items.unmeasured import attach_unmeasured
from pytest_avo.session.kernel_run import MeasuredRun
from pytest_avo.session.selection import Selection

LAUNCHES = 3
"""Processes per arm: what differs from process to process is part of the noise."""
ROW = ReportValue("avo_noise_row", NoiseRow)
"""The log-ratios of a kernel to itself on a shape."""


class NoiseRules(AskingRules):
    """Every kernel is timed beside itself and nothing else."""

    def why_not_measured(self, item: KernelItem) -> str:
        """The noise that is kept is that of one kind of device."""
        own, its = self.assessor.device, self.assessor.device_for(item.kernel)
        if its is None or its.target == own.target:
            return ""
        return f"runs on {its.target}, the noise that is measured is that of {own.target}"

    def question(self, item: KernelItem) -> EvaluationRequest:
        plan = msgspec.structs.replace(self.assessor.settings.plan, launches=LAUNCHES)
        request = self.assessor.request(item.kernel, (item.shape,), plan=plan)
        return msgspec.structs.replace(request, baseline=request.subject, peers=(), fresh=True)

    def verdict(self, item: KernelItem, evaluation: Evaluation) -> Verdict:
        """Right or not: a kernel is neither faster nor slower than itself."""
        return judge_alone(evaluation, item.shape)


class NoiseRun(MeasuredRun):
    """A run that times every kernel beside itself."""

    def __init__(self, config: pytest.Config, console: Console, assessor: Assessor) -> None:
        super().__init__(assessor)
        self.selection = Selection(config, assessor.settings)
        self._rules = NoiseRules(self.assessor, self.selection)
        self._tally = Tally()
        self._found: list[NoiseRow] = []
        self._noise: Noise | None = None

    def header(self) -> str:
        return header(self.assessor, peers=())

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        return KernelFile.under(parent, path=path, rules=self._rules)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        attach_unmeasured(item, report)
        if not isinstance(item, KernelItem) or report.when != "call" or item.evaluation is None:
            return
        timing = item.evaluation.timing
        if timing is not None and not timing.too_few:
            ROW.put(report, NoiseRow(item.nodeid, paired(timing, BASELINE)))

    def keep(self, report: pytest.TestReport) -> None:
        self._tally.keep(report)
        if row := ROW.of(report):
            self._found.append(row)

    def exit_status(self, status: int) -> int:
        return self._tally.exit_status(status)

    def leave(self) -> None:
        """Keep the floor for later runs on this machine."""
        comparisons: list[Launches] = [row.launches for row in self._found]
        if comparisons:
            self._noise = noise_of(comparisons, self.assessor.device.fingerprint())
            store_noise(self._noise)

    def table(self) -> Iterator[Line]:
        yield from table(self._found)
        if self._noise is not None:
            where = f"{self._noise.fingerprint.device}, fingerprint {self._noise.fingerprint.digest}"
            counted = text.counted(self._noise.comparisons, "comparison")
            yield Line(f"noise floor {self._noise.floor:.2%} from {counted} on {where}", {"bold": True})
            yield Line(f"kept for later runs in {noise_path(self._noise.fingerprint)}, until it is measured anew")
