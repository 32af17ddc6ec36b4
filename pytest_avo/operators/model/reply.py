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

_OPENING = re.compile(r"^(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n", re.MULTILINE)
_THOUGHTS = re.compile(r"(?ims)^[ \t]*<(think|thinking|reasoning)>.*?</\1>[ \t]*\n?")
_LONGEST_SEARCH = 24
"""Lines that could end a block which are tried."""
_NUMBERED = re.compile(r"^\s*\d+\s*[|:] ?")
_HERE_DOCUMENT = re.compile(
    r"<<-?\s*['\"]?(?P<word>\w+)['\"]?[^\n]*\n(?P<body>.*?)^(?P=word)\s*$", re.DOTALL | re.MULTILINE
)
_FIRST_LINE = re.compile(r"import |from |#|[rR]?(?:\"\"\"|''')|def |AVO\b|@|class ")
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


def split_at_code(text: str, *, other_than: str = "") -> tuple[str, str | None, str]:
    """The kernel in an answer, with what stands before and after it; None without one.

    It is the last block that defines `attention` and is not `other_than`, the source that was to be changed; else the
    last one of Python or of no named language. Thoughts count only where there is no other. A block that no fence ends
    counts where it defines `attention`, and so does an answer that is code or a JSON object with code in it from end to
    end, and code that no fence begins. A JSON object is no code, whatever its block is called.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    said = _THOUGHTS.sub("", text)
    for part in dict.fromkeys((said, text)):
        blocks = list(_blocks(part))
        kernels = [block for block in blocks if _is_kernel(block.code)] or list(_kernels_anywhere(part))
        changed = [block for block in kernels if block.code.strip() != other_than.strip()]
        closed = [block for block in blocks if block.is_closed and block.is_python]
        if found := (changed or kernels or ([] if _bare(part) else closed))[-1:]:
            return part[: found[0].start], found[0].code, part[found[0].end :]
    if (code := _kernel_within(last_object(said) or {})) is not None:
        return "", code, said
    if bare := _bare(said):
        start = said.index(bare)
        return said[:start], bare, said[start + len(bare) :]
    return said, None, ""


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
        block = _block(text, opening)
        yield block
        position = block.end if block.is_closed else opening.end()


def _block(text: str, opening: re.Match[str]) -> _Block:
    indent, fence, info = opening["indent"], opening["fence"], opening["info"]
    closing = re.compile(rf"^[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[^\S\n]*$\n?", re.MULTILINE)
    ends = list(islice(closing.finditer(text, opening.end()), _LONGEST_SEARCH))
    codes = [_code_of(text[opening.end() : end.start()], indent) for end in ends]
    chosen = next((number for number, code in enumerate(codes) if _is_kernel(code)), 0)
    is_json = text[opening.end() :].lstrip().startswith("{")
    is_python = _language(info) in _CODE and not is_json
    if ends:
        return _Block(codes[chosen], opening.start(), ends[chosen].end(), is_python, is_closed=True)
    rest = _code_of(text[opening.end() :], indent)
    return _Block(rest, opening.start(), len(text), is_python, is_closed=False)


def _kernels_anywhere(text: str) -> Iterator[_Block]:
    """Kernels after any fence, whichever it seems to be, and up to any other: where fences do not pair."""
    for opening in islice(_OPENING.finditer(text), _LONGEST_SEARCH):
        block = _block(text, opening)
        if _is_kernel(block.code):
            yield block
            continue
        for end in islice(re.finditer(re.escape(opening["fence"]), text[opening.end() :]), _LONGEST_SEARCH):
            code = _code_of(text[opening.end() : opening.end() + end.start()], opening["indent"])
            if _is_kernel(code):
                yield _Block(code, opening.start(), opening.end() + end.end(), is_python=True, is_closed=True)
                break


def _language(info: str) -> str:
    """The first word of what stands after a fence: `python kernels/x.py`, `python:x.py` and `{.python}` are Python."""
    return re.split(r"[\s:{}=,.]+", info.strip().lstrip("{.").lower())[0]


def _code_of(text: str, indent: str) -> str:
    """The code of a block: without the indentation of its fence, and what else is no part of a file where it is one."""
    lines = text.splitlines(keepends=True)
    if indent:
        lines = [
            line.removeprefix(indent) if line.startswith(indent) else line.removeprefix(indent.rstrip())
            for line in lines
        ]
    code = "".join(lines)
    readings = [
        *(match["body"] for match in _HERE_DOCUMENT.finditer(code)),  # a shell's lines around it may be Python too
        code,
        code.replace("\u00a0", " "),
        "".join(_NUMBERED.sub("", line) for line in lines),
    ]
    return next((reading for reading in readings if _is_kernel(reading)), code)


def _bare(text: str) -> str:
    """Code that no fence begins: from the first line that could begin a file to the last with which it is Python."""
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if _FIRST_LINE.match(line)]
    for start in starts[:_LONGEST_SEARCH]:
        for end in range(len(lines), max(start, len(lines) - _LONGEST_SEARCH), -1):
            if _is_kernel(code := "".join(lines[start:end])):
                return code
    return ""


def _kernel_within(value: object) -> str | None:
    """The first text of a JSON value that is a kernel, or has one in a block."""
    match value:
        case str():
            return value if _is_kernel(value) else split_at_code(value)[1] if "```" in value else None
        case dict():
            found = [_kernel_within(each) for each in value.values()]
        case list():
            found = [_kernel_within(each) for each in value]
        case _:
            return None
    return next((code for code in found if code is not None), None)


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
