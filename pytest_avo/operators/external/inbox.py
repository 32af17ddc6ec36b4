"""The operator `inbox`: candidates come as files from a folder, whoever or whatever puts them there."""

from __future__ import annotations

import ast
import math
import os
import re
import shutil
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from pytest_avo.core.disk.files import read_regular
from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.answer import LONGEST_SOURCE, source_text
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.model.transcript import run_folder
from pytest_avo.operators.operator import OperatorStopped, Proposal, Task

TICK_S = 0.2
SETTLED_S = 0.5
"""A file that was written to since is not taken yet: somebody may still be writing it."""
NUMBER = re.compile("[0-9]{1,9}(?=[^0-9])")
"""What the name of a file may begin with: its turn, which a copy of the folder keeps as times are not kept."""
TAKEN, END = "taken", "END"
"""Folder of files that were taken, and name of the file that says there will be no more."""


class InboxNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NAME.json beside NAME.py: why it should be faster, and by how much."""

    hypothesis: str
    predicted: dict[str, float] = {}


class InboxOperator:
    """Takes the next file of the folder for each candidate: numbered names by number, then the oldest.

    Safe to use from several threads.
    """

    name = "inbox"

    def __init__(self, chosen: ExternalSettings) -> None:
        """InvalidInput where there is no such folder."""
        if chosen.inbox is None:
            raise InvalidInput(f"--avo-operator {self.name}: expected --avo-inbox DIR, where candidates come from")
        if not chosen.inbox.is_dir():
            raise InvalidInput(f"--avo-inbox: {chosen.inbox} is no folder")
        if not os.access(chosen.inbox, os.W_OK | os.X_OK):
            raise InvalidInput(f"--avo-inbox: {chosen.inbox} cannot be written: what was taken goes to {TAKEN}/ there")
        self.folder = chosen.inbox
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[int, int, float]] = {}

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
        """Files that nobody has taken, in their turn; what begins with a dot is being written."""
        found = []
        for path in self.folder.glob("*.py"):
            with suppress(OSError):  # a link to nothing, or a file that somebody has just removed
                status = path.stat()
                if stat.S_ISREG(status.st_mode) and not path.name.startswith("."):
                    number = NUMBER.match(path.name)
                    found.append((int(number[0]) if number else math.inf, status.st_mtime_ns, path.name, path))
        return [path for *_, path in sorted(found)]

    def _is_settled(self, path: Path) -> bool:
        """Whether nobody seems to write to a file: it is old enough, or stays as it is while it is looked at.

        Its time may be ahead of this machine's clock, or have been set by whoever copied it.
        """
        status, now = path.stat(), time.monotonic()
        if time.time() - status.st_mtime >= SETTLED_S:
            return True
        *known, since = self._seen.get(path, (0, 0, now))
        if known != [status.st_mtime_ns, status.st_size]:
            self._seen[path] = (status.st_mtime_ns, status.st_size, now)
            return False
        return now - since >= SETTLED_S

    def _interrupted(self, task: Task) -> Path | None:
        """The file that was taken for this candidate before the run was killed."""
        return next((self.folder / TAKEN).glob(f"{_mark(task)}-*.py"), None)

    def _take(self, task: Task) -> Path | None:
        for path in self._waiting():
            with suppress(FileNotFoundError):  # somebody takes it back
                if not self._is_settled(path):
                    if NUMBER.match(path.name):
                        return None  # its turn is before that of all that follow, however old these are
                    continue
                (self.folder / TAKEN).mkdir(exist_ok=True)
                taken = self.folder / TAKEN / f"{_mark(task)}-{path.name}"
                note = path.with_suffix(".json")
                if note.exists():
                    _move(note, taken.with_suffix(".json"))
                # Last: where the file is, its note is.
                return _move(path, taken)
        return None


def _move(path: Path, to: Path) -> Path:
    """Move a file; of a link, which may lead from its own folder alone, move what it points to as a copy."""
    if not path.is_symlink():
        return path.rename(to)
    shutil.copyfile(path, to)
    path.unlink()
    return to


def _mark(task: Task) -> str:
    """What the name of a taken file begins with: the attempt that it became."""
    return f"{run_folder(Path(), task.view.run).name}-g{task.generation:04d}.{task.member}"


def _proposal(path: Path, task: Task) -> Proposal:
    """A taken file as a candidate; one that cannot be read is a failed attempt."""
    try:
        source = source_text(read_regular(path, most_bytes=LONGEST_SOURCE))
        note = _note(path.with_suffix(".json"), source)
    except (OSError, ValueError) as error:
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
            return msgspec.json.decode(read_regular(path, most_bytes=LONGEST_SOURCE), type=InboxNote)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path.name}: expected {{hypothesis, predicted?}}: {error}") from None
    try:
        docstring = ast.get_docstring(ast.parse(source)) or ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        docstring = ""
    return InboxNote(hypothesis=docstring.partition("\n")[0])
