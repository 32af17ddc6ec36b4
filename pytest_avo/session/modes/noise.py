"""--avo-aa: kernels beside themselves. What is found between them is the machine's noise, and is kept as its floor."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from pytest_avo.core.evaluation import BASELINE, Evaluation, EvaluationRequest, Subject
from pytest_avo.core.noise import Noise, noise_of, store_noise
from pytest_avo.core.ranking import paired
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Launches
from pytest_avo.core.verdict import Verdict
from pytest_avo.report import text
from pytest_avo.report.terminal import terminal
from pytest_avo.report.terminal.noise import NoiseRow, table
from pytest_avo.run.settings import Settings
from pytest_avo.session.items import KernelItem
from pytest_avo.session.modes.bench import Bench

LAUNCHES = 3
"""Processes per arm: what differs from process to process is part of the noise."""
ROW = "avo_noise_row"
"""Attribute of a report that carries the item's log-ratios; a string, because it may cross from an xdist worker."""


class NoiseRun(Bench):
    """A run that times every kernel beside itself."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._found: list[NoiseRow] = []
        self._noise: Noise | None = None

    @property
    def peers(self) -> tuple[str, ...]:
        return ()

    def _item_request(self, item: KernelItem) -> EvaluationRequest:
        subject = Subject(label=item.path.name, source=item.kernel.source)
        plan = msgspec.structs.replace(self.settings.plan, launches=LAUNCHES)
        return EvaluationRequest(
            number=0,
            subject=subject,
            shapes=(item.shape,),
            limits=self.settings.limits,
            plan=plan,
            baseline=subject,
            fresh=True,
        )

    def judge(self, evaluation: Evaluation, shape: Shape, *, beside_baseline: bool = True) -> Verdict:
        """Right or not: a kernel is neither faster nor slower than itself."""
        return super().judge(evaluation, shape, beside_baseline=False)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if isinstance(item, KernelItem) and report.when == "call" and item.evaluation and item.evaluation.timing:
            row = NoiseRow(item.nodeid, paired(item.evaluation.timing, BASELINE))
            setattr(report, ROW, msgspec.json.encode(row).decode())

    def collect_row(self, report: pytest.TestReport) -> None:
        if found := getattr(report, ROW, None):
            self._found.append(msgspec.json.decode(found, type=NoiseRow))

    def leave(self) -> None:
        """Keep the floor for later runs on this machine."""
        comparisons: list[Launches] = [row.launches for row in self._found]
        if comparisons:
            self._noise = noise_of(comparisons, self.device.fingerprint())
            store_noise(self._noise)

    def table(self) -> Iterator[terminal.Line]:
        yield from table(self._found)
        if self._noise is not None:
            where = f"{self._noise.fingerprint.device}, fingerprint {self._noise.fingerprint.digest}"
            counted = text.counted(self._noise.comparisons, "comparison")
            yield terminal.Line(f"noise floor {self._noise.floor:.2%} from {counted} on {where}", {"bold": True})
