"""Results as GitHub Markdown: a headline, the failures, and everything behind a fold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from pytest_avo.core.verdict import Total, Verdict
from pytest_avo.report import text
from pytest_avo.report.results import Unmeasured
from pytest_avo.report.rows import ResultRow, arms, by_kernel, geomeans
from pytest_avo.report.terminal.table import TableLayout, table
from pytest_avo.report.terminal.terminal import LEGEND, geomean_texts, is_listed, notes, verdict_counts

MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~@$&])")


SUMMARY_BYTES = 1_000_000
"""What a summary may hold that GitHub still shows: a little less than a mebibyte per step."""


def evolution(found: Mapping[str, Any]) -> str:
    """The attempts of an evolution: a headline, and a row for each."""
    run, totals = found["run"], found["totals"]
    best = totals["best_over_seed"]
    gain = f"best {text.ratio(best[0], (best[1], best[2]))} vs the seed" if best else "no gain over the seed"
    counts = f"{text.counted(totals['attempts'], 'attempt')}, {totals['promoted']} promoted, {gain}"
    head = f"**{escape(run['kernel'])}, run {run['id']}: {escape(counts)}**"
    headers = ["attempt", "status", "parent", "predicted", "measured", "tokens", "cost", "hypothesis", "reason"]
    body = [[_cell(cell) for cell in _attempt(attempt)] for attempt in found["attempts"]]
    return f"{head}\n\n{_draw(headers, body, ['left'] * len(headers))}"


def _attempt(attempt: Mapping[str, Any]) -> list[object]:
    measured = attempt.get("measured") or attempt.get("screened")
    predicted = ", ".join(f"{name} {ratio:.3f}" for name, ratio in attempt["predicted"].items())
    tokens = attempt.get("tokens_in", 0) + attempt.get("tokens_out", 0)
    return [
        f"{attempt['name']} ({attempt['digest']})",
        attempt["status"],
        attempt["parent"],
        predicted,
        measured and text.ratio(measured[0], (measured[1], measured[2])),
        tokens or "",
        attempt.get("cost") and f"{attempt['cost']:.4f}",
        attempt["hypothesis"],
        attempt.get("reason", ""),
    ]


def _cell(value: object) -> str:
    return escape(str(value)) if value else text.ABSENT


def markdown(
    rows: Sequence[ResultRow],
    totals: Sequence[Total] = (),
    unmeasured: Sequence[Unmeasured] = (),
    *,
    most_bytes: int | None = None,
) -> str:
    """The whole report; ends with a newline. Longer than `most_bytes` it has the headline and what is listed alone."""
    whole = _report(rows, totals, unmeasured, details=True)
    if most_bytes is not None and len(whole.encode()) > most_bytes:
        return _report(rows, totals, unmeasured, details=False)
    return whole


def _report(
    rows: Sequence[ResultRow], totals: Sequence[Total], unmeasured: Sequence[Unmeasured], *, details: bool
) -> str:
    groups = by_kernel(rows)
    parts = [f"**{headline(rows)}**"]
    if listed := _listed(rows, totals, unmeasured):
        parts.append(_draw(["kernel", "shape", "verdict", "reason"], listed, ["left"] * 4))
    if rows and details:
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


def _listed(rows: Sequence[ResultRow], totals: Sequence[Total], unmeasured: Sequence[Unmeasured]) -> list[list[str]]:
    """What a reader must see: failures first, then what is slower or cannot be told from slower, then geomeans."""
    shown = sorted((row for row in rows if is_listed(row)), key=lambda row: row.verdict.passes)
    body = [[escape(row.kernel), row.shape.id, _word(row.verdict), escape(row.verdict.reason)] for row in shown]
    body += [[escape(each.kernel), escape(each.name), each.kind, escape(each.reason)] for each in unmeasured]
    return body + [[escape(total.kernel), total.name, _word(total), escape(total.reason)] for total in totals]


def _word(judged: Verdict | Total) -> str:
    return "no baseline" if isinstance(judged, Verdict) and judged.unmatched else judged.kind


def _section(kernel: str, device: str, rows: Sequence[ResultRow]) -> list[str]:
    content = table(rows, TableLayout(arms(rows)))
    body = [[escape(cell) for cell in cells] for cells in content.body]
    place = f" on {escape(device)}" if device else ""
    summary = text.SEPARATOR.join([*geomean_texts(geomeans(rows), len(rows)), verdict_counts(rows)])
    drawn = _draw([escape(header) for header in content.headers], body, content.aligns)
    listed = [f"- {escape(note)}" for note in notes(rows)]
    return [f"#### {escape(kernel)}{place}", escape(summary), drawn, *(["\n".join(listed)] if listed else [])]


def _draw(headers: Sequence[str], body: Sequence[Sequence[str]], aligns: Sequence[str]) -> str:
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True, colalign=aligns)
