"""From paired times to a rank: faster, same, slower or ambiguous, and below which difference all is noise.

Verdicts, the gate and evolution rank by this one rule and differ in the confidence that they ask for.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Evaluations, Timing
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval

LEAST_FLOOR = 0.003
"""No machine is quieter than that for a claim about one kernel."""
DEVIATIONS = 2.0
DEVIATION = 0.683
"""Confidence of an interval whose half is one standard error."""
ONE_SIDED_99 = 0.98
"""Confidence of a two-sided interval whose ends are one-sided 99% bounds."""

SAME = 0.01
"""Log-ratio below which a user calls two kernels the same, however noisy the machine is."""

Speed = Literal["faster", "same", "slower", "ambiguous"]
"""Rank of a correct kernel beside another one."""
Failing = Literal["incorrect", "crashed", "timeout", "rejected", "unsupported"]
"""What became of a kernel that is not correct, and so has no speed."""
Ranking = Literal[Speed, Failing]


def ranking(gain: Interval, *, floor: float, limit: float | None = None) -> Speed:
    """The rank of a kernel by the interval of its gain, the log-ratio old time / new time; floor: as `floor_of`.

    With a limit on the slowdown, a log-ratio too, the question is whether the kernel is slower than allowed: ambiguous
    where the interval leaves that open, slower where it is slower beyond noise and yet within what is allowed. Without
    one, noise is the measure, and kernels are the same where the interval lies within SAME.
    """
    if gain.low > floor:
        return "faster"
    if limit is not None and gain.low < -limit:
        return "ambiguous"
    if gain.high < -floor:
        return "slower"
    return "same" if limit is not None or (gain.low >= -SAME and gain.high <= SAME) else "ambiguous"


def leaning(gain: Interval, *, floor: float) -> str:
    """What an ambiguous gain still says, in words: its direction, if its whole interval lies on one side of zero."""
    if gain.high < 0:
        return f"slower-leaning: whether by more than {floor:.2%} is open"
    if gain.low > 0:
        return f"faster-leaning: whether by more than {floor:.2%} is open"
    return "its interval holds faster and slower"


def failing(evaluation: Evaluation) -> Failing:
    """What became of a kernel that is not right; ValueError for one that is, since its timing ranks it."""
    if evaluation.outcome == "ok":
        raise ValueError(f"{evaluation.shape}: a right result is ranked by its timing")
    return evaluation.outcome


def floor_of(comparisons: Sequence[Interval]) -> float:
    """The log-ratio below which a difference is noise, from gains of kernels over themselves, at DEVIATION confidence.

    The larger of 0.3% and twice the root mean square of the comparisons' deviations. The deviation of one is its
    distance from zero, where it should be, together with its standard error.
    """
    squares = [found.estimate**2 + found.half_width**2 for found in comparisons]
    return max(LEAST_FLOOR, DEVIATIONS * math.sqrt(sum(squares) / len(squares)))


def paired(timing: Timing, arm: str, *, of: str = KERNEL) -> list[list[float]]:
    """Log-ratios log(t_arm / t_of), per launch and round; every kind of inputs counts alike."""
    return stats.levelled(_raw(timing, arm, of=of), timing.kinds_by_launch)


def paired_by_kind(timing: Timing, arm: str) -> dict[str, list[list[float]]]:
    """Log-ratios on each kind of inputs alone that had two rounds; {} where there is but one kind."""
    if len(timing.kind_names) < 2:
        return {}
    raw, rounds = _raw(timing, arm), Counter(itertools.chain(*timing.kinds_by_launch))
    return {
        kind: stats.levelled(raw, timing.kinds_by_launch, at=kind) for kind in timing.kind_names if rounds[kind] > 1
    }


def _raw(timing: Timing, arm: str, *, of: str = KERNEL) -> list[list[float]]:
    pairs = zip(timing.seconds[arm], timing.seconds[of], strict=True)
    return [stats.log_ratios(reference, kernel) for reference, kernel in pairs]


def geomean_gain(
    evaluations: Evaluations, shapes: Sequence[Shape], *, confidence: float, over: str = BASELINE
) -> Interval:
    """Log-ratio to an arm over all shapes, weighted; every evaluation must have been timed beside it."""
    launches = {shape: paired(timing, over) for shape, timing in _timings(evaluations, shapes).items()}
    return stats.geomean_interval(launches, {shape.id: shape.weight for shape in shapes}, confidence=confidence)


def gains_by_kind(evaluations: Evaluations, shapes: Sequence[Shape], *, confidence: float) -> dict[str, Interval]:
    """Gains on each kind of inputs alone, over the shapes that were timed on it; {} where there is but one kind.

    confidence: of all intervals together (Bonferroni).
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    for shape, timing in _timings(evaluations, shapes).items():
        of_only = {kind: paired(timing, BASELINE) for kind in timing.kind_names if len(timing.kind_names) == 1}
        for kind, launches in (of_only or paired_by_kind(timing, BASELINE)).items():
            found.setdefault(kind, {})[shape] = launches
    if len(found) < 2:
        return {}
    weights = {shape.id: shape.weight for shape in shapes}
    each = stats.of_each(confidence, len(found))
    return {kind: stats.geomean_interval(launches, weights, confidence=each) for kind, launches in found.items()}


def slower_kind(gains: Mapping[str, Interval], *, limit: float) -> str:
    """The kind of inputs on which a kernel is slowest, and slower than `limit`, a log-ratio, beyond doubt; or ""."""
    slower = {kind: gain for kind, gain in gains.items() if gain.high < -limit}
    return min(slower, key=lambda kind: slower[kind].estimate, default="")


def slowest(gains: Mapping[str, Interval]) -> float:
    """The log-ratio on the kind of inputs where a kernel gains least; 0 where there is but one."""
    return min((gain.estimate for gain in gains.values()), default=0.0)


def _timings(evaluations: Evaluations, shapes: Sequence[Shape]) -> dict[str, Timing]:
    found = {}
    for shape in shapes:
        timing = evaluations[shape.id].timing
        if timing is None:
            raise ValueError(f"{shape.id} was not timed")
        found[shape.id] = timing
    return found


def noise_floor(evaluations: Evaluations, shapes: Sequence[Shape]) -> float:
    """The log-ratio below which a gain is none, from an A/A run: the seed timed against itself.

    What rounds and launches vary by is in every interval already. What is left is a deviation from none that the A/A
    run's own interval does not cover; where it covers none, 0.3%.
    """
    gain = geomean_gain(evaluations, shapes, confidence=ONE_SIDED_99)
    return max(LEAST_FLOOR, gain.low, -gain.high)
