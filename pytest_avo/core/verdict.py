"""From raw facts to a verdict: what one evaluation says about a kernel on a shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluation, Evaluations, Timing
from pytest_avo.core.ranking import Failing, Speed, paired, paired_by_kind, ranking, slower_kind
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval, Launches

VerdictKind = Literal[Speed, "correct", Failing]
CONFIDENCE = 0.95
CHANCE = 0.05
"""How often one of several shapes may be called faster or slower where none is."""
GOOD: frozenset[VerdictKind] = frozenset({"faster", "same", "slower", "ambiguous", "correct"})


class OfKind(msgspec.Struct, frozen=True):
    """The ratio on one kind of inputs. The intervals of all kinds hold together, at 95%."""

    ratio: float
    ci95: tuple[float, float]


class Comparison(msgspec.Struct, frozen=True):
    """A peer beside the kernel. ratio = peer time / kernel time: above 1 the kernel is faster."""

    median_us: float
    ratio: float
    """The geomean over kinds of inputs."""
    ci95: tuple[float, float]
    kinds: dict[str, OfKind] = {}
    """By kind of inputs; empty where there is only one."""
    host_us: float | None = None
    """The host's part of an eager call; None where it was not measured."""
    idle_us: float | None = None
    """A single eager call, from rest until its result is there."""

    @property
    def kinds_differ(self) -> bool:
        """Whether kinds of inputs are further apart than the noise: two intervals do not meet."""
        lows, highs = ([each.ci95[end] for each in self.kinds.values()] for end in (0, 1))
        return bool(self.kinds) and max(lows) > min(highs)


class Verdict(msgspec.Struct, frozen=True):
    """The judgement of one kernel on one shape."""

    shape: str
    kind: VerdictKind
    reason: str = ""
    median_us: float | None = None
    tflops: float | None = None
    gbps: float | None = None
    host_us: float | None = None
    idle_us: float | None = None
    """Both for an eager call, as in `Comparison`."""
    baseline: Comparison | None = None
    peers: dict[str, Comparison] = {}
    notes: tuple[str, ...] = ()
    unmatched: bool = False
    """The baseline that the user named lacks this shape."""
    regressed: bool = False
    """Fails the gate: slower than allowed, confirmed, or without a counterpart in the baseline."""

    @property
    def is_good(self) -> bool:
        """Correct, whatever its speed."""
        return self.kind in GOOD

    @property
    def passes(self) -> bool:
        """Correct, and not stopped by the gate."""
        return self.is_good and not self.regressed


class Total(msgspec.Struct, frozen=True):
    """The judgement of one kernel over several shapes, beside a baseline."""

    kernel: str
    """Path of the kernel file as the node id has it."""
    name: str
    """What it is over: `geomean`, or `geomean-SUITE`."""
    kind: VerdictKind
    reason: str
    regressed: bool = False
    """Slower than the gate allows, confirmed."""

    @property
    def passes(self) -> bool:
        """Correct, and not stopped by the gate."""
        return self.kind in GOOD and not self.regressed


def judge(evaluation: Evaluation, shape: Shape, *, floor: float) -> Verdict:
    """The verdict on an evaluation; `floor` is the log-ratio below which a difference is noise."""
    if evaluation.outcome != "ok":
        return Verdict(shape.id, evaluation.outcome, evaluation.reason, notes=evaluation.notes)
    timing = evaluation.timing
    if timing is None:
        return Verdict(shape.id, "correct", notes=evaluation.notes)
    seconds = median(x for launch in timing.seconds[KERNEL] for x in launch)
    compared = {arm: compare(timing, arm) for arm in timing.seconds if arm not in (KERNEL, FIXED)}
    baseline = compared.pop(BASELINE, None)
    if timing.too_few:  # of what was timed beside it, nothing can be said either
        verdict, baseline, compared = Verdict(shape.id, "ambiguous", timing.too_few), None, {}
    elif baseline is None:
        verdict = Verdict(shape.id, "correct")
    else:
        verdict = _against(shape.id, baseline, floor)
    return msgspec.structs.replace(
        verdict,
        median_us=seconds * 1e6,
        tflops=shape.flops / seconds / 1e12,
        gbps=shape.bytes_moved / seconds / 1e9,
        host_us=_host_us(timing, KERNEL),
        idle_us=_idle_us(timing, KERNEL),
        baseline=baseline,
        peers=compared,
        notes=evaluation.notes,
    )


def judge_alone(evaluation: Evaluation, shape: Shape) -> Verdict:
    """The verdict on a kernel that was timed beside itself, as one on its noise is: right or not, and how fast."""
    verdict = judge(evaluation, shape, floor=math.inf)
    if verdict.baseline is None:
        return verdict
    return msgspec.structs.replace(verdict, kind="correct", reason="", baseline=None)


def judge_together(evaluations: Evaluations, shapes: Sequence[Shape], *, floor: float) -> dict[str, Verdict]:
    """The verdicts on one kernel over shapes, by shape id, beside a baseline.

    Faster or slower is said of a shape only if that holds over all of them together: the more shapes, the more of them
    would look so by chance (Holm's procedure at 5%, both directions counted).
    """
    verdicts = {shape.id: judge(evaluations[shape.id], shape, floor=floor) for shape in shapes}
    claims = {}
    for shape, verdict in verdicts.items():
        timing = evaluations[shape].timing
        if verdict.baseline is not None and timing is not None:
            launches = paired(timing, BASELINE)
            claims[shape] = min(1.0, 2 * min(stats.p_above(launches, floor), stats.p_below(launches, -floor)))
    for shape, p_value in stats.holm(claims).items():
        if verdicts[shape].kind in ("faster", "slower") and p_value > CHANCE:
            reason = f"{verdicts[shape].reason}; among {len(claims)} shapes that is chance"
            verdicts[shape] = msgspec.structs.replace(verdicts[shape], kind="ambiguous", reason=reason)
    return verdicts


def compare(timing: Timing, arm: str) -> Comparison:
    """How the kernel stands against `arm` on one shape."""
    ratio = stats.interval(paired(timing, arm)).exp()
    seconds = median(x for launch in timing.seconds[arm] for x in launch)
    return Comparison(
        median_us=seconds * 1e6,
        ratio=ratio.estimate,
        ci95=(ratio.low, ratio.high),
        kinds=of_kinds(_intervals(paired_by_kind(timing, arm))),
        host_us=_host_us(timing, arm),
        idle_us=_idle_us(timing, arm),
    )


def _host_us(timing: Timing, arm: str) -> float | None:
    return timing.costs[arm].host_s * 1e6 if arm in timing.costs else None


def _idle_us(timing: Timing, arm: str) -> float | None:
    return timing.costs[arm].idle_s * 1e6 if arm in timing.costs else None


def of_kinds(gains: Mapping[str, Interval]) -> dict[str, OfKind]:
    """Log-ratios by kind of inputs as a comparison carries them."""
    ratios = {kind: gain.exp() for kind, gain in gains.items()}
    return {kind: OfKind(ratio.estimate, (ratio.low, ratio.high)) for kind, ratio in ratios.items()}


def _intervals(kinds: Mapping[str, Launches]) -> dict[str, Interval]:
    confidence = stats.of_each(CONFIDENCE, len(kinds) or 1)
    return {kind: stats.interval(launches, confidence=confidence) for kind, launches in kinds.items()}


def _against(shape: str, baseline: Comparison, floor: float) -> Verdict:
    low, high = (math.log(x) for x in baseline.ci95)
    change = f"{abs(baseline.ratio - 1):.1%} {'faster' if baseline.ratio > 1 else 'slower'} than the incumbent"
    spread = f"95% interval {baseline.ci95[0]:.3f} to {baseline.ci95[1]:.3f}"
    rank = ranking(Interval(math.log(baseline.ratio), low, high), floor=floor)
    reason = f"{change}, {spread}" if rank in ("faster", "slower") else spread
    slower = slower_kind({kind: _log(each) for kind, each in baseline.kinds.items()}, limit=floor)
    if slower and rank in ("faster", "same"):
        return Verdict(shape, "ambiguous", f"{reason}; {on_kind(slower, baseline.kinds[slower])}")
    return Verdict(shape, rank, reason)


def on_kind(kind: str, found: OfKind) -> str:
    """`slower on spread inputs, 0.870 [0.850, 0.890]`."""
    return f"slower on {kind} inputs, {found.ratio:.3f} [{found.ci95[0]:.3f}, {found.ci95[1]:.3f}]"


def _log(found: OfKind) -> Interval:
    return Interval(math.log(found.ratio), math.log(found.ci95[0]), math.log(found.ci95[1]))
