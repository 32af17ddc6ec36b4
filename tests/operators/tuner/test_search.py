"""The search: no configuration twice, none left out, a dozen attempts well spent."""

from __future__ import annotations

import random
import threading
from statistics import mean

import pytest

from pytest_avo.core.kernel import Tunable
from pytest_avo.operators.tuner.search import Configuration, Measured, next_configuration, position

SPACE = (
    Tunable("BLOCK_Q", 32, (32, 64, 128, 256)),
    Tunable("BLOCK_K", 128, (128, 512, 2048, 8192)),
    Tunable("SKIP", False, (False, True)),
    Tunable("GROUP", False, (False, True)),
    Tunable("SOFTMAX", "passes", ("passes", "fused", "online")),
    Tunable("UNROLL", 1, (1, True)),
)
SEED: Configuration = {tunable.name: tunable.value for tunable in SPACE}


class Landscape:
    """A log score to the seed: effects of the values added up, block sizes with one peak; one value is refused."""

    def __init__(self, seed: int, refused: str | None) -> None:
        self.chance = random.Random(seed)
        self.refused = refused
        self.effects: dict[str, list[float]] = {}
        for tunable in SPACE:
            count = len(tunable.choices)
            if count == 4:
                peak, width = self.chance.randrange(1, 4), self.chance.uniform(0.05, 0.15)
                raw = [-width * (index - peak) ** 2 for index in range(count)]
            else:
                raw = [0.0, *(self.chance.gauss(0.03, 0.1) for _ in range(count - 1))]
            self.effects[tunable.name] = [effect - raw[0] for effect in raw]

    def score(self, values: Configuration) -> float:
        return sum(self.effects[t.name][position(t, values[t.name])] for t in SPACE)

    def best(self) -> float:
        allowed = {t.name: [i for i, choice in enumerate(t.choices) if choice != self.refused] for t in SPACE}
        return sum(max(self.effects[name][index] for index in indices) for name, indices in allowed.items())

    def evolve(self, *, generations: int, noise: float, floor: float) -> float:
        """True score of the incumbent at the end, where gains above the floor are promoted."""
        incumbent, reached = SEED, 0.0
        measured = [Measured(SEED, 0.0)]
        for generation in range(generations):
            values = next_configuration(
                SPACE,
                measured,
                incumbent=incumbent,
                is_tried=lambda values: any(_same(values, one.values) for one in measured),
                seed=generation,
            )
            assert values is not None
            if self.refused in values.values():
                measured.append(Measured(values, None))
                continue
            gain = self.score(values) - self.score(incumbent) + self.chance.gauss(0, noise)
            measured.append(Measured(values, reached + gain))
            if gain > floor:
                incumbent, reached = values, reached + gain
        return self.score(incumbent)


def _same(one: Configuration, other: Configuration) -> bool:
    return all(position(t, one[t.name]) == position(t, other[t.name]) for t in SPACE)


@pytest.mark.parametrize("refused", [None, "online"])
@pytest.mark.parametrize(("noise", "floor", "share"), [(0.01, 0.02, 0.94), (0.03, 0.08, 0.88)])
def test_twelve_attempts_reach_most_of_the_optimum(
    refused: str | None, noise: float, floor: float, share: float
) -> None:
    shares = [
        landscape.evolve(generations=12, noise=noise, floor=floor) / landscape.best()
        for landscape in (Landscape(seed, refused) for seed in range(12))
    ]
    assert mean(shares) > share, shares


def test_every_configuration_comes_exactly_once_and_then_none() -> None:
    space = SPACE[2:]
    seen: list[Configuration] = []
    while True:
        values = next_configuration(
            space, [], incumbent=SEED, is_tried=lambda values: _index(values) in set(map(_index, seen)), seed=len(seen)
        )
        if values is None:
            break
        seen.append(values)
    assert len(seen) == 2 * 2 * 3 * 2
    assert len({_index(values) for values in seen}) == len(seen)


def _index(values: Configuration) -> tuple[int, ...]:
    return tuple(position(t, values[t.name]) for t in SPACE[2:])


def test_the_same_question_has_the_same_answer() -> None:
    measured = [Measured(SEED, 0.0), Measured({**SEED, "SKIP": True}, 0.1), Measured({**SEED, "BLOCK_Q": 64}, None)]

    def ask(seed: int) -> Configuration | None:
        return next_configuration(SPACE, measured, incumbent=SEED, is_tried=SEED.__eq__, seed=seed)

    assert ask(2**40 + 3) == ask(2**40 + 3)
    assert len({str(ask(seed)) for seed in range(8)}) > 1


def test_first_attempts_change_one_tunable_each() -> None:
    measured = [Measured(SEED, 0.0)]
    for seed in range(6):
        values = next_configuration(
            SPACE, measured, incumbent=SEED, is_tried=lambda values: _same(values, SEED), seed=seed
        )
        assert values is not None
        assert sum(position(t, values[t.name]) != position(t, SEED[t.name]) for t in SPACE) == 1


def test_what_was_better_but_not_promoted_is_built_upon() -> None:
    measured = [Measured(SEED, 0.0), Measured({**SEED, "SKIP": True}, 0.05), Measured({**SEED, "GROUP": True}, -0.05)]
    tried = [one.values for one in measured]
    for seed in range(6):
        values = next_configuration(
            SPACE, measured, incumbent=SEED, is_tried=lambda values: any(_same(values, one) for one in tried), seed=seed
        )
        assert values is not None
        assert (values["SKIP"], values["GROUP"]) == (True, False)


def test_a_tunable_with_one_value_is_no_obstacle() -> None:
    only = Tunable("ONLY", 3, (3,))
    assert next_configuration([only], [], incumbent={"ONLY": 3}, is_tried=lambda values: True, seed=0) is None


def test_threads_may_search_at_once() -> None:
    found: list[Configuration | None] = []

    def ask(seed: int) -> None:
        found.append(next_configuration(SPACE, [], incumbent=SEED, is_tried=SEED.__eq__, seed=seed))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert None not in found
