"""Whether a gain over an incumbent also shows beside an arm that no candidate has a hand in.

An incumbent that knows that it is one may take its time, and whatever comes after it looks faster. But it was a
candidate once, timed beside the same fixed arm, a peer: a candidate that is faster than its incumbent stands better
beside that than the incumbent did then. Where that is not seen the gain is not believed, whether or not chance may be
why: of few launches an interval alone would let everything pass. The seed is the exception, which nobody proposed:
beside it a gain is not believed where more is missing than chance explains.
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
UNREST_MISSING = 4.0
"""What may be missing of a gain, as a log-ratio and in what the machine's noise comes to: it is not the same an hour
later. Of the noise no more than these figures themselves leave open: it may have been greater at the beginning."""


def standing(evaluations: Mapping[str, Evaluation], shapes: Sequence[Shape]) -> Interval | None:
    """How much faster a kernel is than the fixed arm, as a log-ratio over shapes; None where that was not timed."""
    launches = {}
    for shape in shapes:
        found = evaluations.get(shape.id)
        arm = _arm(found.timing) if found is not None and found.timing is not None else None
        if found is None or found.timing is None or arm is None:
            return None
        launches[shape.id] = paired(found.timing, arm)
    return stats.geomean_interval(launches, {shape.id: shape.weight for shape in shapes}, confidence=ONE_SIDED_99)


@dataclass(frozen=True, slots=True)
class Unshown:
    """Why a gain over an incumbent is not believed, and whether that is beyond doubt."""

    reason: str
    is_sure: bool


def unshown(
    now: Mapping[str, Evaluation],
    then: Mapping[str, Evaluation],
    shapes: Sequence[Shape],
    *,
    unrest: float,
    of_seed: bool = False,
) -> Unshown | None:
    """What a gain lacks, or None: `now` of a candidate beside an incumbent, `then` of that as a candidate.

    Nothing is said where either was timed without the fixed arm, or on other kinds of inputs. unrest: a log-ratio.
    of_seed: the incumbent is the seed.
    """
    if _kinds(now, shapes) != _kinds(then, shapes):
        return None
    present, past = standing(now, shapes), standing(then, shapes)
    if present is None or past is None:
        return None
    gain = geomean_gain(now, shapes, confidence=ONE_SIDED_99)
    shown = present.estimate - past.estimate
    doubt = math.hypot(gain.half_width, present.half_width, past.half_width)
    missing = gain.estimate - shown - max(LEAST_MISSING, min(UNREST_MISSING * unrest, doubt))
    if missing <= 0:
        return None
    is_sure = missing > doubt
    # How much it gains may be in doubt where that it does is not: it stands better whatever its incumbent does.
    if not is_sure and (of_seed or shown > math.hypot(present.half_width, past.half_width)):
        return None
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
