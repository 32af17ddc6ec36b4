"""A run as plain values: what pages and exports are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.lineage.view import View
from pytest_avo.report.page.facts import RunFacts
from tests.evolution.world import SHAPES, World, proposal, source


def told(world: World) -> RunFacts:
    with View(world.kernel.parent.parent / ".avo" / "lineage.sqlite3", 1) as view:
        return Chronicle(view).facts()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.evolve(
        proposal(source(200), "twice as fast", predicted={"geomean": 1.5}),
        proposal(source(150), "slower again", lesson="less is more"),
        proposal(source(300, result="incorrect"), "wrong"),
    )
    return world


def test_attempts_are_told_with_gains_speeds_and_what_the_run_had_spent(world: World) -> None:
    run = told(world)
    seed, fast, slow, wrong = run.attempts
    assert [each.status for each in run.attempts] == ["seed", "promoted", "slower", "incorrect"]
    assert fast.gain is not None
    assert fast.gain.estimate == pytest.approx(2.0, rel=0.01)
    assert fast.is_confirmed
    assert (fast.predicted, slow.predicted) == (1.5, None)
    assert slow.speed is not None
    assert slow.speed.estimate == pytest.approx(1.5, rel=0.02)
    assert wrong.speed is None
    assert seed.evaluations < fast.evaluations < slow.evaluations < wrong.evaluations
    assert slow.parent == fast.id
    assert "SPEED, FRESH, RESULT = 200" in slow.parent_source
    assert slow.lesson == "less is more"
    assert run.over_seed is not None
    assert run.ledger["attempts"] == "3"


def test_a_shape_is_told_beside_the_parent_and_the_seed_beside_nothing(world: World) -> None:
    seed, fast, *_ = told(world).attempts
    assert [each.shape for each in fast.shapes] == [shape.id for shape in SHAPES]
    assert all(each.ratio is None for each in seed.shapes)
    for each in fast.shapes:
        assert each.ratio is not None
        assert each.ratio.low <= each.ratio.estimate <= each.ratio.high
        assert each.ratio.estimate == pytest.approx(2.0, rel=0.01)
        assert each.median_us is not None


def test_a_chronicle_that_is_asked_again_says_what_is_new(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.evolve(proposal(source(200), "twice as fast"))
    with View(world.kernel.parent.parent / ".avo" / "lineage.sqlite3", 1) as view:
        chronicle = Chronicle(view)
        before, first = chronicle.state(), chronicle.facts()
        assert chronicle.state() == before
        assert chronicle.facts() == first
