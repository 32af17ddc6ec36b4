"""The working draft: what is wrong with its text, what was evaluated already, and which version is best."""

from __future__ import annotations

import pytest

from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.operator import Proposal
from pytest_avo.operators.tools.draft import SMALLEST, Draft
from pytest_avo.operators.tools.edits import Edit
from pytest_avo.operators.tools.tools import Mistake
from tests.operators.steps import FIRST, SECOND, SEED, SHAPES, World

FASTER, FASTEST = (SEED.replace("SPEED = 100", f"SPEED = {speed}") for speed in (120, 150))
WRONG = SEED.replace('"right"', '"wrong"')


def draft(world: World, text: str = SEED) -> Draft:
    made = Draft(world.task(), memory=None)
    made.accept(Edit(text, "diff"))
    return made


def test_a_draft_is_changed_once_it_is_another_program(world: World) -> None:
    assert not draft(world, f"# a comment\n{SEED}").is_changed
    assert draft(world, FASTER).is_changed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SEED.replace('AVO = {"target": "cpu", "shapes": ["tiny"]}', ""), "no AVO literal"),
        (SEED.replace('"cpu"', '"sm90"'), "expected target cpu, "),
        (SEED.replace('["tiny"]', '["other"]'), "suites tiny, as the parent claims"),
        (f"{SEED}\n(", "line 12"),
    ],
)
def test_what_breaks_the_contract_costs_no_evaluation(world: World, text: str, why: str) -> None:
    broken = draft(world, text)
    with pytest.raises(Mistake, match=why):
        broken.evaluate(SHAPES, timed=True)
    assert world.evaluated == []


def test_shapes_are_named_and_a_wrong_name_gets_the_nearest(world: World) -> None:
    made = draft(world)
    assert made.shapes([]) == list(SHAPES)
    assert [shape.id for shape in made.shapes([SMALLEST, SECOND, SECOND])] == [SECOND]
    assert made.shapes(["all"]) == made.shapes([]) == list(SHAPES)
    with pytest.raises(Mistake, match=f"there is no shape .*{FIRST}"):
        made.shapes([FIRST[:-1]])


def test_nothing_is_evaluated_twice_but_what_was_only_checked_is_timed(world: World) -> None:
    made = draft(world, FASTER)
    made.evaluate(SHAPES[:1], timed=False)
    made.evaluate(SHAPES, timed=True)
    made.accept(Edit(f"{FASTER}\n# the same program\n", "diff"))
    made.evaluate(SHAPES, timed=True)
    assert world.evaluated == [FIRST, FIRST, SECOND]


def test_the_best_version_is_timed_and_right_on_every_shape(world: World) -> None:
    made = draft(world, WRONG)
    made.evaluate(SHAPES, timed=True)
    for text, shapes in ((FASTER, SHAPES), (FASTEST, SHAPES[:1])):
        made.accept(Edit(text, "diff"))
        made.evaluate(shapes, timed=True)
    found = made.best()
    assert found is not None
    tried, gain = found
    assert tried.source == FASTER
    assert gain.estimate == pytest.approx(0.182, abs=0.005)
    assert made.present is not None
    assert made.present.gain(SHAPES) is None


def test_a_finished_attempt_answers_for_the_same_program(world: World) -> None:
    slower = SEED.replace("SPEED = 100", "SPEED = 90")
    attempt = world.settle(Proposal(slower, "slow down"), status="slower", gain=-0.1)
    made = Draft(world.task(), LessonMemory(world.view))
    made.accept(Edit(slower, "diff"))
    assert made.same_as() == attempt
