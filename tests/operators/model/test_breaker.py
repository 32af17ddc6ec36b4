"""An endpoint that fails again and again is given up, for good."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from pytest_httpserver import HTTPServer

from pytest_avo.operators.model.breaker import Breaker
from pytest_avo.operators.model.chat import EndpointFailed, EndpointUnavailable
from pytest_avo.operators.model.client import OpenAIChat
from pytest_avo.operators.model.clients import Endpoint
from tests.operators.model.completions import HELLO, PATH, completion, error


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoint = Endpoint(model="m", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    model = OpenAIChat(endpoint, breaker=Breaker(1))
    with pytest.raises(
        EndpointUnavailable, match=r"m at http://127.0.0.1:\d+/v1 failed 1 calls in a row, .*[Rr]efused"
    ):
        model.complete(HELLO, max_output_tokens=64)


def test_failures_in_a_row_open_the_breaker_for_good(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_request(PATH).respond_with_json(error("boom"), status=500)
    model = chat(breaker_failures=3)
    for _ in range(2):
        with pytest.raises(EndpointFailed, match=r"InternalServerError: .*boom"):
            model.complete(HELLO, max_output_tokens=64)
    with pytest.raises(EndpointUnavailable, match=r"failed 3 calls in a row, last: .*boom.* --avo-resume"):
        model.complete(HELLO, max_output_tokens=64)
    with pytest.raises(EndpointUnavailable, match="failed 3 calls in a row"):
        model.complete(HELLO, max_output_tokens=64)
    assert len(httpserver.log) == 3


def test_success_resets_the_breaker(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    model = chat(breaker_failures=2)
    for _ in range(3):
        httpserver.expect_oneshot_request(PATH).respond_with_json(error("boom"), status=500)
        with pytest.raises(EndpointFailed):
            model.complete(HELLO, max_output_tokens=64)
        httpserver.expect_oneshot_request(PATH).respond_with_json(completion())
        assert model.complete(HELLO, max_output_tokens=64).text == "hi"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, error("bad key"), "check --avo-model, --avo-base-url and OPENAI_API_KEY"),
        (403, error("not yours"), "not yours"),
        (404, error("no such model"), "no such model"),
        (429, error("pay", "insufficient_quota"), "quota is used up"),
    ],
)
def test_refusal_that_will_not_change_ends_at_once(
    httpserver: HTTPServer, chat: Callable[..., OpenAIChat], status: int, body: dict[str, object], message: str
) -> None:
    httpserver.expect_request(PATH).respond_with_json(body, status=status)
    model = chat(breaker_failures=5)
    for _ in range(2):
        with pytest.raises(EndpointUnavailable, match=message):
            model.complete(HELLO, max_output_tokens=64)
    assert len(httpserver.log) == 1
