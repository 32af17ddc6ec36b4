"""The letter and the word that stand for an item while a run goes on."""

from __future__ import annotations

import pytest

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


def status(report: pytest.CollectReport | pytest.TestReport) -> LetterStatus | None:
    """Category, letter and word for the report of an item of ours; None leaves it to pytest."""
    if not isinstance(report, pytest.TestReport) or report.when != "call":
        return None
    properties = dict(report.user_properties)
    if REJECTED_PROPERTY in properties:
        return REJECTED
    return GOOD.get(str(properties.get("avo.verdict"))) if report.passed else None
