"""What an attempt's evaluations amount to: one status, one reason, one gain.

The commit rule of the paper made statistical: a candidate that is not right on every shape has no score at all; one
that is right counts as faster only if the one-sided 99% lower bound of its geomean against its parent is above the
noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, Evaluation, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import paired

ONE_SIDED_99 = 0.98
"""Confidence of a two-sided interval whose ends are one-sided 99% bounds."""
LEAST_FLOOR = 0.003
SCREEN_ROUNDS = 20
CONFIRM_LAUNCHES = 3
CONFIRM_ROUNDS = 24

Ranking = Literal["faster", "same", "slower", "ambiguous", "incorrect", "crashed", "timeout", "rejected", "unsupported"]


class Decision(msgspec.Struct, frozen=True):
    """The outcome of screening or confirming a candidate; `gain` is a log-ratio to the parent, above zero faster."""

    ranking: Ranking
    reason: str
    gain: Interval | None = None


def decide(evaluations: Mapping[str, Evaluation], shapes: Sequence[Shape], *, floor: float) -> Decision:
    """Rank a candidate by its evaluations on all shapes; `floor` is a log-ratio."""
    bad = [evaluations[shape.id] for shape in shapes if evaluations[shape.id].outcome != "ok"]
    if bad:
        others = f" ({len(bad)} of {len(shapes)} shapes)" if len(bad) > 1 else ""
        return Decision(_kind(bad[0]), f"{bad[0].shape}: {bad[0].reason}{others}")
    gain = geomean_gain(evaluations, shapes, confidence=ONE_SIDED_99)
    if gain.low > floor:
        return Decision("faster", "", gain)
    if gain.high < -floor:
        return Decision("slower", "", gain)
    if -floor <= gain.low and gain.high <= floor:
        return Decision("same", "", gain)
    return Decision("ambiguous", f"cannot be told from the noise of {floor:.2%}", gain)


def geomean_gain(evaluations: Mapping[str, Evaluation], shapes: Sequence[Shape], *, confidence: float) -> Interval:
    """Log-ratio to the baseline over all shapes, weighted; every evaluation must have been timed beside it."""
    launches = {}
    for shape in shapes:
        timing = evaluations[shape.id].timing
        if timing is None:
            raise ValueError(f"{shape.id} was not timed")
        launches[shape.id] = paired(timing, BASELINE)
    return stats.geomean_interval(launches, {shape.id: shape.weight for shape in shapes}, confidence=confidence)


def noise_floor(evaluations: Mapping[str, Evaluation], shapes: Sequence[Shape]) -> float:
    """The log-ratio below which a difference is noise, from an A/A run: the seed timed against itself.

    The larger of 0.3% and twice the A/A deviation, taken as the root mean square of its distance from zero and its
    standard error (half of a 68% interval).
    """
    aa = geomean_gain(evaluations, shapes, confidence=0.683)
    return max(LEAST_FLOOR, 2 * math.hypot(aa.estimate, aa.half_width))


def screening(plan: TimingPlan, *, floor: float | None) -> TimingPlan:
    """How a candidate is timed first: until it is plainly faster or plainly not, in one launch."""
    rounds = min(plan.max_rounds, SCREEN_ROUNDS)
    return msgspec.structs.replace(plan, max_rounds=rounds, margin=floor)


def confirmation(plan: TimingPlan) -> TimingPlan:
    """How a winner is timed once more: a fixed number of rounds over several launches, never cut short by a result."""
    rounds = min(plan.max_rounds * CONFIRM_LAUNCHES, CONFIRM_ROUNDS)
    return msgspec.structs.replace(plan, max_rounds=rounds, launches=CONFIRM_LAUNCHES, margin=None)


def _kind(evaluation: Evaluation) -> Ranking:
    if evaluation.outcome == "ok":
        raise ValueError("a right result is ranked by its timing")
    return evaluation.outcome
