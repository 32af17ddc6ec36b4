"""The transcript of a step: every exchange with the model, one JSON line each, on disk before the answer is used.

A conversation only grows, so each line holds the messages that are new since the line before it of the same kind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage.records import Run

if TYPE_CHECKING:
    from pytest_avo.operators.model.client import Exchange

EntryKind = Literal["step", "supervisor"]
Messages = Sequence[Mapping[str, Any]]


class TranscriptEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exchange as it stands in the file."""

    kind: EntryKind
    kept: int
    """Messages, from the first, that the request shares with that of the entry before it."""
    messages: list[dict[str, Any]]
    """The request's messages after those."""
    request: dict[str, Any]
    """The rest of the request; `tools` is left out where they are those of the entry before."""
    response: Any = None
    error: str = ""
    started_unix_s: float = 0.0
    duration_s: float = 0.0


class Recorded(msgspec.Struct, frozen=True):
    """One answered exchange with its whole conversation put together again."""

    messages: list[dict[str, Any]]
    response: Any


def run_folder(folder: Path, run: Run) -> Path:
    """Where a run's transcripts are, below the folder that runs keep their files in.

    Named after its start too: the numbers begin again where somebody removes the lineage alone.
    """
    start = "".join(char for char in run.started[:19] if char.isalnum())
    return folder / "transcripts" / f"run-{run.id:04d}-{start}"


def transcript_path(folder: Path, *, generation: int, member: int) -> Path:
    """Where a step's transcript is, in its run's folder."""
    return folder / f"gen-{generation:04d}-{member:02d}.jsonl"


class Transcript:
    """A step's file, open to append. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it; a line that a kill cut short is dropped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)
        self._messages: dict[EntryKind, Messages] = {}
        self._tools: dict[EntryKind, object] = {}
        self._lock = threading.Lock()

    def append(self, kind: EntryKind, exchange: Exchange) -> None:
        """Write one exchange through to the disk."""
        request = exchange.request
        if not isinstance(request, dict):
            raise TypeError(f"expected a request as a dict, got {type(request).__name__}")
        rest = {key: value for key, value in request.items() if key != "messages"}
        with self._lock:
            before, messages = self._messages.get(kind, ()), request["messages"]
            kept = _shared(before, messages)
            if self._tools.get(kind) == rest.get("tools"):
                rest.pop("tools", None)
            else:
                self._tools[kind] = rest.get("tools")
            self._messages[kind] = messages
            entry = TranscriptEntry(
                kind=kind,
                kept=kept,
                messages=messages[kept:],
                request=rest,
                response=exchange.response,
                error=exchange.error or "",
                started_unix_s=exchange.started_unix_s,
                duration_s=exchange.duration_s,
            )
            self._file.write(msgspec.json.encode(entry) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def recorded(path: Path, kind: EntryKind) -> list[Recorded]:
    """The answered exchanges of one kind in a transcript, empty where there is no file; failed calls are left out.

    A last line that a kill cut short is no exchange. InvalidInput for a file that is no transcript.
    """
    if not path.is_file():
        return []
    text = path.read_bytes()
    found: list[Recorded] = []
    messages: list[dict[str, Any]] = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            entry = msgspec.json.decode(line, type=TranscriptEntry)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{path}, line {number}: expected an exchange of a transcript: {error}") from None
        if entry.kind != kind:
            continue
        messages = [*messages[: entry.kept], *entry.messages]
        if not entry.error and entry.response is not None:
            found.append(Recorded(messages, entry.response))
    return found


def _shared(before: Messages, after: Messages) -> int:
    """How many messages two conversations have in common from the first."""
    count = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        count += 1
    return count
