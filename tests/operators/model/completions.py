"""Chat completions as a server sends them, and what is asked for them."""

from __future__ import annotations

KEY = "key-of-the-test-0123456789"
HELLO = [{"role": "user", "content": "hello"}]
PATH = "/v1/chat/completions"


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
