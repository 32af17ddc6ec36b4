"""Selection: what holds for every history, by hypothesis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_avo.evolution.selection import MIGRATION_INTERVAL, Contender, contenders, island_of, migrated, parents

SEED = Contender(attempt=1, generation=0, island=0, score=0.0, promoted=True)
GENERATIONS = 3 * MIGRATION_INTERVAL


@st.composite
def histories(draw: st.DrawFn, *, islands: int, promotes: bool = True) -> list[Contender]:
    """Confirmed attempts, in the order in which they finished: generation by generation."""
    generations = sorted(draw(st.lists(st.integers(1, GENERATIONS), max_size=20)))
    return [
        Contender(
            attempt=number,
            generation=generation,
            island=draw(st.integers(0, islands - 1)),
            score=draw(st.floats(-1, 3, allow_nan=False)),
            promoted=promotes and draw(st.booleans()),
        )
        for number, generation in enumerate(generations, start=2)
    ]


sizes = st.tuples(st.integers(1, 4), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))
"""Islands, and a population that fills them."""


@given(st.data(), sizes, st.integers(1, GENERATIONS + 2), st.integers())
def test_every_parent_contends_on_its_members_island(
    data: st.DataObject, size: tuple[int, int], generation: int, run_seed: int
) -> None:
    islands, population = size
    history = data.draw(histories(islands=islands))
    chosen = parents(SEED, history, generation=generation, population=population, islands=islands, run_seed=run_seed)
    pools = contenders(SEED, history, generation=generation, islands=islands)
    assert len(chosen) == population
    for member, parent in enumerate(chosen):
        assert parent in pools[island_of(member, islands)]
        assert parent in (SEED, *history), "only what was confirmed is varied"
        assert parent.generation < generation
    assert [chosen[island] for island in range(islands)] == [pool[0] for pool in pools]


@given(st.data(), sizes, st.integers(1, GENERATIONS), st.integers())
def test_the_same_history_and_seed_give_the_same_parents(
    data: st.DataObject, size: tuple[int, int], generation: int, run_seed: int
) -> None:
    islands, population = size
    history = data.draw(histories(islands=islands))
    past = [one for one in history if one.generation < generation]

    def choose(known: list[Contender]) -> list[Contender]:
        return parents(SEED, known, generation=generation, population=population, islands=islands, run_seed=run_seed)

    assert choose(history) == choose(history) == choose(past), "what comes later changes nothing"


@given(st.data())
def test_one_member_on_one_island_varies_what_was_promoted_last(data: st.DataObject) -> None:
    history = [one for one in data.draw(histories(islands=1)) if one.promoted]
    for generation in range(1, GENERATIONS + 2):
        [parent] = parents(SEED, history, generation=generation, population=1, islands=1, run_seed=0)
        assert parent == [SEED, *(one for one in history if one.generation < generation)][-1]


@given(st.data(), st.integers(1, 4))
def test_without_promotions_the_best_of_an_island_never_gets_worse(data: st.DataObject, islands: int) -> None:
    history = data.draw(histories(islands=islands, promotes=False))
    before = [SEED] * islands
    for generation in range(1, GENERATIONS + 2):
        best = [pool[0] for pool in contenders(SEED, history, generation=generation, islands=islands)]
        assert all(new.score >= old.score for new, old in zip(best, before, strict=True))
        before = best


@given(st.data(), st.integers(1, 4))
def test_migration_adds_the_neighbours_best_and_removes_nobody(data: st.DataObject, islands: int) -> None:
    history = data.draw(histories(islands=islands))
    before = contenders(SEED, history, generation=GENERATIONS + 1, islands=islands)
    after = migrated(before)
    for island, (old, new) in enumerate(zip(before, after, strict=True)):
        assert new[: len(old)] == old
        assert len({one.attempt for one in new}) == len(new), "nobody stands there twice"
        best = max(one.score for one in new)
        assert best == max(old[0].score, before[island - 1][0].score)


def test_an_island_takes_over_the_better_kernel_of_its_neighbour_when_it_migrates() -> None:
    fast = Contender(attempt=2, generation=1, island=0, score=0.5)
    for generation in range(2, MIGRATION_INTERVAL + 1):
        assert [pool[0] for pool in contenders(SEED, [fast], generation=generation, islands=3)] == [fast, SEED, SEED]
    once = [pool[0] for pool in contenders(SEED, [fast], generation=MIGRATION_INTERVAL + 1, islands=3)]
    assert once == [fast, fast, SEED]
    twice = [pool[0] for pool in contenders(SEED, [fast], generation=2 * MIGRATION_INTERVAL + 1, islands=3)]
    assert twice == [fast, fast, fast]


def test_further_members_draw_the_better_the_likelier() -> None:
    history = [Contender(attempt=2 + n, generation=1, island=0, score=0.1 * n) for n in range(1, 4)]
    drawn = [
        parents(SEED, history, generation=2, population=2, islands=1, run_seed=run_seed)[1].attempt
        for run_seed in range(2000)
    ]
    counts = [drawn.count(attempt) for attempt in (5, 4, 3, 1)]
    assert counts == sorted(counts, reverse=True)
    assert 0.48 < counts[0] / 2000 < 0.59, "8 of 15"
