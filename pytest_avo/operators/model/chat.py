"""Values of a conversation with a model that calls tools, and what can go wrong in one call.

Nothing here speaks HTTP: `client.OpenAIChat` is one `ChatModel`, a replayed transcript is another.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Message = Mapping[str, object]
REASONING = ("reasoning_content", "reasoning", "reasoning_details")
SIGNED = "extra_content"
"""Fields beside the standard's in which servers hand out a model's reasoning, or a proof of it. Some want them back:
DeepSeek, Kimi and Gemini refuse a conversation whose answers with tool calls have lost them."""


class ModelCallError(Exception):
    """One call to the model failed; the next may succeed."""


class ContextOverflow(ModelCallError):
    """The request was longer than the model's context: it must be shortened before it is sent again."""


class CallTimedOut(ModelCallError):
    """No complete answer arrived before the deadline."""


class InvalidAnswer(ModelCallError):
    """The server's answer was no chat completion: not JSON, or without a message."""


class RequestRejected(ModelCallError):
    """The server refused this request as malformed; sending it again would not help."""


class EndpointFailed(ModelCallError):
    """The connection broke, or the server reported a failure or a rate limit, retries included."""


class EndpointUnavailable(Exception):
    """The endpoint cannot be used any more in this run; what is finished is kept and the run can be resumed."""


class Finish(enum.StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    LENGTH = "length"
    REFUSAL = "refusal"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, object]

    def wire(self) -> dict[str, object]:
        """The tool as the chat-completions API spells it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for; `arguments` is the raw text it wrote, JSON or not."""

    id: str
    name: str
    arguments: str
    extra: Mapping[str, object] = field(default_factory=dict)
    """What the server wants back with the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, as the server reported them, else estimated high."""

    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model answered: text (a refusal's reason included), tool calls, why it stopped, what it used."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish: Finish
    usage: Usage
    extra: Mapping[str, object] = field(default_factory=dict)
    """What the server wants back with the answer."""

    def message(self) -> Message:
        """The answer as a message of the conversation that follows.

        Servers parse the arguments of earlier calls again and reject a whole conversation for one malformed text, so
        malformed arguments are wrapped into valid ones here.
        """
        # Servers also refuse a conversation for an answer that says nothing and calls nothing.
        content = self.text if self.text.strip() or self.tool_calls else "(empty)"
        message: dict[str, object] = {"role": "assistant", "content": content, **self.extra}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _object_text(call.arguments)},
                    **call.extra,
                }
                for call in self.tool_calls
            ]
        return message


class ChatModel(Protocol):
    """Anything that answers a conversation."""

    def complete(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), max_output_tokens: int) -> Answer:
        """The model's answer; `ModelCallError` for this call alone, `EndpointUnavailable` for good."""


def estimated_tokens(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
    """Tokens of a request, estimated high: three bytes of its JSON a token (code averages between three and four)."""
    text = json.dumps([list(messages), [tool.wire() for tool in tools]], ensure_ascii=False)
    return len(text.encode()) // 3 + 1


def parsed_answer(response: object, *, request_tokens: int) -> Answer:
    """The answer in a chat completion decoded from JSON, or `InvalidAnswer`.

    `request_tokens` stands in for the input tokens where the server reports no usage.
    """
    if not isinstance(response, dict):
        raise InvalidAnswer(f"expected a chat completion, got {_shown(response)}")
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise InvalidAnswer(f"expected a choice with a message, got {_shown(response)}")
    refusal = message.get("refusal")
    text = _content_text(message.get("content")) or _content_text(refusal)
    calls = _tool_calls(message.get("tool_calls"))
    match choice.get("finish_reason"):
        case "length":
            finish = Finish.LENGTH
        case "content_filter":
            finish = Finish.REFUSAL
        case _ if refusal:
            finish = Finish.REFUSAL
        case _:
            # Servers disagree on whether a call ends with "stop" or "tool_calls": the calls themselves decide.
            finish = Finish.TOOL_CALLS if calls else Finish.STOP
    extra = _present(message, (*REASONING, SIGNED))
    written = len(text.encode()) + sum(len(call.name.encode()) + len(call.arguments.encode()) for call in calls)
    written += max((len(thought.encode()) for thought in extra.values() if isinstance(thought, str)), default=0)
    usage = _usage(response.get("usage")) or Usage(tokens_in=request_tokens, tokens_out=written // 3 + 1)
    return Answer(text=text, tool_calls=calls, finish=finish, usage=usage, extra=extra)


def _tool_calls(calls: object) -> tuple[ToolCall, ...]:
    found: list[ToolCall] = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            continue
        arguments = function.get("arguments")
        identity = call.get("id")
        if not isinstance(identity, str) or not identity or identity in {each.id for each in found}:
            # Results are matched to calls by id; some servers leave it out or repeat it.
            identity = f"call-{len(found) + 1}"
        found.append(
            ToolCall(
                id=identity,
                name=str(function.get("name") or ""),
                arguments=arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
                extra=_present(call, (SIGNED,)),
            )
        )
    return tuple(found)


def _present(given: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    return {name: given[name] for name in names if given.get(name) is not None}


def _content_text(content: object) -> str:
    """Content is a text, nothing, or a list of typed parts of which the text ones count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") or part.get("refusal") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


MOST_TOKENS = 10**15
"""What says more is no figure of one answer's."""


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(tokens_in, int) or not isinstance(tokens_out, int):
        return None
    if not (0 <= tokens_in < MOST_TOKENS and 0 <= tokens_out < MOST_TOKENS):
        return None
    return Usage(tokens_in=tokens_in, tokens_out=tokens_out)


def _object_text(arguments: str) -> str:
    try:
        if isinstance(json.loads(arguments), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({"malformed_arguments": arguments})


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "..."
