"""The folder that a member works in: laid out when a step begins, and kept from generation to generation."""

from __future__ import annotations

import contextlib
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from pytest_avo.core.disk.files import read_regular, write_atomically
from pytest_avo.core.disk.repository import GitError, git
from pytest_avo.core.disk.text_form import TextForm
from pytest_avo.lineage.view import View
from pytest_avo.operators.answer import LONGEST_SOURCE, source_text
from pytest_avo.operators.external import briefing
from pytest_avo.operators.external.wire import STEP_FILE, write_step_file
from pytest_avo.operators.knowledge import versions
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.operator import Task
from pytest_avo.operators.tools.edits import unified_diff
from pytest_avo.operators.tools.tools import Mistake

DRAFT = "draft.py"
SUBMITTED = ".avo-submitted"
"""The draft as it was submitted last: one that was not touched since makes way for the next step's parent."""
STARTED = ".avo-generation"
"""The generation whose step began here last: one that is interrupted finds its draft as it was."""


TEXTS = ("TASK.md", "HISTORY.md", "AGENTS.md", "CLAUDE.md")
FOLDERS = ("lineage", "knowledge")


class WorkFolder:
    """One member's folder in the folder of its run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def draft(self) -> Path:
        return self.path / DRAFT

    def read_draft(self) -> str:
        """The draft's text; Mistake where there is none that could be a kernel."""
        try:
            data = read_regular(self.draft, most_bytes=LONGEST_SOURCE)
        except OSError as error:
            raise Mistake(f"{DRAFT} cannot be read: {error.strerror}") from None
        try:
            return source_text(data)
        except ValueError as error:
            raise Mistake(f"{DRAFT} {error}") from None

    def write_draft(self, text: str) -> None:
        """Replace the draft's text."""
        write_atomically(self.draft, TextForm().encoded(text))

    def remember_submission(self, text: str) -> None:
        """Keep what was submitted, to see later whether the draft was touched since."""
        write_atomically(self.path / SUBMITTED, TextForm().encoded(text))

    def lay_out(self, task: Task, *, knowledge: KnowledgeBase | None, with_memory: bool, socket: Path) -> bool:
        """Write what a step begins with; returns whether it goes on after an interruption.

        The draft becomes the parent's source, unless somebody has edited it since its submission: work that was done
        while a candidate was judged is not lost.
        """
        _make(self.path)
        goes_on = _read(self.path / STARTED) == str(task.generation)
        parent = task.view.source(task.parent.digest)
        for name in (DRAFT, STARTED, SUBMITTED, STEP_FILE, *TEXTS):
            _make_way(self.path / name, stat.S_ISREG)
        for name in FOLDERS:
            _make_way(self.path / name, stat.S_ISDIR)
        untouched = not self.draft.exists() or _source(self.draft) == _source(self.path / SUBMITTED)
        if untouched and not goes_on:
            self.write_draft(parent)
        self._write_lineage(task.view, with_memory=with_memory)
        self._write_knowledge(task, knowledge)
        texts = (
            briefing.task_text(task, python=sys.executable),
            briefing.history_text(task, with_memory=with_memory),
            briefing.agents_text(task),
            "@AGENTS.md\n",
        )
        for name, text in zip(TEXTS, texts, strict=True):
            write_atomically(self.path / name, text)
        write_step_file(self.path, socket)
        write_atomically(self.path / STARTED, str(task.generation))
        return goes_on

    def _write_lineage(self, view: View, *, with_memory: bool) -> None:
        """Every version, and its diff to its parent."""
        folder = self.path / "lineage"
        folder.mkdir(exist_ok=True)
        for attempt in versions.visible(view, promoted_only=not with_memory):
            name = versions.version_name(attempt)
            path = folder / f"{name}.py"
            if path.exists():
                continue
            source = view.source(attempt.digest)
            if attempt.parent is not None:
                parent = view.attempt(attempt.parent)
                names = {"before_name": versions.version_name(parent), "after_name": name}
                write_atomically(folder / f"{name}.diff", unified_diff(view.source(parent.digest), source, **names))
            write_atomically(path, source)  # last: where it is, both are

    def _write_knowledge(self, task: Task, knowledge: KnowledgeBase | None) -> None:
        if knowledge is None:
            return
        for file in knowledge.files(target=task.view.run.target):
            path = self.path / "knowledge" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, knowledge.read(file))


def _make(path: Path) -> None:
    """Make the folder, a repository of its own where there is git.

    Coding agents look for the root of a project, and search tools for what it ignores: without one they would find
    those of the project around it, which ignores this folder.
    """
    if path.is_dir():
        return
    path.mkdir(parents=True)
    with contextlib.suppress(GitError):
        git(path, "init", "-q", "--template=")


def _make_way(path: Path, fits: Callable[[int], bool]) -> None:
    """Rename what is in the way of a file or folder of ours: the agent may have made anything of its name."""
    with contextlib.suppress(FileNotFoundError):
        if not fits(path.stat().st_mode):
            path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}"))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _source(path: Path) -> str | None:
    try:
        return source_text(read_regular(path, most_bytes=LONGEST_SOURCE))
    except (OSError, ValueError):
        return None
