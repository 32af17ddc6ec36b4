"""What a race has measured of one shape: slices by arm, launch and round, and the times of calls that they make."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median

from pytest_avo.core import stats
from pytest_avo.core.evaluation import KERNEL, CallCost, Reading, Timing
from pytest_avo.core.shape import InputKind
from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.judge.peers import EMPTY

CLOCK_TOLERANCE = 0.10
CLOCK_SLACK_S = {"cpu": 0.005, "cuda": 0.001}
CLOCK_FACTOR = 2.0
"""How far a process's own account of a slice may fall short of what its first thread worked, beyond twice what honest
arms show: a share of the slice and a time, by kind of device. A larger gap means a false clock or work outside the
call."""
LONG_SLICE = 4.0
"""How many times as long as a slice is to be at least the slowest arm's may get by taking several calls: of a naive
kernel beside a good peer they took most of the time, and told no more. Half as long they held so few calls that kernels
which change after twenty were never seen to."""
LEAST_SHARE = 0.02
"""What is left of a slice at least when the empty one is subtracted: a kernel that takes no time is a mistake."""


def calls_in_slice(seconds: Collection[float], overhead_s: float, *, slice_s: float, place: str) -> int:
    """How many calls make a slice, all arms alike: enough for the fastest one's to last, unless the slowest's drag on.

    seconds: of a call of each arm; overhead_s: of one that does nothing.
    """
    fastest, slowest = min(seconds), max(seconds)
    # On a busy CPU the empty call may be the one that was interrupted; on a GPU it is nearly all of a single call.
    least_s = fastest / 2 if place == "cpu" else 1e-6
    wanted = math.ceil(slice_s / max(fastest - overhead_s, least_s))
    return max(1, min(wanted, int(LONG_SLICE * slice_s / slowest)))


@dataclass(frozen=True, slots=True)
class Account:
    """How much less time a process accounts for: than the judge's clock, and than its first thread worked.

    What it waited for in between (a core, a lock that a helper of its own holds) it need not account for: that is in
    its time all the same.
    """

    unclaimed_s: float
    worked_s: float


class Samples:
    """Seconds of slices by the judge's clock, with the kinds of inputs that their rounds were on."""

    def __init__(self, place: str) -> None:
        """place: kind of torch device, "cpu" or "cuda"."""
        self._place = place
        self.calls = 0
        """Calls in a slice; 0 until that is known."""
        self.kinds: list[list[InputKind]] = []
        self.slices: dict[str, list[list[float]]] = {}
        self._accounts: dict[str, list[Account]] = {}
        """Accounts by arm, of all slices, untimed ones too."""

    def note_account(self, arm: str, found: Slice) -> None:
        """Take down what a process says of a slice beside what was measured."""
        worked = min(found.seconds, found.worked_s) - found.claimed_s
        self._accounts.setdefault(arm, []).append(Account(found.seconds - found.claimed_s, worked))

    def begin_launch(self, arms: Iterable[str]) -> None:
        """Make room for the rounds of one more launch."""
        self.kinds.append([])
        for arm in arms:
            self.slices.setdefault(arm, []).append([])

    def missing(self, kinds: Iterable[InputKind]) -> list[InputKind]:
        """The kinds of inputs that a launch had no round on, launch after launch."""
        return [kind for launch in self.kinds for kind in sorted(set(kinds) - set(launch))]

    def seconds(self, arm: str) -> list[list[float]]:
        """Seconds per call, by launch and round: the slices less what an empty one takes."""
        return [
            [max(slice_s - overhead, LEAST_SHARE * slice_s) / self.calls for slice_s in rounds]
            for rounds, overhead in zip(self.slices[arm], self.empty_s(), strict=True)
        ]

    def paired(self, arm: str) -> list[list[float]]:
        """Log-ratios of an arm's times to the kernel's, by launch and round."""
        pairs = zip(self.seconds(arm), self.seconds(KERNEL), strict=True)
        return stats.levelled([stats.log_ratios(x, y) for x, y in pairs], self.kinds)

    def timing(
        self,
        *,
        stopped: str,
        readings: tuple[Reading, ...],
        too_few: str,
        costs: dict[str, CallCost],
        eager: bool,
    ) -> Timing:
        """All of it, with what else there is to say of the comparison."""
        return Timing(
            seconds={arm: tuple(map(tuple, self.seconds(arm))) for arm in self.slices if arm != EMPTY},
            calls=self.calls,
            stopped=stopped,
            readings=readings,
            too_few=too_few,
            kinds=tuple(map(tuple, self.kinds)),
            costs=costs,
            eager=eager,
            harness_s=median(self.empty_s()) / self.calls,
        )

    def empty_s(self) -> list[float]:
        """Seconds of an empty slice, by launch; on a CPU before the first round of all."""
        number = len(self.kinds)
        launches = self.slices.get(EMPTY) or [[]] * number
        if self._place == "cpu":
            return [min(launches[0], default=0.0)] * number
        return [median(rounds) if rounds else 0.0 for rounds in launches]

    def clock_fault(self) -> str:
        """What is wrong with the account that the kernel's process gives of its time, beside the other arms', or ""."""
        # The least of all slices: a false clock is off in each of them, a busy machine leaves one alone.
        missing = min(each.unclaimed_s for each in self._accounts[KERNEL])
        worked = min(each.worked_s for each in self._accounts[KERNEL])
        others = [min(x.worked_s for x in accounts) for name, accounts in self._accounts.items() if name != KERNEL]
        if not others:
            return ""  # what the harness itself takes of a thread is not known without another arm
        slack_s = CLOCK_SLACK_S[self._place]
        slices = [x for rounds in self.slices[KERNEL] for x in rounds]
        allowed = CLOCK_FACTOR * max(0.0, *others) + CLOCK_TOLERANCE * median(slices) + slack_s
        if missing >= -slack_s and worked <= allowed:
            return ""
        return f"its process accounts for {missing * 1e3:+.1f} ms less than the judge's clock"
