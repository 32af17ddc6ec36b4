"""The supervisor: when it steps in, what it asks, and how its directions are taken up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from pytest_avo.lineage.events import Directions, DirectionTaken
from pytest_avo.operators.agent.agentic import AgenticOperator
from pytest_avo.operators.agent.supervisor import given, ledger_lines, symptom
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.operator import Proposal
from tests.operators.model_server import ModelServer, Turn, calls, edit, says
from tests.operators.steps import SEED, SHAPES, World

Serve = Callable[[Sequence[Turn]], ModelServer]
Make = Callable[..., AgenticOperator]
SETTINGS = AgentSettings(stall=4, cycle=3, directions=2)
REVIEW = {
    "diagnosis": "The kernel waits for memory.",
    "directions": [
        {
            "title": "Pack the keys",
            "why": "strided loads",
            "first_step": "copy once",
            "expected": "1.1",
            "start_from": "",
        },
        {"title": "Split the keys", "why": "idle cores"},
        {"title": "One too many"},
    ],
}
SUBMIT = ("submit", {"hypothesis": "the loop was the bottleneck"})


def fail(world: World, *, speed: int, status: str = "slower", reason: str = "") -> None:
    source = SEED.replace("100", str(speed)).replace("return q", f"return q * {speed}")
    world.settle(Proposal(source, f"speed {speed}"), status, reason, gain=-0.1)  # type: ignore[arg-type]


def test_a_stall_is_no_commit_for_so_many_attempts(world: World) -> None:
    for speed in (99, 98, 97):
        fail(world, speed=speed)
    assert symptom(world.view, SETTINGS) == ""
    fail(world, speed=96)
    assert symptom(world.view, SETTINGS) == "no commit in the last 4 attempts"


def test_a_commit_ends_a_stall(world: World) -> None:
    for speed in (99, 98, 97):
        fail(world, speed=speed)
    world.settle(Proposal(SEED.replace("100", "200"), "double"))
    for speed in (96, 95, 94):
        fail(world, speed=speed)
    assert symptom(world.view, SETTINGS) == ""


def test_the_same_failure_again_is_a_cycle_whatever_its_numbers(world: World) -> None:
    for number, speed in enumerate((99, 98, 97)):
        fail(world, speed=speed, status="incorrect", reason=f"max error {number}.5e-{number + 1} > 0.001")
    assert symptom(world.view, SETTINGS) == ("the last 3 attempts failed the same way (incorrect: max error # > #)")


def test_different_failures_are_no_cycle(world: World) -> None:
    for speed, reason in ((99, "max error"), (98, "NaN"), (97, "max error")):
        fail(world, speed=speed, status="incorrect", reason=reason)
    assert symptom(world.view, SETTINGS) == ""


def test_near_duplicate_edits_are_a_cycle(world: World) -> None:
    body = "\n".join(f"    q = q + {number}" for number in range(20))
    for speed in (99, 98, 97):
        source = SEED.replace("100", str(speed)).replace("    return q", f"{body}\n    return q")
        world.settle(Proposal(source, "the same again"), "slower", gain=-0.1)
    assert symptom(world.view, SETTINGS) == "the last 3 attempts are near-duplicates of one another"


def test_a_review_is_followed_by_as_many_attempts_as_it_gave_directions(world: World) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    world.record(Directions(5, "stall", "", []))
    assert symptom(world.view, SETTINGS) == ""
    fail(world, speed=95)
    assert symptom(world.view, SETTINGS) == ""
    fail(world, speed=94)
    assert symptom(world.view, SETTINGS) == "no commit in the last 6 attempts"


def test_a_stuck_search_is_reviewed_and_its_directions_are_taken_up_in_turn(
    world: World, serve: Serve, agent: Make
) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    steps = [calls(edit("SPEED = 100", f"SPEED = {speed}"), SUBMIT) for speed in (95, 94)]
    model = serve([says(f"It waits.\n{json.dumps(REVIEW)}"), *steps])
    operator = agent(model, stall=4, directions=2)
    for title in ("Pack the keys", "Split the keys"):
        proposal = operator.propose(world.task())
        assert proposal is not None
        assert title in model.requests[-1]["messages"][1]["content"]
        world.settle(proposal)
    (review,) = [body for body in model.requests if "tools" not in body]
    asked = review["messages"][0]["content"]
    assert "no commit in the last 4 attempts" in asked
    assert "g0004 | slower" in asked
    (event,) = world.view.events(Directions)
    assert (event.fact.symptom, event.fact.diagnosis) == (
        "no commit in the last 4 attempts",
        "The kernel waits for memory.",
    )
    assert [each.taken_by for each in given(world.view)] == [(5, 0), (6, 0)]
    assert len(world.view.events(DirectionTaken)) == 2
    assert ledger_lines(world.view) == ["g0006 same: Split the keys", "g0005 same: Pack the keys"]
    assert "supervisor: no commit in the last 4 attempts; reviewing the search" in world.said
    assert "supervisor: 2 directions: Pack the keys; Split the keys" in world.said
    assert "supervisor: The kernel waits for memory." in world.said
    assert "  direction: Pack the keys" in world.said


def test_a_direction_that_was_not_followed_is_given_once_more(world: World, serve: Serve, agent: Make) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    left = {"hypothesis": "the loop was the bottleneck", "followed": False}
    drafts = [("evaluate_draft", {"timed": True}), edit("SPEED = 93", "SPEED = 95")]
    steps = [
        calls(edit("SPEED = 100", "SPEED = 93"), *drafts, ("submit", left)),
        calls(edit("SPEED = 100", "SPEED = 94"), SUBMIT),
    ]
    model = serve([says(json.dumps({"directions": [{"title": "Pack the keys"}]})), *steps])
    operator = agent(model, stall=4, directions=1)
    for _ in range(2):
        proposal = operator.propose(world.task())
        assert proposal is not None
        assert "Pack the keys" in model.requests[-1]["messages"][1]["content"]
        world.settle(proposal)
        (direction,) = given(world.view)
        if len(direction.left_by) == 1 and direction.taken_by is None:
            assert ledger_lines(world.view) == ["not taken up (left by g0005): Pack the keys"]
    assert (direction.taken_by, direction.left_by) == ((6, 0), ((5, 0),))


def test_a_review_sees_drafts_that_nobody_submitted(world: World, serve: Serve, agent: Make) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    world.task().evaluate(SEED.replace("100", "150"), SHAPES, timed=True)
    world.task().evaluate(SEED.replace('"right"', '"wrong"'), SHAPES, timed=True)
    model = serve([says(json.dumps(REVIEW)), calls(edit("SPEED = 100", "SPEED = 95"), SUBMIT)])
    agent(model, stall=4, directions=1).propose(world.task())
    asked = model.requests[0]["messages"][0]["content"]
    assert "on seed | +1 -1 lines | 2 faster | 1.500x" in asked
    assert """| 2 incorrect | begins 'RESULT = "wrong"' -> max error 0.5 > 0.001""" in asked


def test_a_draft_starts_where_the_direction_says(world: World, serve: Serve, agent: Make) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    review = {"directions": [{"title": "Pack the keys", "start_from": "g0002, whose loop is short"}]}
    model = serve([says(json.dumps(review)), calls(edit("SPEED = 98", "SPEED = 200"), SUBMIT)])
    proposal = agent(model, stall=4, directions=1).propose(world.task())
    assert proposal is not None
    assert proposal.source == SEED.replace("100", "200").replace("return q", "return q * 98")
    assert "Your working draft starts as g0002 therefore." in model.requests[-1]["messages"][1]["content"]


def test_directions_end_with_a_commit(world: World, serve: Serve, agent: Make) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    steps = [calls(edit("SPEED = 100", "SPEED = 200"), SUBMIT), calls(edit("SPEED = 200", "SPEED = 201"), SUBMIT)]
    model = serve([says(json.dumps(REVIEW)), *steps])
    operator = agent(model, stall=4, directions=2)
    for _ in range(2):
        proposal = operator.propose(world.task())
        assert proposal is not None
        world.settle(proposal)
    assert "None: choose your own." in model.requests[-1]["messages"][1]["content"]


def test_an_unreadable_review_is_repaired_once(world: World, serve: Serve, agent: Make) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    step = calls(edit("SPEED = 100", "SPEED = 95"), SUBMIT)
    model = serve([says('{"directions": [{"why": "?"}]}'), says(json.dumps(REVIEW)), step])
    assert agent(model, stall=4).propose(world.task()) is not None
    assert "missing required field title" in model.requests[1]["messages"][-1]["content"]
    assert len(given(world.view)) == 3


def test_directions_are_distinct_and_none_is_given_twice(world: World, serve: Serve, agent: Make) -> None:
    def directions(*titles: str) -> Turn:
        return says(json.dumps({"directions": [{"title": title} for title in titles]}))

    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    steps = [calls(edit("SPEED = 100", f"SPEED = {speed}"), SUBMIT) for speed in (95, 94)]
    first = directions("Pack the keys", "pack the keys!", "")
    model = serve([first, steps[0], directions("Pack the keys."), directions("Split the keys"), steps[1]])
    operator = agent(model, stall=4, directions=1)
    for _ in range(2):
        proposal = operator.propose(world.task())
        assert proposal is not None
        world.settle(proposal)
    assert [each.direction.title for each in given(world.view)] == ["Pack the keys", "Split the keys"]
    assert "all its directions were tried before" in model.requests[3]["messages"][-1]["content"]


@pytest.mark.parametrize("answer", [says("I do not know."), says('{"directions": []}')])
def test_without_directions_the_step_goes_on(world: World, serve: Serve, agent: Make, answer: Turn) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    model = serve([answer, answer, calls(edit("SPEED = 100", "SPEED = 95"), SUBMIT)])
    proposal = agent(model, stall=4).propose(world.task())
    assert proposal is not None
    assert proposal.failed == ""
    assert "supervisor: 0 directions" in world.said
    assert symptom(world.view, SETTINGS) == "", "not asked for again at once"


def test_no_supervisor(world: World, serve: Serve, agent: Make) -> None:
    for speed in (99, 98, 97, 96):
        fail(world, speed=speed)
    model = serve([calls(edit("SPEED = 100", "SPEED = 95"), SUBMIT)])
    assert agent(model, stall=4, use_supervisor=False).propose(world.task()) is not None
    assert world.view.events(Directions) == ()
