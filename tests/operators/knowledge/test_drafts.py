"""Drafts that were evaluated on the way, as readers of a run see them."""

from __future__ import annotations

from pytest_avo.operators.knowledge.drafts import draft_line, drafts_of
from tests.operators.steps import FIRST, SEED, SHAPES, World


def test_drafts_are_told_with_their_change_and_what_came_of_it(world: World) -> None:
    task = world.task()
    task.evaluate(SEED.replace("100", "150"), SHAPES, timed=True)
    task.evaluate(SEED.replace("100", "200"), SHAPES[:1], timed=True)
    task.evaluate(SEED.replace('"right"', '"wrong"'), SHAPES[:1], timed=False)
    whole, half, wrong = drafts_of(world.view, task.parent, SHAPES, floor=0.01)
    assert whole.gain is not None
    assert 1.45 < whole.gain.estimate < 1.55
    assert half.gain is None
    assert list(half.verdicts) == [FIRST]
    said = draft_line(world.view, wrong)
    assert said.startswith(f"draft {wrong.digest[:6]} on seed | +1 -1 lines | 1 incorrect | begins 'RESULT")
    assert said.endswith("-> max error 0.5 > 0.001")
