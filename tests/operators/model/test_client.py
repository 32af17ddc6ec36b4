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
    Finish,
    InvalidAnswer,
    RequestRejected,
    Tool,
)
from pytest_avo.operators.model.client import Exchange, OpenAIChat
from pytest_avo.operators.model.clients import Endpoint
from tests.operators.model.completions import HELLO, KEY, PATH, completion, error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_httpserver import HTTPServer
    from werkzeug import Request

EVALUATE = Tool("evaluate", "Evaluate the draft.", {"type": "object", "properties": {}})


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


def test_silence_ends_at_the_deadline_retries_included(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    released = threading.Event()

    def silent(_: Request) -> Response:
        released.wait(180)
        return Response(json.dumps(completion()), content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(silent)
    started_s = time.monotonic()
    try:
        with pytest.raises(CallTimedOut, match=r"within 0\.3 s"):
            chat(timeout_s=0.3, max_retries=5).complete(HELLO, max_output_tokens=64)
        assert time.monotonic() - started_s < 90.0
    finally:
        released.set()


def test_slow_drip_ends_at_the_deadline_too(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    stopped = threading.Event()

    def drip(_: Request) -> Response:
        def bytes_one_by_one() -> Iterator[bytes]:
            end_s = time.monotonic() + 180
            while not stopped.wait(0.05) and time.monotonic() < end_s:
                yield b" "

        return Response(bytes_one_by_one(), content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(drip)
    started_s = time.monotonic()
    try:
        with pytest.raises(CallTimedOut):
            chat(timeout_s=0.5).complete(HELLO, max_output_tokens=64)
        assert time.monotonic() - started_s < 90.0
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
        model = OpenAIChat(Endpoint(model="m", base_url=url, timeout_s=180.0, max_retries=0))
        with pytest.raises(EndpointFailed, match="APIConnectionError"):
            model.complete(HELLO, max_output_tokens=64)
        thread.join()


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


def test_malformed_request_is_told_apart(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_request(PATH).respond_with_json(error("tools are not supported"), status=400)
    with pytest.raises(RequestRejected, match="tools are not supported"):
        chat().complete(HELLO, max_output_tokens=64)


def test_exchanges_are_recorded_without_the_key(httpserver: HTTPServer, chat: Callable[..., OpenAIChat]) -> None:
    httpserver.expect_oneshot_request(PATH).respond_with_json(completion(f"your key is {KEY}"))
    httpserver.expect_oneshot_request(PATH).respond_with_json(error(f"bad key {KEY}"), status=500)
    kept: list[Exchange] = []
    model = chat(record=kept.append)
    started_s = time.monotonic()
    model.complete([{"role": "user", "content": f"I have {KEY}"}], max_output_tokens=64)
    took_s = time.monotonic() - started_s
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
    assert 0 < good.duration_s <= took_s


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
        released.wait(180)
        return Response("{}", content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(interrupting)
    started_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            chat(timeout_s=180.0).complete(HELLO, max_output_tokens=64)
        assert time.monotonic() - started_s < 90.0
    finally:
        released.set()
