"""--avo-gab: what github-action-benchmark reads as its tool `customSmallerIsBetter`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pytest_avo.report.formats.samples import quartiles
from pytest_avo.report.results import Results
from pytest_avo.report.rows import ResultRow, is_timed


def of_results(found: Results) -> str:
    """The file of a run."""
    return gab(found.rows)


def gab(rows: Sequence[ResultRow]) -> str:
    """An entry per item: the median time of a call in microseconds, half the interquartile range, and where it ran."""
    return json.dumps([_entry(row) for row in rows if is_timed(row)], indent=1) + "\n"


def _entry(row: ResultRow) -> dict[str, object]:
    low, high = quartiles(sorted(row.samples_s))
    return {
        "name": row.node_id,
        "unit": "us",
        "value": row.median_s * 1e6,
        "range": f"± {(high - low) / 2 * 1e6:.3g}",
        "extra": f"{row.verdict.kind}, {len(row.samples_s)} rounds, {row.device}",
    }
