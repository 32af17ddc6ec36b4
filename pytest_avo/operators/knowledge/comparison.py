"""What a candidate was predicted to gain beside what it gained: the judgement an operator learns from.

All values are ratios to the parent, parent's time / candidate's time: above 1 the candidate is faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from pytest_avo.core.evaluation import BASELINE, Evaluations
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import compare
from pytest_avo.lineage.events import PredictionChecked
from pytest_avo.lineage.records import GEOMEAN, AttemptOutcome

Judgement = Literal["right", "too high", "too low"]


class Compared(msgspec.Struct, frozen=True):
    """One prediction and its measurement with a confidence interval. `of` is a shape id or "geomean"."""

    of: str
    predicted: float
    measured: Interval

    @property
    def judgement(self) -> Judgement:
        """Whether the prediction lies in the interval."""
        if self.predicted > self.measured.high:
            return "too high"
        return "too low" if self.predicted < self.measured.low else "right"

    def __str__(self) -> str:
        interval = f"{self.measured.estimate:.3f} [{self.measured.low:.3f}, {self.measured.high:.3f}]"
        return f"{self.of} predicted {self.predicted:.3f}, measured {interval}: {self.judgement}"


def measured_ratios(outcome: AttemptOutcome, evaluations: Evaluations) -> dict[str, Interval]:
    """Shape id or "geomean" -> ratio of a finished attempt, where it was measured.

    `evaluations` are the confirmation's where there was one, as the outcome's own figure is.
    """
    found: dict[str, Interval] = {}
    if geomean := outcome.confirmed or outcome.gain:
        found[GEOMEAN] = geomean.exp()
    for shape, evaluation in evaluations.items():
        if evaluation.timing is not None and BASELINE in evaluation.timing.seconds:
            ratio = compare(evaluation.timing, BASELINE)
            found[shape] = Interval(ratio.ratio, *ratio.ci95)
    return found


def compared(predicted: Mapping[str, float], measured: Mapping[str, Interval]) -> list[Compared]:
    """Every prediction that was measured too, the geomean first."""
    both = [name for name in predicted if name in measured]
    both.sort(key=lambda name: name != GEOMEAN)
    return [Compared(name, predicted[name], measured[name]) for name in both]


def comparison(attempt: int, comparisons: list[Compared]) -> PredictionChecked:
    """What the lineage keeps of it."""
    text = "; ".join(str(each) for each in comparisons)
    return PredictionChecked(attempt, text, {each.of: each.judgement for each in comparisons})
