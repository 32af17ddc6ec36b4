"""The order in which arms run in a round: what ran just before leaves its mark on clocks and caches."""

from __future__ import annotations

from collections.abc import Collection
from random import Random


class Order:
    """Drawn anew for every other round, and reversed in the one after it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._present: list[str] = []
        self._backwards = True

    def next(self, arms: Collection[str]) -> list[str]:
        """The arms in the order of the next round."""
        self._present, self._backwards = self._present[::-1], not self._backwards
        if not self._backwards or set(self._present) != set(arms):
            self._present, self._backwards = sorted(arms), False
            self._random.shuffle(self._present)
        return self._present
