"""What a model was asked to write into plain text: a JSON object, a block of code."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n", re.MULTILINE)
_THOUGHTS = re.compile(r"(?ims)^[ \t]*<(think|thinking|reasoning)>.*?</\1>[ \t]*\n?")
_LONGEST_SEARCH = 24
"""Lines that could end a block which are tried."""
_CODE = {"", "python", "python3", "py"}


def last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in a text that is not inside another one, whatever stands around it; None without one."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] | None = None
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            end = start + 1
        except RecursionError:
            return found  # a model that repeats itself opens brackets without end
        else:
            found = value
        start = text.find("{", end)
    return found


def split_at_code(text: str) -> tuple[str, str | None, str]:
    """The kernel in an answer, with what stands before and after it; None without one.

    It is the last block that defines `attention`, else the last one of Python or of no named language. Thoughts count
    only where there is no other. A block that no fence ends counts where it defines `attention`, and so does an answer
    that is code or a JSON object with code in it from end to end. A JSON object is no code, whatever its block is
    called.
    """
    text = text.replace("\r\n", "\n")
    said = _THOUGHTS.sub("", text)
    for part in dict.fromkeys((said, text)):
        blocks = list(_blocks(part))
        kernels = [block for block in blocks if _is_kernel(block.code)]
        closed = [block for block in blocks if block.is_closed and block.is_python]
        if found := (kernels or closed)[-1:]:
            return part[: found[0].start], found[0].code, part[found[0].end :]
    if _is_kernel(said):
        return "", said, ""
    code = next((x for x in (last_object(said) or {}).values() if isinstance(x, str) and _is_kernel(x)), None)
    return said if code is None else "", code, "" if code is None else said


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: its code, and where it begins and ends in the text, fences included."""

    code: str
    start: int
    end: int
    is_python: bool
    is_closed: bool


def _blocks(text: str) -> Iterator[_Block]:
    """The fenced blocks of a text, as CommonMark has them, but for what Python knows better.

    A line that could end a block lies within a docstring sometimes: the block then ends at the first such line where
    what it holds is Python, if there is one.
    """
    position = 0
    while opening := _OPENING.search(text, position):
        indent, fence, info = opening["indent"], opening["fence"], opening["info"]
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$\n?", re.MULTILINE)
        ends = list(islice(closing.finditer(text, opening.end()), _LONGEST_SEARCH))
        codes = [_dedented(text[opening.end() : end.start()], indent) for end in ends]
        chosen = next((number for number, code in enumerate(codes) if _is_kernel(code)), 0)
        is_json = text[opening.end() :].lstrip().startswith("{")
        is_python = _language(info) in _CODE and not is_json
        if ends:
            yield _Block(codes[chosen], opening.start(), ends[chosen].end(), is_python, is_closed=True)
            position = ends[chosen].end()
        else:
            rest = _dedented(text[opening.end() :], indent)
            yield _Block(rest, opening.start(), len(text), is_python, is_closed=False)
            position = opening.end()


def _language(info: str) -> str:
    """The first word of what stands after a fence: `python kernels/x.py`, `python:x.py` and `{.python}` are Python."""
    return re.split(r"[\s:{}=,.]+", info.strip().lstrip("{.").lower())[0]


def _dedented(code: str, indent: str) -> str:
    """Without the indentation of its fence."""
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)) if indent else code


def _is_kernel(code: str) -> bool:
    """Whether a text is Python that defines `attention`."""
    if "attention" not in code:
        return False
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(each, ast.FunctionDef) and each.name == "attention" for each in tree.body)
