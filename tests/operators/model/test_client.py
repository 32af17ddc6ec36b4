"""The client against a real HTTP server: good answers, bad ones, none at all."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from werkzeug import Response

from pytest_avo.operators.model.chat import (
    CallTimedOut,
    ContextOverflow,
    EndpointFailed,
    EndpointUnavailable,
    Finish,
    InvalidAnswer,
    RequestRejected,
    Tool,
)
from pytest_avo.operators.model.client import Breaker, Endpoint, Exchange, OpenAIChat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_httpserver import HTTPServer
    from werkzeug import Request

KEY = "key-of-the-test-0123456789"
HELLO = [{"role": "user", "content": "hello"}]
EVALUATE = Tool("evaluate", "Evaluate the draft.", {"type": "object", "properties": {}})
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def chat(httpserver: HTTPServer) -> Callable[..., OpenAIChat]:
    def make(
        *,
        timeout_s: float = 5.0,
        max_retries: int = 0,
        breaker_failures: int = 3,
        seed: int | None = None,
        record: Callable[[Exchange], None] | None = None,
    ) -> OpenAIChat:
        endpoint = Endpoint(
            model="test-model",
            base_url=httpserver.url_for("/v1"),
            timeout_s=timeout_s,
            max_retries=max_retries,
            seed=seed,
        )
        return OpenAIChat(endpoint, breaker=Breaker(breaker_failures), record=record)

    return make


def completion(content: str | None = "hi", finish: str = "stop", **message: object) -> dict[str, object]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "test-model",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    }


def error(message: str, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "code": code, "type": "test"}}


def test_answer_and_what_was_sent(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_request(PATH, method="POST").respond_with_json(completion())
    answer = chat(seed=7).complete(HELLO, tools=[EVALUATE], max_output_tokens=64)
    assert (answer.text, answer.finish, answer.usage.tokens_in, answer.usage.tokens_out) == ("hi", Finish.STOP, 12, 3)
    request = httpserver.log[0][0]
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.get_json() == {
        "model": "test-model",
        "messages": HELLO,
        "tools": [EVALUATE.wire()],
        "seed": 7,
        "max_tokens": 64,
    }


def test_parallel_tool_calls_keep_their_raw_arguments(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "evaluate", "arguments": '{"shapes": ["x"]}'}},
        {"id": "b", "type": "function", "function": {"name": "evaluate", "arguments": '{"shapes": [x'}},
    ]
    httpserver.expect_request(PATH).respond_with_json(completion(None, "tool_calls", tool_calls=calls))
    answer = chat().complete(HELLO, tools=[EVALUATE], max_output_tokens=64)
    assert answer.finish is Finish.TOOL_CALLS
    assert [(call.id, call.arguments) for call in answer.tool_calls] == [
        ("a", '{"shapes": ["x"]}'),
        ("b", '{"shapes": [x'),
    ]


@pytest.mark.parametrize(
    ("body", "finish"),
    [
        (completion("half an ans", "length"), Finish.LENGTH),
        (completion(None, refusal="I will not"), Finish.REFUSAL),
        (completion("", "content_filter"), Finish.REFUSAL),
    ],
)
def test_length_stop_and_refusal(
    httpserver: HTTPServer, chat: Callable[..., OpenAIChat], body: dict[str, object], finish: Finish
) -> None:
    httpserver.expect_request(PATH).respond_with_json(body)
    assert chat().complete(HELLO, max_output_tokens=64).finish is finish


def test_rate_limit_is_retried_by_openai(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_ordered_request(PATH).respond_with_json(
        error("slow down"), status=429, headers={"retry-after-ms": "10"}
    )
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    assert chat(max_retries=2).complete(HELLO, max_output_tokens=64).text == "hi"
    assert len(httpserver.log) == 2


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


def test_silence_ends_at_the_deadline_retries_included(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    released = threading.Event()

    def silent(_: Request) -> Response:
        released.wait(10)
        return Response(json.dumps(completion()), content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(silent)
    started_s = time.monotonic()
    try:
        with pytest.raises(CallTimedOut, match=r"within 0\.3 s"):
            chat(timeout_s=0.3, max_retries=5).complete(HELLO, max_output_tokens=64)
        assert time.monotonic() - started_s < 2.0
    finally:
        released.set()


def test_slow_drip_ends_at_the_deadline_too(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    stopped = threading.Event()

    def drip(_: Request) -> Response:
        def bytes_one_by_one() -> Iterator[bytes]:
            while not stopped.wait(0.05):
                yield b" "

        return Response(bytes_one_by_one(), content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(drip)
    started_s = time.monotonic()
    try:
        with pytest.raises(CallTimedOut):
            chat(timeout_s=0.5).complete(HELLO, max_output_tokens=64)
        assert time.monotonic() - started_s < 2.0
    finally:
        stopped.set()


@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"],
    ids=["at once", "in the middle"],
)
def test_dropped_connection(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=drop)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        model = OpenAIChat(Endpoint(model="m", base_url=url, timeout_s=5.0, max_retries=0))
        with pytest.raises(EndpointFailed, match="APIConnectionError"):
            model.complete(HELLO, max_output_tokens=64)
        thread.join()


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoint = Endpoint(model="m", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    model = OpenAIChat(endpoint, breaker=Breaker(1))
    with pytest.raises(
        EndpointUnavailable, match=r"m at http://127.0.0.1:\d+/v1 failed 1 calls in a row, .*[Rr]efused"
    ):
        model.complete(HELLO, max_output_tokens=64)


@pytest.mark.parametrize("body", ["<html>maintenance</html>", '{"choices": [', "[]", '{"error": {"message": "busy"}}'])
def test_answer_that_is_no_completion(httpserver: HTTPServer, chat: Callable[..., OpenAIChat], body: str) -> None:
    httpserver.expect_request(PATH).respond_with_data(body, content_type="application/json")
    with pytest.raises(InvalidAnswer, match="expected"):
        chat().complete(HELLO, max_output_tokens=64)


@pytest.mark.parametrize(
    "body",
    [
        error("This model's maximum context length is 8192 tokens", "context_length_exceeded"),
        {"object": "error", "message": "the request exceeds the available context size", "code": 400},
        {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}},
    ],
    ids=["OpenAI", "vLLM", "llama.cpp"],
)
def test_context_overflow_is_no_failure_of_the_endpoint(
    httpserver: HTTPServer, chat: Callable[..., OpenAIChat], body: dict[str, object]
) -> None:
    httpserver.expect_request(PATH).respond_with_json(body, status=400)
    model = chat(breaker_failures=1)
    for _ in range(2):
        with pytest.raises(ContextOverflow):
            model.complete(HELLO, max_output_tokens=64)


@pytest.mark.parametrize(
    "body",
    [
        error("max_tokens is too large: 64. This model supports at most 32 completion tokens"),
        error("Invalid max_tokens value, the valid range of max_tokens is [1, 32]"),
    ],
    ids=["OpenAI", "DeepSeek"],
)
def test_an_answer_longer_than_the_model_gives_is_cured_by_asking_for_less(
    httpserver: HTTPServer, chat: Callable[..., OpenAIChat], body: dict[str, object]
) -> None:
    httpserver.expect_request(PATH).respond_with_json(body, status=400)
    with pytest.raises(ContextOverflow):
        chat().complete(HELLO, max_output_tokens=64)


def test_half_a_character_is_replaced(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    body = json.dumps(completion("whole \U0001f600, half \ud83d"))
    httpserver.expect_request(PATH).respond_with_data(body, content_type="application/json")
    assert chat().complete(HELLO, max_output_tokens=64).text == "whole \U0001f600, half \ufffd"


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


def test_malformed_request_is_told_apart(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_request(PATH).respond_with_json(error("tools are not supported"), status=400)
    with pytest.raises(RequestRejected, match="tools are not supported"):
        chat().complete(HELLO, max_output_tokens=64)


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


def test_exchanges_are_recorded_without_the_key(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_oneshot_request(PATH).respond_with_json(completion(f"your key is {KEY}"))
    httpserver.expect_oneshot_request(PATH).respond_with_json(error(f"bad key {KEY}"), status=500)
    kept: list[Exchange] = []
    model = chat(record=kept.append)
    model.complete([{"role": "user", "content": f"I have {KEY}"}], max_output_tokens=64)
    with pytest.raises(EndpointFailed):
        model.complete(HELLO, max_output_tokens=64)
    good, bad = kept
    assert KEY not in repr(kept)
    assert isinstance(good.request, dict)
    assert good.request["messages"] == [{"role": "user", "content": "I have [redacted]"}]
    assert isinstance(good.response, dict)
    assert good.response["choices"][0]["message"]["content"] == "your key is [redacted]"
    assert good.error is None
    assert bad.response is None
    assert bad.error is not None
    assert bad.error.startswith("EndpointFailed: InternalServerError")
    assert 0 < good.duration_s < 5


def test_no_key_and_no_server_is_an_error_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointUnavailable, match="set OPENAI_API_KEY"):
        OpenAIChat(Endpoint(model="m"))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HTTPS_PROXY", "socks://user:secret@proxy:1080", "HTTPS_PROXY=socks://***@proxy:1080"),
        ("https_proxy", "proxy:port", "https_proxy=proxy:port"),
        ("SSL_CERT_FILE", "/nowhere/authorities.pem", "SSL_CERT_FILE=/nowhere/authorities.pem"),
    ],
)
def test_proxies_and_certificates_that_are_no_use_are_named_before_any_call(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EndpointUnavailable, match=r"^no connection can be made: \w+: ") as error:
        OpenAIChat(Endpoint(model="m", base_url="https://127.0.0.1:1/v1"))
    assert shown in str(error.value)
    assert "secret" not in str(error.value)


def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
    model = OpenAIChat(Endpoint(model="m", base_url="https://models.invalid/v1", max_retries=0))
    with pytest.raises(EndpointFailed, match=rf"the environment sets .*HTTPS_PROXY=http://\*\*\*@127.0.0.1:{port}"):
        model.complete(HELLO, max_output_tokens=64)


def test_local_server_needs_no_key(
    httpserver: HTTPServer, chat: Callable[..., OpenAIChat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    httpserver.expect_request(PATH).respond_with_json(completion())
    assert chat().complete(HELLO, max_output_tokens=64).text == "hi"
    assert httpserver.log[0][0].headers["Authorization"] == "Bearer not-needed"


def test_interrupt_while_waiting_is_immediate(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    released = threading.Event()

    def interrupting(_: Request) -> Response:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        released.wait(10)
        return Response("{}", content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(interrupting)
    started_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            chat(timeout_s=20.0).complete(HELLO, max_output_tokens=64)
        assert time.monotonic() - started_s < 2.0
    finally:
        released.set()
