"""Rows of choices in which every two choices of different factors meet, in few rows (a covering array of pairs).

A fault that takes two conditions (a mask and unequal lengths, a layout of keys and another of values) shows in at least
one row; varied one at a time, it would show in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from random import Random

Level = str
Levels = dict[str, Level]
_Pair = frozenset[tuple[str, Level]]


def covering(
    factors: Mapping[str, Sequence[Level]], random: Random, *, together: Mapping[str, Sequence[str]] | None = None
) -> list[Levels]:
    """Rows that name a level of each factor, drawn anew by `random`, until all pairs have met.

    together: for a factor named here only its pairs with the factors that are listed need to meet; each of its levels
    occurs all the same.
    """
    limited = together or {}
    missing = {
        frozenset({(one, x), (other, y)}): None  # in the same order in every process, unlike a set
        for one, other in combinations(factors, 2)
        if (one not in limited or other in limited[one]) and (other not in limited or one in limited[other])
        for x in factors[one]
        for y in factors[other]
    }
    rows: list[Levels] = []
    while missing:
        row = _row(factors, missing, random)
        for pair in combinations(row.items(), 2):
            missing.pop(frozenset(pair), None)
        rows.append(row)
    return rows


def _row(factors: Mapping[str, Sequence[Level]], missing: dict[_Pair, None], random: Random) -> Levels:
    """A row around one pair that has not met, completed by the levels that bring most others together."""
    row: Levels = dict(sorted(random.choice(list(missing))))
    for name in random.sample([name for name in factors if name not in row], k=len(factors) - len(row)):
        levels = random.sample(factors[name], k=len(factors[name]))

        def new_pairs(level: Level, name: str = name) -> int:
            return sum(frozenset({(name, level), other}) in missing for other in row.items())

        row[name] = max(levels, key=new_pairs)
    return row
