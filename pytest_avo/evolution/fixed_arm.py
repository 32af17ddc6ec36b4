"""Whether a gain over an incumbent also shows beside a fixed arm, which no candidate can influence.

An incumbent that knows that it is one may take its time, and whatever comes after it looks faster. But it was a
candidate once, timed beside the same fixed arm, a peer: beside that it must stand as it did then. Where it stands worse
by more than LEAST_MISSING the gain is not believed, whether or not chance may be why: of few launches an interval alone
would let everything pass. Unless the candidate itself stands better by so much, beyond doubt, than the incumbent did:
then it is a gain whatever the incumbent does. The seed is the other exception, which nobody proposed: beside it a gain
is not believed where more is missing than chance explains.

Screenings and confirmations are looked at together: of a confirmation's two launches one that something disturbed is
half of what is known, and refused honest gains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluations, Timing
from pytest_avo.core.ranking import ONE_SIDED_99, geomean_gain, paired
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval

LEAST_MISSING = math.log(1.1)
"""What may be missing of a gain, a log-ratio: a machine is not the same an hour later."""


def standing(measurements: Sequence[Evaluations], shapes: Sequence[Shape], *, of: str = KERNEL) -> Interval | None:
    """How much faster an arm is than the fixed one in all of them together, as a log-ratio over shapes.

    Measurements of a part of the shapes, or without the fixed arm, are left out; None where that leaves nothing.
    """
    launches: dict[str, list[list[float]]] = {shape.id: [] for shape in shapes}
    for evaluations in measurements:
        timings = _beside_fixed(evaluations, shapes)
        for shape, (timing, arm) in timings.items():
            launches[shape] += paired(timing, arm, of=of)
    if not all(launches.values()):
        return None
    return stats.geomean_interval(launches, {shape.id: shape.weight for shape in shapes}, confidence=ONE_SIDED_99)


@dataclass(frozen=True, slots=True)
class Unshown:
    """Why a gain over an incumbent is not believed, and whether that is beyond doubt."""

    reason: str
    is_sure: bool


def unshown(
    now: Sequence[Evaluations], then: Sequence[Evaluations], shapes: Sequence[Shape], *, of_seed: bool = False
) -> Unshown | None:
    """What the gain of a confirmation lacks, or None.

    now: of a candidate beside an incumbent, the confirmation last; then: of that as a candidate. Nothing is said where
    either was timed without the fixed arm, or on other kinds of inputs. Where threads spun at barriers in some of them
    and slept in others, as on several workers or in a run that is resumed on a busy machine, those count that are like
    one of the other side, the confirmation's first. of_seed: the incumbent is the seed.
    """
    now, then = _alike(now, then, shapes)
    if not then or _kinds(now[-1], shapes) != _kinds(then[-1], shapes):
        return None
    past, present = standing(then, shapes), standing(now, shapes, of=BASELINE)
    candidate = standing(now, shapes)
    if past is None or present is None or candidate is None:
        return None
    # Of the incumbent alone: what the candidate's own rounds vary by is in neither.
    missing, doubt = past.estimate - present.estimate - LEAST_MISSING, math.hypot(past.half_width, present.half_width)
    if missing <= 0:
        return None
    is_sure, shown = missing > doubt, candidate.estimate - past.estimate
    better = max(LEAST_MISSING, math.hypot(candidate.half_width, past.half_width))
    if not is_sure and (of_seed or shown > better):
        return None
    gain = geomean_gain(now[-1], shapes, confidence=ONE_SIDED_99)
    said = (
        f"{math.exp(gain.estimate):.2f}x the incumbent, but {math.exp(shown):.2f}x what that was beside the same peer: "
    )
    return Unshown(said + ("the incumbent takes its time" if is_sure else "chance, or it takes its time"), is_sure)


def _beside_fixed(evaluations: Evaluations, shapes: Sequence[Shape]) -> dict[str, tuple[Timing, str]]:
    """Timings by shape, each with its fixed arm; {} where a shape lacks it."""
    found = {}
    for shape in shapes:
        evaluation = evaluations.get(shape.id)
        timing = evaluation.timing if evaluation is not None else None
        arm = _arm(timing) if timing is not None else None
        if timing is None or arm is None:
            return {}
        found[shape.id] = timing, arm
    return found


def _kinds(evaluations: Evaluations, shapes: Sequence[Shape]) -> list[frozenset[str]]:
    timings = [found.timing for shape in shapes if (found := evaluations.get(shape.id)) is not None]
    return [frozenset() if timing is None else frozenset(timing.kind_names) for timing in timings]


def _alike(
    now: Sequence[Evaluations], then: Sequence[Evaluations], shapes: Sequence[Shape]
) -> tuple[Sequence[Evaluations], Sequence[Evaluations]]:
    """Those of both sides in which threads waited for each other in the same way; none where that is not so of any."""
    for like in reversed(now):
        spins = _spins(like, shapes)
        past = [each for each in then if _spins(each, shapes) == spins]
        if past:
            return [each for each in now if _spins(each, shapes) == spins], past
    return (), ()


def _spins(evaluations: Evaluations, shapes: Sequence[Shape]) -> dict[str, bool]:
    """Whether threads spun while they were timed, by shape."""
    timings = {shape.id: found.timing for shape in shapes if (found := evaluations.get(shape.id)) is not None}
    return {shape: timing.spins for shape, timing in timings.items() if timing is not None}


def _arm(timing: Timing) -> str | None:
    """The name of the fixed arm among those of a comparison: an extra one, or else the first peer."""
    peers = [arm for arm in timing.seconds if arm not in (KERNEL, BASELINE)]
    return FIXED if FIXED in peers else next(iter(peers), None)
