"""--avo-bmf: the Bencher Metric Format, which `bencher run --adapter json` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_avo.report.results import Results
    from pytest_avo.report.rows import ResultRow

HELP = "Write the results in the Bencher Metric Format"


def of_results(found: Results) -> str:
    """The file of a run."""
    return bmf(found.rows)


def bmf(rows: Sequence[ResultRow]) -> str:
    """Benchmarks by node id; `latency` is the median time of a call in nanoseconds, bounded by the quartiles."""
    from pytest_avo.report.rows import is_timed

    return json.dumps({row.node_id: {"latency": _latency(row)} for row in rows if is_timed(row)}, indent=1) + "\n"


def _latency(row: ResultRow) -> dict[str, float]:
    from pytest_avo.report.files.samples import quartiles

    low, high = quartiles(sorted(row.samples_s))
    return {"value": row.median_s * 1e9, "lower_value": low * 1e9, "upper_value": high * 1e9}
