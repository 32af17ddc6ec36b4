"""--avo-gab: what github-action-benchmark reads as its tool `customSmallerIsBetter`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_avo.report.results import Results
    from pytest_avo.report.rows import ResultRow

HELP = "Write the results for github-action-benchmark, as its tool customSmallerIsBetter reads them"


def of_results(found: Results) -> str:
    """The file of a run."""
    return gab(found.rows)


def gab(rows: Sequence[ResultRow]) -> str:
    """An entry per item: the median time of a call in microseconds, half the interquartile range, and where it ran."""
    from pytest_avo.report.rows import is_timed

    return json.dumps([_entry(row) for row in rows if is_timed(row)], indent=1) + "\n"


def _entry(row: ResultRow) -> dict[str, object]:
    from pytest_avo.report.files.samples import quartiles

    low, high = quartiles(sorted(row.samples_s))
    return {
        "name": row.node_id,
        "unit": "us",
        "value": row.median_s * 1e6,
        "range": f"± {(high - low) / 2 * 1e6:.3g}",
        "extra": f"{row.verdict.kind}, {len(row.samples_s)} rounds, {row.device}",
    }
