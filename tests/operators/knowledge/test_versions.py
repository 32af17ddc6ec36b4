"""Versions of a kernel by the names that a model calls them, on a real lineage."""

from __future__ import annotations

import pytest

from pytest_avo.core.evaluation import KERNEL, Evaluation, Timing
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Verdict
from pytest_avo.operators.knowledge.versions import (
    UnknownVersion,
    bounds,
    find_version,
    line,
    scores,
    spelled,
    version_name,
)
from pytest_avo.operators.operator import Proposal
from tests.operators.steps import FIRST, SECOND, SEED, SHAPES, World

BETTER, SAME = SEED.replace("SPEED = 100", "SPEED = 125"), SEED.replace("RESULT", "OTHER")


def test_versions_are_found_by_the_names_that_they_are_called(world: World) -> None:
    promoted = world.settle(Proposal(BETTER, "unroll"))
    same = world.settle(Proposal(SAME, "rename"), status="same")
    names = {name: find_version(world.view, name, promoted_only=False).id for name in ("seed", "g0001", "g0002")}
    assert names == {"seed": 1, "g0001": promoted.id, "g0002": same.id}
    assert find_version(world.view, "incumbent", promoted_only=True).id == promoted.id
    assert version_name(same) == "g0002"
    with pytest.raises(
        UnknownVersion, match=r"no version 'g0009': expected seed, incumbent or one of seed, g0001, g0002$"
    ):
        find_version(world.view, "g0009", promoted_only=False)


@pytest.mark.parametrize("name", ["1", "g1", "0001", "g0001.0"])
def test_a_number_is_enough(world: World, name: str) -> None:
    promoted = world.settle(Proposal(BETTER, "unroll"))
    assert find_version(world.view, name, promoted_only=False) == promoted
    for other in (f"{name}.2", "2", "1" * 5000, "0"):
        with pytest.raises(UnknownVersion):
            find_version(world.view, other, promoted_only=False)


def test_without_memory_only_what_was_promoted_is_seen(world: World) -> None:
    world.settle(Proposal(SAME, "rename"), status="same")
    with pytest.raises(UnknownVersion):
        find_version(world.view, "g0001", promoted_only=True)


def test_an_attempt_in_one_line(world: World) -> None:
    promoted = world.settle(Proposal(BETTER, "unroll\nthe loop", {FIRST: 1.2}))
    said = line(promoted, world.view.outcomes()[promoted.id], score=0.223)
    assert said.startswith("g0001 | promoted | 1.284x [1.271, 1.297] over its parent | 1.250x the seed | predicted ")
    assert said.endswith("1.200 | unroll the loop")
    assert line(promoted, None, None).startswith("g0001 | under way | predicted")
    assert spelled(Interval(1.0821, 1.0709, 1.0931)) == "1.082x [1.071, 1.093]"


def test_what_an_attempt_achieved_has_a_line_for_every_shape(world: World) -> None:
    promoted = world.settle(Proposal(BETTER, "unroll"))
    first, second = scores(world.view, promoted, SHAPES, floor=0.01)
    assert first.startswith(f"{FIRST}: faster, 8,000.0 us, ")
    assert first.endswith(" of its parent's speed (10,000.0 us)")
    assert second.startswith(f"{SECOND}: faster")
    seed = find_version(world.view, "seed", promoted_only=True)
    assert all(": correct, " in each and "parent" not in each for each in scores(world.view, seed, SHAPES, floor=0.01))


def test_how_far_a_kernel_is_from_the_roofline_and_what_was_none_of_its_time() -> None:
    timing = Timing({KERNEL: ((1e-3,),)}, calls=1, stopped="", least_s=2.5e-5, harness_s=4.5e-5)
    found = Evaluation(FIRST, "ok", timing=timing)
    said = bounds(found, Verdict(FIRST, "correct", median_us=1000.0))
    assert said == ", 0.025 of the roofline (least 25.0 us), the harness's own 45.0 us a call subtracted"
    assert bounds(found, Verdict(FIRST, "incorrect", "wrong")) == ""
    assert bounds(Evaluation(FIRST, "ok"), Verdict(FIRST, "correct")) == ""
