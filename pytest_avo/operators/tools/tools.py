"""Tools as a model calls them: typed arguments, a JSON schema, and an answer whatever was called how.

A call never raises for a model's mistake: what was wrong is the answer, so that the next call can be right.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from pytest_avo.operators.knowledge.knowledge_base import KnowledgeError
from pytest_avo.operators.knowledge.versions import UnknownVersion
from pytest_avo.operators.model.chat import Tool, ToolCall
from pytest_avo.operators.model.fence import Fence, bounded
from pytest_avo.operators.operator import Unavailable
from pytest_avo.operators.tools.edits import EditError

LONGEST_ANSWER = 12_000
LONGEST_SOURCE = 60_000
"""Characters of an answer; a source is worth more than that, since edits need its exact text."""


MOST_ENCODINGS = 4
_FENCED = re.compile(r"\A\s*`{3,}(?:json)?\s*\n|\s*`+\s*\Z")
_WRAPPERS = {"arguments", "parameters", "input", "args"}


class ToolArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a tool, whose docstring is what the model is told about it; a misspelt name is an error."""


class Mistake(ValueError):
    """A call that cannot be carried out; the message says why, for the model to read."""


A = TypeVar("A", bound=ToolArguments)


@dataclass(frozen=True, slots=True)
class ToolSpec(Generic[A]):
    """One tool: its name, its arguments with what the model is told about it, and what carries it out."""

    name: str
    arguments: type[A]
    handler: Callable[[A], str]
    longest: int = LONGEST_ANSWER

    def tool(self) -> Tool:
        """The tool as it goes to the model."""
        schema = msgspec.json.schema(self.arguments)
        parameters = _inlined(schema, schema["$defs"])
        return Tool(self.name, inspect.cleandoc(parameters.pop("description")), parameters)


MISTAKES = (Mistake, EditError, KnowledgeError, UnknownVersion)
"""What a call that cannot be carried out raises."""


class Toolbox:
    """The tools of one step."""

    def __init__(self, specs: Sequence[ToolSpec[Any]], fence: Fence) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._fence = fence
        self.tools = tuple(spec.tool() for spec in specs)

    def handle(self, call: ToolCall) -> str:
        """The answer to a call, fenced as data.

        EvaluatorError, OperatorStopped and BudgetExhausted pass through: they are no mistakes of the model.
        """
        try:
            answer = carry_out(self._specs, call.name, call.arguments)
        except MISTAKES as error:
            answer = f"error: {error}"
        except Unavailable as error:
            answer = f"not available here: {error}"
        return self._fence.data(answer)


def carry_out(specs: Mapping[str, ToolSpec[Any]], name: str, arguments: str) -> str:
    """The answer of a tool, no longer than it may be; `arguments` are JSON.

    One of MISTAKES where the call is wrong; Unavailable, and whatever ends a step, as the tool raises them.
    """
    spec = specs.get(name) or specs.get(name.rpartition(".")[2])  # some models say `functions.submit`
    if spec is None:
        near = difflib.get_close_matches(name, specs, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}? " if near else ""
        raise Mistake(f"there is no tool {name!r}: {guess}There are {', '.join(specs)}")
    return bounded(spec.handler(_arguments(spec, arguments)), spec.longest)


def _arguments(spec: ToolSpec[A], text: str) -> A:
    data = _decoded(spec, text) or {}
    if isinstance(data, dict):
        data = _unpacked(spec, data)
    try:
        return msgspec.convert(data, spec.arguments)
    except msgspec.ValidationError as error:
        fields = msgspec.structs.fields(spec.arguments)
        wanted = ", ".join(field.name + ("" if field.required else "?") for field in fields)
        raise Mistake(f"the arguments of {spec.name} are wrong: {_in_words(error)}; expected {{{wanted}}}") from None


def _in_words(error: msgspec.ValidationError) -> str:
    """`hypothesis: expected str of length >= 10`, where msgspec has the place behind it."""
    what, _, where = str(error).replace("`", "").partition(" - at $.")
    return f"{where}: {what[:1].lower()}{what[1:]}" if where else what


def _decoded(spec: ToolSpec[A], text: str) -> Any:
    """The arguments as JSON has them. Some models encode them twice or more, or leave the fence that they were in."""
    try:
        data: Any = _FENCED.sub("", text)
        for _ in range(MOST_ENCODINGS):
            if not isinstance(data, str):
                break
            data = json.loads(data) if data.strip() else {}
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Mistake(f"the arguments of {spec.name} hold half of a surrogate pair, which no text may") from None
    except RecursionError:
        raise Mistake(f"the arguments of {spec.name} are nested too deeply; nothing was done, call again") from None
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 40) : error.pos + 40]
        raise Mistake(
            f"the arguments of {spec.name} are not valid JSON: {error.msg} at character {error.pos} of {len(text)}, "
            f"near {near!r}; nothing was done, call again"
        ) from None
    return data


def _unpacked(spec: ToolSpec[A], data: dict[str, Any]) -> dict[str, Any]:
    """The arguments as their fields want them: null is left out, and texts are what they stand for."""
    fields = {field.name: field for field in msgspec.structs.fields(spec.arguments)}
    if len(data) == 1 and (wrapped := next(iter(data))) in _WRAPPERS - fields.keys():
        with suppress(Mistake):
            inside = _decoded(spec, data[wrapped]) if isinstance(data[wrapped], str) else data[wrapped]
            data = inside if isinstance(inside, dict) else data
    found = {}
    for name, value in data.items():
        field = fields.get(name)
        if field is None:
            found[name] = value
        elif value is not None or field.required:
            found[name] = _fitting(value, field.type)
    return found


def _fitting(value: Any, kind: Any) -> Any:
    """A value in the first reading that is of a kind; as it is where none is."""
    for reading in _readings(value):
        for strict in (True, False):
            with suppress(msgspec.ValidationError, RecursionError):
                return msgspec.to_builtins(msgspec.convert(reading, kind, strict=strict))
    return value


def _readings(value: Any) -> Iterator[Any]:
    """A value as it is, what it is as JSON, with items that are read so, and as the one item of a list."""
    yield value
    inside = _read(value)
    if inside is not value:
        yield inside
    if isinstance(inside, list):
        yield [_read(each) for each in inside]
    elif inside != "":
        yield [inside]


def _read(value: Any) -> Any:
    """What a text is as JSON; all else as it is."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references: not every server resolves them."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key not in {"$defs", "title"}}
