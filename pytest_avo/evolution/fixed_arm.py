"""Whether a gain over an incumbent also shows beside a fixed arm, which no candidate can influence.

An incumbent that knows that it is one may take its time, and whatever comes after it looks faster. But it was a
candidate once, timed beside the same fixed arm, a peer: beside that it must stand as it did then. Where it stands worse
by more than LEAST_MISSING the gain is not believed, whether or not chance may be why: of few launches an interval alone
would let everything pass. Unless the candidate itself stands better, beyond doubt, than the incumbent did: then it is a
gain whatever the incumbent does. The seed is the other exception, which nobody proposed: beside it a gain is not
believed where more is missing than chance explains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluation, Timing
from pytest_avo.core.ranking import ONE_SIDED_99, geomean_gain, paired
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval

LEAST_MISSING = math.log(1.1)
"""What may be missing of a gain, a log-ratio: a machine is not the same an hour later."""


def standing(evaluations: Mapping[str, Evaluation], shapes: Sequence[Shape], *, of: str = KERNEL) -> Interval | None:
    """How much faster an arm is than the fixed one, as a log-ratio over shapes; None where that was not timed."""
    launches = {}
    for shape in shapes:
        found = evaluations.get(shape.id)
        arm = _arm(found.timing) if found is not None and found.timing is not None else None
        if found is None or found.timing is None or arm is None:
            return None
        launches[shape.id] = paired(found.timing, arm, of=of)
    return stats.geomean_interval(launches, {shape.id: shape.weight for shape in shapes}, confidence=ONE_SIDED_99)


@dataclass(frozen=True, slots=True)
class Unshown:
    """Why a gain over an incumbent is not believed, and whether that is beyond doubt."""

    reason: str
    is_sure: bool


def unshown(
    now: Mapping[str, Evaluation], then: Mapping[str, Evaluation], shapes: Sequence[Shape], *, of_seed: bool = False
) -> Unshown | None:
    """What a gain lacks, or None: `now` of a candidate beside an incumbent, `then` of that as a candidate.

    Nothing is said where either was timed without the fixed arm, or on other kinds of inputs. of_seed: the incumbent is
    the seed.
    """
    if _kinds(now, shapes) != _kinds(then, shapes):
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
    if not is_sure and (of_seed or shown > math.hypot(candidate.half_width, past.half_width)):
        return None
    gain = geomean_gain(now, shapes, confidence=ONE_SIDED_99)
    said = (
        f"{math.exp(gain.estimate):.2f}x the incumbent, but {math.exp(shown):.2f}x what that was beside the same peer: "
    )
    return Unshown(said + ("the incumbent takes its time" if is_sure else "chance, or it takes its time"), is_sure)


def _kinds(evaluations: Mapping[str, Evaluation], shapes: Sequence[Shape]) -> list[frozenset[str]]:
    timings = [found.timing for shape in shapes if (found := evaluations.get(shape.id)) is not None]
    return [frozenset() if timing is None else frozenset(timing.kind_names) for timing in timings]


def _arm(timing: Timing) -> str | None:
    """The name of the fixed arm among those of a comparison: an extra one, or else the first peer."""
    peers = [arm for arm in timing.seconds if arm not in (KERNEL, BASELINE)]
    return FIXED if FIXED in peers else next(iter(peers), None)
