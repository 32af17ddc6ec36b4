"""The budget ledger on the terminal: what was spent, beside its limit."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_avo.report import text
from pytest_avo.report.terminal import Line, draw


def ledger(rows: Sequence[tuple[str, str, str]]) -> list[Line]:
    """Rows of what was counted, how much, and its limit ("" where there is none)."""
    body = [[name, spent, limit or text.ABSENT] for name, spent, limit in rows]
    return [Line(""), *(Line(line) for line in draw(["ledger", "spent", "limit"], body, ["left", "right", "right"]))]
