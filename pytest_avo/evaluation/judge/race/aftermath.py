"""Whether a kernel slows down what runs right after it: work that it left behind, out of reach of the freezing.

The order of the arms changes from round to round, so every arm runs at times right after the kernel and at times before
it. An honest kernel leaves warm or cold caches, which is a matter of some percent; work that goes on takes a core, or a
part of the device, from whoever is next.

What rounds show is a suspicion: on a busy machine a few dozen times, grouped afterwards, differ by half for no reason.
So it is put to a trial: the slowed arm is called again and again, right after the kernel or right after itself, which
of the two is drawn each time. Whatever else the machine does then strikes both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np

LEAST_SLICES = 8
"""Slices right after the kernel, and others, that there must be before anything is suspected."""
MOST_SLOWED = 0.3
"""Share by which most of the slices after the kernel may exceed most of all others."""
QUICK, SLOW = 0.4, 0.75
"""Quantiles. A machine that is busy for a while slows down some slices, a kernel that works on every one after it."""
TRIALS = 16
"""Slices of either kind in a trial."""
SURE = 0.25
"""Quantile in the place of QUICK there: three of four slices after the kernel are slower than three of four others,
which chance makes of 16 and 16 once in some thousand trials, before they are to be slower by MOST_SLOWED."""
MOST_NOISE = 2.0
"""Ratio of the quantiles SLOW and SURE of the other slices above which nothing can be told."""
LEAST_DISTURBED = 3
"""Slices before which a GPU had work although every process stood still, before anything is suspected."""
DRAINS, WAITING_TRIALS, MOST_WAITING = 2, 6, 2
"""Slices of nobody's in a trial, by which what was left before is done; slices of the suspect; and after how many of
these the GPU may have work, since work that waits need not come of each."""
TrialEnd = Literal["guilty", "innocent", "unclear"]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whom a kernel seems to slow down, on which shape, and by what share."""

    shape: str
    arm: str
    slowed: float

    @property
    def words(self) -> str:
        return f"{self.arm} takes {self.slowed:.0%} longer right after it"


@dataclass(slots=True)
class Aftermath:
    """Seconds of the slices of other arms, by (shape, arm), right after the kernel's and otherwise."""

    kernel: str
    _after: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _other: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _last: str = ""

    def note(self, shape: str, arm: str, seconds: float) -> None:
        """One timed slice; in the order in which they ran."""
        kept = self._after if self._last == self.kernel else self._other
        if arm != self.kernel:
            kept.setdefault((shape, arm), []).append(seconds)
        self._last = arm

    def suspicion(self) -> Suspicion | None:
        """Who seems to be slowed down most by the kernel, or None."""
        found: list[Suspicion] = []
        for (shape, arm), after in self._after.items():
            other = self._other.get((shape, arm), [])
            if min(len(after), len(other)) >= LEAST_SLICES:
                found.append(Suspicion(shape, arm, _slowed(after, other, quick=QUICK)))
        worst = max(found, key=lambda each: each.slowed, default=None)
        return worst if worst is not None and worst.slowed > MOST_SLOWED else None


def tried(seconds: Callable[[bool], float], random: Random) -> tuple[TrialEnd, float]:
    """Put a suspicion to a trial: what comes of it, and the share by which the kernel slows the arm down.

    seconds: of a slice of the suspected arm, right after the kernel (True) or right after itself (False).
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    for after in random.sample([True, False] * TRIALS, k=2 * TRIALS):
        times[after].append(seconds(after))
    slowed = _slowed(times[True], times[False], quick=SURE)
    if slowed > MOST_SLOWED:
        return "guilty", slowed
    calm = float(np.quantile(times[False], SLOW)) <= MOST_NOISE * float(np.quantile(times[False], SURE))
    return ("innocent" if calm else "unclear"), slowed


def waiting(suspects: Iterable[str], disturbs: Callable[[str], bool], *, nobody: str) -> str:
    """Which of the suspects leaves work on a GPU that begins when the next arguments are written, or "".

    Streams can wait for a value in memory, which occupies nothing and is seen by nobody until it has come. disturbs:
    whether the GPU has work once arguments are written after a slice of an arm; nobody: an arm that leaves none.
    """
    for suspect in suspects:
        for _ in range(DRAINS):
            disturbs(nobody)
        if sum(disturbs(suspect) for _ in range(WAITING_TRIALS)) > MOST_WAITING:
            return suspect
    return ""


def _slowed(after: list[float], other: list[float], *, quick: float) -> float:
    return float(np.quantile(after, quick)) / float(np.quantile(other, SLOW)) - 1
