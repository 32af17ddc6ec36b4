"""What `avo` and the evolution say to each other over the socket of a member: one JSON line each way.

The standard library alone is imported here: the command starts in the time of a Python.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
STEP_FILE = ".avo-step"
"""Name of the file in a member's folder that says where its socket is; the command finds it from any folder below."""
STEP_VARIABLE = "AVO_STEP"
"""Environment variable that names a member's folder to what does not run in it."""
LONGEST_LINE = 4_000_000

DONE, WRONG, USAGE, SPENT, CLOSED, FAILED, RUNNING = range(7)
"""Exit statuses: done; the draft or the call is wrong; usage (argparse's); the budget is spent; no step is open;
the evaluator failed; still running when the time to wait was over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call of a tool, or of `status` or `wait`, which only a folder has."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)
    wait_s: float | None = None
    """How long an evaluation is waited for: None for as long as it takes, 0 for a ticket alone."""

    def line(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Request:
        """ValueError for a line that is no request of this version."""
        data = json.loads(line)
        if not isinstance(data, dict) or data.pop("version", None) != VERSION:
            raise ValueError(f"expected a request of version {VERSION}: is `avo` of another installation?")
        try:
            found = cls(**data)
        except TypeError as error:
            raise ValueError(f"expected a request: {error}") from None
        fits = isinstance(found.tool, str) and isinstance(found.arguments, dict)
        if not (fits and isinstance(found.wait_s, int | float | None)):
            raise ValueError("expected a request: a tool's name, arguments by name, and seconds to wait or null")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer: for a reader, for a program, and the exit status that says what kind it is."""

    text: str
    status: int = DONE
    data: dict[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Reply:
        return cls(**json.loads(line))


def write_step_file(folder: Path, socket: Path) -> None:
    """Tell commands that run in a folder where their socket is."""
    (folder / STEP_FILE).write_text(json.dumps({"version": VERSION, "socket": str(socket)}) + "\n", encoding="utf-8")
