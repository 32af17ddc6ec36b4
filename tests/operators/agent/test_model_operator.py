"""Endpoints that fail, refuse or are full, and budgets: what becomes of a step that asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from werkzeug import Response

from pytest_avo.operators.budget import Budget, BudgetExhausted, Prices
from pytest_avo.operators.operator import OperatorFailed
from tests.operators.agent.answers import FASTER, OVERFLOW, SUBMIT, Make, Serve, proposed
from tests.operators.model_server import Body, calls, says
from tests.operators.steps import SEED, World


def test_a_failed_call_is_made_again(world: World, serve: Serve, agent: Make) -> None:
    html = Response("<html>maintenance</html>", content_type="text/html")
    model = serve([calls(FASTER), html, says("") | {"choices": []}, calls(SUBMIT)])
    assert proposed(agent(model), world).failed == ""
    assert sum("asking again" in line for line in world.said) == 2
    assert world.ledger.snapshot().tokens_in == 2000


def test_an_endpoint_that_stays_broken_ends_the_run_in_order(world: World, serve: Serve, agent: Make) -> None:
    model = serve([calls(FASTER), Response("{]", content_type="application/json")])
    with pytest.raises(OperatorFailed, match=r"failed 5 calls in a row.*continue with --avo-resume"):
        proposed(agent(model), world)
    assert len(model.requests) == 6


def test_a_server_that_refuses_tools_ends_the_run_at_once(world: World, serve: Serve, agent: Make) -> None:
    refusal = Response(json.dumps({"error": {"message": "tools need a parser"}}), 400, content_type="application/json")
    model = serve([refusal])
    with pytest.raises(OperatorFailed, match="tools need a parser"):
        proposed(agent(model), world)
    assert len(model.requests) == 1


def test_a_server_that_wants_its_reasoning_back_gets_it(world: World, serve: Serve, agent: Make) -> None:
    def thinking(answer: Body) -> Callable[[Body], Body | Response]:
        answer["choices"][0]["message"]["reasoning_content"] = "what limits the loop?"

        def reply(body: Body) -> Body | Response:
            said = [message for message in body["messages"] if message["role"] == "assistant"]
            if all(message.get("reasoning_content") for message in said):
                return answer
            refusal = {"error": {"message": "reasoning_content is missing in assistant tool call message at index 2"}}
            return Response(json.dumps(refusal), 400, content_type="application/json")

        return reply

    model = serve([thinking(calls(FASTER)), thinking(calls(("read_draft", {}))), thinking(calls(SUBMIT))])
    assert proposed(agent(model), world).failed == ""


def test_overflow_shortens_the_answer_then_the_conversation_and_keeps_the_draft(
    world: World, serve: Serve, agent: Make
) -> None:
    def small_enough(answer: Body) -> Callable[[Body], Body | Response]:
        return lambda body: answer if len(json.dumps(body["messages"])) < 20_000 else OVERFLOW

    reading = calls(FASTER, *[("read_knowledge", {"file": "contract.md"})] * 4)
    again = small_enough(calls(SUBMIT))
    model = serve([reading, *[again] * 10])
    assert proposed(agent(model), world).source == SEED.replace("100", "200")
    last = model.requests[-1]
    assert last["max_tokens"] < 4096
    assert "(shortened)" in json.dumps(last["messages"])
    assert "SPEED = 200" in last["messages"][-1]["content"]
    assert [message["role"] for message in last["messages"][:2]] == ["system", "user"]


def test_a_long_conversation_is_compacted_before_it_overflows(world: World, serve: Serve, agent: Make) -> None:
    reading = calls(("read_knowledge", {"file": "contract.md"}))
    model = serve([calls(FASTER), *[reading] * 12, calls(SUBMIT)])
    assert proposed(agent(model, context_tokens=15_000), world).failed == ""
    sizes = [len(json.dumps(body["messages"])) for body in model.requests]
    assert max(sizes) < 15_000 * 4
    assert any(later < earlier for earlier, later in pairwise(sizes))


def test_a_budget_is_checked_before_each_call(world: World, serve: Serve, agent: Make) -> None:
    world.limit(Budget(max_tokens=12_000))
    model = serve([calls(("read_knowledge", {"file": "contract.md"}))])
    with pytest.raises(BudgetExhausted, match="max_tokens"):
        proposed(agent(model), world)
    spent = world.ledger.snapshot()
    assert spent.tokens_in + spent.tokens_out <= 12_000
    assert model.requests[0]["max_tokens"] < 12_000


def test_a_budget_that_ends_a_step_keeps_what_was_paid_for(world: World, serve: Serve, agent: Make) -> None:
    world.limit(Budget(max_cost=0.02), Prices(input_per_million=1.0, output_per_million=1.0))
    model = serve(
        [calls(FASTER, ("evaluate_draft", {"timed": True})), calls(("read_knowledge", {"file": "contract.md"}))]
    )
    proposal = proposed(agent(model), world)
    assert proposal.source == SEED.replace("100", "200")
    assert "budget exhausted (max_cost)" in proposal.hypothesis
    assert proposal.cost == pytest.approx(1100e-6 * len(model.requests))
