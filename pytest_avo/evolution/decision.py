"""What an attempt's evaluations amount to: one status, one reason, one gain.

The commit rule of the paper made statistical: a candidate that is not right on every shape has no score at all; one
that is right counts as faster only if the one-sided 99% lower bound of its geomean against its parent is above the
noise floor. Every kind of timed inputs counts alike, and a candidate that is slower beyond doubt on one of them is
rejected: its gain is made for the others. One that is likely slower on one, at 95%, is not promoted either.

Less is asked of the word `slower`, which promotes nothing: losers are let go after three rounds, by when a kernel that
takes eight times as long was not slower at 99% wherever a machine was busy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pytest_avo.core.evaluation import Evaluations, TimingPlan
from pytest_avo.core.ranking import (
    ONE_SIDED_99,
    Ranking,
    failing,
    gains_by_kind,
    geomean_gain,
    leaning,
    ranking,
    slower_kind,
)
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval
from pytest_avo.operators.operator import Accept

ONE_SIDED_95 = 0.90
"""Confidence of the word `slower`, and of a doubt, as of a two-sided interval."""
SCREEN_ROUNDS = 20
SCREEN_FIRST = 3
"""Rounds before the first look: most candidates are plainly slower, or plainly worth confirming, after so few."""
SEED_ROUNDS = 12
CONFIRM_LAUNCHES = 6
CONFIRM_ROUNDS = 18
COMPARE_LAUNCHES = 9
COMPARE_ROUNDS = 27
COMPARE_PRECISION = 0.05
"""Of the best kernel beside the seed or its peers, where nothing is to be decided: as many launches as it takes until
the geomean is known that well."""


class Decision(msgspec.Struct, frozen=True):
    """The outcome of screening or confirming a candidate; `gain` is a log-ratio to the parent, above zero faster."""

    ranking: Ranking
    reason: str
    gain: Interval | None = None
    doubt: str = ""
    """On which kind of inputs it is likely slower, though not beyond doubt: nothing is promoted by a gain with that."""


def decide(evaluations: Evaluations, shapes: Sequence[Shape], *, floor: float) -> Decision:
    """Rank a candidate by its evaluations on all shapes; `floor` is a log-ratio."""
    bad = [evaluations[shape.id] for shape in shapes if evaluations[shape.id].outcome != "ok"]
    if bad:
        others = f" ({len(bad)} of {len(shapes)} shapes)" if len(bad) > 1 else ""
        return Decision(failing(bad[0]), f"{bad[0].shape}: {bad[0].reason}{others}")
    timings = [timing for shape in shapes if (timing := evaluations[shape.id].timing) is not None]
    if too_few := next((timing.too_few for timing in timings if timing.too_few), ""):
        return Decision("ambiguous", too_few)
    gain = geomean_gain(evaluations, shapes, confidence=ONE_SIDED_99)
    rank = ranking(gain, floor=floor)
    by_kind = gains_by_kind(evaluations, shapes, confidence=ONE_SIDED_99)
    if gain.estimate > 0 and (lost := _lost(by_kind, floor=floor)):
        return Decision("rejected", f"slower than the incumbent on {lost}", gain)
    if rank == "ambiguous" and geomean_gain(evaluations, shapes, confidence=ONE_SIDED_95).high < -floor:
        return Decision("slower", "at 95% confidence", gain)
    # Of each kind by itself: on a busy machine half the speed was within doubt of all kinds together.
    likely = gains_by_kind(evaluations, shapes, confidence=1 - len(by_kind) * (1 - ONE_SIDED_95)) if by_kind else {}
    lost = _lost(likely, floor=floor)
    doubt = f"likely slower than the incumbent on {lost}" if lost else ""
    return Decision(rank, leaning(gain, floor=floor) if rank == "ambiguous" else "", gain, doubt)


def _lost(gains: Mapping[str, Interval], *, floor: float) -> str:
    """The kind of inputs on which a candidate is slower by these intervals, with its ratio, or ""."""
    if not (slower := slower_kind(gains, limit=floor)):
        return ""
    ratio = gains[slower].exp()
    return f"{slower} inputs, {ratio.estimate:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}]"


def accepts(measured: Interval, floor: float, *, accept: Accept) -> bool:
    """The built-in rule of promotion; `measured` is a log-ratio with its one-sided 99% bounds, `floor` one too."""
    return measured.estimate >= 0 if accept == "match" else measured.low > floor


def screening(plan: TimingPlan, *, floor: float | None) -> TimingPlan:
    """How a candidate is timed first: until it is plainly faster or plainly not, in one launch.

    That promotes nothing, since what is faster is measured once more: so at each look a gain counts as beyond doubt by
    the bound that says `faster` in the end, not by one for all looks together. floor: None for the seed, which is timed
    beside itself.
    """
    if floor is None:
        return msgspec.structs.replace(plan, max_rounds=min(plan.max_rounds, SEED_ROUNDS), margin=None)
    first, rounds = min(plan.min_rounds, SCREEN_FIRST), min(plan.max_rounds, SCREEN_ROUNDS)
    return msgspec.structs.replace(plan, min_rounds=first, max_rounds=rounds, margin=floor, looks_freely=True)


def confirmation(plan: TimingPlan, *, floor: float | None) -> TimingPlan:
    """How a winner is timed once more: a turn of all kinds of inputs in each of several launches.

    From two launches on it ends where the gain is plainly above the floor, from three on where it hardly can be any
    more. At each look that is plain by the bound that promotes. Over all looks a gain at the floor is promoted in less
    than 1% all the same (benchmarks/promotion_rule.py): most that have no more are let go before the last.
    """
    rounds = min(plan.max_rounds * CONFIRM_LAUNCHES, CONFIRM_ROUNDS)
    return msgspec.structs.replace(plan, max_rounds=rounds, launches=CONFIRM_LAUNCHES, margin=floor, looks_freely=True)


def comparison(plan: TimingPlan) -> TimingPlan:
    """How the best kernel is timed beside the seed and peers at the end: a turn of all kinds of inputs in a launch."""
    rounds = min(plan.max_rounds * COMPARE_LAUNCHES, COMPARE_ROUNDS)
    return msgspec.structs.replace(
        plan, max_rounds=rounds, launches=COMPARE_LAUNCHES, margin=None, precision=COMPARE_PRECISION
    )
