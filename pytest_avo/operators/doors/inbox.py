"""The operator `inbox`: candidates come as files from a folder, whoever or whatever puts them there."""

from __future__ import annotations

import ast
import math
import threading
import time
from pathlib import Path

import msgspec

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.doors.door_settings import DoorSettings
from pytest_avo.operators.model.transcript import run_folder
from pytest_avo.operators.operator import OperatorStopped, Proposal, Task

TICK_S = 0.2
SETTLED_S = 0.5
"""A file that was written to since is not taken yet: somebody may still be writing it."""
TAKEN, END = "taken", "END"
"""Where files go that were taken, and the file that says there will be no more."""


class InboxNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NAME.json beside NAME.py: why it should be faster, and by how much."""

    hypothesis: str
    predicted: dict[str, float] = {}


class InboxOperator:
    """Takes the oldest file of the folder for each candidate. Safe to use from several threads."""

    name = "inbox"

    def __init__(self, doors: DoorSettings) -> None:
        """InvalidInput where there is no such folder."""
        if doors.inbox is None:
            raise InvalidInput(f"--avo-operator {self.name}: expected --avo-inbox DIR, where candidates come from")
        if not doors.inbox.is_dir():
            raise InvalidInput(f"--avo-inbox: {doors.inbox} is no folder")
        self.folder = doors.inbox
        self._lock = threading.Lock()

    def describe(self) -> str:
        """Operator and folder."""
        return f"{self.name} ({self.folder}; a file {END} there ends the run)"

    def propose(self, task: Task) -> Proposal | None:
        """The next file; waits for one. None when END is there and all files are taken."""
        while not task.stopping.is_set():
            with self._lock:
                path = self._interrupted(task) or self._take(task)
            if path is not None:
                return _proposal(path, task)
            if (self.folder / END).exists() and not self._waiting():
                return None
            task.ledger.check_time()
            time.sleep(TICK_S)
        raise OperatorStopped("the run is ending")

    def _waiting(self) -> list[Path]:
        """Files that nobody has taken, oldest first; what begins with a dot is being written."""
        files = [path for path in self.folder.glob("*.py") if not path.name.startswith(".")]
        return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _interrupted(self, task: Task) -> Path | None:
        """The file that was taken for this candidate before the run was killed."""
        return next((self.folder / TAKEN).glob(f"{_mark(task)}-*.py"), None)

    def _take(self, task: Task) -> Path | None:
        for path in self._waiting():
            if time.time() - path.stat().st_mtime < SETTLED_S:
                continue
            (self.folder / TAKEN).mkdir(exist_ok=True)
            taken = self.folder / TAKEN / f"{_mark(task)}-{path.name}"
            note = path.with_suffix(".json")
            if note.exists():
                note.rename(taken.with_suffix(".json"))
            # Last: where the file is, its note is.
            return path.rename(taken)
        return None


def _mark(task: Task) -> str:
    """What the name of a taken file begins with: the attempt that it became."""
    return f"{run_folder(Path(), task.view.run).name}-g{task.generation:04d}.{task.member}"


def _proposal(path: Path, task: Task) -> Proposal:
    """A taken file as a candidate; one that cannot be read is a failed attempt."""
    try:
        source = path.read_text(encoding="utf-8")
        note = _note(path.with_suffix(".json"), source)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        return Proposal(source=task.kernel.source, hypothesis=path.name, failed=f"{path.name}: {error}")
    known = {"geomean", *(shape.id for shape in task.shapes)}
    predicted = {
        name: ratio for name, ratio in note.predicted.items() if name in known and ratio > 0 and math.isfinite(ratio)
    }
    return Proposal(source=source, hypothesis=note.hypothesis, predicted=predicted)


def _note(path: Path, source: str) -> InboxNote:
    """The note beside a file; without one its docstring's first line says what it is."""
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=InboxNote)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path.name}: expected {{hypothesis, predicted?}}: {error}") from None
    try:
        docstring = ast.get_docstring(ast.parse(source)) or ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        docstring = ""
    return InboxNote(hypothesis=docstring.partition("\n")[0])
