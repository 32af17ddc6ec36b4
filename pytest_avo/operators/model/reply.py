"""What a model was asked to write into plain text: a JSON object, a block of code."""

from __future__ import annotations

import json
import re
from typing import Any

_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
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
    """The last fenced block of Python, or of no named language, with what stands before and after it; None without one.

    A JSON object is no code, whatever its block is called.
    """
    found = None
    for block in _BLOCK.finditer(text):
        if block[1].strip().lower() in _CODE and not block[2].lstrip().startswith("{"):
            found = block
    return (text, None, "") if found is None else (text[: found.start()], found[2], text[found.end() :])
