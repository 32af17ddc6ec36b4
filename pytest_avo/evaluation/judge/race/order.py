"""The order in which arms run in a round: what ran just before leaves its mark on clocks and caches."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from pytest_avo.core.evaluation import BASELINE, KERNEL

PAIR = (KERNEL, BASELINE)
"""Who is compared in a verdict: one runs right after the other. A shared machine is not as fast a slice later."""


class Order:
    """Drawn anew for every other round, and reversed in the one after it; a PAIR stays side by side."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._present: list[str] = []
        self._backwards = True

    def next(self, arms: Collection[str]) -> list[str]:
        """The arms in the order of the next round."""
        self._present, self._backwards = self._present[::-1], not self._backwards
        if not self._backwards or set(self._present) != set(arms):
            self._present, self._backwards = self._drawn(arms), False
        return self._present

    def _drawn(self, arms: Collection[str]) -> list[str]:
        """The arms in any order in which a pair is side by side, each as likely."""
        pair = [name for name in PAIR if name in arms]
        units = [[name] for name in sorted(arms) if name not in pair] + ([pair] if pair else [])
        self._random.shuffle(pair)
        self._random.shuffle(units)
        return [name for unit in units for name in unit]
