"""Facts of a run: as they are stored, and as older versions stored them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from pytest_avo.lineage.events import (
    KINDS,
    Direction,
    DirectionLeft,
    Directions,
    DirectionTaken,
    Fact,
    FenceMark,
    LessonLearnt,
    NoiseFloor,
    Note,
    PredictionChecked,
    Price,
    Profiled,
    Raced,
    Resumed,
    SeedComparison,
    Spending,
    decoded,
    encoded,
    kind_of,
)

FACTS: tuple[Fact, ...] = (
    NoiseFloor(0.003),
    SeedComparison(1.4, 1.3, 1.5, 7),
    SeedComparison(1.4, 1.3, 1.5, 7, by_steps=True),
    Resumed({"generations": "2"}, {"generations": "2"}),
    Price(3, tokens_in=900, tokens_out=90, cost=0.25, lesson="less is more", member=1),
    Spending(attempts=3, turns=9, tokens_in=600, tokens_out=300, cost=0.5, evaluator_s=7.0, wall_s=100.0),
    Spending(),
    Raced(4, 1, "0f" * 32, "g0002", evaluations=2, seconds=3.5, text="a faster, b same"),
    Profiled(4, 1, "0f" * 32, "b1-h2", seconds=9.5, text="tensor pipe 84%"),
    PredictionChecked(7, "geomean predicted 1.2, measured 0.9: too high", {"geomean": "too high"}),
    LessonLearnt("Tiles of 64 spill.", "tiling", "spills", generation=3, member=1),
    Directions(5, "a stall", "It waits.", [Direction("Pack the keys", start_from="g0002")]),
    DirectionTaken(4, 0, 6, 1),
    DirectionLeft(4, 0, 6, 1),
    FenceMark("9f2c"),
    Note("mine", {"why": ["a", None, 1.5]}),
)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_is_read_as_what_was_recorded(fact: Fact) -> None:
    stored = encoded(fact)
    assert decoded(kind_of(type(fact)), stored) == fact
    assert "kind" not in json.loads(stored)


def test_every_kind_is_here() -> None:
    assert {type(fact) for fact in FACTS} == set(KINDS.values())


# As written by the first versions, before generations had members and before the best kernel was named.
OLD: dict[str, tuple[dict[str, object], Fact]] = {
    "noise": ({"floor": 0.01}, NoiseFloor(0.01)),
    "total": ({"ratio": 1.4, "low": 1.3, "high": 1.5}, SeedComparison(1.4, 1.3, 1.5)),
    "proposed": (
        {"tokens_in": 1, "tokens_out": 2, "cost": 0.0, "lesson": "", "generation": 4},
        Price(4, tokens_in=1, tokens_out=2, cost=0.0, lesson=""),
    ),
    "spending": ({"attempts": 2, "cost": None}, Spending(attempts=2)),
    "lesson": (
        {"generation": 1, "member": 0, "text": "t", "technique": "", "symptom": ""},
        LessonLearnt("t", "", "", generation=1),
    ),
    "comparison": ({"attempt": 7, "text": "as predicted"}, PredictionChecked(7, "as predicted")),
    "directions": (
        {"generation": 5, "symptom": "s", "diagnosis": "", "items": [{"title": "Pack", "why": "", "new": 1}]},
        Directions(5, "s", "", [Direction("Pack")]),
    ),
    "stall": ({"after": 3}, Note("stall", {"after": 3})),
}


@pytest.mark.parametrize("kind", OLD)
def test_what_older_versions_and_other_operators_wrote_is_still_read(kind: str) -> None:
    data, fact = OLD[kind]
    assert decoded(kind, json.dumps(data)) == fact


def test_a_fact_that_is_broken_is_not_taken_for_another() -> None:
    with pytest.raises(msgspec.ValidationError, match="floor"):
        decoded("noise", '{"floor": "high"}')


def test_the_columns_are_those_of_every_schema(tmp_path: Path) -> None:
    """Other tools read them: the tag beside the rest as a JSON object."""
    from pytest_avo.core.fingerprint import fingerprint
    from pytest_avo.lineage.store import Store

    with Store.open(tmp_path / "lineage.sqlite3") as store:
        device = fingerprint(target="cpu", device="Some CPU", units=2)
        run = store.start_run(
            kernel="k.py", target="cpu", operator="o", seed=1, shapes=("s",), fingerprint=device, settings={}
        )
        store.add_event(run.id, FenceMark("9f2c"))
        with closing(sqlite3.connect(store.path)) as other:
            assert other.execute("SELECT kind, data FROM event").fetchall() == [("fence", '{"mark":"9f2c"}')]
