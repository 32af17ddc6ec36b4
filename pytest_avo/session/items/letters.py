"""The letter and the word that stand for an item while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_avo.report.rows import ResultRow
from pytest_avo.report.terminal.terminal import Line

LetterStatus = tuple[str, str, str | tuple[str, dict[str, bool]]]

GOOD: dict[str, LetterStatus] = {
    "correct": ("passed", ".", ("CORRECT", {"green": True})),
    "same": ("passed", ".", ("SAME", {"green": True})),
    "faster": ("passed", "+", ("FASTER", {"green": True})),
    "slower": ("passed", "-", ("SLOWER", {"yellow": True})),
    "ambiguous": ("passed", "?", ("AMBIGUOUS", {"yellow": True})),
}
REJECTED: LetterStatus = ("rejected", "r", ("REJECTED", {"yellow": True}))
REJECTED_PROPERTY = "avo.rejected"


def legend(rows: Sequence[ResultRow], *, verbosity: int) -> list[Line]:
    """What the letters mean, where results were shown as letters and some of them are not pytest's own."""
    kinds = {row.verdict.kind for row in rows}
    own = [f"{letter} {kind}" for kind, (_, letter, _) in GOOD.items() if kind in kinds and letter != "."]
    if any(not row.verdict.is_good and not row.failed and row.verdict.kind != "unsupported" for row in rows):
        own.append(f"{REJECTED[1]} a candidate that was turned down")
    return [Line(f"letters: {', '.join(own)}")] if own and verbosity == 0 else []


def status(report: pytest.CollectReport | pytest.TestReport) -> LetterStatus | None:
    """Category, letter and word for the report of an item of ours; None leaves it to pytest."""
    if not isinstance(report, pytest.TestReport) or report.when != "call":
        return None
    properties = dict(report.user_properties)
    if REJECTED_PROPERTY in properties:
        return REJECTED
    return GOOD.get(str(properties.get("avo.verdict"))) if report.passed else None
