"""The one-shot operator: one request, no tools, the candidate read from plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from werkzeug import Response

from pytest_avo.operators.agent.oneshot import OneshotOperator
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.model.source import AnswerSource
from pytest_avo.operators.operator import OperatorFailed, Proposal
from tests.operators.model_server import ModelServer, Turn, says
from tests.operators.steps import FIRST, SECOND, SEED, World

Serve = Callable[[Sequence[Turn]], ModelServer]
BETTER = SEED.replace("100", "200")
PREDICTED = {"geomean": 1.5, FIRST: 2, "nowhere": 3, SECOND: "x"}
SAID = json.dumps({"hypothesis": "halve the\n work", "predicted": PREDICTED})


def propose(world: World, model: ModelServer, **chosen: Any) -> Proposal:
    settings = AgentSettings(model="scripted", base_url=model.url, **chosen)
    source = AnswerSource.of(settings, operator="oneshot", folder=world.store.path.parent)
    proposal = OneshotOperator(settings, source).propose(world.task())
    assert proposal is not None
    return proposal


def test_code_and_prediction_are_read_from_the_answer(world: World, serve: Serve) -> None:
    model = serve([says(f"It waits for memory.\n```python\n{BETTER}```\n{SAID}")])
    proposal = propose(world, model)
    assert (proposal.source, proposal.failed) == (BETTER, "")
    assert (proposal.hypothesis, proposal.predicted) == ("halve the work", {"geomean": 1.5, FIRST: 2.0})
    assert (proposal.tokens_in, proposal.tokens_out) == (1000, 100)
    (request,) = model.requests
    assert "tools" not in request
    assert "You have no tools in this run" in request["messages"][1]["content"]
    assert "SPEED = 100" in request["messages"][1]["content"]
    assert world.evaluated == []


@pytest.mark.parametrize(
    "text", [f"```python\n{BETTER}```\n```json\n{SAID}\n```", f"{SAID}\n```python\n{BETTER}```\nThat is it."]
)
def test_a_prediction_is_read_from_a_block_of_its_own_too(world: World, serve: Serve, text: str) -> None:
    proposal = propose(world, serve([says(text)]))
    assert (proposal.source, proposal.hypothesis) == (BETTER, "halve the work")
    assert proposal.predicted == {"geomean": 1.5, FIRST: 2.0}


def test_the_task_promises_one_answer(world: World, serve: Serve) -> None:
    model = serve([says(f"```python\n{BETTER}```")])
    propose(world, model)
    assert "## Budget of this step\n\nOne answer.\n" in model.requests[0]["messages"][1]["content"]


def test_code_alone_is_enough(world: World, serve: Serve) -> None:
    proposal = propose(world, serve([says(f"```python\n{BETTER}```")]))
    assert (proposal.source, proposal.hypothesis, proposal.predicted) == (BETTER, "", {})


@pytest.mark.parametrize(("answer", "finish"), [("I would unroll.", "stop"), ("```python\nhalf a fi", "length")])
def test_an_answer_without_code_is_a_failed_step(world: World, serve: Serve, answer: str, finish: str) -> None:
    proposal = propose(world, serve([says(answer, finish)]))
    assert proposal.failed == f"no Python block in the answer ({finish})"
    assert proposal.tokens_in == 1000


def test_too_long_a_request_gets_a_smaller_answer(world: World, serve: Serve) -> None:
    overflow = Response('{"error": {"code": "context_length_exceeded"}}', 400, content_type="application/json")
    model = serve([overflow, overflow, says(f"```python\n{BETTER}```")])
    assert propose(world, model).failed == ""
    assert [body["max_tokens"] for body in model.requests] == [32768, 16384, 8192]


def test_a_task_that_never_fits_ends_the_run(world: World, serve: Serve) -> None:
    overflow = Response('{"error": {"code": "context_length_exceeded"}}', 400, content_type="application/json")
    with pytest.raises(OperatorFailed, match="does not fit into the model's context"):
        propose(world, serve([overflow]))
