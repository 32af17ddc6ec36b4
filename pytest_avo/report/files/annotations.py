"""Workflow commands of GitHub Actions: what failed, and what may have, beside the kernel's code in a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_avo.core.kernel import definition_line
from pytest_avo.core.verdict import Total
from pytest_avo.report import text
from pytest_avo.report.results import Unmeasured
from pytest_avo.report.rows import ResultRow

MOST = 10
"""GitHub shows so many of each level per step and drops the rest."""


def commands(
    rows: Sequence[ResultRow],
    totals: Sequence[Total],
    unmeasured: Sequence[Unmeasured] = (),
    *,
    rootdir: Path,
    workspace: Path,
) -> list[str]:
    """Lines to print: an error for what fails or could not be measured, a warning for what may fail.

    That is what is ambiguous or, though allowed, has no baseline.
    `rootdir` is what the kernels' paths are relative to, `workspace` what GitHub takes paths relative to.
    """
    found = [*(_of_row(row) for row in rows), *(_of_total(total) for total in totals)]
    found += [_Annotation("error", each.kernel, each.name, f"{each.kind}: {each.reason}") for each in unmeasured]
    lines: list[str] = []
    for level in ("error", "warning"):
        chosen = [each for each in found if each is not None and each.level == level]
        lines += [_command(each, rootdir=rootdir, workspace=workspace) for each in chosen[:MOST]]
        if len(chosen) > MOST:
            lines.append(f"{text.counted(len(chosen) - MOST, f'more {level}')} in the job's summary")
    return lines


@dataclass(frozen=True, slots=True)
class _Annotation:
    level: str
    kernel: str
    name: str
    reason: str


def _of_row(row: ResultRow) -> _Annotation | None:
    verdict = row.verdict
    reason = verdict.reason if verdict.is_good else f"{verdict.kind}: {verdict.reason}"
    if row.failed:
        return _Annotation("error", row.kernel, row.shape.id, reason)
    unclear = verdict.kind == "ambiguous" or verdict.unmatched
    return _Annotation("warning", row.kernel, row.shape.id, reason) if unclear else None


def _of_total(total: Total) -> _Annotation | None:
    if total.passes and total.kind != "ambiguous":
        return None
    return _Annotation("warning" if total.passes else "error", total.kernel, total.name, total.reason)


def _command(what: _Annotation, *, rootdir: Path, workspace: Path) -> str:
    path = rootdir / what.kernel
    shown = path.relative_to(workspace) if path.is_relative_to(workspace) else path
    place = f"file={_property(shown.as_posix())},line={definition_line(path)}"
    title = _property(f"{what.kernel}::{what.name}")
    return f"::{what.level} {place},title={title}::{_message(text.plain(what.reason))}"


def _message(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _message(words).replace(":", "%3A").replace(",", "%2C")
