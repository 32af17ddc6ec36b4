"""What a scripted model answers in a step of the agent, and the step taken with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from werkzeug import Response

from pytest_avo.operators.agent.agentic import AgenticOperator
from pytest_avo.operators.operator import Proposal
from tests.operators.model_server import ModelServer, Turn, edit
from tests.operators.steps import World

Serve = Callable[[Sequence[Turn]], ModelServer]
Make = Callable[..., AgenticOperator]
SUBMIT = ("submit", {"hypothesis": "the loop was the bottleneck", "predicted": {"geomean": 1.9}})
FASTER = edit("SPEED = 100", "SPEED = 200")
WRONG = edit('"right"', '"wrong"')
OVERFLOW = Response(
    json.dumps({"error": {"message": "maximum context length is 8192 tokens", "code": "context_length_exceeded"}}),
    status=400,
    content_type="application/json",
)


def proposed(operator: AgenticOperator, world: World) -> Proposal:
    proposal = operator.propose(world.task())
    assert proposal is not None
    return proposal
