"""Shortening a conversation before it overflows: the oldest tool output goes first, the task and the newest never."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_avo.operators.model.chat import REASONING, Message, Tool, estimated_tokens
from pytest_avo.operators.model.fence import Fence

KEPT_EXCHANGES = 3
"""The newest, which stay as they are while anything else can be shortened."""
SHORT = 300
"""Characters that a shortened text keeps."""


def compact(
    messages: Sequence[Message], *, tools: Sequence[Tool], limit_tokens: int, fence: Fence, draft: str
) -> list[Message]:
    """The conversation in at most about `limit_tokens`, and the present draft in full at its end.

    System prompt and task stay. In the order of their age, tool outputs and long arguments are shortened, then whole
    exchanges left out; the newest exchanges are touched last.
    """
    opening = list(messages[:2])
    exchanges = _exchanges(messages[2:])
    told = "The conversation was shortened: call a tool again to see what is missing. Your working draft reads:"
    note: Message = {"role": "user", "content": f"{told}\n{fence.data(draft)}"}

    def size() -> int:
        return estimated_tokens([*opening, *(each for exchange in exchanges for each in exchange), note], tools)

    for index in range(len(exchanges) - KEPT_EXCHANGES):
        if size() <= limit_tokens:
            break
        exchanges[index] = [_shortened(message, fence) for message in exchanges[index]]
    while len(exchanges) > KEPT_EXCHANGES and size() > limit_tokens:
        del exchanges[0]
    for index in range(len(exchanges)):
        if size() <= limit_tokens:
            break
        exchanges[index] = [_shortened(message, fence) for message in exchanges[index]]
    return [*opening, *(each for exchange in exchanges for each in exchange), note]


def _exchanges(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in runs that begin with an answer of the model: a tool's answer must not lose the call it answers."""
    found: list[list[Message]] = []
    for message in messages:
        if message["role"] == "assistant" or not found:
            found.append([])
        found[-1].append(message)
    return found


def _shortened(message: Message, fence: Fence) -> Message:
    content = message.get("content")
    shorter: dict[str, object] = dict(message)
    if isinstance(content, str) and len(content) > 2 * SHORT:
        if message["role"] == "assistant":
            shorter["content"] = content[:SHORT] + " ..."
        else:
            inside = content.removeprefix(f"[data {fence.mark}]\n")[:SHORT]
            shorter["content"] = f"{fence.data(inside)}\n(shortened)"
    for name in REASONING:
        if isinstance(thought := message.get(name), str):
            # The field itself stays: some servers refuse an answer with tool calls that lacks it.
            shorter[name] = thought[:SHORT]
        else:
            shorter.pop(name, None)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        shorter["tool_calls"] = [_with_short_arguments(call) for call in calls]
    return shorter


def _with_short_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if len(function["arguments"]) > 2 * SHORT:
        # It must stay valid JSON: servers parse the arguments of earlier calls again.
        function["arguments"] = json.dumps({"shortened": function["arguments"][:SHORT]})
    return {**call, "function": function}
