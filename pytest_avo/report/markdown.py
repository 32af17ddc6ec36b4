"""Results as GitHub Markdown: a headline, the failures, and everything behind a fold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tabulate import tabulate

from pytest_avo.report import text
from pytest_avo.report.rows import ResultRow, arms, by_kernel, geomeans
from pytest_avo.report.table import Layout, table
from pytest_avo.report.terminal import LEGEND, geomean_texts, notes, verdict_counts

MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~@$&])")


def markdown(rows: Sequence[ResultRow]) -> str:
    """The whole report; ends with a newline."""
    groups = by_kernel(rows)
    parts = [f"**{headline(rows)}**"]
    if bad := [row for row in rows if not row.verdict.is_good]:
        parts.append(_failures(bad))
    if rows:
        parts.append(f"<details><summary>All {text.counted(len(rows), 'result')}</summary>")
        for (kernel, device), group in groups.items():
            parts += _section(kernel, device, group)
        if arms(rows):
            parts.append(escape(LEGEND))
        parts.append("</details>")
    return "\n\n".join(parts) + "\n"


def headline(rows: Sequence[ResultRow]) -> str:
    """One sentence: `6 results of 2 kernels: 5 correct, 1 incorrect; geomean vs torch-sdpa 1.21 [1.18, 1.24]`."""
    if not rows:
        return "No results."
    kernels = text.counted(len({row.kernel for row in rows}), "kernel")
    counts = f"{text.counted(len(rows), 'result')} of {kernels}: {verdict_counts(rows)}"
    means = ", ".join(geomean_texts(geomeans(rows), len(rows)))
    return escape(f"{counts}; {means}." if means else f"{counts}.")


def escape(foreign: str) -> str:
    """Text that Markdown shows as it is: no markup, no mention of a user, no break out of a table cell."""
    return MARKUP.sub(r"\\\1", text.plain(foreign)).replace("\\@", "@\u200b").replace("\\<", "&lt;")


def _failures(rows: Sequence[ResultRow]) -> str:
    body = [[escape(row.kernel), row.shape.id, row.verdict.kind, escape(row.verdict.reason)] for row in rows]
    return _draw(["kernel", "shape", "verdict", "reason"], body, ["left"] * 4)


def _section(kernel: str, device: str, rows: Sequence[ResultRow]) -> list[str]:
    content = table(rows, Layout(arms(rows)))
    body = [[escape(cell) for cell in cells] for cells in content.body]
    place = f" on {escape(device)}" if device else ""
    summary = text.SEPARATOR.join([*geomean_texts(geomeans(rows), len(rows)), verdict_counts(rows)])
    drawn = _draw([escape(header) for header in content.headers], body, content.aligns)
    listed = [f"- {escape(note)}" for note in notes(rows)]
    return [f"#### {escape(kernel)}{place}", escape(summary), drawn, *(["\n".join(listed)] if listed else [])]


def _draw(headers: Sequence[str], body: Sequence[Sequence[str]], aligns: Sequence[str]) -> str:
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True, colalign=aligns)
