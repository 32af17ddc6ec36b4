"""What a model was asked to write into plain text: a JSON object, a block of code."""

from __future__ import annotations

import json
import re
from typing import Any

_BLOCK = re.compile(r"^```(?:python|py)?[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


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
        else:
            found = value
        start = text.find("{", end)
    return found


def last_block(text: str) -> str | None:
    """The last fenced block of Python, or of no named language; None without one."""
    blocks = _BLOCK.findall(text)
    return str(blocks[-1]) if blocks else None
