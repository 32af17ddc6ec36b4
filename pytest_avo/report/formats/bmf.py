"""--avo-bmf: the Bencher Metric Format, which `bencher run --adapter json` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pytest_avo.report.formats.samples import quartiles
from pytest_avo.report.results import Results
from pytest_avo.report.rows import ResultRow, is_timed


def of_results(found: Results) -> str:
    """The file of a run."""
    return bmf(found.rows)


def bmf(rows: Sequence[ResultRow]) -> str:
    """Benchmarks by node id; `latency` is the median time of a call in nanoseconds, bounded by the quartiles."""
    return json.dumps({row.node_id: {"latency": _latency(row)} for row in rows if is_timed(row)}, indent=1) + "\n"


def _latency(row: ResultRow) -> dict[str, float]:
    low, high = quartiles(sorted(row.samples_s))
    return {"value": row.median_s * 1e9, "lower_value": low * 1e9, "upper_value": high * 1e9}
