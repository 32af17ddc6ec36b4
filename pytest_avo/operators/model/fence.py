"""Foreign text in what a model reads: marked as data by a mark nobody else knows, bounded, free of secrets."""

from __future__ import annotations

import secrets

from pytest_avo.lineage.events import FenceMark
from pytest_avo.lineage.view import View
from pytest_avo.operators.model.redaction import Redactor
from pytest_avo.operators.operator import Task


class Fence:
    """Wraps text between `[data MARK]` and `[end MARK]`, as the prompts explain it."""

    def __init__(self, mark: str, redactor: Redactor) -> None:
        self.mark = mark
        self._redactor = redactor

    @classmethod
    def of_run(cls, task: Task, redactor: Redactor) -> Fence:
        """The fence of the task's run, drawn when the run first asks for it."""
        mark = _mark(task.view)
        if mark is None:
            mark = secrets.token_hex(4)
            task.record(FenceMark(mark))
        return cls(mark, redactor)

    def data(self, text: str) -> str:
        """The text as data: no line of it can end the fence, since the mark itself is taken out of it."""
        inside = self._redactor.text(text).replace(self.mark, "?" * len(self.mark))
        return f"[data {self.mark}]\n{inside.rstrip()}\n[end {self.mark}]"


def bounded(text: str, most: int) -> str:
    """The text in at most about so many characters: what is too long loses its middle, and says so."""
    if len(text) <= most:
        return text
    head, tail = text[: most * 2 // 3], text[len(text) - most // 3 :]
    return f"{head}\n... {len(text) - len(head) - len(tail):,} characters left out ...\n{tail}"


def _mark(view: View) -> str | None:
    events = view.events(FenceMark)
    return events[0].fact.mark if events else None
