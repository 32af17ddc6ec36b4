"""What an evolution came to, for the tables at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.evolution.conclusion import attempt_rows, summary
from tests.evolution.world import Operator, World, proposal, source


def test_attempts_and_totals_at_the_end(tmp_path: Path) -> None:
    world = World(tmp_path, changes={"generations": 3})
    steps = {
        (1, 0): proposal(source(50), "a step back"),
        (2, 0): proposal(source(200), "twice as fast"),
        (3, 0): proposal(source(900, result="incorrect"), "too good"),
    }
    with world.loop(Operator(steps)) as loop:
        loop.run()
        rows = attempt_rows(loop.campaign)
        found = summary(loop.campaign, wall_s=60.0, resume_hint="")
    assert [(row.generation, row.status, row.hypothesis) for row in rows] == [
        (0, "seed", "the seed"),
        (1, "slower", "a step back"),
        (2, "promoted", "twice as fast"),
        (3, "incorrect", "too good"),
    ]
    assert [row.score for row in rows] == pytest.approx([1.0, 1.0, 2.0, 2.0], rel=0.01)
    assert (found.attempts, found.commits, found.rejected) == (3, 1, {"slower": 1, "incorrect": 1})
    assert found.best_ratio is not None
    assert found.best_ratio.estimate == pytest.approx(2.0, rel=0.01)
    assert found.wall_s == 60.0


def test_a_run_that_was_interrupted_says_what_it_knows(tmp_path: Path) -> None:
    world = World(tmp_path)
    campaign = world.open()
    assert attempt_rows(campaign) == []
    found = summary(campaign, wall_s=1.0, resume_hint="pytest --avo-resume")
    assert (found.attempts, found.commits, found.best_ratio) == (0, 0, None)
    assert found.resume_hint == "pytest --avo-resume"
    campaign.close()


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ((20,), "torch-sdpa after 1 attempt and"),
        ((7, 20), "torch-sdpa after 2 attempts and"),
        ((7,), "torch-sdpa not yet"),
    ],
)
def test_the_attempt_that_passed_a_peer_is_named(tmp_path: Path, speeds: tuple[int, ...], expected: str) -> None:
    world = World(tmp_path)
    world.kernel.write_text(source(5))  # the peer is as fast as a 10
    steps = {(number, 0): proposal(source(speed)) for number, speed in enumerate(speeds, start=1)}
    world.changes = {"generations": len(speeds)}
    with world.loop(Operator(steps)) as loop:
        loop.run()
        (found,) = summary(loop.campaign, wall_s=1.0, resume_hint="").passed
    assert found.startswith(expected)


def test_a_seed_that_is_ahead_already_is_said_to_be(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.loop(Operator({})) as loop:
        loop.run()
        assert summary(loop.campaign, wall_s=1.0, resume_hint="").passed == ("torch-sdpa with the seed",)
