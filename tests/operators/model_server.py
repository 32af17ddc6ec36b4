"""A model that answers from a script, behind a real HTTP server that speaks chat completions."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

PATH = "/v1/chat/completions"
Body = dict[str, Any]
Turn = Body | Response | Literal["dropped"] | Callable[[Body], "Body | Response"]
"""An answer, what makes one of the request, or a connection that breaks in the middle of an answer."""


class ModelServer:
    """Answers each request with the next turn of its script; the last one again and again."""

    def __init__(self, server: HTTPServer, turns: Sequence[Turn]) -> None:
        self.url = server.url_for("/v1")
        self.turns = list(turns)
        self.requests: list[Body] = []
        server.expect_request(PATH, method="POST").respond_with_handler(self._answer)

    def results(self, request: int = -1) -> list[str]:
        """The tool results in a request since the model's last answer."""
        found: list[str] = []
        for message in reversed(self.requests[request]["messages"]):
            if message["role"] != "tool":
                break
            found.append(message["content"])
        return found[::-1]

    def _answer(self, request: Request) -> Response:
        body: Body = request.get_json()
        turn = self.turns[min(len(self.requests), len(self.turns) - 1)]
        self.requests.append(body)
        answer = turn(body) if callable(turn) and not isinstance(turn, Response) else turn
        if answer == "dropped":
            return _broken(request)
        if isinstance(answer, Response):
            return answer
        return Response(json.dumps(answer), content_type="application/json")


def _broken(request: Request) -> Response:
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    connection.shutdown(socket.SHUT_RDWR)
    return Response()


def says(text: str, finish: str = "stop", **message: Any) -> Body:
    """A plain answer."""
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def calls(*wanted: tuple[str, Body | str]) -> Body:
    """An answer that calls tools; arguments given as text go out as they are."""
    tool_calls = [
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for number, (name, arguments) in enumerate(wanted)
    ]
    return says("", "tool_calls", tool_calls=tool_calls)


def edit(search: str, replacement: str) -> tuple[str, Body]:
    """The call of one exact replacement."""
    return "edit_draft", {"replacements": [{"search": search, "replacement": replacement}]}
