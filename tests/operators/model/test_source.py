"""Replay: recorded answers instead of a model, and where a replay differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage.events import LessonLearnt
from pytest_avo.operators.agent.agentic import AgenticOperator
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.budget import Budget
from pytest_avo.operators.model.source import AnswerSource
from pytest_avo.operators.model.transcript import run_folder
from pytest_avo.operators.operator import OperatorStopped, Proposal
from tests.operators.model_server import ModelServer, Turn, calls, edit
from tests.operators.steps import SEED, World

Serve = Callable[[Sequence[Turn]], ModelServer]
Make = Callable[..., AgenticOperator]
SUBMIT = ("submit", {"hypothesis": "the loop was the bottleneck", "predicted": {"geomean": 1.9}})
STEPS = [
    calls(edit("SPEED = 100", "SPEED = 200"), ("evaluate_draft", {"timed": True})),
    calls(SUBMIT),
    calls(edit("SPEED = 200", "SPEED = 300")),
    calls(SUBMIT),
]


def replaying(world: World, run: int, operator: str = "agent") -> AgenticOperator:
    settings = AgentSettings(replay=run)
    source = AnswerSource.of(settings, operator=operator, folder=world.store.path.parent)
    return AgenticOperator(settings, source)


def run_twice(operator: AgenticOperator, world: World) -> list[Proposal]:
    proposals = []
    for _ in range(2):
        proposal = operator.propose(world.task())
        assert proposal is not None
        proposals.append(proposal)
        world.settle(proposal)
    return proposals


def again(world: World) -> World:
    """Another run of the same kernel in the same lineage."""
    return World(world.store)


def test_a_replay_proposes_the_same_without_the_model(world: World, serve: Serve, agent: Make) -> None:
    world.limit(Budget(max_tokens=1_000_000))  # which a replay has no need of, and is no difference
    model = serve(STEPS)
    recorded = run_twice(agent(model), world)
    other = again(world)
    replayed = run_twice(replaying(other, world.view.run.id), other)
    assert [each.source for each in replayed] == [each.source for each in recorded]
    assert [each.hypothesis for each in replayed] == [each.hypothesis for each in recorded]
    assert len(model.requests) == 4
    assert [line for line in other.said if "differs" in line] == []
    assert (replayed[0].tokens_in, other.ledger.snapshot().turns) == (0, 0), "a replay costs nothing"


def test_a_replay_knows_no_more_than_its_run_did(world: World, serve: Serve, agent: Make) -> None:
    lesson = ("record_lesson", {"text": "Doubling it halves the time.", "technique": "doubling"})
    earlier = again(world)
    earlier.record(LessonLearnt("An old one.", "", "", generation=1))
    recorded = again(world)
    model = serve([calls(lesson, edit("SPEED = 100", "SPEED = 200")), calls(SUBMIT)])
    agent(model).propose(recorded.task())
    assert "An old one." in model.requests[0]["messages"][1]["content"]
    other = again(world)
    replaying(other, recorded.view.run.id).propose(other.task())
    assert [line for line in other.said if "differs" in line] == []


def test_a_replay_ends_in_order_where_its_recording_does(world: World, serve: Serve, agent: Make) -> None:
    run_twice(agent(serve(STEPS)), world)
    other = again(world)
    operator = replaying(other, world.view.run.id)
    run_twice(operator, other)
    with pytest.raises(OperatorStopped, match="the recording of run 1 ends in generation 3"):
        operator.propose(other.task())


def test_a_replay_says_once_where_it_differs_and_goes_on(world: World, serve: Serve, agent: Make) -> None:
    recorded = run_twice(agent(serve(STEPS)), world)
    other = again(world)
    other.settle(Proposal(SEED.replace("100", "101"), "something else first"), "promoted", gain=0.01)
    other.generation = 0
    proposal = replaying(other, world.view.run.id).propose(other.task())
    assert proposal is not None
    assert proposal.failed
    (said,) = [line for line in other.said if "differs" in line]
    assert said.startswith("replay: generation 1, turn 1 differs from the recording: ")
    assert recorded[0].failed == ""


def test_a_step_that_failed_in_the_recording_fails_in_the_replay(world: World, serve: Serve, agent: Make) -> None:
    recorded = run_twice(agent(serve(STEPS)), world)
    first = sorted(run_folder(world.store.path.parent, world.view.run).iterdir())[0]
    first.write_text("".join(first.read_text().splitlines(keepends=True)[:1]))
    other = again(world)
    proposal = replaying(other, world.view.run.id).propose(other.task())
    assert proposal is not None
    assert proposal.failed == "the recording of generation 1 ends here"
    assert len(recorded) == 2


def test_what_cannot_be_replayed_is_a_usage_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--avo-replay: expected a run of .*lineage.sqlite3 \(1\), got 9"):
        replaying(world, 9)
    with pytest.raises(InvalidInput, match="run 1 is of another operator: add --avo-operator agent"):
        replaying(world, 1, operator="oneshot")
    with pytest.raises(InvalidInput, match="run 1 has no transcripts"):
        replaying(world, 1)


def test_what_cannot_be_asked_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InvalidInput, match="--avo-operator agent: expected --avo-model NAME"):
        AnswerSource.of(AgentSettings(), operator="agent", folder=tmp_path)
    with pytest.raises(InvalidInput, match="--avo-operator oneshot: no key: set OPENAI_API_KEY"):
        AnswerSource.of(AgentSettings(model="m"), operator="oneshot", folder=tmp_path)


def test_a_replay_does_without_a_review_that_nobody_recorded(world: World, serve: Serve, agent: Make) -> None:
    run_twice(agent(serve(STEPS)), world)
    other = again(world)
    settings = AgentSettings(replay=world.view.run.id, stall=1)
    operator = AgenticOperator(settings, AnswerSource.of(settings, operator="agent", folder=other.store.path.parent))
    other.settle(Proposal(SEED.replace("100", "90"), "slower"))
    with pytest.raises(OperatorStopped):
        operator.propose(other.task())
    assert "supervisor: no review: no review was recorded in generation 2" in other.said
