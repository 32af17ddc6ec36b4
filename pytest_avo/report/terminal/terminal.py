"""Results on the terminal: per kernel a headline, a table, the failures and the notes. The caller writes the lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from tabulate import tabulate

from pytest_avo.core.verdict import Total, Verdict, VerdictKind
from pytest_avo.report import text
from pytest_avo.report.rows import Geomean, ResultRow, arms, by_kernel, comparisons, geomeans
from pytest_avo.report.terminal.table import Table, layouts, table

WIDTH = 100
LEAST_WAIT_S = 1.0
LEGEND = "ratios: time of the other / time of the kernel, above 1 the kernel is faster; [95% interval]"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output and its markup, as pytest's terminal writer takes it: `{"red": True}`."""

    text: str
    markup: dict[str, bool] = field(default_factory=dict)


def results(
    rows: Sequence[ResultRow],
    totals: Sequence[Total] = (),
    *,
    verbosity: int = 0,
    width: int = WIDTH,
    told_apart: str = "",
) -> list[Line]:
    """All rows, kernel after kernel, in the order given; no line is longer than `width`.

    Below zero `verbosity` leaves the headlines and the bad rows, above zero it adds rounds and seeds. told_apart:
    name of what the kernel's geomean beside stands elsewhere.
    """
    groups = by_kernel(rows)
    devices = {device for _, device in groups if device}  # a file that does not parse met none
    lines: list[Line] = []
    for (kernel, device), group in groups.items():
        name = text.plain(f"{kernel} on {device}" if device and len(devices) > 1 else kernel)
        lines += headline(name, group, width=width, told_apart=told_apart)
        if verbosity < 0:
            lines += [reason_line(row, width=width) for row in group if is_listed(row)]
        else:
            lines += _section(group, details=verbosity > 0, width=width)
        lines += [total_line(total, width=width) for total in totals if total.kernel == kernel]
        lines += [Line("")] if verbosity >= 0 else []
    if verbosity >= 0 and any(comparisons(row) for row in rows):
        lines.append(Line(LEGEND))
    if (waited_s := sum(row.waited_s for row in rows)) >= LEAST_WAIT_S:
        lines.append(Line(f"waited: {text.duration(waited_s)} for the device, which other runs had"))
    return lines


def headline(name: str, rows: Sequence[ResultRow], *, width: int = WIDTH, told_apart: str = "") -> list[Line]:
    """`kernels/cpu/prefill.py: geomean vs torch-sdpa 1.21 [1.18, 1.24] · 5 correct`, folded where it is too long."""
    means = {beside: mean for beside, mean in geomeans(rows).items() if beside != told_apart}
    parts = [*geomean_texts(means, len(rows)), verdict_counts(rows)]
    kinds = {row.verdict.kind for row in rows}
    colour = "red" if any(not row.verdict.passes for row in rows) else "yellow" if "slower" in kinds else "green"
    return [Line(line, {"bold": True, colour: True}) for line in text.fold(f"{name}:", parts, width)]


def geomean_texts(means: dict[str, Geomean], total: int) -> list[str]:
    """`geomean vs fa3 1.21 [1.18, 1.24]`, `vs flex ...`; says so when it is the mean of fewer than `total` shapes."""
    texts = [
        f"vs {name} {text.ratio(mean.ratio, mean.ci95)}"
        + (f" (on {mean.shapes} of {total} shapes)" if mean.shapes < total else "")
        for name, mean in means.items()
    ]
    return [f"geomean {texts[0]}", *texts[1:]] if texts else []


def verdict_counts(rows: Iterable[ResultRow]) -> str:
    """`4 correct, 1 incorrect`, in the order in which the verdicts are declared."""
    counts = Counter(row.verdict.kind for row in rows)
    return ", ".join(f"{counts[kind]} {kind}" for kind in get_args(VerdictKind) if kind in counts)


def reason_line(row: ResultRow, *, width: int = WIDTH) -> Line:
    """`incorrect  b1-h8-...: max error 3.2e-2 > limit 1.1e-3 (randn)`."""
    reason = text.plain(row.verdict.reason) or "no reason given"
    kind = "no baseline" if row.verdict.unmatched else row.verdict.kind
    return Line(text.clip(f"{kind}  {row.shape.id}: {reason}", width), _markup(row.verdict))


def total_line(total: Total, *, width: int = WIDTH) -> Line:
    """`slower  geomean: 1.4% slower than git:main, ...`."""
    return Line(text.clip(f"{total.kind}  {total.name}: {text.plain(total.reason)}", width), _markup(total))


def notes(rows: Sequence[ResultRow]) -> list[str]:
    """The notes of rows, each once; one that does not hold for all of them says for how many."""
    counts = Counter(note for row in rows for note in dict.fromkeys(map(text.plain, row.verdict.notes)))
    return [
        note if count == len(rows) else f"{note} ({count} of {text.counted(len(rows), 'shape')})"
        for note, count in counts.items()
    ]


def _section(rows: Sequence[ResultRow], *, details: bool, width: int) -> list[Line]:
    drawn, lines = _fitting(rows, details=details, width=width)
    shown = [Line(lines[0]), Line(lines[1])]
    shown += [Line(line, _markup(row.verdict)) for line, row in zip(lines[2:], rows, strict=True)]
    if drawn.caption:
        shown.append(Line(text.clip(drawn.caption, width)))
    if hidden := [name for name in arms(rows) if not {name, f"vs {name}"} & set(drawn.headers)]:
        shown += [Line(line) for line in text.fold("too wide to show:", hidden, width)]
    shown += [reason_line(row, width=width) for row in rows if is_listed(row)]
    shown += [Line(text.clip(f"note: {note}", width)) for note in notes(rows)]
    return shown


def _fitting(rows: Sequence[ResultRow], *, details: bool, width: int) -> tuple[Table, list[str]]:
    """The fullest table that fits into `width`, drawn; the narrowest of all when none does."""
    for layout in layouts(rows, details=details):
        content = table(rows, layout)
        lines = draw(content.headers, content.body, content.aligns)
        if max(map(len, lines)) <= width:
            break
    return content, lines


def draw(headers: Sequence[str], body: Sequence[Sequence[str]], aligns: Sequence[str]) -> list[str]:
    """Cells as the lines of a plain table: header, rule, one line per row."""
    # As a row among the others: tabulate gives real headers two more columns each, and the width is scarce.
    first, *rest = tabulate([headers, *body], tablefmt="plain", disable_numparse=True, colalign=aligns).splitlines()
    rule = "  ".join("-" * max(map(text.columns, cells)) for cells in zip(headers, *body, strict=True))
    return [line.rstrip() for line in (first, rule, *rest)]


def is_listed(row: ResultRow) -> bool:
    """Whether a row's reason is shown: it failed, is slower, or cannot be told from slower."""
    verdict = row.verdict
    return not verdict.passes or verdict.unmatched or verdict.kind in ("slower", "ambiguous")


def _markup(judged: Verdict | Total) -> dict[str, bool]:
    if not judged.passes:
        return {"red": True}
    colours = {"faster": "green", "slower": "yellow", "ambiguous": "yellow"}
    return {colours[judged.kind]: True} if judged.kind in colours else {}
