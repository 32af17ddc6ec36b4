"""Candidates of an evolution as items: to be turned down is their normal fate, not a failure of the run."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict, judge, judge_alone
from pytest_avo.evolution.trials import Trial, Trials
from pytest_avo.run.assessor import Assessor
from pytest_avo.session.items.items import ItemRules, KernelFile, KernelItem, attach_row
from pytest_avo.session.items.letters import REJECTED_PROPERTY
from pytest_avo.session.selection import Selection

SEED_PREFIX = "gen0000-"
"""What the names of the seed's items begin with."""


class Rejected(Exception):
    """A candidate is no good."""


class CandidateItem(KernelItem):
    """A variant of a kernel on one shape."""

    def runtest(self) -> None:
        """Say what is wrong with the candidate, if there is something."""
        assert self.verdict is not None
        if not self.verdict.passes:
            raise Rejected(f"{self.verdict.kind}: {self.verdict.reason}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Rejected):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class EvolutionRules(ItemRules):
    """The items of an evolution show what its trials find."""

    def __init__(self, assessor: Assessor, selection: Selection) -> None:
        super().__init__(assessor, selection)
        self._shown: tuple[Trials, Trial, float] | None = None

    def show(self, trials: Trials, trial: Trial, *, floor: float) -> None:
        """Judge the items that are run from now on by this trial; `floor` is a log-ratio."""
        self._shown = trials, trial, floor

    def evaluation(self, item: KernelItem) -> Evaluation:
        assert self._shown is not None, "no item is run before its trial has begun"
        trials, trial, _ = self._shown
        return trials.evaluation(trial, item.shape)

    def verdict(self, item: KernelItem, evaluation: Evaluation) -> Verdict:
        """The verdict beside its parent. The seed is timed beside itself: it is right or not."""
        assert self._shown is not None
        if isinstance(item, CandidateItem):
            return judge(evaluation, item.shape, floor=self._shown[2])
        return judge_alone(evaluation, item.shape)


def candidate_items(file: KernelFile, trial: Trial, shapes: tuple[Shape, ...], *, prefix: str) -> list[CandidateItem]:
    """The items of a candidate that is screened."""
    return [CandidateItem.of(file, trial.candidate.kernel, shape, prefix=prefix) for shape in shapes]


def attach_candidate(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put an item's result on its report; that of a candidate which is turned down becomes an expected failure's."""
    attach_row(item, report)
    if report.when == "call" and isinstance(item, CandidateItem) and item.verdict and not item.verdict.is_good:
        # It must trip neither -x nor the exit status.
        report.outcome = "skipped"
        report.wasxfail = str(report.longrepr)
        report.user_properties.append((REJECTED_PROPERTY, True))
