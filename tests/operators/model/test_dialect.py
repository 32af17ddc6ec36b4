"""What a server refuses the name of is asked for under another."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pytest_avo.operators.model.chat import RequestRejected
from pytest_avo.operators.model.client import Exchange, OpenAIChat
from tests.operators.model.completions import HELLO, PATH, completion, error


def test_a_server_is_asked_in_the_terms_that_it_knows(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    """Azure's reasoning models want the other limit, Mistral's server no seed: both are learnt once."""

    def picky(request: Request) -> Response:
        body = request.get_json()
        told = ""
        if "max_tokens" in body:
            told = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        elif "seed" in body:
            told = '{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}'
        answer = error(told) if told else completion()
        return Response(json.dumps(answer), 422 if told else 200, content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(picky)
    exchanges: list[Exchange] = []
    model = chat(seed=7, breaker_failures=1, record=exchanges.append)
    assert model.complete(HELLO, max_output_tokens=64).text == "hi"
    assert len(httpserver.log) == 3
    assert model.complete(HELLO, max_output_tokens=64).text == "hi"
    assert len(httpserver.log) == 4
    assert [each.request for each in exchanges] == [
        {"model": "test-model", "messages": HELLO, "max_completion_tokens": 64}
    ] * 2


def test_a_server_that_knows_no_limit_at_all_refuses_the_request(
    httpserver: HTTPServer, chat: Callable[..., OpenAIChat]
) -> None:
    httpserver.expect_request(PATH).respond_with_json(
        error("unknown fields: max_tokens, max_completion_tokens"), status=400
    )
    with pytest.raises(RequestRejected, match="unknown fields"):
        chat().complete(HELLO, max_output_tokens=64)
    assert len(httpserver.log) == 2
