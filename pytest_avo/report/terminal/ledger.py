"""The ledgers on the terminal: what was spent beside its limit, and what each worker did."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_avo.evaluation.evaluator import Work
from pytest_avo.report import text
from pytest_avo.report.terminal.terminal import Line, draw


def ledger(rows: Sequence[tuple[str, str, str]]) -> list[Line]:
    """Rows of what was counted, how much, and its limit ("" where there is none)."""
    body = [[name, spent, limit or text.ABSENT] for name, spent, limit in rows]
    return [Line(""), *(Line(line) for line in draw(["ledger", "spent", "limit"], body, ["left", "right", "right"]))]


def workers(work: Sequence[Work], *, wall_s: float) -> list[Line]:
    """A row per worker; nothing for a single one that nothing happened to."""
    if len(work) < 2 and not any(one.fate for one in work):
        return []
    body = [
        [
            text.plain(one.worker),
            text.plain(one.host) or text.ABSENT,
            text.plain(one.device) or text.ABSENT,
            str(one.evaluations),
            text.duration(one.busy_s),
            f"{one.busy_s / wall_s:.0%}" if wall_s else text.ABSENT,
        ]
        for one in work
    ]
    aligns = ["left", "left", "left", "right", "right", "right"]
    lines = draw(["worker", "host", "device", "shapes answered", "busy", "of the run"], body, aligns)
    fates = [f"{text.plain(one.worker)} is {text.plain(one.fate)}" for one in work if one.fate]
    return [Line(""), *(Line(line) for line in lines), *(Line(fate, {"yellow": True}) for fate in fates)]
