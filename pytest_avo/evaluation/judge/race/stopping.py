"""When a comparison was measured enough, and which of its shapes still need rounds: rules on figures alone.

Rounds are spent where something is open. Where a margin asks one question of all shapes together, further rounds go to
those whose share of the doubt is worth their time; a kernel that hardly can get above the margin any more is let go.
Without a margin a shape is done when its own intervals are narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import NormalDist

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, TimingPlan
from pytest_avo.core.ranking import SAME
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Launches, Located

LEAST_ROUNDS = 5
"""Below so many, or what was asked for where that is less, a comparison says nothing."""
LEAST_TURNS = 2
"""Of every kind of inputs, where there are several: what rounds of a kind vary by takes two of them. A margin is looked
at after one: what kinds differ by counts as noise then, and only what is plain stands out from it."""
LEAST_LAUNCHES = 3
"""Of a comparison over several, before it is looked at."""
EARLY_LAUNCHES = 2
"""The same where there is a margin, for what is plain already; of two launches nothing else is believed."""
LEAST_NARROW = 4
"""The same where there is no margin: from so many on a launch that lies apart does not decide."""
HOPELESS = 0.1
"""Chance of getting above the margin with all rounds that are left, below which they are not made."""
WORTH = 0.5
"""Least ratio of a shape's share of the doubt to its share of the time, for it to get further rounds."""
PLAINLY_FASTER = "plainly faster"
NOT_FASTER, HARDLY_FASTER = "not faster", "hardly can become faster"
"""Why a kernel is measured no further which did not get above the margin."""
_DEVIATIONS = NormalDist().inv_cdf(0.99)
"""Of an estimate in half of the interval that promotes, where its deviation is well known."""
Paired = Callable[[str, str], Launches]
"""Log-ratios of a shape beside an arm, by launch."""


class Stopping:
    """The rules of one comparison over shapes whose kinds of inputs take `turns` rounds until all had theirs."""

    def __init__(self, plan: TimingPlan, shapes: Sequence[Shape], *, turns: int) -> None:
        self._plan = plan
        self._turns = turns
        self._weights = {shape.id: shape.weight for shape in shapes}
        self.open = list(shapes)
        """Those that the next round is for."""
        self._known = LEAST_ROUNDS if turns == 1 else max(LEAST_ROUNDS, LEAST_TURNS * turns)
        """From so many rounds on it is told which shapes vary most."""
        is_looked_at = turns == 1 or plan.margin is not None
        least = plan.min_rounds if is_looked_at else max(plan.min_rounds, LEAST_TURNS * turns)
        self.rounds = self._in_turns(math.ceil(plan.max_rounds / plan.launches))
        """Of a launch at most."""
        self._first = min(self._in_turns(least), self.rounds)
        self._looks = self._looks_at_launches() if plan.launches > 1 else self._looks_at_rounds()

    def after_round(
        self, rounds: int, spent_s: float, paired: Paired, *, others: Collection[str], round_s: Mapping[str, float]
    ) -> str:
        """Why no further round of this launch is needed, or "".

        rounds, spent_s: of this launch; others: the arms that the kernel is compared with; round_s: by shape, seconds
        that its rounds took.
        """
        plan = self._plan
        if spent_s > plan.budget_s / plan.launches:
            return f"time budget of {plan.budget_s:g} s spent"
        if rounds < self._first or rounds % self._turns or plan.launches > 1:
            return ""
        if plan.margin is not None:
            return self._looked_at(rounds, self.rounds, paired, round_s) if rounds in self._looks else ""
        if not others:
            return ""
        self.open = [x for x in self.open if max(_width(paired(x.id, arm)) for arm in others) >= plan.precision]
        return "" if self.open else "intervals narrow enough"

    def after_launch(
        self, launches: int, paired: Paired, *, others: Collection[str], slowest: Callable[[], float]
    ) -> str:
        """Why no further launch is needed, or "".

        others: the arms that the kernel is compared with; slowest: the log-ratio to the baseline on the kind of inputs
        where the kernel gains least.
        """
        plan = self._plan
        if plan.launches == 1:
            return ""
        if plan.margin is None:
            if launches < LEAST_NARROW or not others:
                return ""
            found = [{shape: paired(shape, arm) for shape in self._weights} for arm in others]
            widths = [stats.geomean_interval(each, self._weights).half_width for each in found]
            return "interval narrow enough" if max(widths) < plan.precision else ""
        if launches not in self._looks:
            return ""
        reason = self._looked_at(launches, plan.launches, paired, {})
        # What may have been lost on one kind of inputs is known by then as badly as of a single launch.
        return "" if reason == PLAINLY_FASTER and launches < plan.launches and slowest() < -SAME else reason

    def lets_go(self, reason: str) -> bool:
        """Whether that is why a candidate ends which had to be faster, so that nothing comes of its times."""
        return reason in (NOT_FASTER, HARDLY_FASTER) and (self._plan.margin or 0.0) >= 0

    def _looked_at(self, done: int, last: int, paired: Paired, round_s: Mapping[str, float]) -> str:
        """What the margin's question comes to after `done` of `last` rounds, or launches; "" where it is open."""
        margin = self._plan.margin
        assert margin is not None
        shapes = {shape: paired(shape, BASELINE) for shape in self._weights}
        sharing = 1 if self._plan.looks_freely else len(self._looks)
        confidence = stats.confidence_of_looks(sharing, risk=self._plan.risk)
        found = stats.located_together(shapes, self._weights)
        bound = stats.interval_of(found, confidence=confidence)
        if bound.low > margin:
            return PLAINLY_FASTER
        if bound.high < margin:
            return NOT_FASTER
        is_early = self._plan.launches > 1 and done < LEAST_LAUNCHES
        if margin >= 0 and not is_early and chance_of_rising(found, margin, done / last) < HOPELESS:
            return HARDLY_FASTER
        if done >= self._known:
            self._allot(shapes, round_s)
        return ""

    def _allot(self, shapes: Mapping[str, Launches], round_s: Mapping[str, float]) -> None:
        """Give the next rounds to the shapes whose share of the doubt is worth their time."""
        doubts = {shape: self._weights[shape] ** 2 * stats.located(each).variance for shape, each in shapes.items()}
        doubt, time_s = sum(doubts.values()), sum(round_s.values())
        if not doubt or not time_s:
            return
        worth = {shape: each / doubt / (round_s[shape] / time_s) for shape, each in doubts.items()}
        self.open = [x for x in self.open if worth[x.id] >= WORTH] or self.open

    def _looks_at_rounds(self) -> tuple[int, ...]:
        """After how many rounds of the only launch it is looked at what a margin's question comes to."""
        if self._plan.looks_freely:
            return (*range(self._first, self.rounds, self._first), self.rounds)
        return stats.looks(self._first, self.rounds)

    def _looks_at_launches(self) -> tuple[int, ...]:
        """The same after how many launches."""
        last = self._plan.launches
        if last <= LEAST_LAUNCHES:
            return (last,)
        if self._plan.looks_freely:
            return tuple(range(EARLY_LAUNCHES, last + 1))
        # Once more where a launch that lies apart is drawn in: on a noisy machine most is decided there.
        return (EARLY_LAUNCHES, LEAST_LAUNCHES, *stats.looks(stats.ENOUGH_LAUNCHES, last))

    def _in_turns(self, rounds: int) -> int:
        """So many rounds of a launch, or as many more as it takes for every kind of inputs to have as many turns."""
        return self._turns * math.ceil(rounds / self._turns)


def chance_of_rising(found: Located, margin: float, done: float) -> float:
    """How likely the interval ends above the margin, after `done`, a share of what may be measured, came to `found`.

    The estimate wanders as a mean does whose rest is drawn around it, and its deviation narrows with the root of what
    it rests on (conditional power under the present estimate). How little is known of that deviation now is left out:
    it widens the interval of few launches many times, and will not at the end.
    """
    deviation = math.sqrt(found.variance)
    lead = found.estimate - _DEVIATIONS * deviation * math.sqrt(done) - margin
    if done >= 1 or not deviation:
        return float(lead > 0)
    return NormalDist().cdf(lead / (deviation * math.sqrt(1 - done)))


def _width(launches: Launches) -> float:
    return stats.interval(launches).half_width
