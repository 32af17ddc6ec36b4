"""Which attempt each member of a generation varies: islands of contenders, and migration between them. Pure rules.

A population of K members lives on N islands, member m on island m mod N. The contenders of an island are the seed, its
own attempts that were confirmed to be faster than their parents, and migrants. What holds:

- A parent is always correct: only the seed and confirmed attempts contend.
- The best of an island never gets worse but by a promotion, which was measured directly against the kernel's file:
  migration adds a contender and removes none, and an attempt that is promoted ends all earlier ones of its island.
- The first member of an island varies the best contender, so one member on one island is a single lineage: it varies
  the attempt that was promoted last.
- The same history, generation and seed give the same parents: a resumed run goes on as if it had never stopped.

Scores add up along chains of comparisons. They steer the search and nothing else: what lands in the kernel's file was
compared with what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

MIGRATION_INTERVAL = 5
"""Generations after which each island gets the best contender of the one before it, the first that of the last."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An attempt that may be varied."""

    attempt: int
    generation: int
    island: int
    score: float
    """Log-ratio to the seed."""
    promoted: bool = False
    """Whether it landed in the kernel's file."""


def island_of(member: int, islands: int) -> int:
    """The island that a member lives on."""
    return member % islands


def contenders(
    seed: Contender, history: Sequence[Contender], *, generation: int, islands: int
) -> list[list[Contender]]:
    """The contenders of each island when `generation` begins, best first; never empty.

    `history` holds all confirmed attempts in the order in which they finished; later generations are left out.
    """
    pools = [[seed] for _ in range(islands)]
    finished: dict[int, list[Contender]] = {}
    for one in history:
        finished.setdefault(one.generation, []).append(one)
    for past in range(1, generation):
        for one in finished.get(past, ()):
            pools[one.island] = [one] if one.promoted else [*pools[one.island], one]
        if past % MIGRATION_INTERVAL == 0:
            pools = migrated(pools)
    return [_ranked(pool) for pool in pools]


def parents(
    seed: Contender, history: Sequence[Contender], *, generation: int, population: int, islands: int, run_seed: int
) -> list[Contender]:
    """The parent of each member of a generation.

    The first member on an island varies its best contender; each further one draws, the better the likelier: every
    contender has half the chance of the one before it.
    """
    pools = contenders(seed, history, generation=generation, islands=islands)
    chosen = []
    for member in range(population):
        pool = pools[island_of(member, islands)]
        if member < islands:
            chosen.append(pool[0])
        else:
            chance = Random(f"{run_seed}/{generation}/{member}")
            chosen.extend(chance.choices(pool, weights=[0.5**rank for rank in range(len(pool))]))
    return chosen


def migrated(pools: Sequence[Sequence[Contender]]) -> list[list[Contender]]:
    """Every island sends a copy of its best to the next one, all at once; none loses anybody."""
    best = [_ranked(pool)[0] for pool in pools]
    known = [{one.attempt for one in pool} for pool in pools]
    return [
        [*pool, best[island - 1]] if best[island - 1].attempt not in known[island] else list(pool)
        for island, pool in enumerate(pools)
    ]


def _ranked(pool: Iterable[Contender]) -> list[Contender]:
    """Best first; of equals the earlier one."""
    return sorted(pool, key=lambda one: -one.score)
