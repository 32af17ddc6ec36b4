"""Whether a kernel slows down what runs right after it: work that it left behind, out of reach of the freezing.

The order of the arms changes from round to round, so every arm runs at times right after the kernel and at times before
it. An honest kernel leaves warm or cold caches, which is a matter of some percent; work that goes on takes a core, or a
part of the device, from whoever is next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

LEAST_SLICES = 8
"""Of either kind, before anything is said."""
MOST_SLOWED = 0.3
"""Share by which most of the slices after the kernel may exceed most of all others."""
QUICK, SLOW = 0.4, 0.75
"""Quantiles. A machine that is busy for a while slows down some slices, a kernel that works on every one after it."""


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

    def found(self) -> tuple[str, str] | None:
        """The shape, and in words what became of whom, where the kernel slows others down; else None."""
        for (shape, arm), after in self._after.items():
            other = self._other.get((shape, arm), [])
            if min(len(after), len(other)) < LEAST_SLICES:
                continue
            quick, slow = float(np.quantile(after, QUICK)), float(np.quantile(other, SLOW))
            if quick > (1 + MOST_SLOWED) * slow:
                return shape, f"{arm} takes {quick / slow - 1:.0%} longer right after it"
        return None
